"""Several accounts beside each other, switching among them, a sign-in for the wrong one; and clients of one's own."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from test_login import Human

import loginonce
from loginonce import LoginFailed
from loginonce.cli import commands
from loginonce.testing import FakeProvider

Factory = Callable[..., FakeProvider]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name != "LOGINONCE_HOME"]:
        monkeypatch.delenv(name)
    return loginonce_home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line: exit code, stdout, stderr."""

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdin", io.StringIO(stdin))
            code = commands.run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def profile(home: Path, fake_provider: FakeProvider) -> Path:
    """A profile that nobody has signed in to."""
    file = home / "config.toml"
    file.write_text(
        f"# mine\n[profiles.lab]\nissuer = '{fake_provider.issuer}'\nclient_id = '{fake_provider.public_client_id}'\n"
    )
    return file


@pytest.fixture
def both(profile: Path, fake_provider: FakeProvider) -> FakeProvider:
    """Ada and Grace, signed in under their names."""
    for name in ("ada", "grace"):
        loginonce.Session("lab", account=name).login(tokens=fake_provider.issue(name))
    return fake_provider


def subject(session: loginonce.Session) -> str | None:
    return session.account.subject if session.account else None


# ── beside each other ────────────────────────────────────────────────────────────────────────────────────


def test_one_accounts_log_out_leaves_the_other_signed_in(both: FakeProvider) -> None:
    loginonce.Session("lab", account="ada").logout()
    assert subject(loginonce.Session("lab", account="ada")) is None
    grace = loginonce.Session("lab", account="grace")
    assert grace.get(both.api("/x")).json()["subject"] == "grace"


def test_status_lists_all_accounts_of_a_profile(both: FakeProvider, run: Run) -> None:
    code, out, _ = run("status", "--all", "--json")
    listed = {(each["profile"], each["account"]): each for each in json.loads(out)["logins"]}
    assert code == 0
    assert set(listed) == {("lab", ""), ("lab", "ada"), ("lab", "grace")}
    assert listed["lab", "grace"]["name"] == "Grace Hopper"
    assert listed["lab", ""]["state"] == "login_required"
    code, out, _ = run("status", "--all")
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == [
        "lab",
        "lab, account ada",
        "lab, account grace",
    ]


def test_tenants_beside_each_other_are_told_apart(
    both: FakeProvider, fake_provider_factory: Factory, home: Path, run: Run
) -> None:
    other = fake_provider_factory()
    loginonce.Session(other.issuer, client_id=other.public_client_id).login(tokens=other.issue("grace"))
    _, out, _ = run("status", "--all", "--json")
    found = [(each["profile"], each["issuer"]) for each in json.loads(out)["logins"] if each["state"] == "signed_in"]
    assert sorted(found, key=str) == sorted([("lab", both.issuer), ("lab", both.issuer), (None, other.issuer)], key=str)


@pytest.mark.parametrize("command", ["status", "token", "refresh", "check"])
def test_each_command_takes_an_account(both: FakeProvider, run: Run, command: str) -> None:
    assert run(command, "lab")[0] == 4  # nobody is signed in without a name
    assert run(command, "lab", "--account", "grace")[0] == 0


def test_a_log_out_by_command_is_of_one_account(both: FakeProvider, run: Run) -> None:
    code, _, err = run("logout", "lab", "--account", "ada")
    assert (code, "Signed out" in err) == (0, True)
    assert run("token", "lab", "--account", "ada")[0] == 4
    assert run("token", "lab", "--account", "grace")[0] == 0


def test_a_profile_takes_a_sign_in_of_another_account(both: FakeProvider, run: Run) -> None:
    token = both.issue("ada")["refresh_token"]
    code, _, err = run("login", "lab", "--account", "third", "--refresh-token-stdin", stdin=token)
    assert (code, "Signed in" in err) == (0, True)
    assert subject(loginonce.Session("lab", account="third")) == "ada"


# ── switching ────────────────────────────────────────────────────────────────────────────────────────────


def test_switching_chooses_who_is_meant_where_nobody_is_named(both: FakeProvider, profile: Path, run: Run) -> None:
    code, _, err = run("switch", "lab", "grace")
    assert (code, "means grace now" in err) == (0, True)
    assert subject(loginonce.Session("lab")) == "grace"
    assert subject(loginonce.Session("lab", account="ada")) == "ada"  # who is named counts before
    assert profile.read_text().startswith("# mine\n")
    assert run("switch", "lab", "ada")[0] == 0
    assert subject(loginonce.Session("lab")) == "ada"


def test_switching_to_nobody_names_those_there_are(both: FakeProvider, run: Run) -> None:
    run("switch", "lab", "grace")
    code, out, _ = run("switch", "lab")
    assert code == 0
    assert out.splitlines() == ["  ada  Ada Lovelace", "* grace  Grace Hopper"]


def test_switching_to_somebody_who_has_not_signed_in_says_how_to(both: FakeProvider, profile: Path, run: Run) -> None:
    before = profile.read_text()
    code, _, err = run("switch", "lab", "edsger")
    assert code == 2
    assert "loginonce login lab --account edsger" in err
    assert profile.read_text() == before


def test_switching_outside_a_profile_is_refused(both: FakeProvider, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", both.issuer)
    code, _, err = run("switch")
    assert (code, "name one of lab" in err) == (2, True)


def test_a_session_that_runs_already_stays_with_its_account(both: FakeProvider, run: Run) -> None:
    run("switch", "lab", "ada")
    running = loginonce.Session("lab")
    run("switch", "lab", "grace")
    assert running.get(both.api("/x")).json()["subject"] == "ada"


# ── the wrong account ────────────────────────────────────────────────────────────────────────────────────


def sign_in(session: loginonce.Session, provider: FakeProvider, user: str) -> list[str]:
    """Sign in as that user, and return where the browser was sent."""
    human = Human(lambda prompt: provider.approve(prompt.url, user))
    try:
        session.login("browser", force=True, presenter=human)
    finally:
        human.leave()
    return [prompt.url for prompt in human.prompts]


def test_a_sign_in_for_the_wrong_account_changes_nothing_and_is_told(both: FakeProvider) -> None:
    ada = loginonce.Session("lab", account="ada")
    before = ada.source.grant()
    with pytest.raises(LoginFailed) as caught:
        sign_in(ada, both, "grace")
    assert caught.value.outcome == "rejected"
    assert "as Grace Hopper" in str(caught.value)
    assert "that of Ada Lovelace" in str(caught.value)
    assert ada.source.grant() == before
    assert ada.get(both.api("/x")).json()["subject"] == "ada"
    assert [event.detail for event in both.log if event.kind == "revoked"] == ["refresh_token"]  # what nobody keeps


def test_an_ended_login_is_not_taken_over_by_somebody_else_either(both: FakeProvider) -> None:
    ada = loginonce.Session("lab", account="ada")
    both.end_sessions("ada")
    with pytest.raises(loginonce.LoginRequired):
        ada.source.renew()
    with pytest.raises(LoginFailed, match="wrong|stays as it was"):
        sign_in(ada, both, "grace")
    sign_in(ada, both, "ada")
    assert subject(ada) == "ada"


def test_after_a_log_out_a_name_may_be_anybodys(both: FakeProvider) -> None:
    ada = loginonce.Session("lab", account="ada")
    ada.logout()
    sign_in(ada, both, "grace")
    assert subject(ada) == "grace"


def test_without_a_name_another_person_is_let_in_and_told(
    profile: Path, fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    lab = loginonce.Session("lab")
    lab.login(tokens=fake_provider.issue("ada"))
    sign_in(lab, fake_provider, "ada")
    assert "from now on" not in caplog.text
    sign_in(lab, fake_provider, "grace")
    assert "it was the login of Ada Lovelace, and is that of Grace Hopper from now on" in caplog.text


@pytest.mark.parametrize(("account", "doubt"), [("ada@example.org", False), ("Ada@Example.org", False), ("x@y", True)])
def test_an_address_as_a_name_is_compared_and_shown_to_the_provider(
    profile: Path, fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture, account: str, doubt: bool
) -> None:
    lab = loginonce.Session("lab", account=account)
    (url,) = sign_in(lab, fake_provider, "ada")
    assert parse_qs(urlsplit(url).query)["login_hint"] == [account]
    assert ("who is called ada@example.org there" in caplog.text) == doubt


def test_a_mere_label_is_shown_to_nobody_and_the_next_time_the_provider_is_told_whom_it_means(
    profile: Path, fake_provider: FakeProvider
) -> None:
    lab = loginonce.Session("lab", account="work")
    (first,) = sign_in(lab, fake_provider, "ada")
    (second,) = sign_in(lab, fake_provider, "ada")
    assert "login_hint" not in parse_qs(urlsplit(first).query)
    assert parse_qs(urlsplit(second).query)["login_hint"] == ["ada@example.org"]


# ── a client of one's own, and whether it is alive ───────────────────────────────────────────────────────


@pytest.mark.parametrize("confidential", [False, True])
def test_a_profile_is_made_by_registering_at_a_provider(
    fake_provider_factory: Factory, home: Path, run: Run, confidential: bool
) -> None:
    fake = fake_provider_factory(registration="open")
    more = ["--confidential"] if confidential else []
    code, out, err = run("register", "lab", "--issuer", fake.issuer, "--scope", "openid offline_access", *more)
    assert (code, out) == (0, "")
    assert "loginonce login lab" in err
    lab = loginonce.Session("lab")
    secret = lab.settings.client_secret
    assert (secret is not None) == confidential
    assert secret is None or secret not in (home / "config.toml").read_text()
    kept = list((home / "clients").iterdir())
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]
    sign_in(lab, fake, "ada")
    lab.source.renew()
    assert subject(lab) == "ada"


def test_a_name_that_is_taken_registers_nothing(profile: Path, fake_provider: FakeProvider, run: Run) -> None:
    code, _, err = run("register", "lab", "--issuer", fake_provider.issuer)
    assert (code, "already" in err) == (2, True)
    assert not any(event.kind == "register" for event in fake_provider.log)


def test_the_token_that_lets_us_in_comes_by_standard_input(
    fake_provider_factory: Factory, home: Path, run: Run
) -> None:
    fake = fake_provider_factory(registration="let-me-in")
    assert run("register", "lab", "--issuer", fake.issuer)[0] == 1
    assert not (home / "config.toml").exists()
    arguments = ("register", "lab", "--issuer", fake.issuer, "--initial-access-token-stdin")
    assert run(*arguments, stdin="let-me-in\n")[0] == 0


def test_a_secret_that_somebody_says_counts_before_the_registered_one(
    fake_provider_factory: Factory, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_provider_factory(registration="open")
    run("register", "lab", "--issuer", fake.issuer, "--confidential")
    monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", "said")
    assert loginonce.Session("lab").settings.client_secret == "said"


@pytest.mark.parametrize("as_json", [False, True])
def test_check_says_whether_a_login_is_alive(
    fake_provider_factory: Factory, home: Path, run: Run, as_json: bool
) -> None:
    fake = fake_provider_factory(introspection="ok")
    (home / "config.toml").write_text(f"[profiles.lab]\nissuer = '{fake.issuer}'\nclient_id = 'notebook'\n")
    loginonce.Session("lab").login(tokens=fake.issue())
    more = ["--json"] if as_json else []

    def told() -> tuple[int, Any]:
        code, out, err = run("check", "lab", *more)
        return code, json.loads(out) if as_json else err

    code, said = told()
    assert code == 0
    assert said == {"active": True, "by": "introspection", "detail": ""} if as_json else "alive, by introsp" in said
    fake.introspects_refresh_tokens = False
    assert told()[0] == 5
    fake.end_sessions()
    code, said = told()
    assert code == 4
    assert said["active"] is False if as_json else "ended" in said


def test_a_token_for_an_api_is_printed(profile: Path, fake_provider: FakeProvider, run: Run) -> None:
    files = "https://files.example.org/"
    loginonce.Session("lab", resource=files).login(tokens=fake_provider.issue())
    code, out, _ = run("token", "lab", "--resource", files)
    assert code == 0
    assert out.strip() == loginonce.Session("lab", resource=files).token().access_token
    assert run("token", "lab", "--resource", "https://other.example.org/")[0] == 4
    assert run("token", "lab", "--for-scope", "openid")[0] == 0
