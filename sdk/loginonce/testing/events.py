"""What the provider saw: a log of events and the numbers counted from it.

A token appears only as its fingerprint, so that a log may be printed in a failing test.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "token",
    "refresh",
    "reuse",
    "replay",
    "refused",
    "overlap",
    "revoked",
    "api",
    "api_401",
    "device",
    "authorize",
    "discovery",
    "jwks",
    "userinfo",
    "end_session",
    "introspect",
    "register",
    "dpop_nonce",
]

#: Events kept; the numbers in `Stats` go on counting beyond it.
KEPT = 100_000


def fingerprint(token: str) -> str:
    """Return 12 hex digits of the SHA-256 of `token`: enough to tell tokens apart, no use as one."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Event:
    """One thing that happened at the provider.

    Attributes:
        time: POSIX seconds, by the real clock.
        kind: "token" (a token request came in, whatever became of it), "refresh" (a refresh token was
            exchanged), "reuse" (it was a spent one, by grace; follows its "refresh"), "refused" (a refresh
            was refused), "replay" (the token was a spent one; precedes its "refused"), "overlap" (a token
            request came in while another with the same refresh token was under way), "revoked" (a known
            token was revoked), "api", "api_401" (follows its "api"), "device", "authorize",
            "discovery", "jwks", "userinfo", "end_session", "introspect", "register", "dpop_nonce" (a proof was refused
            for its nonce).
        grant_type: Of a token request.
        fingerprint: Of the token that was presented.
        user: Whom it was about, where known.
        detail: The reason of a refusal, the path of an API call, the decision of a person.
    """

    time: float
    kind: Kind
    grant_type: str | None = None
    fingerprint: str | None = None
    user: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Stats:
    """How many events of a kind there were since the start or the last reset.

    `refreshes` counts exchanges, the `reuses` of spent tokens that grace allowed among them; `refusals`
    counts refused refreshes, the `replays` of spent tokens among them; `api_calls` counts all calls, the
    `api_401` among them.
    """

    token_requests: int = 0
    refreshes: int = 0
    reuses: int = 0
    replays: int = 0
    refusals: int = 0
    overlaps: int = 0
    revocations: int = 0
    api_calls: int = 0
    api_401: int = 0


class EventLog:
    """The events, safe to write and read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._counts: Counter[Kind] = Counter()
        self._under_way: Counter[str] = Counter()

    def add(
        self,
        kind: Kind,
        *,
        grant_type: str | None = None,
        token: str | None = None,
        user: str | None = None,
        detail: str = "",
    ) -> None:
        """Record an event; of `token` only the fingerprint is kept."""
        mark = fingerprint(token) if token else None
        event = Event(time.time(), kind, grant_type, mark, user, detail)
        with self._lock:
            self._events.append(event)
            self._counts[kind] += 1

    @contextmanager
    def token_request(self, grant_type: str | None, refresh_token: str | None) -> Iterator[None]:
        """Record a token request, and that its refresh token is in use until the block ends."""
        self.add("token", grant_type=grant_type, token=refresh_token)
        if not refresh_token:
            yield
            return
        mark = fingerprint(refresh_token)
        with self._lock:
            overlapping = self._under_way[mark] > 0
            self._under_way[mark] += 1
        try:
            if overlapping:
                self.add("overlap", grant_type=grant_type, token=refresh_token)
            yield
        finally:
            with self._lock:
                self._under_way[mark] -= 1
                if not self._under_way[mark]:
                    del self._under_way[mark]

    def snapshot(self) -> list[Event]:
        """Return the events so far, oldest first."""
        with self._lock:
            return list(self._events)

    def stats(self) -> Stats:
        """Return the numbers so far."""
        with self._lock:
            count = self._counts.copy()
        return Stats(
            token_requests=count["token"],
            refreshes=count["refresh"],
            reuses=count["reuse"],
            replays=count["replay"],
            refusals=count["refused"],
            overlaps=count["overlap"],
            revocations=count["revoked"],
            api_calls=count["api"],
            api_401=count["api_401"],
        )

    def reset(self) -> None:
        """Forget events and numbers."""
        with self._lock:
            self._events.clear()
            self._counts.clear()
