"""Every kind of store, as the suites see it that are run against each: its address, and what sets it apart.

`conftest`s import the fixtures: `place` is to be parametrised (`indirect`) with members of `PLACES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from purses import InFolder, in_use

from loginonce.model import GrantKey
from loginonce.stores.base import TokenStore
from loginonce.stores.opening import open_store

__all__ = ["PLACES", "Kind", "Place", "a_mariadb", "a_postgresql", "a_redis", "a_valkey", "listed", "marked", "place"]


@dataclass(frozen=True)
class Kind:
    """`lease`: its lock is one.  `lag`: seconds by which a change of another process may be seen late.

    `server`: the fixture that it takes.  `brisk`: constants of the library with which its leases cost little waiting.
    """

    name: str
    address: str  # {server}, {folder}
    server: str = ""
    lease: bool = False
    lag: float = 0.0
    brisk: dict[str, float] = field(default_factory=dict, hash=False)
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.name


@dataclass
class Place:
    """One of a kind, empty; `lapse` ends the lease on a login, as time does."""

    kind: Kind
    address: str
    lapse: Callable[[GrantKey], object]

    def open(self) -> TokenStore:
        return open_store(self.address)


def _brisk(module: str) -> dict[str, float]:
    return {f"stores.{module}.LEASE": 0.3, "refresh.LATE": 0.3, "refresh.CLOCK_DIFFERENCE": 0.1}


def _on_redis(name: str, server: str = "a_redis", setting: str = "") -> Kind:
    return Kind(name, "{server}" + setting, server, lease=True, lag=0.25, brisk=_brisk("redis"))


def _in_sql(name: str, address: str, server: str = "") -> Kind:
    return Kind(name, address, server, lease=True, lag=0.3, brisk=_brisk("sql"))


SEALED = "?seal=file:{folder}/key"

PLACES = {
    kind.name: kind
    for kind in (
        Kind("file", "file:{folder}/logins"),
        Kind("strict file", "file:{folder}/logins?lock=strict"),
        Kind("sealed file", "file:{folder}/logins" + SEALED),
        Kind("keyring", "keyring:", environment={"PYTHON_KEYRING_BACKEND": "purses.InFolder"}),
        _on_redis("Redis"),
        _on_redis("Valkey", "a_valkey"),
        _on_redis("sealed Redis", setting=SEALED),
        _in_sql("PostgreSQL", "{server}", "a_postgresql"),
        _in_sql("sealed PostgreSQL", "{server}" + SEALED, "a_postgresql"),
        _in_sql("MariaDB", "{server}", "a_mariadb"),
        _in_sql("SQLite", "sqlite:///{folder}/logins/db"),
    )
}


def listed(*names: str, quick: tuple[str, ...] = ()) -> list[Any]:
    """These kinds as parameters: those on a server are `real`, the others `slow` but for the quick ones."""
    kinds = [PLACES[name] for name in names or PLACES]
    return [pytest.param(kind, id=kind.name, marks=() if kind.name in quick else marked(kind)) for kind in kinds]


def marked(kind: Kind) -> pytest.MarkDecorator:
    return pytest.mark.real if kind.server else pytest.mark.slow


@pytest.fixture(scope="session")
def a_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from _redis(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="session")
def a_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from redis_server import VALKEY

    yield from _redis(tmp_path_factory.mktemp("valkey"), kind=VALKEY)


def _redis(folder: Path, **settings: str) -> Iterator[Any]:
    from redis_server import Server

    server = Server(folder, **settings)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def a_postgresql() -> Iterator[Any]:
    from servers import postgresql

    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def a_mariadb() -> Iterator[Any]:
    from servers import mariadb

    with mariadb() as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty one of the kind that is the parameter."""
    kind: Kind = request.param
    server = request.getfixturevalue(kind.server) if kind.server else None
    folder = tmp_path / "place"
    folder.mkdir(mode=0o700)
    for name, value in kind.environment.items():
        monkeypatch.setenv(name, value)
    if server is None:
        address = kind.address.format(folder=folder)
    elif kind.server in ("a_redis", "a_valkey"):
        server.client().flushall()
        address = kind.address.format(server=server.url, folder=folder)
    else:
        server.empty()
        address = kind.address.format(server=server.address, folder=folder)

    def lapse(key: GrantKey) -> None:
        """What time does, at once: the clock is the server's."""
        if kind.server in ("a_redis", "a_valkey"):
            store: Any = open_store(address.partition("?")[0])
            server.client().delete(store._name("lock", key))
        elif kind.lease:
            from servers import sql

            sql(address.partition("?")[0], "UPDATE loginonce_waits SET until = 0")

    with in_use(InFolder()):
        yield Place(kind, address, lapse)
