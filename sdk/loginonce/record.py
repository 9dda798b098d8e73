"""A grant as bytes and back: the stored form, the same in every store.

One header line (`loginonce <schema> <sha256 of the rest>`) and one line of JSON.  The header says which
version wrote the record before anything of it is interpreted, and tells a torn or garbled record from a whole
one (HAZARDS 19).  Unknown members of a known schema are ignored, so that a newer minor version may add some.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .errors import CorruptStore, StoreError
from .model import Failure, Grant, GrantKey, Marker, Secret, TokenSet

__all__ = ["SCHEMA", "decode", "encode"]

SCHEMA = 1


def encode(grant: Grant) -> bytes:
    """The record as bytes.  It holds the secrets in the clear: a store keeps it where only its owner reads."""
    body = json.dumps(_as_json(grant), separators=(",", ":"), sort_keys=True).encode()
    return b"loginonce %d %s\n%s\n" % (SCHEMA, _checksum(body), body)


def decode(data: bytes) -> Grant:
    """The grant that these bytes hold.

    Raises `CorruptStore` where they are torn or garbled, and `StoreError` where a newer version wrote them.
    Neither message shows anything of the content.
    """
    header, _, rest = data.partition(b"\n")
    match header.split(b" "):
        case [b"loginonce", schema, checksum] if schema.isdigit():
            pass
        case _:
            raise CorruptStore("it does not begin like a login record")
    if int(schema) > SCHEMA:
        raise StoreError(
            f"it was written by a newer version (schema {int(schema)}, this one reads up to {SCHEMA}): "
            "upgrade loginonce here"
        )
    body = rest.removesuffix(b"\n")
    if _checksum(body) != checksum:
        raise CorruptStore("its checksum does not match: it was cut short or altered")
    try:
        return _from_json(json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # `from None`: the decoder's own message, and the frames behind it, quote the content.
        raise CorruptStore("its content is not that of a login record") from None


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
        "subject": grant.subject,
        "claims": dict(grant.claims),
        "store": grant.store,
    }


def _members(value: TokenSet | Marker | Failure) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def _from_json(stored: dict[str, Any]) -> Grant:
    if stored["state"] not in ("ACTIVE", "SPENDING", "DEAD", "LOGGED_OUT"):
        raise ValueError
    if (stored["state"] == "SPENDING") != (stored["marker"] is not None):
        raise ValueError
    return Grant(
        key=GrantKey(_text(stored, "issuer"), _text(stored, "client_id"), _text(stored, "account")),
        epoch=_count(stored, "epoch"),
        generation=_count(stored, "generation"),
        attempt=_count(stored, "attempt"),
        state=stored["state"],
        renewal=stored["renewal"],
        refresh_token=_secret(stored, "refresh_token"),
        refresh_expires_at=_time(stored, "refresh_expires_at"),
        tokens=tuple(_token(token) for token in stored["tokens"]),
        marker=stored["marker"] and _marker(stored["marker"]),
        failure=stored["failure"] and _failure(stored["failure"]),
        scope=_text(stored, "scope"),
        subject=_text(stored, "subject"),
        claims=dict(stored["claims"]),
        store=_text(stored, "store"),
    )


def _token(stored: dict[str, Any]) -> TokenSet:
    return TokenSet(
        access_token=Secret(_text(stored, "access_token")),
        received_at=float(stored["received_at"]),
        expires_at=_time(stored, "expires_at"),
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
        sent_at=float(stored["sent_at"]),
        deadline=float(stored["deadline"]),
        sends=_count(stored, "sends"),
    )


def _failure(stored: dict[str, Any]) -> Failure:
    return Failure(
        fingerprint=_text(stored, "fingerprint"),
        kind=_text(stored, "kind"),
        detail=_text(stored, "detail"),
        not_before=float(stored["not_before"]),
        count=_count(stored, "count"),
    )


def _text(stored: dict[str, Any], name: str) -> str:
    value = stored[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _secret(stored: dict[str, Any], name: str) -> Secret | None:
    return None if stored[name] is None else Secret(_text(stored, name))


def _time(stored: dict[str, Any], name: str) -> float | None:
    return None if stored[name] is None else float(stored[name])


def _count(stored: dict[str, Any], name: str) -> int:
    value = stored[name]
    if type(value) is not int or value < 0:
        raise TypeError(name)
    return value
