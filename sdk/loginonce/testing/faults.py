"""Faults: answers that get lost, come late, come broken, or are other than they should be.

A fault is data: whether the request is processed, what is waited for, what is answered instead, and how much
of the answer reaches the client. `wire` carries it out.
"""

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal[
    "refresh",
    "token",
    "login",
    "device",
    "discovery",
    "jwks",
    "authorize",
    "revocation",
    "userinfo",
    "api",
]
#: How an answer travels: whole; not at all (the connection closes); half of the body, then the connection
#: closes; or one byte each tenth of a second.
Delivery = Literal["whole", "nothing", "half", "drip"]

_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, header fields (without Content-Length), body."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. Make one with the class methods.

    Attributes:
        process: Whether the provider does what was asked (rotates, revokes) before the fault shows.
        wait_before: Seconds to wait before processing.
        wait_after: Seconds to wait between processing and answering.
        instead: Sent instead of the real answer.
        delivery: How much of the answer the client gets to see.
        drip_seconds: How long `delivery="drip"` goes on; the rest of the body follows at once then.
    """

    process: bool = True
    wait_before: float = 0.0
    wait_after: float = 0.0
    instead: Answer | None = None
    delivery: Delivery = "whole"
    drip_seconds: float = 0.0

    @classmethod
    def drop_before(cls) -> "Fault":
        """Close the connection without processing the request."""
        return cls(process=False, delivery="nothing")

    @classmethod
    def drop_after(cls) -> "Fault":
        """Process the request (rotate!), then close the connection without an answer."""
        return cls(delivery="nothing")

    @classmethod
    def delay(cls, seconds: float, *, after: bool = True) -> "Fault":
        """Answer late: wait after the processing, or (`after=False`) before it."""
        return cls(wait_after=seconds) if after else cls(wait_before=seconds)

    @classmethod
    def truncate(cls) -> "Fault":
        """Process, announce the whole length, send half of the body, close the connection."""
        return cls(delivery="half")

    @classmethod
    def garble(cls) -> "Fault":
        """Process, then answer 200 with a body that is not JSON."""
        return cls(instead=Answer(200, (("Content-Type", "application/json"),), b'{"access_token": "abc'))

    @classmethod
    def trickle(cls, seconds: float) -> "Fault":
        """Process, then send one byte of the body each tenth of a second for `seconds`, then the rest."""
        return cls(delivery="drip", drip_seconds=seconds)

    @classmethod
    def status(
        cls,
        code: int,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = _HTML,
    ) -> "Fault":
        """Answer with this status, unprocessed: 429 or 503 with Retry-After, a proxy's 502, a redirect."""
        return cls(process=False, instead=_answer(code, body, headers, content_type))

    @classmethod
    def rotate_then_status(
        cls,
        code: int,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = _HTML,
    ) -> "Fault":
        """Process the request (rotate!), then answer with this status instead of the tokens."""
        return cls(instead=_answer(code, body, headers, content_type))

    @classmethod
    def answer(cls, value: Any, status: int = 200) -> "Fault":
        """Answer with this JSON value, unprocessed."""
        return cls(process=False, instead=_answer(status, json.dumps(value), None, "application/json"))


def _answer(code: int, body: bytes | str, headers: Mapping[str, str] | None, content_type: str) -> Answer:
    content = body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": content_type, **(headers or {})}
    return Answer(code, tuple(fields.items()), content)


class Faults:
    """The faults that wait for their request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, Where, int | None]] = []

    def add(self, fault: Fault, *, times: int | None = 1, where: Where = "refresh") -> None:
        """Let `fault` happen to the next `times` requests of the kind `where` (None: until `clear`).

        "refresh" stands for token requests with the grant type refresh_token, "token" for all token
        requests, "login" for sign-ins at the JSON back end, "device" for device authorization requests; the
        others for the end point of that name. Faults happen in the order they were added, one for each request.
        """
        with self._lock:
            self._waiting.append((fault, where, times))

    def clear(self) -> None:
        """Forget the faults that have not happened yet."""
        with self._lock:
            self._waiting.clear()

    @property
    def pending(self) -> int:
        """How many added faults have not happened (as often as they should)."""
        with self._lock:
            return len(self._waiting)

    def take(self, places: Collection[str]) -> Fault | None:
        """Take the first fault that waits for one of these `places`."""
        with self._lock:
            for index, (fault, where, times) in enumerate(self._waiting):
                if where not in places:
                    continue
                if times is not None:
                    if times > 1:
                        self._waiting[index] = (fault, where, times - 1)
                    else:
                        del self._waiting[index]
                return fault
        return None
