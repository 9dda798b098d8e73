"""HTTP on loopback: threads, keep-alive, and answers that get lost on the way.

Werkzeug's own request handler closes the connection after each answer and waits 10 ms for stray input.
This one reads the body first, so that a connection can serve many requests, and it can break off an answer.
"""

import contextlib
import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Response

from loginonce.testing.faults import Answer, Delivery

Environ = dict[str, Any]
#: Takes the WSGI environment and the body; returns the answer, how it travels, and for how long it drips.
Exchange = Callable[[Environ, bytes], tuple[Answer, Delivery, float]]

BACKLOG = 512
HOST = "127.0.0.1"
_DRIP_INTERVAL = 0.1
#: How often the accepting thread looks whether it should end; what stopping a server may cost at most.
_STOP_POLL = 0.02


def run_app(app: Any, environ: Environ) -> Answer:
    """Run a WSGI application and return its whole answer."""
    response = Response.from_app(app, environ, buffered=True)
    headers = tuple((name, value) for name, value in response.headers if name != "Content-Length")
    return Answer(response.status_code, headers, response.get_data())


class Handler(WSGIRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # sets TCP_NODELAY
    wbufsize = -1  # header and body leave in one segment
    server: "Server"

    def setup(self) -> None:
        """Register the connection, so that stopping the server can close it."""
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.stopping:  # after `stop` went through the connections
            _shut(self.connection)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.connection)
        super().finish()

    def run_wsgi(self) -> None:
        """Answer one request."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ: Environ = self.make_environ()
        body = self._body(environ)
        if body is None:
            self._hang_up()
            return
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        answer, delivery, seconds = self.server.exchange(environ, body)
        self._deliver(answer, delivery, seconds)

    def _body(self, environ: Environ) -> bytes | None:
        """Return the whole body, or None when the client went away while it sent it."""
        if environ.pop("wsgi.input_terminated", False):
            del environ["HTTP_TRANSFER_ENCODING"]  # what the application gets is not in chunks any more
            try:
                chunks: bytes = environ["wsgi.input"].read()
            except OSError:
                return None
            return chunks
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _deliver(self, answer: Answer, delivery: Delivery, seconds: float) -> None:
        if delivery == "nothing":
            self._hang_up()
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        body = answer.body
        if answer.status >= 200 and answer.status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        if delivery == "half":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._hang_up()
            return
        if delivery == "drip":
            body = self._drip(body, seconds)
        self.wfile.write(body)
        self.wfile.flush()

    def _drip(self, body: bytes, seconds: float) -> bytes:
        """Send single bytes for so many seconds, and return what is left."""
        end = time.monotonic() + seconds
        while body and time.monotonic() < end:
            self.wfile.write(body[:1])
            self.wfile.flush()
            body = body[1:]
            self.server.pause(_DRIP_INTERVAL)
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        _shut(self.connection)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Tell the provider's time, which may be wrong."""
        return super().date_time_string(self.server.clock() if timestamp is None else timestamp)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's signature
        """Say nothing."""


class Server(ThreadedWSGIServer):
    """A server with a thread for each connection.

    Args:
        port: The port on 127.0.0.1; 0 picks a free one.
        exchange: Answers requests; called on many threads at once.
        clock: Tells the time of the Date header, in POSIX seconds.

    Raises OSError when the port is taken.
    """

    daemon_threads = True

    def __init__(self, port: int, exchange: Exchange, clock: Callable[[], float]) -> None:
        self.exchange = exchange
        self.clock = clock
        self.connections: set[socket.socket] = set()
        self._stopping = threading.Event()
        # Our own socket: werkzeug listens with a backlog of 128, and exits the process when it can't bind.
        with socket.create_server((HOST, port), backlog=BACKLOG) as listener:
            super().__init__(HOST, listener.getsockname()[1], _no_app, handler=Handler, fd=listener.fileno())
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_STOP_POLL,), name=f"fake-provider-{self.port}", daemon=True
        )
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless it is only that a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the server runs."""
        if seconds > 0:
            self._stopping.wait(seconds)

    def stop(self) -> None:
        """Stop listening and close every connection."""
        self._stopping.set()
        self.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            _shut(connection)


def _shut(connection: socket.socket) -> None:
    """End a connection even when a forked child still holds a copy of the descriptor."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _no_app(_environ: Environ, _start_response: Any) -> list[bytes]:
    """Werkzeug wants an application; our handler calls ours itself."""
    raise AssertionError("a request went past the handler")
