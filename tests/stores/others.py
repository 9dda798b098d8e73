"""What other processes do to a file store; imported by them, so it imports little."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

from contract import KEY, increment

from loginonce.stores.file import FileStore
from loginonce.stores.locks import LockKind


def count_up(folder: str, times: int, lock: LockKind = "flock") -> None:
    store = FileStore(folder, lock=lock)
    for _ in range(times):
        increment(store)


def hold_the_lock(folder: str, line: Connection) -> None:
    """Take the lock, say so, and keep it until told otherwise (or killed)."""
    hold = FileStore(folder).try_lock(KEY)
    line.send(hold is not None)
    line.recv()
    if hold is not None:
        hold.release()
    line.send(True)
    line.recv()


def hold_the_guard(folder: str, line: Connection) -> None:
    with FileStore(folder)._guard(KEY):
        line.send(True)
        line.recv()


def try_often(folder: str, seconds: float, inside: str, lock: LockKind = "flock") -> tuple[int, int]:
    """How often the lock was had, and how often somebody else was inside then."""
    store = FileStore(folder, lock=lock)
    had = intruders = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        hold = store.try_lock(KEY)
        if hold is None:
            continue
        try:
            with open(inside, "x"):
                had += 1
        except FileExistsError:
            intruders += 1
        else:
            import os

            os.unlink(inside)
        hold.release()
    return had, intruders
