"""`loginonce demo`: many processes share one login through a dozen expiries, and a strict provider counts.

    provider   in this process: rotates with every refresh, and takes a refresh token that is used twice for
               theft, which ends the login
    login      one, by `loginonce login` in a process of its own, into a folder that is removed afterwards
    workers    real processes (`worker`), which call the provider's API in a loop; with `without_lock` they keep
               their tokens as most programs do today (`naive`)
    tally      what it comes to: from the provider's log, not from what the workers say (`tally`)

Needs the extra `demo` (Flask, rich, click).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..testing import FakeProvider

__all__ = ["playground", "show"]


def playground(**behaviour: Any) -> FakeProvider:
    """Start a provider to play with in a notebook, and keep its logins out of your own.

    It takes the settings of `testing.FakeProvider`.  Unless told otherwise Ada approves a sign-in that nobody has
    answered for ten seconds.  `LOGINONCE_HOME` of this process, and of those that it starts, becomes a folder
    that is removed when the process ends, as is the provider.
    """
    # Imported here: Flask is an extra.
    from .playground import open_playground

    return open_playground(**behaviour)


def show(*, workers: int = 8, seconds: float = 26.0, lifetime: float = 2.0, without_lock: bool = False) -> int:
    """Run it and print what it came to; the exit code is 0 if each expiry cost exactly one token request.

    `lifetime` of an access token in seconds, from 1 up in whole ones.  Raises `LoginFailed` where even the one
    login does not come about, and `KeyboardInterrupt` as it comes; every worker has ended then.
    """
    # Imported here: Flask and rich are an extra, and whoever only looks for the demo's help needs neither.
    from .stage import play

    return play(workers=workers, seconds=seconds, lifetime=lifetime, without_lock=without_lock)
