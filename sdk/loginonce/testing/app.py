"""The WSGI application of a provider: its metadata, and the end points that only clients call."""

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request
from werkzeug.wrappers import Response as AnyResponse

from loginonce.testing.api import add_api
from loginonce.testing.backend import add_backend
from loginonce.testing.dpop import ProofError, refused
from loginonce.testing.grants import ADVERTISED_METHODS, AUTH_METHODS, GRANT_TYPES, Server
from loginonce.testing.pages import add_pages
from loginonce.testing.standards import add_standards, metadata

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]

_SCOPES = ["openid", "profile", "email", "offline_access", "admin"]


def create_app(provider: "FakeProvider") -> Flask:
    """Return the WSGI application of a provider."""
    app = Flask(__name__, static_folder=None)
    server = Server(app, provider)
    _add_metadata(app, provider)
    _add_client_endpoints(app, server)
    add_standards(app, server, AUTH_METHODS)
    add_pages(app, server)
    add_api(app, provider)
    add_backend(app, provider)
    app.after_request(lambda response: provider.proofs.supply(request, response))
    return app


def _add_metadata(app: Flask, provider: "FakeProvider") -> None:
    """Add two documents that tell different things, as with many providers: who reads both, knows all."""

    def common() -> Json:
        at = provider.issuer
        return {
            "issuer": at,
            "authorization_endpoint": f"{at}/authorize",
            "token_endpoint": f"{at}/token",
            "jwks_uri": f"{at}/jwks",
            "response_types_supported": ["code"],
            "scopes_supported": _SCOPES,
        }

    @app.before_request
    def is_published() -> AnyResponse | None:
        if provider.metadata or not request.path.startswith("/.well-known/"):
            return None
        provider.events.add("discovery", detail="not published")
        return Response("not found", 404)

    @app.get("/.well-known/openid-configuration")
    def openid_configuration() -> Json:
        provider.events.add("discovery", detail="openid-configuration")
        at = provider.issuer
        end_session = {} if provider.end_session == "absent" else {"end_session_endpoint": f"{at}/end_session"}
        return (
            common()
            | end_session
            | {
                "userinfo_endpoint": f"{at}/userinfo",
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [provider.id_token_alg],
                "claims_supported": ["sub", "name", "email", "preferred_username", "roles", "groups"],
                "prompt_values_supported": ["none", "login"],
            }
        )

    @app.get("/.well-known/oauth-authorization-server")
    def oauth_authorization_server() -> Json:
        provider.events.add("discovery", detail="oauth-authorization-server")
        at = provider.issuer
        document = common() | {
            "grant_types_supported": GRANT_TYPES,
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ADVERTISED_METHODS,
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "ES256", "HS256"],
        }
        document |= metadata(provider)
        if provider.device:
            document["device_authorization_endpoint"] = f"{at}/device_authorization"
        if provider.authorization_response_iss:
            document["authorization_response_iss_parameter_supported"] = True
        if provider.revocation != "absent":
            document["revocation_endpoint"] = f"{at}/revoke"
            document["revocation_endpoint_auth_methods_supported"] = ADVERTISED_METHODS
        if provider.dpop != "ignored":
            document["dpop_signing_alg_values_supported"] = ["ES256"]
        return document

    @app.get("/jwks")
    def jwks() -> Json:
        provider.events.add("jwks")
        return provider.keys.jwks()


def _add_client_endpoints(app: Flask, server: Server) -> None:
    """Add what only the client calls."""
    provider = server.provider

    @app.post("/token")
    def token() -> AnyResponse | tuple[Json, int]:
        g.jkt = None
        if provider.dpop == "required" or (provider.dpop == "accepted" and "DPoP" in request.headers):
            try:
                g.jkt = provider.proofs.judge(request, "server")
            except ProofError as error:
                return refused(error)
        response: AnyResponse = server.create_token_response()
        return response

    @app.post("/device_authorization")
    def device_authorization() -> AnyResponse:
        if not provider.device:
            return Response("not found", 404)
        response: AnyResponse = server.create_endpoint_response("device_authorization")
        return response

    @app.post("/revoke")
    def revoke() -> AnyResponse:
        if provider.revocation == "absent":
            return Response("not found", 404)
        response: AnyResponse = server.create_endpoint_response("revocation")
        return response
