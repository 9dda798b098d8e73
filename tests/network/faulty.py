"""The faults, by name: what the token end point does, and how it is healed."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from email.utils import formatdate
from typing import Any, NamedTuple

import pytest
from scripted import Connection, Script, Scripted, answer, saying

import loginonce
from loginonce.refresh import Policy

SEND, WAIT = 0.5, 0.8
SLACK = 1.5
"""Seconds: two cores are shared with whatever else runs."""

HTML = b"<html><h1>502 Bad Gateway</h1></html>"
NEW = json.dumps({"access_token": "new", "refresh_token": "r-2", "expires_in": 300}).encode()
RETRY_SECONDS, RETRY_DATE = 7.0, 30.0


class Row(NamedTuple):
    """What a fault looks like, and what the record says afterwards: its state, the kind of failure, and for how
    many seconds at least nobody asks again.
    """

    state: str
    kind: str
    script: Script | None = None
    pause: float = 1.0
    tls: str = ""
    hangs: bool = False


def _reset_after(connection: Connection) -> None:
    connection.request()
    connection.reset()


def _silent(connection: Connection) -> None:
    connection.request()
    connection.silence()


def _trickle(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    connection.trickle(b" ")


def _endless_chunks(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not connection.server.stopping.is_set():
        connection.send(b"8000\r\n" + b" " * 0x8000 + b"\r\n")


def _hang_up(connection: Connection) -> None:
    connection.request()


def _later(connection: Connection) -> None:
    connection.request()
    connection.send(answer(b"", "503 Busy", retry_after=formatdate(time.time() + RETRY_DATE + 1, usegmt=True)))


FAULTS: dict[str, Row] = {
    "refused": Row("ACTIVE", "unsent"),
    "a name that is none": Row("ACTIVE", "unsent"),
    "a resolver that hangs": Row("ACTIVE", "unsent", hangs=True),
    "a certificate of another host": Row("ACTIVE", "unsent", tls="wrong host"),
    "a certificate of an unknown authority": Row("ACTIVE", "unsent", tls="unknown authority"),
    "a certificate that has expired": Row("ACTIVE", "unsent", tls="expired"),
    "a handshake that hangs": Row("ACTIVE", "unsent", tls="silent", hangs=True),
    "a reset before the request": Row("SPENDING", "lost", Connection.reset_unread),
    "a reset after the request": Row("SPENDING", "lost", _reset_after),
    "a silent hang": Row("SPENDING", "lost", _silent, hangs=True),
    "a trickle that never ends": Row("SPENDING", "lost", _trickle, hangs=True),
    "chunks that never end": Row("SPENDING", "lost", _endless_chunks),
    "no answer": Row("SPENDING", "lost", _hang_up),
    "half an answer": Row("SPENDING", "lost", saying(answer(NEW)[:-9])),
    "a page of a gateway": Row("SPENDING", "lost", saying(answer(HTML, "502 Bad Gateway", content_type="text/html"))),
    "a page of a portal": Row("SPENDING", "lost", saying(answer(HTML, content_type="text/html"))),
    "a redirect": Row("SPENDING", "lost"),
    "too large": Row("SPENDING", "lost", saying(answer(b'{"access_token": "' + b"a" * (2 << 20) + b'"}'))),
    "too deep": Row("SPENDING", "lost", saying(answer(b'{"access_token":' + b"[" * 100_000))),
    "busy": Row("ACTIVE", "busy", saying(answer(b"", "503 Service Unavailable"))),
    "busy, in seconds": Row(
        "ACTIVE", "busy", saying(answer(b"", "429 Too Many", retry_after=f"{RETRY_SECONDS:.0f}")), RETRY_SECONDS
    ),
    "busy, by a date": Row("ACTIVE", "busy", _later, RETRY_DATE),
}


class World:
    """One login, its provider's token end point, an API that takes every token, and a fault."""

    def __init__(
        self,
        fault: str,
        issuer: str,
        api: Scripted,
        ca: str,
        pairs: dict[str, tuple[str, str]],
        monkeypatch: pytest.MonkeyPatch,
        running: ExitStack,
        send: float = SEND,
    ) -> None:
        self.fault = fault
        self.row = FAULTS[fault]
        self.api = api
        self.abroad = running.enter_context(Scripted(saying(answer(NEW))))
        self._pairs = pairs
        self._broken = True
        self._patch = monkeypatch
        self._running = running
        self._free = threading.Event()
        running.callback(self._free.set)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))  # nobody else gets the port, and connections are refused
        self.server = Scripted(self._script, tls=self._tls(), listener=self._listener)
        host = "provider.invalid" if fault.startswith(("a name", "a resolver")) else "127.0.0.1"
        scheme = "https" if self.row.tls or host != "127.0.0.1" else "http"
        if fault == "a resolver that hangs":
            monkeypatch.setattr(socket, "getaddrinfo", self._hanging(socket.getaddrinfo))
        if fault == "refused":
            running.callback(self._listener.close)
        else:
            self._listen()
        url = f"{scheme}://{host}:{self.server.port}/token"
        self.session = loginonce.Session(
            issuer,
            client_id="fake-public",
            server={"token_endpoint": url},
            policy=Policy(send_timeout=send, wait_timeout=WAIT, refusal_wait=0.0),
        )
        running.callback(self.session.close)
        self.session.verify = ca
        self.session.source.provider.server  # noqa: B018 - discovery is another matter
        self.session.login(tokens={"access_token": "old", "refresh_token": "r-1", "expires_in": 300})

    def _listen(self) -> None:
        self._listener.listen(64)
        self._running.enter_context(self.server)

    def _tls(self) -> ssl.SSLContext | None:
        named = self.fault.startswith(("a name", "a resolver"))
        if self.row.tls == "silent" or not (self.row.tls or named):
            return None
        return self._context("by name" if named else self.row.tls)

    def _context(self, which: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*self._pairs[which])
        return made

    def _hanging(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def getaddrinfo(host: str, *rest: Any) -> Any:
            if host == "provider.invalid":
                self._free.wait(20)
            return real(host, *rest)

        return getaddrinfo

    def _script(self, connection: Connection) -> None:
        if not self._broken:
            saying(answer(NEW))(connection)
        elif self.row.tls == "silent":
            connection.silence()
        elif self.fault == "a redirect":
            saying(answer(b"", "307 Temporary Redirect", location=self.abroad.url))(connection)
        elif self.row.script is not None:
            self.row.script(connection)
        else:
            saying(answer(NEW))(connection)

    # ── what a test does ─────────────────────────────────────────────────────────────────────────────────

    def call(self) -> int:
        return int(self.session.get(self.api.url, timeout=10).status_code)

    @property
    def carried(self) -> str:
        """The token that the API saw last."""
        head = self.api.requests[-1].decode("latin-1").lower()
        return next(line for line in head.split("\r\n") if line.startswith("authorization:")).rpartition(" ")[2]

    @property
    def grant(self) -> loginonce.Grant:
        grant = self.session.source.store.load(self.session.source.key).grant
        assert grant is not None
        return grant

    def age(self, left: float) -> None:
        """Let the access token have so many seconds left of 300."""
        now = time.time()

        def older(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            tokens = [replace(token, received_at=now + left - 300, expires_at=now + left) for token in grant.tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        self.session.source.change(older)

    def wait_out(self) -> None:
        """Let the time be over before which nobody asks again."""

        def later(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            assert grant.failure is not None
            return replace(grant, attempt=grant.attempt + 1, failure=replace(grant.failure, not_before=0.0))

        self.session.source.change(later)

    def heal(self) -> None:
        self._broken = False
        self._free.set()
        if self.fault == "refused":
            self._listen()
        elif self.row.tls:
            self.server.tls = self._context("here")
        elif self.fault.startswith(("a name", "a resolver")):
            real = socket.getaddrinfo
            here = {"provider.invalid": "127.0.0.1"}
            self._patch.setattr(socket, "getaddrinfo", lambda host, *rest: real(here.get(host, host), *rest))
