"""Each state of a login in the colours of a real JupyterLab: to be read, to be scanned, and within its column.

The pictures are for people; what a program can judge of them is judged here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab import VIEWPORT, Lab, Notebook, Theme
from playwright.sync_api import expect

from loginonce.testing import FakeProvider

SETUP = """
import os, time
import loginonce, loginonce.notebook
from IPython.display import HTML
from loginonce.errors import LoginFailed, LoginRequired
from loginonce.login.flow import Progress, Prompt
from loginonce.model import Account
from loginonce.notebook import html

now = time.time()
asked = Prompt("device", "https://login.example.org/realms/lab", "notebook", "https://login.example.org/device",
               now + 583, "WDJB-MJHT", "https://login.example.org/device?user_code=WDJB-MJHT")
pasted = Prompt("paste", "https://login.example.org", "notebook",
                "https://login.example.org/authorize?response_type=code&" + "state=s&" * 40, now + 583)
ada = Account("https://login.example.org", "ada", "Ada Lovelace", expires_at=now + 3000, renews=True)

def of(state, prompt=asked, **more):
    progress = Progress(state, prompt, **more)
    return HTML(html.prompt(progress, field=False) + html.status(progress, now))

def ended(outcome, why, hint):
    return HTML(html.failed(LoginFailed(why, outcome=outcome, hint=hint), asked))
"""
STATES = {
    "pending": "of('pending')",
    "retrying": "of('retrying', detail='login.example.org: the connection was refused')",
    "elsewhere": "of('elsewhere')",
    "pasting": "of('pending', pasted)",
    "begun": "HTML(html.begun())",
    "signed-in": "HTML(html.signed_in(ada))",
    "denied": "ended('denied', 'the sign-in was denied at the provider', 'Begin again to retry.')",
    "timed-out": "ended('timed_out', 'nobody confirmed the sign-in in time', 'Begin again to retry.')",
    "over": "HTML(html.over(LoginRequired('the login for https://login.example.org (client notebook) was ended at the '"
    " 'provider', reason='ended', hint='Call .login() on the session, or run in a terminal: loginonce login')))",
    "nobody": "HTML(html.nobody('https://login.example.org', 'Run this cell to sign in.'))",
    "no-human": "raise LoginFailed('a sign-in is needed, and nobody is here to do it', outcome='no_human',"
    " hint='Run in a terminal: loginonce login --issuer https://login.example.org')",
}
CARDS = {
    "card-signed-out": "",
    "card-signed-in": "lab.login(tokens=tokens)",
    "card-pending": "card._begin(force=False)",
    "card-pasting": "os.environ['LOGINONCE_FLOW'] = 'paste'\ncard._begin(force=False)",
}


@pytest.fixture
def gallery(lab: Lab, provider: FakeProvider) -> Iterator[Notebook]:
    """A notebook with each state below a cell of its own, in the order of `STATES` and `CARDS`."""
    made = (
        f"lab = loginonce.Session({provider.issuer!r}, client_id='notebook', scope='openid offline_access',\n"
        "                        store=loginonce.MemoryStore())\n"
        "card = loginonce.notebook.LoginWidget(lab)\n"
    )
    cards = [f"{made}{act}\ndisplay(card)" for act in CARDS.values()]
    notebook = lab.open(f"{SETUP}\ntokens = {provider.issue()!r}", *cards, *STATES.values())
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    notebook.page.set_viewport_size({"width": VIEWPORT["width"], "height": 3600})
    notebook.run_all()
    notebook.wait_text(len(STATES) + len(CARDS), "nobody is here to do it")
    expect(notebook.output(3).locator(".loginonce-code")).to_be_visible()
    expect(notebook.output(4).get_by_placeholder("paste the whole address")).to_be_visible()
    yield notebook
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")


PALE = """() => {
  // Contrast of all text in outputs, as WCAG 2 has it: (L1 + 0.05) / (L2 + 0.05).
  const parse = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3]));
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const pale = [];
  for (const place of document.querySelectorAll(".loginonce")) {
    const walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
      if (!text || !element.getClientRects().length) continue;
      const back = ground(element), front = over(parse(getComputedStyle(element).color), back);
      const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
      const ratio = (high + 0.05) / (low + 0.05);
      const enough = element.closest("[aria-hidden]") ? 3 : 4.5;  // icons stand beside words (WCAG 1.4.11)
      if (ratio < enough) pale.push(`${text}: ${ratio.toFixed(1)}`);
    }
  }
  return pale;
}"""

EDGES = """() => [...document.querySelectorAll(".jupyter-widgets.widget-vbox")].map((card) => {
  // Where the first letter of a text, the field and the first button begin.
  const left = [];
  for (const text of card.querySelectorAll(".loginonce-status, .loginonce > div:first-child")) {
    const range = document.createRange(), walk = document.createTreeWalker(text, NodeFilter.SHOW_TEXT,
      (node) => node.parentElement.closest("[aria-hidden]") || !node.textContent.trim() ? 2 : 1);
    if (!text.getClientRects().length || !walk.nextNode()) continue;
    range.selectNodeContents(walk.currentNode);
    left.push(range.getBoundingClientRect().left);
  }
  const parts = [...card.querySelectorAll("input, button")].filter((part) => part.getClientRects().length);
  left.push(...parts.filter((part) => part.matches("input") || part === card.querySelector("button:not([style*=none])"))
    .map((part) => part.getBoundingClientRect().left));
  return Math.max(...left) - Math.min(...left);
})"""

TOO_WIDE = """() => {
  const wide = [];
  for (const area of document.querySelectorAll(".jp-Cell-outputArea")) {
    const right = area.getBoundingClientRect().right;
    for (const element of area.querySelectorAll(".loginonce, .loginonce *, .jupyter-widgets")) {
      if (element.closest("svg") || !element.getClientRects().length) continue;
      const box = element.getBoundingClientRect();
      if (box.right > right + 1 || box.left < area.getBoundingClientRect().left - 1) {
        wide.push(`${element.tagName} ${element.textContent.trim().slice(0, 40)}: ${box.left}..${box.right}, ${right}`);
      }
    }
  }
  return wide;
}"""


def test_each_state_can_be_read_and_stays_within_its_column(gallery: Notebook) -> None:
    names = [*CARDS, *STATES]
    page, found = gallery.page, dict[str, Any]()
    themes: tuple[Theme, ...] = ("light", "dark")
    for theme in themes:
        gallery.theme(theme)
        for width in (VIEWPORT["width"], 480):
            page.set_viewport_size({"width": width, "height": 3600})
            kind = f"{theme}-{'wide' if width > 1000 else 'narrow'}"
            found[kind] = [*page.evaluate(PALE), *page.evaluate(TOO_WIDE)]
            gallery.screenshot(f"gallery-{kind}")
            for n, name in enumerate(names, 1):
                gallery.screenshot(f"{name}-{kind}", n)
    assert found == {kind: [] for kind in found}
    assert len(found) == 4


def test_a_qr_code_keeps_its_white_plate_in_the_dark(gallery: Notebook) -> None:
    gallery.theme("dark")
    plates = gallery.page.locator(".loginonce-qr:visible")
    assert plates.count() > 3
    for plate in plates.all():
        assert plate.evaluate("plate => getComputedStyle(plate).backgroundColor") == "rgb(255, 255, 255)"
        box, image = plate.bounding_box(), plate.locator("svg").bounding_box()
        assert box is not None
        assert image is not None
        modules = float((plate.locator("svg").get_attribute("viewBox") or "").split()[-1])
        quiet = (box["width"] - image["width"]) / 2 / (image["width"] / modules)
        assert quiet >= 2  # ISO/IEC 18004 asks for four modules; what is around a plate of ours is plain, too


def test_the_parts_of_a_card_begin_at_one_edge(gallery: Notebook) -> None:
    ragged = gallery.page.evaluate(EDGES)
    assert len(ragged) == len(CARDS)
    assert max(ragged) <= 1.5  # pixels, of which the side bearing of a letter is one
