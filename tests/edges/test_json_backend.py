"""A login at a JSON back end, as its user meets it: profiles, a session, the form that asks, no password anywhere."""

from __future__ import annotations

import io
import json
import logging
import pickle
import queue
import re
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loginonce
from canaries import PASSWORD, Canaries
from loginonce import ConfigurationError, ErrorResponse, InvalidGrant, LoginFailed, Session
from loginonce.backend import Backend
from loginonce.cli import commands
from loginonce.config import add_profile, settings
from loginonce.doctor.login import check_sign_in
from loginonce.doctor.provider import ask, check_network, check_provider, known_server
from loginonce.environment import Environment
from loginonce.login import signin
from loginonce.login.flow import Progress, Prompt
from loginonce.login.text import TextPresenter
from loginonce.manners import Place
from loginonce.notebook import html
from loginonce.terminal import TerminalPresenter
from loginonce.testing import FakeProvider, Fault

SOMEBODY = Environment(human=True, browser=False, stdin=True, notebook=False)
NOBODY = Environment(human=False, browser=False, stdin=False, notebook=False)
BASE = "https://shop.example.org"
TABLE = {"login": "/auth/login", "refresh": "/auth/refresh"}


@pytest.fixture
def provider(canaries: Canaries, fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    return fake_provider_factory(users={"ada": PASSWORD})


@pytest.fixture(autouse=True)
def _home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loginonce.environment.detect", lambda: NOBODY)


@pytest.fixture
def shop(provider: FakeProvider) -> Session:
    """A session that nobody has signed in to."""
    return Session(provider.issuer, backend=provider.backend)


@pytest.fixture
def profile(provider: FakeProvider, loginonce_home: Path) -> str:
    (loginonce_home / "config.toml").write_text(
        f'[profiles.shop]\nissuer = "{provider.issuer}"\n[profiles.shop.backend]\n'
        'login = "/auth/login"\nrefresh = "POST /auth/refresh"\nheaders = { "X-Api-Key" = "canary-key-7731" }\n'
    )
    (loginonce_home / "config.toml").chmod(0o600)
    return "shop"


def aged(shop: Session, *, received: float = 60.0, ends_in: float = 240.0) -> None:
    now = time.time()

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = tuple(replace(each, received_at=now - received, expires_at=now + ends_in) for each in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    shop.source.change(older)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_says_all_that_is_needed(provider: FakeProvider, profile: str) -> None:
    shop = Session(profile)
    assert str(shop.login(username="ada", password=PASSWORD)) == "Ada Lovelace"
    assert shop.get(provider.api("/runs")).json()["subject"] == "ada"
    assert Session(profile).account == shop.account


def test_what_makes_no_sense_beside_a_back_end_is_refused() -> None:
    for odd in ({"scope": "openid"}, {"client_secret": "s"}, {"resource": BASE}, {"server": {"token_endpoint": BASE}}):
        with pytest.raises(ConfigurationError, match=f"no {next(iter(odd))}"):
            settings(BASE, backend=TABLE, **odd)
    with pytest.raises(ConfigurationError, match="no grant"):
        settings(BASE, backend=TABLE, grant="client_credentials")
    with pytest.raises(ConfigurationError, match="backend of the session has to be a table"):
        settings(BASE, backend="json")


def test_a_wrong_name_in_a_profile_is_told_with_its_place(loginonce_home: Path) -> None:
    (loginonce_home / "config.toml").write_text(f'[profiles.a]\nissuer = "{BASE}"\nbackend = {{ logn = "/x" }}\n')
    with pytest.raises(ConfigurationError, match=r"the backend of the profile 'a' in .*logn"):
        settings("a")


def test_the_environments_oauth_settings_are_not_a_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ISSUER": BASE, "SCOPE": "openid", "CLIENT_SECRET": "s", "ACCOUNT": "ada"}.items():
        monkeypatch.setenv(f"LOGINONCE_{name}", value)
    made = settings(backend=TABLE)
    assert (made.issuer, made.scope, made.client_secret, made.account) == (BASE, "", None, "ada")
    assert made.grant == "password"


def test_the_command_that_is_told_is_the_exact_one_and_shows_no_secret(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Session(provider.issuer, backend=provider.backend).settings
    keyed = Session(provider.issuer, backend={**provider.backend, "headers": {"X-Api-Key": "canary"}}).settings
    assert "canary" not in keyed.command
    assert "X-Api-Key" in keyed.command
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    assert run(monkeypatch, *shlex.split(plain.command)[1:]) == 0
    assert Session(provider.issuer, backend=provider.backend).logged_in


def test_a_profile_is_saved_as_it_was_given_and_read_again(loginonce_home: Path) -> None:
    table = {**TABLE, "answer": {"access_token": "data.token"}, "refused": [401, "gone"], "headers": {"X-Key": "k"}}
    made = replace(settings(BASE, backend=table), profile="shop")
    add_profile(made)
    assert settings("shop") == made
    add_profile(made)  # the same once more is no contradiction
    with pytest.raises(ConfigurationError, match="another profile"):
        add_profile(replace(made, backend=TABLE))


def test_a_configuration_file_with_a_key_that_others_can_read_is_told(
    profile: str, loginonce_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings(profile)
    assert caplog.text == ""
    (loginonce_home / "config.toml").chmod(0o644)
    settings(profile)
    assert "chmod 600" in caplog.text


def test_the_profile_in_the_readme_is_understood(loginonce_home: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (block,) = [each for each in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if "backend" in each]
    (loginonce_home / "config.toml").write_text(block)
    provider = Session("shop").source.provider
    assert isinstance(provider, Backend)
    assert provider.manners.refresh == Place("PUT", f"{BASE}/auth/token")
    assert provider.manners.refused == {401, "token_revoked"}


# ── a session ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_that_is_refused_is_renewed_and_the_request_sent_again(provider: FakeProvider, shop: Session) -> None:
    shop.login(username="ada", password=PASSWORD)
    aged(shop)
    provider.revoke_access_tokens()
    assert shop.get(provider.api("/runs")).status_code == 200
    assert (provider.stats.refreshes, provider.stats.api_401) == (1, 1)


def test_another_program_finds_the_login_there(provider: FakeProvider, shop: Session) -> None:
    shop.login(username="ada", password=PASSWORD)
    other = Session(provider.issuer, backend=provider.backend)
    assert other.login() == shop.account
    assert other.get(provider.api("/runs")).ok


def test_a_log_out_is_told_to_the_back_end_and_to_every_session(provider: FakeProvider, shop: Session) -> None:
    shop.login(username="ada", password=PASSWORD)
    other = Session(provider.issuer, backend=provider.backend)
    assert shop.logout() == (True, "")
    assert provider.stats.revocations == 1
    with pytest.raises(loginonce.LoginRequired) as caught:
        other.get(provider.api("/runs"))
    assert caught.value.reason == "logged_out"
    assert "--backend" in caught.value.hint


def test_a_pickled_session_of_a_profile_finds_its_settings_and_takes_no_secret_along(
    provider: FakeProvider, profile: str, canaries: Canaries
) -> None:
    canaries.add("client_secret", "canary-key-7731")
    shop = Session(profile)
    shop.login(username="ada", password=PASSWORD)
    pickled = pickle.dumps(shop)
    assert canaries.found_in(pickled) == set()
    other = pickle.loads(pickled)
    assert other.settings == shop.settings
    assert other.get(provider.api("/runs")).ok


def test_a_key_that_only_the_program_knows_is_not_pickled(provider: FakeProvider) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(Session(provider.issuer, backend={**provider.backend, "headers": {"X-Key": "k"}}))
    plain = pickle.loads(pickle.dumps(Session(provider.issuer, backend=provider.backend)))
    assert plain.settings.backend == provider.backend


def test_a_session_for_a_worker_has_the_access_token_alone(provider: FakeProvider, profile: str) -> None:
    shop = Session(profile)
    shop.login(username="ada", password=PASSWORD)
    worker = pickle.loads(pickle.dumps(shop.access_only()))
    assert worker.get(provider.api("/runs")).ok
    assert worker.source.grant().refresh_token is None


def test_a_way_of_oauth_is_refused(shop: Session) -> None:
    with pytest.raises(ConfigurationError, match="knows no OAuth"):
        shop.login("device")


# ── nobody is asked ──────────────────────────────────────────────────────────────────────────────────────


def test_the_environment_signs_in_unattended(provider: FakeProvider, shop: Session, monkeypatch: Any) -> None:
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    assert shop.login().subject == "ada"
    epoch = shop.source.grant().epoch  # type: ignore[union-attr]
    assert shop.login().subject == "ada"
    assert shop.source.grant().epoch == epoch  # type: ignore[union-attr]  # it did not sign in once more


def test_the_account_is_the_user_name_where_the_environment_names_none(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    assert Session(provider.issuer, backend=provider.backend, account="ada").login().subject == "ada"


def test_the_environments_password_is_not_sent_to_another_back_end(
    provider: FakeProvider, shop: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", BASE)
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    with pytest.raises(LoginFailed):
        shop.login()


def test_where_nobody_can_type_the_ways_out_are_named(shop: Session) -> None:
    with pytest.raises(LoginFailed) as caught:
        shop.login()
    assert caught.value.outcome == "no_human"
    assert "LOGINONCE_PASSWORD" in caught.value.hint
    assert "loginonce login" in caught.value.hint


def test_a_wrong_password_that_was_given_is_told_at_once(provider: FakeProvider, shop: Session) -> None:
    with pytest.raises(InvalidGrant, match="bad_credentials"):
        shop.login(username="ada", password="wrong")
    assert shop.account is None


# ── a person is asked ────────────────────────────────────────────────────────────────────────────────────


class Keyboard:
    """What is typed at a terminal, in this order; `asked` is what it was typed to."""

    def __init__(self) -> None:
        self.lines: queue.Queue[str | BaseException] = queue.Queue()
        self.asked: list[str] = []

    def types(self, *lines: str | BaseException) -> None:
        for line in lines:
            self.lines.put(line)

    def read(self, asked: str = "") -> str:
        self.asked.append(asked)
        line = self.lines.get(timeout=10)
        if isinstance(line, BaseException):
            raise line
        return line


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Keyboard:
    keyboard = Keyboard()
    monkeypatch.setattr("loginonce.environment.detect", lambda: SOMEBODY)
    monkeypatch.setattr("builtins.input", keyboard.read)
    monkeypatch.setattr(signin.getpass, "getpass", keyboard.read)
    return keyboard


def test_a_person_types_name_and_password(
    provider: FakeProvider, shop: Session, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard.types(" ada ", PASSWORD)
    assert shop.login(presenter=TextPresenter()).subject == "ada"
    out, err = capsys.readouterr()
    assert out == ""
    assert provider.issuer in err
    assert "Signed in as Ada Lovelace" in err
    assert PASSWORD not in err


def test_who_is_known_is_only_asked_for_the_password(provider: FakeProvider, keyboard: Keyboard) -> None:
    keyboard.types(PASSWORD, PASSWORD)
    shop = Session(provider.issuer, backend=provider.backend, account="ada")
    assert shop.login(presenter=TextPresenter(io.StringIO())).subject == "ada"
    assert shop.login(username="ada", presenter=TextPresenter(io.StringIO())).subject == "ada"
    assert [asked.startswith("Password for ada") for asked in keyboard.asked] == [True, True]


@pytest.mark.parametrize("presenter", [TextPresenter, TerminalPresenter])
def test_a_wrong_password_is_told_and_asked_for_again(
    provider: FakeProvider, shop: Session, keyboard: Keyboard, presenter: Callable[..., Any]
) -> None:
    keyboard.types("ada", "wrong", "ada", PASSWORD)
    assert shop.login(presenter=presenter(out := io.StringIO())).subject == "ada"
    text = " ".join(out.getvalue().split())
    assert text.count("did not accept that: HTTP 401 (bad_credentials, no). Try again.") == 1
    assert text.count("Sign in at") == 1
    assert "Network" not in text


def test_after_three_wrong_passwords_it_is_over(provider: FakeProvider, shop: Session, keyboard: Keyboard) -> None:
    keyboard.types(*["ada", "wrong"] * 4)
    with pytest.raises(LoginFailed) as caught:
        shop.login(presenter=TextPresenter(io.StringIO()))
    assert caught.value.outcome == "rejected"
    assert keyboard.lines.qsize() == 2


def test_an_outage_is_told_and_costs_no_try(provider: FakeProvider, shop: Session, keyboard: Keyboard) -> None:
    provider.faults.add(Fault.status(502), where="login", times=2)
    provider.faults.add(Fault.drop_before(), where="login", times=2)
    keyboard.types(*["ada", PASSWORD] * 5)
    assert shop.login(presenter=TextPresenter(out := io.StringIO())).subject == "ada"
    assert out.getvalue().count("Try again") == 2 + 2


def test_what_is_not_about_the_password_ends_it(provider: FakeProvider, shop: Session, keyboard: Keyboard) -> None:
    provider.faults.add(Fault.answer("<html>", 404), where="login")
    keyboard.types("ada", PASSWORD)
    with pytest.raises(ErrorResponse, match="404"):
        shop.login(presenter=TextPresenter(io.StringIO()))


@pytest.mark.parametrize(
    "typed", [("",), ("ada", ""), (EOFError(),), ("ada", EOFError()), (KeyboardInterrupt(),)], ids=str
)
def test_nothing_typed_is_a_sign_in_that_was_cancelled(shop: Session, keyboard: Keyboard, typed: Any) -> None:
    keyboard.types(*typed)
    with pytest.raises(LoginFailed) as caught:
        shop.login(presenter=TextPresenter(io.StringIO()))
    assert caught.value.outcome == "cancelled"


def test_a_person_who_types_nothing_has_a_deadline(shop: Session, keyboard: Keyboard) -> None:
    sign_in = shop.login(wait=False, timeout=0.2, presenter=TextPresenter(io.StringIO()))
    with pytest.raises(LoginFailed) as caught:
        while not sign_in.done:
            time.sleep(0.01)
        sign_in.wait()
    assert caught.value.outcome == "timed_out"


def test_a_sign_in_elsewhere_ends_the_question(
    provider: FakeProvider, shop: Session, keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Session(provider.issuer, backend=provider.backend)

    def read(_: str = "") -> str:
        other.login(username="ada", password=PASSWORD)
        deadline = time.monotonic() + 10
        while shop.account is None:
            assert time.monotonic() < deadline
        time.sleep(0.3)  # it has been seen meanwhile
        return "x"

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(signin.getpass, "getpass", read)
    assert shop.login(presenter=TextPresenter(io.StringIO())).subject == "ada"
    assert provider.stats.refusals == 0


def test_a_presenter_with_fields_of_its_own_brings_what_was_typed(provider: FakeProvider, shop: Session) -> None:
    seen: queue.Queue[Progress] = queue.Queue()

    class Fields:
        def show(self, progress: Progress) -> None:
            seen.put(progress)

    sign_in = signin.SignIn(shop.source, shop.settings, Fields(), here=SOMEBODY, types=False)
    assert seen.get(timeout=10).prompt.kind == "password"  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="address"):
        sign_in.paste("http://127.0.0.1/")
    entered(sign_in, "ada", "wrong")
    assert "bad_credentials" in seen.get(timeout=10).detail
    entered(sign_in, "ada", PASSWORD)
    assert sign_in.wait().subject == "ada"
    with pytest.raises(ConfigurationError, match="password"):
        sign_in.enter("ada", PASSWORD)


def entered(sign_in: signin.SignIn, username: str, password: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return sign_in.enter(username, password)
        except ConfigurationError:  # not waited for yet
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_form_serves_the_password_grant_of_oauth_too(provider: FakeProvider, keyboard: Keyboard) -> None:
    name, secret = provider.confidential_client
    keyboard.types("ada", "wrong", "ada", PASSWORD)
    lab = Session(provider.issuer, client_id=name, client_secret=secret, grant="password")
    assert lab.login(presenter=TextPresenter(io.StringIO())).subject == "ada"


def test_what_a_notebook_shows_of_the_question() -> None:
    prompt = Prompt("password", BASE, "loginonce", BASE, time.time() + 60)
    pending = Progress("pending", prompt)
    again = replace(pending, detail="not <accepted>")
    assert "shop.example.org" in html.prompt(pending)
    assert "into the prompt" in html.prompt(pending)
    assert "below" in html.prompt(pending, field=True)
    assert "<a " not in html.prompt(pending)
    assert "not &lt;accepted&gt;" in html.status(again, time.time())
    assert "Network" not in html.status(again, time.time())


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────


def run(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return commands.run(words)


def test_a_profile_signs_in_by_standard_input(profile: str, monkeypatch: Any, capsys: Any) -> None:
    assert run(monkeypatch, "login", profile, stdin=f"{PASSWORD}\n") == 2
    assert "--account NAME" in capsys.readouterr().err
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    assert run(monkeypatch, "login", profile, stdin=f"{PASSWORD}\n") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "Signed in as Ada Lovelace" in err


def test_a_profile_signs_in_by_the_environment(profile: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    assert run(monkeypatch, "login", profile) == 0
    assert run(monkeypatch, "token", profile) == 0
    assert len(capsys.readouterr().out.split()) == 1


def test_a_profile_is_made_of_options(provider: FakeProvider, monkeypatch: Any, loginonce_home: Path) -> None:
    monkeypatch.setenv("LOGINONCE_USERNAME", "ada")
    monkeypatch.setenv("LOGINONCE_PASSWORD", PASSWORD)
    given = ("login", "shop", "--issuer", provider.issuer, "--backend")
    assert run(monkeypatch, *given, "{login}") == 2
    assert run(monkeypatch, *given, json.dumps(provider.backend)) == 0
    assert Session("shop").settings.backend == provider.backend
    assert PASSWORD not in (loginonce_home / "config.toml").read_text()
    assert run(monkeypatch, "login", "shop", "--backend", '{"login": "/other"}') == 2


def test_the_doctor_knows_what_it_looks_at(profile: str, provider: FakeProvider) -> None:
    made = Session(profile).settings
    heard, kept = ask(made, 5), known_server(made)
    assert check_network(made, heard).level == "ok"
    assert check_sign_in(made, kept, needed=True).text == "by user name and password"
    provider.stop()
    unheard = ask(made, 5)
    assert not unheard.reached
    assert check_network(made, unheard).level == "wrong"
    for each in (heard, unheard, None):
        told = check_provider(made, each, kept).text
        assert "JSON back end" in told
        assert "/auth/refresh" in told
        assert "canary" not in told


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────


def every_local(error: BaseException) -> str:
    pieces = [str(error), repr(error), repr(vars(error))]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:
            pieces += [f"{frame.f_code.co_name} {name}={value!r}" for name, value in frame.f_locals.items()]
    return "\n".join(pieces)


@pytest.mark.hazard(39)
def test_no_secret_shows_when_something_goes_wrong(
    provider: FakeProvider, profile: str, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    canaries.add("client_secret", "canary-key-7731")
    caplog.set_level(logging.DEBUG)
    shop = Session(profile, policy=loginonce.Policy(refusal_wait=0.0))
    errors = []
    for fault in (
        Fault.status(401),
        Fault.status(500),
        Fault.answer({"jwt": "x"}),
        Fault.answer("<"),
        Fault.drop_after(),
    ):
        provider.faults.add(fault, where="login")
        with pytest.raises(loginonce.LoginonceError) as caught:
            shop.login(username="ada", password=PASSWORD)
        errors.append(caught.value)
    for fault in (Fault.answer({"accessToken": "two words"}), Fault.drop_after(), Fault.status(401)):
        shop.login(username="ada", password=PASSWORD)
        aged(shop, ends_in=-1)
        provider.faults.add(fault)
        with pytest.raises(loginonce.LoginonceError) as caught:
            shop.source.renew()
        errors.append(caught.value)
    assert {"access_token", "refresh_token", "password"} <= canaries.kinds
    for error in errors:
        assert [line.split("=")[0] for line in every_local(error).splitlines() if canaries.found_in(line)] == []
    assert canaries.found_in(caplog.text) == set()
    assert (
        canaries.found_in(repr((shop, shop.settings, shop.source.provider, shop.source.grant(), vars(shop)))) == set()
    )


@pytest.mark.hazard(39)
def test_a_key_in_settings_that_are_wrong_does_not_show(loginonce_home: Path) -> None:
    bad = {**TABLE, "headers": {"X-Key": "canary-key"}, "lifetime": -1}
    (loginonce_home / "config.toml").write_text(
        f'[profiles.a]\nissuer = "{BASE}"\n[profiles.a.backend]\nlogin = "/l"\nlifetime = -1\n'
        'headers = { "X-Key" = "canary-key" }\n'
    )
    for make in (lambda: Session(BASE, backend=bad), lambda: Session("a")):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert "canary-key" not in every_local(caught.value)
