"""A prompt as lines of text: the address first, then a browser if one can be shown."""

from __future__ import annotations

import sys
import time
import webbrowser
from typing import TextIO

from .flow import Progress, Prompt

__all__ = ["TextPresenter"]


class TextPresenter:
    """Prints what to do to `out` (default: standard error), and opens a browser there if `browser` says so."""

    def __init__(self, out: TextIO | None = None, *, browser: bool = False) -> None:
        self._out = out or sys.stderr
        self._browser = browser
        self._shown: Prompt | None = None

    def show(self, progress: Progress) -> None:
        """Print what has changed."""
        prompt = progress.prompt
        if prompt is not None and prompt != self._shown and progress.state in ("pending", "retrying", "elsewhere"):
            self._shown = prompt
            self._print(prompt, elsewhere=progress.state == "elsewhere")
        if progress.state == "retrying":
            print(f"Still trying: {progress.detail}", file=self._out, flush=True)

    def _print(self, prompt: Prompt, *, elsewhere: bool) -> None:
        minutes = max(1, round((prompt.expires_at - time.time()) / 60))
        if elsewhere:
            print("A sign-in is already pending in another program; this is the same one.", file=self._out)
        print(f"Sign in {prompt.client_id!r} at {prompt.issuer}:", file=self._out)
        print(f"\n    {prompt.url_complete or prompt.url}\n", file=self._out)
        if prompt.kind == "device":
            print(f"and check that the code is  {prompt.user_code}", file=self._out)
            if prompt.url_complete:
                print(f"(or go to {prompt.url} and enter it)", file=self._out)
        if prompt.kind == "paste":
            print(
                "The last page will not load; that is as it should be.  Copy its whole address and paste it "
                "here.  Nothing will appear while you paste.",
                file=self._out,
            )
        else:
            print(f"Waiting for up to {minutes} min; Ctrl-C cancels.", file=self._out)
        self._out.flush()
        if prompt.kind == "browser" and self._browser and not elsewhere:
            webbrowser.open(prompt.url)
