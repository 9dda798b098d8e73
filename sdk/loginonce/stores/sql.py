"""Logins in a database that many machines share (PostgreSQL, MariaDB, MySQL), or in a SQLite file of this one.

    loginonce_logins  a row for each login: who, state, order, when, and the record; changed by compare-and-set alone
    loginonce_waits   what only saves waiting and may be lost at any time: the lease on a login, a notice
    loginonce_schema  one row: the version of this layout, and an id that tells this database from another one

Two tables besides the version, since a lock is wanted where there is no record yet, must not change the record's
stamp, and must not have a log-out wait behind it.

Theory of operation.  `UPDATE … WHERE order = expected`, or an `INSERT` where none is expected, is the whole truth: a
transaction of one statement, whose row count tells.  Each write carries a new random `revision`, which is the change
stamp.  So a write whose outcome is unknown, as its connection was cut, is compared: if its revision is there it was
done; if what it expected is still there it may be done again, because of two such statements one can succeed, with
the same content; else it is a conflict.  Only what the database itself says it has undone (a deadlock, a
serialization failure) is done again without looking.

The lock is a lease: a row that ends by the database's clock.  Nothing rests on it (see `refresh`).

Nothing lives in a connection between two transactions: no prepared statement, no session lock, no session setting; so
a transaction pooler may stand between.  Every transaction is bounded in time, by the server and by this side.

Stamps are read for all logins that this process uses by one query, at most every quarter of a second, by whoever
asks first; a change in this process is known at once.  After a failure nobody looks again for a while, so that a
server that does not answer costs those little who still have a token.

SQLite keeps its rollback journal (PERSIST: its space stays reserved), since WAL needs shared memory and leaves files
to clean up, and no connection stays open, since one must never be carried into a forked child, nor closed there.

A secret leaves this module only in a record.  The columns beside it are for administrators and for the comparison:
they tell who uses which provider, and when, also where the record is sealed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import ConfigurationError, CorruptStore, LockTimeout, StoreError
from ..home import at_fork_in_child
from ..model import Grant, GrantKey, Order
from ..record import Unshown, decode, encode
from .base import Hold, OrderConflict, Snapshot, Stamp, TokenStore
from .file import ROOM, _private_folder, _refuse_shared, write_private
from .locks import Ground, ground, refuse_unless_trusted
from .remote import Address, completed, public

__all__ = ["SCHEMA", "SQLStore"]

SCHEMA = 2
"""The version of the tables that this program reads and writes."""

LEASE = 10.0
"""Seconds for which a lock is held at most.  The marker in the record takes over from it (`refresh`), so this has to
cover reading and writing only; and who waits for a holder that has died waits for so long."""

GLANCE = 0.25
"""Seconds for which a stamp is taken to be still the one there."""

BRISK = 0.025
"""The same, where a renewal is being waited for."""

CONNECT = 3
"""Seconds for a connection to be made."""

ANSWER = 5.0
"""Seconds for a transaction; the server gives up a second before."""

MIGRATION = 60.0
"""Seconds for the tables to be made or changed, by us or by somebody else."""

TRIES = 6
"""How often a transaction is begun that the database has undone."""

MOST = 500
"""Logins of one process whose stamps are read by one query."""

_T = TypeVar("_T")


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────

_BYTES = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
_ENGINE: dict[str, Any] = {
    f"{dialect}_{name}": value
    for dialect in ("mysql", "mariadb")
    for name, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}
_TABLES = sa.MetaData()
_SCHEMA = sa.Table(
    "loginonce_schema",
    _TABLES,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("store", sa.String(32), nullable=False),
    **_ENGINE,
)
_LOGINS = sa.Table(
    "loginonce_logins",
    _TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("revision", sa.String(16), nullable=False),
    sa.Column("record", _BYTES, nullable=False),
    sa.Column("room", _BYTES),  # since version 2; see `commit`
    **_ENGINE,
)
_WAITS = sa.Table(
    "loginonce_waits",
    _TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(16)),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("notice", _BYTES),
    **_ENGINE,
)


def _add_room(connection: sa.Connection) -> None:
    if all(column["name"] != "room" for column in sa.inspect(connection).get_columns(_LOGINS.name)):
        kind = _BYTES.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {_LOGINS.name} ADD COLUMN room {kind}")


_STEPS: dict[int, Callable[[sa.Connection], None]] = {1: _add_room}
"""What makes the next version of each: each may be done twice, for a database that cannot undo a change of tables."""


class _Backend(NamedTuple):
    """A database and the driver that it is reached by."""

    driver: str  # as SQLAlchemy names it
    package: str
    clock: str  # POSIX seconds, by the database's clock
    now: str  # the same for people; UTC where the type has no zone
    begin: str = ""  # for each transaction, `{}` being seconds
    alone: str = ""  # keeps out whoever else changes the tables
    together: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


_POSTGRESQL = _Backend(
    "postgresql+psycopg",
    "psycopg[binary]",
    clock="extract(epoch from clock_timestamp())",
    now="clock_timestamp()",
    begin="SELECT set_config('statement_timeout', '{0}s', true), set_config('lock_timeout', '{0}s', true),"
    " set_config('idle_in_transaction_session_timeout', '{0}s', true)",
    alone="SELECT pg_advisory_xact_lock(7813586345)",  # of this transaction: a pooler keeps that together
    options={"connect_timeout": CONNECT, "prepare_threshold": None},
)
_MYSQL = _Backend(
    "mysql+pymysql",
    "PyMySQL",
    clock="unix_timestamp(now(6))",
    now="utc_timestamp()",
    # A change of tables ends the transaction here, and its locks with it.
    alone="SELECT get_lock(left(concat('loginonce.', database()), 64), {})",
    together="SELECT release_lock(left(concat('loginonce.', database()), 64))",
    options={"connect_timeout": CONNECT, "read_timeout": ANSWER, "write_timeout": ANSWER},
)
_SQLITE = _Backend(
    "sqlite",
    "",
    clock="((julianday('now') - 2440587.5) * 86400.0)",
    now="current_timestamp",
    options={"timeout": ANSWER},
)
_BACKENDS = {
    "postgresql": _POSTGRESQL,
    "postgresql+psycopg": _POSTGRESQL,
    "mysql": _MYSQL,
    "mysql+pymysql": _MYSQL,
    "mariadb": _MYSQL._replace(driver="mariadb+pymysql"),
    "mariadb+pymysql": _MYSQL._replace(driver="mariadb+pymysql"),
    "sqlite": _SQLITE,
}


class _Found(NamedTuple):
    """A row as it is read."""

    version: int
    store: str
    revision: str | None
    order: Order
    record: bytes


class _Cut(StoreError):
    """A change of which nobody knows whether it was made."""


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────


class SQLStore(TokenStore):
    """Logins in the database at an address: `postgresql+psycopg://user:password@host/database`,
    `mysql+pymysql://…`, `mariadb+pymysql://…` or `sqlite:////folder/file`.

    The tables are made by the first who saves.  Raises `ConfigurationError` for another address, and where the
    driver is not installed.
    """

    def __init__(self, address: str) -> None:
        self._address = completed(address)
        scheme = address.partition(":")[0]
        if scheme not in _BACKENDS:
            raise ConfigurationError(f"{scheme}:… is no database that is known here: there are {', '.join(_BACKENDS)}")
        self._backend = backend = _BACKENDS[scheme]
        self._url = _parsed(self._address, backend)
        self._file = _File(Path(self._url.database or "")) if backend is _SQLITE else None
        if self._file is not None:
            self._url = self._url.set(database=str(self._file.path))
        self._shown = public(self._url.render_as_string(hide_password=False))
        self.identity = self._shown
        self._ids: dict[GrantKey, str] = {}
        self._clock: sa.ColumnElement[float] = sa.literal_column(backend.clock, sa.Double)
        self._begin_anew()
        self._engine = self._made()
        weakref.finalize(self, self._engine.dispose)
        _stores.add(self)

    def __repr__(self) -> str:
        return f"SQLStore({self._shown!r})"

    def __reduce__(self) -> tuple[type[SQLStore], tuple[Address]]:
        return SQLStore, (self._address,)  # which leaves its password here

    def _begin_anew(self) -> None:
        self._glance = _glances.get(self.identity) or _glances.setdefault(self.identity, _Glance())
        self._store_id = ""  # until the tables are known to be there, and to be ours

    # ── the promise ──────────────────────────────────────────────────────────────────────────────────────

    def stamp(self, key: GrantKey) -> Stamp:
        """The revision, as it was a quarter of a second ago or later."""
        glance = self._glance
        if time.monotonic() < glance.until:
            found = glance.stamps.get(key, _UNASKED)
            if found is not _UNASKED:
                return found
        return self._look(glance, key)

    def load(self, key: GrantKey) -> Snapshot:
        """The record as it is in the database; a damaged or foreign one is set aside, under another id."""
        found = self._found(key)
        try:
            return self._snapshot(key, found)
        except CorruptStore as error:
            aside = self._set_aside(key, found)
            if aside is None:  # it has been mended in the meantime
                return self.peek(key)
            raise CorruptStore(
                f"the saved login for {key} was damaged: {error}.  The row is kept in {self._shown} as id {aside}; "
                "sign in again"
            ) from None

    def peek(self, key: GrantKey) -> Snapshot:
        """The record, and nothing is set aside."""
        return self._snapshot(key, self._found(key))

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Compare and set, in one statement.

        `reserve`: SQLite gets as much room with the record as an answer may need, and puts the next one into it, where
        it cannot run out of space.  That a server has space, the commit itself has just proved.
        """
        revision = secrets.token_hex(8)
        trouble: StoreError | None = None
        for _ in range(3):
            store_id = self._store_id or self._prepare(create=True)
            row = {**self._row(grant, store_id), "revision": revision}
            room = max(ROOM, 2 * len(row["record"])) if reserve and self._file is not None else None
            try:
                changed = self._changed(
                    *self._room_made(row, expected), self._compare_and_set(row, expected, store_id, room)
                )
            except _Cut as error:
                changed, trouble = False, error
            if not changed:
                found = self._found(grant.key)
                changed = found is not None and found.revision == revision
                if not changed:
                    try:
                        current = self._snapshot(grant.key, found).grant
                    except CorruptStore:
                        self._set_aside(grant.key, found)
                        current = None
                    if (current.order if current else None) != expected:
                        raise OrderConflict(current=current)
            if changed:
                self._glance.changed(grant.key, revision)
                return revision
        raise trouble or StoreError(f"{self.location(grant.key)} is not what it is read as; nothing was changed")

    def try_lock(self, key: GrantKey) -> Hold | None:
        """A lease, by the database's clock."""
        wait, holder, until = self._id(key), secrets.token_hex(8), self._clock + sa.literal(LEASE, sa.Double)
        free = sa.or_(_WAITS.c.holder.is_(None), _WAITS.c.until <= self._clock)
        rows = self._rows(sa.select(free.label("free")).where(_WAITS.c.id == wait))
        had = False
        if not rows:
            self._prepare(create=True)
            had = self._changed(sa.insert(_WAITS).values(id=wait, holder=holder, until=until))
        elif rows[0].free:
            had = self._changed(sa.update(_WAITS).where(_WAITS.c.id == wait, free).values(holder=holder, until=until))
        # Whoever holds it may change the record any moment, and whoever has held it may have.
        self._glance.expect(soon=not had)
        return _Lease(self, wait, holder) if had else None

    def notice(self, key: GrantKey) -> bytes | None:
        """What was posted."""
        rows = self._rows(sa.select(_WAITS.c.notice).where(_WAITS.c.id == self._id(key)))
        return bytes(rows[0].notice) if rows and rows[0].notice is not None else None

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Compare and set."""
        there = self.notice(key)
        if there != instead_of:
            return False
        self._prepare(create=True)
        wait, put = self._id(key), None if notice is None else Unshown(notice)
        same = _WAITS.c.notice.is_(None) if instead_of is None else _WAITS.c.notice == Unshown(instead_of)
        try:
            if self._changed(sa.update(_WAITS).where(_WAITS.c.id == wait, same).values(notice=put)):
                return True
            return instead_of is None and self._changed(
                sa.insert(_WAITS).values(id=wait, until=sa.literal(0.0, sa.Double), notice=put)
            )
        except _Cut:
            return self.notice(key) == notice

    def grants(self) -> Iterator[Grant]:
        """All readable records."""
        for row in self._rows(self._records(_SCHEMA.join(_LOGINS, sa.true())).order_by(_LOGINS.c.id)) or ():
            with suppress(StoreError):
                yield self._decoded(None, self._as_found(row))

    def location(self, key: GrantKey) -> str:
        """The database and the row in it, without the password."""
        return f"{self._shown} (table {_LOGINS.name}, id {self._id(key)})"

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────

    def _id(self, key: GrantKey) -> str:
        found = self._ids.get(key)
        if found is None:
            parts = json.dumps([key.issuer, key.client_id, key.account]).encode()
            found = self._ids[key] = hashlib.sha256(parts).hexdigest()
        return found

    def _row(self, grant: Grant, store_id: str) -> dict[str, Any]:
        return {
            "id": self._id(grant.key),
            "issuer": _legible(grant.key.issuer),
            "client_id": _legible(grant.key.client_id),
            "account": _legible(grant.key.account),
            "state": grant.state,
            "epoch": grant.epoch,
            "generation": grant.generation,
            "attempt": grant.attempt,
            "record": encode(replace(grant, store=store_id)),
        }

    def _compare_and_set(
        self, row: dict[str, Any], expected: Order | None, store_id: str, room: int | None
    ) -> sa.UpdateBase:
        # In one statement with the version, so that a program that is older than the tables changes nothing in them.
        ours = (_SCHEMA.c.version == SCHEMA, _SCHEMA.c.store == store_id)
        values: dict[str, sa.ColumnElement[Any]] = {
            name: sa.literal(value, _LOGINS.c[name].type) for name, value in row.items()
        }
        values["updated_at"] = sa.literal_column(self._backend.now)
        values["room"] = sa.null() if room is None else sa.func.zeroblob(room)
        if expected is None:
            return sa.insert(_LOGINS).from_select([*values], sa.select(*values.values()).where(*ours))
        return (
            sa.update(_LOGINS)
            .where(*_is(row["id"], expected))
            .where(sa.exists(sa.select(_SCHEMA.c.one).where(*ours)))
            .values(values)
        )

    def _room_made(self, row: dict[str, Any], expected: Order | None) -> tuple[sa.UpdateBase, ...]:
        """SQLite writes a row anew before it frees the space of the old one, unless it is told first."""
        if self._file is None or expected is None:
            return ()
        reserved = _LOGINS.c.room.is_not(None)
        return (sa.update(_LOGINS).where(*_is(row["id"], expected), reserved).values(room=None),)

    def _records(self, joined: sa.Join) -> sa.Select[Any]:
        columns = (_LOGINS.c.revision, _LOGINS.c.epoch, _LOGINS.c.generation, _LOGINS.c.attempt, _LOGINS.c.record)
        return sa.select(_SCHEMA.c.version, _SCHEMA.c.store, *columns).select_from(joined)

    def _found(self, key: GrantKey) -> _Found | None:
        """The row of a login, or None where there is none, or no table."""
        rows = self._rows(self._records(_SCHEMA.outerjoin(_LOGINS, _LOGINS.c.id == self._id(key))))
        found = self._as_found(rows[0]) if rows else None
        if found is None or found.revision is None:
            found = None
        self._glance.compare(key, found.revision if found else None)
        return found

    def _as_found(self, row: Any) -> _Found:
        self._accept(row.version)
        if row.store != self._store_id:
            self._store_id = row.store  # the database was replaced while this program ran
        order = (row.epoch, row.generation, row.attempt)
        return _Found(
            row.version, row.store, row.revision, order, Unshown(row.record if isinstance(row.record, bytes) else b"")
        )

    def _snapshot(self, key: GrantKey, found: _Found | None) -> Snapshot:
        if found is None:
            return Snapshot(None, None, settled=True)
        return Snapshot(self._decoded(key, found), found.revision, settled=True)

    def _decoded(self, key: GrantKey | None, found: _Found) -> Grant:
        try:
            grant = decode(found.record)
        except CorruptStore:
            raise
        except StoreError as error:
            raise StoreError(f"{self.location(key) if key else self._shown} cannot be read: {error}") from None
        if grant.store != found.store:
            raise CorruptStore("it was copied here from another store, where its refresh token may be in use")
        if key not in (None, grant.key):
            raise CorruptStore("it is that of another login")
        if grant.order != found.order:
            raise CorruptStore("its columns tell of another state than its content")
        return grant

    def _set_aside(self, key: GrantKey, found: _Found | None) -> str | None:
        """Give a damaged row another id, and return that; None where another record is there by now."""
        assert found is not None
        aside = f"broken-{time.time_ns()}-{self._id(key)[:16]}"
        same = (_LOGINS.c.id == self._id(key), _LOGINS.c.revision == found.revision)
        done = self._changed(sa.update(_LOGINS).where(*same).values(id=aside, state="BROKEN"))
        return aside if done else None

    # ── stamps ───────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, glance: _Glance, key: GrantKey) -> Stamp:
        """Read the stamps of all logins that this process has asked for; the others wait for what one finds."""
        with glance.looking:
            if time.monotonic() < glance.until and key in glance.stamps:
                return glance.stamps[key]
            changes = glance.changes
            keys = {self._id(known): known for known in (*glance.stamps, key)}
            if len(keys) > MOST:
                keys = {self._id(key): key}
            rows = self._rows(sa.select(_LOGINS.c.id, _LOGINS.c.revision).where(_LOGINS.c.id.in_([*keys])))
            stamps: dict[GrantKey, Stamp] = dict.fromkeys(keys.values())
            stamps.update({keys[row.id]: row.revision for row in rows or ()})
            glance.found(stamps, changes)
            return stamps[key]

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────

    def _rows(self, query: sa.Select[Any]) -> list[Any] | None:
        """What the query finds; None where there are no tables.  Reading is done again where a connection was cut."""
        if time.monotonic() < self._glance.quiet_until:
            raise StoreError(self._glance.trouble)
        began = time.monotonic()
        try:
            if not self._store_id and not self._prepare(create=False):
                return None
            with suppress(_Cut):  # by a server that was restarted meanwhile, as a rule: reading again changes nothing
                return self._transaction(lambda connection: list(connection.execute(query)), write=False)
            return self._transaction(lambda connection: list(connection.execute(query)), write=False)
        except _Missing:
            self._store_id = ""
            return None
        except LockTimeout:
            raise  # it is busy, not away
        except StoreError as error:
            self._glance.quiet(str(error), time.monotonic() - began)
            raise

    def _changed(self, *statements: sa.UpdateBase) -> bool:
        """Whether the last of them changed its row.  Raises `_Cut` where that is not known."""
        try:
            return self._transaction(
                lambda connection: [_count(connection, statement) for statement in statements][-1] == 1, write=True
            )
        except _Taken:
            return False

    def _transaction(self, work: Callable[[sa.Connection], _T], *, write: bool, seconds: float = ANSWER) -> _T:
        """One short transaction; begun again where the database says that it has undone it."""
        tries = 0
        while True:
            tries += 1
            try:
                with self._connected(write=write, seconds=seconds) as connection:
                    done = work(connection)
                self._glance.quiet_until = 0.0
                return done
            except _Undone:
                if tries == TRIES:
                    raise
                time.sleep(random.uniform(0.0, 0.02 * tries))  # noqa: S311 - apart from the others

    @contextmanager
    def _connected(self, *, write: bool, seconds: float) -> Iterator[sa.Connection]:
        committing = False
        if self._file is not None:
            self._file.check(create=write)
        try:
            connection = self._engine.connect()
        except PoolTimeout:
            raise LockTimeout(f"{self._shown} is asked for more at once than it answers in {ANSWER:.0f} s") from None
        except SQLAlchemyError as error:
            raise self._unusable(error, connecting=True) from None
        try:
            with connection, _bounded(connection, seconds):
                if self._file is not None:
                    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
                if self._backend.begin:
                    connection.exec_driver_sql(self._backend.begin.format(int(seconds) - 1))
                yield connection
                committing = True
                connection.commit()
        except IntegrityError:
            raise _Taken from None
        except SQLAlchemyError as error:
            cut = isinstance(error, DBAPIError) and (error.connection_invalidated or committing)
            raise self._unusable(error, cut=cut and not _undone(error)) from None

    def _unusable(self, error: SQLAlchemyError, *, cut: bool = False, connecting: bool = False) -> StoreError:
        """The same failure, for people.  What a driver says of a statement may show its values, so none of it does."""
        told = _diagnosis(error, self._url.password, connecting=connecting)
        kind = _Cut if cut else told.kind
        return kind(f"{self._shown} {told.text}")

    # ── versions ─────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, *, create: bool) -> str:
        """Make sure that the tables are there and of this version.  The store's id, or "" where there is none."""
        if self._store_id:
            return self._store_id
        found = self._version()
        if found is None and not create:
            return ""
        if found is None or found[0] < SCHEMA:
            self._transaction(self._migrate, write=True, seconds=MIGRATION)
            found = self._version()
        assert found is not None
        self._accept(found[0])
        self._store_id = found[1]
        return self._store_id

    def _version(self) -> tuple[int, str] | None:
        if self._file is not None and not self._file.exists():
            return None
        return self._transaction(_version, write=False)

    def _accept(self, version: int) -> None:
        if version != SCHEMA:
            self._store_id = ""
        if version > SCHEMA:
            raise StoreError(
                f"the logins in {self._shown} are kept by a newer version (layout {version}, this one knows up to "
                f"{SCHEMA}): upgrade loginonce here.  Nothing was changed"
            )

    def _migrate(self, connection: sa.Connection) -> None:
        """Make the tables, or change them from version to version, with everybody else kept out who does so."""
        backend = self._backend
        if backend.alone:
            connection.exec_driver_sql(backend.alone.format(int(MIGRATION) - 1))
        try:
            found = _version(connection)
            if found is None:
                _TABLES.create_all(connection)
                connection.execute(sa.insert(_SCHEMA).values(one=1, version=SCHEMA, store=secrets.token_hex(16)))
            for version in range(found[0] if found else SCHEMA, SCHEMA):
                _STEPS[version](connection)
                connection.execute(sa.update(_SCHEMA).where(_SCHEMA.c.version == version).values(version=version + 1))
            if backend.together:
                connection.commit()  # or the next one would not see it yet
        finally:
            if backend.together:
                connection.exec_driver_sql(backend.together)

    # ── the engine ───────────────────────────────────────────────────────────────────────────────────────

    def _made(self) -> sa.Engine:
        url, backend = self._url, self._backend
        options = {name: value for name, value in backend.options.items() if name not in url.query}
        pool: dict[str, Any] = {"pool_size": 1, "max_overflow": 3, "pool_timeout": ANSWER}
        if backend is _SQLITE:
            pool = {"poolclass": sa.NullPool}
        if backend is _POSTGRESQL:
            pool["use_native_hstore"] = False  # one query less, on each server
        try:
            # Neither statements nor their parameters are ever logged or put into an error.
            engine = sa.create_engine(url, connect_args=options, hide_parameters=True, **pool)
        except (ModuleNotFoundError, NoSuchModuleError):
            raise ConfigurationError(
                f"{self._shown} needs a driver that is not installed: pip install {backend.package!r}"
            ) from None
        if backend is _SQLITE:
            event.listen(engine, "connect", _as_we_use_sqlite)
        return engine

    def _after_fork(self) -> None:
        """In a child: what the parent speaks on is the parent's, neither used nor closed here (HAZARDS 13)."""
        _left_behind.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._begin_anew()


class _Lease:
    """A lock that ends by itself."""

    lease = True

    def __init__(self, store: SQLStore, wait: str, holder: str) -> None:
        self._store = store
        self._ours: tuple[sa.ColumnElement[bool], ...] = (_WAITS.c.id == wait, _WAITS.c.holder == holder)
        self._over = threading.Lock()

    def release(self) -> None:
        """Let the next one in, once.  Where the database is away it ends by itself."""
        if self._over.acquire(blocking=False) and time.monotonic() >= self._store._glance.quiet_until:  # noqa: SLF001
            with suppress(StoreError):
                self._store._changed(sa.update(_WAITS).where(*self._ours).values(holder=None))  # noqa: SLF001


# ── what a process knows of a database ───────────────────────────────────────────────────────────────────

_UNASKED = object()


class _Glance:
    """The stamps as they were at the last look; all stores of this process for one database share it."""

    def __init__(self) -> None:
        self.looking = threading.Lock()  # while one thread reads, the others wait for what it finds
        self._changing = threading.Lock()
        self.stamps: dict[GrantKey, Stamp] = {}
        self.until = 0.0  # time.monotonic, as all here: from then on they have to be read again
        self.changes = 0
        self._brisk_until = 0.0
        self.quiet_until = 0.0
        self.trouble = ""

    def found(self, stamps: dict[GrantKey, Stamp], changes: int) -> None:
        """These were read, when this process had made so many changes."""
        with self._changing:
            if self.changes == changes:
                now = time.monotonic()
                self.stamps = stamps
                self.until = now + (BRISK if now < self._brisk_until else GLANCE)

    def changed(self, key: GrantKey, stamp: Stamp) -> None:
        """This process has made a change."""
        with self._changing:
            self.changes += 1
            self.stamps = {**self.stamps, key: stamp}

    def compare(self, key: GrantKey, stamp: Stamp) -> None:
        """A record was read that has this stamp now."""
        if self.stamps.get(key, _UNASKED) != stamp:
            self.until = 0.0

    def expect(self, *, soon: bool) -> None:
        """A change is to be expected, soon; or may have come already."""
        now = time.monotonic()
        if soon:
            self._brisk_until = now + 1.0
        self.until = min(self.until, now + BRISK) if soon else 0.0

    def quiet(self, trouble: str, took: float) -> None:
        """The database is away, and that took so long to find out: most of the time nobody shall wait for it."""
        self.trouble = trouble
        self.quiet_until = time.monotonic() + max(1.0, 4 * took)


_glances: dict[str, _Glance] = {}
_stores: weakref.WeakSet[SQLStore] = weakref.WeakSet()
_left_behind: list[object] = []
"""Connections of a parent process: they must not be closed, so they must not be collected either."""


def _after_fork() -> None:
    _glances.clear()
    for store in list(_stores):
        store._after_fork()  # noqa: SLF001 - one room


at_fork_in_child(_after_fork)


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────────────


class _File:
    """A file of logins: its owner's alone, in a folder that is so too, on a disk of this machine."""

    def __init__(self, path: Path) -> None:
        # The folder may be reached by a symbolic link, the file must not be one (HAZARDS 18, 20).
        self.path = Path(os.path.realpath(path.parent)) / path.name
        self._ground: tuple[int, Ground] | None = None

    def exists(self) -> bool:
        """Whether it is there; a dangling link is."""
        return os.path.lexists(self.path)

    def check(self, *, create: bool) -> None:
        """Raise `StoreError` where it should not be used.

        It is never opened here: closing it would end the locks that SQLite has on it in this process (POSIX).
        """
        folder = self.path.parent
        try:
            seen = _private_folder(folder) if create else os.stat(folder)
            _refuse_shared(str(folder), seen)
            self._refuse_shared_disk(folder, seen.st_dev)
            if create and not self.exists():
                write_private(str(self.path), b"", exclusive=True)
            file = os.lstat(self.path)
        except FileNotFoundError:
            raise _Missing(f"there is no {self.path}") from None
        except OSError as error:
            raise StoreError(f"{self.path} cannot be used: {error.strerror}") from None
        if not stat.S_ISREG(file.st_mode):
            raise StoreError(f"{self.path} is not a file of its own: move it away")
        _refuse_shared(str(self.path), file)

    def _refuse_shared_disk(self, folder: Path, device: int) -> None:
        if self._ground is None or self._ground[0] != device:
            self._ground = (device, ground(folder))
        on = self._ground[1]
        if on.verdict == "refused":
            raise StoreError(
                f"{folder} is on a file system ({on.kind}) where two machines could write one SQLite file at the same "
                f"time, and spoil it: {on.why}.  Use a file on a local disk, or a database server for many machines"
            )
        refuse_unless_trusted(folder, on)  # which tells of a doubt


def _as_we_use_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun here, and not by the driver
    for pragma in ("journal_mode=PERSIST", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────


class _Undone(LockTimeout):
    """Others were in the way, and the database has undone all of the transaction."""


class _Missing(StoreError):
    """There are no tables."""


class _Taken(StoreError):
    """There is a row of that id already."""


class _Diagnosis(NamedTuple):
    kind: type[StoreError]
    text: str


_UNDONE = {"40001", "40P01", "1213", "1205", "1020"}
_MISSING = {"42P01", "3F000", "1146"}
_LATE = "57014 55P03 SQLITE_BUSY"
_ADVICE: dict[str, str] = {
    "28P01 28000 1045 1698": "refused the user or the password: check the address, and LOGINONCE_STORE, from which the "
    "password comes where an address has none",
    "42501 1142 1044 1227": "does not allow that: the user needs SELECT, INSERT and UPDATE on the tables "
    "loginonce_logins, loginonce_waits and loginonce_schema (and CREATE, once)",
    "3D000 1049": "has no such database: create it, or mend the address",
    "53300 1040 1203": "has no connection left: raise its limit, or put a pooler such as pgbouncer before it",
    "53100 1021 1114 SQLITE_FULL": "has no space left: free some",
    "25006 1290 1836 SQLITE_READONLY": "can only be read: name the primary server in the address",
    _LATE: "did not come to it in time: look for a transaction that is left open",
}


def _code(error: SQLAlchemyError) -> str:
    """SQLSTATE, MariaDB's and MySQL's number, or SQLite's name."""
    original = getattr(error, "orig", None)
    first = original.args[0] if isinstance(original, Exception) and original.args else ""
    number = str(first) if isinstance(first, int) else ""  # before the SQLSTATE, which says less there
    return number or getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None) or ""


def _undone(error: SQLAlchemyError) -> bool:
    return _code(error) in _UNDONE


def _diagnosis(error: SQLAlchemyError, password: object, *, connecting: bool) -> _Diagnosis:
    code, original = _code(error), getattr(error, "orig", None)
    if code in _UNDONE:
        return _Diagnosis(_Undone, "is in the way of itself all the time: too many change one login at once")
    if code in _MISSING or "no such table" in str(original):
        return _Diagnosis(_Missing, "has no tables of loginonce")
    for codes, text in _ADVICE.items():
        if code in codes.split():
            return _Diagnosis(LockTimeout if codes == _LATE else StoreError, text)
    said = f"{type(original or error).__name__}{f' {code}' if code else ''}"
    if not connecting:
        return _Diagnosis(StoreError, f"could not do it, or did not answer within {ANSWER:.0f} s ({said}): see its log")
    # Nothing of a login has been said yet, so what the driver tells may be told.
    told = str(original or "").partition("\n")[0].strip() or said
    if password:
        told = told.replace(str(password), "…")
    return _Diagnosis(StoreError, f"cannot be reached: {told}.  Start it, or mend the address")


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────


def _parsed(address: str, backend: _Backend) -> sa.URL:
    try:
        url = sa.make_url(str(address))
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{public(address)} is not the address of a database.  It is written scheme://user:password@host/database, "
            "with each @, : and / of a password as %40, %3A and %2F"
        ) from None
    if backend is not _SQLITE:
        return url.set(drivername=backend.driver)
    path = Path(url.database or "").expanduser()
    if not path.is_absolute() or url.query or url.host:
        raise ConfigurationError(
            f"{address} is not a file: name the whole path and nothing else, such as sqlite:////home/ada/logins/db"
        )
    return url.set(database=str(path))


@contextmanager
def _bounded(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """End the connection where the other side says nothing for so long.  PyMySQL and SQLite do that themselves."""
    speaking = getattr(connection.connection.driver_connection, "pgconn", None)
    if speaking is None:
        yield
        return
    with socket.socket(fileno=os.dup(speaking.socket)) as line:
        too_late = threading.Timer(seconds, _hang_up, (line,))
        too_late.daemon = True
        with suppress(RuntimeError):  # the interpreter is ending and starts no more threads
            too_late.start()
        try:
            yield
        finally:
            too_late.cancel()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        line.shutdown(socket.SHUT_RDWR)


def _version(connection: sa.Connection) -> tuple[int, str] | None:
    """Version and id of the tables, or None where there are none."""
    if not sa.inspect(connection).has_table(_SCHEMA.name):
        return None
    row = connection.execute(sa.select(_SCHEMA.c.version, _SCHEMA.c.store)).first()
    return (row.version, row.store) if row else None


def _legible(text: str) -> str:
    """For a column that people read; which login it is, the id tells."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _is(login: str, order: Order) -> Iterator[sa.ColumnElement[bool]]:
    """The row of that login, if it has that order."""
    yield _LOGINS.c.id == login
    for column, part in zip((_LOGINS.c.epoch, _LOGINS.c.generation, _LOGINS.c.attempt), order, strict=True):
        yield column == part


def _count(connection: sa.Connection, statement: sa.UpdateBase) -> int:
    """How many rows it changed; not every driver tells that of an INSERT unless it is asked to."""
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
