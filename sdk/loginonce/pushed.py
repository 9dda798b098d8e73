"""Pushed authorization requests (RFC 9126): the browser brings only a reference to what is asked for."""

from __future__ import annotations

from typing import NamedTuple

from .errors import ProtocolError
from .model import Secret
from .wire import Answer, seconds, successful

__all__ = ["Pushed", "judge_pushed"]


class Pushed(NamedTuple):
    """A request that the provider keeps; `expires_in`: seconds within which the browser has to bring its reference."""

    request_uri: Secret
    expires_in: float


def judge_pushed(answer: Answer) -> Pushed:
    """The reference in an answer (RFC 9126 §2.2).  Raises `ErrorResponse` or `ProtocolError`."""
    members = successful(answer, "the provider refused the pushed authorization request")
    request_uri = members.get("request_uri")
    if not isinstance(request_uri, str) or not request_uri:
        raise ProtocolError("the answer to a pushed authorization request has no request_uri (RFC 9126 §2.2)")
    return Pushed(Secret(request_uri), seconds(members.get("expires_in")) or 60.0)
