"""Settings of requests that come from the environment, at less than they cost there: `FrugalSession`.

requests reads every variable to find out which of them name a proxy, twice for each request: half of what one costs
before it is sent.  What was found for a host is not looked for again until one of the variables has changed.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from typing import Any

import requests
from requests.sessions import merge_setting
from requests.utils import get_environ_proxies, resolve_proxies, select_proxy

from .address import on_this_machine, place

__all__ = ["Direct", "FrugalSession", "environment_proxies", "leaves_this_machine", "staying_here"]

MOST_HOSTS = 256
"""Of which what was found is kept; the others are looked up each time."""

_kept: tuple[dict[bytes, bytes], dict[str, dict[str, str]]] = ({}, {})
"""All variables as they were at the last look, and what was found in them for which host."""


def environment_proxies(url: str) -> Mapping[str, str]:
    """What requests finds in the environment for that address.

    Where it is the system that knows of proxies (macOS, Windows) it is asked each time.
    """
    answers = _answers()
    if answers is None:
        return get_environ_proxies(url)
    where = place(url) if isinstance(url, str) else ""
    found = answers.get(where)
    if found is None:
        found = get_environ_proxies(url)
        if where and len(answers) < MOST_HOSTS and _answers() is answers:  # else it may be of other variables
            answers[where] = found
    return found


def _answers() -> dict[str, dict[str, str]] | None:
    """What was found in the variables as they are; None where they cannot tell.

    They are in local variables here and nowhere else: an address can make requests raise, and a traceback may show
    the local variables of who called it.
    """
    global _kept
    # The dict behind it: to compare two takes a hundredth of what it takes to look at each variable.
    variables: Any = getattr(os.environ, "_data", None)
    if urllib.request.getproxies is not urllib.request.getproxies_environment or not isinstance(variables, dict):
        return None
    seen, answers = _kept
    if variables != seen:
        answers = {}
        _kept = variables.copy(), answers
    return answers


def forget_after(proxies: Mapping[str, str] | None) -> None:
    """Look again, where those had a `no_proxy`.

    requests writes it into the environment for a moment, in which another thread may have looked.
    """
    global _kept
    if proxies and "no_proxy" in proxies:
        _kept = ({}, {})


class Direct(dict[str, str]):
    """No proxies for this one request, and `whole`: those among which the next hop of a redirect may choose."""

    def __init__(self, whole: dict[str, str]) -> None:
        super().__init__()
        self.whole = whole


def staying_here(url: str, proxies: dict[str, str]) -> dict[str, str]:
    """Those proxies, or none where what is meant for this machine would go by one that is elsewhere."""
    return Direct(proxies) if proxies and leaves_this_machine(url, proxies) else proxies


def leaves_this_machine(url: str, proxies: dict[str, str]) -> bool:
    """Whether what is meant for this machine would go by a proxy that is elsewhere."""
    proxy = select_proxy(url, proxies) if on_this_machine(url) else None
    if not proxy:
        return False
    return not on_this_machine(proxy if "://" in proxy else f"http://{proxy}")


class FrugalSession(requests.Session):
    """A session of requests that promises the same, and does not look again for what is not there."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As requests does it; an environment that is as it was is not searched at each request."""
        if not self.trust_env:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        if proxies and "no_proxy" in proxies:
            try:
                return super().merge_environment_settings(url, proxies, stream, verify, cert)
            finally:
                forget_after(proxies)
        if proxies is not None:
            for name, to in environment_proxies(url).items():
                proxies.setdefault(name, to)
        if verify is True or verify is None:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or verify
        return {
            "proxies": merge_setting(proxies, self.proxies) if proxies or self.proxies else {},  # type: ignore[no-untyped-call]
            "stream": self.stream if stream is None else stream,
            "verify": self.verify if verify is None else verify,
            "cert": self.cert if cert is None else cert,
        }

    def rebuild_proxies(
        self, prepared_request: requests.PreparedRequest, proxies: dict[str, str] | None
    ) -> dict[str, str]:
        """As requests does it."""
        try:
            rebuilt: dict[str, str] = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]  # requests'
        finally:
            forget_after(proxies)
        return rebuilt

    def resolved(self, request: requests.PreparedRequest) -> dict[str, str]:
        """The proxies of a request that is sent without any, as requests finds them."""
        own: Any = self.proxies
        try:
            return resolve_proxies(request, own, self.trust_env)
        finally:
            forget_after(own)
