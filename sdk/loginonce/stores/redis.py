"""Logins of many machines on one Redis or Valkey (6 or later), under the protocol that files are kept by.

    loginonce:record:{<login>}   the record: a hash of its order, its stamp and its content
    loginonce:lock:{<login>}     a lease, by redis-py's own `Lock`
    loginonce:notice:{<login>}   what a program shows that asks a person to sign in; forgotten after a day
    loginonce:damaged:{<login>}  a record that could not be read, set aside

The braces put the keys of one login into one slot of a cluster; what speaks to a cluster is not built in.

Writing.  A script on the server compares the order and replaces the record: that is the truth, whoever holds what.
Each commit carries a stamp of its own.  Where the connection breaks before the answer, the same commit is sent
once more, and finds by its stamp whether it has been done already; nothing is ever repeated without that comparison.
A record that is marked brings some bytes of room with it, which the answer takes: by giving them back first it is
written even where `maxmemory` has been reached meanwhile.

The lock only saves waiting, and ends by itself after LEASE seconds.  That is what the steps before the marker may
take: to read the record again and to write the marker, two commands with their time-outs.  From then on the marker
keeps the others from sending, until the budget of the send and the difference of the clocks are over
(`refresh._sender_may_live`), with or without a lease.  So it is never extended: a longer one would protect nothing,
and keep the others waiting for a holder that was killed.

Stamps are remembered.  The server tells each connection that asked for one when it has changed (`CLIENT TRACKING`),
and a look whether it did is one system call, as for a file.  There is no thread, and nothing is sent while nobody
asks.  A stamp older than TRUST is asked for again, since a connection can be dead without a sign of it; where the
server does not track, one older than POLL.

What can be lost.  A Redis without an append-only file forgets what came after its last snapshot; with one
(`appendfsync everysec`, the default) it may forget the last second, with `appendfsync always` nothing.  A replica
that takes over may lack what had not reached it yet: `?wait=1` waits for one replica before a refresh token is
sent, and reports an answer that none has, which narrows the gap and does not close it (Redis promotes whom it
likes).  What went back is noticed by each process that has seen more (`refresh.decide`) and not spent there; the
others learn it from the provider's refusal.  Eviction may remove records: their server has to have `noeviction`
or a `volatile-…` policy, since records have no time to live.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import selectors
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.connection import Connection, SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.lock import Lock
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from ..errors import ConfigurationError, CorruptStore, StoreError
from ..home import at_fork_in_child
from ..log import log
from ..model import Grant, GrantKey, Order, Secret
from ..record import Unshown, decode, encode
from .base import Hold, OrderConflict, Snapshot, Stamp, TokenStore
from .remote import completed, public

__all__ = ["RedisStore"]

TIMEOUT = 2.0
"""Seconds for a connection, and for each answer; `?timeout=` in the address."""

LEASE = 10.0
"""Seconds after which a lock ends by itself."""

TRUST = 0.2
"""Seconds for which a stamp is good while the server tells of changes."""

POLL = 0.05
"""The same, while it does not."""

QUIET = 1.0
"""Seconds after a failure in which nobody who only looks is made to wait for the server again."""

CONNECTIONS = 8
"""At most, per process and store; who needs another waits for one."""

ROOM = 8 * 1024
"""Bytes of room for an answer, or twice the present record if that is more."""

PREFIX = "loginonce"
"""What the names of all keys begin with, where the address does not say."""

DAY = 86400
"""Seconds for which a notice is kept."""

_COMMIT = """
local there = redis.call('HMGET', KEYS[1], 'order', 'stamp', 'data', 'room')
if (there[1] or '') ~= ARGV[1] then
    if there[2] == ARGV[3] then return {1} end
    return {0, there[3] or ''}
end
if there[4] then redis.call('HDEL', KEYS[1], 'room') end
redis.call('HSET', KEYS[1], 'order', ARGV[2], 'stamp', ARGV[3], 'data', ARGV[4])
if ARGV[5] ~= '0' then redis.call('HSET', KEYS[1], 'room', string.rep('-', ARGV[5])) end
return {1}
"""

_SET_ASIDE = """
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' and (redis.call('HGET', KEYS[1], 'data') or '') ~= ARGV[1] then
    return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
"""

_POST = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1
"""

_MARK = b"="
"""What every notice begins with there, so that an empty one is told from none."""

_SETTINGS = ("wait", "timeout", "prefix", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisStore(TokenStore):
    """Logins on a Redis or Valkey server: `redis://host:6379/0`, or `rediss://` for TLS, with `user:password@`.

    `prefix`: what the names of all keys begin with.  Behind the ?: `wait` (how many replicas must have a record
    before it counts as saved; 0), `timeout` (seconds for each answer; 2), `prefix`, `ssl_ca_certs`,
    `ssl_certfile`, `ssl_keyfile` (paths).  A certificate is always verified.

    The password shows nowhere and is not pickled: a store that arrives in another process takes the password that
    `LOGINONCE_STORE` has there for the same address.  Raises `ConfigurationError`; the server is not asked yet.
    """

    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        user, _, password = url.partition("://")[2].rpartition("@")[0].partition(":")
        password, url = Secret(unquote(password)), public(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 6379
        except ValueError:
            raise ConfigurationError(f"{url} is not an address") from None
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = given.get("prefix", prefix)
        if parts.scheme not in ("redis", "rediss") or not host:
            raise ConfigurationError(f"{url} is not the address of a Redis: use redis://host or rediss://host")
        if unknown := set(given) - set(_SETTINGS):
            raise ConfigurationError(
                f"?{', '.join(sorted(unknown))} means nothing for a Redis: there are {', '.join(_SETTINGS)}"
            )
        if not re.fullmatch(r"[\w.:-]+", prefix, re.ASCII):
            raise ConfigurationError(f"{prefix!r} cannot begin the name of a key: use letters, digits and _.:-")
        self._wait = _number(given, "wait", 0, least=0)
        self._timeout = _number(given, "timeout", TIMEOUT, least=0.05)
        database = _number({"the database": parts.path.strip("/") or "0"}, "the database", 0, least=0)
        self._secure = parts.scheme == "rediss" or host in ("localhost", "127.0.0.1", "::1")
        self._shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{int(database)}"
        self.identity = self._shown + ("" if prefix == PREFIX else f"?prefix={prefix}")
        self._url, self._prefix = url, prefix
        self._logins: dict[GrantKey, str] = {}
        self._connecting: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": int(database),
            "username": unquote(user) or None,
            "password": password or None,
            "protocol": 3,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), 0),  # what is repeated, and when, is said here
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._connection_class: type[Connection] = Connection
        if parts.scheme == "rediss":
            self._connection_class = SSLConnection
            self._connecting |= {name: value for name, value in given.items() if name.startswith("ssl_")}
            self._connecting |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        self.forget()
        _stores.add(self)

    def forget(self) -> None:
        """Be as new, without connections.  For a forked child, which must not speak on those of its parent."""
        self._mutex = threading.Lock()
        self._ear: _Ear | None = None
        self._quiet_until = 0.0  # time.monotonic
        self._trouble = ""
        self._examined = False
        self._in_doubt: dict[GrantKey, tuple[bytes, str]] = {}
        pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]  # here and below: redis-py's
            max_connections=CONNECTIONS,
            timeout=4 * self._timeout,
            connection_class=self._connection_class,
            **self._connecting,
        )
        self._client = redis.Redis(connection_pool=pool)

    def __repr__(self) -> str:
        return f"RedisStore({self._shown!r}, prefix={self._prefix!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._url, self._prefix)

    def __copy__(self) -> RedisStore:
        return self

    def __deepcopy__(self, memo: object) -> RedisStore:
        return self

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────

    def stamp(self, key: GrantKey) -> Stamp:
        """What the last commit was stamped with; remembered as long as the server does not tell of a change."""
        name = self._name("record", key)
        ear = self._ear
        if ear is not None and (known := ear.heard.get(name)) and time.monotonic() < known[1] and not ear.news():
            return known[0]
        with self._mutex:
            self._refuse_while_quiet()
            with self._spoken():
                had, self._ear = self._ear, None
                if had is not None:
                    # A server that was restarted has closed the connection; it is asked on a new one.
                    with suppress(redis.ConnectionError):
                        stamp = had.ask(name)
                        self._ear = had
                        return stamp
                ear = _Ear(self._connection_class(**self._connecting))
                stamp = ear.ask(name)
                self._ear = ear
                return stamp

    def load(self, key: GrantKey) -> Snapshot:
        """The record; a damaged one is set aside, and told of once by `CorruptStore`."""
        data, stamp = self._read(key)
        try:
            return Snapshot(self._decoded(key, data), stamp, settled=True)
        except CorruptStore as error:
            if not self._set_aside(key, data):
                return self.load(key)  # it was mended meanwhile
            raise CorruptStore(
                f"the saved login for {key} was damaged: {error}.  It is kept at {self._shown} as "
                f"{self._name('damaged', key)}; sign in again"
            ) from None

    def peek(self, key: GrantKey) -> Snapshot:
        """The record, and nothing is set aside."""
        data, stamp = self._read(key)
        return Snapshot(self._decoded(key, data), stamp, settled=True)

    def notice(self, key: GrantKey) -> bytes | None:
        """What was posted."""
        self._refuse_while_quiet()
        with self._spoken():
            found: bytes | None = self._client.get(self._name("notice", key))  # type: ignore[assignment]  # as decoded
        return None if found is None else found.removeprefix(_MARK)

    def grants(self) -> Iterator[Grant]:
        """All logins under this prefix.  The server goes through all of its keys for that."""
        pattern = self._prefix + ":record:{*"
        with self._spoken():
            names = sorted(set(self._client.scan_iter(match=pattern, count=1000)))
        for name in names:
            with self._spoken():
                try:
                    data = self._client.hget(name, "data")
                except ResponseError:
                    continue
            with suppress(StoreError):
                if data is not None:
                    yield decode(data)  # type: ignore[arg-type]  # bytes, as above

    def location(self, key: GrantKey) -> str:
        """The server, and the name of the key there."""
        return f"{self._shown} {self._name('record', key)}"

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Compare and replace, by the script; then wait for the replicas that were asked for."""
        self._examine()
        data = encode(grant)
        # A commit that is tried again, since nobody knows what came of it, is the same one.
        doubtful, stamp = self._in_doubt.pop(grant.key, (b"", ""))
        stamp = stamp if doubtful == data else secrets.token_hex(12)
        room = max(ROOM, 2 * len(data)) if reserve else 0
        script = [_text(expected), _text(grant.order), stamp, data, room]
        try:
            there = self._written(grant.key, script)
        except StoreError:
            self._in_doubt[grant.key] = (data, stamp)
            raise
        if there is None:
            return stamp
        try:
            current = self._decoded(grant.key, there)
        except CorruptStore:
            self._set_aside(grant.key, there)
            current = None
        if current is None and expected is None:  # what was there has been set aside, or was removed meanwhile
            return self.commit(grant, expected=None, reserve=reserve)
        raise OrderConflict(current=current)

    def _written(self, key: GrantKey, arguments: list[Any]) -> bytes | None:
        """None where the record is now ours, else what is there."""
        name = self._name("record", key)
        with self._spoken():
            try:
                done, *there = self._compare_and_set(name, arguments)
            except (redis.ConnectionError, redis.TimeoutError):
                done, *there = self._compare_and_set(name, arguments)
            finally:
                ear = self._ear
                if ear is not None:
                    ear.heard.pop(name, None)
        return None if done else there[0]

    def _compare_and_set(self, name: str, arguments: list[Any]) -> list[Any]:
        # One connection, since the replicas are asked for what it has written.
        with self._client.client() as one:  # type: ignore[no-untyped-call]
            try:
                answer: list[Any] = _scripts["commit"](keys=[name], args=arguments, client=one)
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return [0, b"-"]
            if answer[0] and self._wait:
                have = one.wait(int(self._wait), int(self._timeout * 500))
                if int(have) < self._wait:
                    raise StoreError(
                        f"the login was written at {self._shown}, but {have} of {int(self._wait)} replicas have it: "
                        "look at the replication of that server, or leave out ?wait"
                    )
        return answer

    def _set_aside(self, key: GrantKey, data: bytes) -> bool:
        with self._spoken():
            names = [self._name("record", key), self._name("damaged", key)]
            return bool(_scripts["set_aside"](keys=names, args=[data], client=self._client))

    def try_lock(self, key: GrantKey) -> Hold | None:
        """A lease of LEASE seconds."""
        self._refuse_while_quiet()
        self._examine()
        lock = Lock(self._client, self._name("lock", key), timeout=LEASE, thread_local=False)
        with self._spoken():
            return _Lease(lock) if lock.acquire(blocking=False) else None

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Compare and replace, by a script."""
        with self._spoken():
            arguments: list[Any] = [b"" if text is None else _MARK + text for text in (instead_of, notice)]
            arguments.append(DAY)
            return bool(_scripts["post"](keys=[self._name("notice", key)], args=arguments, client=self._client))

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────

    def _name(self, kind: str, key: GrantKey) -> str:
        login = self._logins.get(key) or self._logins.setdefault(key, _digest(key))
        return f"{self._prefix}:{kind}:{{{login}}}"

    def _read(self, key: GrantKey) -> tuple[bytes, Stamp]:
        """The content, b"" where there is none, and the stamp."""
        self._refuse_while_quiet()
        found: Any
        with self._spoken():
            try:
                found = self._client.hmget(self._name("record", key), ["data", "stamp"])
            except ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return b"-", None
        data, stamp = found
        return Unshown(data or b""), stamp.decode("ascii", "replace") if stamp else None

    def _decoded(self, key: GrantKey, data: bytes) -> Grant | None:
        if not data:
            return None
        try:
            grant = decode(data)
        except CorruptStore:
            raise
        except StoreError as error:
            raise StoreError(f"{self.location(key)} cannot be read: {error}") from None
        if grant.key != key:
            raise CorruptStore("it is that of another login")
        return grant

    def _refuse_while_quiet(self) -> None:
        if time.monotonic() < self._quiet_until:
            raise StoreError(self._trouble)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Around whatever is said to the server: its failures in our words, which quote nothing of what was said."""
        try:
            yield
        except (RedisError, OSError) as error:
            text = f"the logins at {self._shown} cannot be used: {_why(error, self._timeout)}"
            if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
                self._trouble, self._quiet_until = text, time.monotonic() + QUIET
        else:
            self._quiet_until = 0.0
            return
        raise StoreError(text) from None

    def _examine(self) -> None:
        """Say once what about this server may lose a login."""
        if self._examined:
            return
        self._examined = True
        if not self._secure:
            log.warning("%s: logins travel there in the clear.  Use rediss:// (TLS)", self._shown)
        try:
            memory, persistence = self._client.info("memory"), self._client.info("persistence")
        except ResponseError:  # not everybody may ask
            return
        except (RedisError, OSError):  # what follows tells
            self._examined = False
            return
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):
            log.warning(
                "%s removes any key when its memory is full (maxmemory-policy %s), and a login with it.  Set "
                "maxmemory-policy to noeviction or a volatile one",
                self._shown,
                policy,
            )
        if not persistence.get("aof_enabled", 1) and not self._wait:
            log.warning(
                "%s keeps no append-only file: when it ends it may forget the latest renewals, and providers end "
                "logins for that.  Set appendonly yes there, or add ?wait=1 to the address if it has a replica",
                self._shown,
            )


class _Lease:
    lease = True

    def __init__(self, lock: Lock) -> None:
        self._lock: Lock | None = lock
        self._pid = os.getpid()

    def release(self) -> None:
        """Let the next one in, once, unless the lease has ended and is another's."""
        lock, self._lock = self._lock, None
        if lock is not None and self._pid == os.getpid():
            with suppress(RedisError, OSError):
                lock.release()


class _Ear:
    """A connection on which stamps are asked for, and the server says when one is no longer true.

    `heard`: stamps by the name of their key, and until when they are good (time.monotonic).
    """

    def __init__(self, connection: Any) -> None:  # a `Connection`, which has hardly any types
        self.heard: dict[str, tuple[Stamp, float]] = {}
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        try:
            connection.connect()
            connection._parser.set_invalidation_push_handler(self._told)  # noqa: SLF001 - as redis-py's own cache does
            self._selector.register(connection._sock, selectors.EVENT_READ)  # noqa: SLF001 - it has no public name
            self._good_for = TRUST
            try:
                connection.send_command("CLIENT", "TRACKING", "ON")
                connection.read_response()
            except ResponseError:  # not on this server, or not for this user
                self._good_for = POLL
        except BaseException:
            self._selector.close()
            connection.disconnect()
            raise

    def news(self) -> bool:
        """Whether anything has arrived since.  One system call."""
        try:
            return bool(self._selector.select(0))
        except (OSError, ValueError, RuntimeError):  # closed meanwhile, by another thread
            return True

    def ask(self, name: str) -> Stamp:
        """The stamp as it is now.  One thread at a time."""
        try:
            asked = time.monotonic()
            self._connection.send_command("HGET", name, "stamp")
            try:
                answer = self._connection.read_response()
            except ResponseError:  # not a record of ours: whoever loads it tells
                answer = b"-"
            stamp = answer.decode("ascii", "replace") if isinstance(answer, bytes) else None
            self.heard[name] = (stamp, asked + self._good_for)
            while self._connection.can_read(0):
                self._connection.read_response(push_request=True)
        except BaseException:
            self.heard = {}
            self._selector.close()
            self._connection.disconnect()
            raise
        return stamp

    def _told(self, _: object) -> None:
        self.heard.clear()


def _why(error: Exception, timeout: float) -> str:
    """What went wrong there, and what to do.  Texts of the server may quote what it was sent, so they are left out."""
    match error:
        case redis.TimeoutError():
            return f"it did not answer within {timeout:g} s; look whether it runs and can be reached"
        case AuthenticationError() | NoPermissionError():
            return _DENIED
        case OutOfMemoryError():
            return "its memory is full; raise maxmemory, or make room"
        case ReadOnlyError():
            return "it is a replica, which cannot be written to; use the address of its primary"
        case ClusterError() | AskError():
            return "it is part of a cluster, which this store does not speak to"
        case ResponseError():
            word = str(error).partition(" ")[0]
            told = word if word.isupper() and word.isalpha() else type(error).__name__
            return f"it refused ({told}); look at its log.  It has to be Redis 6 or later, or Valkey"
        case redis.ConnectionError() if "MaxConn" in type(error).__name__ or "available" in str(error):
            return "all connections of this process are in use"
        case _:
            return f"it cannot be reached ({str(error)[:200]}); look whether it runs, and at the address"


_DENIED = (
    "it does not accept this user or password; put user:password@ into the address, in LOGINONCE_STORE or the profile "
    "of this place (a password does not travel with a pickled session)"
)


def _digest(key: GrantKey) -> str:
    whole = json.dumps([key.issuer, key.client_id, key.account]).encode()
    return hashlib.sha256(whole).hexdigest()[:32]


def _text(order: Order | None) -> str:
    return "" if order is None else " ".join(map(str, order))


def _number(given: dict[str, str], name: str, default: float, *, least: float) -> float:
    try:
        found = float(given.get(name, default))
    except ValueError:
        found = -1.0
    if not least <= found < 1e6:
        raise ConfigurationError(f"{given[name]!r} is no value for {name}")
    return found


def _arrived(url: str, prefix: str) -> RedisStore:
    return RedisStore(completed(url), prefix=prefix)


# They know their text and its digest; the client is named at each call.
_scripts = {
    name: Script(None, text.encode())  # type: ignore[arg-type]
    for name, text in {"commit": _COMMIT, "set_aside": _SET_ASIDE, "post": _POST}.items()
}

_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _forget_all() -> None:
    for store in list(_stores):
        store.forget()


at_fork_in_child(_forget_all)
