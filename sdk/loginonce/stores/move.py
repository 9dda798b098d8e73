"""A login from one store to another: no sign-in, and at no moment can two stores spend it.

    1  lock the login in both stores, look at both records
    2  source  ACTIVE  → MOVING    LOGGED_OUT, "moved" to the target, in epoch e, with all its secrets still in it
    3  target  …       → ACTIVE    the login, in epoch e + 1
    4  source  MOVING  → MOVED     the same without the secrets

Each step is one commit: durable, and by comparison with what was there.  Nothing is ever spent from a record that
is LOGGED_OUT, by this version or an older one.  So a program that ends

    before 2   leaves the login in the source              after 3   in the target, and a copy that nothing spends
    after 2    in neither, but whole, in the source        after 4   in the target; the source says where it went

Whoever finds MOVING goes on at 3, with that target and no other: if step 3 was done by somebody who did not live to
say so, another target would be a second place to spend it from.  Whether it was done, the target's epoch tells: e is
higher than any that the target had, so its record is of epoch e + 1 or later if and only if step 3 has happened.

Step 3 may fail and leave open whether it was done, as any write over a network may.  Then the target is fenced: it
gets a tombstone in epoch e + 1 that says "moved" to the source, by comparison, after which step 3 of that e cannot
happen any more, however late.  Only behind a fence the source's record is made ACTIVE again (from MOVING, by
comparison, in a newer epoch); whoever finds a fence does that first, and begins anew.  Where no fence can be had the
login stays MOVING, and the same command finds out later.

The locks spare others a useless wait and keep renewals away; the proof rests on the comparisons, since a lock may be
a lease.  A renewal that has not ended leaves its marker (SPENDING), and such a login is not moved.  Whoever signs
out in the source after step 2 signs out of the target too.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace

from ..errors import ConfigurationError, LoginRequired, StoreError
from ..model import Failure, Grant, GrantKey
from .apart import ApartStore
from .base import PATIENCE, OrderConflict, TokenStore, wait_for_lock
from .memory import MemoryStore

__all__ = ["move"]

MOVED = "moved"
"""The kind of failure in the tombstone of a login that went elsewhere; its detail is the other store's identity."""

TURNS = 20
"""How often it is begun anew because somebody signed in or out meanwhile, who waits for no lock."""


def move(key: GrantKey, source: TokenStore, target: TokenStore, *, patience: float = PATIENCE) -> bool:
    """Move that login, and tell whether there was anything to do.  After a crash, the same call goes on.

    Two ways to open one place (sealed, and not) only write it anew.  It waits `patience` seconds for each lock.

    Raises `LoginRequired` where there is no login, `ConfigurationError` where the target cannot have it, `StoreError`
    where a store failed or the login is being renewed: the message says whether it is to be called again.
    """
    if isinstance(_innermost(target), MemoryStore):
        raise ConfigurationError("a login that is moved to memory ends with this program: name a store that lasts")
    with ExitStack() as held:
        both = {source.identity: source, target.identity: target}
        for identity in sorted(both):  # in one order, so that two that move it to and fro do not wait for each other
            held.callback(wait_for_lock(both[identity], key, patience).release)
        for _ in range(TURNS):
            with suppress(OrderConflict):  # somebody signed in or out meanwhile: look again
                if source.identity == target.identity:
                    return _write_anew(key, source, target)
                return _step(key, source, target)
    raise StoreError(f"the login for {key} is being changed by others all the time")


def _innermost(store: TokenStore) -> TokenStore:
    return _innermost(store.inner) if isinstance(store, ApartStore) else store


def _write_anew(key: GrantKey, source: TokenStore, target: TokenStore) -> bool:
    grant = _movable(source.load(key).grant, key)
    target.commit(replace(grant, attempt=grant.attempt + 1), expected=grant.order)
    return True


def _step(key: GrantKey, source: TokenStore, target: TokenStore) -> bool:
    """From wherever it stands to the end.  Raises `OrderConflict` where that has changed meanwhile."""
    here, there = source.load(key).grant, target.load(key).grant
    if here is not None and _went_to(here) == target.identity:
        if not _has_secrets(here):
            return False
        if there is not None and _is_fence(there, here, source):
            _put_back(here, there, source)
            here = source.load(key).grant
    if here is None or _went_to(here) != target.identity:
        here = _set_off(_movable(here, key), there, source, target)
    if there is None or there.epoch <= here.epoch:
        _arrive(here, there, source, target)
    _finish(here, source, target)
    return True


def _movable(grant: Grant | None, key: GrantKey) -> Grant:
    if grant is None:
        raise LoginRequired(f"nobody is signed in to {key}, so there is nothing to move", reason="none")
    if where := _went_to(grant):
        raise LoginRequired(
            f"the login for {key} was moved to {where}", reason="moved", hint=f"Use it there: store={where!r}"
        )
    if grant.state in ("LOGGED_OUT", "DEAD"):
        raise LoginRequired(f"the login for {key} has ended, so there is nothing to move", reason="ended")
    if grant.renewal == "client_credentials":
        raise ConfigurationError(f"{key} is a service, which signs in by itself: there is nothing to move")
    if grant.state == "SPENDING":
        raise StoreError(
            f"a renewal of the login for {key} has not ended, so its refresh token may be spent: use the login once "
            "(loginonce refresh), then move it"
        )
    return grant


def _went_to(grant: Grant) -> str:
    """The identity of the store that this tombstone names, "" if it names none."""
    failure = grant.failure
    return failure.detail if grant.state == "LOGGED_OUT" and failure is not None and failure.kind == MOVED else ""


def _has_secrets(grant: Grant) -> bool:
    return grant.refresh_token is not None or bool(grant.tokens)


def _without_secrets(grant: Grant) -> Grant:
    return replace(grant, refresh_token=None, refresh_expires_at=None, tokens=(), claims={})


def _set_off(grant: Grant, there: Grant | None, source: TokenStore, target: TokenStore) -> Grant:
    """Step 2."""
    if there is not None and there.state not in ("LOGGED_OUT", "DEAD"):
        raise ConfigurationError(
            f"there is a login for {grant.key} in {target.location(grant.key)} already: sign out of one of them first"
        )
    moving = replace(
        grant,
        epoch=max(grant.epoch, there.epoch if there else 0) + 1,
        state="LOGGED_OUT",
        failure=Failure(grant.spendable, MOVED, target.identity),
    )
    source.commit(moving, expected=grant.order, reserve=True)
    return moving


def _arrive(moving: Grant, there: Grant | None, source: TokenStore, target: TokenStore) -> None:
    """Step 3, or back behind a fence."""
    expected = there.order if there else None
    arrived = replace(moving, epoch=moving.epoch + 1, state="ACTIVE", failure=None, store="")
    try:
        target.commit(arrived, expected=expected)
    except OrderConflict:
        raise
    except StoreError as error:
        failed = str(error)
    else:
        return
    fence = replace(
        _without_secrets(arrived),
        attempt=arrived.attempt + 1,
        state="LOGGED_OUT",
        failure=Failure("", MOVED, source.identity),
    )
    try:
        target.commit(fence, expected=expected)
        _put_back(moving, fence, source)
    except OrderConflict:
        raise  # it had been done after all, or somebody else is at it
    except StoreError:
        raise StoreError(
            f"the login for {moving.key} is on its way, and it is not known whether it has arrived: {failed}.  Nothing "
            "is lost, and nobody can use it before the same move is begun again and ends"
        ) from None
    raise StoreError(f"the login for {moving.key} stays where it was, since it could not be saved there: {failed}")


def _is_fence(there: Grant, moving: Grant, source: TokenStore) -> bool:
    return there.epoch == moving.epoch + 1 and _went_to(there) == source.identity and not _has_secrets(there)


def _put_back(moving: Grant, fence: Grant, source: TokenStore) -> None:
    source.commit(replace(moving, epoch=fence.epoch + 1, state="ACTIVE", failure=None), expected=moving.order)


def _finish(moving: Grant, source: TokenStore, target: TokenStore) -> None:
    """Step 4."""
    key = moving.key
    try:
        source.commit(_without_secrets(replace(moving, attempt=moving.attempt + 1)), expected=moving.order)
    except OrderConflict as conflict:
        if conflict.current is None or conflict.current.state != "LOGGED_OUT" or _went_to(conflict.current):
            return  # a new login has taken its place, or another one did this
    except StoreError as error:
        raise StoreError(
            f"the login for {key} was moved, and can be used where it is now; what is left of it could not be removed: "
            f"{error}.  Nothing uses that; begin the same move again to remove it"
        ) from None
    else:
        return
    there = target.load(key).grant
    if there is not None and there.state != "LOGGED_OUT":
        gone = _without_secrets(replace(there, epoch=there.epoch + 1, state="LOGGED_OUT", marker=None, failure=None))
        target.commit(gone, expected=there.order)
    raise LoginRequired(f"somebody signed out of {key} while it was moved", reason="logged_out")
