"""Settings of a login: from the caller, from a profile in the configuration file, from the environment.

What the caller says counts before what the profile says, and that before `LOGINONCE_ISSUER`, `…_CLIENT_ID`,
`…_CLIENT_SECRET`, `…_PRIVATE_KEY`, `…_CERTIFICATE`, `…_CERTIFICATE_KEY`, `…_DPOP`, `…_SCOPE`, `…_ACCOUNT`, `…_STORE`.
`LOGINONCE_PROFILE` names the profile where the caller names nothing.  The secret that came with a registration
(`register`) counts where nobody says another.  `LOGINONCE_USERNAME` and `LOGINONCE_PASSWORD` sign in where a password
does, and are in no `Settings`.

The environment speaks of one login.  Where its issuer or its client is another than the one that was named, its
scope and account mean something else, and its secrets would be handed to a stranger: only the store counts then.

Whose login it is can be said by a provider's name (`google`, `keycloak`: see `providers`) and what its address is
made of (`realm`, `tenant`, …) in place of the issuer; or the issuer is recognised.  Either gives the `Dialect`, of
which a profile can say everything otherwise, and what holds where nobody says: the scope, and the policy's
`reuse_interval`.

A private key is a file's path, or its text (PEM, JWK), which is meant for the environment and is never saved.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from .address import secure
from .errors import ConfigurationError
from .home import config_file, state_folder
from .log import log
from .model import Members, Secret
from .providers import ANY, PLACES, Dialect, known, names, recognised
from .refresh import Policy
from .stores.remote import Address, public
from .value import Value, field, replace

__all__ = [
    "FROM_ENVIRONMENT",
    "GrantType",
    "Settings",
    "add_profile",
    "from_environment",
    "key_file",
    "key_or_path",
    "profile_name",
    "profiles",
    "set_member",
    "settings",
]

GrantType = Literal["", "authorization_code", "client_credentials", "password"]


class Settings(Value):
    """Everything that makes a login what it is; no token among it.

    `resource`: the APIs that it is for (RFC 8707), separated by spaces; requests are signed for the first.
    `grant`: how the login comes about ("" = a person signs in).  `server`: metadata known better than the
    provider's documents say it.  `backend`: how a plain JSON back end speaks, which knows no OAuth (see
    `manners.read_manners`).  `policy`: see `refresh.Policy`.  `profile`: the name it was loaded by.
    `dialect`: how the provider speaks, see `providers`.
    `private_key`: a path, or as a `Secret` the text of a key.  `certificate`, `certificate_key`: paths, the second ""
    where the first file holds both.  `assertion_audience`: see `model.Client`.  `dpop`: bind tokens to a key.
    """

    issuer: str
    client_id: str
    client_secret: Secret | None = None
    token_endpoint_auth_method: str | None = None
    scope: str = "openid"
    account: str = ""
    resource: str = ""
    redirect_uri: str = ""
    grant: GrantType = ""
    store: str = ""
    server: Mapping[str, Any] = field(default_factory=dict, hash=False)
    backend: Mapping[str, Any] = field(default_factory=dict, hash=False)
    policy: Policy = field(default_factory=Policy)
    profile: str = ""
    private_key: str = ""
    certificate: str = ""
    certificate_key: str = ""
    token_endpoint_auth_signing_alg: str | None = None
    assertion_audience: str = ""
    dpop: bool = False
    dialect: Dialect = ANY

    @property
    def cert(self) -> str | tuple[str, str] | None:
        """The client's certificate as requests takes it, or None."""
        if self.certificate and self.certificate_key:
            return self.certificate, self.certificate_key
        return self.certificate or None

    @property
    def command(self) -> str:
        """What to run in a terminal to sign in."""
        if self.profile:
            which = ["--account", self.account] if self.account else []
            return _typed(["loginonce", "login", self.profile, *which])
        words = ["loginonce", "login", "--issuer", self.issuer, "--client-id", self.client_id]
        if self.dialect.name not in (ANY.name, recognised(self.issuer).name):
            words += ["--provider", self.dialect.name]
        usual = {**_DEFAULTS, "scope": self.dialect.scope}
        for name in _OPTIONS:
            value = getattr(self, name)
            if name == "private_key":
                value = key_file(value)
            if value and value != usual.get(name) and not (self.backend and name == "grant"):
                words.append(f"--{name.replace('_', '-')}")
                words += [] if value is True else [public(value) if name == "store" else value]
        if self.backend:
            hidden = {name: dict.fromkeys(self.backend.get(name, {}), "…") for name in _SECRET_TABLES}
            words += ["--backend", json.dumps({**self.backend, **{k: v for k, v in hidden.items() if v}})]
        return _typed(words)

    @property
    def portable_backend(self) -> Mapping[str, Any]:
        """`backend` without what is secret, which is found again where the profile is.

        What a program has told of a back end by itself stays, and its secrets refuse to be pickled.
        """
        if not self.profile:
            return self.backend
        return Members({name: value for name, value in self.backend.items() if name not in _SECRET_TABLES})

    def credentials(self) -> tuple[str, Secret | None]:
        """The user name and the password that the environment has for this login; "" and None where it has none."""
        known = {"issuer": self.issuer, "client_id": self.client_id}
        if self.grant != "password" or "account" not in from_environment(known):
            return self.account, None
        password = os.environ.get("LOGINONCE_PASSWORD")
        name = os.environ.get("LOGINONCE_USERNAME", "").strip() or self.account
        return name, Secret(password) if password else None


_TEXTS = (
    "issuer", "client_id", "client_secret", "token_endpoint_auth_method", "scope", "account", "resource",
    "redirect_uri", "grant", "store", "private_key", "certificate", "certificate_key",
    "token_endpoint_auth_signing_alg", "assertion_audience",
)  # fmt: skip
_OPTIONS = (
    "scope", "account", "resource", "redirect_uri", "grant", "store", "private_key", "certificate", "certificate_key",
    "dpop",
)  # fmt: skip
FROM_ENVIRONMENT = (
    "issuer", "client_id", "client_secret", "scope", "account", "store", "private_key", "certificate",
    "certificate_key", "dpop",
)  # fmt: skip
_NOT_OF_A_BACKEND = (
    "client_secret", "token_endpoint_auth_method", "scope", "resource", "redirect_uri", "server", "private_key",
    "certificate", "certificate_key", "token_endpoint_auth_signing_alg", "assertion_audience", "dpop", "dialect",
)  # fmt: skip
_SECRET_TABLES = ("headers", "extra")
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_DEFAULTS: dict[str, Any] = {name: getattr(Settings, name, None) for name in Settings.__match_args__}


_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_")


def _typed(words: Sequence[str]) -> str:
    """What to type in a shell, as `shlex.join` has it."""
    if all(word and _UNQUOTED.issuperset(word) for word in words):
        return " ".join(words)
    # Imported here: it compiles a pattern to find the words that need quotes, and there is seldom one.
    import shlex

    return shlex.join(words)


def settings(profile_or_issuer: str | None = None, **given: Any) -> Settings:
    """The settings for a profile's name, an issuer's address, or whatever the environment says.

    Raises `ConfigurationError` for a profile that does not exist, and for members that are missing or odd.
    """
    named = profile_or_issuer or (None if given.get("issuer") else os.environ.get("LOGINONCE_PROFILE"))
    given = Members(given)
    members = Members()
    where = "the session"
    if named and "://" in named:
        members["issuer"] = named
    elif named and named not in (there := profiles()) and named in names():
        members["provider"] = named
    elif named:
        members |= {**_profile(named, there), "profile": named}
        where = f"the profile {named!r} in {config_file()}"
    members |= {name: value for name, value in given.items() if value not in (None, "", {})}
    provider = _provider(members, where)
    for name, value in from_environment(members).items():
        if value and members.get(name) in (None, "") and not (members.get("backend") and name in _NOT_OF_A_BACKEND):
            members[name] = value
    if provider is not None and not members.get("issuer"):
        provider.at({})  # raises, and says what is missing
    made = _checked(members, where=where, provider=provider)
    if made.client_secret is None and (state_folder() / "clients").exists():
        # Imported here: few clients are registered from here.
        from .register import registered_secret

        made = replace(made, client_secret=registered_secret(made.issuer, made.client_id))
    return made


def _provider(members: dict[str, Any], where: str) -> Dialect | None:
    """The provider that is named, if one is; its name and its places become the issuer, where they are all there."""
    name = members.pop("provider", "") or ""
    places = {place: members.pop(place) for place in PLACES if place in members}
    for said, value in {"provider": name, **places}.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{said} of {where} has to be a text")
    provider = known(name) if name else None
    if places and (provider is None or members.get("issuer")):
        why = "the issuer says that already" if members.get("issuer") else "name the provider too: provider=…"
        raise ConfigurationError(f"{', '.join(places)} of {where} means nothing: {why}")
    if provider is not None and not members.get("issuer"):
        # Where nothing is said of its place, the environment may know the issuer.
        whole = all(provider.places.values()) and "{issuer}" not in provider.issuer
        if places or whole:
            members["issuer"] = provider.at(places)
    return provider


def from_environment(members: Mapping[str, Any]) -> dict[str, str]:
    """What the environment adds to a login of which this much is known."""
    found = Members({name: os.environ.get(f"LOGINONCE_{name.upper()}", "").strip() for name in FROM_ENVIRONMENT})
    for name in ("issuer", "client_id"):
        known = members.get(name)
        if known and found[name] and str(known).rstrip("/") != found[name].rstrip("/"):
            return {"store": found["store"]}
    return found


def _checked(members: dict[str, Any], *, where: str, provider: Dialect | None = None) -> Settings:
    settable = set(Settings.__match_args__)
    if unknown := set(members) - settable:
        raise ConfigurationError(
            f"{where} has members that mean nothing here: {', '.join(sorted(unknown))}.  There are "
            f"{', '.join(sorted({*settable, 'provider', *PLACES} - {'profile'}))}"
        )
    if members.get("backend"):
        members |= {"client_id": members.get("client_id") or "loginonce", "scope": members.get("scope") or ""}
    for name in ("issuer", "client_id"):
        if not members.get(name):
            raise ConfigurationError(f"{where} has no {name}: give it, name a profile, or set LOGINONCE_{name.upper()}")
    for name in _TEXTS:
        if members.get(name) is not None and not isinstance(members[name], str):
            raise ConfigurationError(f"{name} of {where} has to be a text")
    members["issuer"] = _issuer(members["issuer"], where)
    if backend := members.get("backend"):
        members |= _of_backend(backend, members, where)
    members["dialect"] = dialect = _dialect(members, provider, where)
    if members.get("grant", "") not in get_args(GrantType):
        raise ConfigurationError(
            f"{members['grant']!r} of {where} is not a grant that can be chosen: there are "
            f"{', '.join(filter(None, get_args(GrantType)))}"
        )
    if secret := members.get("client_secret"):
        members["client_secret"] = Secret(secret)
    members["private_key"] = key_or_path(members.get("private_key"))
    for name in ("certificate", "certificate_key"):
        if members.get(name):
            members[name] = _whole_path(members[name])
    if isinstance(members.get("dpop"), str):
        members["dpop"] = _SWITCH.get(members["dpop"].lower())
    if not isinstance(members.get("dpop", False), bool):
        raise ConfigurationError(f"dpop of {where} has to be true or false")
    if store := members.get("store"):
        members["store"] = Address(store)
    if members.get("grant") == "client_credentials":
        members.setdefault("scope", "")  # a service is nobody, so it does not ask who it is
    members["scope"] = dialect.asked(members.get("scope", dialect.scope))
    if members.get("resource") and not dialect.resource_parameter:
        raise ConfigurationError(
            f"{dialect.title} is not told the resource that {where} has: see loginonce providers {dialect.name}"
        )
    if not isinstance(members.get("server", {}), Mapping):
        raise ConfigurationError(f"the server of {where} has to be a table of RFC 8414 names")
    policy = members.get("policy")
    if isinstance(policy, Mapping):
        members["policy"] = _policy({"reuse_interval": dialect.reuse_interval, **policy}, where)
    elif policy is None:
        members["policy"] = Policy(reuse_interval=dialect.reuse_interval)
    elif not isinstance(policy, Policy):
        raise ConfigurationError(f"the policy of {where} has to be a table")
    return Settings(**{name: value for name, value in members.items() if value is not None})


def _of_backend(given: Any, members: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a back end makes of the other members."""
    # Imported here: most logins are at a provider.
    from .manners import read_manners

    if not isinstance(given, Mapping):
        raise ConfigurationError(f"the backend of {where} has to be a table, such as {{ login = '/auth/login' }}")
    odd = [name for name in _NOT_OF_A_BACKEND if members.get(name)]
    if odd or members.get("grant", "") not in ("", "password"):
        raise ConfigurationError(f"{where} has a backend, which knows no OAuth and so no {', '.join(odd) or 'grant'}")
    table = Members(given)
    for name in _SECRET_TABLES:
        if isinstance(inner := table.get(name), Mapping):
            table[name] = Members(
                {each: Secret(value) if isinstance(value, str) else value for each, value in inner.items()}
            )
    read_manners(table, members["issuer"], where)
    return {"backend": table, "grant": "password"}


def _dialect(members: dict[str, Any], provider: Dialect | None, where: str) -> Dialect:
    dialect = provider or recognised(members["issuer"])
    said = members.get("dialect")
    if isinstance(said, Dialect):
        return said
    if said is not None and not isinstance(said, Mapping):
        raise ConfigurationError(f"the dialect of {where} has to be a table: see loginonce providers")
    return dialect.but(said, where) if said else dialect


def key_or_path(given: str | None) -> str:
    """A private key as it may be kept: its text as a `Secret`, its path whole."""
    if not given or isinstance(given, Secret):
        return given or ""
    if given.lstrip().startswith(("-----BEGIN", "{")):
        return Secret(given)
    return _whole_path(given)


def key_file(private_key: str) -> str:
    """What of a private key may be saved and sent: its path, or nothing."""
    return "" if isinstance(private_key, Secret) else private_key


def _whole_path(given: str) -> str:
    return os.path.abspath(os.path.expanduser(given))


def _issuer(given: str, where: str) -> str:
    try:
        if secure(given):
            return given.rstrip("/")
    except ValueError:  # of urllib: not an address at all
        pass
    raise ConfigurationError(
        f"{given!r}, of {where}, cannot be an issuer: it has to be an https address (or http on this machine)"
    )


def _policy(given: Mapping[str, Any], where: str) -> Policy:
    defaults = Policy()
    for name, value in given.items():
        default = getattr(defaults, name, None) if name in Policy.__match_args__ else None
        if default is None:
            raise ConfigurationError(f"the policy of {where} may set {', '.join(Policy.__match_args__)}, not {name}")
        if isinstance(default, str):
            fits = value in ("retry_once", "login")
        else:
            kind = int if isinstance(default, int) else int | float
            fits = isinstance(value, kind) and not isinstance(value, bool) and value >= 0
        if not fits:
            raise ConfigurationError(f"{name} = {value!r} in the policy of {where} is no value for it: see {default!r}")
    return Policy(**given)


# ── profiles ─────────────────────────────────────────────────────────────────────────────────────────────


def profiles() -> dict[str, dict[str, Any]]:
    """All profiles by name, as the file has them.  Raises `ConfigurationError` where it cannot be understood."""
    path = config_file()
    try:
        return _parsed(path.read_bytes().decode("utf-8"), path)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None


def _parsed(text: str, path: Path) -> dict[str, dict[str, Any]]:
    # Imported here: a login without a profile needs no TOML.
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.  Mend it with an editor") from None
    found = content.get("profiles", {})
    if not isinstance(found, dict) or not all(isinstance(profile, dict) for profile in found.values()):
        raise ConfigurationError(f"{path}: a profile has to be a table of its own, such as [profiles.lab]")
    return {name: _hidden(profile) for name, profile in found.items()}


def _hidden(profile: dict[str, Any]) -> Members:
    """A profile that does not show in a traceback, nor what is in its tables."""
    return Members({name: Members(value) if isinstance(value, dict) else value for name, value in profile.items()})


def _profile(name: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in found:
        there = f"there are {', '.join(sorted(found))}" if found else "there are none yet"
        raise ConfigurationError(
            f"there is no profile {name!r} in {config_file()} ({there}).  Make it with: "
            f"{_typed(['loginonce', 'login', name])} --issuer ADDRESS --client-id ID, or name a provider: see "
            "loginonce providers"
        )
    profile, backend = found[name], found[name].get("backend")
    by_header = isinstance(backend, Mapping) and "headers" in backend
    if "client_secret" in profile or by_header or isinstance(key_or_path(str(profile.get("private_key", ""))), Secret):
        _warn_if_open(config_file())
    return dict(found[name])


def _warn_if_open(path: Path) -> None:
    if hasattr(os, "geteuid") and stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("%s holds a secret and is open to other users.  Run: chmod 600 '%s'", path, path)


def profile_name(name: str) -> str:
    """The name, if a profile can be called so (TOML's bare keys).  Raises `ConfigurationError`."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigurationError(f"{name!r} cannot be a profile's name: use letters, digits, - and _")
    return name


def add_profile(made: Settings) -> Path:
    """Append a profile to the configuration file, which is otherwise left as it is.  Secrets are left out.

    Nothing is written where that profile is there already, as two terminals that sign in at once both get
    here.  Raises `ConfigurationError` where there is another one of its name, and where the file would not be
    valid afterwards.
    """
    profile_name(made.profile)
    path = config_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            text = path.read_text("utf-8") if path.exists() else ""
            if made.profile in (there := _parsed(text, path)):
                _same(made, there[made.profile], path)
                return path
            added = ("" if not text else "\n" if text.endswith("\n") else "\n\n") + _table(made)
            _parsed(text + added, path)
            # Appended, not replaced: the file may be a link into somebody's dot-files, and stays one.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
            with open(descriptor, "a", encoding="utf-8") as file:
                file.write(added)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the profile {made.profile!r} cannot be saved in {path}: {error}") from None
    return path


def set_member(profile: str, name: str, value: str) -> Path:
    """Write one member of a profile, such as its `store` or `account`; all else in the file stays as it is.

    Raises `ConfigurationError` where that cannot be done for certain; nothing is changed then.
    """
    path = Path(os.path.realpath(config_file()))  # it may be a link into somebody's dot-files, and stays one
    by_hand = f"write {name} = {_toml(value)} under [profiles.{profile}] in {path}"
    try:
        with _alone(path):
            text = path.read_bytes().decode("utf-8")
            wanted = _parsed(text, path)
            if profile not in wanted:
                raise ConfigurationError(f"there is no profile {profile!r} in {path}")
            if name == "store":
                value = public(value)  # a password has its place elsewhere, as for any other profile
            wanted[profile][name] = value
            changed = _with_member(text, profile, name, value)
            # It was edited as text, to keep comments and order; whether that went well is for the parser to say.
            if not _means(changed, wanted, path):
                raise ConfigurationError(
                    f"the profile {profile!r} is written in a way that is not edited here: {by_hand}"
                )
            beside = f"{path}.{os.getpid()}"
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                with open(descriptor, "w", encoding="utf-8", newline="") as file:
                    file.write(changed)
                    file.flush()
                    os.fsync(descriptor)
                os.chmod(beside, stat.S_IMODE(path.stat().st_mode))
                os.replace(beside, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside)
                raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the profile {profile!r} cannot be changed ({error}): {by_hand}") from None
    return path


def _means(text: str, wanted: dict[str, dict[str, Any]], path: Path) -> bool:
    with suppress(ConfigurationError):
        return _parsed(text, path) == wanted
    return False


def _with_member(text: str, profile: str, name: str, value: str) -> str:
    """The file's text with that member in the profile's table, where it has one of its own."""
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"\s*\[\s*profiles\s*\.\s*[\"']?{re.escape(profile)}[\"']?\s*\]")
    begin = next((number for number, line in enumerate(lines) if header.match(line)), None)
    if begin is None:
        return text
    end = next((n for n in range(begin + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    there = next((n for n in range(begin + 1, end) if re.match(rf"\s*{name}\s*=", lines[n])), None)
    line_end = "\r\n" if lines[begin].endswith("\r\n") else "\n"
    if there is not None:
        lines[there] = f"{name} = {_toml(value)}{line_end}"
    else:
        lines[begin] = f"{lines[begin].rstrip()}{line_end}"
        lines.insert(begin + 1, f"{name} = {_toml(value)}{line_end}")
    return "".join(lines)


def _same(made: Settings, there: dict[str, Any], path: Path) -> None:
    where = f"the profile {made.profile!r} in {path}"
    members = {**there, "profile": made.profile}
    present = _checked(members, where=where, provider=_provider(members, where))
    if _without_secrets(present) != _without_secrets(made):
        raise ConfigurationError(
            f"there is another profile {made.profile!r} already: edit it in {path}, or choose another name"
        )


def _without_secrets(made: Settings) -> Settings:
    return replace(made, client_secret=None, private_key=key_file(made.private_key), store=public(made.store))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process adds a profile meanwhile."""
    # Imported here: most programs never write a profile.
    from filelock import FileLock

    lock = FileLock(
        f"{path}.lock", mode=0o600, thread_local=False, fallback_to_soft=False, preserve_lock_file=True, timeout=10
    )
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        yield  # a file system without locks: nobody loses a login by that here
        return
    try:
        yield
    finally:
        lock.release()


def _table(made: Settings) -> str:
    made = _without_secrets(made)
    members: dict[str, Any] = {name: getattr(made, name) for name in (*_TEXTS, "dpop")}
    if made.dialect.name != recognised(made.issuer).name:
        members["provider"] = made.dialect.name
    members["dialect"] = made.dialect.changes()
    standard = Policy(reuse_interval=made.dialect.reuse_interval)
    members["server"] = dict(made.server)
    members["backend"] = made.backend
    members["policy"] = {
        name: value
        for name in Policy.__match_args__
        if (value := getattr(made.policy, name)) != getattr(standard, name)
    }
    lines = [f"{name} = {_toml(value)}" for name, value in members.items() if value]
    return "\n".join([f"[profiles.{made.profile}]", *lines]) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # A JSON string is a TOML basic string, but for the one control character that JSON lets pass.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case Mapping():
            return f"{{ {', '.join(f'{_toml(str(name))} = {_toml(item)}' for name, item in value.items())} }}"
    raise ConfigurationError(f"a {type(value).__name__} cannot be saved in a profile")
