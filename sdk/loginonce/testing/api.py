"""The protected API, and /userinfo, which is one too."""

import hashlib
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, json, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from loginonce.testing.dpop import ProofError
from loginonce.testing.state import AccessToken

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_NOT_VALID = "The access token is expired, revoked or unknown"


def add_api(app: Flask, provider: "FakeProvider") -> None:
    """Add the API to the application."""
    api = _API(provider)
    app.add_url_rule("/userinfo", view_func=api.userinfo, methods=["GET", "POST"])
    app.add_url_rule("/api/", view_func=api.call, methods=_METHODS)
    app.add_url_rule("/api/<path:path>", view_func=api.call, methods=_METHODS)


class _ChallengeError(Exception):
    """A request is refused for its token (RFC 6750 section 3).

    Without an error code when no token came (section 3.1).
    """

    scheme = "Bearer"

    def __init__(self, status: int, error: str | None = None, **attributes: str) -> None:
        super().__init__(error)
        self.status = status
        self._error = error
        self._attributes = attributes

    def response(self) -> Response:
        fields = {"realm": "api"} | ({"error": self._error} if self._error else {}) | self._attributes
        challenge = f"{self.scheme} " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
        body = json.dumps({"error": self._error or "unauthorized"})
        return Response(body, self.status, {"WWW-Authenticate": challenge}, mimetype="application/json")


class _API:
    def __init__(self, provider: "FakeProvider") -> None:
        self._provider = provider

    def userinfo(self) -> AnyResponse:
        """OIDC Core section 5.3."""
        self._provider.events.add("userinfo", token=_presented())
        try:
            family = self._bearer().family
        except _ChallengeError as challenge:
            return challenge.response()
        claims = self._provider.claims.get(family.user, {}) if family.user else {}
        names = self._provider.userinfo_names
        return jsonify({names.get(name, name): value for name, value in ({"sub": family.subject} | claims).items()})

    def call(self, path: str = "") -> AnyResponse:
        """Any path below /api/."""
        self._provider.events.add("api", token=_presented(), detail=request.path)
        if path == "open":
            return jsonify(_described() | {"subject": None, "authorization": "Authorization" in request.headers})
        try:
            return self._protected(path, self._bearer())
        except _ChallengeError as challenge:
            if challenge.status == 401:
                self._provider.events.add("api_401", token=_presented(), detail=request.path)
            return challenge.response()

    def _protected(self, path: str, access: AccessToken) -> AnyResponse:
        match path:
            case "redirect":
                return redirect(request.args["to"], int(request.args.get("status", "302")))
            case "scope" if "admin" not in access.scope.split():
                raise _ChallengeError(403, "insufficient_scope", scope="admin")
            case "stepup" if access.family.acr != "urn:example:mfa":
                attributes = {"acr_values": "urn:example:mfa", "max_age": "60"}
                raise _ChallengeError(401, "insufficient_user_authentication", **attributes)
            case "never":
                raise _ChallengeError(401, "invalid_token", error_description=_NOT_VALID)
        about = {"subject": access.family.subject, "scope": access.scope, "resource": access.resource}
        return jsonify(_described() | about)

    def _bearer(self) -> AccessToken:
        """Return the live token of this request. Raises _ChallengeError."""
        value = _presented()
        if not value:
            raise _ChallengeError(401)
        live = self._provider.state.live_access_token(value, self._provider.now())
        if live is None:
            raise _challenge("invalid_token", _NOT_VALID)
        if (live.jkt is not None) != _by_proof():
            raise _challenge("invalid_token", "A bound token comes with a proof, and no other does")
        if live.jkt is not None:
            try:
                jkt = self._provider.proofs.judge(
                    request, "api" if request.path.startswith("/api/") else "server", value
                )
            except ProofError as error:
                raise _challenge(error.error, error.reason) from error
            if jkt != live.jkt:
                raise _challenge("invalid_token", "The token is bound to another key")
        return live


def _challenge(error: str, description: str) -> _ChallengeError:
    """A challenge of the scheme that was tried (RFC 9449 section 7.1)."""
    made = _ChallengeError(401, error, error_description=description)
    made.scheme = "DPoP" if _by_proof() else "Bearer"
    return made


def _by_proof() -> bool:
    return request.headers.get("Authorization", "").lower().startswith("dpop ")


def _presented() -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() in ("bearer", "dpop") else None


def _described() -> Json:
    body = request.get_data()
    return {
        "path": request.path,
        "method": request.method,
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "body_length": len(body),
    }
