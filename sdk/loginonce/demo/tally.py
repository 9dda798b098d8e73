"""What a run came to.  Pure: the numbers are the provider's, but for the calls that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Tally", "expiries"]

AT_ITS_END = 0.75
"""From which part of its life on a token counts as having come to its end.  Clients renew in the last tenth; what
is left covers that they count from when they asked, and the provider from when it answered."""


def expiries(issued_at: float, exchanges: Iterable[float], lifetime: float) -> int:
    """How many access tokens came to their end and were replaced.

    `issued_at` is when the first one was issued, `exchanges` when another one was; POSIX seconds, `lifetime` in
    seconds.  A token that is issued while its predecessor is still good replaces nothing, and does not count.
    """
    count, current = 0, issued_at
    for at in sorted(exchanges):
        if at - current >= AT_ITS_END * lifetime:
            count, current = count + 1, at
    return count


@dataclass(frozen=True, slots=True)
class Tally:
    """`calls`, `token_requests` and `replays` are what the provider saw, `expiries` follows from its log;
    `failures` are the calls that failed at the workers, `ended` the workers that stopped before their time.
    """

    workers: int
    calls: int
    expiries: int
    token_requests: int
    replays: int
    failures: int
    ended: int

    @property
    def holds(self) -> bool:
        """Whether the run shows what it is meant to show."""
        return (
            self.expiries > 0
            and self.token_requests == self.expiries
            and self.replays == self.failures == self.ended == 0
        )

    @property
    def verdict(self) -> str:
        """The same, in words."""
        if self.holds:
            return f"each expiry cost exactly one token request, and all {self.workers} processes stayed signed in"
        found = []
        if self.expiries == 0:
            found.append("no token came to its end: let it run longer")
        if self.replays:
            found.append(
                f"a spent refresh token was sent {_times(self.replays)}, which the provider takes for theft: it ended "
                "the login"
            )
        elif self.token_requests != self.expiries:
            found.append(f"{self.token_requests} token requests where {self.expiries} would have done")
        if self.ended:
            found.append(f"{self.ended} of {self.workers} processes were logged out or stopped")
        elif self.failures:
            found.append(f"{self.failures} calls failed")
        return "; ".join(found)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
