"""The prompt of a sign-in in a notebook's cell.

Link, code and QR stand in one display, which changes only with the prompt, so that it can be selected from; what
changes every second stands in another, below it.  At the end the first becomes one line, and the second nothing:
a saved notebook keeps no link and no code.  Nothing is ever cleared, which from a thread hits another cell.

It shows on the sign-in's thread and on one that counts the seconds; both have the context of the cell that the
presenter was made in, by which a kernel tells where outputs belong.  Not each kernel does (ipykernel 6 asks which cell
runs now), so where a sign-in outlives its cell both displays get their place as the cell ends, on the cell's thread.

A display that is there is replaced wherever its update comes from, except by nbclient, which drops what belongs to a
cell that has ended.  So updates are sent on behalf of the cell that runs now.
"""

from __future__ import annotations

import contextvars
import io
import threading
import time
from collections.abc import Callable
from typing import Any

from ..log import log
from ..login.flow import Progress
from ..login.signin import SignIn
from ..login.text import TextPresenter
from ..model import Account
from . import html

__all__ = ["NotebookPresenter"]

TICK = 1.0
"""Seconds between two looks at the clock."""


class NotebookPresenter:
    """Shows a sign-in below the cell that runs where it is made."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._prompt = _Output()
        self._status = _Output()
        self._now: Progress | None = None
        self._over = threading.Event()
        self._cell = _Cell.here()
        self._cell.at_end(self._take_place)

    def show(self, progress: Progress) -> None:
        """Show what has changed."""
        with self._mutex:
            if progress.state in ("signed_in", "failed"):
                self._over.set()
                self._end(progress)
                return
            begins, self._now = self._now is None, progress
            self._prompt.put(html.prompt(progress), _as_text(progress))
            self._status.put(html.status(progress, time.time()))
        if begins:
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self._tick,), name="loginonce-clock", daemon=True).start()

    def _take_place(self) -> None:
        """The cell ends before the sign-in does: what will be shown belongs here, and not below the next one."""
        with self._mutex:
            if self._over.is_set():
                return
            if not self._prompt.there:
                self._prompt.put(html.begun(), "Signing in …")
            if not self._status.there:
                self._status.put("")

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with self._mutex:
                if self._over.is_set() or self._now is None:
                    return
                try:
                    self._status.put(html.status(self._now, time.time(), announce=False))
                except Exception as error:  # a kernel that ends
                    log.debug("the time left is shown no longer: %s", error)
                    return

    def _end(self, progress: Progress) -> None:
        if progress.account is not None:
            self._cell.keep_quiet_about(progress.account)
            standing = f" ({progress.account.standing})" if progress.account.standing else ""
            self._prompt.put(html.signed_in(progress.account), f"Signed in as {progress.account}{standing}")
        elif progress.error is not None and (self._prompt.there or not self._cell.runs):
            # While the cell runs the error itself follows below, in its two lines.
            told = self._cell.runs
            plain = "The sign-in did not succeed" if told else str(progress.error)
            self._prompt.put(html.failed(progress.error, progress.prompt, told=told), plain)
        if self._status.there:
            self._status.put("", "")


def _as_text(progress: Progress) -> str:
    """The same for front ends that show no HTML."""
    lines = io.StringIO()
    TextPresenter(lines).show(progress)
    return lines.getvalue()


class _Output:
    """One display, made when there is something to show, and replaced when that has changed."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = ""

    @property
    def there(self) -> bool:
        return self._handle is not None

    def put(self, rich: str, plain: str = "") -> None:
        from IPython.display import display

        if rich == self._last and self.there:
            return
        self._last = rich
        bundle = {"text/html": rich, "text/plain": plain}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
            return
        try:
            contextvars.Context().run(self._handle.update, bundle, raw=True)
        except LookupError:  # ipykernel 7.0 knows no cell outside of its context
            self._handle.update(bundle, raw=True)


class _Cell:
    """The run of one cell, in which a sign-in is shown: what it shows is not shown once more as the cell's result.

    Whoever has `session.login()` in the last line wants to see "Signed in as Ada" once.  Any other account, and the
    same one in a later cell, shows as ever.
    """

    _running: _Cell | None = None

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._said: list[Account] = []
        self._at_end: list[Callable[[], None]] = []
        self.runs = shell is not None
        if shell is not None:
            formatter = shell.display_formatter.ipython_display_formatter
            formatter.for_type(Account, self._show_account)
            formatter.for_type(SignIn, _show_nothing)
            # After the result has been shown; a widget's events do not trigger it.
            shell.events.register("post_run_cell", self._ended)

    @classmethod
    def here(cls) -> _Cell:
        """The one that runs now."""
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        cell = _Cell._running
        if cell is None or not cell.runs or cell.shell is not shell:
            cell = _Cell._running = cls(shell)
        return cell

    def keep_quiet_about(self, account: Account) -> None:
        """It has been shown."""
        self._said.append(account)

    def at_end(self, function: Callable[[], None]) -> None:
        """Call it when the cell has run to its end, while what it displays still lands below it."""
        self._at_end.append(function)

    def _show_account(self, account: Account) -> None:
        from IPython.display import display

        if not any(said is account for said in self._said):
            display({"text/html": account._repr_html_(), "text/plain": repr(account)}, raw=True)

    def _ended(self, _: object = None) -> None:
        for function in self._at_end:
            function()
        self.runs = False
        self._at_end = []
        self._said = []
        self.shell.events.unregister("post_run_cell", self._ended)
        formatter = self.shell.display_formatter.ipython_display_formatter
        for shown in (Account, SignIn):
            formatter.pop(shown, None)


def _show_nothing(_: object) -> None:
    """The sign-in is shown by its presenter, in this very cell."""
