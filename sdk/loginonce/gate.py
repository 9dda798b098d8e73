"""What a process keeps for a login while others of its threads are at it: the gate at which they wait for each other,
and an answer that could not be saved yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from . import refresh
from .home import at_fork_in_child
from .log import log
from .model import Grant, GrantKey, Order, Secret
from .stores.base import Hold, OrderConflict, TokenStore

__all__ = ["SLICE", "Gate", "Rescuer", "gate_of", "go_on_saving", "save_the_rest"]

SLICE = 0.1
"""Seconds between two looks at whether a wait is still wanted; what an interrupt takes at most."""


class Gate:
    """Lets one thread of this process at a time on to the store's lock; the others wait here, or go on.

    `busy`: one has passed.  `quiet_until` (time.monotonic): whose token is still good begins no renewal before.
    `unsaved`: an answer that is in memory only, and counts as if it were in the store.
    """

    def __init__(self) -> None:
        self.busy = False
        self.quiet_until = 0.0
        self.unsaved: Grant | None = None
        self._condition = threading.Condition()
        self._news = 0
        self._watched_until = 0.0  # time.monotonic

    def enter(self) -> bool:
        """Whether this thread may go on; it calls `leave` then."""
        with self._condition:
            if self.busy:
                return False
            self.busy = True
            return True

    def leave(self) -> None:
        """Let the next one on."""
        with self._condition:
            self.busy = False
            self._condition.notify_all()

    def be_quiet(self, seconds: float) -> None:
        """For so long nobody whose token is still good need begin a renewal."""
        self.quiet_until = max(self.quiet_until, time.monotonic() + seconds)

    def announce(self) -> None:
        """The record has changed: whoever waits may look again."""
        with self._condition:
            self._news += 1
            self._condition.notify_all()

    def wait(self, seconds: float) -> bool:
        """Until there is news or the gate is free, at most that long.

        Or at once, and True, where nobody of this process is at it: this thread is then to watch the record itself,
        for so long, and to say by `looked` what came of it.
        """
        with self._condition:
            now, news, busy = time.monotonic(), self._news, self.busy
            if not busy and now >= self._watched_until:
                self._watched_until = now + seconds + SLICE  # where an interrupt keeps it from saying so
                return True
            self._condition.wait_for(lambda: (self._news, self.busy) != (news, busy), min(seconds, SLICE))
            return False

    def looked(self, *, changed: bool) -> None:
        """The watch is over: another one may watch, and if the record has changed, all may look."""
        self._watched_until = 0.0
        if changed:
            self.announce()


_gates: dict[tuple[str, GrantKey], Gate] = {}


def gate_of(store: TokenStore, key: GrantKey) -> Gate:
    """The one gate of that login in this process."""
    place = (store.identity, key)
    return _gates.get(place) or _gates.setdefault(place, Gate())


_rescuers: list[Rescuer] = []

# A child has none of the threads that stand at the gates; it starts with none standing (HAZARDS 13).
at_fork_in_child(_gates.clear)
at_fork_in_child(_rescuers.clear)  # what they hold is the parent's to save


class Rescuer:
    """Goes on saving an answer that the store refused, with the lock held: nobody else may spend its
    predecessor, and as long as this process lives nothing is lost (HAZARDS 3).
    """

    def __init__(
        self,
        store: TokenStore,
        gate: Gate,
        hold: Hold,
        grant: Grant,
        expected: Order | None,
        detail: str,
        *,
        revoke: Callable[[Secret], object],
    ) -> None:
        self.store = store
        self.gate = gate
        self.hold = hold
        self.grant = grant
        self.expected = expected
        self.detail = detail
        self.revoke = revoke
        self.over = False
        self._one = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Say so, and begin."""
        self.gate.unsaved = self.grant
        self.gate.announce()
        _rescuers.append(self)
        log.error(
            "the renewed login for %s could not be saved and is kept in memory: %s.  Trying on; do not end this "
            "process before it says that it is saved",
            self.grant.key,
            self.detail,
        )
        self.go_on()

    def go_on(self) -> None:
        """Have a thread at it, where one is to be had; else the next caller tries that again."""
        with self._one, suppress(RuntimeError):
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="loginonce-rescue", daemon=True)
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        pause = 0.1
        while not self._attempt():
            time.sleep(pause)
            pause = min(2.0, pause * 1.5)
        _rescuers.remove(self)

    def _attempt(self) -> bool:
        revoking = None
        try:
            self.store.commit(self.grant, expected=self.expected)
        except OrderConflict as conflict:
            if conflict.current is not None and conflict.current.order == self.grant.order:
                log.warning("the renewed login for %s is saved now", self.grant.key)  # by an attempt that failed late
            following = refresh.supersede(self.grant, conflict.current)
            if isinstance(following, refresh.Write):
                self.gate.unsaved = self.grant = following.grant
                self.expected = following.expected
                return False
            if isinstance(following, refresh.Revoke):
                revoking = following.token
        except Exception:  # also what nobody foresaw: this thread is all that keeps the answer
            return False
        else:
            log.warning("the renewed login for %s is saved now", self.grant.key)
        self.over = True
        self.gate.unsaved = None
        self.hold.release()
        self.gate.announce()
        if revoking is not None:
            self.revoke(revoking)
        return True

    def last_attempt(self) -> None:
        """Try to save it before the process ends, and say so where that fails."""
        # More than once: an attempt may find another record, and write over it the next time.
        if not self.over and not any(self._attempt() for _ in range(3)):
            log.critical("the renewed login for %s could not be saved: sign in again", self.grant.key)


def go_on_saving() -> None:
    """See to it that somebody is at what could not be saved."""
    for rescuer in _rescuers.copy():
        rescuer.go_on()


def save_the_rest() -> None:
    """Try once more to save what could not be saved, at the end of the process."""
    for rescuer in _rescuers.copy():
        rescuer.last_attempt()
