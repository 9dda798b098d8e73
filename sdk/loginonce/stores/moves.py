"""Being told by Linux that a file was renamed, as each commit of a file store renames one (inotify(7)).

Who waits for another process's renewal then sleeps until it is there, instead of looking for it every few milliseconds,
which many waiters do at the expense of the one they wait for.  Python's library has no word for inotify, and packages
that do follow whole trees from threads of their own; four calls are all that is wanted here.
"""

from __future__ import annotations

import functools
import os
import select
import struct
import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from ..home import at_fork_in_child

__all__ = ["Moves"]

IN_MOVED_FROM = 0x40
EVENT = struct.Struct("iIII")
"""`struct inotify_event`: watch, mask, cookie, length of the name that follows, padded with zeros."""


class Moves:
    """The renamings of files of these names in a folder, from now on until it is closed."""

    def __init__(self, folder: str, names: Collection[str]) -> None:
        """Raises `OSError` where nobody tells: on another system, or since too many processes of the user listen."""
        libc = _libc()
        self._names = {os.fsencode(name) for name in names}
        self._poll = select.poll()
        self._descriptor = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        _open.add(self)
        self._poll.register(self._descriptor, select.POLLIN)
        try:
            _checked(libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_MOVED_FROM))
        except OSError:
            self.close()
            raise

    def wait(self, seconds: float) -> None:
        """Until there is one that was not told yet, at most so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._poll.poll(left * 1000) and not self._names.isdisjoint(
                _renamed(os.read(self._descriptor, 1 << 16))
            ):
                return

    def close(self) -> None:
        """Hear no more.  Nothing stays open: a user has 128 of these, all programs together."""
        # The kernel takes ten milliseconds to close one, which are not the caller's.
        closing = threading.Thread(target=self.close_at_once, name="loginonce-close", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # the interpreter is ending and starts no more threads
            self.close_at_once()

    def close_at_once(self) -> None:
        """The same, in this thread."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        # An interrupt may come before anybody could close it.
        if getattr(self, "_descriptor", -1) >= 0:
            self.close_at_once()


_open: weakref.WeakSet[Moves] = weakref.WeakSet()


def _after_fork() -> None:
    for moves in list(_open):
        moves.close_at_once()


at_fork_in_child(_after_fork)


def _renamed(events: bytes) -> Iterator[bytes]:
    """The names that files had."""
    at = 0
    while at < len(events):
        *_, length = EVENT.unpack_from(events, at)
        at += EVENT.size + length
        yield events[at - length : at].rstrip(b"\0")


@functools.cache
def _libc() -> Any:
    if sys.platform != "linux":
        raise OSError("inotify is Linux's")
    import ctypes  # most processes never wait

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError("inotify")
    return result
