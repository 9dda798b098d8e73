"""ID tokens: who signed in (OIDC Core §2, §3.1.3.7, §12.2).

At sign-in the signature is checked against the provider's keys.  After a refresh it is not checked again: the
token came straight from the token end point over TLS, which §3.1.3.7 item 6 accepts in its place, and keys would
have to be fetched under the lock; issuer, audience and subject are compared every time (§12.2).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .claims import shallow
from .errors import ProtocolError
from .model import GrantKey, Secret

__all__ = ["UnknownKey", "contradiction", "validate"]

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
"""Asymmetric ones only: neither `none`, nor a MAC whose key an attacker could choose."""

LEEWAY = 120
"""Seconds by which the provider's clock and ours may differ."""


class UnknownKey(ProtocolError):
    """The keys at hand do not include the one that signed: they may have been rotated, fetch them again."""


def contradiction(claims: Mapping[str, Any], key: GrantKey, subject: str) -> str:
    """What in a refreshed ID token differs from the login that it came for, in words; "" if nothing does."""
    audience = claims.get("aud")
    if str(claims.get("iss")).rstrip("/") != key.issuer.rstrip("/"):
        return "the provider's new ID token is of another issuer"
    if audience != key.client_id and not (isinstance(audience, list) and key.client_id in audience):
        return "the provider's new ID token is meant for another client"
    if subject and claims.get("sub") != subject:
        return "the provider's new ID token is of another person"
    return ""


def validate(
    id_token: Secret,
    jwks: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    access_token: str,
    now: float,
    nonce: str | None = None,
    algorithms: Sequence[str] = (),
) -> dict[str, Any]:
    """The claims of an ID token that stands up to OIDC Core §3.1.3.7.

    `algorithms` are those that the server announces; of ours only these are accepted.  `nonce` is the one that
    was sent, if one was.  Raises `UnknownKey` or `ProtocolError`.
    """
    # Imported here: importing loginonce must not cost what importing authlib and cryptography does.
    from authlib.oidc.core import CodeIDToken
    from joserfc import jwt
    from joserfc.errors import ExpiredTokenError, InvalidKeyIdError, JoseError, SecurityWarning
    from joserfc.jwk import KeySet
    from joserfc.jws import JWSRegistry

    allowed = [name for name in ALGORITHMS if not algorithms or name in algorithms]
    if not allowed:
        raise ProtocolError(f"{issuer} signs its ID tokens only in ways that are not accepted here: {list(algorithms)}")
    try:
        keys = KeySet(_public_keys(jwks))
        if not keys.keys:
            raise UnknownKey(f"{issuer} publishes no key that could have signed the ID token")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a newer name (RFC 9864), and is no worse
            decoded = jwt.decode(id_token, keys, registry=JWSRegistry(algorithms=allowed, strict_check_header=False))
        if not shallow(decoded.claims):
            raise ValueError
        CodeIDToken(
            decoded.claims,
            # The same signature under its newer name (RFC 9864), of which Authlib's at_hash does not know yet.
            {**decoded.header, "alg": "EdDSA"} if decoded.header["alg"] == "Ed25519" else decoded.header,
            {"iss": {"value": issuer}, "aud": {"value": client_id}},
            {"client_id": client_id, "nonce": nonce, "access_token": access_token},
        ).validate(int(now), LEEWAY)
    except InvalidKeyIdError:
        raise UnknownKey(f"the ID token of {issuer} is signed with a key that it does not publish") from None
    except ExpiredTokenError:
        raise ProtocolError(
            f"the ID token of {issuer} had expired when it arrived: is this machine's clock right?"
        ) from None
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        # `from None`: the frames of the decoder hold the tokens.
        # Its words may quote the token's header: not what could draw on a terminal.
        why = "".join(filter(str.isprintable, str(error)))[:200] if isinstance(error, JoseError) else "it is malformed"
        raise ProtocolError(f"the ID token of {issuer} does not stand up to its checks: {why}") from None
    return dict(decoded.claims)


def _public_keys(jwks: Mapping[str, Any]) -> list[Any]:
    """The keys that may verify a signature: asymmetric and not for encryption; what is unreadable is left out."""
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    usable = []
    listed = jwks.get("keys")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("kty") in ("RSA", "EC", "OKP") and entry.get("use") != "enc":
            try:
                usable.append(import_key({k: v for k, v in entry.items() if k != "key_ops"}))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    return usable
