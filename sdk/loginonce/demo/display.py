"""What is seen of a run: a live table on a terminal's stderr, else plain lines; the result on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .crew import Worker
from .tally import Tally

__all__ = ["Progress", "progress", "result", "tell"]

EVERY = 2.0
"""Seconds between two plain lines."""

_COLOURS = {"working": "green", "renewing": "yellow", "logged out": "bold red", "crashed": "bold red"}


class Progress(Protocol):
    """Shows how far it is."""

    def show(self, elapsed: float, crew: Iterable[Worker], token_requests: int, replays: int) -> None:
        """`elapsed` in seconds."""


def _console(file: TextIO) -> Console:
    # Said explicitly: what goes to a file or a pipe has no control characters, whatever the environment says.
    terminal = file.isatty()
    return Console(
        file=file, force_terminal=terminal, color_system="auto" if terminal else None, highlight=False, emoji=False
    )


def tell(line: str) -> None:
    """Print news on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(seconds: float) -> Iterator[Progress]:
    """What fits this stderr."""
    console = _console(sys.stderr)
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield _Live(live, seconds)


class _Lines:
    def __init__(self) -> None:
        self._next = 0.0

    def show(self, elapsed: float, crew: Iterable[Worker], token_requests: int, replays: int) -> None:
        """A line every other second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        workers = list(crew)
        calls = sum(worker.report.calls for worker in workers)
        tokens = sorted({worker.report.token[:6] for worker in workers if worker.report.token})
        gone = sum(worker.ended for worker in workers)
        tell(
            f"{elapsed:5.1f} s  {calls:5d} calls  {token_requests:3d} token requests  {replays:3d} replays  "
            f"token {', '.join(tokens) or '-'}" + (f"  {gone} of {len(workers)} logged out" if gone else "")
        )


class _Live:
    def __init__(self, live: Live, seconds: float) -> None:
        self._live = live
        self._seconds = seconds

    def show(self, elapsed: float, crew: Iterable[Worker], token_requests: int, replays: int) -> None:
        """The table anew."""
        table = Table(
            title=f"{elapsed:.0f} of {self._seconds:.0f} s",
            caption=f"token requests: {token_requests}   replays: {replays}",
            title_justify="left",
            caption_justify="left",
        )
        for name in ("worker", "process", "calls", "token", "expiries seen", "failures"):
            table.add_column(name, justify="left" if name == "token" else "right")
        table.add_column("state", min_width=10)
        for worker in crew:
            report, state = worker.report, worker.state
            table.add_row(
                str(worker.number),
                str(worker.process.pid),
                str(report.calls),
                # One colour for each token: when one is replaced, the change runs down the column.
                Text(report.token[:6], style=_colour(report.token)),
                str(report.expiries),
                str(report.failures),
                Text(state, style=_COLOURS.get(state, "")),
            )
        self._live.update(table, refresh=True)


def _colour(token: str) -> str:
    palette = ("cyan", "magenta", "blue", "bright_cyan", "bright_magenta", "bright_blue")
    return palette[int(token[:6], 16) % len(palette)] if token else ""


def result(tally: Tally, *, title: str) -> None:
    """Print what it came to, on stdout."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    for name, number, meaning in (
        ("API calls", tally.calls, "that arrived at the provider"),
        ("expiries", tally.expiries, "access tokens that came to their end and were replaced"),
        ("token requests", tally.token_requests, "that arrived at the provider"),
        ("replays", tally.replays, "refresh tokens that were sent although they were spent"),
        ("failures", tally.failures, "calls that failed, as the workers tell"),
        ("logged out", tally.ended, f"of {tally.workers} processes, before their time"),
    ):
        table.add_row(name, f"{number:,}", meaning)
    table.add_section()
    table.add_row(
        "verdict",
        Text("holds" if tally.holds else "FAILS", style="bold green" if tally.holds else "bold red"),
        tally.verdict,
    )
    _console(sys.stdout).print(table)
