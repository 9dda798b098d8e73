"""Somebody else on the same machine, who has prepared the folder while it was open, or sits beside it.

The victim is a process of its own, under a user id of its own; so is the attacker.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import loginonce
from loginonce.client import Discovery, Provider
from loginonce.errors import LockTimeout, StoreError
from loginonce.model import Client, Grant, GrantKey, Secret, TokenSet
from loginonce.refresh import Policy
from loginonce.source import LoginSource
from loginonce.stores.file import FileStore

VICTIM, ATTACKER = 4711, 65534
PATIENCE = 10.0
KEY = GrantKey("https://id.example.org", "notebook")
TOKEN = "refresh-token-that-nobody-else-may-read"
codecs.lookup("ascii")  # another user may not be let in where Python is installed: what a child needs is loaded now
NAMES = [".login", ".lock", ".guard", ".login.next", ".login.room", ".bell", "store-id"]

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CI") and (not hasattr(os, "geteuid") or os.geteuid() != 0),
        reason="only root can become two others",
    ),
    pytest.mark.hazard(18),
]


@pytest.fixture
def ground() -> Iterator[Path]:
    """A place that everybody may enter, with the victim's folder and something precious of theirs in it."""
    place = Path(tempfile.mkdtemp(prefix="loginonce-"))
    place.chmod(0o755)
    (place / "logins").mkdir(mode=0o700)
    (place / "precious").write_bytes(b"precious")
    (place / "precious").chmod(0o640)
    for path in (place / "logins", place / "precious"):
        os.chown(path, VICTIM, VICTIM)
    yield place
    shutil.rmtree(place)


def as_user(uid: int, work: Callable[[], object]) -> str:
    """What came of that, done by a process of that user: the error's name and text, or "fine"."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setegid(uid)
            os.seteuid(uid)
            work()
            said = "fine"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            pytest.fail("it hangs")
        time.sleep(0.002)
    with open(reading) as answered:
        return answered.read()


def a_grant(attempt: int = 0) -> Grant:
    token = TokenSet(Secret("access"), time.time() - 300, time.time() - 1)
    return Grant(KEY, 1, 0, attempt, refresh_token=Secret(TOKEN), tokens=(token,))


def sign_in(folder: Path) -> None:
    FileStore(folder).commit(a_grant(), expected=None)


def renew(folder: Path) -> None:
    """All that a renewal does with the store."""
    store = FileStore(folder)
    hold = store.try_lock(KEY)
    assert hold is not None, "the lock is taken"
    store.load(KEY)
    store.commit(a_grant(1), expected=(1, 0, 0), reserve=True)
    store.commit(a_grant(2), expected=(1, 0, 1))
    hold.release()


def path_of(folder: Path, name: str) -> Path:
    stem = FileStore(folder).location(KEY).removesuffix(".login")
    return folder / name if name == "store-id" else Path(stem + name)


def plant_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def plant_hard_link(path: Path, precious: Path) -> None:
    os.link(precious, path)


def plant_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path, 0o666)
    path.chmod(0o666)


def plant_device(path: Path, _: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    path.chmod(0o666)


def plant_folder(path: Path, _: Path) -> None:
    path.mkdir(mode=0o777)


def plant_file_of_their_own(path: Path, _: Path) -> None:
    path.touch()
    path.chmod(0o666)
    os.chown(path, ATTACKER, ATTACKER)


PLANTS = [plant_link, plant_hard_link, plant_pipe, plant_device, plant_folder, plant_file_of_their_own]


def read_by_attacker(ground: Path) -> str:
    """Every file that the attacker can open, one after the other."""
    seen = []
    for path in ground.rglob("*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with open(descriptor, "rb", closefd=True) as file:
                seen.append(file.read(1 << 16).decode("latin-1"))
    return "\n".join(seen)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plant", PLANTS)
def test_what_was_planted_is_neither_followed_nor_waited_for_nor_told_the_token(
    ground: Path, plant: Callable[[Path, Path], None], name: str
) -> None:
    folder, precious = ground / "logins", ground / "precious"
    assert as_user(VICTIM, lambda: sign_in(folder)) == "fine"
    target = path_of(folder, name)
    target.unlink(missing_ok=True)
    plant(target, precious)
    theirs = os.open(target, os.O_RDWR | os.O_NONBLOCK) if plant is plant_file_of_their_own else -1
    said = as_user(VICTIM, lambda: renew(folder))
    assert said == "fine" or said.startswith(("StoreError", "CorruptStore", "LockTimeout")), said
    if said != "fine":
        assert str(folder) in said
    assert precious.read_bytes() == b"precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o640
    assert TOKEN.encode() not in (os.pread(theirs, 1 << 16, 0) if theirs >= 0 else b"")
    told = as_user(ATTACKER, lambda: (_ for _ in ()).throw(RuntimeError(read_by_attacker(ground))))
    assert TOKEN not in told
    if theirs >= 0:
        os.close(theirs)
    assert as_user(VICTIM, lambda: sorted(FileStore(folder).grants(), key=str)).startswith(("fine", "StoreError"))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_a_folder_that_others_may_enter_is_told_with_the_command_that_closes_it(ground: Path, mode: int) -> None:
    folder = ground / "logins"
    assert as_user(VICTIM, lambda: sign_in(folder)) == "fine"
    folder.chmod(mode)
    said = as_user(VICTIM, lambda: renew(folder))
    assert said.startswith("StoreError")
    assert f"chmod 700 {folder}" in said


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_in_a_place_where_others_may_write_their_folder_is_not_taken_for_ours(ground: Path, mode: int) -> None:
    """Whoever may rename our folder can hide the login; they get nothing of it."""
    folder = ground / "logins"
    assert as_user(VICTIM, lambda: sign_in(folder)) == "fine"
    ground.chmod(mode)
    folder.rename(ground / "hidden")
    folder.mkdir(mode=0o700)
    os.chown(folder, ATTACKER, ATTACKER)
    said = as_user(VICTIM, lambda: sign_in(folder))
    assert said.startswith("StoreError")
    assert "another user" in said or "permission" in said
    folder.rmdir()
    folder.symlink_to(ground / "theirs")
    (ground / "theirs").mkdir(mode=0o777)
    os.chown(ground / "theirs", ATTACKER, ATTACKER)
    assert "another user" in as_user(VICTIM, lambda: sign_in(folder))
    assert not list((ground / "theirs").iterdir())


@pytest.mark.hazard(8)
def test_a_foreign_holder_of_the_lock_costs_a_bounded_wait_and_is_named(ground: Path) -> None:
    """Whoever opened the lock file while they could may hold it for ever; nothing is stolen from them by age."""
    folder = ground / "logins"
    assert as_user(VICTIM, lambda: sign_in(folder)) == "fine"
    lock = path_of(folder, ".lock")
    lock.touch()
    lock.chmod(0o666)
    os.chown(lock, VICTIM, VICTIM)
    folder.chmod(0o777)
    theirs: list[int] = []
    reading, writing = os.pipe()
    done, end = os.pipe()
    attacker = os.fork()
    if attacker == 0:
        with suppress(BaseException):
            os.close(end)
            os.setegid(ATTACKER)
            os.seteuid(ATTACKER)
            theirs.append(os.open(lock, os.O_RDWR))
            fcntl.flock(theirs[0], fcntl.LOCK_EX)
            os.write(writing, b"held")
            os.read(done, 1)
        os._exit(0)
    assert os.read(reading, 4) == b"held"
    folder.chmod(0o700)

    def call() -> None:
        provider = Provider(
            Discovery(KEY.issuer, {"token_endpoint": "https://127.0.0.1:9/token"}), Client(KEY.client_id)
        )
        provider.prepare = lambda budget=0.0: None  # type: ignore[method-assign]  # nobody is asked here
        source = LoginSource(KEY, FileStore(folder), provider, policy=Policy(wait_timeout=0.5))
        began = time.monotonic()
        try:
            source.token()
        finally:
            assert time.monotonic() - began < 2.5

    try:
        said = as_user(VICTIM, call)
        assert said.startswith(LockTimeout.__name__), said
        assert str(folder) in said
        assert "look for a stopped process" in said
    finally:
        for descriptor in (reading, writing, done, end):
            os.close(descriptor)
        os.waitpid(attacker, 0)
    assert issubclass(LockTimeout, StoreError)
    assert as_user(VICTIM, lambda: renew(folder)) == "fine"


def test_documents_that_another_user_planted_do_not_send_the_token_elsewhere(ground: Path) -> None:
    """Who could write what is kept of a provider would have the refresh token sent to an address of their own."""
    servers = ground / "logins" / "servers"
    servers.mkdir(mode=0o700)
    os.chown(servers, VICTIM, VICTIM)
    probe = Provider(Discovery(KEY.issuer, folder=servers), Client(KEY.client_id))
    kept = probe._path()
    assert kept is not None
    kept.write_text(json.dumps([{"issuer": KEY.issuer, "token_endpoint": "https://evil.example/token"}]))
    kept.chmod(0o600)
    os.chown(kept, ATTACKER, ATTACKER)
    found = as_user(VICTIM, lambda: (_ for _ in ()).throw(RuntimeError(str(probe._kept(86400.0)))))
    assert found == "RuntimeError: []"
    os.chown(kept, VICTIM, VICTIM)
    found = as_user(VICTIM, lambda: (_ for _ in ()).throw(RuntimeError(str(probe._kept(86400.0)))))
    assert "evil.example" in found  # the same file of our own is believed: it is the owner that counts
    assert loginonce.__all__
