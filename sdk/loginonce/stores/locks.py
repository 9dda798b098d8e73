"""The two locks that a file store can take, and on which file systems the first of them can be trusted.

`flock` is the operating system's: when a process dies, so does its hold, and nothing has to judge whether a
holder is still alive (HAZARDS 10).  It is the kernel of one machine that keeps it, so whether it excludes
another machine is a property of the file system (HAZARDS 16): `FILE_SYSTEMS` says what is known.

`strict` is made of files (filelock's `StrictSoftFileLock`), and needs no more than that a hard link to a name that
is taken fails, on every machine.  It is slower, and a claim outlives a holder that was killed.  One is removed
only on proof that its owner is dead, which means: by a process on the owner's machine.  The claim of a machine
that never comes back is removed by hand; none is ever removed for its age.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import StoreError
from ..home import at_fork_in_child
from ..log import log
from ..value import Value

if TYPE_CHECKING:
    from filelock import BaseFileLock, StrictSoftFileLock

__all__ = ["Ground", "Hold", "LockKind", "excludes_itself", "ground", "refuse_unless_trusted", "take", "taken"]

LockKind: TypeAlias = "Literal['flock', 'strict']"


# ── where a lock of this machine keeps others out ────────────────────────────────────────────────────────


class Ground(Value):
    """The file system under a folder: its type ("" = not known), and what to think of a `flock` there.

    `trusted`: it excludes everybody who can reach the folder, and a `stat` shows every change at once.
    `doubtful`: it does as far as can be seen from here; attributes may be cached, so a `stat` proves nothing.
    `refused`: it keeps out this machine, or this mount, only.
    """

    kind: str
    verdict: Literal["trusted", "doubtful", "refused"] = "trusted"
    why: str = ""


class _Row(Value):
    kinds: str  # types; one that ends in a dot stands for all that begin so
    options: str  # a mount has one of these, or "" for any mount
    verdict: Literal["trusted", "doubtful", "refused"]
    why: str


FILE_SYSTEMS = (
    # nfs(5): the default, local_lock=none, sends flock to the server as a byte-range lock (Linux ≥ 2.6.12).
    _Row(
        "nfs nfs4",
        "nolock local_lock=all local_lock=flock",
        "refused",
        "its mount options keep locks on each machine, nfs(5)",
    ),
    _Row("nfs nfs4", "", "doubtful", "the server keeps the locks; a machine that mounts it with `nolock` ignores them"),
    # mount.cifs(8): `nobrl` keeps locks here; without it flock reaches the server only since Linux 5.5.
    _Row("cifs smb3 smbfs", "", "refused", "a flock reaches the server only by some kernels and mount options"),
    _Row("lustre", "localflock noflock", "refused", "it is mounted with locks on each machine, mount.lustre(8)"),
    _Row("gfs2", "localflocks", "refused", "its mount option localflocks keeps locks on each machine, gfs2(5)"),
    _Row("beegfs beegfs_nodev", "", "refused", "its locks stay on each machine unless tuneUseGlobalFileLocks is set"),
    _Row("afs kafs", "", "doubtful", "the server keeps the locks, and forgets those of a machine it cannot reach"),
    # Their servers are another system on the same machine; QEMU's 9p grants every lock.
    _Row("9p virtiofs vboxsf prl_fs vmhgfs", "", "doubtful", "locks do not reach the machine that this folder is from"),
    # FUSE hands a flock on only if the file system asks for it (FUSE_FLOCK_LOCKS), which nothing shows.
    _Row(
        "fuse.glusterfs fuse.ceph fuse.ceph-fuse",
        "",
        "doubtful",
        "the servers keep the locks of the machines they reach",
    ),
    _Row(
        "fuseblk fuse.fuse-overlayfs fuse.gocryptfs fuse.cryfs fuse.encfs fuse.securefs fuse.ecryptfs fuse.mergerfs "
        "fuse.snapfuse",
        "",
        "trusted",
        "a layer over disks of this machine",
    ),
    _Row("fuse fuse.", "", "refused", "a flock stays within one FUSE mount unless the file system handles it"),
)
"""What is known of file systems that several machines, or several mounts, may share; the first row that fits counts.

One that is in none is taken for a disk of this machine.  Lustre without its `flock` option, and cluster file
systems that have none, answer ENOSYS themselves.
"""


def ground(folder: Path) -> Ground:
    """What the folder is on, as far as the platform says it: Linux does, others are only put to the test."""
    found = _mount(folder)
    if found is None:
        return Ground("")
    kind, options = found
    for row in FILE_SYSTEMS:
        family = kind.partition(".")[0] + "."
        if {kind, family} & set(row.kinds.split()) and (not row.options or set(options) & set(row.options.split())):
            return Ground(kind, row.verdict, row.why)
    return Ground(kind)


def _mount(folder: Path) -> tuple[str, list[str]] | None:
    """Type and options of the mount that the folder is on (proc(5), mountinfo); by its number, not its path."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            told = Path(f"/proc/self/fdinfo/{descriptor}").read_text("utf-8", "replace")
        finally:
            os.close(descriptor)
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace")
    except OSError:  # not Linux, or no /proc
        return None
    number = next((line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:")), None)
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        if number is not None and head.startswith(f"{number} "):
            kind, _, options = tail.split(" ", 2)
            return kind, [*head.split(" ")[5].split(","), *options.split(",")]
    return None


_warned: set[str] = set()


def refuse_unless_trusted(folder: Path, on: Ground) -> None:
    """Raise `StoreError`, with the alternatives, where `flock` may let two machines in; log a doubt once."""
    if on.verdict == "refused":
        raise StoreError(
            f"{folder} is on a file system ({on.kind}) where two machines could renew one login at the same time, "
            f"and lose it: {on.why}.  Set LOGINONCE_HOME to a folder on a local disk, or choose on every machine the "
            f"lock that is made of files, store={f'file:{folder}?lock=strict'!r}, or a server, store='redis://…' or "
            "'postgresql://…'"
        )
    if on.verdict == "doubtful" and str(folder) not in _warned:
        _warned.add(str(folder))
        log.warning(
            "%s is on %s (%s).  If several machines use it, set LOGINONCE_HOME to a folder on a local disk, or "
            "choose store='file:%s?lock=strict' on all of them",
            folder,
            on.kind,
            on.why,
            folder,
        )


# ── taking one ───────────────────────────────────────────────────────────────────────────────────────────

_mutexes: dict[str, threading.Lock] = {}


class Hold:
    """A lock that was taken, until it is released."""

    lease = False  # it ends with its release, or with its process: at once, or once that is proven

    def __init__(self, lock: BaseFileLock, mutex: threading.Lock) -> None:
        self._lock = lock
        self._mutex: threading.Lock | None = mutex

    def release(self) -> None:
        """Let the next one in, once.  Never raises."""
        mutex, self._mutex = self._mutex, None
        if mutex is None:
            return
        path = self._lock.lock_file
        try:
            if _released(self._lock) and _mutexes.get(path) is mutex:  # not where a child was forked meanwhile
                _idle[path] = self._lock
        finally:
            mutex.release()

    def __del__(self) -> None:
        # An interrupt may come between taking a lock and using it; filelock frees what is dropped in the same way.
        self.release()


def take(kind: LockKind, path: str, *, timeout: float = 0.0) -> Hold | None:
    """That lock, or None if it could not be had in so many seconds.  Not re-entrant.  Raises `OSError`.

    The threads of this process take turns before the lock is tried: polling it, they would starve each other, and
    of several that try a strict lock at once none may get it.
    """
    mutex = _mutexes.get(path) or _mutexes.setdefault(path, threading.Lock())
    if not mutex.acquire(timeout=timeout):
        return None
    hold = None
    try:
        for unreleased in _unreleased.copy():
            _released(unreleased)
        lock = _flock(path, timeout) if kind == "flock" else _strict(path, timeout)
        hold = None if lock is None else Hold(lock, mutex)
        return hold
    finally:
        if hold is None:
            mutex.release()


def taken(path: str) -> bool:
    """Whether somebody has the `flock` on that path, for a fraction of what it takes to try it in vain.

    False also where that cannot be seen.
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return False
    try:
        # A shared one, so that those who look do not get into each other's way; and given back by name, since a child
        # that is forked just now has this descriptor too.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def excludes_itself(path: str) -> bool:
    """Whether a `flock` that is held on that path is refused to a second descriptor: on some it never is."""
    second = _flock(path, 0.0)
    if second is not None:
        _released(second)
    return second is None


def _flock(path: str, timeout: float) -> BaseFileLock | None:
    # Imported here: a login that is only used, not renewed, needs no lock.
    from filelock import FileLock

    # An object that nobody else has meanwhile: one that is shared is re-entrant, and admits every thread (HAZARDS
    # 14).  No soft lock where flock is missing: it would be judged by age (HAZARDS 17).  The file stays:
    # deleting it would let two processes lock two files.
    lock = _idle.pop(path, None)
    if not isinstance(lock, FileLock):
        lock = FileLock(
            path,
            mode=0o600,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
            poll_interval=0.002,
        )
    return _acquired(lock, timeout)


_idle: dict[str, BaseFileLock] = {}
"""Those that were released and nobody has: to make one takes as long as to take it."""


def _strict(path: str, timeout: float) -> BaseFileLock | None:
    from filelock import StrictSoftFileLock

    lock = StrictSoftFileLock(path, mode=0o600, thread_local=False, poll_interval=0.005)
    _bury_the_dead(lock)
    acquired = _acquired(lock, timeout)
    if acquired is None:
        _tell_of_claims(lock, path)
    return acquired


def _acquired(lock: BaseFileLock, timeout: float) -> BaseFileLock | None:
    from filelock import Timeout

    try:
        lock.acquire(timeout=timeout, blocking=timeout > 0)
    except Timeout:
        return None
    return lock


_unreleased: list[BaseFileLock] = []
"""Locks that the file system would not release: nobody else can do it as long as this process lives."""


def _released(lock: BaseFileLock) -> bool:
    with suppress(ValueError):
        _unreleased.remove(lock)
    try:
        lock.release()
    except Exception as error:  # one, or a group of them
        log.warning("the lock %s could not be released: %s", lock.lock_file, error)
        _unreleased.append(lock)
        return False
    return True


def _bury_the_dead(lock: StrictSoftFileLock) -> None:
    """Remove the claims of processes of this machine that are known to be gone.

    filelock leaves that to its user, and knows the proof: the same host, boot and process-id namespace, and no
    process of that number and start time.
    """
    claims = lock.claims
    if not claims:
        return
    try:
        from filelock._identity import owner_is_stale
    except ImportError:  # no public name: where it has gone, nobody is proven dead
        return
    for claim in claims:
        if owner_is_stale(claim.pid, claim.hostname, claim.start):
            log.info("removing the claim of process %d, which has ended, on %s", claim.pid, lock.lock_file)
            with suppress(FileNotFoundError):  # another one was quicker
                lock.force_break(claim.name)


LONG = 25.0
"""Seconds for which this process has found the same claim, before it tells people whose it is."""

_seen: dict[str, float] = {}


def _tell_of_claims(lock: StrictSoftFileLock, path: str) -> None:
    import shlex

    now = time.monotonic()
    with suppress(OSError):
        for claim in lock.claims:
            if claim.state == "held" and now - _seen.setdefault(claim.name, now) > LONG:
                _seen[claim.name] = now
                log.warning(
                    "%s has been held for a while by process %d of %s.  If that machine has gone for good, and "
                    "only then, run: rm -r %s",
                    path,
                    claim.pid,
                    claim.hostname,
                    shlex.quote(f"{path}.filelock"),
                )


at_fork_in_child(_mutexes.clear)
at_fork_in_child(_unreleased.clear)
at_fork_in_child(_idle.clear)
