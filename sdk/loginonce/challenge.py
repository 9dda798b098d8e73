"""What an API says of the credentials it did not take: the WWW-Authenticate header (RFC 9110 §11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .errors import StepUpRequired
from .model import scope_set
from .wire import for_people, seconds

__all__ = ["Challenge", "bearer_challenge", "parse_challenges", "step_up"]


class Challenge(NamedTuple):
    """One challenge of a WWW-Authenticate header (RFC 9110 §11.6.1); scheme and names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_BETWEEN = re.compile(r"[ \t]*,[ \t,]*|[ \t]+")


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges in a WWW-Authenticate value, several of which may stand in one header.

    What cannot be read ends the reading; nothing is raised, since an API's header is not ours to judge.
    """
    challenges: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = 0
    while at < len(header):
        if between := _BETWEEN.match(header, at):
            at = between.end()
        elif challenges and (found := _PARAMETER.match(header, at)):
            name, quoted, plain = found.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = found.end()
        elif found := _SCHEME.match(header, at):
            parameters = {}
            challenges.append(Challenge(found[1].lower(), parameters))
            at = found.end()
            if not _PARAMETER.match(header, at) and (token68 := _TOKEN68.match(header, at)):
                at = token68.end()
        else:
            break
    return challenges


def bearer_challenge(header: str) -> Mapping[str, str] | None:
    """The parameters of the first Bearer or DPoP challenge (RFC 6750 §3), or None."""
    for challenge in parse_challenges(header):
        if challenge.scheme in ("bearer", "dpop"):
            return challenge.parameters
    return None


def step_up(challenge: Mapping[str, str], granted: str) -> StepUpRequired | None:
    """What the API wants that only a sign-in can give (RFC 9470 §3, RFC 6750 §3.1), None if nothing of that kind.

    `granted` is the scope of the token that was refused.  Where all of the scope that the API names was in it, or it
    names none, there is nothing that could be asked for: then it is the person who may not.
    """
    asked, wishes = scope_set(challenge.get("scope")), []
    missing = " ".join(sorted(asked - scope_set(granted)))
    acr_values, max_age = _printable(challenge.get("acr_values", "")), seconds(challenge.get("max_age"))
    if challenge.get("max_age", "").strip() == "0":
        max_age = 0.0
    match challenge.get("error"):
        case "insufficient_user_authentication":
            wishes += [f"a sign-in as strong as {acr_values}"] if acr_values else []
            wishes += [f"one that is at most {max_age:.0f} s old"] if max_age is not None else []
            wishes = wishes or ["a stronger or fresher sign-in"]
        case "insufficient_scope" if missing:
            acr_values, max_age = "", None
        case _:
            return None
    wishes += [f"the scope {_printable(missing)}"] if missing else []
    return StepUpRequired(
        f"the API wants {', and '.join(wishes)}",
        acr_values=acr_values,
        max_age=max_age,
        scope=_printable(missing),
        hint="Catch it as challenge, and call .login(challenge) on the session.",
    )


def _printable(text: str) -> str:
    return for_people(text, 500)
