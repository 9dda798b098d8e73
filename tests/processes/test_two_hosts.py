"""Two hosts and one PostgreSQL: network namespaces that share nothing but the way to the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import Server, Wire, needs, postgresql

import loginonce
from loginonce.testing import FakeProvider, Stats

STORES = Path(__file__).parent.parent / "stores"

pytestmark = pytest.mark.real

HOST = """
import sys; sys.path.insert(0, sys.argv[1])
from servers import Wire
import loginonce
_, _, gateway, far, near, issuer, client, address = sys.argv
Wire(int(far), host=gateway, here=("127.0.0.1", int(near)))
lab = loginonce.Session(issuer, client_id=client, store=address)
for line in sys.stdin:
    try:
        print(lab.get(line.strip(), timeout=30).status_code, flush=True)
    except loginonce.LoginRequired as error:
        print(error.reason, flush=True)
"""


@pytest.fixture
def namespaces() -> Iterator[list[tuple[str, str]]]:
    """Name, and the address by which this host is reached from there; nobody else reaches it."""
    if os.geteuid() != 0:
        needs("network namespaces take root")
    made = []
    with ExitStack() as after:
        for number in (1, 2):
            name, link, gateway = f"lo{os.getpid()}h{number}", f"lo{os.getpid() % 99999}v{number}", f"10.213.{number}.1"
            commands = (
                f"netns add {name}",
                f"link add {link} type veth peer name eth0 netns {name}",
                f"addr add {gateway}/24 dev {link}",
                f"link set {link} up",
                f"-n {name} addr add 10.213.{number}.2/24 dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} link set lo up",
            )
            for command in commands:
                done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    needs(f"ip {command}: {done.stderr}")
                if command.startswith("netns"):
                    after.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
            made.append((name, gateway))
        yield made


@pytest.fixture
def database(namespaces: list[tuple[str, str]]) -> Iterator[Server]:
    with postgresql(",".join(["127.0.0.1", *(gateway for _, gateway in namespaces)])) as server:
        yield server


@pytest.mark.hazard(16, 38)
def test_two_hosts_share_one_login_renew_it_once_and_sign_out_together(
    fake_provider: FakeProvider,
    namespaces: list[tuple[str, str]],
    database: Server,
    tmp_path: Path,
    loginonce_home: Path,
    age: Callable[..., None],
) -> None:
    here = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=database.address)
    here.login(tokens=fake_provider.issue())
    port = int(fake_provider.issuer.partition("//")[2].rpartition(":")[2].partition("/")[0])
    with ExitStack() as after:
        hosts = []
        for name, gateway in namespaces:
            line = Wire(port, here=(gateway, 0))  # its provider answers on the loopback, as providers for tests do
            after.callback(line.close)
            address = database.address.replace("127.0.0.1", gateway)
            command = ["ip", "netns", "exec", name, sys.executable, "-c", HOST, str(STORES), gateway, str(line.port),
                       str(port), fake_provider.issuer, fake_provider.public_client_id, address]  # fmt: skip
            host = subprocess.Popen(
                command, env={**os.environ, "LOGINONCE_HOME": str(tmp_path / name)}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            after.callback(host.wait, 20)
            after.callback(host.stdin.close)  # type: ignore[union-attr]
            after.callback(host.stdout.close)  # type: ignore[union-attr]
            hosts.append(host)

        def ask() -> list[str]:
            for host in hosts:
                print(fake_provider.api("/runs"), file=host.stdin, flush=True)
            return [host.stdout.readline().strip() for host in hosts]  # type: ignore[union-attr]

        assert ask() == ["200", "200"]
        age(here, ends_in=-1)
        time.sleep(0.3)  # a store on a network may tell a change a quarter of a second late
        fake_provider.reset_stats()
        assert ask() == ["200", "200"]
        assert Stats(**{**vars(fake_provider.stats), "api_calls": 0, "api_401": 0}) == Stats(
            token_requests=1, refreshes=1
        )
        here.logout()
        time.sleep(0.5)  # within which a change by another process is seen
        assert ask() == ["logged_out", "logged_out"]
