"""Authlib's server side, tied to this provider's memory.

Authlib judges the messages (client authentication, PKCE, redirect URIs, scopes, the device grant,
revocation); `state` decides what a token is worth. The classes below only connect the two, so each is small,
and named after what it completes. The `_Bound…` classes are records of `state` in the words Authlib asks for.
"""

import math
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc6749 import grants as rfc6749
from authlib.oauth2.rfc6749.errors import (
    AccessDeniedError,
    InvalidClientError,
    InvalidScopeError,
    UnsupportedTokenTypeError,
)
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import (
    DEVICE_CODE_GRANT_TYPE,
    AuthorizationPendingError,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    ExpiredTokenError,
    SlowDownError,
)
from authlib.oauth2.rfc9207 import IssuerParameter
from flask import Flask, g, request
from joserfc.jwk import Key, OctKey, import_key

from loginonce.testing.standards import EXCHANGE, InvalidTargetError
from loginonce.testing.state import (
    CODE_LIFETIME,
    DEFAULT_DEVICE_INTERVAL,
    AccessToken,
    AuthorizationCode,
    DeviceCode,
    RefreshToken,
    RefusedError,
    new_user_code,
)

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]
# Authlib has no types, hence the `type: ignore[misc]` at each class. These names say at least what is meant.
OAuth2Request = Any
Grant = Any

PUBLIC_CLIENT = "notebook"
CONFIDENTIAL_CLIENT = ("service", "service-secret")
ADVERTISED_METHODS = ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"]
#: Authlib has one name for both kinds of assertions.
ASSERTION = JWTBearerClientAssertion.CLIENT_AUTH_METHOD
AUTH_METHODS = [ASSERTION, "client_secret_basic", "client_secret_post", "none"]
GRANT_TYPES = [
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "password",
    DEVICE_CODE_GRANT_TYPE,
]


# Clients.


class Client(ClientMixin):  # type: ignore[misc]
    """A registered client, in the words Authlib asks for."""

    def __init__(
        self,
        provider: "FakeProvider",
        client_id: str,
        secret: str | None,
        public_key: Json | None = None,
        *,
        assertion: bool = False,
    ) -> None:
        self.client_id = client_id
        self.public = secret is None and public_key is None
        self._provider = provider
        self._secret = secret
        self._public_key = public_key
        self._assertion = assertion

    def assertion_key(self) -> Key:
        """What its assertions are checked with; of a public client none is good."""
        if self._public_key:
            return import_key(self._public_key)
        return OctKey.import_key(self._secret or secrets.token_urlsafe())

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        granted = self._provider.issue_scope
        return (scope or "") if granted is None else granted

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        allowed = self._provider.redirect_uris
        if redirect_uri in allowed:
            return True
        return self._provider.loopback_any_port and any(
            _same_but_for_port(redirect_uri, registered, self._provider.loopback_hosts) for registered in allowed
        )

    def check_client_secret(self, client_secret: str) -> bool:
        return self._secret is not None and secrets.compare_digest(self._secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - Authlib's signature
        if self._assertion:
            return bool(method == ASSERTION)
        return method in AUTH_METHODS[1:] and (method == "none") == self.public

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        allowed = {"authorization_code", "refresh_token", DEVICE_CODE_GRANT_TYPE, EXCHANGE}
        if not self.public:
            allowed |= {"client_credentials", "password"}
        return grant_type in allowed


def _same_but_for_port(uri: str, registered: str, hosts: Collection[str]) -> bool:
    """RFC 8252 section 7.3: loopback means the address literals, unless a provider counts `localhost` too."""
    given, wanted = urlsplit(uri), urlsplit(registered)
    return (
        wanted.hostname in hosts
        and (given.scheme, given.hostname) == (wanted.scheme, wanted.hostname)
        and (given.path or "/", given.query, given.fragment) == (wanted.path or "/", wanted.query, "")
    )


class _Assertions(JWTBearerClientAssertion):  # type: ignore[misc]
    """Clients that sign for themselves (RFC 7523 section 2.2), judged with nothing allowed to the clock."""

    def __init__(self, provider: "FakeProvider") -> None:
        super().__init__(leeway=0)
        self._provider = provider

    def get_audiences(self) -> list[str]:
        at = self._provider.issuer
        return [at if self._provider.assertion_audience == "issuer" else f"{at}/token"]

    def validate_jti(self, claims: Json, jti: str) -> bool:
        return self._provider.state.first_time(f"{claims['sub']} {jti}")

    def resolve_client_public_key(self, client: Client) -> Key:
        return client.assertion_key()


# The grants.


class _CodeGrant(rfc6749.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def save_authorization_code(self, code: str, oauth_request: OAuth2Request) -> None:
        provider: FakeProvider = self.server.provider
        data = oauth_request.payload.data
        provider.state.add_code(
            AuthorizationCode(
                value=code,
                client_id=oauth_request.client.client_id,
                user=oauth_request.user,
                scope=oauth_request.scope,
                redirect_uri=oauth_request.payload.redirect_uri,
                nonce=data.get("nonce"),
                auth_time=provider.stamp(),
                code_challenge=data.get("code_challenge"),
                code_challenge_method=data.get("code_challenge_method"),
                resources=tuple(request.args.getlist("resource")),
                acr=request.args.get("acr_values", "").partition(" ")[0] if provider.acr else None,
                expires_at=provider.now() + CODE_LIFETIME,
                resource=data.get(provider.resource_parameter),
                offline=all(data.get(name) == value for name, value in provider.offline_parameters.items()),
                dpop_jkt=data.get("dpop_jkt"),
            )
        )

    def query_authorization_code(self, code: str, client: Client) -> "_BoundCode | None":
        provider: FakeProvider = self.server.provider
        found = provider.state.find_code(code, client.client_id, provider.now())
        return _BoundCode(found) if found else None

    def authenticate_user(self, bound: "_BoundCode") -> str | None:
        # The first thing Authlib asks once everything is in order, so here the code is spent for good.
        provider: FakeProvider = self.server.provider
        if bound.code.dpop_jkt and bound.code.dpop_jkt != g.jkt:
            msg = "the code is bound to another key"
            raise InvalidGrantError(msg)  # RFC 9449 section 10
        return bound.code.user if provider.state.spend_code(bound.code) else None

    def save_token(self, token: Json) -> None:
        # What was made with the code ends when the code comes a second time.
        provider: FakeProvider = self.server.provider
        made = provider.state.find(token["access_token"])
        code: AuthorizationCode = self.request.authorization_code.code
        code.family = made.family if made else None
        if code.family is not None:
            code.family.resources, code.family.acr = code.resources, code.acr

    def delete_authorization_code(self, bound: "_BoundCode") -> None:
        """Spent in `authenticate_user`."""


class _BoundCode:
    """An authorization code in the words Authlib asks for."""

    def __init__(self, code: AuthorizationCode) -> None:
        self.code = code
        self.code_challenge = code.code_challenge
        self.code_challenge_method = code.code_challenge_method

    def get_redirect_uri(self) -> str | None:
        return self.code.redirect_uri

    def get_scope(self) -> str:
        return self.code.scope


class _S256Only(CodeChallenge):  # type: ignore[misc]
    """PKCE, required of public clients already when they ask for authorization (RFC 9700 section 2.1.1)."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Grant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        public = grant.request.client.check_endpoint_auth_method("none", "token")
        if data.get("code_challenge_method") != "S256" and (public or data.get("code_challenge")):
            msg = "code_challenge_method must be S256"
            raise InvalidRequestError(msg)
        super().validate_code_challenge(grant, redirect_uri)


class _PasswordGrant(rfc6749.ResourceOwnerPasswordCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_user(self, username: str, password: str) -> str:
        provider: FakeProvider = self.server.provider
        if not provider.password_fits(username, password):
            msg = "wrong username or password"
            raise InvalidGrantError(msg)  # RFC 6749 section 5.2; Authlib would say invalid_request
        return username


class _ClientCredentialsGrant(rfc6749.ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS


class _DeviceGrant(DeviceCodeGrant):  # type: ignore[misc]
    def query_device_credential(self, device_code: str) -> "_BoundDeviceCode | None":
        provider: FakeProvider = self.server.provider
        found = provider.state.find_device_code(device_code)
        return _BoundDeviceCode(found) if found else None

    def validate_device_credential(self, bound: "_BoundDeviceCode") -> str:
        provider: FakeProvider = self.server.provider
        match provider.state.poll(bound.code, provider.now()):
            case "approved":
                return bound.code.user or ""
            case "denied":
                raise AccessDeniedError
            case "pending":
                raise AuthorizationPendingError
            case "slow_down":
                raise SlowDownError
            case "expired":
                raise ExpiredTokenError
            case "unknown":
                raise InvalidGrantError


class _BoundDeviceCode:
    """A device code in the words Authlib asks for."""

    def __init__(self, code: DeviceCode) -> None:
        self.code = code

    def get_client_id(self) -> str:
        return self.code.client_id

    def get_scope(self) -> str:
        return self.code.scope


class _RefreshGrant(rfc6749.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_refresh_token(self, refresh_token: str) -> "_BoundRefreshToken":
        # Only looks up whose it is, for Authlib's check of the scope. Whether it is good is decided in
        # `issue_token`, in the same step that spends it.
        provider: FakeProvider = self.server.provider
        found = provider.state.find_refresh_token(refresh_token)
        if found is None or found.family.client_id != self.request.client.client_id:
            raise self._refused(refresh_token, RefusedError("unknown"))
        return _BoundRefreshToken(found)

    def authenticate_user(self, bound: "_BoundRefreshToken") -> str:
        return bound.token.family.subject

    def issue_token(self, user: str, bound: "_BoundRefreshToken") -> Json:
        provider: FakeProvider = self.server.provider
        value = bound.token.value
        try:
            tokens = provider.state.redeem(
                value,
                client_id=self.request.client.client_id,
                scope=self.request.payload.scope,
                resource=request.form.get(provider.resource_parameter),
                now=provider.now(),
                jkt=g.jkt,
            )
        except RefusedError as error:
            if error.reason == "invalid_target":
                raise InvalidTargetError from error
            raise self._refused(value, error) from error
        provider.events.add("refresh", grant_type=self.GRANT_TYPE, token=value, user=user)
        if tokens.reused:
            provider.events.add("reuse", grant_type=self.GRANT_TYPE, token=value, user=user)
        return provider.token_answer(tokens)

    def revoke_old_credential(self, bound: "_BoundRefreshToken") -> None:
        """Spent in `issue_token`."""

    def _refused(self, value: str, error: RefusedError) -> OAuth2Error:
        provider: FakeProvider = self.server.provider
        seen: Json = {
            "grant_type": self.GRANT_TYPE,
            "token": value,
            "user": error.user,
            "detail": error.reason,
        }
        if error.replay:
            provider.events.add("replay", **seen)
        provider.events.add("refused", **seen)
        return _RefusedRefreshError(provider.refusal)


class _BoundRefreshToken:
    """A refresh token in the words Authlib asks for."""

    def __init__(self, token: RefreshToken) -> None:
        self.token = token

    def check_client(self, client: Client) -> bool:
        return self.token.family.client_id == client.client_id

    def get_scope(self) -> str:
        return self.token.family.scope


class _RefusedRefreshError(OAuth2Error):  # type: ignore[misc]
    """A refused refresh, in the provider's own manner. Each says the same whatever the reason is."""

    def __init__(self, manner: str) -> None:
        super().__init__(error="invalid_grant")
        self._manner = manner

    def __call__(self, uri: str | None = None) -> tuple[int, Any, list[tuple[str, str]]]:
        match self._manner:
            case "github":
                self.status_code, self.error = 200, "bad_refresh_token"
            case "invalid_request":
                self.error = "invalid_request"
            case "supabase":
                told = {"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid Refresh Token"}
                return 400, told, [("Content-Type", "application/json")]
            case "empty_400":
                return 400, "", []
        answer: tuple[int, Any, list[tuple[str, str]]] = super().__call__(uri)
        return answer


class _AddIDToken:
    """A grant extension that completes each token answer: ID token in, members left out."""

    def __call__(self, grant: Grant) -> None:
        grant.register_hook("after_create_token_response", self._complete)

    def _complete(self, grant: Grant, response: tuple[int, Json, Any]) -> None:
        _, answer, _ = response
        code: AuthorizationCode | None = None
        if grant.request.authorization_code:
            code = grant.request.authorization_code.code
        grant.server.provider.complete_answer(
            answer,
            client_id=grant.request.client.client_id,
            user=grant.request.user if grant.GRANT_TYPE != "client_credentials" else None,
            nonce=code.nonce if code else None,
            auth_time=code.auth_time if code else None,
            acr=code.acr if code else None,
        )


# The other end points.


class _DeviceEndpoint(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    def create_endpoint_response(self, oauth_request: OAuth2Request) -> tuple[int, Json, Any]:
        behaviour: FakeProvider = self.server.provider
        self.EXPIRES_IN = behaviour.device_expires_in
        status, answer, headers = super().create_endpoint_response(oauth_request)
        answer[behaviour.device_uri_member] = answer.pop("verification_uri")
        answer["interval"] = behaviour.device_interval
        if behaviour.device_interval is None:
            del answer["interval"]
        return status, answer, headers

    def generate_user_code(self) -> str:
        return new_user_code()

    def get_verification_uri(self) -> str:
        return f"{self.server.provider.issuer}/device"

    def save_device_credential(self, client_id: str, scope: str | None, data: Json) -> None:
        provider: FakeProvider = self.server.provider
        interval = provider.device_interval
        granted, patience = provider.issue_scope, provider.approves_after
        provider.state.add_device_code(
            DeviceCode(
                value=data["device_code"],
                user_code=data["user_code"],
                client_id=client_id,
                scope=(scope or "") if granted is None else granted,
                expires_at=provider.now() + data["expires_in"],
                interval=DEFAULT_DEVICE_INTERVAL if interval is None else interval,
                approves_at=math.inf if patience is None else provider.now() + patience,
                approver=next(iter(provider.users), ""),
            )
        )
        provider.events.add("device", detail="requested")


class _RevocationEndpoint(RevocationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = AUTH_METHODS

    def authenticate_endpoint_client(self, oauth_request: OAuth2Request) -> Client:
        client: Client = super().authenticate_endpoint_client(oauth_request)
        if self.server.provider.revocation == "refuse":
            if client.check_endpoint_auth_method("none", "revocation"):
                raise InvalidClientError
            error = UnsupportedTokenTypeError()
            error.status_code = 400  # Authlib says 401; RFC 7009 section 2.2.1 follows RFC 6749 section 5.2
            raise error
        return client

    def query_token(self, token_string: str, token_type_hint: str | None) -> "_BoundToken | None":  # noqa: ARG002
        # The hint is only a hint: RFC 7009 section 2.1 has the server look at the other kind too.
        found = self.server.provider.state.find(token_string)
        return _BoundToken(found) if found else None

    def revoke_token(self, bound: "_BoundToken", oauth_request: OAuth2Request) -> None:  # noqa: ARG002 - Authlib's signature
        provider: FakeProvider = self.server.provider
        token = bound.token
        provider.state.revoke(token)
        kind = "access_token" if isinstance(token, AccessToken) else "refresh_token"
        provider.events.add("revoked", token=token.value, user=token.family.user, detail=kind)


class _BoundToken:
    """A token of either kind in the words Authlib asks for."""

    def __init__(self, token: AccessToken | RefreshToken) -> None:
        self.token = token

    def check_client(self, client: Client) -> bool:
        return self.token.family.client_id == client.client_id


class _Issuer(IssuerParameter):  # type: ignore[misc]
    def __init__(self, provider: "FakeProvider") -> None:
        self._provider = provider

    def get_issuer(self) -> str | None:
        return self._provider.issuer if self._provider.authorization_response_iss else None


class Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server, which hands the provider to the grants."""

    def __init__(self, app: Flask, provider: "FakeProvider") -> None:
        self.provider = provider
        provider.clients |= {
            PUBLIC_CLIENT: Client(provider, PUBLIC_CLIENT, None),
            CONFIDENTIAL_CLIENT[0]: Client(provider, *CONFIDENTIAL_CLIENT),
        }
        super().__init__(app, provider.clients.get, lambda _token, _request: None)
        self.register_client_auth_method(ASSERTION, _Assertions(provider))
        self.register_token_generator("default", self._open_family)
        complete = _AddIDToken()
        self.register_grant(_CodeGrant, [_S256Only(), complete])
        for grant in (_PasswordGrant, _ClientCredentialsGrant, _DeviceGrant, _RefreshGrant):
            self.register_grant(grant, [complete])
        self.register_endpoint(_DeviceEndpoint)
        self.register_endpoint(_RevocationEndpoint)
        self.issuer = _Issuer(provider)
        self.issuer(self)

    def admit(self, secret: str | None) -> str:
        """Take one more client, and return its id (RFC 7591)."""
        client_id = f"client-{secrets.token_hex(4)}"
        self.provider.clients[client_id] = Client(self.provider, client_id, secret)
        return client_id

    def validate_requested_scope(self, scope: str | None) -> None:
        """Refuse scopes that this provider does not know."""
        if set((scope or "").split()) & set(self.provider.refused_scopes):
            raise InvalidScopeError
        super().validate_requested_scope(scope)

    def _open_family(
        self,
        *,
        grant_type: str,
        client: Client,
        user: str | None,
        scope: str | None,
        expires_in: int | None,  # noqa: ARG002 - Authlib's signature
        include_refresh_token: bool,
    ) -> Json:
        asked = self.provider.state.asked_with(request.form.get("code"))
        refreshable = include_refresh_token and grant_type != "client_credentials" and (asked is None or asked.offline)
        tokens = self.provider.state.open_family(
            client_id=client.client_id,
            user=user,
            scope=client.get_allowed_scope(scope),
            resource=request.form.get(self.provider.resource_parameter) or (asked.resource if asked else None),
            refreshable=refreshable,
            now=self.provider.now(),
            jkt=g.jkt,
            public=client.public,
        )
        return self.provider.token_answer(tokens)
