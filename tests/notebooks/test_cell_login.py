"""`login("device")` in the first cell of a real notebook, on each kernel."""

from __future__ import annotations

import pytest
from lab import Lab, Notebook
from playwright.sync_api import expect

from loginonce.testing import FakeProvider

AFTERWARDS = "print('called:', lab.get(api).status_code, lab.account)"


def sign_in(provider: FakeProvider) -> str:
    return (
        "import loginonce\n"
        f"lab = loginonce.Session({provider.issuer!r}, client_id={provider.public_client_id!r},\n"
        "                        scope='openid offline_access')\n"
        f"api = {provider.api('/runs')!r}\n"
        "lab.login('device')"
    )


@pytest.fixture
def asking(lab: Lab, kernel: str, fake_provider: FakeProvider) -> Notebook:
    """A notebook under Run All, whose first cell waits for the person."""
    notebook = lab.open(sign_in(fake_provider), AFTERWARDS, kernel=kernel)
    notebook.run_all()
    notebook.wait_text(0, "Check that the page shows the same code")
    return notebook


def test_run_all_waits_for_the_approval_and_goes_on(asking: Notebook, kernel: str) -> None:
    assert asking.is_running(0)
    assert not asking.has_run(1)
    tab = asking.click_link(0, "/device")
    expect(tab.get_by_role("heading")).to_have_text("Connect a device")
    code = tab.locator("b").first.inner_text()
    assert code in asking.text(0)
    tab.get_by_role("button", name="Allow").click()
    expect(tab.get_by_role("status")).to_contain_text("signed in")
    asking.wait_text(1, "called: 200 Ada Lovelace")
    asking.screenshot(f"login-{kernel}")


def test_an_interrupt_ends_the_wait_in_two_lines_and_nothing_runs(asking: Notebook) -> None:
    asking.interrupt()
    asking.wait_text(0, "LoginFailed: the sign-in was cancelled")
    asking.wait_finished(0)
    asking.wait_until_idle()
    lines = asking.text(0).splitlines()
    assert lines[-2:] == ["LoginFailed: the sign-in was cancelled", "Begin again to retry."]
    assert "Traceback" not in asking.text(0)
    assert not asking.has_run(1)


def test_a_refusal_ends_the_wait_in_two_lines_and_nothing_runs(asking: Notebook) -> None:
    asking.click_link(0, "/device").get_by_role("button", name="Deny").click()
    asking.wait_text(0, "LoginFailed: the sign-in was denied at the provider")
    asking.wait_finished(0)
    asking.wait_until_idle()
    assert "Traceback" not in asking.text(0)
    assert not asking.has_run(1)
