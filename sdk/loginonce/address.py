"""Addresses: which of them a secret may travel to, and which are of one origin."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["on_this_machine", "origin", "secure", "web_address"]


def web_address(url: str) -> bool:
    """Whether it is an http or https address at all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return _one_word(url) and parts.scheme in ("http", "https") and bool(parts.hostname)


def secure(url: str) -> bool:
    """Whether a secret may travel to that address: https, or this machine's loopback."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    encrypted = parts.scheme == "https" and bool(parts.hostname)
    return _one_word(url) and (encrypted or (parts.scheme == "http" and _loopback(parts.hostname)))


def _one_word(url: str) -> bool:
    """Whether an address can be printed as one: `urlsplit` passes over what would move the cursor."""
    return url.isprintable() and " " not in url


def on_this_machine(url: str) -> bool:
    """Whether an address is of this machine's loopback."""
    try:
        return _loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def _loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> str:
    """Scheme, host and port (RFC 6454 §4), as one comparable text; "" for what is not an address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname or ''}:{port}"
