"""Which folders are ours, and which process we are."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
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
    assert re.fullmatch(r"[0-9a-f]{8}", boot)
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
