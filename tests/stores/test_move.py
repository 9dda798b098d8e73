"""A login moves from one store to another: at no moment can two of them spend it, and no end of the mover loses it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract import KEY, a_grant, content

from loginonce.errors import ConfigurationError, LockTimeout, LoginRequired, SealError, StoreError
from loginonce.model import Failure, Grant, Marker, Order
from loginonce.refresh import grant_of_logout
from loginonce.source import LoginSource
from loginonce.stores import file
from loginonce.stores.base import OrderConflict, TokenStore
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore
from loginonce.stores.move import move
from loginonce.stores.sealed import SealedStore

A_GRANT = a_grant(order=(5, 3, 2))


@pytest.fixture
def source(tmp_path: Path) -> FileStore:
    made = FileStore(tmp_path / "from")
    made.commit(A_GRANT, expected=None)
    return made


@pytest.fixture
def target(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "to")


def present(store: TokenStore) -> Grant:
    grant = content(store.load(KEY).grant)
    assert grant is not None
    return grant


def spendable(*stores: TokenStore) -> list[str]:
    """The stores from which a refresh token could be spent."""
    grants = [(store.identity, store.load(KEY).grant) for store in stores]
    return [where for where, grant in grants if grant and grant.state in ("ACTIVE", "SPENDING") and grant.spendable]


def test_the_target_has_the_login_and_the_source_says_where_it_went(source: FileStore, target: FileStore) -> None:
    assert move(KEY, source, target)
    assert present(target) == replace(A_GRANT, epoch=7)
    left = present(source)
    assert (left.state, left.refresh_token, left.tokens, left.claims) == ("LOGGED_OUT", None, (), {})
    assert left.failure == Failure(A_GRANT.spendable, "moved", target.identity)


def test_a_second_move_finds_nothing_to_do(source: FileStore, target: FileStore) -> None:
    move(KEY, source, target)
    before = present(source), present(target)
    assert not move(KEY, source, target)
    assert (present(source), present(target)) == before


def test_it_can_move_to_and_fro(source: FileStore, target: FileStore) -> None:
    for _ in range(3):
        assert move(KEY, source, target)
        assert spendable(source, target) == [target.identity]
        assert move(KEY, target, source)
        assert spendable(source, target) == [source.identity]
    assert content(replace(present(source), epoch=5)) == A_GRANT


def test_a_tombstone_in_the_target_makes_room(source: FileStore, target: FileStore) -> None:
    target.commit(grant_of_logout(KEY, None, 1e9), expected=None)
    assert move(KEY, source, target)
    assert present(target).epoch > 1e9
    assert not move(KEY, source, target)


@pytest.mark.hazard(26)
def test_a_login_in_the_target_is_not_replaced(source: FileStore, target: FileStore) -> None:
    target.commit(a_grant(), expected=None)
    with pytest.raises(ConfigurationError, match="sign out of one of them first"):
        move(KEY, source, target)
    assert (present(source), present(target)) == (A_GRANT, a_grant())


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"state": "DEAD", "refresh_token": None}, LoginRequired),
        ({"state": "LOGGED_OUT", "refresh_token": None, "tokens": ()}, LoginRequired),
        ({"state": "SPENDING", "marker": Marker("f" * 12, "n", "o", 1.0, 2.0)}, StoreError),
        ({"renewal": "client_credentials", "refresh_token": None}, ConfigurationError),
    ],
)
def test_what_cannot_move_stays(
    source: FileStore, target: FileStore, members: dict[str, Any], expected: type[Exception]
) -> None:
    odd = a_grant(order=(5, 3, 3), **members)
    source.commit(odd, expected=(5, 3, 2))
    with pytest.raises(expected):
        move(KEY, source, target)
    assert (present(source), target.load(KEY).grant) == (odd, None)


def test_where_nobody_is_signed_in_that_is_said(tmp_path: Path, target: FileStore) -> None:
    with pytest.raises(LoginRequired, match="nobody is signed in") as nobody:
        move(KEY, FileStore(tmp_path / "empty"), target)
    assert nobody.value.reason == "none"


def test_from_where_it_has_moved_on_it_moves_nowhere_else(source: FileStore, target: FileStore, tmp_path: Path) -> None:
    move(KEY, source, target)
    with pytest.raises(LoginRequired, match="was moved to file:.*/to") as moved:
        move(KEY, source, FileStore(tmp_path / "third"))
    assert moved.value.reason == "moved"
    assert "store='file:" in moved.value.hint


def test_the_memory_of_a_program_is_no_place_to_move_to(source: FileStore, tmp_path: Path) -> None:
    for volatile in (MemoryStore(), SealedStore(MemoryStore(), f"file:{tmp_path / 'key'}")):
        with pytest.raises(ConfigurationError, match="ends with this program"):
            move(KEY, source, volatile)


def test_it_waits_for_a_renewal_and_not_for_ever(source: FileStore, target: FileStore) -> None:
    hold = source.try_lock(KEY)
    assert hold is not None
    with pytest.raises(LockTimeout):
        move(KEY, source, target, patience=0.05)
    hold.release()
    assert move(KEY, source, target, patience=0.05)


# ── sealing ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_login_is_sealed_and_unsealed_where_it_is(source: FileStore, tmp_path: Path) -> None:
    sealed = SealedStore(FileStore(source.identity.removeprefix("file:")), f"file:{tmp_path / 'key'}")
    assert move(KEY, source, sealed)
    (bare,) = source.grants()
    assert bare.sealed
    assert present(sealed) == a_grant(order=(5, 3, 3), refresh_token=A_GRANT.refresh_token, tokens=A_GRANT.tokens)
    assert move(KEY, sealed, source)
    assert present(source).refresh_token == A_GRANT.refresh_token


def test_what_is_sealed_does_not_move_without_its_key(source: FileStore, target: FileStore, tmp_path: Path) -> None:
    folder = source.identity.removeprefix("file:")
    move(KEY, source, SealedStore(FileStore(folder), f"file:{tmp_path / 'key'}"))
    (tmp_path / "key").unlink()
    with pytest.raises(SealError):
        move(KEY, SealedStore(FileStore(folder), f"file:{tmp_path / 'key'}"), target)
    assert target.load(KEY).grant is None


def test_a_login_can_be_sealed_on_its_way(source: FileStore, target: FileStore, tmp_path: Path) -> None:
    sealed = SealedStore(target, f"file:{tmp_path / 'key'}")
    assert move(KEY, source, sealed)
    assert present(sealed) == replace(A_GRANT, epoch=7)
    assert target.load(KEY).grant.sealed  # type: ignore[union-attr]


# ── somebody else comes between ──────────────────────────────────────────────────────────────────────────


class Watched(FileStore):
    """Calls `before(order)` ahead of each commit, and `after` behind it."""

    before: Callable[[Grant], object] = staticmethod(lambda _: None)
    after: Callable[[Grant], object] = staticmethod(lambda _: None)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Any:
        self.before(grant)
        stamp = super().commit(grant, expected=expected, reserve=reserve)
        self.after(grant)
        return stamp


@pytest.fixture
def watched(target: FileStore) -> Watched:
    return Watched(target.identity.removeprefix("file:"))


@pytest.fixture
def watched_source(source: FileStore) -> Watched:
    return Watched(source.identity.removeprefix("file:"))


def change(store: TokenStore, make: Callable[[Grant | None], Grant]) -> None:
    before = store.load(KEY).grant
    store.commit(make(before), expected=before.order if before else None)


def once(work: Callable[[], object]) -> Callable[[Grant], None]:
    calls: list[int] = []

    def first(_: Grant) -> None:
        if not calls:
            calls.append(1)
            work()

    return first


@pytest.mark.hazard(30)
def test_a_log_out_in_the_source_meanwhile_ends_it_in_the_target_too(
    source: FileStore, target: FileStore, watched: Watched
) -> None:
    watched.before = once(lambda: change(source, lambda there: grant_of_logout(KEY, there, 0)))
    with pytest.raises(LoginRequired, match="while it was moved") as gone:
        move(KEY, source, watched)
    assert gone.value.reason == "logged_out"
    assert [present(store).state for store in (source, target)] == ["LOGGED_OUT"] * 2
    assert present(target).refresh_token is None


def test_a_log_out_in_both_meanwhile_is_a_log_out(source: FileStore, target: FileStore, watched: Watched) -> None:
    def sign_out() -> None:
        change(source, lambda there: grant_of_logout(KEY, there, 0))
        change(target, lambda there: grant_of_logout(KEY, there, 0))

    watched.after = once(sign_out)
    with pytest.raises(LoginRequired):
        move(KEY, source, watched)
    assert spendable(source, target) == []


@pytest.mark.hazard(26)
def test_a_new_login_in_the_source_meanwhile_stays(source: FileStore, target: FileStore, watched: Watched) -> None:
    watched.after = once(lambda: change(source, lambda _: a_grant(order=(99, 0, 0))))
    assert move(KEY, source, watched)
    assert (present(source), present(target).epoch) == (a_grant(order=(99, 0, 0)), 7)


def test_a_log_in_before_it_has_set_off_is_what_moves(
    source: FileStore, target: FileStore, watched_source: Watched
) -> None:
    watched_source.before = once(lambda: change(source, lambda _: a_grant(order=(99, 0, 0))))
    assert move(KEY, watched_source, target)
    assert present(target) == replace(a_grant(order=(99, 0, 0)), epoch=101)


def test_a_source_that_is_changed_all_the_time_is_told_of(
    source: FileStore, target: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*_: object, **__: object) -> None:
        raise OrderConflict

    monkeypatch.setattr(source, "commit", overtaken)
    with pytest.raises(StoreError, match="all the time"):
        move(KEY, source, target)


def test_a_login_that_appears_in_the_target_meanwhile_stays(
    source: FileStore, target: FileStore, watched: Watched
) -> None:
    watched.before = once(lambda: target.commit(a_grant(order=(99, 0, 0)), expected=None))
    assert move(KEY, source, watched)
    assert present(target) == a_grant(order=(99, 0, 0))
    assert spendable(source, target) == [target.identity]


# ── a store fails ────────────────────────────────────────────────────────────────────────────────────────


def fail() -> None:
    raise StoreError("the network is gone")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_target_that_fails_is_fenced_and_the_login_stays_where_it_was_or_has_arrived(
    source: FileStore, target: FileStore, watched: Watched, moment: str
) -> None:
    setattr(watched, moment, once(fail))
    if moment == "before":
        with pytest.raises(StoreError, match="stays where it was, since it could not be saved there: the network is"):
            move(KEY, source, watched)
        assert spendable(source, target) == [source.identity]
        assert present(target).failure == Failure("", "moved", source.identity)
        with pytest.raises(OrderConflict):  # the first attempt, if it comes late after all
            target.commit(a_grant(order=(7, 3, 2)), expected=None)
    else:
        assert move(KEY, source, watched)  # it had been saved
    assert move(KEY, source, target) == (moment == "before")
    assert spendable(source, target) == [target.identity]


def test_where_no_fence_can_be_had_the_login_waits_and_the_same_move_ends_it(
    source: FileStore, target: FileStore, watched: Watched, tmp_path: Path
) -> None:
    watched.before = lambda _: fail()
    with pytest.raises(StoreError, match="on its way.*Nothing is lost"):
        move(KEY, source, watched)
    assert spendable(source, target) == []
    with pytest.raises(LoginRequired):  # anywhere else it could be spent twice
        move(KEY, source, FileStore(tmp_path / "third"))
    assert move(KEY, source, target)
    assert present(target) == replace(A_GRANT, epoch=7)


def test_a_mover_that_ends_behind_its_fence_is_followed_by_one_that_puts_the_login_back_first(
    source: FileStore, target: FileStore, watched: Watched, watched_source: Watched
) -> None:
    watched.before = once(fail)
    back: list[Grant] = []

    def end(grant: Grant) -> None:
        if grant.state == "ACTIVE":
            back.append(grant)
            fail()

    watched_source.before = end
    with pytest.raises(StoreError, match="on its way"):
        move(KEY, watched_source, watched)
    assert len(back) == 1
    assert spendable(source, target) == []
    assert move(KEY, source, target)
    assert spendable(source, target) == [target.identity]
    assert present(target).epoch == back[0].epoch + 2


def test_a_source_that_fails_at_the_end_is_told_of_and_the_login_has_moved(
    source: FileStore, target: FileStore, watched_source: Watched
) -> None:
    watched_source.before = lambda grant: fail() if grant.refresh_token is None else None
    with pytest.raises(StoreError, match="was moved, and can be used where it is now"):
        move(KEY, watched_source, target)
    assert spendable(source, target) == [target.identity]
    change(target, lambda there: replace(there, generation=9, refresh_token=None))  # type: ignore[type-var]
    assert move(KEY, source, target)
    assert present(source).refresh_token is None
    assert present(target).generation == 9


def test_a_way_back_that_was_interrupted_is_not_taken_for_a_fence(
    source: FileStore, target: FileStore, watched_source: Watched
) -> None:
    watched_source.before = lambda grant: fail() if grant.refresh_token is None else None
    with pytest.raises(StoreError):
        move(KEY, watched_source, target)  # the source keeps a copy that nothing spends
    watched_source.before = lambda _: fail()
    with pytest.raises(StoreError):
        move(KEY, target, watched_source)  # and now the target is on its way back
    assert move(KEY, source, target)
    assert spendable(source, target) == []
    assert move(KEY, target, source)
    assert spendable(source, target) == [source.identity]


# ── its process is killed ────────────────────────────────────────────────────────────────────────────────


def mover(folders: tuple[str, str], stop_at: int) -> None:
    """Move, and be killed at that point of all that are passed: around each action of a store, and within commits."""
    passed = 0

    def watch(owner: Any, name: str, *, within: bool = False) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            for moment in ("before", "after"):
                if passed == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
                if moment == "before":
                    result = original(*args, **kwargs)
            return result

        setattr(owner, name, watched)

    for name in ("load", "commit", "try_lock"):
        watch(FileStore, name)
    for name in ("_write", "_reserve", "_sync_folder"):
        watch(file, name)
    move(KEY, *(FileStore(folder) for folder in folders))


@pytest.mark.hazard(2, 21)
def test_a_mover_killed_at_any_action_of_a_store_leaves_one_login_that_the_next_one_brings_home(tmp_path: Path) -> None:
    stop_at, found = 0, set()
    while True:
        folders = tmp_path / f"{stop_at}-from", tmp_path / f"{stop_at}-to"
        source, target = map(FileStore, folders)
        source.commit(A_GRANT, expected=None)
        pid = os.fork()
        if pid == 0:
            try:
                mover((str(folders[0]), str(folders[1])), stop_at)
                os._exit(0)
            except BaseException:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        left = spendable(source, target)
        found.add(tuple(where.rpartition("-")[2] for where in left))
        assert len(left) <= 1
        whole = [grant for store in (source, target) for grant in store.grants() if grant.refresh_token is not None]
        assert {grant.refresh_token for grant in whole} == {A_GRANT.refresh_token}
        move(KEY, source, target)
        assert spendable(source, target) == [target.identity]
        assert present(target).tokens == A_GRANT.tokens
        assert present(source).refresh_token is None
        if code == 0:
            break
        stop_at += 1
    assert found == {("from",), (), ("to",)}
    assert stop_at > 20


def test_whoever_uses_the_old_place_is_told_where_the_login_went(source: FileStore, target: FileStore) -> None:
    move(KEY, source, target)
    with pytest.raises(LoginRequired, match="was moved to file:") as gone:
        LoginSource(KEY, source, None).token()  # type: ignore[arg-type]  # nobody is asked
    assert (gone.value.reason, gone.value.hint) == ("moved", f"Use it there: store={target.identity!r}")
