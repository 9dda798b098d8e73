"""Signing in: each way, what goes wrong in it, and that what is wrong is never saved."""

from __future__ import annotations

import http.client
import io
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from authlib.oauth2.rfc7636 import create_s256_code_challenge

import loginonce
from loginonce import AuthorizationServer, ConfigurationError, LoginFailed, ProtocolError, TransportError
from loginonce.environment import Environment
from loginonce.login import signin
from loginonce.login.browser import BrowserFlow
from loginonce.login.choose import choose
from loginonce.login.device import DeviceFlow
from loginonce.login.flow import Progress, Prompt
from loginonce.login.text import TextPresenter
from loginonce.testing import FakeProvider, Fault
from loginonce.transport import Transport

Factory = Callable[..., FakeProvider]
Act = Callable[[Prompt], object]


class Human:
    """Sees prompts, and acts on them in a thread of its own."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._threads: list[threading.Thread] = []
        self.seen: list[Progress] = []
        self.prompts: list[Prompt] = []
        self.dismissed = 0
        self.result: Any = None
        self.error: BaseException | None = None

    def show(self, progress: Progress) -> None:
        self.seen.append(progress)
        prompt = progress.prompt
        if progress.state in ("signed_in", "failed"):
            self.dismissed += 1
        elif prompt is not None and prompt not in self.prompts:
            self.prompts.append(prompt)
            self._threads.append(threading.Thread(target=self._do, args=(prompt,)))
            self._threads[-1].start()

    def _do(self, prompt: Prompt) -> None:
        try:
            self.result = self._act(prompt)
        except BaseException as error:
            self.error = error

    def leave(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise self.error


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Act], Human]]:
    """Let somebody sit at the terminal."""
    met = []

    def meet(act: Act) -> Human:
        human = Human(act)
        monkeypatch.setattr("loginonce.session.presenter_here", lambda *_: human)
        met.append(human)
        return human

    yield meet
    for human in met:
        human.leave()


Meet = Callable[[Act], Human]


@pytest.fixture
def open_session(fake_provider: FakeProvider, loginonce_home: Path) -> Callable[..., loginonce.Session]:
    """One more session for the login at the fake provider."""

    def open_session(**given: Any) -> loginonce.Session:
        given = {"client_id": fake_provider.public_client_id, "scope": "openid offline_access"} | given
        return loginonce.Session(fake_provider.issuer, **given)

    return open_session


Open = Callable[..., loginonce.Session]


@pytest.fixture
def lab(open_session: Open) -> loginonce.Session:
    """A session that nobody has signed in to."""
    return open_session()


@pytest.fixture
def unsaved(loginonce_home: Path) -> Callable[[], bool]:
    """Whether no login has been saved."""
    return lambda: not list(loginonce_home.glob("logins/*.login"))


Unsaved = Callable[[], bool]


def query(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def come_back(prompt: Prompt, host: str | None = None, **answer: str) -> tuple[int, str, dict[str, str]]:
    """What a browser does that was sent to the receiver: status, page and headers."""
    asked = query(prompt.url)
    parts = urlsplit(asked["redirect_uri"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        path = f"{parts.path}?{urlencode({'state': asked['state'], **answer})}"
        connection.request("GET", path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.headers)
    finally:
        connection.close()


def is_open(prompt: Prompt) -> bool:
    parts = urlsplit(query(prompt.url)["redirect_uri"])
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


# ── the browser comes back ───────────────────────────────────────────────────────────────────────────────


def test_a_browser_signs_in(fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet) -> None:
    human = meet(lambda prompt: fake_provider.approve(prompt.url))
    account = lab.login(flow="browser")
    assert (account.subject, account.name, account.renews) == ("ada", "Ada Lovelace", True)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert len(human.prompts) == human.dismissed == 1
    assert not is_open(human.prompts[0])


def test_the_request_for_authorization_is_as_the_standards_want_it(
    fake_provider: FakeProvider, open_session: Open, meet: Meet
) -> None:
    human = meet(lambda prompt: fake_provider.approve(prompt.url))
    open_session(resource="https://api.example.org/").login(flow="browser")
    asked = query(human.prompts[0].url)
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert asked["response_type"] == "code"
    assert asked["prompt"] == "consent"
    assert asked["resource"] == "https://api.example.org/"
    assert urlsplit(asked["redirect_uri"]).hostname == "127.0.0.1"
    assert len(asked["state"]) >= 20
    assert len(asked["nonce"]) >= 20
    assert "client_secret" not in asked


def test_no_two_requests_share_state_nonce_or_challenge(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    human = meet(lambda prompt: fake_provider.approve(prompt.url))
    for _ in range(2):
        lab.login(flow="browser", force=True)
    first, second = (query(prompt.url) for prompt in human.prompts)
    assert all(first[name] != second[name] for name in ("state", "nonce", "code_challenge"))


def test_a_registered_port_is_used_exactly(fake_provider: FakeProvider, open_session: Open, meet: Meet) -> None:
    uri = f"http://127.0.0.1:{free_port()}/back"
    fake_provider.redirect_uris, fake_provider.loopback_any_port = (uri,), False
    human = meet(lambda prompt: fake_provider.approve(prompt.url))
    assert open_session(redirect_uri=uri).login(flow="browser").subject == "ada"
    assert query(human.prompts[0].url)["redirect_uri"] == uri


@pytest.mark.parametrize(
    "ending",
    [
        "/callback",
        "/",
        "",
        "/back?x=1",
    ],
)
def test_a_registered_address_is_sent_as_it_was_registered(
    fake_provider: FakeProvider, open_session: Open, meet: Meet, ending: str
) -> None:
    uri = f"http://localhost:{free_port()}{ending}"
    human = meet(lambda prompt: None)
    with pytest.raises(LoginFailed):
        open_session(redirect_uri=uri).login(flow="browser", timeout=0.01)
    assert query(human.prompts[0].url)["redirect_uri"] == uri


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.1"])
def test_each_name_of_the_loopback_can_be_waited_at(
    fake_provider: FakeProvider, open_session: Open, meet: Meet, host: str
) -> None:
    fake_provider.redirect_uris = (f"http://{host}:{free_port()}/back",)
    meet(lambda prompt: fake_provider.approve(prompt.url))
    assert open_session(redirect_uri=fake_provider.redirect_uris[0]).login(flow="browser").subject == "ada"


def test_a_busy_port_is_told_with_a_way_out(open_session: Open, unsaved: Unsaved) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/callback"
        with pytest.raises(ConfigurationError, match="flow='device'") as caught:
            open_session(redirect_uri=uri).login(flow="browser")
    assert uri in str(caught.value)
    assert unsaved()


@pytest.mark.parametrize(
    "uri", ["https://app.example.org/callback", "http://192.0.2.1/callback", "http://0.0.0.0/callback", "app:/callback"]
)
def test_a_browser_is_not_waited_for_at_an_address_that_is_not_of_this_machine(open_session: Open, uri: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        open_session(redirect_uri=uri).login(flow="browser")


FOREIGN = {
    "another state": {"state": "made-up", "code": "abc"},
    "an empty state": {"state": "", "code": "abc"},
    "a refusal with another state": {"state": "made-up", "error": "access_denied"},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_answer_to_another_sign_in_is_ignored(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, what: str
) -> None:
    def act(prompt: Prompt) -> tuple[int, str, dict[str, str]]:
        answer = come_back(prompt, **FOREIGN[what])
        fake_provider.approve(prompt.url)
        return answer

    human = meet(act)
    assert lab.login(flow="browser").subject == "ada"
    human.leave()
    status, page, _ = human.result
    assert status == 400
    assert "Not the answer" in page


WRONG = {
    "another issuer": ({"code": "abc", "iss": "https://evil.example.org"}, "came from"),
    "no issuer though one was promised": ({"code": "abc"}, "promises to name itself"),
    "neither code nor error": ({"iss": "ISSUER"}, "neither a code nor an error"),
    "a refusal of another issuer": ({"error": "access_denied", "iss": "https://evil.example.org"}, "came from"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_that_is_not_ours_is_refused(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, unsaved: Unsaved, what: str
) -> None:
    answer, complaint = WRONG[what]
    answer = {name: value.replace("ISSUER", fake_provider.issuer) for name, value in answer.items()}
    human = meet(lambda prompt: come_back(prompt, **answer))
    with pytest.raises(ProtocolError, match=complaint):
        lab.login(flow="browser", timeout=10)
    assert fake_provider.stats.token_requests == 0
    assert unsaved()
    assert not is_open(human.prompts[0])


def test_a_provider_that_promises_no_issuer_may_leave_it_out(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    fake_provider.authorization_response_iss = False
    meet(lambda prompt: fake_provider.approve(prompt.url))
    assert lab.login(flow="browser").subject == "ada"


def test_a_made_up_code_is_refused_by_the_provider(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, unsaved: Unsaved
) -> None:
    meet(lambda prompt: come_back(prompt, code="made-up", iss=fake_provider.issuer))
    with pytest.raises(loginonce.InvalidGrant):
        lab.login(flow="browser")
    assert unsaved()


def test_a_refusal_is_a_login_that_failed(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, unsaved: Unsaved
) -> None:
    meet(lambda prompt: fake_provider.deny(prompt.url))
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="browser")
    assert caught.value.outcome == "denied"
    assert unsaved()


def test_another_error_is_shown_without_what_could_draw_on_a_terminal(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    said = {"error": "invalid_scope", "error_description": "no such\x1b[31m scope", "iss": fake_provider.issuer}
    meet(lambda prompt: come_back(prompt, **said))
    with pytest.raises(LoginFailed, match="invalid_scope") as caught:
        lab.login(flow="browser")
    assert caught.value.outcome == "rejected"
    assert "\x1b" not in str(caught.value)


def test_a_browser_that_does_not_come_back_is_waited_for_as_long_as_was_said(
    lab: loginonce.Session, meet: Meet
) -> None:
    human = meet(lambda prompt: None)
    began = time.monotonic()
    with pytest.raises(LoginFailed, match="did not come back") as caught:
        lab.login(flow="browser", timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 1
    assert caught.value.outcome == "timed_out"
    assert human.dismissed == 1
    assert not is_open(human.prompts[0])


def test_visits_under_a_foreign_name_or_to_another_path_are_ignored(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    def act(prompt: Prompt) -> list[int]:
        uri = query(prompt.url)["redirect_uri"]
        port = urlsplit(uri).port
        statuses = [
            come_back(prompt, host=host, code="stolen")[0] for host in ("evil.example.org", f"evil.example.org:{port}")
        ]
        for path in ("/favicon.ico", "/", "/callback/more", "/Callback"):
            statuses.append(requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code)
        statuses.append(requests.post(uri, timeout=5).status_code)
        fake_provider.approve(prompt.url)
        return statuses

    human = meet(act)
    assert lab.login(flow="browser").subject == "ada"
    human.leave()
    assert human.result == [404] * 6 + [501]


def test_the_answer_counts_where_the_tab_is_closed_before_its_page_has_come(
    lab: loginonce.Session, meet: Meet, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(prompt: Prompt) -> None:
        asked = query(prompt.url)
        parts = urlsplit(asked["redirect_uri"])
        answer = urlencode({"state": asked["state"], "error": "access_denied", "iss": lab.settings.issuer})
        with socket.create_connection((parts.hostname or "", parts.port or 80)) as tab:
            visit = f"GET {parts.path}?{answer} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
            tab.sendall(visit.encode())

    meet(act)
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="browser", timeout=3)
    assert caught.value.outcome == "denied"
    assert capfd.readouterr().err == ""


def test_a_connection_that_breaks_off_writes_nothing_on_the_terminal(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(prompt: Prompt) -> None:
        parts = urlsplit(query(prompt.url)["redirect_uri"])
        with socket.create_connection((parts.hostname or "", parts.port or 80)) as broken:
            broken.sendall(b"GET /call")
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at its end
        fake_provider.approve(prompt.url)

    meet(act)
    lab.login(flow="browser")
    assert capfd.readouterr().err == ""


def test_a_connection_that_says_nothing_does_not_hold_the_sign_in_up(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    idle = []

    def act(prompt: Prompt) -> None:  # browsers open connections ahead of time
        parts = urlsplit(query(prompt.url)["redirect_uri"])
        idle.append(socket.create_connection((parts.hostname or "", parts.port or 80)))
        fake_provider.approve(prompt.url)

    meet(act)
    began = time.monotonic()
    assert lab.login(flow="browser").subject == "ada"
    assert time.monotonic() - began < 2
    for connection in idle:
        connection.close()


def test_the_last_page_says_that_the_tab_can_be_closed_and_tells_no_one_its_address(
    lab: loginonce.Session, meet: Meet
) -> None:
    human = meet(lambda prompt: come_back(prompt, code="secret-code", error_note="<script>"))
    with pytest.raises(ProtocolError):
        lab.login(flow="browser")
    human.leave()
    status, page, headers = human.result
    assert status == 200
    assert "You can close this tab" in page
    assert "secret-code" not in page
    assert "<script" not in page
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_the_last_page_says_so_when_the_provider_said_no(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet
) -> None:
    human = meet(lambda prompt: come_back(prompt, error="access_denied", iss=fake_provider.issuer))
    with pytest.raises(LoginFailed):
        lab.login(flow="browser")
    human.leave()
    assert "Not signed in" in human.result[1]


def test_nothing_weaker_than_s256_is_used(lab: loginonce.Session, open_session: Open) -> None:
    plain = open_session(server={"code_challenge_methods_supported": ["plain"]})
    with pytest.raises(ConfigurationError, match="S256"):
        plain.login(flow="browser")


def test_a_flow_is_closed_twice_without_harm(lab: loginonce.Session) -> None:
    flow = BrowserFlow(lab.source.provider)
    prompt = flow.begin()
    assert is_open(prompt)
    flow.close()
    flow.close()
    assert not is_open(prompt)


# ── a code on another device ─────────────────────────────────────────────────────────────────────────────


class Waits(list[float]):
    """A waiter that lets the provider's time pass instead of its own, and acts before the wait of a number."""

    def __init__(self, provider: FakeProvider, **acts: Callable[[], object]) -> None:
        self._provider = provider
        self.troubles: list[str] = []
        self._acts = {int(name.removeprefix("before_")): act for name, act in acts.items()}

    def __call__(self, seconds: float, *, trouble: str = "") -> None:
        self.append(seconds)
        self.troubles.append(trouble)
        assert len(self) < 50, "the provider is asked for ever"
        if act := self._acts.get(len(self)):
            act()
        self._provider.advance(seconds)


def polls(provider: FakeProvider) -> int:
    return provider.stats.token_requests


def test_a_device_code_signs_in(fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet) -> None:
    human = meet(lambda prompt: fake_provider.approve(prompt.user_code))
    account = lab.login(flow="device")
    assert (account.subject, account.renews) == ("ada", True)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    prompt = human.prompts[0]
    assert prompt.url == f"{fake_provider.issuer}/device"
    assert prompt.url_complete == f"{fake_provider.issuer}/device?user_code={prompt.user_code}"


def test_a_person_who_takes_time_is_waited_for(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    waits = Waits(fake_provider, before_4=lambda: fake_provider.approve(prompt.user_code))
    assert flow.finish(waits).claims["sub"] == "ada"
    assert waits == [1, 1, 1, 1]


def test_slow_down_adds_five_seconds_for_good(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    for _ in range(2):
        fake_provider.faults.add(Fault.answer({"error": "slow_down"}, 400), where="token")
    waits = Waits(fake_provider, before_5=lambda: fake_provider.approve(prompt.user_code))
    flow.finish(waits)
    assert waits == [1, 6, 11, 11, 11]


def test_a_missing_interval_means_five_seconds(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.device_interval = None
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    waits = Waits(fake_provider, before_3=lambda: fake_provider.approve(prompt.user_code))
    flow.finish(waits)
    assert waits == [5, 5, 5]


def test_the_address_may_be_called_verification_url(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.device_uri_member = "verification_url"
    assert DeviceFlow(lab.source.provider).begin().url == f"{fake_provider.issuer}/device"


BLIPS = {
    "no answer": Fault.drop_before(),
    "half an answer": Fault.status(500, "<html>"),
    "an error page": Fault.status(502, "<html>"),
    "too many requests": Fault.status(429),
    "unavailable": Fault.status(503, headers={"Retry-After": "1"}),
}


@pytest.mark.parametrize("blip", BLIPS)
def test_a_network_that_is_away_for_a_while_ends_nothing(
    fake_provider: FakeProvider, lab: loginonce.Session, blip: str
) -> None:
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    fake_provider.faults.add(BLIPS[blip], where="token", times=3)
    waits = Waits(fake_provider, before_4=lambda: fake_provider.approve(prompt.user_code))
    assert flow.finish(waits).claims["sub"] == "ada"
    assert len(waits) == 4
    assert waits == sorted(waits)


def test_a_provider_that_is_away_is_asked_less_and_less_often(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    fake_provider.faults.add(Fault.drop_before(), where="token", times=4)
    waits = Waits(fake_provider, before_5=lambda: fake_provider.approve(prompt.user_code))
    flow.finish(waits)
    assert waits == [1, 1.5, 2.25, 3.375, 5.0625]


def test_a_denied_device_is_a_login_that_failed(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, unsaved: Unsaved
) -> None:
    meet(lambda prompt: fake_provider.deny(prompt.user_code))
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="device")
    assert caught.value.outcome == "denied"
    assert unsaved()


def test_a_code_that_ran_out_is_not_asked_about_again(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    flow = DeviceFlow(lab.source.provider, "openid")
    flow.begin()
    with pytest.raises(LoginFailed, match="ran out") as caught:
        flow.finish(Waits(fake_provider, before_2=lambda: fake_provider.advance(700)))
    assert caught.value.outcome == "timed_out"
    assert polls(fake_provider) == 2


@pytest.mark.parametrize("whose", ["ours", "the provider's"])
def test_a_provider_that_says_pending_for_ever_is_not_believed(
    fake_provider: FakeProvider, lab: loginonce.Session, whose: str
) -> None:
    fake_provider.faults.add(Fault.answer({"error": "authorization_pending"}, 400), where="token", times=None)
    if whose == "ours":
        flow = DeviceFlow(lab.source.provider, timeout=0.3)
    else:
        fake_provider.device_expires_in = 1
        flow = DeviceFlow(lab.source.provider, timeout=60)
    flow.begin()
    began = time.monotonic()
    with pytest.raises(LoginFailed, match="in time") as caught:
        flow.finish(lambda seconds, **_: time.sleep(min(seconds, 0.05)))
    assert caught.value.outcome == "timed_out"
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("error", ["invalid_grant", "unauthorized_client", "invalid_client", "surprise"])
def test_any_other_error_ends_the_device_flow(fake_provider: FakeProvider, lab: loginonce.Session, error: str) -> None:
    flow = DeviceFlow(lab.source.provider)
    flow.begin()
    fake_provider.faults.add(Fault.answer({"error": error}, 400), where="token")
    with pytest.raises(LoginFailed, match=error) as caught:
        flow.finish(Waits(fake_provider))
    assert caught.value.outcome == "rejected"
    assert polls(fake_provider) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"device_code": "a", "user_code": "b"},
        {"device_code": "a", "verification_uri": "https://x/"},
        {"device_code": "a", "user_code": "b", "verification_uri": "javascript:alert(1)"},
        {
            "device_code": "a",
            "user_code": "b",
            "verification_uri": "https://x/",
            "verification_uri_complete": "file:///",
        },
        ["a"],
    ],
)
def test_a_device_answer_that_breaks_the_rfc_is_told(
    fake_provider: FakeProvider, lab: loginonce.Session, answer: Any
) -> None:
    fake_provider.faults.add(Fault.answer(answer), where="device")
    with pytest.raises((ProtocolError, loginonce.ErrorResponse)):
        DeviceFlow(lab.source.provider).begin()


def test_a_client_without_device_codes_is_told_so(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.faults.add(Fault.answer({"error": "unauthorized_client"}, 400), where="device")
    with pytest.raises(loginonce.ErrorResponse, match="unauthorized_client"):
        lab.login(flow="device")


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What is posted to the provider from now on."""
    forms: list[dict[str, str]] = []
    post = Transport.post

    def listening(self: Transport, url: str, form: Any, *rest: Any, **options: Any) -> Any:
        forms.append(dict(form))
        return post(self, url, form, *rest, **options)

    monkeypatch.setattr(Transport, "post", listening)
    return forms


def test_a_provider_that_wants_pkce_of_devices_too_gets_it(
    fake_provider: FakeProvider, lab: loginonce.Session, forms: list[dict[str, str]]
) -> None:
    fake_provider.faults.add(Fault.answer({"error": "invalid_request"}, 400), where="device")
    flow = DeviceFlow(lab.source.provider, "openid")
    prompt = flow.begin()
    assert flow.finish(Waits(fake_provider, before_1=lambda: fake_provider.approve(prompt.user_code))).claims
    first, second, redeemed = forms
    assert "code_challenge" not in first
    assert second["code_challenge_method"] == "S256"
    assert second["code_challenge"] == create_s256_code_challenge(redeemed["code_verifier"])


@pytest.mark.parametrize(("error", "questions"), [("invalid_request", 2), ("invalid_scope", 1)])
def test_a_device_sign_in_that_is_refused_is_told(
    fake_provider: FakeProvider, lab: loginonce.Session, forms: list[dict[str, str]], error: str, questions: int
) -> None:
    fake_provider.faults.add(Fault.answer({"error": error}, 400), where="device", times=None)
    with pytest.raises(loginonce.ErrorResponse, match=error):
        DeviceFlow(lab.source.provider).begin()
    assert len(forms) == questions


# ── the person brings the address back ───────────────────────────────────────────────────────────────────


@pytest.fixture
def paste(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], str]], None]:
    """Let the person paste what a function returns."""

    def paste(read: Callable[[], str]) -> None:
        monkeypatch.setattr(signin.getpass, "getpass", lambda _="": read())

    return paste


Paste = Callable[[Callable[[], str]], None]


def test_a_pasted_address_signs_in(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, paste: Paste
) -> None:
    human = meet(lambda prompt: None)
    paste(lambda: f"  {fake_provider.approve(human.prompts[0].url)}\n")
    assert lab.login(flow="paste").subject == "ada"
    assert human.dismissed == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda address: address.replace("/callback", "/elsewhere"), "address"),
        (lambda address: address.replace("127.0.0.1", "127.0.0.2"), "address"),
        (lambda address: address.replace("http:", "https:"), "address"),
        (lambda address: address.replace("state=", "state=x"), "state"),
        (lambda address: address.replace("iss=http", "iss=https"), "came from"),
        (lambda address: address.split("?")[0], "state"),
        (lambda address: "hello", "address"),
        (lambda address: "http://[", "address"),
    ],
    ids=["path", "host", "scheme", "state", "issuer", "no query", "a word", "no URL at all"],
)
def test_a_wrong_address_is_refused(
    fake_provider: FakeProvider,
    lab: loginonce.Session,
    meet: Meet,
    paste: Paste,
    unsaved: Unsaved,
    change: Callable[[str], str],
    complaint: str,
) -> None:
    human = meet(lambda prompt: None)
    paste(lambda: change(fake_provider.approve(human.prompts[0].url)))
    with pytest.raises(ProtocolError, match=complaint):
        lab.login(flow="paste")
    assert fake_provider.stats.token_requests == 0
    assert unsaved()


@pytest.mark.parametrize("how", [EOFError, KeyboardInterrupt, ""])
def test_nothing_pasted_is_a_sign_in_that_was_cancelled(
    lab: loginonce.Session, meet: Meet, paste: Paste, how: Any
) -> None:
    def read() -> str:
        if how:
            raise how
        return "\n"

    meet(lambda prompt: None)
    paste(read)
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="paste")
    assert caught.value.outcome == "cancelled"


@pytest.mark.parametrize("uri", ["https://service.example.org/callback", "http://127.0.0.1/callback"])
def test_an_address_can_be_pasted_from_any_registered_place(
    fake_provider: FakeProvider, open_session: Open, uri: str
) -> None:
    flow = BrowserFlow(open_session().source.provider, "openid", redirect_uri=uri, receive=False)
    flow.deliver(fake_provider.approve(flow.begin().url))
    assert flow.finish(lambda *_, **__: None).claims["sub"] == "ada"


# ── who signed in ────────────────────────────────────────────────────────────────────────────────────────

TAMPERED: dict[str, Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    "another issuer": lambda c, h: (c | {"iss": "https://evil.example.org"}, h),
    "no issuer": lambda c, h: ({k: v for k, v in c.items() if k != "iss"}, h),
    "another audience": lambda c, h: (c | {"aud": "somebody"}, h),
    "several audiences without ours": lambda c, h: (c | {"aud": ["a", "b"]}, h),
    "another party": lambda c, h: (c | {"azp": "somebody", "aud": [c["aud"], "somebody"]}, h),
    "several audiences and no party": lambda c, h: (
        {k: v for k, v in c.items() if k != "azp"} | {"aud": [c["aud"], "b"]},
        h,
    ),
    "no subject": lambda c, h: ({k: v for k, v in c.items() if k != "sub"}, h),
    "another nonce": lambda c, h: (c | {"nonce": "made-up"}, h),
    "no nonce": lambda c, h: ({k: v for k, v in c.items() if k != "nonce"}, h),
    "expired": lambda c, h: (c | {"exp": c["iat"] - 600, "iat": c["iat"] - 900}, h),
    "no expiry": lambda c, h: ({k: v for k, v in c.items() if k != "exp"}, h),
    "another access token's hash": lambda c, h: (c | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, h),
    "no algorithm": lambda c, h: (c, h | {"alg": "none"}),
    "a MAC with the public key": lambda c, h: (c, h | {"alg": "HS256"}),
}


@pytest.mark.parametrize("how", [*TAMPERED, "another signature"])
def test_a_tampered_id_token_is_refused_and_nothing_is_saved(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, unsaved: Unsaved, how: str
) -> None:
    fake_provider.tamper_id_token = TAMPERED.get(how)
    fake_provider.tamper_signature = how not in TAMPERED
    meet(lambda prompt: fake_provider.approve(prompt.url))
    with pytest.raises(ProtocolError) as caught:
        lab.login(flow="browser")
    assert "eyJ" not in str(caught.value)
    assert unsaved()
    assert lab.account is None


def test_an_unknown_key_is_asked_for_once_more(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginonce.client.time.sleep", lambda _: None)
    fake_provider.faults.add(Fault.answer({"keys": []}), where="jwks")
    meet(lambda prompt: fake_provider.approve(prompt.user_code))
    fake_provider.device_interval = 1
    flow = DeviceFlow(lab.source.provider, "openid")
    fake_provider.approve(flow.begin().user_code)
    assert flow.finish(lambda *_, **__: None).claims["sub"] == "ada"


def test_keys_that_stay_unknown_are_a_refusal(
    fake_provider: FakeProvider, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginonce.client.time.sleep", lambda _: None)
    fake_provider.faults.add(
        Fault.answer({"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA"}, 7]}), where="jwks", times=2
    )
    flow = DeviceFlow(lab.source.provider, "openid")
    fake_provider.approve(flow.begin().user_code)
    with pytest.raises(ProtocolError):
        flow.finish(lambda *_, **__: None)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_keys_that_were_rotated_are_found(fake_provider: FakeProvider, lab: loginonce.Session, algorithm: Any) -> None:
    fake_provider.id_token_alg = algorithm
    for _ in range(2):
        fake_provider.rotate_keys()
        flow = DeviceFlow(lab.source.provider, "openid")
        fake_provider.approve(flow.begin().user_code)
        assert flow.finish(lambda *_, **__: None).claims["sub"] == "ada"


def test_what_the_id_token_leaves_out_comes_from_userinfo(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    def without_name(claims: dict[str, Any], header: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {name: value for name, value in claims.items() if name not in ("name", "email")}, header

    fake_provider.tamper_id_token = without_name
    assert lab.login(tokens=fake_provider.issue()).name == "Ada Lovelace"


@pytest.mark.parametrize(
    "fault",
    [Fault.answer({"sub": "eve", "name": "Eve"}), Fault.answer({"name": "Eve"}), Fault.status(500), Fault.drop_after()],
    ids=["of somebody else", "of nobody", "an error", "no answer"],
)
def test_userinfo_that_is_not_of_this_person_is_not_used_and_stops_nothing(
    fake_provider: FakeProvider, lab: loginonce.Session, fault: Fault
) -> None:
    fake_provider.claims = {}
    fake_provider.faults.add(fault, where="userinfo")
    account = lab.login(tokens=fake_provider.issue())
    assert (account.subject, account.name) == ("ada", "")


@pytest.mark.hazard(35)
def test_less_scope_than_was_asked_for_is_told(
    fake_provider: FakeProvider, open_session: Open, meet: Meet, caplog: pytest.LogCaptureFixture
) -> None:
    fake_provider.issue_scope = "openid"
    meet(lambda prompt: fake_provider.approve(prompt.url))
    open_session(scope="openid admin").login(flow="browser")
    assert "without admin" in caplog.text


# ── which way ────────────────────────────────────────────────────────────────────────────────────────────

BOTH = AuthorizationServer(
    "https://id", authorization_endpoint="https://id/a", device_authorization_endpoint="https://id/d"
)
ONLY_CODE = AuthorizationServer("https://id", authorization_endpoint="https://id/a")
ONLY_DEVICE = AuthorizationServer("https://id", device_authorization_endpoint="https://id/d")
NEITHER = AuthorizationServer("https://id")

DESK = Environment(human=True, browser=True, stdin=True, notebook=False)
SSH = Environment(human=True, browser=False, stdin=True, notebook=False)
KERNEL = Environment(human=True, browser=False, stdin=True, notebook=True)
MUTE = Environment(human=True, browser=False, stdin=False, notebook=True)
NOBODY = Environment(human=False, browser=False, stdin=False, notebook=False)


@pytest.mark.parametrize(
    ("here", "server", "expected"),
    [
        (DESK, BOTH, "browser"),
        (DESK, ONLY_CODE, "browser"),
        (DESK, ONLY_DEVICE, "device"),
        (SSH, BOTH, "device"),
        (SSH, ONLY_CODE, "paste"),
        (KERNEL, BOTH, "device"),
        (KERNEL, ONLY_CODE, "paste"),
        (MUTE, ONLY_DEVICE, "device"),
    ],
)
def test_the_way_follows_from_the_place_and_the_provider(
    here: Environment, server: AuthorizationServer, expected: str
) -> None:
    assert choose(None, server, here, command="run me") == expected


@pytest.mark.parametrize("server", [BOTH, ONLY_CODE, ONLY_DEVICE, NEITHER])
def test_where_nobody_is_nobody_is_asked(server: AuthorizationServer) -> None:
    with pytest.raises(LoginFailed) as caught:
        choose(None, server, NOBODY, command="run me")
    assert caught.value.outcome == "no_human"
    assert "run me" in caught.value.hint


@pytest.mark.parametrize(("here", "server"), [(DESK, NEITHER), (SSH, NEITHER), (MUTE, ONLY_CODE)])
def test_a_provider_that_offers_nothing_here_is_told_with_the_way_out(
    here: Environment, server: AuthorizationServer
) -> None:
    with pytest.raises(LoginFailed) as caught:
        choose(None, server, here, command="run me")
    assert "run me" in caught.value.hint


@pytest.mark.parametrize("named", ["browser", "device", "paste"])
@pytest.mark.parametrize("here", [DESK, NOBODY])
def test_a_way_that_was_named_is_taken_wherever_it_is(
    monkeypatch: pytest.MonkeyPatch, named: str, here: Environment
) -> None:
    assert choose(named, BOTH, here, command="") == named
    monkeypatch.setenv("LOGINONCE_FLOW", named)
    assert choose(None, NEITHER, here, command="") == named
    assert choose("device", BOTH, here, command="") == "device"


@pytest.mark.parametrize("named", ["Browser", "password", "carrier pigeon"])
def test_a_way_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    with pytest.raises(ConfigurationError, match="browser, device or paste"):
        choose(named, BOTH, DESK, command="")
    monkeypatch.setenv("LOGINONCE_FLOW", named)
    with pytest.raises(ConfigurationError, match="browser, device or paste"):
        choose(None, BOTH, DESK, command="")


def test_the_environment_names_the_way_of_a_session(
    lab: loginonce.Session, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", "device")
    human = meet(lambda prompt: None)
    with pytest.raises(LoginFailed):
        lab.login(timeout=0.05)
    assert [prompt.kind for prompt in human.prompts] == ["device"]


def test_without_anybody_there_the_command_to_run_is_named(
    fake_provider: FakeProvider, lab: loginonce.Session, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(LoginFailed) as caught:
        lab.login()
    assert caught.value.outcome == "no_human"
    command = f"loginonce login --issuer {fake_provider.issuer} --client-id notebook --scope 'openid offline_access'"
    assert command in caught.value.hint
    profile = f'[profiles.lab]\nissuer = "{fake_provider.issuer}"\nclient_id = "notebook"\n'
    (loginonce_home / "config.toml").write_text(profile)
    with pytest.raises(LoginFailed, match="loginonce login lab"):
        loginonce.Session("lab").login()


# ── while somebody is asked ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flow", ["browser", "device"])
@pytest.mark.hazard(31)
def test_a_prompt_ends_when_the_login_appears_from_elsewhere(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open, meet: Meet, flow: str
) -> None:
    human = meet(lambda prompt: open_session().login(tokens=fake_provider.issue("grace")))
    began = time.monotonic()
    assert lab.login(flow=flow).subject == "grace"
    assert time.monotonic() - began < 1.5
    assert human.dismissed


@pytest.mark.hazard(31)
def test_a_forced_prompt_ends_too_but_not_for_the_login_that_was_there(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open, meet: Meet
) -> None:
    lab.login(tokens=fake_provider.issue())
    meet(lambda prompt: None)
    with pytest.raises(LoginFailed):
        lab.login(flow="browser", force=True, timeout=0.3)
    meet(lambda prompt: open_session().login(tokens=fake_provider.issue("grace")))
    assert lab.login(flow="browser", force=True).subject == "grace"


@pytest.mark.hazard(31)
def test_a_paste_prompt_ends_when_the_login_appears_from_elsewhere(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open, meet: Meet, paste: Paste
) -> None:
    there = threading.Event()

    def act(prompt: Prompt) -> None:
        open_session().login(tokens=fake_provider.issue("grace"))
        there.set()

    def read() -> str:
        assert there.wait(5)
        time.sleep(0.3)  # the person has seen that it is not needed any more
        return ""

    meet(act)
    paste(read)
    assert lab.login(flow="paste").subject == "grace"


def test_a_prompt_goes_on_when_the_login_from_elsewhere_covers_less(
    fake_provider: FakeProvider, open_session: Open, meet: Meet
) -> None:
    meet(lambda prompt: open_session().login(tokens=fake_provider.issue()))
    with pytest.raises(LoginFailed):
        open_session(scope="openid admin").login(flow="browser", timeout=0.5)


def test_a_log_out_while_somebody_is_asked_does_not_end_the_prompt(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open, meet: Meet
) -> None:
    def act(prompt: Prompt) -> None:
        open_session().logout()
        fake_provider.approve(prompt.url)

    meet(act)
    assert lab.login(flow="browser").subject == "ada"
    assert lab.get(fake_provider.api("/runs")).status_code == 200


CANCELLED = """
import sys, loginonce
lab = loginonce.Session(sys.argv[1], client_id="notebook", scope="openid offline_access")
try:
    lab.login(flow=sys.argv[2])
except loginonce.LoginFailed as error:
    print(error.outcome)
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("flow", ["browser", "device"])
def test_an_interrupt_cancels_at_once(fake_provider: FakeProvider, loginonce_home: Path, flow: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CANCELLED, fake_provider.issuer, flow],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if "Ctrl-C" in line:
                break
        began = time.monotonic()
        program.send_signal(signal.SIGINT)
        out, rest = program.communicate(timeout=10)
    assert time.monotonic() - began < 1.5
    assert (out, rest, program.returncode) == ("cancelled\n", "Not signed in: the sign-in was cancelled\n", 0)


def test_a_prompt_that_cannot_be_shown_leaves_no_port_open(
    lab: loginonce.Session,
) -> None:
    prompts: list[Prompt | None] = []

    class Broken:
        def show(self, progress: Progress) -> None:
            prompts.append(progress.prompt)
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        lab.login(flow="browser", presenter=Broken())
    assert prompts[0] is not None
    assert not is_open(prompts[0])


# ── what a terminal shows ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["browser", "device", "paste"])
def test_the_address_is_on_a_line_of_its_own(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    prompt = Prompt(kind, "https://id", "notebook", "https://id/go?a=1", time.time() + 290, "ABCD-EFGH")
    TextPresenter(out := io.StringIO(), browser=True).show(Progress("pending", prompt))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert prompt.url in lines
    for thread in threading.enumerate():
        if thread.name == "loginonce-browser":
            thread.join()
    assert opened == ([prompt.url] if kind == "browser" else [])
    assert ("ABCD-EFGH" in out.getvalue()) == (kind == "device")
    assert ("5 min" in out.getvalue()) == (kind != "paste")


def test_a_code_to_compare_is_shown_even_where_the_address_holds_it() -> None:
    prompt = Prompt(
        "device", "https://id", "c", "https://id/d", time.time() + 60, "ABCD-EFGH", "https://id/d?c=ABCD-EFGH"
    )
    TextPresenter(out := io.StringIO()).show(Progress("pending", prompt))
    assert "https://id/d?c=ABCD-EFGH" in out.getvalue().split()
    assert "the code is  ABCD-EFGH" in out.getvalue()
    assert "go to https://id/d and" in out.getvalue()


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("loginonce_home")
@pytest.mark.parametrize(
    ("issuer", "kind", "says"),
    [
        ("nosuchprofile", ConfigurationError, "no profile 'nosuchprofile'"),
        ("ftp://id.example.org", ConfigurationError, "https"),
        ("http://id.example.org", ConfigurationError, "https"),
        ("https://", ConfigurationError, "https"),
        ("http://127.0.0.1:1", TransportError, "cannot be reached"),
        ("https://nosuchhost.invalid", TransportError, "cannot be reached"),
    ],
)
def test_an_address_that_is_no_provider_is_told(issuer: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        loginonce.Session(issuer, client_id="notebook").login(flow="device")


BAD_DISCOVERY = {
    "a page": (Fault.status(200, "<html>Welcome"), ProtocolError, "something else than a JSON object"),
    "a list": (Fault.answer([1]), ProtocolError, "something else than a JSON object"),
    "nothing": (Fault.status(200, ""), ProtocolError, "something else than a JSON object"),
    "not found": (Fault.status(404), ProtocolError, "publishes no OpenID or OAuth metadata"),
    "an error": (Fault.status(500), TransportError, "answered with HTTP 500"),
    "a redirect": (
        Fault.status(302, headers={"Location": "https://other"}),
        ProtocolError,
        "redirects to https://other",
    ),
    "another issuer": (Fault.answer({"issuer": "https://other"}), ProtocolError, "https://other"),
    "no issuer": (Fault.answer({"token_endpoint": "https://other/token"}), ProtocolError, "says that it is of ''"),
    "half of it": (Fault.truncate(), TransportError, "cannot be reached"),
    "silence": (Fault.drop_before(), TransportError, "cannot be reached"),
}


@pytest.mark.parametrize("what", BAD_DISCOVERY)
def test_discovery_that_is_none_is_told(
    fake_provider: FakeProvider, lab: loginonce.Session, unsaved: Unsaved, what: str
) -> None:
    fault, kind, says = BAD_DISCOVERY[what]
    fake_provider.faults.add(fault, where="discovery", times=None)
    with pytest.raises(kind, match=says):
        lab.login(flow="browser")
    fake_provider.faults.clear()
    assert lab.source.provider.server.token_endpoint  # nothing wrong was kept
    assert unsaved()


def test_a_provider_whose_end_points_leave_https_is_refused(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    document = {"issuer": fake_provider.issuer, "token_endpoint": "http://id.example.org/token"}
    fake_provider.faults.add(Fault.answer(document), where="discovery", times=2)
    with pytest.raises(ConfigurationError, match="token_endpoint"):
        lab.login(flow="browser")


@pytest.mark.usefixtures("loginonce_home")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "client_id"),
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a", "grant": "implicit"}, "implicit"),
        ({"client_id": "a", "server": {"tokens": "https://id"}}, "tokens"),
        ({"client_id": "a", "server": {"token_endpoint": "http://id.example.org"}}, "token_endpoint"),
        ({"client_id": "a", "store": "ftp://x"}, "store"),
    ],
)
def test_settings_that_make_no_sense_are_told(fake_provider: FakeProvider, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        loginonce.Session(fake_provider.issuer, **given).login(flow="device")


def test_a_client_that_the_provider_does_not_know_is_told(
    fake_provider: FakeProvider, open_session: Open, meet: Meet
) -> None:
    meet(lambda prompt: None)
    with pytest.raises(loginonce.ErrorResponse, match="invalid_client"):
        open_session(client_id="nobody").login(flow="device")


def test_nobody_is_asked_for_what_could_not_be_kept(
    fake_provider: FakeProvider, lab: loginonce.Session, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise loginonce.StoreError("this store keeps nothing")

    monkeypatch.setattr(loginonce.FileStore, "try_lock", refuse)
    human = meet(lambda prompt: None)
    with pytest.raises(loginonce.StoreError, match="keeps nothing"):
        lab.login(flow="device")
    assert human.prompts == []


@pytest.mark.parametrize("flow", [None, "device"])
def test_where_a_prompt_would_not_be_seen_it_is_not_waited_for(
    fake_provider: FakeProvider, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch, flow: str | None
) -> None:
    monkeypatch.setenv("LOGINONCE_ENVIRONMENT", "voila")
    with pytest.raises(LoginFailed, match="shows no prompt") as caught:
        lab.login(flow)
    assert caught.value.outcome == "no_human"
    assert "LoginWidget" in caught.value.hint
