"""One way at random through a `World`, with every step on the record or its lock carried out on a real store.

Each process of the world has a store object of its own, for one and the same place.  The world says what a store has
to say at each step (which record there is, whether the lock is had, whether a write is done or meets another record)
and what must be in the store afterwards; one that says or holds anything else is `Astray`.  What the machine comes to
is judged by the invariants of the world, as in the exploration, so they hold for whoever keeps to it.

A process that is killed drops its objects and releases nothing; a lease that it held, or that runs out, is ended as
time does.  The same seed goes the same way, whichever the store.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from contract import content
from world import AGAIN, CRASH, KEY, NONE, NOT_WRITTEN, RUN_OUT, UNREADABLE, Claim, Local, Move, State, World

from loginonce import refresh
from loginonce.model import Grant, GrantKey, Order
from loginonce.stores.base import Hold, OrderConflict, Stamp, TokenStore

LONGEST = 200
"""Steps; most come to their end long before.  That all can do so is a matter of the exploration."""


class Astray(AssertionError):
    """A store that is not what the world says, or an invariant that does not hold; with the way there."""


@dataclass
class _Process:
    """What a process of the world has in hand."""

    store: TokenStore
    hold: Hold | None = None
    seen: tuple[Stamp, Grant | None] | None = None  # as it was loaded, if that could be trusted


@dataclass
class Walk:
    """`open` opens the store once more, as another process does; `lapse` ends the lease on a login."""

    world: World
    open: Callable[[], TokenStore]
    lapse: Callable[[GrantKey], object]
    seed: int
    lag: float = 0.0
    trace: list[str] = field(default_factory=list)
    spare: list[TokenStore] = field(default_factory=list)  # objects of earlier walks, whose processes were not killed
    writes: int = 0
    conflicts: int = 0
    _since: int = 0  # steps since time has passed

    def go(self) -> tuple[int, int, int]:
        """To the end.  How many steps that took, and writes, and conflicts.  Raises `Astray`."""
        world, state = self.world, self.world.initial
        dice = random.Random(f"{world.scenario.name} {self.seed}")
        self._key = replace(KEY, account=secrets.token_hex(8))  # each walk has a login of its own
        self._processes = [_Process(self._opened()) for _ in range(world.scenario.processes)]
        self._others = self._opened()
        first = world.grants[state[1]]
        if first is not None:
            self._others.commit(self._named(first), expected=None)
        while (steps := self._steps(state)) and len(self.trace) < LONGEST:
            self._since += 1
            (step,) = dice.choices(steps, [weight for weight, _ in steps])
            state = step[1]()
        for process in self._processes:
            if process.hold is not None:
                process.hold.release()
        self.spare += [self._others, *(process.store for process in self._processes)]
        return len(self.trace), self.writes, self.conflicts

    def _opened(self) -> TokenStore:
        return self.spare.pop() if self.spare else self.open()

    # ── what may come next ───────────────────────────────────────────────────────────────────────────────

    def _steps(self, state: State) -> list[tuple[float, Callable[[], State]]]:
        """Each with its weight: accidents are rare enough to come at different moments."""
        world = self.world
        around, record, provider, tick, *locals_ = state
        steps: list[tuple[float, Callable[[], State]]] = []
        free = not any(world.holds[p] for p in locals_)
        for i in range(len(locals_)):
            for move in world.moves(state, i, free=free):
                after = world.spend(around, move.cost) if move.cost else around
                if after >= 0:
                    weight = 2.0 if move.cost in (NONE, AGAIN) else 0.4
                    steps.append((weight, lambda i=i, move=move, after=after: self._moves(state, i, move, after)))
        for turn in world.turns(state):
            there = (turn.around, turn.record, turn.provider, turn.tick, *locals_)
            steps.append((0.4, lambda turn=turn, there=there: self._turns(state, there, turn.label, turn.claims)))
        if world.time_may_pass(state):
            later = (around, record, provider, tick + 1, *locals_)
            steps.append((0.03 * (1 + self._since), lambda: self._passes(state, later, tick + 1)))
        return steps

    def _turns(self, state: State, after: State, label: str, claims: tuple[Claim, ...] = ()) -> State:
        self.trace.append(label)
        self._judge(self.world.broken(claims, state, -1))
        if after[1] != state[1]:
            old, new = self.world.grants[state[1]], self.world.grants[after[1]]
            assert new is not None, "no store is asked to remove a record"
            self._commits(self._others, new, old.order if old else None, state[1], after[1])
        return after

    def _passes(self, state: State, later: State, tick: int) -> State:
        self._since = 0
        return self._turns(state, later, f"time passes: {self.world.scenario.times[tick]:+g} s")

    def _moves(self, state: State, i: int, move: Move, around: int) -> State:
        world, locals_ = self.world, list(state[4:])
        self.trace.append(f"{chr(ord('A') + i)} {move.label}")
        claims = world.broken(move.claims, (around, *state[1:]), i)
        if move.sends >= 0 and any(world.sending[q] == move.sends for j, q in enumerate(locals_) if j != i):
            claims.append(Claim("I2", f"two sends of r{move.sends} overlap"))
        self._judge(claims)
        before, after = world.locals[locals_[i]], world.locals[move.local]
        locals_[i] = move.local
        record = state[1] if move.record < 0 else move.record
        self._carry_out(self._processes[i], i, move.cost, before, after, state[1], record)
        return (around, record, state[2] if move.provider < 0 else move.provider, state[3], *locals_)

    # ── what that is to a store ──────────────────────────────────────────────────────────────────────────

    def _carry_out(
        self, process: _Process, i: int, cost: int, before: Local, after: Local, record: int, becomes: int
    ) -> None:
        if cost == CRASH:
            self._processes[i] = _Process(self.open())
            if before.holds and self.world.scenario.lease:
                self.lapse(self._key)
            return
        if cost == RUN_OUT:
            self.lapse(self._key)  # and it goes on in good faith
            return
        if before.stage == "rescue":
            saved = self.world.grants[before.rescued]
            assert saved is not None
            self._commits(process.store, saved, before.expected, record, becomes)
        elif before.stage == "run":
            match self.world.nodes[before.node][1]:
                case refresh.Load() if cost != UNREADABLE:
                    self._loads(process, record)
                case refresh.TryLock() if cost != UNREADABLE:
                    process.hold = process.store.try_lock(self._key)
                    if (process.hold is not None) != after.holds:
                        self._astray(f"the lock is {'had' if process.hold else 'not had'}")
                    if process.hold is not None and process.hold.lease != self.world.scenario.lease:
                        self._astray(f"the lock says that it is {'' if process.hold.lease else 'no '}lease")
                case refresh.Write(grant, expected, reserve) if cost != NOT_WRITTEN or becomes != record:
                    self._commits(process.store, grant, expected, record, becomes, reserve=reserve)
        if process.hold is not None and not (after.holds or after.ran_out):
            process.hold.release()
            process.hold = None

    def _loads(self, process: _Process, record: int) -> None:
        wanted = self.world.grants[record]
        if process.seen is not None and not self.lag and process.store.stamp(self._key) == process.seen[0]:
            self._same("by its stamp the record is still", process.seen[1], wanted)
        snapshot = process.store.load(self._key)
        found = self._nameless(snapshot.grant)
        self._same("what is loaded is", found, wanted)
        process.seen = (snapshot.stamp, found) if snapshot.settled else None

    def _commits(
        self,
        store: TokenStore,
        grant: Grant,
        expected: Order | None,
        record: int,
        becomes: int,
        *,
        reserve: bool = False,
    ) -> None:
        world = self.world
        try:
            store.commit(self._named(grant), expected=expected, reserve=reserve)
        except OrderConflict as conflict:
            self.conflicts += 1
            if becomes != record:
                self._astray("the store found another record, where there was none")
            self._same("the other record that was found is", self._nameless(conflict.current), world.grants[record])
        else:
            self.writes += 1
            if becomes == record:
                self._astray("the store wrote, although another record was there than was expected")
        self._same("in the store is", self._nameless(self._others.load(self._key).grant), world.grants[becomes])

    def _named(self, grant: Grant) -> Grant:
        return replace(grant, key=self._key)

    def _nameless(self, grant: Grant | None) -> Grant | None:
        return None if grant is None else replace(content(grant) or grant, key=KEY)

    # ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────

    def _same(self, what: str, found: Grant | None, wanted: Grant | None) -> None:
        if found != wanted:
            self._astray(
                f"{what} {found and (found.state, found.order)}, not {wanted and (wanted.state, wanted.order)}"
            )

    def _judge(self, claims: list[Claim]) -> None:
        for claim in claims:
            self._astray(f"{claim.invariant}: {claim.message}")

    def _astray(self, what: str) -> NoReturn:
        steps = "\n".join(f"  {number:2}. {line}" for number, line in enumerate(self.trace, 1))
        raise Astray(f"{what}\n(scenario {self.world.scenario.name!r}, seed {self.seed})\n{steps}")
