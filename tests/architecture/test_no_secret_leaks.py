"""No secret shows where a person, a log, a pickle or a saved notebook could keep it (HAZARDS 39).

The canaries are what the fake provider really issued and was really sent: tokens, codes, verifiers, client secrets
and passwords, collected at its own door.  They are looked for in whatever this library leaves behind.
"""

import base64
import contextlib
import io
import json
import logging
import os
import pickle
import pprint
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import pytest
import requests

import loginonce
from canaries import ISSUED, PASSWORD, SENT, SERVICE_SECRET, Canaries
from loginonce import FileStore, Grant, MemoryStore, Policy, Session, StepUpRequired
from loginonce.authentication import authenticate
from loginonce.config import add_profile
from loginonce.login.browser import BrowserFlow
from loginonce.login.device import DeviceFlow
from loginonce.login.flow import HandedFlow, PasswordFlow, Progress
from loginonce.login.text import TextPresenter
from loginonce.model import AuthorizationServer, Client, Secret
from loginonce.testing import FakeProvider, Fault
from loginonce.wire import Answer, judge_device_authorization, judge_redirect, judge_token


@pytest.fixture
def provider(canaries: Canaries, fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    return fake_provider_factory(users={"ada": PASSWORD}, device_interval=0.05)


@pytest.fixture
def web() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(autouse=True)
def _home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def human(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whoever is asked signs in at once; returns the prompts."""
    prompts: list[Any] = []

    def show(self: TextPresenter, progress: Progress) -> None:
        TextPresenter_show(self, progress)
        prompt = progress.prompt
        if progress.state == "pending" and prompt is not None:
            prompts.append(prompt)
            provider.approve(prompt.user_code or prompt.url)

    TextPresenter_show = TextPresenter.show
    monkeypatch.setattr(TextPresenter, "show", show)
    return prompts


def session(provider: FakeProvider, **options: Any) -> Session:
    return Session(provider.issuer, client_id=provider.public_client_id, scope="openid offline_access", **options)


def service(provider: FakeProvider) -> Session:
    name, secret = provider.confidential_client
    return Session(provider.issuer, client_id=name, client_secret=secret, grant="client_credentials")


def by_password(provider: FakeProvider) -> Session:
    name, secret = provider.confidential_client
    return Session(provider.issuer, client_id=name, client_secret=secret, scope="openid offline_access")


def aged(lab: Session) -> None:
    """Put its token back by a minute: one that has just been received is not renewed for a 401."""

    def older(grant: Grant | None) -> Grant:
        assert grant is not None
        tokens = tuple(replace(token, received_at=token.received_at - 60) for token in grant.tokens)
        return replace(grant, epoch=grant.epoch + 1, tokens=tokens)

    lab.source.change(older)


def issued(provider: FakeProvider, canaries: Canaries, **more: Any) -> dict[str, Any]:
    """A token answer that comes by no door."""
    answer = {**provider.issue(), **more}
    for name in ISSUED:
        canaries.add(name, answer.get(name))
    return answer


@pytest.fixture
def lab(provider: FakeProvider, canaries: Canaries) -> Session:
    """Signed in, with a token that lives."""
    lab = session(provider)
    lab.login(tokens=issued(provider, canaries))
    return lab


@pytest.fixture
def old(provider: FakeProvider, canaries: Canaries) -> Session:
    """Signed in, with a token that has ended: the next request renews it."""
    lab = session(provider, policy=Policy(refusal_wait=0.0, wait_timeout=0.3))
    lab.login(tokens=issued(provider, canaries, expires_in=0.01))
    time.sleep(0.02)
    return lab


def rendered(error: BaseException) -> str:
    """An error as the most talkative renderer shows it: each local variable of each frame, of the whole chain."""
    pieces: list[str] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        pieces += [str(current), repr(current), repr(vars(current)), *map(repr, current.args)]
        pieces += traceback.format_exception(current, chain=False)
        for frame, line in traceback.walk_tb(current.__traceback__):
            if frame.f_code.co_filename != __file__:  # what the caller's own variables hold is the caller's
                for name, value in frame.f_locals.items():
                    with contextlib.suppress(Exception):  # what cannot be shown shows nothing
                        pieces.append(f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name} {name}={value!r}")
        waiting += [current.__cause__, None if current.__suppress_context__ else current.__context__]
        request = getattr(current, "request", None)
        pieces.append(repr(getattr(request, "headers", None)))
    return "\n".join(pieces)


def failure(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    pytest.fail("nothing was raised")


def where(text: str, canaries: Canaries) -> list[str]:
    """The lines that show something: what a failing test prints instead of the secrets."""
    lines = [(line.split("=", 1)[0][-120:], canaries.found_in(line)) for line in text.splitlines()]
    return [f"{kinds} in {line}" for line, kinds in lines if kinds]


# ── the canaries themselves ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(39)
def test_every_kind_of_secret_is_overheard(
    provider: FakeProvider, canaries: Canaries, human: list[Any], web: requests.Session
) -> None:
    session(provider).login("browser")
    session(provider).login("device", force=True)
    by_password(provider).login(username="ada", password=PASSWORD)
    lab = session(provider)
    lab.get(provider.api("/runs"))
    lab.logout()
    assert canaries.kinds == {*SENT, *ISSUED, "Basic credentials"} - {"refresh_token"} | {"refresh_token"}


def test_a_secret_is_found_however_it_is_written(canaries: Canaries) -> None:
    canaries.add("code", "the-code/with+odd=characters")
    for text in ("x the-code/with+odd=characters", quote_plus("the-code/with+odd=characters"), "the-code/with+"):
        assert canaries.found_in(text) == {"code"}
    assert canaries.found_in(base64.b64encode(b"the-code/with+odd=characters")) == {"code"}
    assert canaries.found_in("the-code") == set()


def test_the_renderer_sees_local_variables(canaries: Canaries) -> None:
    error = failure(lambda: json.loads("[" + PASSWORD))
    assert canaries.found_in(rendered(error)) == {"password"}


# ── what is shown of objects ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(39)
def test_no_object_shows_a_secret(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    lab.get(provider.api("/runs"))
    grant, source = lab.source.grant(), lab.source
    assert grant is not None
    machine = service(provider)
    objects: list[Any] = [
        lab, vars(lab), lab.settings, lab.account, lab.auth, vars(lab.auth), source, vars(source), source.store,
        vars(source.store), source.provider, vars(source.provider), source.provider.server, source.snapshot(), grant,
        grant.tokens[0], source.token(), source.memory(), machine, vars(machine), machine.settings,
        machine.source.provider.client, vars(machine.source.provider), lab.headers, lab.cookies,
    ]  # fmt: skip
    for value in objects:
        for show in (repr, str, pprint.pformat):
            assert canaries.found_in(show(value)) == set(), type(value)


@pytest.mark.hazard(39)
def test_no_flow_shows_a_secret(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    name = lab.source.provider
    flows: list[Any] = [
        BrowserFlow(name, "openid"),
        BrowserFlow(name, "openid", receive=False),
        DeviceFlow(name, "openid"),
        PasswordFlow(name, "ada", Secret(PASSWORD)),
        HandedFlow(name, issued(provider, canaries)),
    ]
    for flow in flows:
        prompt = flow.begin()
        verifier = getattr(getattr(flow, "_request", None), "code_verifier", None)
        canaries.add("code_verifier", verifier and str.__str__(verifier))
        assert canaries.found_in(f"{flow!r} {flow} {prompt!r} {pprint.pformat(prompt)}") == set(), type(flow)
        flow.close()
    assert {"code_verifier", "device_code"} <= canaries.kinds


def test_what_a_sign_in_brought_does_not_show(provider: FakeProvider, lab: Session, canaries: Canaries) -> None:
    signed_in = HandedFlow(lab.source.provider, issued(provider, canaries)).finish(lambda *_, **__: None)
    assert canaries.found_in(f"{signed_in!r} {pprint.pformat(signed_in)}") == set()


def test_what_basic_authentication_sends_does_not_show(canaries: Canaries) -> None:
    server = AuthorizationServer("https://x")
    made = authenticate(Client("service", Secret(SERVICE_SECRET)), server, [], now=1.0, jti="j")
    posted = authenticate(
        Client("service", Secret(SERVICE_SECRET), "client_secret_post"), server, [], now=1.0, jti="j"
    )  # fmt: skip
    assert canaries.found_in(f"{made!r} {posted!r}") == set()


def test_no_prompt_prints_a_secret(
    provider: FakeProvider, canaries: Canaries, human: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    session(provider).login("browser")
    session(provider).login("device", force=True)
    out, err = capfd.readouterr()
    assert "Sign in" in out + err
    assert canaries.found_in(out + err) == set()
    assert {"code", "code_verifier", "device_code"} <= canaries.kinds


def test_a_saved_profile_holds_no_secret(provider: FakeProvider, loginonce_home: Path, canaries: Canaries) -> None:
    path = add_profile(replace(by_password(provider).settings, profile="svc"))
    assert canaries.found_in(path.read_bytes()) == set()


@pytest.mark.hazard(39)
def test_only_the_record_holds_tokens(lab: Session, loginonce_home: Path, canaries: Canaries, old: Session) -> None:
    old.source.token()
    lab.logout()
    files = [path for path in loginonce_home.rglob("*") if path.is_file()]
    assert [path.name for path in files if canaries.found_in(path.read_bytes())] == []


# ── what a notebook keeps ────────────────────────────────────────────────────────────────────────────────


def widgets_kept(card: Any) -> str:
    """Every trait of a card and its parts, as programs that run notebooks save them."""
    parts = [card, *card._parts, *(part.layout for part in card._parts)]
    return json.dumps([part.get_state() for part in parts if part.comm is not None], default=str)


@pytest.mark.parametrize("flow", ["device", "paste"])
@pytest.mark.hazard(39)
def test_a_card_never_holds_a_secret_and_in_the_end_no_code_or_link(
    provider: FakeProvider, canaries: Canaries, monkeypatch: pytest.MonkeyPatch, flow: str
) -> None:
    from loginonce.notebook import LoginWidget, html

    prompts: list[Any] = []
    prompt_html = html.prompt
    monkeypatch.setattr(
        html, "prompt", lambda progress, **given: prompts.append(progress.prompt) or prompt_html(progress, **given)
    )
    monkeypatch.setenv("LOGINONCE_FLOW", flow)
    with session(provider) as lab:
        card = LoginWidget(lab)
        card._buttons["Sign in"].click()
        while "loginonce-link" not in widgets_kept(card):
            time.sleep(0.01)
        assert canaries.found_in(widgets_kept(card) + repr(card) + repr(card._repr_mimebundle_())) == set()
        came = provider.approve(prompts[0].user_code or prompts[0].url)
        while lab.account is None or card._sign_in is not None:
            time.sleep(0.01)
        canaries.add("state", parse_qs(urlsplit(prompts[0].url).query).get("state", [None])[0])
        canaries.add("user_code", prompts[0].user_code)
        canaries.add("address", came)
        card._buttons["Renew now"].click()
        while provider.stats.refreshes == 0:
            time.sleep(0.01)
        kept = widgets_kept(card) + repr(card) + repr(card._repr_mimebundle_())
        assert "Signed in as" in kept
        assert "href" not in kept
        assert canaries.found_in(kept) == set()
        card.close()
    assert {"access_token", "refresh_token", "id_token"} <= canaries.kinds


CELLS = """
import loginonce, loginonce.notebook
lab = loginonce.Session({issuer!r}, client_id="notebook", scope="openid offline_access")
lab
---
lab.login()
---
card = loginonce.notebook.LoginWidget(lab)
card
---
lab.get({api!r}).status_code
---
lab.login(force=True)
---
lab.source.renew()
---
lab
---
lab.account
---
pending = lab.login(force=True, wait=False)
pending.wait()
---
lab.source.grant(), vars(lab.source), card
---
lab.logout()
---
lab.get({api!r})
"""


@pytest.mark.real
@pytest.mark.hazard(39)
def test_a_saved_notebook_holds_no_secret_and_no_code(
    provider: FakeProvider, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run by nbclient, with a person at the other end, and saved with the state of its widgets."""
    import nbclient
    import nbformat

    people: list[threading.Thread] = []
    remember = provider.state.add_device_code

    def remembered(code: Any) -> None:
        remember(code)
        canaries.add("user_code", code.user_code)
        people.append(threading.Timer(0.3, provider.approve, (code.user_code,)))
        people[-1].start()

    provider.state.add_device_code = remembered  # type: ignore[method-assign]
    cells = CELLS.format(issuer=provider.issuer, api=provider.api("/runs")).split("---")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name="python3")
    with client.setup_kernel():
        client.kc.allow_stdin = True
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        client.set_widgets_metadata()
    for person in people:
        person.join()
    saved = nbformat.writes(notebook)
    outputs = ["".join(str(output) for output in cell.outputs) for cell in notebook.cells]
    assert "widgets" in notebook.metadata
    assert "Signed in as <strong>Ada Lovelace</strong>" in outputs[1]
    assert "200" in outputs[3]
    assert "LoginRequired: somebody signed out" in outputs[-1]
    assert "Traceback" not in saved
    assert len(people) == 3
    assert "loginonce-link" not in saved
    assert "<svg" not in saved
    assert {"access_token", "refresh_token", "id_token", "device_code", "user_code"} <= canaries.kinds
    out, err = capfd.readouterr()
    assert canaries.found_in(saved + out + err) == set()


# ── what travels to other processes ──────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(15, 39)
def test_a_pickled_session_holds_no_secret(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    lab.get(provider.api("/runs"))
    machine = service(provider)
    machine.login()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert canaries.found_in(pickle.dumps([lab, machine], protocol)) == set()


@pytest.mark.parametrize("path", ["/runs", "/never", "/open"])
@pytest.mark.hazard(15, 39)
def test_a_pickled_answer_of_an_api_holds_no_token(
    lab: Session, provider: FakeProvider, canaries: Canaries, path: str
) -> None:
    answer = lab.get(provider.api(path))
    data = pickle.dumps(answer)
    assert canaries.found_in(data) == set()
    assert pickle.loads(data).status_code == answer.status_code


@pytest.mark.parametrize("path", ["/scope", "/stepup"])
@pytest.mark.hazard(15, 39)
def test_a_pickled_challenge_and_the_answer_it_came_with_hold_no_token(
    lab: Session, provider: FakeProvider, canaries: Canaries, path: str
) -> None:
    with pytest.raises(StepUpRequired) as caught:
        lab.get(provider.api(path))
    assert canaries.found_in("".join(traceback.format_exception(caught.value))) == set()
    data = pickle.dumps(caught.value)
    assert canaries.found_in(data) == set()
    there = pickle.loads(data)
    assert (there.scope, there.acr_values, there.response.status_code) == (
        caught.value.scope,
        caught.value.acr_values,
        caught.value.response.status_code,
    )


def headers_of(response: requests.Response) -> str:
    every = [response, *response.history]
    return " ".join(f"{answer.request.headers} {answer.headers} {answer.request.__dict__}" for answer in every)


def test_the_request_behind_an_answer_holds_no_token(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    target = provider.api("/runs")
    for answer in (
        lab.get(target),
        lab.get(provider.api("/redirect"), params={"to": target}),
        lab.get(provider.api("/never")),
    ):
        assert "Authorization" not in answer.request.headers
        assert all("Authorization" not in earlier.request.headers for earlier in answer.history)
        assert canaries.found_in(headers_of(answer)) == set()
        assert canaries.found_in(pickle.dumps(answer)) == set()


def test_after_a_resend_no_request_holds_a_token(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    provider.revoke_access_tokens()
    aged(lab)
    answer = lab.get(provider.api("/runs"))
    assert (answer.status_code, provider.stats.api_401, provider.stats.refreshes) == (200, 1, 1)
    assert canaries.found_in(headers_of(answer)) == set()
    assert canaries.found_in(pickle.dumps(answer)) == set()


def test_a_prepared_request_holds_no_token_afterwards(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    prepared = lab.prepare_request(requests.Request("GET", provider.api("/runs")))
    assert lab.send(prepared).ok
    assert "Authorization" not in prepared.headers
    assert canaries.found_in(pickle.dumps(prepared)) == set()


def test_the_request_behind_an_answer_by_plain_requests_holds_no_token(
    lab: Session, provider: FakeProvider, web: requests.Session, canaries: Canaries
) -> None:
    answer = web.get(provider.api("/runs"), auth=lab.auth)
    assert "Authorization" not in answer.request.headers
    assert canaries.found_in(pickle.dumps(answer)) == set()


class Leading(requests.adapters.BaseAdapter):
    """An adapter that answers by itself; an address leads to what its query names."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        response = requests.Response()
        response.url, response.request, response.raw = request.url or "", request, io.BytesIO(b"")
        response.status_code, response.connection = self.status, self
        if to := parse_qs(urlsplit(response.url).query).get("to"):
            response.status_code, response.headers["Location"] = 302, to[0]
        return response

    def close(self) -> None:
        pass


def leading(*addresses: str) -> str:
    """The first of them, which leads to the next one, and so on."""
    first, *others = addresses
    return f"{first}?{urlencode({'to': leading(*others)})}" if others else first


HERE, THERE = "https://api.example.org/x", "https://files.example.org/x"


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("addresses", [(HERE, HERE, HERE), (HERE, HERE, THERE), (HERE, THERE, HERE), (HERE, THERE)])
def test_no_request_of_a_redirect_by_plain_requests_holds_a_token(
    lab: Session, web: requests.Session, canaries: Canaries, addresses: tuple[str, ...], status: int
) -> None:
    web.mount("https://", Leading(status))
    prepared = web.prepare_request(requests.Request("GET", leading(*addresses), auth=lab.auth))
    answer = web.send(prepared)
    assert (answer.status_code, len(answer.history)) == (status, len(addresses) - 1)
    assert "Authorization" not in prepared.headers
    assert canaries.found_in(headers_of(answer)) == set()
    data = pickle.dumps(answer)
    assert canaries.found_in(data) == set()
    assert len(pickle.loads(data).history) == len(answer.history)


def test_what_netrc_says_stays_on_the_request_that_it_signed(
    lab: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with requests.Session() as plain:
        plain.mount("https://", Leading())
        answer = plain.get(leading(HERE, THERE, HERE), auth=lab.auth)
    asked = [each.request.headers.get("Authorization") for each in (*answer.history, answer)]
    assert asked == [None, "Basic YTpi", "Basic YTpi"]
    assert len(pickle.loads(pickle.dumps(answer)).history) == 2


def test_no_pickle_of_a_stored_login_exists(lab: Session) -> None:
    for value in (lab.source.grant(), lab.source.token(), lab.source.snapshot()):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(Fault.answer({"error": "invalid_grant"}, 400), loginonce.LoginRequired, id="refused"),
        pytest.param(Fault.drop_after(), loginonce.TransportError, id="answer lost"),
        pytest.param(Fault.drop_before(), loginonce.TransportError, id="dropped"),
        pytest.param(Fault.truncate(), loginonce.TransportError, id="cut short"),
        pytest.param(Fault.garble(), loginonce.TransportError, id="garbled"),
        pytest.param(Fault.status(502, "<html>"), loginonce.TransportError, id="a page of HTML"),
        pytest.param(Fault.rotate_then_status(500), loginonce.TransportError, id="rotated, then 500"),
        pytest.param(Fault.status(503, headers={"Retry-After": "5"}), loginonce.TransportError, id="busy"),
        pytest.param(Fault.answer({"error": "invalid_client"}, 401), loginonce.ConfigurationError, id="our fault"),
        pytest.param(
            Fault.answer({"access_token": PASSWORD + "\n", "refresh_token": PASSWORD}), loginonce.TransportError,
            id="a token that cannot be sent",
        ),
        pytest.param(
            Fault.answer({"access_token": PASSWORD, "token_type": "mac"}), loginonce.ProtocolError, id="an odd type"
        ),
    ],
)  # fmt: skip
@pytest.mark.hazard(39)
def test_a_renewal_that_fails_shows_no_secret(
    old: Session, provider: FakeProvider, canaries: Canaries, fault: Fault, kind: type
) -> None:
    provider.faults.add(fault)
    error = failure(lambda: old.get(provider.api("/runs")))
    assert isinstance(error, kind)
    assert where(rendered(error), canaries) == []


def test_a_provider_that_is_away_shows_no_secret(old: Session, provider: FakeProvider, canaries: Canaries) -> None:
    api = provider.api("/runs")
    provider.stop()
    error = failure(lambda: old.get(api))
    assert isinstance(error, loginonce.TransportError)
    assert where(rendered(error), canaries) == []


def break_record(store: FileStore, lab: Session) -> None:
    path = Path(store.location(lab.source.key))
    path.write_bytes(path.read_bytes()[:-40])


def open_record(store: FileStore, lab: Session) -> None:
    Path(store.location(lab.source.key)).chmod(0o644)


def link_record(store: FileStore, lab: Session) -> None:
    path = Path(store.location(lab.source.key))
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def copy_record(store: FileStore, lab: Session) -> None:
    (Path(store.location(lab.source.key)).parent / "store-id").write_text("another")


@pytest.mark.parametrize("damage", [break_record, open_record, link_record, copy_record])
def test_a_store_that_cannot_be_used_shows_no_secret(
    old: Session, provider: FakeProvider, canaries: Canaries, damage: Callable[[Any, Session], None]
) -> None:
    damage(old.source.store, old)
    fresh = session(provider)
    error = failure(fresh.source.token)
    assert isinstance(error, loginonce.StoreError)
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize("form", ["", "?seal=file:{home}/key"])
@pytest.mark.parametrize("moment", ["marker", "answer"])
def test_a_disk_that_is_full_shows_no_secret(
    provider: FakeProvider,
    canaries: Canaries,
    loginonce_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    moment: str,
) -> None:
    lab = session(provider, store=f"file:{loginonce_home}/logins{form.format(home=loginonce_home)}")
    lab.login(tokens=provider.issue())
    real = os.replace

    def full(source: str, target: str) -> None:
        if str(target).endswith(".login"):
            raise OSError(28, "No space left on device")
        real(source, target)

    if moment == "marker":
        monkeypatch.setattr(os, "replace", full)
        error = failure(lab.source.renew)
    else:
        grant = lab.source.grant()
        assert grant is not None
        monkeypatch.setattr(os, "replace", full)
        error = failure(lambda: lab.source.store.commit(replace(grant, generation=1), expected=grant.order))
    monkeypatch.setattr(os, "replace", real)
    assert isinstance(error, loginonce.StoreError)
    assert where(rendered(error), canaries) == []


def newer_record(store: FileStore, lab: Session) -> None:
    path = Path(store.location(lab.source.key))
    path.write_bytes(path.read_bytes().replace(b"loginonce 1 ", b"loginonce 99 ", 1))


def garbled_record(store: FileStore, lab: Session) -> None:
    path = Path(store.location(lab.source.key))
    path.write_bytes(path.read_bytes().replace(b'"subject"', b'"subjekt"', 1))


@pytest.mark.parametrize("damage", [newer_record, garbled_record])
def test_a_record_that_cannot_be_read_shows_no_secret(
    old: Session, provider: FakeProvider, canaries: Canaries, damage: Callable[[Any, Session], None]
) -> None:
    damage(old.source.store, old)
    error = failure(lambda: session(provider).source.store.load(old.source.key))
    assert isinstance(error, loginonce.StoreError)
    assert where(rendered(error), canaries) == []


def test_a_lock_that_is_held_too_long_shows_no_secret(old: Session, canaries: Canaries) -> None:
    hold = old.source.store.try_lock(old.source.key)
    assert hold is not None
    try:
        error = failure(old.source.token)
    finally:
        hold.release()
    assert isinstance(error, loginonce.LockTimeout)
    assert where(rendered(error), canaries) == []


def test_a_session_that_wants_more_scope_shows_no_secret(
    lab: Session, provider: FakeProvider, canaries: Canaries
) -> None:
    wider = Session(provider.issuer, client_id=provider.public_client_id, scope="openid offline_access admin")
    error = failure(wider.source.token)
    assert isinstance(error, loginonce.LoginRequired)
    assert where(rendered(error), canaries) == []


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_an_api_that_refuses_the_connection_shows_no_token(lab: Session, canaries: Canaries) -> None:
    error = failure(lambda: lab.post(f"http://127.0.0.1:{closed_port()}/runs", data="x"))
    assert isinstance(error, requests.ConnectionError)
    assert error.request is not None
    assert "Authorization" not in error.request.headers
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize(
    "fault", [Fault.drop_before(), Fault.drop_after(), Fault.delay(5)], ids=["drop before", "drop after", "late"]
)
def test_an_api_that_does_not_answer_shows_no_token(
    lab: Session, provider: FakeProvider, canaries: Canaries, fault: Fault
) -> None:
    provider.faults.add(fault, where="api")
    error = failure(lambda: lab.get(provider.api("/runs"), timeout=0.3))
    assert isinstance(error, requests.ConnectionError | requests.Timeout)
    assert error.request is not None
    assert "Authorization" not in error.request.headers
    assert where(rendered(error), canaries) == []


def test_a_resend_that_fails_shows_no_token(lab: Session, provider: FakeProvider, canaries: Canaries) -> None:
    provider.revoke_access_tokens()
    aged(lab)
    provider.faults.add(Fault(), where="api")
    provider.faults.add(Fault.drop_after(), where="api")
    error = failure(lambda: lab.get(provider.api("/runs")))
    assert provider.stats.refreshes == 1
    assert isinstance(error, requests.ConnectionError)
    assert error.request is not None
    assert "Authorization" not in error.request.headers
    assert where(rendered(error), canaries) == []


# ── sign-ins that fail ───────────────────────────────────────────────────────────────────────────────────


def break_exchange(provider: FakeProvider) -> None:
    provider.faults.add(Fault.answer({"error": "invalid_grant"}, 400), where="token")


def lose_exchange(provider: FakeProvider) -> None:
    provider.faults.add(Fault.drop_after(), where="token")


def garble_exchange(provider: FakeProvider) -> None:
    provider.faults.add(Fault.answer({"access_token": PASSWORD + " \n", "refresh_token": PASSWORD}), where="token")


def forge_id_token(provider: FakeProvider) -> None:
    provider.tamper_signature = True


def hide_keys(provider: FakeProvider) -> None:
    provider.faults.add(Fault.status(500), where="jwks", times=None)


TROUBLES = [break_exchange, lose_exchange, garble_exchange, forge_id_token, hide_keys]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_browser_sign_in_that_fails_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, human: list[Any], trouble: Callable[[FakeProvider], None]
) -> None:
    lab = session(provider)
    trouble(provider)
    error = failure(lambda: lab.login("browser"))
    assert isinstance(error, loginonce.LoginonceError)
    assert {"code", "code_verifier"} <= canaries.kinds
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize("trouble", [break_exchange, lose_exchange])
def test_a_pasted_sign_in_that_fails_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, trouble: Callable[[FakeProvider], None]
) -> None:
    trouble(provider)
    flow = BrowserFlow(session(provider).source.provider, "openid", receive=False)
    flow.deliver(provider.approve(flow.begin().url))
    error = failure(lambda: flow.finish(lambda *_, **__: None))
    assert "code" in canaries.kinds
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize(
    "trouble",
    [
        break_exchange,
        garble_exchange,
        forge_id_token,
    ],
)
def test_a_device_sign_in_that_fails_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, human: list[Any], trouble: Callable[[FakeProvider], None]
) -> None:
    lab = session(provider)
    trouble(provider)
    error = failure(lambda: lab.login("device"))
    assert isinstance(error, loginonce.LoginonceError)
    assert "device_code" in canaries.kinds
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_sign_in_by_password_that_fails_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, trouble: Callable[[FakeProvider], None]
) -> None:
    lab = by_password(provider)
    trouble(provider)
    error = failure(lambda: lab.login(username="ada", password=PASSWORD))
    assert isinstance(error, loginonce.LoginonceError)
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize(
    "changed", [{"id_token": "e30.e30.e30"}, {"access_token": "a b"}, {"access_token": None, "refresh_token": 5}]
)
def test_a_sign_in_by_tokens_that_fails_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, changed: dict[str, Any]
) -> None:
    lab = session(provider)
    tokens = {**issued(provider, canaries), **changed}
    error = failure(lambda: lab.login(tokens=tokens))
    assert isinstance(error, loginonce.LoginonceError)
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize("trouble", [break_exchange, lose_exchange])
def test_a_service_that_cannot_sign_in_shows_no_secret(
    provider: FakeProvider, canaries: Canaries, trouble: Callable[[FakeProvider], None]
) -> None:
    lab = service(provider)
    trouble(provider)
    error = failure(lambda: lab.login(force=True))
    assert isinstance(error, loginonce.LoginonceError)
    assert where(rendered(error), canaries) == []


@pytest.mark.parametrize("options", [{"grant": "bogus"}, {"store": "nowhere:"}, {"scope": 5}, {"client_id": None}])
def test_a_session_that_cannot_be_made_shows_no_secret(canaries: Canaries, options: dict[str, Any]) -> None:
    given = {"client_id": "service", "client_secret": SERVICE_SECRET, **options}
    error = failure(lambda: Session("https://id.example.org", **given))
    assert isinstance(error, loginonce.ConfigurationError)
    assert where(rendered(error), canaries) == []


def test_a_session_that_could_not_be_made_can_still_be_shown() -> None:
    assert "Session" in repr(Session.__new__(Session))


REDIRECT = "http://127.0.0.1:8080/callback"


@pytest.mark.parametrize(
    "query",
    [f"?code={PASSWORD}&state=other", f"?code={PASSWORD}&state=st&iss=https://evil", f"?code={PASSWORD}&state=st"],
    ids=["another state", "another issuer", "no issuer"],
)
def test_an_address_that_is_refused_does_not_show_its_code(canaries: Canaries, query: str) -> None:
    server = AuthorizationServer("https://x", authorization_response_iss_parameter_supported=True)
    error = failure(lambda: judge_redirect(REDIRECT + query, state="st", server=server, redirect_uri=REDIRECT))
    assert isinstance(error, loginonce.ProtocolError)
    assert where(rendered(error), canaries) == []


def test_an_answer_that_is_refused_does_not_show_its_tokens(canaries: Canaries) -> None:
    body = json.dumps({"access_token": "a b", "refresh_token": PASSWORD, "id_token": PASSWORD}).encode()
    assert where(rendered(failure(lambda: judge_token(Answer(200, {}, body)))), canaries) == []


def test_a_device_answer_that_is_refused_does_not_show_its_code(canaries: Canaries) -> None:
    body = json.dumps({"device_code": PASSWORD, "user_code": "A", "verification_uri": "javascript:"}).encode()
    assert where(rendered(failure(lambda: judge_device_authorization(Answer(200, {}, body)))), canaries) == []


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────


def of_the_client(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged on this side; the provider's threads are another program's."""
    return [record for record in caplog.records if "process_request_thread" not in (record.threadName or "")]


@pytest.mark.hazard(39)
def test_no_log_at_any_level_holds_a_secret(
    provider: FakeProvider, canaries: Canaries, human: list[Any], caplog: pytest.LogCaptureFixture, loginonce_home: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("loginonce", "urllib3", "requests", "filelock", "authlib", "joserfc"):
        caplog.set_level(logging.DEBUG, logger=name)
    provider.access_token_lifetime = 0.05
    lab = session(provider, policy=Policy(refusal_wait=0.0))
    api = provider.api("/runs")
    lab.login("browser")
    lab.login("device", force=True)
    by_password(provider).login(username="ada", password=PASSWORD)
    time.sleep(0.1)
    lab.get(api)  # renews
    provider.access_token_lifetime = 300
    lab.source.renew()
    provider.revoke_access_tokens()
    lab.get(api)  # 401
    lab.source.renew()
    lab.get(api)
    for fault in (Fault.drop_after(), Fault.status(503), Fault.answer({"error": "invalid_client"}, 401)):
        lab.login(tokens=issued(provider, canaries, expires_in=0.01), force=True)
        time.sleep(0.02)
        provider.faults.add(fault)
        failure(lambda: lab.get(api))
    lab.login(tokens=issued(provider, canaries), force=True)
    failure(lambda: lab.get(f"http://127.0.0.1:{closed_port()}/"))
    provider.revocation = "refuse"
    lab.logout()
    failure(lambda: lab.get(api))
    service(provider).login(force=True)
    lab.login(tokens=issued(provider, canaries, expires_in=0.01), force=True)
    time.sleep(0.02)
    provider.end_sessions()
    failure(lambda: lab.get(api))

    assert {record.name.partition(".")[0] for record in of_the_client(caplog)} >= {"loginonce", "urllib3"}
    assert {"code", "code_verifier", "device_code", "token", "Basic credentials"} <= canaries.kinds
    for record in of_the_client(caplog):
        whole = f"{record.getMessage()} {record.args!r} {record.exc_text} {vars(record)!r}"
        assert canaries.found_in(whole) == set(), record.msg


def test_a_request_that_failed_in_an_unforeseen_way_is_logged_without_secrets(
    old: Session, canaries: Canaries, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*arguments: Any, **more: Any) -> None:
        raise RuntimeError(f"a bug with {list(canaries.known)}")

    monkeypatch.setattr(old.source.provider._transport, "post", explode)
    caplog.set_level(logging.DEBUG)
    error = failure(old.source.token)
    assert "in explode" in caplog.text
    assert canaries.found_in(caplog.text) == set()
    assert where(rendered(error), canaries) == []


def test_a_renewal_in_the_background_that_fails_is_logged_without_secrets(
    provider: FakeProvider, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    def near_its_end(grant: Grant | None) -> Grant:
        assert grant is not None
        now = time.time()
        tokens = tuple(replace(token, received_at=now - 300, expires_at=now + 20) for token in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    lab = session(provider, store=MemoryStore())
    lab.login(tokens=issued(provider, canaries))
    lab.source.change(near_its_end)
    caplog.set_level(logging.DEBUG)
    provider.faults.add(Fault.drop_after())
    lab.source.token()
    for thread in threading.enumerate():
        if thread.name == "loginonce-refresh":
            thread.join(5)
    assert "Lost" in caplog.text
    assert canaries.found_in(repr([vars(record) for record in of_the_client(caplog)])) == set()
