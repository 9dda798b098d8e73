"""What a check finds, and how an error becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Level", "found", "trouble", "wrong"]

Level: TypeAlias = Literal["ok", "attention", "wrong", "unknown"]
"""All is well; it works, and somebody should look at it; it does not work; it was not, or could not be, checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, how it is, and the next step where one is needed.

    `advice` is a sentence, or the command to run, or "".  Neither holds a secret.
    """

    name: str
    level: Level
    text: str
    advice: str = ""


def found(name: str, text: str, *, advice: str = "", level: Level = "ok") -> Finding:
    """A finding that is well unless something else is said of it."""
    return Finding(name, level, text, advice)


def wrong(name: str, text: str, advice: str) -> Finding:
    """A finding that is not well, and what to do."""
    return Finding(name, "wrong", text, advice)


def trouble(name: str, error: BaseException | str, *, advice: str = "") -> Finding:
    """What an error of this library says: its messages are `what happened.  What to do` or `what; what to do`.

    `advice` takes the place of the error's own, where another is better.
    """
    whole = " ".join(str(error).split("\n"))
    text, _, said = whole.partition(".  ") if ".  " in whole else whole.rpartition("; ")
    if not text:
        text, said = said, ""
    return Finding(name, "wrong", text, advice or said[:1].upper() + said[1:])
