"""One prompt per login: whichever programs ask, a person sees one link and one code, and no answer is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import loginonce
from loginonce import LoginFailed, StoreError
from loginonce.environment import Environment
from loginonce.home import process_identity
from loginonce.login import pending, signin
from loginonce.login.flow import Progress, Prompt
from loginonce.login.signin import SignIn
from loginonce.model import GrantKey
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault

DESK = Environment(human=True, browser=True, stdin=True, notebook=False)
REMOTE = Environment(human=True, browser=False, stdin=True, notebook=False)
PATIENCE = 20.0


def wait_for(happened: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `happened` says once it says anything."""
    deadline = time.monotonic() + patience
    while not (it := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return it


class Screen:
    """Keeps what was shown."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def show(self, progress: Progress) -> None:
        self.seen.append(progress)

    def prompt(self, state: str = "", place: int = 0) -> Prompt:
        """The prompt that was shown, in that state."""

        def shown() -> list[Prompt]:
            found = [each.prompt for each in self.seen if each.prompt and state in ("", each.state)]
            return list(dict.fromkeys(found))

        wait_for(lambda: len(shown()) > place)
        return shown()[place]

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.seen]


class Program:
    """A program that signs in when it is told to, and says what it shows."""

    CODE = """
import json, os, sys, threading
import loginonce
from loginonce.login import pending

class Say:
    def show(self, progress):
        prompt = progress.prompt
        said = {"state": progress.state, "url": prompt and prompt.url_complete, "pid": os.getpid(),
                "code": prompt and prompt.user_code}
        os.write(1, json.dumps(said).encode() + b"\\n")  # whole lines, whoever else writes

print(json.dumps({"state": "ready", "pid": os.getpid()}), flush=True)
given = json.loads(sys.stdin.readline())
lab = loginonce.Session(sys.argv[1], client_id="notebook", scope="openid offline_access")
"""
    LOGIN = """
try:
    lab.login(presenter=Say(), **given)
except loginonce.LoginFailed as failed:
    print(json.dumps({"state": "raised", "outcome": failed.outcome}), flush=True)
"""

    def __init__(self, provider: FakeProvider, then: str = LOGIN) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self.CODE + then, provider.issuer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.until("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def begin(self, **given: Any) -> Self:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return self

    def until(self, state: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["state"] == state:
                return told
        raise AssertionError(f"never {state}: {self.process.stderr and self.process.stderr.read()}")


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without naming a flow in the call, which would be a wish for a prompt of one's own."""
    monkeypatch.setenv("LOGINONCE_FLOW", "device")


Begin = Callable[..., tuple[SignIn, Screen]]


@pytest.fixture
def open_session(fake_provider: FakeProvider, loginonce_home: Path) -> Callable[..., loginonce.Session]:
    def open_session(**given: Any) -> loginonce.Session:
        given = {"client_id": fake_provider.public_client_id, "scope": "openid offline_access"} | given
        return loginonce.Session(fake_provider.issuer, **given)

    return open_session


Open = Callable[..., loginonce.Session]


@pytest.fixture
def begin(open_session: Open) -> Iterator[Begin]:
    """Begin a sign-in in this process, and see what it shows."""
    begun: list[SignIn] = []

    def begin(login: dict[str, Any] | None = None, **session: Any) -> tuple[SignIn, Screen]:
        screen = Screen()
        begun.append(open_session(**session).login(wait=False, presenter=screen, **(login or {})))
        return begun[-1], screen

    yield begin
    for sign_in in begun:
        sign_in.cancel()
    for sign_in in begun:
        wait_for(lambda sign_in=sign_in: sign_in.done)


@pytest.fixture
def notices(loginonce_home: Path) -> Callable[[], list[Path]]:
    return lambda: list((loginonce_home / "logins").glob("*.notice"))


Notices = Callable[[], list[Path]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "BEAT", 0.1)
    monkeypatch.setattr(pending, "SILENCE", 0.6)


# ── one prompt ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(31)
def test_another_program_shows_the_same_link_and_code_and_ends_with_the_first(
    fake_provider: FakeProvider, begin: Begin, notices: Notices
) -> None:
    with Program(fake_provider) as other:
        theirs = other.begin().until("pending")
        sign_in, screen = begin()
        ours = screen.prompt("elsewhere")
        assert (ours.user_code, ours.url_complete) == (theirs["code"], theirs["url"])
        fake_provider.approve(ours.user_code)
        assert sign_in.wait().subject == "ada"
        assert other.until("signed_in")["code"] == theirs["code"]
    assert screen.states == ["elsewhere", "signed_in"]
    assert notices() == []


def test_a_sign_in_from_anywhere_ends_all_prompts(
    fake_provider: FakeProvider, begin: Begin, open_session: Open, notices: Notices
) -> None:
    (first, one), (second, two) = begin(), begin()
    one.prompt(), two.prompt()
    open_session().login(tokens=fake_provider.issue("grace"))
    assert (first.wait().subject, second.wait().subject) == ("grace", "grace")
    assert sorted((one.states, two.states)) == [["elsewhere", "signed_in"], ["pending", "signed_in"]]
    assert notices() == []


def test_a_forced_sign_in_follows_too(fake_provider: FakeProvider, begin: Begin, open_session: Open) -> None:
    open_session().login(tokens=fake_provider.issue())
    _, one = begin({"force": True})
    one.prompt("pending")
    second, two = begin({"force": True})
    assert two.prompt("elsewhere") == one.prompt()
    open_session().login(tokens=fake_provider.issue("grace"))
    assert second.wait().subject == "grace"


def test_a_loop_that_drops_the_wait_ends_the_sign_in(begin: Begin) -> None:
    sign_in, screen = begin()
    screen.prompt("pending")

    async def drop() -> None:
        waiting = sign_in.wait_async()
        waiting.send(None)
        waiting.close()  # as a loop that has ended does: nothing can be awaited any more

    asyncio.run(drop())
    wait_for(lambda: sign_in.done)


def test_a_forked_child_does_not_wait_for_its_parents_sign_in(
    fake_provider: FakeProvider, begin: Begin, notices: Notices
) -> None:
    sign_in, screen = begin()
    prompt = screen.prompt("pending")
    child = os.fork()
    if child == 0:  # what a test's child raises must not come to be the suite's
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        try:
            sign_in.wait()
        except LoginFailed as error:
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(notices()) == 1  # the parent asks on
    fake_provider.approve(prompt.user_code)
    assert sign_in.wait().subject == "ada"


RACE = """
reading, writing = os.pipe()
for _ in range(given["count"]):
    if os.fork() == 0:
        os.close(writing)
        os.read(reading, 1)  # all of them at once, when it closes
        lab.login(presenter=Say())
        sys.stdout.flush()
        os._exit(0)
os.close(writing)
for _ in range(given["count"]):
    os.wait()
print(json.dumps({"state": "all gone"}), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.hazard(31)
def test_programs_that_begin_in_the_same_instant_show_one_prompt(fake_provider: FakeProvider, count: int) -> None:
    with Program(fake_provider, RACE) as crowd:
        crowd.begin(count=count)
        told: list[dict[str, Any]] = []
        assert crowd.process.stdout is not None
        for line in crowd.process.stdout:
            told.append(json.loads(line))
            if len({each.get("pid") for each in told}) == count:
                break
        fake_provider.approve(told[0]["code"])
        told += [json.loads(line) for line in crowd.process.stdout]
    shown = [each for each in told if each["state"] in ("pending", "elsewhere")]
    assert len({each["code"] for each in shown}) == 1
    assert sorted(each["state"] for each in shown) == ["elsewhere"] * (count - 1) + ["pending"]
    assert [each["state"] for each in told].count("signed_in") == count


# ── the one who asks is gone ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(31)
def test_a_prompt_that_a_killed_program_left_behind_delays_nobody(
    fake_provider: FakeProvider, begin: Begin, notices: Notices
) -> None:
    with Program(fake_provider) as other:
        theirs = other.begin().until("pending")
        _, following = begin()
        assert following.prompt("elsewhere").user_code == theirs["code"]
        other.process.kill()  # a zombie now: nobody has asked for its end yet
        assert following.prompt("pending").user_code != theirs["code"]
    assert len(notices()) == 1
    _, late = begin()
    assert late.prompt("elsewhere") == following.prompt("pending")


@pytest.mark.usefixtures("impatient")
def test_a_program_that_cannot_be_judged_is_followed_until_it_is_silent(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(pending, "process_identity", lambda: "another-host/0/1/1")
        owner, one = begin()
        prompt = one.prompt("pending")
    _, two = begin()
    assert two.prompt("elsewhere") == prompt
    time.sleep(1.0)  # longer than silence would be believed: it beats
    assert two.states == ["elsewhere"]
    monkeypatch.setattr(pending.Board, "beat", lambda *_: None)
    assert two.prompt("pending") != prompt
    assert not owner.done


@pytest.mark.parametrize("end", [pytest.param("deny", marks=pytest.mark.slow), "cancel"])
def test_whoever_followed_asks_itself_when_the_first_ends_without_a_login(
    fake_provider: FakeProvider, begin: Begin, end: str
) -> None:
    owner, one = begin()
    prompt = one.prompt("pending")
    second, two = begin()
    assert two.prompt("elsewhere") == prompt
    if end == "deny":
        fake_provider.deny(prompt.user_code)
    else:
        owner.cancel()
    with pytest.raises(LoginFailed):
        owner.wait()
    again = two.prompt("pending")
    assert again.user_code != prompt.user_code
    fake_provider.approve(again.user_code)
    assert second.wait().subject == "ada"


def test_a_follower_that_waits_only_so_long_ends_and_leaves_the_prompt(begin: Begin, notices: Notices) -> None:
    _, one = begin()
    one.prompt("pending")
    second, two = begin({"timeout": 0.3})
    with pytest.raises(LoginFailed) as late:
        second.wait()
    assert late.value.outcome == "timed_out"
    assert two.states == ["elsewhere", "failed"]
    assert len(notices()) == 1


@pytest.mark.slow
def test_a_suspended_program_takes_down_no_newer_prompt_and_ends_with_the_login(
    fake_provider: FakeProvider, begin: Begin, open_session: Open, monkeypatch: pytest.MonkeyPatch, notices: Notices
) -> None:
    monkeypatch.setattr(pending, "SILENCE", 0.6)
    with Program(fake_provider, "pending.BEAT = 0.1\n" + Program.LOGIN) as other:
        theirs = other.begin().until("pending")
        _, screen = begin()
        screen.prompt("elsewhere")
        other.process.send_signal(signal.SIGSTOP)
        ours = screen.prompt("pending")
        assert ours.user_code != theirs["code"]
        other.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # several of its beats
        (notice,) = notices()
        assert json.loads(notice.read_bytes())["owner"] == process_identity()
        open_session().login(tokens=fake_provider.issue("grace"))
        other.until("signed_in")
        other.process.wait(PATIENCE)
        assert other.process.returncode == 0


def test_a_program_that_an_absent_network_holds_up_is_not_silent_yet(fake_provider: FakeProvider) -> None:
    from loginonce.client import BUDGET

    assert pending.SILENCE > BUDGET + pending.BEAT


# ── prompts of one's own ─────────────────────────────────────────────────────────────────────────────────


def test_whoever_needs_more_asks_itself_and_whoever_needs_less_may_follow_that(begin: Begin) -> None:
    _, one = begin()
    first = one.prompt("pending")
    _, two = begin(scope="openid offline_access admin")
    wider = two.prompt("pending")
    assert wider.user_code != first.user_code
    _, three = begin(scope="openid")
    assert three.prompt("elsewhere") == wider


def test_whoever_names_a_flow_gets_a_prompt_of_its_own_and_leaves_the_shared_one(begin: Begin) -> None:
    _, one = begin()
    shared = one.prompt("pending")
    _, two = begin({"flow": "device"})
    assert two.prompt("pending") != shared
    _, three = begin()
    assert three.prompt("elsewhere") == shared


def test_an_address_that_has_to_be_typed_is_asked_for_by_each(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, notices: Notices
) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", "paste")
    _, one = begin()
    one.prompt("pending")
    assert notices() == []
    _, two = begin()
    assert two.prompt("pending") != one.prompt("pending")


@pytest.mark.parametrize(
    ("identity", "flow", "followed"),
    [("", "browser", True), ("another-host/0/1/1", "browser", False), ("", "device", False)],
    ids=["this machine", "another machine", "no browser here"],
)
def test_a_browser_that_comes_back_to_a_machine_serves_only_those_who_can_use_one_there(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, identity: str, flow: str, followed: bool
) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", "browser")
    with monkeypatch.context() as there:
        if identity:
            there.setattr(pending, "process_identity", lambda: identity)
        _, one = begin()
        prompt = one.prompt("pending")
    monkeypatch.setenv("LOGINONCE_FLOW", flow)
    _, two = begin()
    assert (two.prompt() == prompt) == followed
    assert two.states[0] == ("elsewhere" if followed else "pending")


def test_of_two_that_want_the_same_registered_port_the_later_one_follows(
    fake_provider: FakeProvider, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked a moment before the other's notice was there, and finds the port taken."""
    monkeypatch.setenv("LOGINONCE_FLOW", "browser")
    with socket.create_server(("127.0.0.1", 0)) as found:
        uri = f"http://127.0.0.1:{found.getsockname()[1]}/callback"
    fake_provider.redirect_uris = (uri,)
    _, one = begin(redirect_uri=uri)
    prompt = one.prompt("pending")
    looked: list[None] = []
    look = pending.Board.elsewhere

    def late(self: pending.Board, kind: str, now: float) -> Prompt | None:
        looked.append(None)
        return None if len(looked) == 1 else look(self, kind, now)

    monkeypatch.setattr(pending.Board, "elsewhere", late)
    _, two = begin(redirect_uri=uri)
    assert two.prompt("elsewhere") == prompt


class Away(FileStore):
    """A store whose board is out of reach."""

    def notice(self, key: GrantKey) -> bytes | None:
        raise StoreError("away")

    def post(self, *_: object, **__: object) -> bool:
        raise StoreError("away")


def test_where_no_notice_can_be_kept_each_asks_itself(
    fake_provider: FakeProvider, begin: Begin, loginonce_home: Path
) -> None:
    (first, one), (second, two) = (begin(store=Away(loginonce_home / "logins")) for _ in range(2))
    assert one.prompt("pending") != two.prompt("pending")
    fake_provider.approve(two.prompt().user_code)
    assert (first.wait().subject, second.wait().subject) == ("ada", "ada")


class Failing(FileStore):
    """A store of somebody's own that raises what it should not."""

    def post(self, *given: Any, **named: Any) -> bool:
        if given[1] is None:
            raise RuntimeError("not a StoreError")
        return super().post(*given, **named)


def test_a_store_that_breaks_its_promise_does_not_hang_the_sign_in(begin: Begin, loginonce_home: Path) -> None:
    sign_in, screen = begin(store=Failing(loginonce_home / "logins"))
    screen.prompt("pending")
    sign_in.cancel()
    with pytest.raises(LoginFailed):
        sign_in.wait()


# ── notices that are none ────────────────────────────────────────────────────────────────────────────────


def a_notice(prompt: dict[str, Any] | None = None, **members: Any) -> bytes:
    """A good notice, but for what is said otherwise."""
    made = {
        "kind": "device",
        "issuer": KEY.issuer,
        "client_id": KEY.client_id,
        "url": "https://id.example.org/device",
        "url_complete": "",
        "user_code": "GOOD-CODE",
        "expires_at": time.time() + 600,
    }
    notice = {"scope": "openid offline_access admin", "owner": "another-host/0/1/1", "beat_at": time.time()}
    return json.dumps(notice | members | {"prompt": made | (prompt or {})}).encode()


KEY = GrantKey("https://id.example.org", "notebook")


@pytest.fixture
def look() -> Callable[[bytes], Prompt | None]:
    """What a program that needs a sign-in makes of a notice."""

    def look(notice: bytes) -> Prompt | None:
        store = MemoryStore()
        assert store.post(KEY, notice, instead_of=None)
        return pending.Board(store, KEY, frozenset({"openid"})).elsewhere("browser", time.time())

    return look


Look = Callable[[bytes], Prompt | None]

ESCAPE = "\x1b]0;owned\x07"

HOSTILE: dict[str, dict[str, Any]] = {
    "a script for a link": {"prompt": {"url": "javascript:alert(1)"}},
    "a script for the other link": {"prompt": {"url_complete": "javascript:alert(1)"}},
    "a file": {"prompt": {"url": "file:///etc/passwd"}},
    "plain http to elsewhere": {"prompt": {"url": "http://evil.example.org/"}},
    "no link": {"prompt": {"url": ""}},
    "no host": {"prompt": {"url": "https://"}},
    "another issuer": {"prompt": {"issuer": "https://evil.example.org"}},
    "another client": {"prompt": {"client_id": "evil"}},
    "a kind that is none": {"prompt": {"kind": "password"}},
    "a kind of no string": {"prompt": {"kind": ["device"]}},
    "paste": {"prompt": {"kind": "paste"}},
    "an escape sequence in the code": {"prompt": {"user_code": f"A{ESCAPE}"}},
    "an escape sequence in the link": {"prompt": {"url": f"https://id.example.org/{ESCAPE}"}},
    "a line break in the link": {"prompt": {"url": "https://id.example.org/\nhttps://evil.example.org"}},
    "text from right to left": {"prompt": {"user_code": "AB\u202eCD"}},
    "a code of no string": {"prompt": {"user_code": {"$": 1}}},
    "a time of no number": {"prompt": {"expires_at": "9999999999"}},
    "a time that is true": {"prompt": {"expires_at": True}},
    "a time that never comes": {"prompt": {"expires_at": float("inf")}},
    "no time at all": {"prompt": {"expires_at": float("nan")}},
    "a time too large for a float": {"prompt": {"expires_at": 10**400}},
    "it has run out": {"prompt": {"expires_at": 1000.0}},
    "one member too many": {"prompt": {"extra": 1}},
    "a beat of no number": {"beat_at": "now"},
    "a beat that is none": {"beat_at": float("nan")},
    "a beat in the future": {"beat_at": 9e10},
    "an old beat": {"beat_at": 1000.0},
    "a scope of no string": {"scope": 7},
    "an owner of no string": {"owner": ["a"]},
    "an owner that draws": {"owner": ESCAPE},
    "too much of it": {"scope": "openid " + "x" * 20_000},
    "one member too many outside": {"extra": 1},
}


def test_a_good_notice_is_shown(look: Look) -> None:
    prompt = look(a_notice())
    assert prompt is not None
    assert prompt.user_code == "GOOD-CODE"


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_notice_is_ignored(look: Look, change: dict[str, Any]) -> None:
    assert look(a_notice(**change)) is None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\xfe", b"null", b"[]", b"7", b'"text"', b"{}", b'{"prompt": 1}', b'{"prompt": {}}']
    + [b"[" * 9000, b"{" * 20_000, b"\0" * 99, b"9" * 5000],
    ids=len,
)
def test_a_garbled_notice_is_ignored(look: Look, garbage: bytes) -> None:
    assert look(garbage) is None


def test_a_notice_that_is_none_is_replaced(begin: Begin, open_session: Open) -> None:
    source = open_session().source
    source.store.post(source.key, b"garbage", instead_of=None)
    _, one = begin()
    prompt = one.prompt("pending")
    _, two = begin()
    assert two.prompt("elsewhere") == prompt


# ── ending it ────────────────────────────────────────────────────────────────────────────────────────────


def receivers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loginonce-receiver"]


@pytest.mark.parametrize("flow", ["browser", "device"])
def test_a_cancelled_sign_in_leaves_no_port_no_thread_and_no_notice(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, notices: Notices, flow: str
) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", flow)
    sign_in, screen = begin()
    screen.prompt("pending")
    assert len(notices()) == 1
    sign_in.cancel()
    with pytest.raises(LoginFailed) as cancelled:
        sign_in.wait()
    assert cancelled.value.outcome == "cancelled"
    assert (sign_in.done, notices(), receivers()) == (True, [], [])
    assert screen.states[-1] == "failed"


@pytest.fixture
def interrupt(interruptible: None) -> Callable[[], None]:
    """Interrupt this thread as the interrupt key does, from another one."""
    return lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Approving(Screen):
    """Approves what is shown, and does something once the provider has been asked for the tokens."""

    def __init__(self, provider: FakeProvider, then: Callable[[], None]) -> None:
        super().__init__()
        self.provider, self.then = provider, then
        self.thread = threading.Thread(target=self._act)

    def show(self, progress: Progress) -> None:
        super().show(progress)
        if progress.state == "pending":
            self.thread.start()

    def _act(self) -> None:
        self.provider.approve(self.prompt().user_code)
        wait_for(lambda: self.provider.stats.token_requests)
        self.then()


@pytest.mark.parametrize(
    "late", [0.1, pytest.param(0.8, marks=pytest.mark.slow)], ids=["in a moment", "after the caller has gone"]
)
def test_an_answer_that_comes_with_the_interrupt_is_saved(
    fake_provider: FakeProvider, open_session: Open, interrupt: Callable[[], None], notices: Notices, late: float
) -> None:
    fake_provider.faults.add(Fault.delay(late), where="token")
    screen = Approving(fake_provider, interrupt)
    lab = open_session()
    with pytest.raises((LoginFailed, KeyboardInterrupt)) as ended:
        lab.login(presenter=screen)
    assert notices() == []
    screen.thread.join()
    account = wait_for(lambda: lab.account)
    assert account.subject == "ada"
    # What it says is what has happened: a sign-in that has worked was not cancelled.
    assert ended.type is (KeyboardInterrupt if screen.states[-1] == "signed_in" else LoginFailed)
    assert screen.states.count("failed") + screen.states.count("signed_in") == 1


@pytest.mark.slow
def test_a_network_that_is_away_holds_no_interrupt_up(
    fake_provider: FakeProvider, open_session: Open, interrupt: Callable[[], None], notices: Notices
) -> None:
    fake_provider.faults.add(Fault.delay(3.0), where="token")
    began: list[float] = []

    def act() -> None:
        began.append(time.monotonic())
        interrupt()

    screen = Approving(fake_provider, act)
    with pytest.raises(LoginFailed) as ended:
        open_session().login(presenter=screen)
    assert time.monotonic() - began[0] < 2.0
    assert ended.value.outcome == "cancelled"
    assert (screen.states[-1], notices()) == ("failed", [])
    screen.thread.join()


INTERRUPTED = """
import signal, time
def alarm(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, alarm)
class Nothing:
    def show(self, progress):
        pass
import loginonce.login.signin  # an interrupted import is Python's own affair
lab.source.provider.server
left, ends = [], []
for moment in range(given["times"]):
    try:
        # Again after a second: an interrupt that comes in a weak reference's callback is lost to Python itself.
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + moment * given["step"], 1.0)
        lab.login(presenter=Nothing())
    except (KeyboardInterrupt, loginonce.LoginFailed) as end:
        signal.setitimer(signal.ITIMER_REAL, 0)
        ends.append(type(end).__name__)
    until = time.monotonic() + 5
    # An interrupt within `Thread.start` leaves a name without a thread in Python's list.
    while (alive := [t.name for t in threading.enumerate() if t is not threading.main_thread() and t.is_alive()]):
        if time.monotonic() > until:
            left.append(alive)
            break
        time.sleep(0.005)
    left += [name for name in os.listdir(given["folder"]) if "notice" in name] if os.path.isdir(given["folder"]) else []
print(json.dumps({"state": "done", "left": left, "ends": ends}), flush=True)
"""


@pytest.mark.parametrize(
    ("times", "step"), [(25, 0.002), pytest.param(300, 0.0003, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("flow", ["browser", "device"])
def test_an_interrupt_at_any_moment_leaves_no_port_no_thread_and_no_notice(
    fake_provider: FakeProvider,
    loginonce_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    flow: str,
    times: int,
    step: float,
) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", flow)
    with Program(fake_provider, INTERRUPTED) as program:
        program.begin(folder=str(loginonce_home / "logins"), times=times, step=step)
        done = program.until("done")
    assert done["left"] == []
    assert len(done["ends"]) == times


@pytest.mark.parametrize("network", ["there", pytest.param("away", marks=pytest.mark.slow)])
def test_a_program_that_ends_meanwhile_ends_at_once_and_takes_its_prompt_along(
    fake_provider: FakeProvider, notices: Notices, network: str
) -> None:
    if network == "away":
        fake_provider.faults.add(Fault.delay(10.0), where="token")
    with Program(fake_provider, "lab.login(wait=False, presenter=Say())\nsys.stdin.readline()") as program:
        program.begin().until("pending")
        assert len(notices()) == 1
        if network == "away":
            wait_for(lambda: fake_provider.stats.token_requests)
        began = time.monotonic()
        out, err = program.process.communicate("\n", timeout=PATIENCE)
        assert time.monotonic() - began < 4.0
    assert (json.loads(out)["state"], err, program.process.returncode) == ("failed", "", 0)
    assert notices() == []


# ── event loops ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_loop_goes_on_meanwhile(fake_provider: FakeProvider, open_session: Open) -> None:
    async def main() -> tuple[str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        screen = Screen()
        login = asyncio.create_task(open_session().login_async(presenter=screen))
        while not screen.seen:  # noqa: ASYNC110 - it is shown by another thread
            await asyncio.sleep(0.01)
        ticks = 0
        await asyncio.to_thread(fake_provider.approve, screen.prompt().user_code)
        account = await login
        ticking.cancel()
        return account.subject, ticks

    subject, ticks = asyncio.run(main())
    assert subject == "ada"
    assert ticks > 10


def test_a_cancelled_task_cancels_its_sign_in(open_session: Open, notices: Notices) -> None:
    async def main() -> Screen:
        screen = Screen()
        login = asyncio.create_task(open_session().login_async(presenter=screen))
        while not screen.seen:  # noqa: ASYNC110 - it is shown by another thread
            await asyncio.sleep(0.01)
        login.cancel()
        with pytest.raises(asyncio.CancelledError):
            await login
        return screen

    assert asyncio.run(main()).states == ["pending", "failed"]
    assert notices() == []


def test_a_bounded_wait_in_an_event_loop_ends_in_time(open_session: Open, notices: Notices) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.3):
            await open_session().login_async(presenter=Screen())

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert notices() == []


@pytest.mark.slow
def test_loops_in_several_threads_share_one_prompt(fake_provider: FakeProvider, open_session: Open) -> None:
    screens = [Screen() for _ in range(3)]
    subjects: list[str] = []

    def loop(screen: Screen) -> None:
        subjects.append(asyncio.run(open_session().login_async(presenter=screen)).subject)

    threads = [threading.Thread(target=loop, args=(screen,)) for screen in screens]
    for thread in threads:
        thread.start()
    codes = {screen.prompt().user_code for screen in screens}
    fake_provider.approve(codes.pop())
    for thread in threads:
        thread.join()
    assert subjects == ["ada"] * 3
    assert codes == set()


def test_the_constants_leave_room_for_each_other() -> None:
    assert 2 * signin.SLICE < signin.FAREWELL < signin.PARTING
    assert 4 * pending.BEAT < pending.SILENCE
