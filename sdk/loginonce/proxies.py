"""Settings of requests that come from the environment, at less than they cost there: `FrugalSession`.

requests reads every variable to find out whether one names a proxy, twice for each request: half of what one costs
before it is sent.  An environment that was found to name none is not searched again until one of its variables has
changed.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from typing import Any

import requests
from requests.sessions import merge_setting
from requests.utils import get_environ_proxies, select_proxy

from .address import on_this_machine

__all__ = ["FrugalSession", "leaves_this_machine", "none_in_environment", "staying_here"]

_kept: tuple[dict[bytes, bytes], bool] = ({}, True)
"""All variables as they were at the last look, and what that showed."""


def none_in_environment() -> bool:
    """Whether certainly no variable speaks of proxies now, `no_proxy` included.

    False also where it is the system that is asked (macOS, Windows).
    """
    global _kept
    # The dict behind it: to compare two takes a hundredth of what it takes to look at each variable.
    variables: Any = getattr(os.environ, "_data", None)
    if urllib.request.getproxies is not urllib.request.getproxies_environment or not isinstance(variables, dict):
        return False
    seen, none = _kept
    if variables != seen:
        seen = variables.copy()
        none = not any(name[-6:].lower() == b"_proxy" for name in seen)  # in either case, as urllib reads them
        _kept = (seen, none)
    return none


def staying_here(proxies: Mapping[str, str] | None) -> dict[str, str]:
    """Those proxies that are on this machine: by no other goes what is meant for its loopback, plain http mostly."""
    return {name: to for name, to in (proxies or {}).items() if to and _is_here(to)}


def leaves_this_machine(url: str) -> bool:
    """Whether what is meant for this machine would go by a proxy that is elsewhere, as the environment has it."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return on_this_machine(url) and proxy is not None and not _is_here(proxy)


def _is_here(proxy: str) -> bool:
    return on_this_machine(proxy if "://" in proxy else f"http://{proxy}")


class FrugalSession(requests.Session):
    """A session of requests that promises the same, and does not look again for what is not there."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As requests does it; an environment without proxies is not searched for them at each request."""
        if not self.trust_env or not none_in_environment():
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        if verify is True or verify is None:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or verify
        return {
            "proxies": merge_setting(proxies, self.proxies) if proxies or self.proxies else {},  # type: ignore[no-untyped-call]
            "stream": self.stream if stream is None else stream,
            "verify": self.verify if verify is None else verify,
            "cert": self.cert if cert is None else cert,
        }
