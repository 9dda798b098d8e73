"""The login as a card with buttons."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from kernels import Kernel, Shell, codes, until

import loginonce
from loginonce.environment import Environment
from loginonce.model import GrantKey
from loginonce.notebook import LoginWidget, widget
from loginonce.testing import FakeProvider, Fault

KERNEL = Environment(human=False, browser=False, stdin=False, notebook=True)
"""What a kernel says of itself where nobody types: a click is a person all the same."""


class Card:
    """A card as a person sees it."""

    def __init__(self, card: LoginWidget) -> None:
        self.card = card

    def parts(self) -> list[ipywidgets.Widget]:
        return [part for part in self.card._parts if part.comm is not None and part.layout.display != "none"]

    def text(self) -> str:
        return "\n".join(part.value for part in self.parts() if isinstance(part, ipywidgets.HTML))

    def buttons(self) -> list[str]:
        return [part.description for part in self.parts() if isinstance(part, ipywidgets.Button)]

    def can_paste(self) -> bool:
        return any(isinstance(part, ipywidgets.Password) for part in self.parts())

    def click(self, name: str) -> None:
        (button,) = (part for part in self.parts() if getattr(part, "description", "") == name)
        assert not button.disabled
        button.click()

    def paste(self, address: str) -> None:
        (field,) = (part for part in self.parts() if isinstance(part, ipywidgets.Password))
        field.set_state({"value": address})

    def state(self) -> str:
        """What is saved of it, with all its parts: every trait of each."""
        every = [self.card, *self.card._parts, *(part.layout for part in self.card._parts)]
        return json.dumps([part.get_state() for part in every if part.comm is not None], default=str)


@pytest.fixture
def provider(fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    return fake_provider_factory(device_interval=0.05)


@pytest.fixture
def open_session(provider: FakeProvider, loginonce_home: Path) -> Callable[[], loginonce.Session]:
    return lambda: loginonce.Session(
        provider.issuer, client_id=provider.public_client_id, scope="openid offline_access"
    )


@pytest.fixture
def lab(open_session: Callable[[], loginonce.Session]) -> Iterator[loginonce.Session]:
    with open_session() as lab:
        yield lab


@pytest.fixture
def card(lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    monkeypatch.setattr(widget, "detect", lambda: KERNEL)
    card = LoginWidget(lab)
    yield Card(card)
    card.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("loginonce-card")])


def signed_in(card: Card) -> bool:
    return "Signed in as <strong>Ada Lovelace</strong>" in card.text()


def test_nobody_is_signed_in_at_first(card: Card, provider: FakeProvider) -> None:
    assert "Not signed in" in card.text()
    assert provider.issuer.removeprefix("https://") in card.text()
    assert card.buttons() == ["Sign in"]


def test_a_click_shows_link_and_code_and_the_persons_approval_signs_in(card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    card.click("Sign in")
    until(lambda: "loginonce-code" in card.text())
    assert found[0] in card.text()
    assert "loginonce-left" in card.text()
    assert card.buttons() == ["Cancel"]
    assert "Not signed in" not in card.text()
    assert not card.can_paste()
    provider.approve(found[0])
    until(lambda: signed_in(card))
    until(lambda: card.buttons() == ["Renew now", "Switch account", "Sign out"])
    assert "offline_access" in card.text()
    assert found[0] not in card.state()
    assert "href" not in card.state()


def test_the_time_left_is_counted(card: Card, provider: FakeProvider) -> None:
    card.click("Sign in")
    until(lambda: "loginonce-left" in card.text())
    before = card.text()
    until(lambda: card.text() != before)
    card.click("Cancel")
    until(lambda: card.buttons() == ["Sign in"])


def test_a_cancelled_sign_in_leaves_no_trace(card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    card.click("Sign in")
    until(lambda: "loginonce-code" in card.text())
    card.click("Cancel")
    until(lambda: card.buttons() == ["Sign in"])
    assert found[0] not in card.state()
    assert "cancelled" not in card.text()


def test_a_denied_sign_in_says_so_and_can_be_begun_again(card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    card.click("Sign in")
    until(lambda: found)
    provider.deny(found[0])
    until(lambda: "denied at the provider" in card.text())
    assert found[0] not in card.state()
    card.click("Sign in")
    until(lambda: len(found) == 2)
    assert "denied" not in card.text()
    provider.approve(found[1])
    until(lambda: signed_in(card))


def test_a_second_click_begins_no_second_sign_in(card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    (button,) = (part for part in card.parts() if getattr(part, "description", "") == "Sign in")
    button.click()
    button.click()
    until(lambda: "loginonce-code" in card.text())
    assert len(found) == 1


def test_a_network_problem_is_told_and_ends_nothing(card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    card.click("Sign in")
    until(lambda: found)
    provider.faults.add(Fault.status(503), where="token", times=4)
    until(lambda: "still trying" in card.text())
    assert found[0] in card.text()
    provider.approve(found[0])
    until(lambda: signed_in(card))


def test_signing_out_ends_the_login_for_all(card: Card, lab: loginonce.Session, provider: FakeProvider) -> None:
    lab.login(tokens=provider.issue())
    until(lambda: signed_in(card))
    card.click("Sign out")
    until(lambda: card.buttons() == ["Sign in"])
    assert lab.account is None
    assert "Not signed in" in card.text()


def test_renewing_brings_a_new_token(card: Card, lab: loginonce.Session, provider: FakeProvider) -> None:
    lab.login(tokens=provider.issue())
    until(lambda: "Renew now" in card.buttons())
    before = lab.source.token()
    card.click("Renew now")
    until(lambda: lab.source.token() != before)
    assert provider.stats.refreshes == 1


def test_a_renewal_that_fails_says_why_and_keeps_the_login(
    card: Card, lab: loginonce.Session, provider: FakeProvider
) -> None:
    lab.login(tokens=provider.issue())
    until(lambda: "Renew now" in card.buttons())
    provider.faults.add(Fault.status(503), where="refresh", times=None)
    card.click("Renew now")
    until(lambda: "could not be renewed" in card.text())
    assert signed_in(card)


def test_switching_the_account_asks_although_somebody_is_signed_in(
    card: Card, lab: loginonce.Session, provider: FakeProvider
) -> None:
    lab.login(tokens=provider.issue())
    found = codes(provider)
    until(lambda: "Switch account" in card.buttons())
    card.click("Switch account")
    until(lambda: found and "loginonce-code" in card.text())
    assert signed_in(card)
    provider.approve(found[0], user="grace")
    until(lambda: "Grace Hopper" in card.text() and "Switch account" in card.buttons())


def test_a_login_from_elsewhere_is_seen(
    card: Card, open_session: Callable[[], loginonce.Session], provider: FakeProvider
) -> None:
    with open_session() as other:
        other.login(tokens=provider.issue())
        until(lambda: signed_in(card), seconds=3)
        other.logout()
        until(lambda: "Not signed in" in card.text(), seconds=3)


def test_a_prompt_ends_when_somebody_signs_in_elsewhere(
    card: Card, open_session: Callable[[], loginonce.Session], provider: FakeProvider
) -> None:
    found = codes(provider)
    card.click("Sign in")
    until(lambda: "loginonce-code" in card.text())
    with open_session() as other:
        other.login(tokens=provider.issue())
    until(lambda: signed_in(card) and "Sign out" in card.buttons())
    assert found[0] not in card.state()


def test_a_login_that_was_ended_says_why(card: Card, lab: loginonce.Session, provider: FakeProvider) -> None:
    lab.source.policy = loginonce.Policy(refusal_wait=0.0)
    provider.access_token_lifetime = 1
    lab.login(tokens=provider.issue())
    provider.end_sessions()
    until(lambda: "was ended at the provider" in card.text())
    until(lambda: card.buttons() == ["Sign in"])


def test_the_card_keeps_the_login_fresh(card: Card, lab: loginonce.Session, provider: FakeProvider) -> None:
    provider.access_token_lifetime = 1
    lab.login(tokens=provider.issue())
    until(lambda: provider.stats.refreshes >= 2)


# ── a provider without device codes ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def without_codes(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    monkeypatch.setenv("LOGINONCE_FLOW", "paste")
    return provider


def link_in(card: Card) -> str:
    from html import unescape

    return unescape(card.text().split('href="', 1)[1].split('"', 1)[0])


def test_the_browser_that_comes_back_signs_in(card: Card, without_codes: FakeProvider) -> None:
    card.click("Sign in")
    until(lambda: "loginonce-link" in card.text())
    assert card.can_paste()
    without_codes.approve(link_in(card))
    until(lambda: signed_in(card))
    assert not card.can_paste()


def test_an_address_that_is_pasted_signs_in_too(card: Card, without_codes: FakeProvider) -> None:
    card.click("Sign in")
    until(lambda: "loginonce-link" in card.text())
    link = link_in(card)
    address = answer_of(without_codes, link)
    card.paste("https://example.org/?code=x&state=y")
    assert "the sign-in goes on" in card.text()
    assert card.card._field.value == ""
    card.paste(address)
    assert card.card._field.value == ""
    until(lambda: signed_in(card))
    assert address not in card.state()
    assert link not in card.state()


def answer_of(provider: FakeProvider, link: str) -> str:
    """The address at which a browser ends that cannot reach this machine."""
    from loginonce.testing import browser

    request = browser._request

    def away(url: str, fields: dict[str, str] | None) -> Any:
        if url.startswith(provider.issuer):
            return request(url, fields)
        raise OSError("another machine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "_request", away)
        return provider.approve(link)


@pytest.fixture
def shop(
    provider: FakeProvider, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Card, ipywidgets.Text]]:
    """A card of a JSON back end, and its field for the user name."""
    monkeypatch.setattr(widget, "detect", lambda: KERNEL)
    with loginonce.Session(provider.issuer, backend=provider.backend) as session:
        card = Card(LoginWidget(session))
        yield card, card.card._name
        card.card.close()
        until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("loginonce-card")])


def test_a_name_and_a_password_sign_in(shop: tuple[Card, ipywidgets.Text]) -> None:
    card, name = shop
    assert name not in card.parts()
    card.click("Sign in")
    until(lambda: name in card.parts() and card.can_paste())
    name.set_state({"value": "ada"})
    card.paste("lovelace")
    until(lambda: signed_in(card))
    assert name not in card.parts()
    assert not card.can_paste()
    assert "lovelace" not in card.state()


def test_a_password_without_a_name_goes_nowhere(shop: tuple[Card, ipywidgets.Text], provider: FakeProvider) -> None:
    card, name = shop
    card.click("Sign in")
    until(card.can_paste)
    card.paste("lovelace")
    assert "the user name comes first" in card.text()
    assert "lovelace" not in card.state()
    name.set_state({"value": "ada"})
    card.paste("wrong")
    until(lambda: "bad_credentials" in card.text())
    assert card.buttons() == ["Cancel"]
    card.click("Cancel")
    until(lambda: card.buttons() == ["Sign in"])
    assert name not in card.parts()


def test_what_is_pasted_is_not_echoed_to_other_pages(card: Card) -> None:
    assert card.card._field.trait_metadata("value", "echo_update") is False


# ── what is kept of it ───────────────────────────────────────────────────────────────────────────────────


def test_its_repr_tells_who_is_signed_in_and_nothing_of_its_fields(
    card: Card, lab: loginonce.Session, provider: FakeProvider
) -> None:
    assert repr(card.card) == "<LoginWidget: not signed in>"
    lab.login(tokens=provider.issue())
    assert repr(card.card) == "<LoginWidget: signed in as Ada Lovelace>"


def test_a_front_end_without_widgets_is_shown_how_the_login_stands(card: Card, provider: FakeProvider) -> None:
    card.click("Sign in")
    until(lambda: "loginonce-code" in card.text())
    bundle = card.card._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "Not signed in" in bundle["text/html"]
    assert "loginonce-code" not in str(bundle)


def test_closing_blanks_everything_and_ends_what_is_pending(shell: Shell, card: Card, provider: FakeProvider) -> None:
    found = codes(provider)
    shell.user_ns["card"] = card.card
    cell = shell.run("card")
    assert "application/vnd.jupyter.widget-view+json" in cell.outputs[0]["data"]
    card.click("Sign in")
    until(lambda: "loginonce-code" in card.text())
    sign_in = card.card._sign_in
    assert sign_in is not None
    values = [part for part in card.card._parts if hasattr(part, "value")]
    card.card.close()
    until(lambda: sign_in.done)
    assert [part.value for part in values] == [""] * 5
    assert all(part.comm is None for part in (card.card, *card.card._parts))
    assert "application/vnd.jupyter.widget-view+json" not in cell.outputs[0]["data"]
    assert "Not signed in" in cell.outputs[0]["data"]["text/html"]
    assert found[0] not in str(cell.outputs)
    assert "Not signed in" in shell.run("card").html()


def test_nothing_runs_while_it_is_on_no_page(card: Card, lab: loginonce.Session, provider: FakeProvider) -> None:
    def looks() -> bool:
        return any(thread.name == "loginonce-card" for thread in threading.enumerate())

    assert looks()
    card.card.set_state({"_view_count": 1})
    card.card.set_state({"_view_count": 0})
    until(lambda: not looks())
    lab.login(tokens=provider.issue())
    time.sleep(0.3)
    assert not signed_in(card)
    card.card.set_state({"_view_count": 1})
    until(lambda: signed_in(card))


def test_a_store_that_is_away_is_told_and_comes_back(
    card: Card, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: GrantKey) -> Any:
        raise loginonce.StoreError("the folder is away")

    with monkeypatch.context() as patch:
        patch.setattr(lab.source.store, "stamp", away)
        patch.setattr(lab.source.store, "load", away)
        until(lambda: "the folder is away" in card.text())
    until(lambda: "Not signed in</" not in card.text() and "the folder is away" not in card.text())


@pytest.mark.real
def test_two_kernels_follow_each_other(provider: FakeProvider, loginonce_home: Path, lab: loginonce.Session) -> None:
    made = (
        "import loginonce, loginonce.notebook; "
        f"lab = loginonce.Session({provider.issuer!r}, client_id='notebook', scope='openid offline_access'); "
        "card = loginonce.notebook.LoginWidget(lab); card"
    )
    found = codes(provider)
    with Kernel() as first, Kernel() as second:
        first.run(made), second.run(made)
        first.run("card._buttons['Sign in'].click()")

        def text(kernel: Kernel) -> str:
            return "\n".join(str(state.get("value", "")) for state in kernel.comms.values())

        until(lambda: "loginonce-code" in text(first))
        provider.approve(found[0])
        until(lambda: lab.account)
        began = time.monotonic()
        until(lambda: "Signed in as" in text(first) and "Signed in as" in text(second))
        assert time.monotonic() - began < 3
        assert found[0] not in text(first)
        second.run("card._buttons['Sign out'].click()")
        until(lambda: "Signed in as" not in text(first) + text(second))
        assert not [
            message for kernel in (first, second) for message in kernel.messages if message["msg_type"] == "error"
        ]
