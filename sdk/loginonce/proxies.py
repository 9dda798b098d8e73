"""Whether the environment names a proxy.

requests reads every variable to find that out, twice for each request: half of what one costs before it is sent.  An
environment that was found to name none is not searched again until one of its variables has changed.
"""

from __future__ import annotations

import os
import urllib.request
from typing import Any

__all__ = ["none_in_environment"]

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
