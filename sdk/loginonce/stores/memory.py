"""Logins in the memory of this process, for tests and for programs that must leave nothing behind.

A forked child has a copy, and two copies of one refresh token are the accident this library exists to prevent:
the child goes on using the access tokens that it has, and is told so when they end (HAZARDS 13).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from typing import NoReturn

from ..errors import StoreError
from ..model import Grant, GrantKey, Order
from .base import Hold, OrderConflict, Snapshot, Stamp, TokenStore

__all__ = ["MemoryStore"]


class MemoryStore(TokenStore):
    """A store that ends with its process.  Not shared with any other, not even a forked one."""

    def __init__(self) -> None:
        self.identity = f"memory:{os.getpid()}:{secrets.token_hex(8)}"
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._records: dict[GrantKey, tuple[Grant, int]] = {}
        self._locks: dict[GrantKey, threading.Lock] = {}
        self._notices: dict[GrantKey, bytes] = {}
        self._changes = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a login that is in the memory of one process cannot be sent to another: use the default file store"
        )

    def stamp(self, key: GrantKey) -> Stamp:
        """A counter of changes."""
        found = self._records.get(key)
        return found[1] if found else None

    def load(self, key: GrantKey) -> Snapshot:
        """The record; always settled, since the counter never repeats."""
        found = self._records.get(key)
        return Snapshot(found[0], found[1], settled=True) if found else Snapshot(None, None, settled=True)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Compare and replace."""
        del reserve  # memory is there, or the process is not
        self._own()
        with self._mutex:
            found = self._records.get(grant.key)
            if (found[0].order if found else None) != expected:
                raise OrderConflict(current=found[0] if found else None)
            self._changes += 1
            self._records[grant.key] = (grant, self._changes)
            return self._changes

    def try_lock(self, key: GrantKey) -> Hold | None:
        """One lock per login."""
        self._own()
        with self._mutex:
            lock = self._locks.setdefault(key, threading.Lock())
        return _HeldLock(lock) if lock.acquire(blocking=False) else None

    def locked(self, key: GrantKey) -> bool:
        """Whether somebody has that lock."""
        self._own()
        lock = self._locks.get(key)
        return lock is not None and lock.locked()

    def notice(self, key: GrantKey) -> bytes | None:
        """What was posted.  A copy of it in a forked child is of no use: what it announces never arrives there."""
        self._own()
        return self._notices.get(key)

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Compare and replace."""
        self._own()
        with self._mutex:
            if self._notices.get(key) != instead_of:
                return False
            self._notices.pop(key, None)
            if notice is not None:
                self._notices[key] = notice
            return True

    def grants(self) -> Iterator[Grant]:
        """All logins of this process."""
        return iter([grant for grant, _ in self._records.values()])

    def location(self, key: GrantKey) -> str:
        """Nowhere that one could look."""
        del key
        return f"the memory of process {self._pid}"

    def _own(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                f"this login is in the memory of process {self._pid}, and process {os.getpid()} has only a copy "
                "that it must not renew: use the default file store for logins that processes share"
            )


class _HeldLock:
    lease = False

    def __init__(self, lock: threading.Lock) -> None:
        self._lock: threading.Lock | None = lock

    def release(self) -> None:
        """Let the next one in, once."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
