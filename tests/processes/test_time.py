"""Processes that time passes by: stopped for longer than every deadline, or with a clock that is set.

A process that wakes up late, with the lock still its own, neither spends again nor writes over what came meanwhile.
A clock that jumps, in the middle of a refresh or before it, costs a renewal at most, and never a login.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from crowd import Crowd
from points import Meeting
from trials import patiently
from ways import RENEWED, REUSE

import loginonce
from loginonce.testing import FakeProvider, Fault, Grace, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

SENT = "send.Send:sent"
TELLING = (SENT, "save.Write:before")
DAY = 86400.0
DEADLINE = 0.2  # seconds that anybody waits
SEND = 0.6  # seconds of a token request, where one has to run out: every point after it is to be reached within them

with_lock = RENEWED.points[RENEWED.points.index("lock.TryLock:flocked") : RENEWED.points.index("release.Release:after")]
HELD = [point if point in TELLING else pytest.param(point, marks=pytest.mark.slow) for point in with_lock]
# Who holds the guard too when it is stopped keeps log-in and log-out from changing the record: they say so in time.
unguarded = [point for point in with_lock if point.endswith((":before", ":after")) or ".Write" not in point]
OPEN = [point if point in TELLING else pytest.param(point, marks=pytest.mark.slow) for point in unguarded]
ALL = [point if point in TELLING else pytest.param(point, marks=pytest.mark.slow) for point in RENEWED.points]


def sent(provider: FakeProvider) -> Stats:
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


@pytest.fixture
def deadlines() -> dict[str, float]:
    """A policy of short ones."""
    return {"wait_timeout": DEADLINE, "send_timeout": SEND, "refusal_wait": 0.05}


@pytest.mark.parametrize("point", HELD)
@pytest.mark.hazard(12)
def test_a_holder_that_was_stopped_beyond_its_deadlines_spends_no_second_time(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    deadlines: dict[str, float],
    point: str,
) -> None:
    fake_provider.grace = Grace.sibling(REUSE)
    holder, other = gather(policy={**deadlines, "reuse_interval": REUSE}).fork(2)
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        holder.ask("arm", point=point, place=meeting.place)
        holder.tell("call", url=url)
        assert meeting.reached() == point
        if point == SENT:
            until(lambda: fake_provider.stats.refreshes)
        before = sent(fake_provider)
        with holder.stopped():
            meeting.let_go()
            time.sleep(2 * SEND)
            answer = other.ask("call", url=url)
            saved = point in RENEWED.points[RENEWED.points.index("save.Write:renamed") :]
            assert answer.get("status") == 200 if saved else answer["error"] == "LockTimeout"
            assert sent(fake_provider) == before  # nobody has stolen its lock
    late = patiently(holder, url, holder.hear())
    assert [late.get("status"), other.ask("call", url=url).get("status")] == [200, 200], late
    if point == "send.Send:connected":  # its time is over: whether it still sends, and hears the answer, is a race
        assert (fake_provider.stats.token_requests <= 2, fake_provider.stats.replays) == (True, 0)
    else:
        assert sent(fake_provider) == Stats(token_requests=1, refreshes=1)


@pytest.mark.parametrize("point", OPEN)
@pytest.mark.parametrize("meanwhile", ["log-in", "log-out"])
def test_a_holder_that_was_stopped_writes_over_nothing_that_came_meanwhile(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    deadlines: dict[str, float],
    meanwhile: str,
    point: str,
) -> None:
    holder, other = gather(policy={**deadlines, "send_timeout": 1.0}).fork(2)
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        holder.ask("arm", point=point, place=meeting.place)
        holder.tell("call", url=url)
        assert meeting.reached() == point
        if point == SENT:
            until(lambda: fake_provider.stats.refreshes)
        with holder.stopped():
            if meanwhile == "log-in":
                owner.login(tokens=fake_provider.issue())
            else:
                owner.logout()
            grant = owner.source.grant()
            assert grant is not None
            meeting.let_go()
    answers = [holder.hear(), other.ask("call", url=url)]
    if meanwhile == "log-in":
        assert [answer.get("status") for answer in answers] == [200, 200]
    else:
        assert [answer.get("reason") for answer in answers] == ["logged_out"] * 2
    assert owner.source.grant() == grant
    assert fake_provider.stats.token_requests <= 1
    assert (fake_provider.stats.replays, fake_provider.stats.overlaps) == (0, 0)


def test_a_waiter_that_was_stopped_beyond_its_deadline_takes_what_came_meanwhile(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    deadlines: dict[str, float],
) -> None:
    holder, waiter = gather(policy={**deadlines, "send_timeout": 5}).fork(2)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.delay(1.0))  # until the waiter has come to its point
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        waiter.ask("arm", point="wait.Wait:before", place=meeting.place)
        holder.tell("call", url=url)
        until(lambda: fake_provider.stats.refreshes)
        waiter.tell("call", url=url)
        meeting.reached()
        with waiter.stopped():
            meeting.let_go()
            assert holder.hear()["status"] == 200
            time.sleep(2 * DEADLINE)
    assert waiter.hear().get("status") == 200
    assert sent(fake_provider) == Stats(token_requests=1, refreshes=1)


@pytest.mark.parametrize("shift", [DAY, -DAY], ids=["forwards", "back"])
@pytest.mark.parametrize("point", ALL)
@pytest.mark.hazard(33)
def test_a_clock_that_is_set_during_a_refresh_costs_a_renewal_at_most(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    point: str,
    shift: float,
) -> None:
    astray, other = gather().fork(2)
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        astray.ask("arm", point=point, place=meeting.place)
        astray.tell("call", url=url)
        assert meeting.reached() == point
        meeting.let_go(shift=shift)
        first = astray.hear()
        # By its clock its time may be over before it has sent anything: it is told so, and nothing was spent.
        assert first.get("status") == 200 or "over before it was sent" in first.get("message", ""), first
    astray.ask("shift_clock", seconds=-shift)
    assert [member.ask("call", url=url).get("status") for member in (astray, other) * 2] == [200] * 4
    until(lambda: fake_provider.stats.token_requests == fake_provider.stats.refreshes)  # one may run behind
    assert sent(fake_provider).refreshes <= 2
    assert fake_provider.stats.replays == 0


@pytest.mark.parametrize(
    "shift", [3600.0, -3600.0, 10 * DAY], ids=["an hour ahead", "an hour behind", "ten days ahead"]
)
def test_processes_whose_clocks_differ_share_a_login_without_a_replay(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until, shift: float
) -> None:
    crowd = gather()
    astray, *_ = crowd.fork(4)
    astray.ask("shift_clock", seconds=shift)
    age(owner, ends_in=-1)
    calls = 6
    for _ in range(calls):
        answers = crowd.ask("call", url=fake_provider.api("/runs"))
        assert [answer.get("status") for answer in answers] == [200] * 4
    until(lambda: fake_provider.stats.token_requests == fake_provider.stats.refreshes)  # one may run behind
    assert sent(fake_provider).refreshes <= 2 * calls
    assert (fake_provider.stats.replays, fake_provider.stats.overlaps) == (0, 0)
