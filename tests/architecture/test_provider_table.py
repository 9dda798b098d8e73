"""The README's table of providers says what the tests try, no more and no less: it is made of their marks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loginonce.providers import known, names

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
CELLS = ("sign in", "refresh", "rotation", "grace", "log out", "ended elsewhere")
HOW = ("not run", "fake with its quirks", "real server")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """How each cell is tried that any test's mark names: with a real server, where one does so."""
    marks = tmp_path_factory.mktemp("marks") / "marks.json"
    collecting = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-o", "addopts=", "-p", "provider_marks"]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    marked = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "mark.provider(" in file.read_text("utf-8")]
    run = subprocess.run(
        [*collecting, "-p", "no:cacheprovider", str(TESTS / "dialects"), *marked],
        cwd=ROOT,
        env={**os.environ, "PROVIDER_MARKS": str(marks), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[tuple[str, str], str] = {}
    for name, cell, real in json.loads(marks.read_text("utf-8")):
        found[name, cell] = max(found.get((name, cell), HOW[0]), HOW[2 if real else 1], key=HOW.index)
    return found


def test_the_table_in_the_readme_is_what_the_marks_of_the_tests_say(tried: dict[tuple[str, str], str]) -> None:
    rows = [
        f"| {known(name).title} | {' | '.join(tried.get((name, cell), HOW[0]) for cell in CELLS)} |" for name in names()
    ]
    wanted = "\n".join([f"| provider | {' | '.join(CELLS)} |", f"|---|{'---|' * len(CELLS)}", *rows])
    there = re.search(r"^\| provider \|.*?(?=\n\n)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert there is not None
    assert there[0] == wanted, f"put this into the README:\n{wanted}"


def test_each_mark_names_a_provider_and_a_cell_that_there_are(tried: dict[tuple[str, str], str]) -> None:
    assert {name for name, _ in tried} <= set(names())
    assert {cell for _, cell in tried} <= set(CELLS)
