"""A provider, a folder of logins, and crowds of real processes that share it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd, Launcher

import loginonce
from loginonce.testing import FakeProvider

sys.path.insert(0, str(Path(__file__).parent.parent / "stores"))  # where `contract` is
from places import a_mariadb, a_postgresql, a_redis, a_valkey, place  # noqa: E402, F401 - fixtures

Gather = Callable[..., Crowd]


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """What forks the members of all crowds."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def gather(launcher: Launcher, fake_provider: FakeProvider, loginonce_home: Path) -> Iterator[Gather]:
    """Make a crowd whose members share the login of `owner`; `policy` is a mapping."""
    crowds: list[Crowd] = []

    def gather(**session: Any) -> Crowd:
        settings = {"issuer": fake_provider.issuer, "client_id": fake_provider.public_client_id, **session}
        crowds.append(Crowd(launcher, loginonce_home, **settings))
        return crowds[-1]

    yield gather
    for crowd in crowds:
        crowd.close()


@pytest.fixture
def owner(fake_provider: FakeProvider, loginonce_home: Path) -> loginonce.Session:
    """The login of this process, signed in with a token that lives for five minutes."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
    session.login(tokens=fake_provider.issue())
    session.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return session


@pytest.fixture
def age() -> Callable[..., None]:
    """Change when the access token of a login was received, and when it ends, in the record itself."""

    def age(session: loginonce.Session, *, received: float = 60.0, ends_in: float | None = None) -> None:
        """`received`: so many seconds ago.  `ends_in`: seconds from now, unless it is to stay as it is.

        A token that was received a moment ago would not be renewed when it is refused.
        """
        now = time.time()

        def older(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            tokens = [replace(token, received_at=now - received) for token in grant.tokens]
            if ends_in is not None:
                tokens = [replace(token, expires_at=now + ends_in) for token in tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        session.source.change(older)

    return age


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until something that no event tells of has happened."""

    def until(happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.002)

    return until
