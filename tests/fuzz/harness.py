"""One parser, fed by a coverage-guided fuzzer: `harness.py TARGET CORPUS… [-max_total_time=…]` (atheris, libFuzzer).

A target is a function of bytes.  It ends in silence for whatever it can read or may refuse in the documented way;
anything else that comes out of it, an assertion among others, is a crash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_plus

import atheris

with atheris.instrument_imports(include=["loginonce", "joserfc", "email"]):
    from joserfc import jws
    from joserfc.jwk import OKPKey
    from joserfc.jws import JWSRegistry

    from loginonce import idtoken, record, wire
    from loginonce.address import on_this_machine
    from loginonce.challenge import bearer_challenge, parse_challenges
    from loginonce.claims import shallow, unverified_claims
    from loginonce.errors import ConfigurationError, CorruptStore, ErrorResponse, ProtocolError, StoreError
    from loginonce.metadata import read_metadata
    from loginonce.model import AuthorizationServer, GrantKey, Secret

NOW = 1_700_000_000.0
ISSUER = "https://id.example.org"
CLIENT = "notebook"
REDIRECT = "http://127.0.0.1:4711/callback"
STATUSES = (200, 400, 401, 403, 404, 429, 500, 503, 302, 201, 408)

TARGETS: dict[str, Callable[[bytes], None]] = {}


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    TARGETS[function.__name__] = function
    return function


def printable(*texts: str) -> None:
    for text in texts:
        assert text.isprintable(), text


# ── the record ───────────────────────────────────────────────────────────────────────────────────────────


@target
def stored(data: bytes) -> None:
    """A record as it is on the disk; and with a seal that fits, since no mutation would ever find one."""
    body = data.partition(b"\n")[2].removesuffix(b"\n")
    for whole in (data, b"loginonce 1 %s\n%s\n" % (hashlib.sha256(body).hexdigest().encode(), body)):
        try:
            grant = record.decode(whole)
        except (CorruptStore, StoreError):
            continue
        again = record.decode(record.encode(grant))
        assert record.encode(again) == record.encode(grant)
        assert again.order == grant.order
        assert (grant.state == "SPENDING") == (grant.marker is not None)


# ── token and device answers ─────────────────────────────────────────────────────────────────────────────


def http(data: bytes) -> wire.Answer:
    """First line: the status' number and a Retry-After; the rest is the body."""
    head, _, body = data.partition(b"\n")
    status = STATUSES[head[0] % len(STATUSES)] if head else 200
    return wire.Answer(status, {"retry-after": head[1:].decode("latin-1")}, body)


@target
def token_answer(data: bytes) -> None:
    answer = http(data)
    reply = wire.judge_refresh(answer, NOW)
    if isinstance(reply, wire.Granted):
        assert answer.status < 300
        sound(reply.answer)
    elif isinstance(reply, wire.Refused):
        assert answer.status < 500
        assert answer.status != 429
        printable(reply.error, reply.detail)
    elif isinstance(reply, wire.Busy):
        assert reply.retry_after is None or 0 <= reply.retry_after <= wire.LONGEST_RETRY_AFTER
        printable(reply.detail)
    else:
        printable(reply.detail)
    try:
        sound(wire.judge_token(answer))
    except (ErrorResponse, ProtocolError) as error:
        printable(str(error))


def sound(answer: wire.TokenAnswer) -> None:
    """What may go into headers, records and on to the screen."""
    f"Bearer {answer.access_token}".encode("ascii")
    assert not set(" \r\n\0") & set(answer.access_token)
    printable(answer.token_type)
    for seconds in (answer.expires_in, answer.refresh_expires_in):
        assert seconds is None or (seconds > 0 and math.isfinite(seconds))
    assert all(type(value) is Secret for value in (answer.refresh_token, answer.id_token) if value is not None)


@target
def device_answer(data: bytes) -> None:
    try:
        device = wire.judge_device_authorization(http(data))
    except (ErrorResponse, ProtocolError) as error:
        printable(str(error))
        return
    printable(device.user_code, device.verification_uri, device.verification_uri_complete)
    assert device.verification_uri.startswith(("http://", "https://", "HTTP", "hTTP", "Http")) or "tp" in (
        device.verification_uri[:5].lower()
    )
    assert device.expires_in > 0
    assert device.interval > 0


# ── the authorization end point's answer ─────────────────────────────────────────────────────────────────


BLANK = "".join(map(chr, range(33)))
"""What `urlsplit` takes away in front of an address."""


@target
def redirect(data: bytes) -> None:
    server = AuthorizationServer(ISSUER, authorization_response_iss_parameter_supported=bool(data[:1] < b"@"))
    address = data[1:].decode("utf-8", "surrogateescape")
    for url in (address, f"{REDIRECT}?state=s&{address}"):
        try:
            code = wire.judge_redirect(url, state="s", server=server, redirect_uri=REDIRECT)
        except (ErrorResponse, ProtocolError) as error:
            printable(str(error))
            continue
        assert code
        assert type(code) is Secret
        seen = re.sub(r"[\t\r\n]", "", url).lstrip(BLANK)  # as `urlsplit` sees it
        assert seen.lower().startswith(REDIRECT)
        assert "state=s" in unquote_plus(seen.partition("?")[2])


# ── an API's challenge ───────────────────────────────────────────────────────────────────────────────────


@target
def challenge(data: bytes) -> None:
    header = data.decode("latin-1")
    for one in parse_challenges(header):
        assert one.scheme == one.scheme.lower() != ""
        assert all(name == name.lower() for name in one.parameters)
    found = bearer_challenge(header)
    assert found is None or "bearer" in header.lower() or "dpop" in header.lower()


# ── what the provider says of itself ─────────────────────────────────────────────────────────────────────


@target
def metadata(data: bytes) -> None:
    documents: list[Mapping[str, Any]] = []
    for part in data.split(b"\n", 1):
        try:
            document = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and shallow(document):
            documents.append(document)
    try:
        server = read_metadata(ISSUER, documents, {})
    except (ProtocolError, ConfigurationError) as error:
        printable(str(error))
        return
    assert server.issuer.rstrip("/") == ISSUER
    for name in ("token_endpoint", "authorization_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"):
        url = getattr(server, name)
        printable(url)
        assert not url or url.lower().startswith("https:") or on_this_machine(url)
    assert all(isinstance(item, str) for item in server.scopes_supported)


# ── ID tokens ────────────────────────────────────────────────────────────────────────────────────────────

KEY = OKPKey.import_key(
    {
        "kty": "OKP", "crv": "Ed25519", "kid": "k",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
)  # fmt: skip  # RFC 8037, appendix A
JWKS = {"keys": [KEY.as_dict(private=False)]}
REGISTRY = JWSRegistry(algorithms=["EdDSA"], strict_check_header=False)


@target
def id_token(data: bytes) -> None:
    """First line: a token, a header, or a set of keys; the rest: claims, which get a true signature too."""
    head, _, claims = data.partition(b"\n")
    unverified_claims(head.decode("latin-1"))
    check(head.decode("latin-1"), JWKS)
    signed = jws.serialize_compact({"alg": "EdDSA", "kid": "k"}, claims, KEY, registry=REGISTRY)
    check(signed, JWKS)
    check(f"{base64.urlsafe_b64encode(head).rstrip(b'=').decode()}.{signed.partition('.')[2]}", JWKS)
    try:
        keys = json.loads(head)
    except (ValueError, RecursionError):
        return
    if isinstance(keys, dict):
        check(signed, keys)


def check(token: str, keys: Mapping[str, Any]) -> None:
    found = unverified_claims(token)
    assert isinstance(found, dict)
    idtoken.contradiction(found, GrantKey(ISSUER, CLIENT), "ada")
    try:
        claims = idtoken.validate(
            Secret(token), keys, issuer=ISSUER, client_id=CLIENT, access_token="a", now=NOW, nonce="n"
        )
    except ProtocolError as error:
        printable(str(error))
        return
    assert (claims["iss"], claims["nonce"]) == (ISSUER, "n")
    assert claims["aud"] == CLIENT or CLIENT in claims["aud"]
    assert claims["exp"] >= NOW - idtoken.LEEWAY
    json.dumps(claims)


# ── that this can fail at all ────────────────────────────────────────────────────────────────────────────


@target
def planted(data: bytes) -> None:
    """A parser with a mistake in it, three steps from its beginning: found by coverage, hardly ever by chance."""
    if data[:1] == b"{" and data[1:2] == b'"' and data[2:3] == b"k":
        raise ZeroDivisionError("the planted mistake")


def main() -> None:
    chosen = TARGETS[sys.argv[1]]
    atheris.instrument_func(chosen)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], chosen)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
