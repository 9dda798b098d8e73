"""A provider that behaves like the one of that name, and a session that knows it by its name."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from across import Seen, Sessions, SignIn

import loginonce
from loginonce.providers import known
from loginonce.testing import FakeProvider


@pytest.fixture
def fake(name: str) -> Iterator[FakeProvider]:
    with FakeProvider.like(name) as provider:
        yield provider


@pytest.fixture
def session_of(fake: FakeProvider, loginonce_home: Path) -> Sessions:
    """Sessions at the fake provider; `provider` is the name by which they know it."""

    def session_of(provider: str, **settings: Any) -> loginonce.Session:
        if known(provider).claims:  # asked for at an address of its own, which has to be the fake's here
            settings.setdefault("server", {"userinfo_endpoint": f"{fake.issuer}/userinfo"})
        given = {"client_id": fake.public_client_id, **settings}
        return loginonce.Session(provider=provider, issuer=fake.issuer, **given)

    return session_of


@pytest.fixture
def session(name: str, session_of: Sessions) -> loginonce.Session:
    return session_of(name)


@pytest.fixture
def signed_in(fake: FakeProvider, session: loginonce.Session) -> loginonce.Session:
    """A session with a login from elsewhere."""
    session.login(tokens=fake.issue(scope=f"{session.settings.scope} offline_access"))
    return session


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def by_browser(fake: FakeProvider, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> SignIn:
    """Sign in as a person does whose browser cannot come back: by typing the address of the last page."""
    monkeypatch.setattr(getpass, "getpass", lambda _: fake.approve(seen.prompt().url))
    return lambda session: session.login("paste", presenter=seen)
