"""Real processes that share one folder of logins, as the test that gives the orders sees them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("member.py")
PATIENCE = 60.0  # seconds for one answer
PARTING = 5.0  # seconds in which a process ends by itself once it is told


class Member:
    """One process; `tell` and `hear` are the halves of `ask`."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._wire.settimeout(PATIENCE)
        self._lines = wire.makefile("r")
        self.pid = 0
        self._handle = -1  # on the process itself: its number may be another's once it has ended

    def greet(self) -> None:
        self.pid = self.hear()["pid"]
        self._handle = os.pidfd_open(self.pid)

    def tell(self, do: str, **members: Any) -> None:
        self._wire.sendall(json.dumps({"do": do, **members}).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def ask(self, do: str, **members: Any) -> dict[str, Any]:
        self.tell(do, **members)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing; over when the process is."""
        with suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        assert self.ended(PATIENCE)

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._handle, sign)

    def end_by(self, sign: signal.Signals) -> None:
        """Send it that signal, and see it end: of an interrupt only its command does, so it is dismissed then.

        Python forgets an interrupt that comes while it closes a response that nobody holds any more, and urllib3 waits
        for itself after one that comes as it takes a connection.  Whoever sat there would press the key again.
        """
        self.send(sign)
        self.dismiss()
        for _ in range(5):
            if self.ended(PATIENCE / 6):
                break
            with suppress(ProcessLookupError):
                self.send(sign)
        assert self.ended(PATIENCE / 6)
        self.close()

    @contextmanager
    def idle_child(self) -> Iterator[None]:
        """A child that the member forks and that does nothing until the block ends."""
        child = os.pidfd_open(self.ask("idle_child")["pid"])
        try:
            yield
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP, as a laptop that sleeps or a debugger does, until the block ends."""
        self.send(signal.SIGSTOP)
        while Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)  # a signal takes its time, and so does each of the threads
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def ended(self, seconds: float) -> bool:
        """Whether the process is gone, or is within so many seconds."""
        return bool(select.select([self._handle], [], [], seconds)[0])

    def dismiss(self) -> None:
        """The member ends by itself when its socket does."""
        self._lines.close()
        self._wire.close()

    def close(self) -> None:
        if self._handle >= 0:
            if not self.ended(PARTING):
                self.kill()
            os.close(self._handle)


class Launcher:
    """A process that has imported everything, has touched no login, and forks members.

    `program`: what they are, if they can do more than those of `member.py`.
    """

    def __init__(self, program: Path = PROGRAM) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = start("launcher", theirs, program=program)

    def fork(self) -> Member:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        return Member(ours)

    def close(self) -> None:
        self._control.close()
        end(self._process)


class Crowd:
    """Members that share `home`; what is given by name goes into each one's `Session`."""

    def __init__(self, launcher: Launcher, home: Path, **session: Any) -> None:
        self.members: list[Member] = []
        self._launcher = launcher
        self._opening = {"home": str(home), **session}
        self._spawned: list[subprocess.Popen[bytes]] = []

    def spawn(self, count: int, within: Sequence[str] = ()) -> list[Member]:
        """Processes that start from nothing, as scripts and kernels do.  `within`: by this command."""
        new = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            with theirs:
                self._spawned.append(start("member", theirs, within))
            new.append(Member(ours))
        return self._added(new)

    def fork(self, count: int) -> list[Member]:
        """Processes forked from the launcher: cheap enough for a crowd."""
        return self._added([self._launcher.fork() for _ in range(count)])

    def _added(self, new: list[Member]) -> list[Member]:
        self.members += new
        for member in new:
            member.greet()
        for member in new:
            member.tell("open", **self._opening)
        for member in new:
            assert member.hear() == {}
        return new

    def ask(self, do: str, **members: Any) -> list[dict[str, Any]]:
        """All answers to what all are told before any is heard."""
        for member in self.members:
            member.tell(do, **members)
        return [member.hear() for member in self.members]

    def call_together(self, url: str, at: float = 0.0) -> list[dict[str, Any]]:
        """Every member's GET, all begun in one moment: `at` (POSIX seconds), or as soon as all know of it."""
        return self.ask("call", url=url, at=max(at, time.time() + 0.02 + len(self.members) / 2000))

    def close(self) -> None:
        for member in self.members:
            member.dismiss()
        for member in self.members:
            member.close()
        for process in self._spawned:
            end(process)


def start(
    role: str, theirs: socket.socket, within: Sequence[str] = (), *, program: Path = PROGRAM
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*within, sys.executable, str(program), role, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """It ends by itself when its socket does; if not, it is killed."""
    try:
        process.wait(PARTING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
