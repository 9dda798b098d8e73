"""Pytest fixtures for those who test code that uses loginonce.

Pytest loads this module at every start: keep it light.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loginonce.testing.provider import FakeProvider


@pytest.fixture
def fake_provider_factory() -> Iterator[Callable[..., "FakeProvider"]]:
    """Give a function that takes the keywords of `FakeProvider` and returns a started one."""
    from loginonce.testing.provider import FakeProvider

    started: list[FakeProvider] = []

    def start(**options: object) -> FakeProvider:
        provider = FakeProvider(**options)  # type: ignore[arg-type]  # whatever FakeProvider takes
        started.append(provider)
        return provider.start()

    yield start
    for provider in started:
        provider.stop()


@pytest.fixture
def fake_provider(fake_provider_factory: Callable[..., "FakeProvider"]) -> "FakeProvider":
    """Give a started `FakeProvider` with default behaviour."""
    return fake_provider_factory()


@pytest.fixture
def loginonce_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder for logins, in place of the user's own (environment variable LOGINONCE_HOME)."""
    home = tmp_path / "loginonce"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("LOGINONCE_HOME", str(home))
    return home
