"""Logins as files: one record, one lock and one guard for each, in a folder that only its owner can enter.

    <login>.login   the record; replaced as a whole (temp → fsync → replace → fsync of the folder), never edited
    <login>.lock    held while a refresh token is spent, for as long as the provider takes; never deleted
    <login>.guard   held for the milliseconds of a compare-and-replace; never deleted
    <login>.room    space reserved before a token is spent, so that the answer can be saved on a full disk
    store-id        tells this folder from another one that its files were copied to

Both locks are the operating system's (`flock`, by way of filelock): when a process dies, so does its hold, and
nothing has to judge by age whether a holder is still alive (HAZARDS 10).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shlex
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import CorruptStore, LockTimeout, StoreError
from ..home import at_fork_in_child
from ..model import Grant, GrantKey, Order
from ..record import decode, encode
from .base import Hold, OrderConflict, Snapshot, Stamp, TokenStore

__all__ = ["FileStore", "read_private", "write_private"]

GRANULARITY_NS = 50_000_000
"""A change stamp younger than this is not trusted: kernels stamp files by a clock that ticks every 1 to 10 ms."""

GUARD_TIMEOUT = 5.0
"""Seconds; a guard is held for a few milliseconds, so more than this means that something is wrong."""

ROOM = 64 * 1024
"""Bytes reserved for an answer, or twice the present record if that is more."""


class FileStore(TokenStore):
    """Logins in a folder (mode 0700), each a file (mode 0600) that every process of its owner shares."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # The folder may be reached by a symbolic link; from here on only the real one counts (HAZARDS 20).
        self._folder = Path(os.path.realpath(os.path.expanduser(folder)))
        self.identity = f"file:{self._folder}"
        self._paths: dict[GrantKey, str] = {}

    def __repr__(self) -> str:
        return f"FileStore({str(self._folder)!r})"

    def stamp(self, key: GrantKey) -> Stamp:
        """(mtime_ns, inode, size) by one `stat`."""
        try:
            seen = os.lstat(self._path(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self._path(key), error) from None
        return (seen.st_mtime_ns, seen.st_ino, seen.st_size)

    def load(self, key: GrantKey) -> Snapshot:
        """The record; a damaged or foreign one is set aside, and told of once by `CorruptStore`."""
        path = self._path(key)
        try:
            return self._read(path, key)
        except CorruptStore:
            with self._guard(key):
                try:
                    return self._read(path, key)  # it may have been mended in the meantime
                except CorruptStore as error:
                    aside = self._set_aside(path)
                    raise CorruptStore(
                        f"the saved login for {key} was damaged: {error}.  The file is kept as {aside}; sign in again"
                    ) from None

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Compare and replace, durably."""
        path = self._path(grant.key)
        self._make_folder()
        with self._guard(grant.key):
            try:
                current = self._read(path, grant.key).grant
            except CorruptStore:
                self._set_aside(path)
                current = None
            if (current.order if current else None) != expected:
                raise OrderConflict(current=current)
            try:
                data = encode(replace(grant, store=self._store_id()))
                if reserve:
                    _reserve(path + ".room", max(ROOM, 2 * len(data)))
                    written = _write(path + ".next", data)
                else:
                    # Into the reserved file where there is one: the same, but it cannot run out of space.
                    room = path + ".room"
                    written = _write(room if os.path.lexists(room) else path + ".next", data)
                seen = os.stat(written)
                os.replace(written, path)
                _sync_folder(self._folder)
            except OSError as error:
                raise _unusable(path, error) from None
            return (seen.st_mtime_ns, seen.st_ino, seen.st_size)

    def try_lock(self, key: GrantKey) -> Hold | None:
        """The login's `flock`."""
        self._make_folder()
        return _try_flock(self._path(key).removesuffix(".login") + ".lock", timeout=0)

    def grants(self) -> Iterator[Grant]:
        """All readable records of the folder."""
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(str(self._folder), error) from None
        for name in names:
            if name.endswith(".login"):
                with suppress(StoreError):
                    grant = self._read(str(self._folder / name), None).grant
                    if grant is not None:
                        yield grant

    def location(self, key: GrantKey) -> str:
        """The path of the file."""
        return self._path(key)

    def _path(self, key: GrantKey) -> str:
        path = self._paths.get(key)
        if path is None:
            digest = hashlib.sha256(json.dumps([key.issuer, key.client_id, key.account]).encode()).hexdigest()
            readable = re.sub(r"[^a-z0-9]+", "-", f"{urlsplit(key.issuer).hostname}-{key.client_id}".lower())
            path = self._paths[key] = str(self._folder / f"{readable[:60]}-{digest[:16]}.login")
        return path

    def _read(self, path: str, key: GrantKey | None) -> Snapshot:
        """The record at that path, of that login (None: of any)."""
        try:
            found = read_private(path)
            if found is None:
                return Snapshot(None, None, settled=True)
            _refuse_shared(str(self._folder), os.stat(self._folder))
            store_id = self._store_id(create=False)
        except OSError as error:
            raise _unusable(path, error) from None
        data, seen = found
        try:
            grant = decode(data)
        except CorruptStore:
            raise
        except StoreError as error:
            raise StoreError(f"{path} cannot be read: {error}") from None
        if grant.store != store_id:
            raise CorruptStore("it was copied here from another store, where its refresh token may be in use")
        if key not in (None, grant.key):
            raise CorruptStore("it is that of another login")
        age = time.time_ns() - seen.st_mtime_ns
        return Snapshot(grant, (seen.st_mtime_ns, seen.st_ino, seen.st_size), settled=age > GRANULARITY_NS)

    def _set_aside(self, path: str) -> str:
        aside = f"{path}.broken-{time.time_ns()}"
        try:
            os.replace(path, aside)
        except OSError as error:
            raise _unusable(path, error) from None
        return aside

    def _store_id(self, *, create: bool = True) -> str:
        path = str(self._folder / "store-id")
        found = read_private(path)
        if found is None and create:
            write_private(path, secrets.token_hex(16).encode(), exclusive=True)
            found = read_private(path)
        return found[0].decode("ascii", "replace") if found else ""

    def _make_folder(self) -> None:
        try:
            seen = _private_folder(self._folder)
        except OSError as error:
            raise _unusable(str(self._folder), error) from None
        _refuse_shared(str(self._folder), seen)

    @contextmanager
    def _guard(self, key: GrantKey) -> Iterator[None]:
        path = self._path(key).removesuffix(".login") + ".guard"
        # The threads of this process take turns first: polling one flock, they would starve each other.
        mutex = _mutexes.get(path) or _mutexes.setdefault(path, threading.Lock())
        hold = None
        if mutex.acquire(timeout=GUARD_TIMEOUT):
            try:
                if (hold := _try_flock(path, timeout=GUARD_TIMEOUT)) is not None:
                    yield
            finally:
                if hold is not None:
                    hold.release()
                mutex.release()
        if hold is None:
            raise LockTimeout(f"{path} has been held for {GUARD_TIMEOUT:.0f} seconds; look for a stopped process")


_mutexes: dict[str, threading.Lock] = {}

at_fork_in_child(_mutexes.clear)


class _Flock:
    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def release(self) -> None:
        """Let the next process in.  The file stays: deleting it would let two processes lock two files."""
        with suppress(OSError):
            self._lock.release()


def _try_flock(path: str, *, timeout: float) -> _Flock | None:
    # Imported here: a login that is only used, not renewed, needs no lock.
    from filelock import FileLock, Timeout

    # A fresh object for each acquisition: one that is shared is re-entrant, and admits every thread (HAZARDS
    # 14).  No soft lock where flock is missing: it would be judged by age (HAZARDS 17).
    lock = FileLock(
        path,
        mode=0o600,
        thread_local=False,
        fallback_to_soft=False,
        preserve_lock_file=True,
        poll_interval=0.002,
    )
    try:
        lock.acquire(timeout=timeout, blocking=timeout > 0)
    except Timeout:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    return _Flock(lock)


# ── private files ────────────────────────────────────────────────────────────────────────────────────────

_CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
"""No link is followed, and nobody is waited for at the other end of a pipe."""


def read_private(path: str) -> tuple[bytes, os.stat_result] | None:
    """The content of a file that is ours alone, with its `stat`; None if there is none.

    Raises `StoreError` where it is a link, somebody else's, or open to others, and `OSError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _CAREFULLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path} is a symbolic link: a login is not read through one; remove it") from None
        raise
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise StoreError(f"{path} is not a file: move it away")
        _refuse_shared(path, seen)
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts), seen
    finally:
        os.close(descriptor)


def write_private(path: str, data: bytes, *, exclusive: bool = False) -> None:
    """Make this the content of a file that is ours alone, durably and as a whole.

    `exclusive`: leave the file as it is if there is one.  Raises `OSError`.
    """
    folder = Path(path).parent
    _private_folder(folder)
    written = _write(f"{path}.{secrets.token_hex(4)}", data)
    try:
        if exclusive:
            with suppress(FileExistsError):
                os.link(written, path)
        else:
            os.replace(written, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(written)
    _sync_folder(folder)


def _private_folder(folder: Path) -> os.stat_result:
    try:
        return os.stat(folder)
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # whatever the umask took away
        return os.stat(folder)


def _refuse_shared(path: str, seen: os.stat_result) -> None:
    """Raise `StoreError` where others than we could read or change what is there (HAZARDS 18)."""
    if not hasattr(os, "geteuid"):  # Windows: the profile's access list decides
        return
    _refuse_foreign(path, seen)
    if seen.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(seen.st_mode) else "600"
        raise StoreError(
            f"{path} is open to other users (mode {stat.S_IMODE(seen.st_mode):04o}).  "
            f"Run: chmod {mode} {shlex.quote(path)}"
        )


def _refuse_foreign(path: str, seen: os.stat_result) -> None:
    if hasattr(os, "geteuid") and seen.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to another user (uid {seen.st_uid}, we are {os.geteuid()}): it is not trusted.  "
            f"Move it away, or set LOGINONCE_HOME to a folder of your own"
        )


def _write(path: str, data: bytes) -> str:
    """Write and fsync; an existing file keeps its place on the disk until its new content is in it."""
    try:
        with _opened(path) as descriptor:
            _put(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
    except OSError:
        if not path.endswith(".room"):  # whose space is still needed
            _remove(path)  # what could not be written whole only takes up space
        raise
    return path


def _reserve(path: str, size: int) -> None:
    """Make sure that so many bytes can be written to that file later, whatever happens to the disk."""
    try:
        with _opened(path) as descriptor:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except (AttributeError, OSError) as error:
                if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                _put(descriptor, bytes(size))  # the platform, or this file system, has no other way
    except OSError:
        _remove(path)
        raise


@contextmanager
def _opened(path: str) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | _CAREFULLY
    descriptor = os.open(path, flags, 0o600)
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
            raise StoreError(f"{path} is not a file of its own: move it away")
        _refuse_foreign(path, seen)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)  # whatever the umask took away, or a leftover had
        yield descriptor
    finally:
        os.close(descriptor)


def _put(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; the rename is durable with the file
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: str, error: OSError) -> StoreError:
    """The same failure, for people."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "your quota is used up; free some space",
        errno.EROFS: "it is on a read-only file system; set LOGINONCE_HOME to a folder that can be written",
        errno.EACCES: "permission was refused; check the owner and mode of the folder",
        errno.ELOOP: "it is a symbolic link; remove it",
        errno.ENOSYS: "this file system has no locks; set LOGINONCE_HOME to a folder on a local disk",
        errno.EOPNOTSUPP: "this file system has no locks; set LOGINONCE_HOME to a folder on a local disk",
    }
    why = advice.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return StoreError(f"{path} cannot be used: {why}")
