"""What a person sees who signs in at a terminal: through a real one, drawn by an emulator that is not ours."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
import segno

import loginonce
from loginonce import ConfigurationError, LoginFailed
from loginonce.environment import detect
from loginonce.login.flow import Progress, Prompt
from loginonce.login.text import TextPresenter, outcome
from loginonce.model import Account
from loginonce.session import presenter_here
from loginonce.terminal import TerminalPresenter
from loginonce.testing import FakeProvider
from loginonce.text import plain

PATIENCE = 20.0
COMMAND = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its keys make signals
signal.signal(signal.SIGINT, signal.default_int_handler)
from loginonce.cli import main
main()
"""


class Emulator:
    """A terminal of so many columns, and what has been written to it."""

    def __init__(self, columns: int, lines: int = 50) -> None:
        self.columns, self.lines = columns, lines
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.file = os.fdopen(self.slave, "w", encoding="utf-8", closefd=False)

    def read(self, patience: float = 0.05) -> None:
        while select.select([self.master], [], [], patience)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the last one has left
                return
            self.raw += data
            self.stream.feed(data)

    def rows(self) -> list[str]:
        self.read()
        return [row.rstrip() for row in self.screen.display]

    def text(self) -> str:
        return "\n".join(row for row in self.rows() if row)

    def until(self, says: str, patience: float = PATIENCE) -> str:
        deadline = time.monotonic() + patience
        while says not in " ".join(self.text().split()):
            assert time.monotonic() < deadline, f"it does not say {says!r}:\n{self.text()}"
            self.read(0.1)
        return self.text()

    def close(self) -> None:
        self.file.close()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Emulator]]:
    made: list[Emulator] = []
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def emulator(columns: int = 80, lines: int = 50) -> Emulator:
        made.append(Emulator(columns, lines))
        return made[-1]

    yield emulator
    for each in made:
        each.close()


Open = Callable[..., Emulator]

URL = "https://id.example.org/realms/lab/device?user_code=WDJB-MJHT&from=a-rather-long-address-for-forty-columns"


def a_prompt(kind: Any = "device", **given: Any) -> Prompt:
    members = {"url": "https://id.example.org/device", "user_code": "WDJB-MJHT", "url_complete": URL} | given
    if kind != "device":
        members |= {"user_code": "", "url_complete": "", "url": URL}
    return Prompt(kind, "https://id.example.org/realms/lab", "notebook", expires_at=time.time() + 599, **members)


ADA = Account("https://id.example.org", "ada", "Ada Lovelace", expires_at=time.time() + 300, renews=True)


@pytest.fixture
def shown(emulator: Open) -> Iterator[Callable[..., tuple[TerminalPresenter, Emulator]]]:
    """A presenter on a terminal of its own; whatever is live ends with the test."""
    presenters: list[TerminalPresenter] = []

    def shown(columns: int = 80, **given: Any) -> tuple[TerminalPresenter, Emulator]:
        at = emulator(columns)
        presenters.append(TerminalPresenter(at.file, **given))
        return presenters[-1], at

    yield shown
    for presenter in presenters:
        presenter.show(Progress("failed", error=LoginFailed("over", outcome="cancelled")))


Shown = Callable[..., tuple[TerminalPresenter, Emulator]]


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("kind", ["device", "browser", "paste"])
def test_the_address_is_written_whole_from_the_first_column_of_a_line_of_its_own(
    shown: Shown, kind: Any, columns: int
) -> None:
    presenter, at = shown(columns)
    presenter.show(Progress("pending", a_prompt(kind)))
    rows = at.rows()
    assert f"\r\n{URL}\r\n".encode() in at.raw  # no break, no space, no colour within
    first = next(
        index for index, row in enumerate(rows) if row and URL.startswith(row) and len(row) >= min(columns, 60)
    )
    used = -(-len(URL) // columns)
    assert "".join(rows[first : first + used]) == URL
    assert rows[first - 1] == ""


@pytest.mark.parametrize("columns", [80, 40, 18])
def test_the_code_is_whole_and_stands_out(shown: Shown, columns: int) -> None:
    presenter, at = shown(columns)
    presenter.show(Progress("pending", a_prompt()))
    assert any(row.strip(" │") == "WDJB-MJHT" for row in at.rows())
    assert ("╭" in at.text()) == (columns > 18)


@pytest.mark.parametrize("columns", [80, 40])
def test_the_live_line_says_how_long_and_what_is_the_matter_in_one_row(shown: Shown, columns: int) -> None:
    presenter, at = shown(columns)
    prompt = a_prompt()
    presenter.show(Progress("pending", prompt))
    assert re.fullmatch(r"9:5\d left · waiting · Ctrl-C cancels", at.rows()[at.screen.cursor.y])
    presenter.show(Progress("retrying", prompt, detail="id.example.org could not be reached: " + "no route " * 20))
    at.read()
    row = at.screen.cursor.y
    assert re.match(r"9:5\d left · network problem, still", at.rows()[row])
    presenter.show(Progress("pending", prompt))
    assert re.fullmatch(r"9:5\d left · waiting · Ctrl-C cancels", at.rows()[row])
    assert at.text().count("left ·") == 1


def test_the_live_line_goes_on_by_itself(shown: Shown) -> None:
    presenter, at = shown()
    presenter.show(Progress("pending", a_prompt()))
    first = at.rows()[at.screen.cursor.y]
    deadline = time.monotonic() + 5
    while at.rows()[at.screen.cursor.y] == first:
        assert time.monotonic() < deadline


def test_the_cursor_is_there_while_somebody_is_waited_for(shown: Shown) -> None:
    """Whoever is killed now leaves a terminal in order."""
    presenter, at = shown()
    presenter.show(Progress("pending", a_prompt()))
    at.read()
    assert not at.screen.cursor.hidden


def test_a_prompt_from_elsewhere_says_so_and_the_next_one_that_it_is_another(shown: Shown) -> None:
    presenter, at = shown(40)
    presenter.show(Progress("elsewhere", a_prompt()))
    at.until("already pending in another program: the same link and code")
    presenter.show(Progress("pending", a_prompt(user_code="NEXT-CODE")))
    text = at.until("Here is another one")
    assert text.index("WDJB-MJHT") < text.index("another one") < text.index("NEXT-CODE")
    assert text.count("left ·") == 1


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    ("end", "says"),
    [
        (Progress("signed_in", account=ADA), "Signed in as Ada Lovelace · token until "),
        (
            Progress("failed", error=LoginFailed("the sign-in was denied", outcome="denied", hint="Begin again.")),
            "Not signed in: the sign-in was denied Begin again.",
        ),
        (
            Progress("failed", error=LoginFailed("cancelled", outcome="cancelled", hint="Begin again.")),
            "Not signed in: cancelled",
        ),
        (Progress("failed", error=KeyError("secret")), "Not signed in: an unexpected KeyError"),
    ],
    ids=["signed in", "denied", "cancelled", "a fault"],
)
def test_the_end_takes_the_place_of_the_live_line(shown: Shown, columns: int, end: Progress, says: str) -> None:
    presenter, at = shown(columns)
    presenter.show(Progress("pending", a_prompt()))
    at.until("waiting")
    presenter.show(end)
    text = at.until(says)
    assert "left ·" not in text
    assert "secret" not in text
    assert not at.screen.cursor.hidden
    if end.account:
        assert " ".join(text.split()).endswith("renews itself")
    elif says.endswith("cancelled"):
        assert text.endswith("cancelled")


@pytest.mark.parametrize("state", ["signed_in", "failed"])
def test_where_nobody_was_asked_nothing_is_said(shown: Shown, state: Any) -> None:
    presenter, at = shown()
    presenter.show(Progress(state, account=ADA if state == "signed_in" else None, error=LoginFailed("no")))
    assert (at.text(), at.raw) == ("", b"")


class Tty(io.StringIO):
    """As large as need be, which a real one is not while nobody reads."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("kind", [TerminalPresenter, TextPresenter])
def test_nothing_of_the_servers_reaches_the_terminal_raw(kind: type[TerminalPresenter | TextPresenter]) -> None:
    presenter = kind(out := Tty())
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\u200b\r\n[bold]x[/bold]:smiley:\x9b31m" + "y" * 9000
    prompt = a_prompt(user_code=evil, url=f"https://id/{evil}", url_complete=f"https://id/{evil}")
    presenter.show(Progress("pending", prompt))
    presenter.show(Progress("retrying", prompt, detail=evil))
    presenter.show(Progress("signed_in", prompt, account=Account("https://id", "ada", evil)))
    written = out.getvalue()
    for bad in ("\x1b]", "\x07", "\x1b[2J", "\u202e", "\u200b", "\x9b"):
        assert bad not in written
    assert "[bold]x[/bold]:smiley:" in written  # as it is, not as markup
    assert "y" * 8500 not in written


def test_long_texts_are_cut_and_controls_become_spaces() -> None:
    assert plain("a\x1bb\nc\u202e") == "a b c "
    assert plain("x" * 600) == "x" * 499 + "…"
    assert len(outcome(Progress("signed_in", account=Account("https://id", "ada", "x" * 999)))[0]) < 200


# ── QR codes ─────────────────────────────────────────────────────────────────────────────────────────────


def modules(at: Emulator) -> list[list[bool]]:
    """Which modules of the QR code on the screen are dark, its quiet zone included."""
    halves = {"█": (True, True), "▀": (True, False), "▄": (False, True), " ": (False, False)}
    found: list[list[bool]] = []
    for y in range(at.lines):
        cells = [at.screen.buffer[y][x] for x in range(at.columns)]
        drawn = [halves[cell.data] for cell in cells if cell.bg == "ffffff"]
        if drawn:
            assert {cell.fg for cell in cells if cell.bg == "ffffff"} == {"000000"}
            found += [[upper for upper, _ in drawn], [lower for _, lower in drawn]]
    return found


def test_a_qr_code_is_black_on_white_and_has_its_quiet_zone(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    presenter, at = shown(qr=True)
    presenter.show(Progress("pending", a_prompt()))
    at.read()
    wanted = [[bool(module) for module in row] for row in segno.make(URL, micro=False).matrix_iter(border=4)]
    assert modules(at)[: len(wanted)] == wanted


def test_without_colours_a_qr_code_draws_what_is_light(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    presenter, at = shown(qr=True)
    presenter.show(Progress("pending", a_prompt()))
    rows = [row for row in at.rows() if "█████" in row]
    assert rows[0] == "█" * len(rows[0])  # the quiet zone
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-8]|4[0-8])[;m]", at.raw)


def test_a_window_without_room_for_the_qr_code_says_how_much_it_needs(shown: Shown) -> None:
    presenter, at = shown(40, qr=True)
    presenter.show(Progress("pending", a_prompt()))
    assert "columns would have room for the QR code" in " ".join(at.text().split())
    assert "▀" not in at.text()
    assert "WDJB-MJHT" in at.text()


@pytest.mark.parametrize(("kind", "qr"), [("device", False), ("browser", True), ("paste", True)])
def test_a_qr_code_is_drawn_only_where_it_was_wished_for_and_helps(shown: Shown, kind: Any, qr: bool) -> None:
    presenter, at = shown(qr=qr)
    presenter.show(Progress("pending", a_prompt(kind)))
    assert "▀" not in at.text()


def test_without_segno_a_wish_for_a_qr_code_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(ConfigurationError, match=r"loginonce\[cli\]"):
        TerminalPresenter(io.StringIO(), qr=True)


# ── where it is no such terminal ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("forced", ["", "1"])
def test_into_a_pipe_go_plain_lines(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    for presenter in (TerminalPresenter(out := io.StringIO()), TextPresenter(lines := io.StringIO())):
        presenter.show(Progress("pending", a_prompt()))
        presenter.show(Progress("signed_in", account=ADA))
    for text in (out.getvalue(), lines.getvalue()):
        assert all(character.isprintable() or character == "\n" for character in text)
        assert URL in text.split()
        assert "WDJB-MJHT" in text
        assert text.splitlines()[-1].startswith("Signed in as Ada Lovelace · token until")


@pytest.mark.parametrize(
    ("lacks", "kind"),
    [
        (lambda patch: None, TerminalPresenter),
        (lambda patch: patch.setenv("TERM", "dumb"), TextPresenter),
        (lambda patch: patch.setenv("CI", "true"), TextPresenter),
        (lambda patch: patch.setattr("sys.stderr", io.StringIO()), TextPresenter),
        (lambda patch: patch.setitem(sys.modules, "loginonce.terminal", None), TextPresenter),
    ],
    ids=["nothing", "all but lines", "a person (CI)", "a terminal", "rich"],
)
def test_a_terminal_gets_the_live_presenter_unless_it_lacks(
    emulator: Open, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[pytest.MonkeyPatch], object], kind: type
) -> None:
    at = emulator()
    monkeypatch.setattr("sys.stdin", at.file)
    monkeypatch.setattr("sys.stderr", at.file)
    monkeypatch.delenv("CI", raising=False)
    lacks(monkeypatch)
    presenter = presenter_here(detect())
    presenter.show(Progress("pending", a_prompt("password")))
    assert type(getattr(presenter, "_made", presenter)) is kind


# ── the whole command ────────────────────────────────────────────────────────────────────────────────────


class Run:
    """`loginonce login …` in a terminal; what it prints as its result goes elsewhere."""

    def __init__(self, at: Emulator, out: Path, *arguments: str) -> None:
        self.at, self.out = at, out
        with out.open("wb") as result:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", COMMAND, "login", *arguments],
                stdin=at.slave,
                stdout=result,
                stderr=at.slave,
                start_new_session=True,
            )

    def press(self, keys: bytes) -> None:
        os.write(self.at.master, keys)

    def code(self) -> str:
        found = re.search(r"[A-Z0-9]{4}-[A-Z0-9]{4}", self.at.until("left ·"))
        assert found
        return found[0]

    def ends(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.at.text()
            self.at.read()
        self.at.read()
        assert "Traceback" not in self.at.text()
        assert not self.at.screen.cursor.hidden
        assert self.out.read_text() == ""
        return self.process.returncode


@pytest.fixture
def login(
    emulator: Open, fake_provider: FakeProvider, loginonce_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Run]]:
    for name in ("CI", "LOGINONCE_FLOW", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    runs: list[Run] = []

    def login(*arguments: str, columns: int = 80) -> Run:
        where = ("--issuer", fake_provider.issuer, "--client-id", fake_provider.public_client_id)
        runs.append(Run(emulator(columns), tmp_path / f"out-{len(runs)}", *where, *arguments))
        return runs[-1]

    yield login
    for run in runs:
        run.process.kill()
        run.process.wait()


Login = Callable[..., Run]


def test_a_sign_in_is_told_once(login: Login, fake_provider: FakeProvider) -> None:
    run = login(columns=40)
    fake_provider.approve(run.code())
    assert run.ends() == 0
    text = " ".join(run.at.text().split())
    assert re.search(r"Signed in as Ada Lovelace · token until \d\d:\d\d · renews itself$", text)
    assert text.count("Ada") == 1
    assert "left ·" not in text


@pytest.mark.slow
def test_a_refusal_is_told_once(login: Login, fake_provider: FakeProvider) -> None:
    run = login()
    fake_provider.deny(run.code())
    assert run.ends() == 1
    assert run.at.text().count("denied") == 1


@pytest.mark.slow
def test_a_wait_that_is_over_is_told_once(login: Login) -> None:
    run = login("--timeout", "1")
    assert run.ends() == 1
    assert run.at.text().count("Not signed in") == 1
    assert "in time" in run.at.text()


def test_the_interrupt_key_leaves_one_line(login: Login, loginonce_home: Path) -> None:
    run = login()
    run.code()
    run.press(b"\x03")
    assert run.ends() == 130
    lines = run.at.text().splitlines()
    assert lines[-1] == "Not signed in: the sign-in was cancelled"
    assert run.at.text().count("cancel") == 1
    assert "left ·" not in run.at.text()
    assert not list(loginonce_home.glob("logins/*.notice"))


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["address", "interrupt"])
def test_an_address_is_pasted_unseen(login: Login, fake_provider: FakeProvider, keys: str) -> None:
    run = login("--flow", "paste")
    text = run.at.until("Address:")
    url = "".join(text[text.index("http", text.index("\n")) : text.index("The last page")].split())
    if keys == "interrupt":
        run.press(b"\x03")
        assert run.ends() == 130
        assert run.at.text().splitlines()[-1] == "Not signed in: the sign-in was cancelled"
        return
    run.press(fake_provider.approve(url).encode() + b"\n")
    assert run.ends() == 0
    assert "code=" not in run.at.text()[run.at.text().index("Address:") :]
    assert run.at.text().splitlines()[-1].startswith("Signed in as Ada Lovelace")


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["password", "interrupt"])
def test_a_password_is_typed_unseen(login: Login, fake_provider: FakeProvider, keys: str) -> None:
    run = login("--backend", json.dumps(fake_provider.backend))
    run.at.until("User name:")
    run.press(b"ada\n")
    run.at.until("Password for ada")
    if keys == "interrupt":
        run.press(b"\x03")
        assert run.ends() == 130
        assert run.at.text().splitlines()[-1] == "Not signed in: the sign-in was cancelled"
        return
    run.press(b"hopper\n")
    run.at.until("Try again")
    run.at.until("Try again. User name:")
    run.press(b"ada\n")
    while run.at.text().count("Password for ada") < 2:
        run.at.read(0.1)
    run.press(b"lovelace\n")
    assert run.ends() == 0
    assert "hopper" not in run.at.text()
    assert "lovelace" not in run.at.text()
    assert run.at.text().splitlines()[-1].startswith("Signed in as Ada Lovelace")


@pytest.mark.slow
def test_a_second_terminal_shows_the_same_code_and_ends_with_the_first(
    login: Login, fake_provider: FakeProvider
) -> None:
    first = login()
    code = first.code()
    second = login(columns=40)
    second.at.until("already pending in another program: the same link and code")
    assert second.code() == code
    fake_provider.approve(code)
    assert (first.ends(), second.ends()) == (0, 0)
    assert "Signed in as Ada Lovelace" in " ".join(second.at.text().split())


@pytest.mark.slow
def test_a_provider_that_is_away_for_a_while_is_told_in_the_live_line(
    login: Login, fake_provider: FakeProvider
) -> None:
    run = login()
    code = run.code()
    fake_provider.stop()
    run.at.until("network problem, still trying: 127.0.0.1 could not be reached")
    fake_provider.start()
    fake_provider.approve(code)
    assert run.ends() == 0


@pytest.mark.slow
def test_a_killed_sign_in_leaves_the_cursor(login: Login) -> None:
    run = login()
    run.code()
    run.process.send_signal(signal.SIGKILL)
    assert run.ends() == -signal.SIGKILL


def test_a_login_that_is_there_asks_nobody_and_says_so_in_one_line(
    login: Login, fake_provider: FakeProvider, loginonce_home: Path
) -> None:
    loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id).login(
        tokens=fake_provider.issue(scope="openid")
    )
    run = login()
    assert run.ends() == 0
    text = " ".join(run.at.text().split())
    assert re.fullmatch(r"Already signed in as Ada Lovelace at \S+ · token until \S+ · renews itself", text)
