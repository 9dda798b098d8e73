"""The card with buttons in a real notebook, in Notebook 7 and in Voila: everything goes by clicks."""

from __future__ import annotations

import re
import time

import pytest
import requests
from lab import Lab, Notebook
from playwright.sync_api import Locator, Page, expect

import loginonce
from canaries import Canaries
from loginonce.testing import FakeProvider, Fault

MOMENT = 10_000.0
"""Milliseconds for what takes one or two seconds on an idle machine."""

FOLLOWS_IN = 3.0
"""Seconds in which a card shows what another program did; half a second and less on an idle machine."""

SHOW = "import loginonce.notebook\ncard = loginonce.notebook.LoginWidget(lab)\ncard"
FACES = ".loginonce-link, .loginonce-code, .loginonce-qr, .loginonce-left"


class Card:
    """A card on a page."""

    def __init__(self, place: Locator) -> None:
        self.place = place

    def button(self, name: str) -> Locator:
        return self.place.get_by_role("button", name=name)

    def click(self, name: str) -> None:
        self.button(name).click(timeout=45_000)

    def shows(self, text: str | re.Pattern[str]) -> None:
        expect(self.place).to_contain_text(text, timeout=MOMENT)

    def has(self, *buttons: str) -> None:
        """These are the buttons to be seen, in this order."""
        expect(self.place.locator("button:visible")).to_have_text(list(buttons), timeout=MOMENT)

    def is_over(self) -> None:
        """Nobody is asked any more."""
        expect(self.place.locator(FACES)).to_have_count(0, timeout=MOMENT)
        expect(self.field).not_to_be_visible()

    @property
    def code(self) -> str:
        code = self.place.locator(".loginonce-code")
        expect(code).to_be_visible(timeout=MOMENT)
        return code.inner_text()

    @property
    def link(self) -> Locator:
        return self.place.locator(".loginonce-link")

    @property
    def field(self) -> Locator:
        return self.place.get_by_placeholder("paste the whole address")


def shown(lab: Lab, made: str, *more: str) -> tuple[Notebook, Card]:
    """A notebook with a card below its first cell."""
    notebook = lab.open(made + SHOW, *more)
    notebook.run(0)
    card = Card(notebook.output(0))
    expect(card.place.locator("button:visible").first).to_be_visible(timeout=45_000)
    return notebook, card


def answer_of(provider: FakeProvider, link: str) -> str:
    """The address at which the person's browser ends where it cannot reach the kernel's machine."""
    with requests.Session() as browser:
        browser.trust_env = False
        form = {"username": "ada", "password": provider.users["ada"], "decision": "approve"}
        return browser.post(link, data=form, allow_redirects=False, timeout=10).headers["Location"]


@pytest.fixture
def without_codes(provider: FakeProvider) -> FakeProvider:
    """It offers no device codes."""
    with requests.Session() as browser:
        browser.trust_env = False
        offers = browser.get(f"{provider.issuer}/.well-known/oauth-authorization-server", timeout=10).json()
    del offers["device_authorization_endpoint"]
    provider.faults.add(Fault.answer(offers), where="discovery", times=None)
    return provider


# ── what the buttons do ──────────────────────────────────────────────────────────────────────────────────


def test_a_click_asks_and_the_approval_signs_in(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook, card = shown(lab, made, f"lab.get({provider.api('/runs')!r}).status_code")
    card.shows("Not signed in")
    card.has("Sign in")
    card.click("Sign in")
    code = card.code
    card.has("Cancel")
    expect(card.field).not_to_be_visible()
    tab = notebook.click_link(0, provider.issuer)
    expect(tab.locator("b").first).to_have_text(code)
    tab.get_by_role("button", name="Allow").click()
    expect(tab.get_by_role("status")).to_be_visible()
    tab.close()
    card.shows("Signed in as Ada Lovelace")
    card.is_over()
    card.has("Renew now", "Switch account", "Sign out")
    notebook.run(1)
    notebook.wait_text(1, "200")


def test_a_click_cancels_what_is_pending(lab: Lab, made: str) -> None:
    _, card = shown(lab, made)
    card.click("Sign in")
    assert card.code
    card.click("Cancel")
    card.has("Sign in")
    card.is_over()


def test_clicks_renew_switch_and_sign_out(
    lab: Lab, provider: FakeProvider, made: str, elsewhere: loginonce.Session
) -> None:
    elsewhere.login(tokens=provider.issue())
    notebook, card = shown(lab, made)
    card.click("Renew now")
    while provider.stats.refreshes == 0:
        notebook.page.wait_for_timeout(50)
    card.click("Switch account")
    provider.approve(card.code, user="grace")
    card.shows("Signed in as Grace Hopper")
    card.is_over()
    card.click("Sign out")
    card.shows("Not signed in")
    assert elsewhere.account is None
    card.has("Sign in")


def test_a_card_needs_no_click_while_a_cell_runs(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook, card = shown(lab, made, "import time\nwhile lab.account is None: time.sleep(0.05)\nprint(lab.account)")
    card.click("Sign in")
    code = card.code
    notebook.run(1)
    left = card.place.locator(".loginonce-left").inner_text()
    expect(card.place.locator(".loginonce-left")).not_to_have_text(left)
    provider.approve(code)
    notebook.wait_text(1, "Ada Lovelace")
    card.is_over()


# ── a provider without device codes ──────────────────────────────────────────────────────────────────────


def test_the_browser_that_comes_back_signs_in(lab: Lab, without_codes: FakeProvider, made: str) -> None:
    notebook, card = shown(lab, made)
    card.click("Sign in")
    expect(card.field).to_be_visible(timeout=MOMENT)
    tab = notebook.click_link(0, re.compile("Sign in at|http"))
    tab.get_by_role("button", name="Allow").click()
    card.shows("Signed in as Ada Lovelace")
    card.is_over()
    assert tab.url.startswith("http://127.0.0.1:")
    assert not tab.url.startswith(without_codes.issuer)


def test_a_pasted_address_signs_in_and_a_wrong_one_is_told(
    lab: Lab, without_codes: FakeProvider, made: str, canaries: Canaries
) -> None:
    notebook, card = shown(lab, made)
    card.click("Sign in")
    link = card.link.get_attribute("href", timeout=MOMENT) or ""
    card.field.fill("https://example.org/?code=made-up&state=made-up")
    card.field.press("Enter")
    card.shows("That was not it; the sign-in goes on")
    expect(card.field).to_have_value("")
    card.field.fill(answer_of(without_codes, link))
    card.field.press("Enter")
    card.shows("Signed in as Ada Lovelace")
    card.is_over()
    notebook.save()
    secrets = {"access_token", "refresh_token", "id_token", "code_verifier"}
    assert secrets <= canaries.kinds
    # A kernel at DEBUG logs what it was sent, the pasted code too: it is spent, and no use without the verifier.
    found = {kind for text in lab.traces().values() for kind in canaries.found_in(text)}
    assert found <= {"code"}
    assert "code_challenge" not in notebook.path.read_text()


# ── with others ──────────────────────────────────────────────────────────────────────────────────────────

WATCHES = """(text) => {
  window.shown = new Promise((resolve) => {
    const look = () => {
      const place = document.querySelector(".jp-OutputArea-output .jupyter-widgets");
      if (place && place.innerText.includes(text)) { observer.disconnect(); resolve(Date.now() / 1000); }
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, { subtree: true, childList: true, characterData: true });
    look();
  });
}"""


def test_two_cards_follow_within_a_moment_whoever_signs_in_or_out(
    lab: Lab, provider: FakeProvider, made: str, elsewhere: loginonce.Session
) -> None:
    cards = [shown(lab, made), shown(lab, made)]
    for act, text in (
        (lambda: elsewhere.login(tokens=provider.issue()), "Signed in as Ada Lovelace"),
        (elsewhere.logout, "Not signed in"),
    ):
        for notebook, _ in cards:
            notebook.page.evaluate(WATCHES, text)
        act()
        done = time.time()
        took = [notebook.page.evaluate("window.shown") - done for notebook, _ in cards]
        print(f"{text!r} was shown after", *(f"{seconds:.2f} s" for seconds in took))
        assert max(took) < FOLLOWS_IN


def test_what_is_asked_in_one_card_is_shown_in_the_other(lab: Lab, provider: FakeProvider, made: str) -> None:
    _, first = shown(lab, made)
    _, second = shown(lab, made)
    first.click("Sign in")
    code = first.code
    second.click("Sign in")
    second.shows("already pending in another notebook")
    assert second.code == code
    provider.approve(code)
    for card in (first, second):
        card.shows("Signed in as Ada Lovelace")
        card.is_over()


# ── what is left of it ───────────────────────────────────────────────────────────────────────────────────


def test_closing_leaves_one_line_on_the_page_and_in_the_notebook(
    lab: Lab, provider: FakeProvider, made: str, canaries: Canaries
) -> None:
    notebook, card = shown(lab, made, "card.close()")
    card.click("Sign in")
    canaries.add("user_code", card.code)
    notebook.run(1)
    notebook.wait_finished(1)
    card.is_over()
    expect(card.place.locator("button")).to_have_count(0)
    card.shows("Not signed in")
    saved = notebook.save()
    (output,) = saved["cells"][0]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert {"device_code", "user_code"} <= canaries.kinds
    assert {name: found for name, text in lab.traces().items() if (found := canaries.found_in(text))} == {}


def test_a_card_that_is_open_saves_no_code(lab: Lab, made: str, canaries: Canaries) -> None:
    notebook, card = shown(lab, made)
    card.click("Sign in")
    canaries.add("user_code", card.code)
    assert "loginonce-code" not in str(notebook.save())
    assert canaries.found_in(notebook.path.read_text()) == set()


def test_a_page_that_is_loaded_anew_shows_the_card_as_it_is(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook, card = shown(lab, made)
    card.click("Sign in")
    code = card.code
    notebook.save()
    notebook.reload()
    assert card.code == code
    provider.approve(code)
    card.shows("Signed in as Ada Lovelace")
    card.click("Sign out")
    card.shows("Not signed in")


# ── other front ends ─────────────────────────────────────────────────────────────────────────────────────


def sign_in_on(card: Card, provider: FakeProvider) -> None:
    card.click("Sign in")
    provider.approve(card.code)
    card.shows("Signed in as Ada Lovelace")
    card.is_over()


def test_notebook_7_shows_the_card_and_the_prompt(lab: Lab, provider: FakeProvider, made: str) -> None:
    notebook = lab.open(made + SHOW, "lab.logout(); lab.login()", app="notebook")
    notebook.run(0)
    sign_in_on(Card(notebook.output(0)), provider)
    notebook.run(1)
    code = notebook.output(1).locator(".loginonce-code")
    expect(code).to_be_visible(timeout=MOMENT)
    provider.approve(code.inner_text())
    notebook.wait_text(1, "Signed in as Ada Lovelace")


def test_voila_signs_in_from_the_page(lab: Lab, provider: FakeProvider, made: str) -> None:
    page: Page = lab.voila(made + SHOW)
    sign_in_on(Card(page.locator("body")), provider)
