"""Many processes, one login: whatever they do in one moment, a refresh token is sent once.

The provider is strict: it rotates at every refresh, has no grace, and a replay would end the login.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd

import loginonce
from loginonce.testing import FakeProvider, Fault, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

SIZES = [
    pytest.param(2, marks=pytest.mark.slow),
    8,
    pytest.param(32, marks=pytest.mark.slow),
    pytest.param(64, marks=pytest.mark.slow),
]
ONE = Stats(token_requests=1, refreshes=1)
HELD_UP = 5.0
"""Seconds for which an answer is held up that nobody should wait for; the provider lets go of it when it stops."""


def sent(provider: FakeProvider) -> Stats:
    """What the token end point saw, without what the API did."""
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


def statuses(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer.get("status", answer) for answer in answers]


def expiring(provider: FakeProvider, owner: loginonce.Session, life: float) -> float:
    """Sign in with a token of so many seconds; its successors live longer.  When it ends (POSIX seconds)."""
    provider.access_token_lifetime = life
    owner.login(tokens=provider.issue())
    provider.access_token_lifetime = 300
    account = owner.account
    assert account is not None
    assert account.expires_at is not None
    return account.expires_at


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.hazard(5, 6)
def test_one_of_them_renews_at_the_moment_of_expiry(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    end = expiring(fake_provider, owner, 1 if size <= 8 else 3)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * size
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/after"), at=end)) == [200] * size
    assert sent(fake_provider) == ONE
    assert fake_provider.stats.api_401 == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.hazard(6, 23)
def test_one_of_them_renews_when_the_token_of_all_is_refused(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    age(owner)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * size
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/after"))) == [200] * size
    assert sent(fake_provider) == ONE
    assert fake_provider.stats.api_401 >= 1


@pytest.mark.parametrize("size", SIZES)
def test_all_wait_for_one_slow_answer(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    age(owner, ends_in=-1)
    fake_provider.latency = 1.0
    answers = crowd.call_together(fake_provider.api("/runs"))
    assert statuses(answers) == [200] * size
    assert sent(fake_provider) == ONE
    # They wait side by side, and not one after the other.
    assert max(answer["seconds"] for answer in answers) < size * fake_provider.latency


@pytest.mark.hazard(8)
def test_nobody_waits_while_the_old_token_is_still_good(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    crowd.fork(4)
    age(owner, received=280, ends_in=20)
    fake_provider.faults.add(Fault.delay(HELD_UP))
    answers = crowd.call_together(fake_provider.api("/runs"))
    assert statuses(answers) == [200] * 4
    assert max(answer["seconds"] for answer in answers) < HELD_UP
    assert all(answer == {"subject": "ada"} for answer in crowd.ask("account"))
    until(lambda: fake_provider.stats.refreshes)
    assert sent(fake_provider) == ONE
    fake_provider.stop()  # or the one that renews would have to be waited for


@pytest.mark.parametrize("threads", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_one_of_the_threads_renews_for_all_in_two_processes(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, threads: int
) -> None:
    crowd = gather()
    crowd.fork(2)
    end = expiring(fake_provider, owner, 1)
    url = fake_provider.api("/runs")
    for answered in crowd.ask("call_in_threads", url=url, threads=threads, at=end):
        assert statuses(answered["answers"]) == [200] * threads
    assert sent(fake_provider) == ONE
    age(owner)
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    for answered in crowd.ask("call_in_threads", url=url, threads=threads, at=time.time() + 0.1):
        assert statuses(answered["answers"]) == [200] * threads
    assert sent(fake_provider) == ONE


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_processes_started_from_nothing_renew_once(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, size: int
) -> None:
    crowd = gather()
    crowd.spawn(size)
    age(owner, ends_in=-1)
    assert statuses(crowd.call_together(fake_provider.api("/runs"))) == [200] * size
    assert sent(fake_provider) == ONE
    age(owner)
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/runs"))) == [200] * size
    assert sent(fake_provider) == ONE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.hazard(28)
def test_a_login_ended_at_the_provider_costs_one_request_in_all(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, size: int
) -> None:
    crowd = gather(policy={"refusal_wait": 0.2})
    crowd.fork(size)
    age(owner)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * size
    fake_provider.end_sessions()
    fake_provider.reset_stats()
    for _ in range(2):
        answers = crowd.call_together(fake_provider.api("/after"))
        assert [(a.get("error"), a.get("reason")) for a in answers] == [("LoginRequired", "ended")] * size
    assert sent(fake_provider) == Stats(token_requests=1, refusals=1)


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_a_new_login_in_one_process_revives_all(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, size: int
) -> None:
    crowd = gather(policy={"refusal_wait": 0.1})
    crowd.fork(size)
    age(owner)
    fake_provider.end_sessions()
    assert {a.get("reason") for a in crowd.call_together(fake_provider.api("/dead"))} == {"ended"}
    assert crowd.members[0].ask("login", tokens=fake_provider.issue("grace")) == {}
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/alive"))) == [200] * size
    assert crowd.ask("account") == [{"subject": "grace"}] * size
    assert sent(fake_provider) == Stats()


def test_a_log_out_in_one_process_is_seen_by_all_at_their_next_call(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather
) -> None:
    crowd = gather()
    crowd.fork(4)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * 4
    assert crowd.members[0].ask("logout") == {"revoked": True}
    fake_provider.reset_stats()
    answers = crowd.ask("call", url=fake_provider.api("/after"))
    assert [answer.get("reason") for answer in answers] == ["logged_out"] * 4
    assert crowd.ask("account") == [{"subject": None}] * 4
    assert fake_provider.stats == Stats()


@pytest.mark.hazard(30)
def test_a_log_out_wins_over_the_refresh_that_is_under_way(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    renewing, leaving = crowd.fork(2)
    age(owner, ends_in=-1)
    fake_provider.faults.add(Fault.delay(1.0))
    renewing.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.refreshes)
    leaving.ask("logout")
    assert renewing.hear()["reason"] == "logged_out"
    tokens = [event for event in fake_provider.log if event.kind == "revoked"]
    assert len(tokens) == 2  # what was spent, and what came too late


@pytest.mark.hazard(13)
def test_a_forked_child_and_its_parent_renew_once_between_them(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather()
    parents = crowd.fork(2)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * 2
    age(owner)
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    assert statuses(crowd.ask("fork", url=fake_provider.api("/child"))) == [200] * 2
    assert statuses(crowd.call_together(fake_provider.api("/parent"))) == [200] * 2
    assert sent(fake_provider) == ONE
    assert len(parents) == 2


@pytest.mark.hazard(8, 12)
def test_a_frozen_process_does_not_stop_those_whose_token_is_good(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    frozen, other = crowd.fork(2)
    age(owner, received=280, ends_in=20)
    fake_provider.latency = 0.4
    frozen.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.token_requests)
    with frozen.stopped():
        answer = other.ask("call", url=fake_provider.api("/runs"))
        assert answer["status"] == 200  # although the one that renews goes no further
        assert answer["seconds"] < loginonce.Policy().wait_timeout
    assert frozen.hear()["status"] == 200


@pytest.mark.hazard(8, 10, 12)
def test_a_frozen_process_makes_those_without_a_token_wait_no_longer_than_their_policy(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    policy = {"wait_timeout": 0.5, "send_timeout": 5}
    crowd = gather(policy=policy)
    frozen, other = crowd.fork(2)
    age(owner, ends_in=-1)
    fake_provider.latency = 1.0
    frozen.tell("call", url=fake_provider.api("/runs"))
    until(lambda: fake_provider.stats.token_requests)
    with frozen.stopped():
        began = time.monotonic()
        assert other.ask("call", url=fake_provider.api("/runs"))["error"] == "LockTimeout"
        assert time.monotonic() - began < policy["send_timeout"]
    assert frozen.hear()["status"] == 200
    assert other.ask("call", url=fake_provider.api("/runs"))["status"] == 200
    assert sent(fake_provider) == ONE


def test_a_folder_that_no_process_has_used_is_made_once_by_many(
    fake_provider: FakeProvider, gather: Gather, loginonce_home: Path
) -> None:
    crowd = gather()
    crowd.fork(8)
    for member in crowd.members:
        member.tell("login", tokens=fake_provider.issue())
    assert [member.hear() for member in crowd.members] == [{}] * 8
    assert statuses(crowd.call_together(fake_provider.api("/runs"))) == [200] * 8
    assert len(list((loginonce_home / "logins").glob("*.login"))) == 1
