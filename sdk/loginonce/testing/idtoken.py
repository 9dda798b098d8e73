"""Signing keys, the JWKS, and ID tokens, sound ones and broken ones.

Keys are made once per process and shared by all providers in it, since making an RSA key takes a tenth of a
second; `Keys` is one provider's view of them.
"""

import base64
import hashlib
import hmac
import json
import threading
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from loginonce.testing.behaviour import Behaviour

Json = dict[str, Any]

_made: dict[tuple[str, int], RSAKey | ECKey] = {}
_making = threading.Lock()


def _key(alg: str, serial: int) -> RSAKey | ECKey:
    with _making:
        if (alg, serial) not in _made:
            if alg == "RS256":
                _made[alg, serial] = RSAKey.generate_key(2048, auto_kid=True)
            elif alg == "ES256":
                _made[alg, serial] = ECKey.generate_key("P-256", auto_kid=True)
            else:
                msg = f"id_token_alg must be RS256 or ES256, not {alg!r}"
                raise ValueError(msg)
        return _made[alg, serial]


class Keys:
    """The keys of one provider: the newest signs, the older ones stay in the JWKS."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._serials = [0]

    @property
    def alg(self) -> str:
        """The algorithm that `id_token_alg` asks for; a key of its own for each."""
        return self._behaviour.id_token_alg

    @property
    def kid(self) -> str | None:
        """The id of the key that signs."""
        return _key(self.alg, self._serials[-1]).kid

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self._serials.append(self._serials[-1] + 1)

    def jwks(self) -> Json:
        """Return the public keys, newest first (RFC 7517 section 5)."""
        keys = [_key(self.alg, serial) for serial in reversed(self._serials)]
        return {"keys": [key.as_dict(private=False, use="sig", alg=self.alg) for key in keys]}

    def sign(self, claims: Json, header: Json) -> str:
        """Return a JWT. `header["alg"]` may be one that nobody should accept: "none", or "HS256".

        HS256 uses the public key as the secret, which is how key confusion is attacked.
        """
        key = _key(self.alg, self._serials[-1])
        if header.get("alg") == self.alg:
            return jwt.encode(header, claims, key, algorithms=[self.alg])
        parts = [_base64url(json.dumps(part).encode()) for part in (header, claims)]
        signed = ".".join(parts)
        signature = b""
        if header.get("alg") == "HS256":
            signature = hmac.digest(key.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{_base64url(signature)}"

    def claims(self, token: str) -> Json | None:
        """Return the claims of an ID token that one of these keys has signed, expired or not."""
        keys = KeySet([_key(self.alg, serial) for serial in self._serials])
        try:
            return dict(jwt.decode(token, keys, algorithms=[self.alg]).claims)
        except (JoseError, ValueError):
            return None


def at_hash(access_token: str) -> str:
    """Return the left half of the token's hash (OIDC Core section 3.1.3.6); both algorithms use SHA-256."""
    return _base64url(hashlib.sha256(access_token.encode()).digest()[:16])


def break_signature(token: str) -> str:
    """Return the token with one bit of its signature changed."""
    signed, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{signed}.{signature[:middle]}{other}{signature[middle + 1 :]}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
