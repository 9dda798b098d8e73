"""How who waits for another process's renewal is told that it is over: by the end of a pipe.

Who renews a login holds a named pipe open, and the others sleep at it; nothing is ever written into it.  The kernel
tells them all when its holder closes it, and when its holder is killed.  So nobody has to look for a new record every
few milliseconds, which many waiters do at the expense of the one they wait for.

The pipe is there as long as it is held.  One that a crash leaves behind is used by the next holder, and until then
tells nothing: it only ever spares a look.  Linux only: elsewhere a pipe cannot be held without somebody to read it.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import weakref
from contextlib import suppress

from ..home import at_fork_in_child

__all__ = ["Bell", "Ear", "can_be_heard"]


def can_be_heard() -> bool:
    """Whether this Python on this platform has what it takes."""
    return sys.platform == "linux" and hasattr(select, "poll")


class Bell:
    """The holder's end."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where there can be no pipe."""
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._path = path
        self._descriptor = _opened(path, os.O_RDWR)
        _held.add(self)

    def hide(self) -> None:
        """Let nobody else come and wait for this holder, who has to have the login's lock to say so."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.unlink(self._path)

    def ring(self) -> None:
        """Wake all who wait, once; `hide` goes before."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        # An interrupt may come before anybody could ring it.
        if getattr(self, "_descriptor", -1) >= 0:
            self.ring()


_held: weakref.WeakSet[Bell] = weakref.WeakSet()


def _let_go() -> None:
    # A child would keep the pipe open when its parent rings.
    for bell in list(_held):
        bell.ring()


at_fork_in_child(_let_go)


class Ear:
    """The end of one who waits."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where nobody holds the bell, now or since a crash."""
        self._descriptor = _opened(path, os.O_RDONLY)
        self._poll = select.poll()
        self._poll.register(self._descriptor, 0)  # its end is told in any case

    def wait(self, seconds: float) -> bool:
        """Until the holder has rung or ended, at most so long; whether that is so."""
        return bool(self._poll.poll(seconds * 1000))

    def close(self) -> None:
        """Wait no more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def _opened(path: str, how: int) -> int:
    descriptor = os.open(path, how | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no pipe")
    return descriptor
