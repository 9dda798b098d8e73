"""Stores in databases keep the promise of every store, whatever the database, the pooler and the network do."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from contract import CANARY, KEY, StoreContract, a_grant, content, together
from servers import PASSWORD, Server, Wire, mariadb, pgbouncer, postgresql, sql
from test_memory import in_a_child

from loginonce.errors import ConfigurationError, CorruptStore, LockTimeout, StoreError
from loginonce.stores import sql as sql_module
from loginonce.stores.base import OrderConflict, Snapshot
from loginonce.stores.file import FileStore
from loginonce.stores.locks import Ground
from loginonce.stores.remote import Address as Remote
from loginonce.stores.sql import SCHEMA, SQLStore

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


REAL = ["a_postgresql", "a_mariadb"]


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
    threads = 8

    @pytest.fixture
    def store(self, sqlite: Address) -> SQLStore:
        return SQLStore(sqlite)

    @pytest.fixture
    def twin(self, store: SQLStore, sqlite: Address) -> SQLStore:
        return SQLStore(sqlite)


class Contract(StoreContract):
    """Of a real server.  More threads than these are told so on two slow cores."""

    threads, increments = 16, 8

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
    increments = 4  # its pool and ours are small

    @pytest.fixture
    def server(self, a_pgbouncer: Server) -> Server:
        return a_pgbouncer


# ── two programs, two versions ───────────────────────────────────────────────────────────────────────────

KINDS = {"sqlite": "BLOB", "postgresql": "BYTEA", "mysql": "LONGBLOB"}
LAYOUT_1 = (
    'CREATE TABLE loginonce_schema ("one" INTEGER PRIMARY KEY, version INTEGER NOT NULL, store VARCHAR(32) NOT NULL)',
    (
        "CREATE TABLE loginonce_logins (id VARCHAR(64) PRIMARY KEY, issuer TEXT NOT NULL, client_id TEXT NOT NULL,"
        " account TEXT NOT NULL, state VARCHAR(16) NOT NULL, epoch BIGINT NOT NULL, generation BIGINT NOT NULL,"
        " attempt BIGINT NOT NULL, updated_at TIMESTAMP NOT NULL, revision VARCHAR(16) NOT NULL,"
        " record {bytes} NOT NULL)"
    ),
    (
        "CREATE TABLE loginonce_waits (id VARCHAR(64) PRIMARY KEY, holder VARCHAR(16), until DOUBLE PRECISION NOT NULL,"
        " notice {bytes})"
    ),
)
"""As the first version of this store made them."""


def older(address: Address) -> None:
    """A database as the first version left it, with a login in it."""
    made = SQLStore(address)
    made.commit(a_grant(), expected=None)
    row = sql(address, "SELECT * FROM loginonce_logins")[0]._mapping
    store = sql(address, "SELECT store FROM loginonce_schema")[0].store
    for table in ("loginonce_logins", "loginonce_waits", "loginonce_schema"):
        sql(address, f"DROP TABLE {table}")
    kind = address.partition(":")[0].partition("+")[0]
    for statement in LAYOUT_1:
        quoted = statement if kind != "mysql" else statement.replace('"', "`")
        sql(address, quoted.format(bytes=KINDS[kind]))
    sql(address, "INSERT INTO loginonce_schema VALUES (1, 1, :store)", store=store)
    columns = [name for name in row if name != "room"]
    sql(
        address,
        f"INSERT INTO loginonce_logins ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})",
        **{name: row[name] for name in columns},
    )


@pytest.fixture
def database(address: Address, request: pytest.FixtureRequest) -> Iterator[Address]:
    """Without any table, before and after."""
    drop(address)
    yield address
    drop(address)


def drop(address: Address) -> None:
    if "sqlite" not in address:
        for table in ("loginonce_logins", "loginonce_waits", "loginonce_schema", "loginonce_old"):
            sql(address, f"DROP TABLE IF EXISTS {table}")


BEGIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from contract import KEY, increment\n"
    "from loginonce.stores.sql import SQLStore\n"
    "sys.stdin.readline(); increment(SQLStore(sys.argv[2]))"
)


def ten_programs(address: Address) -> None:
    """Each increments the login, all beginning at once."""
    here = str(Path(__file__).parent)
    started = [subprocess.Popen([sys.executable, "-c", BEGIN, here, address], stdin=subprocess.PIPE) for _ in range(10)]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0] * 10


@pytest.mark.slow
def test_ten_programs_that_start_on_an_empty_database_make_one(database: Address) -> None:
    ten_programs(database)
    assert SQLStore(database).load(KEY).grant.order == (1, 10, 0)  # type: ignore[union-attr]
    assert len(sql(database, "SELECT * FROM loginonce_schema")) == 1


@pytest.mark.real
def test_who_makes_the_tables_lets_the_next_one_in_when_they_can_be_seen(a_mariadb: Server) -> None:
    a_mariadb.drop()
    first, second = SQLStore(a_mariadb.address), SQLStore(a_mariadb.address)
    with ThreadPoolExecutor(1) as pool:
        following: list[Future[object]] = []

        def let_in(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if "release_lock" in statement:
                other = a_grant(replace(KEY, account="other"))
                following.append(pool.submit(second.commit, other, expected=None))
                time.sleep(0.5)

        sa.event.listen(first._engine, "after_cursor_execute", let_in)
        first.commit(a_grant(), expected=None)
        assert [done.exception(20) for done in following] == [None]
    assert len(list(SQLStore(a_mariadb.address).grants())) == 2


@pytest.mark.slow
def test_ten_programs_that_start_on_an_older_layout_change_it_once_and_lose_nothing(database: Address) -> None:
    older(database)
    ten_programs(database)
    assert SQLStore(database).load(KEY).grant.order == (1, 10, 0)  # type: ignore[union-attr]
    assert [row.version for row in sql(database, "SELECT version FROM loginonce_schema")] == [SCHEMA]


def test_the_login_of_an_older_layout_is_there_in_the_newer_one(database: Address) -> None:
    older(database)
    store = SQLStore(database)
    assert content(store.load(KEY).grant) == a_grant()
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    assert content(SQLStore(database).load(KEY).grant) == a_grant(order=(1, 0, 1))


def test_a_change_of_layout_that_was_cut_short_is_begun_again(database: Address) -> None:
    older(database)
    sql(database, f"ALTER TABLE loginonce_logins ADD COLUMN room {KINDS[database.partition(':')[0].partition('+')[0]]}")
    assert content(SQLStore(database).load(KEY).grant) == a_grant()


@pytest.mark.parametrize("used", [False, True], ids=["started later", "running already"])
def test_a_program_that_meets_a_newer_layout_says_so_and_destroys_nothing(database: Address, used: bool) -> None:
    SQLStore(database).commit(a_grant(), expected=None)
    store = SQLStore(database)
    if used:
        assert store.load(KEY).grant is not None
    sql(database, "UPDATE loginonce_schema SET version = :newer", newer=SCHEMA + 1)
    before = sql(database, "SELECT * FROM loginonce_logins")
    for attempt in (
        lambda: store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0)),  # first: nothing else has told it yet
        lambda: store.load(KEY),
        lambda: list(store.grants()),
        lambda: store.commit(a_grant(replace(KEY, account="new")), expected=None),
    ):
        with pytest.raises(StoreError, match="upgrade loginonce here"):
            attempt()
    assert sql(database, "SELECT * FROM loginonce_logins") == before


# ── what an administrator sees ───────────────────────────────────────────────────────────────────────────


def test_a_row_tells_who_and_how_it_stands_and_when(address: Address) -> None:
    SQLStore(address).commit(a_grant(replace(KEY, account="ada\0\n")), expected=None)
    row = sql(address, "SELECT * FROM loginonce_logins")[0]
    assert (row.issuer, row.client_id, row.account, row.state) == (*KEY_PARTS, "ada\\x00\\n", "ACTIVE")
    assert (row.epoch, row.generation, row.attempt) == (1, 0, 0)
    assert str(row.updated_at).startswith(f"{datetime.now(UTC):%Y-%m-%d %H}") or datetime.now(UTC).minute == 0


KEY_PARTS = (KEY.issuer, KEY.client_id)


@pytest.mark.hazard(39)
def test_no_secret_is_in_any_column_but_the_record(address: Address) -> None:
    SQLStore(address).commit(a_grant(), expected=None, reserve=True)
    row = sql(address, "SELECT * FROM loginonce_logins")[0]._mapping
    assert CANARY.encode() in bytes(row["record"])
    assert CANARY not in str({name: value for name, value in row.items() if name != "record"})


@pytest.mark.parametrize(
    "change",
    ["record = substr(record, 1, 200)", "epoch = epoch + 1", "id = 'x'"],
    ids=["torn", "its columns changed", "moved"],
)
@pytest.mark.hazard(19)
def test_a_damaged_row_is_set_aside_and_told_of_once(sqlite: Address, change: str) -> None:
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    sql(sqlite, f"UPDATE loginonce_logins SET {change}")
    if change == "id = 'x'":
        assert store.load(KEY).grant is None
        return
    for _ in range(2):
        with pytest.raises(CorruptStore):
            store.peek(KEY)
    assert list(store.grants()) == []
    with pytest.raises(CorruptStore, match=r"kept in sqlite:.* as id broken-"):
        store.load(KEY)
    assert store.load(KEY).grant is None
    store.commit(a_grant(), expected=None)
    assert sql(sqlite, "SELECT state FROM loginonce_logins WHERE id LIKE 'broken-%'")[0].state == "BROKEN"


def test_a_login_is_saved_in_the_place_of_a_damaged_one(sqlite: Address) -> None:
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    sql(sqlite, "UPDATE loginonce_logins SET record = 'nonsense'")
    store.commit(a_grant(order=(2, 0, 0)), expected=None)
    assert content(store.load(KEY).grant) == a_grant(order=(2, 0, 0))


def test_a_row_that_was_copied_from_another_database_is_not_used(sqlite: Address) -> None:
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    sql(sqlite, "UPDATE loginonce_schema SET store = 'another'")
    with pytest.raises(CorruptStore, match="copied here from another store"):
        store.load(KEY)


def test_a_database_that_is_made_anew_under_a_running_program_is_used(database: Address) -> None:
    store = SQLStore(database)
    store.commit(a_grant(), expected=None)
    for table in ("loginonce_logins", "loginonce_waits", "loginonce_schema"):
        sql(database, f"DROP TABLE {table}")
    assert store.load(KEY).grant is None
    SQLStore(database).commit(a_grant(), expected=None)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert content(SQLStore(database).load(KEY).grant) == a_grant(order=(1, 1, 0))


def test_a_record_of_a_newer_version_is_left_alone(sqlite: Address) -> None:
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    record = bytes(sql(sqlite, "SELECT record FROM loginonce_logins")[0].record)
    sql(sqlite, "UPDATE loginonce_logins SET record = :newer", newer=record.replace(b"loginonce 1 ", b"loginonce 9 "))
    with pytest.raises(StoreError, match="newer version") as refused:
        store.load(KEY)
    assert not isinstance(refused.value, CorruptStore)
    assert list(store.grants()) == []


# ── leases, notices ──────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_a_lease_that_ends_by_the_clock_of_the_database(address: Address) -> None:
    store, twin = SQLStore(address), SQLStore(address)
    hold = store.try_lock(KEY)
    assert hold is not None
    assert hold.lease
    assert twin.try_lock(KEY) is None
    sql(address, "UPDATE loginonce_waits SET until = until - 10")
    again = twin.try_lock(KEY)
    assert again is not None
    hold.release()  # of one that has ended: it is not that of its successor
    assert store.try_lock(KEY) is None
    again.release()


def test_a_notice_is_posted_by_one_of_many(address: Address) -> None:
    store = SQLStore(address)
    assert store.notice(KEY) is None
    posted = together(6, lambda n: SQLStore(address).post(KEY, b"by %d" % n, instead_of=None))
    assert sum(map(bool, posted)) == 1
    there = store.notice(KEY)
    assert there == b"by %d" % posted.index(True)
    assert not store.post(KEY, b"mine", instead_of=b"another")
    assert store.post(KEY, None, instead_of=there)
    assert SQLStore(address).notice(KEY) is None
    assert store.post(KEY, b"later", instead_of=None)


# ── stamps ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_by_another_process_is_seen_by_whoever_goes_on_looking(address: Address) -> None:
    store = SQLStore(address)
    made = store.commit(a_grant(), expected=None)
    assert store.stamp(KEY) == made
    sql(address, "UPDATE loginonce_logins SET revision = 'another'")
    until = time.monotonic() + 20
    while store.stamp(KEY) == made:
        assert time.monotonic() < until
    assert store.stamp(KEY) == "another"


def test_stamps_of_all_logins_are_read_by_one_query_in_a_quarter_of_a_second(sqlite: Address) -> None:
    store, keys = SQLStore(sqlite), [replace(KEY, account=str(n)) for n in range(5)]
    for key in keys:
        store.commit(a_grant(key), expected=None)
        store.stamp(key)
    asked: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        together(4, lambda n: store.stamp(keys[n]))
    assert 1 <= len([query for query in asked if query.startswith("SELECT")]) <= 4


def test_more_logins_than_one_query_asks_for_have_their_stamps(
    sqlite: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_module, "MOST", 2)
    store, keys = SQLStore(sqlite), [replace(KEY, account=str(n)) for n in range(4)]
    made = [store.commit(a_grant(key), expected=None) for key in keys]
    store._glance.stamps, store._glance.until = {}, 0.0
    assert [store.stamp(key) for key in keys] == made


def test_a_stamp_costs_no_more_than_a_glance_at_a_file(
    sqlite: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [SQLStore(sqlite), FileStore(tmp_path / "files")]
    for store in stores:
        store.commit(a_grant(), expected=None)
    took = []
    for store in stores:
        rounds = []
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(2000):
                store.stamp(KEY)
            rounds.append(time.perf_counter() - began)
        took.append(min(rounds))
    with capsys.disabled():
        print(f"\nSQLStore.stamp / FileStore.stamp = {took[0] / took[1]:.2f} ({took[0] / 2e-3:.2f} µs)")
    assert took[0] < 3 * took[1]


# ── cut off ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=REAL)
def wire(request: pytest.FixtureRequest) -> Iterator[tuple[Wire, Address]]:
    """What can be cut, and the address of an empty database behind it."""
    server: Server = request.getfixturevalue(request.param)
    server.empty()
    wire = Wire(server.port)
    yield wire, server.address.replace(f":{server.port}/", f":{wire.port}/")
    wire.close()


@pytest.mark.real
@pytest.mark.parametrize("deliver", [False, True], ids=["before it arrives", "before the answer arrives"])
@pytest.mark.parametrize("said", [b"loginonce_logins SET", b"COMMIT"])
@pytest.mark.hazard(38)
def test_a_commit_that_is_cut_off_is_made_once(wire: tuple[Wire, Address], said: bytes, deliver: bool) -> None:
    line, address = wire
    store = SQLStore(address)
    store.commit(a_grant(), expected=None)
    line.cut_at(said, deliver=deliver)
    made = store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert line.cuts == 1
    assert store.load(KEY).stamp == made
    assert content(store.load(KEY).grant) == a_grant(order=(1, 1, 0))
    with pytest.raises(OrderConflict):
        store.commit(a_grant(order=(1, 2, 0)), expected=(1, 0, 0))


@pytest.mark.real
@pytest.mark.parametrize("deliver", [False, True], ids=["before it arrives", "before the answer arrives"])
def test_the_first_commit_that_is_cut_off_is_made_once(wire: tuple[Wire, Address], deliver: bool) -> None:
    line, address = wire
    store = SQLStore(address)
    store.stamp(KEY)
    line.cut_at(b"INSERT INTO loginonce_logins", deliver=deliver)
    made = store.commit(a_grant(), expected=None)
    assert store.load(KEY) == Snapshot(store.load(KEY).grant, made, settled=True)


@pytest.mark.real
def test_connections_that_were_all_ended_meanwhile_are_made_anew(wire: tuple[Wire, Address]) -> None:
    line, address = wire
    store = SQLStore(address)
    store.commit(a_grant(), expected=None)
    line.cut()
    assert content(store.load(KEY).grant) == a_grant()
    line.cut()
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    line.cut()
    hold = store.try_lock(KEY)
    assert hold is not None
    line.cut()
    hold.release()


@pytest.mark.real
@pytest.mark.hazard(8, 9)
def test_a_server_that_says_nothing_is_given_up_and_then_left_alone(wire: tuple[Wire, Address]) -> None:
    line, address = wire
    store = SQLStore(address)
    store.commit(a_grant(), expected=None)
    line.silent = True
    began = time.monotonic()
    with pytest.raises(StoreError):
        store.load(KEY)
    assert 2 < time.monotonic() - began < 20
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreError):
            store.load(KEY)
    assert time.monotonic() - began < 1
    line.silent = False
    store._glance.quiet_until = 0.0
    assert content(store.load(KEY).grant) == a_grant()


# ── passwords, addresses ─────────────────────────────────────────────────────────────────────────────────


NOWHERE = f"postgresql+psycopg://ada:{PASSWORD}@127.0.0.1:1/logins"


@pytest.mark.parametrize(
    "address",
    [NOWHERE, NOWHERE.replace("postgresql+psycopg", "mariadb+pymysql"), NOWHERE.replace(f":{PASSWORD}", "")],
    ids=["PostgreSQL", "MariaDB", "no password"],
)
@pytest.mark.hazard(39)
def test_the_password_of_an_address_shows_nowhere(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    store = SQLStore(address)
    with pytest.raises(StoreError, match="cannot be reached") as refused:
        store.commit(a_grant(), expected=None)
    shown = f"{store!r} {store.identity} {store.location(KEY)} {refused.value} {vars(store)} {caplog.text}"
    shown += f"{pickle.dumps(store)!r} {pickle.loads(pickle.dumps(store))._url.password}"
    shown += "".join(traceback.format_exception(refused.value))
    assert PASSWORD not in shown
    assert CANARY not in shown


@pytest.mark.hazard(39)
def test_a_program_that_logs_its_statements_logs_no_secret(sqlite: Address, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level("DEBUG", logger=name)
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert "UPDATE loginonce_logins" in caplog.text
    assert "SQL parameters hidden" in caplog.text
    assert CANARY not in caplog.text


def test_a_store_that_was_sent_finds_its_password_where_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(SQLStore(NOWHERE))
    monkeypatch.setenv("LOGINONCE_STORE", NOWHERE)
    arrived = pickle.loads(sent)
    assert arrived._url.password == PASSWORD
    assert arrived.identity == SQLStore(NOWHERE).identity


@pytest.mark.real
def test_a_wrong_password_and_a_missing_database_are_told_with_what_to_do(a_postgresql: Server) -> None:
    with pytest.raises(StoreError, match="authentication failed"):
        SQLStore(a_postgresql.address.replace(PASSWORD, "wrong")).load(KEY)
    with pytest.raises(StoreError, match="does not exist"):
        SQLStore(a_postgresql.address.replace("/logins", "/nowhere")).load(KEY)


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///relative",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////x?mode=ro",
        "postgresql://h:port/x",
        "oracle://x",
    ],
)
def test_an_address_that_is_none_is_refused(address: Address) -> None:
    with pytest.raises(ConfigurationError):
        SQLStore(address)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigurationError, match="pip install 'PyMySQL'"):
        SQLStore("mysql://ada@127.0.0.1/logins")


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(18)
def test_a_file_is_its_owners_alone(sqlite: Address, tmp_path: Path) -> None:
    store, folder = SQLStore(sqlite), tmp_path / "logins"
    store.commit(a_grant(), expected=None)
    assert (folder.stat().st_mode & 0o777, (folder / "db").stat().st_mode & 0o777) == (0o700, 0o600)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    (folder / "db").chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        store.load(KEY)
    (folder / "db").chmod(0o600)
    folder.chmod(0o755)
    store._glance.quiet_until = 0.0
    with pytest.raises(StoreError, match="chmod 700"):
        store.load(KEY)


@pytest.mark.hazard(18)
def test_a_link_in_the_place_of_the_file_is_not_followed(sqlite: Address, tmp_path: Path) -> None:
    (tmp_path / "logins").mkdir(mode=0o700)
    (tmp_path / "logins" / "db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="not a file of its own"):
        SQLStore(sqlite).commit(a_grant(), expected=None)
    assert not (tmp_path / "elsewhere").exists()


def test_reading_makes_no_file(sqlite: Address, tmp_path: Path) -> None:
    store = SQLStore(sqlite)
    assert (store.load(KEY).grant, store.stamp(KEY), list(store.grants()), store.notice(KEY)) == (None, None, [], None)
    assert not (tmp_path / "logins").exists()


@pytest.mark.hazard(16)
def test_a_file_that_machines_share_is_refused(sqlite: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_module, "ground", lambda _: Ground("fuse.sshfs", "refused", "so it is"))
    with pytest.raises(StoreError, match="a database server for many machines"):
        SQLStore(sqlite).commit(a_grant(), expected=None)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        SQLStore(f"sqlite:///{tmp_path}/file/logins/db").commit(a_grant(), expected=None)


def test_a_transaction_that_somebody_leaves_open_is_told_of_in_time(
    sqlite: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sql_module._SQLITE.options, "timeout", 0.1)
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    with contextlib.closing(sqlite3.connect(tmp_path / "logins/db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LockTimeout, match="a transaction that is left open"):
            store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        with pytest.raises(LockTimeout, match="a transaction that is left open"):
            store.load(KEY)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))


@pytest.mark.hazard(3)
def test_room_is_reserved_for_an_answer_and_used_by_it(sqlite: Address, tmp_path: Path) -> None:
    store, file = SQLStore(sqlite), tmp_path / "logins" / "db"
    store.commit(a_grant(), expected=None)
    before = file.stat().st_size
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    reserved = file.stat().st_size
    assert reserved > before + 60_000
    store.commit(a_grant(order=(1, 1, 0), claims={"long": "x" * 50_000}), expected=(1, 0, 1))
    assert file.stat().st_size == reserved


@pytest.mark.hazard(13)
def test_a_forked_child_neither_speaks_on_its_parents_connection_nor_ends_it(address: Address) -> None:
    store = SQLStore(address)
    store.commit(a_grant(), expected=None)
    assert in_a_child(lambda: bool(store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))))
    gc.collect()
    assert content(store.load(KEY).grant) == a_grant(order=(1, 1, 0))
    store.commit(a_grant(order=(1, 2, 0)), expected=(1, 1, 0))


# ── what a database may answer ───────────────────────────────────────────────────────────────────────────


@pytest.mark.real
def test_what_the_database_has_undone_is_done_again(a_postgresql: Server) -> None:
    """Two transactions that lock each other's row: one of them is undone by the server, and begun again."""
    a_postgresql.empty()
    store = SQLStore(a_postgresql.address)
    other = replace(KEY, account="other")
    for key in (KEY, other):
        store.commit(a_grant(key), expected=None)
    tries = [0, 0]
    met = threading.Barrier(2)

    def work(index: int) -> object:
        first, second = (KEY, other)[:: 1 if index else -1]

        def both(connection: sa.Connection) -> bool:
            tries[index] += 1
            for key in (first, second):
                connection.execute(
                    sa.text("UPDATE loginonce_logins SET state = state WHERE id = :id"), {"id": store._id(key)}
                )
                if key == first and tries[index] == 1:
                    met.wait(3)  # neither goes on before the other has its first row; the server allows four seconds
            return True

        return store._transaction(both, write=True)

    assert together(2, work) == [True, True]
    assert sum(tries) == 3


class Told(Exception):
    """What a driver raises."""

    def __init__(self, code: str) -> None:
        super().__init__(f"{CANARY} {code}")
        self.sqlstate = code


def failing(store: SQLStore, times: int, code: str = "", *, cut: bool = False, done: bool = False) -> list[str]:
    """Let so many transactions of the store fail as they are committed; `done`: after they have been."""
    failed: list[str] = []

    def fail(connection: sa.Connection) -> None:
        if len(failed) < times:
            failed.append(code)
            if done:
                connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise sa.exc.OperationalError(CANARY, None, Told(code), connection_invalidated=cut)

    sa.event.listen(store._engine, "commit", fail)
    return failed


@pytest.fixture
def saved(sqlite: Address) -> SQLStore:
    store = SQLStore(sqlite)
    store.commit(a_grant(), expected=None)
    return store


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.hazard(38)
def test_a_commit_of_unknown_outcome_is_compared_and_made_once(saved: SQLStore, done: bool) -> None:
    failed = failing(saved, 1, cut=True, done=done)
    made = saved.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert failed
    assert saved.load(KEY).stamp == made == saved.stamp(KEY)


def test_a_commit_that_stays_unknown_is_an_error_without_secrets(saved: SQLStore) -> None:
    def fail(*_: object) -> None:
        raise sa.exc.OperationalError(CANARY, None, Told("08006"), connection_invalidated=True)

    change = a_grant(order=(1, 1, 0))
    original = saved._changed
    saved._changed = lambda *_: (_ for _ in ()).throw(sql_module._Cut("cut"))  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="cut"):
        saved.commit(change, expected=(1, 0, 0))
    saved._changed = original  # type: ignore[method-assign]
    sa.event.listen(saved._engine, "commit", fail)
    with pytest.raises(StoreError) as refused:
        saved.commit(change, expected=(1, 0, 0))
    assert CANARY not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("code", ["40001", "40P01", "1213"])
def test_a_deadlock_is_begun_again(saved: SQLStore, code: str) -> None:
    failed = failing(saved, 3, code)
    saved.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert len(failed) == 3
    failing(saved, 1000, code)
    with pytest.raises(LockTimeout, match="too many change one login"):
        saved.commit(a_grant(order=(1, 2, 0)), expected=(1, 1, 0))


def test_reading_is_done_again_where_the_connection_was_cut(saved: SQLStore) -> None:
    failed = failing(saved, 1, cut=True)
    assert content(saved.load(KEY).grant) == a_grant()
    assert failed


def test_after_a_failure_nobody_looks_for_a_while(saved: SQLStore) -> None:
    failed = failing(saved, 1000, "XX000")
    with pytest.raises(StoreError, match=r"could not do it.*XX000"):
        saved.load(KEY)
    count = len(failed)
    for _ in range(5):
        with pytest.raises(StoreError, match="XX000"):
            saved.stamp(replace(KEY, account="not asked for yet"))
    assert len(failed) == count
    hold = sql_module._Lease(saved, "x", "y")
    hold.release()
    assert len(failed) == count


def test_a_notice_of_unknown_outcome_is_compared(saved: SQLStore) -> None:
    assert saved.post(KEY, b"first", instead_of=None)
    original = saved._changed

    def cut(*statements: sa.UpdateBase) -> bool:
        original(*statements)
        raise sql_module._Cut("cut")

    saved._changed = cut  # type: ignore[method-assign]
    assert saved.post(KEY, b"second", instead_of=b"first")


def test_more_threads_than_connections_are_told_so(saved: SQLStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise sa.exc.TimeoutError("QueuePool limit")

    monkeypatch.setattr(saved._engine, "connect", connect)
    with pytest.raises(LockTimeout, match="more at once"):
        saved.load(KEY)


def test_rows_that_changed_places_are_not_used(saved: SQLStore, sqlite: Address) -> None:
    other = replace(KEY, account="other")
    saved.commit(a_grant(other), expected=None)
    ids = (saved._id(KEY), saved._id(other))
    for before, after in ((ids[0], "x"), (ids[1], ids[0])):
        sql(sqlite, "UPDATE loginonce_logins SET id = :after WHERE id = :before", before=before, after=after)
    with pytest.raises(CorruptStore, match="another login"):
        saved.load(KEY)


def test_a_damaged_row_that_is_mended_meanwhile_is_used(saved: SQLStore, sqlite: Address) -> None:
    whole = sql(sqlite, "SELECT record FROM loginonce_logins")[0].record
    sql(sqlite, "UPDATE loginonce_logins SET record = 'x'")
    original = saved._set_aside

    def mend(key: object, found: object) -> str | None:
        sql(sqlite, "UPDATE loginonce_logins SET record = :whole, revision = 'mended'", whole=whole)
        return original(key, found)  # type: ignore[arg-type]

    saved._set_aside = mend  # type: ignore[method-assign]
    assert content(saved.load(KEY).grant) == a_grant()


def test_a_file_that_is_removed_under_a_running_program_is_made_anew(saved: SQLStore, tmp_path: Path) -> None:
    (tmp_path / "logins" / "db").unlink()
    assert saved.load(KEY).grant is None
    saved.commit(a_grant(order=(2, 0, 0)), expected=None)
    assert content(saved.load(KEY).grant) == a_grant(order=(2, 0, 0))


def test_who_waits_for_a_look_takes_what_it_finds(saved: SQLStore) -> None:
    glance = saved._glance
    glance.until = 0.0
    with ThreadPoolExecutor(1) as pool, glance.looking:
        waiting = pool.submit(saved.stamp, KEY)
        time.sleep(0.1)
        glance.found({KEY: "found"}, glance.changes)
        glance.looking.release()
        try:
            assert waiting.result(5) == "found"
        finally:
            glance.looking.acquire()


def test_a_look_that_is_older_than_our_own_change_is_not_believed(saved: SQLStore) -> None:
    glance, before = saved._glance, saved._glance.changes
    made = saved.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    glance.found({KEY: "older"}, before)
    assert saved.stamp(KEY) == made


@pytest.mark.hazard(13)
def test_after_a_fork_nothing_of_the_parent_is_used_or_closed(saved: SQLStore) -> None:
    pool, glance = saved._engine.pool, saved._glance
    sql_module._after_fork()
    assert pool in sql_module._left_behind
    assert saved._engine.pool is not pool
    assert saved._glance is not glance
    assert content(saved.load(KEY).grant) == a_grant()


def test_an_address_stays_itself_when_it_is_copied() -> None:
    address = Remote(NOWHERE)
    assert copy.copy(address) is address
    assert copy.deepcopy(address) is address


def test_a_line_on_which_nothing_is_said_is_ended() -> None:
    ours, theirs = socket.socketpair()
    speaking = SimpleNamespace(pgconn=SimpleNamespace(socket=ours.fileno()))
    connection = SimpleNamespace(connection=SimpleNamespace(driver_connection=speaking))
    with ours, theirs, sql_module._bounded(connection, 0.1):  # type: ignore[arg-type]
        ours.settimeout(10)
        assert ours.recv(1) == b""


def test_a_server_is_asked_to_bound_each_transaction_and_to_keep_others_from_its_tables(sqlite: Address) -> None:
    store = SQLStore(sqlite)
    store._file.check(create=True)  # type: ignore[union-attr]
    store._file = None
    store._backend = store._backend._replace(begin="SELECT {} -- bound", alone="SELECT {}", together="SELECT 0")
    asked: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    store.commit(a_grant(), expected=None)
    assert "SELECT 4 -- bound" in asked
    made = [statement for statement in asked if "CREATE" in statement]
    assert made
    assert asked.index("SELECT 59") < asked.index(made[0]) < asked.index("SELECT 0")
