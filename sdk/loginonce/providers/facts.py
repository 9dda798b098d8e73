"""The providers whose ways are known, each with where that is told.

To add one: its facts, their sources, the marks of its issuers (`MARKS`), a `Behaviour` in `loginonce.testing.likenesses`, and its row in the README; the
tests in `tests/dialects` find it by its name.
"""

from __future__ import annotations

from . import MARKS, Dialect

__all__ = ["KNOWN"]

DAY = 86400.0

FIXED = "http://127.0.0.1:8400/callback"
"""What to register where the port has to be the registered one: any that is free will do."""

_KEYCLOAK = Dialect(
    name="keycloak",
    title="Keycloak",
    issuer="https://{host}/realms/{realm}",
    places={"host": "", "realm": ""},
    recognised_by=MARKS["keycloak"],
    device="yes",
    grace="count",
    refresh_idle=1800.0,
    refusals=(),
    example={"host": "id.example.org", "realm": "lab", "client_id": "notebook"},
    remarks=(
        (
            "With the scope openid a login lasts as long as the realm's session (30 minutes unused, 10 hours in all, unless "
            "set otherwise); with offline_access, which the person's roles have to allow, 30 days unused."
        ),
        (
            'Rotation is the realm\'s "Revoke Refresh Token", and its grace a count ("Refresh Token Max Reuse", 0); a '
            "replay ends the client's session."
        ),
        "The device flow is switched on in the client's capabilities.",
    ),
    sources={
        "https://www.keycloak.org/securing-apps/oidc-layers": "issuer places recognised_by device",
        "https://www.keycloak.org/docs/latest/server_admin/": "grace refresh_idle",
    },
)

_AUTHENTIK = Dialect(
    name="authentik",
    title="authentik",
    issuer="https://{host}/application/o/{application}",
    places={"host": "", "application": ""},
    recognised_by=MARKS["authentik"],
    scope="openid profile offline_access",
    redirect_uri=FIXED,
    loopback="registered port",
    device="yes",
    example={"host": "id.example.org", "application": "lab", "client_id": "notebook"},
    remarks=(
        "Its provider has to have the scope mapping offline_access, or no refresh token comes.",
        "A refresh token is replaced when less than the provider's threshold is left of it; 0 replaces it each time.",
        "A redirect URI may be registered as a regular expression: http://127\\.0\\.0\\.1:\\d+/callback takes any port.",
    ),
    sources={
        "https://docs.goauthentik.io/add-secure-apps/providers/oauth2/": (
            "issuer places recognised_by scope redirect_uri loopback device"
        ),
    },
)

_ZITADEL = Dialect(
    name="zitadel",
    title="ZITADEL",
    issuer="https://{domain}",
    places={"domain": ""},
    recognised_by=MARKS["zitadel"],
    scope="openid profile offline_access",
    device="yes",
    rotation="always",
    refresh_ends_access=True,
    example={"domain": "example.zitadel.cloud", "client_id": "2700000000@lab"},
    remarks=(
        "Refresh tokens are switched on in the application's settings.",
        "There is no grace: an answer that is lost costs a sign-in (zitadel/zitadel#9631).",
    ),
    sources={
        "https://help.zitadel.com/how-to-enable-and-receive-refresh-tokens": "scope rotation",
        "https://zitadel.com/docs/apis/openidoauth/endpoints": "issuer places recognised_by device",
        "https://github.com/zitadel/zitadel/issues/9631": "refresh_ends_access",
    },
)

_GOOGLE = Dialect(
    name="google",
    title="Google",
    issuer="https://accounts.google.com",
    recognised_by=MARKS["google"],
    scope="openid email profile",
    offline="parameter",
    authorize={"access_type": "offline", "prompt": "consent"},
    resource_parameter="",
    device="yes",
    rotation="never",
    grace="forever",
    reuse_interval=DAY,
    refresh_idle=180 * DAY,
    objections=("deleted_client", "org_internal", "admin_policy_enforced"),
    withdraw="https://myaccount.google.com/connections",
    example={"client_id": "1234-abcd.apps.googleusercontent.com"},
    remarks=(
        'Register a client of the type "Desktop app"; it has a client secret, which is no secret and has to be sent.',
        "Without prompt=consent only the first sign-in of a person brings a refresh token.",
        (
            'While the app is in "testing", refresh tokens end after 7 days.  The 101st one of a person and client ends '
            "the oldest."
        ),
        'Device codes need a client of the type "TVs and limited-input devices", and allow few scopes.',
    ),
    sources={
        "https://developers.google.com/identity/openid-connect/openid-connect": "issuer recognised_by scope",
        "https://developers.google.com/identity/protocols/oauth2/web-server": "offline authorize grace rotation",
        "https://developers.google.com/identity/protocols/oauth2": "refresh_idle reuse_interval",
        "https://developers.google.com/identity/protocols/oauth2/native-app": "objections",
        "https://developers.google.com/identity/protocols/oauth2/limited-input-device": "device",
        "https://support.google.com/accounts/answer/13533235": "withdraw",
        "not verified": "resource_parameter",
    },
)

_SPOTIFY = Dialect(
    name="spotify",
    title="Spotify",
    issuer="https://accounts.spotify.com",
    recognised_by=MARKS["spotify"],
    discovered=False,
    server={
        "authorization_endpoint": "{issuer}/authorize",
        "token_endpoint": "{issuer}/api/token",
        "userinfo_endpoint": "https://api.spotify.com/v1/me",
    },
    scope="",
    offline="always",
    resource_parameter="",
    device="no",
    claims={"sub": "id", "name": "display_name", "preferred_username": "id"},
    rotation="never",
    refresh_life=180 * DAY,
    revocation="no",
    end_session=False,
    withdraw="https://www.spotify.com/account/apps/",
    example={"client_id": "0123456789abcdef"},
    remarks=(
        "Six months after the sign-in the refresh token ends, however often it was used.",
        (
            "Until July 2026 a refresh by PKCE brought a new refresh token, and the old one was spent; so no grace is "
            "counted on."
        ),
        "Register http://127.0.0.1/callback without a port; localhost is not allowed.",
    ),
    sources={
        "https://developer.spotify.com/documentation/web-api/tutorials/code-pkce-flow": "issuer recognised_by server scope",
        "https://developer.spotify.com/documentation/web-api/reference/get-current-users-profile": "claims",
        "https://developer.spotify.com/blog/2026-06-18-refresh-token-expiration": "refresh_life",
        "https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens": "rotation offline",
        "not verified": "discovered resource_parameter device revocation end_session withdraw",
    },
)

_ENTRA = Dialect(
    name="entra",
    title="Microsoft Entra ID",
    issuer="https://login.microsoftonline.com/{tenant}/v2.0",
    places={"tenant": ""},
    recognised_by=MARKS["entra"],
    scope="openid profile offline_access",
    offline_prompt="",
    resource_parameter="",
    redirect_uri="http://localhost",
    device="yes",
    rotation="always",
    grace="forever",
    reuse_interval=DAY,
    refresh_idle=90 * DAY,
    revocation="no",
    withdraw="https://myapps.microsoft.com",
    example={"tenant": "11111111-2222-3333-4444-555555555555", "client_id": "66666666-7777-8888-9999-000000000000"},
    remarks=(
        "The tenant is the directory's ID (a GUID): its issuer names it so, also where a domain was asked for.",
        (
            'Register http://localhost as a redirect URI of "Mobile and desktop applications", and allow public client '
            "flows for device codes."
        ),
        "An API is named in the scope (api://…/.default), not as a resource.",
        "In a single-page application's registration refresh tokens end after 24 hours.",
    ),
    sources={
        "https://learn.microsoft.com/en-us/entra/identity-platform/v2-protocols-oidc": "issuer places recognised_by scope",
        "https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow": ("offline_prompt"),
        "https://learn.microsoft.com/en-us/entra/identity-platform/reply-url": "redirect_uri",
        "https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-device-code": "device",
        "https://learn.microsoft.com/en-us/entra/identity-platform/refresh-tokens": (
            "rotation grace reuse_interval refresh_idle"
        ),
        "https://learn.microsoft.com/en-us/answers/questions/1158831/invalidate-old-refresh-token-after-using-it-to-get": (
            "revocation"
        ),
        "not verified": "withdraw resource_parameter",
    },
)

_AUTH0 = Dialect(
    name="auth0",
    title="Auth0",
    issuer="https://{domain}",
    places={"domain": ""},
    recognised_by=MARKS["auth0"],
    server={"end_session_endpoint": "{issuer}/v2/logout"},
    scope="openid profile offline_access",
    offline_prompt="",
    resource_parameter="audience",
    redirect_uri=FIXED,
    loopback="registered port",
    device="yes",
    grace="sibling",
    example={"domain": "example.eu.auth0.com", "client_id": "AbCdEf", "resource": "https://api.example.org"},
    remarks=(
        'The API has to "Allow Offline Access", and is named by resource=… (which Auth0 calls its audience).',
        (
            "Rotation and its overlap (0 seconds) are the application's settings; only the latest predecessor has the "
            "overlap, and any other replay ends the whole family."
        ),
        "A refusal has HTTP status 403.",
    ),
    sources={
        "https://auth0.com/docs/get-started/authentication-and-authorization-flow/authorization-code-flow-with-pkce": (
            "issuer places recognised_by resource_parameter"
        ),
        "https://auth0.com/docs/secure/tokens/refresh-tokens/get-refresh-tokens": "scope offline_prompt",
        "https://support.auth0.com/center/s/article/Callback-URL-Mismatch-Error-Is-Not-in-the-List-of-Allowed-Callback-URLs": (
            "redirect_uri loopback"
        ),
        "https://auth0.com/docs/get-started/authentication-and-authorization-flow/device-authorization-flow": "device",
        "https://auth0.com/docs/secure/tokens/refresh-tokens/configure-refresh-token-rotation": "grace",
        "https://auth0.com/docs/authenticate/login/logout/log-users-out-of-auth0": "server",
    },
)

_OKTA = Dialect(
    name="okta",
    title="Okta",
    issuer="https://{domain}/oauth2/{authorization_server}",
    places={"domain": "", "authorization_server": "default"},
    recognised_by=MARKS["okta"],
    scope="openid profile offline_access",
    offline_prompt="",
    redirect_uri=FIXED,
    loopback="not verified",
    device="yes",
    grace="sibling",
    grace_seconds=30.0,
    refresh_idle=7 * DAY,
    end_session=False,
    example={"domain": "example.okta.com", "client_id": "0oa1"},
    remarks=(
        (
            'The application has to allow the grant type "Refresh Token".  Native applications keep one refresh token '
            'unless "Rotate token after every use" is chosen; single-page ones rotate.'
        ),
        "A replay after the grace (0 to 60 seconds) ends the newest refresh token and all access tokens.",
        "Its log-out page asks for an ID token in the address, and none is put there: sign out on Okta's dashboard.",
    ),
    sources={
        "https://developer.okta.com/docs/concepts/auth-servers/": "issuer places recognised_by",
        "https://developer.okta.com/docs/guides/refresh-tokens/main/": (
            "scope offline_prompt grace grace_seconds refresh_idle"
        ),
        "https://developer.okta.com/docs/guides/device-authorization-grant/main/": "device",
        "https://developer.okta.com/docs/reference/api/oidc/#logout": "end_session",
        "not verified": "redirect_uri loopback",
    },
)

_GITHUB = Dialect(
    name="github",
    title="GitHub Apps",
    issuer="https://{host}",
    places={"host": "github.com"},
    recognised_by=MARKS["github"],
    discovered=False,
    server={
        "authorization_endpoint": "{issuer}/login/oauth/authorize",
        "token_endpoint": "{issuer}/login/oauth/access_token",
        "device_authorization_endpoint": "{issuer}/login/device/code",
        "userinfo_endpoint": "https://api.github.com/user",
    },
    scope="",
    offline="always",
    resource_parameter="",
    redirect_uri=FIXED,
    loopback="registered port",
    device="yes",
    claims={"sub": "id", "preferred_username": "login"},
    rotation="always",
    refresh_ends_access=True,
    refresh_life=180 * DAY,
    refusals=("bad_refresh_token",),
    objections=("incorrect_client_credentials", "device_flow_disabled"),
    revocation="no",
    end_session=False,
    withdraw="https://github.com/settings/apps/authorizations",
    example={"client_id": "Iv23li"},
    remarks=(
        (
            'Permissions stand in the app\'s settings, not in a scope.  "User-to-server token expiration" has to be on, or '
            "no refresh token comes and the access token stays."
        ),
        (
            "Errors have HTTP status 200.  A browser sign-in, and its renewal, take the client secret; a device sign-in "
            "does without."
        ),
        "On GitHub Enterprise Server the person is asked for at …/api/v3/user: say it as userinfo_endpoint in server.",
    ),
    sources={
        "https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/"
        "generating-a-user-access-token-for-a-github-app": (
            "issuer places recognised_by server scope redirect_uri loopback device objections"
        ),
        "https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/"
        "refreshing-user-access-tokens": "offline rotation refresh_ends_access refresh_life",
        "https://github.com/orgs/community/discussions/24745": "refusals",
        "https://docs.github.com/en/rest/users/users#get-the-authenticated-user": "claims",
        "https://docs.github.com/en/rest/apps/oauth-applications": "revocation withdraw",
        "not verified": "discovered resource_parameter end_session",
    },
)

_GITLAB = Dialect(
    name="gitlab",
    title="GitLab",
    issuer="https://{host}",
    places={"host": "gitlab.com"},
    recognised_by=MARKS["gitlab"],
    scope="openid profile",
    offline="always",
    resource_parameter="",
    device="yes",
    rotation="always",
    refresh_ends_access=True,
    example={"client_id": "0123456789abcdef", "scope": "openid profile read_api"},
    remarks=(
        "Add the scopes of the API that is meant (read_api, api, read_repository, …).",
        "Access tokens last two hours.  Device codes came with GitLab 17.1.",
    ),
    sources={
        "https://docs.gitlab.com/integration/openid_connect_provider/": "issuer places recognised_by scope",
        "https://docs.gitlab.com/api/oauth2/": "offline device rotation",
        "https://gitlab.com/gitlab-org/gitlab/-/issues/372358": "refresh_ends_access",
        "not verified": "resource_parameter",
    },
)

_DEX = Dialect(
    name="dex",
    title="Dex",
    scope="openid profile offline_access",
    redirect_uri="http://localhost/callback",
    device="yes",
    rotation="always",
    grace="same successor",
    refusals=("invalid_request",),
    revocation="not verified",
    example={"issuer": "https://dex.example.org", "client_id": "notebook"},
    remarks=(
        "Rotation can be switched off, and the grace is its reuseInterval (expiry.refreshTokens in its configuration).",
        "A replay, and a refresh token that has ended, are refused with invalid_request.",
        "A client with public: true may come back to localhost at any port.",
    ),
    sources={
        "https://dexidp.io/docs/configuration/tokens/": "scope rotation grace",
        "https://github.com/dexidp/dex/blob/master/server/refreshhandlers.go": "refusals",
        "https://dexidp.io/docs/configuration/custom-scopes-claims-clients/": "redirect_uri device",
        "not verified": "revocation",
    },
)

_HYDRA = Dialect(
    name="hydra",
    title="Ory Hydra",
    recognised_by=MARKS["hydra"],
    scope="openid offline_access",
    rotation="always",
    grace="sibling",
    refresh_ends_access=True,
    example={"issuer": "https://example.projects.oryapis.com", "client_id": "notebook"},
    remarks=(
        (
            "The grace is its rotation_grace_period (none unless set, 5 minutes at most without a count): each use within "
            "it brings new tokens of one chain.  A replay after it ends all tokens of the consent."
        ),
    ),
    sources={
        "https://www.ory.com/docs/hydra/guides/graceful-token-refresh": "rotation grace refresh_ends_access",
        "https://www.ory.com/docs/oauth2-oidc/wellknown-endpoint-discovery": "recognised_by",
        "https://www.ory.com/docs/oauth2-oidc/authorization-code-flow": "scope",
    },
)

_COGNITO = Dialect(
    name="cognito",
    title="Amazon Cognito",
    issuer="https://cognito-idp.{region}.amazonaws.com/{pool}",
    places={"region": "", "pool": ""},
    recognised_by=MARKS["cognito"],
    offline="always",
    redirect_uri="http://localhost:8400/callback",
    loopback="registered port",
    device="no",
    grace="sibling",
    refresh_life=30 * DAY,
    refusals=("NotAuthorizedException",),
    deferrals=("TooManyRequestsException", "LimitExceededException"),
    error_members=("error", "__type"),
    description_members=("error_description", "message"),
    end_session_parameters={"client_id": "{client_id}", "logout_uri": "{redirect_uri}"},
    example={"region": "eu-west-1", "pool": "eu-west-1_AbCdEf", "client_id": "1example"},
    remarks=(
        'The pool needs a domain, and the app client the grant "authorization code".',
        "Rotation and its grace (0 to 60 seconds) are the app client's settings; without it one refresh token stays.",
        "Its log-out page wants an address to return to: the redirect URI, if it is registered as a sign-out URL too.",
    ),
    sources={
        "https://docs.aws.amazon.com/cognito/latest/developerguide/federation-endpoints.html": (
            "issuer places recognised_by"
        ),
        "https://docs.aws.amazon.com/cognito/latest/developerguide/authorization-endpoint.html": (
            "redirect_uri loopback offline"
        ),
        "https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_RefreshTokenRotationType.html": (
            "grace"
        ),
        "https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-refresh-token.html": (
            "refresh_life"
        ),
        "https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_GetTokensFromRefreshToken.html": (
            "refusals deferrals error_members description_members"
        ),
        "https://docs.aws.amazon.com/cognito/latest/developerguide/logout-endpoint.html": "end_session_parameters",
        "not verified": "device",
    },
)

_SUPABASE = Dialect(
    name="supabase",
    title="Supabase",
    issuer="https://{project}.supabase.co/auth/v1",
    places={"project": ""},
    recognised_by=MARKS["supabase"],
    scope="openid profile",
    offline="always",
    redirect_uri=FIXED,
    loopback="registered port",
    device="no",
    rotation="always",
    grace="same successor",
    grace_seconds=10.0,
    reuse_interval=3600.0,
    refusals=(
        "refresh_token_already_used", "refresh_token_not_found", "session_not_found", "session_expired", "user_banned",
    ),
    deferrals=("over_request_rate_limit", "request_timeout"),
    error_members=("error", "error_code"),
    description_members=("error_description", "msg"),
    revocation="not verified",
    example={"project": "abcdefgh", "client_id": "11111111-2222-3333-4444-555555555555"},
    remarks=(
        "This is its OAuth 2.1 server, which has to be switched on, with a page of your own that asks for consent.",
        ("The parent of the active refresh token may come again at any time, and gets the active one; an older one, "
        "after 10 seconds, ends the session."),
        "Refusals come as error_code and msg in place of error (supabase/auth#2829), or as invalid_grant.",
    ),
    sources={
        "https://supabase.com/docs/guides/auth/oauth-server/getting-started": (
            "issuer places recognised_by scope redirect_uri loopback"
        ),
        "https://supabase.com/docs/guides/auth/oauth-server/oauth-flows": "offline",
        "https://supabase.com/docs/guides/auth/sessions": "rotation grace grace_seconds reuse_interval",
        "https://github.com/supabase/auth/issues/2829": "error_members description_members refusals",
        "https://supabase.com/docs/guides/auth/debugging/error-codes": "deferrals",
        "not verified": "device revocation",
    },
)  # fmt: skip

KNOWN = {
    dialect.name: dialect
    for dialect in (
        _KEYCLOAK, _AUTHENTIK, _ZITADEL, _GOOGLE, _SPOTIFY, _ENTRA, _AUTH0, _OKTA, _GITHUB, _GITLAB, _DEX, _HYDRA,
        _COGNITO, _SUPABASE,
    )
}  # fmt: skip
"""By name."""
