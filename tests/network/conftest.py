"""A login whose token end point is a server that can be broken in every way, and healed again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "services"))  # where `scripted` and `certificates` are

from certificates import HERE, Authority
from cryptography import x509
from faulty import World
from scripted import Scripted, answer, saying

from loginonce.testing import FakeProvider


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates by name: here, wrong (another host), ended, provider (of provider.invalid)."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def pairs(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return {
        "here": authority.issue("here", HERE),
        "wrong host": authority.issue("elsewhere", x509.DNSName("elsewhere.example.org")),
        "expired": authority.issue("ended", HERE, ended=True),
        "unknown authority": Authority(tmp_path_factory.mktemp("stranger")).issue("here", HERE),
        "by name": authority.issue("provider", x509.DNSName("provider.invalid")),
    }


@pytest.fixture
def world(
    fake_provider: FakeProvider,
    loginonce_home: Path,
    authority: Authority,
    pairs: dict[str, tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., World]]:
    """Make the world of one row of the table."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as running:
        api = running.enter_context(Scripted(saying(answer(connection="close"))))

        def make(fault: str, **settings: float) -> World:
            return World(fault, fake_provider.issuer, api, authority.ca, pairs, monkeypatch, running, **settings)

        yield make
