"""A provider to play with in a notebook; see `demo.playground`."""

from __future__ import annotations

import atexit
import os
import tempfile
from typing import Any

from ..testing import FakeProvider

__all__ = ["open_playground"]

APPROVES_AFTER = 5.0
"""Seconds after which Ada approves by herself, so that a notebook runs on where nobody clicks."""


def open_playground(**behaviour: Any) -> FakeProvider:
    """Start the provider, and move this process's logins to a folder of its own."""
    folder = tempfile.TemporaryDirectory(prefix="loginonce-")
    provider = FakeProvider(**{"approves_after": APPROVES_AFTER} | behaviour)
    provider.start()
    # At the end the provider goes first: what still runs must not find a login that cannot be renewed.
    atexit.register(folder.cleanup)
    atexit.register(provider.stop)
    os.environ["LOGINONCE_HOME"] = folder.name
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    return provider
