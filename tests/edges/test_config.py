"""Settings come from the caller, a profile and the environment, in that order; profiles survive being written."""

import os
import pickle
import shlex
import stat
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from loginonce.config import Settings, add_profile, profiles, settings
from loginonce.errors import ConfigurationError
from loginonce.model import GrantKey, Secret
from loginonce.providers import known
from loginonce.refresh import Policy
from loginonce.session import Session
from loginonce.stores.opening import open_store

ISSUER = "https://id.example.org/realms/lab"
KEY = GrantKey(ISSUER, "notebook")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(no_environment: None, loginonce_home: Path) -> Path:
    return loginonce_home / "config.toml"


@pytest.fixture
def lab(file: Path) -> Settings:
    made = Settings(ISSUER, "notebook", scope="openid runs", profile="lab")
    add_profile(made)
    return made


# ── who is heard first ───────────────────────────────────────────────────────────────────────────────────


def test_the_caller_counts_before_the_profile(lab: Settings) -> None:
    assert settings("lab", scope="openid").scope == "openid"
    assert settings("lab").scope == "openid runs"


def test_the_profile_counts_before_the_environment(lab: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_SCOPE", "openid other")
    assert settings("lab").scope == "openid runs"


def test_the_environment_fills_what_nobody_said(lab: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", "from-the-environment")
    assert settings("lab").client_secret == "from-the-environment"


def test_the_environment_alone_describes_a_login(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ISSUER": ISSUER + "/", "CLIENT_ID": "cron", "SCOPE": "runs", "ACCOUNT": "night"}.items():
        monkeypatch.setenv(f"LOGINONCE_{name}", value)
    assert settings() == Settings(ISSUER, "cron", scope="runs", account="night", dialect=known("keycloak"))


def test_the_environment_names_the_profile_only_where_the_caller_names_nothing(
    lab: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_PROFILE", "lab")
    assert settings() == lab
    assert settings("https://elsewhere.example", client_id="x").issuer == "https://elsewhere.example"
    assert settings(issuer="https://elsewhere.example", client_id="x").profile == ""


@pytest.mark.parametrize("foreign", [{"ISSUER": "https://other.example"}, {"CLIENT_ID": "other"}])
def test_the_secret_of_one_client_never_goes_to_another(
    file: Path, monkeypatch: pytest.MonkeyPatch, foreign: dict[str, str]
) -> None:
    for name, value in {"CLIENT_SECRET": "theirs", "SCOPE": "theirs", "STORE": "memory:", **foreign}.items():
        monkeypatch.setenv(f"LOGINONCE_{name}", value)
    made = settings(ISSUER, client_id="notebook")
    assert (made.client_secret, made.scope) == (None, "openid")
    assert made.store == "memory:"  # a place belongs to nobody


# ── what is refused, and how it is told ──────────────────────────────────────────────────────────────────


def test_an_unknown_profile_is_told_with_those_there_are_and_how_to_make_it(lab: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"'lba'.*there are lab.*loginonce login lba --issuer"):
        settings("lba")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[profiles.lab\n", "not valid TOML"),
        ("profiles = 3\n", "table of its own"),
        ("[profiles]\nlab = 'https://x.example'\n", "table of its own"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient = 'x'\n", "mean nothing here: client"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\n", "no client_id"),
        ("[profiles.lab]\nclient_id = 'x'\n", "no issuer"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 7\n", "client_id .* has to be a text"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\nscope = ['a']\n", "scope .* has to be a text"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\ngrant = 'implicit'\n", "'implicit' .* not a grant"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\nserver = 'x'\n", "server .* table"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\npolicy = 3\n", "policy .* table"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\npolicy.patience = 3\n", "not patience"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\npolicy.window = 'soon'\n", "window = 'soon'"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\npolicy.window = -1\n", "window = -1"),
        (f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\npolicy.lost = 'guess'\n", "lost = 'guess'"),
        ("[profiles.lab]\nissuer = 'http://id.example.org'\nclient_id = 'x'\n", "https address"),
        ("[profiles.lab]\nissuer = 'id.example.org'\nclient_id = 'x'\n", "https address"),
        ("[profiles.lab]\nissuer = 'https://[oops'\nclient_id = 'x'\n", "https address"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        settings("lab")


def test_a_file_that_is_no_text_is_told_of(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        profiles()


def test_a_client_secret_in_a_file_open_to_others_is_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginonce.config.log.logger.propagate", True)
    file.write_text(f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\nclient_secret = 'hush'\n")
    file.chmod(0o644)
    settings("lab")
    assert f"chmod 600 '{file}'" in caplog.text
    caplog.clear()
    file.chmod(0o600)
    settings("lab")
    assert not caplog.text


def test_a_client_secret_does_not_show(file: Path) -> None:
    assert "hush" not in repr(settings(ISSUER, client_id="x", client_secret="hush"))


# ── profiles in the file ─────────────────────────────────────────────────────────────────────────────────

FULL = Settings(
    ISSUER,
    "notebook",
    token_endpoint_auth_method="client_secret_post",
    scope="openid runs",
    account='Ada "the first" \\ 😀 \x7f \t é',
    resource="https://api.example.org/",
    redirect_uri="http://127.0.0.1:8123/callback",
    grant="authorization_code",
    store="file:/srv/logins",
    server={"token_endpoint": f"{ISSUER}/t", "grant_types_supported": ["refresh_token"], "x y": True, "n": 1.5},
    policy=Policy(window=60, lost="login", sends_inside_interval=2),
    profile="full",
)


def test_a_profile_comes_back_as_it_was_saved(file: Path) -> None:
    add_profile(FULL)
    assert settings("full") == FULL


def test_a_secret_is_not_saved(file: Path) -> None:
    add_profile(Settings(ISSUER, "x", client_secret=Secret("hush"), profile="svc"))
    assert "hush" not in file.read_text()
    assert settings("svc").client_secret is None


def test_what_is_in_the_file_stays_as_it_is(file: Path) -> None:
    before = "# mine\n[profiles.mine]   # ours\nissuer='https://a.example'\nclient_id='a'"  # no end of line
    file.write_text(before)
    add_profile(Settings(ISSUER, "x", profile="lab"))
    assert file.read_text().startswith(before)
    assert set(profiles()) == {"mine", "lab"}


def test_a_file_that_would_become_invalid_is_left_alone(file: Path) -> None:
    before = "profiles = { mine = { issuer = 'https://a.example', client_id = 'a' } }\n"
    file.write_text(before)
    with pytest.raises(ConfigurationError):
        add_profile(Settings(ISSUER, "x", profile="lab"))
    assert file.read_text() == before


def test_the_same_profile_is_saved_once(lab: Settings, file: Path) -> None:
    before = file.read_text()
    add_profile(lab)
    assert file.read_text() == before


def test_another_profile_of_the_same_name_is_refused(lab: Settings, file: Path) -> None:
    before = file.read_text()
    with pytest.raises(ConfigurationError, match=f"edit it in {file}"):
        add_profile(Settings(ISSUER, "other", profile="lab"))
    assert file.read_text() == before


def test_programs_that_save_at_once_leave_a_valid_file(file: Path) -> None:
    names = ["same"] * 8 + [f"other-{number}" for number in range(8)]
    threads = [threading.Thread(target=add_profile, args=(Settings(ISSUER, "x", profile=name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(tomllib.loads(file.read_text())["profiles"]) == set(names)


def test_a_new_file_is_for_its_owner_alone(lab: Settings, file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.hazard(20)
def test_a_file_that_is_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").touch()
    file.symlink_to(tmp_path / "dotfiles.toml")
    add_profile(Settings(ISSUER, "x", profile="lab"))
    assert file.is_symlink()
    assert "lab" in (tmp_path / "dotfiles.toml").read_text()


def test_a_folder_that_cannot_be_written_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_HOME", "/dev/null/home")
    with pytest.raises(ConfigurationError, match="cannot be saved in /dev/null"):
        add_profile(Settings(ISSUER, "x", profile="lab"))


@pytest.mark.parametrize("name", ["", "my lab", "lab.two", "../lab", "läb", "lab]"])
def test_a_name_that_toml_would_have_to_quote_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a profile's name"):
        add_profile(Settings(ISSUER, "x", profile=name))
    assert not file.exists()


# ── the command for people, and stores ───────────────────────────────────────────────────────────────────


def test_the_command_names_a_profile_if_there_is_one() -> None:
    assert replace(FULL, account="").command == "loginonce login full"
    assert replace(FULL, account="grace").command == "loginonce login full --account grace"


def test_the_command_says_everything_that_matters_and_can_be_pasted_into_a_shell() -> None:
    made = Settings(ISSUER, "x; rm -rf ~", scope="openid runs", account="Ada's")
    words = shlex.split(made.command)
    assert words[:4] == ["loginonce", "login", "--issuer", ISSUER]
    assert words[4:] == ["--client-id", "x; rm -rf ~", "--scope", "openid runs", "--account", "Ada's"]


def test_a_store_on_a_redis_is_opened_by_its_address_and_shown_without_its_password(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "redis://ada:hush@localhost:6390/2"
    made = settings(ISSUER, client_id="x", store=address, profile="lab")
    store = open_store(made.store)
    assert store.location(KEY).startswith("redis://localhost:6390/2 loginonce:record:{")
    add_profile(made)
    add_profile(made)  # the same one, also without its password
    shown = [repr(made), made.command, replace(made, profile="").command, file.read_text(), repr(vars(store))]
    shown += [repr(pickle.dumps(made)), repr(store), store.identity]
    assert not [text for text in shown if "hush" in text]
    assert settings("lab").store == "redis://ada@localhost:6390/2"
    monkeypatch.setenv("LOGINONCE_STORE", address)
    assert "password" in repr(open_store("redis://ada@localhost:6390/2").__dict__["_connecting"])
    assert open_store("redis://ada@localhost:6390/2").__dict__["_connecting"]["password"] == "hush"
    assert open_store("redis://ada@elsewhere:6390/2").__dict__["_connecting"]["password"] is None


def test_a_profile_is_saved_also_where_the_file_system_has_no_locks(
    loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no flock")

    monkeypatch.setattr(fcntl, "flock", flock)
    add_profile(settings("https://id.example.org", client_id="notebook", profile="lab"))
    assert "lab" in profiles()


def test_a_session_that_is_sent_finds_the_password_of_its_store_where_it_arrives(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "redis://:hush@localhost:6390/2"
    sent = pickle.dumps(Session(ISSUER, client_id="x", store=address))
    profiled = f"[profiles.lab]\nissuer = '{ISSUER}'\nclient_id = 'x'\nstore = '{address}'\n"
    file.write_text(profiled)
    of_profile = pickle.dumps(Session("lab"))
    assert b"hush" not in sent + of_profile
    assert pickle.loads(of_profile).settings.store == address
    assert pickle.loads(sent).settings.store == "redis://localhost:6390/2"
    monkeypatch.setenv("LOGINONCE_STORE", address)
    assert pickle.loads(sent).settings.store == address


# ── keys and certificates ────────────────────────────────────────────────────────────────────────────────

PEM = "-----BEGIN PRIVATE KEY-----\nMEECAQ-canary-key\n-----END PRIVATE KEY-----\n"


def test_a_private_key_is_a_path_or_a_text(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert settings(ISSUER, client_id="x", private_key="~/lab.pem").private_key == "/home/ada/lab.pem"
    for text in (PEM, '{"kty": "EC"}'):
        monkeypatch.setenv("LOGINONCE_PRIVATE_KEY", text)
        made = settings(ISSUER, client_id="x").private_key
        assert (isinstance(made, Secret), made) == (True, text.strip())


@pytest.mark.hazard(39)
def test_a_private_key_that_is_a_text_is_neither_shown_nor_saved_nor_sent(file: Path) -> None:
    made = settings(ISSUER, client_id="x", private_key=PEM, profile="lab")
    add_profile(made)
    shown = f"{made!r} {replace(made, profile='').command} {file.read_text()}"
    assert "canary" not in shown
    sent = pickle.dumps(Session(ISSUER, client_id="x", private_key=PEM))
    assert b"canary" not in sent


def test_a_path_and_what_else_is_said_of_the_client_is_saved_and_sent(file: Path) -> None:
    given = {"private_key": "/k.pem", "certificate": "/c.pem", "certificate_key": "/c.key", "dpop": True}
    made = settings(ISSUER, client_id="x", profile="lab", **given)
    add_profile(made)
    assert settings("lab") == made
    add_profile(made)  # once more does no harm
    command = "--private-key /k.pem --certificate /c.pem --certificate-key /c.key --dpop"
    assert replace(made, profile="").command.endswith(command)
    arrived = pickle.loads(pickle.dumps(Session("lab")))
    assert (arrived.settings.private_key, arrived.cert, arrived.settings.dpop) == ("/k.pem", ("/c.pem", "/c.key"), True)


def test_a_key_from_the_environment_is_found_again_where_a_session_arrives(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_PRIVATE_KEY", PEM)
    arrived = pickle.loads(pickle.dumps(Session(ISSUER, client_id="x")))
    assert arrived.settings.private_key == PEM.strip()


@pytest.mark.parametrize(("text", "meant"), [("1", True), ("True", True), ("on", True), ("0", False), ("no", False)])
def test_the_environment_switches_bound_tokens(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str, meant: bool
) -> None:
    monkeypatch.setenv("LOGINONCE_DPOP", text)
    assert settings(ISSUER, client_id="x").dpop is meant
    assert settings(ISSUER, client_id="x", dpop=False).dpop is False


def test_a_switch_that_is_none_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_DPOP", "perhaps")
    with pytest.raises(ConfigurationError, match="dpop"):
        settings(ISSUER, client_id="x")


def test_a_key_in_a_profile_that_others_can_read_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = f'[profiles.lab]\nissuer = "{ISSUER}"\nclient_id = "x"\nprivate_key = """{PEM}"""\n'
    file.write_text(text)
    file.chmod(0o644)
    assert isinstance(settings("lab").private_key, Secret)
    assert "chmod 600" in caplog.text


def test_a_certificate_is_shown_to_the_provider_and_to_apis_that_ask_for_one(file: Path) -> None:
    both = Session(ISSUER, client_id="x", certificate="/both.pem")
    assert (both.cert, both._route().cert) == ("/both.pem", "/both.pem")


@pytest.mark.parametrize("scope", ["mail", "openid mail", "a'b", "$HOME", "~a", "ä", "a%b+c=d:e,f./-_@"])
def test_the_command_for_a_terminal_can_be_typed_as_it_stands(scope: str) -> None:
    made = settings(ISSUER, client_id="notebook", scope=scope)
    words = ["loginonce", "login", "--issuer", ISSUER, "--client-id", "notebook", "--scope", scope]
    assert made.command == shlex.join(words)
