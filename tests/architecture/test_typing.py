"""The public API as a type checker sees it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_program_that_uses_the_public_names_is_well_typed(tmp_path: Path) -> None:
    program = Path(__file__).parent / "typing" / "api.py"
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
