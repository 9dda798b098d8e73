"""Which lock a folder gets: what is known of file systems, what is tried out, and the lock that is made of files."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import others
import pytest
from contract import KEY, StoreContract, a_grant, content, settled

from loginonce.errors import LockTimeout, StoreError
from loginonce.stores import locks as module
from loginonce.stores.base import Lookout, TokenStore
from loginonce.stores.file import FileStore
from loginonce.stores.locks import Ground, excludes_itself, ground, take, taken

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logins"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture(autouse=True)
def audible(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once per process is said once per test, and heard."""
    monkeypatch.setattr(module, "_warned", set())
    monkeypatch.setattr(logging.getLogger("loginonce"), "propagate", True)


# What is known of file systems.


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have /proc say that every folder is on this mount: the part of a mountinfo line after the dash."""

    def mounted(mount: str, *, own: str = "rw,relatime") -> None:
        real = Path.read_text

        def told(path: Path, *args: Any, **kwargs: Any) -> str:
            if path.name == "mountinfo":
                return (
                    "21 27 0:21 / /proc rw - proc proc rw\n"
                    f"36 27 0:40 /home/ada /home/ada {own} shared:1 master:2 - {mount}\n"
                    "37 27 0:41 / /mnt rw - nfs4 srv:/ rw,local_lock=all\n"
                )
            if path.parent.name == "fdinfo":
                return "pos:\t0\nflags:\t02100000\nmnt_id:\t36\nino:\t7\n"
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", told)

    return mounted


NFS4 = "nfs4 srv:/home rw,vers=4.2,rsize=1048576,proto=tcp,timeo=600,sec=sys,clientaddr=10.0.0.2,local_lock="
NFS3 = "nfs srv:/home rw,vers=3,rsize=1048576,hard,{}proto=tcp,mountvers=3,local_lock="

MOUNTS = [
    ("ext4 /dev/sda1 rw,errors=remount-ro", "trusted"),
    ("ext4 /dev/disk/by-id/nfs rw", "trusted"),
    ("xfs /dev/sda1 rw,attr2", "trusted"),
    ("btrfs /dev/sda1 rw,subvol=/@home", "trusted"),
    ("zfs tank/home rw,xattr", "trusted"),
    ("tmpfs tmpfs rw,size=4k", "trusted"),
    ("overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d", "trusted"),
    ("fuseblk /dev/sdb1 rw,user_id=0", "trusted"),
    ("fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0", "trusted"),
    ("fuse.gocryptfs /home/.ada rw", "trusted"),
    ("ceph 10.0.0.1:/ rw,name=ada", "trusted"),
    ("lustre 10.0.0.1@tcp:/fs rw,flock,lazystatfs", "trusted"),
    ("gfs2 /dev/vg/lv rw", "trusted"),
    (NFS4 + "none,addr=10.0.0.1", "doubtful"),
    (NFS3.format("") + "none", "doubtful"),
    ("9p host rw,trans=virtio", "doubtful"),
    ("virtiofs home rw", "doubtful"),
    ("fuse.glusterfs srv:/vol rw", "doubtful"),
    (NFS4 + "all,addr=10.0.0.1", "refused"),
    (NFS3.format("") + "flock", "refused"),
    (NFS3.format("nolock,") + "none", "refused"),
    ("cifs //srv/home rw,vers=3.1.1", "refused"),
    ("smb3 //srv/home rw", "refused"),
    ("lustre 10.0.0.1@tcp:/fs rw,localflock", "refused"),
    ("gfs2 /dev/vg/lv rw,localflocks", "refused"),
    ("beegfs beegfs_nodev rw", "refused"),
    ("fuse /home/ada rw,user_id=0,default_permissions", "refused"),
    ("fuse.sshfs ada@srv: rw,user_id=1000", "refused"),
    ("fuse.s3fs s3fs rw", "refused"),
]


@pytest.mark.parametrize(("mount", "verdict"), MOUNTS, ids=lambda text: text.split(",local")[0][:30])
def test_a_file_system_is_judged_by_type_and_options(
    folder: Path, mounted: Callable[[str], None], mount: str, verdict: str
) -> None:
    mounted(mount)
    found = ground(folder)
    assert (found.kind, found.verdict) == (mount.split(" ", maxsplit=1)[0], verdict)


def test_every_row_says_why() -> None:
    assert all(row.why for row in module.FILE_SYSTEMS)


@pytest.mark.parametrize("fails", ["fdinfo", "mountinfo"])
def test_where_the_platform_says_nothing_a_folder_is_trusted_until_it_is_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def told(path: Path, *_: Any) -> str:
        if fails in str(path):
            raise FileNotFoundError(path)
        return "mnt_id:\t999999999\n"

    monkeypatch.setattr(Path, "read_text", told)
    assert ground(folder) == Ground("")


@pytest.mark.parametrize("told", ["pos:\t0\n", "mnt_id:\t999999999\n"])
def test_a_mount_that_is_not_listed_is_trusted_until_it_is_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_: told)
    assert ground(folder) == Ground("")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_the_mount_is_that_of_the_folder_itself() -> None:
    assert ground(Path("/proc/self")).kind == "proc"


def test_what_cannot_be_looked_up_now_is_looked_up_again(
    folder: Path, mounted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import loginonce.stores.file as file

    store = FileStore(folder)
    with monkeypatch.context() as patch:
        patch.setattr(file, "ground", lambda _: Ground(""))
        store.commit(a_grant(), expected=None)
    mounted("cifs //srv/home rw")
    with pytest.raises(StoreError, match="cifs"):
        store.try_lock(KEY)


@pytest.mark.hazard(16)
def test_a_refused_file_system_is_told_at_the_first_lock_with_what_to_do(
    folder: Path, mounted: Callable[[str], None]
) -> None:
    mounted(NFS4 + "all,addr=10.0.0.1")
    store = FileStore(folder)
    for use in (lambda: store.try_lock(KEY), lambda: store.commit(a_grant(), expected=None)):
        with pytest.raises(StoreError, match=r"\(nfs4\).*LOGINONCE_HOME .* local disk, or .*'file:.*\?lock=strict'"):
            use()
    assert os.listdir(folder) == []


def test_a_login_on_a_refused_file_system_can_still_be_read(folder: Path, mounted: Callable[[str], None]) -> None:
    FileStore(folder).commit(a_grant(), expected=None)
    mounted("cifs //srv/home rw")
    assert content(FileStore(folder).load(KEY).grant) == a_grant()


def test_the_strict_lock_can_be_had_where_flock_is_refused(folder: Path, mounted: Callable[[str], None]) -> None:
    mounted("fuse.sshfs ada@srv: rw")
    store = FileStore(folder, lock="strict")
    store.commit(a_grant(), expected=None)
    assert content(store.load(KEY).grant) == a_grant()


def test_a_doubtful_file_system_is_used_and_warned_of_once(
    folder: Path, mounted: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    mounted(NFS4 + "none")
    for store in (FileStore(folder), FileStore(folder)):
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
    (told,) = [record.getMessage() for record in caplog.records if record.name == "loginonce"]
    assert "LOGINONCE_HOME" in told
    assert f"file:{folder}?lock=strict" in told


@pytest.mark.parametrize(("mount", "trusted"), [("ext4 /dev/sda1 rw", True), (NFS4 + "none", False)])
def test_a_stamp_is_never_trusted_where_attributes_are_cached(
    folder: Path, mounted: Callable[[str], None], mount: str, trusted: bool
) -> None:
    FileStore(folder).commit(a_grant(), expected=None)
    settled(FileStore(folder))
    mounted(mount)
    assert FileStore(folder).load(KEY).settled is trusted


def test_the_file_system_is_looked_up_once_until_another_is_mounted_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import loginonce.stores.file as file

    looks: list[Path] = []
    monkeypatch.setattr(file, "ground", lambda path: looks.append(path) or Ground("ext4"))
    store = FileStore(folder)
    store.commit(a_grant(), expected=None)
    store.load(KEY)
    assert len(looks) == 1
    seen = os.stat(folder)
    store._on(os.stat_result((seen[0], seen[1], seen[2] + 1, *seen[3:])))
    assert len(looks) == 2


# What is tried out.


def test_a_flock_that_lets_everybody_in_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: None)
        store = FileStore(folder)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"lets everybody in.*LOGINONCE_HOME.*\?lock=strict"):
                store.try_lock(KEY)
    hold = store.try_lock(KEY)
    assert hold is not None
    hold.release()


def test_a_flock_is_tried_out_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loginonce.stores.file as file

    tried: list[str] = []
    monkeypatch.setattr(file, "excludes_itself", lambda path: tried.append(path) or True)
    store = FileStore(folder)
    store.commit(a_grant(), expected=None)
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert len(tried) == 1


def test_a_flock_that_cannot_be_tried_out_is_a_store_error_and_free_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import loginonce.stores.file as file

    def fail(_: str) -> bool:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    store = FileStore(folder)
    with monkeypatch.context() as patch:
        patch.setattr(file, "excludes_itself", fail)
        with pytest.raises(StoreError, match="Too many open files"):
            store.try_lock(KEY)
    hold = store.try_lock(KEY)
    assert hold is not None
    hold.release()


@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_a_hold_that_is_dropped_is_free_again(folder: Path, kind: Any) -> None:
    store = FileStore(folder, lock=kind)
    hold = store.try_lock(KEY)
    assert hold is not None
    assert store.try_lock(KEY) is None
    del hold
    again = store.try_lock(KEY)
    assert again is not None
    again.release()


# Two kinds in one folder.


@pytest.mark.parametrize(("first", "second"), [("flock", "strict"), ("strict", "flock")])
def test_who_wants_another_lock_than_the_folder_has_is_refused(folder: Path, first: Any, second: Any) -> None:
    FileStore(folder, lock=first).commit(a_grant(), expected=None)
    other = FileStore(folder, lock=second)
    with pytest.raises(StoreError, match=f"kept with lock={first}.*wants lock={second}.*lock={first}'"):
        other.try_lock(KEY)
    with pytest.raises(StoreError, match=f"kept with lock={first}"):
        other.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0))
    assert content(other.load(KEY).grant) == a_grant()


def test_of_two_kinds_that_begin_a_folder_at_once_one_is_used(folder: Path) -> None:
    """Both see no store id, and only one can make it."""
    strict, plain = FileStore(folder, lock="strict"), FileStore(folder)
    real = plain._store_id
    plain._store_id = lambda: strict._store_id() and real()  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="kept with lock=strict"):
        plain.try_lock(KEY)


# The lock that is made of files.


class TestStrictFileStore(StoreContract):
    threads = 8
    increments = 2

    @pytest.mark.slow
    @pytest.mark.parametrize("commits", [200])
    def test_no_settled_stamp_is_ever_seen_on_another_record(
        self, store: TokenStore, twin: TokenStore, commits: int
    ) -> None:
        super().test_no_settled_stamp_is_ever_seen_on_another_record(store, twin, commits)

    @pytest.mark.slow
    def test_a_reader_never_sees_the_order_fall(self, store: TokenStore, twin: TokenStore) -> None:
        super().test_a_reader_never_sees_the_order_fall(store, twin)

    @pytest.fixture
    def store(self, folder: Path) -> FileStore:
        return FileStore(folder, lock="strict")

    @pytest.fixture
    def twin(self, folder: Path) -> FileStore:
        return FileStore(folder, lock="strict")


@pytest.fixture
def strict(folder: Path) -> FileStore:
    store = FileStore(folder, lock="strict")
    store.commit(a_grant(), expected=None)
    return store


def test_all_that_a_strict_lock_makes_is_for_its_owner_alone(strict: FileStore, folder: Path) -> None:
    hold = strict.try_lock(KEY)
    assert hold is not None
    hold.release()
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def claims(store: FileStore, end: str = ".lock") -> list[Path]:
    return sorted(Path(f"{store.location(KEY).removesuffix('.login')}{end}.filelock", "claims").glob("*.claim"))


def another_holds(end: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that holds a strict lock until it is killed."""
    script = (
        "import sys, time\n"
        "from loginonce.stores.locks import take\n"
        "hold = take('strict', sys.argv[1])\n"
        "print(hold is not None, flush=True)\n"
        "time.sleep(120)\n"
    )
    path = FileStore(folder).location(KEY).removesuffix(".login") + end
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_a_claim_goes_with_its_owner_and_not_before(strict: FileStore, folder: Path) -> None:
    with another_holds(".lock", folder) as process:
        try:
            for claim in claims(strict):  # however old it seems
                os.utime(claim, (1.0, 1.0))
            assert strict.try_lock(KEY) is None
            process.send_signal(signal.SIGSTOP)
            assert strict.try_lock(KEY) is None
        finally:
            process.kill()
        process.wait()
    hold = strict.try_lock(KEY)
    assert hold is not None
    hold.release()
    assert claims(strict) == []


def test_a_strict_guard_is_free_once_its_holder_was_killed(strict: FileStore, folder: Path) -> None:
    with another_holds(".guard", folder) as process:
        process.kill()
        process.wait()
    strict.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))


@pytest.fixture
def foreign(strict: FileStore) -> Path:
    """The claim of a process of another machine, of which nobody can know here whether it lives."""
    hold = strict.try_lock(KEY)
    (held,) = [claim for claim in claims(strict) if claim.name.startswith("held")]
    magic, token, _, _, _, end = held.read_text().split("\n")
    told = "\n".join([magic, token, "4242", b"elsewhere".hex(), "7", end])
    names = [claim.name for claim in claims(strict)]
    assert hold is not None
    hold.release()
    for name in names:
        made = held.with_name(name)
        made.write_text(told)
        os.utime(made, (1.0, 1.0))
    return held


def test_a_claim_of_another_machine_is_never_removed(strict: FileStore, foreign: Path) -> None:
    for _ in range(3):
        assert strict.try_lock(KEY) is None
    assert foreign.exists()


def test_a_claim_of_another_machine_that_stays_is_told_of_with_what_to_do(
    strict: FileStore, foreign: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert strict.try_lock(KEY) is None
    assert caplog.text == ""
    monkeypatch.setattr(module, "LONG", 0.0)
    time.sleep(0.001)
    assert strict.try_lock(KEY) is None
    assert f"process 4242 of elsewhere.  If that machine has gone for good, and only then, run: rm -r {foreign.parents[1]}" in caplog.text  # fmt: skip  # noqa: E501
    subprocess.run(["rm", "-r", str(foreign.parents[1])], check=True)
    hold = strict.try_lock(KEY)
    assert hold is not None
    hold.release()


def test_where_nothing_proves_a_death_a_claim_stays(
    strict: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_holds(".lock", folder) as process:
        process.kill()
        process.wait()
    monkeypatch.setitem(sys.modules, "filelock._identity", None)
    assert strict.try_lock(KEY) is None
    monkeypatch.undo()
    hold = strict.try_lock(KEY)
    assert hold is not None
    hold.release()


def test_a_claim_that_cannot_be_understood_is_a_store_error_and_stays(strict: FileStore, foreign: Path) -> None:
    foreign.write_text("filelock-strict-v9\n")
    with pytest.raises(StoreError, match="malformed claim"):
        strict.try_lock(KEY)
    assert foreign.exists()


def test_a_claim_that_could_not_be_removed_is_removed_before_the_next_lock(
    strict: FileStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = strict.try_lock(KEY)
    assert hold is not None
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "unlink", fail)
        hold.release()
    assert "could not be released" in caplog.text
    assert claims(strict)
    again = strict.try_lock(KEY)
    assert again is not None
    again.release()
    assert claims(strict) == []


def test_a_strict_guard_that_is_held_too_long_is_a_lock_timeout(
    strict: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import loginonce.stores.file as file

    monkeypatch.setattr(file, "GUARD_TIMEOUT", 0.05)
    with another_holds(".guard", folder) as process:
        try:
            with pytest.raises(LockTimeout, match="has been held"):
                strict.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        finally:
            process.kill()
    assert strict.load(KEY).grant.order == (1, 0, 0)  # type: ignore[union-attr]


@pytest.mark.slow
def test_of_4_processes_that_try_all_the_time_two_never_hold_the_strict_lock(strict: FileStore, folder: Path) -> None:
    with SPAWN.Pool(4) as pool:
        results = pool.starmap(others.try_often, [(str(folder), 5.0, str(folder / "inside"), "strict")] * 4)
    assert sum(had for had, _ in results) > 50
    assert sum(intruders for _, intruders in results) == 0


@pytest.mark.slow
def test_compare_and_set_by_4_processes_with_the_strict_lock_loses_nothing(strict: FileStore, folder: Path) -> None:
    processes = [SPAWN.Process(target=others.count_up, args=(str(folder), 15, "strict")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert strict.load(KEY).grant.generation == 4 * 15  # type: ignore[union-attr]


def test_a_hold_of_before_a_fork_is_the_parents_alone(folder: Path) -> None:
    path = str(folder / "x.lock")
    hold = take("strict", path)
    assert hold is not None
    if (child := os.fork()) == 0:
        refused = take("strict", path) is None
        hold.release()
        os._exit(0 if refused and take("strict", path) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    hold.release()
    again = take("strict", path)
    assert again is not None
    again.release()


# Looking at a lock.


@pytest.fixture
def lock(folder: Path) -> str:
    path = str(folder / "login.lock")
    hold = take("flock", path)  # makes the file
    assert hold is not None
    hold.release()
    return path


def test_a_flock_that_somebody_has_is_seen_and_stays_theirs(lock: str) -> None:
    assert not taken(lock)
    hold = take("flock", lock)
    assert hold is not None
    assert taken(lock)
    assert excludes_itself(lock)
    hold.release()
    assert not taken(lock)


def test_a_lock_that_was_never_taken_is_free(folder: Path) -> None:
    assert not taken(str(folder / "none.lock"))
    assert os.listdir(folder) == []


def test_those_who_look_do_not_take_each_other_for_the_holder(lock: str) -> None:
    import fcntl

    with open(lock) as another_look:
        fcntl.flock(another_look, fcntl.LOCK_SH)
        assert not taken(lock)


def test_where_a_lock_cannot_be_looked_at_only_a_try_tells(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    hold = take("flock", lock)
    assert hold is not None
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refused)
        assert not taken(lock)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fcntl", None)
        assert not taken(lock)
    assert taken(lock)
    hold.release()


def test_a_strict_lock_is_not_looked_at(strict: FileStore) -> None:
    hold = strict.try_lock(KEY)
    assert hold is not None
    assert not strict.locked(KEY)
    hold.release()


def test_where_attributes_are_cached_nobody_relies_on_being_told(folder: Path, mounted: Callable[[str], None]) -> None:
    mounted(f"{NFS4}none")
    assert type(FileStore(folder).lookout(KEY)) is Lookout


def test_a_look_that_a_forked_child_shares_holds_nothing(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as forked:
        left: list[int] = []
        forked.setattr(os, "close", left.append)  # as a child keeps a copy of the descriptor open
        assert not taken(lock)
    hold = take("flock", lock)
    assert hold is not None
    hold.release()
    os.close(*left)


def test_a_lock_that_would_not_be_released_is_never_used_again(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = take("flock", lock)
    assert hold is not None
    stubborn = hold._lock

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(stubborn, "release", refuse)
        hold.release()
    another = take("flock", f"{lock}.other")  # which releases what is left
    assert another is not None
    assert not taken(lock)
    assert stubborn not in module._idle.values()
    another.release()


def test_a_hold_that_a_forked_child_releases_leaves_it_no_lock_of_its_parent(folder: Path) -> None:
    store = FileStore(folder)
    hold = store.try_lock(KEY)
    assert hold is not None
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hold.release()
            code = 0 if store.try_lock(KEY) is None else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    hold.release()


def test_where_attributes_are_cached_the_identity_of_the_store_is_read_each_time(
    folder: Path, mounted: Callable[[str], None]
) -> None:
    mounted(f"{NFS4}none")
    store = FileStore(folder, lock="strict")
    store.commit(a_grant(), expected=None)
    time.sleep(0.06)
    assert store.load(KEY).grant is not None
    assert store._known_id is None
