"""How `loginonce doctor` looks: one screen, a line for each finding, the next step below it, a sentence at the end."""

from __future__ import annotations

import math
import textwrap

import click

from ..doctor import Diagnosis, Finding, Level
from ..text import plain

__all__ = ["report"]

ROWS = 23
"""Lines of a small terminal, but for the next prompt."""

_MARKS: dict[Level, tuple[str, str, str]] = {
    "ok": ("✓", "ok", "green"),
    "attention": ("!", "attention", "yellow"),
    "wrong": ("✗", "wrong", "red"),
    "unknown": ("·", "unknown", "bright_black"),
}


def report(diagnosis: Diagnosis, *, width: int, icons: bool, colour: bool) -> list[str]:
    """The lines, none wider than `width` but for commands, which have to be copied whole.

    Where they would not fit on a screen, what is well is told by its name alone, from the bottom up.
    """
    width = max(60, min(100, width))
    folded: list[Finding] = []
    told = list(diagnosis.findings)
    while True:
        lines = [line for finding in told for line in _lines(finding, width, icons=icons, colour=colour)]
        if folded:
            names = ", ".join(finding.name for finding in reversed(folded))
            lines += _lines(Finding("", "ok", f"and also {names}"), width, icons=icons, colour=colour)
        lines += ["", *textwrap.wrap(plain(diagnosis.verdict), width, break_on_hyphens=False, break_long_words=False)]
        well = [finding for finding in told if finding.level == "ok"]
        if not well or sum(_rows(line, width) for line in lines) <= ROWS:
            return [*lines[:-1], click.style(lines[-1], bold=True) if colour else lines[-1]]
        folded.append(well[-1])
        told.remove(well[-1])


def _lines(finding: Finding, width: int, *, icons: bool, colour: bool) -> list[str]:
    icon, word, hue = _MARKS[finding.level]
    mark = f"{icon} {word:<9}" if icons else f"{word:<9}"
    before = f"{mark}  {finding.name:<8}  "
    text = textwrap.wrap(
        plain(finding.text), width - len(before), break_on_hyphens=False, break_long_words=False
    ) or [""]  # fmt: skip
    indent = " " * len(before)
    lines = [f"{before}{text[0]}", *(f"{indent}{line}" for line in text[1:])]
    if finding.advice:
        lines.append(
            f"{' ' * (len(mark) + 2)}→ {plain(finding.advice)}" if icons else f"{' ' * 11}-> {plain(finding.advice)}"
        )
    if colour:
        lines[0] = click.style(mark, fg=hue) + lines[0][len(mark) :]
    return lines


def _rows(line: str, width: int) -> int:
    return max(1, math.ceil(len(click.unstyle(line)) / width))
