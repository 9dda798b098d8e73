"""A sign-in as lines of text: the address first, then a browser if one can be shown, and at last how it ended.

Whatever comes from a server is shown by way of `plain`: a terminal obeys what it is sent.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

from ..errors import LoginFailed, LoginonceError
from ..model import Account
from ..text import plain
from .flow import Progress, Prompt

__all__ = ["ELSEWHERE", "TextPresenter", "good_for", "outcome", "show_browser"]

ELSEWHERE = "A sign-in is already pending in another program: the same link and code."


def good_for(account: Account) -> str:
    """How long its token is good, such as ` · token until 14:05 · renews itself`; "" where nobody knows."""
    if account.expires_at is None:
        return ""
    local = time.localtime(account.expires_at)
    until = time.strftime("%H:%M" if local[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", local)
    return f" · token until {until}" + (" · renews itself" if account.renews else "")


def outcome(progress: Progress) -> list[str]:
    """How a sign-in ended that somebody was asked for: who it is now, or why not and what to do next."""
    account, error = progress.account, progress.error
    if account is not None:
        enter = f"; {progress.detail} to go on" if progress.detail else ""
        return [f"Signed in as {plain(str(account), 100)}{good_for(account)}{enter}"]
    if not isinstance(error, LoginonceError):
        return [f"Not signed in: an unexpected {type(error).__name__}"]  # nobody has judged what is in its message
    hint = error.hint if isinstance(error, LoginFailed) and error.outcome != "cancelled" else ""
    return [f"Not signed in: {plain(str(error.args[0]))}", *([plain(hint)] if hint else [])]


def show_browser(prompt: Prompt) -> None:
    """Open the person's browser there; what cannot be opened is still on the screen."""
    # Imported here: few programs ever open one.
    import webbrowser

    def show() -> None:
        with suppress(Exception):  # whatever $BROWSER is: the address is there to read
            webbrowser.open(prompt.url)

    # Some of them return when they are closed.
    threading.Thread(target=show, name="loginonce-browser", daemon=True).start()


class TextPresenter:
    """Prints what to do to `out` (default: standard error), and opens a browser there if `browser` says so.

    Plain lines, for logs and pipes too.  Nothing is said where nobody has to be asked.
    """

    def __init__(self, out: TextIO | None = None, *, browser: bool = False) -> None:
        self._out = out or sys.stderr
        self._browser = browser
        self._shown: Prompt | None = None

    def show(self, progress: Progress) -> None:
        """Print what has changed."""
        prompt = progress.prompt
        if progress.state in ("signed_in", "failed"):
            self._end(progress)
        elif prompt is not None and prompt != self._shown:
            self._shown = prompt
            self._ask(prompt, elsewhere=progress.state == "elsewhere")
        elif progress.state == "pending" and progress.detail:
            self._say(plain(f"{progress.detail}.  Try again."))
        if progress.state == "retrying":
            self._say(f"Network problem, still trying: {plain(progress.detail)}")

    def _end(self, progress: Progress) -> None:
        prompt, self._shown = self._shown, None
        if prompt is not None:
            if progress.error is not None and self._out.isatty():
                self._say("")  # whatever was being typed stays on its line
            self._say(*outcome(progress))

    def _ask(self, prompt: Prompt, *, elsewhere: bool) -> None:
        minutes = max(1, round((prompt.expires_at - time.time()) / 60))
        if elsewhere:
            self._say(ELSEWHERE)
        if prompt.kind == "password":
            self._say(f"Sign in at {plain(prompt.issuer)} with your user name and password.")
            return
        self._say(f"Sign in {plain(prompt.client_id)!r} at {plain(prompt.issuer)}:")
        self._say("", f"    {plain(prompt.url_complete or prompt.url, 8000)}", "")
        if prompt.kind == "device":
            self._say(f"and check that the code is  {plain(prompt.user_code)}")
            if prompt.url_complete:
                self._say(f"(or go to {plain(prompt.url, 8000)} and enter it)")
        if prompt.kind == "paste":
            self._say(
                "The last page will not load; that is as it should be.  Copy its whole address and paste it "
                "here.  Nothing will appear while you paste."
            )
        else:
            self._say(f"Waiting for up to {minutes} min; Ctrl-C cancels.")
        if prompt.kind == "browser" and self._browser and not elsewhere:
            show_browser(prompt)

    def _say(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._out, flush=True)
