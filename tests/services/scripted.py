"""A server that does to each connection exactly what a script says: TCP on loopback, and nothing helpful."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Self

Script = Callable[["Connection"], None]


class Connection:
    """One connection, as its script sees it."""

    def __init__(self, server: Scripted, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.sent = 0

    def request(self) -> bytes:
        """Read one request, head and body, and note it."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(body) < length:
            body += self._more()
        whole = head + b"\r\n\r\n" + body
        self.server.requests.append(whole)
        return whole

    def _more(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the client went away")
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent += len(data)
        self.server.bytes_sent += len(data)

    def reset(self) -> None:
        """Break the connection off (RST), so that what was sent may not even be read."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def reset_unread(self) -> None:
        """Break the connection off as soon as something has come, and read nothing of it."""
        self.sock.recv(1, socket.MSG_PEEK)
        self.reset()

    def silence(self) -> None:
        """Say nothing until the server ends."""
        self.server.stopping.wait()

    def trickle(self, data: bytes, *, each: float = 0.02) -> None:
        """Send these bytes again and again, one at a time, until the client is gone or the server ends."""
        while not self.server.stopping.is_set():
            for at in range(len(data)):
                self.send(data[at : at + 1])
                if self.server.stopping.wait(each):
                    return


class Scripted:
    """A server on 127.0.0.1; `requests` and `connections` say what it saw."""

    def __init__(
        self, script: Script, *, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.bytes_sent = 0
        self.stopping = threading.Event()
        self._script = script
        self.tls = tls
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/token"

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            self._script(Connection(self, sock))
        with contextlib.suppress(OSError):
            sock.close()


def answer(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; `content_type="text/html"` and the like make its headers."""
    fields = {"content-length": str(len(body)), **{n.replace("_", "-"): v for n, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def saying(data: bytes) -> Script:
    """Read the request, say this, close."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(data)

    return script
