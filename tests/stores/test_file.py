"""The file store keeps the promise of every store: across processes, on full and broken disks, after crashes."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import others
import pytest
from contract import CANARY, KEY, StoreContract, a_grant, content, settled

from loginonce.errors import CorruptStore, LockTimeout, StoreError
from loginonce.model import GrantKey, Order
from loginonce.record import decode, encode
from loginonce.stores import file as module
from loginonce.stores.base import OrderConflict, TokenStore
from loginonce.stores.file import FileStore, read_private, write_private

NOBODY = 65534
SPAWN = multiprocessing.get_context("spawn")

as_root = pytest.mark.skipif(
    not os.environ.get("CI") and (not hasattr(os, "geteuid") or os.geteuid() != 0),
    reason="only root can give a file to somebody else",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logins"


@pytest.fixture
def store(folder: Path) -> FileStore:
    """A store with one record, of order (1, 0, 0)."""
    made = FileStore(folder)
    made.commit(a_grant(), expected=None)
    return made


@pytest.fixture
def record(store: FileStore) -> Path:
    return Path(store.location(KEY))


def beside(record: Path, suffix: str) -> Path:
    """Another file of the same login: .lock, .guard, .login.next, …"""
    return record.with_suffix(suffix)


class TestFileStore(StoreContract):
    threads = 100
    increments = 1

    def test_a_nul_that_moves_within_the_key_makes_another_login(self, store: TokenStore) -> None:
        super().test_a_nul_that_moves_within_the_key_makes_another_login(store)

    @pytest.fixture
    def store(self, folder: Path) -> FileStore:
        return FileStore(folder)

    @pytest.fixture
    def twin(self, folder: Path) -> FileStore:
        return FileStore(folder)


# Processes.


@contextmanager
def in_another_process(work: Callable[..., None], folder: Path) -> Iterator[tuple[Any, Connection]]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=work, args=(str(folder), theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


@pytest.mark.parametrize(("number", "times"), [(3, 30), pytest.param(8, 50, marks=pytest.mark.slow)])
def test_compare_and_set_by_processes_loses_nothing(store: FileStore, folder: Path, number: int, times: int) -> None:
    processes = [SPAWN.Process(target=others.count_up, args=(str(folder), times)) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * number
    assert store.load(KEY).grant.generation == number * times  # type: ignore[union-attr]


@pytest.mark.hazard(5, 10)
def test_the_lock_excludes_another_process_until_it_is_released(store: FileStore, folder: Path) -> None:
    with in_another_process(others.hold_the_lock, folder) as (_, line):
        assert line.recv() is True
        assert store.try_lock(KEY) is None
        line.send("release")
        assert line.recv() is True
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()


@pytest.mark.hazard(10)
def test_the_lock_is_free_once_its_holder_was_killed(store: FileStore, folder: Path) -> None:
    with in_another_process(others.hold_the_lock, folder) as (process, line):
        assert line.recv() is True
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()


def test_a_guard_is_free_once_its_holder_was_killed(store: FileStore, folder: Path) -> None:
    with in_another_process(others.hold_the_guard, folder) as (process, line):
        assert line.recv() is True
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))


def test_a_guard_that_is_held_too_long_is_a_lock_timeout_and_changes_nothing(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUARD_TIMEOUT", 0.02)
    with in_another_process(others.hold_the_guard, folder) as (_, line):
        assert line.recv() is True
        with pytest.raises(LockTimeout, match="has been held"):
            store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        assert store.load(KEY).grant.order == (1, 0, 0)  # type: ignore[union-attr]


def test_a_guard_that_another_thread_holds_too_long_is_a_lock_timeout_too(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUARD_TIMEOUT", 0.02)
    with store._guard(KEY), pytest.raises(LockTimeout, match="has been held"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert store.load(KEY).grant.order == (1, 0, 0)  # type: ignore[union-attr]


def test_the_lock_is_free_once_its_holder_was_killed_though_a_forked_child_lives_on(
    store: FileStore, folder: Path, tmp_path: Path
) -> None:
    script = (
        "import os, sys, signal, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from contract import KEY\n"
        "from loginonce.stores.file import FileStore\n"
        "hold = FileStore(sys.argv[1]).try_lock(KEY)\n"
        "assert hold is not None\n"
        "if os.fork() == 0:\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert store.try_lock(KEY) is None
            parent.kill()
            parent.wait()
            hold = store.try_lock(KEY)
            assert hold is not None
            hold.release()
        finally:
            parent.kill()
            os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.hazard(5)
def test_of_6_processes_that_try_all_the_time_two_never_hold_the_lock(store: FileStore, folder: Path) -> None:
    with SPAWN.Pool(6) as pool:
        results = pool.starmap(others.try_often, [(str(folder), 5.0, str(folder / "inside"))] * 6)
    assert sum(had for had, _ in results) > 100
    assert sum(intruders for _, intruders in results) == 0


@pytest.mark.hazard(10)
def test_the_lock_file_is_never_deleted(store: FileStore, record: Path) -> None:
    lock, guard = beside(record, ".lock"), beside(record, ".guard")
    hold = store.try_lock(KEY)
    assert hold is not None
    first = (lock.stat().st_ino, guard.stat().st_ino)
    hold.release()
    for attempt in range(1, 10):
        store.commit(a_grant(order=(1, 0, attempt)), expected=(1, 0, attempt - 1), reserve=True)
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
    assert (lock.stat().st_ino, guard.stat().st_ino) == first


def test_no_descriptor_stays_open(store: FileStore) -> None:
    def work() -> None:
        for _ in range(20):
            hold = store.try_lock(KEY)
            assert hold is not None
            assert store.try_lock(KEY) is None
            hold.release()
            store.load(KEY)
            list(store.grants())
            with pytest.raises(OrderConflict):
                store.commit(a_grant(), expected=None, reserve=True)

    work()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    work()
    assert len(os.listdir("/proc/self/fd")) <= before  # what others have dropped may be closed meanwhile


def test_no_descriptor_stays_open_when_a_folder_has_the_name_of_a_record(store: FileStore, record: Path) -> None:
    record.unlink()
    record.mkdir(mode=0o700)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(StoreError):
            store.load(KEY)
    assert len(os.listdir("/proc/self/fd")) <= before


# Modes and owners (HAZARDS 18).


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.suffix or path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.hazard(18)
def test_folder_and_files_are_for_their_owner_alone(folder: Path, mask: int) -> None:
    with umask(mask):
        store = FileStore(folder)
        hold = store.try_lock(KEY)
        store.commit(a_grant(), expected=None, reserve=True)
        assert hold is not None
        hold.release()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(modes(folder)) == {".login", ".lock", ".guard", ".room", "store-id"}
    assert set(modes(folder).values()) == {0o600}


def test_an_umask_that_takes_from_the_owner_does_not_lock_the_owner_out(folder: Path) -> None:
    with umask(0o177):
        FileStore(folder).commit(a_grant(), expected=None)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def advised_command(error: StoreError) -> str:
    text = str(error)
    assert "Run: " in text
    return text.partition("Run: ")[2]


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o644, 0o666, 0o777])
@pytest.mark.hazard(18)
def test_a_record_open_to_others_is_refused_until_the_advised_command_was_run(
    store: FileStore, record: Path, mode: int
) -> None:
    record.chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:04o}") as refused:
        store.load(KEY)
    assert not isinstance(refused.value, CorruptStore)
    assert advised_command(refused.value) == f"chmod 600 {shlex.quote(str(record))}"
    with pytest.raises(StoreError, match="chmod 600"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    subprocess.run(advised_command(refused.value), shell=True, check=True)
    assert content(store.load(KEY).grant) == a_grant()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o777])
@pytest.mark.hazard(18)
def test_in_a_folder_open_to_others_nothing_is_spent_or_saved(store: FileStore, folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(StoreError) as refused:
        store.try_lock(KEY)
    assert advised_command(refused.value) == f"chmod 700 {shlex.quote(str(folder))}"
    with pytest.raises(StoreError, match="chmod 700"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    subprocess.run(advised_command(refused.value), shell=True, check=True)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))


def test_nothing_is_read_from_a_folder_that_others_can_write(store: FileStore, folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(StoreError, match="chmod 700"):
        store.load(KEY)


def test_the_advised_command_works_for_a_path_with_an_apostrophe(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "ada's logins")
    store.commit(a_grant(), expected=None)
    os.chmod(store.location(KEY), 0o644)
    with pytest.raises(StoreError) as refused:
        store.load(KEY)
    subprocess.run(advised_command(refused.value), shell=True, check=True, stderr=subprocess.DEVNULL)
    assert content(store.load(KEY).grant) == a_grant()


def test_a_leftover_open_to_others_does_not_open_the_record(store: FileStore, record: Path) -> None:
    left = Path(f"{record}.next")
    left.write_bytes(b"")
    left.chmod(0o644)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


@as_root
@pytest.mark.parametrize("what", ["record", "folder", "store-id"])
@pytest.mark.hazard(18)
def test_what_belongs_to_somebody_else_is_refused(store: FileStore, record: Path, what: str) -> None:
    theirs = {"record": record, "folder": record.parent, "store-id": record.parent / "store-id"}[what]
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(StoreError, match=f"belongs to another user.*uid {NOBODY}") as refused:
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert str(theirs) in str(refused.value)
    assert not isinstance(refused.value, CorruptStore)
    if what != "folder":
        with pytest.raises(StoreError, match="belongs to another user"):
            store.load(KEY)
    assert record.exists()


def test_a_login_is_kept_with_what_every_platform_has_to_open_files(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("O_CLOEXEC", "O_DIRECTORY", "geteuid", "posix_fallocate", "register_at_fork"):  # on Windows
        monkeypatch.delattr(os, missing)
    store.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0), reserve=True)
    assert store.post(KEY, b"notice", instead_of=None)
    assert content(store.load(KEY).grant) == content(a_grant(order=(2, 0, 0)))


def test_on_a_platform_without_user_ids_the_mode_is_not_judged(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.chmod(0o644)
    monkeypatch.delattr(os, "geteuid")
    assert content(store.load(KEY).grant) == a_grant()


# Links, and things that are no files.


@pytest.mark.hazard(18)
def test_a_symbolic_link_in_place_of_the_record_is_refused(store: FileStore, record: Path, tmp_path: Path) -> None:
    shutil.move(record, tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        store.load(KEY)
    with pytest.raises(StoreError, match="symbolic link"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert decode((tmp_path / "elsewhere").read_bytes()).order == (1, 0, 0)


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("suffix", [".lock", ".guard"])
@pytest.mark.hazard(18)
def test_a_symbolic_link_in_place_of_a_lock_is_refused(
    store: FileStore, record: Path, tmp_path: Path, suffix: str, dangling: bool
) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_text("theirs")
    beside(record, suffix).unlink(missing_ok=True)
    beside(record, suffix).symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link; remove it"):
        store.try_lock(KEY) if suffix == ".lock" else store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert target.exists() is not dangling


@pytest.mark.parametrize("suffix", [".login.next", ".login.room"])
def test_a_symbolic_link_in_place_of_a_temporary_file_is_not_written_through(
    store: FileStore, record: Path, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / "target"
    target.write_text("theirs")
    beside(record, suffix).symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0), reserve=True)
    assert target.read_text() == "theirs"
    assert store.load(KEY).grant.order == (1, 0, 0)  # type: ignore[union-attr]


@pytest.mark.hazard(20)
def test_a_folder_that_is_a_symbolic_link_is_the_folder_it_leads_to(store: FileStore, folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    by_link = FileStore(link)
    assert by_link.identity == store.identity
    assert by_link.location(KEY) == store.location(KEY)
    by_link.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert store.load(KEY).grant.order == (1, 1, 0)  # type: ignore[union-attr]


def test_a_tilde_in_the_address_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FileStore("~/logins").identity == f"file:{tmp_path}/logins"


@pytest.mark.hazard(20)
def test_a_hard_link_to_the_record_is_not_written_through(store: FileStore, record: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    os.link(record, backup)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert decode(backup.read_bytes()).order == (1, 0, 0)
    assert store.load(KEY).grant.order == (1, 1, 0)  # type: ignore[union-attr]


def test_a_pipe_in_place_of_the_record_is_refused_and_does_not_block(store: FileStore, record: Path) -> None:
    record.unlink()
    os.mkfifo(record, 0o600)
    with pytest.raises(StoreError, match="is not a file: move it away"):
        store.load(KEY)


def test_a_file_in_place_of_the_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    store = FileStore(tmp_path / "file")
    for work in (
        lambda: store.try_lock(KEY),
        lambda: store.commit(a_grant(), expected=None),
        lambda: store.load(KEY),
        lambda: store.stamp(KEY),
        lambda: list(store.grants()),
    ):
        with pytest.raises(StoreError, match="cannot be used"):
            work()


def test_a_file_above_the_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(StoreError, match="cannot be used"):
        FileStore(tmp_path / "file" / "logins").commit(a_grant(), expected=None)


# Damage (HAZARDS 19).


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:20],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-2],
    "garbage": lambda data: b"\x00\xff" * 100,
    "zeros of the same length": lambda data: bytes(len(data)),
    "bit flipped in the header": lambda data: flipped(data, 15),
    "bit flipped in the middle": lambda data: flipped(data, len(data) // 2),
    "bit flipped at the end": lambda data: flipped(data, len(data) - 4),
    "something appended": lambda data: data + b"x",
    "twice": lambda data: data + data,
    "a web page": lambda data: b"<html>",
    "another line end": lambda data: data.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.hazard(19)
def test_a_damaged_record_is_set_aside_told_of_once_and_then_there_is_no_login(
    store: FileStore, record: Path, damage: Callable[[bytes], bytes]
) -> None:
    broken = damage(record.read_bytes())
    record.write_bytes(broken)
    assert list(FileStore(record.parent).grants()) == []
    with pytest.raises(CorruptStore, match="sign in again") as told:
        store.load(KEY)
    assert CANARY not in str(told.value)
    (aside,) = record.parent.glob("*.broken-*")
    assert aside.read_bytes() == broken
    assert str(aside) in str(told.value)
    assert FileStore(record.parent).load(KEY).grant is None
    store.commit(a_grant(order=(2, 0, 0)), expected=None)
    assert store.load(KEY).grant.order == (2, 0, 0)  # type: ignore[union-attr]


def test_a_glance_at_a_damaged_record_leaves_it_where_it_is(store: FileStore, record: Path) -> None:
    record.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(CorruptStore, match="does not begin like a login record"):
            store.peek(KEY)
    assert record.read_bytes() == b"garbage"


def test_every_flipped_bit_is_noticed(store: FileStore, record: Path) -> None:
    whole = record.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        record.write_bytes(flipped(whole, at))
        with pytest.raises(StoreError):
            store.load(KEY)


def test_a_commit_over_a_damaged_record_sets_it_aside(store: FileStore, record: Path) -> None:
    record.write_bytes(b"garbage")
    with pytest.raises(OrderConflict) as refused:
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert refused.value.current is None
    (aside,) = record.parent.glob("*.broken-*")
    assert aside.read_bytes() == b"garbage"
    store.commit(a_grant(order=(2, 0, 0)), expected=None)


def test_a_damaged_record_that_was_mended_in_the_meantime_is_not_set_aside(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = record.read_bytes()
    record.write_bytes(b"garbage")
    guard = store._guard

    @contextmanager
    def late(key: GrantKey) -> Iterator[None]:
        record.write_bytes(whole)
        with guard(key):
            yield

    monkeypatch.setattr(store, "_guard", late)
    assert content(store.load(KEY).grant) == a_grant()
    assert not list(record.parent.glob("*.broken-*"))


def test_of_two_that_find_the_same_damage_one_is_told(store: FileStore, folder: Path, record: Path) -> None:
    record.write_bytes(b"garbage")
    told: list[bool] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait(10)
        try:
            told.append(FileStore(folder).load(KEY).grant is not None)
        except CorruptStore:
            told.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 7 + [True]
    assert len(list(folder.glob("*.broken-*"))) == 1


def test_a_damaged_record_that_cannot_be_set_aside_is_a_store_error(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write_bytes(b"garbage")
    monkeypatch.setattr(os, "replace", failing(errno.EROFS))
    with pytest.raises(StoreError, match="read-only") as refused:
        store.load(KEY)
    assert not isinstance(refused.value, CorruptStore)
    assert record.read_bytes() == b"garbage"


def test_a_record_of_a_newer_version_is_refused_and_left_alone(store: FileStore, record: Path) -> None:
    newer = record.read_bytes().replace(b"loginonce 1 ", b"loginonce 9 ", 1)
    record.write_bytes(newer)
    for work in (
        lambda: store.load(KEY),
        lambda: store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0)),
        lambda: store.commit(a_grant(order=(1, 1, 0)), expected=None),
    ):
        with pytest.raises(StoreError, match="newer version.*upgrade") as refused:
            work()
        assert not isinstance(refused.value, CorruptStore | OrderConflict)
    assert record.read_bytes() == newer
    assert list(store.grants()) == []
    assert not list(record.parent.glob("*.broken-*"))


# Copies (HAZARDS 21).


@pytest.mark.hazard(21)
def test_a_record_copied_from_another_store_is_refused(store: FileStore, record: Path, tmp_path: Path) -> None:
    other = FileStore(tmp_path / "other")
    other.commit(a_grant(replace(KEY, account="another")), expected=None)
    shutil.copy2(record, other.location(KEY))
    assert [grant.key.account for grant in other.grants()] == ["another"]
    with pytest.raises(CorruptStore, match="copied here from another store"):
        other.load(KEY)
    assert other.load(KEY).grant is None
    assert content(store.load(KEY).grant) == a_grant()


def test_an_identity_that_changes_under_a_store_that_knew_it_is_noticed(store: FileStore, record: Path) -> None:
    identity = record.parent / "store-id"
    for change, complaint in [
        (lambda: identity.chmod(0o644), "open to other users"),
        (lambda: identity.write_text("another one"), "copied here from another store"),
    ]:
        time.sleep(2 * module.GRANULARITY_NS / 1e9)
        assert store.load(KEY).grant is not None
        change()
        with pytest.raises(StoreError, match=complaint):
            store.load(KEY)
        identity.chmod(0o600)


def test_a_pickled_store_takes_no_secret_along(store: FileStore) -> None:
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert store.load(KEY).grant is not None
    data = pickle.dumps(store)
    assert b"at_0" not in data
    assert pickle.loads(data).load(KEY).grant == store.load(KEY).grant


def test_a_record_copied_to_where_there_was_no_store_is_refused(record: Path, tmp_path: Path) -> None:
    other = FileStore(tmp_path / "other")
    (tmp_path / "other").mkdir(mode=0o700)
    shutil.copy2(record, other.location(KEY))
    with pytest.raises(CorruptStore, match="copied here from another store"):
        other.load(KEY)


@pytest.mark.hazard(21, 36)
def test_a_record_copied_to_the_name_of_another_login_is_refused(store: FileStore, record: Path) -> None:
    other = replace(KEY, account="another")
    shutil.copy2(record, store.location(other))
    try:
        found = store.load(other).grant
    except CorruptStore:
        found = None
    assert found is None


def test_two_processes_that_begin_a_store_agree_on_its_id(folder: Path) -> None:
    stores = [FileStore(folder) for _ in range(8)]
    together = threading.Barrier(8)

    def begin(number: int) -> None:
        together.wait(10)
        stores[number].commit(a_grant(replace(KEY, account=str(number))), expected=None)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(FileStore(folder).grants())) == 8
    assert sorted(path.suffix for path in folder.iterdir()) == sorted([".login", ".guard"] * 8 + [""])


# Full and read-only disks (HAZARDS 3).


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB that is ours alone."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k,mode=0700", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        reason = "a small disk cannot be mounted here: that takes root, and a container that may"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def on_disk(disk: Path) -> FileStore:
    made = FileStore(disk / "logins")
    made.commit(a_grant(), expected=None)
    return made


def fill(disk: Path) -> None:
    """Use up the disk to the last byte."""
    with open(disk / "ballast", "ab", buffering=0) as ballast, suppress(OSError):
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    ballast.write(bytes(size))


@pytest.mark.hazard(3)
def test_on_a_full_disk_reserving_fails_and_nothing_has_changed(on_disk: FileStore, disk: Path) -> None:
    before = Path(on_disk.location(KEY)).read_bytes()
    stamp = on_disk.stamp(KEY)
    fill(disk)
    with pytest.raises(StoreError, match="the disk is full"):
        on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    assert on_disk.stamp(KEY) == stamp
    assert Path(on_disk.location(KEY)).read_bytes() == before
    (disk / "ballast").unlink()
    on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)


@pytest.mark.hazard(3)
def test_what_was_reserved_is_there_though_the_disk_was_filled_in_between(on_disk: FileStore, disk: Path) -> None:
    on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    fill(disk)
    answer = a_grant(order=(1, 1, 0), claims={"filling": "x" * 40_000})
    on_disk.commit(answer, expected=(1, 0, 1))
    assert content(FileStore(disk / "logins").load(KEY).grant) == answer


def test_room_that_was_not_used_is_there_for_a_log_out(on_disk: FileStore, disk: Path) -> None:
    on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    fill(disk)
    on_disk.commit(a_grant(order=(2, 0, 0), state="LOGGED_OUT", refresh_token=None), expected=(1, 0, 1))
    fill(disk)
    with pytest.raises(StoreError, match="the disk is full"):
        on_disk.commit(a_grant(order=(3, 0, 0)), expected=(2, 0, 0))
    assert on_disk.load(KEY).grant.order == (2, 0, 0)  # type: ignore[union-attr]


def test_an_answer_larger_than_the_room_fails_whole(on_disk: FileStore, disk: Path) -> None:
    on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    fill(disk)
    with pytest.raises(StoreError, match="the disk is full"):
        on_disk.commit(a_grant(order=(1, 1, 0), claims={"filling": "x" * 100_000}), expected=(1, 0, 1))
    assert on_disk.load(KEY).grant.order == (1, 0, 1)  # type: ignore[union-attr]
    (disk / "ballast").unlink()
    on_disk.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))
    assert content(on_disk.load(KEY).grant) == a_grant(order=(1, 1, 0))


def test_an_error_while_the_answer_is_saved_does_not_give_its_room_away(
    on_disk: FileStore, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    fill(disk)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(StoreError):
            on_disk.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))
    fill(disk)  # others take what they can get
    on_disk.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))


def test_a_first_login_on_a_full_disk_is_a_store_error(disk: Path) -> None:
    fill(disk)
    store = FileStore(disk / "logins")
    with pytest.raises(StoreError, match="the disk is full"):
        store.commit(a_grant(), expected=None)
    assert store.load(KEY).grant is None


@pytest.mark.hazard(3, 9)
def test_on_a_read_only_disk_logins_are_read_and_nothing_is_locked_or_saved(on_disk: FileStore, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert content(on_disk.load(KEY).grant) == a_grant()
    assert len(list(on_disk.grants())) == 1
    for work in (
        lambda: on_disk.try_lock(KEY),
        lambda: on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True),
        lambda: on_disk.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0)),
    ):
        with pytest.raises(StoreError, match="read-only file system; set LOGINONCE_HOME"):
            work()
    assert content(on_disk.load(KEY).grant) == a_grant()


# Notices.


@pytest.fixture
def notice(store: FileStore, record: Path) -> Path:
    """The file of a notice that has been posted."""
    assert store.post(KEY, b"there", instead_of=None)
    return beside(record, ".notice")


def test_a_notice_is_a_private_file_whatever_the_umask(folder: Path, record: Path) -> None:
    before = os.umask(0)
    try:
        FileStore(folder).post(KEY, b"there", instead_of=None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(beside(record, ".notice").stat().st_mode) == 0o600


def test_a_first_notice_makes_a_private_folder(folder: Path) -> None:
    FileStore(folder).post(KEY, b"there", instead_of=None)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_notice_that_is_taken_down_leaves_no_file(store: FileStore, notice: Path) -> None:
    store.post(KEY, None, instead_of=b"there")
    assert not list(notice.parent.glob("*.notice*"))


def test_a_symbolic_link_in_place_of_a_notice_is_neither_read_nor_replaced(
    store: FileStore, notice: Path, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    shutil.move(notice, target)
    notice.symlink_to(target)
    for work in (lambda: store.notice(KEY), lambda: store.post(KEY, b"next", instead_of=b"there")):
        with pytest.raises(StoreError, match="symbolic link"):
            work()
    assert target.read_bytes() == b"there"


def test_a_symbolic_link_where_a_notice_is_written_is_not_followed(
    store: FileStore, notice: Path, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    notice.with_suffix(".notice.next").symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link"):
        store.post(KEY, b"next", instead_of=b"there")
    assert target.read_bytes() == b"precious"


def test_a_notice_that_others_could_have_written_is_refused(store: FileStore, notice: Path) -> None:
    notice.chmod(0o666)
    with pytest.raises(StoreError, match="chmod 600"):
        store.notice(KEY)


def test_a_notice_that_cannot_be_read_is_a_store_error(
    store: FileStore, notice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EACCES))
        with pytest.raises(StoreError, match="permission was refused"):
            store.notice(KEY)


@pytest.mark.parametrize("call", ["replace", "unlink", "open", "write"])
def test_a_notice_that_cannot_be_changed_is_a_store_error_and_stays_whole(
    store: FileStore, notice: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EROFS))
        with pytest.raises(StoreError, match="read-only"):
            store.post(KEY, None if call == "unlink" else b"next", instead_of=b"there")
    assert store.notice(KEY) == b"there"


def test_on_a_read_only_disk_a_notice_is_read_and_none_is_posted(on_disk: FileStore, disk: Path) -> None:
    on_disk.post(KEY, b"there", instead_of=None)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert on_disk.notice(KEY) == b"there"
    for wanted in (b"next", None):
        with pytest.raises(StoreError, match="read-only file system"):
            on_disk.post(KEY, wanted, instead_of=b"there")


def test_on_a_full_disk_no_notice_is_posted_and_the_record_stays(on_disk: FileStore, disk: Path) -> None:
    fill(disk)
    with pytest.raises(StoreError, match="the disk is full"):
        on_disk.post(KEY, b"x" * 20_000, instead_of=None)
    assert on_disk.notice(KEY) is None
    assert content(on_disk.load(KEY).grant) == a_grant()


# Broken disks: an error, or the end of the process, at each system call.


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


class Tripwire:
    """Counts the system calls of a commit, and does something at the chosen one, instead of it or after it."""

    CALLS = ("open", "write", "ftruncate", "fsync", "replace", "posix_fallocate", "stat", "fstat", "close")

    def __init__(self, at: int, then: Callable[[], None], *, after: bool) -> None:
        self.seen: list[str] = []
        self._at = at
        self._then = then
        self._after = after

    @contextmanager
    def laid(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in self.CALLS:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            yield

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if args and _path(args[0]).endswith("store-id"):  # has a test of its own
                return real(*args, **kwargs)
            self.seen.append(name)
            mine = len(self.seen) == self._at
            if mine and not self._after:
                if name == "close":
                    real(*args, **kwargs)  # Linux frees the descriptor whatever close says
                self._then()
            try:
                return real(*args, **kwargs)
            finally:
                if mine and self._after:
                    self._then()

        return call


def _path(place: Any) -> str:
    return os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else str(place)


def steps_of(reserve: bool, tmp_path: Path) -> list[str]:
    store = FileStore(tmp_path / "rehearsal")
    store.commit(a_grant(), expected=None)
    if not reserve:
        store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    wire = Tripwire(0, lambda: None, after=False)
    with wire.laid():
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0) if reserve else (1, 0, 1), reserve=reserve)
    return wire.seen


def prepared(folder: Path, reserve: bool) -> tuple[FileStore, Order]:
    """A store before a `mark` (which reserves), or before the `save` that follows one."""
    store = FileStore(folder)
    store.commit(a_grant(), expected=None)
    if reserve:
        return store, (1, 0, 0)
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    return store, (1, 0, 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.hazard(3, 19)
def test_an_error_at_any_system_call_leaves_the_old_or_the_new_record_whole(
    tmp_path: Path, reserve: bool, number: int
) -> None:
    steps = steps_of(reserve, tmp_path)
    assert {"open", "write", "fsync", "replace"} <= set(steps)
    for at, step in enumerate(steps, 1):
        store, base = prepared(tmp_path / f"{at}", reserve)
        new = a_grant(order=(1, 1, 0))
        wire = Tripwire(at, failing(number), after=False)
        with wire.laid(), suppress(StoreError):
            store.commit(new, expected=base, reserve=reserve)
        found = content(FileStore(tmp_path / f"{at}").load(KEY).grant)
        assert found in (a_grant(order=base), new), f"torn by an error at call {at} ({step})"
        assert found is not None
        store.commit(a_grant(order=(2, 0, 0)), expected=found.order, reserve=True)
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()


def test_an_error_before_the_replacement_is_told_and_has_changed_nothing(tmp_path: Path) -> None:
    steps = steps_of(False, tmp_path)
    for at in range(1, steps.index("replace") + 2):
        if steps[at - 1] == "close":
            continue  # the lock's own descriptors are closed along the way; those errors are nobody's business
        store, base = prepared(tmp_path / f"{at}", reserve=False)
        stamp = store.stamp(KEY)
        with Tripwire(at, failing(errno.EIO), after=False).laid(), pytest.raises(StoreError, match="cannot be used"):
            store.commit(a_grant(order=(1, 1, 0)), expected=base)
        assert store.stamp(KEY) == stamp


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.hazard(2, 19)
def test_a_process_that_ends_after_any_system_call_leaves_the_old_or_the_new_record_whole(
    tmp_path: Path, reserve: bool
) -> None:
    for at, step in enumerate(steps_of(reserve, tmp_path), 1):
        store, base = prepared(tmp_path / f"{at}", reserve)
        new = a_grant(order=(1, 1, 0))
        if (pid := os.fork()) == 0:
            with Tripwire(at, lambda: os._exit(9), after=True).laid():
                store.commit(new, expected=base, reserve=reserve)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9, f"call {at} ({step}) never came"
        found = content(FileStore(tmp_path / f"{at}").load(KEY).grant)
        assert found in (a_grant(order=base), new), f"torn by an end after call {at} ({step})"
        assert found is not None
        store.commit(a_grant(order=(2, 0, 0)), expected=found.order, reserve=True)
        store.commit(a_grant(order=(2, 1, 0)), expected=(2, 0, 0))
        assert content(store.load(KEY).grant) == a_grant(order=(2, 1, 0))


def test_a_write_that_takes_only_some_of_the_bytes_is_continued(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert content(store.load(KEY).grant) == a_grant(order=(1, 1, 0))


def test_leftovers_of_a_crash_are_harmless(store: FileStore, record: Path) -> None:
    for reserve in (True, False):
        for name in (".next", ".room"):
            left = Path(f"{record}{name}")
            left.write_bytes(b"half a record" * 1000)
            left.chmod(0o600)
        order = store.load(KEY).grant.order  # type: ignore[union-attr]
        following = (1, 0, order[2] + 1)
        store.commit(a_grant(order=following), expected=order, reserve=reserve)
        assert content(FileStore(record.parent).load(KEY).grant) == a_grant(order=following)
    assert len(list(store.grants())) == 1


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission"),
        (errno.EIO, "Input/output error"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_store_error_with_advice(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(StoreError, match=advice) as refused:
        store.load(KEY)
    assert store.location(KEY) in str(refused.value)


def test_an_error_without_a_number_is_told_in_its_own_words(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError("the tape broke")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StoreError, match="the tape broke"):
        store.load(KEY)


def test_a_stamp_that_cannot_be_had_is_a_store_error(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lstat", failing(errno.EIO))
    with pytest.raises(StoreError, match="Input/output error"):
        store.stamp(KEY)


def on_store_id(number: int) -> Callable[..., int]:
    real = os.open

    def opened(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("store-id"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    return opened


@pytest.mark.parametrize(
    "work",
    [
        lambda store: store.load(KEY),
        lambda store: list(store.grants()),
        lambda store: store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0)),
    ],
    ids=["load", "grants", "commit"],
)
def test_a_store_id_that_cannot_be_read_is_a_store_error(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, work: Callable[[FileStore], object]
) -> None:
    monkeypatch.setattr(os, "open", on_store_id(errno.EIO))
    with suppress(StoreError):
        work(store)


def test_a_schema_of_5000_digits_is_a_store_error(store: FileStore, record: Path) -> None:
    record.write_bytes(b"loginonce " + b"9" * 5000 + b" 0\n{}\n")
    with pytest.raises(StoreError):
        store.load(KEY)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.hazard(17)
def test_a_file_system_without_locks_is_a_store_error_and_no_soft_lock_is_made(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    before = set(record.parent.iterdir())
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(StoreError, match="no locks"):
        store.try_lock(KEY)
    with pytest.raises(StoreError, match="no locks"):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert set(record.parent.iterdir()) - before <= {beside(record, ".lock")}


@pytest.mark.hazard(17)
def test_a_file_system_without_locks_is_a_store_error_and_gets_no_soft_lock(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="this file system has no locks; set LOGINONCE_HOME"):
        store.try_lock(KEY)


def test_a_release_that_fails_raises_nothing(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    hold = store.try_lock(KEY)
    assert hold is not None
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(errno.EIO))
        hold.release()
    hold.release()
    again = store.try_lock(KEY)
    assert again is not None
    again.release()


def test_a_file_system_that_cannot_reserve_is_not_said_to_have_no_locks(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))
    try:
        store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    except StoreError as error:
        assert "locks" not in str(error)


def test_on_a_platform_without_fchmod_a_record_is_saved(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fchmod")
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    assert content(store.load(KEY).grant) == a_grant(order=(1, 1, 0))


def test_where_nothing_can_be_allocated_the_room_is_written(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    assert Path(f"{record}.room").stat().st_size >= module.ROOM
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))
    assert not Path(f"{record}.room").exists()


def test_room_that_a_crash_has_left_is_reserved_again_where_the_c_library_has_to_write_it(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emulated(descriptor: int, offset: int, size: int) -> None:
        """As glibc does it where the file system cannot (NFS, ZFS, FUSE): it looks before it writes."""
        for at in range(offset, offset + size, 4096):
            if at >= os.fstat(descriptor).st_size or os.pread(descriptor, 1, at) == bytes(1):
                os.pwrite(descriptor, bytes(1), at)

    monkeypatch.setattr(os, "posix_fallocate", emulated)
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    assert Path(f"{record}.room").stat().st_size > 0  # here the process was killed
    store.commit(a_grant(order=(1, 0, 2)), expected=(1, 0, 1), reserve=True)
    assert content(store.load(KEY).grant) == a_grant(order=(1, 0, 2))


# What a refresh costs, and in which order it happens.


def test_a_mark_and_a_save_sync_two_files_and_twice_the_folder_each_file_before_its_replacement(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    sync, replacement = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        log.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def replaced(source: str, target: str) -> None:
        log.append("replace")
        replacement(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
    store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))
    assert log == ["file", "replace", "folder"] * 2


def test_a_stamp_costs_one_lstat_and_opens_nothing(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    real = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looks.append(path) or real(path))
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    store.stamp(KEY)
    assert looks == [store.location(KEY)]


# A stamp is trusted only when it is old enough.


def test_a_record_that_was_just_written_is_not_settled_and_later_it_is(store: FileStore) -> None:
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    before = time.time_ns()
    first = store.load(KEY)
    assert first.settled is False or time.time_ns() - before > module.GRANULARITY_NS
    assert (settled(store).grant, settled(store).stamp) == (first.grant, first.stamp)


@pytest.mark.parametrize(("age_ns", "expected"), [(40_000_000, False), (60_000_000, True), (-(10**9), False)])
def test_a_stamp_settles_after_50_ms_and_never_in_the_future(
    store: FileStore, record: Path, monkeypatch: pytest.MonkeyPatch, age_ns: int, expected: bool
) -> None:
    now = record.stat().st_mtime_ns + age_ns
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "time_ns", lambda: now)
        assert store.load(KEY).settled is expected


# The folder.


def test_a_folder_that_is_deleted_is_no_login_and_is_made_anew(store: FileStore, folder: Path) -> None:
    hold = store.try_lock(KEY)
    assert hold is not None
    shutil.rmtree(folder)
    assert store.load(KEY).grant is None
    assert store.stamp(KEY) is None
    assert list(store.grants()) == []
    hold.release()
    again = store.try_lock(KEY)
    assert again is not None
    again.release()
    with pytest.raises(OrderConflict):
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
    store.commit(a_grant(order=(2, 0, 0)), expected=None)
    assert content(FileStore(folder).load(KEY).grant) == a_grant(order=(2, 0, 0))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folders_above_are_made_too(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "a" / "b" / "logins")
    store.commit(a_grant(), expected=None)
    assert content(store.load(KEY).grant) == a_grant()


def test_listing_a_folder_that_cannot_be_read_is_a_store_error(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listdir", failing(errno.EACCES))
    with pytest.raises(StoreError, match="permission was refused"):
        list(store.grants())


def test_a_folder_that_cannot_be_looked_at_is_a_store_error(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "stat", failing(errno.EACCES))
    with pytest.raises(StoreError, match="permission was refused"):
        store.try_lock(KEY)


def test_a_record_that_vanishes_while_the_logins_are_listed_is_left_out(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*real(path), "gone.login"])
    assert len(list(store.grants())) == 1


def test_a_file_of_another_kind_in_the_folder_is_no_login(store: FileStore, folder: Path) -> None:
    (folder / "README").write_text("hands off")
    assert len(list(store.grants())) == 1


def test_the_representation_names_the_place_and_no_secret(store: FileStore, folder: Path) -> None:
    assert repr(store) == f"FileStore({str(folder)!r})"


# Private files in general.


def test_what_is_written_privately_is_read_privately(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "file")
    write_private(path, b"one")
    write_private(path, b"two")
    found = read_private(path)
    assert found is not None
    assert found[0] == b"two"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_an_exclusive_write_leaves_what_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    write_private(path, b"one", exclusive=True)
    write_private(path, b"two", exclusive=True)
    found = read_private(path)
    assert found is not None
    assert found[0] == b"one"
    assert os.listdir(tmp_path) == ["file"]


def test_a_private_write_that_fails_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        write_private(str(tmp_path / "file"), b"one")
    assert os.listdir(tmp_path) == []


def test_a_private_write_on_a_full_disk_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_private(str(tmp_path / "file"), b"one")
    assert os.listdir(tmp_path) == []


def test_reading_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_private(str(tmp_path / "nothing")) is None


def test_where_a_folder_cannot_be_opened_it_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        patch.setattr(os, "open", failing(errno.EACCES))
        module._sync_folder(tmp_path)


def test_the_stored_bytes_are_those_of_the_record_format(store: FileStore, record: Path) -> None:
    data = record.read_bytes()
    assert encode(decode(data)) == data
