"""The invariants of `loginonce.refresh`, in every state that small worlds around the real machine can reach.

`world` is the model and says what each invariant means, `explorer` visits its states, `scenarios` says which
worlds, `variants` which mistakes it has to find.  Run with `-s` to see the counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import variants
from explorer import Report, explore
from scenarios import LARGE, LEASE, LOGIN_AGAIN, SCENARIOS, SHORT, STALE
from world import (
    CRASH,
    ENDED,
    LOGIN,
    LOGOUT,
    LOST,
    NOT_WRITTEN,
    ROGUE,
    RUN_OUT,
    Accident,
    Behaviour,
    Real,
    Scenario,
    World,
)


@pytest.fixture(scope="module")
def reports() -> Iterator[list[Report]]:
    """What has been explored so far; the sum is printed at the end."""
    found: list[Report] = []
    yield found
    states, transitions = sum(r.states for r in found), sum(r.transitions for r in found)
    seconds = sum(r.seconds for r in found)
    print(f"\n{len(found)} explorations: {states:,} states, {transitions:,} transitions, {seconds:.0f} s")


def _named(scenario: Scenario) -> str:
    return scenario.name


LARGER = {
    "a strict provider, policy retry_once",
    "a grace with siblings, policy login",
    "the store cannot be read",
    "a grace with the same successor, policy retry_once",
    "a grace with siblings, policy retry_once",
    "a provider that only refuses a replay, policy retry_once",
    "the provider declines after a loss, and the interval ends",
    "a lease, log-in and log-out",
    "a lockless program",
    "a token near its end",
    "writes fail",
    "the provider declines",
    "a grace by count, policy retry_once",
    "a grace with the same successor, policy login",
    "a service",
    "writes fail, and the provider declines",
    "a lockless program, no rotation",
    "no rotation, policy retry_once",
}
"""Worlds that take some seconds each: they are explored with the long tests."""


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(one, marks=[pytest.mark.slow] if one.name in LARGER else []) for one in SCENARIOS],
    ids=_named,
)
def test_every_invariant_holds_when(scenario: Scenario, reports: list[Report], record_property) -> None:
    _holds(scenario, reports, record_property)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", LARGE, ids=_named)
def test_every_invariant_holds_at_length_when(scenario: Scenario, reports: list[Report], record_property) -> None:
    _holds(scenario, reports, record_property)


def _holds(scenario: Scenario, reports: list[Report], record_property) -> None:
    report = explore(World(scenario))
    reports.append(report)
    record_property("states", report.states)
    record_property("transitions", report.transitions)
    record_property("seconds", round(report.seconds, 1))
    print(report)
    assert report.complete
    assert not report.violations, f"\n{report}"


EXPECTED = [
    (variants.NoSecondLookNorCompare, "I3", {}),
    (variants.TokenFromBeforeTheLock, "I1", {}),
    (variants.NothingWrittenAhead, "I1", {}),
    (variants.BlindWrites, "I3", {LOGIN: 1}),
    (variants.BlindWrites, "I9", {LOGOUT: 1}),
    (variants.HastyVerdict, "T2", {ROGUE: 1}),
    (variants.BlindVerdict, "I5", {ENDED: 1, LOGIN: 1}),
    (variants.OpenOnFailure, "I11", {}),
    (variants.LockThatDoesNotExclude, "I2", {}),
    (variants.LateSender, "I2", {RUN_OUT: 1}),
    (variants.LeaseTakenForALock, "I2", {RUN_OUT: 1}),
    (variants.LockThatOutlivesItsOwner, "I7", {CRASH: 1}),
    (variants.HiddenRetry, "I10", {LOST: 1}),
    (variants.RevokesForALogin, "I4", {LOGIN: 1}),
    (variants.ForgetsToRevoke, "I4", {LOGOUT: 1}),
    (variants.RevokesUnderTheLock, "I8", {LOGOUT: 1}),
    (variants.GoodTokensWait, "I6", {}),
    (variants.DeadTokensAreTried, "I9", {ENDED: 1}),
    (variants.WritesForEver, "I7", {NOT_WRITTEN: 1}),
]


@pytest.mark.parametrize(
    ("variant", "invariant", "accidents"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[2] else []) for one in EXPECTED],
    ids=[f"{v.name} breaks {i}" for v, i, _ in EXPECTED],
)
def test_the_exploration_notices_that(
    variant: type[Real], invariant: str, accidents: dict[Accident, int], reports: list[Report]
) -> None:
    scenario = _world_for(accidents)
    sound = explore(World(scenario))
    broken = explore(World(scenario, variant()))
    reports.append(broken)
    print(f"{variant.name}: {', '.join(sorted(broken.broken))}")
    assert invariant in broken.broken - sound.broken, f"\n{broken}"


def _world_for(accidents: dict[Accident, int]) -> Scenario:
    """A small world with these accidents, a token near its end to begin with, and successors that soon end."""
    lease = RUN_OUT in accidents
    provider, times = Behaviour(life=8.0), LEASE if lease else (*STALE[:3], 60.0)
    return Scenario("to be broken", provider=provider, times=times, accidents=tuple(accidents.items()), lease=lease)


def test_the_comparison_makes_up_for_a_missing_second_look(reports: list[Report]) -> None:
    scenario = Scenario("no second look", times=(0.0, 5.0, 60.0), accidents=((LOGIN, 1), (CRASH, 1)))
    report = explore(World(scenario, variants.NoSecondLook()))
    reports.append(report)
    assert not report.violations, f"\n{report}"


def test_a_trace_is_the_shortest_way_to_what_it_shows() -> None:
    report = explore(World(Scenario("open", times=SHORT), variants.OpenOnFailure()))
    trace = next(v.trace for v in report.violations if v.invariant == "I11")
    assert trace[0] == "A calls"
    assert "writes [SPENDING" in trace[-1]
    assert len(trace) == 8


def test_every_larger_world_is_one_of_the_worlds() -> None:
    assert {one.name for one in SCENARIOS} >= LARGER


def test_who_is_who_makes_no_difference() -> None:
    """Processes are interchangeable: with names there are more states, and nothing else is found."""
    alike = Scenario("alike", policy=LOGIN_AGAIN, accidents=((LOST, 1),))
    named = Scenario("named", policy=LOGIN_AGAIN, accidents=((LOST, 1),), symmetric=False)
    few, many = explore(World(alike)), explore(World(named))
    assert few.states < many.states < 3 * few.states
    assert few.broken == many.broken
