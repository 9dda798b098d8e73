"""What a server checks of a DPoP proof (RFC 9449 section 4.3), with nonces of its own (sections 8 and 9).

Written from the RFC, for servers; it knows nothing of how the library under test makes its proofs.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from flask import Request, Response
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider

#: Seconds by which `iat` may differ from the server's clock.
WINDOW = 60

Place = Literal["server", "api"]


class ProofError(Exception):
    """A proof is refused, as `error` says: "invalid_dpop_proof" or "use_dpop_nonce"."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason


class Proofs:
    """Judges proofs, and remembers them: each is good for one request."""

    def __init__(self, provider: "FakeProvider") -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        # An API is another server: its nonces are no use here, and the other way round.
        self._nonces: dict[Place, str] = {}
        self.renew_nonces()

    def renew_nonces(self) -> None:
        """From now on other nonces are wanted."""
        self._nonces = {"server": secrets.token_urlsafe(12), "api": secrets.token_urlsafe(12)}

    def judge(self, request: Request, place: Place, access_token: str | None = None) -> str:
        """The thumbprint of the key that signed the proof of this request. Raises ProofError."""
        values = request.headers.getlist("DPoP")
        if len(values) != 1:
            raise ProofError("invalid_dpop_proof", f"{len(values)} proofs")
        try:
            obj = jws.extract_compact(values[0].encode())
            header, claims = obj.headers(), json.loads(obj.payload)
            key = ECKey.import_key(header["jwk"])
            good = jws.validate_compact(obj, key, algorithms=["ES256"])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise ProofError("invalid_dpop_proof", f"cannot be read: {error}") from error
        wrong = {
            "signature": not good,
            "typ": header.get("typ") != "dpop+jwt",
            "jwk": key.is_private,
            "htm": claims.get("htm") != request.method,
            "htu": claims.get("htu") != request.base_url,
            "iat": not isinstance(claims.get("iat"), int) or abs(time.time() - claims["iat"]) > WINDOW,
            "jti": not isinstance(claims.get("jti"), str) or len(claims["jti"]) < 8,
            "ath": access_token is not None and claims.get("ath") != _hash(access_token),
        }
        if any(wrong.values()):
            raise ProofError("invalid_dpop_proof", f"wrong {', '.join(name for name in wrong if wrong[name])}")
        with self._lock:
            if claims["jti"] in self._seen:
                raise ProofError("invalid_dpop_proof", "jti was used before")
            self._seen.add(claims["jti"])
        if self._provider.dpop_nonces and claims.get("nonce") != self._nonces[place]:
            self._provider.events.add("dpop_nonce", detail=request.path)
            raise ProofError("use_dpop_nonce", "the latest nonce is wanted")
        thumbprint: str = key.thumbprint()
        return thumbprint

    def supply(self, request: Request, response: Response) -> Response:
        """Tell the nonce for the next proof to whoever sent one."""
        if self._provider.dpop_nonces and "DPoP" in request.headers:
            api = request.path.startswith("/api/")
            response.headers["DPoP-Nonce"] = self._nonces["api" if api else "server"]
        return response


def _hash(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def refused(error: ProofError) -> tuple[dict[str, Any], int]:
    """A token end point's answer to a proof that is no good (section 5)."""
    return {"error": error.error, "error_description": error.reason}, 400
