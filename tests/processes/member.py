"""A process of the crowd: it carries out commands, one JSON line each, until its socket ends.

    python member.py member FD      one member
    python member.py launcher FD    forks a member for every socket that it is sent

The launcher imports once what its members will need and has one thread, so that a forked member costs milliseconds.
A member that starts from nothing imports as any program does, each thing when it is first needed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock  # noqa: F401 - loaded here once, and not in each member when it first needs it
import points
import workers

import loginonce

AT_ONCE = (
    *("joserfc.jwt", "joserfc.jwk", "authlib.oidc.core"),
    *(f"loginonce.{name}" for name in ("session", "client", "source", "transport", "backend", "environment", "watch")),
    *("loginonce.login.signin", "loginonce.stores.opening", "loginonce.stores.file", "loginonce.stores.bell"),
)
"""What a log-in, a renewal and a log-out need, and `import loginonce` leaves for later.  Each store comes when it is
opened: which of them are there says what a point can be (`points`)."""

sys.path.append(str(Path(__file__).parent.parent / "stores"))  # where the keyring is that processes share


class Member:
    """One process with one `loginonce.Session`; every `do_…` is a command, and returns its answer."""

    def __init__(self, session: loginonce.Session | None = None) -> None:
        self._session = session
        self._begun: Future[dict[str, Any]] = Future()

    def serve(self, wire: socket.socket) -> None:
        with suppress(ConnectionError), wire, wire.makefile("r") as lines:  # a test that failed may just hang up
            wire.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
            for line in lines:
                command = json.loads(line)
                try:
                    answer = getattr(self, "do_" + command.pop("do"))(**command)
                except (Exception, KeyboardInterrupt) as error:
                    answer = _told(error)
                wire.sendall(json.dumps(answer).encode() + b"\n")

    @property
    def session(self) -> loginonce.Session:
        assert self._session is not None, "no session was opened"
        return self._session

    def do_open(
        self,
        home: str,
        issuer: str,
        policy: dict[str, Any] | None = None,
        constants: dict[str, float] | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """`constants`: what some of the library's are to be in this process, such as refresh.LATE."""
        os.environ.update(environment or {})
        for name, value in (constants or {}).items():
            module, _, constant = name.rpartition(".")
            setattr(importlib.import_module(f"loginonce.{module}"), constant, value)
        os.environ["LOGINONCE_HOME"] = home
        self._session = loginonce.Session(issuer, policy=loginonce.Policy(**policy or {}), **settings)
        return {}

    def do_move_to_host(self, name: str) -> dict[str, Any]:
        """Have a host name of its own, as a process of another machine has (a UTS namespace; takes root)."""
        if ctypes.CDLL(None, use_errno=True).unshare(0x04000000) != 0:  # CLONE_NEWUTS; os.unshare needs Python 3.12
            raise OSError(ctypes.get_errno(), "unshare")
        socket.sethostname(name)
        return {}

    def do_call(self, url: str, at: float = 0.0) -> dict[str, Any]:
        """GET; `at` is the moment (POSIX seconds) at which all members begin."""
        time.sleep(max(0.0, at - time.time()))
        began = time.monotonic()
        status = self.session.get(url, timeout=30).status_code
        return {"status": status, "seconds": time.monotonic() - began}

    def do_call_in_threads(self, url: str, threads: int, at: float = 0.0) -> dict[str, Any]:
        """GET in so many threads that share the session."""

        def call(_: int) -> dict[str, Any]:
            try:
                return self.do_call(url, at)
            except Exception as error:
                return _told(error)

        with ThreadPoolExecutor(threads) as pool:
            return {"answers": list(pool.map(call, range(threads)))}

    def do_call_in_pool(self, kind: str, url: str, count: int) -> dict[str, Any]:
        """GET in so many workers of a pool of this kind, to which the session is sent."""
        return {"statuses": workers.call_in_pool(kind, self.session, url, count)}

    def do_call_in_loops(self, url: str, loops: int, tasks: int) -> dict[str, Any]:
        return {"statuses": workers.call_in_loops(self.session, url, loops, tasks)}

    def do_begin(self, url: str) -> dict[str, Any]:
        """GET in a thread; `finish` gives its answer."""
        self._begun = ThreadPoolExecutor(1).submit(self.do_call, url)
        return {}

    def do_finish(self) -> dict[str, Any]:
        return self._begun.result()

    def do_work(self, url: str, until: float, pause: float = 0.005) -> dict[str, Any]:
        """GET again and again until then (POSIX seconds)."""
        good, bad = 0, []
        while time.time() < until:
            try:
                status = self.session.get(url, timeout=30).status_code
            except Exception as error:
                bad.append(_told(error))
            else:
                good += status == 200
                bad += [] if status == 200 else [{"status": status}]
            time.sleep(pause)
        return {"good": good, "bad": bad}

    def do_login(self, tokens: dict[str, Any]) -> dict[str, Any]:
        self.session.login(tokens=tokens)
        return {}

    def do_logout(self) -> dict[str, Any]:
        return {"revoked": self.session.logout().revoked}

    def do_account(self) -> dict[str, Any]:
        account = self.session.account
        return {"subject": account and account.subject}

    def do_fork(self, url: str) -> dict[str, Any]:
        """GET from a child that was forked with the session in it, after the parent has used it."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                answer: dict[str, Any] = self.do_call(url)
            except Exception as error:
                answer = _told(error)
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with open(reading) as answered:
            answer = json.load(answered)
        os.waitpid(child, 0)
        return answer

    def do_arm(self, point: str, place: str, fill_disk: bool = False) -> dict[str, Any]:
        """Stop at this point of the next refresh, and say so at this place."""
        points.arm(point, place, fill_disk=fill_disk)
        return {}

    def do_passed(self) -> dict[str, Any]:
        """The points that were passed since."""
        return {"points": points.passed()}

    def do_disk_full(self, full: bool) -> dict[str, Any]:
        points.disk_full(full=full)
        return {}

    def do_shift_clock(self, seconds: float) -> dict[str, Any]:
        points.shift_clock(seconds)
        return {}

    def do_keep_fresh(self) -> dict[str, Any]:
        self.session.keep_fresh()
        return {}

    def do_listen(self) -> dict[str, Any]:
        """Write down each change, and when it was told (POSIX seconds)."""
        self._told: list[tuple[float, str]] = []
        self.session.on_change(lambda change: self._told.append((time.time(), change.kind)))
        return {}

    def do_told(self) -> dict[str, Any]:
        return {"told": self._told}

    def do_fork_keeping(self) -> dict[str, Any]:
        """Fork a child that keeps the login fresh in the parent's place, and does nothing else."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            inherited = [thread.name for thread in threading.enumerate()]
            self.session.keep_fresh()
            os.write(writing, json.dumps(inherited).encode())
            os.close(writing)
            signal.pause()
        os.close(writing)
        self.session.close()
        with open(reading) as answered:
            return {"pid": child, "inherited": json.load(answered)}

    def do_idle_child(self) -> dict[str, Any]:
        """Fork a child that does nothing until the parent's end has been closed, and leave it there."""
        child = os.fork()
        if child == 0:
            signal.pause()
        return {"pid": child}


def _told(error: BaseException) -> dict[str, Any]:
    told = {name: getattr(error, name, None) for name in ("reason", "retry_after")}
    return {"error": type(error).__name__, "message": str(error), **told}


def launch(control: socket.socket, kind: type[Member] = Member) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the members
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            kind().serve(socket.socket(fileno=descriptors[0]))
            for thread in threading.enumerate():
                if not thread.daemon and thread is not threading.current_thread():
                    thread.join()
            os._exit(0)  # tearing down an interpreter takes longer than all that a member does
        os.close(descriptors[0])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run behind a script
    role, descriptor = sys.argv[1:]
    wire = socket.socket(fileno=int(descriptor))
    if role == "launcher":
        for module in AT_ONCE:
            importlib.import_module(module)
        launch(wire)
    else:
        Member().serve(wire)
