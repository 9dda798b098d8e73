"""Dynamic client registration (RFC 7591): a provider that takes a program it has never heard of as its client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .address import secure
from .errors import ProtocolError
from .model import Client, Members, Secret
from .wire import Answer, successful

__all__ = ["Registration", "judge_registration", "registration_request"]


@dataclass(frozen=True, slots=True)
class Registration:
    """Who we are to the provider now, in its own words (RFC 7591 §3.2.1).

    `registration_client_uri` and `registration_access_token` are for changing or ending it (RFC 7592), "" and None
    where the provider offers no such thing.  `client_secret_expires_at` is in POSIX seconds, None = never.
    """

    client: Client
    client_secret_expires_at: float | None = None
    registration_client_uri: str = ""
    registration_access_token: Secret | None = None
    members: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)


def registration_request(
    *, client_name: str, redirect_uris: tuple[str, ...], grant_types: tuple[str, ...], scope: str, confidential: bool
) -> Secret:
    """The JSON of a request to be a native application's client (RFC 7591 §2, OIDC Registration §2)."""
    members = {
        "client_name": client_name,
        "application_type": "native",
        "redirect_uris": list(redirect_uris),
        "grant_types": list(grant_types),
        "response_types": ["code"] if "authorization_code" in grant_types else [],
        "token_endpoint_auth_method": "client_secret_basic" if confidential else "none",
        **({"scope": scope} if scope else {}),
    }
    return Secret(json.dumps(members))


def judge_registration(answer: Answer) -> Registration:
    """The client in an answer (RFC 7591 §3.2).  Raises `ErrorResponse` or `ProtocolError`."""
    members = successful(answer, "the provider did not register this client")
    client_id = members.get("client_id")
    if not isinstance(client_id, str) or not client_id:
        raise ProtocolError("the answer to a registration has no client_id (RFC 7591 §3.2.1)")
    ends = members.get("client_secret_expires_at")
    place = members.get("registration_client_uri")
    method = members.get("token_endpoint_auth_method")
    return Registration(
        Client(
            client_id,
            _secret(members, "client_secret"),
            method if isinstance(method, str) and method else None,
        ),
        client_secret_expires_at=float(ends) if isinstance(ends, int | float) and ends > 0 else None,
        registration_client_uri=place if isinstance(place, str) and secure(place) else "",
        registration_access_token=_secret(members, "registration_access_token"),
        members=Members(members),
    )


def _secret(members: Mapping[str, Any], name: str) -> Secret | None:
    value = members.get(name)
    return Secret(value) if isinstance(value, str) and value else None
