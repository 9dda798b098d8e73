"""One test for each provider, and the mark that the README's table is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from loginonce.providers import names


def each_provider(cell: str, among: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Run a test for each provider (or those `among` them), as what fills that cell of the README's table."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.provider(name, cell)) for name in among or names()]
    )
