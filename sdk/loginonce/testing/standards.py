"""What strict providers offer beyond the usual: pushed requests, introspection, registration, token exchange.

Each is off until a knob of `Behaviour` turns it on, and then in the metadata too.
"""

import json
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import BaseGrant, InvalidRequestError, TokenEndpointMixin
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from flask import Flask, Response, jsonify, request

from loginonce.testing.state import AccessToken, RefreshToken

if TYPE_CHECKING:
    from loginonce.testing.grants import Server
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]
Application = Callable[[Json, Any], Iterable[bytes]]

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]
    """RFC 8707 section 2."""

    error = "invalid_target"


def metadata(provider: "FakeProvider") -> Json:
    """Return the members of the metadata that the knobs add."""
    at, found = provider.issuer, dict[str, Any]()
    if provider.pushed_requests != "absent":
        found["pushed_authorization_request_endpoint"] = f"{at}/par"
    if provider.pushed_requests == "required":
        found["require_pushed_authorization_requests"] = True
    if provider.introspection != "absent":
        found["introspection_endpoint"] = f"{at}/introspect"
    if provider.registration != "absent":
        found["registration_endpoint"] = f"{at}/register"
    return found


def add_standards(app: Flask, server: "Server", auth_methods: list[str]) -> None:
    """Add the end points, and the grant."""
    provider = server.provider
    pushed = _Pushed(app.wsgi_app, provider)
    app.wsgi_app = pushed  # type: ignore[method-assign]  # Flask's way to put something in front
    _Introspection.CLIENT_AUTH_METHODS = auth_methods
    _ExchangeGrant.TOKEN_ENDPOINT_AUTH_METHODS = auth_methods
    server.register_endpoint(_Introspection)
    server.register_grant(_ExchangeGrant)

    @app.post("/par")
    def par() -> Any:
        if provider.pushed_requests == "absent":
            return Response("not found", 404)
        try:
            client = server.authenticate_client(server.create_oauth2_request(None), auth_methods, "par")
            if request.form.getlist("client_id") != [client.client_id] or "request_uri" in request.form:
                raise InvalidRequestError
        except OAuth2Error as error:
            return jsonify({"error": error.error}), 400
        provider.events.add("authorize", detail="pushed")
        answer = {"request_uri": pushed.keep(request.form), "expires_in": provider.pushed_expires_in}
        return jsonify(answer), 201

    @app.post("/introspect")
    def introspect() -> Any:
        provider.events.add("introspect", token=request.form.get("token"))
        if provider.introspection != "ok":
            return jsonify({"error": "invalid_client"}), 404 if provider.introspection == "absent" else 401
        return server.create_endpoint_response("introspection")

    @app.post("/register")
    def register() -> Any:
        return _register(provider, server)


class _Pushed:
    """In front of everything: a reference that the browser brings becomes the request that was pushed (RFC 9126)."""

    def __init__(self, app: Application, provider: "FakeProvider") -> None:
        self._app = app
        self._provider = provider
        self._kept: dict[str, tuple[float, list[tuple[str, str]]]] = {}

    def keep(self, form: Any) -> str:
        """Keep a request, and return its reference."""
        name = f"urn:ietf:params:oauth:request_uri:{secrets.token_urlsafe(24)}"
        ends = self._provider.now() + self._provider.pushed_expires_in
        self._kept[name] = ends, list(form.items(multi=True))
        return name

    def __call__(self, environ: Json, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        if environ["PATH_INFO"] == "/authorize":
            query = parse_qs(environ.get("QUERY_STRING", ""))
            name = query.get("request_uri", [""])[0]
            ends, parameters = self._kept.get(name, (0.0, []))
            wanted = dict(parameters).get("client_id")
            good = self._provider.now() < ends and query.get("client_id") == [wanted]
            if (name and not good) or (not name and self._provider.pushed_requests == "required"):
                start_response("400 Bad Request", [("Content-Type", "text/plain")])
                return [b"invalid_request: this request was not pushed, or too long ago"]
            if name:
                # The reference stays in it, since the page's form is sent back to the same address.
                environ = {**environ, "QUERY_STRING": urlencode([*parameters, ("request_uri", name)])}
        return self._app(environ, start_response)


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    def query_token(self, token_string: str, token_type_hint: str | None) -> AccessToken | RefreshToken | None:  # noqa: ARG002 - the hint is only a hint
        found: AccessToken | RefreshToken | None = self.server.provider.state.find(token_string)
        return found

    def check_permission(self, token: Any, client: Any, request: Any) -> bool:  # noqa: ARG002 - Authlib's signature
        return bool(token.family.client_id == client.client_id)

    def create_introspection_payload(self, token: AccessToken | RefreshToken | None) -> Json:
        provider: FakeProvider = self.server.provider
        if token is None or not provider.state.alive(token, provider.now()):
            return {"active": False}
        if isinstance(token, RefreshToken) and not provider.introspects_refresh_tokens:
            return {"active": False}
        return {
            "active": True,
            "client_id": token.family.client_id,
            "sub": token.family.subject,
            "iss": provider.issuer,
        }


class _ExchangeGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]
    """RFC 8693, of one's own access token."""

    GRANT_TYPE = EXCHANGE

    def validate_token_request(self) -> None:
        provider: FakeProvider = self.server.provider
        self.request.client = self.authenticate_token_endpoint_client()
        form = request.form
        if form.get("subject_token_type") != ACCESS_TOKEN:
            raise InvalidRequestError
        subject = provider.state.live_access_token(form.get("subject_token", ""), provider.now())
        if subject is None:
            error = InvalidRequestError()
            error.error = provider.exchange_refusal
            raise error
        self.subject = subject
        audience = form.get("audience") or form.get("resource")
        if not audience or audience not in provider.exchange_audiences:
            raise InvalidTargetError

    def create_token_response(self) -> tuple[int, Json, list[tuple[str, str]]]:
        provider: FakeProvider = self.server.provider
        form, subject = request.form, self.subject
        tokens = provider.state.derive(
            subject, form.get("scope") or subject.scope, form.get("audience") or form.get("resource"), provider.now()
        )
        answer = provider.token_answer(tokens) | {"issued_token_type": form.get("requested_token_type") or ACCESS_TOKEN}
        return 200, answer, self.TOKEN_RESPONSE_HEADER


def _register(provider: "FakeProvider", server: "Server") -> Any:
    """RFC 7591 section 3; the client is remembered until the provider is thrown away."""
    provider.events.add("register")
    needed = provider.registration
    presented = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if needed == "absent":
        return Response("not found", 404)
    if needed not in ("open", presented):
        return jsonify({"error": "invalid_token"}), 401
    wanted = json.loads(request.get_data())
    if not wanted.get("redirect_uris") or wanted.get("application_type") != "native":
        return jsonify({"error": "invalid_redirect_uri"}), 400
    secret = None if wanted.get("token_endpoint_auth_method") == "none" else secrets.token_urlsafe(24)
    client_id = server.admit(secret)
    answer = wanted | {
        "client_id": client_id,
        "registration_access_token": f"rat_{secrets.token_urlsafe(24)}",
        "registration_client_uri": f"{provider.issuer}/register/{client_id}",
    }
    if secret is not None:
        answer |= {"client_secret": secret, "client_secret_expires_at": 0}
    return jsonify(answer), 201
