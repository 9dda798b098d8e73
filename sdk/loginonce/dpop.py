"""Proofs that a token is used by whom it was issued to: DPoP (RFC 9449).

A login with a key has tokens that are worth nothing without it, so the key lives with them, in the login's record, and
every process that shares the login signs with it.  A key is the text of a private JWK (EC, P-256).  Each proof is good
for one request: method, address, access token, and a fresh identifier are in it, and the server's latest nonce where
it has given one.

Time and identifiers are arguments.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from .challenge import parse_challenges
from .errors import ConfigurationError
from .model import Secret
from .wire import Answer, oauth_error

__all__ = ["asks_for_nonce", "given_nonce", "proof", "refuses_the_proof", "require_key", "thumbprint"]

LONGEST_NONCE = 4096
"""Characters of a nonce; a proof travels in a header, which servers do not take at any length."""


def require_key(text: str) -> Secret:
    """The same key, if it is one.  Raises `ConfigurationError`, which shows nothing of it."""
    text = Secret(text)
    if not _usable(text):
        raise ConfigurationError("the dpop_key that was handed in is not a private JWK of the curve P-256")
    return text


def _usable(key: Secret) -> bool:
    try:
        return bool(_imported(key)[0].is_private) and _imported(key)[1].get("crv") == "P-256"
    except Exception:  # whatever a library makes of a text that is no key
        return False


@lru_cache(maxsize=16)
def _imported(key: Secret) -> tuple[Any, dict[str, Any]]:
    """The key as joserfc has it, and its public half as a proof shows it."""
    # Imported here: importing loginonce must not cost what importing cryptography does.
    from joserfc.jwk import ECKey

    found = ECKey.import_key(json.loads(key))
    return found, {name: found.get(name) for name in ("kty", "crv", "x", "y")}


def thumbprint(key: Secret) -> str:
    """The JWK thumbprint (RFC 7638 §3) by which servers know the key: `dpop_jkt`, `cnf.jkt`."""
    found: str = _imported(key)[0].thumbprint()
    return found


def proof(
    key: Secret, method: str, url: str, *, now: float, jti: str, access_token: str = "", nonce: str = ""
) -> Secret:
    """The value of the DPoP header for one request (RFC 9449 §4.2).

    `access_token` is the one that goes along, if one does; `now` in POSIX seconds.
    """
    from joserfc import jwt

    signing, public = _imported(key)
    claims: dict[str, Any] = {"jti": jti, "htm": method.upper(), "htu": _target(url), "iat": int(now)}
    if access_token:
        claims["ath"] = _digest(access_token)
    if nonce:
        claims["nonce"] = nonce
    return Secret(jwt.encode({"typ": "dpop+jwt", "alg": "ES256", "jwk": public}, claims, signing))


def _target(url: str) -> str:
    """The address without query and fragment, and without anybody's name in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"


def _digest(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


# ── nonces ───────────────────────────────────────────────────────────────────────────────────────────────


def given_nonce(headers: Mapping[str, str]) -> str:
    """The nonce that an answer brings for the next proof (RFC 9449 §8.2), "" if none.

    `headers` by any mapping that finds `dpop-nonce` in lower case.
    """
    nonce = headers.get("dpop-nonce", "")
    return nonce if nonce.isascii() and nonce.isprintable() and len(nonce) <= LONGEST_NONCE else ""


def asks_for_nonce(answer: Answer) -> bool:
    """Whether a server refuses a request for the nonce that its proof lacks, and gives one.

    An authorization server says so by an OAuth error (RFC 9449 §8), an API by a challenge (§9).  Neither has looked at
    more than the proof then.
    """
    if answer.status not in (400, 401) or not given_nonce(answer.headers):
        return False
    return "use_dpop_nonce" in {oauth_error(answer), *_challenged(answer)}


def refuses_the_proof(answer: Answer) -> bool:
    """Whether an API refuses a request for its proof alone (RFC 9449 §7.1, §9): the token may be good.

    For a nonce that it lacks, or for what it says: one that came along with a redirect is for another address.
    """
    return asks_for_nonce(answer) or (answer.status == 401 and "invalid_dpop_proof" in _challenged(answer))


def _challenged(answer: Answer) -> set[str | None]:
    challenges = parse_challenges(answer.headers.get("www-authenticate", ""))
    return {each.parameters.get("error") for each in challenges if each.scheme == "dpop"}
