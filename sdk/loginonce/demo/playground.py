"""A provider to play with in a notebook; see `demo.playground`."""

from __future__ import annotations

import atexit
import os
import tempfile
from typing import Any

from ..testing import FakeProvider

__all__ = ["open_playground"]

_KEPT = {"LOGINONCE_FLOW", "LOGINONCE_ENVIRONMENT"}

APPROVES_AFTER = 10.0
"""Seconds after which Ada approves by herself, so that a notebook runs on where nobody clicks."""


def open_playground(**behaviour: Any) -> FakeProvider:
    """Start the provider, and move this process's logins to a folder of its own."""
    folder = tempfile.TemporaryDirectory(prefix="loginonce-")
    provider = FakeProvider(**{"approves_after": APPROVES_AFTER} | behaviour)
    provider.start()
    # At the end the provider goes first: what still runs must not find a login that cannot be renewed.
    atexit.register(folder.cleanup)
    atexit.register(provider.stop)
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name not in _KEPT]:
        del os.environ[name]  # your own store or account has nothing to do with it
    os.environ["LOGINONCE_HOME"] = folder.name
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    return provider
