"""Settings of a login: from the caller, from a profile in the configuration file, from the environment.

What the caller says counts before what the profile says, and that before `LOGINONCE_ISSUER`, `…_CLIENT_ID`,
`…_CLIENT_SECRET`, `…_SCOPE`, `…_ACCOUNT`, `…_STORE`.  `LOGINONCE_PROFILE` names the profile where the caller
names nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigurationError
from .home import config_file, state_folder
from .model import Secret
from .refresh import Policy
from .stores.base import TokenStore
from .stores.file import FileStore
from .stores.memory import MemoryStore

__all__ = ["Settings", "add_profile", "open_store", "profiles", "settings"]

GrantType = Literal["", "authorization_code", "client_credentials", "password"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that makes a login what it is; no token among it.

    `grant`: how the login comes about ("" = a person signs in).  `server`: metadata known better than the
    provider's documents say it.  `policy`: see `refresh.Policy`.  `profile`: the name it was loaded by.
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
    policy: Policy = field(default_factory=Policy)
    profile: str = ""

    @property
    def command(self) -> str:
        """What to run in a terminal to sign in."""
        if self.profile:
            return f"loginonce login {self.profile}"
        scope = f" --scope '{self.scope}'" if self.scope != "openid" else ""
        return f"loginonce login --issuer {self.issuer} --client-id {self.client_id}{scope}"


_TEXTS = (
    "issuer", "client_id", "client_secret", "token_endpoint_auth_method", "scope", "account", "resource",
    "redirect_uri", "grant", "store",
)  # fmt: skip
_FROM_ENVIRONMENT = ("issuer", "client_id", "client_secret", "scope", "account", "store")


def settings(profile_or_issuer: str | None = None, **given: Any) -> Settings:
    """The settings for a profile's name, an issuer's address, or whatever the environment says.

    Raises `ConfigurationError` for a profile that does not exist, and for members that are missing or odd.
    """
    named = profile_or_issuer or (None if given.get("issuer") else os.environ.get("LOGINONCE_PROFILE"))
    members: dict[str, Any] = {}
    if named is not None and "://" in named:
        members["issuer"] = named
    elif named is not None:
        members = {**_profile(named), "profile": named}
    members |= {name: value for name, value in given.items() if value not in (None, "", {})}
    for name in _FROM_ENVIRONMENT:
        if not members.get(name) and (value := os.environ.get(f"LOGINONCE_{name.upper()}")):
            members[name] = value
    return _checked(members, where=f"the profile {named!r}" if "profile" in members else "the session")


def _checked(members: dict[str, Any], *, where: str) -> Settings:
    known = {item.name for item in fields(Settings)}
    if unknown := set(members) - known:
        raise ConfigurationError(f"{where} has members that mean nothing here: {', '.join(sorted(unknown))}")
    for name in ("issuer", "client_id"):
        if not members.get(name):
            raise ConfigurationError(f"{where} has no {name}: give it, name a profile, or set LOGINONCE_{name.upper()}")
    for name in _TEXTS:
        if members.get(name) is not None and not isinstance(members[name], str):
            raise ConfigurationError(f"{name} of {where} has to be a text")
    if members.get("grant", "") not in ("", "authorization_code", "client_credentials", "password"):
        raise ConfigurationError(f"{members['grant']!r} of {where} is not a grant that can be chosen")
    if secret := members.get("client_secret"):
        members["client_secret"] = Secret(secret)
    if isinstance(policy := members.get("policy"), Mapping):
        try:
            members["policy"] = Policy(**policy)
        except TypeError:
            raise ConfigurationError(
                f"the policy of {where} may set {', '.join(item.name for item in fields(Policy))}"
            ) from None
    elif policy is not None and not isinstance(policy, Policy):
        raise ConfigurationError(f"the policy of {where} has to be a table")
    members["issuer"] = members["issuer"].rstrip("/")
    return Settings(**members)


# ── profiles ─────────────────────────────────────────────────────────────────────────────────────────────


def profiles() -> dict[str, dict[str, Any]]:
    """All profiles by name.  Raises `ConfigurationError` where the file cannot be understood."""
    import tomllib

    path = config_file()
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    found = content.get("profiles", {})
    if not isinstance(found, dict) or not all(isinstance(profile, dict) for profile in found.values()):
        raise ConfigurationError(f"{path}: a profile is a table of its own, such as [profiles.lab]")
    return found


def _profile(name: str) -> dict[str, Any]:
    found = profiles()
    if name not in found:
        there = f"there are {', '.join(sorted(found))}" if found else "there are none yet"
        raise ConfigurationError(
            f"there is no profile {name!r} in {config_file()} ({there}).  Make it with: loginonce login {name} "
            "--issuer ADDRESS --client-id ID"
        )
    return dict(found[name])


def add_profile(made: Settings) -> Path:
    """Append a profile to the configuration file, which is otherwise left as it is.  Secrets are left out."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", made.profile):
        raise ConfigurationError(f"{made.profile!r} cannot be a profile's name: use letters, digits, - and _")
    path = config_file()
    lines = [f"[profiles.{made.profile}]"]
    for name in _TEXTS:
        value = getattr(made, name)
        if value and name != "client_secret":
            lines.append(f"{name} = {json.dumps(value)}")  # a JSON string is a TOML basic string
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if file.tell() else "") + "\n".join(lines) + "\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
    return path


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────


def open_store(where: str) -> TokenStore:
    """The store at an address: "" (the usual folder), `file:/path`, `memory:`.

    Raises `ConfigurationError` for any other.
    """
    scheme, separator, rest = where.partition(":")
    if not where:
        return FileStore(state_folder() / "logins")
    if scheme == "file" and rest:
        return FileStore(rest.removeprefix("//"))
    if where == "memory:":
        return MemoryStore()
    raise ConfigurationError(f"{scheme + separator}… is not a store that is known here: use file:/folder or memory:")
