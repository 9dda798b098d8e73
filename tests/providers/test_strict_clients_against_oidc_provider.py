"""What strict providers ask of clients, against npm's oidc-provider: tokens bound to a key (DPoP) with nonces from the
provider and from the API, and clients that say who they are by a key or a certificate.

The proofs are judged by oidc-provider and, at the API, by the library that it uses; what was sent is counted there.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from browser import Person
from certificates import HERE, Authority
from crowd import Crowd, Launcher
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, RSAKey

import loginonce
from loginonce import dpop
from loginonce.errors import ConfigurationError
from loginonce.login.device import DeviceFlow
from loginonce.login.flow import Progress
from loginonce.model import Secret

if TYPE_CHECKING:
    from conftest import OidcProvider

SCOPE = "openid profile email offline_access"
LIFE = 5  # seconds of an access token: processes that share two cores need some of them to use it
MAC_SECRET = "a secret of more than thirty-two octets, for the tests only"


class Ada:
    """Somebody at the screen, who agrees to whatever is shown."""

    def __init__(self, person: Person) -> None:
        self._person = person

    def show(self, progress: Progress) -> None:
        if progress.state == "pending" and progress.prompt is not None:
            threading.Thread(target=self._person.open_authorization, args=(progress.prompt.url,)).start()


# ── tokens bound to a key ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def strict(oidc_provider: OidcProvider) -> OidcProvider:
    """A provider and an API that want nonces."""
    oidc_provider.configure(dpop_nonces=True)
    return oidc_provider


@pytest.fixture
def lab(strict: OidcProvider, loginonce_home: Path) -> Iterator[loginonce.Session]:
    with loginonce.Session(strict.issuer, client_id=strict.bound_client_id, scope=SCOPE, dpop=True) as session:
        yield session


@pytest.fixture
def signed_in(lab: loginonce.Session, person: Person, strict: OidcProvider) -> loginonce.Session:
    lab.login("browser", presenter=Ada(person))
    strict.reset()
    return lab


def test_without_a_proof_that_client_gets_nothing(strict: OidcProvider, loginonce_home: Path, person: Person) -> None:
    with loginonce.Session(strict.issuer, client_id=strict.bound_client_id, scope=SCOPE) as plain:
        flow = DeviceFlow(plain.source.provider, SCOPE)
        prompt = flow.begin()
        with pytest.raises(loginonce.LoginFailed):
            flow.finish(lambda *_, **__: person.approve_device(prompt.url, prompt.user_code))


@pytest.mark.hazard(37)
def test_a_sign_in_learns_both_nonces_by_one_request_each(
    lab: loginonce.Session, strict: OidcProvider, person: Person
) -> None:
    strict.reset()
    assert lab.login("browser", presenter=Ada(person)).name == "Ada"
    assert [lab.get(strict.api()).status_code for _ in range(3)] == [200] * 3
    stats = strict.stats()
    assert (stats["token_nonces"], stats["api_nonces"], stats["refusals"], stats["api_401"]) == (1, 1, 0, 0)
    token = lab.source.token()
    assert (token.token_type, token.dpop_key is not None) == ("DPoP", True)


def test_a_device_code_brings_bound_tokens_too(lab: loginonce.Session, strict: OidcProvider, person: Person) -> None:
    flow = DeviceFlow(lab.source.provider, SCOPE)
    prompt = flow.begin()
    answer = flow.finish(lambda *_, **__: person.approve_device(prompt.url, prompt.user_code)).answer
    assert (answer.token_type, answer.dpop_key) == ("DPoP", lab.source.provider.dpop_key())


@pytest.mark.hazard(37)
def test_an_api_that_renews_its_nonce_costs_one_request_and_no_token(
    signed_in: loginonce.Session, strict: OidcProvider
) -> None:
    body = b"x" * 100_000
    for _ in range(3):
        strict.renew_nonces()
        answer = signed_in.post(strict.api("/runs?a=1#b"), data=body)
        assert (answer.status_code, answer.json()["bytes"]) == (200, len(body))
        assert "DPoP" not in answer.request.headers
    stats = strict.stats()
    assert (stats["api_nonces"], stats["api_401"], stats["token_requests"]) == (3, 0, 0)


@pytest.mark.hazard(37)
def test_an_access_token_that_ends_with_the_nonce_costs_one_of_each(
    signed_in: loginonce.Session, strict: OidcProvider
) -> None:
    strict.configure(access_token_ttl=LIFE)
    signed_in.source.renew()
    assert signed_in.get(strict.api()).ok
    strict.reset()
    time.sleep(LIFE / 10 + 0.1)  # a younger token would not be renewed for a 401
    strict.revoke_access_tokens()
    strict.renew_nonces()
    assert signed_in.get(strict.api()).status_code == 200
    stats = strict.stats()
    assert (stats["refreshes_ok"], stats["replays"], stats["api_401"]) == (1, 0, 1)


def test_a_token_is_no_use_without_its_key(signed_in: loginonce.Session, strict: OidcProvider) -> None:
    token = signed_in.source.token()
    assert requests.get(strict.api(), headers={"Authorization": f"Bearer {token.access_token}"}).status_code == 401
    other = Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))
    for key, status in ((other, 401), (token.dpop_key, 200)):
        assert key is not None
        strict.configure(dpop_nonces=False)
        proof = dpop.proof(
            key, "GET", strict.api(), now=time.time(), jti=str(time.time_ns()), access_token=token.access_token
        )
        headers = {"Authorization": f"DPoP {token.access_token}", "DPoP": proof}
        assert requests.get(strict.api(), headers=headers).status_code == status
        assert requests.get(strict.api(), headers=headers).status_code == 401  # a proof is good for one request


def test_a_worker_is_handed_the_key_with_its_token(signed_in: loginonce.Session, strict: OidcProvider) -> None:
    worker = pickle.loads(pickle.dumps(signed_in.access_only()))
    assert worker.get(strict.api()).status_code == 200
    assert worker.source.grant().refresh_token is None


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.mark.hazard(7, 37)
def test_many_processes_share_one_key_over_many_expiries(
    signed_in: loginonce.Session, strict: OidcProvider, launcher: Launcher, loginonce_home: Path
) -> None:
    expiries, members = 3, 12
    crowd = Crowd(
        launcher, loginonce_home, issuer=strict.issuer, client_id=strict.bound_client_id, scope=SCOPE, dpop=True
    )
    try:
        crowd.fork(members)
        crowd.call_together(strict.api())  # each learns the API's nonce, and loads what makes proofs
        assert strict.stats()["api_nonces"] == members
        strict.configure(access_token_ttl=LIFE)
        signed_in.source.renew()  # what there is lives long
        strict.reset()
        for _ in range(expiries):
            account = signed_in.account
            assert account is not None
            assert account.expires_at is not None
            answers = crowd.call_together(strict.api(), account.expires_at + 0.05)
            assert [answer.get("status", answer) for answer in answers] == [200] * members
    finally:
        crowd.close()
    stats = strict.stats()
    counted = {name: stats[name] for name in ("refreshes_ok", "refusals", "replays", "api_401")}
    assert counted == {"refreshes_ok": expiries, "refusals": 0, "replays": 0, "api_401": 0}
    # Whoever renews first asks once for the provider's nonce, which each process learns for itself.
    assert stats["token_requests"] == expiries + stats["token_nonces"]
    assert stats["token_nonces"] <= expiries
    assert (stats["api_nonces"], stats["api_ok"]) == (0, expiries * members)


# ── clients with keys and certificates ───────────────────────────────────────────────────────────────────


def self_signed(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """Certificate, key, and the JWK by which a provider knows the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "robot")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "self.pem", folder / "self.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    jwk = {**ECKey.import_key(key.public_key()).as_dict(), "x5c": [base64.b64encode(der).decode()], "x5t#S256": digest}
    return str(paths[0]), str(paths[1]), jwk


class Registered:
    """A provider with clients of each kind, and their keys as files."""

    def __init__(self, folder: Path, start: Callable[..., OidcProvider]) -> None:
        authority = Authority(folder)
        self.ca = authority.ca
        self.by_authority = authority.issue("client", x509.DNSName("client.example.org"))
        self.stranger = authority.issue("stranger", x509.DNSName("stranger.example.org"))
        certificate, key, jwk = self_signed(folder)
        self.by_itself = certificate, key
        self.rsa, self.ec = RSAKey.generate_key(2048, {"kid": "r1"}), ECKey.generate_key("P-256", {"kid": "e1"})
        self.keys = {"rsa": folder / "robot-rsa.pem", "ec": folder / "robot-ec.json"}
        self.keys["rsa"].write_bytes(self.rsa.as_pem(private=True))
        self.keys["ec"].write_text(json.dumps(self.ec.as_dict(private=True)))
        for path in self.keys.values():
            path.chmod(0o600)
        common = {"grant_types": ["client_credentials"], "response_types": [], "redirect_uris": []}
        here = [Path(part).read_text() for part in authority.issue("here", HERE)]
        self.provider = start(
            tls={"cert": here[0], "key": here[1], "ca": Path(self.ca).read_text()},
            clients=[
                {
                    **common,
                    "client_id": "robot",
                    "token_endpoint_auth_method": "private_key_jwt",
                    "jwks": {"keys": [self.rsa.as_dict(private=False), self.ec.as_dict(private=False)]},
                },
                {
                    "client_id": "person",
                    "application_type": "native",
                    "grant_types": ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
                    "response_types": [],
                    "redirect_uris": [],
                    "token_endpoint_auth_method": "private_key_jwt",
                    "dpop_bound_access_tokens": True,
                    "jwks": {"keys": [self.ec.as_dict(private=False)]},
                },
                {
                    **common,
                    "client_id": "mac",
                    "token_endpoint_auth_method": "client_secret_jwt",
                    "client_secret": MAC_SECRET,
                },
                {
                    **common,
                    "client_id": "tls",
                    "token_endpoint_auth_method": "tls_client_auth",
                    "tls_client_auth_san_dns": "client.example.org",
                },
                {
                    **common,
                    "client_id": "self",
                    "token_endpoint_auth_method": "self_signed_tls_client_auth",
                    "jwks": {"keys": [jwk]},
                },
            ],
        )


@pytest.fixture(scope="module")
def _registered(
    tmp_path_factory: pytest.TempPathFactory, start_oidc_provider: Callable[..., OidcProvider]
) -> Registered:
    return Registered(tmp_path_factory.mktemp("keys"), start_oidc_provider)


@pytest.fixture
def registered(_registered: Registered, loginonce_home: Path) -> Registered:
    _registered.provider.reset(everything=True)
    return _registered


def service(registered: Registered, client_id: str, **given: Any) -> loginonce.Session:
    session = loginonce.Session(registered.provider.issuer, client_id=client_id, grant="client_credentials", **given)
    session.verify = registered.ca
    return session


def works(registered: Registered, session: loginonce.Session, client_id: str) -> None:
    """It signs in, renews, and the API knows who it is."""
    with session:
        assert session.login().renews
        session.source.renew()
        session.verify = True  # the API is not behind the certificates of the tests
        assert session.get(registered.provider.api()).json()["client_id"] == client_id
    stats = registered.provider.stats()
    assert (stats["token_requests"], stats["refusals"]) == (2, 0)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_client_with_a_private_key_is_known(registered: Registered, kind: str) -> None:
    works(registered, service(registered, "robot", private_key=str(registered.keys[kind])), "robot")


def test_a_client_whose_secret_signs_is_known(registered: Registered) -> None:
    session = service(registered, "mac", client_secret=MAC_SECRET, token_endpoint_auth_method="client_secret_jwt")
    works(registered, session, "mac")


@pytest.mark.parametrize("client_id", ["tls", "self"])
def test_a_client_with_a_certificate_is_known_at_the_end_points_for_those(
    registered: Registered, client_id: str
) -> None:
    certificate, key = registered.by_authority if client_id == "tls" else registered.by_itself
    works(registered, service(registered, client_id, certificate=certificate, certificate_key=key), client_id)


@pytest.mark.parametrize("client_id", ["tls", "self"])
def test_a_certificate_of_somebody_else_is_refused(registered: Registered, client_id: str) -> None:
    certificate, key = registered.stranger
    session = service(registered, client_id, certificate=certificate, certificate_key=key)
    with session, pytest.raises(ConfigurationError, match="invalid_client"):
        session.login()


@pytest.mark.hazard(37)
def test_assertions_and_nonces_go_together(registered: Registered, person: Person) -> None:
    """A request that is repeated for its nonce has a new assertion too: the provider takes each only once."""
    registered.provider.configure(dpop_nonces=True)
    with loginonce.Session(
        registered.provider.issuer,
        client_id="person",
        scope="openid offline_access",
        private_key=str(registered.keys["ec"]),
        dpop=True,
    ) as lab:
        flow = DeviceFlow(lab.source.provider, "openid offline_access")
        prompt = flow.begin()
        person.approve_device(prompt.url, prompt.user_code)
        tokens = flow.finish(lambda *_, **__: None).answer
        assert tokens.refresh_token is not None
        lab.login(
            tokens={
                "access_token": tokens.access_token,
                "token_type": tokens.token_type,
                "refresh_token": tokens.refresh_token,
                "dpop_key": tokens.dpop_key,
            }
        )
        fresh = lab.__copy__()  # its provider knows no nonce yet
        registered.provider.reset()
        fresh.source.renew()
        assert fresh.get(registered.provider.api()).status_code == 200
    stats = registered.provider.stats()
    assert (stats["token_requests"], stats["token_nonces"], stats["refreshes_ok"], stats["replays"]) == (2, 1, 1, 0)


def test_a_useless_key_spends_nothing(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("not a key")
    session = service(registered, "robot", private_key=str(tmp_path / "key.pem"))
    with session, pytest.raises(ConfigurationError, match=r"key\.pem"):
        session.login()
    assert registered.provider.stats()["token_requests"] == 0
