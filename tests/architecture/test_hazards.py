"""Every hazard has a test: the marks are read from the sources, without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hazards import HAZARDS

TESTS = Path(__file__).parents[1]


def marks(source: str) -> Iterator[tuple[str, object]]:
    """Which test names which number.  A module's `pytestmark` counts for each test in it."""
    tree = ast.parse(source)
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and [ast.unparse(to) for to in statement.targets] == ["pytestmark"]:
            for number in numbers(statement.value):
                yield from ((test.name, number) for test in tests)
    for test in tests:
        for decorator in test.decorator_list:
            for number in numbers(decorator):
                yield test.name, number


def numbers(node: ast.AST) -> Iterator[object]:
    """The arguments of each `pytest.mark.hazard(…)` in an expression."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.hazard":
            assert not call.keywords, ast.unparse(call)
            yield from (ast.literal_eval(argument) for argument in call.args)


@pytest.fixture(scope="module")
def guarded() -> dict[object, set[str]]:
    """The tests of each number."""
    found: dict[object, set[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text("utf-8")
        for test, number in marks(text) if "mark.hazard" in text else ():
            found.setdefault(number, set()).add(f"{path.relative_to(TESTS)}::{test}")
    return found


@pytest.mark.parametrize("number", HAZARDS)
def test_each_hazard_has_a_test(guarded: dict[object, set[str]], number: int) -> None:
    assert guarded.get(number), f"nothing guards against hazard {number}: {HAZARDS[number]}"


def test_no_mark_names_a_hazard_that_is_not_in_the_table(guarded: dict[object, set[str]]) -> None:
    assert set(guarded) <= HAZARDS.keys()


def test_the_table_has_each_number_once() -> None:
    assert sorted(HAZARDS) == list(range(1, 40))


def test_marks_are_found_where_they_stand() -> None:
    source = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.hazard(1)]
class TestA:
    @pytest.mark.hazard(2, 3)
    @pytest.mark.slow
    def test_a(self): ...
def test_b(): ...
def helper(): pytest.mark.hazard(4)
"""
    assert sorted(marks(source), key=str) == [("test_a", 1), ("test_a", 2), ("test_a", 3), ("test_b", 1)]
