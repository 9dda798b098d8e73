"""Being told by the kernel of files that are moved into a folder."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loginonce.model import GrantKey
from loginonce.stores import moves as module
from loginonce.stores.base import Lookout
from loginonce.stores.file import FileStore, _Told
from loginonce.stores.moves import Moves

KEY = GrantKey("https://id.example.org", "notebook")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logins"
    made.mkdir(mode=0o700)
    return made


linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def moves(folder: Path) -> Iterator[Moves]:
    made = Moves(str(folder), ("login.next", "login.room"))
    yield made
    made.close()


def move(folder: Path, name: str = "login.next") -> None:
    (folder / name).write_text("x")
    os.replace(folder / name, folder / "login")


def seconds(what: Moves, most: float) -> float:
    began = time.monotonic()
    what.wait(most)
    return time.monotonic() - began


@linux
def test_a_move_ends_the_wait(folder: Path, moves: Moves) -> None:
    moving = threading.Timer(0.05, move, [folder])
    moving.start()
    assert seconds(moves, 20.0) < 10
    moving.join()


@linux
def test_a_move_before_the_wait_is_told_once(folder: Path, moves: Moves) -> None:
    move(folder)
    move(folder, "login.room")
    assert seconds(moves, 20.0) < 10
    assert seconds(moves, 0.05) >= 0.05


@linux
def test_what_else_happens_in_the_folder_is_not_told(folder: Path, moves: Moves) -> None:
    (folder / "login.next").write_text("x")
    (folder / "login.next").unlink()
    move(folder, "login.mark")
    move(folder, "another.next")
    assert seconds(moves, 0.05) >= 0.05


@linux
def test_among_other_moves_the_one_is_found(folder: Path, moves: Moves) -> None:
    for name in ("a", "another.next", "login.room", "a-much-longer-name-than-the-others.next"):
        move(folder, name)
    assert seconds(moves, 20.0) < 10


@linux
def test_nothing_stays_open(folder: Path) -> None:
    def inotify() -> int:
        return sum("inotify" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(fd))

    def is_open(fd: str) -> bool:
        return os.path.lexists(f"/proc/self/fd/{fd}")

    for _ in range(3):
        Moves(str(folder), ()).close()
    with pytest.raises(OSError, match="inotify"):
        Moves(str(folder / "missing"), ())
    deadline = time.monotonic() + 10
    while inotify() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert inotify() == 0


@linux
def test_at_the_end_of_the_interpreter_it_is_closed_without_a_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Moves(str(folder), ())
    descriptor = made._descriptor

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    made.close()
    with pytest.raises(OSError, match="file descriptor"):
        os.fstat(descriptor)


@linux
def test_what_nobody_closed_is_closed_with_its_last_holder(folder: Path) -> None:
    made = Moves(str(folder), ())
    descriptor = made._descriptor
    del made
    with pytest.raises(OSError, match="file descriptor"):
        os.fstat(descriptor)


@linux
def test_a_forked_child_hears_nothing(folder: Path, moves: Moves) -> None:
    child = os.fork()
    if child == 0:
        os._exit(moves._descriptor + 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    move(folder)
    assert seconds(moves, 20.0) < 10


@linux
def test_what_is_forgotten_in_a_child_is_closed_once(moves: Moves) -> None:
    descriptor = moves._descriptor
    module._after_fork()
    with pytest.raises(OSError, match="file descriptor"):
        os.fstat(descriptor)
    module._after_fork()  # somebody else may have that number by now
    assert moves._descriptor == -1


@linux
def test_a_store_whose_listening_is_closed_by_others_looks_now_and_then(folder: Path) -> None:
    store = FileStore(folder)
    lookout = store.lookout(KEY)
    assert isinstance(lookout, _Told)
    lookout._moves.close_at_once()
    began = time.monotonic()
    assert not lookout.wait(store.stamp(KEY), 0.1)
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("missing", ["ctypes", "poll"])
def test_where_python_lacks_what_it_takes_a_store_looks_now_and_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "ctypes":
        module._libc.cache_clear()
        monkeypatch.setitem(sys.modules, "ctypes", None)
    else:
        monkeypatch.delattr("select.poll")
    assert type(FileStore(folder).lookout(KEY)) is Lookout


def test_where_there_is_no_inotify_a_store_looks_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere else")
    module._libc.cache_clear()
    store = FileStore(folder)
    with pytest.raises(OSError, match="Linux"):
        Moves(str(folder), ())
    assert type(store.lookout(KEY)) is Lookout


@linux
def test_a_store_on_a_disk_of_this_machine_is_told(folder: Path) -> None:
    lookout = FileStore(folder).lookout(KEY)
    lookout.close()
    assert type(lookout) is _Told
