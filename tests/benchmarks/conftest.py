"""The benchmark's own parts; its modules lie beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback
from rows import Bench


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    """The provider, in its process."""
    with Loopback() as provider:
        yield provider


@pytest.fixture
def bench(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose rows take as little time as they can."""
    monkeypatch.setenv("LOGINONCE_HOME", str(tmp_path))  # set by the rows, and put back after the test
    loopback.answer_in(0.0)
    loopback.reset()
    bench = Bench(loopback, tmp_path, short=True, seconds=1.0)
    yield bench
    bench.end()
