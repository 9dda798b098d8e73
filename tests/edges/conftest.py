"""IPython in this process, for the edges that show something there."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator

import pytest
from kernels import Shell


@pytest.fixture
def shell() -> Iterator[Shell]:
    """The IPython of this process, as in a kernel; there is none before and after."""
    main = sys.modules["__main__"]
    shell = Shell.instance()
    yield shell
    Shell.clear_instance()
    shell.restore_sys_module_state()  # it has taken the place of __main__
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    assert sys.modules["__main__"] is main
