"""The private HTTP session: one request, one answer, in bounds; and what a failure says of where the request got."""

from __future__ import annotations

import errno
import gc
import gzip
import os
import select
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from certificates import Certificates
from scripted import Connection, Scripted, answer, saying
from urllib3.poolmanager import ProxyManager

from loginonce import transport as module
from loginonce.errors import ConfigurationError, TransportError
from loginonce.model import Secret
from loginonce.transport import LARGEST_ANSWER, AnswerLost, NeverSent, Route, Transport
from loginonce.wire import Answer

Serve = Callable[..., Scripted]

CANARY = "rt_canary_90a1c7"
FORM = [("grant_type", "refresh_token"), ("refresh_token", Secret(CANARY))]
BUDGET = 0.4
BOUND = 1.2
"""Seconds within which everything with that budget has to be over, on a busy machine too."""


def post(url: str, *, budget: float = 5.0, route: Route | None = None) -> Answer:
    return Transport(lambda: route or Route()).post(url, FORM, {}, budget=budget)


@contextmanager
def bounded() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND


DEAF = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port of four addresses where connecting neither works nor fails: their queues are full."""
    with ExitStack() as stack:
        port = 0
        for address in DEAF:
            listener = stack.enter_context(socket.create_server((address, port), backlog=0))
            port = listener.getsockname()[1]
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                with suppress(BlockingIOError):
                    filler.connect((address, port))
        yield port


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# What arrives.


def test_a_form_is_posted_and_the_whole_answer_comes_back(serve: Serve) -> None:
    server = serve(saying(answer(b'{"a": 1}', status="400 Bad Request", Retry_After="5", Content_Type="x/y")))
    found = post(server.url)
    assert (found.status, found.body) == (400, b'{"a": 1}')
    assert found.headers["retry-after"] == "5"
    assert found.headers["content-type"] == "x/y"
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1\r\n")
    assert body == b"grant_type=refresh_token&refresh_token=rt_canary_90a1c7"
    assert CANARY.encode() not in head


def test_what_goes_along_is_little(serve: Serve) -> None:
    server = serve(saying(answer()))
    Transport().post(server.url, [("a", "b")], {"X-Mine": "1"}, budget=5)
    head = server.requests[0].partition(b"\r\n\r\n")[0].decode().lower()
    names = {line.partition(":")[0] for line in head.split("\r\n")[1:]}
    assert names == {
        "host", "user-agent", "accept-encoding", "accept", "connection", "x-mine", "content-length", "content-type",
    }  # fmt: skip
    assert "connection: close" in head
    assert "user-agent: loginonce\r\n" in head + "\r\n"
    assert "accept: application/json" in head


def test_a_plain_request_takes_headers_and_may_have_none(serve: Serve) -> None:
    server = serve(saying(answer(b"hello")))
    assert Transport().get(server.url, budget=5).body == b"hello"
    assert Transport().get(server.url, {"Authorization": "Bearer x"}, budget=5).status == 200
    assert [b"Bearer x" in request for request in server.requests] == [False, True]


@pytest.mark.hazard(4)
def test_a_connection_is_never_used_twice(serve: Serve) -> None:
    def script(connection: Connection) -> None:
        while True:
            connection.request()
            connection.send(answer())

    server = serve(script)
    shared = Transport()
    for _ in range(3):
        shared.get(server.url, budget=5)
    assert server.connections == 3


def test_cookies_are_not_kept(serve: Serve) -> None:
    server = serve(saying(answer(set_cookie="session=1; Path=/")))
    shared = Transport()
    shared.get(server.url, budget=5)
    shared.get(server.url, budget=5)
    assert not any(b"session=1" in request for request in server.requests)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_answer_is_unpacked(serve: Serve, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    server = serve(saying(answer(pack(b'{"a": 1}'), content_encoding=encoding)))
    assert post(server.url).body == b'{"a": 1}'


def test_an_answer_in_chunks_is_put_together(serve: Serve) -> None:
    server = serve(saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
    assert post(server.url).body == b"abcde"


def test_an_answer_without_a_length_ends_with_its_connection(serve: Serve) -> None:
    server = serve(saying(b"HTTP/1.0 200 OK\r\n\r\nabc"))
    assert post(server.url).body == b"abc"


@pytest.mark.parametrize("status", ["429 Slow Down", "500 Oops", "502 Bad Gateway", "503 Later"])
def test_an_answer_of_any_status_is_an_answer(serve: Serve, status: str) -> None:
    server = serve(saying(answer(b"<html>gateway</html>", status=status, content_type="text/html")))
    assert post(server.url) == Answer(
        int(status[:3]),
        {"content-type": "text/html", "content-length": "20"},
        b"<html>gateway</html>",
    )
    assert server.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.hazard(4, 25)
def test_a_redirect_is_not_followed(serve: Serve, status: int) -> None:
    elsewhere = serve(saying(answer()))
    server = serve(saying(answer(b"", status=f"{status} Go", location=elsewhere.url)))
    found = post(server.url)
    assert (found.status, found.headers["location"]) == (status, elsewhere.url)
    assert (server.connections, elsewhere.connections) == (1, 0)


def test_a_redirect_to_nowhere_is_an_answer(serve: Serve) -> None:
    server = serve(saying(answer(b"", status="302 Go", location="http://[")))
    assert post(server.url).headers["location"] == "http://["


# What does not: nothing was sent.


def refused_by(url: str, *, budget: float = 5.0, route: Route | None = None) -> NeverSent:
    with pytest.raises(TransportError) as failed:
        post(url, budget=budget, route=route)
    assert isinstance(failed.value, NeverSent)
    assert CANARY not in str(failed.value)
    return failed.value


def test_a_refused_connection_was_never_sent(serve: Serve) -> None:
    port = unused_port()
    error = refused_by(f"http://127.0.0.1:{port}/token")
    assert str(error) == "127.0.0.1 could not be reached: Connection refused"


def test_a_name_that_does_not_resolve_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in str(refused_by("https://id.example.org/token"))


def test_a_connection_that_does_not_come_about_in_time_was_never_sent(deaf: int) -> None:
    with bounded():
        refused_by(f"http://127.0.0.1:{deaf}/token", budget=BUDGET)


def test_a_name_with_many_deaf_addresses_is_given_up_within_the_budget(
    deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        found = DEAF if host == "localhost" else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, deaf)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with bounded():
        refused_by(f"http://localhost:{deaf}/token", budget=BUDGET)


def test_a_certificate_of_an_unknown_authority_was_never_sent(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer()), tls=certificates.context(certificates.here))
    assert "certificate verify failed" in str(refused_by(server.url))
    assert server.requests == []


def test_a_certificate_of_another_host_was_never_sent(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer()), tls=certificates.context(certificates.elsewhere))
    refused_by(server.url, route=Route(verify=certificates.ca))
    assert server.requests == []


def test_a_server_that_speaks_no_tls_was_never_sent(serve: Serve) -> None:
    server = serve(lambda connection: connection.send(b"HTTP/1.1 400 Bad\r\n\r\n"))
    refused_by(server.url.replace("http:", "https:"))
    assert server.connections == 1


def test_a_handshake_that_is_broken_off_was_never_sent(serve: Serve) -> None:
    def script(connection: Connection) -> None:
        connection.sock.recv(1)  # so that the client has begun
        connection.reset()

    server = serve(script)
    refused_by(server.url.replace("http:", "https:"))
    assert server.connections == 1


def test_a_handshake_that_hangs_is_given_up_within_the_budget(serve: Serve) -> None:
    server = serve(Connection.silence)
    with bounded():
        refused_by(server.url.replace("http:", "https:"), budget=BUDGET)


def test_a_handshake_that_trickles_is_given_up_within_the_budget(serve: Serve) -> None:
    server = serve(lambda connection: connection.trickle(b"\x16\x03\x03\x40\x00" + bytes(500)))
    with bounded():
        refused_by(server.url.replace("http:", "https:"), budget=BUDGET)


def test_an_address_of_a_family_that_this_machine_lacks_is_passed_over(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(saying(answer(b"over IPv4")))
    real = socket.socket

    class NoIPv6(real):  # type: ignore[misc,valid-type]  # it is a class
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **kwargs)

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]

    monkeypatch.setattr(socket, "socket", NoIPv6)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert post(f"http://localhost:{server.port}/token").body == b"over IPv4"


def test_an_address_that_refuses_is_passed_over(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(saying(answer(b"the second")))

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, server.port)) for ip in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert post(f"http://localhost:{server.port}/token").body == b"the second"


def test_a_name_without_an_address_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    refused_by("https://id.example.org/token")


def test_a_number_is_looked_up_without_a_thread(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(saying(answer(b"here")))
    begun: list[str] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        begun.append(thread.name)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert "127.0.0.1" in server.url
    assert Transport().get(server.url, budget=BUDGET).body == b"here"
    assert "loginonce-resolver" not in begun


@pytest.mark.hazard(8)
def test_a_name_whose_look_up_hangs_is_given_up_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver asks each of its servers several times, for five seconds each."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    with bounded():
        refused_by("https://id.example.org/token", budget=BUDGET)
    over.set()


def test_a_slow_handshake_with_one_of_many_addresses_has_what_is_left_of_the_budget(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certificates.context(certificates.here)

    def script(connection: Connection) -> None:
        connection.server.stopping.wait(0.5)
        with context.wrap_socket(connection.sock, server_side=True) as sock:
            saying(answer(b"slow"))(Connection(connection.server, sock))

    server = serve(script)

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))] * 8

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = server.url.replace("http:", "https:")
    assert post(url, budget=2.0, route=Route(verify=certificates.ca)).body == b"slow"


def test_a_slow_connection_leaves_less_of_the_budget_for_the_handshake(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Connection.silence)
    real = socket.getaddrinfo
    budget = 2.0  # of which eight tenths are more than a busy machine loses

    def slow(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "localhost":
            threading.Event().wait(0.8 * budget)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    refused_by(f"https://localhost:{server.port}/token", budget=budget)
    assert time.monotonic() - began < 1.6 * budget


def test_a_missing_file_of_authorities_was_never_sent(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer()), tls=certificates.context(certificates.here))
    assert "/nowhere/ca.pem" in str(refused_by(server.url, route=Route(verify="/nowhere/ca.pem")))


# What is lost: it may have been carried out.


def lost_by(url: str, *, budget: float = 5.0, route: Route | None = None) -> AnswerLost:
    with pytest.raises(TransportError) as failed:
        post(url, budget=budget, route=route)
    assert isinstance(failed.value, AnswerLost)
    assert CANARY not in str(failed.value)
    assert failed.value.__context__ is None
    return failed.value


def after_the_request(work: Callable[[Connection], None]) -> Callable[[Connection], None]:
    def script(connection: Connection) -> None:
        connection.request()
        work(connection)

    return script


def sending(*parts: bytes, then: Callable[[Connection], None] = Connection.reset) -> Callable[[Connection], None]:
    def script(connection: Connection) -> None:
        connection.request()
        for part in parts:
            connection.send(part)
        then(connection)

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

BREAKS: dict[str, Callable[[Connection], None]] = {
    "reset before the request is read": Connection.reset_unread,
    "closed before the request is read": lambda connection: connection.sock.recv(1, socket.MSG_PEEK) and None,
    "reset after the request": after_the_request(Connection.reset),
    "closed after the request": after_the_request(lambda connection: None),
    "broken off in the status line": sending(b"HTTP/1.1 2", then=lambda connection: None),
    "broken off in the headers": sending(HEAD),
    "broken off in the body": sending(HEAD + b"Content-Length: 100\r\n\r\n{", then=lambda connection: None),
    "broken off in a chunk": sending(HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n{", then=lambda connection: None),
    "a chunk of no length": sending(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{"),
    "no HTTP at all": sending(b"220 smtp.example.org ESMTP\r\n"),
    "broken gzip": sending(answer(b"\x1f\x8b\x08" + b"x" * 50, content_encoding="gzip")),
    "200 headers": sending(HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n"),
    "a header that is too long": sending(HEAD + b"X: " + b"x" * 70000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
@pytest.mark.hazard(1, 4)
def test_a_connection_that_stood_and_brought_no_answer_may_have_been_sent(
    serve: Serve, script: Callable[[Connection], None]
) -> None:
    server = serve(script)
    error = lost_by(server.url)
    assert str(error).startswith("127.0.0.1 was sent the request, and its answer did not arrive: ")
    assert server.connections == 1, "it was tried again"


def endless(data: bytes) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        while not connection.server.stopping.is_set():
            connection.send(data)

    return work


HANGS: dict[str, Callable[[Connection], None]] = {
    "silence": Connection.silence,
    "silence after the request": after_the_request(Connection.silence),
    "silence in the headers": sending(HEAD, then=Connection.silence),
    "silence in the body": sending(HEAD + b"Content-Length: 9\r\n\r\n{", then=Connection.silence),
    "a trickle of headers": sending(HEAD, then=lambda connection: connection.trickle(b"X-A: b\r\n")),
    "a trickle in one header": sending(HEAD + b"X: ", then=lambda connection: connection.trickle(b"x")),
    "a trickle of body": sending(
        HEAD + b"Content-Length: 9999\r\n\r\n", then=lambda connection: connection.trickle(b" ")
    ),
    "a trickle of body without a length": sending(HEAD + b"\r\n", then=lambda connection: connection.trickle(b" ")),
    "a trickle of chunks": sending(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", then=lambda connection: connection.trickle(b"1\r\nx\r\n")
    ),
    "a trickle of gzip that unpacks to nothing": sending(
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10],
        then=lambda connection: connection.trickle(b"\x00\x00\x00\xff\xff"),
    ),
    "interim answers for ever": after_the_request(
        lambda connection: connection.trickle(b"HTTP/1.1 100 Continue\r\n\r\n")
    ),
    "a flood of interim answers": after_the_request(endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)),
}


@pytest.mark.parametrize("script", HANGS.values(), ids=HANGS)
@pytest.mark.hazard(8)
def test_an_answer_that_does_not_end_is_given_up_within_the_budget(
    serve: Serve, script: Callable[[Connection], None]
) -> None:
    server = serve(script)
    with bounded():
        error = lost_by(server.url, budget=BUDGET)
    assert str(error).endswith("no answer in time")
    assert server.connections == 1


def test_a_trickle_under_tls_is_given_up_within_the_budget(serve: Serve, certificates: Certificates) -> None:
    script = sending(HEAD, then=lambda connection: connection.trickle(b"X-A: b\r\n"))
    server = serve(script, tls=certificates.context(certificates.here))
    with bounded():
        lost_by(server.url, budget=BUDGET, route=Route(verify=certificates.ca))


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_after_its_time_an_answer_that_may_not_be_whole_is_lost(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    server = serve(saying(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body))
    monkeypatch.setattr(module._Watch, "expired", property(lambda watch: watch.stood))
    monkeypatch.setattr(module._Watch, "cut", lambda watch: None)
    assert str(lost_by(server.url)).endswith("no answer in time")


@pytest.mark.parametrize(
    "said",
    [answer(b"{}"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"],
    ids=["by its length", "by its last chunk"],
)
def test_an_answer_that_is_whole_is_good_however_late_this_process_comes_to_read_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    server = serve(saying(said))
    monkeypatch.setattr(module._Watch, "expired", property(lambda watch: watch.stood))
    assert Transport().post(server.url, [], {}, budget=BUDGET).body == b"{}"


def test_a_connection_that_comes_about_after_the_time_is_cut_at_once(serve: Serve) -> None:
    server = serve(saying(answer()))
    watch = module._Watch(-1)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        watch.hold(sock)
        assert sock.recv(1) == b""
    watch.close()
    watch.cut()  # a closed one is left alone


def test_nothing_is_sent_by_a_machine_that_slept_while_it_connected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(saying(answer()))
    monkeypatch.setattr(module._Watch, "overslept", property(lambda watch: True))
    assert "took too long to connect" in str(refused_by(server.url))
    assert not any(server.requests)


# Bounds of size.


def bomb() -> bytes:
    return gzip.compress(bytes(1 << 26))


SIZES: dict[str, Callable[[], Callable[[Connection], None]]] = {
    "announced": lambda: saying(answer(bytes(LARGEST_ANSWER + 1))),
    "without a length": lambda: sending(HEAD + b"\r\n", then=endless(bytes(65536))),
    "in chunks": lambda: sending(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", then=endless(b"10000\r\n" + bytes(65536) + b"\r\n")
    ),
    "a gzip bomb": lambda: saying(answer(bomb(), content_encoding="gzip")),
    "a gzip bomb in a gzip bomb": lambda: saying(answer(gzip.compress(bomb()), content_encoding="gzip, gzip")),
}


@pytest.mark.parametrize("script", SIZES.values(), ids=SIZES)
def test_an_answer_that_is_too_large_is_lost_and_not_held_in_memory(
    serve: Serve, script: Callable[[], Callable[[Connection], None]]
) -> None:
    server = serve(script())
    tracemalloc.start()
    try:
        assert "far too large" in str(lost_by(server.url, budget=10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert server.connections == 1


def test_an_answer_of_exactly_the_largest_size_is_an_answer(serve: Serve) -> None:
    server = serve(saying(answer(bytes(LARGEST_ANSWER))))
    assert len(post(server.url).body) == LARGEST_ANSWER


def test_a_redirect_with_an_endless_body_is_not_read_to_its_end(serve: Serve) -> None:
    def script(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 302 Go\r\nLocation: https://elsewhere.example.org/\r\n\r\n")
        for _ in range(64):
            connection.send(bytes(1 << 20))

    server = serve(script)
    with suppress(AnswerLost):
        post(server.url)
    assert server.bytes_sent < 32 << 20


def test_the_body_of_a_redirect_comes_back(serve: Serve) -> None:
    server = serve(saying(answer(b"moved", status="302 Go", location="https://elsewhere.example.org/")))
    assert post(server.url).body == b"moved"


# Where a secret may go.


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.org/token",
        "http://10.0.0.1/token",
        "http://127.0.0.1.example.org/token",
        "http://localhost.example.org/token",
        "ftp://127.0.0.1/token",
        "https:///token",
        "//127.0.0.1/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_an_address_that_is_neither_https_nor_here_is_refused_before_anything_happens(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(ConfigurationError, match="no secret is sent there"):
        post(url)


def test_an_address_that_cannot_be_read_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        post("https://[/token")


@pytest.mark.hazard(25)
def test_netrc_is_not_consulted(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(saying(answer()))
    assert requests.get(server.url, timeout=5).ok  # so the file would count
    post(server.url)
    Transport().get(server.url, {"Authorization": "Bearer x"}, budget=5)
    shown = [b"authorization: basic" in request.lower() for request in server.requests]
    assert shown == [True, False, False]


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [("http", {"proxies": {"http": 1}}), ("http", {"proxies": {"http": b"http://x"}}), ("https", {"cert": 5})],
)
def test_settings_that_nobody_can_send_with_send_nothing(serve: Serve, scheme: str, settings: dict[str, Any]) -> None:
    server = serve(saying(answer()))
    with pytest.raises(NeverSent, match="TypeError|AttributeError"):
        post(server.url.replace("http:", f"{scheme}:"), route=Route(**settings))
    assert server.requests == []


def test_a_password_in_the_address_shows_in_no_message() -> None:
    with pytest.raises(NeverSent) as failed:
        post(f"http://ada:{CANARY}@127.0.0.1:{unused_port()}/token")
    assert CANARY not in str(failed.value)


LEAKS: dict[str, bytes] = {
    "an answer without a head": b'{"access_token": "%s"}\r\n' % CANARY.encode(),
    "a body that claims to be in chunks": HEAD
    + b'Transfer-Encoding: chunked\r\n\r\n{"access_token": "%s"}\r\n' % CANARY.encode(),
}


@pytest.mark.parametrize("data", LEAKS.values(), ids=LEAKS)
def test_a_broken_answer_shows_none_of_its_tokens_in_the_message(serve: Serve, data: bytes) -> None:
    server = serve(saying(data))
    with pytest.raises(AnswerLost) as failed:
        post(server.url)
    assert CANARY not in str(failed.value)


@pytest.mark.hazard(39)
def test_no_frame_behind_an_error_holds_more_than_secrets(serve: Serve) -> None:
    server = serve(Connection.reset_unread)
    with pytest.raises(AnswerLost) as failed:
        post(server.url)
    shown = []
    frame = failed.value.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals["__name__"] == module.__name__:
            shown.append(repr(frame.tb_frame.f_locals))
        frame = frame.tb_next
    assert shown
    assert CANARY not in "".join(shown)


# Certificates.


def test_a_private_authority_comes_by_the_route(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer(b"secret")), tls=certificates.context(certificates.here))
    assert post(server.url, route=Route(verify=certificates.ca)).body == b"secret"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_comes_by_the_environment(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, certificates.ca)
    server = serve(saying(answer(b"secret")), tls=certificates.context(certificates.here))
    assert post(server.url).body == b"secret"


def test_a_client_shows_its_certificate(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer()), tls=certificates.context(certificates.here, clients=True))
    assert post(server.url, route=Route(verify=certificates.ca, cert=certificates.client)).status == 200
    with pytest.raises(TransportError):
        post(server.url, route=Route(verify=certificates.ca))


def test_the_route_is_asked_for_each_request(serve: Serve, certificates: Certificates) -> None:
    server = serve(saying(answer()), tls=certificates.context(certificates.here))
    routes = [Route(), Route(verify=certificates.ca)]
    shared = Transport(lambda: routes.pop(0))
    with pytest.raises(NeverSent):
        shared.get(server.url, budget=5)
    assert shared.get(server.url, budget=5).status == 200


def test_a_tls_connection_that_is_broken_off_after_the_request_may_have_been_sent(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(after_the_request(Connection.reset), tls=certificates.context(certificates.here))
    lost_by(server.url, route=Route(verify=certificates.ca))
    assert server.connections == 1


# Proxies.


def relay(connection: Connection) -> None:
    """A proxy that makes tunnels."""
    host, port = connection.request().split(b" ")[1].decode().split(":")
    with socket.create_connection((host, int(port))) as beyond:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=pump, args=(beyond, connection.sock), daemon=True)
        back.start()
        pump(connection.sock, beyond)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


AWAY = "elsewhere.example.org"
"""A host that is not this machine, as far as its name goes."""


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """AWAY is to be found on this machine all the same; the names that were looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == AWAY else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.fixture
def beyond(serve: Serve, certificates: Certificates, away: list[str]) -> Scripted:
    """A server behind a proxy."""
    return serve(saying(answer(b"secret")), tls=certificates.context(certificates.elsewhere))


def at(server: Scripted) -> str:
    return f"https://{AWAY}:{server.port}/token"


def test_https_goes_through_a_tunnel_of_which_the_proxy_of_the_environment_sees_nothing(
    serve: Serve, certificates: Certificates, beyond: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(relay)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert post(at(beyond), route=Route(verify=certificates.ca)).body == b"secret"
    assert (proxy.connections, beyond.connections) == (1, 1)
    assert proxy.requests[0].startswith(f"CONNECT {AWAY}:{beyond.port} ".encode())
    assert CANARY.encode() not in b"".join(proxy.requests)


def test_a_host_that_needs_no_proxy_gets_none(
    serve: Serve, certificates: Certificates, beyond: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(relay)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", AWAY)
    assert post(at(beyond), route=Route(verify=certificates.ca)).body == b"secret"
    assert proxy.connections == 0


def test_a_route_may_leave_the_environment_out(
    serve: Serve, certificates: Certificates, beyond: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(relay)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert post(at(beyond), route=Route(verify=certificates.ca, trust_env=False)).body == b"secret"
    assert proxy.connections == 0


def test_a_proxy_comes_by_the_route_too(serve: Serve, certificates: Certificates, beyond: Scripted) -> None:
    proxy = serve(relay)
    route = Route(verify=certificates.ca, proxies={"https": f"http://127.0.0.1:{proxy.port}"})
    assert post(at(beyond), route=route).body == b"secret"
    assert proxy.connections == 1


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_what_is_meant_for_this_machine_does_not_leave_it_by_a_proxy(
    serve: Serve, away: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server = serve(saying(answer(b"direct")))
    monkeypatch.setenv(name, "http://proxy.example.org:3128")
    assert post(server.url).body == b"direct"
    assert "proxy.example.org" not in away


def test_a_proxy_that_is_not_there_was_never_sent(beyond: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{unused_port()}")
    refused_by(at(beyond))


def test_a_tunnel_that_is_refused_was_never_sent(
    serve: Serve, away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(saying(answer(b"no", status="407 Who Are You")))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert "407" in str(refused_by(f"https://{AWAY}/token"))
    assert proxy.connections == 1


def test_a_tunnel_that_hangs_is_given_up_within_the_budget(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(after_the_request(Connection.silence))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    with bounded():
        refused_by(f"https://{AWAY}/token", budget=BUDGET)


# The ssl module gives a socket that was shut before its handshake back as it is, and urllib3 does not close it.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tunnel_that_trickles_is_given_up_within_the_budget(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nX: ")
        connection.trickle(b"x")

    proxy = serve(script)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    with bounded():
        refused_by(f"https://{AWAY}/token", budget=BUDGET)
    gc.collect()


def test_a_tunnel_that_drops_the_request_may_have_sent_it(
    serve: Serve, certificates: Certificates, away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(after_the_request(Connection.reset), tls=certificates.context(certificates.elsewhere))
    proxy = serve(relay)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    lost_by(at(server), route=Route(verify=certificates.ca))
    assert server.connections == 1


def test_https_through_a_proxy_that_speaks_tls_works(
    serve: Serve, certificates: Certificates, beyond: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(relay_tls, tls=certificates.context(certificates.here))
    monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{proxy.port}")
    assert post(at(beyond), route=Route(verify=certificates.ca)).body == b"secret"
    assert proxy.connections == 1


def test_a_trickle_through_a_proxy_that_speaks_tls_is_given_up_within_the_budget(
    serve: Serve, certificates: Certificates, away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    script = sending(HEAD + b"X: ", then=lambda connection: connection.trickle(b"x"))
    server = serve(script, tls=certificates.context(certificates.elsewhere))
    proxy = serve(relay_tls, tls=certificates.context(certificates.here))
    monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{proxy.port}")
    with bounded():
        lost_by(at(server), budget=BUDGET, route=Route(verify=certificates.ca))
    assert errors == []


def relay_tls(connection: Connection) -> None:
    """As `relay`, for connections that are TLS themselves: one thread, since a TLS socket is not for two."""
    connection.request()
    host, port = connection.server.requests[-1].split(b" ")[1].decode().split(":")
    with socket.create_connection((host, int(port))) as beyond:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not connection.server.stopping.is_set():
            pending = connection.sock.pending()  # type: ignore[attr-defined]  # it is an SSLSocket
            ready = [connection.sock] if pending else select.select([connection.sock, beyond], [], [], 0.05)[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (beyond if source is connection.sock else connection.sock).sendall(data)


def test_what_a_socks_proxy_did_is_not_known_so_it_may_have_been_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Socks(ProxyManager):
        """Stands in for the manager of a SOCKS proxy, whose connections are not ours."""

    port = unused_port()
    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", lambda proxy, **_: Socks(f"http://127.0.0.1:{port}"))
    route = Route(proxies={"https": f"socks5://127.0.0.1:{port}"})
    lost_by(f"https://{AWAY}/token", route=route)
    assert module._WatchedAdapter().proxy_manager_for("socks5://127.0.0.1:1")


# Threads, and what is left behind.


def test_an_adapter_outside_of_an_exchange_is_an_adapter(serve: Serve, certificates: Certificates) -> None:
    plain = serve(saying(answer(b"plain")))
    tls = serve(saying(answer(b"tls")), tls=certificates.context(certificates.here))
    with requests.Session() as session:
        session.mount("http://", module._WatchedAdapter())
        session.mount("https://", module._WatchedAdapter())
        assert session.get(plain.url, timeout=5).content == b"plain"
        assert session.get(tls.url, timeout=5, verify=certificates.ca).content == b"tls"


def test_one_transport_serves_many_threads_and_each_learns_its_own_fate(serve: Serve) -> None:
    alive = serve(saying(answer(b"alive")))
    dropping = serve(after_the_request(Connection.reset))
    dead = f"http://127.0.0.1:{unused_port()}/token"
    shared = Transport()
    fates: list[object] = [None] * 30

    def work(number: int) -> None:
        url = (alive.url, dropping.url, dead)[number % 3]
        try:
            fates[number] = shared.get(url, budget=10).body
        except TransportError as error:
            fates[number] = type(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fates == [b"alive", AnswerLost, NeverSent] * 10


def test_neither_a_thread_nor_a_descriptor_is_left_behind(serve: Serve) -> None:
    good, bad = serve(saying(answer())), serve(after_the_request(Connection.reset))
    dead = f"http://127.0.0.1:{unused_port()}/token"

    def work() -> None:
        post(good.url)
        lost_by(bad.url)
        refused_by(dead)
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join(5)

    def ours() -> set[str]:
        # Those that the servers of this test keep are theirs.
        held = {sock.fileno() for server in (good, bad) for sock in server._open if sock.fileno() >= 0}
        return {fd for fd in os.listdir("/proc/self/fd") if int(fd) not in held}

    work()
    before = len(ours())
    for _ in range(5):
        work()
    assert len(ours()) <= before
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_process_that_may_start_no_more_threads_gets_its_answer_all_the_same(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 refuses new threads as soon as the interpreter ends, when workers may still be renewing."""
    server = serve(saying(answer()))
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if isinstance(thread, threading.Timer) or thread.name == "loginonce-resolver":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert post(server.url.replace("127.0.0.1", "localhost")).status == 200
    assert module._watching.get() is None


def test_why_it_failed_is_told_in_the_words_of_the_system_and_of_nobody_else() -> None:
    said = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    outer = ValueError(CANARY)
    outer.__cause__ = said
    assert module._reason(outer, None) == os.strerror(errno.EHOSTUNREACH)
    assert module._reason(ValueError(CANARY), None) == "ValueError"
    assert module._reason(OSError(), None) == "OSError"
    assert len(module._reason(OSError("x" * 1000), None)) == 200


def test_a_cause_that_is_far_away_is_not_searched_for_ever() -> None:
    first: Exception = ValueError()
    last = first
    for _ in range(20):
        following = ValueError()
        last.__cause__ = following
        last = following
    last.__cause__ = first
    assert module._reason(first, None) == "ValueError"


def test_an_error_that_was_being_handled_at_the_time_is_not_told_as_the_cause() -> None:
    try:
        raise ValueError("something unrelated")
    except ValueError:
        with pytest.raises(NeverSent) as failed:
            post(f"http://127.0.0.1:{unused_port()}/token")
    assert "unrelated" not in str(failed.value)
