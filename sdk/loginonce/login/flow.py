"""What every way of signing in has in common, and the ways that need nobody's attention."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

from ..claims import unverified_claims
from ..client import Issuer, Provider
from ..dpop import require_key
from ..errors import ConfigurationError
from ..model import Account, Members, Secret
from ..wire import Answer, TokenAnswer, judge_token

__all__ = [
    "ClientCredentialsFlow",
    "Handed",
    "HandedFlow",
    "LoginFlow",
    "PasswordFlow",
    "Presenter",
    "Progress",
    "Prompt",
    "SignedIn",
    "Waiter",
    "WhenAsked",
    "first",
]

Handed: TypeAlias = Mapping[str, Any]
"""Tokens that a program already has, in the form of a token answer (RFC 6749 §5.1)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to show the person.  None of it is a secret that outlives the sign-in.

    `kind`: `browser` (the answer comes back by itself), `device` (a code to compare), `paste` (the address of
    the last page is to be brought back), `password` (a name and a password are to be typed; `url` is where they
    belong).  `expires_at`: POSIX seconds.
    """

    kind: Literal["browser", "device", "paste", "password"]
    issuer: str
    client_id: str
    url: str
    expires_at: float
    user_code: str = ""
    url_complete: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How a sign-in stands.

    `pending`: a person is asked, by `prompt`; perhaps again, and `detail` says why.  `retrying`: still so, but the
    provider cannot be reached just now (`detail` says why).  `elsewhere`: another program asks already, by the same
    `prompt`.  `signed_in`: `account` is there; without a prompt nobody had to be asked.  `failed`: `error` says why,
    and what to do next.
    """

    state: Literal["pending", "retrying", "elsewhere", "signed_in", "failed"]
    prompt: Prompt | None = None
    account: Account | None = None
    error: BaseException | None = None
    detail: str = ""


class Presenter(Protocol):
    """Shows a sign-in to a person.  Link and code stay the same until a progress with another prompt comes."""

    def show(self, progress: Progress) -> None:
        """Called at each change; `signed_in` or `failed` is the last, and follows also where nothing was asked.

        It is called on the sign-in's own thread; the last time perhaps by whoever has stopped waiting for it.
        """


class WhenAsked:
    """A presenter that is made once there is a prompt: a login that is there does not pay for what would draw one."""

    def __init__(self, make: Callable[[], Presenter]) -> None:
        self._make = make
        self._made: Presenter | None = None
        self._making = threading.Lock()

    def show(self, progress: Progress) -> None:
        """Hand it on, from the first prompt on."""
        with self._making:
            if self._made is None and progress.prompt is not None:
                self._made = self._make()
        if self._made is not None:
            self._made.show(progress)


class Waiter(Protocol):
    """How a flow waits, so that whoever shows the prompt is in charge of time."""

    def __call__(self, seconds: float, *, trouble: str = "") -> None:
        """Pause.  Raises where the wait is over for another reason: cancelled, or signed in elsewhere.

        `trouble` is what keeps the flow from getting on just now, for people.
        """


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a sign-in brought: the answer, when it was asked for (POSIX seconds), who it is (claims), and the
    scope and resources that were asked for, separated by spaces.
    """

    answer: TokenAnswer
    asked_at: float
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scope: str = ""
    resource: str = ""
    renewal: Literal["refresh_token", "client_credentials"] = "refresh_token"


def first(resource: str) -> str:
    """The API that a sign-in's own access token is for, of those it asks for."""
    return resource.partition(" ")[0]


class LoginFlow(Protocol):
    """One way of signing in."""

    def begin(self) -> Prompt | None:
        """Start, and say what to show; None where nothing has to be."""

    def finish(self, wait: Waiter) -> SignedIn:
        """Wait for the tokens.  Raises `LoginFailed`, `ProtocolError`, `TransportError`, or what `wait` raises."""

    def close(self) -> None:
        """Let go of what `begin` opened; harmless to call twice."""


class _Silent:
    """A way that asks nobody."""

    def begin(self) -> None:
        """Nothing to show."""
        return

    def close(self) -> None:
        """Nothing was opened."""


@dataclass(frozen=True, slots=True)
class ClientCredentialsFlow(_Silent):
    """A service signs in as itself (RFC 6749 §4.4); what renews the login is the client's own secret."""

    provider: Provider
    scope: str = ""
    resource: str = ""

    def finish(self, wait: Waiter) -> SignedIn:
        """Ask once."""
        del wait
        asked_at = time.time()
        answer = self.provider.client_credentials(scope=self.scope, resource=first(self.resource))
        claims = {"sub": self.provider.client.client_id}
        return SignedIn(answer, asked_at, claims, renewal="client_credentials")


@dataclass(frozen=True, slots=True)
class PasswordFlow(_Silent):
    """A person's name and password (RFC 6749 §4.3), for servers that know nothing better.  Neither is kept."""

    provider: Issuer
    username: str
    password: Secret
    scope: str = ""
    resource: str = ""

    def finish(self, wait: Waiter) -> SignedIn:
        """Ask once."""
        del wait
        asked_at = time.time()
        answer = self.provider.password(self.username, self.password, scope=self.scope, resource=first(self.resource))
        claims = self.provider.identify(answer) or {"preferred_username": self.username}
        return SignedIn(answer, asked_at, claims)


@dataclass(frozen=True, slots=True)
class HandedFlow(_Silent):
    """Tokens from elsewhere: at least a `refresh_token` or an `access_token`.

    An ID token among them is checked like any other.  Without an access token the first request gets one.  If they are
    bound to a key (RFC 9449), that comes along as `dpop_key`, the text of a private JWK.
    """

    provider: Issuer
    tokens: Handed = field(repr=False)

    def finish(self, wait: Waiter) -> SignedIn:
        """Take them over."""
        del wait
        tokens = Members(self.tokens)
        handed = tokens.pop("dpop_key", None)
        key = require_key(str(handed)) if handed else None
        only_refresh = not tokens.get("access_token")
        if only_refresh and not isinstance(tokens.get("refresh_token"), str):
            raise ConfigurationError("login(tokens=…) needs a refresh_token or an access_token in it")
        if only_refresh:
            bare = TokenAnswer(Secret(""), refresh_token=Secret(tokens["refresh_token"]))
            bare = replace(bare, dpop_key=key or self.provider.dpop_key())  # bound by their first use
            return SignedIn(bare, time.time())
        asked_at = time.time()
        if "expires_in" not in tokens and isinstance(tokens.get("expires_at"), int | float):
            tokens["expires_in"] = max(0.001, tokens["expires_at"] - asked_at)
        answer = judge_token(Answer(200, {}, json.dumps(tokens, default=str).encode()))
        answer = replace(answer, dpop_key=key)
        if (answer.token_type == "DPoP") != (key is not None) or (self.provider.dpop and key is None):
            raise ConfigurationError(
                "login(tokens=…) with DPoP needs the dpop_key to which the tokens are bound, and token_type DPoP"
            )
        if answer.id_token is None:
            return SignedIn(answer, asked_at)
        # It may have been at hand for long: judged at its end at the latest.
        end = unverified_claims(answer.id_token).get("exp")
        at = min(asked_at, end - 1) if isinstance(end, int | float) else asked_at
        return SignedIn(answer, asked_at, self.provider.identify(answer, at=at))
