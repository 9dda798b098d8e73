"""Points of a refresh at which a process of the real library can be stopped, and what may then be done to it.

A point is `phase.Action:moment`: what the state machine asked for in which phase, and how far its doing had come.
Every action has the moments `before` and `after`; the request and most stores have more of them:

    Send     prepared (discovery is over, as at TryLock) · connected · sent (the provider has all it needs) · answered
    Write    in files      flocked (the guard is held) · reserved · written (the new file is whole) · renamed (it is
                           the record); and before those, with a keyring, kept (it has the secrets)
             on a Redis    compared (the server has done it, or found another record)
             in a database executed (within the transaction) · committed
    TryLock  flocked, or executed · committed
    Release  in a database executed · committed

`arm` hooks the library in the process to be stopped; at its point that process reports to a `Meeting` and stays
there until it is let go.  What it does is otherwise what it does everywhere: the hooks only watch.
"""

from __future__ import annotations

import functools
import json
import resource
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

PATIENCE = 60.0  # seconds for a process to come to its point


class Meeting:
    """The other end: waits for the process, and lets it go."""

    def __init__(self) -> None:
        self.place = secrets.token_hex(8)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(PATIENCE)
        self._listener.bind("\0" + self.place)
        self._listener.listen()
        self._there: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._listener.close()

    def reached(self) -> str:
        """The point at which the process now stands."""
        self._there, _ = self._listener.accept()
        return self._there.recv(1024).decode()

    def let_go(self, *, shift: float = 0.0) -> None:
        """Let it go on, its clock set by so many seconds; harmless where it has gone, or was killed."""
        if self._there is not None:
            with suppress(OSError), self._there:
                self._there.sendall(json.dumps({"shift": shift}).encode())
            self._there = None


class _Armed:
    """What this process is to do: stop at `point`, where `place` is told of it."""

    def __init__(self) -> None:
        self.point = ""
        self.place = ""
        self.fill_disk = False
        self.passed: list[str] = []


_armed = _Armed()
_here = threading.local()


def arm(point: str, place: str, *, fill_disk: bool = False) -> None:
    """Stop once, at this point ("" = at none).  `fill_disk`: no file can be written from before the save on."""
    _hook()
    _armed.passed.clear()
    _armed.point, _armed.place, _armed.fill_disk = point, place, fill_disk


def passed() -> list[str]:
    """The points passed since, in the order in which each was passed first."""
    return list(dict.fromkeys(_armed.passed))


def disk_full(*, full: bool) -> None:
    """Whether the operating system refuses each byte that this process writes to a file (EFBIG)."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else most, most))


def shift_clock(seconds: float) -> None:
    """Set the clock of this process forwards or back, as an administrator does; `time.monotonic` stays."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def _pass(point: str) -> None:
    _armed.passed.append(point)
    if _armed.fill_disk and point == "save.Write:before":
        disk_full(full=True)
    if point == _armed.point:
        _armed.point = ""
        with socket.socket(socket.AF_UNIX) as meeting:
            meeting.connect("\0" + _armed.place)
            meeting.sendall(point.encode())
            if shift := json.loads(meeting.recv(1024) or b"{}").get("shift"):
                shift_clock(shift)


def _moment(moment: str, otherwise: str = "") -> None:
    """Within a step, or in the one that is to follow."""
    if step := getattr(_here, "step", "") or otherwise:
        _pass(f"{step}:{moment}")


def _watch(owner: Any, name: str, *, before: str = "", after: str = "", otherwise: str = "") -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before:
            _moment(before, otherwise)
        result = original(*args, **kwargs)
        if after and not (after == "flocked" and result is None):
            _moment(after, otherwise)
        return result

    setattr(owner, name, watched)


def _watch_as_one(owner: Any, name: str, *, after: str) -> None:
    """The same, without the moments within."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        step, _here.step = getattr(_here, "step", ""), ""
        try:
            result = original(*args, **kwargs)
        finally:
            _here.step = step
        _moment(after)
        return result

    setattr(owner, name, watched)


@functools.cache
def _hook() -> None:
    """Once in a process."""
    from urllib3.connection import HTTPConnection

    from loginonce import backend, client, refresh, source, transport
    from loginonce.stores import file

    do, went = source._Run._do, source._Run._went

    def watched_do(run: source._Run, action: refresh.Action) -> refresh.Event:
        step = _here.step = f"{run._machine.phase}.{type(action).__name__}"
        try:
            _pass(f"{step}:before")
            event = do(run, action)
            _pass(f"{step}:after")
        finally:
            _here.step = ""
        return event

    def watched_went(run: source._Run, event: refresh.Event) -> None:
        went(run, event)
        if isinstance(run._action, refresh.Use | refresh.Raise):  # nobody does these: they are the end
            _pass(f"{run._machine.phase}.{type(run._action).__name__}:before")

    source._Run._do = watched_do  # type: ignore[method-assign]
    source._Run._went = watched_went  # type: ignore[method-assign]
    _watch(file, "take", after="flocked")
    _watch(file, "_reserve", after="reserved")
    _watch(file, "_write", after="written")
    _watch(file, "_sync_folder", before="renamed")
    stores = {
        name: sys.modules.get(f"loginonce.stores.{name}") for name in ("keyring", "redis", "sql")
    }  # if it is used
    if stores["keyring"] is not None:
        _watch_as_one(stores["keyring"].KeyringStore, "_keep", after="kept")
    if stores["redis"] is not None:
        _watch(stores["redis"].RedisStore, "_compare_and_set", after="compared")
    if stores["sql"] is not None:
        _watch(stores["sql"], "_count", after="executed")
        _watch(stores["sql"].SQLStore, "_changed", after="committed")
    for issuer in (client.Provider, backend.Backend):
        _watch(issuer, "prepare", after="prepared")
    _watch(source._Run, "_watch", before="before", after="after", otherwise="wait.Wait")
    _watch(transport._Watching, "connect", after="connected")
    _watch(HTTPConnection, "getresponse", before="sent")
    _watch(transport.Transport, "post", after="answered")
