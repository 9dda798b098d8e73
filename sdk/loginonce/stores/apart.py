"""Stores that keep the secrets of a login apart from the rest of its record: what they have in common.

Another store, the `inner` one, holds the record without its secrets: whose login it is, its order and state, the
marker with the fingerprint of what is being spent, the last failure.  That is all that comparing, locking and
telling changes need, so the inner store does all of it, for its own price, and no key is asked for.  In place of
the secrets stands `Grant.sealed`, which only the store that made it can follow.

Whoever cannot follow it gets a `SealError`, and has changed nothing: the record is neither damaged nor absent.  It
is also what a program gets that opens the inner store by itself (`source`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from ..errors import SealError, StoreError
from ..model import Grant, GrantKey, Order
from ..record import put_together, take_apart
from ..value import replace
from .base import Hold, Lookout, OrderConflict, Snapshot, Stamp, TokenStore

__all__ = ["ApartStore"]

LOOKS = 5
"""How often a record is read again whose secrets have been replaced while they were fetched."""


class ApartStore(TokenStore):
    """A store around another one, `inner`, that keeps the secrets out of it.  A subclass says where they go.

    A record that was saved before, with its secrets in it, is read as it is, and kept apart from its next
    commit on.
    """

    def __init__(self, inner: TokenStore) -> None:
        self.inner = inner
        self.identity = inner.identity

    @abstractmethod
    def _keep(self, secrets: bytes, readable: Grant) -> str:
        """Keep the secrets of that record, and return what stands for them.  Raises `StoreError`."""

    @abstractmethod
    def _fetch(self, readable: Grant) -> bytes:
        """What was kept for that record.  Raises `SealError` where it cannot be had, and changes nothing."""

    def _not_kept(self, readable: Grant) -> None:
        """That record was not saved, and never will be: what was kept for it is not needed."""

    def stamp(self, key: GrantKey) -> Stamp:
        """The inner store's."""
        return self.inner.stamp(key)

    def load(self, key: GrantKey) -> Snapshot:
        """The whole record.  Raises `SealError` where its secrets cannot be had; nothing is set aside then."""
        return self._whole(key, self.inner.load(key))

    def peek(self, key: GrantKey) -> Snapshot:
        """The same for those who only look."""
        return self._whole(key, self.inner.peek(key))

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Keep the secrets, then compare and replace in the inner store."""
        readable, secrets = take_apart(replace(grant, sealed=""))
        if secrets:
            readable = replace(readable, sealed=self._keep(secrets, readable))
        try:
            return self.inner.commit(readable, expected=expected, reserve=reserve)
        except OrderConflict as conflict:
            self._not_kept(readable)
            raise OrderConflict(current=self._legible(conflict.current)) from None

    def try_lock(self, key: GrantKey) -> Hold | None:
        """The inner store's."""
        return self.inner.try_lock(key)

    def locked(self, key: GrantKey) -> bool:
        """As the store inside knows it."""
        return self.inner.locked(key)

    def lookout(self, key: GrantKey) -> Lookout:
        """The same record changes."""
        return self.inner.lookout(key)

    def notice(self, key: GrantKey) -> bytes | None:
        """The inner store's: it holds nothing of the login."""
        return self.inner.notice(key)

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """The inner store's."""
        return self.inner.post(key, notice, instead_of=instead_of)

    def grants(self) -> Iterator[Grant]:
        """All logins; one whose secrets cannot be had comes without them, and with `sealed`."""
        for grant in self.inner.grants():
            legible = self._legible(grant)
            assert legible is not None
            yield legible

    def location(self, key: GrantKey) -> str:
        """The inner store's."""
        return self.inner.location(key)

    def _whole(self, key: GrantKey, snapshot: Snapshot) -> Snapshot:
        looks = 0
        while (readable := snapshot.grant) is not None and readable.sealed:
            try:
                return replace(snapshot, grant=put_together(readable, self._fetch(readable)))
            except SealError:
                looks += 1
                seen = self.inner.stamp(key)
                if seen == snapshot.stamp or looks == LOOKS:
                    raise
            snapshot = self.inner.peek(key)  # it has been replaced meanwhile, and its secrets with it
        return snapshot

    def _legible(self, readable: Grant | None) -> Grant | None:
        """As much of the record as can be had."""
        if readable is None or not readable.sealed:
            return readable
        try:
            return put_together(readable, self._fetch(readable))
        except StoreError:
            return readable
