"""Whether the provider can be reached, what it says of itself, by which way, and what time it has there.

It is asked what any program asks first: its discovery documents.  Nothing of a login is sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from ..address import on_this_machine
from ..backend import Backend
from ..client import Discovery, Provider
from ..config import Settings
from ..errors import LoginonceError, TransportError
from ..home import state_folder
from ..manners import read_manners
from ..model import AuthorizationServer, Client, Grant
from ..text import duration, moment
from ..transport import NeverSent, Transport
from ..wire import Answer
from .finding import Finding, Level, found, trouble, wrong

__all__ = ["Heard", "ask", "check_clock", "check_network", "check_provider", "known_server"]

TOLERATED_SKEW = 5.0
"""Seconds by which a clock may differ before somebody should look at it; an ID token's times have to fit."""

HARMFUL_SKEW = 60.0
"""Seconds; sign-ins are refused from about there on, by us or by the provider."""


@dataclass(slots=True)
class Heard:
    """What came of asking: the metadata or the error, and each answer with the time (POSIX s) it took to come."""

    server: AuthorizationServer | None = None
    error: LoginonceError | None = None
    answers: list[tuple[Answer, float, float]] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether somebody answered who is not merely in front of the provider, or out of order."""
        return self.error is None or any(answer.status < 500 for answer, _, _ in self.answers)


class _Overheard(Transport):
    """Sends as any other, and keeps what was answered."""

    def __init__(self, heard: Heard, until: float) -> None:
        super().__init__()
        self._heard = heard
        self._until = until

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, budget: float) -> Answer:
        began = time.time()
        answer = super().get(url, headers, budget=max(0.1, min(budget, self._until - time.monotonic())))
        self._heard.answers.append((answer, began, time.time()))
        return answer


class _Silent(Transport):
    """Asks nobody."""

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, budget: float) -> NoReturn:
        del headers, budget
        raise NeverSent(f"{urlsplit(url).hostname} was not asked")


def ask(made: Settings, seconds: float) -> Heard:
    """Ask the provider what it says of itself, by the code that every sign-in and renewal uses."""
    heard = Heard()
    transport = _Overheard(heard, time.monotonic() + seconds)
    try:
        if made.backend:  # which says nothing of itself: only whether somebody is there
            transport.get(made.issuer, budget=seconds)
            heard.server = known_server(made)
            return heard
        discovery = Discovery(made.issuer, made.server, dialect=made.dialect)
        heard.server = Provider(discovery, Client(made.client_id), transport).server
    except LoginonceError as error:
        heard.error = error
    return heard


def known_server(made: Settings) -> AuthorizationServer | None:
    """What is kept of the provider's metadata here, however old."""
    if made.backend:
        return Backend(made.issuer, read_manners(made.backend, made.issuer, "it"), Client(made.client_id)).server
    kept = Discovery(made.issuer, made.server, state_folder() / "servers", float("inf"), made.dialect)
    try:
        return Provider(kept, Client(made.client_id), _Silent()).server
    except LoginonceError:
        return None


def check_network(made: Settings, heard: Heard | None) -> Finding:
    """Whether it answers, and by which way."""
    way, problem = _way(made.issuer)
    if problem is not None:
        return problem
    host = _host(made.issuer)
    if heard is None:
        return found("network", f"{host} was not asked; {way}", level="unknown")
    if heard.reached and heard.answers:
        _, began, ended = heard.answers[0]
        tls = "plain http on this machine" if made.issuer.startswith("http:") else "its certificate is good"
        return found("network", f"{host} answers in {1000 * (ended - began):.0f} ms, {tls}; {way}")
    if heard.error is None:
        return found("network", f"{host} need not be asked, all is known; {way}", level="unknown")
    if heard.answers:
        return wrong("network", f"{host} answers HTTP {heard.answers[0][0].status}; {way}", "Try again later")
    reason = str(heard.error).rpartition(": ")[2].strip()
    text = f"{host} cannot be reached: {reason}; {way}"
    if "expired" in reason or "not yet valid" in reason:
        return wrong("network", text, "Check this machine's clock; if it is right, tell the provider")
    if "issuer certificate" in reason or "self-signed" in reason:
        return wrong("network", text, "For a private CA set REQUESTS_CA_BUNDLE to its file")
    return wrong("network", text, "Check the network, VPN and proxy; logins are kept meanwhile")


def _host(url: str) -> str:
    """Host and port of an address, without what else may stand in it."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return f"{parts.hostname or '?'}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "(no address)"


def _way(issuer: str) -> tuple[str, Finding | None]:
    """Proxy and certificates that count for the provider, as requests would find them."""
    proxy = select_proxy(issuer, get_environ_proxies(issuer)) or ""
    if proxy and on_this_machine(issuer) and not on_this_machine(proxy if "://" in proxy else f"http://{proxy}"):
        proxy = ""
    scheme = urlsplit(issuer).scheme
    names = (f"{scheme}_proxy", "all_proxy")
    variable = next((name for one in names for name in (one, one.upper()) if os.environ.get(name)), "the system")
    way = f"proxy {_host(proxy)} by {variable}" if proxy else "no proxy"
    variable = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), "")
    if variable and scheme == "https":
        path = os.environ[variable]
        if not os.path.exists(path):
            return way, wrong("network", f"{variable} names {path}, which is not there", f"Mend {variable}")
        way += f", CA file {path} by {variable}"
    return way, None


def check_provider(made: Settings, heard: Heard | None, kept: AuthorizationServer | None) -> Finding:
    """Whether it is the one that was meant, and what it offers; `kept` is what was known of it before."""
    server = heard.server if heard else kept
    if heard is not None and heard.error is not None:
        if not isinstance(heard.error, TransportError):
            finding = trouble("provider", heard.error)
            return replace(finding, advice=finding.advice or "Check the issuer address")
        server = kept
    if server is None:
        return found("provider", "nothing is known of it yet", level="unknown")
    if made.backend:
        places = [made.backend[name] for name in ("login", "refresh", "logout") if made.backend.get(name)]
        return found("provider", f"a JSON back end without OAuth, asked at {', '.join(places)}")
    offers = {
        "PKCE": "S256" in server.code_challenge_methods_supported,
        "device codes": bool(server.device_authorization_endpoint),
        "revocation": bool(server.revocation_endpoint),
        "end of session": bool(server.end_session_endpoint),
    }
    there = ", ".join(name for name, offered in offers.items() if offered) or "none of what is optional"
    missing = ", ".join(name for name, offered in offers.items() if not offered)
    lacks = f"; it names no {missing}" if missing else ""
    if heard is None or heard.error is not None:
        return found("provider", f"as it was last heard of: {there}{lacks}", level="unknown")
    if not server.token_endpoint:
        return wrong("provider", "it names no token end point: nobody can sign in", "Check the issuer address")
    if made.grant in ("", "authorization_code") and not (
        server.authorization_endpoint or server.device_authorization_endpoint
    ):
        return wrong("provider", f"it offers a person no way to sign in: {there}", "Check the issuer address")
    whose = "" if made.dialect.name == "any" else f"{made.dialect.title}: "
    return found("provider", f"{whose}its issuer matches; offers {there}{lacks}")


def check_clock(heard: Heard | None, grant: Grant | None, now: float) -> Finding:
    """This machine's clock against the provider's, and against the times in the record."""
    level: Level = "ok"
    advice = ""
    text = "no other clock to compare it with"
    skew = _skew(heard) if heard else None
    if skew is None:
        level = "unknown"
    else:
        ahead = "ahead of" if skew > 0 else "behind"
        text = f"{duration(abs(skew))} {ahead} the provider's" if abs(skew) >= 1 else "agrees with the provider's"
        if abs(skew) > TOLERATED_SKEW:
            level = "wrong" if abs(skew) > HARMFUL_SKEW else "attention"
            advice = "Set this machine's clock (timedatectl set-ntp true); if it is right, tell the provider"
    latest = max(
        [0.0, *(token.received_at for token in grant.tokens), *([grant.marker.sent_at] if grant.marker else [])]
        if grant
        else [0.0]
    )
    if latest > now + TOLERATED_SKEW:
        level = "wrong" if level == "wrong" else "attention"
        text += f"; it was set back: the login was written at {moment(latest, now)}"
        advice = advice or "Check the date; if it is right, sign in again: loginonce login --force"
    elif grant and latest:
        text += f"; no earlier than the login's, of {moment(latest, now)}"
    return Finding("clock", level, text, advice)


def _skew(heard: Heard) -> float | None:
    """Seconds by which this clock is ahead; the Date of an answer (RFC 9110 §6.6.1) has whole seconds."""
    for answer, began, ended in heard.answers:
        try:
            there = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            continue
        # It was some time between `there` and a second later, and the answer was made while we waited.
        if began > there + 1:
            return began - there - 1
        return min(0.0, ended - there)
    return None
