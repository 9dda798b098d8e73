"""What we say to a provider: one method for each grant type, for revocation and for what it says of itself.

Nothing here knows of logins that are kept, or of locks.  `refresh` never raises: what came of it is a `Reply`
for the state machine.  Every other method raises `TransportError`, `ProtocolError`, `ErrorResponse` or
`ConfigurationError`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

from . import authentication, dpop, idtoken, metadata, wire
from .address import origin, secure
from .authentication import SigningKey
from .claims import shallow
from .errors import ConfigurationError, ErrorResponse, LoginonceError, ProtocolError, TransportError
from .exchange import ExchangedToken, exchange_form, judge_exchange
from .introspection import judge_introspection, judge_userinfo
from .log import log
from .model import AuthorizationServer, Client, Grant, Secret, TokenSet, fingerprint, scope_set
from .providers import ANY, Dialect
from .pushed import Pushed, judge_pushed
from .stores.file import read_private, write_private
from .transport import AnswerLost, NeverSent, Transport
from .value import Value, field, replace

__all__ = ["Discovery", "Issuer", "LoggedOut", "Provider"]

BUDGET = 20.0
"""Seconds for any one request that is not a refresh."""

ASKING = 60.0
"""Seconds for which metadata that are too old are good for the others, while one process asks anew."""


class Issuer(Protocol):
    """Whoever issues the tokens of a login: `Provider`, or a `backend.Backend` that knows no OAuth.

    What a login needs of it once somebody is signed in, and to sign in by a password; the other ways to sign in are a
    `Provider`'s own.
    """

    client: Client
    dpop: bool
    """Whether its tokens are to be bound to a key (RFC 9449)."""

    @property
    def server(self) -> AuthorizationServer:
        """What is known of it, in the words of RFC 8414."""

    def informed(self) -> bool:
        """Whether all that `refresh` needs is at hand, so that nobody has to be asked for it first."""

    def prepare(self, budget: float = BUDGET) -> wire.Reply | None:
        """Learn what `refresh` needs; a `Reply` says why it could not be.  `budget`: seconds for all of it."""

    def refresh(self, grant: Grant, *, resource: str, for_scope: str, budget: float) -> wire.Reply:
        """Spend this record's refresh token.  Once; never raises."""

    def password(self, username: str, password: str, *, scope: str, resource: str = "") -> wire.TokenAnswer:
        """A person's tokens for their name and password."""

    def identify(
        self, answer: wire.TokenAnswer, *, nonce: str | None = None, at: float | None = None
    ) -> dict[str, Any]:
        """Who signed in, in the names of OpenID's claims; {} where it does not say."""

    def revoke(self, token: Secret, hint: str) -> bool:
        """Revoke a token; whether it says that it is gone.  Never raises."""

    def introspect(self, token: Secret, hint: str) -> bool | None:
        """Whether it says that a token is active; None where it does not say.  Never raises."""

    def knows(self, token: TokenSet, subject: str) -> bool | None:
        """Whether that person's access token is good there; None where it does not say.  Never raises."""

    def end_session_url(self, **parameters: str | None) -> str:
        """Where a browser ends its own session; "" if nowhere."""

    def dpop_key(self) -> Secret | None:
        """The key to which a login that begins here is to be bound; None where it is not to be."""


class Discovery(Value):
    """Where to learn about a provider: its documents, what is known better (`overrides`), and a folder to keep
    the documents in for `max_age` seconds (None: keep them in memory only).  `dialect`: what is known of it anyway.
    """

    issuer: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    folder: Path | None = None
    max_age: float = 86400.0
    dialect: Dialect = ANY


class _Time:
    """What is left of a budget, by both clocks: one stands still while the machine sleeps, the other may be set."""

    def __init__(self, budget: float) -> None:
        self._ends = time.monotonic() + budget, time.time() + budget

    def left(self) -> float:
        """Seconds.  Raises `NeverSent` where there are none: whoever held us up may take us for dead (HAZARDS 12)."""
        seconds = min(self._ends[0] - time.monotonic(), self._ends[1] - time.time())
        if seconds <= 0:
            raise NeverSent("its time was over before it was sent")
        return seconds


class LoggedOut(NamedTuple):
    """What a log-out achieved: whether the provider says the login is revoked, and where a browser would end
    the provider's own session ("" where it names no such place).
    """

    revoked: bool
    end_session_url: str


class Provider:
    """One provider, addressed as one client."""

    def __init__(
        self, discovery: Discovery, client: Client, transport: Transport | None = None, *, dpop: bool = False
    ) -> None:
        self.client = client
        self.dpop = dpop
        self._discovery = discovery
        self._transport = transport or Transport()
        self._server: AuthorizationServer | None = None
        self._doubted = False
        self._signing: tuple[object, SigningKey] | None = None
        self._dpop_nonces: dict[str, str] = {}  # by origin; each process learns its own

    def __repr__(self) -> str:
        return f"Provider({self._discovery.issuer!r}, client_id={self.client.client_id!r})"

    # ── what it says of itself ───────────────────────────────────────────────────────────────────────────

    @property
    def dialect(self) -> Dialect:
        """Its way of speaking."""
        return self._discovery.dialect

    @property
    def server(self) -> AuthorizationServer:
        """The provider's metadata: from memory, from the folder, or asked for now."""
        return self._learnt(BUDGET)

    def _learnt(self, budget: float) -> AuthorizationServer:
        server = self._at_hand()
        if server is None:
            server = self._server = self._read(self._asked_or_kept(budget))
            self._doubted = False
        return server

    def _at_hand(self) -> AuthorizationServer | None:
        if self._server is None:
            documents: list[dict[str, Any]] = []
            if self.dialect.discovered:
                documents = [] if self._doubted else self._kept(self._discovery.max_age)
                if not documents:
                    self._claim()
                    return None
            self._server = self._read(documents)
        return self._server

    def _claim(self) -> None:
        """What is kept is too old: we ask anew, and for a while the others go on with it as it is.

        No safety hangs on it: at worst two ask, and what has moved shows at the token end point.
        """
        self._doubted = True  # by us, who would find it young again
        path = self._path()
        if path is not None:
            age = self._discovery.max_age
            then = time.time() - age + min(ASKING, age / 2)
            with suppress(OSError):
                if os.stat(path).st_mtime < then:
                    os.utime(path, (then, then))

    def informed(self) -> bool:
        """Whether its metadata are known: they are in memory or in the folder, or it has none."""
        try:
            return self._at_hand() is not None
        except LoginonceError:  # `prepare` says what is wrong with them
            return False

    def _read(self, documents: list[dict[str, Any]]) -> AuthorizationServer:
        issuer = self._discovery.issuer
        # Last, so that they fill up what the documents leave out.
        usual = {"issuer": issuer, **self.dialect.end_points(issuer)}
        named = [usual] if self.dialect.server else []
        return metadata.read_metadata(issuer, [*documents, *named], self._discovery.overrides)

    def forget_server(self) -> None:
        """Ask again next time: an end point turned out not to be there."""
        self._server = None
        self._doubted = True

    def _asked_or_kept(self, budget: float) -> list[dict[str, Any]]:
        try:
            return self._asked(budget)
        except (TransportError, ProtocolError, ConfigurationError) as error:
            kept = self._kept(float("inf"))
            if not kept:
                raise
            if not isinstance(error, TransportError):  # a person may have to hear of it
                log.warning("%s  What it said before goes on being used", error)
            return kept  # no reason to know less than before, however long ago

    def _path(self) -> Path | None:
        if self._discovery.folder is None:
            return None
        digest = hashlib.sha256(self._discovery.issuer.encode()).hexdigest()[:24]
        return self._discovery.folder / f"{digest}.json"

    def _kept(self, max_age: float) -> list[dict[str, Any]]:
        path = self._path()
        if path is None:
            return []
        try:
            # As private as a login: who could write here could have our refresh tokens sent elsewhere.
            found = read_private(str(path))
            if found is None:
                return []
            age = time.time() - found[1].st_mtime
            if max_age != float("inf") and not 0 <= age < max_age:
                return []
            documents = json.loads(found[0])
            metadata.read_metadata(self._discovery.issuer, documents, {})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, LoginonceError):
            return []
        return list(documents)

    def _asked(self, budget: float) -> list[dict[str, Any]]:
        issuer = self._discovery.issuer
        if not secure(issuer):
            raise ConfigurationError(
                f"{issuer!r} cannot be an issuer: it has to be an https address (or http on this machine), and "
                "a profile of that name does not exist"
            )
        documents: list[dict[str, Any]] = []
        unreachable: TransportError | None = None
        oddity = ""
        for url in metadata.metadata_urls(issuer):
            try:
                answer = self._transport.get(url, budget=budget / 2)  # there are two of them
            except TransportError as error:
                unreachable = error
                continue
            if answer.status >= 500 or answer.status in (408, 429):
                pause = wire.read_retry_after(answer.headers, time.time())
                unreachable = TransportError(f"{url} answered with HTTP {answer.status}", retry_after=pause)
            elif answer.status == 200:
                try:
                    document = json.loads(answer.body)
                except (ValueError, RecursionError):
                    document = None
                if isinstance(document, dict) and shallow(document):
                    documents.append(document)
                else:
                    oddity = f"{url} answered with something else than a JSON object"
            elif 300 <= answer.status < 400:
                to = answer.headers.get("location", "")
                oddity = f"{url} redirects to {to[:200] if secure(to) else '?'}: use that as the issuer"
        if documents:
            self._read(documents)
            if unreachable is not None:  # half of it must not pass for the whole
                return self._kept(float("inf")) or documents
            self._keep(documents)
        elif not {**self.dialect.server, **self._discovery.overrides}.get("token_endpoint"):
            if unreachable is not None:
                raise TransportError(f"{issuer} cannot be reached: {unreachable}", retry_after=unreachable.retry_after)
            raise ProtocolError(
                (oddity or f"{issuer} publishes no OpenID or OAuth metadata")
                + ".  Check the issuer address, or name its end points: Session(…, server={'token_endpoint': …})"
            )
        return documents

    def _keep(self, documents: list[dict[str, Any]]) -> None:
        if path := self._path():
            with suppress(OSError):
                write_private(str(path), json.dumps(documents).encode())

    def _endpoint(self, name: str, purpose: str) -> str:
        url: str = getattr(self.server, name)
        if authentication.by_certificate(self.client, self.server):
            url = self.server.mtls_endpoint_aliases.get(name, url)  # RFC 8705 §5
        if not url:
            raise ConfigurationError(
                f"{self.server.issuer} names no {name}, which {purpose} needs: choose another way, or give the "
                f"address: Session(…, server={{'{name}': …}})"
            )
        return url

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, budget: float = BUDGET) -> wire.Reply | None:
        """Learn what `refresh` needs, so that it has nothing else to ask; a `Reply` says why it could not be.

        A key or a certificate that is of no use shows here, before anything is spent.  `budget`: seconds for all of it.
        """
        try:
            self._learnt(budget)
            self._endpoint("token_endpoint", "renewing a login")
            self._authenticated([])
        except TransportError as error:
            if error.retry_after is None:
                return wire.Unsent(str(error))
            return wire.Busy(str(error), min(error.retry_after, ASKING))  # for all, who may know enough already
        except LoginonceError as error:
            return wire.Misconfigured("", str(error))
        return None

    def refresh(self, grant: Grant, *, resource: str, for_scope: str, budget: float) -> wire.Reply:
        """Spend this record's refresh token, or ask as the service that we are.  Once; never raises."""
        until = _Time(budget)
        if (unprepared := self.prepare()) is not None:
            return unprepared
        named = self.dialect.resource(resource)
        if grant.renewal == "client_credentials":
            form = wire.token_form("client_credentials", scope=for_scope or grant.scope, **named)
        else:
            form = wire.token_form("refresh_token", refresh_token=grant.refresh_token, scope=for_scope, **named)
        try:
            answer = self._post("token_endpoint", form, "renewing a login", key=grant.dpop_key, until=until)
        except NeverSent as error:
            self.forget_server()  # its end point may have moved
            return wire.Unsent(str(error))
        except AnswerLost as error:
            return wire.Lost(str(error))
        except LoginonceError as error:
            return wire.Misconfigured("", str(error))
        reply = wire.judge_refresh(answer, time.time(), self.dialect)
        if isinstance(reply, wire.Misconfigured) and answer.status in (404, 405, 410):
            self.forget_server()
        return reply

    # `resource` is the API that the access token is for (RFC 8707 §2.2), one of those the login was asked for.

    def authorization_code(
        self, code: str, *, redirect_uri: str, code_verifier: str, resource: str = ""
    ) -> wire.TokenAnswer:
        """Exchange a code (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
        return self._token(
            "authorization_code",
            code=code,
            redirect_uri=redirect_uri,
            code_verifier=code_verifier,
            **self.dialect.resource(resource),
        )

    def device_token(self, device_code: str, *, resource: str = "", code_verifier: str = "") -> wire.TokenAnswer:
        """Ask once whether the person has agreed (RFC 8628 §3.4); not yet is an `ErrorResponse`."""
        return self._token(
            wire.DEVICE_CODE_GRANT_TYPE,
            device_code=device_code,
            code_verifier=code_verifier,
            **self.dialect.resource(resource),
        )

    def client_credentials(self, *, scope: str, resource: str = "") -> wire.TokenAnswer:
        """A service's own token (RFC 6749 §4.4)."""
        return self._token("client_credentials", scope=scope, **self.dialect.resource(resource))

    def password(self, username: str, password: str, *, scope: str, resource: str = "") -> wire.TokenAnswer:
        """A person's tokens for their password (RFC 6749 §4.3), for servers that offer nothing better."""
        named = self.dialect.resource(resource)
        return self._token("password", username=username, password=password, scope=scope, **named)

    def exchange(self, subject: TokenSet, **wanted: str) -> ExchangedToken:
        """Another token for one's access token; `wanted` are the names of `exchange_form` (RFC 8693)."""
        form, key = exchange_form(subject.access_token, **wanted), subject.dpop_key
        asked_at = time.time()
        answer = self._post("token_endpoint", form, "exchanging a token", key=key)
        asked = {name: wanted.get(name, "") for name in ("scope", "resource")}
        return judge_exchange(answer, asked_at, **asked, dpop_key=key, dialect=self.dialect)

    def _token(self, grant_type: str, **parameters: str) -> wire.TokenAnswer:
        """The tokens for a grant, bound to a key where they are to be (RFC 9449 §5)."""
        key = self.dpop_key()
        form = wire.token_form(grant_type, **parameters)
        answer = wire.judge_token(self._post("token_endpoint", form, "signing in", key=key), self.dialect)
        if key is not None and answer.token_type != "DPoP":
            # RFC 9449 §5: whoever asked for it on purpose does without the rest.
            if answer.refresh_token is not None:
                self.revoke(answer.refresh_token, "refresh_token")
            raise ProtocolError(
                f"{self._discovery.issuer} was asked for a token that is bound to a key (DPoP), and issued one of the "
                f"type {answer.token_type!r}, which is not used.  Have DPoP enabled for this client there, or do "
                "without it here"
            )
        return replace(answer, dpop_key=key)

    def _post(
        self, endpoint: str, form: wire.Form, purpose: str, *, key: Secret | None = None, until: _Time | None = None
    ) -> wire.Answer:
        """The answer to a form in which we say who we are, and with `key` prove whose the tokens will be.

        Where the server wants its nonce in the proof, the request is sent once more with that (RFC 9449 §8).  For a
        refresh this is one send of the machine all the same.  Such an answer refuses the proof, before the grant is
        looked at: nothing was spent, as with any other error that is ours.  The second request begins after the first
        has been answered, under the same lock and marker, and has what is left of the same budget, so it is over by the
        marker's deadline.  Whatever becomes of the second is what became of the send; there is no third.
        """
        url, until = self._endpoint(endpoint, purpose), until or _Time(BUDGET)

        def post(proof: Mapping[str, str]) -> wire.Answer:
            headers, whole = self._authenticated(form)  # anew each time: an assertion is good for one request
            return self._transport.post(url, whole, {**headers, **proof}, budget=until.left())

        return self._proving("POST", url, post, key)

    def _authenticated(self, form: wire.Form) -> tuple[dict[str, str], wire.Form]:
        self._check_certificate()
        headers, whole = authentication.authenticate(
            self.client,
            self.server,
            form,
            key=self._signing_key(),
            now=time.time(),
            jti=secrets.token_urlsafe(16),
        )
        return headers, list(dict.fromkeys(whole))  # a pushed request names its client by itself, too

    def _signing_key(self) -> SigningKey | None:
        """The client's private key, read again when its file has changed."""
        given = self.client.private_key
        if not given:
            return None
        where = "the private key that was given" if isinstance(given, Secret) else given
        try:
            state = None if isinstance(given, Secret) else os.stat(given)
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino) if state else fingerprint(given)
            if self._signing is None or self._signing[0] != stamp:
                text = given if isinstance(given, Secret) else Secret(Path(given).read_text("utf-8"))
                if state and os.name == "posix" and state.st_mode & 0o077:
                    log.warning("%s holds a private key and is open to other users.  Run: chmod 600 '%s'", given, given)
                self._signing = stamp, authentication.read_key(text, where)
            return self._signing[1]
        except UnicodeDecodeError:
            reason = "it is not text"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{where} cannot be read as a private key: {reason}")

    def _check_certificate(self) -> None:
        """That the client's certificate and key can be used: found out later, it would look like a network failure."""
        if not self.client.certificate:
            return

        def no_passphrase() -> str:
            raise ValueError("its key has a passphrase")

        try:
            pair = dict(zip(("certfile", "keyfile"), self.client.certificate, strict=False))
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(**pair, password=no_passphrase)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = error.strerror if isinstance(error, OSError) else str(error)
        else:
            return
        raise ConfigurationError(f"{' with '.join(self.client.certificate)} cannot be used as a certificate: {reason}")

    # ── proofs of possession ─────────────────────────────────────────────────────────────────────────────

    def dpop_key(self) -> Secret | None:
        """The key to which a login that begins here is to be bound, always the same; None where it is not to be."""
        if not self.dpop:
            return None
        if "_made" not in self.__dict__:
            from joserfc.jwk import ECKey

            made = Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))
            self.__dict__.setdefault("_made", made)  # another thread's, if that was quicker
        key: Secret = self.__dict__["_made"]
        return key

    def _proving(
        self,
        method: str,
        url: str,
        send: Callable[[Mapping[str, str]], wire.Answer],
        key: Secret | None,
        access_token: str = "",
    ) -> wire.Answer:
        """What `send` brings, with a proof among its headers; a second time where the nonce was not the right one."""
        if key is None:
            return send({})

        def proven() -> wire.Answer:
            nonce, jti = self._dpop_nonces.get(origin(url), ""), secrets.token_urlsafe(16)
            proof = dpop.proof(key, method, url, now=time.time(), jti=jti, access_token=access_token, nonce=nonce)
            answer = send({"DPoP": proof})
            if given := dpop.given_nonce(answer.headers):
                self._dpop_nonces[origin(url)] = given
            return answer

        answer = proven()
        return proven() if dpop.asks_for_nonce(answer) else answer

    def device_authorization(self, *, scope: str, resource: str = "", **parameters: str) -> wire.DeviceAuthorization:
        """Begin a device sign-in (RFC 8628 §3.1); `resource` may be several, separated by spaces."""
        named = self.dialect.resource_parameter
        form = [("scope", scope), *((named, each) for each in resource.split()), *parameters.items()]
        form = [(name, value) for name, value in form if name and value]
        answer = self._post("device_authorization_endpoint", form, "signing in with a device code")
        return wire.judge_device_authorization(answer, self.dialect)

    def push(self, **parameters: str) -> Pushed | None:
        """Leave an authorization request with the provider (RFC 9126), where it, or our settings, want that.

        None where the request goes by the browser, as ever; so it does, and a warning tells, where the provider has no
        place for it.
        """
        server = self.server
        if not server.require_pushed_authorization_requests:
            return None
        if not server.pushed_authorization_request_endpoint:
            log.warning(
                "%s is to get authorization requests pushed (RFC 9126), and names no place for them: this one goes by "
                "the browser",
                server.issuer,
            )
            return None
        form = [("response_type", "code"), ("client_id", self.client.client_id), *self._parameters(**parameters)]
        answer = self._post("pushed_authorization_request_endpoint", form, "signing in with a browser")
        if answer.status in (404, 405, 501):
            log.warning(
                "%s takes no pushed authorization requests (HTTP %d): this one goes by the browser",
                server.issuer,
                answer.status,
            )
            return None
        return judge_pushed(answer)

    def _parameters(self, *, scope: str = "", resource: str = "", prompt: str = "", **parameters: str) -> wire.Form:
        """The parameters of an authorization request, with what this provider wants besides; `resource` as above."""
        usual, named = self.dialect.authorization(scope_set(scope)), self.dialect.resource_parameter
        prompts = " ".join(dict.fromkeys(f"{prompt} {usual.get('prompt', '')}".split()))
        asked = [*{**usual, "scope": scope, **parameters, "prompt": prompts}.items()]
        asked += [(named, each) for each in resource.split()]
        if (key := self.dpop_key()) is not None:
            asked.append(("dpop_jkt", dpop.thumbprint(key)))  # RFC 9449 §10: the code is bound to it, too
        return [(name, value) for name, value in asked if name and value]

    def authorization_url(self, *, request_uri: str = "", **parameters: str) -> str:
        """Where the browser has to go (RFC 6749 §4.1.1); `request_uri` stands for what was pushed."""
        # Imported here: importing loginonce must not cost what importing authlib does.
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri

        self._authenticated([])  # a key that is of no use shows before a person is asked
        url: str = prepare_grant_uri(
            self._endpoint("authorization_endpoint", "signing in with a browser"), self.client.client_id, "code"
        )
        asked = [("request_uri", request_uri)] if request_uri else self._parameters(**parameters)
        return f"{url}&{urlencode(asked)}"

    # ── who ──────────────────────────────────────────────────────────────────────────────────────────────

    def identify(
        self, answer: wire.TokenAnswer, *, nonce: str | None = None, at: float | None = None
    ) -> dict[str, Any]:
        """Who signed in: the claims of the ID token, checked, filled up from userinfo; {} without OpenID.

        `at`: the time (POSIX seconds) at which it has to be valid, if not now.
        Raises `ProtocolError` where the ID token does not stand up to its checks.
        """
        claims: dict[str, Any] = {}
        if answer.id_token is not None:
            claims = self._id_token(answer.id_token, answer.access_token, nonce, time.time() if at is None else at)
        worthwhile = claims or self.dialect.claims or "openid" in answer.scope.split()
        if self.server.userinfo_endpoint and "name" not in claims and worthwhile:
            with suppress(LoginonceError):  # it adds a name at best; a sign-in does not fail for it
                said = self.userinfo(answer.access_token, answer.dpop_key)
                if not claims or said.get("sub") == claims.get("sub"):  # OIDC Core §5.3.2
                    claims = {**said, **claims}
        return claims

    def _id_token(self, id_token: Secret, access_token: str, nonce: str | None, at: float) -> dict[str, Any]:
        try:
            return self._validated(id_token, access_token, nonce, at)
        except idtoken.UnknownKey:
            time.sleep(1.0)  # the keys may have been rotated a moment ago: asked for once more
            return self._validated(id_token, access_token, nonce, at)

    def _validated(self, id_token: Secret, access_token: str, nonce: str | None, at: float) -> dict[str, Any]:
        return idtoken.validate(
            id_token,
            self._jwks(),
            issuer=self.server.issuer,
            client_id=self.client.client_id,
            access_token=access_token,
            nonce=nonce,
            now=at,
            algorithms=self.server.id_token_signing_alg_values_supported,
        )

    def _jwks(self) -> dict[str, Any]:
        url = self._endpoint("jwks_uri", "checking an ID token")
        return self._json(self._transport.get(url, budget=BUDGET), "its signing keys")

    def userinfo(self, access_token: str, dpop_key: Secret | None = None) -> dict[str, Any]:
        """What the provider says of the person (OIDC Core §5.3); `dpop_key` is what the token is bound to, if it is."""
        return self.dialect.identity(self._json(self._userinfo(access_token, dpop_key), "who is signed in"))

    def _userinfo(self, access_token: str, dpop_key: Secret | None) -> wire.Answer:
        url = self._endpoint("userinfo_endpoint", "asking who is signed in")
        headers = {"Authorization": Secret(f"{'DPoP' if dpop_key else 'Bearer'} {access_token}")}

        def get(proof: Mapping[str, str]) -> wire.Answer:
            return self._transport.get(url, {**headers, **proof}, budget=BUDGET)

        return self._proving("GET", url, get, dpop_key, access_token)

    def _json(self, answer: wire.Answer, what: str) -> dict[str, Any]:
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError):
            content = None
        if answer.status != 200 or not isinstance(content, dict) or not shallow(content):
            raise ProtocolError(f"{self.server.issuer} did not say {what}: HTTP {answer.status}")
        return content

    # ── whether it is alive ──────────────────────────────────────────────────────────────────────────────

    def introspect(self, token: Secret, hint: str) -> bool | None:
        """Whether the provider says that a token is active (RFC 7662); None where it does not say.  Never raises.

        `hint`: `refresh_token` or `access_token`.
        """
        with suppress(LoginonceError):
            if self.server.introspection_endpoint:
                form = [("token", token), ("token_type_hint", hint)]
                return judge_introspection(self._post("introspection_endpoint", [*form], "asking about a token"))
        return None

    def knows(self, token: TokenSet, subject: str) -> bool | None:
        """Whether that person's access token is good at userinfo; None where it does not say.  Never raises."""
        with suppress(LoginonceError):
            if self.server.userinfo_endpoint:
                answer = self._userinfo(token.access_token, token.dpop_key)
                return judge_userinfo(answer, subject, member=self.dialect.claims.get("sub", "sub"))
        return None

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────

    def revoke(self, token: Secret, hint: str) -> bool:
        """Revoke a token (RFC 7009); whether the provider says it is gone.  Never raises.

        `hint`: `refresh_token` or `access_token`.
        """
        try:
            if not self.server.revocation_endpoint:
                return False
            form = [("token", token), ("token_type_hint", hint)]
            answer = self._post("revocation_endpoint", [*form], "revoking a token")
            if answer.status == 200:
                return True
            raise wire.error_response(answer, "revocation was refused", self.dialect)
        except (LoginonceError, ErrorResponse) as error:
            log.warning("a %s of %s could not be revoked: %s", hint, self._discovery.issuer, error)
            return False

    def end_session_url(self, **parameters: str | None) -> str:
        """Where a browser ends the provider's own session (OpenID RP-Initiated Logout §2); "" if nowhere.

        No ID token goes into it: an address is written to histories and logs.
        """
        redirect_uri = next(iter(self.client.redirect_uris), self.dialect.redirect_uri)
        usual = self.dialect.ending(client_id=self.client.client_id, redirect_uri=redirect_uri)
        with suppress(LoginonceError):
            if usual is not None and (url := self.server.end_session_endpoint):
                query = {**usual, **{k: v for k, v in parameters.items() if v}}
                return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
        return ""
