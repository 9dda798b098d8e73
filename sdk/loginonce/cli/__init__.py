"""The command `loginonce`.

What it prints on stdout is the result and nothing else, so that it can be used in a script; prompts, news and
errors go to stderr.  Its exit code says what the caller has to do, one number for each class of error:

    0  done
    1  it failed: the message says why
    2  usage: the command line or the settings have to be mended
    4  login required: a person has to run `loginonce login`
    5  the provider cannot be reached, or asks to wait: try again later
    130  interrupted

Needs the extra `cli` (click).  This module can be imported without it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (default: this process's) and exit with its code."""
    try:
        from .commands import run, show_warnings
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "click":
            raise
        print(
            f"loginonce: the command line needs click, which is not installed\n"
            f"Run: {sys.executable} -m pip install 'loginonce[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    show_warnings()
    sys.exit(run(arguments))
