"""A Redis server of the tests' own, on a free port of the loopback, and a wire to it that can be cut."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

import pytest
import redis

PATIENCE = 10.0


def needs(reason: str) -> NoReturn:
    """This machine lacks what a real server needs: skip, or fail where a skip would go unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


REDIS, VALKEY = "redis-server", "valkey-server"


def program(name: str = REDIS) -> str:
    """The path of the server.  Redis is installed by apt where it is missing and we may; Valkey is used where it is.

    Debian has a package of Valkey from 13 on.
    """
    if found := shutil.which(name):
        return found
    if name == VALKEY:
        pytest.skip("there is no valkey-server on the PATH")
    if os.environ.get("CI") and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        # Under CI only: nobody's laptop gets a service for running tests.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False, timeout=300)
    return shutil.which(name) or needs("there is no redis-server: install it")


def free_port() -> int:
    """Low enough for a server of a cluster, which also needs the port 10,000 above."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55000:
                return port


class Server:
    """One server; `settings` are those of its configuration, `namespace` the network namespace it runs in."""

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", namespace: str = "", kind: str = REDIS, **settings: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.host, self.port, self.kind = host, free_port(), kind
        defaults = {
            "bind": host,
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync-delay": "0",
        }
        self.settings = {**defaults, **{name.replace("_", "-"): value for name, value in settings.items()}}
        if "tls-port" in self.settings:
            self.settings |= {"tls-port": str(self.port), "port": "0"}
        self._command = [*(["ip", "netns", "exec", namespace] if namespace else []), program(kind)]
        self._log = folder / "log"
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        settings = {"port": str(self.port), **self.settings}
        words = [word for name, value in settings.items() for word in (f"--{name}", *(value.split() or [""]))]
        begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([*self._command, *words], stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while b"Ready to accept connections" not in self._log.read_bytes()[begin:]:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.01)

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(sign)
        self.process.wait(PATIENCE)

    def restart(self) -> None:
        self.stop()
        self.start()

    def client(self, **settings: object) -> redis.Redis:
        """The administrator's."""
        return redis.Redis(host=self.host, port=self.port, socket_timeout=PATIENCE, **settings)  # type: ignore[arg-type]


class Wire:
    """A wire to a server.  `swallow(word)`: what answers the next request with that word in it is thrown away, and
    the wire is cut.  `silent`: nothing goes either way, and nobody is told.
    """

    def __init__(self, port: int, listener: socket.socket | None = None) -> None:
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.silent = False
        self.requests = 0  # with the swallowed word in it
        self.to = port
        self._word, self._times, self._before = b"", 0, False
        self._over = False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._listener.close()
        self.cut()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def swallow(self, word: bytes, *, times: int = 1, before: bool = False) -> None:
        """`before`: the request itself is thrown away, and never arrives."""
        self._word, self._times, self._before, self.requests = word, times, before, 0

    def cut(self) -> None:
        """End all connections."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        doomed = False
        with near, far, suppress(OSError):
            while not self._over:
                ready, _, _ = select.select([near, far], [], [], 0.05)
                if self.silent:
                    time.sleep(0.01)
                    continue
                for end in ready:
                    data = end.recv(1 << 20)
                    if not data:
                        return
                    if end is near and self._word and self._word in data:
                        self.requests += 1
                        if self._times:
                            self._times -= 1
                            if self._before:
                                return
                            doomed = True
                    elif end is far and doomed:
                        return
                    (far if end is near else near).sendall(data)
