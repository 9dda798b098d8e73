"""Proofs of possession: what is in them, and when a server asks for its nonce."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from loginonce import dpop
from loginonce.errors import ConfigurationError
from loginonce.model import Secret
from loginonce.wire import Answer

NOW = 1_700_000_000.4
KEY = Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))

# RFC 9449, sections 4.1, 6.1 and 7.1: a public key, its thumbprint, an access token, its hash.
EXAMPLE = {
    "kty": "EC",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    "crv": "P-256",
}
EXAMPLE_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
EXAMPLE_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
EXAMPLE_ATH = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


def made(method: str = "GET", url: str = "https://api.example.org/runs", **given: Any) -> jwt.Token:
    """A proof, taken apart with the key that it shows."""
    text = dpop.proof(KEY, method, url, **{"now": NOW, "jti": "j1", **given})
    return jwt.decode(text, ECKey.import_key(json.loads(KEY)), algorithms=["ES256"])


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    return Answer(status, {n.replace("_", "-"): v for n, v in headers.items()}, json.dumps(body or {}).encode())


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    assert dpop.thumbprint(Secret(json.dumps(EXAMPLE))) == EXAMPLE_JKT


def test_the_hash_of_an_access_token_is_that_of_the_rfc() -> None:
    assert made(access_token=EXAMPLE_TOKEN).claims["ath"] == EXAMPLE_ATH


def test_a_proof_shows_its_key_and_only_the_public_half() -> None:
    header = made().header
    shown = {name: value for name, value in json.loads(KEY).items() if name in ("kty", "crv", "x", "y")}
    assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": shown}


def test_a_proof_says_for_which_request_it_is_and_nothing_that_was_not_given() -> None:
    claims = made("post", "https://id.example.org/token").claims
    assert claims == {"jti": "j1", "htm": "POST", "htu": "https://id.example.org/token", "iat": int(NOW)}


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://api.example.org/runs?secret=1&b=2#part", "https://api.example.org/runs"),
        ("https://api.example.org", "https://api.example.org/"),
        ("https://ada:pw@api.example.org:8443/a%20b/", "https://api.example.org:8443/a%20b/"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
    ],
)
def test_the_address_has_neither_query_nor_fragment_nor_user(url: str, htu: str) -> None:
    assert made(url=url).claims["htu"] == htu


def test_the_nonce_goes_along_where_there_is_one() -> None:
    assert made(nonce="n1").claims["nonce"] == "n1"


@pytest.mark.parametrize("nonce", ["", "a\nb", "é", "x" * 5000])
def test_what_cannot_be_a_nonce_is_none(nonce: str) -> None:
    assert dpop.given_nonce({"dpop-nonce": nonce}) == ""


def test_a_nonce_is_taken_as_it_is() -> None:
    assert dpop.given_nonce({"dpop-nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v"}) == "eyJ7S_zG.eyJH0-Z.HX4w-7v"
    assert dpop.given_nonce({}) == ""


@pytest.mark.parametrize(
    "refusal",
    [
        answer(400, {"error": "use_dpop_nonce"}, dpop_nonce="n"),
        answer(401, {"error": "use_dpop_nonce"}, dpop_nonce="n"),
        answer(401, www_authenticate='DPoP error="use_dpop_nonce"', dpop_nonce="n"),
        answer(401, www_authenticate='Bearer realm="x", DPoP algs="ES256", error="use_dpop_nonce"', dpop_nonce="n"),
    ],
)
def test_a_server_that_lacks_its_nonce_is_understood(refusal: Answer) -> None:
    assert dpop.asks_for_nonce(refusal)


@pytest.mark.parametrize(
    "other",
    [
        answer(400, {"error": "use_dpop_nonce"}),
        answer(400, {"error": "invalid_grant"}, dpop_nonce="n"),
        answer(200, {"error": "use_dpop_nonce"}, dpop_nonce="n"),
        answer(401, www_authenticate='DPoP error="invalid_token"', dpop_nonce="n"),
        answer(401, www_authenticate='Bearer error="use_dpop_nonce"', dpop_nonce="n"),
        answer(500, {"error": "use_dpop_nonce"}, dpop_nonce="n"),
    ],
)
def test_nothing_else_is_taken_for_that(other: Answer) -> None:
    assert not dpop.asks_for_nonce(other)


@pytest.mark.parametrize(
    ("refusal", "is_one"),
    [
        (answer(401, www_authenticate='DPoP error="invalid_dpop_proof"'), True),
        (answer(401, www_authenticate='DPoP error="use_dpop_nonce"', dpop_nonce="n"), True),
        (answer(401, www_authenticate='DPoP error="invalid_token"'), False),
        (answer(401, www_authenticate='Bearer error="invalid_dpop_proof"'), False),
        (answer(403, www_authenticate='DPoP error="invalid_dpop_proof"'), False),
    ],
)
def test_a_refusal_for_the_proof_alone_is_told_from_one_of_the_token(refusal: Answer, is_one: bool) -> None:
    assert dpop.refuses_the_proof(refusal) is is_one


def test_a_key_that_is_handed_in_is_taken_as_it_is() -> None:
    assert dpop.require_key(str(KEY)) == KEY
    assert isinstance(dpop.require_key(str(KEY)), Secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        json.dumps(EXAMPLE),
        json.dumps(ECKey.generate_key("P-384").as_dict(private=True)),
        json.dumps(RSAKey.generate_key(2048).as_dict(private=True)),
    ],
)
@pytest.mark.hazard(39)
def test_a_key_of_another_kind_is_refused_and_not_shown(text: str) -> None:
    text = Secret(text)  # this frame is in the traceback, too
    with pytest.raises(ConfigurationError, match="P-256") as caught:
        dpop.require_key(str(text))
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert not text[30:60] or text[30:60] not in shown


@pytest.mark.hazard(39)
def test_neither_key_nor_proof_shows() -> None:
    text = dpop.proof(KEY, "GET", "https://api.example.org/", now=NOW, jti="j")
    assert json.loads(KEY)["d"] not in repr(KEY)
    assert text not in repr(text)
