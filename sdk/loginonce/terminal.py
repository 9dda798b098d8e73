"""A sign-in on a terminal: the address, a code in large, and one live line with the time left.

The address stands on a line of its own from the first column, written as it is: nothing wraps, cuts or colours it, so
that terminals link it and a copy of it is whole at any width.  What is shown stays in the scrollback, but for the live
line.  The cursor is never hidden: a program that is killed here leaves a terminal as it found it.

Needs the extra `cli` (rich; segno for QR codes).  Without rich, and where the output is no terminal,
`login.text.TextPresenter` says the same in plain lines.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.box import ROUNDED
from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.style import Style
from rich.text import Text

from .errors import ConfigurationError
from .login.flow import Progress, Prompt
from .login.text import ELSEWHERE, outcome, show_browser
from .text import plain

__all__ = ["TerminalPresenter"]

QUIET_ZONE = 4
"""Light modules around a QR code (ISO/IEC 18004)."""


class _Console(Console):
    """Knows the size of the terminal that it writes to, which need not be that of standard input."""

    @property  # type: ignore[misc]  # which nobody sets
    def size(self) -> ConsoleDimensions:
        """Columns and lines, as they are now."""
        try:
            return ConsoleDimensions(*os.get_terminal_size(self.file.fileno()))
        except (OSError, ValueError):  # no terminal, or no file at all
            return super().size


class TerminalPresenter:
    """Shows a sign-in on the terminal `out` (default: standard error).

    `browser`: open one there too.  `qr`: draw the address of a device sign-in as a QR code.  Raises
    `ConfigurationError` where there is nothing to draw one with.
    """

    def __init__(self, out: TextIO | None = None, *, browser: bool = False, qr: bool = False) -> None:
        out = out or sys.stderr
        self._console = _Console(
            file=out, force_terminal=out.isatty(), markup=False, highlight=False, emoji=False, legacy_windows=False
        )
        self._browser = browser
        self._draw = _qr_drawer() if qr else None
        self._mutex = threading.Lock()
        self._prompt: Prompt | None = None
        self._progress: Progress | None = None
        self._live: Live | None = None

    def show(self, progress: Progress) -> None:
        """Print what stays, and keep the live line going until the end."""
        with self._mutex:
            prompt, before = progress.prompt, self._prompt
            if progress.state in ("signed_in", "failed"):
                self._still()
                self._prompt = None
                if before is not None:
                    self._end(before, progress)
            elif prompt is not None:
                self._progress = progress
                if prompt == before and progress.state == "pending" and progress.detail:
                    self._console.print(f"{plain(progress.detail)}.  Try again.", style="yellow")
                if prompt != before:
                    self._still()
                    self._prompt = prompt
                    self._ask(prompt, again=before is not None, elsewhere=progress.state == "elsewhere")
                if self._live is not None:
                    self._live.refresh()

    # ── what stays ───────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, prompt: Prompt, *, again: bool, elsewhere: bool) -> None:
        say = self._console.print
        if again:
            say("\nThat sign-in is over, and nobody is signed in yet.  Here is another one.\n")
        if elsewhere:
            say(ELSEWHERE, style="yellow")
        if prompt.kind == "password":
            say(f"Sign in at {plain(prompt.issuer)} with your user name and password.  Ctrl-C cancels.")
            return
        say(Text.assemble("Sign in ", (plain(prompt.client_id, 100), "bold"), f" at {plain(prompt.issuer)}"))
        self._as_it_is("", plain(prompt.url_complete or prompt.url, 8000), "")
        if self._draw is not None and prompt.kind == "device":
            self._show_qr(prompt.url_complete or prompt.url)
        match prompt.kind:
            case "device":
                self._show_code(prompt)
            case "paste":
                say(
                    "The last page will not load; that is as it should be.  Copy its whole address and paste it here.  "
                    "Nothing will appear while you paste.  Ctrl-C cancels."
                )
        if prompt.kind != "paste":  # where the line belongs to whoever types
            self._go_live()
        if prompt.kind == "browser" and self._browser and not elsewhere:
            show_browser(prompt)

    def _show_code(self, prompt: Prompt) -> None:
        self._console.print("and check that it shows this code:" if prompt.url_complete else "and enter this code:")
        code = Text(plain(prompt.user_code, 100), style="bold")
        if code.cell_len + 10 <= self._console.width:
            self._console.print(Padding(Panel(code, box=ROUNDED, padding=(0, 3), expand=False), (0, 0, 0, 2)))
        else:
            self._as_it_is("", code.plain, "")
        if prompt.url_complete:
            self._console.print("It can also be entered at", style="dim")
            self._as_it_is(plain(prompt.url, 8000), "")

    def _show_qr(self, address: str) -> None:
        assert self._draw is not None
        rows = list(self._draw(address, inverse=self._console.no_color))
        if len(rows[0]) > self._console.width:
            self._console.print(f"(A window of {len(rows[0])} columns would have room for the QR code.)\n", style="dim")
            return
        # Black on white whatever the theme; without colours light is what is drawn, which suits dark terminals, and
        # most cameras read it on light ones too.
        style = Style() if self._console.no_color else Style(color="#000000", bgcolor="#ffffff")
        for row in rows:
            self._console.print(Text(row, style=style), no_wrap=True)
        self._console.print()

    def _end(self, prompt: Prompt, progress: Progress) -> None:
        if prompt.kind in ("paste", "password") and progress.error is not None:
            self._console.print()  # whatever was being typed stays on its line
        style = "green" if progress.account is not None else "red"
        first, *others = outcome(progress)
        self._console.print(first, style=style)
        for line in others:
            self._console.print(line)

    def _as_it_is(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._console.file, flush=True)

    # ── the live line ────────────────────────────────────────────────────────────────────────────────────

    def _go_live(self) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            self._console.print("Waiting; Ctrl-C cancels.")
            return
        self._live = Live(
            console=self._console,
            get_renderable=self._line,
            refresh_per_second=2,
            transient=True,
            # Both streams are the program's own.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._console.show_cursor(True)

    def _line(self) -> Text:
        """What fits in one row: what matters comes first."""
        progress = self._progress
        if progress is None or progress.prompt is None:
            return Text()
        minutes, seconds = divmod(max(0, round(progress.prompt.expires_at - time.time())), 60)
        line = Text(f"{minutes}:{seconds:02} left · ", style="dim", no_wrap=True, overflow="ellipsis", end="")
        match progress.state:
            case "retrying":
                line.append(f"network problem, still trying: {plain(progress.detail, 200)}", style="not dim yellow")
            case _:
                line.append("waiting · Ctrl-C cancels")
        return line

    def _still(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


Draw = Callable[..., Iterator[str]]


def _qr_drawer() -> Draw:
    """What draws QR codes with half blocks, two modules a character."""
    try:
        import segno
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"QR codes need segno, which is not installed.  Run: {sys.executable} -m pip install 'loginonce[cli]'"
        ) from None

    def draw(text: str, *, inverse: bool) -> Iterator[str]:
        """The rows.  What is drawn is the dark modules; with `inverse` the light ones."""
        matrix = segno.make(text, micro=False).matrix_iter(border=QUIET_ZONE)
        rows = [[bool(module) != inverse for module in row] for row in matrix]
        if len(rows) % 2:
            rows.append([inverse] * len(rows[0]))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True):
            yield "".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True))

    return draw


_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
