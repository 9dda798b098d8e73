"""Breadth-first through all that can happen in a `World`: shortest traces first, each state once.

A move that breaks an invariant is recorded with its trace (the first and therefore shortest for each kind) and
not followed.  At the end every state is asked whether its callers can still come to an end by their own steps,
the passing of time and answers that arrive: no deadlock, no livelock (I7).
"""

from __future__ import annotations

import re
import time
from array import array
from dataclasses import dataclass, field

from world import AGAIN, CRASH, NONE, Claim, State, World


@dataclass
class Violation:
    """An invariant, what broke it, and the shortest way there."""

    invariant: str
    message: str
    trace: list[str]

    def __str__(self) -> str:
        steps = "\n".join(f"  {i:2}. {line}" for i, line in enumerate(self.trace, 1))
        return f"{self.invariant}: {self.message}\n{steps}"


@dataclass
class Report:
    """What an exploration came to."""

    scenario: str
    variant: str
    states: int = 0
    transitions: int = 0
    machine_steps: int = 0
    deepest: int = 0
    seconds: float = 0.0
    complete: bool = True
    violations: list[Violation] = field(default_factory=list)

    @property
    def broken(self) -> set[str]:
        """The invariants that do not hold."""
        return {violation.invariant for violation in self.violations}

    def __str__(self) -> str:
        head = (
            f"{self.scenario}: {self.states:,} states, {self.transitions:,} transitions, depth {self.deepest}, "
            f"{self.machine_steps:,} steps of the machine, {self.seconds:.1f} s"
            + ("" if self.complete else " (not complete)")
        )
        return "\n\n".join([head, *map(str, self.violations)])


def explore(
    world: World,
    *,
    first_only: bool = False,
    liveness: bool = True,
    most_states: int = 5_000_000,
) -> Report:
    """Visit every reachable state.  `first_only`: stop at the first violation."""
    began = time.perf_counter()
    report = Report(world.scenario.name, world.variant.name)
    symmetric = world.scenario.symmetric
    holds, sending, spend = world.holds, world.sending, world.spend
    number: dict[State, int] = {world.initial: 0}
    states = [world.initial]
    parents = array("l", [-1])
    sources, targets = array("l"), array("l")
    kinds: set[tuple[str, str]] = set()
    cut_off: list[int] = []  # states with a way out that is not followed, because it breaks an invariant
    processes = range(world.scenario.processes)
    transitions = 0
    at = depth = level_ends = 0

    def reach(child: State, parent: int) -> int:
        found = number.get(child)
        if found is None:
            found = number[child] = len(states)
            states.append(child)
            parents.append(parent)
        return found

    def blame(claim: Claim, parent: int, actor: int, last: str) -> None:
        kind = (claim.invariant, re.sub(r"\d+", "#", claim.message))
        if kind not in kinds:
            kinds.add(kind)
            lines, names = _walk(world, states, parents, parent)
            last = f"{names[actor]} {last}" if actor >= 0 else last
            report.violations.append(Violation(claim.invariant, claim.message, [*lines, last]))

    while at < len(states):
        if at > level_ends:
            depth, level_ends = depth + 1, len(states) - 1
        if len(states) > most_states or (first_only and kinds):
            report.complete = False
            break
        state = states[at]
        around, record, provider, tick = state[:4]
        locals_ = state[4:]
        free = True
        for p in locals_:
            if holds[p]:
                free = False
        for i in processes:
            for move in world.moves(state, i, free=free):
                cost = move.cost
                after = around
                if cost:
                    after = spend(around, cost)
                    if after < 0:
                        continue
                transitions += 1
                others = list(locals_)
                others[i] = move.local
                if move.sends >= 0 or move.claims:
                    # An accident of this very move excuses what it does, too.
                    found_broken = world.broken(move.claims, (after, *state[1:]), i)
                    if move.sends >= 0 and any(sending[q] == move.sends for j, q in enumerate(locals_) if j != i):
                        found_broken.append(Claim("I2", f"two sends of r{move.sends} overlap"))
                    for claim in found_broken:
                        blame(claim, at, i, move.label)
                    if found_broken:
                        cut_off.append(at)
                        continue
                if symmetric:
                    others.sort()
                child = (
                    after,
                    record if move.record < 0 else move.record,
                    provider if move.provider < 0 else move.provider,
                    tick,
                    *others,
                )
                found = reach(child, at)
                if liveness and cost in {NONE, AGAIN} and found != at:
                    sources.append(at)
                    targets.append(found)
        for turn in world.turns(state):
            transitions += 1
            if found_broken := world.broken(turn.claims, state, -1):
                for claim in found_broken:
                    blame(claim, at, -1, turn.label)
                cut_off.append(at)
                continue
            found = reach((turn.around, turn.record, turn.provider, turn.tick, *locals_), at)
            if liveness and turn.due:
                sources.append(at)
                targets.append(found)
        if world.time_may_pass(state):
            transitions += 1
            found = reach((around, record, provider, tick + 1, *locals_), at)
            if liveness:
                sources.append(at)
                targets.append(found)
        at += 1

    report.states, report.transitions, report.deepest = len(states), transitions, depth
    report.machine_steps = world.steps
    if liveness and report.complete:
        stuck = _first_stuck(world, states, cut_off, sources, targets)
        if stuck >= 0:
            blame(Claim("I7", "from here the callers never come to an end"), stuck, -1, "…")
    report.seconds = time.perf_counter() - began
    return report


def _first_stuck(
    world: World, states: list[State], cut_off: list[int], sources: array[int], targets: array[int]
) -> int:
    """The earliest state from which no state without running callers can be reached, or -1."""
    runs = world.runs
    # The edges by target, packed: `starts[t]` to `starts[t + 1]` are the sources that lead to t.
    starts = array("l", bytes(8 * (len(states) + 1)))
    for target in targets:
        starts[target + 1] += 1
    for i in range(len(states)):
        starts[i + 1] += starts[i]
    filled = array("l", starts)
    before = array("l", bytes(8 * len(sources)))
    for origin, target in zip(sources, targets, strict=True):
        before[filled[target]] = origin
        filled[target] += 1
    ends = bytearray(len(states))
    last = len(world.now) - 1
    todo = [
        i
        for i, state in enumerate(states)
        if not any(runs[p] for p in state[4:])
        # At the last instant nothing that waits for time to pass comes to its end, nor what waits for that.
        or (state[3] == last and any(world.watches[p] for p in state[4:]))
    ]
    todo += cut_off
    for i in todo:
        ends[i] = 1
    while todo:
        target = todo.pop()
        for origin in before[starts[target] : starts[target + 1]]:
            if not ends[origin]:
                ends[origin] = 1
                todo.append(origin)
    return ends.find(0)


# ── traces ───────────────────────────────────────────────────────────────────────────────────────────────


def _path(parents: array[int], last: int) -> list[int]:
    path = [last]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


def _walk(world: World, states: list[State], parents: array[int], last: int) -> tuple[list[str], list[str]]:
    """The steps to a state, and who stands at which place in it (places are sorted, names are not)."""
    names = [chr(ord("A") + i) for i in range(world.scenario.processes)]
    fresh = iter(chr(ord("A") + i) for i in range(len(names), 26))
    path, lines = _path(parents, last), []
    for here, there in zip(path, path[1:], strict=False):
        state, target = states[here], states[there]
        label, names = _step(world, state, target, names, fresh)
        moved = world.describe(target) if state[:4] != target[:4] else ""
        lines.append(f"{label:<72} {moved}".rstrip())
    return lines, names


def _step(world: World, state: State, target: State, names: list[str], fresh: object) -> tuple[str, list[str]]:
    free = not any(world.holds[p] for p in state[4:])
    for i in range(len(names)):
        for move in world.moves(state, i, free=free):
            around = world.spend(state[0], move.cost) if move.cost else state[0]
            record = state[1] if move.record < 0 else move.record
            provider = state[2] if move.provider < 0 else move.provider
            pairs = [(p, name) for p, name in zip(state[4:], names, strict=True)]
            pairs[i] = (move.local, names[i])
            if world.scenario.symmetric:
                pairs.sort(key=lambda pair: pair[0])
            if (around, record, provider, state[3], *(p for p, _ in pairs)) == target:
                who = names[i]
                after = [name for _, name in pairs]
                if move.cost == CRASH:
                    after[after.index(who)] = next(fresh)  # type: ignore[call-overload]
                return f"{who} {move.label}", after
    for turn in world.turns(state):
        if (turn.around, turn.record, turn.provider, turn.tick, *state[4:]) == target:
            return turn.label, names
    return f"time passes: {world.scenario.times[target[3]]:+g} s", names
