"""What the tests of the services share: scripted servers, certificates, and a way through no proxy but our own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificates import HERE, Authority, Certificates
from cryptography import x509
from scripted import Script, Scripted


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    """Start a scripted server; it ends with the test."""
    with ExitStack() as running:

        def start(script: Script, *, tls: ssl.SSLContext | None = None) -> Scripted:
            return running.enter_context(Scripted(script, tls=tls))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return Certificates(
        ca=authority.ca,
        here=authority.issue("here", HERE),
        elsewhere=authority.issue("elsewhere", x509.DNSName("elsewhere.example.org")),
        client=authority.issue("client", x509.DNSName("client.example.org")),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where logins are kept."""
    return tmp_path / "logins"
