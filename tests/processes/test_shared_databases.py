"""Logins in a database whose server is restarted, is away, takes over from another, or was put back to an older state.

What holds on every store is in `test_every_store` and `test_points`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from crowd import Crowd
from places import Place, listed
from servers import PASSWORD, Server, Wire, postgresql, sql, standby

import loginonce
from loginonce.testing import FakeProvider, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

ONE = Stats(token_requests=1, refreshes=1)


@pytest.fixture(scope="module")
def a_postgresql() -> Iterator[Server]:
    """Of this module, since it is stopped here."""
    with postgresql() as server:
        yield server


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


@pytest.mark.parametrize("place", listed("SQLite", "PostgreSQL", "MariaDB", quick=("SQLite",)), indirect=True)
@pytest.mark.hazard(21)
def test_a_database_that_was_put_back_to_an_older_dump_is_noticed_and_nothing_is_spent(
    fake_provider: FakeProvider, place: Place, loginonce_home: Path
) -> None:
    address = place.address
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


def caught_up(replica: Server, primary: Server, statement: str) -> bool:
    """Whether a standby has what its server has; the tables, too, take a while to arrive."""
    try:
        return replica.sql(statement) == primary.sql(statement)
    except sa.exc.DBAPIError:
        return False


@pytest.mark.real
@pytest.mark.hazard(21)
def test_a_standby_that_takes_over_without_the_last_renewal_is_noticed_and_its_token_not_spent(
    fake_provider: FakeProvider, gather: Gather, age: Age, until: Until, loginonce_home: Path
) -> None:
    """Replication is asynchronous, and its connection is lost before the renewal is."""
    with ExitStack() as after:
        primary = after.enter_context(postgresql())
        log, line = Wire(primary.port), Wire(primary.port)
        after.callback(log.close)
        after.callback(line.close)
        replica = after.enter_context(standby(log.port))
        address = primary.address.replace(f":{primary.port}/", f":{line.port}/")
        *knowing, ignorant = gather(store=address, policy={"refusal_wait": 0.05}).fork(3)
        owner = session(fake_provider, primary.address)
        url = fake_provider.api("/runs")
        age(owner, ends_in=-1)
        revision = "SELECT revision, generation FROM loginonce_logins"
        until(lambda: caught_up(replica, primary, revision))
        log.close()
        assert [member.ask("call", url=url).get("status") for member in knowing] == [200, 200]
        assert sent(fake_provider) == ONE
        primary.stop(signal.SIGQUIT)
        assert replica.sql("SELECT pg_promote()")[0].pg_promote
        assert replica.sql(revision)[0].generation == 0  # it lacks the renewal
        line.to = ("127.0.0.1", replica.port)
        line.cut()
        time.sleep(1.5)  # who met the end of the old server asks for a second not at all
        told = [member.ask("call", url=url) for member in knowing]
        assert [(answer.get("error"), answer.get("reason")) for answer in told] == [("LoginRequired", "lost")] * 2, told
        assert sent(fake_provider) == ONE
        # Who has not seen it learns it from the provider.  That is the limit, and the README names it.
        assert ignorant.ask("call", url=url).get("reason") == "ended"
        assert fake_provider.stats.replays == 1
        assert knowing[0].ask("login", tokens=fake_provider.issue()) == {}
        time.sleep(0.3)
        assert [member.ask("call", url=url).get("status") for member in (*knowing, ignorant)] == [200, 200, 200]
