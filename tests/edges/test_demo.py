"""The demo counts honestly, ends as it says, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loginonce.demo.tally import Tally, expiries

Demo = Callable[..., subprocess.Popen[str]]
# Whoever starts the tests in the background may have them ignore interrupts, and children inherit that.
COMMAND = [
    sys.executable,
    "-W",
    "error",
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from loginonce.cli import main; main()",
    "demo",
]
CONTROL = re.compile(r"[^\n\x20-\x7e\u00a0-\uffff]")


@pytest.fixture
def demo(loginonce_home: Path, tmp_path: Path) -> Demo:
    """Start the demo, with a folder for logins that it must not touch and a folder for what it makes."""

    def demo(*options: str) -> subprocess.Popen[str]:
        (tmp_path / "temporary").mkdir()
        environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "FORCE_COLOR": "1"}
        return subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    return demo


def workers_of(err: str) -> list[int]:
    told = re.search(r"processes are ready: ([\d, ]+)", err)
    assert told is not None
    return [int(pid) for pid in told.group(1).split(",")]


def is_running(pid: int) -> bool:
    try:
        if not Path("/proc").is_dir():
            os.kill(pid, 0)
            return True
        return "loginonce.demo.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def numbers_of(out: str) -> dict[str, int]:
    return {name: int(number.replace(",", "")) for name, number in re.findall(r"│ ([\w ]+?) +│ +([\d,]+) │", out)}


def ends_well(out: str, err: str, home: Path, temporary: Path) -> None:
    assert not CONTROL.search(out + err)
    assert "Traceback" not in err
    assert not any(is_running(pid) for pid in workers_of(err))
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_with_one_login_each_expiry_costs_one_token_request(demo: Demo, loginonce_home: Path, tmp_path: Path) -> None:
    process = demo("--workers", "3", "--seconds", "5", "--lifetime", "2")
    out, err = process.communicate(timeout=60)
    numbers = numbers_of(out)
    assert process.returncode == 0, out + err
    assert numbers["token requests"] == numbers["expiries"] >= 1
    assert numbers["replays"] == numbers["failures"] == numbers["logged out"] == 0
    assert "each expiry cost exactly one token request" in re.sub(r"[│\s]+", " ", out)
    ends_well(out, err, loginonce_home, tmp_path / "temporary")


def test_without_the_lock_the_provider_ends_the_login(demo: Demo, loginonce_home: Path, tmp_path: Path) -> None:
    process = demo("--workers", "3", "--seconds", "20", "--lifetime", "1", "--without-lock")
    out, err = process.communicate(timeout=60)
    numbers = numbers_of(out)
    assert process.returncode == 1, out + err
    assert numbers["token requests"] > numbers["expiries"]
    assert numbers["replays"] > 0
    assert numbers["logged out"] == 3
    assert "takes for theft" in re.sub(r"[│\s]+", " ", out)
    ends_well(out, err, loginonce_home, tmp_path / "temporary")


def test_an_interrupt_ends_every_worker(demo: Demo, loginonce_home: Path, tmp_path: Path) -> None:
    process = demo("--workers", "2", "--seconds", "60", "--lifetime", "1", "--without-lock")
    assert process.stderr is not None
    err = ""
    while "ready" not in err:
        err += process.stderr.readline()
    assert all(is_running(pid) for pid in workers_of(err))
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    ends_well(out, err + rest, loginonce_home, tmp_path / "temporary")


def test_workers_end_when_the_demo_is_killed(demo: Demo) -> None:
    process = demo("--workers", "2", "--seconds", "60")
    assert process.stderr is not None
    err = ""
    while "ready" not in err:
        err += process.stderr.readline()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers_of(err)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_the_whole_demo_holds_through_a_dozen_expiries(demo: Demo) -> None:
    process = demo()
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert numbers_of(out)["expiries"] >= 12


# ── the count ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_that_replaces_one_still_good_is_no_expiry() -> None:
    assert expiries(100.0, [], 2) == 0
    assert expiries(100.0, [101.9, 103.8, 105.7], 2) == 3
    assert expiries(100.0, [101.9, 101.95, 102.3, 103.8], 2) == 2
    assert expiries(100.0, [100.5, 101.0], 2) == 0
    assert expiries(100.0, [107.0], 2) == 1  # nobody needed it for a while


GOOD = {"workers": 8, "calls": 900, "expiries": 12, "token_requests": 12, "replays": 0, "failures": 0, "ended": 0}


def test_a_run_holds_only_if_every_number_is_right() -> None:
    assert Tally(**GOOD).holds
    for name, value in (("token_requests", 13), ("token_requests", 11), ("replays", 1), ("failures", 1), ("ended", 1)):
        assert not Tally(**GOOD | {name: value}).holds
    assert not Tally(**GOOD | {"expiries": 0, "token_requests": 0}).holds


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"expiries": 0, "token_requests": 0}, "let it run longer"),
        ({"token_requests": 15}, "15 token requests where 12 would have done"),
        ({"replays": 1}, "sent once, which the provider takes for theft"),
        ({"replays": 7, "ended": 8}, "8 of 8 processes were logged out"),
        ({"failures": 2}, "2 calls failed"),
    ],
)
def test_the_verdict_says_what_happened(changed: dict[str, int], said: str) -> None:
    assert said in Tally(**GOOD | changed).verdict
