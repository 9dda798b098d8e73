"""The command `loginonce`.

What it prints on stdout is the result and nothing else, so that it can be used in a script; prompts, news and
errors go to stderr.  Its exit code says what the caller has to do, one number for each class of error:

    0  done
    1  it failed: the message says why
    2  usage: the command line or the settings have to be mended
    4  login required: a person has to run `loginonce login`
    5  the provider cannot be reached, or asks to wait: try again later
    130  interrupted

Needs the extra `cli` (click), which is imported where it is needed: see `token`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (default: this process's) and exit with its code."""
    _show_warnings()
    try:
        code = _run(arguments)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "click":
            raise
        print(
            f"loginonce: the command line needs click, which is not installed\n"
            f"Run: {sys.executable} -m pip install 'loginonce[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here, as below: so that this module can be imported in a moment.
    from .token import asked, print_token

    failure = None
    given = asked(sys.argv[1:] if arguments is None else arguments)
    if given is not None:
        try:
            print_token(**given)
            return 0
        except BaseException as error:
            failure = error
    from .commands import run

    return run(arguments, failure=failure)


def _show_warnings() -> None:
    """Say on stderr what the library warns of."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("loginonce: %(message)s"))
    logger = logging.getLogger("loginonce")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
