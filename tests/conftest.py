"""What more than one floor's tests use."""

import pytest

from loginonce.environment import ROWS, Row


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The row of the table of surroundings that this test tries, as `pytest.mark.row(name, how)` says it.

    `tests/edges/test_environment.py` compares all those marks with the table.
    """
    mark = request.node.get_closest_marker("row")
    return next(row for row in ROWS if row.name == mark.args[0])
