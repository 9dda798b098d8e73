"""`%load_ext loginonce`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernels import Shell

import loginonce
from loginonce.config import add_profile, settings
from loginonce.testing import FakeProvider


@pytest.fixture
def notebook(shell: Shell, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """With the magics, and no session yet."""
    monkeypatch.delenv("LOGINONCE_PROFILE", raising=False)
    shell.run("import loginonce\n%load_ext loginonce")
    yield shell
    shell.run("%unload_ext loginonce")


@pytest.fixture
def profile(fake_provider: FakeProvider, loginonce_home: Path) -> str:
    add_profile(
        settings(
            fake_provider.issuer,
            client_id=fake_provider.public_client_id,
            scope="openid offline_access",
            profile="lab-profile",
        )
    )
    return "lab-profile"


@pytest.fixture
def make(notebook: Shell, fake_provider: FakeProvider) -> Callable[..., loginonce.Session]:
    """Put a session among the notebook's names, signed in or not."""

    def make(name: str, *, signed_in: bool = True, **given: str) -> loginonce.Session:
        session = loginonce.Session(
            fake_provider.issuer, client_id=fake_provider.public_client_id, scope="openid offline_access", **given
        )
        if signed_in:
            session.login(tokens=fake_provider.issue())
        notebook.user_ns[name] = session
        return session

    return make


Make = Callable[..., loginonce.Session]


@pytest.fixture
def complaint(notebook: Shell, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What IPython says in place of running this; nothing else is shown."""

    def complaint(code: str) -> str:
        capsys.readouterr()
        assert notebook.run(code).outputs == []
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("UsageError: ")
        return line

    return complaint


Complaint = Callable[[str], str]


def test_the_one_session_of_the_notebook_is_meant(notebook: Shell, make: Make) -> None:
    make("lab")
    cell = notebook.run("%login")
    assert "Signed in as <strong>Ada Lovelace</strong>" in cell.html()
    assert len(cell.outputs) == 1


def test_a_login_gives_the_account(notebook: Shell, make: Make) -> None:
    make("lab")
    assert "ada" in notebook.run("account = %login\naccount.subject").plain()


def test_two_names_of_one_session_are_one_session(notebook: Shell, make: Make) -> None:
    notebook.user_ns["same"] = make("lab")
    assert "Signed in as" in notebook.run("%login").html()


def test_what_a_cell_resulted_in_is_no_session_of_the_notebook(notebook: Shell, make: Make) -> None:
    make("lab")
    notebook.run("loginonce.Session('https://other.example.org', client_id='other')")
    assert "other.example.org" in repr(notebook.user_ns["_"])
    assert "Signed in as" in notebook.run("%login").html()


def test_of_several_sessions_one_has_to_be_named(notebook: Shell, make: Make, complaint: Complaint) -> None:
    make("lab"), make("shop", account="grace", signed_in=False)
    assert complaint("%login_status").endswith("say which: lab, shop")
    assert "Signed in as" in notebook.run("%login_status lab").html()
    assert "Not signed in" in notebook.run("%login_status shop").html()


def test_a_profile_can_be_named(notebook: Shell, profile: str, fake_provider: FakeProvider) -> None:
    notebook.run(f"loginonce.Session({profile!r}).login(tokens={fake_provider.issue()!r});")
    assert "Signed in as" in notebook.run(f"%login {profile}").html()


def test_the_profile_of_the_environment_is_meant_where_there_is_no_session(
    notebook: Shell, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_PROFILE", profile)
    assert "Not signed in" in notebook.run("%login_status").html()


@pytest.mark.parametrize("magic", ["%login", "%logout", "%login_status"])
def test_without_any_session_it_says_what_to_do(complaint: Complaint, magic: str) -> None:
    assert "there is no session here: make one" in complaint(magic)


def test_a_name_that_is_neither_is_told(complaint: Complaint) -> None:
    assert "nowhere" in complaint("%login nowhere")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%login --flow telepathy", "invalid choice: 'telepathy'"),
        ("%login a b", "unrecognized arguments: b"),
        ("%logout --force", "unrecognized arguments: --force"),
    ],
)
def test_what_is_not_understood_is_told_in_one_line(make: Make, complaint: Complaint, line: str, expected: str) -> None:
    make("lab")
    assert expected in complaint(line)


def test_force_and_flow_are_handed_on(notebook: Shell, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make("lab")
    seen = []
    monkeypatch.setattr(lab, "login", lambda flow, **given: seen.append((flow, given)))
    notebook.run("%login --force --flow paste lab")
    notebook.run("%login")
    assert seen == [("paste", {"force": True}), (None, {"force": False})]


def test_logging_out_says_so(notebook: Shell, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make("lab")
    notebook.run("%logout")
    assert capsys.readouterr().out == f"Signed out of {lab.source.key.issuer}.\n"
    assert lab.account is None


def test_where_nobody_was_signed_in_logging_out_says_so(
    notebook: Shell, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make("lab", signed_in=False)
    notebook.run("%logout")
    assert capsys.readouterr().out == f"Nobody was signed in to {lab.source.key}.\n"


def test_logging_out_says_where_the_login_was_not_revoked(
    notebook: Shell, make: Make, capsys: pytest.CaptureFixture[str], fake_provider: FakeProvider
) -> None:
    make("lab")
    fake_provider.stop()
    notebook.run("%logout lab")
    assert "it was not revoked there" in capsys.readouterr().out


def test_the_status_asks_nobody(notebook: Shell, make: Make, fake_provider: FakeProvider) -> None:
    make("lab")
    fake_provider.stop()
    cell = notebook.run("%login_status")
    assert "renews itself" in cell.html()
    assert "Account(subject='ada'" in cell.plain()


def test_a_login_that_fails_shows_two_lines(notebook: Shell, make: Make) -> None:
    make("lab", signed_in=False)
    notebook.allow_stdin = False
    error = notebook.run("%login").error
    assert error is not None
    assert len(error) == 2


def test_they_can_be_taken_away_again(notebook: Shell) -> None:
    notebook.run("%unload_ext loginonce")
    assert not {"login", "logout", "login_status"} & set(notebook.magics_manager.magics["line"])
    notebook.run("%load_ext loginonce")
    assert {"login", "logout", "login_status"} <= set(notebook.magics_manager.magics["line"])
