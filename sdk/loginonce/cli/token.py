"""`loginonce token`, which scripts run again and again.

A token that is there is printed without click and without requests, which take longer to import than all the rest.
`asked` understands the plain ways to write the command; any other command line is for click to judge.  Either way it is
`print_token` that does the work, and `commands` that says what went wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..assembly import source_of
from ..config import profiles, settings
from ..text import say

__all__ = ["asked", "meant", "print_token"]

_OPTIONS = {"--account": "account", "--resource": "resource", "--for-scope": "scope"}

_EXPANDED = frozenset("*?[~$%")
"""What click expands in the arguments where the shell does not (Windows)."""


def asked(arguments: Sequence[str]) -> dict[str, str] | None:
    """What `print_token` is to be called with, if this is the command `token` in plain words; else None."""
    if list(arguments[:1]) != ["token"] or "_LOGINONCE_COMPLETE" in os.environ:
        return None
    given: dict[str, str] = {}
    words = iter(arguments[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _OPTIONS:
            name, value = "profile", word
        elif not equals:
            value = next(words, "")
        name = _OPTIONS.get(name, name)
        if name in given or not value or value.startswith("-") or not _EXPANDED.isdisjoint(value):
            return None
        given[name] = value
    return given


def print_token(profile: str | None = None, *, account: str | None = None, resource: str = "", scope: str = "") -> None:
    """Print an access token that is good now.  Raises what `TokenSource.token` and `meant` raise."""
    made = settings(meant(profile), account=account)
    source = source_of(made, f"Run: {made.command}")
    if resource or scope:
        source = source.narrowed(resource=resource, scope=scope)
    usable = source.token()
    if usable.dpop_key is not None:
        say("This token is bound to a key of its login (DPoP): without a proof by that key no API takes it")
    sys.stdout.write(f"{usable.access_token}\n")
    sys.stdout.flush()


def meant(profile: str | None) -> str | None:
    """The profile that is meant: the given one, the environment's, the only one there is.

    None where the environment describes a login without a profile.  Raises `click.UsageError`.
    """
    name = profile or os.environ.get("LOGINONCE_PROFILE")
    if name or os.environ.get("LOGINONCE_ISSUER"):
        return name or None
    names = sorted(profiles())
    if len(names) == 1:
        return names[0]
    # Imported here: see above.
    from click import UsageError

    if names:
        raise UsageError(f"which login is meant?  Name one of the profiles: {', '.join(names)}")
    raise UsageError("there is no profile yet.  Make one with: loginonce login NAME --issuer ADDRESS --client-id ID")
