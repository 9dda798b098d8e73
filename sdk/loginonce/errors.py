"""What can go wrong, one class for each thing that a caller does differently.

    LoginonceError
     ├── ConfigurationError (ValueError)   our own settings are wrong: mend them
     ├── TransportError                    no answer from the provider: try later (`retry_after`)
     ├── ProtocolError                     the provider's answer breaks the RFC: tell its operators
     ├── ErrorResponse                     the provider answered with an OAuth error
     │    └── InvalidGrant                 … and what was presented is no longer good
     ├── LoginRequired                     a person has to sign in (`reason`, `hint`)
     ├── LoginFailed                       a sign-in was begun and did not succeed
     ├── StepUpRequired                    the API wants a stronger or fresher sign-in, or more scope
     └── StoreError                        the place where logins are kept cannot be used
          ├── LockTimeout (TimeoutError)   another process held the lock for longer than allowed
          ├── CorruptStore                 a record was damaged; it has been set aside
          └── SealError                    a login is sealed: bring the key; nothing has been touched

A message says what happened, to which login, and what to do next.  None of them ever holds a secret.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

__all__ = [
    "ConfigurationError",
    "CorruptStore",
    "ErrorResponse",
    "InvalidGrant",
    "LockTimeout",
    "LoginFailed",
    "LoginRequired",
    "LoginonceError",
    "ProtocolError",
    "SealError",
    "StepUpRequired",
    "StoreError",
    "TransportError",
]

# In quotes, as elsewhere: to make a `Literal` at each start takes as long as to make two classes.
Reason: TypeAlias = 'Literal["none", "expired", "ended", "logged_out", "moved", "lost", "scope", "account"]'
"""Why a sign-in is needed: there never was one, it ran out, the provider ended it, somebody logged out here,
somebody moved it to another store, a refresh token may have been spent without an answer, the session asks for
more scope than was granted, or the provider began to answer for somebody else."""

Outcome: TypeAlias = 'Literal["denied", "timed_out", "cancelled", "no_human", "rejected"]'
"""How a begun sign-in ended: the person or the provider said no, nobody answered in time, it was cancelled,
there is nobody here who could answer, or the answer did not stand up to its checks."""


class LoginonceError(Exception):
    """Whatever this library raises on purpose."""


class ConfigurationError(LoginonceError, ValueError):
    """Our own settings are wrong or incomplete."""


class TransportError(LoginonceError):
    """The provider could not be reached, or did not answer in time.

    `retry_after` is in seconds from now: how long until another attempt is worth it (None: not known).
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProtocolError(LoginonceError):
    """The provider's answer breaks the specification."""


class ErrorResponse(LoginonceError):
    """An OAuth error answer (RFC 6749 §5.2): `error`, `error_description`, `error_uri`, HTTP `status`."""

    def __init__(
        self,
        message: str,
        *,
        error: str = "",
        error_description: str = "",
        error_uri: str = "",
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.status = status


class InvalidGrant(ErrorResponse):
    """What was presented (a code, a refresh token, a password) is expired, revoked, spent or wrong."""


class _ForPeople(LoginonceError):
    """An error whose reader is a person in a notebook: two lines there, in place of a traceback."""

    hint: str = ""

    def __str__(self) -> str:
        return f"{self.args[0]}\n{self.hint}" if self.hint else str(self.args[0])

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for this before it renders one itself.
        return [f"{type(self).__name__}: {self.args[0]}", self.hint]


class LoginRequired(_ForPeople):
    """A person has to sign in: `reason` says why, `hint` is the exact next command."""

    def __init__(self, message: str, *, reason: Reason = "none", hint: str = "") -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.hint = hint


class LoginFailed(_ForPeople):
    """A sign-in was begun and did not succeed: `outcome` says how it ended, `hint` what to do next."""

    def __init__(self, message: str, *, outcome: Outcome = "rejected", hint: str = "") -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome
        self.hint = hint


class StepUpRequired(_ForPeople):
    """The API wants a stronger or fresher sign-in, or more scope: no refresh gives that (RFC 9470 §3, RFC 6750 §3.1).

    Hand it to `Session.login`.  `acr_values` (space separated), `max_age` (seconds) and `scope` are what its challenge
    asked for, `response` is the answer that it came with, and `epoch` that of the login it was given for.
    """

    def __init__(
        self,
        message: str,
        *,
        acr_values: str = "",
        max_age: float | None = None,
        scope: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.acr_values = acr_values
        self.max_age = max_age
        self.scope = scope
        self.hint = hint
        self.response: Any = None
        self.epoch = 0


class StoreError(LoginonceError):
    """The place where logins are kept cannot be read, written or locked."""


class LockTimeout(StoreError, TimeoutError):
    """Another process held the lock of a login for longer than a refresh may take."""


class CorruptStore(StoreError):
    """A record was damaged.  It has been set aside under another name, not deleted."""


class SealError(StoreError):
    """The secrets of a login are sealed, or kept apart, and the key that opens them is not here.

    The login is as it was: nothing was set aside, overwritten or signed in anew.
    """
