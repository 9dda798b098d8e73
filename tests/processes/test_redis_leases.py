"""Many processes, one login on one Redis: whatever happens to the server or to the way there.

The provider is strict: it rotates at every refresh, has no grace, and a replay would end the login.  What holds on
every store is in `test_every_store` and `test_points`.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd, Launcher, Member
from points import Meeting

import loginonce
from loginonce.testing import FakeProvider, Fault, Stats

sys.path.insert(0, str(Path(__file__).parent.parent / "stores"))
from redis_server import REDIS, VALKEY, Server, Wire, needs  # noqa: E402

pytestmark = pytest.mark.real

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

ONE = Stats(token_requests=1, refreshes=1)
SENT = "send.Send:sent"
SHORT = {"send_timeout": 1.0, "wait_timeout": 15.0, "refusal_wait": 0.05}


@pytest.fixture(scope="module", params=[REDIS, VALKEY])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On each program in turn."""
    server = Server(tmp_path_factory.mktemp(request.param), kind=request.param)
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    """The one of this module, emptied."""
    if running.process.poll() is not None:
        running.start()
    running.client().flushall()
    return running


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.port) as wire:
        yield wire


@pytest.fixture
def owner(fake_provider: FakeProvider, loginonce_home: Path, server: Server) -> loginonce.Session:
    """The login of this process, signed in with a token that lives for five minutes."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=server.url)
    session.login(tokens=fake_provider.issue())
    session.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all
    return session


def sent(provider: FakeProvider) -> Stats:
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


def statuses(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer.get("status", answer) for answer in answers]


# ── a fork ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(13)
def test_a_child_forked_during_a_refresh_and_its_parent_renew_once_between_them(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until, server: Server
) -> None:
    parent = gather(store=server.url).fork(1)[0]
    url = fake_provider.api("/runs")
    assert parent.ask("call", url=url)["status"] == 200
    age(owner, ends_in=-1)
    with Meeting() as meeting:
        parent.ask("arm", point=SENT, place=meeting.place)
        parent.ask("begin", url=url)
        assert meeting.reached() == SENT
        until(lambda: fake_provider.stats.refreshes)
        parent.tell("fork", url=url)
        time.sleep(0.05)
        meeting.let_go()
        assert parent.hear().get("status") == 200
    assert parent.ask("finish")["status"] == 200
    assert sent(fake_provider) == ONE


# ── the server, and the way there ────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(9)
def test_without_the_server_a_good_token_is_used_and_nothing_is_spent(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, server: Server
) -> None:
    good, bad = gather(store=server.url).fork(1)[0], gather(store=server.url).fork(1)[0]
    url = fake_provider.api("/runs")
    assert good.ask("call", url=url)["status"] == 200
    server.stop()
    answer = good.ask("call", url=url)
    assert answer["status"] == 200
    assert answer["seconds"] < 1
    told = bad.ask("call", url=url)  # it has never seen the record
    assert told["error"] == "StoreError"
    assert f"the logins at {server.url} cannot be used: it cannot be reached" in told["message"]
    assert fake_provider.stats.token_requests == 0
    server.start()
    time.sleep(1)
    age(owner, ends_in=-1)
    assert [member.ask("call", url=url).get("status") for member in (good, bad)] == [200, 200]
    assert sent(fake_provider) == ONE


@pytest.mark.parametrize("seconds", [0, 2], ids=["at once", "after two seconds"])
@pytest.mark.hazard(3)
def test_a_server_that_is_restarted_during_a_refresh_gets_the_answer(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    server: Server,
    seconds: float,
) -> None:
    sender, waiting = gather(store=server.url).fork(2)
    age(owner, ends_in=-1)
    url = fake_provider.api("/runs")
    fake_provider.faults.add(Fault.delay(0.3))
    sender.tell("call", url=url)
    until(lambda: fake_provider.stats.refreshes)
    server.stop()
    if not seconds:
        server.start()
    assert sender.hear().get("status") == 200
    if seconds:
        time.sleep(seconds)
        server.start()
    assert waiting.ask("call", url=url).get("status") == 200
    assert [member.ask("call", url=url).get("status") for member in (sender, waiting)] == [200, 200]
    assert sent(fake_provider) == ONE


@pytest.mark.parametrize("before", [True, False], ids=["the command", "the answer"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_is_cut_within_a_commit_replays_nothing(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    server: Server,
    wire: Wire,
    before: bool,
    times: int,
) -> None:
    far, near = gather(store=wire.url).fork(1)[0], gather(store=server.url).fork(1)[0]
    url = fake_provider.api("/runs")
    assert far.ask("call", url=url)["status"] == 200
    age(owner, ends_in=-1)
    time.sleep(0.25)
    wire.swallow(b"SPENDING", times=times, before=before)
    answer = far.ask("call", url=url)
    if times == 2:  # also when it was compared again: so nothing was sent
        assert answer["error"] == "StoreError"
        assert fake_provider.stats.token_requests == 0
        time.sleep(1)
    assert [member.ask("call", url=url).get("status") for member in (far, near)] == [200, 200]
    assert sent(fake_provider) == ONE


@pytest.mark.hazard(21)
def test_a_replica_that_takes_over_without_the_last_renewal_is_noticed_and_its_token_not_spent(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    age: Age,
    until: Until,
    server: Server,
    wire: Wire,
    tmp_path: Path,
) -> None:
    replica = Server(tmp_path / "replica", kind=server.kind, replicaof=f"127.0.0.1 {server.port}")
    try:
        until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        knowing, ignorant = gather(store=wire.url, policy=SHORT).fork(2)
        url = fake_provider.api("/runs")
        age(owner, ends_in=-1)
        name = owner.source.store.location(owner.source.key).partition(" ")[2]
        until(lambda: replica.client().hget(name, "stamp") == server.client().hget(name, "stamp"))
        replica.client().replicaof("127.0.0.1", 1)  # the connection between them is gone, and nobody knows yet
        assert knowing.ask("call", url=url)["status"] == 200
        assert sent(fake_provider) == ONE
        server.stop()
        replica.client().replicaof("NO", "ONE")
        wire.to = replica.port
        wire.cut()
        time.sleep(1.2)
        told = knowing.ask("call", url=url)
        assert (told.get("error"), told.get("reason")) == ("LoginRequired", "lost"), told
        assert sent(fake_provider) == ONE
        # Who has not seen it learns it from the provider.  That is the limit, and the README names it.
        assert ignorant.ask("call", url=url).get("reason") == "ended"
        assert fake_provider.stats.replays == 1
        assert knowing.ask("login", tokens=fake_provider.issue()) == {}
        time.sleep(0.25)
        assert [member.ask("call", url=url).get("status") for member in (knowing, ignorant)] == [200, 200]
    finally:
        replica.stop()


# ── two hosts ────────────────────────────────────────────────────────────────────────────────────────────


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


def listener_within(namespace: str, port: int) -> socket.socket:
    """A socket that listens on the loopback of that namespace, held by this process, which stays where it is."""
    made: list[socket.socket] = []

    def make() -> None:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            # Of this thread alone; os.setns needs Python 3.12.
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) == 0:
                made.append(socket.create_server(("127.0.0.1", port)))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces that see each other: 10.213.77.1 and 10.213.77.2."""
    if os.geteuid() != 0:
        needs("network namespaces take root")
    names = (f"lo{os.getpid()}a", f"lo{os.getpid()}b")
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.SubprocessError):
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        needs("no network namespaces can be made here")
    try:
        run(
            "ip",
            "link",
            "add",
            names[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            names[1],
            "netns",
            names[1],
        )
        for number, name in enumerate(names, 1):
            run("ip", "-n", name, "address", "add", f"10.213.77.{number}/24", "dev", name)
            run("ip", "-n", name, "link", "set", name, "up")
        yield names
    finally:
        for name in names:
            run("ip", "netns", "del", name)


def test_two_hosts_share_a_login(
    fake_provider: FakeProvider, launcher: Launcher, hosts: tuple[str, str], tmp_path: Path
) -> None:
    port = int(fake_provider.issuer.rpartition(":")[2].partition("/")[0])
    server = Server(tmp_path / "redis", host="10.213.77.1", namespace=hosts[0], requirepass="hush")
    crowds: list[Crowd] = []
    wires: list[Wire] = []
    try:
        members: list[Member] = []
        for name in hosts:
            wires.append(Wire(port, listener_within(name, port)))
            crowd = Crowd(
                launcher,
                tmp_path / name,
                issuer=fake_provider.issuer,
                client_id=fake_provider.public_client_id,
                store=server.url.replace("//", "//:hush@"),
            )
            crowds.append(crowd)
            members += crowd.spawn(2, within=["ip", "netns", "exec", name])
            for member in crowd.members:
                member.ask("move_to_host", name=name)
        url = fake_provider.api("/runs")
        fake_provider.access_token_lifetime = 1
        assert members[0].ask("login", tokens=fake_provider.issue()) == {}
        assert statuses([member.ask("call", url=url) for member in members]) == [200] * 4
        for _ in range(3):
            time.sleep(1)
            fake_provider.reset_stats()
            at = time.time() + 0.1
            for member in members:
                member.tell("call", url=url, at=at)
            assert statuses([member.hear() for member in members]) == [200] * 4
            assert sent(fake_provider) == ONE
        assert members[3].ask("logout") == {"revoked": True}
        time.sleep(0.25)
        assert [member.ask("call", url=url).get("reason") for member in members] == ["logged_out"] * 4
    finally:
        for crowd in crowds:
            crowd.close()
        for wire in wires:
            wire.__exit__()
        server.stop()
