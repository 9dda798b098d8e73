"""Real processes that share a login at a JSON back end: the protocol is the same, and so is what a crash costs.

Each point by itself is a matter of `test_points`; here are those at which the stored record, or the back end's view of
the refresh token, changes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import Crowd
from points import Meeting
from test_points import FakeStage
from trials import Sent, begin, trial
from ways import FORGIVING, RENEWED, STRICT, Column

import loginonce
from loginonce.testing import FakeProvider

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def shop(fake_provider: FakeProvider, loginonce_home: Path) -> loginonce.Session:
    """The login of this process, which its members share."""
    session = loginonce.Session(
        fake_provider.issuer, client_id=fake_provider.public_client_id, backend=fake_provider.backend
    )
    session.login(username="ada", password="lovelace")
    return session


def test_many_processes_at_an_expiry_make_one_request(
    fake_provider: FakeProvider, shop: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(backend=fake_provider.backend)
    crowd.fork(16)
    url = fake_provider.api("/runs")
    for expiry in range(1, 4):
        age(shop, ends_in=-1)
        assert [answer.get("status") for answer in crowd.call_together(url)] == [200] * 16
        assert (fake_provider.stats.refreshes, fake_provider.stats.token_requests) == (expiry, expiry)
    assert (fake_provider.stats.replays, fake_provider.stats.overlaps) == (0, 0)


def test_many_processes_whose_token_is_refused_make_one_request(
    fake_provider: FakeProvider, shop: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(backend=fake_provider.backend)
    crowd.fork(8)
    age(shop)
    fake_provider.revoke_access_tokens()
    assert [answer.get("status") for answer in crowd.call_together(fake_provider.api("/runs"))] == [200] * 8
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


def test_a_log_out_elsewhere_is_asked_for_once_and_one_sign_in_revives_all(
    fake_provider: FakeProvider, shop: loginonce.Session, gather: Gather, age: Age
) -> None:
    crowd = gather(backend=fake_provider.backend, policy={"refusal_wait": 0.1})
    crowd.fork(8)
    url = fake_provider.api("/runs")
    age(shop, ends_in=-1)
    fake_provider.end_sessions()
    assert {answer.get("reason") for answer in crowd.call_together(url)} == {"ended"}
    assert fake_provider.stats.token_requests == 1
    shop.login(username="ada", password="lovelace")
    assert [answer.get("status") for answer in crowd.call_together(url)] == [200] * 8
    assert fake_provider.stats.replays == 0


class BackendStage(FakeStage):
    """The back end as a `trials.Stage`."""

    def sign_in(self) -> None:
        self._owner.login(username="ada", password="lovelace")
        self._provider.reset_stats()


@pytest.fixture
def stage(fake_provider: FakeProvider, shop: loginonce.Session, age: Age, until: Until) -> FakeStage:
    return BackendStage(fake_provider, shop, age, until)


def test_the_points_of_a_renewal_are_the_same(stage: FakeStage, fake_provider: FakeProvider, gather: Gather) -> None:
    crowd = gather(backend=fake_provider.backend, policy=STRICT.policy)
    with Meeting() as meeting:
        victim, *_ = begin(stage, crowd, RENEWED, STRICT, "", meeting)
        victim.hear()
    nothing_to_learn = [point for point in RENEWED.points if point != "send.Send:prepared"]
    assert victim.ask("passed")["points"] == nothing_to_learn
    assert stage.sent() == Sent(1, 0)


POINTS = ("mark.Write:written", "mark.Write:renamed", "send.Send:sent", "save.Write:written", "save.Write:renamed")


@pytest.mark.parametrize(
    "column", [STRICT, pytest.param(FORGIVING, marks=pytest.mark.slow)], ids=lambda each: each.name
)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.hazard(1, 2)
def test_whoever_is_killed_at_a_point_leaves_to_the_others_what_the_point_says(
    stage: FakeStage, fake_provider: FakeProvider, gather: Gather, point: str, column: Column
) -> None:
    crowd = gather(backend=fake_provider.backend, policy=column.policy)
    trial(stage, crowd, RENEWED, point, signal.SIGKILL, column)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.hazard(1, 2)
def test_where_nothing_is_rotated_a_kill_costs_nothing(
    stage: FakeStage, fake_provider: FakeProvider, gather: Gather, point: str
) -> None:
    fake_provider.rotation = False
    crowd = gather(backend=fake_provider.backend, policy=STRICT.policy)
    with Meeting() as meeting:
        victim, *others = begin(stage, crowd, RENEWED, STRICT, point, meeting)
        assert meeting.reached() == point
        victim.kill()
        statuses = [member.ask("call", url=stage.url).get("status") for member in others]
    assert statuses == [200, 200]
    assert fake_provider.stats.refusals == 0
