"""How a process that waits for another's renewal learns that it is over: by the end of a pipe.

Whoever holds a login's lock holds a named pipe open, and the others sleep at it; nothing is ever written into it.  The
kernel tells them all when its holder closes it, and when its holder is killed.  So nobody has to look for a new record
every few milliseconds, which many waiters do at the expense of the one they wait for.

A pipe that a crash leaves behind is used by the next holder; until then nobody waits at it.  On Linux only: it is not
laid down elsewhere what it means to open a named pipe for both of its ends, and its end is not told everywhere.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import weakref
from contextlib import suppress
from typing import Self

from ..home import at_fork_in_child

__all__ = ["Bell", "Ear", "can_be_heard"]


def can_be_heard() -> bool:
    """Whether this Python on this platform has what it takes."""
    return sys.platform == "linux" and hasattr(select, "poll")


class _End:
    """One end of a pipe; a context manager.  It is closed with its last user at the latest, and in a forked child."""

    _descriptor = -1

    def _open(self, path: str, how: int) -> None:
        self._descriptor = os.open(path, how | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        _ends.add(self)
        if not stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            self.close()
            raise OSError(f"{path} is no pipe")

    def close(self) -> None:
        """Let go of it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def forget(self) -> None:
        """What its owner did with it in the parent is nothing to this child."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


_ends: weakref.WeakSet[_End] = weakref.WeakSet()


def _let_go() -> None:
    # A child would keep a pipe from ending, and has none of the threads that hold one or wait at it.
    for end in list(_ends):
        end.forget()


at_fork_in_child(_let_go)


class Bell(_End):
    """The holder's end."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where there can be no pipe."""
        self._path = path
        self._turn = threading.RLock()  # a signal's handler may come in between
        self._hung = False
        self._hang()

    def _hang(self) -> None:
        with suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        self._open(self._path, os.O_RDWR)
        self._hung = True

    def ring(self) -> None:
        """Wake all who wait now, with another pipe for those who come or still have to wait."""
        with self._turn:
            if self._take_down():
                self.close()
                with suppress(OSError):  # who comes looks now and then
                    self._hang()

    def forget(self) -> None:
        """Also whose turn it was."""
        self._turn = threading.RLock()
        super().forget()

    def hide(self) -> None:
        """Let nobody come any more.  By who has the login's lock still; then `close` wakes those who wait."""
        with self._turn:
            self._take_down()

    def _take_down(self) -> bool:
        hung, self._hung = self._hung and self._descriptor >= 0, False  # else this is a child, and it is its parent's
        if hung:
            with suppress(OSError):
                os.unlink(self._path)
        return hung


class Ear(_End):
    """The end of one who waits."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` where nobody holds the bell."""
        self._open(path, os.O_RDONLY)
        with suppress(BlockingIOError):  # which says that somebody does
            os.read(self._descriptor, 1)
            self.close()
            raise OSError(f"nobody holds {path}")
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Until the holder has rung or ended, at most so long; whether that is so."""
        return bool(self._poll.poll(seconds * 1000))
