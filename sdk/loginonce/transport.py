"""The private HTTP session to the provider: one request, one answer, bounded in size and in time.

It is not the session that users see: no retries, no redirects, no netrc, no cookies, no connection kept (a
kept one that the provider has closed could not be told from an answer that was lost).  Certificates and proxies
come from the usual settings of requests.  What a failed request means for a refresh token is a matter of
whether it can have reached the provider, so every connection reports when it stands:

    NeverSent   no connection came about (name, connect, TLS): provably nothing was spent
    AnswerLost  it did: the request may have been carried out
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.poolmanager import PoolManager, ProxyManager

from .address import secure
from .errors import ConfigurationError, TransportError
from .model import Secret
from .proxies import FrugalSession, staying_here
from .value import Value, field
from .wire import Answer, Form

__all__ = ["LARGEST_ANSWER", "AnswerLost", "NeverSent", "Route", "Transport"]

LARGEST_ANSWER = 1 << 20
"""Bytes of an answer, unpacked; no provider's is near that."""

CONNECT_TIMEOUT = 10.0
"""Seconds, within the budget of the whole."""


class NeverSent(TransportError):
    """The request provably never reached the provider."""


class AnswerLost(TransportError):
    """The request may have reached the provider, and no whole answer came back."""


class Route(Value):
    """How to get to the provider, in the settings of requests: a CA file (`verify`; None = the usual ones), a
    client's certificate (`cert`) and `proxies`.  Verification itself cannot be turned off.
    """

    verify: str | None = None
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, hash=False)
    trust_env: bool = True


class Transport:
    """Sends one request at a time to a provider; safe to share among threads and forks (it keeps nothing open).

    `route` is asked for each request, so that settings made later count too.
    """

    def __init__(self, route: Callable[[], Route] = Route) -> None:
        self._route = route

    def post(
        self, url: str, form: Form | Secret, headers: Mapping[str, str], *, budget: float, method: str = "POST"
    ) -> Answer:
        """The answer to a form, or to a body that is written already (ASCII; the headers say of which type).

        `budget`: seconds for the whole.  Raises `NeverSent` or `AnswerLost`.
        """
        return self._exchange(method, url, form, headers, budget)

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, budget: float) -> Answer:
        """The answer to a plain request.  `budget`: seconds for the whole.  Raises `NeverSent` or `AnswerLost`."""
        return self._exchange("GET", url, None, headers or {}, budget)

    def _exchange(
        self, method: str, url: str, form: Form | Secret | None, headers: Mapping[str, str], budget: float
    ) -> Answer:
        if not secure(url):
            raise ConfigurationError(f"{url} is neither https nor on this machine: no secret is sent there")
        watch = _Watch(budget)
        watchdog = threading.Timer(budget, watch.cut)
        watchdog.daemon = True
        earlier = sys.exception()
        with suppress(RuntimeError):  # at its end, Python 3.12 starts no threads: then only each read is bounded
            watchdog.start()
        failure = ""
        token = _watching.set(watch)
        try:
            return self._send(method, url, form, headers, budget, watch)
        except Exception as error:  # also a TypeError, such as for settings of the session that nobody can send with
            failure = "no answer in time" if watch.expired else _reason(error, earlier)
        finally:
            watchdog.cancel()
            watch.close()
            _watching.reset(token)
        # Raised out here, so that no traceback leads into frames that hold the form.
        host = urlsplit(url).hostname
        if watch.stood:
            raise AnswerLost(f"{host} was sent the request, and its answer did not arrive: {failure}")
        raise NeverSent(f"{host} could not be reached: {failure}")

    def _send(
        self,
        method: str,
        url: str,
        form: Form | Secret | None,
        headers: Mapping[str, str],
        budget: float,
        watch: _Watch,
    ) -> Answer:
        route = self._route()
        with FrugalSession() as session:
            session.auth = _no_netrc
            session.trust_env = route.trust_env
            session.mount("https://", _WatchedAdapter())
            session.mount("http://", _WatchedAdapter())
            request = requests.Request(
                method,
                url,
                data=form,
                headers={"Accept": "application/json", "Connection": "close", "User-Agent": "loginonce", **headers},
            )
            prepared = session.prepare_request(request)
            settings = session.merge_environment_settings(
                url, dict(route.proxies), stream=True, verify=route.verify, cert=route.cert
            )
            # By the adapter: `Session.send` would read the body of a redirect, without bound, to forget it.
            adapter = session.get_adapter(url)
            response = adapter.send(
                prepared,
                stream=True,
                timeout=(min(CONNECT_TIMEOUT, budget), budget),
                verify=settings["verify"] or True,
                cert=settings["cert"],
                proxies=staying_here(url, settings["proxies"]),
            )
            with response:

                def whole() -> bool:
                    return bool(response.raw.length_remaining == 0)

                body = b""
                for chunk in response.raw.stream(16384, decode_content=True):
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise _Unacceptable("the answer is far too large")
                    if watch.expired and not (whole() or (response.raw.chunked and watch.cuts)):
                        raise _Unacceptable("the answer took too long")
                # One that is all there is good, however late this process came to read it: it may have been stopped.
                if watch.expired and not (whole() or response.raw.chunked):  # whose last chunk has come, or it failed
                    raise _Unacceptable("the answer took too long")
                return Answer(
                    response.status_code, {name.lower(): text for name, text in response.headers.items()}, body
                )


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing: requests looks into .netrc only where there is none."""
    return request


def _reason(error: BaseException, earlier: BaseException | None) -> str:
    """Why it failed, in the words of the operating system or of this module.

    Other libraries' words may quote what was received, and so a token.  `earlier` is an exception that was
    being handled before the exchange began.
    """
    innermost: BaseException = error
    for _ in range(8):
        following = getattr(innermost, "reason", None) or innermost.__cause__ or innermost.__context__
        if not isinstance(following, BaseException) or following is earlier:
            break
        innermost = following
    if isinstance(innermost, OSError) and not isinstance(innermost, requests.RequestException):
        return (innermost.strerror or str(innermost) or type(innermost).__name__)[:200]
    return str(innermost) if isinstance(innermost, _Unacceptable) else type(innermost).__name__


class _Unacceptable(ValueError):
    """An answer that goes beyond its bounds."""


class _Watch:
    """What is known of one exchange: whether its connection ever stood, and when it must be over."""

    def __init__(self, budget: float) -> None:
        self.deadline = time.monotonic() + budget
        self._latest = time.time() + budget
        self.stood = False
        self._handles: list[socket.socket] = []

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def overslept(self) -> bool:
        """Whether it is too late to send; also after a sleep of the machine, for which `monotonic` stands still."""
        return self.expired or time.time() > self._latest

    @property
    def cuts(self) -> bool:
        """Whether it can end the exchange, so that what still comes after the time is what was there already."""
        return bool(self._handles)

    def hold(self, sock: socket.socket) -> None:
        """Keep a handle of the connection: TLS, or a proxy, will take the socket itself into its own."""
        self._handles.append(sock.dup())
        if self.expired:
            self.cut()

    def cut(self) -> None:
        """End the exchange from outside: a socket's own timeout starts anew with every byte that trickles in."""
        for handle in self._handles:
            with suppress(OSError):  # it was closed in the meantime
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the handles."""
        for handle in self._handles:
            handle.close()


_watching: ContextVar[_Watch | None] = ContextVar("loginonce_exchange", default=None)


class _Watching(HTTPConnection):
    """A connection that tells its exchange when it is there and when it stands, and is bounded however many
    addresses its name has (urllib3 gives each of them the whole time-out).
    """

    def connect(self) -> None:
        super().connect()
        if (watch := _watching.get()) is not None:
            if watch.overslept:
                raise _Unacceptable("it took too long to connect")
            watch.stood = True

    def _new_conn(self) -> socket.socket:
        watch = _watching.get()
        if watch is None:
            return super()._new_conn()
        failure = OSError("the name has no address")
        try:
            found = _looked_up(self._dns_host, self.port, watch.deadline)
        except (OSError, UnicodeError, RuntimeError) as error:
            raise NewConnectionError(self, f"the name of {self.host} could not be looked up") from error
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, kind, protocol)
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                left = min(CONNECT_TIMEOUT, watch.deadline - time.monotonic())
                sock.settimeout(max(0.01, left / (len(found) - tried)))
                sock.connect(address)
                sock.settimeout(max(0.01, watch.deadline - time.monotonic()))  # for what follows: TLS, the request
            except OSError as error:
                if sock is not None:
                    sock.close()
                failure = error
            else:
                watch.hold(sock)
                return sock
        raise NewConnectionError(self, "no address of it could be connected to") from failure


def _looked_up(host: str, port: int | None, deadline: float) -> list[tuple[Any, ...]]:
    """`getaddrinfo`, until the deadline: the system's resolver has time-outs of its own, and asks each server twice."""
    with suppress(ValueError):
        ipaddress.ip_address(host)  # nobody is asked for a number, so nobody is waited for
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    found: list[tuple[Any, ...]] = []
    failures: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:
            failures.append(error)

    resolver = threading.Thread(target=look_up, name="loginonce-resolver", daemon=True)
    try:
        resolver.start()
    except RuntimeError:  # as above
        look_up()
    else:
        resolver.join(max(0.01, deadline - time.monotonic()))
        if resolver.is_alive():
            raise TimeoutError("its name was not resolved in time")
    if failures:
        raise failures[0]
    return found


class _WatchedTls(_Watching, HTTPSConnection):
    """The same over TLS."""


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _Watching


class _WatchedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _WatchedPool, "https": _WatchedTlsPool}


class _WatchedAdapter(HTTPAdapter):
    """The adapter of requests, over connections that report when they stand.  It never retries."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> ProxyManager:
        manager: PoolManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if type(manager) is ProxyManager:
            manager.pool_classes_by_scheme = _POOLS
        elif (watch := _watching.get()) is not None:
            watch.stood = True  # SOCKS makes its own connections: not seen, so not proven
        return cast("ProxyManager", manager)
