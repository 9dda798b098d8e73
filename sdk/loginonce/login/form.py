"""Signing in by a user name and a password that a person types: at a terminal, in a notebook's prompt, in a card.

For servers that know nothing better.  The password goes from the field to the request, and is kept nowhere.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field

from ..client import Issuer
from ..errors import ConfigurationError, ErrorResponse, InvalidGrant, LoginFailed, TransportError
from ..model import Secret
from .flow import PasswordFlow, Prompt, SignedIn, Waiter

__all__ = ["FormFlow"]

SLICE = 0.1
"""Seconds between two looks at whether something has been typed."""

TRIES = 3
"""How often a name and a password may be wrong; many servers lock an account after a few more."""


@dataclass(slots=True)
class FormFlow:
    """Asks until a name and a password are accepted.  `username`: whose password it is, where that is known."""

    provider: Issuer
    scope: str = ""
    resource: str = ""
    username: str = ""
    timeout: float = 600.0
    _waiting: threading.Event = field(default_factory=threading.Event, init=False)
    _given: queue.SimpleQueue[tuple[str, Secret]] = field(default_factory=queue.SimpleQueue, init=False, repr=False)
    _deadline: float = field(default=0.0, init=False)

    def begin(self) -> Prompt:
        """Ask."""
        self._deadline = time.monotonic() + self.timeout
        issuer = self.provider.server.issuer
        return Prompt(
            "password", issuer, self.provider.client.client_id, url=issuer, expires_at=time.time() + self.timeout
        )

    @property
    def waiting(self) -> bool:
        """Whether it is up to the person now."""
        return self._waiting.is_set()

    def deliver(self, username: str, password: Secret) -> None:
        """Bring what was typed.  Raises `ConfigurationError` where it is not waited for."""
        if not self.waiting:
            raise ConfigurationError("this sign-in does not wait for a password just now")
        self._waiting.clear()
        self._given.put((username, password))

    def finish(self, wait: Waiter) -> SignedIn:
        """Wait for what is typed, and try it."""
        wrong, complaint = 0, ""
        while True:
            wait(0.0, trouble=complaint)  # so that it is shown before anybody is asked again
            username, password = self._typed(wait, complaint)
            wait(0.0)  # what was wrong is in the past
            try:
                return PasswordFlow(self.provider, username, password, self.scope, self.resource).finish(wait)
            except InvalidGrant as error:
                wrong += 1
                complaint = _sentence(error)
                if wrong >= TRIES:
                    raise LoginFailed(str(error), outcome="rejected", hint="Begin again to retry.") from None
            except TransportError as error:
                complaint = _sentence(error)
            except ErrorResponse as error:
                if error.status < 500 and error.status != 429:
                    raise
                complaint = _sentence(error)

    def _typed(self, wait: Waiter, complaint: str) -> tuple[str, Secret]:
        self._waiting.set()
        while time.monotonic() < self._deadline:
            try:
                return self._given.get_nowait()
            except queue.Empty:
                wait(SLICE, trouble=complaint)
        raise LoginFailed("nobody entered a password in time", outcome="timed_out", hint="Begin again to retry.")

    def close(self) -> None:
        """Nothing is open."""
        self._waiting.clear()


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
