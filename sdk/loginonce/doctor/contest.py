"""Whether a store's lock works between processes here and now: two of them contend for it.

Both are real processes that open the store anew.  One takes the lock, the other must not get it; it is released,
and the other gets it; that one is killed as it holds it, and the first gets it again.  The lock is that of a
login that nobody has.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..model import GrantKey
from ..stores.base import Hold
from ..stores.opening import open_store

__all__ = ["NOBODY", "Contest", "contend", "contest"]

NOBODY = GrantKey("https://doctor.invalid", "doctor")
"""A login that nobody has (RFC 2606 §2: no such host can exist)."""

PATIENCE = 2.0
"""Seconds for which a contender tries to get the lock."""

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from loginonce.doctor.contest import contend; contend()"


@dataclass(frozen=True, slots=True)
class Contest:
    """What was seen: whether the lock excludes, after how many seconds a released one was had (None: never), and
    whether one whose holder was killed was had.  `lease`: it ends by itself then, which is not waited for.
    """

    excludes: bool
    handover: float | None = None
    outlived: bool = False
    lease: bool = False


def contest(address: str, seconds: float) -> Contest:
    """Let two processes contend for the store at that address.  Raises `StoreError`, also after so many seconds."""
    until = time.monotonic() + seconds
    with _contender(address, until) as one, _contender(address, until) as other:
        if one.ask("try") is None:
            raise StoreError("the lock of a login that nobody has is taken: look for another `loginonce doctor`")
        if other.ask("try") is not None:
            return Contest(excludes=False)
        other.tell("wait")
        time.sleep(0.02)  # so that it is waiting by now
        released = one.ask("release")
        had = other.hear()
        if released is None or had is None:
            return Contest(excludes=True)
        if other.lease:
            other.ask("release")
            return Contest(excludes=True, handover=max(0.0, had - released), lease=True)
        other.kill()
        return Contest(excludes=True, handover=max(0.0, had - released), outlived=one.ask("wait") is not None)


class _Contender:
    """One of the processes.  Each answer is the time (`time.monotonic`, the same for all) at which it was done."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.lease = False

    def ask(self, do: str) -> float | None:
        self.tell(do)
        return self.hear()

    def tell(self, do: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{do}\n".encode())
        except OSError:
            pass  # it has ended, as the next `hear` tells

    def hear(self) -> float | None:
        assert self._process.stdout is not None
        word, _, rest = self._process.stdout.readline().decode("utf-8", "replace").strip().partition(" ")
        if word == "done":
            done, _, kind = rest.partition(" ")
            self.lease = kind == "lease"
            return float(done)
        if word != "busy":
            raise StoreError(rest if word == "failed" else "a process that should try the lock did not do so in time")
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def _contender(address: str, until: float) -> Iterator[_Contender]:
    # By -P a file in the present folder takes the place of no module; where this package was found by means of
    # this process's own, the appended path finds it again.
    command = [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])]
    with ExitStack() as stack:
        try:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        except OSError as error:
            raise StoreError(f"no process could be started to try the lock: {error.strerror}") from None
        stack.enter_context(process)
        stack.callback(process.kill)
        timer = threading.Timer(max(0.0, until - time.monotonic()), process.kill)
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        contender = _Contender(process)
        contender.tell(address)  # not as an argument: it may hold a password, and everybody sees those
        yield contender


def contend() -> None:
    """What each of the two processes does: as it is told, line by line, the store's address first."""
    address = sys.stdin.readline().removesuffix("\n")
    hold: Hold | None = None
    for line in sys.stdin:
        try:
            match line.strip():
                case "release" if hold is not None:
                    done = time.monotonic()
                    hold.release()
                case word:
                    hold = _taken(address, PATIENCE if word == "wait" else 0.0)
                    done = time.monotonic()
                    if hold is None:
                        print("busy", flush=True)
                        continue
        except StoreError as error:
            print("failed", " ".join(str(error).split("\n")), flush=True)
        else:
            print("done", done, "lease" if hold is not None and hold.lease else "lock", flush=True)


def _taken(address: str, seconds: float) -> Hold | None:
    store = open_store(address)
    until = time.monotonic() + seconds
    while (hold := store.try_lock(NOBODY)) is None and time.monotonic() < until:
        time.sleep(0.001)
    return hold
