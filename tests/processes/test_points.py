"""A process of the real library, killed or interrupted at every point of every way through a refresh.

`ways` is the table and derives what has to follow; the first tests prove that it has every action of the machine
and every point that is really passed, so a new step of the protocol makes them fail until it is in the table.
"""

from __future__ import annotations

import signal
import typing
from collections.abc import Callable, Iterator

import pytest
from crowd import Crowd
from points import Meeting
from trials import KILLS, Sent, begin, trial
from ways import COLUMNS, RENEWED, REUSE, STRICT, WAYS, Column, Way

import loginonce
from loginonce import refresh
from loginonce.testing import FakeProvider, Fault, Grace

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]


class FakeStage:
    """The fake provider as a `trials.Stage`."""

    def __init__(self, provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until) -> None:
        self.url = provider.api("/runs")
        self._provider = provider
        self._owner = owner
        self._age = age
        self._until = until

    def sign_in(self) -> None:
        self._owner.login(tokens=self._provider.issue())
        self._provider.reset_stats()

    def expire(self) -> None:
        self._age(self._owner, ends_in=-1)

    def prepare(self, way: Way, column: Column, holder: Callable[[], None]) -> None:
        provider = self._provider
        provider.grace = Grace.sibling(REUSE) if column.forgives else Grace.none()
        match way.name:
            case "refused":
                provider.end_sessions()
            case "busy":
                provider.faults.add(Fault.status(503))
            case "lost":
                provider.faults.add(Fault.drop_after())
            case "logged out":
                provider.faults.add(Fault.delay(0.2))
            case "waited":
                provider.faults.add(Fault.delay(0.3))
                holder()
                self._until(lambda: provider.stats.refreshes)

    def meanwhile(self, way: Way) -> None:
        if way.name == "logged out":
            self._until(lambda: self._provider.stats.refreshes)
            self._owner.logout()

    def rotated(self) -> None:
        self._until(lambda: self._provider.stats.refreshes)

    def sent(self) -> Sent:
        stats = self._provider.stats
        return Sent(stats.token_requests, stats.replays)


@pytest.fixture
def stage(fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until) -> FakeStage:
    return FakeStage(fake_provider, owner, age, until)


def test_the_table_has_every_action_and_every_phase_of_the_machine() -> None:
    steps = [point.partition(":")[0].split(".") for way in WAYS for point in way.points]
    assert {action for _, action in steps} == {action.__name__ for action in typing.get_args(refresh.Action)}
    assert {phase for phase, _ in steps} == set(typing.get_args(refresh.Phase))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_points_of_a_way_are_all_that_are_passed_on_it(stage: FakeStage, gather: Gather, way: Way) -> None:
    crowd = gather(policy=STRICT.policy)
    with Meeting() as meeting:
        victim, *_ = begin(stage, crowd, way, STRICT, "", meeting)
        victim.hear()
    assert victim.ask("passed")["points"] == list(way.points)


def cells() -> Iterator[object]:
    """Each way's own points by signal and provider; by default each point once, the rest where there is time."""
    for way in WAYS:
        # What differs by provider and policy, and between two signals that kill, is a matter of the first way.
        kills = (
            [(KILLS[0], column) for column in COLUMNS] + [(KILLS[1], STRICT)]
            if way is RENEWED
            else [(KILLS[0], STRICT)]
        )
        for point in way.own:
            for sign, column in [*kills, (signal.SIGINT, STRICT)]:
                quick = way is RENEWED and sign is KILLS[0] and column is STRICT
                yield pytest.param(
                    way,
                    point,
                    sign,
                    column,
                    id=f"{way}-{point}-{sign.name}-{column.name}",
                    marks=() if quick else pytest.mark.slow,
                )


@pytest.mark.parametrize(("way", "point", "sign", "column"), list(cells()))
def test_whoever_ends_at_a_point_leaves_to_the_others_what_the_point_says(
    stage: FakeStage, gather: Gather, way: Way, point: str, sign: signal.Signals, column: Column
) -> None:
    trial(stage, gather(policy=column.policy), way, point, sign, column)
