"""Storms: a hundred processes, and a provider that is away, busy, or has ended their login.

What counts is what the provider hears: a trickle that the record paces, and each verdict once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from crowd import Crowd

import loginonce
from loginonce.testing import FakeProvider, Fault

Gather = Callable[..., Crowd]
Age = Callable[..., None]

CROWD = 100
POLICY = {"refusal_wait": 0.2, "send_timeout": 5.0, "wait_timeout": 10.0}

pytestmark = [pytest.mark.slow, pytest.mark.hazard(32)]


@dataclass
class Heard:
    """When the provider was asked for a token (POSIX seconds), and what the record said of the next time."""

    asked: list[float]
    not_before: list[float]


def asked(provider: FakeProvider) -> list[float]:
    return [event.time for event in provider.log if event.kind == "token"]


def for_a_while(crowd: Crowd, provider: FakeProvider, owner: loginonce.Session, seconds: float) -> Heard:
    """Let everybody call all the time; the record is looked at meanwhile."""
    not_before: list[float] = []
    end = time.time() + seconds
    for member in crowd.members:
        member.tell("work", url=provider.api("/runs"), until=end, pause=0.2)
    while time.time() < end:
        grant = owner.source.store.load(owner.source.key).grant
        assert grant is not None
        if grant.failure is not None and grant.failure.not_before not in not_before:
            not_before.append(grant.failure.not_before)
        time.sleep(0.02)
    return Heard(asked(provider), not_before)


def good_and_bad(crowd: Crowd) -> tuple[int, list[dict[str, Any]]]:
    answers = [member.hear() for member in crowd.members]
    return sum(answer["good"] for answer in answers), [bad for answer in answers for bad in answer["bad"]]


def paced(heard: Heard) -> None:
    """Nobody asks before the time that the record names, and each failure names a new one."""
    for earlier, later in pairwise(heard.asked):
        assert any(earlier < until <= later + 0.01 for until in heard.not_before), (earlier, later, heard.not_before)


@pytest.mark.parametrize("how", ["busy", "failing before it looks"])
def test_after_an_outage_the_provider_sees_a_trickle_and_no_herd(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, how: str
) -> None:
    crowd = gather(policy=POLICY)
    crowd.fork(CROWD)
    age(owner, ends_in=-1)
    outage = Fault.status(503) if how == "busy" else Fault.answer({"error": "temporarily_unavailable"}, 400)
    fake_provider.faults.add(outage, times=None)
    fake_provider.reset_stats()
    began = time.time()
    heard = for_a_while(crowd, fake_provider, owner, 9.0)
    good, bad = good_and_bad(crowd)
    grant = owner.source.store.load(owner.source.key).grant
    assert grant is not None
    assert grant.failure is not None
    last = grant.failure.not_before  # a question may have been under way when nobody looked any more
    assert good == 0
    assert len(bad) > 5 * CROWD  # they did call, and were told at once
    assert {told["error"] for told in bad} == {"TransportError"}
    # 1, 2, 4, 8 … seconds, each a little longer: three or four questions of a hundred processes in nine seconds.
    assert 3 <= len(heard.asked) <= 5, [at - began for at in heard.asked]
    paced(heard)
    gaps = [later - earlier for earlier, later in pairwise(heard.asked)]
    assert sorted(gaps) == gaps

    fake_provider.faults.clear()
    fake_provider.reset_stats()
    crowd.call_together(fake_provider.api("/still-away"))
    assert time.time() > last or asked(fake_provider) == []
    answers = crowd.call_together(fake_provider.api("/back"), at=last + 0.05)
    assert [answer.get("status") for answer in answers] == [200] * CROWD
    assert fake_provider.stats.token_requests == 1
    assert asked(fake_provider)[0] >= last - 0.01


def test_retry_after_is_kept_by_all(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(policy=POLICY)
    crowd.fork(CROWD)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.status(429, headers={"Retry-After": "3"}))
    fake_provider.reset_stats()
    heard = for_a_while(crowd, fake_provider, owner, 5.0)
    good, bad = good_and_bad(crowd)
    assert good >= CROWD // 2  # those whose turn came after the three seconds
    assert {told["error"] for told in bad} == {"TransportError"}
    assert len(heard.asked) == 2
    assert heard.asked[1] - heard.asked[0] >= 3.0
    assert fake_provider.stats.refreshes == 1


def test_a_connection_that_is_refused_is_tried_by_one_of_them_at_a_time(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(policy=POLICY)
    crowd.fork(CROWD)
    age(owner, ends_in=-1)
    assert {a.get("status") for a in crowd.call_together(fake_provider.api("/warm"))} == {200}
    age(owner, ends_in=-1)
    fake_provider.stop()
    attempts: list[int] = []
    for _ in range(3):
        answers = crowd.call_together(fake_provider.api("/away"))
        assert {answer["error"] for answer in answers} == {"TransportError"}
        grant = owner.source.store.load(owner.source.key).grant
        assert grant is not None
        assert grant.failure is not None
        attempts.append(grant.failure.count)
        assert grant.state == "ACTIVE"
    assert attempts[-1] <= 3, "each round was one attempt at the most"
    fake_provider.start()
    fake_provider.reset_stats()
    answers = crowd.call_together(fake_provider.api("/back"), at=grant.failure.not_before + 0.05)
    assert [answer.get("status") for answer in answers] == [200] * CROWD
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(28)
def test_the_verdict_on_a_dead_token_is_heard_once_by_a_hundred(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(policy=POLICY)
    crowd.fork(CROWD)
    age(owner, ends_in=-1)
    fake_provider.end_sessions()
    fake_provider.reset_stats()
    heard = for_a_while(crowd, fake_provider, owner, 3.0)
    good, bad = good_and_bad(crowd)
    assert good == 0
    assert {(told["error"], told["reason"]) for told in bad} == {("LoginRequired", "ended")}
    assert len(heard.asked) == 1
    assert fake_provider.stats.refusals == 1


def test_logins_of_different_people_do_not_come_back_in_one_moment(
    fake_provider: FakeProvider, gather: Gather, loginonce_home: object, age: Age
) -> None:
    """Jitter: an outage ends for all of them at once, and what follows does not."""
    sessions = []
    for number in range(24):
        session = loginonce.Session(
            fake_provider.issuer, client_id=fake_provider.public_client_id, account=f"person-{number}"
        )
        session.login(tokens=fake_provider.issue())
        age(session, ends_in=-1)
        sessions.append(session)
    fake_provider.faults.add(Fault.status(503), times=None)
    for session in sessions:
        with pytest.raises(loginonce.TransportError):
            session.get(fake_provider.api("/runs"))
    pauses = []
    for session in sessions:
        grant = session.source.grant()
        assert grant is not None
        assert grant.failure is not None
        token = grant.tokens[0]
        pauses.append(grant.failure.not_before)
        assert token.expires_at is not None
    sent = asked(fake_provider)[-len(sessions) :]
    lengths = [until - at for until, at in zip(pauses, sent, strict=True)]
    assert min(lengths) >= 1.0
    assert max(lengths) <= 1.25 + 0.5
    assert len({round(length, 2) for length in lengths}) > 6
