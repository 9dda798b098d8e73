"""`login()` in a cell of a real notebook: what a person sees, when the next cells run, and what is left of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from lab import Lab, Notebook
from playwright.sync_api import Locator, Page, expect

import loginonce
from canaries import Canaries
from loginonce.testing import FakeProvider, Fault

MOMENT = 10.0
"""Seconds for what takes one or two on an idle machine."""

QUIET_LINE = re.compile(r"✓\s*Signed in as Ada Lovelace · token until \d\d:\d\d · renews itself")
FACES = ".loginonce-link, .loginonce-code, .loginonce-qr, .loginonce-left"
"""What must be gone at the end."""


def code_of(notebook: Notebook, n: int = 0) -> Locator:
    """The code that cell n shows, now that it does."""
    code = notebook.output(n).locator(".loginonce-code")
    expect(code).to_be_visible(timeout=45_000)
    return code


def decide(tab: Page, button: str) -> None:
    tab.get_by_role("button", name=button).click()
    expect(tab.get_by_role("status")).to_be_visible()
    tab.close()


def is_quiet_line(notebook: Notebook, n: int = 0) -> bool:
    """Nothing is to be seen below cell n but the one line."""
    return QUIET_LINE.fullmatch(notebook.text(n)) is not None and notebook.output(n).locator(FACES).count() == 0


def begin(lab: Lab, *cells: str, kernel: str = "ipykernel-newest") -> Notebook:
    """A notebook under Run All."""
    notebook = lab.open(*cells, kernel=kernel)
    notebook.run_all()
    return notebook


def call(provider: FakeProvider) -> str:
    return f"print('called:', lab.get({provider.api('/runs')!r}).status_code)"


# ── what differs from kernel to kernel ───────────────────────────────────────────────────────────────────


def test_run_all_waits_for_the_approval_and_goes_on(lab: Lab, provider: FakeProvider, made: str, kernel: str) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider), kernel=kernel)
    code = code_of(notebook)
    before = notebook.output(0).locator(".loginonce-left").inner_text()
    expect(notebook.output(0).locator(".loginonce-left")).not_to_have_text(before)
    assert notebook.is_running(0)
    assert not notebook.has_run(1)
    tab = notebook.click_link(0, provider.issuer)
    expect(tab.locator("b").first).to_have_text(code.inner_text())
    decide(tab, "Allow")
    notebook.wait_text(1, "called: 200", seconds=MOMENT)
    assert is_quiet_line(notebook)
    assert not notebook.failed(0)
    notebook.screenshot(f"login-signed-in-{kernel}")


def test_an_interrupt_ends_the_wait_in_two_lines_and_nothing_runs(
    lab: Lab, provider: FakeProvider, made: str, kernel: str
) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider), kernel=kernel)
    code_of(notebook)
    notebook.interrupt()
    assert ends_in_two_lines(notebook, "LoginFailed: the sign-in was cancelled")


@pytest.mark.parametrize("kernel", ["ipykernel-6.31", "ipykernel-newest"])
def test_a_sign_in_that_nobody_waits_for_stays_below_its_own_cell(
    lab: Lab, provider: FakeProvider, made: str, kernel: str
) -> None:
    provider.faults.add(Fault(wait_before=1.5), where="device")  # the cell has ended long before
    notebook = begin(lab, made + "pending = lab.login(wait=False)", "print('meanwhile')", "pending", kernel=kernel)
    notebook.wait_text(1, "meanwhile")
    notebook.wait_finished(2)
    code_of(notebook)
    before = notebook.output(0).locator(".loginonce-left").inner_text()
    expect(notebook.output(0).locator(".loginonce-left")).not_to_have_text(before)
    provider.approve(code_of(notebook).inner_text())
    notebook.wait_text(0, "Signed in as Ada", seconds=MOMENT)
    assert is_quiet_line(notebook)
    assert notebook.text(1) == "meanwhile"


def ends_in_two_lines(notebook: Notebook, first: str) -> bool:
    """Cell 0 ends with an error of two lines, all that was shown to sign in is gone, and cell 1 does not run."""
    notebook.wait_text(0, first)
    notebook.wait_finished(0)
    notebook.wait_until_idle()
    error = notebook.output(0).locator("[data-mime-type='application/vnd.jupyter.stderr']").last.inner_text()
    return (
        error.strip().splitlines()[0] == first
        and len(error.strip().splitlines()) == 2
        and "Traceback" not in notebook.text(0)
        and notebook.output(0).locator(FACES).count() == 0
        and not notebook.has_run(1)
    )


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────────────


def test_the_code_is_large_and_the_link_opens_a_tab_of_its_own(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + "lab.login()")
    code = code_of(notebook)
    size = "element => parseFloat(getComputedStyle(element).fontSize)"
    assert code.evaluate(size) > 1.8 * notebook.output(0).locator(".loginonce-status").evaluate(size)
    code.click(click_count=2)  # the whole code is one word, for whoever copies it
    assert notebook.page.evaluate("getSelection().toString()").strip() == code.inner_text()
    left = notebook.output(0).locator(".loginonce-left")
    before = left.inner_text()
    expect(left).not_to_have_text(before)
    assert notebook.page.evaluate("getSelection().toString()").strip() == code.inner_text()
    link = notebook.output(0).locator(".loginonce-link")
    assert link.get_attribute("target") == "_blank"
    assert "noopener" in (link.get_attribute("rel") or "")
    plate = notebook.output(0).get_by_role("img", name="QR code")
    box = plate.bounding_box()
    assert box is not None
    assert box["width"] == box["height"] >= 100
    assert plate.evaluate("element => getComputedStyle(element).backgroundColor") == "rgb(255, 255, 255)"
    notebook.screenshot("login-pending", 0)


@pytest.mark.parametrize("ask", ["lab.login()", "await lab.login_async()"])
def test_a_login_that_is_there_is_one_quiet_line(
    lab: Lab, provider: FakeProvider, made: str, elsewhere: loginonce.Session, ask: str
) -> None:
    elsewhere.login(tokens=provider.issue())
    notebook = begin(lab, made + ask, call(provider))
    notebook.wait_text(1, "called: 200")
    assert is_quiet_line(notebook)
    assert notebook.output(0).locator(".jp-OutputArea-child").count() == 1


def test_a_refusal_ends_the_wait_in_two_lines_and_nothing_runs(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider))
    code_of(notebook)
    decide(notebook.click_link(0, provider.issuer), "Deny")
    assert ends_in_two_lines(notebook, "LoginFailed: the sign-in was denied at the provider")


def test_an_interrupt_ends_an_awaited_sign_in(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + "await lab.login_async()", call(provider))
    code_of(notebook)
    notebook.interrupt()
    assert ends_in_two_lines(notebook, "LoginFailed: the sign-in was cancelled")


def test_a_call_without_a_login_ends_in_two_lines(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + call(provider), "print('never')")
    assert ends_in_two_lines(notebook, f"LoginRequired: nobody is signed in to {provider.issuer} (client notebook)")
    assert "Call .login() on the session" in notebook.text(0)


def test_a_network_problem_is_told_and_outlasted(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider))
    code = code_of(notebook).inner_text()
    provider.stop()
    notebook.wait_text(0, "Network problem, still trying")
    assert code in notebook.text(0)
    provider.start()
    provider.approve(code)
    notebook.wait_text(1, "called: 200")


# ── with others ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_notebook_shows_the_same_code_and_one_approval_ends_both(
    lab: Lab, provider: FakeProvider, made: str
) -> None:
    first = begin(lab, made + "lab.login()", call(provider))
    code = code_of(first).inner_text()
    second = begin(lab, made + "lab.login()", call(provider), kernel="ipykernel-6.31")
    second.wait_text(0, "already pending in another notebook")
    assert code_of(second).inner_text() == code
    link = ".loginonce-link"
    assert second.output(0).locator(link).get_attribute("href") == first.output(0).locator(link).get_attribute("href")
    second.screenshot("login-elsewhere", 0)
    decide(second.click_link(0, provider.issuer), "Allow")
    for notebook in (first, second):
        notebook.wait_text(1, "called: 200", seconds=MOMENT)
        assert is_quiet_line(notebook)
    assert len({event.fingerprint for event in provider.log if event.kind == "api"}) == 1  # one login for both


def test_a_sign_in_in_a_terminal_ends_the_prompt(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider))
    shown = code_of(notebook).inner_text()
    command = ["login", "--issuer", provider.issuer, "--client-id", "notebook", "--scope", "openid offline_access"]
    with subprocess.Popen(
        [sys.executable, "-m", "loginonce.cli", *command, "--flow", "device", "--json"],
        env=os.environ | {"LOGINONCE_HOME": str(lab.server.logins)},
        stdout=subprocess.PIPE,
        text=True,
    ) as terminal:
        assert terminal.stdout is not None
        asked = next(event for event in map(json.loads, terminal.stdout) if event.get("user_code"))
        assert asked["user_code"] != shown
        provider.approve(asked["user_code"])
        terminal.stdout.read()
    assert terminal.returncode == 0
    notebook.wait_text(1, "called: 200", seconds=MOMENT)
    assert is_quiet_line(notebook)


# ── what is left of it ───────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_a_sign_in_is_left_in_a_notebook_or_a_log(
    lab: Lab, provider: FakeProvider, made: str, canaries: Canaries
) -> None:
    notebook = begin(lab, made + "lab.login()", call(provider))
    code = code_of(notebook).inner_text()
    notebook.save()
    canaries.add("user_code", code)
    assert canaries.found_in(notebook.path.read_text()) == {"user_code"}  # while it is asked for
    provider.approve(code)
    notebook.wait_text(1, "called: 200")
    notebook.save()
    assert {"access_token", "refresh_token", "id_token", "device_code", "user_code"} <= canaries.kinds
    assert {name: found for name, text in lab.traces().items() if (found := canaries.found_in(text))} == {}
    assert not any("user_code=" in text for text in lab.traces().values())


def test_a_page_that_is_loaded_anew_while_a_cell_asks_goes_on_asking(
    lab: Lab, provider: FakeProvider, made: str
) -> None:
    notebook = begin(lab, made + "lab.login()", "print(lab.account.name)")
    code = code_of(notebook).inner_text()
    notebook.save()
    notebook.reload()
    assert code_of(notebook).inner_text() == code
    provider.approve(code)
    notebook.wait_until_idle()  # the cell has ended
    notebook.run(1)
    notebook.wait_text(1, "Ada Lovelace")
