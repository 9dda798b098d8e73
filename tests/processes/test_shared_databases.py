"""Logins in a database: what holds for processes that share a folder holds for those that share a server.

Here a lock is a lease, and the change of another process is seen a quarter of a second late at most.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crowd import Crowd
from points import Meeting
from servers import PASSWORD, Server, Wire, mariadb, postgresql, sql
from trials import Sent, assert_verdict, patiently
from ways import FORGIVING, RENEWED, STRICT, Column

import loginonce
from loginonce.testing import FakeProvider, Grace, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

ONE = Stats(token_requests=1, refreshes=1)


@pytest.fixture(scope="module")
def a_postgresql() -> Iterator[Server]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def a_mariadb() -> Iterator[Server]:
    with mariadb() as server:
        yield server


def emptied(name: str, request: pytest.FixtureRequest) -> str:
    """The address of an empty database."""
    if name == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/logins/db"
    server: Server = request.getfixturevalue(name)
    server.empty()
    return server.address


def real(*names: str) -> list[Any]:
    return ["sqlite", *(pytest.param(name, marks=pytest.mark.real) for name in names)]


@pytest.fixture(params=real("a_postgresql", "a_mariadb"))
def address(request: pytest.FixtureRequest) -> str:
    """On each server in turn."""
    return emptied(request.param, request)


@pytest.fixture
def in_postgresql(a_postgresql: Server) -> str:
    a_postgresql.empty()
    return a_postgresql.address


def session(provider: FakeProvider, address: str) -> loginonce.Session:
    """The login of this process, signed in."""
    made = loginonce.Session(provider.issuer, client_id=provider.public_client_id, store=address)
    made.login(tokens=provider.issue())
    made.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return made


def sent(provider: FakeProvider) -> Stats:
    """What the token end point saw, without what the API did."""
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


def statuses(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer.get("status", answer) for answer in answers]


def end_lease(address: str) -> None:
    """As time does, by the clock of the database."""
    sql(address, "UPDATE loginonce_waits SET until = 0")


@pytest.mark.parametrize("size", [2, pytest.param(8, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.hazard(5, 6, 38)
def test_one_of_them_renews_at_the_moment_of_expiry(
    fake_provider: FakeProvider, address: str, gather: Gather, size: int
) -> None:
    crowd = gather(store=address)
    crowd.fork(size)
    owner = session(fake_provider, address)
    fake_provider.access_token_lifetime = 1 if size <= 8 else 4
    owner.login(tokens=fake_provider.issue())
    fake_provider.access_token_lifetime = 300
    account = owner.account
    assert account is not None
    assert account.expires_at is not None
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * size
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/after"), at=account.expires_at)) == [200] * size
    assert sent(fake_provider) == ONE
    assert fake_provider.stats.replays == 0


def test_a_child_that_is_forked_after_its_parent_has_used_the_store_uses_it_too(
    fake_provider: FakeProvider, address: str, gather: Gather, age: Age
) -> None:
    parent = gather(store=address).fork(1)[0]
    owner = session(fake_provider, address)
    url = fake_provider.api("/runs")
    assert parent.ask("call", url=url)["status"] == 200
    age(owner, ends_in=-1)
    assert parent.ask("fork", url=url).get("status") == 200
    assert parent.ask("call", url=url)["status"] == 200
    assert sent(fake_provider) == ONE


@pytest.mark.hazard(30)
def test_a_log_out_in_one_process_is_seen_by_another_in_half_a_second(
    fake_provider: FakeProvider, address: str, gather: Gather
) -> None:
    member = gather(store=address).fork(1)[0]
    owner = session(fake_provider, address)
    assert member.ask("call", url=fake_provider.api("/runs"))["status"] == 200
    owner.logout()
    time.sleep(0.5)
    assert member.ask("call", url=fake_provider.api("/runs")).get("reason") == "logged_out"


# ── killed, stopped ──────────────────────────────────────────────────────────────────────────────────────

KILLED_AT = (
    "look.Load:after",
    "lock.TryLock:after",
    "mark.Write:before",
    "mark.Write:after",
    "send.Send:sent",
    "send.Send:answered",
    "save.Write:before",
    "save.Write:after",
    "release.Release:after",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "column"),
    [
        pytest.param("sqlite", STRICT, id="SQLite"),
        pytest.param("a_postgresql", STRICT, id="PostgreSQL", marks=pytest.mark.real),
        pytest.param("a_postgresql", FORGIVING, id="PostgreSQL, forgiving", marks=pytest.mark.real),
    ],
)
@pytest.mark.parametrize("point", KILLED_AT)
@pytest.mark.hazard(1, 2, 12)
def test_a_kill_at_any_point_costs_what_the_record_says_and_no_more(
    fake_provider: FakeProvider,
    request: pytest.FixtureRequest,
    gather: Gather,
    age: Age,
    until: Until,
    point: str,
    server: str,
    column: Column,
) -> None:
    address = emptied(server, request)
    facts = RENEWED.at(point)
    fake_provider.grace = Grace.sibling(30) if column.forgives else Grace.none()
    crowd = gather(store=address, policy={**column.policy, "send_timeout": 2})
    victim, waiting, later = crowd.fork(3)
    age(session(fake_provider, address), ends_in=-1)
    fake_provider.reset_stats()
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        victim.ask("arm", point=point, place=meeting.place)
        victim.tell("call", url=url)
        assert meeting.reached() == point
        if point == "send.Send:sent":
            until(lambda: fake_provider.stats.refreshes)
        victim.kill()
    end_lease(address)
    if facts.record == "SPENDING":  # nobody acts on a marker before its deadline: 5 + 2 seconds, and 5 for clocks
        for member in (waiting, later):
            member.ask("shift_clock", seconds=13.0)
    told = [patiently(member, url, member.ask("call", url=url)) for member in (waiting, later, waiting)]
    stats = fake_provider.stats
    assert_verdict(facts.verdict(column), told, Sent(stats.token_requests, stats.replays))


@pytest.mark.real
@pytest.mark.parametrize("point", ["mark.Write:before", "send.Send:before"])
@pytest.mark.hazard(12)
def test_a_holder_that_was_stopped_for_longer_than_its_lease_neither_replays_nor_loses_the_login(
    fake_provider: FakeProvider, in_postgresql: str, gather: Gather, age: Age, point: str
) -> None:
    """In real time: ten seconds of lease, or eleven until the deadline of the marker is over."""
    crowd = gather(store=in_postgresql, policy={"send_timeout": 1})
    stopped, heir = crowd.fork(2)
    age(session(fake_provider, in_postgresql), ends_in=-1)
    url = fake_provider.api("/runs")
    with Meeting() as meeting:
        stopped.ask("arm", point=point, place=meeting.place)
        stopped.tell("call", url=url)
        assert meeting.reached() == point
        with stopped.stopped():
            meeting.let_go()
            answer = heir.ask("call", url=url)
            assert answer.get("status") == 200
            assert answer["seconds"] > 5  # it did wait for the one that might have been alive
        assert stopped.hear().get("status") == 200
    assert statuses(crowd.call_together(url)) == [200, 200]
    assert sent(fake_provider) == ONE


# ── the server, and the way to it ────────────────────────────────────────────────────────────────────────


@pytest.mark.real
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_a_server_that_restarts_during_a_refresh_costs_nothing(
    fake_provider: FakeProvider,
    in_postgresql: str,
    a_postgresql: Server,
    gather: Gather,
    age: Age,
    until: Until,
    sign: signal.Signals,
) -> None:
    crowd = gather(store=in_postgresql)
    renewing, other = crowd.fork(2)
    owner = session(fake_provider, in_postgresql)
    age(owner, ends_in=-1)
    fake_provider.latency = 0.3
    url = fake_provider.api("/runs")
    renewing.tell("call", url=url)
    until(lambda: fake_provider.stats.token_requests)
    a_postgresql.stop(sign)
    assert renewing.hear().get("status") == 200  # what it was given is used, and saved when there is a server again
    a_postgresql.restart()
    until(lambda: sql(in_postgresql, "SELECT generation FROM loginonce_logins")[0].generation == 1)
    assert other.ask("call", url=url).get("status") == 200
    assert sent(fake_provider) == ONE


@pytest.mark.real
@pytest.mark.hazard(9)
def test_without_a_server_good_tokens_are_served_and_nothing_is_spent(
    fake_provider: FakeProvider, in_postgresql: str, a_postgresql: Server, gather: Gather, age: Age
) -> None:
    wire = Wire(a_postgresql.port)
    address = in_postgresql.replace(f":{a_postgresql.port}/", f":{wire.port}/")
    good, ended = gather(store=address).fork(2)
    owner = session(fake_provider, in_postgresql)
    url = fake_provider.api("/runs")
    assert good.ask("call", url=url)["status"] == ended.ask("call", url=url)["status"] == 200
    wire.close()
    assert [good.ask("call", url=url).get("status") for _ in range(3)] == [200] * 3
    ended.ask("shift_clock", seconds=301)
    told = ended.ask("call", url=url)
    assert told["error"] == "StoreError"
    assert "cannot be reached" in told["message"]
    assert PASSWORD not in told["message"]
    assert sent(fake_provider) == Stats()
    assert owner.get(url).status_code == 200


@pytest.mark.hazard(21)
def test_a_database_that_was_put_back_to_an_older_dump_is_noticed_and_nothing_is_spent(
    fake_provider: FakeProvider, address: str
) -> None:
    owner = session(fake_provider, address)
    for statement in (
        "DROP TABLE IF EXISTS loginonce_old",
        "CREATE TABLE loginonce_old AS SELECT * FROM loginonce_logins",
    ):
        sql(address, statement)
    owner.source.renew()
    sql(address, "DELETE FROM loginonce_logins")
    sql(address, "INSERT INTO loginonce_logins SELECT * FROM loginonce_old")
    fake_provider.reset_stats()
    time.sleep(0.3)
    with pytest.raises(loginonce.LoginRequired, match="older copy") as required:
        owner.source.renew()
    assert required.value.reason == "lost"
    assert sent(fake_provider) == Stats()
