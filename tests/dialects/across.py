"""What the tests at each provider share; first of all the mark that the README's table is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest

import loginonce
from loginonce.login.flow import Progress, Prompt
from loginonce.providers import names

Sessions = Callable[..., loginonce.Session]
SignIn = Callable[[loginonce.Session], loginonce.Account]


def each_provider(cell: str, among: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Run a test for each provider (or those `among` them), as what fills that cell of the README's table."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.provider(name, cell)) for name in among or names()]
    )


class Seen:
    """A presenter that keeps what it is shown."""

    def __init__(self) -> None:
        self.last: Progress | None = None

    def show(self, progress: Progress) -> None:
        self.last = progress

    def prompt(self) -> Prompt:
        """The prompt, as soon as it is there."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.last is not None and self.last.error is not None:
                raise self.last.error
            if self.last is not None and self.last.prompt is not None:
                return self.last.prompt
            time.sleep(0.005)
        raise AssertionError("nothing was shown")
