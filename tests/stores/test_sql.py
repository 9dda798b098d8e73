"""Stores in databases keep the promise of every store, whatever the database, the pooler and the network do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from contract import KEY, StoreContract, a_grant, increment, together
from servers import PASSWORD, Server, Wire, mariadb, pgbouncer, postgresql, sql

from loginonce.errors import ConfigurationError, StoreError
from loginonce.stores.sql import SQLStore

Address = str


@pytest.fixture(scope="module")
def a_postgresql() -> Iterator[Server]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def a_mariadb() -> Iterator[Server]:
    with mariadb() as server:
        yield server


@pytest.fixture(scope="module")
def a_pgbouncer(a_postgresql: Server) -> Iterator[Server]:
    with pgbouncer(a_postgresql) as server:
        yield server


REAL = ["a_postgresql", "a_mariadb", "a_pgbouncer"]


@pytest.fixture
def sqlite(tmp_path: Path) -> Address:
    return f"sqlite:///{tmp_path}/logins/db"


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.real) for name in REAL)])
def address(request: pytest.FixtureRequest) -> Address:
    """Of an empty database, on each server in turn."""
    found = request.getfixturevalue(request.param)
    if isinstance(found, Server):
        found.empty()
        return found.address
    return str(found)


class TestSQLite(StoreContract):
    threads = 16

    @pytest.fixture
    def store(self, sqlite: Address) -> SQLStore:
        return SQLStore(sqlite)

    @pytest.fixture
    def twin(self, store: SQLStore, sqlite: Address) -> SQLStore:
        return SQLStore(sqlite)


class Contract(StoreContract):
    """Of a real server."""

    increments = 2

    @pytest.fixture
    def store(self, server: Server) -> SQLStore:
        server.empty()
        return SQLStore(server.address)

    @pytest.fixture
    def twin(self, store: SQLStore, server: Server) -> SQLStore:
        return SQLStore(server.address)


@pytest.mark.real
class TestPostgreSQL(Contract):
    @pytest.fixture
    def server(self, a_postgresql: Server) -> Server:
        return a_postgresql


@pytest.mark.real
class TestMariaDB(Contract):
    @pytest.fixture
    def server(self, a_mariadb: Server) -> Server:
        return a_mariadb


@pytest.mark.real
class TestBehindPgbouncer(Contract):
    @pytest.fixture
    def server(self, a_pgbouncer: Server) -> Server:
        return a_pgbouncer
