"""The command line keeps its promises to scripts: exit codes, one result on stdout, everything else on stderr."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import loginonce
from loginonce.cli import commands
from loginonce.model import Marker
from loginonce.testing import FakeProvider, Fault

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-W", "error", "-m", "loginonce.cli"]
# Whoever starts the tests in the background may have them ignore interrupts, and children inherit that.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from loginonce.cli import main; main()",
]
MEMBERS = {
    "profile", "issuer", "provider", "client_id", "account", "scope", "state", "reason", "problem", "subject", "name",
    "has_token", "expires_at", "expires_in", "renews", "renewing", "failure", "store",
}  # fmt: skip


@pytest.fixture
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name != "LOGINONCE_HOME"]:
        monkeypatch.delenv(name)
    return loginonce_home


@pytest.fixture
def run(home: Path) -> Run:
    def run(
        *arguments: str, stdin: str = "", command: list[str] = COMMAND, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *arguments],
            check=False,
            input=stdin,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same without a process of its own, which is what takes the time."""

    def here(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdin", io.StringIO(stdin))
            for name, value in environment.items():
                patched.setenv(name, value)
            code = commands.run(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return here


@pytest.fixture
def provider(fake_provider: FakeProvider) -> FakeProvider:
    return fake_provider


def save_profile(home: Path, provider: FakeProvider, name: str = "lab", **more: str) -> None:
    members = {"issuer": provider.issuer, "client_id": provider.public_client_id} | more
    with (home / "config.toml").open("a") as file:
        file.write(f"[profiles.{name}]\n" + "".join(f"{key} = '{value}'\n" for key, value in members.items()))


@pytest.fixture
def lab(home: Path, provider: FakeProvider) -> loginonce.Session:
    """A profile, with somebody signed in."""
    save_profile(home, provider)
    session = loginonce.Session("lab")
    session.login(tokens=provider.issue())
    return session


@pytest.fixture
def waiting(home: Path, provider: FakeProvider) -> Iterator[subprocess.Popen[str]]:
    """A `login --json` that waits for a person."""
    process = subprocess.Popen(
        [*INTERRUPTIBLE, "login", "lab", "--issuer", provider.issuer, "--client-id", provider.public_client_id]
        + ["--flow", "device", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def secrets_of(provider: FakeProvider) -> set[str]:
    """Every token that the provider has ever issued."""
    return {*provider.state._access_tokens, *provider.state._refresh_tokens}


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_login_tells_one_event_a_line_and_saves_its_profile(
    waiting: subprocess.Popen[str], provider: FakeProvider, home: Path, run: Run
) -> None:
    assert waiting.stdout is not None
    pending = json.loads(waiting.stdout.readline())
    assert (pending["event"], pending["kind"]) == ("pending", "device")
    assert not (home / "config.toml").exists()  # only what has worked is saved
    provider.approve(pending["user_code"])
    out, err = waiting.communicate(timeout=20)
    (signed_in,) = map(json.loads, out.splitlines())
    assert (signed_in["event"], signed_in["name"], signed_in["already"]) == ("signed_in", "Ada Lovelace", False)
    assert waiting.returncode == 0
    assert "Signed in as Ada Lovelace" in err
    assert run("profiles").stdout.split() == ["lab", provider.issuer, provider.public_client_id]


def test_a_denied_sign_in_saves_no_profile(waiting: subprocess.Popen[str], provider: FakeProvider, home: Path) -> None:
    assert waiting.stdout is not None
    provider.deny(json.loads(waiting.stdout.readline())["user_code"])
    out, err = waiting.communicate(timeout=20)
    failed = json.loads(out)
    assert (failed["event"], failed["reason"], failed["exit_code"]) == ("failed", "denied", 1)
    assert waiting.returncode == 1
    assert "denied" in err
    assert not (home / "config.toml").exists()


def test_an_interrupted_sign_in_exits_with_130_and_without_a_traceback(waiting: subprocess.Popen[str]) -> None:
    assert waiting.stdout is not None
    waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=10)
    assert waiting.returncode == 130
    assert json.loads(out)["event"] == "failed"
    assert "Traceback" not in err


def test_a_second_login_asks_nobody(lab: loginonce.Session, provider: FakeProvider, here: Run) -> None:
    provider.reset_stats()
    done = here("login", "lab")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Already signed in as Ada Lovelace")
    assert provider.log == []


def test_a_login_takes_the_place_of_one_that_is_damaged(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    Path(lab.source.store.location(lab.source.key)).write_bytes(b"no record")
    refresh_token = provider.issue("grace")["refresh_token"]
    done = here("login", "lab", "--refresh-token-stdin", stdin=refresh_token)
    assert done.returncode == 0
    assert "was damaged" in done.stderr
    assert "Signed in" in done.stderr


def test_a_login_without_anybody_there_exits_with_4(home: Path, provider: FakeProvider, here: Run) -> None:
    done = here("login", "lab", "--issuer", provider.issuer, "--client-id", "x")
    assert (done.returncode, done.stdout) == (4, "")
    assert "nobody is here" in done.stderr


def test_a_login_is_taken_over_by_its_refresh_token(provider: FakeProvider, run: Run) -> None:
    given = ["login", "lab", "--issuer", provider.issuer, "--client-id", provider.public_client_id]
    done = run(*given, "--refresh-token-stdin", stdin=provider.issue()["refresh_token"] + "\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert provider.stats.refreshes == 1  # it was tried at once
    assert run("token").stdout.strip() in secrets_of(provider)


def test_a_refresh_token_that_is_not_good_is_told_of_at_once(home: Path, provider: FakeProvider, here: Run) -> None:
    save_profile(home, provider)
    with (home / "config.toml").open("a") as file:
        file.write("policy.refusal_wait = 0.1\n")
    done = here("login", "lab", "--refresh-token-stdin", stdin="not-a-token\n")
    assert (done.returncode, done.stdout) == (4, "")
    assert "ended at the provider" in done.stderr


def test_a_client_secret_comes_by_stdin_and_is_not_saved(home: Path, provider: FakeProvider, here: Run) -> None:
    client_id, secret = provider.confidential_client
    given = ["login", "svc", "--issuer", provider.issuer, "--client-id", client_id, "--grant", "client_credentials"]
    done = here(*given, "--client-secret-stdin", stdin=secret + "\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert "LOGINONCE_CLIENT_SECRET" in done.stderr
    assert secret not in (home / "config.toml").read_text() + done.stderr
    assert here("refresh", "svc", LOGINONCE_CLIENT_SECRET=secret).returncode == 0


def test_no_option_takes_a_secret(here: Run) -> None:
    for option in ("--client-secret", "--password", "--refresh-token"):
        done = here("login", "lab", option, "hush")
        assert (done.returncode, done.stdout) == (2, "")
        assert "hush" not in done.stderr


def test_a_password_comes_by_stdin_and_only_for_somebody_who_is_named(provider: FakeProvider, here: Run) -> None:
    given = ["login", "lab", "--issuer", provider.issuer, "--client-id", provider.public_client_id]
    done = here(*given, "--grant", "password", stdin="lovelace\n")
    assert done.returncode == 2
    assert "--account NAME" in done.stderr
    done = here(*given, "--grant", "password", "--account", "ada", stdin="lovelace\n")
    assert done.returncode == 1  # this provider knows no such grant; it was asked for the right one
    assert provider.log[-1].grant_type == "password"
    assert "lovelace" not in done.stderr


def test_a_service_with_a_key_of_its_own_and_bound_tokens(here: Run, provider: FakeProvider, tmp_path: Path) -> None:
    from joserfc.jwk import ECKey

    key, path = ECKey.generate_key("P-256"), tmp_path / "robot.pem"
    path.write_bytes(key.as_pem(private=True))
    path.chmod(0o600)
    provider.add_client("robot", public_key=key.as_dict(private=False))
    given = ["login", "robot", "--issuer", provider.issuer, "--client-id", "robot", "--grant", "client_credentials"]
    assert here(*given, "--private-key", str(path), "--dpop").returncode == 0
    assert here("refresh", "robot").returncode == 0
    printed = here("token", "robot")
    assert (printed.returncode, printed.stdout.strip() in secrets_of(provider)) == (0, True)
    assert "bound to a key" in printed.stderr
    assert here("login", "robot", "--dpop", "--private-key", str(path)).returncode == 0  # as the profile says it
    other = here("login", "robot", "--private-key", str(Path(__file__)))
    assert (other.returncode, "private_key" in other.stderr) == (2, True)


def test_an_option_that_contradicts_the_profile_is_a_usage_error(
    lab: loginonce.Session, home: Path, provider: FakeProvider, here: Run
) -> None:
    provider.reset_stats()
    done = here("login", "lab", "--client-id", "other", "--issuer", provider.issuer)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"edit it in {home / 'config.toml'}" in done.stderr
    assert provider.log == []
    assert here("login", "lab", "--issuer", provider.issuer + "/", "--scope", "openid").returncode == 0


# ── the token ────────────────────────────────────────────────────────────────────────────────────────────


def test_token_prints_the_token_and_a_newline_and_nothing_else(
    lab: loginonce.Session, provider: FakeProvider, run: Run
) -> None:
    done = run("token")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{lab.source.token().access_token}\n"


def test_token_renews_what_has_run_out(lab: loginonce.Session, provider: FakeProvider, here: Run) -> None:
    lab.login(tokens={"refresh_token": provider.issue()["refresh_token"]})  # no access token yet
    provider.reset_stats()
    assert here("token").stdout.strip() in secrets_of(provider)
    assert provider.stats.refreshes == 1


def test_token_prints_nothing_where_a_login_is_required(lab: loginonce.Session, run: Run) -> None:
    lab.logout()
    done = run("token")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[1:] == ["Run: loginonce login lab"]


def test_token_prints_nothing_where_the_provider_cannot_be_reached(
    lab: loginonce.Session, provider: FakeProvider, run: Run
) -> None:
    lab.login(tokens={"refresh_token": provider.issue()["refresh_token"]})
    provider.stop()
    done = run("token")
    assert (done.returncode, done.stdout) == (5, "")
    assert "kept" in done.stderr


def test_token_needs_nothing_that_it_does_not_use(lab: loginonce.Session, run: Run) -> None:
    done = run("token", command=[sys.executable, "-X", "importtime", "-m", "loginonce.cli"])
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "loginonce" in imported  # what stands there is what was imported
    assert not imported & {"authlib", "joserfc", "cryptography", "flask", "rich", "filelock", "asyncio", "webbrowser"}


# ── how it stands ────────────────────────────────────────────────────────────────────────────────────────


def test_status_asks_nobody(lab: loginonce.Session, provider: FakeProvider, run: Run) -> None:
    provider.reset_stats()
    done = run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert provider.log == []
    for told in ("lab", "signed in", "Ada Lovelace (ada)", provider.issuer, "4 min)", "by itself", ".login"):
        assert told in done.stdout


def test_status_tells_a_program_everything_and_no_token(
    lab: loginonce.Session, provider: FakeProvider, run: Run
) -> None:
    done = run("status", "--json")
    told = json.loads(done.stdout)
    assert set(told) == {"logins", "error"}
    (login,) = told["logins"]
    assert set(login) == MEMBERS
    assert (login["profile"], login["state"], login["subject"], login["renews"]) == ("lab", "signed_in", "ada", True)
    assert login["expires_in"] == pytest.approx(300, abs=30)
    assert Path(login["store"]).is_file()


def test_status_after_a_log_out_says_why_and_exits_with_4(lab: loginonce.Session, here: Run) -> None:
    lab.logout()
    done = here("status", "lab", "--json")
    (login,) = json.loads(done.stdout)["logins"]
    assert (done.returncode, login["state"], login["reason"]) == (4, "login_required", "logged_out")


def test_status_tells_of_the_last_failure(lab: loginonce.Session, provider: FakeProvider, here: Run) -> None:
    provider.stop()
    assert here("refresh").returncode == 5
    done = here("status", "--json")
    (login,) = json.loads(done.stdout)["logins"]
    assert (done.returncode, login["state"]) == (0, "signed_in")  # the token is still good
    assert login["failure"]["kind"] == "unsent"


def test_status_of_a_renewal_that_has_to_wait_exits_with_5(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    lab.login(tokens={"refresh_token": provider.issue()["refresh_token"]})
    provider.faults.add(Fault.status(503, headers={"Retry-After": "60"}))
    assert here("token").returncode == 5
    done = here("status")
    assert done.returncode == 5
    assert "retry later" in done.stdout


def test_status_of_a_client_that_is_refused_is_an_error_and_asks_nobody_to_sign_in(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    provider.faults.add(Fault.answer({"error": "invalid_client"}, 401))
    with pytest.raises(loginonce.ConfigurationError):
        lab.source.renew()
    grant = lab.source.grant()
    lab.source.change(lambda _: replace(grant, attempt=grant.attempt + 1, tokens=()))
    told = here("status", "--json")
    (login,) = json.loads(told.stdout)["logins"]
    assert (told.returncode, login["state"], login["reason"]) == (1, "error", None)


def test_status_while_another_process_renews_is_no_verdict(lab: loginonce.Session, here: Run) -> None:
    grant = lab.source.grant()
    now = time.time()
    marker = Marker(grant.spendable, "nonce", "elsewhere/1/2/3", now, now + 20, sends=2)
    lab.source.change(lambda _: replace(grant, attempt=grant.attempt + 1, tokens=(), state="SPENDING", marker=marker))
    told = here("status", "--json")
    assert (told.returncode, json.loads(told.stdout)["logins"][0]["state"]) == (0, "signed_in")


def test_status_of_all_tells_of_logins_without_a_profile_and_of_profiles_without_a_login(
    lab: loginonce.Session, home: Path, provider: FakeProvider, here: Run
) -> None:
    save_profile(home, provider, "other", account="somebody")
    save_profile(home, provider, "odd", nonsense="x")
    loginonce.Session(provider.issuer, client_id="elsewhere").login(tokens={"access_token": "at-hand"})
    done = here("status", "--all", "--json")
    logins = {login["profile"]: login for login in json.loads(done.stdout)["logins"]}
    assert done.returncode == 0
    assert {name: login["state"] for name, login in logins.items()} == {
        "lab": "signed_in", "odd": "error", "other": "login_required", None: "signed_in",
    }  # fmt: skip
    assert (logins[None]["client_id"], logins[None]["renews"]) == ("elsewhere", False)
    assert "nonsense" in logins["odd"]["problem"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [("[profiles.lab\n", []), ("", ["nope"]), ("", ["lab", "--all"]), ("[profiles.lab]\n", ["lab"])],
)
def test_status_prints_an_object_even_where_it_fails(home: Path, here: Run, text: str, arguments: list[str]) -> None:
    (home / "config.toml").write_text(text)
    done = here("status", "--json", *arguments)
    told = json.loads(done.stdout)
    assert done.returncode == 2
    assert told["logins"] == []
    assert told["error"]


def test_what_a_provider_calls_somebody_cannot_move_the_cursor(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    provider.claims["ada"] = {"name": "\x1b[2JAda\nroot"}
    lab.login(tokens=provider.issue())
    done = here("status")
    assert "[2JAda root" in done.stdout
    assert "\x1b" not in done.stdout


# ── renewing and signing out ─────────────────────────────────────────────────────────────────────────────


def test_refresh_gets_a_new_token_though_the_old_one_was_good(lab: loginonce.Session, here: Run) -> None:
    before = lab.source.token().access_token
    done = here("refresh")
    assert (done.returncode, done.stdout) == (0, "")
    assert lab.source.token().access_token != before


def test_logout_ends_the_login_here_and_at_the_provider(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    done = here("logout")
    assert (done.returncode, done.stdout) == (0, "")
    assert provider.stats.revocations == 1
    assert lab.account is None
    assert here("logout").returncode == 0  # there is nothing left to do, which is no error


def test_logout_says_so_where_the_provider_did_not_confirm_it(
    lab: loginonce.Session, provider: FakeProvider, here: Run
) -> None:
    provider.stop()
    done = here("logout")
    assert done.returncode == 0
    assert "has not confirmed" in done.stderr
    assert lab.account is None


# ── which login ──────────────────────────────────────────────────────────────────────────────────────────


def test_where_several_could_be_meant_they_are_listed(
    lab: loginonce.Session, home: Path, provider: FakeProvider, here: Run
) -> None:
    save_profile(home, provider, "other", account="x")
    done = here("token")
    assert (done.returncode, done.stdout) == (2, "")
    assert "lab, other" in done.stderr
    assert here("token", LOGINONCE_PROFILE="lab").returncode == 0
    environment = {"LOGINONCE_ISSUER": provider.issuer, "LOGINONCE_CLIENT_ID": provider.public_client_id}
    assert here("token", **environment).stdout == f"{lab.source.token().access_token}\n"


@pytest.mark.parametrize(
    ("arguments", "text", "told"),
    [
        (["token", "nope"], "", "no profile 'nope'"),
        (["token"], "", "no profile yet"),
        (["token"], "[profiles.lab\n", "not valid TOML"),
        (["token", "--json"], "", "--json"),
        (["fly"], "", "fly"),
        (["login", "my lab", "--issuer", "https://x.example", "--client-id", "x"], "", "letters, digits"),
        (["login", "lab", "--issuer", "x.example", "--client-id", "x"], "", "https address"),
        (["login", "lab", "--issuer", "https://x.example"], "", "no client_id"),
        (["login", "--client-secret-stdin", "--refresh-token-stdin"], "", "only one secret"),
        (["login", "https://x.example", "--issuer", "https://y.example"], "", "two issuers"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error_in_two_lines(
    home: Path, here: Run, arguments: list[str], text: str, told: str
) -> None:
    (home / "config.toml").write_text(text)
    done = here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_store_that_is_open_to_others_fails_with_the_command_that_mends_it(
    lab: loginonce.Session, home: Path, here: Run
) -> None:
    (file,) = (home / "logins").glob("*.login")
    file.chmod(0o644)
    done = here("token")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"chmod 600 {shlex.quote(str(file))}" in done.stderr


# ── secrets, and what is not installed ───────────────────────────────────────────────────────────────────


def test_no_token_shows_in_anything_but_token(
    lab: loginonce.Session, provider: FakeProvider, run: Run, here: Run
) -> None:
    handed = provider.issue()["refresh_token"]
    all_done = [
        run("login", "lab", "--refresh-token-stdin", "--json", stdin=handed),
        run("refresh"),
        here("login", "lab", "--json"),
        here("status", "--json"),
        here("status", "--all"),
        here("profiles"),
        here("logout"),
        here("token"),  # nobody is signed in any more
    ]
    shown = "".join(done.stdout + done.stderr for done in all_done)
    assert "Ada Lovelace" in shown
    assert not [secret for secret in secrets_of(provider) if secret in shown]


def test_without_click_the_command_says_what_to_install(run: Run) -> None:
    script = (
        "import sys; sys.modules['click'] = None; from loginonce.cli import main; print('imported'); main(['token'])"
    )
    done = run(command=[sys.executable, "-c", script])
    assert (done.returncode, done.stdout) == (1, "imported\n")
    assert f"{sys.executable} -m pip install 'loginonce[cli]'" in done.stderr


def test_without_flask_or_rich_the_demo_says_what_to_install(run: Run) -> None:
    for missing in ("flask", "rich"):
        script = f"import sys; sys.modules['{missing}'] = None; from loginonce.cli import main; main(['demo'])"
        done = run(command=[sys.executable, "-c", script])
        assert (done.returncode, done.stdout) == (1, "")
        assert f"needs {missing}" in done.stderr
        assert "pip install 'loginonce[demo]'" in done.stderr


def test_the_command_is_installed(run: Run) -> None:
    script = shutil.which("loginonce", path=str(Path(sys.executable).parent))
    assert script is not None
    assert "loginonce" in run("--version", command=[script]).stdout
