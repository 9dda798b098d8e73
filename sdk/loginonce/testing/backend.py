"""A plain JSON back end beside the OAuth end points: another door to the same logins, with the same rules.

    POST /auth/login    {"username", "password"}  → the answer, or 401 {"error": "bad_credentials"}
    POST /auth/refresh  {"token"}                 → the answer, or 401 {"error": "token_not_valid"}
    POST /auth/logout   {"token"}                 → 204

The answer is `{"accessToken", "accessTokenExpiry" (ms), "refreshToken", "user": {"id", "name"}}`, unless the provider's
`json_answer` makes another of it. What a refresh token is worth is decided by `state`, like everything else.
"""

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request

from loginonce.testing.state import RefusedError, Tokens

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]


def add_backend(app: Flask, provider: "FakeProvider") -> None:
    """Add the back end to the application."""

    @app.post("/auth/login")
    def login() -> Response:
        sent = _sent()
        user = str(sent.get("username"))
        if not provider.password_fits(user, str(sent.get("password"))):
            return _refusal("bad_credentials")
        tokens = provider.state.open_family(
            client_id=provider.public_client_id,
            user=user,
            scope="openid offline_access",
            resource=None,
            refreshable=True,
            now=provider.now(),
        )
        return _answer(provider, tokens)

    @app.post("/auth/refresh")
    def refresh() -> Response:
        token = str(_sent().get("token"))
        try:
            tokens = provider.state.redeem(
                token, client_id=provider.public_client_id, scope=None, resource=None, now=provider.now()
            )
        except RefusedError as refused:
            seen: Json = {"grant_type": "refresh_token", "token": token, "user": refused.user, "detail": refused.reason}
            if refused.replay:
                provider.events.add("replay", **seen)
            provider.events.add("refused", **seen)
            return _refusal("token_not_valid")
        about: Json = {"grant_type": "refresh_token", "token": token, "user": tokens.family.user}
        provider.events.add("refresh", **about)
        if tokens.reused:
            provider.events.add("reuse", **about)
        return _answer(provider, tokens)

    @app.post("/auth/logout")
    def logout() -> Response:
        token = str(_sent().get("token"))
        known = provider.state.find(token)
        if known is not None:
            provider.state.revoke(known)
            provider.events.add("revoked", token=token, user=known.family.user)
        return Response(status=204)


def token_sent(body: bytes) -> str | None:
    """The refresh token in a message to /auth/refresh, or None."""
    from flask import json

    try:
        token = json.loads(body)["token"]
    except (ValueError, KeyError, TypeError):
        return None
    return token if isinstance(token, str) else None


def _sent() -> Json:
    content = request.get_json(silent=True)
    return content if isinstance(content, dict) else {}


def _refusal(error: str) -> Response:
    return Response(f'{{"error": "{error}", "message": "no"}}', 401, mimetype="application/json")


def _answer(provider: "FakeProvider", tokens: Tokens) -> Response:
    life = tokens.expires_in if provider.lie_expires_in is None else float(provider.lie_expires_in)
    user = tokens.family.user or ""
    answer: Json = {
        "accessToken": tokens.access_token,
        "accessTokenExpiry": round(1000 * (provider.stamp() + life)),
        "user": {"id": user, "name": provider.claims.get(user, {}).get("name")},
    }
    if tokens.refresh_token:
        answer["refreshToken"] = tokens.refresh_token
    return jsonify(provider.json_answer(answer) if provider.json_answer else answer)
