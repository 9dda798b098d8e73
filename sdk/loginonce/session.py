"""`Session`: a `requests.Session` that is signed in.

It is thin.  It puts a token on each request that may carry one, hop by hop; on a 401 it asks its source for
another and sends once more; everything else is left to requests and to `source`.
"""

from __future__ import annotations

import copy
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias, TypedDict, TypeVar, Unpack, overload

import requests
from requests.cookies import extract_cookies_to_jar
from requests.utils import get_auth_from_url

from .address import origin, secure, web_address
from .assembly import provider_of, source_of
from .bearer import WORTH_A_LOOK, BearerAuth, answer_401, forget, learn, put_on, take_off
from .config import Settings, key_file, key_or_path, settings
from .errors import ConfigurationError, LoginonceError, LoginRequired, StepUpRequired
from .home import at_fork_in_child
from .log import log
from .model import Account, Change, ChangeKind, Grant, Members, Secret, TokenSet, scope_set
from .proxies import Direct, FrugalSession, staying_here
from .refresh import Policy, Problem, fresh_span, grant_of_logout
from .source import LoginSource
from .stores.base import TokenStore
from .stores.remote import Address, completed
from .value import replace

if TYPE_CHECKING:
    from .client import Issuer, LoggedOut
    from .derived import ExchangedSource
    from .environment import Environment
    from .exchange import ExchangedToken
    from .introspection import LoginCheck
    from .login.flow import Presenter
    from .login.signin import SignIn
    from .transport import Route
    from .watch import Keeper, KeptFresh, Watcher

    class _Given(TypedDict, total=False):
        """What `Session.login` takes by name."""

        force: bool
        username: str | None
        password: str | None
        tokens: Mapping[str, Any] | None
        timeout: float | None
        presenter: Presenter | None
        scope: str
        prompt: str
        challenge: StepUpRequired | None

    class Place(TypedDict, total=False):
        """What a known provider's address is made of (see `providers`)."""

        host: str
        domain: str
        realm: str
        tenant: str
        application: str
        authorization_server: str
        region: str
        pool: str
        project: str


__all__ = ["Session"]


_Flow: TypeAlias = str | StepUpRequired | None


def presenter_here(here: Environment, *, qr: bool = False) -> Presenter:
    """What shows a sign-in where this program runs; `qr`: on a terminal the address as a QR code too."""
    from .login.flow import WhenAsked
    from .login.text import TextPresenter

    if here.notebook:
        from .notebook import NotebookPresenter

        return NotebookPresenter()
    plain = TextPresenter(sys.stderr, browser=here.browser)

    def live(out: TextIO = sys.stderr) -> Presenter:
        with suppress(ModuleNotFoundError):  # rich; then plain lines
            from .terminal import TerminalPresenter

            return TerminalPresenter(out, browser=here.browser, qr=qr)
        return plain

    if not here.human or os.environ.get("TERM") in ("dumb", "unknown"):
        return plain
    return live() if qr else WhenAsked(live)  # at once where the wish for a code may be in vain


_ADDRESSED = "_loginonce_addressed"
"""Where an answer, and the next hop of a redirect, keep the origin that the caller addressed."""

_HAND_OUT = (
    "This program was handed an access token and no login: whoever handed it out has to hand out a new one, by "
    ".access_only() on the session that is signed in."
)

_NOBODY = ""
"""Kept there where no origin may have the token."""


class Session(FrugalSession):
    """A `requests.Session` whose requests are signed in, and stay so.

        lab = Session("https://id.example.org/realms/lab", client_id="notebook", scope="openid offline_access")
        lab.login()
        lab.get("https://api.example.org/runs")

    The first argument is an issuer, or the name of a profile or of a provider (`Session("google", client_id=…)`,
    `Session("keycloak", host="id.example.org", realm="lab", client_id=…)`, see `providers`); without one the
    environment says which (see `config`).  `issuer` and `provider` say the same by name, and `dialect` what that
    provider does otherwise.  `client_id` is the client's name at the provider; `scope`, and `resource` for the APIs
    that tokens are for (RFC 8707), hold several values with spaces between them.  `account` keeps several logins at one
    provider apart.  `grant` is "client_credentials" or "password" where tokens are not got by a browser; `redirect_uri`
    is the one that is registered, if it is not the usual one.  `store` is a `TokenStore` or its address; `origins`
    names further origins, such as "https://files.example.org", to which a redirect may take the token; `server`
    overrides what the provider says of itself (RFC 8414 names); `backend` says how a plain JSON back end speaks, which
    knows no OAuth, and the first argument is its base address then; `policy` says how the login is renewed.  Raises
    `ConfigurationError`.

    Who this program is may be said by a `client_secret`, by a `private_key` (a file with a PEM or JWK) or by a
    `certificate` with its `certificate_key` (files): by a method of OIDC Core §9 or RFC 8705 §2 that the provider
    takes, or that `token_endpoint_auth_method` names.  The certificate is the session's own `cert` too.  With `dpop`
    tokens are bound to a key that lives with the login (RFC 9449).

    Requests raise what requests raises; where there is no token to be had, what `TokenSource.token` raises,
    `LoginRequired` above all; and `StepUpRequired` where the API wants a stronger sign-in or more scope (RFC 9470,
    RFC 6750 §3.1).  `source` is where the tokens come from, and `settings` what the first argument was found to mean.
    """

    def __init__(
        self,
        profile_or_issuer: str | None = None,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        private_key: str | None = None,
        certificate: str | None = None,
        certificate_key: str | None = None,
        token_endpoint_auth_method: str | None = None,
        dpop: bool | None = None,
        scope: str | None = None,
        account: str | None = None,
        resource: str | None = None,
        grant: str | None = None,
        redirect_uri: str | None = None,
        store: TokenStore | str | None = None,
        origins: Iterable[str] = (),
        server: Mapping[str, Any] | None = None,
        backend: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        issuer: str | None = None,
        provider: str | None = None,
        dialect: Mapping[str, Any] | None = None,
        **place: Unpack[Place],
    ) -> None:
        super().__init__()
        # Also in a traceback through here.
        client_secret = Secret(client_secret) if client_secret else None
        backend = Members(backend) if isinstance(backend, Mapping) else backend
        private_key = key_or_path(private_key)
        store = Address(store) if isinstance(store, str) else store
        made = settings(
            profile_or_issuer,
            client_id=client_id,
            client_secret=client_secret,
            private_key=private_key,
            certificate=certificate,
            certificate_key=certificate_key,
            token_endpoint_auth_method=token_endpoint_auth_method,
            dpop=dpop,
            scope=scope,
            account=account,
            resource=resource,
            grant=grant,
            redirect_uri=redirect_uri,
            store=store if isinstance(store, str) else None,
            server=server,
            backend=backend,
            policy=policy,
            issuer=issuer,
            provider=provider,
            dialect=dialect,
            **place,
        )
        self._build(made, store if isinstance(store, TokenStore) else None, _named(origins))

    def _build(self, made: Settings, store: TokenStore | None, origins: frozenset[str]) -> None:
        self.settings = made
        self._origins = origins
        self._given_store = store
        if self.cert is None:
            self.cert = made.cert
        here = f"Call .login() on the session, or run in a terminal: {made.command}"
        self.source = source_of(made, _HAND_OUT if _handed(store) else here, store=store, provider=self._provider)
        self._narrowed: dict[tuple[str, str], LoginSource] = {}
        self._exchanged: dict[tuple[str, ...], ExchangedSource] = {}
        self._bearer = BearerAuth(self.source)
        self.auth = self._bearer
        _sessions.add(self)

    def __repr__(self) -> str:
        made: Settings | None = self.__dict__.get("settings")  # none yet, where the constructor has failed
        if made is None:
            return "<loginonce.Session, not set up>"
        name = f"{made.profile!r}, " if made.profile else ""
        return f"<loginonce.Session {name}{self.source.key}>"

    def _repr_html_(self) -> str:
        # IPython's protocol.  Imported here: where nothing shows HTML nobody needs it.
        from .notebook import html
        from .notebook.standing import Standing

        made: Settings | None = self.__dict__.get("settings")
        if made is None:
            return html.words(repr(self))
        return Standing.of(self.source).html(time.time(), hint="Call .login() on it to sign in.")

    # ── who is signed in, and while nobody asks ──────────────────────────────────────────────────────────

    @property
    def account(self) -> Account | None:
        """Who is signed in, or None.  Asks nobody: it is what the store says.  Raises `StoreError`."""
        grant = self.source.grant()
        if grant is None or grant.state == "LOGGED_OUT":
            return None
        return Account.of(grant, self.source.resource)

    def token(self, *, resource: str = "", scope: str = "") -> TokenSet:
        """An access token that is good now, for one of the login's APIs (RFC 8707), or for less scope than it has.

        All of them are renewed by one refresh token, and kept beside each other in the login, for every process.
        Raises what `TokenSource.token` raises.
        """
        if not (resource or scope):
            return self.source.token()
        narrowed = self._narrowed.get((resource, scope))
        if narrowed is None:
            narrowed = self._narrowed.setdefault(
                (resource, scope), self.source.narrowed(resource=resource, scope=scope)
            )
        return narrowed.token()

    def exchange(
        self, *, audience: str = "", resource: str = "", scope: str = "", requested_token_type: str = ""
    ) -> ExchangedToken:
        """A token for another audience, for which the provider takes this login's access token (RFC 8693).

        This process keeps it until near its end, or until somebody signs in or out.  Raises what `TokenSource.token`
        raises, and `ErrorResponse` where the provider gives none.
        """
        # Imported here, as below: who does not use it does not pay for it.
        from .derived import ExchangedSource

        wanted = (audience, resource, scope, requested_token_type)
        exchanged = self._exchanged.get(wanted)
        if exchanged is None:
            made = ExchangedSource(
                self.source, audience=audience, resource=resource, scope=scope, requested_token_type=wanted[3]
            )
            exchanged = self._exchanged.setdefault(wanted, made)
        return exchanged.token()

    def check(self) -> LoginCheck:
        """Whether the login is still alive at the provider: by introspection (RFC 7662), else by userinfo.

        It spends no refresh token, unless the access token has ended: then it is renewed, as the next request would do
        it.  Where the provider does not say, `active` is None, and the login is kept.  Raises `StoreError`.
        """
        from .derived import check_login

        return check_login(self.source)

    @property
    def missing_scope(self) -> frozenset[str]:
        """What the login was asked for and its access token was not granted; a sign-in would ask in vain again.

        Asks nobody, as `account`.  `offline_access` and `openid` are left out, which some providers never name.
        Raises `StoreError`.
        """
        grant = self.source.grant()
        token = grant.token_for(self.source.resource) if grant else None
        if grant is None or token is None:
            return frozenset()
        return scope_set(grant.scope) - scope_set(token.scope) - {"offline_access", "openid"}

    @property
    def logged_in(self) -> bool:
        """Whether requests are signed in without a person being asked.  Asks nobody, as `account`.

        That is: there is a login, it has not been ended, and it renews itself or its access token is still good.
        Raises `StoreError`.
        """
        grant = self.source.grant()
        if grant is None or grant.state not in ("ACTIVE", "SPENDING"):
            return False
        verdict = self.source.verdict(grant)
        return not (isinstance(verdict, Problem) and verdict.kind == "login")

    _watcher: Watcher[Change] | None = None
    _keeper: Keeper | None = None

    def on_change(self, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Call it with each `Change` of this login from now on: by this process or any other, within half a second.

        Returns the function that ends it; `close` ends it too, and so does the end of the session itself, so keep
        that.  Callbacks run one after the other in a thread of their own: be brief, or hand on to your event loop
        or another thread.  One that raises is logged.

        Registering a callback again does no harm: it takes the place of the earlier one.  So does a function that
        was defined again by running a notebook's cell once more; a lambda, or a method of a new object, is another
        callback, and the old one goes on until it is ended.  A forked child begins without callbacks.
        """
        # Imported here, as below: who does not use it does not pay for it.
        from .watch import Watcher, why_over

        if self._watcher is None:
            source, resource = self.source, self.source.resource

            def describe(kind: ChangeKind, grant: Grant) -> Change:
                over = why_over(source, grant) if kind in ("logout", "ended") else None
                account = None if kind == "logout" else Account.of(grant, resource)
                return Change(kind, account, over.reason, source.hint) if over else Change(kind, account)

            self.__dict__.setdefault("_watcher", Watcher(source, describe))
        assert self._watcher is not None
        return self._watcher.listen(callback)

    def keep_fresh(self) -> KeptFresh:
        """Renew the login in the background from now on, shortly before its token ends, so that no request waits.

        For kernels that idle and pages that stay open.  Any number of processes may: one of them renews, at a
        moment when the old token is still good.  It ends by `stop()` on what is returned, by a `with` block, with
        `close`, with the session or with the program, which it does not keep alive (a renewal that is under way is
        finished first).  A login that needs a person is told of once, by a warning, and kept fresh again when
        somebody has signed in anywhere.  Calling it again changes nothing.  A forked child begins without it.
        """
        from .watch import Keeper

        if self._keeper is None:
            self.__dict__.setdefault("_keeper", Keeper(self.source))
        assert self._keeper is not None
        return self._keeper.start()

    def close(self) -> None:
        """As requests does it; callbacks and `keep_fresh` end."""
        for background in (self._watcher, self._keeper):
            if background is not None:
                background.stop()
        super().close()

    # ── signing in and out ───────────────────────────────────────────────────────────────────────────────

    @overload
    def login(self, flow: _Flow = None, *, wait: Literal[True] = True, **given: Unpack[_Given]) -> Account: ...
    @overload
    def login(self, flow: _Flow = None, *, wait: Literal[False], **given: Unpack[_Given]) -> SignIn: ...
    def login(
        self,
        flow: _Flow = None,
        *,
        wait: bool = True,
        force: bool = False,
        username: str | None = None,
        password: str | None = None,
        tokens: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        presenter: Presenter | None = None,
        scope: str = "",
        prompt: str = "",
        challenge: StepUpRequired | None = None,
    ) -> Account | SignIn:
        """Be signed in: return at once where any program of this person is, else renew, else ask.

        `flow` is `browser`, `device` or `paste` (default: what fits, see `login.choose`).  `wait=False` returns
        the `SignIn` that is under way.  `force` asks even if there is a login.  `username` and `password` are for
        servers that offer nothing better, `tokens` for a token answer that is at hand.  `timeout`: seconds that a
        person has.  `presenter` shows the prompt (default: what fits the terminal or notebook).

        `scope` is asked for on top of what the login has, which stays as it is where the person does not agree.
        `challenge`, which may also stand in the place of `flow`, is a `StepUpRequired`: the person signs in as strongly
        and as freshly as the API wants.  `prompt` is for the provider (OIDC Core §3.1.2.1), such as `login` or
        `select_account`.  Raises `LoginFailed`, and what the provider or the store have to say.
        """
        if isinstance(flow, StepUpRequired):
            flow, challenge = None, flow
        if _handed(self._given_store):
            raise LoginRequired(f"nobody signs in to {self.source.key} here", reason="expired", hint=_HAND_OUT)
        # Imported here: a program that never signs in does not need it.
        from .environment import detect
        from .login.signin import SignIn

        if timeout is not None and timeout <= 0:
            raise ConfigurationError(f"timeout={timeout} leaves nobody the time to sign in: say how many seconds")
        here = detect()
        if presenter is not None:
            here = replace(here, blocking=True)  # who brings a presenter knows how it is seen
        # What is handed in shows nowhere, also in a traceback through here.
        password = None if password is None else Secret(password)
        tokens = None if tokens is None else Members(tokens)
        sign_in = SignIn(
            self.source,
            self.settings,
            presenter or presenter_here(here),
            flow=flow,
            force=force,
            username=username,
            password=password,
            tokens=tokens,
            timeout=timeout,
            here=here,
            start=not wait,
            scope=scope,
            prompt=prompt,
            challenge=challenge,
        )
        return sign_in.wait() if wait else sign_in

    async def login_async(self, flow: _Flow = None, **given: Unpack[_Given]) -> Account:
        """What `login` does, for an event loop, which goes on meanwhile."""
        sign_in = self.login(flow, wait=False, **given)
        given = {}  # what was handed in shows nowhere, also in a traceback through here
        return await sign_in.wait_async()

    def logout(self) -> LoggedOut:
        """End the login for every program that shares it, and revoke it at the provider (RFC 7009).

        The login is gone here whatever the provider says.  Raises `StoreError`.
        """
        # Imported here, as in `_route`.
        from .client import LoggedOut

        key, provider = self.source.key, self.source.provider
        before, _ = self.source.change(lambda previous: grant_of_logout(key, previous, time.time()))
        revoked = False
        if before is not None and before.refresh_token is not None:
            revoked = provider.revoke(before.refresh_token, "refresh_token")
        elif before is not None:
            done = [provider.revoke(token.access_token, "access_token") for token in before.tokens]
            revoked = bool(done) and all(done)
        return LoggedOut(revoked, provider.end_session_url())

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As requests does it.  The token is put on when the request is sent, and .netrc stays out of it.

        Whoever brings another authentication (`auth=`, `session.auth`, one in the address) gets no token, and a
        session whose `auth` was set to None signs nothing.  The session's own, brought as `auth=`, wins over what is in
        the address or among the headers, as any other does.
        """
        url: Any = request.url
        in_address = get_auth_from_url(url.decode() if isinstance(url, bytes) else str(url))
        brought = request.auth is self._bearer
        ours = self.auth is self._bearer and (brought or (request.auth is None and not any(in_address)))
        if ours or (request.auth is None and any(in_address)):
            request = _twin(request)
            request.auth = _signed_when_sent if ours else in_address
            if request.params == self.params == {}:
                request.params = None  # the same to requests, which takes a tenth of its time to merge what is empty
        prepared = super().prepare_request(request)
        if not ours:
            prepared.__dict__[_ADDRESSED] = _NOBODY
        elif brought:
            prepared.headers.pop("Authorization", None)
        return prepared

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As requests does it, with a token where one may go.  Each hop of a redirect comes by here.

        What travels is a copy: the caller's request never holds a token, and neither does `response.request`.
        """
        if not isinstance(request, requests.PreparedRequest):
            return super().send(request, **kwargs)
        url = request.url or ""
        addressed: str | None = request.__dict__.get(_ADDRESSED)
        ours = self.auth is self._bearer and "Authorization" not in request.headers
        if addressed is None:  # nobody's hop: the caller's own request
            addressed = origin(url) if ours else _NOBODY
        token = None
        if self._may_carry(url, addressed):
            if ours:
                token = self.source.token()
            else:  # `Response.next`, which the caller signed, or wants unsigned
                addressed = _NOBODY
        if "proxies" not in kwargs:
            kwargs["proxies"] = self.resolved(request)
        # On this machine, and by no proxy that is elsewhere; also the token of another session's `auth`.
        if url[:5].lower() == "http:" and (
            token is not None or isinstance(request.headers.get("Authorization"), Secret)
        ):
            kwargs["proxies"] = staying_here(url, kwargs["proxies"])
        hop = _Hop(self, request, addressed, token)
        if isinstance(kwargs["proxies"], Direct):  # where requests has prepared the hop of a redirect for a proxy
            hop.travelling.headers.pop("Proxy-Authorization", None)
        try:
            return super().send(hop.travelling, **kwargs)
        except BaseException as error:
            forget(error)
            if getattr(error, "request", None) is hop.travelling:
                error.request = request  # type: ignore[attr-defined]  # of requests' own exceptions
            raise

    def _may_carry(self, url: str, addressed: str) -> bool:
        if addressed == _NOBODY:
            return False
        here = origin(url)
        if here != addressed and here not in self._origins:
            return False
        if secure(url):
            return True
        log.warning("no token is sent to %s: it is neither https nor on this machine", here)
        return False

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Keep in mind which origin the caller addressed: a redirect's is not one (HAZARDS 25).

        An answer that does not say (a hook has made another of it) leads to no origin at all.
        """
        addressed: str = response.__dict__.get(_ADDRESSED, _NOBODY)
        # The hop begins unsigned; what belongs on it is put on when it is sent.
        carries = self._may_carry(prepared_request.url or "", addressed)
        if carries or (addressed != _NOBODY and isinstance(prepared_request.headers.get("Authorization"), Secret)):
            take_off(prepared_request)  # or what .netrc says of where it comes from
        prepared_request.hooks = {**prepared_request.hooks, "response": _hooks(prepared_request)}
        prepared_request.__dict__[_ADDRESSED] = addressed
        if not carries:
            super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]  # requests'
            if "Authorization" not in prepared_request.headers:
                prepared_request.headers.pop("DPoP", None)

    def rebuild_proxies(
        self, prepared_request: requests.PreparedRequest, proxies: dict[str, str] | None
    ) -> dict[str, str]:
        """As requests does it, from all the proxies that there are."""
        whole = proxies.whole if isinstance(proxies, Direct) else proxies
        return super().rebuild_proxies(prepared_request, whole)

    # ── other processes ──────────────────────────────────────────────────────────────────────────────────

    def access_only(self) -> Session:
        """A session with the present access token and nothing else, to be sent to a worker by a pickle.

        For workers that must not hold a refresh token, or have no store to find one in.  It takes the access token
        along in the clear, which nothing else here does; send it by a way that may carry one.  It signs requests
        until the token ends, which is renewed first if it is near its end; then, and after a log-out at the provider,
        it raises `LoginRequired`, and needs a successor from here.  It neither signs in nor out.  A key to which the
        token is bound (RFC 9449) goes along, since the token is worth nothing without it.  Raises what
        `TokenSource.token` raises.
        """
        from .stores.handed import HandedStore

        token = self.source.token()
        if fresh_span(token, self.settings.policy)[1] <= time.time():
            with suppress(LoginonceError):  # what is left of it is better than nothing
                token = self.source.renew()
        grant = self.source.grant()
        assert grant is not None  # it has just brought a token
        state = self._state()
        state["settings"] = replace(_without_secrets(self.settings), backend={}, profile="", store="")
        state["_given_store"] = HandedStore(replace(grant, tokens=(token,)))
        other = type(self).__new__(type(self))
        other.__setstate__(state)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """The configuration, and what a `requests.Session` takes along; no token, client secret or private key.

        The store is opened anew where the session arrives; the client secret is looked up there again, and so is
        a key that is no file's, and the password of a store on a server.
        """
        state = self._state()
        state["settings"] = _without_secrets(self.settings)
        return state

    def __copy__(self) -> Session:
        """Another session of the same login, in this process."""
        other = type(self).__new__(type(self))
        other.__setstate__(self._state())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        memo[id(self)] = other = type(self).__new__(type(self))
        state = self._state()
        own = copy.deepcopy({name: state.pop(name) for name in self.__attrs__ if name in state}, memo)
        other.__setstate__({**state, **own})
        return other

    def _state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__attrs__}
        if state.get("auth") is self._bearer:
            del state["auth"]
        state["settings"] = self.settings
        state["_given_store"] = self._given_store
        state["_origins"] = self._origins
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild around the configuration."""
        made: Settings = state.pop("settings")
        store: TokenStore | None = state.pop("_given_store")
        origins: frozenset[str] = state.pop("_origins")
        secret = made.client_secret or made.private_key
        if not _handed(store) and (not secret or "://" in made.store):
            # By the same rule as anywhere: a secret in the environment counts for the client that it names there.
            with suppress(ConfigurationError):  # a profile that is not known here: the rest has come along
                here = settings(made.profile or made.issuer, **({} if made.profile else {"client_id": made.client_id}))
                if (here.issuer, here.client_id) == (made.issuer, made.client_id):
                    made = replace(
                        made,
                        client_secret=None if made.backend else made.client_secret or here.client_secret,
                        private_key="" if made.backend else made.private_key or here.private_key,
                        store=completed(made.store, here.store),
                        backend=here.backend or made.backend,
                    )
        self.__dict__.update(state)
        self._build(made, store, origins)
        if "auth" in state:
            self.auth = state["auth"]

    def _provider(self) -> Issuer:
        return provider_of(self.settings, self._route)

    def _route(self) -> Route:
        # Imported here: a program that finds a token speaks to no provider.
        from .transport import Route

        verify: Any = self.verify
        return Route(
            verify=os.fspath(verify) if isinstance(verify, str | os.PathLike) else None,
            cert=self.cert,
            proxies=dict(self.proxies or {}),  # requests takes None, too
            trust_env=self.trust_env,
        )


def _handed(store: TokenStore | None) -> bool:
    """Whether it is one that somebody handed out, and not a place where logins are kept."""
    if store is None:
        return False
    # Imported here: most sessions are given no store.
    from .stores.handed import HandedStore

    return isinstance(store, HandedStore)


def _without_secrets(made: Settings) -> Settings:
    return replace(made, client_secret=None, private_key=key_file(made.private_key), backend=made.portable_backend)


class _Hop:
    """One request on its way: what travels, and the hooks that see its answer first and last."""

    def __init__(
        self, session: Session, request: requests.PreparedRequest, addressed: str, token: TokenSet | None
    ) -> None:
        self._session = session
        self._request = request
        self._addressed = addressed
        self._token = token
        # A copy; body and cookies are the same objects.
        self.travelling = _twin(request)
        self.travelling.headers = request.headers.copy()
        self.travelling.hooks = {**request.hooks, "response": [self.answered, *_hooks(request), self.keep_in_mind]}
        if token is not None:
            put_on(self.travelling, token)

    def answered(self, response: requests.Response, **settings: Any) -> requests.Response | None:
        """Before all other hooks: they see the answer that counts."""
        session = self._session
        response.request = self._request
        if self._token is None:
            return None
        if self._token.dpop_key is not None:
            learn(self._token, response)
        if response.status_code not in WORTH_A_LOOK:
            return None
        extract_cookies_to_jar(session.cookies, self._request, response.raw)  # type: ignore[no-untyped-call]  # requests'
        try:
            return answer_401(
                session.source,
                self._token,
                response,
                lambda again: session.get_adapter(url=again.url or "").send(again, **settings),
            )
        except StepUpRequired as wanted:
            known = session.source.memory()
            wanted.epoch = known.epoch if known else 0
            raise

    def keep_in_mind(self, response: requests.Response, **_: Any) -> None:
        """After all other hooks, for the next hop."""
        response.__dict__[_ADDRESSED] = self._addressed


_Request = TypeVar("_Request", requests.Request, requests.PreparedRequest)


def _twin(request: _Request) -> _Request:
    """As `copy.copy`, without its search for how to."""
    twin = object.__new__(type(request))
    twin.__dict__.update(request.__dict__)
    return twin


def _hooks(request: requests.PreparedRequest) -> list[Any]:
    """The caller's hooks, without those of an earlier hop."""
    hooks: Any = request.hooks.get("response") or []
    hooks = [hooks] if callable(hooks) else hooks
    return [hook for hook in hooks if not isinstance(getattr(hook, "__self__", None), _Hop)]


def _signed_when_sent(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing yet; where there is none requests looks into .netrc."""
    return request


def _named(origins: Iterable[str]) -> frozenset[str]:
    """The origins of those addresses.  Raises `ConfigurationError` where one is none that may have a token."""
    if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
        raise ConfigurationError('origins has to be a list of addresses, such as ["https://files.example.org"]')
    return frozenset(map(_named_origin, origins))


def _named_origin(address: str) -> str:
    why = "is no address"
    with suppress(ValueError):  # requests' own among them
        # As requests sends them: a host name in letters of any script has another form there.
        url = requests.Request("GET", address).prepare().url or ""
        if secure(url):
            return origin(url)
        if web_address(url):
            why = "is neither https nor on this machine, and never gets a token"
    shown = str(address).rpartition("@")[2]  # without a name and a password
    raise ConfigurationError(f"{shown!r} of origins {why}: write it as https://files.example.org")


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    """A child must not speak on its parent's connections (HAZARDS 13)."""
    for session in list(_sessions):
        for adapter in session.adapters.values():
            if hasattr(adapter, "__setstate__"):  # the way by which a pickled adapter gets new connections
                adapter.__setstate__(adapter.__getstate__())


at_fork_in_child(_after_fork)
