"""What a person sees in the browser: consent, the device page, signing out."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oidc.core.errors import LoginRequiredError
from flask import Flask, Response, redirect, render_template_string, request
from werkzeug.wrappers import Response as AnyResponse

if TYPE_CHECKING:
    from loginonce.testing.grants import Server
    from loginonce.testing.provider import FakeProvider

Json = dict[str, Any]

_COOKIE = "fake_provider_session"


def add_pages(app: Flask, server: "Server") -> None:
    """Add the pages to the application."""
    pages = _Pages(server)
    app.add_url_rule("/authorize", view_func=pages.authorize, methods=["GET", "POST"])
    app.add_url_rule("/device", view_func=pages.device, methods=["GET", "POST"])
    app.add_url_rule("/end_session", view_func=pages.end_session, methods=["GET", "POST"])


class _Pages:
    def __init__(self, server: "Server") -> None:
        self._server = server
        self._provider: FakeProvider = server.provider

    def authorize(self) -> AnyResponse:
        """RFC 6749 section 4.1.1, OIDC Core section 3.1.2."""
        prompt = request.args.get("prompt", "").split()
        silent = "none" in prompt
        session = None if "login" in prompt else self._signed_in()
        if odd := set(request.args) & set(self._provider.refused_parameters):
            self._provider.events.add("authorize", detail="invalid_request")
            return self._page(400, message=f"invalid_request: {', '.join(sorted(odd))}", form=False)
        try:
            grant = self._server.get_consent_grant()
            if silent and not session:
                raise LoginRequiredError(redirect_uri=grant.redirect_uri, state=request.args.get("state"))
        except OAuth2Error as error:
            self._provider.events.add("authorize", detail=str(error.error))
            return self._refused(error)

        asked: Json = {
            "title": "Sign in",
            "client": grant.client.client_id,
            "scopes": (grant.request.scope or "").split(),
            "user": session,
            "hint": request.args.get("login_hint", ""),
        }
        if request.method == "GET" and not silent:
            return self._page(**asked)
        denied = request.form.get("decision") == "deny"
        user = None if denied else session if silent else self._person(session)
        if not denied and not user:
            return self._page(403, message="Wrong name or password.", **asked)
        self._provider.events.add("authorize", user=user, detail="denied" if denied else "approved")
        response: AnyResponse = self._server.create_authorization_response(grant=grant, grant_user=user)
        return self._keep_session(response, user)

    def device(self) -> AnyResponse:
        """RFC 8628 section 3.3."""
        user_code = request.values.get("user_code", "")
        session = self._signed_in()
        asked: Json = {"title": "Connect a device", "user": session, "asks_code": True}
        if not user_code:
            return self._page(**asked)
        if not self._provider.state.awaits_decision(user_code, self._provider.now()):
            return self._page(404, message="No device waits with this code.", **asked)
        asked["user_code"] = user_code
        if request.method == "GET":
            return self._page(**asked)
        denied = request.form.get("decision") == "deny"
        user = None if denied else self._person(session)
        if not denied and not user:
            return self._page(403, message="Wrong name or password.", **asked)
        self._provider.state.decide(user_code, user=user, now=self._provider.now())
        self._provider.events.add("device", user=user, detail="denied" if denied else "approved")
        done = "The device was refused." if denied else "The device is signed in. You can close this page."
        return self._keep_session(self._page(message=done, form=False), user)

    def end_session(self) -> AnyResponse:
        """OpenID Connect RP-Initiated Logout 1.0."""
        manner = self._provider.end_session
        back = request.values.get("logout_uri", "")
        missing = (manner == "hint" and "id_token_hint" not in request.values) or (
            manner == "logout_uri" and back not in self._provider.redirect_uris
        )
        if manner == "absent" or missing:
            return self._page(404 if manner == "absent" else 400, message="Not like this.", form=False)
        claims = self._provider.keys.claims(request.values.get("id_token_hint", ""))
        user = claims["sub"] if claims else self._signed_in()
        self._provider.events.add("end_session", user=user)
        if user:
            self._provider.state.end_sessions(user)
        response: AnyResponse = self._page(message="You are signed out.", form=False)
        target = request.values.get("post_logout_redirect_uri")
        if target and claims and self._server.query_client(claims["aud"]).check_redirect_uri(target):
            state = request.values.get("state")
            response = redirect(target + ("?" + urlencode({"state": state}) if state else ""))
        response.delete_cookie(_COOKIE)
        return response

    def _signed_in(self) -> str | None:
        return self._provider.state.signed_in(request.cookies.get(_COOKIE))

    def _person(self, session: str | None) -> str | None:
        """Return who submits this form: the name and password on it, else the browser session."""
        username = request.form.get("username", "")
        if not username:
            return session
        fits = self._provider.password_fits(username, request.form.get("password", ""))
        return username if fits else None

    def _keep_session(self, response: AnyResponse, user: str | None) -> AnyResponse:
        if user and not self._signed_in():
            response.set_cookie(_COOKIE, self._provider.state.sign_in(user), httponly=True, samesite="Lax")
        return response

    def _refused(self, error: OAuth2Error) -> AnyResponse:
        """Tell the client through a redirect if the redirect URI is sound, else the person."""
        if not error.redirect_uri:
            return self._page(400, message=f"{error.error}: {error.get_error_description()}", form=False)
        response: AnyResponse = self._server.handle_error_response(None, error)
        self._server.issuer.add_issuer_parameter(self._server, response)
        return response

    def _page(self, status: int = 200, *, message: str = "", form: bool = True, **asked: object) -> Response:
        example = next(iter(self._provider.users.items()), ("", ""))
        html = render_template_string(_PAGE, message=message, form=form, example=example, **asked)
        return Response(html, status)


#: Jinja. Values: message, form (bool), example (name, password); with a form also title, user (signed in
#: already, or None), and client, scopes, hint, or asks_code, user_code.
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Fake provider</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 24rem; margin: 10vh auto; padding: 0 1rem;
       color: #1c2733; background: #f4f6f8; }
main { background: #fff; border: 1px solid #d5dce3; border-radius: 12px; padding: 1.5rem 2rem 2rem; }
h1 { font-size: 1.3rem; margin: 0 0 1rem; }
label { display: block; margin: .75rem 0; }
input { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: .4rem .6rem;
        border: 1px solid #9aa7b4; border-radius: 6px; }
button { font: inherit; padding: .45rem 1.2rem; margin: 1rem .5rem 0 0; border-radius: 6px;
         border: 1px solid #9aa7b4; background: #fff; cursor: pointer; }
button.yes { background: #1559b7; border-color: #1559b7; color: #fff; }
small { color: #5b6875; }
form p b { letter-spacing: .04em; }
p[role=status] { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  body { color: #e3e8ee; background: #12171d; }
  main { background: #1c232b; border-color: #36414d; }
  input, button { color: inherit; background: #12171d; border-color: #56636f; }
  small { color: #9aa7b4; }
}
</style>
</head>
<body>
<main>
{% if title %}<h1>{{ title }}</h1>{% endif %}
{% if message %}<p role="status">{{ message }}</p>{% endif %}
{% if form %}
{% if client %}
<p><b>{{ client }}</b> asks for: {{ scopes | join(", ") or "nothing in particular" }}</p>
{% endif %}
<form method="post" action="{{ request.full_path if not asks_code else request.path }}">
{% if asks_code %}
{% if user_code %}
<input type="hidden" name="user_code" value="{{ user_code }}">
<p>Does your device show the code <b>{{ user_code }}</b>?</p>
{% else %}
<label>Code on your device <input name="user_code" autocomplete="off" autofocus></label>
{% endif %}
{% endif %}
{% if user %}
<p>Signed in as <b>{{ user }}</b>.</p>
{% else %}
<label>Name <input name="username" value="{{ hint or example[0] }}" autocomplete="username"></label>
<label>Password <input name="password" type="password" value="{{ example[1] }}"
 autocomplete="current-password"></label>
{% endif %}
<button class="yes" name="decision" value="approve">Allow</button>
<button name="decision" value="deny">Deny</button>
</form>
{% endif %}
<p><small>A fake provider for tests and demonstrations. Nothing here is real.</small></p>
</main>
</body>
</html>
"""
