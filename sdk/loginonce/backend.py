"""What we say to a plain JSON back end, in its own manners: what `client` is for a provider of OAuth.

It is an `Issuer` as any other: its logins are kept, locked, renewed and shared by the same rules, and a repetition of a
refresh is what it is everywhere.  `refresh` never raises; `password` raises what its judge does, and `TransportError`.
"""

from __future__ import annotations

import time
from typing import Any

from .errors import ErrorResponse, LoginonceError
from .log import log
from .manners import Manners, Place, judge_login, judge_renewal, message
from .model import AuthorizationServer, Client, Grant, Secret
from .transport import AnswerLost, NeverSent, Transport
from .wire import Answer, Lost, Misconfigured, Reply, TokenAnswer, Unsent

__all__ = ["Backend"]

BUDGET = 20.0
"""Seconds for any one request that is not a refresh."""


class Backend:
    """One back end, at its base address."""

    def __init__(self, base: str, manners: Manners, client: Client, transport: Transport | None = None) -> None:
        self.client = client
        self.dpop = False
        self.manners = manners
        self._base = base
        self._transport = transport or Transport()

    def __repr__(self) -> str:
        return f"Backend({self._base!r})"

    @property
    def server(self) -> AuthorizationServer:
        """The same in the words of RFC 8414, as far as they go: whoever signs in does it by a password."""
        renewal = self.manners.refresh or self.manners.login
        return AuthorizationServer(
            self._base,
            token_endpoint=renewal.url,
            revocation_endpoint=self.manners.logout.url if self.manners.logout else "",
            grant_types_supported=("password",),
        )

    def informed(self) -> bool:
        """Always: its settings say all."""
        return True

    def prepare(self, budget: float = BUDGET) -> Reply | None:
        """Nothing has to be learnt."""
        del budget
        return None if self.manners.refresh else self._no_refresh()

    def _no_refresh(self) -> Misconfigured:
        return Misconfigured("", f"the backend of {self._base} names no refresh, so nothing renews its logins")

    def refresh(self, grant: Grant, *, resource: str, for_scope: str, budget: float) -> Reply:
        """Spend this record's refresh token.  Once; never raises."""
        del resource, for_scope  # there is one kind of token
        place = self.manners.refresh
        if place is None:
            return self._no_refresh()
        before = grant.token_for()
        try:
            body = message(
                self.manners,
                refresh_token=grant.refresh_token or "",
                access_token=before.access_token if before else "",
            )
            answer = self._send(place, body, budget=budget)
        except NeverSent as error:
            return Unsent(str(error))
        except AnswerLost as error:
            return Lost(str(error))
        except LoginonceError as error:
            return Misconfigured("", str(error))
        return judge_renewal(answer, self.manners, time.time())

    def password(self, username: str, password: str, *, scope: str, resource: str = "") -> TokenAnswer:
        """A person's tokens for their name and password."""
        del scope, resource
        body = message(self.manners, username=username, password=password)
        return judge_login(self._send(self.manners.login, body, budget=BUDGET), self.manners, time.time())

    def identify(self, answer: TokenAnswer, *, nonce: str | None = None, at: float | None = None) -> dict[str, Any]:
        """Who signed in, as the answer says it; {} where it does not."""
        del nonce, at
        return dict(answer.claims)

    def revoke(self, token: Secret, hint: str) -> bool:
        """Sign out there; whether it says that it has.  Never raises.  `hint` as in RFC 7009.

        A refresh token goes into the message, an access token into the Authorization header.
        """
        place = self.manners.logout
        if place is None:
            return False
        try:
            by_message = hint == "refresh_token"
            body = message(self.manners, **({"refresh_token": token} if by_message else {}))
            headers = {} if by_message else {"Authorization": Secret(f"Bearer {token}")}
            answer = self._send(place, body, headers, budget=BUDGET)
            if 200 <= answer.status < 300:
                return True
            raise ErrorResponse(f"HTTP {answer.status}", status=answer.status)
        except LoginonceError as error:
            log.warning("a %s of %s could not be revoked: %s", hint, self._base, error)
            return False

    def introspect(self, *_: object) -> None:
        """None: there is nowhere to ask."""

    def knows(self, *_: object) -> None:
        """None: there is nowhere to ask."""

    def end_session_url(self, **_: str | None) -> str:
        """Nowhere: no browser was involved."""
        return ""

    def dpop_key(self) -> None:
        """None: its tokens are bound to nothing."""

    def _send(self, place: Place, body: Secret, headers: dict[str, Secret] | None = None, *, budget: float) -> Answer:
        whole = {"Content-Type": "application/json", **self.manners.headers, **(headers or {})}
        return self._transport.post(place.url, body, whole, budget=budget, method=place.method)
