"""The private HTTP session to the provider: one request, one answer, bounded in size and in time.

It is not the session that users see: no retries, no redirects, no netrc, no cookies, no connection kept (a
kept one that the provider has closed could not be told from an answer that was lost).  Certificates and proxies
come from the usual settings of requests.  What a failed request means for a refresh token is a matter of
whether it can have reached the provider, so every connection reports when it stands:

    NeverSent   no connection came about (name, connect, TLS): provably nothing was spent
    AnswerLost  it did: the request may have been carried out
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.poolmanager import PoolManager, ProxyManager

from .errors import ConfigurationError, TransportError
from .wire import Answer, Form, secure

__all__ = ["LARGEST_ANSWER", "AnswerLost", "NeverSent", "Route", "Transport"]

LARGEST_ANSWER = 1 << 20
"""Bytes of an answer, unpacked; no provider's is near that."""

CONNECT_TIMEOUT = 10.0
"""Seconds, within the budget of the whole."""


class NeverSent(TransportError):
    """The request provably never reached the provider."""


class AnswerLost(TransportError):
    """The request may have reached the provider, and no whole answer came back."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to the provider, in the settings of requests: a CA file (`verify`; None = the usual ones), a
    client's certificate (`cert`) and `proxies`.  Verification itself cannot be turned off.
    """

    verify: str | None = None
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, hash=False)


class Transport:
    """Sends one request at a time to a provider; safe to share among threads and forks (it keeps nothing open).

    `route` is asked for each request, so that settings made later count too.
    """

    def __init__(self, route: Callable[[], Route] = Route) -> None:
        self._route = route

    def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
        """The answer to a form.  `budget`: seconds for the whole.  Raises `NeverSent` or `AnswerLost`."""
        return self._exchange("POST", url, form, headers, budget)

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, budget: float) -> Answer:
        """The answer to a plain request.  `budget`: seconds for the whole.  Raises `NeverSent` or `AnswerLost`."""
        return self._exchange("GET", url, None, headers or {}, budget)

    def _exchange(self, method: str, url: str, form: Form | None, headers: Mapping[str, str], budget: float) -> Answer:
        if not secure(url):
            raise ConfigurationError(f"{url} is neither https nor on this machine: no secret is sent there")
        watch = _Watch(time.monotonic() + budget)
        token = _watching.set(watch)
        watchdog = threading.Timer(budget, watch.cut)
        watchdog.daemon = True
        watchdog.start()
        failure = ""
        try:
            return self._send(method, url, form, headers, budget, watch)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            failure = "no answer in time" if watch.expired else _reason(error)
        finally:
            watchdog.cancel()
            _watching.reset(token)
        # Raised out here, so that no traceback leads into frames that hold the form.
        host = url.split("/")[2]
        if watch.stood:
            raise AnswerLost(f"{host} was sent the request, and its answer did not arrive: {failure}")
        raise NeverSent(f"{host} could not be reached: {failure}")

    def _send(
        self,
        method: str,
        url: str,
        form: Form | None,
        headers: Mapping[str, str],
        budget: float,
        watch: _Watch,
    ) -> Answer:
        route = self._route()
        with requests.Session() as session:
            session.auth = _no_netrc
            session.mount("https://", _WatchedAdapter())
            session.mount("http://", _WatchedAdapter())
            response = session.request(
                method,
                url,
                data=form,
                headers={
                    "Accept": "application/json",
                    "Connection": "close",
                    "User-Agent": "loginonce",
                    **headers,
                },
                timeout=(min(CONNECT_TIMEOUT, budget), budget),
                allow_redirects=False,
                stream=True,
                verify=route.verify,
                cert=route.cert,
                proxies=dict(route.proxies),
            )
            with response:
                body = b""
                for chunk in response.raw.stream(16384, decode_content=True):
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise ValueError("the answer is far too large")
                    if watch.expired:
                        raise ValueError("the answer took too long")
                if watch.expired:
                    raise ValueError("the answer took too long")
                return Answer(
                    response.status_code, {name.lower(): text for name, text in response.headers.items()}, body
                )


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing: requests looks into .netrc only where there is none."""
    return request


def _reason(error: BaseException) -> str:
    """Why it failed, in the words of the innermost cause: the outer ones quote URLs and objects."""
    innermost: BaseException = error
    for _ in range(8):
        following = getattr(innermost, "reason", None) or innermost.__cause__ or innermost.__context__
        if not isinstance(following, BaseException):
            break
        innermost = following
    return (str(innermost) or type(innermost).__name__)[:200]


class _Watch:
    """What is known of one exchange: whether its connection ever stood, and when it must be over."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.stood = False
        self._socket: socket.socket | None = None

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.deadline

    def opened(self, sock: socket.socket | None) -> None:
        self.stood = True
        self._socket = sock
        if self.expired:
            self.cut()

    def cut(self) -> None:
        """End the exchange from outside: a socket's own timeout starts anew with every byte that trickles in."""
        if self._socket is not None:
            try:
                # On the plain socket, also under TLS: its own shutdown would first say goodbye, and wait.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed in the meantime


_watching: ContextVar[_Watch | None] = ContextVar("loginonce_exchange", default=None)


class _Watched(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        if (watch := _watching.get()) is not None:
            watch.opened(cast("socket.socket | None", self.sock))


class _WatchedTls(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        if (watch := _watching.get()) is not None:
            watch.opened(cast("socket.socket | None", self.sock))


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _Watched


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
