"""How things are said in a terminal: news to people on stderr, durations and times, nothing that moves the cursor."""

from __future__ import annotations

import sys
import time

__all__ = ["duration", "moment", "plain", "say"]


def say(*lines: str) -> None:
    """Print news, or an error, on stderr."""
    for line in lines:
        print(plain(line), file=sys.stderr, flush=True)


LONGEST = 500
"""Characters of one text; what is longer is no name and no message."""


def plain(text: str, length: int = LONGEST) -> str:
    """The text without what a terminal would take for a command: names and messages come from a server."""
    shown = "".join(character if character.isprintable() else " " for character in text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def moment(at: float, now: float) -> str:
    """A POSIX time as people say it, absolute and relative: `14:05 (in 12 min)`."""
    local, today = time.localtime(at), time.localtime(now)
    seconds = ":%S" if abs(at - now) < 120 else ""
    absolute = time.strftime(f"%H:%M{seconds}" if local[:3] == today[:3] else "%Y-%m-%d %H:%M", local)
    return f"{absolute} ({f'in {duration(at - now)}' if at >= now else f'{duration(now - at)} ago'})"


def duration(seconds: float) -> str:
    """Seconds in the unit that tells something: `45 s`, `12 min`, `3 h`, `5 days`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(0, seconds):.0f} s"
