"""A session that tells of changes, and stays fresh while nobody uses it."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import loginonce
from loginonce import Change
from loginonce.testing import FakeProvider

PATIENCE = 20.0
QUICK = loginonce.Policy(refusal_wait=0.0)


@pytest.fixture
def lab(fake_provider: FakeProvider, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session that nobody has signed in yet."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, policy=QUICK)
    yield session
    session.close()
    until(lambda: not ours())


@pytest.fixture
def other(fake_provider: FakeProvider, loginonce_home: Path) -> loginonce.Session:
    """Another session of the same login, as in another notebook."""
    return loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, policy=QUICK)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loginonce")]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def ends_in(session: loginonce.Session, seconds: float, **members: object) -> None:
    """Let the access token have so many seconds left of five minutes."""

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        now = time.time()
        tokens = tuple(
            replace(token, received_at=now + seconds - 300, expires_at=now + seconds) for token in grant.tokens
        )
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens, **members)

    session.source.change(older)


# ── logged in ────────────────────────────────────────────────────────────────────────────────────────────


def test_somebody_is_logged_in_between_login_and_logout_and_nobody_is_asked(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    assert lab.logged_in is False
    lab.login(tokens=fake_provider.issue())
    fake_provider.reset_stats()
    assert lab.logged_in is True
    ends_in(lab, -1)
    assert lab.logged_in is True  # it renews itself
    assert fake_provider.log == []
    lab.logout()
    assert lab.logged_in is False


def test_a_login_that_was_ended_is_none_though_its_token_is_still_good(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    lab.login(tokens=fake_provider.issue())
    ends_in(lab, 200, state="DEAD", refresh_token=None)
    assert lab.logged_in is False


@pytest.mark.parametrize(("seconds", "logged_in"), [(200, True), (-1, False)])
def test_a_login_that_cannot_renew_itself_lasts_as_long_as_its_token(
    fake_provider: FakeProvider, lab: loginonce.Session, seconds: float, logged_in: bool
) -> None:
    lab.login(tokens=fake_provider.issue())
    ends_in(lab, seconds, renewal="none", refresh_token=None)
    assert lab.logged_in is logged_in


def test_a_login_that_lacks_a_scope_is_none_for_the_session_that_wants_it(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    lab.login(tokens=fake_provider.issue())
    more = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, scope="openid admin")
    assert (lab.logged_in, more.logged_in) == (True, False)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_login_refresh_end_and_log_out_are_told_to_every_session_of_the_login(
    fake_provider: FakeProvider, lab: loginonce.Session, other: loginonce.Session
) -> None:
    told: list[Change] = []
    mine: list[Change] = []
    lab.on_change(told.append)
    with other:
        other.on_change(mine.append)
        other.login(tokens=fake_provider.issue())
        until(lambda: len(told) == len(mine) == 1)
        other.source.renew()
        until(lambda: len(told) == len(mine) == 2)
        fake_provider.end_sessions()
        ends_in(other, -1)
        with pytest.raises(loginonce.LoginRequired) as required:
            other.source.token()
        until(lambda: len(told) == len(mine) == 3)
        other.logout()
        until(lambda: len(told) == len(mine) == 4)
    assert told == mine
    assert [change.kind for change in told] == ["login", "refresh", "ended", "logout"]
    assert [change.account and (change.account.name, change.account.renews) for change in told] == [
        ("Ada Lovelace", True), ("Ada Lovelace", True), ("Ada Lovelace", False), None,
    ]  # fmt: skip
    assert [change.reason for change in told] == [None, None, "ended", "logged_out"]
    assert [change.hint for change in told] == ["", "", required.value.hint, required.value.hint]


def test_a_change_holds_no_secret(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    tokens, told = fake_provider.issue(), []
    lab.on_change(told.append)
    lab.login(tokens=tokens)
    until(lambda: told)
    pickle.dumps(told)
    for name in ("access_token", "refresh_token", "id_token"):
        assert tokens[name] not in f"{told} {told[0].account.claims}"


def test_a_callback_may_use_the_session(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    statuses: list[int] = []
    lab.on_change(lambda _: statuses.append(lab.get(fake_provider.api("/runs")).status_code))
    lab.login(tokens=fake_provider.issue())
    until(lambda: statuses == [200])


def test_after_its_end_a_callback_is_told_nothing(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    told: list[Change] = []
    heard: list[Change] = []
    stop = lab.on_change(told.append)
    lab.on_change(lambda change: heard.append(change))  # noqa: PLW0108 - another list's append would be equal
    stop()
    lab.login(tokens=fake_provider.issue())
    until(lambda: heard)
    assert told == []


# ── staying fresh ────────────────────────────────────────────────────────────────────────────────────────


def test_an_idle_session_has_a_fresh_token_when_it_is_needed_again(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    lab.login(tokens=fake_provider.issue())
    lab.keep_fresh()
    for expected in (1, 2):
        ends_in(lab, 10)
        until(lambda expected=expected: fake_provider.stats.refreshes == expected)
        until(lambda: "loginonce-refresh" not in ours())
    fake_provider.reset_stats()
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 0


def test_tokens_that_live_for_a_moment_are_kept_fresh(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.access_token_lifetime = 0.5
    lab.login(tokens=fake_provider.issue())
    with lab.keep_fresh():
        until(lambda: fake_provider.stats.refreshes >= 3)
    assert fake_provider.stats.replays == 0


def test_a_login_that_ends_is_said_once_and_the_next_one_is_kept_fresh(
    fake_provider: FakeProvider, lab: loginonce.Session, other: loginonce.Session, caplog: pytest.LogCaptureFixture
) -> None:
    lab.login(tokens=fake_provider.issue())
    lab.keep_fresh()
    fake_provider.end_sessions()
    ends_in(lab, -1)
    until(lambda: fake_provider.stats.refusals == 1 and not lab.logged_in)
    until(lambda: ours() == ["loginonce-keep"])
    time.sleep(0.3)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text for text in said if "kept fresh" in text and "loginonce login" in text] == said
    assert (len(said), fake_provider.stats.token_requests) == (1, 1)
    other.login(tokens=fake_provider.issue())
    ends_in(other, 10)
    until(lambda: fake_provider.stats.refreshes == 1)
    until(lambda: ours() == ["loginonce-keep"])


def test_asking_for_it_again_changes_nothing_and_close_ends_it(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    lab.keep_fresh()
    lab.keep_fresh()
    lab.on_change(print)
    assert sorted(ours()) == ["loginonce-keep", "loginonce-watch"]
    lab.close()
    until(lambda: not ours())
    with lab.keep_fresh():
        assert ours() == ["loginonce-keep"]
    until(lambda: not ours())


def test_a_session_that_nobody_needs_is_not_kept_alive(fake_provider: FakeProvider, loginonce_home: Path) -> None:
    def begin() -> tuple[weakref.ref[loginonce.Session], object, object]:
        session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
        return weakref.ref(session), session.keep_fresh(), session.on_change(lambda _: session.account)

    alive, *_held = begin()

    def collected() -> bool:
        gc.collect()
        return alive() is None

    until(collected)
    until(lambda: not ours())


def test_copies_and_pickles_take_nothing_of_it_along(lab: loginonce.Session) -> None:
    lab.keep_fresh()
    lab.on_change(print)
    for twin in (copy.copy(lab), copy.deepcopy(lab), pickle.loads(pickle.dumps(lab))):
        assert (twin._watcher, twin._keeper) == (None, None)
        twin.close()
    assert sorted(ours()) == ["loginonce-keep", "loginonce-watch"]


def test_who_does_not_use_it_does_not_load_it(loginonce_home: Path) -> None:
    code = (
        "import sys, threading, loginonce;"
        "lab = loginonce.Session('https://id.example.org', client_id='x', store='memory:');"
        "assert not lab.logged_in; lab.close();"
        "print('loginonce.watch' in sys.modules, threading.active_count())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["False", "1"]
