"""What a sign-in looks like in a notebook."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
import segno

from loginonce.errors import ErrorResponse, LoginFailed, LoginRequired
from loginonce.login.flow import Progress, Prompt
from loginonce.model import Account, Grant, GrantKey, Secret, TokenSet
from loginonce.notebook import html

NOW = 1_800_000_000.0
ISSUER = "https://id.example.org/realms/lab"
ADA = Account(ISSUER, "ada", "Ada Lovelace", NOW + 2400, renews=True)

DEVICE = Prompt(
    "device", ISSUER, "notebook", f"{ISSUER}/device", NOW + 581, "WDJB-MJHT", f"{ISSUER}/device?user_code=WDJB-MJHT"
)
BROWSER = Prompt("browser", ISSUER, "notebook", f"{ISSUER}/auth?state=x", NOW + 581)
PASTE = Prompt("paste", ISSUER, "notebook", f"{ISSUER}/auth?state=x", NOW + 581)
GRANT = Grant(
    GrantKey(ISSUER, "notebook"),
    1,
    refresh_token=Secret("r"),
    tokens=(TokenSet(Secret("a"), NOW - 1200, NOW + 2400),),
    scope="openid offline_access",
)


class Page(HTMLParser):
    """The elements and the visible words of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.balanced = True
        self.words = ""
        self.feed(text)
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, **wanted: str) -> list[dict[str, str | None]]:
        names = {name.rstrip("_"): value for name, value in wanted.items()}
        return [found for _, found in self.elements if names.items() <= found.items()]


def shown(text: str) -> str:
    return Page(text).words


EVERYTHING = {
    "device": html.prompt(Progress("pending", DEVICE)),
    "elsewhere": html.prompt(Progress("elsewhere", DEVICE)),
    "browser": html.prompt(Progress("pending", BROWSER), field=True),
    "paste": html.prompt(Progress("pending", PASTE)),
    "waiting": html.status(Progress("pending", DEVICE), NOW),
    "retrying": html.status(Progress("retrying", DEVICE, detail="no route"), NOW),
    "signed in": html.signed_in(ADA),
    "denied": html.failed(LoginFailed("it was denied", outcome="denied", hint="Begin again."), DEVICE),
    "over": html.over(LoginRequired("it has run out", hint="Call .login().")),
    "nobody": html.nobody(ISSUER, "Call .login()."),
    "trouble": html.trouble(LoginFailed("no"), "Not renewed"),
    "standing": html.standing(ADA, GRANT, "", NOW),
}


def test_a_code_is_shown_with_its_link_its_application_and_what_to_compare() -> None:
    page = Page(EVERYTHING["device"])
    for piece in ("id.example.org/realms/lab", "notebook", f"{ISSUER}/device", "WDJB-MJHT", "Check that"):
        assert piece in page.words
    (link,) = page.all(class_="loginonce-link")
    assert link["href"] == DEVICE.url_complete


def test_the_code_can_be_selected_as_a_whole_and_holds_nothing_else() -> None:
    (element,) = Page(EVERYTHING["device"]).all(class_="loginonce-code")
    style = [part.strip() for part in (element["style"] or "").split(";")]
    assert {"user-select: all", "-webkit-user-select: all"} <= set(style)
    assert re.search(r'class="loginonce-code"[^>]*>WDJB-MJHT</div>', EVERYTHING["device"])


def test_a_link_whose_code_is_filled_in_elsewhere_says_where_it_leads() -> None:
    prompt = Prompt("device", ISSUER, "notebook", "https://a.org/go", NOW, "C", "https://b.org/go?user_code=C")
    assert "https://b.org/go?user_code=C" in shown(html.prompt(Progress("pending", prompt)))


def test_a_link_without_the_code_says_to_enter_it() -> None:
    prompt = Prompt("device", ISSUER, "notebook", f"{ISSUER}/device", NOW, "WDJB-MJHT")
    assert "Enter this code" in shown(html.prompt(Progress("pending", prompt)))


def test_the_qr_code_is_that_of_the_link() -> None:
    expected = segno.make(DEVICE.url_complete, error="m", micro=False).svg_inline(
        dark="#161616", border=0, omitsize=True
    )
    assert expected in EVERYTHING["device"]
    (plate,) = Page(EVERYTHING["device"]).all(class_="loginonce-qr")
    assert plate["role"] == "img"
    assert plate["aria-label"]
    assert "background: #fff" in (plate["style"] or "")


@pytest.mark.parametrize("kind", ["browser", "paste"])
def test_only_a_device_code_has_a_qr_code(kind: str) -> None:
    assert "loginonce-qr" not in EVERYTHING[kind]


def test_without_segno_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    text = html.prompt(Progress("pending", DEVICE))
    assert "loginonce-qr" not in text
    assert shown(text) == shown(EVERYTHING["device"])


def test_a_link_that_is_longer_than_a_qr_code_can_be_is_shown_without_one() -> None:
    prompt = Prompt("device", ISSUER, "notebook", f"{ISSUER}/?{'x' * 9000}", NOW, "C")
    assert "loginonce-qr" not in html.prompt(Progress("pending", prompt))


def test_another_programs_prompt_says_that_it_is_one() -> None:
    assert "already pending in another notebook" in shown(EVERYTHING["elsewhere"])
    assert "already pending" not in shown(EVERYTHING["device"])


def test_it_says_where_the_address_of_the_last_page_goes() -> None:
    assert "nothing will appear" in shown(EVERYTHING["paste"])
    assert "paste it below" in shown(html.prompt(Progress("pending", PASTE), field=True))
    assert "comes back by itself" in shown(EVERYTHING["browser"])
    assert "Copy" not in shown(html.prompt(Progress("pending", BROWSER)))


def test_the_time_left_and_how_to_end_it_are_told() -> None:
    assert "Waiting · 9:41 left · interrupt ■ to cancel" in shown(EVERYTHING["waiting"])
    assert "interrupt" not in shown(html.status(Progress("pending", DEVICE), NOW, how=""))


@pytest.mark.parametrize(
    ("seconds", "expected"), [(581.9, "9:41"), (5, "0:05"), (0, "0:00"), (-3, "0:00"), (3729, "1:02:09")]
)
def test_seconds_are_told_as_a_clock_does(seconds: float, expected: str) -> None:
    assert html.left(seconds) == expected


def test_a_network_problem_is_told_with_its_reason() -> None:
    assert "Network problem, still trying" in shown(EVERYTHING["retrying"])
    assert "no route" in shown(EVERYTHING["retrying"])


def test_only_a_change_of_state_is_announced() -> None:
    for state in ("pending", "retrying"):
        progress = Progress(state, DEVICE)  # type: ignore[arg-type]
        assert Page(html.status(progress, NOW)).all(role="status")
        assert not Page(html.status(progress, NOW, announce=False)).all(role="status")
        (clock,) = Page(html.status(progress, NOW)).all(class_="loginonce-left")
        assert (clock["role"], clock["aria-live"]) == ("timer", "off")
    assert not Page(html.signed_in(ADA, announce=False)).all(role="status")


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "standing"])
def test_each_new_state_is_announced(name: str) -> None:
    assert Page(EVERYTHING[name]).all(role="status")


def test_who_is_signed_in_takes_one_line() -> None:
    assert shown(EVERYTHING["signed in"]) == f"✓Signed in as Ada Lovelace · {ADA.standing}"
    assert re.fullmatch(r"token until \d\d:\d\d · renews itself", ADA.standing)
    assert "<strong>Ada Lovelace</strong>" in EVERYTHING["signed in"]


def test_an_account_without_a_name_or_an_end_is_shown_as_well() -> None:
    assert shown(html.signed_in(Account(ISSUER, ""))) == "✓Signed in as (no name given)"


def test_a_sign_in_that_failed_says_why_and_what_next_and_offers_the_paste_way() -> None:
    words = shown(EVERYTHING["denied"])
    assert "It was denied" in words
    assert "Begin again." in words
    assert '.login(flow="paste")' in words


def test_what_the_error_below_says_is_not_said_twice() -> None:
    error = LoginFailed("it was denied", outcome="denied", hint="Begin again.")
    words = shown(html.failed(error, DEVICE, told=True))
    assert "denied" not in words
    assert "Begin again" not in words
    assert "did not succeed" in words
    assert ".login(flow=" in words


@pytest.mark.parametrize(
    ("error", "prompt", "offered"),
    [
        (LoginFailed("x", outcome="timed_out"), DEVICE, True),
        (LoginFailed("x", outcome="rejected"), DEVICE, True),
        (LoginFailed("x", outcome="cancelled"), DEVICE, False),
        (LoginFailed("x", outcome="denied"), PASTE, False),
        (LoginFailed("x", outcome="no_human"), None, False),
        (ErrorResponse("x", error="unauthorized_client"), None, True),
        (ErrorResponse("x", error="invalid_scope"), None, False),
    ],
)
def test_the_paste_way_is_offered_where_device_codes_did_not_help(
    error: Exception, prompt: Prompt | None, offered: bool
) -> None:
    assert ("flow=" in shown(html.failed(error, prompt))) == offered


def test_an_error_that_is_not_ours_shows_only_its_name() -> None:
    assert shown(html.failed(RuntimeError("canary"))) == "\N{EN DASH}RuntimeError, see the log"


def test_a_login_that_is_over_says_why_and_what_to_call() -> None:
    assert "Not signed in: it has run out" in shown(EVERYTHING["over"])
    assert "Call .login()." in shown(EVERYTHING["over"])


def test_the_bar_is_as_long_as_the_time_that_is_left() -> None:
    assert "width: 67%" in EVERYTHING["standing"]
    assert "40 min left" in shown(EVERYTHING["standing"])
    assert "offline_access openid" in shown(EVERYTHING["standing"])
    assert "width: 0%" in html.standing(ADA, GRANT, "", NOW + 9999)
    assert "width: 100%" in html.standing(ADA, GRANT, "", NOW - 9999)


def test_a_token_without_an_end_has_no_bar() -> None:
    grant = Grant(GRANT.key, 1, tokens=(TokenSet(Secret("a"), NOW),))
    assert "width" not in html.standing(ADA, grant, "", NOW)


# ── what a server says stays text ────────────────────────────────────────────────────────────────────────

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\n"


def every_word_from(text: str) -> list[str]:
    """Each piece of HTML with that text in each place where a server's text can be."""
    key = GrantKey(text, text)
    who = Account(text, text, text, NOW + 9, renews=True)
    prompt = Prompt("device", text, text, f"https://a.org/{text}", NOW, text, f"https://a.org/?{text}")
    return [
        html.prompt(Progress("pending", prompt)),
        html.prompt(Progress("elsewhere", Prompt("device", text, text, text, NOW, text, text))),
        html.prompt(Progress("pending", Prompt("paste", text, text, f"https://a.org/{text}", NOW))),
        html.status(Progress("retrying", prompt, detail=text), NOW),
        html.signed_in(who),
        html.failed(LoginFailed(text, hint=text), prompt),
        html.over(LoginRequired(text, hint=text)),
        html.trouble(LoginFailed(text), text),
        html.nobody(text, text),
        html.standing(who, Grant(key, 1, scope=text, tokens=(TokenSet(Secret("a"), NOW, NOW + 9),)), "", NOW),
        who._repr_html_(),
    ]


@pytest.mark.parametrize("at", range(len(every_word_from(""))))
def test_nothing_a_server_says_becomes_an_element_or_an_attribute(at: int) -> None:
    def skeleton(text: str) -> list[Any]:
        return [(tag, sorted(found)) for tag, found in Page(text).elements if tag not in ("path", "svg")]

    evil, plain = every_word_from(EVIL)[at], every_word_from("word")[at]
    assert Page(evil).balanced
    tags = {tag for tag, _ in Page(evil).elements}
    assert tags <= {tag for tag, _ in Page(plain).elements} | {"span"}
    assert not [name for _, names in skeleton(evil) for name in names if name.startswith("on") or name == "src"]
    assert "alert(1)" in Page(evil).words or not re.search("word", shown(plain))


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JAVASCRIPT:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//a.org",
        "https:",
        "http://[",
        "https://a.org/\u202e",
        "https://a.org/\n",
        "",
    ],
)
def test_only_addresses_of_the_web_become_links(url: str) -> None:
    assert "href" not in html.link(url, "here")
    assert "here" in html.link(url, "here")


@pytest.mark.parametrize("url", ["https://a.org/?a=1&b=2", "http://127.0.0.1:8080/device"])
def test_a_link_opens_a_tab_of_its_own_that_knows_nothing_of_this_one(url: str) -> None:
    (link,) = Page(html.link(url)).all(href=url)
    assert link["target"] == "_blank"
    assert "noopener" in (link["rel"] or "")


@pytest.mark.parametrize("name", EVERYTHING)
def test_colours_are_those_of_the_theme_but_for_the_qr_code(name: str) -> None:
    text = re.sub(r'<div class="loginonce-qr".*?</svg></div>', "", EVERYTHING[name])
    assert not re.search(r"#[0-9a-fA-F]{3}|rgb|hsl", text)
    assert all("inherit" in found or "currentColor" in found for found in re.findall(r"color: (var\(.*?\)\))", text))


@pytest.mark.parametrize("name", EVERYTHING)
def test_it_is_well_formed_and_needs_no_style_sheet_or_script(name: str) -> None:
    page = Page(EVERYTHING[name])
    assert page.balanced
    assert not {tag for tag, _ in page.elements} & {"style", "script", "link", "iframe", "form"}
