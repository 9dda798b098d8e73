"""Signing in from a notebook's cell: in IPython, and in a real kernel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernels import Cell, Kernel, Shell, codes, until

import loginonce
from loginonce.errors import LoginFailed
from loginonce.login.flow import Progress, Prompt
from loginonce.notebook import NotebookPresenter, presenter
from loginonce.testing import FakeProvider, Fault

FACES = ("loginonce-link", "loginonce-code", "loginonce-qr", "href", "<svg")
"""What must be gone at the end."""


def code_to_make(provider: FakeProvider) -> str:
    return (
        f"import loginonce; lab = loginonce.Session({provider.issuer!r}, "
        f"client_id={provider.public_client_id!r}, scope='openid offline_access')"
    )


@pytest.fixture
def provider(fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    return fake_provider_factory(device_interval=0.05)


@pytest.fixture
def lab(shell: Shell, provider: FakeProvider, loginonce_home: Path) -> Shell:
    """A notebook with a session `lab` that nobody has signed in to."""
    shell.run(code_to_make(provider))
    return shell


class Person:
    """Acts on each code that the provider hands out, after a moment."""

    def __init__(self, provider: FakeProvider, act: Callable[[str], object]) -> None:
        self.codes = codes(provider)
        self._act = act
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._sit)
        self._thread.start()

    def _sit(self) -> None:
        done = 0
        while not self._leaving.wait(0.1):
            if done < len(self.codes):
                self._act(self.codes[done])
                done += 1

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join()


@pytest.fixture
def somebody(provider: FakeProvider) -> Iterator[Callable[[Callable[[str], object]], Person]]:
    met: list[Person] = []

    def somebody(act: Callable[[str], object]) -> Person:
        met.append(Person(provider, act))
        return met[-1]

    yield somebody
    for person in met:
        person.leave()


Somebody = Callable[[Callable[[str], object]], Person]


def is_quiet_line(cell: Cell) -> bool:
    first, *others = cell.outputs
    return (
        "Signed in as <strong>Ada Lovelace</strong>" in first["data"]["text/html"]
        and all(output["data"] == {"text/html": "", "text/plain": ""} for output in others)
        and not any(face in cell.html() for face in FACES)
    )


# ── in IPython ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_person_is_shown_link_and_code_and_at_the_end_one_line_is_left(
    lab: Shell, provider: FakeProvider, somebody: Somebody
) -> None:
    person = somebody(provider.approve)
    cell = lab.run("lab.login()")
    assert any(person.codes[0] in data["text/html"] for data in lab.updates)
    assert any(person.codes[0] in data["text/plain"] for data in lab.updates)
    assert is_quiet_line(cell)
    assert len(cell.outputs) == 2
    assert person.codes[0] not in cell.html() + cell.plain()


def test_a_login_that_is_there_takes_one_quiet_line(lab: Shell, provider: FakeProvider) -> None:
    lab.run(f"lab.login(tokens={provider.issue()!r})")
    cell = lab.run("lab.login()")
    assert is_quiet_line(cell)
    assert len(cell.outputs) == 1


def test_the_account_that_was_just_shown_is_not_shown_again(lab: Shell, provider: FakeProvider) -> None:
    lab.run(f"lab.login(tokens={provider.issue()!r})")
    for code in ("lab.login()", "ada = lab.login()\nada", "[lab.login()][0]"):
        assert lab.run(code).result is None


def test_any_other_account_is_shown(lab: Shell, provider: FakeProvider) -> None:
    lab.run(f"lab.login(tokens={provider.issue()!r})")
    for code in ("ada = lab.login()\nlab.account", "ada", "lab.account"):
        cell = lab.run(code)
        assert "<strong>Ada Lovelace</strong>" in cell.outputs[-1]["data"]["text/html"]
        assert "Account(subject='ada'" in cell.outputs[-1]["data"]["text/plain"]
    assert cell.result is not None


def test_a_cell_leaves_ipython_as_it_was(lab: Shell, provider: FakeProvider) -> None:
    def state() -> Any:
        formatter = lab.display_formatter.ipython_display_formatter
        return dict(formatter.type_printers), list(lab.events.callbacks["post_run_cell"])

    before = state()
    lab.run(f"lab.login(tokens={provider.issue()!r})")
    lab.run("lab.login(); lab.login(); 1 / 0")
    assert state() == before


def test_two_logins_in_one_cell_are_both_shown_once(lab: Shell, provider: FakeProvider) -> None:
    lab.run(f"lab.login(tokens={provider.issue()!r})")
    cell = lab.run("first = lab.login()\nsecond = lab.login()\nfirst")
    assert len(cell.outputs) == 2


def test_a_sign_in_that_nobody_waits_for_shows_nothing_beside_its_prompt(
    lab: Shell, provider: FakeProvider, somebody: Somebody
) -> None:
    somebody(provider.approve)
    cell = lab.run("pending = lab.login(wait=False)\npending")
    until(lambda: lab.user_ns["pending"].done)
    assert is_quiet_line(cell)
    assert lab.run("pending").result is not None


def test_why_it_failed_is_told_once_by_the_error(lab: Shell, provider: FakeProvider, somebody: Somebody) -> None:
    somebody(provider.deny)
    cell = lab.run("lab.login()")
    assert cell.error == ["LoginFailed: the sign-in was denied at the provider", "Begin again to retry."]
    assert "did not succeed" in cell.html()
    assert "denied" not in cell.html()
    assert not any(face in cell.html() for face in FACES)


def test_why_it_failed_is_told_in_place_of_the_prompt_where_no_error_follows(
    lab: Shell, provider: FakeProvider, somebody: Somebody
) -> None:
    cell = lab.run("pending = lab.login(wait=False)")
    until(lambda: "loginonce-code" in cell.html())
    lab.run("pass")
    (code,) = [code.user_code for code in provider.state._device_codes.values()]
    provider.deny(code)
    until(lambda: lab.user_ns["pending"].done)
    assert "denied at the provider" in cell.html()
    assert "Begin again to retry." in cell.html()
    assert not any(face in cell.html() for face in FACES)


def test_a_sign_in_that_outlives_its_cell_is_shown_below_that_cell(lab: Shell, provider: FakeProvider) -> None:
    provider.faults.add(Fault(wait_before=0.3), where="device")
    cell = lab.run("pending = lab.login(wait=False)")
    assert "Signing in" in cell.html()
    assert "Signing in" in cell.plain()
    other = lab.run("pass")
    until(lambda: "loginonce-code" in cell.html())
    assert "Signing in" not in cell.html()
    provider.approve(next(iter(provider.state._device_codes.values())).user_code)
    until(lambda: lab.user_ns["pending"].done)
    assert is_quiet_line(cell)
    assert len(cell.outputs) == 2
    assert other.outputs == []


def test_nobody_there_is_told_by_the_error_alone(lab: Shell) -> None:
    lab.allow_stdin = False
    cell = lab.run("lab.login()")
    (output,) = cell.outputs
    assert output["output_type"] == "error"
    assert len(output["traceback"]) == 2
    assert "Run in a terminal: loginonce login" in output["traceback"][1]


def test_a_session_shows_how_its_login_stands(lab: Shell, provider: FakeProvider) -> None:
    result = lab.run("lab").result
    assert result is not None
    assert "Not signed in" in result["data"]["text/html"]
    tokens = provider.issue()
    lab.run(f"lab.login(tokens={tokens!r})")
    result = lab.run("lab").result
    assert result is not None
    assert "Signed in as <strong>Ada Lovelace</strong>" in result["data"]["text/html"]
    assert "renews itself" in result["data"]["text/html"]
    assert not any(str(value) in str(result) for name, value in tokens.items() if name.endswith("_token"))


@pytest.mark.parametrize(
    ("good_for", "shown"), [(300, "It renews itself no longer"), (0.3, "Not signed in: the login for")]
)
def test_a_session_whose_login_was_ended_says_so(
    lab: Shell, provider: FakeProvider, good_for: float, shown: str
) -> None:
    lab.user_ns["lab"].source.policy = loginonce.Policy(refusal_wait=0.0)
    lab.run(f"lab.login(tokens={ {**provider.issue(), 'expires_in': good_for}!r})")
    provider.end_sessions()
    ended = lab.run("lab.source.renew()")
    assert ended.error is None or len(ended.error) == 2
    time.sleep(min(good_for, 0.4))
    result = lab.run("lab").result
    assert result is not None
    assert shown in result["data"]["text/html"]
    assert "was ended at the provider" in result["data"]["text/html"]
    assert "Call .login() on the session" in result["data"]["text/html"]


# ── the presenter by itself ──────────────────────────────────────────────────────────────────────────────

DEVICE = Prompt("device", "https://a.org", "notebook", "https://a.org/device", time.time() + 300, "WDJB-MJHT")


@pytest.fixture
def below(shell: Shell) -> Iterator[Cell]:
    shell.cell = Cell()
    yield shell.cell
    shell.events.trigger("post_run_cell", None)


def test_the_seconds_count_and_the_prompt_stands_still(
    shell: Shell, below: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presenter, "TICK", 0.02)
    clock = iter(range(1000))
    monkeypatch.setattr(presenter.time, "time", lambda: DEVICE.expires_at - 300 + next(clock))
    shown = NotebookPresenter()
    shown.show(Progress("pending", DEVICE))
    until(lambda: len(shell.updates) > 6)
    shown.show(Progress("retrying", DEVICE, detail="no route"))
    until(lambda: len(shell.updates) > 9)
    shown.show(Progress("failed", DEVICE, error=LoginFailed("x", outcome="cancelled")))
    count = len(shell.updates)
    with_code = [data for data in shell.updates if "loginonce-code" in data["text/html"]]
    assert len(with_code) == 1
    ticks = [data["text/html"] for data in shell.updates if "loginonce-left" in data["text/html"]]
    assert len(set(ticks)) == len(ticks)
    announced = [tick for tick in ticks if 'role="status"' in tick]
    assert ["Waiting" in tick for tick in announced] == [True, False]
    time.sleep(0.1)
    assert len(shell.updates) == count
    assert len(below.outputs) == 2
    assert not any("loginonce-clock" in thread.name for thread in threading.enumerate())


def test_a_second_prompt_takes_the_place_of_the_first(shell: Shell, below: Cell) -> None:
    shown = NotebookPresenter()
    shown.show(Progress("elsewhere", DEVICE))
    assert "already pending" in below.html()
    other = Prompt("device", "https://a.org", "notebook", "https://a.org/device", time.time() + 300, "PHXV-QKRN")
    shown.show(Progress("pending", other))
    assert "WDJB-MJHT" not in below.html()
    assert "PHXV-QKRN" in below.html()
    shown.show(Progress("failed", other, error=LoginFailed("x", outcome="cancelled")))
    assert len(below.outputs) == 2


# ── in a real kernel ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def started() -> Iterator[Kernel]:
    with Kernel() as kernel:
        yield kernel


@pytest.fixture
def kernel(started: Kernel, provider: FakeProvider, loginonce_home: Path) -> Kernel:
    """A kernel with a session `lab` that nobody has signed in to."""
    started.run(f"import os; os.environ['LOGINONCE_HOME'] = {str(loginonce_home)!r}")
    started.run(code_to_make(provider))
    return started


@pytest.mark.real
def test_run_all_waits_for_the_person_and_goes_on(kernel: Kernel, provider: FakeProvider) -> None:
    found = codes(provider)
    first, second = kernel.begin("lab.login()"), kernel.begin(f"lab.get({provider.api('/runs')!r}).status_code")
    until(lambda: "loginonce-code" in first.html())
    assert found[0] in first.html()
    assert not second.outputs
    provider.approve(found[0])
    until(lambda: second.done)
    assert is_quiet_line(first)
    assert second.plain() == "200"


@pytest.mark.real
@pytest.mark.parametrize("how", ["lab.login({})", "await lab.login_async({})"])
@pytest.mark.parametrize("end", ["denied", "timeout", "interrupt"])
def test_what_fails_ends_run_all_with_two_lines(kernel: Kernel, provider: FakeProvider, how: str, end: str) -> None:
    found = codes(provider)
    cell = kernel.begin(how.format("timeout=0.4" if end == "timeout" else ""))
    following = kernel.begin("print('and yet')")
    until(lambda: "loginonce-code" in cell.html() or cell.done)
    if end == "denied":
        provider.deny(found[0])
    elif end == "interrupt":
        kernel.manager.interrupt_kernel()
    until(lambda: cell.done and following.done)
    assert cell.error is not None
    assert len(cell.error) == 2
    assert cell.error[0].startswith("LoginFailed: ")
    assert "Begin again" in cell.error[1]
    assert "Traceback" not in str(cell.outputs)
    assert following.outputs == []
    assert not any(face in cell.html() for face in FACES)


@pytest.mark.real
def test_a_request_without_a_login_ends_with_two_lines(kernel: Kernel, provider: FakeProvider) -> None:
    cell = kernel.run(f"lab.get({provider.api('/runs')!r})")
    assert cell.error is not None
    assert len(cell.error) == 2
    assert cell.error[0].startswith("LoginRequired: nobody is signed in to")
    assert "Call .login() on the session" in cell.error[1]
    assert [output["output_type"] for output in cell.outputs] == ["error"]


@pytest.mark.real
def test_a_sign_in_that_nobody_waits_for_lands_below_its_own_cell(kernel: Kernel, provider: FakeProvider) -> None:
    found = codes(provider)
    cell = kernel.run("pending = lab.login(wait=False)\npending")
    other = kernel.run("print('meanwhile')")
    until(lambda: "loginonce-code" in cell.html())
    provider.approve(found[0])
    until(lambda: "Signed in as" in cell.html())
    until(lambda: is_quiet_line(cell))
    assert cell.result is None
    assert other.plain().split() == ["meanwhile"]
    assert kernel.run("lab.account.name").plain() == "'Ada Lovelace'"


@pytest.mark.real
def test_nbclient_saves_how_a_sign_in_ended_that_outlived_its_cell(
    provider: FakeProvider, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("LOGINONCE_FLOW", "device")
    provider.approves_after = 0.3
    provider.faults.add(Fault(wait_before=0.3), where="device")
    sources = [code_to_make(provider), "pending = lab.login(wait=False)", "print('meanwhile')", "pending.wait();"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert is_quiet_line(Cell(notebook.cells[1].outputs))
    assert [output["text"] for output in notebook.cells[2].outputs] == ["meanwhile\n"]


@pytest.mark.real
def test_a_second_kernel_shows_the_same_code_and_both_are_signed_in(kernel: Kernel, provider: FakeProvider) -> None:
    found = codes(provider)
    with Kernel() as second:
        second.run(code_to_make(provider))
        first_cell = kernel.begin("lab.login()")
        until(lambda: "loginonce-code" in first_cell.html())
        second_cell = second.begin("lab.login()")
        until(lambda: "already pending in another notebook" in second_cell.html())
        assert found[0] in second_cell.html()
        provider.approve(found[0])
        until(lambda: first_cell.done and second_cell.done)
        assert is_quiet_line(first_cell)
        assert is_quiet_line(second_cell)
    assert len(found) == 1
