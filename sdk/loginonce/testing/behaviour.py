"""The knobs of the fake provider: what differs from one real provider to the next."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Refusal = Literal["invalid_grant", "invalid_request", "github", "empty_400"]
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
        grace: What a spent refresh token is still good for.
        replay_kills: A replay outside `grace` ends the family: refresh tokens and access tokens.
        refresh_kills_access_tokens: A refresh ends the family's earlier access tokens at once (Zitadel).
        refusal: How a refused refresh looks: 400 with the error `invalid_grant` or `invalid_request`
            (Dex), `github` (200 with `{"error": "bad_refresh_token"}`), or `empty_400`.
        require_offline_access: A refresh token only for the scope `offline_access`.
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
        loopback_any_port: Ignore the port of a loopback redirect URI (RFC 8252 section 7.3).
        redirect_uris: The registered redirect URIs of both clients.
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
    refusal: Refusal = "invalid_grant"
    require_offline_access: bool = False
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
    loopback_any_port: bool = True
    redirect_uris: tuple[str, ...] = (
        "http://127.0.0.1/callback",
        "http://127.0.0.1/",
        "http://[::1]/callback",
        "http://[::1]/",
        "https://service.example.org/callback",
    )
    dpop: Literal["accepted", "required", "ignored"] = "accepted"
    dpop_nonces: bool = False
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    clock_skew: float = 0.0

    @property
    def expires_in(self) -> float:
        """The lifetime of an access token issued now, as it can be told: an int from 1 up."""
        life = self.access_token_lifetime
        return int(life) if life >= 1 else life
