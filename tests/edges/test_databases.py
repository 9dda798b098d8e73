"""A database is named by its address, whose password goes nowhere."""

import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from loginonce import ConfigurationError, Grant, Session
from loginonce.config import add_profile, settings
from loginonce.model import GrantKey
from loginonce.standing import all_standings
from loginonce.stores.opening import open_store

KEY = GrantKey("https://id.example.org", "notebook")
DATABASE = "postgresql+psycopg://ada:pw_canary_77@127.0.0.1:1/logins"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_")]:
        monkeypatch.delenv(name)


def test_a_database_is_opened_by_its_address(tmp_path: Path) -> None:
    assert open_store(DATABASE).location(KEY).startswith("postgresql+psycopg://ada@127.0.0.1:1/logins (table ")
    assert open_store(f"sqlite:///{tmp_path}/logins/db").grants()
    with pytest.raises(ConfigurationError, match="name the whole path"):
        open_store("sqlite:///logins.db")


def test_a_database_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "loginonce.stores.sql", raising=False)
    with pytest.raises(ConfigurationError, match=r"loginonce\[sql\]"):
        open_store(DATABASE)


@pytest.mark.hazard(39)
def test_the_password_of_a_database_is_in_no_repr_command_profile_or_pickle(loginonce_home: Path) -> None:
    made = settings("https://id.example.org", client_id="notebook", profile="lab", store=DATABASE)
    path = add_profile(made)
    add_profile(made)  # the same one, although the file has no password of it
    shown = f"{made!r} {replace(made, profile='').command} {path.read_text()} {pickle.dumps(made)!r}"
    assert "pw_canary" not in shown
    assert "ada@127.0.0.1:1/logins" in shown


@pytest.mark.hazard(15, 39)
def test_a_session_that_is_sent_finds_the_password_of_its_store_there(
    loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session("https://id.example.org", client_id="notebook", store=DATABASE)
    sent = pickle.dumps(session)
    assert b"pw_canary" not in sent
    assert pickle.loads(sent).source.store._url.password is None
    monkeypatch.setenv("LOGINONCE_STORE", DATABASE.replace("127.0.0.1", "other.example.org"))
    assert pickle.loads(sent).source.store._url.password is None  # that of another store is not for this one
    monkeypatch.setenv("LOGINONCE_STORE", DATABASE)
    assert pickle.loads(sent).source.store._url.password == "pw_canary_77"
    assert pickle.loads(sent).source.store.identity == session.source.store.identity


def test_the_state_of_a_login_names_its_place_without_a_password(loginonce_home: Path, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/logins/db"
    add_profile(settings("https://id.example.org", client_id="notebook", profile="lab", store=address))
    Session("lab").source.store.commit(Grant(KEY, 1, scope="openid"), expected=None)
    standings = list(all_standings(time.time()))
    assert [standing.store for standing in standings] == [open_store(address).location(KEY)]
    assert [standing.profile for standing in standings] == ["lab"]
