"""Kills at random under load, and some that have a story: the others go on, unaided, and nobody is logged out.

The provider forgives a spent refresh token for a while, and the policy says so; what a strict provider costs is
told where its name is.  Each point of a refresh by itself is a matter of `test_points`.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from crowd import Crowd, Member

import loginonce
from loginonce.testing import FakeProvider, Fault, Grace

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

REUSE = 30
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [90])
@pytest.mark.hazard(2)
def test_nobody_is_logged_out_when_others_are_killed(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, seconds: float
) -> None:
    fake_provider.grace = Grace.sibling(REUSE)
    fake_provider.latency = 0.04  # so that many kills come between the sending and the saving
    fake_provider.access_token_lifetime = 1
    crowd = gather(policy={"reuse_interval": REUSE})
    crowd.fork(8)
    owner.login(tokens=fake_provider.issue())
    url, until = fake_provider.api("/runs"), time.time() + seconds
    for member in crowd.members:
        member.tell("work", url=url, until=until)
    chance = random.Random(seconds)  # the same moments in each run, as far as anything is
    killed = 0
    while time.time() < until - 0.5:
        time.sleep(chance.uniform(0.02, 0.15))
        replaced(crowd, chance.randrange(8), chance.choice(SIGNALS)).tell("work", url=url, until=until)
        killed += 1
    answers = [member.hear() for member in crowd.members]
    assert [answer["bad"] for answer in answers] == [[]] * 8
    assert sum(answer["good"] for answer in answers) > 8
    assert killed > 50
    assert fake_provider.stats.replays == 0
    assert fake_provider.stats.refreshes >= seconds / 2  # a busy machine goes through fewer


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_at_a_strict_provider_a_kill_costs_one_login_at_most_and_no_token_is_sent_three_times(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather
) -> None:
    fake_provider.latency = 0.04
    fake_provider.access_token_lifetime = 1
    crowd = gather(policy={"refusal_wait": 0.1})
    crowd.fork(8)
    owner.login(tokens=fake_provider.issue())
    fake_provider.reset_stats()
    url, until = fake_provider.api("/runs"), time.time() + 90
    for member in crowd.members:
        member.tell("work", url=url, until=until)
    chance = random.Random(8)
    killed = logins = 0
    while time.time() < until:
        time.sleep(chance.uniform(0.01, 0.1))
        grant = owner.source.grant()
        assert grant is not None
        spending = grant.marker.owner.split("/")[2] if grant.marker else ""
        aims = [number for number, member in enumerate(crowd.members) if str(member.pid) == spending]
        if time.time() < until - 2:
            # Whoever is spending, more often than not: the others lose nothing by it.
            number = aims[0] if aims and chance.random() < 0.5 else chance.randrange(8)
            replaced(crowd, number, chance.choice(SIGNALS)).tell("work", url=url, until=until)
            killed += 1
        try:
            owner.source.token()
        except loginonce.LoginRequired as error:
            assert error.reason in ("ended", "lost")
            owner.login(tokens=fake_provider.issue())
            logins += 1
    bad = [(answer["error"], answer["reason"]) for member in crowd.members for answer in member.hear()["bad"]]
    assert set(bad) <= {("LoginRequired", "ended"), ("LoginRequired", "lost")}
    sends = Counter(event.fingerprint for event in fake_provider.log if event.kind == "token")
    assert max(sends.values()) <= 2
    assert fake_provider.stats.replays <= logins
    assert 1 <= logins < killed
    assert killed > 50
    assert [answer.get("status") for answer in crowd.call_together(url)] == [200] * 8


def replaced(crowd: Crowd, number: int, sign: signal.Signals) -> Member:
    """One of the crowd gets this signal, and somebody new comes in its place."""
    crowd.members[number].end_by(sign)
    fresh = crowd.fork(1)[0]
    crowd.members[number] = crowd.members.pop()
    return fresh


@pytest.mark.parametrize("moment", ["before the provider has seen it", "after the provider has rotated"])
@pytest.mark.hazard(1, 2)
def test_a_kill_during_the_request_costs_nothing_within_the_reuse_interval(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until, moment: str
) -> None:
    fake_provider.grace = Grace.sibling(REUSE)
    crowd = gather(policy={"reuse_interval": REUSE})
    victim, heir = crowd.fork(2)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.delay(5, after=moment.startswith("after")))
    victim.tell("call", url=fake_provider.api("/runs"))
    stats = "refreshes" if moment.startswith("after") else "token_requests"
    until(lambda: getattr(fake_provider.stats, stats))
    heir.tell("call", url=fake_provider.api("/runs"))  # waits for the victim
    began = time.monotonic()
    victim.kill()
    assert heir.hear()["status"] == 200
    assert time.monotonic() - began < 2
    assert fake_provider.stats.replays == 0


@pytest.mark.hazard(1, 2)
def test_a_kill_between_answer_and_save_costs_one_login_at_a_strict_provider(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather(policy={"refusal_wait": 0.1})
    victim, *heirs = crowd.fork(4)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.delay(5))
    victim.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.refreshes)
    victim.kill()
    for heir in heirs * 2:
        assert heir.ask("call", url=fake_provider.api("/runs"))["reason"] == "ended"
    assert fake_provider.stats.token_requests == 2  # the victim's, and one try of one of the others
    assert heirs[0].ask("login", tokens=fake_provider.issue()) == {}
    assert [heir.ask("call", url=fake_provider.api("/runs"))["status"] for heir in heirs] == [200] * 3


@pytest.mark.hazard(10)
def test_nobody_is_told_that_the_login_is_lost_while_another_tries_again(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    victim, trying, waiting = crowd.fork(3)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.delay(5, after=False))
    fake_provider.faults.add(Fault.delay(0.5))
    victim.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.token_requests)
    victim.kill()  # the provider never got to see the token
    trying.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.refreshes)
    waiting.tell("call", url=fake_provider.api("/runs"))
    assert [member.hear().get("status") for member in (trying, waiting)] == [200, 200]


@pytest.mark.hazard(13)
def test_a_child_forked_during_a_refresh_does_not_keep_the_lock_of_its_dead_parent(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    fake_provider.grace = Grace.sibling(REUSE)
    crowd = gather(policy={"reuse_interval": REUSE, "wait_timeout": 3})
    victim, heir = crowd.fork(2)
    age(owner, received=280, ends_in=20)  # renewed in the background, so the victim is free to fork meanwhile
    fake_provider.faults.add(Fault.delay(5))
    assert victim.ask("call", url=fake_provider.api("/runs"))["status"] == 200
    until(lambda: fake_provider.stats.refreshes)
    with victim.idle_child():
        victim.kill()
        age(owner, ends_in=-1)
        assert heir.ask("call", url=fake_provider.api("/runs")).get("status") == 200
