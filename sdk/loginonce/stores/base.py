"""What a store of logins promises: to load a record, to replace it only if it is still the one expected, to
lock a login against other processes, and to tell by a glance whether a record may have changed.

The comparison in `commit` is the truth: a log-in or log-out never waits for a refresh that is under way, it
writes, and the refresh finds that its base is gone.  The lock keeps two refresh tokens from being sent at once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Protocol, TypeAlias

from ..errors import LockTimeout, StoreError
from ..model import Grant, GrantKey, Order
from ..value import Value

__all__ = ["Hold", "Lookout", "OrderConflict", "Snapshot", "Stamp", "TokenStore", "wait_for_lock"]

Stamp: TypeAlias = Hashable
"""Changes whenever a record does; comparing two is all that can be done with them.  None = no record."""


class Snapshot(Value):
    """A record as it was read, and the stamp it had.

    `settled` is False while the stamp is too young to be trusted: a second change within the clock
    granularity of the file system would leave the same one (git calls such a file racily clean).  Where a
    store cannot tell changes by a stamp at all, it never is True, and every look reads the record.
    """

    grant: Grant | None
    stamp: Stamp
    settled: bool


class OrderConflict(StoreError):
    """The record was not the one that the writer expected; `current` is what is there."""

    def __init__(self, message: str = "the login was changed by somebody else", current: Grant | None = None) -> None:
        super().__init__(message)
        self.current = current


class Hold(Protocol):
    """A lock that is held, until it is released.  Any thread may release it.

    `lease`: it may also end by itself, while its holder still believes in it.  A lock of the operating system, which
    ends with its process and never before, is none.
    """

    @property
    def lease(self) -> bool: ...

    def release(self) -> None:
        """Let the next one in.  Never raises."""


class Lookout:
    """Somebody who waits for a record to change.

    It looks often at first, since most waits end soon; less so later, to leave the machine to whom it waits for.
    """

    def __init__(self, store: TokenStore, key: GrantKey) -> None:
        self._store = store
        self._key = key
        self._began = time.monotonic()

    def wait(self, stamp: Stamp, seconds: float) -> bool:
        """Until the record's stamp is another than that, at most so long; whether it is.  Raises `StoreError`.

        It may end sooner where nobody has the lock any more, so that nobody will change it soon.
        """
        until = time.monotonic() + seconds
        while self._store.stamp(self._key) == stamp:
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._pause(left)
        return True

    def _pause(self, most: float) -> None:
        waited = time.monotonic() - self._began
        time.sleep(min(most, 0.002 + min(waited, 0.5) / 25))


class TokenStore(ABC):
    """Where logins are kept.  Every method may raise `StoreError`; none ever shows a secret.

    `identity` names the place: two objects with the same identity are the same store.  It is the address that opens
    the store, but for a password, and for how its secrets are sealed.
    """

    identity: str

    @abstractmethod
    def stamp(self, key: GrantKey) -> Stamp:
        """The change stamp of a record, as cheaply as it can be had (a file: one `stat`).

        A store on a network may remember it, and be late by a quarter of a second to tell what another process has
        changed.  What this object has changed it tells at once.
        """

    @abstractmethod
    def load(self, key: GrantKey) -> Snapshot:
        """The record as it is now.  Raises `CorruptStore` once for a damaged one, which is then set aside."""

    def peek(self, key: GrantKey) -> Snapshot:
        """The same for those who only look: a damaged record is told of as often as one asks, and stays where it is."""
        return self.load(key)

    @abstractmethod
    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Make this the record, durably, if the one there has the order `expected` (None: there is none).

        `reserve`: also make sure that the next commit will find its space.  Raises `OrderConflict` where
        nothing was changed, and `StoreError` where it is not certain to last: what is there then is the old
        record or the new one, whole.
        """

    @abstractmethod
    def try_lock(self, key: GrantKey) -> Hold | None:
        """This login's lock against all processes, or None if another has it.  Never waits, not re-entrant."""

    def locked(self, key: GrantKey) -> bool:
        """Whether somebody has that lock; False also where it takes as much to know as to try."""
        del key
        return False

    def lookout(self, key: GrantKey) -> Lookout:
        """Who waits for this record to change."""
        return Lookout(self, key)

    @abstractmethod
    def notice(self, key: GrantKey) -> bytes | None:
        """What a program that asks a person to sign in has put up for the others, or None."""

    @abstractmethod
    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Put up a notice (None: take it down) if what is there is `instead_of`, and tell whether it was.

        Nothing that must last: it may be lost in a crash, and is judged by who reads it.
        """

    @abstractmethod
    def grants(self) -> Iterator[Grant]:
        """All logins in this store, tombstones included; unreadable ones are left out."""

    @abstractmethod
    def location(self, key: GrantKey) -> str:
        """Where the record is, for people."""


PATIENCE = 30.0
"""Seconds for which somebody else may be renewing a login that is to be changed as a whole."""


def wait_for_lock(store: TokenStore, key: GrantKey, patience: float = PATIENCE) -> Hold:
    """This login's lock, once whoever renews it is done.  Raises `LockTimeout`, and `StoreError`."""
    until = time.monotonic() + patience
    while (hold := store.try_lock(key)) is None:
        if time.monotonic() > until:
            raise LockTimeout(f"the login for {key} has been renewed for {patience:.0f} seconds; try again")
        time.sleep(0.02)
    return hold
