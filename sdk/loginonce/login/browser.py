"""Signing in with a browser: authorization code with PKCE (RFC 6749 §4.1, RFC 7636, RFC 8252).

Two ways back, which one sign-in may offer together: a receiver on this machine's loopback, and the person who
brings the address of the last page.  An address that is not an answer to this sign-in ends nothing: anybody can
make a browser visit one.
"""

from __future__ import annotations

import html
import math
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from ..client import Provider
from ..errors import ConfigurationError, ErrorResponse, LoginFailed, ProtocolError
from ..log import log
from ..model import Secret, scope_set
from ..providers import ANY
from ..wire import judge_redirect, require_state
from .flow import Prompt, SignedIn, Waiter, first

__all__ = ["DEFAULT_REDIRECT_URI", "BrowserFlow"]

DEFAULT_REDIRECT_URI = ANY.redirect_uri
"""Without a port: any free one (RFC 8252 §7.3).  The address, not `localhost`, which may lead elsewhere."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One authorization request: what was sent, as far as the answer is judged by it."""

    provider: Provider
    redirect_uri: str
    state: str
    nonce: str
    code_verifier: Secret
    url: str
    resource: str
    expires_in: float  # seconds within which the browser has to bring it there

    @classmethod
    def make(
        cls, provider: Provider, *, redirect_uri: str, scope: str, resource: str, asks: Mapping[str, str]
    ) -> _Request:
        # Imported here: importing loginonce must not cost what importing authlib does.
        from authlib.common.security import generate_token
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        methods = provider.server.code_challenge_methods_supported
        if methods and "S256" not in methods:
            raise ConfigurationError(
                f"{provider.server.issuer} does not offer PKCE with S256, and nothing weaker is used: sign in with "
                "a device code, or ask its operators"
            )
        state, nonce, verifier = generate_token(32), generate_token(32), Secret(generate_token(64))
        scopes = scope_set(scope)
        parameters = {
            **asks,
            "redirect_uri": redirect_uri,
            "scope": scope,
            "state": state,
            "nonce": nonce if "openid" in scopes else "",
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
            "resource": resource,
        }
        pushed = provider.push(**parameters)
        url = provider.authorization_url(**({"request_uri": pushed.request_uri} if pushed else parameters))
        expires_in = pushed.expires_in if pushed else math.inf
        nonce = nonce if "openid" in scopes else ""
        return cls(provider, redirect_uri, state, nonce, verifier, url, resource, expires_in)

    def prompt(self, kind: str, patience: float) -> Prompt:
        return Prompt(
            "browser" if kind == "browser" else "paste",
            self.provider.server.issuer,
            self.provider.client.client_id,
            url=self.url,
            expires_at=time.time() + min(patience, self.expires_in),
        )

    def redeem(self, address: Secret) -> SignedIn:
        """The tokens for the address that the browser came back to."""
        try:
            code = judge_redirect(
                address, state=self.state, server=self.provider.server, redirect_uri=self.redirect_uri
            )
        except ErrorResponse as error:
            denied = error.error == "access_denied"
            raise LoginFailed(
                "the sign-in was denied at the provider" if denied else str(error),
                outcome="denied" if denied else "rejected",
                hint="Begin again to retry.",
            ) from None
        asked_at = time.time()
        answer = self.provider.authorization_code(
            code,
            redirect_uri=self.redirect_uri,
            code_verifier=self.code_verifier,
            resource=first(self.resource),
        )
        return SignedIn(answer, asked_at, self.provider.identify(answer, nonce=self.nonce or None))


@dataclass(slots=True)
class BrowserFlow:
    """The browser comes back to `redirect_uri`: to a receiver on this machine, or the person brings the address.

    `redirect_uri` is what the client is registered with: with a port it is used exactly, without one a free
    port is taken.  `receive`: whether this machine waits there; without a receiver, and beside it, the address
    of the last page can be brought by `deliver`; `or_paste`: where nothing can wait, that is enough.  `resource` may be
    several, separated by spaces.  `asks` are further parameters of the request.  `timeout` in seconds.
    """

    provider: Provider
    scope: str = ""
    resource: str = ""
    redirect_uri: str = DEFAULT_REDIRECT_URI
    timeout: float = 600.0
    receive: bool = True
    or_paste: bool = False
    asks: Mapping[str, str] = field(default_factory=dict)
    _receiver: _Receiver | None = field(default=None, init=False)
    _request: _Request | None = field(default=None, init=False)
    _deadline: float = field(default=0.0, init=False)
    _addresses: queue.SimpleQueue[Secret] = field(default_factory=queue.SimpleQueue, init=False)

    def begin(self) -> Prompt:
        """Say where the browser has to go, and wait for it there."""
        self.provider.server  # noqa: B018 - a provider that cannot be reached is told before a port is opened
        if self.receive:
            try:
                self._receiver = _Receiver(self.redirect_uri, self._recognise, self.deliver)
            except ConfigurationError:
                if not self.or_paste:
                    raise
        try:
            address = self._receiver.address if self._receiver else self.redirect_uri
            self._request = _Request.make(
                self.provider, redirect_uri=address, scope=self.scope, resource=self.resource, asks=self.asks
            )
        except BaseException:
            self.close()
            raise
        self._deadline = time.monotonic() + self.timeout
        return self._request.prompt("browser" if self._receiver else "paste", self.timeout)

    def deliver(self, address: str) -> None:
        """Hand over the address that the browser was sent back to.  Any thread may.

        Raises `ProtocolError` for one that does not answer this sign-in, which goes on.
        """
        address = Secret(address)  # also in a traceback through here
        self._recognise(address)
        self._addresses.put(address)

    def _recognise(self, address: str) -> None:
        assert self._request is not None
        require_state(address, state=self._request.state, redirect_uri=self._request.redirect_uri)

    def finish(self, wait: Waiter) -> SignedIn:
        """Wait for the browser."""
        assert self._request is not None
        while self._addresses.empty():
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise LoginFailed(
                    "the browser did not come back in time" if self._receiver else "no address was brought in time",
                    outcome="timed_out",
                    hint="Begin again; if the browser runs on another machine, sign in with flow='device'.",
                )
            wait(min(0.1, left))
        return self._request.redeem(self._addresses.get())

    def close(self) -> None:
        """Stop the receiver."""
        if self._receiver is not None:
            self._receiver.close()


# ── the receiver ─────────────────────────────────────────────────────────────────────────────────────────


class _Receiver:
    """A web server on loopback that hands on the addresses of its visits, but for those that `recognise` refuses."""

    def __init__(self, redirect_uri: str, recognise: Callable[[str], None], deliver: Callable[[str], None]) -> None:
        wanted = urlsplit(redirect_uri)
        if wanted.scheme != "http" or wanted.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigurationError(
                f"{redirect_uri} is not on this machine's loopback, so no browser can be waited for there: register "
                f"{DEFAULT_REDIRECT_URI} for this client, or sign in with flow='paste' or flow='device'"
            )
        host = "::1" if wanted.hostname == "::1" else "127.0.0.1"
        path = wanted.path or "/"
        self.recognise, self.deliver = recognise, deliver
        handler: type[_Handler] = type("Handler", (_Handler,), {"path_wanted": path, "receiver": self})
        server = _Server6 if host == "::1" else _Server
        try:
            self._server = server((host, wanted.port or 0), handler)
        except OSError as error:
            raise ConfigurationError(
                f"the port of {redirect_uri} cannot be opened ({error.strerror or error}): another program, or another "
                "sign-in, uses it.  End that one, or sign in with flow='device'"
            ) from None
        # As it is registered, to the letter; only a port that was left open is filled in (RFC 8252 §7.3).
        netloc = wanted.netloc if wanted.port else f"{wanted.netloc}:{self._server.server_address[1]}"
        self.address = wanted._replace(netloc=netloc).geturl()
        handler.home = self.address
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="loginonce-receiver", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a browser may open connections that it never uses

    def handle_error(self, *_: object) -> None:
        """Say nothing on the person's terminal: a browser may also break off."""
        log.debug("a visit at the receiver failed: %s", type(sys.exception()).__name__)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    path_wanted: ClassVar[str]
    home: ClassVar[str]
    receiver: ClassVar[_Receiver]
    timeout = 30

    def do_GET(self) -> None:
        """Take the visit, and tell the person that the tab has done its work."""
        here = urlsplit(self.home)
        visit = urlsplit(self.path)
        # A name that was made to point at this machine (DNS rebinding) is not ours.
        here_too = here.netloc.removesuffix(":80")  # which browsers leave out
        if visit.path != self.path_wanted or self.headers.get("Host") not in (here.netloc, here_too):
            self._say(404, "Nothing here", "This address belongs to a sign-in that waits for something else.")
            return
        address = Secret(f"{here.scheme}://{here.netloc}{self.path}")
        try:
            self.receiver.recognise(address)
        except ProtocolError:
            self._say(400, "Not the answer", "This is not the answer to the sign-in that waits here, which goes on.")
            return
        try:
            if "error=" in visit.query:
                self._say(
                    200, "Not signed in", "The provider said no. You can close this tab; your program tells more."
                )
            else:
                self._say(200, "Almost there", "You can close this tab and go back to where you came from.")
        finally:
            # After the page: a program that ends as soon as it is signed in would cut it off.  And also where the tab
            # was closed before it came.
            self.receiver.deliver(address)

    def _say(self, status: int, title: str, text: str) -> None:
        page = _PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        # The address of this page holds the code: it goes nowhere from here.
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(page)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Say nothing: the address holds the code, the headers may hold other programs' cookies."""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 18vh auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem }}
</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""
