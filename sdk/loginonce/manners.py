"""How a plain JSON back end speaks, which knows no OAuth: where to send what, under which names; and what it says back.

    POST /auth/login    {"username": …, "password": …}  → {"accessToken", "accessTokenExpiry", "refreshToken"}
    POST /auth/refresh  {"token": …}                    → the same

A `Manners` is read from a table of settings (`read_manners`), whose names may be dotted where messages are nested.
Building a message and judging its answer are pure functions of it.  No RFC says what such an answer means, so less is
taken for granted than of OAuth: a refusal ends a login, and only what the settings name, or a 401 or 403 that carries
a JSON object, is one.  A page of HTML never is, nor a 5xx: those are of a gateway (HAZARDS 27).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from .address import secure
from .claims import unverified_claims
from .errors import ConfigurationError, ErrorResponse, InvalidGrant, ProtocolError
from .model import Members, Secret
from .wire import (
    SENDABLE,
    Answer,
    Busy,
    Granted,
    Lost,
    Misconfigured,
    Refused,
    Reply,
    TokenAnswer,
    for_people,
    json_object,
    read_retry_after,
)

__all__ = ["Manners", "Place", "judge_login", "judge_renewal", "message", "read_manners"]

EARLIEST = 1e9
"""POSIX seconds (2001): what is less is not when a token ends, but perhaps for how long it is good."""

AGREED = 2.0
"""Seconds: clocks that differ by less are taken for one."""

_REQUEST = {"username": "username", "password": "password", "refresh_token": "token", "access_token": ""}
_ANSWER = {
    "access_token": "accessToken",
    "refresh_token": "refreshToken",
    "expires_at": "accessTokenExpiry",
    "expires_in": "expiresIn",
    "expires_in_ms": "",
    "refresh_expires_at": "refreshTokenExpiry",
    "subject": "user.id",
    "name": "user.name",
    "error": "error",
    "message": "message",
}
_MEMBERS = ("login", "refresh", "logout", "request", "answer", "extra", "headers", "lifetime", "refused")
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Place(NamedTuple):
    """An HTTP method and an address."""

    method: str
    url: str


@dataclass(frozen=True, slots=True)
class Manners:
    """How one back end speaks.

    `login`, `refresh`, `logout`: where; None where there is no such place.  `request`, `answer`: our names for what is
    sent and what comes back, each with its name (or dotted path) there, "" where it has none.  `extra`: members of
    each message that never change.  `headers`: of each request.  `lifetime`: seconds that an access token is good for
    where nothing says it.  `refused`: the statuses, and the values of the answer's `error`, that end a login.
    """

    login: Place
    refresh: Place | None
    logout: Place | None
    request: Mapping[str, str] = field(default_factory=lambda: _REQUEST, hash=False)
    answer: Mapping[str, str] = field(default_factory=lambda: _ANSWER, hash=False)
    extra: Mapping[str, Any] = field(default_factory=Members, hash=False)
    headers: Mapping[str, Any] = field(default_factory=Members, hash=False)
    lifetime: float | None = None
    refused: frozenset[int | str] = frozenset()


# ── the settings ─────────────────────────────────────────────────────────────────────────────────────────


def read_manners(table: Mapping[str, Any], base: str, where: str) -> Manners:
    """The manners that a table of settings describes; addresses without a host are below `base`.

    Raises `ConfigurationError` for what is missing, unknown or odd; `where` tells the person which table is meant.
    """
    where = f"the backend of {where}"
    _known(table, _MEMBERS, where)
    login = _place(table, "login", base, where)
    if login is None:
        raise ConfigurationError(f"{where} has no login: say where it takes a password, such as login = '/auth/login'")
    extra, headers = _table(table, "extra", where), _table(table, "headers", where)
    for name, value in extra.items():
        if not isinstance(value, str | int | float | bool):
            raise ConfigurationError(f"extra.{name} of {where} has to be a text, a number, true or false")
    for name, value in headers.items():
        if not (re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and isinstance(value, str) and value.isprintable()):
            raise ConfigurationError(f"{name!r} among the headers of {where} is none that can be sent")
    lifetime, refused = table.get("lifetime"), table.get("refused", [])
    if lifetime is not None and (type(lifetime) not in (int, float) or not 0 < lifetime < 1e10):
        raise ConfigurationError(f"lifetime of {where} has to be a number of seconds")
    if not isinstance(refused, list | tuple) or not all(map(_is_refusal, refused)):
        raise ConfigurationError(
            f"refused of {where} has to be a list of statuses (400 to 499, but not 408 or 429) and words, such as "
            "[401, 'token_expired']"
        )
    return Manners(
        login,
        _place(table, "refresh", base, where),
        _place(table, "logout", base, where),
        _names(table, "request", _REQUEST, where),
        _names(table, "answer", _ANSWER, where),
        extra,
        headers,
        None if lifetime is None else float(lifetime),
        frozenset(refused),
    )


def _known(given: Mapping[str, Any], names: Any, where: str) -> None:
    if unknown := set(given) - set(names):
        raise ConfigurationError(
            f"{where} has members that mean nothing here: {', '.join(sorted(map(str, unknown)))}.  "
            f"There are {', '.join(names)}"
        )


def _table(table: Mapping[str, Any], name: str, where: str) -> Members:
    given = table.get(name, {})
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigurationError(f"{name} of {where} has to be a table")
    return Members(given)


def _names(table: Mapping[str, Any], which: str, standard: dict[str, str], where: str) -> dict[str, str]:
    given = _table(table, which, where)
    _known(given, standard, f"{which} of {where}")
    if odd := [name for name, value in given.items() if not isinstance(value, str)]:
        raise ConfigurationError(f"{which}.{odd[0]} of {where} has to be a name, or a path such as 'data.token'")
    return {**standard, **given}


def _place(table: Mapping[str, Any], name: str, base: str, where: str) -> Place | None:
    given = table.get(name, "")
    if given == "":
        return None
    found = re.fullmatch(r"(?:(POST|PUT|PATCH|DELETE) +)?(\S+)", given.strip()) if isinstance(given, str) else None
    address = found[2] if found else ""
    url = base.rstrip("/") + address if address.startswith("/") else address
    if found is None or not secure(url):
        raise ConfigurationError(
            f"{name} = {given!r} of {where} is no place that a secret could be sent to: it has to be a path such as "
            "'/auth/token' or an https address, with POST (which need not be said), PUT, PATCH or DELETE before it"
        )
    return Place(found[1] or "POST", url)


def _is_refusal(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return type(value) is int and 400 <= value < 500 and value not in (408, 429)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────


def message(manners: Manners, **values: str) -> Secret:
    """The JSON body with these values (by our names) and the constant members."""
    body: dict[str, Any] = Members()
    for path, value in manners.extra.items():
        _put(body, path, value)
    for name, value in values.items():
        if path := manners.request[name]:
            _put(body, path, value)
    return Secret(json.dumps(body))


def _put(body: dict[str, Any], path: str, value: object) -> None:
    *outer, last = path.split(".")
    for name in outer:
        inner = body.setdefault(name, Members())
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{path} cannot be sent beside {name}, which is a value of its own")
        body = inner
    body[last] = value


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────


def judge_renewal(answer: Answer, manners: Manners, now: float) -> Reply:
    """What the answer to a refresh means for the login."""
    status, content = answer.status, json_object(answer.body)
    said, what = _said(content, manners), _describe(answer, content, manners)
    if status in (429, 503):
        return Busy(what, read_retry_after(answer.headers, now))
    if status >= 500 or status == 408:
        return Lost(what, answered=True)
    page = answer.body.lstrip().startswith(b"<")
    if (status in manners.refused and not page) or said in manners.refused:
        return Refused(said or f"HTTP {status}", what)
    if 200 <= status < 300:
        granted = _granted(answer, content, manners, now)
        return granted if isinstance(granted, Lost) else Granted(granted)
    if status in (401, 403) and not page:
        if content is not None and not manners.refused:
            return Refused(said or f"HTTP {status}", what)
        return Misconfigured(
            "", f"{what}; if that is how it refuses a refresh token, say so in its backend: refused = [{status}]"
        )
    if status in (404, 405, 410):
        return Misconfigured("", f"{what}; is {manners.refresh.url if manners.refresh else ''} where it renews?")
    # A word of its own is no verdict, but it is an answer: whoever meets it twice has to sign in.
    return Lost(what, answered=content is None)


def judge_login(answer: Answer, manners: Manners, now: float) -> TokenAnswer:
    """The tokens for a name and a password.

    Raises `InvalidGrant` where they are not accepted, `ErrorResponse` for any other error, and `ProtocolError` where
    it makes no sense.
    """
    status, content = answer.status, json_object(answer.body)
    if not 200 <= status < 300:
        wrong = status in (400, 401, 403, 422) or (status == 404 and content is not None)
        kind, what = (InvalidGrant, "did not accept that") if wrong else (ErrorResponse, "did not answer the sign-in")
        raise kind(
            f"the back end {what}: {_describe(answer, content, manners)}",
            error=_said(content, manners),
            status=status,
        )
    granted = _granted(answer, content, manners, now)
    if isinstance(granted, Lost):
        if content is not None and (said := _said(content, manners)):  # "200 OK", it said, and meant no
            raise InvalidGrant(f"the back end did not accept that: {said}", error=said, status=status)
        raise ProtocolError(granted.detail)
    return granted


def _granted(answer: Answer, content: Mapping[str, Any] | None, manners: Manners, now: float) -> TokenAnswer | Lost:
    if content is None:
        return Lost("the back end's answer is not a JSON object")
    path = manners.answer["access_token"]
    access_token = _secret(content, path)
    if access_token is None or not SENDABLE.fullmatch(access_token):
        there = ", ".join(for_people(name, 40) for name in sorted(content)[:12]) or "nothing"
        return Lost(f"the back end's answer has no access token at {path!r}, only: {there}")
    refresh_token = _secret(content, manners.answer["refresh_token"]) if manners.refresh else None
    claims = unverified_claims(access_token)
    there_now = _time_there(answer, now)
    return TokenAnswer(
        access_token=access_token,
        expires_in=_life(content, manners, claims, there_now),
        refresh_token=refresh_token,
        refresh_expires_in=_left(_at(content, manners.answer["refresh_expires_at"]), there_now)
        or _left(unverified_claims(refresh_token).get("exp"), there_now),
        claims=_who(content, manners, claims),
    )


def _life(content: Mapping[str, Any], manners: Manners, claims: Mapping[str, Any], now: float) -> float | None:
    """Seconds that the access token is good for, by the first that says it; None where a 401 has to."""
    names = manners.answer
    sources: tuple[tuple[object, Callable[[object], float | None]], ...] = (
        (_at(content, names["expires_at"]), _moment),
        (_at(content, names["expires_in"]), _duration),
        (_at(content, names["expires_in_ms"]), lambda value: _duration(value, "ms")),
        (claims.get("exp"), _moment),  # which nobody has checked: it decides when to renew, and nothing else
    )
    for value, read in sources:
        if (seconds := read(value)) is not None:
            left = seconds - now if read is _moment else seconds
            return left if left > 0 else None
    return manners.lifetime


def _left(value: object, now: float) -> float | None:
    end = _moment(value)
    return end - now if end is not None and end > now else None


def _time_there(answer: Answer, now: float) -> float:
    """The back end's clock (POSIX seconds), by the Date of its answer, where ours is another (HAZARDS 33)."""
    try:
        there = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return now
    return now if -AGREED < now - there < AGREED else there + 1.0  # it has whole seconds: the later end of its own


def _moment(value: object) -> float | None:
    """POSIX seconds of a number, or a text of one (in s, ms, µs or ns), or of ISO 8601 (UTC where it names no zone)."""
    seconds = _number(value)
    if seconds is None and isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    while seconds is not None and seconds > 1e11:
        seconds /= 1000
    return seconds if seconds is not None and seconds >= EARLIEST else None


def _duration(value: object, unit: str = "") -> float | None:
    """Seconds of a number, or of a text such as `900`, `15m` or `1h`."""
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9.]+) ?(ms|s|m|h|d)", value.strip())):
        value, unit = found[1], found[2]
    seconds = _number(value)
    return seconds * _UNITS[unit] if seconds is not None and 0 < seconds < 1e12 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _who(content: Mapping[str, Any], manners: Manners, claims: Mapping[str, Any]) -> dict[str, str]:
    said = {"sub": _at(content, manners.answer["subject"]), "name": _at(content, manners.answer["name"])}
    hints = {name: claims.get(name) for name in ("sub", "name", "preferred_username", "email")}
    found = {**hints, **{name: value for name, value in said.items() if value is not None}}
    return {
        name: str(value)[:200]
        for name, value in found.items()
        if isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    }


def _said(content: Mapping[str, Any] | None, manners: Manners) -> str:
    """The word for what went wrong, "" where there is none."""
    value = _at(content or {}, manners.answer["error"])
    return for_people(value if isinstance(value, str) else "", 80)


def _describe(answer: Answer, content: Mapping[str, Any] | None, manners: Manners) -> str:
    told = [_said(content, manners), for_people(_at(content or {}, manners.answer["message"]), 200)]
    words = ", ".join(filter(None, told))
    return f"HTTP {answer.status} ({words})" if words else f"HTTP {answer.status}"


def _secret(content: Mapping[str, Any], path: str) -> Secret | None:
    value = _at(content, path)
    return Secret(value) if isinstance(value, str) and value else None


def _at(content: Mapping[str, Any], path: str) -> Any:
    """The value at a name or a dotted path, or None."""
    if path in content:
        return content[path]
    here: Any = content
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here
