"""Clients that say who they are by a key or a certificate, and what happens where that is of no use."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from certificates import Certificates
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from joserfc.jwk import ECKey
from scripted import Scripted, answer, saying

from loginonce import authentication
from loginonce.client import Discovery, Provider
from loginonce.errors import ConfigurationError, ErrorResponse
from loginonce.model import Client, Grant, GrantKey, Secret
from loginonce.testing import FakeProvider
from loginonce.transport import Route, Transport
from loginonce.wire import Answer, Form, Granted, Misconfigured

Factory = Callable[..., FakeProvider]
Serve = Callable[..., Scripted]
TOKENS = json.dumps({"access_token": "a", "token_type": "Bearer", "refresh_token": "r2"}).encode()


class Recording(Transport):
    """A transport that notes what it is asked to send."""

    def __init__(self, route: Callable[[], Route] = Route) -> None:
        super().__init__(route)
        self.posts: list[dict[str, str]] = []

    def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
        self.posts.append(dict(form))
        return super().post(url, form, headers, budget=budget)


@pytest.fixture
def key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "k1"})


@pytest.fixture
def key_file(tmp_path: Path, key: ECKey) -> Path:
    path = tmp_path / "robot.pem"
    path.write_bytes(key.as_pem(private=True))
    path.chmod(0o600)
    return path


@pytest.fixture
def robot(fake_provider: FakeProvider, key: ECKey) -> FakeProvider:
    """A provider that knows the client `robot` by its key."""
    fake_provider.add_client("robot", public_key=key.as_dict(private=False))
    return fake_provider


def of(fake: FakeProvider, transport: Transport | None = None, **members: Any) -> Provider:
    return Provider(Discovery(fake.issuer), Client("robot", **members), transport)


def a_grant(fake: FakeProvider) -> Grant:
    issued = fake.issue(client_id="robot")
    return Grant(GrantKey(fake.issuer, "robot"), 1, refresh_token=Secret(issued["refresh_token"]), scope="openid")


def renewed(provider: Provider, grant: Grant) -> Any:
    return provider.refresh(grant, resource="", for_scope="", budget=5.0)


# ── assertions ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_with_a_key_in_a_file_gets_tokens(robot: FakeProvider, key_file: Path) -> None:
    provider = of(robot, private_key=str(key_file))
    assert provider.client_credentials(scope="admin").scope == "admin"
    assert isinstance(renewed(provider, a_grant(robot)), Granted)


def test_a_key_may_be_a_text(robot: FakeProvider, key: ECKey) -> None:
    text = Secret(json.dumps(key.as_dict(private=True)))
    assert of(robot, private_key=text).client_credentials(scope="admin").access_token


def test_each_request_has_an_assertion_of_its_own(robot: FakeProvider, key_file: Path) -> None:
    transport = Recording()
    provider = of(robot, transport, private_key=str(key_file))
    for _ in range(3):
        provider.client_credentials(scope="admin")  # the provider takes each one only once
    assert len({form["client_assertion"] for form in transport.posts}) == 3


def test_revocation_is_authenticated_too(robot: FakeProvider, key_file: Path) -> None:
    grant = a_grant(robot)
    assert grant.refresh_token is not None
    assert of(robot, private_key=str(key_file)).revoke(grant.refresh_token, "refresh_token")
    assert robot.stats.revocations == 1


def test_a_key_that_is_not_the_registered_one_is_refused_by_the_provider(robot: FakeProvider) -> None:
    other = Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))
    with pytest.raises(ErrorResponse) as caught:
        of(robot, private_key=other).client_credentials(scope="admin")
    assert caught.value.error == "invalid_client"


def test_a_client_secret_can_sign(fake_provider: FakeProvider) -> None:
    secret = Secret("a secret of more than thirty-two octets, as RFC 7518 wants it")
    fake_provider.add_client("robot", secret=secret)
    provider = of(fake_provider, client_secret=secret, token_endpoint_auth_method="client_secret_jwt")
    assert provider.client_credentials(scope="admin").access_token


def test_a_provider_that_wants_its_end_point_as_audience_gets_it(fake_provider_factory: Factory, key: ECKey) -> None:
    fake = fake_provider_factory(assertion_audience="token_endpoint")
    fake.add_client("robot", public_key=key.as_dict(private=False))
    text = Secret(json.dumps(key.as_dict(private=True)))
    with pytest.raises(ErrorResponse):
        of(fake, private_key=text).client_credentials(scope="admin")
    assert of(fake, private_key=text, assertion_audience="token_endpoint").client_credentials(scope="admin")


# ── keys that are of no use ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["missing", "folder", "not text", "no key"])
def useless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "useless.pem"
    match request.param:
        case "folder":
            path.mkdir()
        case "not text":
            path.write_bytes(b"\xff\xfe\x00")
        case "no key":
            path.write_text("nothing of a key")
    return path


@pytest.mark.hazard(39)
def test_a_useless_key_is_told_before_anything_is_sent(robot: FakeProvider, useless: Path) -> None:
    provider, grant = of(robot, private_key=str(useless)), a_grant(robot)
    with pytest.raises(ConfigurationError, match=r"useless\.pem"):
        provider.client_credentials(scope="admin")
    with pytest.raises(ConfigurationError, match=r"useless\.pem"):
        provider.authorization_url(scope="openid")
    assert isinstance(provider.prepare(), Misconfigured)
    assert isinstance(renewed(provider, grant), Misconfigured)
    assert robot.stats.token_requests == 0


def test_a_key_that_was_replaced_is_read_again(robot: FakeProvider, key_file: Path) -> None:
    good = key_file.read_bytes()
    key_file.write_text("half of a ke")
    provider = of(robot, private_key=str(key_file))
    assert isinstance(provider.prepare(), Misconfigured)
    key_file.write_bytes(good)
    assert provider.client_credentials(scope="admin").access_token


def test_a_key_is_parsed_once_as_long_as_its_file_is_the_same(
    robot: FakeProvider, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    read = authentication.read_key
    monkeypatch.setattr(authentication, "read_key", lambda text, where: parsed.append(where) or read(text, where))
    provider = of(robot, private_key=str(key_file))
    for _ in range(3):
        provider.client_credentials(scope="admin")
    assert parsed == [str(key_file)]


def test_a_key_that_others_can_read_is_warned_of(
    robot: FakeProvider, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key_file.chmod(0o644)
    with caplog.at_level(logging.WARNING, "loginonce"):
        of(robot, private_key=str(key_file)).prepare()
    assert f"chmod 600 '{key_file}'" in caplog.text
    assert stat.S_IMODE(os.stat(key_file).st_mode) == 0o644


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────


def by_certificate(certificates: Certificates, certificate: tuple[str, ...], **metadata: Any) -> Provider:
    """A client of a provider that has no documents, and of which this much is known."""
    known = {"token_endpoint_auth_methods_supported": ["self_signed_tls_client_auth"], **metadata}
    cert = (certificate[0], certificate[1]) if len(certificate) > 1 else certificate[0]
    route = Route(verify=certificates.ca, cert=cert)
    client = Client("robot", certificate=certificate)
    return Provider(Discovery("https://127.0.0.1:9", known), client, Transport(lambda: route))


@pytest.fixture
def mutual(serve: Serve, certificates: Certificates) -> Scripted:
    """A token end point that answers nobody without a certificate."""
    return serve(saying(answer(TOKENS)), tls=certificates.context(certificates.here, clients=True))


def test_a_client_is_known_by_its_certificate(mutual: Scripted, certificates: Certificates) -> None:
    provider = by_certificate(certificates, certificates.client, token_endpoint=mutual.url)
    assert provider.client_credentials(scope="admin").access_token == "a"
    form = parse_qs(mutual.requests[0].partition(b"\r\n\r\n")[2].decode())
    assert form == {"grant_type": ["client_credentials"], "scope": ["admin"], "client_id": ["robot"]}


def test_certificate_and_key_may_be_in_one_file(mutual: Scripted, certificates: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(part).read_text() for part in certificates.client))
    provider = by_certificate(certificates, (str(both),), token_endpoint=mutual.url)
    assert provider.client_credentials(scope="admin").access_token == "a"


def test_the_end_points_for_certificates_are_used_where_the_provider_has_some(
    mutual: Scripted, certificates: Certificates, serve: Serve
) -> None:
    plain = serve(saying(answer(TOKENS)), tls=certificates.context(certificates.here))
    known = {"token_endpoint": plain.url, "mtls_endpoint_aliases": {"token_endpoint": mutual.url}}
    grant = Grant(GrantKey("https://127.0.0.1:9", "robot"), 1, refresh_token=Secret("r1"))
    provider = by_certificate(certificates, certificates.client, **known)
    assert isinstance(renewed(provider, grant), Granted)
    assert (plain.connections, mutual.connections) == (0, 1)


def test_without_a_certificate_the_usual_end_points_are_used(
    mutual: Scripted, certificates: Certificates, serve: Serve
) -> None:
    plain = serve(saying(answer(TOKENS)), tls=certificates.context(certificates.here))
    known = {"token_endpoint": plain.url, "mtls_endpoint_aliases": {"token_endpoint": mutual.url}}
    transport = Transport(lambda: Route(verify=certificates.ca))
    Provider(Discovery("https://127.0.0.1:9", known), Client("robot"), transport).device_token("d")
    assert (plain.connections, mutual.connections) == (1, 0)


def test_an_alias_that_is_not_encrypted_is_refused(certificates: Certificates) -> None:
    known = {"token_endpoint": "https://x/t", "mtls_endpoint_aliases": {"token_endpoint": "http://x.example.org/t"}}
    with pytest.raises(ConfigurationError, match="by https"):
        _ = by_certificate(certificates, certificates.client, **known).server


def test_aliases_that_are_no_table_are_none(certificates: Certificates) -> None:
    known = {"token_endpoint": "https://x/t", "mtls_endpoint_aliases": ["https://x/t"]}
    with pytest.raises(ConfigurationError, match="mtls_endpoint_aliases"):
        _ = by_certificate(certificates, certificates.client, **known).server


@pytest.fixture(params=["missing", "no certificate", "another key", "passphrase"])
def useless_pair(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> tuple[str, str]:
    certificate, key = certificates.client
    changed = tmp_path / "changed.pem"
    match request.param:
        case "missing":
            return str(changed), key
        case "no certificate":
            changed.write_text("nothing of a certificate")
            return str(changed), key
        case "another key":
            return certificate, certificates.elsewhere[1]
    loaded = load_pem_private_key(Path(key).read_bytes(), None)
    changed.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")))
    return certificate, str(changed)


def test_a_useless_certificate_is_told_before_anything_is_sent(
    mutual: Scripted, certificates: Certificates, useless_pair: tuple[str, str]
) -> None:
    provider = by_certificate(certificates, useless_pair, token_endpoint=mutual.url)
    grant = Grant(GrantKey("https://127.0.0.1:9", "robot"), 1, refresh_token=Secret("r1"))
    with pytest.raises(ConfigurationError, match="cannot be used as a certificate"):
        provider.client_credentials(scope="admin")
    assert isinstance(renewed(provider, grant), Misconfigured)
    assert mutual.connections == 0
