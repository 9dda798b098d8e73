"""Logins as files: one record, one lock and one guard for each, in a folder that only its owner can enter.

    <login>.login   the record; replaced as a whole (temp → fsync → replace → fsync of the folder), never edited
    <login>.lock    held while a refresh token is spent, for as long as the provider takes; never deleted
    <login>.guard   held for the milliseconds of a compare-and-replace; never deleted
    <login>.bell    a pipe, there while the lock is held: its end tells the others to look (see `bell`)
    <login>.notice  what a program shows that asks a person to sign in, for the others to show the same
    <login>.login.next   what is about to become the record; left by a crash, it is written over
    <login>.room    space reserved before a token is spent, so that the answer can be saved on a full disk
    store-id        tells this folder from another one that its files were copied to, and which lock is used here

Both locks are of the kind that `locks` explains: `flock`, or `strict` for a folder that machines share.

Space.  The room is allocated before the marker is written, and the answer is written into it: on ext4, xfs, btrfs and
tmpfs that cannot run out of space.  Where nothing can be allocated (ZFS, NFS before 4.2, FUSE) it is filled, which a
file system that compresses or copies on write need not honour; and a btrfs quota charges for its own tables too.
An answer that cannot be saved is kept in memory, used, and saved when there is space again (`source`).

Copies.  A record that is copied into another folder is known by its store id.  A folder that is copied whole,
with its `store-id`, is not.  Nothing that a program can see tells a copy from what was moved: inode and device
change when a home moves to a new disk or comes out of a backup, and do not when a disk is cloned, a snapshot
taken or an image started twice; machine and boot identities differ for a home that machines share, and agree
in clones.  Any of them would sign people out who did nothing wrong, and miss the copies that matter.  A folder put
back to an earlier state is noticed by each process that has seen a later one (`refresh.decide`); the others,
and a copy that runs beside its original, learn it from the provider's refusal.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from ..errors import CorruptStore, LockTimeout, StoreError
from ..model import Grant, GrantKey, Order
from ..record import Unshown, decode, encode
from ..value import replace
from .base import Hold, Lookout, OrderConflict, Snapshot, Stamp, TokenStore
from .locks import Ground, LockKind, excludes_itself, ground, refuse_unless_trusted, take, taken

if TYPE_CHECKING:
    from .bell import Bell, Ear

__all__ = ["FileStore", "read_private", "write_private"]

GRANULARITY_NS = 50_000_000
"""A change stamp younger than this is not trusted: kernels stamp files by a clock that ticks every 1 to 10 ms."""

GUARD_TIMEOUT = 5.0
"""Seconds; a guard is held for a few milliseconds, so more than this means that something is wrong."""

ROOM = 64 * 1024
"""Bytes reserved for an answer, or twice the present record if that is more."""


class FileStore(TokenStore):
    """Logins in a folder (mode 0700), each a file (mode 0600) that every process of its owner shares.

    `lock`: "flock" on a disk of this machine; "strict" in a folder that several machines share (see `locks`).
    All who use a folder use the same one; the first decides.
    """

    def __init__(self, folder: str | os.PathLike[str], *, lock: LockKind = "flock") -> None:
        # The folder may be reached by a symbolic link; from here on only the real one counts (HAZARDS 20).
        self._folder = Path(os.path.realpath(os.path.expanduser(folder)))
        self.identity = f"file:{self._folder}"
        self._lock_kind = lock
        self._paths: dict[GrantKey, str] = {}
        self._known_id: tuple[tuple[int, int], str] | None = None
        self._bells: WeakValueDictionary[GrantKey, Bell] = WeakValueDictionary()  # each is its hold's
        self._last: tuple[str, bytes, Grant] | None = None
        self._ground: tuple[int, Ground] | None = None  # by device: another disk may be mounted over it
        self._tested = lock != "flock"

    def __repr__(self) -> str:
        return f"FileStore({str(self._folder)!r})"

    def __getstate__(self) -> dict[str, object]:
        # No secrets are pickled, and no lock that is held.
        return {name: kept for name, kept in {**self.__dict__, "_last": None}.items() if name != "_bells"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._bells = WeakValueDictionary()

    def stamp(self, key: GrantKey) -> Stamp:
        """(mtime_ns, inode, size) by one `stat`."""
        try:
            seen = os.lstat(self._path(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self._path(key), error) from None
        return _stamp(seen)

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

    def peek(self, key: GrantKey) -> Snapshot:
        """The record, and nothing is set aside."""
        return self._read(self._path(key), key)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Compare and replace, durably."""
        path = self._path(grant.key)
        with self._guard(grant.key):
            try:
                current = self._read(path, grant.key).grant
            except CorruptStore:
                self._set_aside(path)
                current = None
            if (current.order if current else None) != expected:
                raise OrderConflict(current=current)
            try:
                kept = replace(grant, store=self._store_id())
                data = encode(kept)
                room = path + ".room"
                if reserve:
                    _reserve(room, max(ROOM, 2 * len(data)))
                # An answer goes into the reserved file where there is one: the same, but it cannot run out of space.
                written = _write(room if not reserve and os.path.lexists(room) else path + ".next", data)
                seen = os.stat(written)
                os.replace(written, path)
                if not reserve and (bell := self._bells.get(grant.key)):  # a marker is no news to who waits
                    bell.ring()
                _sync_folder(self._folder)
            except OSError as error:
                raise _unusable(path, error) from None
            self._last = (path, hashlib.sha256(data).digest(), kept)
            return _stamp(seen)

    def try_lock(self, key: GrantKey) -> Hold | None:
        """The login's lock.  Raises `StoreError` where it might not keep others out (see `locks`)."""
        hold = self._locked(self._beside(key, ".lock"), timeout=0.0)
        if hold is None or not self._within_earshot():
            return hold
        from .bell import Bell

        with suppress(OSError):
            bell = self._bells[key] = Bell(self._beside(key, ".bell"))
            return _Heard(hold, bell)
        return hold  # without it the others look now and then

    def locked(self, key: GrantKey) -> bool:
        """Whether somebody has it, which a `flock` shows at once."""
        return self._lock_kind == "flock" and taken(self._beside(key, ".lock"))

    def lookout(self, key: GrantKey) -> Lookout:
        """Who is told by the holder of the lock, where its bell can be heard."""
        if not self._within_earshot():
            return super().lookout(key)
        return _Listener(self, key, self._beside(key, ".bell"), sees_lock=self._lock_kind == "flock")

    def _within_earshot(self) -> bool:
        """Whether all who share this folder are processes of one machine, as far as is known, that can hear a bell."""
        from .bell import can_be_heard

        with suppress(OSError):
            return can_be_heard() and self._on(os.stat(self._folder)).verdict == "trusted"
        return False

    def notice(self, key: GrantKey) -> bytes | None:
        """The content of the notice's file."""
        path = self._beside(key, ".notice")
        try:
            found = read_private(path)
        except OSError as error:
            raise _unusable(path, error) from None
        return found[0] if found else None

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Compare and replace, as a whole but not durably."""
        path = self._beside(key, ".notice")
        with self._guard(key):
            if self.notice(key) != instead_of:
                return False
            try:
                if notice is not None:
                    os.replace(_write(path + ".next", notice, durable=False), path)
                elif instead_of is not None:
                    os.unlink(path)
            except OSError as error:
                raise _unusable(path, error) from None
            return True

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

    def _beside(self, key: GrantKey, suffix: str) -> str:
        return self._path(key).removesuffix(".login") + suffix

    def _read(self, path: str, key: GrantKey | None) -> Snapshot:
        """The record at that path, of that login (None: of any)."""
        try:
            found = read_private(path)
            if found is None:
                return Snapshot(None, None, settled=True)
            folder = os.stat(self._folder)
            _refuse_shared(str(self._folder), folder)
            store_id = self._store_id(create=False)
        except OSError as error:
            raise _unusable(path, error) from None
        data, seen = found
        try:
            grant = self._decoded(path, data)
        except CorruptStore:
            raise
        except StoreError as error:
            raise StoreError(f"{path} cannot be read: {error}") from None
        if grant.store != store_id:
            raise CorruptStore("it was copied here from another store, where its refresh token may be in use")
        if key not in (None, grant.key):
            raise CorruptStore("it is that of another login")
        age = time.time_ns() - seen.st_mtime_ns
        # Where attributes are cached, an unchanged stamp proves nothing: every look has to read the file.
        settled = age > GRANULARITY_NS and self._on(folder).verdict == "trusted"
        return Snapshot(grant, _stamp(seen), settled=settled)

    def _decoded(self, path: str, data: bytes) -> Grant:
        """Decoded once: until its stamp has settled everybody reads a record at each look."""
        last, digest = self._last, hashlib.sha256(data).digest()
        if last is None or last[:2] != (path, digest):
            last = self._last = (path, digest, decode(data))
        return last[2]

    def _set_aside(self, path: str) -> str:
        aside = f"{path}.broken-{time.time_ns()}"
        try:
            os.replace(path, aside)
        except OSError as error:
            raise _unusable(path, error) from None
        return aside

    def _store_id(self, *, create: bool = True) -> str:
        path = f"{self._folder}/store-id"
        known = self._known_id
        with suppress(FileNotFoundError):
            if known is not None and known[0] == _version(os.lstat(path)):
                return known[1]
        found = read_private(path)
        if found is None and create:
            made = os.urandom(16).hex() + ("" if self._lock_kind == "flock" else f"-{self._lock_kind}")
            write_private(path, made.encode(), exclusive=True)
            found = read_private(path)
        if found is None:
            return ""
        data, seen = found
        identity = data.decode("ascii", "replace")
        settled = time.time_ns() - seen.st_ctime_ns > GRANULARITY_NS
        if settled and self._on(os.stat(self._folder)).verdict == "trusted":  # as for the record's own stamp
            self._known_id = (_version(seen), identity)
        return identity

    def _on(self, folder: os.stat_result) -> Ground:
        """The file system of the folder, looked up once where that can be done."""
        if self._ground is not None and self._ground[0] == folder.st_dev:
            return self._ground[1]
        found = ground(self._folder)
        if found.kind:
            self._ground = (folder.st_dev, found)
        return found

    def _locked(self, path: str, *, timeout: float) -> Hold | None:
        """The lock on that path, if it can be had in time.  Raises `StoreError` where it might not exclude."""
        try:
            folder = _private_folder(self._folder)
            _refuse_shared(str(self._folder), folder)
            if self._lock_kind == "flock":
                refuse_unless_trusted(self._folder, self._on(folder))
            self._refuse_another_kind(self._store_id())
            hold = take(self._lock_kind, path, timeout=timeout)
            if hold is not None and not self._tested:
                self._try_out(path, hold)
        except OSError as error:
            raise _unusable(path, error) from None
        return hold

    def _try_out(self, path: str, hold: Hold) -> None:
        """Some file systems say that they lock, and don't."""
        try:
            if not excludes_itself(path):
                raise StoreError(
                    f"{path}: this file system says that it locks, and then lets everybody in.  Set LOGINONCE_HOME "
                    f"to a folder on a local disk, or choose store={f'file:{self._folder}?lock=strict'!r}"
                )
        except BaseException:
            hold.release()
            raise
        self._tested = True

    def _refuse_another_kind(self, store_id: str) -> None:
        """Two kinds of lock do not keep each other out."""
        theirs = store_id.partition("-")[2] or "flock"
        if theirs != self._lock_kind:
            raise StoreError(
                f"the logins in {self._folder} are kept with lock={theirs}, and this program wants "
                f"lock={self._lock_kind}: use {f'file:{self._folder}?lock={theirs}'!r} everywhere, or another folder"
            )

    @contextmanager
    def _guard(self, key: GrantKey) -> Iterator[None]:
        path = self._beside(key, ".guard")
        hold = self._locked(path, timeout=GUARD_TIMEOUT)
        if hold is None:
            raise LockTimeout(f"{path} has been held for {GUARD_TIMEOUT:.0f} seconds; look for a stopped process")
        try:
            yield
        finally:
            hold.release()


def _stamp(seen: os.stat_result) -> tuple[int, int, int]:
    return (seen.st_mtime_ns, seen.st_ino, seen.st_size)


def _version(seen: os.stat_result) -> tuple[int, int]:
    """Of a file that is never written again: that, and its owner and mode, change with this."""
    return (seen.st_ino, seen.st_ctime_ns)


class _Heard:
    """The login's lock, whose end is heard by those who wait for it."""

    lease = False

    def __init__(self, hold: Hold, bell: Bell) -> None:
        self._hold: Hold | None = hold
        self._bell = bell

    def release(self) -> None:
        """Let the next one in, and wake them."""
        hold, self._hold = self._hold, None
        if hold is not None:
            self._bell.hide()  # before the next holder has its own there
            hold.release()
            self._bell.close()

    def __del__(self) -> None:
        self.release()  # as for every `Hold`


GLANCE = 0.25
"""Seconds after which who sleeps looks all the same: some change a record without the lock, and wake nobody."""


class _Listener(Lookout):
    """Who sleeps until the holder of the lock has replaced the record, or is gone."""

    def __init__(self, store: FileStore, key: GrantKey, path: str, *, sees_lock: bool) -> None:
        super().__init__(store, key)
        self._path = path
        self._sees_lock = sees_lock

    def wait(self, stamp: Stamp, seconds: float) -> bool:
        """Until that, or until nobody has the lock, at most so long; whether the record has changed."""
        until, over = time.monotonic() + seconds, False
        while True:
            ear = self._ear()  # before looking, so that nothing comes between
            with ear or nullcontext():
                changed, left = self._store.stamp(self._key) != stamp, until - time.monotonic()
                if changed or over or left <= 0 or (ear is None and self._free()):
                    return changed
                if ear is None:
                    self._pause(left)
                else:
                    over = ear.wait(min(left, GLANCE))

    def _free(self) -> bool:
        return self._sees_lock and not self._store.locked(self._key)

    def _ear(self) -> Ear | None:
        from .bell import Ear

        with suppress(OSError):  # nobody has the lock: not yet, or no longer
            return Ear(self._path)
        return None


# ── private files ────────────────────────────────────────────────────────────────────────────────────────

_CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""No link is followed, nobody is waited for at the other end of a pipe, and bytes stay as they are (Windows).

No program that is started inherits a descriptor: so opens Python (PEP 446), also where there is no O_CLOEXEC.
"""


def read_private(path: str) -> tuple[Unshown, os.stat_result] | None:
    """The content of a file that is ours alone, with its `stat`; None if there is none.

    Raises `StoreError` where it is a link, somebody else's, or open to others, and `OSError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _CAREFULLY)
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
        return Unshown(b"".join(parts)), seen
    finally:
        os.close(descriptor)


def write_private(path: str, data: bytes, *, exclusive: bool = False) -> None:
    """Make this the content of a file that is ours alone, durably and as a whole.

    `exclusive`: leave the file as it is if there is one.  Raises `OSError`.
    """
    folder = Path(path).parent
    _private_folder(folder)
    written = _write(f"{path}.{os.urandom(4).hex()}", data)
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
        import shlex  # nothing is wrong, as a rule

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


def _write(path: str, data: bytes, *, durable: bool = True) -> str:
    """Write and fsync; an existing file keeps its place on the disk until its new content is in it."""
    try:
        with _opened(path) as descriptor:
            _put(descriptor, data)
            os.ftruncate(descriptor, len(data))
            if durable:
                os.fsync(descriptor)
    except (OSError, StoreError):
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
    except (OSError, StoreError):
        _remove(path)
        raise


@contextmanager
def _opened(path: str) -> Iterator[int]:
    # Not O_WRONLY: where the file system cannot allocate, glibc reads what is there of a room before it writes.
    flags = os.O_RDWR | os.O_CREAT | _CAREFULLY
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
    descriptor = os.open(folder, os.O_RDONLY)
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
