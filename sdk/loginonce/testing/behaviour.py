"""The knobs of the fake provider: what differs from one real provider to the next."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Refusal = Literal["invalid_grant", "invalid_request", "github", "supabase", "empty_400"]
EndSession = Literal["ok", "absent", "hint", "logout_uri"]
Revocation = Literal["ok", "refuse", "absent"]


@dataclass(frozen=True)
class Grace:
    """What happens to a refresh token that was spent already and is sent again.

    Make one with the class methods; they are named after what a provider does, not after the provider.
    """

    kind: Literal["none", "same_successor", "sibling", "count", "forever"] = "none"
    seconds: float = 0.0
    uses: int = 0

    @classmethod
    def none(cls) -> "Grace":
        """Spent is spent: sending it again is a replay (GitHub, Zitadel)."""
        return cls()

    @classmethod
    def same_successor(cls, seconds: float) -> "Grace":
        """For `seconds` after it was spent, answer with the refresh token it was exchanged for (Dex).

        Ends early once that successor has been spent itself.
        """
        return cls("same_successor", seconds=seconds)

    @classmethod
    def sibling(cls, seconds: float) -> "Grace":
        """For `seconds` after it was first spent, answer with one more new refresh token (Okta, Hydra)."""
        return cls("sibling", seconds=seconds)

    @classmethod
    def count(cls, uses: int) -> "Grace":
        """Allow `uses` more uses, each with a new refresh token, at any time (Keycloak's Max Reuse).

        Ends early once a successor has been spent: the older token is stale then.
        """
        return cls("count", uses=uses)

    @classmethod
    def forever(cls) -> "Grace":
        """Keep the old refresh token as good as the new one (Microsoft Entra)."""
        return cls("forever")


@dataclass(kw_only=True, eq=False, repr=False)
class Behaviour:
    """How the provider behaves. Every attribute may be changed while it runs.

    Times are in seconds.

    Attributes:
        access_token_lifetime: From 1 up it is rounded down to whole seconds; below 1 a fraction is sent.
            The token really lives as long as `expires_in` says.
        lie_expires_in: Sent as `expires_in` instead of the truth.
        refresh_token_lifetime: None: no end. Counts anew for each rotated token.
        refresh_expires_in_member: Name under which the refresh token's lifetime is told
            (`refresh_expires_in` at Keycloak, where 0 stands for "no end"); None: not told.
        rotation: False: a refresh answers without a refresh token and the old one stays good (Google).
        same_refresh_token: Without rotation: a refresh answers with the refresh token that it was asked with.
        grace: What a spent refresh token is still good for.
        replay_kills: A replay outside `grace` ends the family: refresh tokens and access tokens.
        refresh_kills_access_tokens: A refresh ends the family's earlier access tokens at once (Zitadel).
        refusal: How a refused refresh looks: 400 with the error `invalid_grant` or `invalid_request`
            (Dex), `github` (200 with `{"error": "bad_refresh_token"}`), `supabase` (400 with `error_code` and
            `msg` in place of `error`), or `empty_400`.
        error_status: Of the token end point's errors, in place of 400 (200 at GitHub, 403 at Auth0).
        form_encoded: Token answers are forms, not JSON, for who does not ask for JSON (GitHub).
        require_offline_access: A refresh token only for the scope `offline_access`.
        offline_parameters: A code brings a refresh token only if the authorization request had these (Google).
        refused_scopes: Refused with `invalid_scope`; for some providers `offline_access` is one.
        refused_parameters: Refused in an authorization request (`resource` at Microsoft Entra).
        resource_parameter: How the API is named that a token is for (`audience` at Auth0).
        id_token_alg: "RS256" or "ES256".
        device_interval: Least seconds between polls; None leaves `interval` out of the answer, which
            means 5 (RFC 8628 section 3.2).
        device_expires_in: Lifetime of a device code.
        approves_after: Seconds after which the first of the users approves a device code that nobody has
            answered, for demonstrations that nobody watches; None: never.
        device_uri_member: "verification_uri", or "verification_url" as Google says.
        issue_scope: The scope granted whatever was asked; None grants what was asked.
        omit: Members left out of every token answer.
        latency: How long a token request takes; half of it passes before, half after the processing.
        authorization_response_iss: Send `iss` in authorization responses (RFC 9207).
        revocation: "ok", "refuse" (400) or "absent" (404, and not in the metadata).
        end_session: "ok", "absent", or only with an ID token (`hint`), or with a registered `logout_uri` (Cognito).
        metadata: Publish the two documents.
        paths: Further paths of end points: `{"/api/token": "/token"}`.
        device: Offer device codes.
        userinfo_names: What /userinfo calls its claims: `{"sub": "id"}`.
        loopback_any_port: Ignore the port of a loopback redirect URI (RFC 8252 section 7.3).
        loopback_hosts: The hosts of which that holds.
        redirect_uris: The registered redirect URIs of both clients.
        pushed_requests: Pushed authorization requests (RFC 9126): "absent", "ok" or "required".
        pushed_expires_in: Seconds within which the browser has to bring what was pushed.
        introspection: "ok", "refuse" (401) or "absent" (404, and not in the metadata).
        introspects_refresh_tokens: False: a refresh token is never said to be active.
        registration: Of clients (RFC 7591): "absent", "open", or the token that lets one in.
        exchange_audiences: For whom a token is exchanged (RFC 8693).
        exchange_refusal: The error for a subject token that is not good.
        strict_resources: Only the resources that a login asked for may be had by its refresh token (RFC 8707); for
            any other one it is spent, and then refused, as npm's oidc-provider does it.
        acr: Grants the first of the `acr_values` that are asked for (RFC 9470), unless it is False.
        dpop: What happens to a DPoP proof (RFC 9449): the tokens are bound to its key ("accepted"), there are no
            tokens without one ("required"), or nobody looks at it, and plain bearer tokens are issued ("ignored").
        dpop_nonces: A proof needs the latest nonce of the server, or of the API, which has others.
        assertion_audience: What the assertions of clients are addressed to: "issuer" (as
            draft-ietf-oauth-rfc7523bis wants it) or "token_endpoint".
        clock_skew: Added to `iat`, `exp`, `auth_time` and the Date header; lifetimes are not touched.
    """

    access_token_lifetime: float = 300.0
    lie_expires_in: float | None = None
    refresh_token_lifetime: float | None = None
    refresh_expires_in_member: str | None = None
    rotation: bool = True
    grace: Grace = Grace.none()  # noqa: RUF009 - frozen, so it can be shared
    replay_kills: bool = True
    refresh_kills_access_tokens: bool = False
    same_refresh_token: bool = False
    refusal: Refusal = "invalid_grant"
    error_status: int = 400
    form_encoded: bool = False
    require_offline_access: bool = False
    offline_parameters: Mapping[str, str] = field(default_factory=dict)
    refused_scopes: Collection[str] = frozenset()
    refused_parameters: Collection[str] = frozenset()
    resource_parameter: str = "resource"
    id_token_alg: Literal["RS256", "ES256"] = "RS256"
    device_interval: int | None = 1
    device_expires_in: int = 600
    approves_after: float | None = None
    device_uri_member: str = "verification_uri"
    issue_scope: str | None = None
    omit: Collection[str] = frozenset()
    latency: float = 0.0
    authorization_response_iss: bool = True
    revocation: Revocation = "ok"
    end_session: EndSession = "ok"
    metadata: bool = True
    paths: Mapping[str, str] = field(default_factory=dict)
    device: bool = True
    userinfo_names: Mapping[str, str] = field(default_factory=dict)
    loopback_any_port: bool = True
    loopback_hosts: Collection[str] = frozenset({"127.0.0.1", "::1"})
    redirect_uris: tuple[str, ...] = (
        "http://127.0.0.1/callback",
        "http://127.0.0.1/",
        "http://[::1]/callback",
        "http://[::1]/",
        "https://service.example.org/callback",
    )
    pushed_requests: Literal["absent", "ok", "required"] = "absent"
    pushed_expires_in: int = 60
    introspection: Literal["ok", "refuse", "absent"] = "absent"
    introspects_refresh_tokens: bool = True
    registration: str = "absent"
    exchange_audiences: Collection[str] = frozenset()
    exchange_refusal: str = "invalid_request"
    strict_resources: bool = False
    acr: bool = True
    dpop: Literal["accepted", "required", "ignored"] = "accepted"
    dpop_nonces: bool = False
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    clock_skew: float = 0.0

    @classmethod
    def like(cls, name: str, **changes: Any) -> Self:
        """Behave as that provider does, unless its operators say otherwise: `FakeProvider.like("google")`.

        See `likenesses` for the names. Raises KeyError.
        """
        from loginonce.testing.likenesses import LIKENESSES

        return cls(**{**LIKENESSES[name], **changes})

    @property
    def expires_in(self) -> float:
        """The lifetime of an access token issued now, as it can be told: an int from 1 up."""
        life = self.access_token_lifetime
        return int(life) if life >= 1 else life
