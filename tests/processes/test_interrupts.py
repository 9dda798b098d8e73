"""An interrupt ends the wait and never the save, and a program that ends waits for what it has begun.

The programs are real ones: scripts at a terminal of their own where ^C is pressed, a Jupyter kernel that its front
end interrupts, interpreters that end in each way there is.  Each has stopped at a point of its refresh (`points`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from points import Meeting
from ways import RENEWED

import loginonce
from loginonce.testing import FakeProvider, Fault, Stats

pytestmark = pytest.mark.usefixtures("interruptible")

Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

SENT = "send.Send:sent"
POINTS = [point if point == SENT else pytest.param(point, marks=pytest.mark.slow) for point in RENEWED.points]

PREAMBLE = """
import atexit, os, signal, sys, threading
issuer, client_id, url, point, place = sys.argv[1:]
if os.isatty(0):
    os.login_tty(0)
endings = []  # called after all that is registered from here on
atexit.register(lambda: [ending() for ending in endings])
import loginonce, points

def lab(**policy):
    return loginonce.Session(issuer, client_id=client_id, policy=loginonce.Policy(**policy))

points.arm(point, place)
"""


class Program:
    """A script, and the terminal at which it runs."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._screen, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(script), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        os.close(theirs)
        self._shown = ""

    def press_ctrl_c(self) -> None:
        os.write(self._screen, b"\x03")

    def shows(self, text: str) -> None:
        """Read on until this has appeared; what comes after it is for the next time."""
        while text not in self._shown:
            self._shown += os.read(self._screen, 4096).decode()  # EIO when it ends without
        self._shown = self._shown.partition(text)[2]

    def runs_on(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def ends(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


Start = Callable[[str, str, Meeting], Program]


@pytest.fixture
def start(fake_provider: FakeProvider, owner: loginonce.Session) -> Iterator[Start]:
    """Run a script that shares the login and stops at a point."""
    programs: list[Program] = []

    def start(script: str, point: str, meeting: Meeting) -> Program:
        provider = fake_provider
        words = (provider.issuer, provider.public_client_id, provider.api("/runs"), point, meeting.place)
        programs.append(Program(script, *words))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@contextmanager
def stopped_at(point: str, provider: FakeProvider, until: Until, meeting: Meeting) -> Iterator[None]:
    """Within the block the process stands at the point."""
    assert meeting.reached() == point
    if point == SENT:
        until(lambda: provider.stats.refreshes)
    yield
    meeting.let_go()


def goes_on(owner: loginonce.Session, provider: FakeProvider) -> None:
    """The next caller has a token, and the refresh token was sent once in all."""
    assert owner.get(provider.api("/after")).status_code == 200
    assert sent(provider) == Stats(token_requests=1, refreshes=1)


def sent(provider: FakeProvider) -> Stats:
    return Stats(**{**vars(provider.stats), "api_calls": 0, "api_401": 0})


@pytest.mark.parametrize("point", POINTS)
def test_ctrl_c_at_a_terminal_ends_the_wait_and_what_was_begun_is_saved(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, start: Start, point: str
) -> None:
    age(owner, ends_in=-1)
    with Meeting() as meeting:
        program = start("lab().get(url)", point, meeting)
        with stopped_at(point, fake_provider, until, meeting):
            program.press_ctrl_c()
            program.shows("KeyboardInterrupt")
        assert program.ends() != 0
    goes_on(owner, fake_provider)


@pytest.mark.parametrize("point", [SENT, pytest.param("save.Write:written", marks=pytest.mark.slow)])
def test_ctrl_c_pressed_again_and_again_does_not_end_the_save_either(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, start: Start, point: str
) -> None:
    age(owner, ends_in=-1)
    with Meeting() as meeting:
        program = start("lab().get(url)", point, meeting)
        with stopped_at(point, fake_provider, until, meeting):
            program.press_ctrl_c()
            program.shows("KeyboardInterrupt")
            for _ in range(3):
                time.sleep(0.1)
                program.press_ctrl_c()
            assert program.runs_on(0.2)
        assert program.ends() != 0
    goes_on(owner, fake_provider)


def test_an_interrupted_program_may_ask_again_while_what_it_began_goes_on(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, start: Start
) -> None:
    age(owner, ends_in=-1)
    script = """
        session = lab()
        try:
            session.get(url)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(session.get(url).status_code, flush=True)
        """
    with Meeting() as meeting:
        program = start(script, SENT, meeting)
        with stopped_at(SENT, fake_provider, until, meeting):
            program.press_ctrl_c()
            program.shows("interrupted")
        program.shows("200")
        assert program.ends() == 0
    goes_on(owner, fake_provider)


# ── the end of the interpreter ───────────────────────────────────────────────────────────────────────────


ENDINGS = {
    "a thread waits and the program is over": ("threading.Thread(target=session.get, args=(url,)).start()", 0),
    "a thread waits and the program exits": (
        """
        threading.Thread(target=session.get, args=(url,)).start()
        sys.exit(3)
        """,
        3,
    ),
    "a daemon waits and the program is over": (
        "threading.Thread(target=session.get, args=(url,), daemon=True).start(); began.wait()",
        0,
    ),
    "a daemon waits and the program fails": (
        """
        threading.Thread(target=session.get, args=(url,), daemon=True).start(); began.wait()
        raise SystemError("it failed")
        """,
        1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDINGS)
def test_a_program_that_ends_waits_for_what_it_has_sent(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, start: Start, how: str
) -> None:
    age(owner, ends_in=-1)
    script, code = ENDINGS[how]
    begun = """
session = lab()
began = threading.Event()
do = loginonce.source._Run._do
def watched(run, action):
    if type(action).__name__ == "Send":
        began.set()
    return do(run, action)
loginonce.source._Run._do = watched
"""
    with Meeting() as meeting:
        program = start(begun + textwrap.dedent(script), SENT, meeting)
        with stopped_at(SENT, fake_provider, until, meeting):
            assert program.runs_on(0.3)
        assert program.ends() == code
    goes_on(owner, fake_provider)


def test_a_program_that_ends_while_a_renewal_runs_behind_it_waits_no_longer_than_the_request_may_take(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, start: Start
) -> None:
    age(owner, received=280, ends_in=20)
    fake_provider.faults.add(Fault.delay(60))
    began = time.monotonic()
    with Meeting() as meeting:
        assert start("lab(send_timeout=1.0).get(url)", "", meeting).ends() == 0
    assert time.monotonic() - began < 15
    grant = owner.source.grant()
    assert grant is not None
    assert (grant.state, grant.marker is not None) == ("SPENDING", True)  # the next one knows what may have happened


@pytest.mark.slow
@pytest.mark.parametrize("register", ["atexit.register", "endings.append"])
def test_a_call_at_the_very_end_of_a_program_is_served_or_told_that_it_is_late(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, start: Start, register: str
) -> None:
    age(owner, ends_in=-1)
    script = f"""
def last():
    try:
        print("status", session.get(url, timeout=5).status_code, flush=True)
    except loginonce.TransportError as error:
        print("status late", flush=True)
session = lab()
{register}(last)
"""
    with Meeting() as meeting:
        program = start(script, "", meeting)
        program.shows("status ")
        assert program.ends() == 0
    goes_on(owner, fake_provider)


# ── a kernel ─────────────────────────────────────────────────────────────────────────────────────────────


class Kernel:
    """A real ipykernel, and a front end."""

    def __init__(self) -> None:
        from jupyter_client import manager

        self._manager, self._client = manager.start_new_kernel(kernel_name="python3")

    def begin(self, cell: str) -> str:
        message: str = self._client.execute(textwrap.dedent(cell), stop_on_error=False)
        return message

    def reply(self, message: str) -> Any:
        """How a cell ended: "ok", or the name of its exception."""
        while True:
            answer = self._client.get_shell_msg(timeout=60)
            if answer["parent_header"].get("msg_id") == message:
                content = answer["content"]
                return content["status"] if content["status"] == "ok" else content["ename"]

    def run(self, cell: str) -> Any:
        return self.reply(self.begin(cell))

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.mark.slow
def test_the_stop_button_of_a_notebook_ends_the_wait_and_never_the_save(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, until: Until, kernel: Kernel
) -> None:
    where = str(Path(__file__).parent)
    assert (
        kernel.run(
            f"""
            import sys; sys.path[:0] = {[where, *sys.path]!r}
            import loginonce, points
            lab = loginonce.Session({fake_provider.issuer!r}, client_id={fake_provider.public_client_id!r})
            """
        )
        == "ok"
    )
    url = fake_provider.api("/runs")
    for point in RENEWED.points:
        age(owner, ends_in=-1)
        fake_provider.reset_stats()
        with Meeting() as meeting:
            assert kernel.run(f"points.arm({point!r}, {meeting.place!r})") == "ok"
            cell = kernel.begin(f"lab.get({url!r})")
            with stopped_at(point, fake_provider, until, meeting):
                kernel.interrupt()
                assert kernel.reply(cell) == "KeyboardInterrupt", point
            assert kernel.run(f"assert lab.get({url!r}).status_code == 200") == "ok", point
        goes_on(owner, fake_provider)
