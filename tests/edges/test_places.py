"""A login in a sealed store, on the move between stores, and the access token that is handed to a worker."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

import loginonce
from loginonce import FileStore, LoginRequired, SealedStore, SealError, Session, StoreError
from loginonce.cli import commands
from loginonce.config import add_profile, set_member, settings
from loginonce.doctor import examine
from loginonce.errors import ConfigurationError
from loginonce.stores.handed import HandedStore
from loginonce.stores.sealed import KeyFile
from loginonce.testing import FakeProvider

Told = tuple[int, str, str]


@pytest.fixture(autouse=True)
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name != "LOGINONCE_HOME"]:
        monkeypatch.delenv(name)
    return loginonce_home


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def run(*arguments: str) -> Told:
        code = commands.run(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def key(home: Path) -> Path:
    return home / "seal.key"


@pytest.fixture
def lab(fake_provider: FakeProvider, home: Path, key: Path) -> Session:
    """A profile whose login is sealed, with somebody signed in."""
    made = settings(
        fake_provider.issuer,
        client_id=fake_provider.public_client_id,
        store=f"file:{home}/sealed?seal=file:{key}",
        profile="lab",
    )
    add_profile(made)
    session = Session("lab")
    session.login(tokens=fake_provider.issue())
    return session


def secrets_of(provider: FakeProvider) -> set[str]:
    return {*provider.state._access_tokens, *provider.state._refresh_tokens}


def raw(folder: Path) -> str:
    return "".join(path.read_text("latin-1") for path in folder.rglob("*") if path.is_file())


# ── sealed ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(39)
def test_a_sealed_login_is_used_and_renewed_as_any_other_and_shows_in_no_file(
    lab: Session, fake_provider: FakeProvider, home: Path
) -> None:
    assert lab.get(fake_provider.api("/runs")).ok
    lab.source.renew()
    again = Session("lab")
    assert again.get(fake_provider.api("/runs")).ok
    assert str(again.account) == "Ada Lovelace"
    assert secrets_of(fake_provider)
    assert not any(secret in raw(home) for secret in secrets_of(fake_provider))
    assert "Ada Lovelace" not in raw(home)


@pytest.mark.hazard(26)
@pytest.mark.parametrize("how", ["without the key", "with another key", "as if it were not sealed"])
def test_who_cannot_open_a_login_neither_uses_nor_replaces_it(
    lab: Session, fake_provider: FakeProvider, home: Path, key: Path, how: str
) -> None:
    before = raw(home / "sealed"), fake_provider.stats.token_requests
    if how == "without the key":
        key.rename(home / "away")
    elif how == "with another key":
        key.rename(home / "away")
        KeyFile(key).add(first=True)
    store = f"file:{home}/sealed" if how == "as if it were not sealed" else None
    other = Session("lab", store=store)
    for attempt in (
        other.source.token,
        other.source.renew,
        other.login,
        other.logout,
        lambda: other.login(tokens=fake_provider.issue()),
        lambda: other.login(force=True, tokens=fake_provider.issue()),
        lambda: other.account,
    ):
        with pytest.raises(SealError):
            attempt()
    if how != "as if it were not sealed":
        key.unlink(missing_ok=True)
        (home / "away").rename(key)
    assert raw(home / "sealed") == before[0]
    assert Session("lab").get(fake_provider.api("/runs")).ok


def test_the_status_of_a_login_without_its_key_says_whose_it_is_and_what_it_cannot_show(
    lab: Session, key: Path, run: Callable[..., Told]
) -> None:
    code, out, _ = run("status", "lab")
    assert (code, "Ada Lovelace" in out) == (0, True)
    key.rename(f"{key}.away")
    code, out, _ = run("status", "lab")
    assert code == 1
    assert "(user-ada)" in out or "ada" in out
    assert "sealed with the key" in out
    assert "Ada Lovelace" not in out
    code, out, _ = run("status", "--all", "--json")
    (login,) = json.loads(out)["logins"]
    assert (login["profile"], login["state"], login["renews"]) == ("lab", "error", False)


def test_a_sealed_login_without_a_profile_is_listed_too(
    lab: Session, home: Path, run: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").unlink()
    monkeypatch.setenv("LOGINONCE_STORE", f"file:{home}/sealed")
    _, out, _ = run("status", "--all", "--json")
    (login,) = json.loads(out)["logins"]
    assert (login["profile"], login["issuer"], login["state"]) == (None, lab.settings.issuer, "error")
    assert "seal=" in login["problem"]


def test_the_doctor_looks_at_the_place_behind_the_seal(lab: Session) -> None:
    found = {finding.name: finding for finding in examine("lab", offline=True).findings}
    assert "one login; secrets sealed" in found["store"].text
    assert [found[name].level for name in ("store", "access", "disk", "lock", "login")] == ["ok"] * 5


def test_a_new_key_seals_everything_anew(lab: Session, key: Path, run: Callable[..., Told]) -> None:
    code, _, err = run("seal", "lab", "--new-key")
    assert (code, "Sealed anew: 1" in err) == (0, True)
    assert len(key.read_text().split()) == 2
    assert run("seal", "lab")[2].strip() == "Sealed anew: 0"
    assert lab.account is not None


def test_a_store_that_is_not_sealed_cannot_be_sealed_anew(
    fake_provider: FakeProvider, run: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", fake_provider.issuer)
    monkeypatch.setenv("LOGINONCE_CLIENT_ID", "notebook")
    code, _, err = run("seal")
    assert (code, "loginonce move --to" in err) == (2, True)


# ── on the move ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(21)
def test_a_login_moves_without_a_sign_in_and_its_profile_follows(
    lab: Session, fake_provider: FakeProvider, home: Path, run: Callable[..., Told]
) -> None:
    code, out, err = run("move", "lab", "--to", f"file:{home}/new")
    assert (code, out) == (0, "")
    assert f"Moved the login for {lab.source.key} to file:{home}/new" in err
    moved = Session("lab")
    assert moved.settings.store == f"file:{home}/new"
    moved.source.renew()
    assert moved.get(fake_provider.api("/runs")).ok
    assert (fake_provider.stats.replays, fake_provider.stats.refreshes) == (0, 1)
    with pytest.raises(LoginRequired, match=f"was moved to file:{home}/new") as gone:
        lab.source.token()
    assert (gone.value.reason, gone.value.hint) == ("moved", f"Use it there: store='file:{home}/new'")
    assert not lab.logout().revoked  # there is nothing here any more to be revoked
    assert moved.get(fake_provider.api("/runs")).ok
    assert run("move", "lab", "--to", f"file:{home}/new")[0] == 0


def test_the_same_command_finishes_what_was_cut_off(
    lab: Session, fake_provider: FakeProvider, home: Path, run: Callable[..., Told]
) -> None:
    run("move", "lab", "--to", f"file:{home}/new")
    set_member("lab", "store", lab.settings.store)  # as if the mover had ended before it changed the profile
    code, _, err = run("move", "lab", "--to", f"file:{home}/new")
    assert (code, "It had been moved already" in err) == (0, True)
    assert Session("lab").get(fake_provider.api("/runs")).ok


def test_where_the_environment_names_the_new_store_the_login_is_moved_from_the_usual_one(
    home: Path, fake_provider: FakeProvider, run: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_profile(settings(fake_provider.issuer, client_id=fake_provider.public_client_id, profile="plain"))
    Session("plain").login(tokens=fake_provider.issue())
    monkeypatch.setenv("LOGINONCE_STORE", f"file:{home}/new")
    assert Session("plain").source.grant() is None
    code, _, err = run("move", "plain", "--to", f"file:{home}/new")
    assert (code, "Moved the login" in err) == (0, True)
    assert Session("plain").source.grant() is not None
    code, _, err = run("move", "plain", "--to", f"file:{home}/new")
    assert (code, "It had been moved already" in err) == (0, True)


def test_the_store_that_a_login_is_in_can_be_named(home: Path, lab: Session, run: Callable[..., Told]) -> None:
    run("move", "lab", "--to", f"file:{home}/new")
    set_member("lab", "store", f"file:{home}/third")
    code, _, err = run("move", "lab", "--from", f"file:{home}/new", "--to", f"file:{home}/third")
    assert (code, "Moved the login" in err) == (0, True)
    assert Session("lab").source.token()


def test_who_moves_one_of_several_accounts_is_told_how_to_move_the_others(
    home: Path, lab: Session, fake_provider: FakeProvider, run: Callable[..., Told]
) -> None:
    for account in ("ada", "grace"):
        Session("lab", account=account).login(tokens=fake_provider.issue())
    Session("lab", account="grace").logout()
    Session("lab", account="finn").login(tokens=fake_provider.issue())
    unnamed = lab.source.token()
    code, _, err = run("move", "lab", "--to", f"file:{home}/new")
    told = [line.partition(" is still in ")[0] for line in err.splitlines() if "is still in" in line]
    assert (code, told) == (0, ["The account ada", "The account finn"])  # not grace, who has signed out
    here, there = lab.settings.store, f"file:{home}/new"
    for account, left in (("ada", 1), ("finn", 0)):
        code, _, err = run("move", "lab", "--account", account, "--from", here, "--to", there)
        assert (code, err.count("is still in")) == (0, left)
        assert Session("lab", account=account).get(fake_provider.api("/runs")).ok
    assert Session("lab").source.token() == unnamed


def test_a_store_that_does_not_answer_keeps_no_other_login_from_being_listed(
    home: Path, lab: Session, run: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LOGINONCE_STORE", f"redis://127.0.0.1:{nobody.getsockname()[1]}/0")
        set_member("lab", "store", f"file:{home}/logins")
        code, out, _ = run("status", "--all")
    assert code == 0
    assert "signed in" in out and "error: the logins at redis://127.0.0.1:" in out


def test_a_login_without_a_profile_moves_and_what_to_set_is_said(
    fake_provider: FakeProvider, home: Path, run: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", fake_provider.issuer)
    monkeypatch.setenv("LOGINONCE_CLIENT_ID", fake_provider.public_client_id)
    Session().login(tokens=fake_provider.issue())
    code, _, err = run("move", "--to", f"file:{home}/new")
    assert (code, "LOGINONCE_STORE" in err) == (0, True)
    assert Session(store=f"file:{home}/new").get(fake_provider.api("/runs")).ok


def test_where_there_is_no_login_there_is_nothing_to_move(home: Path, lab: Session, run: Callable[..., Told]) -> None:
    lab.logout()
    code, _, err = run("move", "lab", "--to", f"file:{home}/new")
    assert (code, "nothing to move" in err) == (4, True)
    assert Session("lab").settings.store == lab.settings.store


TABLES = """# mine
[profiles.other]  # first
issuer = "https://x.example"
client_id = "x"

[profiles.lab]   # the lab's
client_id = "notebook"  # registered
{store}issuer = "https://id.example.org"

[profiles.lab.policy]
window = 10
"""


@pytest.mark.parametrize("store", ["", 'store = "memory:"\n'])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_profiles_store_is_changed_and_nothing_else(home: Path, store: str, line_end: str) -> None:
    home.mkdir(exist_ok=True)
    file = home / "config.toml"
    text = TABLES.format(store=store).replace("\n", line_end)
    file.write_bytes(text.encode())
    file.chmod(0o640)
    before = tomllib.loads(text)
    before["profiles"]["lab"]["store"] = 'file:/a "b"'
    set_member("lab", "store", 'file:/a "b"')
    after = file.read_bytes().decode()
    assert tomllib.loads(after) == before
    kept = [line for line in text.split(line_end) if not line.startswith("store")]
    assert [line for line in after.split(line_end) if not line.startswith("store")] == kept
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.hazard(20)
def test_a_configuration_that_is_a_link_stays_one(home: Path, tmp_path: Path) -> None:
    home.mkdir(exist_ok=True)
    (tmp_path / "dotfile.toml").write_text(TABLES.format(store=""))
    (home / "config.toml").symlink_to(tmp_path / "dotfile.toml")
    set_member("lab", "store", "keyring:")
    assert (home / "config.toml").is_symlink()
    assert settings("lab").store == "keyring:"


@pytest.mark.parametrize(
    "text",
    [
        '[profiles]\nlab = {issuer = "https://x.example", client_id = "x"}\n',
        '[profiles.lab]\nissuer = "https://x.example"\nclient_id = """\n[x]\nstore = 1\n"""\nstore = \'memory:\'\n',
    ],
)
def test_a_profile_that_is_written_in_another_way_is_left_and_what_to_write_is_said(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigurationError, match='write store = "keyring:" under'):
        set_member("lab", "store", "keyring:")
    assert (home / "config.toml").read_text() == text


def test_a_profile_that_is_not_there_or_cannot_be_written_is_told(
    lab: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="no profile 'lba'"):
        set_member("lba", "store", "keyring:")

    def refuse(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ConfigurationError, match=r"full.*write store"):
        set_member("lab", "store", "keyring:")


# ── handed to a worker ───────────────────────────────────────────────────────────────────────────────────


def call(session: Session, url: str) -> tuple[int, str]:
    """What a worker does, on a machine where nobody has ever been signed in."""
    os.environ["LOGINONCE_HOME"] = "/nonexistent/of/a/worker"
    try:
        return session.get(url).status_code, ""
    except LoginRequired as error:
        return 0, f"{error.reason}: {error}"


@pytest.mark.hazard(15)
def test_a_worker_without_any_store_uses_the_token_that_it_was_handed(
    lab: Session, fake_provider: FakeProvider
) -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(call, [lab.access_only(), fake_provider.api("/runs")]) == (200, "")
        handed = lab.access_only()
        fake_provider.revoke_access_tokens()
        lab.source.store.commit(_older(lab), expected=lab.source.grant().order)  # type: ignore[union-attr]
        status, told = pool.apply(call, [_aged(handed), fake_provider.api("/runs")])
    assert status == 0
    assert told.startswith("expired: ")
    assert "hand out a new one" in told
    assert fake_provider.stats.token_requests == 0


def _older(session: Session) -> loginonce.Grant:
    grant = session.source.grant()
    assert grant is not None
    tokens = tuple(replace(token, received_at=token.received_at - 60) for token in grant.tokens)
    return replace(grant, attempt=grant.attempt + 1, tokens=tokens)


def _aged(handed: Session) -> Session:
    """With a token that is not so new that a refusal of it would be believed."""
    (grant,) = handed.source.store.grants()
    tokens = tuple(replace(token, received_at=token.received_at - 60) for token in grant.tokens)
    handed.source.store._grant = replace(grant, tokens=tokens)  # type: ignore[attr-defined]
    return handed


@pytest.mark.hazard(39)
def test_what_is_handed_over_holds_the_access_token_and_no_other_secret(
    lab: Session, fake_provider: FakeProvider
) -> None:
    grant = lab.source.grant()
    assert grant is not None
    handed = lab.access_only()
    data = pickle.dumps(handed).decode("latin-1")
    assert grant.tokens[0].access_token in data
    assert grant.refresh_token not in (None, "")
    for secret in (grant.refresh_token, grant.tokens[0].id_token, "Ada Lovelace"):
        assert str(secret) not in data
    shown = f"{handed!r} {handed.source!r} {handed.source.store!r} {handed.source.grant()!r}"
    assert grant.tokens[0].access_token not in shown
    assert lab.source.store.identity not in data


def test_who_was_handed_a_token_neither_signs_in_nor_out_nor_renews(lab: Session, fake_provider: FakeProvider) -> None:
    handed = pickle.loads(pickle.dumps(lab.access_only()))
    with pytest.raises(LoginRequired, match="nobody signs in"):
        handed.login(tokens=fake_provider.issue())
    with pytest.raises(StoreError, match="handed an access token"):
        handed.logout()
    with pytest.raises(LoginRequired, match="hand out a new one"):
        handed.source.renew()
    assert handed.logged_in
    assert handed.account.subject == lab.account.subject  # type: ignore[union-attr]
    assert lab.get(fake_provider.api("/runs")).ok
    assert fake_provider.stats.token_requests == 0


def test_a_handed_store_holds_one_login_and_changes_nothing(lab: Session) -> None:
    store = lab.access_only().source.store
    assert isinstance(store, HandedStore)
    key = lab.source.key
    other = replace(key, account="else")
    assert (store.load(other).grant, store.stamp(other), store.notice(key)) == (None, None, None)
    assert len([*store.grants()]) == 1
    assert "handed" in store.location(key)
    for attempt in (lambda: store.try_lock(key), lambda: store.post(key, b"", instead_of=None)):
        with pytest.raises(StoreError):
            attempt()


def test_a_token_near_its_end_is_renewed_before_it_is_handed_over(lab: Session, fake_provider: FakeProvider) -> None:
    grant = lab.source.grant()
    assert grant is not None
    old = replace(
        grant.tokens[0], received_at=grant.tokens[0].received_at - 295, expires_at=grant.tokens[0].received_at + 5
    )
    lab.source.change(lambda _: replace(grant, attempt=grant.attempt + 1, tokens=(old,)))
    (handed,) = lab.access_only().source.store.grants()
    assert handed.tokens[0].access_token != old.access_token
    assert fake_provider.stats.refreshes == 1


def test_a_caller_of_its_own_authentication_keeps_it(lab: Session) -> None:
    lab.auth = None
    assert lab.access_only().auth is None


@pytest.mark.parametrize("address", ["file:{home}/sealed?seal=file:{key}", "?seal=file:{key}"])
def test_a_pickled_session_of_a_sealed_store_opens_it_where_it_arrives(
    fake_provider: FakeProvider, home: Path, key: Path, address: str
) -> None:
    store = address.format(home=home, key=key)
    session = Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=store)
    session.login(tokens=fake_provider.issue())
    given = Session(
        fake_provider.issuer,
        client_id=fake_provider.public_client_id,
        store=SealedStore(FileStore(session.source.store.identity.removeprefix("file:")), f"file:{key}"),
    )
    data = [pickle.dumps(one) for one in (session, given)]
    assert not any(secret.encode() in one for one in data for secret in (*secrets_of(fake_provider), key.read_text()))
    code = (
        "import pickle, sys;"
        "print([pickle.loads(bytes.fromhex(one)).get(sys.argv[1]).status_code for one in sys.argv[2:]])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, fake_provider.api("/runs"), *(one.hex() for one in data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == "[200, 200]"
