"""What holds for processes that share a folder holds for those that share any other store, on real servers.

The provider is strict: it rotates at every refresh, has no grace, and a replay would end the login.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd
from places import PLACES, Place, listed, marked
from points import Meeting

import loginonce
from loginonce.model import GrantKey
from loginonce.stores.base import TokenStore
from loginonce.stores.opening import open_store
from loginonce.stores.sealed import SealKey
from loginonce.testing import FakeProvider, Stats

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

ONE = Stats(token_requests=1, refreshes=1)
OTHERS = [name for name in PLACES if name != "file"]  # which has crowds of its own
SENT = "send.Send:sent"


@pytest.fixture
def owner(place: Place, fake_provider: FakeProvider, loginonce_home: Path) -> loginonce.Session:
    """The login of this process, signed in with a token that lives for five minutes."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=place.address)
    session.login(tokens=fake_provider.issue())
    session.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return session


@pytest.fixture
def share(place: Place, gather: Gather) -> Gather:
    """A crowd that shares it."""
    return lambda **session: gather(**{"store": place.address, "environment": place.kind.environment, **session})


def sent(provider: FakeProvider) -> Stats:
    """What the token end point saw, without what the API did."""
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


def statuses(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer.get("status", answer) for answer in answers]


def each(*names: str, quick: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", listed(*names, quick=quick), indirect=True)


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "size"),
    [
        pytest.param(PLACES["SQLite"], 2, id="SQLite-2"),
        *(pytest.param(PLACES[name], 32, id=f"{name}-32", marks=marked(PLACES[name])) for name in OTHERS),
    ],
    indirect=["place"],
)
@pytest.mark.hazard(5, 6, 38)
def test_one_of_them_renews_at_the_moment_of_expiry(
    fake_provider: FakeProvider, owner: loginonce.Session, share: Gather, size: int
) -> None:
    crowd = share()
    crowd.fork(size)
    assert statuses(crowd.call_together(fake_provider.api("/before"))) == [200] * size
    fake_provider.access_token_lifetime = 2
    owner.login(tokens=fake_provider.issue())
    fake_provider.access_token_lifetime = 300
    account = owner.account
    assert account is not None
    assert account.expires_at is not None
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(fake_provider.api("/after"), at=account.expires_at)) == [200] * size
    assert sent(fake_provider) == ONE


@each(*OTHERS)
@pytest.mark.hazard(23)
def test_one_of_them_renews_when_the_token_of_all_is_refused(
    fake_provider: FakeProvider, owner: loginonce.Session, share: Gather, age: Age
) -> None:
    crowd = share()
    crowd.fork(8)
    age(owner)
    url = fake_provider.api("/runs")
    assert statuses(crowd.call_together(url)) == [200] * 8
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(url)) == [200] * 8
    assert sent(fake_provider) == ONE


@each(*OTHERS, quick=("SQLite",))
@pytest.mark.hazard(30)
def test_a_log_out_and_a_log_in_count_for_all_as_soon_as_a_change_is_seen(
    fake_provider: FakeProvider, owner: loginonce.Session, share: Gather, place: Place
) -> None:
    crowd = share()
    crowd.fork(4)
    url = fake_provider.api("/runs")
    assert statuses(crowd.call_together(url)) == [200] * 4
    owner.logout()
    time.sleep(place.kind.lag)
    assert [answer.get("reason") for answer in crowd.call_together(url)] == ["logged_out"] * 4
    owner.login(tokens=fake_provider.issue())
    time.sleep(place.kind.lag)
    assert statuses(crowd.call_together(url)) == [200] * 4


@each(*OTHERS, quick=("SQLite",))
@pytest.mark.hazard(13)
def test_a_child_that_is_forked_after_its_parent_has_used_the_store_uses_it_too(
    fake_provider: FakeProvider, owner: loginonce.Session, share: Gather, place: Place, age: Age
) -> None:
    parent = share().fork(1)[0]
    url = fake_provider.api("/runs")
    assert parent.ask("call", url=url)["status"] == 200
    age(owner, ends_in=-1)
    time.sleep(place.kind.lag)
    assert parent.ask("fork", url=url).get("status") == 200
    assert parent.ask("call", url=url)["status"] == 200
    assert sent(fake_provider) == ONE


# ── a lease that ends while its holder stands still ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "point"),
    [
        pytest.param(PLACES[name], point, id=f"{name}-{point}", marks=marked(PLACES[name]))
        for name, points in {
            "Redis": ["recheck.Load:after", "mark.Write:before", "mark.Write:after", "send.Send:before",
                      "send.Send:prepared", SENT, "save.Write:before"],
            "PostgreSQL": ["recheck.Load:after", "mark.Write:before", "mark.Write:executed", "mark.Write:after",
                           "send.Send:prepared", SENT, "save.Write:before"],
            "MariaDB": ["mark.Write:before", SENT],
            "SQLite": ["mark.Write:before", SENT],
        }.items()
        for point in points
    ],
    indirect=["place"],
)  # fmt: skip
@pytest.mark.hazard(12)
def test_a_holder_that_was_stopped_beyond_its_lease_replays_nothing_and_loses_nothing(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    share: Gather,
    age: Age,
    until: Until,
    place: Place,
    point: str,
) -> None:
    policy = {"send_timeout": 2.0, "wait_timeout": 15.0, "refusal_wait": 0.05}
    holder, other = share(policy=policy, constants=place.kind.brisk).fork(2)
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    before_the_send = point != SENT and not point.startswith("save")
    with Meeting() as meeting:
        holder.ask("arm", point=point, place=meeting.place)
        holder.tell("call", url=url)
        assert meeting.reached() == point
        if point == SENT:
            until(lambda: fake_provider.stats.refreshes)
        with holder.stopped():
            meeting.let_go()
            if before_the_send:
                # The lease ends, and so does the time in which the holder might still send: the other goes on.
                assert other.ask("call", url=url).get("status") == 200
            else:
                time.sleep(0.6)  # beyond the lease, within the marker's deadline
                other.tell("call", url=url)
                time.sleep(0.1)
                assert sent(fake_provider) == ONE
    if before_the_send:
        assert holder.hear().get("status") == 200
    else:
        assert [holder.hear().get("status"), other.hear().get("status")] == [200, 200]
    assert [member.ask("call", url=url).get("status") for member in (holder, other)] == [200, 200]
    assert sent(fake_provider) == ONE


# ── sealed ───────────────────────────────────────────────────────────────────────────────────────────────


@each("sealed file", "sealed Redis", "sealed PostgreSQL")
@pytest.mark.hazard(39)
def test_whoever_has_another_key_or_none_is_told_so_and_the_login_stays_with_those_who_have_it(
    fake_provider: FakeProvider, owner: loginonce.Session, share: Gather, age: Age, place: Place, tmp_path: Path
) -> None:
    key = owner.source.key
    bare = open_store(place.address.partition("?")[0])
    url = fake_provider.api("/runs")
    (tmp_path / "another").write_text(SealKey.new().k)
    (tmp_path / "another").chmod(0o600)
    keyless = [share(store=place.address.replace("/place/key", path)).fork(1)[0] for path in ("/another", "/absent")]
    crowd = share()
    crowd.fork(4)
    age(owner, ends_in=-1)
    before = bare.load(key)
    told = [member.ask("call", url=url) for member in keyless]
    assert [answer.get("error") for answer in told] == ["SealError"] * 2, told
    for kept_out in keyless:  # nor can they sign in over it
        assert kept_out.ask("login", tokens=fake_provider.issue())["error"] == "SealError"
    assert (bare.load(key).grant, bare.load(key).stamp) == (before.grant, before.stamp)
    assert not (tmp_path / "absent").exists()
    fake_provider.reset_stats()
    assert statuses(crowd.call_together(url)) == [200] * 4
    assert sent(fake_provider) == ONE
    there = bare.load(key).grant
    assert there is not None
    assert (bool(there.sealed), there.refresh_token, there.tokens) == (True, None, ())


# ── moved ────────────────────────────────────────────────────────────────────────────────────────────────

MOVER = """
import os, signal, sys
from loginonce.cli import main
from loginonce.stores import move as module
moment, number = sys.argv[1], int(sys.argv[2])
real, commits = module.move, 0

def mortal(commit):
    def committed(*args, **kwargs):
        global commits
        commits += 1
        for now in ("before", "after"):
            if (now, commits) == (moment, number):
                os.kill(os.getpid(), signal.SIGKILL)
            if now == "before":
                done = commit(*args, **kwargs)
        return done
    return committed

def move(key, source, target):
    for store in (source, target):
        store.commit = mortal(store.commit)
    return real(key, source, target)

module.move = move
sys.exit(main(["move", "--from", sys.argv[3], "--to", sys.argv[4]]))
"""


@pytest.mark.parametrize(("moment", "number"), [("before", 1), ("after", 1), ("after", 2)])
@each("sealed Redis")
@pytest.mark.hazard(2, 21)
def test_a_login_moves_from_a_file_to_a_sealed_redis_and_on_to_postgresql_although_the_mover_is_killed(
    fake_provider: FakeProvider,
    loginonce_home: Path,
    gather: Gather,
    age: Age,
    place: Place,
    a_postgresql: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: int,
) -> None:
    """Its three commits: away from the one, in the other, and the copy in the one removed."""
    a_postgresql.empty()
    monkeypatch.setenv("LOGINONCE_ISSUER", fake_provider.issuer)
    monkeypatch.setenv("LOGINONCE_CLIENT_ID", fake_provider.public_client_id)
    stages = [f"file:{tmp_path}/first", place.address, a_postgresql.address]
    url = fake_provider.api("/runs")
    owner = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=stages[0])
    owner.login(tokens=fake_provider.issue())
    key = owner.source.key
    for here, there in zip(stages, stages[1:], strict=False):
        old, new = open_store(here), open_store(there)
        killed = subprocess.run(
            [sys.executable, "-c", MOVER, moment, str(number), here, there],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert spendable(key, old, new) <= 1
        for address in (here, there):
            end_lease(address, place, a_postgresql, key)
        again = subprocess.run(
            [sys.executable, "-m", "loginonce.cli", "move", "--from", here, "--to", there],
            capture_output=True, timeout=60, check=False, text=True,
        )  # fmt: skip
        assert again.returncode == 0, again.stderr
        assert spendable(key, old, new) == 1
        left, kept_out = gather(store=there).fork(2), gather(store=here).fork(1)[0]
        age(loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=there), ends_in=-1)
        fake_provider.reset_stats()
        assert [member.ask("call", url=url).get("status") for member in left] == [200, 200]
        assert kept_out.ask("call", url=url).get("reason") == "moved"
        assert sent(fake_provider) == ONE
    assert fake_provider.stats.replays == 0


def spendable(key: GrantKey, *stores: TokenStore) -> int:
    """In how many of them there is a refresh token that would be spent."""
    grants = [store.load(key).grant for store in stores]
    return sum(bool(grant and grant.state in ("ACTIVE", "SPENDING") and grant.spendable) for grant in grants)


def end_lease(address: str, place: Place, database: Any, key: GrantKey) -> None:
    """As time does."""
    if address == place.address:
        place.lapse(key)
    elif address == database.address:
        database.sql("UPDATE loginonce_waits SET until = 0")
