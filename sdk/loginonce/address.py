"""Addresses: which of them a secret may travel to, and which are of one origin."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

__all__ = ["on_this_machine", "origin", "place", "secure", "web_address"]

_PLACE = re.compile("[^/?#]*//[^/?#]*")


def web_address(url: str) -> bool:
    """Whether it is an http or https address at all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return _one_word(url) and parts.scheme in ("http", "https") and bool(parts.hostname)


def secure(url: str) -> bool:
    """Whether a secret may travel to that address: https, or this machine's loopback."""
    return _seen(url)[1] and _one_word(url)


def _one_word(url: str) -> bool:
    """Whether an address can be printed as one: `urlsplit` passes over what would move the cursor."""
    return url.isprintable() and " " not in url


def on_this_machine(url: str) -> bool:
    """Whether an address is of this machine's loopback."""
    return _seen(url)[2]


def origin(url: str) -> str:
    """Scheme, host and port (RFC 6454 §4), as one comparable text; "" for what is not an address."""
    return _seen(url)[0]


def place(url: str) -> str:
    """The part of an address before its path, "" where there is none, or a name and a password in it.

    On it hangs all that is judged here, and nothing secret is in it: it may be kept.
    """
    found = _PLACE.match(url)
    return "" if found is None or "@" in (before := found[0]) else before


def _seen(url: str) -> tuple[str, bool, bool]:
    return _judged(before) if (before := place(url)) else _judge(url)


def _judge(url: str) -> tuple[str, bool, bool]:
    """Its origin, whether a secret may travel there, and whether that is this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "", False, False
    here = _loopback(host)
    try:
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        whose = ""
    else:
        whose = f"{parts.scheme}://{host or ''}:{port}"
    return whose, (parts.scheme == "https" and bool(host)) or (parts.scheme == "http" and here), here


_judged = lru_cache(maxsize=256)(_judge)


def _loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
