"""How the named providers behave, in the words of `Behaviour`: what `FakeProvider.like` starts from.

Written down from the providers' documents and their users' reports (`HAZARDS` 1, 15, 27), and not from what the SDK
knows of them: it is judged by this. Where operators choose (rotation, grace), it is what brings a client into trouble.
"""

from math import inf
from typing import Any

from loginonce.testing.behaviour import Grace

Knobs = dict[str, Any]

DAY = 86400.0
_REGISTERED = ("http://127.0.0.1:8400/callback",)
_EXACTLY: Knobs = {"loopback_any_port": False, "redirect_uris": _REGISTERED}
_LOCALHOST: Knobs = {"loopback_hosts": frozenset({"localhost", "127.0.0.1", "::1"})}
_NO_OFFLINE_SCOPE: Knobs = {"refused_scopes": frozenset({"offline_access"})}
_NO_ISS: Knobs = {"authorization_response_iss": False}

LIKENESSES: dict[str, Knobs] = {
    "any": {},
    # "Revoke Refresh Token" on, "Refresh Token Max Reuse" 1.
    "keycloak": {
        "grace": Grace.count(1),
        "refresh_expires_in_member": "refresh_expires_in",
        "refresh_token_lifetime": 1800.0,
    },
    # A threshold of 0, so that each refresh rotates.
    "authentik": {"require_offline_access": True, "replay_kills": False} | _EXACTLY | _NO_ISS,
    "zitadel": {"require_offline_access": True, "refresh_kills_access_tokens": True} | _NO_ISS,
    "google": {
        "rotation": False,
        "offline_parameters": {"access_type": "offline", "prompt": "consent"},
        "refused_parameters": frozenset({"resource"}),
        "refresh_token_lifetime": 180 * DAY,
        "device_uri_member": "verification_url",
        "end_session": "absent",
    }
    | _NO_OFFLINE_SCOPE,
    "spotify": {
        "rotation": False,
        "refresh_token_lifetime": 180 * DAY,
        "metadata": False,
        "paths": {"/api/token": "/token"},
        "userinfo_names": {"sub": "id", "preferred_username": "login", "name": "display_name"},
        "issue_scope": "",
        "device": False,
        "revocation": "absent",
        "end_session": "absent",
    }
    | _NO_OFFLINE_SCOPE
    | _NO_ISS,
    "entra": {
        "grace": Grace.forever(),
        "require_offline_access": True,
        "refused_parameters": frozenset({"resource"}),
        "refresh_token_lifetime": 90 * DAY,
        "redirect_uris": ("http://localhost",),
        "revocation": "absent",
    }
    | _LOCALHOST
    | _NO_ISS,
    # Rotation on, with an overlap.
    "auth0": {
        "grace": Grace.sibling(10),
        "error_status": 403,
        "require_offline_access": True,
        "resource_parameter": "audience",
    }
    | _EXACTLY
    | _NO_ISS,
    # "Rotate token after every use", with the grace that is there.
    "okta": {"grace": Grace.sibling(30), "require_offline_access": True, "end_session": "hint"} | _EXACTLY | _NO_ISS,
    "github": {
        "refresh_kills_access_tokens": True,
        "replay_kills": False,
        "refresh_token_lifetime": 180 * DAY,
        "refresh_expires_in_member": "refresh_token_expires_in",
        "refusal": "github",
        "error_status": 200,
        "form_encoded": True,
        "metadata": False,
        "paths": {
            "/login/oauth/authorize": "/authorize",
            "/login/oauth/access_token": "/token",
            "/login/device/code": "/device_authorization",
        },
        "userinfo_names": {"sub": "id", "preferred_username": "login"},
        "issue_scope": "",
        "revocation": "absent",
        "end_session": "absent",
    }
    | _EXACTLY
    | _NO_ISS,
    "gitlab": {"refresh_kills_access_tokens": True, "replay_kills": False} | _NO_OFFLINE_SCOPE | _NO_ISS,
    "dex": {
        "grace": Grace.same_successor(3),
        "replay_kills": False,
        "refusal": "invalid_request",
        "require_offline_access": True,
        "redirect_uris": ("http://localhost/callback",),
        "revocation": "absent",
        "end_session": "absent",
    }
    | _LOCALHOST
    | _NO_ISS,
    # With a grace period of a minute.
    "hydra": {"grace": Grace.sibling(60), "require_offline_access": True, "refresh_kills_access_tokens": True}
    | _NO_ISS,
    # Rotation on, with the longest grace.
    "cognito": {
        "grace": Grace.sibling(60),
        "refresh_token_lifetime": 30 * DAY,
        "device": False,
        "end_session": "logout_uri",
        "loopback_any_port": False,
        "redirect_uris": ("http://localhost:8400/callback",),
    }
    | _NO_OFFLINE_SCOPE
    | _NO_ISS,
    "supabase": {
        "grace": Grace.same_successor(inf),
        "refusal": "supabase",
        "device": False,
        "revocation": "absent",
        "end_session": "absent",
    }
    | _EXACTLY
    | _NO_OFFLINE_SCOPE
    | _NO_ISS,
}
"""By the provider's name; `any` keeps to the RFCs."""
