"""Ways to get it wrong, each a known accident of some client: what the exploration must be able to catch.

A variant overrides one thing of the shell, or what one step of the real machine comes to; the rest is real.
"""

from __future__ import annotations

from dataclasses import replace

from world import Local, Real

from loginonce import refresh
from loginonce.model import Grant, Secret
from loginonce.wire import Lost, Refused


class NoSecondLook(Real):
    """After the lock, what was read before it is believed (HAZARDS 6)."""

    name = "no second look"
    keeps_look = True

    def read(self, machine: refresh.Refresh, local: Local, stored: int) -> int:
        return local.looked if machine.phase == "recheck" else stored


class NoSecondLookNorCompare(NoSecondLook):
    """… and is the base of what is written ahead (HAZARDS 5)."""

    name = "no second look, nor a comparison"

    def commit(self, machine: refresh.Refresh, stored: Grant | None, write: refresh.Write) -> str:
        return "written" if machine.phase == "mark" else super().commit(machine, stored, write)


class TokenFromBeforeTheLock(Real):
    """The record is read again, and the refresh token that was captured before is sent (HAZARDS 7)."""

    name = "a token captured before the lock"
    keeps_look = True

    def spend(self, grant: Grant, looked: Grant | None) -> str:
        assert looked is not None
        return str(looked.refresh_token)


class NothingWrittenAhead(Real):
    """The marker is not written: a crash leaves no evidence (HAZARDS 1)."""

    name = "nothing written ahead"

    def commit(self, machine: refresh.Refresh, stored: Grant | None, write: refresh.Write) -> str:
        return "pretended" if machine.phase == "mark" else "written"


class BlindWrites(Real):
    """The store takes whatever it is given (HAZARDS 26)."""

    name = "a commit without comparison"

    def commit(self, machine: refresh.Refresh, stored: Grant | None, write: refresh.Write) -> str:
        return "written"


class HastyVerdict(Real):
    """A refusal is believed at once, without waiting for a sibling's record (HAZARDS 11)."""

    name = "a refusal that is not verified"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        machine, action = super().step(machine, event, now)
        if machine.phase == "verify" and isinstance(event, refresh.Answered) and isinstance(event.reply, Refused):
            assert machine.grant is not None
            return replace(machine, phase="settle"), refresh.Write(machine.grant, machine.base)
        return machine, action


class BlindVerdict(HastyVerdict):
    """… and the record that is there is marked dead, whichever it is (HAZARDS 26)."""

    name = "a refusal that clears whatever is there"

    def commit(self, machine: refresh.Refresh, stored: Grant | None, write: refresh.Write) -> str:
        return "written" if write.grant.state == "DEAD" else super().commit(machine, stored, write)


class OpenOnFailure(Real):
    """When the lock is taken, or cannot be had, the refresh goes on without it (HAZARDS 9)."""

    name = "a lock that fails open"

    def lock(self, *, free: bool) -> tuple[bool, bool]:
        return True, free


class LockThatDoesNotExclude(Real):
    """Everybody gets the lock, as across the clients of a network file system (HAZARDS 16)."""

    name = "a lock that does not exclude"

    def lock(self, *, free: bool) -> tuple[bool, bool]:
        return True, True


class LateSender(Real):
    """What was written ahead is sent however late, although others have taken its writer for dead (HAZARDS 12)."""

    name = "a late send under a lease that has ended"

    def is_late(self, latest: float, now: float) -> bool:
        return False


class LeaseTakenForALock(Real):
    """Whoever has the lease believes that its last holder is dead (HAZARDS 12)."""

    name = "a lease that is taken for a lock"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        return super().step(machine, replace(event, lease=False) if isinstance(event, refresh.Locked) else event, now)


class LockThatOutlivesItsOwner(Real):
    """A file whose presence is the lock: nobody frees it when its owner dies (HAZARDS 17)."""

    name = "a lock that outlives its owner"
    lock_outlives_owner = True


class HiddenRetry(Real):
    """A lost answer is asked for again within the same call (HAZARDS 4)."""

    name = "a retry within the same call"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        if isinstance(event, refresh.Answered) and isinstance(event.reply, Lost):
            assert machine.grant is not None
            return machine, refresh.Send(machine.grant)
        return super().step(machine, event, now)


class RevokesForALogin(Real):
    """What a new login supersedes is revoked, and takes that login's session along (HAZARDS 30)."""

    name = "a revocation that a new login suffers from"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        earned = machine.grant
        machine, action = super().step(machine, event, now)
        if isinstance(event, refresh.Conflict) and isinstance(action, refresh.Release) and machine.spent:
            assert earned is not None
            return replace(machine, revoking=earned.refresh_token), action
        return machine, action


class ForgetsToRevoke(Real):
    """What a log-out superseded is let go, and lives on at the provider (HAZARDS 30)."""

    name = "an answer forgotten after a log-out"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        machine, action = super().step(machine, event, now)
        return replace(machine, revoking=None), action


class RevokesUnderTheLock(Real):
    """The revocation comes before the release, and everybody waits for it."""

    name = "a revocation under the lock"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        before = machine
        machine, action = super().step(machine, event, now)
        if isinstance(action, refresh.Release) and machine.revoking is not None:
            return replace(machine, phase="revoke"), refresh.Revoke(machine.revoking)
        if before.phase == "revoke":
            return replace(before, revoking=None, phase="release"), refresh.Release()
        return machine, action


class GoodTokensWait(Real):
    """Whoever finds the lock taken waits, although its token is still good (HAZARDS 8)."""

    name = "a good token that waits"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        if isinstance(event, refresh.Locked) and not event.held and machine.meanwhile is not None:
            return replace(machine, phase="wait"), refresh.Wait(1.0)
        return super().step(machine, event, now)


class DeadTokensAreTried(Real):
    """The verdict on a refresh token is not believed, and every caller tries it again (HAZARDS 28)."""

    name = "a dead token that is tried again"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        if isinstance(event, refresh.Loaded) and event.grant is not None and event.grant.state == "DEAD":
            event = refresh.Loaded(replace(event.grant, state="ACTIVE", refresh_token=Secret("r0")))
        return super().step(machine, event, now)


class WritesForEver(Real):
    """A write that was refused is tried again with a base that will never be there."""

    name = "a write that is tried for ever"

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        retries = machine.phase in {"save", "settle"} and isinstance(event, refresh.NotWritten | refresh.Conflict)
        if retries and machine.grant is not None:
            return machine, refresh.Write(machine.grant, (0, 0, 0))
        return super().step(machine, event, now)
