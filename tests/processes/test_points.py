"""A process of the real library, killed or interrupted at every point of every way through a refresh, on every store.

`ways` is the table and derives what has to follow; the first tests prove that it has every action of the machine
and every point that is really passed, so a new step of the protocol makes them fail until it is in the table.
Before a store whose lock is a lease the others have to wait until it has ended; `Kind.brisk` makes that short.
"""

from __future__ import annotations

import signal
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crowd import Crowd
from places import PLACES, Kind, Place, marked
from points import Meeting
from trials import KILLS, Sent, begin, trial
from ways import COLUMNS, FORGIVING, IN_FILES, REUSE, STRICT, Column, Moments, Way, ways

import loginonce
from loginonce import refresh
from loginonce.testing import FakeProvider, Fault, Grace

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]


class FakeStage:
    """The fake provider as a `trials.Stage`."""

    def __init__(
        self, provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, *, lag: float = 0.0
    ) -> None:
        self.url = provider.api("/runs")
        self._lag, self._nobody_has_looked = lag, True
        self._provider = provider
        self._owner = owner
        self._age = age
        self._until = until

    def sign_in(self) -> None:
        self._owner.login(tokens=self._provider.issue())
        self._provider.reset_stats()
        if not self._nobody_has_looked:
            time.sleep(self._lag)  # until everybody sees it
        self._nobody_has_looked = False

    def expire(self) -> None:
        began = time.monotonic()
        self._age(self._owner, ends_in=-1)
        self._slowness = time.monotonic() - began  # of this store on this machine now

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
                # Until the owner has logged out, and within the time that a send has where the lock is a lease.
                provider.faults.add(Fault.delay(min(0.8, 0.2 + 8 * self._slowness)))
            case "waited":
                provider.faults.add(Fault.delay(0.8 + 8 * self._slowness))  # until the other one has come to the lock
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


_ON_REDIS = Moments(mark="compared", write="compared", conflict="compared", done="compared")
_IN_A_DATABASE = Moments(*["executed committed"] * 5, done="committed")
SEEN = {
    "file": IN_FILES,
    "strict file": IN_FILES._replace(full="", taken=False),
    "sealed file": IN_FILES,
    "keyring": IN_FILES._replace(
        mark=f"kept {IN_FILES.mark}", write=f"kept {IN_FILES.write}", conflict=f"kept {IN_FILES.conflict}", full=""
    ),
    "Redis": _ON_REDIS,
    "Valkey": _ON_REDIS,
    "PostgreSQL": _IN_A_DATABASE,
    "MariaDB": _IN_A_DATABASE,
    "SQLite": _IN_A_DATABASE._replace(full=""),
}
"""The stores that the table is for, and what can be seen of each."""

TABLE = {PLACES[name]: ways(seen) for name, seen in SEEN.items()}
WHOLLY = [PLACES["file"], PLACES["Redis"], PLACES["PostgreSQL"]]
"""Where every point is tried.  In each of the others those at which something changes, and a third of the rest."""


@pytest.fixture
def stage(place: Place, fake_provider: FakeProvider, loginonce_home: Path, age: Age, until: Until) -> FakeStage:
    """The login of this process, in that place."""
    owner = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=place.address)
    owner.login(tokens=fake_provider.issue())
    owner.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return FakeStage(fake_provider, owner, age, until, lag=place.kind.lag)


@pytest.fixture
def crowd(place: Place, way: Way, column: Column, gather: Gather) -> Crowd:
    """Who shares it."""
    kind, policy, constants = place.kind, column.policy, {}
    if way.name != "waited":  # there nobody ends who holds the lock
        constants = kind.brisk
        # A marker is waited for until its send has certainly ended, where the lock is a lease.
        policy = {**policy, "send_timeout": 1.0} if kind.lease else policy
    return gather(store=place.address, policy=policy, constants=constants, environment=kind.environment)


def test_the_table_has_every_action_and_every_phase_of_the_machine() -> None:
    steps = [point.partition(":")[0].split(".") for way in TABLE[PLACES["file"]] for point in way.points]
    assert {action for _, action in steps} == {action.__name__ for action in typing.get_args(refresh.Action)}
    assert {phase for phase, _ in steps} == set(typing.get_args(refresh.Phase))


@pytest.mark.parametrize("column", [STRICT], ids=["strict"])
@pytest.mark.parametrize(
    ("place", "way"),
    [
        pytest.param(kind, way, id=f"{kind}-{way}", marks=() if kind.name == "file" else marked(kind))
        for kind in TABLE
        for way in TABLE[kind]
    ],
    indirect=["place"],
)
def test_the_points_of_a_way_are_all_that_are_passed_on_it(
    stage: FakeStage, crowd: Crowd, way: Way, column: Column
) -> None:
    with Meeting() as meeting:
        victim, *_ = begin(stage, crowd, way, column, "", meeting)
        victim.hear()
    assert victim.ask("passed")["points"] == list(way.points)


def cells() -> Iterator[tuple[Kind, Way, str, signal.Signals, Column]]:
    """In files each way's own points by signal and provider; elsewhere by SIGKILL, before a strict provider."""
    for number, (kind, table) in enumerate(TABLE.items()):
        for way in table:
            renewed = way.name == "renewed"
            ends = [(KILLS[0], STRICT)]
            if kind.name == "file":
                # What differs by provider and policy, and between two signals that kill, is a matter of the first way.
                ends += [(KILLS[0], column) for column in COLUMNS[1:]] + [(KILLS[1], STRICT)] if renewed else []
                ends += [(signal.SIGINT, STRICT)]
            for at, point in enumerate(way.own):
                if kind in WHOLLY or at % 3 == number % 3 or point in way.changes:
                    yield from ((kind, way, point, sign, column) for sign, column in ends)
                if kind is not PLACES["file"] and renewed and point in ("send.Send:sent", "send.Send:answered"):
                    yield kind, way, point, KILLS[0], FORGIVING


def quick(kind: Kind, way: Way, sign: signal.Signals, column: Column) -> bool:
    """By default, each point of the first way once."""
    return kind.name == "file" and way.name == "renewed" and sign is KILLS[0] and column is STRICT


@pytest.mark.parametrize(
    ("place", "way", "point", "sign", "column"),
    [
        pytest.param(
            kind, way, point, sign, column,
            id=f"{kind}-{way}-{point}-{sign.name}-{column.name}",
            marks=() if quick(kind, way, sign, column) else marked(kind),
        )
        for kind, way, point, sign, column in cells()
    ],
    indirect=["place"],
)  # fmt: skip
@pytest.mark.hazard(1, 2, 10, 12)
def test_whoever_ends_at_a_point_leaves_to_the_others_what_the_point_says(
    stage: FakeStage, crowd: Crowd, way: Way, point: str, sign: signal.Signals, column: Column
) -> None:
    trial(stage, crowd, way, point, sign, column)
