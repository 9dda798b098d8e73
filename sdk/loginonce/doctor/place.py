"""Where logins are kept: which store, who can read it, what its disk can do, whether its lock locks.

What is tried is tried beside the logins, in a folder of its own that is removed again: no login, and no lock of
one, is touched.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import LoginonceError, StoreError
from ..model import Grant, GrantKey
from ..stores.apart import ApartStore
from ..stores.base import TokenStore
from ..stores.file import FileStore, _refuse_shared, read_private
from ..stores.locks import ground
from ..stores.memory import MemoryStore
from ..stores.opening import open_store, split_seal
from ..stores.remote import completed
from .contest import NOBODY, contest
from .finding import Finding, found, trouble, wrong

__all__ = ["check_place"]

ELSEWHERE = "Set LOGINONCE_HOME to a folder on a local disk"
REACH = "See whether its server is there, and lets you in; programs use the tokens that they have meanwhile"

LITTLE_SPACE = 16 << 20
"""Bytes of free space below which somebody should look at it; a login takes a few kilobytes."""

SLOW_SAVE = 1.0
"""Seconds for a record to be durable; more is a twentieth of what a renewal may take in all."""

SLOW_HANDOVER = 0.5
"""Seconds for a lock to be had after it was released, by somebody who tries each millisecond."""


def check_place(store: TokenStore, address: str, key: GrantKey | None, seconds: float) -> list[Finding]:
    """The findings on a store that was opened by that address; `key` is the login that is meant, if one is.

    Takes about a second, and no more than so many.
    """
    apart, address = isinstance(store, ApartStore), completed(address)
    while isinstance(store, ApartStore):  # what can be wrong with a place is wrong with the inner one's
        store, address = store.inner, split_seal(address)[0]
    if isinstance(store, MemoryStore):
        text = "in the memory of each process: nothing is shared, and every program signs in for itself"
        return [found("store", text, level="attention", advice="Leave out the store memory: to share one login")]
    if not isinstance(store, FileStore):
        kept = _served(store, key)
        return [
            replace(kept, text=f"{kept.text}; secrets sealed, or kept apart") if apart else kept,
            _lock(address, seconds, advice=REACH)
            if kept.level == "ok"
            else found("lock", "not tried: nothing can be saved", level="unknown"),
        ]
    folder = Path(store.identity.removeprefix("file:"))
    access = _access(folder)
    with _scratch(folder) as scratch:
        there = f"file:{scratch}{''.join(address.partition('?')[1:])}"
        disk, usable = _disk(folder, scratch, there, blocked=access.level == "wrong")
        lock = _lock(there, seconds) if usable else found("lock", "not tried: nothing can be saved", level="unknown")
        kept = _store(store, folder)
        return [
            replace(kept, text=f"{kept.text}; secrets sealed, or kept apart") if apart else kept,
            access,
            disk,
            lock,
        ]


def _served(store: TokenStore, key: GrantKey | None) -> Finding:
    """A store on a server, or in a file of a database: whether it answers, and in which time."""
    where = store.location(key) if key else store.identity
    try:
        began = time.perf_counter()
        number = sum(grant.state != "LOGGED_OUT" for grant in store.grants())
        took = time.perf_counter() - began
    except StoreError as error:
        return trouble("store", f"{where}: {error}", advice=REACH)
    logins = "one login" if number == 1 else f"{number or 'no'} logins"
    return found("store", f"{where}; {logins}, read in {1000 * took:.1f} ms")


def _store(store: FileStore, folder: Path) -> Finding:
    try:
        states = [grant.state for grant in store.grants()]
        unreadable = len([*folder.glob("*.login")]) - len(states)
    except (StoreError, OSError):
        return found("store", f"files in {folder}, which cannot be listed", level="unknown")
    if not states and not os.path.exists(folder):
        return found("store", f"files in {folder}, which the first sign-in makes")
    number = len(states) - states.count("LOGGED_OUT")
    logins = "one login" if number == 1 else f"{number or 'no'} logins"
    return found("store", f"files in {folder}; {logins}{f', and {unreadable} not readable' if unreadable > 0 else ''}")


def _access(folder: Path) -> Finding:
    """Who can read it: nobody but its owner, and that is us."""
    try:
        seen = os.stat(folder)
    except FileNotFoundError:
        return found("access", "there is no folder yet; it will be yours alone")
    except OSError as error:
        return wrong("access", f"{folder} cannot be entered: {error.strerror}", _regain(error))
    if not stat.S_ISDIR(seen.st_mode):
        return wrong("access", f"{folder} is not a folder", "Move it away, or set LOGINONCE_HOME")
    if (refused := _refused(folder, seen)) is not None:
        return refused
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".login") or name == "store-id")
        for name in names:
            read_private(str(folder / name))
    except StoreError as error:
        return trouble("access", error)
    except OSError as error:
        return wrong("access", f"{error.filename} cannot be read: {error.strerror}", _regain(error))
    mode = f" (folder {stat.S_IMODE(seen.st_mode):04o}, files 0600)" if hasattr(os, "geteuid") else ""
    return found("access", f"yours alone{mode}")


def _refused(folder: Path, seen: os.stat_result) -> Finding | None:
    """What the store itself would say of the folder."""
    try:
        _refuse_shared(str(folder), seen)
    except StoreError as error:
        return trouble("access", error)
    return None


def _regain(error: OSError) -> str:
    """The command by which an owner gets at what is theirs; the highest folder that keeps them out comes first."""
    path = Path(str(error.filename))
    for place in (*reversed(path.parents), path):
        try:
            seen = os.stat(place)
        except OSError:
            break
        if not os.access(place, os.R_OK | (os.X_OK if stat.S_ISDIR(seen.st_mode) else 0)):
            if hasattr(os, "geteuid") and seen.st_uid != os.geteuid():
                return f"{place} belongs to uid {seen.st_uid}: set LOGINONCE_HOME to a folder of your own"
            return f"Run: chmod {'700' if stat.S_ISDIR(seen.st_mode) else '600'} {shlex.quote(str(place))}"
    return "Set LOGINONCE_HOME to a folder of your own"


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that can be made on the same disk, and is gone afterwards if it was."""
    there = next((place for place in (folder, *folder.parents) if os.path.isdir(place)), folder)
    scratch = there / f".doctor-{os.getpid()}-{secrets.token_hex(4)}"
    remove = partial(_remove, scratch)
    atexit.register(remove)  # an interrupt ends the program, and this thread with it
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        atexit.unregister(remove)


def _remove(scratch: Path) -> None:
    """Remove it under a thread that is still at work in it, and may make it anew."""
    for _ in range(6):
        shutil.rmtree(scratch, ignore_errors=True)
        time.sleep(0.05)
    shutil.rmtree(scratch, ignore_errors=True)


def _disk(folder: Path, scratch: Path, address: str, *, blocked: bool) -> tuple[Finding, bool]:
    """What it is, and whether it can save a login and keep the room for the next answer.

    `blocked`: it is known that the folder cannot be used as it is, and why.
    """
    on = ground(scratch.parent)
    try:
        free = shutil.disk_usage(scratch.parent).free
        began = time.monotonic()
        store = open_store(address)
        store.commit(Grant(NOBODY, 1), expected=None, reserve=True)
        took = time.monotonic() - began
        store.commit(Grant(NOBODY, 2), expected=(1, 0, 0))
    except (LoginonceError, OSError) as error:
        if blocked:
            return found("disk", "not tried, for what is wrong with the access", level="unknown"), False
        if isinstance(error, OSError):
            return wrong("disk", f"{folder} cannot be used: {error.strerror}", ELSEWHERE), False
        return trouble("disk", re.sub(rf"{re.escape(str(scratch))}(/\S+)?", str(folder), str(error))), False
    kind = _KINDS.get(on.kind, f"{on.kind or 'a file system of unknown kind'}, local")
    kind = kind if on.verdict == "trusted" else f"{on.kind}, shared"
    text = f"{kind}; {_size(free)} free, room for an answer is reserved; saves in {1000 * took:.0f} ms"
    advice = ""
    if on.verdict != "trusted" and "lock=strict" not in address:
        text += f"; {on.why}"
        advice = "If other machines use it too, set LOGINONCE_HOME to a folder on a local disk of each"
    elif free < LITTLE_SPACE:
        advice = "Free some space: nothing is renewed once there is no room for the answer"
    elif took > SLOW_SAVE:
        advice = "Set LOGINONCE_HOME to a folder on a faster disk"
    return found("disk", text, level="attention" if advice else "ok", advice=advice), True


_KINDS = {"tmpfs": "tmpfs, gone when the machine stops", "overlay": "overlay, gone with its container"}


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────────────


def _lock(address: str, seconds: float, advice: str = ELSEWHERE) -> Finding:
    """What two processes saw."""
    try:
        seen = contest(address, seconds)
    except LoginonceError as error:
        text = re.sub(r"\S*/\.doctor-[^ :]*", "the lock", str(error))
        return trouble("lock", text, advice=advice)
    if not seen.excludes:
        return wrong("lock", "two processes held it at the same time: logins would be lost", ELSEWHERE)
    if seen.handover is None:
        return wrong("lock", "a process that waited for it did not get it when it was released", ELSEWHERE)
    if not seen.outlived and not seen.lease:
        return wrong("lock", "it was not free again when its holder was killed", ELSEWHERE)
    end = "that of a killed holder ends by itself" if seen.lease else "a killed holder lets go"
    text = f"keeps two processes apart; handed over in {1000 * seen.handover:.1f} ms; {end}"
    if seen.handover > SLOW_HANDOVER:
        return found("lock", text, level="attention", advice="It is slow: is this machine, or its disk, overloaded?")
    return found("lock", text)
