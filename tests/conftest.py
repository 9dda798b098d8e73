"""What more than one floor's tests use."""

import gc
import signal
from collections.abc import Iterator

import pytest

from canaries import Canaries
from loginonce.environment import ROWS, Row


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end, so the garbage collector need not look through it, now or at any test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    """The secrets that any fake provider issues or is sent from now on."""
    with Canaries().listening() as canaries:
        yield canaries


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those it starts, although `nohup pytest &` in a script has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The row of the table of surroundings that this test tries, as `pytest.mark.row(name, how)` says it.

    `tests/edges/test_environment.py` compares all those marks with the table.
    """
    mark = request.node.get_closest_marker("row")
    return next(row for row in ROWS if row.name == mark.args[0])
