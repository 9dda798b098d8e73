"""Workers of all kinds share one login: pools, event loops, forks in the middle of a refresh.

The provider is strict, and the access token has just ended: one of them renews, once, for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from crowd import Crowd
from points import Meeting
from ways import RENEWED

import loginonce
from loginonce.testing import FakeProvider, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

SENT = "send.Send:sent"
POINTS = [point if point == SENT else pytest.param(point, marks=pytest.mark.slow) for point in RENEWED.points]


def renewed_once(provider: FakeProvider) -> bool:
    return Stats(**{**vars(provider.stats), "api_calls": 0}) == Stats(token_requests=1, refreshes=1)


@pytest.mark.parametrize(
    "kind",
    [
        "fork",
        "threads",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("spawn", "forkserver", "multiprocessing", "loky")),
    ],
)
def test_one_worker_of_a_pool_renews_for_all(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, kind: str
) -> None:
    pool = gather().spawn(1)[0]
    age(owner, ends_in=-1)
    assert pool.ask("call_in_pool", kind=kind, url=fake_provider.api("/runs"), count=4)["statuses"] == [200] * 4
    assert renewed_once(fake_provider)


def test_one_task_of_several_event_loops_in_two_processes_renews_for_all(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather()
    crowd.fork(2)
    age(owner, ends_in=-1)
    for answer in crowd.ask("call_in_loops", url=fake_provider.api("/runs"), loops=3, tasks=5):
        assert answer["statuses"] == [200] * 15
    assert renewed_once(fake_provider)


@pytest.mark.parametrize("point", POINTS)
def test_a_child_forked_at_any_point_of_a_refresh_and_its_parent_renew_once_between_them(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until, point: str
) -> None:
    parent = gather().fork(1)[0]
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        parent.ask("arm", point=point, place=meeting.place)
        parent.ask("begin", url=url)
        assert meeting.reached() == point
        if point == SENT:
            until(lambda: fake_provider.stats.refreshes)
        parent.tell("fork", url=url)
        time.sleep(0.02)  # so that the child mostly comes to the lock first; in which order does not matter
        meeting.let_go()
        assert parent.hear().get("status") == 200
    assert parent.ask("finish")["status"] == 200
    assert renewed_once(fake_provider)
