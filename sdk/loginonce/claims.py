"""What a JWT says of itself, read and not checked (RFC 7519 §4)."""

from __future__ import annotations

import base64
import json
from typing import Any

__all__ = ["shallow", "unverified_claims"]

DEEPEST = 32
"""Levels of what a provider says that is kept."""


def shallow(value: object, levels: int = DEEPEST) -> bool:
    """Whether a JSON value has no more levels than that.

    What could only just be read here could not be written, or not be read again from deeper in a program: the
    record would be lost with it.
    """
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(shallow(each, levels - 1) for each in inner)


def unverified_claims(token: str | None) -> dict[str, Any]:
    """The claims as the token says them, unchecked; {} where there is none or it cannot be read."""
    try:
        payload = (token or "").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) and shallow(claims) else {}
