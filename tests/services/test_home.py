"""Which folders are ours, and which process we are."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loginonce import home


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home without LOGINONCE_HOME."""
    for name in ("LOGINONCE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_loginonce_home_holds_everything(loginonce_home: Path) -> None:
    assert home.state_folder() == loginonce_home
    assert home.config_file() == loginonce_home / "config.toml"


def test_loginonce_home_may_begin_with_a_tilde(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_HOME", "~/mine")
    assert home.state_folder() == elsewhere / "mine"
    assert home.config_file() == elsewhere / "mine" / "config.toml"


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has other folders; these are those of XDG")
@pytest.mark.hazard(20)
def test_without_it_logins_go_to_the_state_folder_and_not_to_a_cache(elsewhere: Path) -> None:
    assert home.state_folder() == elsewhere / ".local" / "state" / "loginonce"
    assert home.config_file() == elsewhere / ".config" / "loginonce" / "config.toml"


def test_asking_for_a_folder_makes_none(elsewhere: Path) -> None:
    home.state_folder()
    home.config_file()
    assert list(elsewhere.iterdir()) == []


def test_a_process_names_itself_by_host_boot_pid_and_start() -> None:
    host, boot, pid, start = home.process_identity().split("/")
    assert (host, pid) == (socket.gethostname(), str(os.getpid()))
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9]+", boot)
    assert start.isdigit()


def test_a_process_keeps_its_name_and_no_other_has_it() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from loginonce.home import process_identity as i; print(i(), i())"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = told.stdout.split()
    assert first == second != home.process_identity()


@pytest.mark.hazard(13)
def test_a_forked_child_has_a_name_of_its_own() -> None:
    mine = home.process_identity()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writing, home.process_identity().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read() != mine


def told(code: str) -> str:
    """What a program of its own prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.hazard(13)
def test_whatever_has_to_be_forgotten_in_a_child_is_though_something_else_fails() -> None:
    code = (
        "import os, sys; from loginonce import home; kept = [1]; sys.unraisablehook = lambda _: None;"
        "home.at_fork_in_child(lambda: 1 / 0); home.at_fork_in_child(kept.clear); pid = os.fork();"
        "print(len(kept), flush=True) if pid == 0 else os.waitpid(pid, 0); print(len(kept)) if pid else os._exit(0)"
    )
    assert told(code).split() == ["0", "1"]


@pytest.mark.parametrize("content", [None, "no parenthesis", ""])
def test_without_proc_the_time_of_the_import_takes_the_place_of_the_start(
    monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    def read(path: Path, *_: object) -> str:
        if content is None:
            raise FileNotFoundError(path)
        return content

    home._identity.cache_clear()
    monkeypatch.setattr(Path, "read_text", read)
    assert home.process_identity().endswith(f"/{os.getpid()}/{home._STARTED:.0f}")
    home._identity.cache_clear()


# ── whether another process has ended ────────────────────────────────────────────────────────────────────


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that says who it is and stays until it is told to go."""
    code = "from loginonce.home import process_identity; print(process_identity(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        yield it
        it.kill()


def said_by(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_a_process_that_runs_has_not_ended(child: subprocess.Popen[str]) -> None:
    assert not home.has_ended(home.process_identity())
    assert not home.has_ended(said_by(child))


def test_a_killed_process_has_ended_even_before_its_parent_looks(child: subprocess.Popen[str]) -> None:
    who = said_by(child)
    child.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
    assert home.has_ended(who)
    child.wait()
    assert home.has_ended(who)


def test_a_process_that_has_the_number_of_another_is_not_it() -> None:
    host, boot, pid, start = home.process_identity().split("/")
    assert home.has_ended(f"{host}/{boot}/{pid}/{int(start) - 1}")


@pytest.mark.parametrize("place", [0, 1], ids=["host", "boot"])
def test_a_process_of_another_host_or_boot_may_live(place: int) -> None:
    parts = home.process_identity().split("/")
    parts[2:] = ["1", "1"]
    assert home.has_ended("/".join(parts))
    parts[place] = "another"
    assert not home.has_ended("/".join(parts))


def test_of_a_host_that_does_not_tell_its_boots_apart_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "process_identity", lambda: "mac//1/2")
    assert not home.has_ended("mac//3/4")


def test_where_no_start_can_be_read_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    host, boot, _, _ = home.process_identity().split("/")
    monkeypatch.setattr(home, "_started", lambda pid: "")
    assert not home.has_ended(f"{host}/{boot}/1/2")


@pytest.mark.parametrize("odd", ["{}", "{}/{}", "{}/{}/1", "{}/{}/1/2/3", "{}/{}//2", "{}/{}/../2", "{}/{}/self/2", ""])
def test_what_is_no_identity_has_not_ended(odd: str) -> None:
    host, boot, _, _ = home.process_identity().split("/")
    assert not home.has_ended(odd.format(host, boot))
