"""The fake provider: one object that is started, logged in to, broken, and asked what it saw."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qs, urlencode

from loginonce.testing import browser
from loginonce.testing.app import create_app
from loginonce.testing.backend import token_sent
from loginonce.testing.behaviour import Behaviour
from loginonce.testing.dpop import Proofs
from loginonce.testing.events import Event, EventLog, Stats
from loginonce.testing.faults import Answer, Delivery, Fault, Faults
from loginonce.testing.grants import CONFIDENTIAL_CLIENT, PUBLIC_CLIENT, Client
from loginonce.testing.idtoken import Keys, at_hash, break_signature
from loginonce.testing.state import State, Tokens
from loginonce.testing.wire import Environ, Server, run_app

Json = dict[str, Any]

ID_TOKEN_LIFETIME = 300
_NO_FAULT = Fault()
_PLACES = {
    "/token": "token",
    "/device_authorization": "device",
    "/.well-known/openid-configuration": "discovery",
    "/.well-known/oauth-authorization-server": "discovery",
    "/jwks": "jwks",
    "/authorize": "authorize",
    "/revoke": "revocation",
    "/auth/login": "login",
    "/auth/logout": "revocation",
    "/userinfo": "userinfo",
}


def _people() -> dict[str, str]:
    return {"ada": "lovelace", "grace": "hopper"}


def _people_claims() -> dict[str, Json]:
    return {
        "ada": {
            "name": "Ada Lovelace",
            "preferred_username": "ada",
            "email": "ada@example.org",
            "roles": ["researcher"],
            "groups": ["/lab", "/lab/engines"],
        },
        "grace": {
            "name": "Grace Hopper",
            "preferred_username": "grace",
            "email": "grace@example.org",
            "roles": ["researcher", "admin"],
            "groups": ["/lab"],
        },
    }


@dataclass(kw_only=True, eq=False, repr=False)
class FakeProvider(Behaviour):
    """An authorization server and a protected API on http://127.0.0.1.

    Takes every attribute of `Behaviour` as a keyword, and:

    Attributes:
        port: The port to listen on; 0 picks a free one. It stays the same when the provider is stopped and
            started again, and so does everything it remembers: that is how an outage looks.
        users: The passwords of the people, by user name.
        claims: What ID tokens and /userinfo say of them, by user name.
        tamper_id_token: Changes claims and header of each ID token before it is signed. The header may ask
            for `alg` "none", or "HS256" signed with the public key.
        tamper_signature: Break the signature of each ID token.
        json_answer: Changes what the plain JSON back end at `backend` answers with.

    A context manager; entering starts it. End points of the API, below `api("/")`: /redirect?to=URL&status=,
    /scope (403 without the scope admin), /stepup (401 without the acr urn:example:mfa, RFC 9470), /never (401
    even for a live token), /open (needs no token, tells whether an Authorization header came), anything else needs
    a live access token and describes the request.
    """

    port: int = 0
    users: dict[str, str] = field(default_factory=_people)
    claims: dict[str, Json] = field(default_factory=_people_claims)
    tamper_id_token: Callable[[Json, Json], tuple[Json, Json]] | None = None
    tamper_signature: bool = False
    json_answer: Callable[[Json], Json] | None = None

    def __post_init__(self) -> None:
        """Prepare everything but the socket."""
        self.public_client_id = PUBLIC_CLIENT
        self.confidential_client = CONFIDENTIAL_CLIENT
        self.faults = Faults()
        self.events = EventLog()
        self.state = State(self)
        self.keys = Keys(self)
        self.proofs = Proofs(self)
        self.clients: dict[str, Client] = {}
        self._advanced = 0.0
        self._server: Server | None = None
        self._app = create_app(self)

    # Running.

    def start(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        if self._server is None:
            self._server = Server(self.port, self._exchange, self.stamp)
            self.port = self._server.port
        return self

    def stop(self) -> None:
        """Stop listening and close every connection; waiting faults end at once."""
        server, self._server = self._server, None
        if server:
            server.stop()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def issuer(self) -> str:
        """The issuer identifier. Raises RuntimeError before the first start, when it has no port yet."""
        if not self.port:
            msg = "the provider has no address before it is started"
            raise RuntimeError(msg)
        return f"http://127.0.0.1:{self.port}"

    def api(self, path: str) -> str:
        """Return the address of a path of the API: `api("/runs")`."""
        return f"{self.issuer}/api/{path.lstrip('/')}"

    @property
    def backend(self) -> Json:
        """How the JSON back end below `issuer` speaks, which lets the same people in: `Session(…, backend=…)`."""
        return {"login": "/auth/login", "refresh": "/auth/refresh", "logout": "/auth/logout"}

    # What it saw.

    @property
    def log(self) -> list[Event]:
        """What happened so far, oldest first; a copy."""
        return self.events.snapshot()

    @property
    def stats(self) -> Stats:
        """The numbers so far; a copy."""
        return self.events.stats()

    def reset_stats(self) -> None:
        """Start the log and the numbers anew."""
        self.events.reset()

    # The scripted human.

    def approve(self, url_or_user_code: str, user: str = "ada") -> str:
        """Sign in as `user` and allow what an authorization URL, or a device's user code, asks for.

        Like a person with a fresh browser: opens the page, submits its form, follows redirects to loopback
        addresses. Returns the address at which the browser ends: for an authorization URL the redirect URI
        with `code` and `state`, whether or not anyone listens there.

        Raises PageRefusedError when the provider shows an error page, KeyError for an unknown user.
        """
        page = self._page(url_or_user_code)
        return browser.submit(page, decision="approve", username=user, password=self.users[user])

    def deny(self, url_or_user_code: str) -> str:
        """Refuse what an authorization URL, or a device's user code, asks for; otherwise like `approve`."""
        return browser.submit(self._page(url_or_user_code), decision="deny")

    def _page(self, url_or_user_code: str) -> str:
        if url_or_user_code.startswith("http"):
            return url_or_user_code
        return f"{self.issuer}/device?user_code={url_or_user_code}"

    # The administrator, and time.

    def end_sessions(self, user: str | None = None) -> None:
        """Log `user` (None: everyone) out: refresh tokens are refused, access tokens dead."""
        self.state.end_sessions(user)

    def revoke_access_tokens(self) -> None:
        """Silently end every access token issued so far; refresh tokens stay good."""
        self.state.revoke_access_tokens()

    def rotate_keys(self) -> None:
        """Sign with a new key, under a new `kid`; the old one stays in the JWKS."""
        self.keys.rotate()

    def renew_dpop_nonces(self) -> None:
        """Want other nonces in proofs from now on."""
        self.proofs.renew_nonces()

    def add_client(self, client_id: str, *, public_key: Json | None = None, secret: str | None = None) -> None:
        """Register a client that authenticates by assertions: signed with the key of which this is the public half
        (a JWK; private_key_jwt), or with its secret (client_secret_jwt).
        """
        self.clients[client_id] = Client(self, client_id, secret, public_key, assertion=True)

    def advance(self, seconds: float) -> None:
        """Let time pass for lifetimes, grace periods and poll intervals, without waiting."""
        self._advanced += seconds

    def issue(
        self,
        user: str | None = "ada",
        client_id: str | None = None,
        scope: str = "openid offline_access",
        jkt: str | None = None,
    ) -> Json:
        """Return a token answer without any flow, as if `user` (None: the client itself) had just logged in.

        `client_id` None stands for the public client; `jkt` is the thumbprint of the key to bind the tokens to.
        """
        client = client_id or self.public_client_id
        granted = scope if self.issue_scope is None else self.issue_scope
        tokens = self.state.open_family(
            client_id=client,
            user=user,
            scope=granted,
            resource=None,
            refreshable=user is not None,
            now=self.now(),
            jkt=jkt,
        )
        answer = self.token_answer(tokens)
        self.complete_answer(answer, client_id=client, user=user)
        return answer

    # For the end points.

    def now(self) -> float:
        """Return the time by which lifetimes are counted, in seconds."""
        return time.time() + self._advanced

    def stamp(self) -> float:
        """Return the time the provider tells others, in POSIX seconds."""
        return time.time() + self.clock_skew

    def password_fits(self, user: str, password: str) -> bool:
        """Whether this is the password of that user."""
        return user in self.users and self.users[user] == password

    def token_answer(self, tokens: Tokens) -> Json:
        """Return the members of a token answer that every grant has (RFC 6749 section 5.1)."""
        lie = self.lie_expires_in
        answer: Json = {
            "access_token": tokens.access_token,
            "token_type": "DPoP" if tokens.bound else "Bearer",
            "expires_in": tokens.expires_in if lie is None else lie,
            "scope": tokens.scope,
        }
        if tokens.refresh_token:
            answer["refresh_token"] = tokens.refresh_token
            if self.refresh_expires_in_member:
                answer[self.refresh_expires_in_member] = int(self.refresh_token_lifetime or 0)
        return answer

    def complete_answer(
        self,
        answer: Json,
        *,
        client_id: str,
        user: str | None,
        nonce: str | None = None,
        auth_time: float | None = None,
        acr: str | None = None,
    ) -> None:
        """Add the ID token when `openid` was granted to a person, and take out what should be missing."""
        if user and "openid" in answer["scope"].split():
            answer["id_token"] = self._id_token(answer["access_token"], client_id, user, nonce, auth_time, acr)
        for member in self.omit:
            answer.pop(member, None)

    def _id_token(
        self, access_token: str, client_id: str, user: str, nonce: str | None, auth_time: float | None, acr: str | None
    ) -> str:
        now = int(self.stamp())
        claims: Json = {
            "iss": self.issuer,
            "sub": user,
            "aud": client_id,
            "azp": client_id,
            "exp": now + ID_TOKEN_LIFETIME,
            "iat": now,
            "at_hash": at_hash(access_token),
            **self.claims.get(user, {}),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if auth_time is not None:
            claims["auth_time"] = int(auth_time)
        if acr:
            claims["acr"] = acr
        header: Json = {"alg": self.id_token_alg, "kid": self.keys.kid}
        if self.tamper_id_token:
            claims, header = self.tamper_id_token(claims, header)
        token = self.keys.sign(claims, header)
        return break_signature(token) if self.tamper_signature else token

    # The exchange of one request and its answer.

    def _exchange(self, environ: Environ, body: bytes) -> tuple[Answer, Delivery, float]:
        path = environ["PATH_INFO"] = self.paths.get(environ["PATH_INFO"], environ["PATH_INFO"])
        place = "api" if path.startswith("/api/") else _PLACES.get(path, "")
        if path == "/auth/refresh":
            with self.events.token_request("refresh_token", token_sent(body)):
                return self._process(environ, {"token", "refresh"}, latency=self.latency)
        if place != "token":
            return self._process(environ, {place}, latency=0.0)
        form = parse_qs(body.decode(errors="replace"))
        grant_type = form.get("grant_type", [None])[0]
        refresh_token = form.get("refresh_token", [None])[0]
        places = {"token", "refresh"} if grant_type == "refresh_token" else {"token"}
        with self.events.token_request(grant_type, refresh_token):
            return self._process(environ, places, latency=self.latency)

    def _process(self, environ: Environ, places: set[str], *, latency: float) -> tuple[Answer, Delivery, float]:
        fault = self.faults.take(places) or _NO_FAULT
        self._pause(latency / 2 + fault.wait_before)
        answer = run_app(self._app, environ) if fault.process else Answer(HTTPStatus.NO_CONTENT)
        if "token" in places:
            answer = self._in_its_manner(answer, environ.get("HTTP_ACCEPT", ""))
        self._pause(fault.wait_after + latency / 2)
        return fault.instead or answer, fault.delivery, fault.drip_seconds

    def _in_its_manner(self, answer: Answer, accept: str) -> Answer:
        if answer.status == HTTPStatus.BAD_REQUEST:
            answer = replace(answer, status=self.error_status)
        if self.form_encoded and "application/json" not in accept:
            form = urlencode(json.loads(answer.body or b"{}")).encode()
            answer = replace(answer, headers=(("Content-Type", "application/x-www-form-urlencoded"),), body=form)
        return answer

    def _pause(self, seconds: float) -> None:
        server = self._server
        if server:
            server.pause(seconds)
