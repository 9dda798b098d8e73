"""The nouns, as frozen values: who the provider is, who we are, what a login consists of.

Member names are those of the RFCs (8414 for the server, 7591 for the client, 6749 for tokens).  Nothing here
does I/O or reads a clock.  A secret is a `Secret`: a string that works as one and never shows as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, NoReturn, Self, SupportsIndex, TypeAlias

from .claims import unverified_claims
from .errors import Reason
from .value import Value, field, replace

__all__ = [
    "Account",
    "AuthorizationServer",
    "Change",
    "ChangeKind",
    "Client",
    "Failure",
    "Grant",
    "GrantKey",
    "Marker",
    "Members",
    "Order",
    "Secret",
    "TokenSet",
    "fingerprint",
    "scope_set",
]

State: TypeAlias = Literal["ACTIVE", "SPENDING", "DEAD", "LOGGED_OUT"]
Renewal: TypeAlias = Literal["refresh_token", "client_credentials", "none"]
ChangeKind: TypeAlias = 'Literal["login", "refresh", "logout", "ended"]'
Order: TypeAlias = tuple[int, int, int]
"""(epoch, generation, attempt): what orders two records of one login."""


class Secret(str):
    """A string whose `repr` is its fingerprint, and which refuses to be pickled (HAZARDS 39).

    It is a `str` so that headers, forms and JSON take it as it is.  What is shown by tracebacks, debuggers
    and notebooks is a repr; what travels to other processes by accident is a pickle.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<secret {fingerprint(self)}>"

    def __getitem__(self, index: SupportsIndex | slice) -> Secret:
        return Secret(super().__getitem__(index))  # what shows long values cuts them first

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a token or client secret is never pickled; pickle the Session, which finds them in its store")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Members(dict[str, Any]):
    """A dict that may hold secrets, and does not show them in a traceback."""

    def __repr__(self) -> str:
        return f"<{len(self)} members: {', '.join(sorted(map(str, self)))}>"


def fingerprint(secret: str) -> str:
    """Twelve hexadecimal digits that identify a secret in a log or a record, and do not reveal it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def scope_set(scope: str | Iterable[str] | None) -> frozenset[str]:
    """The scope tokens of a space-separated string (RFC 6749 §3.3) or of any iterable of them."""
    if scope is None:
        return frozenset()
    return frozenset(scope.split() if isinstance(scope, str) else scope)


class GrantKey(Value):
    """Which login: one person (or service) at one provider by way of one client."""

    issuer: str
    client_id: str
    account: str = ""

    def __str__(self) -> str:
        who = f"{self.account} at " if self.account else ""
        return f"{who}{self.issuer} (client {self.client_id})"


class TokenSet(Value):
    """One access token and what belongs to it.

    `received_at` and `expires_at` are POSIX seconds; `expires_at` is None where the provider does not say.
    `scope` is what was granted.  `resource` (RFC 8707) and `for_scope` say what was asked for, "" being
    whatever the login has: together they are the key among the access tokens of one login.  `dpop_key` is what has to
    sign each use of it (RFC 9449), None for a plain bearer token; it is kept once for the whole login, in the `Grant`.
    """

    access_token: Secret
    received_at: float
    expires_at: float | None = None
    token_type: str = "Bearer"
    scope: str = ""
    resource: str = ""
    for_scope: str = ""
    id_token: Secret | None = None
    dpop_key: Secret | None = None

    @property
    def fits(self) -> bool:
        """Whether its type is one that can be used here: by whom has it, or with a key by whom has that too.

        A bearer token in a login that has a key is a downgrade, which is not gone along with (RFC 9449 §5).
        """
        return self.token_type == ("DPoP" if self.dpop_key else "Bearer")

    @property
    def fingerprint(self) -> str:
        """What identifies the access token in logs and comparisons."""
        return fingerprint(self.access_token)

    @property
    def unverified_claims(self) -> dict[str, Any]:
        """What the access token says of itself, if it is a JWT; {} for an opaque one.

        Nobody has checked it: good for showing, and for choosing what to try.  Only the API judges it (RFC 9068 §6).
        """
        return unverified_claims(self.access_token)


class Marker(Value):
    """Written before a refresh token is sent, so that a crash leaves evidence (see `refresh`).

    `fingerprint` is of the token being spent; `sent_at` is when it was sent first, `deadline` until when the
    latest sender may still be busy (POSIX seconds; 0 once it has given up); `sends` counts how often it was
    sent and nothing came back; `owner` and `nonce` say by whom.
    """

    fingerprint: str
    nonce: str
    owner: str
    sent_at: float
    deadline: float
    sends: int = 1


class Failure(Value):
    """What went wrong last with which refresh token: shared, so that no process asks again in vain.

    `kind` is a class of failure (`busy`, `unsent`, `lost`, `misconfigured`, `refused`, `subject`), `detail` a
    short text for people, `not_before` POSIX seconds before which nobody sends again.
    """

    fingerprint: str
    kind: str
    detail: str = ""
    not_before: float = 0.0
    count: int = 1


class Grant(Value):
    """The stored record of one login.  Its order only ever rises.

    `epoch` rises with each login and logout, `generation` with each answer that brings tokens, `attempt` with
    every other step between (a send, its failure), so that no two states of a record share one order.
    `scope` is what the login asked for or was given, whichever is more: a provider that leaves
    `offline_access` out of its answer has not refused it.  `resources` are the APIs that it was asked for (RFC 8707):
    for no other one is a refresh token ever spent, since some servers spend it and then refuse.  `claims` are those of
    the ID token or userinfo.
    `dpop_key` is the private key (a JWK) that all its tokens are bound to, where they are (RFC 9449).
    `sealed` stands for the refresh token, the tokens and the claims where they are kept apart (see
    `stores.apart`); such a record tells how the login stands, and nothing can be done with it.
    """

    key: GrantKey
    epoch: int
    generation: int = 0
    attempt: int = 0
    state: State = "ACTIVE"
    renewal: Renewal = "refresh_token"
    refresh_token: Secret | None = None
    refresh_expires_at: float | None = None
    tokens: tuple[TokenSet, ...] = ()
    marker: Marker | None = None
    failure: Failure | None = None
    scope: str = ""
    resources: tuple[str, ...] = ()
    subject: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)
    store: str = ""
    sealed: str = field(default="", repr=False)
    dpop_key: Secret | None = None

    @property
    def order(self) -> Order:
        """(epoch, generation, attempt)."""
        return (self.epoch, self.generation, self.attempt)

    @property
    def spendable(self) -> str:
        """The fingerprint of what a renewal spends ("" where there is nothing to spend)."""
        if self.renewal == "client_credentials":
            return fingerprint(f"client_credentials {self.key}")
        return fingerprint(self.refresh_token) if self.refresh_token else ""

    def token_for(self, resource: str = "", for_scope: str = "") -> TokenSet | None:
        """The access token for that resource and narrower scope, with the key that it needs; or None."""
        for token in self.tokens:
            if token.resource == resource and token.for_scope == for_scope:
                return replace(token, dpop_key=self.dpop_key) if self.dpop_key else token
        return None

    def with_token(self, token: TokenSet) -> tuple[TokenSet, ...]:
        """The access tokens after this one arrived: it takes the place of its predecessor."""
        return (
            token,
            *(old for old in self.tokens if (old.resource, old.for_scope) != (token.resource, token.for_scope)),
        )


class Account(Value):
    """Who is signed in, for people and for programs that ask about roles.

    `claims` come from the validated ID token or from userinfo.  `expires_at` (POSIX seconds) is the access
    token's; `renews` says whether it is renewed without anybody being asked.
    """

    issuer: str
    subject: str
    name: str = ""
    expires_at: float | None = None
    renews: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def of(cls, grant: Grant, resource: str = "") -> Account:
        """The account of a login, with the expiry of its access token for that resource."""
        token = grant.token_for(resource)
        claims = dict(grant.claims)
        return cls(
            issuer=grant.key.issuer,
            subject=grant.subject,
            name=next((str(claims[n]) for n in ("name", "preferred_username", "email") if claims.get(n)), ""),
            expires_at=token.expires_at if token else None,
            renews=grant.state in ("ACTIVE", "SPENDING") and bool(grant.spendable),
            claims=claims,
        )

    def __str__(self) -> str:
        # Said by the provider, or by its user: not what could draw on a terminal.
        return "".join(filter(str.isprintable, self.name or self.subject)) or "(no name given)"

    def __repr__(self) -> str:
        ends = f", expires {self._end}" if self.expires_at else ""
        renews = ", renews itself" if self.renews else ""
        return f"Account(subject={self.subject!r}, name={self.name!r}{ends}{renews})"

    def _repr_html_(self) -> str:
        # Imported here: its tables of entities are of no use outside a notebook.
        from html import escape

        pieces = [f"<strong>{escape(str(self))}</strong>", escape(self.issuer), escape(self.standing)]
        return f"<span>{' · '.join(piece for piece in pieces if piece)}</span>"

    @property
    def standing(self) -> str:
        """Until when the token is good, and whether it renews itself, in words; "" if neither."""
        ends = f"token until {self._end}" if self.expires_at else ""
        return " · ".join(piece for piece in (ends, "renews itself" if self.renews else "") if piece)

    @property
    def _end(self) -> str:
        return f"{datetime.fromtimestamp(self.expires_at or 0).astimezone():%H:%M}"


class Change(Value):
    """Something that happened to a login, in whichever process.

    `kind` is `login` (somebody signed in), `refresh` (it was renewed), `logout` (somebody signed out here) or
    `ended` (nothing renews it any more).  `account` is who is, or was, signed in; None after a log-out.  After
    `logout` and `ended`, `reason` says why the next request will ask for a sign-in, and `hint` is the command.
    """

    kind: ChangeKind
    account: Account | None
    reason: Reason | None = None
    hint: str = ""


class Client(Value):
    """Who we are to the provider (RFC 7591 §2 names).

    `token_endpoint_auth_method` is None where it follows from what there is and what the server takes (see
    `authentication.authentication_method`).  `private_key` is a file's path, or as a `Secret` the text of a key; so
    that it names no file by accident, a path is not a `Secret`.  `certificate` are the paths of a certificate and its
    key, or of one file with both.  `assertion_audience`: "" for the issuer, `token_endpoint`, or an address.
    """

    client_id: str
    client_secret: Secret | None = None
    token_endpoint_auth_method: str | None = None
    redirect_uris: tuple[str, ...] = ()
    private_key: str = ""
    certificate: tuple[str, ...] = ()
    token_endpoint_auth_signing_alg: str | None = None
    assertion_audience: str = ""


class AuthorizationServer(Value):
    """What the provider says of itself (RFC 8414 §2, OpenID Connect Discovery §3, RP-Initiated Logout §2.1)."""

    issuer: str
    token_endpoint: str = ""
    authorization_endpoint: str = ""
    device_authorization_endpoint: str = ""
    revocation_endpoint: str = ""
    introspection_endpoint: str = ""
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    registration_endpoint: str = ""
    pushed_authorization_request_endpoint: str = ""
    require_pushed_authorization_requests: bool = False
    jwks_uri: str = ""
    scopes_supported: tuple[str, ...] = ()
    grant_types_supported: tuple[str, ...] = ()
    code_challenge_methods_supported: tuple[str, ...] = ()
    token_endpoint_auth_methods_supported: tuple[str, ...] = ()
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] = ()
    mtls_endpoint_aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    id_token_signing_alg_values_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False
