"""The parsers under a coverage-guided fuzzer: whatever comes is read, or refused in the documented way.

Each target of `harness.py` is a process of its own that begins with real messages and ends after some seconds.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from seeds import plant

import loginonce
from loginonce.testing import FakeProvider

HARNESS = Path(__file__).with_name("harness.py")
SECONDS = {"id_token": 12, "token_answer": 10, "metadata": 8}
"""For each target, six where nothing is said."""

pytestmark = [pytest.mark.slow, pytest.mark.hazard(19, 27, 35)]


@pytest.fixture(autouse=True)
def the_fuzzer_is_there() -> None:
    if importlib.util.find_spec("atheris") is None:
        reason = "atheris is not installed: there is none for this platform, or the extra `test` is missing"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture
def corpus(fake_provider: FakeProvider, loginonce_home: Path, tmp_path: Path) -> Path:
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
    session.login(tokens=fake_provider.issue())
    folder = tmp_path / "corpus"
    folder.mkdir()
    plant(fake_provider, session, folder)
    return folder


def fuzz(target: str, corpus: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    """The run of one target.  What made it fail is printed, and named in `stderr`."""
    findings = corpus / "findings"
    findings.mkdir()
    limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=8192", "-print_final_stats=1"]
    return subprocess.run(
        [sys.executable, str(HARNESS), target, str(corpus / target), f"-dict={corpus / 'words'}",
         f"-artifact_prefix={findings}/", *limits],
        capture_output=True, text=True, errors="replace", timeout=seconds + 60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "target", ["stored", "token_answer", "device_answer", "redirect", "challenge", "metadata", "id_token"]
)
def test_whatever_comes_is_read_or_refused_in_the_documented_way(target: str, corpus: Path) -> None:
    done = fuzz(target, corpus, SECONDS.get(target, 6))
    found = [f"{path.name}: {path.read_bytes()!r}" for path in (corpus / "findings").iterdir()]
    assert done.returncode == 0, "\n".join([*found, done.stderr[-4000:], done.stdout[-4000:]])
    tried = int(done.stderr.rpartition("stat::number_of_executed_units:")[2].split()[0])
    assert tried > 1000, f"only {tried} inputs were tried"
    assert len(list((corpus / target).iterdir())) > 3, "no input led anywhere new: nothing is measured"


def test_a_mistake_that_was_planted_is_found(corpus: Path) -> None:
    done = fuzz("planted", corpus, 30)
    assert done.returncode != 0
    assert "the planted mistake" in done.stderr + done.stdout
    assert any(path.read_bytes().startswith(b'{"k') for path in (corpus / "findings").iterdir())
