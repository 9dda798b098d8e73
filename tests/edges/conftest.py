"""IPython in this process, for the edges that show something there."""

from __future__ import annotations

import atexit
from collections.abc import Iterator

import pytest
from kernels import Shell


@pytest.fixture
def shell() -> Iterator[Shell]:
    """The IPython of this process, as in a kernel; there is none before and after."""
    shell = Shell.instance()
    yield shell
    Shell.clear_instance()
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
