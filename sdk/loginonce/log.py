"""`log`, by which the library says what happens; its name is `loginonce`, and no secret is ever in it."""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any

from .errors import LoginonceError

__all__ = ["in_words", "log", "unforeseen"]


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Who listens may fail, and that must be no reason for an answer not to be saved or a lock to be kept."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        with suppress(Exception):
            super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})  # it was said where this was called from


log = _Log(logging.getLogger("loginonce"))


def in_words(error: BaseException) -> str:
    """What may be logged of an exception: nobody knows what others write into theirs."""
    return ".  ".join(str(error).splitlines()) if isinstance(error, LoginonceError) else type(error).__name__


def unforeseen(what: str, error: BaseException) -> None:
    """Log where something went wrong that nobody foresaw, for whoever is to mend it."""
    where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    log.error("%s: %s\n%s", what, type(error).__name__, where, stacklevel=3)
