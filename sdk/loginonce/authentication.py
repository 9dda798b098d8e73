"""How this client tells a provider who it is: the methods of RFC 6749 §2.3.1, OIDC Core §9 and RFC 8705 §2.

An assertion (RFC 7523 §2.2) is made anew for each request: servers take one only once.  Its audience is the issuer and
nothing else, as the successor of that RFC (draft-ietf-oauth-rfc7523bis) and FAPI 2.0 want it: an assertion that names
an end point can be made to serve another server.  The few that know only the end point are told of by
`assertion_audience`.

Time and random identifiers are arguments.  A key never shows: errors name its place, not its content.
"""

from __future__ import annotations

import base64
import json
import warnings
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

from .errors import ConfigurationError
from .model import AuthorizationServer, Client, Members, Secret
from .wire import Form

__all__ = ["SigningKey", "authenticate", "authentication_method", "by_certificate", "read_key"]

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

LIFE = 60
"""Seconds between `iat` and `exp` of an assertion; some servers refuse more."""

EARLIER = 5
"""Seconds by which `iat` is put back: a clock that is a little fast makes no assertion of the future."""

_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "RSA": ("RS256", "PS256", "RS384", "PS384", "RS512", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA", "Ed25519"),
    "oct": ("HS256", "HS384", "HS512"),
}
"""What a key of that kind or curve can sign (RFC 7518 §3.1, RFC 8037, RFC 9864), the most usual first."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, or a client secret as one.  `kid` and `alg` are its own words, where it is a JWK that has some."""

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str = ""
    alg: str = ""


def read_key(text: Secret, where: str) -> SigningKey:
    """The private key in a PEM or a JWK, or the first one of a JWK Set.

    `where` names it in errors.  Raises `ConfigurationError`, which shows nothing of the text.
    """
    found = _parsed(text)
    if found is None:
        raise ConfigurationError(
            f"{where} holds no private key that can be used here: it has to be one of RSA, EC (P-256, P-384, P-521) or "
            "Ed25519, as PEM without a passphrase or as JWK"
        )
    return found


def _parsed(text: Secret) -> SigningKey | None:
    # Imported here, as below: importing loginonce must not cost what importing cryptography does.
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kinds: tuple[Any, ...] = (RSAKey, ECKey, OKPKey)
    material: Any = text
    if text.lstrip().startswith("{"):
        material = _private_jwk(text)
        kinds = tuple(kind for kind in kinds if material and kind.key_type == material.get("kty"))
    for kind in kinds:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how long its keys have to be is for the server to say
                key = kind.import_key(material)
            algorithms = _ALGORITHMS.get("RSA" if kind is RSAKey else key.curve_name, ())
            if key.is_private and algorithms:
                return SigningKey(key, algorithms, key.get("kid") or "", key.get("alg") or "")
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return None


def _private_jwk(text: Secret) -> Members | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    keys = content.get("keys", [content])
    there = keys if isinstance(keys, list) else []
    return next((Members(key) for key in there if isinstance(key, dict) and "d" in key), None)


# ── a request ────────────────────────────────────────────────────────────────────────────────────────────


def authentication_method(client: Client, server: AuthorizationServer) -> str:
    """The method that was chosen, or the first for which there are means and which the server takes.

    Where the server names none of them (or nothing, RFC 8414 §2), the first for which there are means.
    """
    if client.token_endpoint_auth_method:
        return client.token_endpoint_auth_method
    able = [
        *(["private_key_jwt"] if client.private_key else []),
        *(["tls_client_auth", "self_signed_tls_client_auth"] if client.certificate else []),
        *(["client_secret_basic", "client_secret_post", "client_secret_jwt"] if client.client_secret else []),
    ]
    supported = server.token_endpoint_auth_methods_supported
    return next((method for method in able if method in supported), able[0] if able else "none")


def by_certificate(client: Client, server: AuthorizationServer) -> bool:
    """Whether the client is known by its TLS certificate (RFC 8705 §2), so that aliases of end points count (§5)."""
    return authentication_method(client, server) in ("tls_client_auth", "self_signed_tls_client_auth")


def authenticate(
    client: Client, server: AuthorizationServer, form: Form, *, key: SigningKey | None = None, now: float, jti: str
) -> tuple[dict[str, str], Form]:
    """Headers and form of a request that says who we are.

    `key` is the client's private key, for the method that needs one; `now` in POSIX seconds; `jti` a fresh identifier.
    Raises `ConfigurationError` for a method that this client cannot carry out.
    """
    method = authentication_method(client, server)
    named = ("client_id", client.client_id)
    match method:
        case "none":
            return {}, [*form, named]
        case "client_secret_basic":
            # RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
            pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret(client, server, method))}"
            return {"Authorization": Secret("Basic " + base64.b64encode(pair.encode()).decode())}, form
        case "client_secret_post":
            return {}, [*form, named, ("client_secret", _secret(client, server, method))]
        case "tls_client_auth" | "self_signed_tls_client_auth":
            if not client.certificate:
                raise _lacks(client, server, method, "certificate", "certificate=…, certificate_key=…", "CERTIFICATE")
            return {}, [*form, named]  # RFC 8705 §2: the certificate says who, `client_id` whom to look up
        case "client_secret_jwt":
            key = _mac_key(_secret(client, server, method))
        case "private_key_jwt":
            if key is None:
                raise _lacks(client, server, method, "private key", "private_key=…", "PRIVATE_KEY")
        case _:
            raise ConfigurationError(f"token_endpoint_auth_method {method!r} is not one that this client can do")
    assertion = _assertion(client, server, key, now=now, jti=jti)
    return {}, [*form, named, ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)]


def _secret(client: Client, server: AuthorizationServer, method: str) -> Secret:
    if client.client_secret is None:
        raise _lacks(client, server, method, "client_secret", "client_secret=…", "CLIENT_SECRET")
    return client.client_secret


def _lacks(
    client: Client, server: AuthorizationServer, method: str, what: str, argument: str, name: str
) -> ConfigurationError:
    return ConfigurationError(
        f"client {client.client_id} at {server.issuer} authenticates by {method} and has no {what}: "
        f"give one to Session({argument}), in the profile, or in LOGINONCE_{name}"
    )


def _mac_key(secret: Secret) -> SigningKey:
    from joserfc.jwk import OctKey

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the provider has chosen its length
        key = OctKey.import_key(secret)  # OIDC Core §10.1: its UTF-8 octets are the key
    return SigningKey(key, _ALGORITHMS["oct"])


def _assertion(client: Client, server: AuthorizationServer, key: SigningKey, *, now: float, jti: str) -> Secret:
    from joserfc import jwt
    from joserfc.errors import JoseError

    algorithm = _algorithm(client, server, key)
    at = int(now) - EARLIER
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": _audience(client, server),
        "jti": jti,
        "iat": at,
        "exp": at + LIFE,
    }
    header = {"alg": algorithm, **({"kid": key.kid} if key.kid else {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EdDSA has a newer name (RFC 9864), and is no worse
            return Secret(jwt.encode(header, claims, key.key, algorithms=[algorithm]))
    except (JoseError, ValueError):
        pass
    # Out here, where no frame behind it holds the key.
    raise ConfigurationError(f"the private key of client {client.client_id} cannot sign with {algorithm}")


def _audience(client: Client, server: AuthorizationServer) -> str:
    named = client.assertion_audience
    return server.token_endpoint if named == "token_endpoint" else named or server.issuer


def _algorithm(client: Client, server: AuthorizationServer, key: SigningKey) -> str:
    """What was chosen, or what the key says of itself, or the first that the server names, or the most usual."""
    wanted = client.token_endpoint_auth_signing_alg or key.alg
    if wanted and wanted not in key.algorithms:
        raise ConfigurationError(
            f"client {client.client_id} should sign with {wanted}, and its key can only do {', '.join(key.algorithms)}"
        )
    named = server.token_endpoint_auth_signing_alg_values_supported
    return wanted or next((each for each in key.algorithms if each in named), key.algorithms[0])
