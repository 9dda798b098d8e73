"""The fake provider judges proofs and assertions as their RFCs say: made here by hand, with nothing of the library."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from loginonce.testing import FakeProvider

Factory = Callable[..., FakeProvider]
KEY = ECKey.generate_key("P-256")
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET = "a secret of more than thirty-two octets, for the tests only"


def proof(url: str, method: str = "POST", token: str | None = None, key: ECKey = KEY, **changed: Any) -> str:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False), **changed.pop("header", {})}
    claims: dict[str, Any] = {"jti": uuid.uuid4().hex, "htm": method, "htu": url, "iat": int(time.time())}
    if token is not None:
        claims["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    return jwt.encode(header, {**claims, **changed}, key)


def refresh(fake: FakeProvider, refresh_token: str, *proofs: str) -> requests.Response:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "notebook"}
    with requests.Session() as web:
        web.trust_env = False
        return web.post(f"{fake.issuer}/token", data=form, headers={"DPoP": proofs[0]} if proofs else {})


def call(fake: FakeProvider, token: str, scheme: str = "DPoP", *proofs: str) -> requests.Response:
    headers = {"Authorization": f"{scheme} {token}", **({"DPoP": proofs[0]} if proofs else {})}
    with requests.Session() as web:
        web.trust_env = False
        return web.get(fake.api("/runs"), headers=headers)


@pytest.fixture
def tokens(fake_provider: FakeProvider) -> dict[str, Any]:
    return fake_provider.issue(jkt=KEY.thumbprint())


def test_a_good_proof_renews_and_the_new_token_is_bound(fake_provider: FakeProvider, tokens: dict[str, Any]) -> None:
    answer = refresh(fake_provider, tokens["refresh_token"], proof(f"{fake_provider.issuer}/token")).json()
    assert answer["token_type"] == "DPoP"
    url, token = fake_provider.api("/runs"), answer["access_token"]
    assert call(fake_provider, token, "DPoP", proof(url, "GET", token)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"htm": "GET"},
        {"htu": "https://elsewhere.example.org/token"},
        {"iat": int(time.time()) - 10_000},
        {"iat": int(time.time()) + 10_000},
        {"iat": "now"},
        {"jti": "short"},
        {"header": {"typ": "JWT"}},
        {"header": {"jwk": KEY.as_dict(private=True)}},
        {"header": {"jwk": ECKey.generate_key("P-256").as_dict(private=False)}},
        {"header": {"jwk": {}}},
    ],
)
def test_a_wrong_proof_is_refused_and_nothing_spent(
    fake_provider: FakeProvider, tokens: dict[str, Any], wrong: dict[str, Any]
) -> None:
    answer = refresh(fake_provider, tokens["refresh_token"], proof(f"{fake_provider.issuer}/token", **wrong))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    assert fake_provider.stats.refreshes == 0


def test_what_is_no_proof_is_refused(fake_provider: FakeProvider, tokens: dict[str, Any]) -> None:
    assert refresh(fake_provider, tokens["refresh_token"], "nothing").json()["error"] == "invalid_dpop_proof"


def test_a_proof_is_good_once(fake_provider: FakeProvider, tokens: dict[str, Any]) -> None:
    url, token = fake_provider.api("/runs"), tokens["access_token"]
    made = proof(url, "GET", token)
    assert [call(fake_provider, token, "DPoP", made).status_code for _ in range(2)] == [200, 401]


@pytest.mark.parametrize("proofs", [[], [proof("x", key=ECKey.generate_key("P-256"))]])
def test_a_bound_refresh_token_needs_its_key(
    fake_provider: FakeProvider, tokens: dict[str, Any], proofs: list[str]
) -> None:
    other = [proof(f"{fake_provider.issuer}/token", key=ECKey.generate_key("P-256")) for _ in proofs]
    answer = refresh(fake_provider, tokens["refresh_token"], *other)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    good = refresh(fake_provider, tokens["refresh_token"], proof(f"{fake_provider.issuer}/token"))
    assert good.status_code == 200  # it was not spent by that


def test_an_api_refuses_a_bound_token_without_its_key(fake_provider: FakeProvider, tokens: dict[str, Any]) -> None:
    url, token = fake_provider.api("/runs"), tokens["access_token"]
    other = ECKey.generate_key("P-256")
    plain = fake_provider.issue()["access_token"]
    refused = [
        call(fake_provider, token, "Bearer"),
        call(fake_provider, token, "DPoP"),
        call(fake_provider, token, "DPoP", proof(url, "GET", token, other)),
        call(fake_provider, token, "DPoP", proof(url, "GET", "another token")),
        call(fake_provider, plain, "DPoP", proof(url, "GET", plain)),
    ]
    assert [answer.status_code for answer in refused] == [401] * 5
    assert [answer.headers["WWW-Authenticate"].split()[0] for answer in refused] == ["Bearer", *["DPoP"] * 4]


def test_nonces_of_server_and_api_are_different_and_both_wanted(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(dpop_nonces=True)
    tokens = fake.issue(jkt=KEY.thumbprint())
    at = f"{fake.issuer}/token"
    asked = refresh(fake, tokens["refresh_token"], proof(at))
    assert (asked.status_code, asked.json()["error"], fake.stats.refreshes) == (400, "use_dpop_nonce", 0)
    nonce = asked.headers["DPoP-Nonce"]
    url, token = fake.api("/runs"), tokens["access_token"]
    api = call(fake, token, "DPoP", proof(url, "GET", token, nonce=nonce))
    assert 'DPoP realm="api", error="use_dpop_nonce"' in api.headers["WWW-Authenticate"]
    assert api.headers["DPoP-Nonce"] != nonce
    assert call(fake, token, "DPoP", proof(url, "GET", token, nonce=api.headers["DPoP-Nonce"])).status_code == 200
    assert refresh(fake, tokens["refresh_token"], proof(at, nonce=nonce)).status_code == 200
    fake.renew_dpop_nonces()
    assert refresh(fake, "any", proof(at, nonce=nonce)).json()["error"] == "use_dpop_nonce"


def test_a_provider_may_insist_on_proofs_or_know_nothing_of_them(fake_provider_factory: Factory) -> None:
    strict, ignorant = fake_provider_factory(dpop="required"), fake_provider_factory(dpop="ignored")
    assert refresh(strict, strict.issue()["refresh_token"]).json()["error"] == "invalid_dpop_proof"
    answer = refresh(ignorant, ignorant.issue()["refresh_token"], proof(f"{ignorant.issuer}/token")).json()
    assert answer["token_type"] == "Bearer"


# ── assertions ───────────────────────────────────────────────────────────────────────────────────────────


def asserted(fake: FakeProvider, key: Any = KEY, **changed: Any) -> requests.Response:
    now = int(time.time())
    claims = {
        "iss": "robot",
        "sub": "robot",
        "aud": fake.issuer,
        "jti": uuid.uuid4().hex,
        "iat": now,
        "exp": now + 60,
        **changed,
    }
    alg = "HS256" if isinstance(key, OctKey) else "ES256"
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION,
        "client_assertion": jwt.encode({"alg": alg}, claims, key),
    }
    with requests.Session() as web:
        web.trust_env = False
        return web.post(f"{fake.issuer}/token", data=form)


@pytest.fixture
def robot(fake_provider: FakeProvider) -> FakeProvider:
    fake_provider.add_client("robot", public_key=KEY.as_dict(private=False))
    return fake_provider


def test_a_good_assertion_is_taken_once(robot: FakeProvider) -> None:
    assert [asserted(robot, jti="the same").status_code for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    "wrong",
    [
        {"aud": "https://elsewhere.example.org"},
        {"sub": "notebook"},
        {"iss": "somebody"},
        {"exp": int(time.time()) - 10_000},
        {"iat": int(time.time()) + 10_000},
        {"key": ECKey.generate_key("P-256")},
        {"key": OctKey.import_key(SECRET)},
    ],
)
def test_a_wrong_assertion_is_refused(robot: FakeProvider, wrong: dict[str, Any]) -> None:
    answer = asserted(robot, **wrong)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")


def test_a_client_that_signs_is_not_known_by_less(robot: FakeProvider) -> None:
    with requests.Session() as web:
        web.trust_env = False
        form = {"grant_type": "client_credentials", "client_id": "robot"}
        assert web.post(f"{robot.issuer}/token", data=form).json()["error"] == "invalid_client"


def test_a_secret_can_sign(fake_provider: FakeProvider) -> None:
    fake_provider.add_client("robot", secret=SECRET)
    assert asserted(fake_provider, OctKey.import_key(SECRET)).status_code == 200
    assert asserted(fake_provider, OctKey.import_key(SECRET + "x")).status_code == 400
