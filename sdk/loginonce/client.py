"""What we say to a provider: one method for each grant type, for revocation and for what it says of itself.

Nothing here knows of logins that are kept, or of locks.  `refresh` never raises: what came of it is a `Reply`
for the state machine.  Every other method raises `TransportError`, `ProtocolError`, `ErrorResponse` or
`ConfigurationError`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from . import idtoken, metadata, wire
from .address import secure
from .errors import ConfigurationError, ErrorResponse, LoginonceError, ProtocolError, TransportError
from .model import AuthorizationServer, Client, Grant, Secret
from .stores.file import read_private, write_private
from .transport import AnswerLost, NeverSent, Transport
from .value import Value, field

__all__ = ["Discovery", "LoggedOut", "Provider"]

log = logging.getLogger("loginonce")

BUDGET = 20.0
"""Seconds for any one request that is not a refresh."""


class Discovery(Value):
    """Where to learn about a provider: its documents, what is known better (`overrides`), and a folder to keep
    the documents in for `max_age` seconds (None: keep them in memory only).
    """

    issuer: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    folder: Path | None = None
    max_age: float = 86400.0


class LoggedOut(NamedTuple):
    """What a log-out achieved: whether the provider says the login is revoked, and where a browser would end
    the provider's own session ("" where it names no such place).
    """

    revoked: bool
    end_session_url: str


class Provider:
    """One provider, addressed as one client."""

    def __init__(self, discovery: Discovery, client: Client, transport: Transport | None = None) -> None:
        self.client = client
        self._discovery = discovery
        self._transport = transport or Transport()
        self._server: AuthorizationServer | None = None
        self._doubted = False

    def __repr__(self) -> str:
        return f"Provider({self._discovery.issuer!r}, client_id={self.client.client_id!r})"

    # ── what it says of itself ───────────────────────────────────────────────────────────────────────────

    @property
    def server(self) -> AuthorizationServer:
        """The provider's metadata: from memory, from the folder, or asked for now."""
        return self._learnt(BUDGET)

    def _learnt(self, budget: float) -> AuthorizationServer:
        if self._server is None:
            documents = (not self._doubted and self._kept(self._discovery.max_age)) or self._asked_or_kept(budget)
            self._doubted = False
            self._server = metadata.read_metadata(self._discovery.issuer, documents, self._discovery.overrides)
        return self._server

    def forget_server(self) -> None:
        """Ask again next time: an end point turned out not to be there."""
        self._server = None
        self._doubted = True

    def _asked_or_kept(self, budget: float) -> list[dict[str, Any]]:
        try:
            return self._asked(budget)
        except TransportError:
            if kept := self._kept(float("inf")):
                return kept  # nobody is there to ask: no reason to know less than before, however long ago
            raise

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
            if found is None or not 0 <= time.time() - found[1].st_mtime < max_age:
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
        whole, oddity = True, ""
        for url in metadata.metadata_urls(issuer):
            try:
                answer = self._transport.get(url, budget=budget / 2)  # there are two of them
            except TransportError as error:
                unreachable = error
                continue
            whole = whole and answer.status < 500 and answer.status not in (408, 429)
            if answer.status == 200:
                try:
                    document = json.loads(answer.body)
                except (ValueError, RecursionError):
                    document = None
                if isinstance(document, dict) and idtoken.shallow(document):
                    documents.append(document)
                else:
                    oddity = f"{url} answered with something else than a JSON object"
            elif 300 <= answer.status < 400:
                to = answer.headers.get("location", "")
                oddity = f"{url} redirects to {to[:200] if secure(to) else '?'}: use that as the issuer"
        if documents:
            metadata.read_metadata(issuer, documents, self._discovery.overrides)
            if whole and unreachable is None:  # else half of it would pass for the whole for a day
                self._keep(documents)
        elif not self._discovery.overrides.get("token_endpoint"):
            if unreachable is not None:
                raise TransportError(f"{issuer} cannot be reached: {unreachable}")
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
        if not url:
            raise ConfigurationError(
                f"{self.server.issuer} names no {name}, which {purpose} needs: choose another way, or give the "
                f"address: Session(…, server={{'{name}': …}})"
            )
        return url

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, budget: float = BUDGET) -> wire.Reply | None:
        """Learn what `refresh` needs, so that it has nothing else to ask; a `Reply` says why it could not be.

        `budget`: seconds for all of it.
        """
        try:
            self._learnt(budget)
            self._endpoint("token_endpoint", "renewing a login")
        except TransportError as error:
            return wire.Unsent(str(error))
        except LoginonceError as error:
            return wire.Misconfigured("", str(error))
        return None

    def refresh(self, grant: Grant, *, resource: str, for_scope: str, budget: float) -> wire.Reply:
        """Spend this record's refresh token, or ask as the service that we are.  Once; never raises."""
        until = time.monotonic() + budget
        if (unprepared := self.prepare()) is not None:
            return unprepared
        if grant.renewal == "client_credentials":
            form = wire.token_form("client_credentials", scope=for_scope or grant.scope, resource=resource)
        else:
            form = wire.token_form(
                "refresh_token", refresh_token=grant.refresh_token, scope=for_scope, resource=resource
            )
        try:
            headers, form = wire.authenticate(self.client, self.server, form)
            if (left := until - time.monotonic()) <= 0:
                # A process that was stopped up to here may be taken for dead by now (HAZARDS 12).
                return wire.Unsent("its time was over before it was sent")
            answer = self._transport.post(self.server.token_endpoint, form, headers, budget=left)
        except NeverSent as error:
            self.forget_server()  # its end point may have moved
            return wire.Unsent(str(error))
        except AnswerLost as error:
            return wire.Lost(str(error))
        except LoginonceError as error:
            return wire.Misconfigured("", str(error))
        reply = wire.judge_refresh(answer, time.time())
        if isinstance(reply, wire.Misconfigured) and answer.status in (404, 405, 410):
            self.forget_server()
        return reply

    def authorization_code(self, code: str, *, redirect_uri: str, code_verifier: str) -> wire.TokenAnswer:
        """Exchange a code (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
        return self._token("authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=code_verifier)

    def device_token(self, device_code: str) -> wire.TokenAnswer:
        """Ask once whether the person has agreed (RFC 8628 §3.4); not yet is an `ErrorResponse`."""
        return self._token(wire.DEVICE_CODE_GRANT_TYPE, device_code=device_code)

    def client_credentials(self, *, scope: str, resource: str = "") -> wire.TokenAnswer:
        """A service's own token (RFC 6749 §4.4)."""
        return self._token("client_credentials", scope=scope, resource=resource)

    def password(self, username: str, password: str, *, scope: str) -> wire.TokenAnswer:
        """A person's tokens for their password (RFC 6749 §4.3), for servers that offer nothing better."""
        return self._token("password", username=username, password=password, scope=scope)

    def _token(self, grant_type: str, **parameters: str) -> wire.TokenAnswer:
        return wire.judge_token(self._post("token_endpoint", wire.token_form(grant_type, **parameters), "signing in"))

    def _post(self, endpoint: str, form: wire.Form, purpose: str) -> wire.Answer:
        headers, form = wire.authenticate(self.client, self.server, form)
        return self._transport.post(self._endpoint(endpoint, purpose), form, headers, budget=BUDGET)

    def device_authorization(self, *, scope: str, resource: str = "") -> wire.DeviceAuthorization:
        """Begin a device sign-in (RFC 8628 §3.1)."""
        form = [(name, value) for name, value in (("scope", scope), ("resource", resource)) if value]
        return wire.judge_device_authorization(
            self._post("device_authorization_endpoint", form, "signing in with a device code")
        )

    def authorization_url(self, **parameters: str | None) -> str:
        """Where the browser has to go (RFC 6749 §4.1.1)."""
        # Imported here: importing loginonce must not cost what importing authlib does.
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri

        url: str = prepare_grant_uri(
            self._endpoint("authorization_endpoint", "signing in with a browser"),
            self.client.client_id,
            "code",
            **{name: value for name, value in parameters.items() if value},
        )
        return url

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
        if self.server.userinfo_endpoint and "name" not in claims and (claims or "openid" in answer.scope.split()):
            with suppress(LoginonceError):  # it adds a name at best; a sign-in does not fail for it
                said = self.userinfo(answer.access_token)
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

    def userinfo(self, access_token: str) -> dict[str, Any]:
        """What the provider says of the person (OIDC Core §5.3)."""
        url = self._endpoint("userinfo_endpoint", "asking who is signed in")
        headers = {"Authorization": Secret(f"Bearer {access_token}")}
        return self._json(self._transport.get(url, headers, budget=BUDGET), "who is signed in")

    def _json(self, answer: wire.Answer, what: str) -> dict[str, Any]:
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError):
            content = None
        if answer.status != 200 or not isinstance(content, dict) or not idtoken.shallow(content):
            raise ProtocolError(f"{self.server.issuer} did not say {what}: HTTP {answer.status}")
        return content

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
            raise wire.error_response(answer, "revocation was refused")
        except (LoginonceError, ErrorResponse) as error:
            log.warning("a %s of %s could not be revoked: %s", hint, self._discovery.issuer, error)
            return False

    def end_session_url(self, **parameters: str | None) -> str:
        """Where a browser ends the provider's own session (OpenID RP-Initiated Logout §2); "" if nowhere.

        No ID token goes into it: an address is written to histories and logs.
        """
        with suppress(LoginonceError):
            if url := self.server.end_session_endpoint:
                query = {"client_id": self.client.client_id, **{k: v for k, v in parameters.items() if v}}
                return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
        return ""
