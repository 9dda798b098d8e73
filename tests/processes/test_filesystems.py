"""Two hosts share a home: where the operating system's lock does not reach the other one, nothing is spent by it.

`mounts.two_hosts` says what stands in for the two machines.  The members of the second have a host name of their
own, so that nobody on the first can tell whether one of them is alive.
"""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mounts
import pytest
from contract import KEY, StoreContract, a_grant
from crowd import Crowd

import loginonce
from loginonce.stores import file
from loginonce.stores.base import TokenStore
from loginonce.stores.file import FileStore
from loginonce.stores.locks import Ground
from loginonce.testing import FakeProvider, Fault

pytestmark = pytest.mark.real

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    with mounts.two_hosts(tmp_path) as both:
        yield both


class TestStrictFileStoreOnTwoHosts(StoreContract):
    """The promise of every store, of one that is opened on both hosts."""

    threads = 8
    increments = 2

    def test_every_change_of_a_settled_record_changes_its_stamp(self, store: TokenStore, twin: TokenStore) -> None:
        """The attributes of a file are cached here, so no stamp is ever trusted."""
        for opened in (store, twin):
            made = opened.load(KEY).grant
            opened.commit(a_grant(order=(2, 0, 0)) if made else a_grant(), expected=made.order if made else None)
        time.sleep(0.1)
        assert not store.load(KEY).settled
        assert not twin.load(KEY).settled

    def test_the_same_place_has_the_same_identity(self, store: TokenStore, twin: TokenStore) -> None:
        """Here it has two addresses, and no process uses both."""
        assert store.identity != twin.identity

    @pytest.fixture
    def store(self, hosts: tuple[Path, Path]) -> FileStore:
        return FileStore(hosts[0] / "logins", lock="strict")

    @pytest.fixture
    def twin(self, hosts: tuple[Path, Path]) -> FileStore:
        return FileStore(hosts[1] / "logins", lock="strict")


def address(home: Path) -> str:
    return f"file:{home}/logins?lock=strict"


@pytest.fixture
def owner(fake_provider: FakeProvider, hosts: tuple[Path, Path], loginonce_home: Path) -> loginonce.Session:
    """The login, as a program on the first host has it."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=address(hosts[0]))
    session.login(tokens=fake_provider.issue())
    session.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return session


@pytest.fixture
def crowds(gather: Gather, owner: loginonce.Session, hosts: tuple[Path, Path]) -> tuple[Crowd, Crowd]:
    """Four members on each host, of whom each has made a call."""
    both = gather(store=address(hosts[0])), gather(store=address(hosts[1]))
    for crowd in both:
        crowd.fork(4)
    both[1].ask("move_to_host", name="second-host")
    return both


def together(crowds: tuple[Crowd, Crowd], url: str, at: float = 0.0) -> list[Any]:
    at = max(at, time.time() + 0.05)
    for crowd in crowds:
        for member in crowd.members:
            member.tell("call", url=url, at=at)
    answers = [member.hear() for crowd in crowds for member in crowd.members]
    return [answer.get("status", answer) for answer in answers]


@pytest.mark.hazard(16)
def test_on_two_hosts_a_flock_that_both_get_is_refused_with_what_to_do(
    fake_provider: FakeProvider, hosts: tuple[Path, Path], loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in hosts:
        session = loginonce.Session(
            fake_provider.issuer, client_id=fake_provider.public_client_id, store=f"file:{home}/logins"
        )
        with pytest.raises(loginonce.StoreError, match=r"\(fuse\).*LOGINONCE_HOME.*local disk.*\?lock=strict"):
            session.login(tokens=fake_provider.issue())
    # What would happen otherwise: both have it.
    monkeypatch.setattr(file, "ground", lambda _: Ground("fuse"))
    holds = [FileStore(home / "others").try_lock(session.source.key) for home in hosts]
    assert None not in holds
    for hold in holds:
        hold.release()  # type: ignore[union-attr]


def test_the_two_hosts_are_a_faithful_stand_in(hosts: tuple[Path, Path]) -> None:
    (hosts[0] / "file").touch()
    with open(hosts[0] / "file", "r+") as first, open(hosts[1] / "file", "r+") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(hosts[0] / "file", "r+") as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_hosts_with_the_strict_lock_renew_once_at_each_expiry(
    fake_provider: FakeProvider, owner: loginonce.Session, crowds: tuple[Crowd, Crowd], age: Age
) -> None:
    assert together(crowds, fake_provider.api("/before")) == [200] * 8
    for expiry in range(1, 6):
        age(owner, ends_in=0.0)
        assert together(crowds, fake_provider.api("/after")) == [200] * 8
        assert fake_provider.stats.token_requests == expiry
    assert fake_provider.stats.replays == 0
    assert fake_provider.stats.api_401 == 0


def test_a_log_out_on_one_host_is_seen_by_the_next_call_on_the_other(
    fake_provider: FakeProvider, owner: loginonce.Session, crowds: tuple[Crowd, Crowd]
) -> None:
    for _ in range(2):  # the attributes of the record are in every cache now
        assert together(crowds, fake_provider.api("/before")) == [200] * 8
    owner.logout()
    answers = together(crowds, fake_provider.api("/after"))
    assert [answer["reason"] for answer in answers] == ["logged_out"] * 8


def test_a_login_that_was_renewed_on_one_host_is_not_spent_again_on_the_other(
    fake_provider: FakeProvider, owner: loginonce.Session, crowds: tuple[Crowd, Crowd], age: Age
) -> None:
    """Each host in turn, at once after the other: what the caches of one say of the record is out of date."""
    for turn in range(6):
        age(owner, ends_in=0.0)
        for member in (crowds[turn % 2].members[0], crowds[1 - turn % 2].members[0]):
            assert member.ask("call", url=fake_provider.api("/turn"))["status"] == 200
    assert fake_provider.stats.token_requests == 6
    assert fake_provider.stats.replays == 0


def test_a_strict_lock_of_a_process_that_was_killed_is_taken_on_its_own_host_only(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, hosts: tuple[Path, Path], age: Age,
    until: Until,
) -> None:  # fmt: skip
    policy = {"wait_timeout": 1.0}
    first, second = gather(store=address(hosts[0]), policy=policy), gather(store=address(hosts[1]), policy=policy)
    first.fork(1)
    second.fork(2)
    second.ask("move_to_host", name="second-host")
    age(owner, ends_in=0.0)
    fake_provider.faults.add(Fault.delay(30.0, after=False), where="token")
    victim, heir = second.members
    victim.tell("call", url=fake_provider.api("/x"))
    until(lambda: owner.source.grant().state == "SPENDING")  # type: ignore[union-attr]
    time.sleep(0.2)
    victim.end_by(signal.SIGKILL)
    second.members.remove(victim)
    fake_provider.faults.clear()
    told = first.members[0].ask("call", url=fake_provider.api("/x"))
    assert told["error"] == "LockTimeout"
    answer = heir.ask("call", url=fake_provider.api("/x"))
    assert answer.get("status") == 200, answer
    assert first.members[0].ask("call", url=fake_provider.api("/x"))["status"] == 200
