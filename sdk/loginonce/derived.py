"""What is had by way of a login: tokens exchanged for it, and the provider's word on whether it is alive.

Neither changes the login.  A check spends a refresh token only where one is due anyway, under the same protocol as
any request; and whatever the provider answers, or does not, only a renewal that it refuses ends a login.
"""

from __future__ import annotations

import threading
import time
import weakref

from .errors import ErrorResponse, InvalidGrant, LoginonceError, LoginRequired, StoreError
from .exchange import ExchangedToken
from .home import at_fork_in_child
from .introspection import By, LoginCheck
from .model import Grant, TokenSet
from .refresh import fresh_span
from .source import LoginSource

__all__ = ["ExchangedSource", "check_login"]


class ExchangedSource:
    """A `TokenSource` of tokens that a login's access token is exchanged for (RFC 8693).

    One is kept in this process's memory until near its end, or until somebody signs in or out: it costs a request to
    make, and nothing to lose.  `wanted`: the names of `exchange.exchange_form`.
    """

    def __init__(self, source: LoginSource, **wanted: str) -> None:
        self._source = source
        self._wanted = wanted
        self._kept: tuple[int, ExchangedToken] | None = None
        self._mutex = threading.Lock()
        _sources.add(self)

    def forget(self) -> None:
        """Be as new.  For a forked child, where the mutex may be held by nobody."""
        self._mutex = threading.Lock()

    def token(self, *, rejected: TokenSet | None = None) -> ExchangedToken:
        """A token that is good now (see `TokenSource`).  Raises what the login raises, and `ErrorResponse`."""
        subject = self._source.token()
        known = self._source.memory()
        epoch = known.epoch if known else 0
        with self._mutex:
            kept = self._kept
            if kept is not None and kept[0] == epoch and kept[1] != rejected and self._fresh(kept[1]):
                return kept[1]
            try:
                made = self._source.oauth.exchange(subject, **self._wanted)
            except ErrorResponse as error:
                if not self._ended(subject, error):
                    raise
                newer = self._source.token(rejected=subject)  # ours was ended before its time
                if newer.access_token == subject.access_token:
                    raise
                made = self._source.oauth.exchange(newer, **self._wanted)
            self._kept = epoch, made
            return made

    def _ended(self, subject: TokenSet, error: ErrorResponse) -> bool:
        """Whether it was refused because the login's access token is no good any more.

        `invalid_request` says that as well as that a request is wrong (RFC 8693 §2.2.2), and a wrong one must spend no
        refresh token.  So userinfo is asked; introspection would not do: servers call tokens inactive that are good,
        but not for who asks (RFC 7662 §2.2).
        """
        if isinstance(error, InvalidGrant) or error.error == "invalid_token":
            return True
        grant = self._source.grant()
        if error.error != "invalid_request" or grant is None or not grant.subject or subject.resource:
            return False
        return self._source.provider.knows(subject, grant.subject) is False

    def _fresh(self, token: ExchangedToken) -> bool:
        begin, end = fresh_span(token, self._source.policy)
        return begin <= time.time() < end


_sources: weakref.WeakSet[ExchangedSource] = weakref.WeakSet()


def _after_fork() -> None:
    for source in list(_sources):
        source.forget()


at_fork_in_child(_after_fork)


def check_login(source: LoginSource) -> LoginCheck:
    """Whether the login is alive at the provider.  Raises `StoreError`."""
    grant = source.grant()
    if grant is None:
        return LoginCheck(False, "record", "nobody is signed in")
    if grant.state in ("LOGGED_OUT", "DEAD"):
        return LoginCheck(False, "record", grant.failure.detail if grant.failure else "somebody signed out")
    provider = source.provider
    said = provider.introspect(grant.refresh_token, "refresh_token") if grant.refresh_token else None
    if said:
        return LoginCheck(True, "introspection")
    token = grant.token_for(source.resource)
    if token is None or (token.expires_at is not None and time.time() >= token.expires_at):
        return _by_renewal(source)
    alive, by = _asked_about(source, grant, token)
    if alive is None:
        return LoginCheck(None, "", "the provider does not say")
    if alive and said is None:
        return LoginCheck(True, by)
    if not alive and said is False:
        return LoginCheck(False, by, "neither its refresh token nor its access token is good any more")
    # One of the two is good.  An access token may be ended by itself, and some servers only know of their own kind.
    which = "its access token is good, its refresh token is said not to be" if alive else "its access token is not good"
    return LoginCheck(None, by, f"{which}; the next renewal decides")


def _asked_about(source: LoginSource, grant: Grant, token: TokenSet) -> tuple[bool | None, By]:
    said = source.provider.introspect(token.access_token, "access_token")
    if said is not None:
        return said, "introspection"
    if token.resource or not grant.subject:
        return None, ""  # it is not for userinfo
    return source.provider.knows(token, grant.subject), "userinfo"


def _by_renewal(source: LoginSource) -> LoginCheck:
    """Its access token has ended: the next request would renew it, and so tells more than any question."""
    try:
        source.token()
    except LoginRequired as required:
        return LoginCheck(False, "renewal", str(required.args[0]))
    except StoreError:
        raise
    except LoginonceError as error:
        return LoginCheck(None, "", str(error))
    return LoginCheck(True, "renewal")
