"""A grant as bytes and back: the stored form, the same in every store.

One header line (`loginonce <schema> <sha256 of the rest>`) and one line of JSON.  The header says which
version wrote the record before anything of it is interpreted, and tells a torn or garbled record from a whole
one (HAZARDS 19).  Unknown members of a known schema are ignored, so that a newer minor version may add some.

A record whose secrets are kept apart (`take_apart`) has a schema of its own: a version that knows nothing of that
must not take it for a login without tokens.  So has one with a key to which its tokens are bound: a version that knows
nothing of keys would lose it by the next refresh, and the login with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, get_args

from .errors import CorruptStore, StoreError
from .model import Failure, Grant, GrantKey, Marker, Renewal, Secret, State, TokenSet
from .value import replace

__all__ = [
    "SCHEMA",
    "SCHEMA_APART",
    "SCHEMA_BOUND",
    "Unshown",
    "binding",
    "decode",
    "encode",
    "put_together",
    "take_apart",
]

SCHEMA, SCHEMA_APART, SCHEMA_BOUND = 1, 2, 3

_HEXADECIMAL = frozenset(b"0123456789abcdef")


LONGEST_HEADER = 96
"""Bytes within which the first line of a record ends."""


class Unshown(bytes):
    """What holds secrets in the clear, and no traceback shows; a part of it is plain bytes again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


def encode(grant: Grant) -> Unshown:
    """The record as bytes.  It holds the secrets in the clear: a store keeps it where only its owner reads."""
    body = _dumped(_as_json(grant))
    return Unshown(b"loginonce %d %s\n%s\n" % (_schema(grant), _checksum(body), body))


def decode(data: bytes) -> Grant:
    """The grant that these bytes hold.

    Raises `CorruptStore` where they are torn or garbled, and `StoreError` where a newer version wrote them.
    Neither message shows anything of the content.
    """
    begin = Unshown(data[:LONGEST_HEADER])
    if begin.find(b"\n") < 0:  # what it begins with may be its secrets
        raise CorruptStore("it does not begin like a login record")
    header = begin.partition(b"\n")[0]
    schema, checksum = _read_header(header)
    if schema > SCHEMA_BOUND:
        raise StoreError(
            f"it was written by a newer version (schema {schema}, this one reads up to {SCHEMA_BOUND}); "
            "upgrade loginonce here"
        )
    body = Unshown(data[len(header) + 1 : -1])
    if data[-1:] != b"\n" or _checksum(body) != checksum:
        raise CorruptStore("its checksum does not match: it was cut short or altered")
    try:
        grant = _from_json(json.loads(body))
        if schema == _schema(grant):
            return grant
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        pass
    # Out here: the decoder's own message, and the frames behind it, quote the content.
    raise CorruptStore("its content is not that of a login record")


def _read_header(header: bytes) -> tuple[int, bytes]:
    """Schema and checksum.  By hand: to compile a pattern for it takes longer than all else that is read here."""
    name, _, said = header.partition(b" ")
    schema, _, checksum = said.partition(b" ")
    number = schema.isdigit() and len(schema) <= 6 and schema[:1] != b"0"
    if name != b"loginonce" or not number or len(checksum) != 64 or not _HEXADECIMAL.issuperset(checksum):
        raise CorruptStore("it does not begin like a login record")
    return int(schema), checksum


def _schema(grant: Grant) -> int:
    """What a version has to know of to read it."""
    return SCHEMA_BOUND if grant.dpop_key else SCHEMA_APART if grant.sealed else SCHEMA


# ── secrets apart from the rest ──────────────────────────────────────────────────────────────────────────

_SECRETS = ("refresh_token", "tokens", "claims", "dpop_key")


def take_apart(grant: Grant) -> tuple[Grant, bytes]:
    """What anybody may read, by which stores compare and order records; and the secrets, as bytes (b"": none)."""
    stored = _as_json(grant)
    secrets = {name: stored[name] for name in _SECRETS if stored.get(name)}
    readable = replace(grant, refresh_token=None, tokens=(), claims={}, dpop_key=None)
    return readable, Unshown(_dumped(secrets) if secrets else b"")


def put_together(readable: Grant, secrets: bytes) -> Grant:
    """The grant that was taken apart.  Raises `StoreError` for secrets of a form that this version does not know."""
    secrets = Unshown(secrets)  # also in a traceback through here
    try:
        return _with_secrets(readable, secrets)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        pass
    # Out here, where no frame behind it quotes the content.
    raise StoreError("its secrets were written by a newer version, it seems; upgrade loginonce here")


def _with_secrets(readable: Grant, secrets: bytes) -> Grant:
    stored = {"refresh_token": None, "tokens": [], "claims": {}, **json.loads(secrets)}
    return _from_json({**_as_json(readable), **stored, "sealed": ""})


def binding(readable: Grant) -> str:
    """What ties secrets to the record that they were taken from: a digest of all that is readable of it.

    The name of its store is left out, which the store gives it later.
    """
    return hashlib.sha256(_dumped(_as_json(replace(readable, store="", sealed="")))).hexdigest()


# ── members ──────────────────────────────────────────────────────────────────────────────────────────────


def _dumped(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":"), sort_keys=True).encode()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _as_json(grant: Grant) -> dict[str, Any]:
    return {
        "issuer": grant.key.issuer,
        "client_id": grant.key.client_id,
        "account": grant.key.account,
        "epoch": grant.epoch,
        "generation": grant.generation,
        "attempt": grant.attempt,
        "state": grant.state,
        "renewal": grant.renewal,
        "refresh_token": grant.refresh_token,
        "refresh_expires_at": grant.refresh_expires_at,
        "tokens": [_members(token) for token in grant.tokens],
        "marker": grant.marker and _members(grant.marker),
        "failure": grant.failure and _members(grant.failure),
        "scope": grant.scope,
        **({"resources": list(grant.resources)} if grant.resources else {}),
        "subject": grant.subject,
        "claims": dict(grant.claims),
        "store": grant.store,
        **({"sealed": grant.sealed} if grant.sealed else {}),
        **({"dpop_key": grant.dpop_key} if grant.dpop_key else {}),
    }


def _members(value: TokenSet | Marker | Failure) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__match_args__ if name != "dpop_key"}  # the grant's


def _from_json(stored: dict[str, Any]) -> Grant:
    if stored["state"] not in get_args(State) or stored["renewal"] not in get_args(Renewal):
        raise ValueError
    if (stored["state"] == "SPENDING") != (stored["marker"] is not None):
        raise ValueError
    if not isinstance(stored["tokens"], list) or not isinstance(stored["claims"], dict):
        raise TypeError
    return Grant(
        key=GrantKey(_text(stored, "issuer"), _text(stored, "client_id"), _text(stored, "account")),
        epoch=_count(stored, "epoch"),
        generation=_count(stored, "generation"),
        attempt=_count(stored, "attempt"),
        state=stored["state"],
        renewal=stored["renewal"],
        refresh_token=_secret(stored, "refresh_token"),
        refresh_expires_at=_end(stored, "refresh_expires_at"),
        tokens=tuple(_token(token) for token in stored["tokens"]),
        marker=None if stored["marker"] is None else _marker(stored["marker"]),
        failure=None if stored["failure"] is None else _failure(stored["failure"]),
        scope=_text(stored, "scope"),
        resources=_texts({"resources": [], **stored}, "resources"),
        subject=_text(stored, "subject"),
        claims=stored["claims"],
        store=_text(stored, "store"),
        sealed=_text({"sealed": "", **stored}, "sealed"),
        dpop_key=_secret({"dpop_key": None, **stored}, "dpop_key"),
    )


def _token(stored: dict[str, Any]) -> TokenSet:
    return TokenSet(
        access_token=Secret(_text(stored, "access_token")),
        received_at=_time(stored, "received_at"),
        expires_at=_end(stored, "expires_at"),
        token_type=_text(stored, "token_type"),
        scope=_text(stored, "scope"),
        resource=_text(stored, "resource"),
        for_scope=_text(stored, "for_scope"),
        id_token=_secret(stored, "id_token"),
    )


def _marker(stored: dict[str, Any]) -> Marker:
    return Marker(
        fingerprint=_text(stored, "fingerprint"),
        nonce=_text(stored, "nonce"),
        owner=_text(stored, "owner"),
        sent_at=_time(stored, "sent_at"),
        deadline=_time(stored, "deadline"),
        sends=_count(stored, "sends"),
    )


def _failure(stored: dict[str, Any]) -> Failure:
    return Failure(
        fingerprint=_text(stored, "fingerprint"),
        kind=_text(stored, "kind"),
        detail=_text(stored, "detail"),
        not_before=_time(stored, "not_before"),
        count=_count(stored, "count"),
    )


def _text(stored: dict[str, Any], name: str) -> str:
    value = stored[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _texts(stored: dict[str, Any], name: str) -> tuple[str, ...]:
    values = stored[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(name)
    return tuple(values)


def _secret(stored: dict[str, Any], name: str) -> Secret | None:
    return None if stored[name] is None else Secret(_text(stored, name))


def _time(stored: dict[str, Any], name: str) -> float:
    value = stored[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(name)
    return float(value)


def _end(stored: dict[str, Any], name: str) -> float | None:
    return None if stored[name] is None else _time(stored, name)


def _count(stored: dict[str, Any], name: str) -> int:
    value = stored[name]
    if type(value) is not int or value < 0:
        raise TypeError(name)
    return value
