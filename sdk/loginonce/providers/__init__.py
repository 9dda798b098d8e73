"""What is different from one provider to the next, as data: a `Dialect` each.

The code has no provider's name in it; it asks the dialect what to send, how a refusal looks and where a login ends.
One is chosen by its name, recognised by the issuer's address, or neither: then it is `ANY`, an OpenID provider that
keeps to the RFCs.  Every fact can be said otherwise in a profile, and so can all of an unknown provider's.

The named ones are in `facts`, which is read when one is meant.  A fact names its source, or says that it was not
verified.  What an operator sets (rotation, grace, lifetimes) is what they find there before they set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ..errors import ConfigurationError
from ..value import Value, field, replace

__all__ = ["ANY", "MARKS", "NOT_VERIFIED", "PLACES", "Dialect", "known", "names", "recognised"]

NOT_VERIFIED = "not verified"
"""In place of a source: it is said so, and nobody has looked it up."""

Told: TypeAlias = 'Literal["yes", "no", "not verified"]'


PLACES = ("host", "domain", "realm", "tenant", "application", "authorization_server", "region", "pool", "project")
"""What an issuer's address is made of, at the providers that are known."""


MARKS: dict[str, tuple[str, ...]] = {
    "keycloak": ("/realms/",),
    "authentik": ("/application/o/",),
    "zitadel": ("*.zitadel.cloud",),
    "google": ("accounts.google.com",),
    "spotify": ("accounts.spotify.com",),
    "entra": ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"),
    "auth0": ("*.auth0.com",),
    "okta": ("*.okta.com", "*.oktapreview.com", "*.okta-emea.com"),
    "github": ("github.com",),
    "gitlab": ("gitlab.com",),
    "hydra": ("*.projects.oryapis.com",),
    "cognito": ("cognito-idp.*.amazonaws.com",),
    "supabase": ("*.supabase.co",),
}
"""What tells whose an issuer is, by the provider's name: hosts (with one `*`), or parts of a path.

Apart from the other facts, which most programs do not need once they know that their provider is none of these.
"""


class Dialect(Value):
    """How one provider does what the RFCs leave open, and where it departs from them.  Times in seconds.

    Where it is.  `issuer`: its address, with the names of `places` in braces; a place's value is what holds where
    nobody says, "" that somebody has to.  `recognised_by`: see `MARKS`.
    `discovered`: whether it publishes metadata.  `server`: end points that the metadata leaves out.

    Signing in.  `scope`: what is asked for where nobody says.  `offline`: what a refresh token takes: the `scope`
    offline_access, one more `parameter`, or nothing, since one `always` comes.  `offline_prompt`: the prompt that goes
    with that scope.  `authorize`: further parameters of an authorization request.  `resource_parameter`: how the API
    is named that a token is for ("" = not at all).  `redirect_uri`: what to register; `loopback`: whether its port may
    be another then.  `device`: device codes.  `claims`: what userinfo calls the claims, where there is no ID token.

    Renewing.  `rotation`: whether a refresh brings a new refresh token.  `grace`: what a spent one is good for: `none`,
    the `same successor` again, a `sibling` of it, a `count` of further uses, or `forever`; `grace_seconds`: for how
    long, unless its operators say otherwise.  `reuse_interval`: for how long it may be sent again *whatever* they say,
    which is `Policy.reuse_interval` then.  `refresh_ends_access`: the old access token dies with a refresh.
    `refresh_idle`, `refresh_life`: when an unused refresh token ends, and when any does (0 = not told).

    Refusing, in the words of the member `error` (or others: `error_members`, `description_members`).  `refusals`: the
    login is over.  `objections`: it is us who are wrong.  `deferrals`: not now.  They add to those of the RFCs.

    Ending.  `revocation`: whether tokens can be revoked (RFC 7009).  `end_session`: whether a browser can end the
    provider's own session without an ID token in its address; `end_session_parameters` may name `{client_id}` and
    `{redirect_uri}`.  `withdraw`: the page where a person takes back what they granted.

    `example`: what a profile of one's own says at least.  `remarks` are for people.  `sources`: an address, or "not
    verified", and the names of the facts that it vouches for.
    """

    name: str = "any"
    title: str = "any OpenID provider"
    issuer: str = "{issuer}"
    places: Mapping[str, str] = field(default_factory=dict, hash=False)
    recognised_by: tuple[str, ...] = ()
    discovered: bool = True
    server: Mapping[str, str] = field(default_factory=dict, hash=False)

    scope: str = "openid"
    offline: Literal["scope", "parameter", "always"] = "scope"
    offline_prompt: str = "consent"
    authorize: Mapping[str, str] = field(default_factory=dict, hash=False)
    resource_parameter: str = "resource"
    redirect_uri: str = "http://127.0.0.1/callback"
    loopback: Literal["any port", "registered port", "not verified"] = "any port"
    device: Told = "not verified"
    claims: Mapping[str, str] = field(default_factory=dict, hash=False)

    rotation: Literal["always", "optional", "never"] = "optional"
    grace: Literal["none", "same successor", "sibling", "count", "forever"] = "none"
    grace_seconds: float = 0.0
    reuse_interval: float = 0.0
    refresh_ends_access: bool = False
    refresh_idle: float = 0.0
    refresh_life: float = 0.0

    refusals: tuple[str, ...] = ()
    objections: tuple[str, ...] = ()
    deferrals: tuple[str, ...] = ()
    error_members: tuple[str, ...] = ("error",)
    description_members: tuple[str, ...] = ("error_description",)

    revocation: Told = "yes"
    end_session: bool = True
    end_session_parameters: Mapping[str, str] = field(default_factory=lambda: {"client_id": "{client_id}"}, hash=False)
    withdraw: str = ""

    example: Mapping[str, str] = field(default_factory=dict, hash=False)
    remarks: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        return f"<Dialect {self.name}{', with changes' if self.changes() else ''}>"

    # ── what the code asks ───────────────────────────────────────────────────────────────────────────────

    def at(self, places: Mapping[str, str]) -> str:
        """The issuer's address at these places.  Raises `ConfigurationError` for one too few or too many."""
        there = dict(self.places)
        if odd := [name for name in places if name not in there]:
            one = ", ".join(there) or "only the issuer"
            raise ConfigurationError(f"{self.title} has no {', '.join(odd)}: what says where it is, is {one}")
        there |= places
        if missing := [name for name, value in there.items() if not value] or ["issuer"] * ("{issuer}" in self.issuer):
            say = " and ".join(f"{name}=…" for name in missing)
            other = "" if missing == ["issuer"] else ", or the whole issuer=…"
            raise ConfigurationError(f"where is {self.title}?  Say {say}{other}")
        for name, value in there.items():
            if not value.replace(".", "").replace("-", "").replace("_", "").replace(":", "").isalnum():
                raise ConfigurationError(f"{name} = {value!r} cannot be a part of an address: say the whole issuer=…")
        return self.issuer.format_map(there)

    def end_points(self, issuer: str) -> dict[str, str]:
        """The end points that its metadata leaves out."""
        return {name: address.replace("{issuer}", issuer) for name, address in self.server.items()}

    def asked(self, scope: str) -> str:
        """That scope as it can be asked for here: offline_access only where it is a scope."""
        words = scope.split()
        if self.offline != "scope" and "offline_access" in words:
            return " ".join(word for word in words if word != "offline_access")
        return scope

    def authorization(self, scope: frozenset[str]) -> dict[str, str]:
        """What it wants in an authorization request besides the parameters of the RFCs."""
        prompt = {"prompt": self.offline_prompt} if self.offline == "scope" and "offline_access" in scope else {}
        return {**prompt, **self.authorize}

    def resource(self, resource: str) -> dict[str, str]:
        """How it is told which API a token is for (RFC 8707, or in its own way)."""
        return {self.resource_parameter: resource} if resource and self.resource_parameter else {}

    def identity(self, userinfo: Mapping[str, Any]) -> dict[str, Any]:
        """What userinfo says, under the names that OpenID Connect has for it."""
        named = {claim: userinfo[theirs] for claim, theirs in self.claims.items() if userinfo.get(theirs) is not None}
        return {**userinfo, **named}

    def ending(self, **known: str) -> dict[str, str] | None:
        """The parameters by which a browser ends its session; None where that cannot be."""
        told = {name: value.format_map(known) for name, value in self.end_session_parameters.items()}
        return told if self.end_session and all(told.values()) else None

    # ── otherwise ────────────────────────────────────────────────────────────────────────────────────────

    def but(self, changes: Mapping[str, Any], where: str) -> Dialect:
        """The same with some facts said otherwise; a table's entries are added, and "" takes one away.

        Raises `ConfigurationError` for a name that is no fact, or a value that none can have.
        """
        if odd := sorted(set(changes) - set(_DEFAULTS)):
            raise ConfigurationError(
                f"the dialect of {where} may set {', '.join(sorted(_DEFAULTS))}, not {', '.join(odd)}"
            )
        made: dict[str, Any] = {}
        for name, value in changes.items():
            made[name] = _fact(name, value, getattr(self, name), where)
        if clash := sorted(_OURS & set(made.get("authorize", ()))):
            raise ConfigurationError(f"{', '.join(clash)} in authorize of {where} is for the sign-in itself to say")
        return replace(self, **made)

    def changes(self) -> dict[str, Any]:
        """What is said otherwise here than of the provider of that name."""
        usual = known(self.name)
        found: dict[str, Any] = {}
        for name in _DEFAULTS:
            here, there = getattr(self, name), getattr(usual, name)
            if here == there:
                continue
            found[name] = (
                {entry: here.get(entry, "") for entry in {**here, **there} if here.get(entry) != there.get(entry)}
                if isinstance(here, Mapping)
                else here
            )
        return found

    def source(self, fact: str) -> str:
        """Where that fact is from; "" where it is not told at all."""
        return ", ".join(address for address, facts in self.sources.items() if fact in facts.split())


_OURS = frozenset({
    "client_id", "response_type", "redirect_uri", "scope", "state", "nonce", "code_challenge",
    "code_challenge_method", "request", "request_uri",
})  # fmt: skip
"""What an authorization request says for itself."""

_DEFAULTS: dict[str, Any] = {
    name: value
    for name, value in vars(Dialect()).items()
    if name not in ("name", "recognised_by", "example", "sources")
}
"""The facts that can be said otherwise."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "offline": ("scope", "parameter", "always"),
    "loopback": ("any port", "registered port", "not verified"),
    "device": ("yes", "no", "not verified"),
    "rotation": ("always", "optional", "never"),
    "grace": ("none", "same successor", "sibling", "count", "forever"),
    "revocation": ("yes", "no", "not verified"),
}


def _fact(name: str, value: Any, present: Any, where: str) -> Any:
    """A value in the type that the fact has."""
    match _DEFAULTS[name]:
        case bool():
            fits, kind = isinstance(value, bool), "true or false"
        case float():
            fits = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            value, kind = float(value) if fits else value, "a number of seconds"
        case tuple():
            fits = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
            value, kind = tuple(value) if fits else value, "a list of texts"
        case Mapping():
            fits = isinstance(value, Mapping) and all(isinstance(one, str) for pair in value.items() for one in pair)
            value = {entry: text for entry, text in {**present, **value}.items() if text} if fits else value
            kind = "a table of texts"
        case _:
            choices = _CHOICES.get(name)
            fits = isinstance(value, str) and (choices is None or value in choices)
            kind = f"one of {', '.join(choices)}" if choices else "a text"
    if not fits:
        raise ConfigurationError(f"{name} = {value!r} in the dialect of {where} has to be {kind}")
    return value


ANY = Dialect(
    example={"issuer": "https://id.example.org", "client_id": "notebook"},
    remarks=("Whatever it does otherwise can be said in the profile's table [profiles.NAME.dialect].",),
    sources={
        "https://openid.net/specs/openid-connect-core-1_0.html#OfflineAccess": "scope offline offline_prompt",
        "https://www.rfc-editor.org/rfc/rfc8252#section-7.3": "redirect_uri loopback",
        "https://www.rfc-editor.org/rfc/rfc8707#section-2": "resource_parameter",
        "https://www.rfc-editor.org/rfc/rfc6749#section-6": "rotation grace",
        "https://www.rfc-editor.org/rfc/rfc7009": "revocation",
        "https://openid.net/specs/openid-connect-rpinitiated-1_0.html": "end_session end_session_parameters",
    },
)
"""An OpenID provider of which nothing else is known."""


def names() -> tuple[str, ...]:
    """The names of the known providers, `any` the last of them."""
    from .facts import KNOWN

    return (*KNOWN, ANY.name)


def known(name: str) -> Dialect:
    """The provider of that name.  Raises `ConfigurationError`."""
    if name == ANY.name:
        return ANY
    from .facts import KNOWN

    if name not in KNOWN:
        raise ConfigurationError(
            f"{name!r} is no provider that is known here: there are {', '.join(names())}, and any other is told of "
            "by its issuer"
        )
    return KNOWN[name]


def recognised(issuer: str) -> Dialect:
    """The provider whose issuers have such an address; `ANY` for others."""
    _, _, rest = issuer.partition("://")
    host, slash, path = rest.partition("/")
    host, path = host.lower(), slash + path
    for name, marks in MARKS.items():
        if any(_carries(mark, host, path) for mark in marks):
            return known(name)
    return ANY


def _carries(mark: str, host: str, path: str) -> bool:
    if mark.startswith("/"):
        return mark in path and not path.endswith(mark)  # a realm is named behind it
    head, star, tail = mark.partition("*")
    if not star:
        return host == mark
    return host.startswith(head) and host.endswith(tail) and len(host) > len(head) + len(tail)
