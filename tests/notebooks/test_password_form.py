"""Signing in by a user name and a password in a real notebook: in the cell's prompt, and in the card."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab import Lab, Notebook
from playwright.sync_api import expect

from canaries import PASSWORD, Canaries
from loginonce.testing import FakeProvider

MOMENT = 10_000.0
"""Milliseconds for what takes one or two seconds on an idle machine."""


@pytest.fixture
def provider(canaries: Canaries, fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    return fake_provider_factory(users={"ada": PASSWORD})


@pytest.fixture
def shop(provider: FakeProvider) -> str:
    """What a notebook makes its session by."""
    return f"import loginonce\nshop = loginonce.Session({provider.issuer!r}, backend={provider.backend!r})\n"


def nothing_is_left(notebook: Notebook, canaries: Canaries, *, by_widget: bool = False) -> None:
    """Neither in the saved notebook nor elsewhere.

    A kernel at DEBUG logs what its front end sends it: by a widget that is the password, too.
    """
    notebook.save()
    assert {"access_token", "refresh_token", "password"} <= canaries.kinds
    found = {name: canaries.found_in(text) for name, text in notebook.lab.traces().items()}
    at_debug = {"password"} if by_widget else set()
    assert found.pop("the log") <= at_debug
    assert {name for name, kinds in found.items() if kinds - (at_debug if name == "server.log" else set())} == set()


def typed(notebook: Notebook, n: int, text: str) -> None:
    """Answer the question that stands below a cell."""
    line = notebook.output(n).locator("input.jp-Stdin-input:visible")
    expect(line).to_have_count(1, timeout=MOMENT)
    this = line.element_handle()
    assert this is not None
    this.fill(text)
    this.press("Enter")
    this.wait_for_element_state("hidden")  # or the next question's answer would go into this one


def test_a_cell_asks_for_name_and_password(
    lab: Lab, provider: FakeProvider, shop: str, canaries: Canaries, kernel: str
) -> None:
    notebook = lab.open(shop + "shop.login()", f"shop.get({provider.api('/runs')!r}).status_code", kernel=kernel)
    notebook.run_all()
    notebook.wait_text(0, "Enter your user name and password")
    typed(notebook, 0, "ada")
    password = notebook.output(0).locator("input.jp-Stdin-input[type=password]:visible")
    expect(password).to_be_visible(timeout=MOMENT)
    notebook.screenshot("password-in-a-cell", 0)
    typed(notebook, 0, "wrong")
    notebook.wait_text(0, "bad_credentials")
    typed(notebook, 0, "ada")
    expect(password).to_be_visible(timeout=MOMENT)
    typed(notebook, 0, PASSWORD)
    notebook.wait_text(0, "Signed in as Ada Lovelace")
    notebook.wait_text(1, "200")
    nothing_is_left(notebook, canaries)


def test_a_card_has_fields_for_name_and_password(
    lab: Lab, provider: FakeProvider, shop: str, canaries: Canaries
) -> None:
    show = "import loginonce.notebook\ncard = loginonce.notebook.LoginWidget(shop)\ncard"
    notebook = lab.open(shop + show, f"shop.get({provider.api('/runs')!r}).status_code")
    notebook.run(0)
    card = notebook.output(0)
    card.get_by_role("button", name="Sign in").click(timeout=45_000)
    name, password = card.get_by_placeholder("user name"), card.get_by_placeholder("password")
    expect(password).to_be_visible(timeout=MOMENT)
    expect(password).to_have_attribute("type", "password")
    name.fill("ada")
    password.fill("wrong")
    password.press("Enter")
    expect(card).to_contain_text("bad_credentials", timeout=MOMENT)
    expect(password).to_have_value("")
    notebook.screenshot("password-in-a-card", 0)
    password.fill(PASSWORD)
    password.press("Enter")
    expect(card).to_contain_text("Signed in as Ada Lovelace", timeout=MOMENT)
    expect(password).not_to_be_visible()
    expect(name).not_to_be_visible()
    notebook.run(1)
    notebook.wait_text(1, "200")
    nothing_is_left(notebook, canaries, by_widget=True)
