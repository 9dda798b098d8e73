"""What happens to a login while nobody asks: changes are told, and tokens are renewed before they end."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from loginonce import watch as module
from loginonce.client import Discovery, Provider
from loginonce.errors import StoreError
from loginonce.model import ChangeKind, Client, Failure, Grant, GrantKey, Marker, Order, Secret, State, TokenSet
from loginonce.refresh import Policy, grant_of_logout
from loginonce.source import LoginSource
from loginonce.stores.base import Hold, Snapshot, Stamp
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault
from loginonce.watch import Keeper, KeptFresh, Watcher, why_over

LIFE = 300.0
"""Seconds that an access token lives; it is STALE for the last 30."""

PATIENCE = 20.0
QUICK = Policy(refusal_wait=0.0)


class Flaky(MemoryStore):
    """A store that does not do what its switches say."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.no_lock = False
        self.looks = self.tries = 0

    def stamp(self, key: GrantKey) -> Stamp:
        self._look()
        return super().stamp(key)

    def load(self, key: GrantKey) -> Snapshot:
        self._look()
        return super().load(key)

    def _look(self) -> None:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble

    def locked(self, key: GrantKey) -> bool:  # as where only a try tells, on a server
        return False

    def try_lock(self, key: GrantKey) -> Hold | None:
        self.tries += 1
        if self.no_lock:
            raise StoreError("no locks today")
        return super().try_lock(key)


@pytest.fixture
def store() -> Flaky:
    return Flaky()


@pytest.fixture
def source(fake_provider: FakeProvider, store: Flaky) -> LoginSource:
    provider = Provider(Discovery(fake_provider.issuer), Client(fake_provider.public_client_id))
    key = GrantKey(fake_provider.issuer, fake_provider.public_client_id)
    return LoginSource(key, store, provider, policy=QUICK, hint="log in!")


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    monkeypatch.setattr(module, "SLOW_BEAT", 0.02)


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    earlier[:] = threading.enumerate()
    yield
    for background in list(module._backgrounds):
        background.stop()  # type: ignore[attr-defined]
    for thread in ours():
        thread.join(PATIENCE)
    assert ours() == []


earlier: list[threading.Thread] = []
"""Those of other tests' that had not ended when this one began."""


def ours() -> list[threading.Thread]:
    later = [thread for thread in threading.enumerate() if thread not in earlier]
    return [thread for thread in later if thread.name.startswith("loginonce")]


def renewals_are_over() -> None:
    for name in ("loginonce-ask", "loginonce-refresh"):
        for thread in ours():
            if thread.name == name:
                thread.join(PATIENCE)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.002)


Issue = Callable[..., Grant]


@pytest.fixture
def issue(fake_provider: FakeProvider, source: LoginSource) -> Issue:
    """A record of a login whose access token has so many seconds left (None: the provider does not say)."""

    def issue(left: float | None = 200.0, **members: Any) -> Grant:
        tokens, now = fake_provider.issue(), time.time()
        end = None if left is None else now + left
        token = TokenSet(Secret(tokens["access_token"]), now + (left or 0) - LIFE, end, scope=tokens["scope"])
        made = Grant(
            source.key,
            1000,
            refresh_token=Secret(tokens["refresh_token"]),
            tokens=(token,),
            scope=tokens["scope"],
            subject="ada",
        )
        return replace(made, **members)

    return issue


def put(source: LoginSource, grant: Grant) -> Grant:
    """Make this the record, as another process does it."""
    before = source.store.load(source.key).grant
    source.store.commit(grant, expected=before.order if before else None)
    return grant


def the_grant(source: LoginSource) -> Grant:
    grant = source.store.load(source.key).grant
    assert grant is not None
    return grant


def signed_out(grant: Grant) -> Grant:
    return grant_of_logout(grant.key, grant, 0)


# ── what a change is ─────────────────────────────────────────────────────────────────────────────────────

Look = tuple[Order, State]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (((0, 0, 0), "LOGGED_OUT"), ((5, 0, 0), "ACTIVE"), ["login"]),
        (((0, 0, 0), "LOGGED_OUT"), ((5, 0, 0), "LOGGED_OUT"), []),
        (((5, 0, 0), "ACTIVE"), ((5, 0, 0), "ACTIVE"), []),
        (((5, 0, 0), "ACTIVE"), ((5, 0, 1), "SPENDING"), []),
        (((5, 0, 1), "SPENDING"), ((5, 1, 0), "ACTIVE"), ["refresh"]),
        (((5, 0, 0), "ACTIVE"), ((5, 9, 0), "ACTIVE"), ["refresh"]),
        (((5, 1, 0), "ACTIVE"), ((5, 1, 2), "DEAD"), ["ended"]),
        (((5, 1, 2), "DEAD"), ((5, 1, 3), "DEAD"), []),
        (((5, 0, 0), "ACTIVE"), ((5, 3, 2), "DEAD"), ["refresh", "ended"]),
        (((5, 1, 2), "DEAD"), ((6, 0, 0), "ACTIVE"), ["login"]),
        (((5, 1, 2), "DEAD"), ((6, 0, 0), "LOGGED_OUT"), ["logout"]),
        (((5, 0, 0), "ACTIVE"), ((6, 0, 0), "LOGGED_OUT"), ["logout"]),
        (((6, 0, 0), "LOGGED_OUT"), ((7, 0, 0), "LOGGED_OUT"), []),
        (((5, 0, 0), "ACTIVE"), ((7, 2, 0), "ACTIVE"), ["login"]),
        (((5, 1, 2), "DEAD"), ((7, 0, 2), "DEAD"), ["login", "ended"]),
        (((5, 3, 0), "ACTIVE"), ((5, 1, 0), "ACTIVE"), []),
        (((6, 0, 0), "LOGGED_OUT"), ((5, 3, 0), "ACTIVE"), []),
    ],
)
def test_changes_are_what_the_second_of_two_looks_proves(before: Look, after: Look, kinds: list[str]) -> None:
    assert list(module._changes(module._Seen(*before), module._Seen(*after))) == kinds


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, None),
        ({"state": "DEAD", "failure": Failure("", "refused", "over")}, "ended"),
        ({"state": "DEAD", "failure": Failure("", "expired")}, "expired"),
        ({"state": "DEAD", "failure": Failure("", "subject")}, "account"),
        ({"state": "LOGGED_OUT"}, "logged_out"),
    ],
)
def test_a_login_that_is_over_says_why_while_its_token_is_still_good(
    source: LoginSource, issue: Issue, members: dict[str, Any], reason: str | None
) -> None:
    problem = why_over(source, issue(**members))
    assert (problem.reason if problem else None) == reason


# ── who is told ──────────────────────────────────────────────────────────────────────────────────────────

Told = tuple[ChangeKind, int]


@pytest.fixture
def watcher(source: LoginSource) -> Watcher[Told]:
    return Watcher(source, lambda kind, grant: (kind, grant.epoch))


def test_each_change_is_told_once_and_in_order(source: LoginSource, issue: Issue, watcher: Watcher[Told]) -> None:
    told: list[Told] = []
    watcher.listen(told.append)
    grant = put(source, issue())
    until(lambda: len(told) == 1)
    grant = put(source, replace(grant, generation=1))
    until(lambda: len(told) == 2)
    grant = put(source, replace(grant, attempt=1, state="DEAD"))
    until(lambda: len(told) == 3)
    put(source, signed_out(grant))
    until(lambda: len(told) == 4)
    time.sleep(0.05)
    assert told == [("login", 1000), ("refresh", 1000), ("ended", 1000), ("logout", 1001)]


def test_what_was_there_before_is_no_change(source: LoginSource, issue: Issue, watcher: Watcher[Told]) -> None:
    told: list[Told] = []
    grant = put(source, issue())
    watcher.listen(told.append)
    put(source, replace(grant, generation=1))
    until(lambda: told)
    assert told == [("refresh", 1000)]


def test_what_happened_before_somebody_listened_is_told_to_the_others_only(
    source: LoginSource, issue: Issue, watcher: Watcher[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[Told] = []
    second: list[Told] = []
    monkeypatch.setattr(watcher, "_begin", lambda: None)
    watcher.listen(first.append)
    grant = put(source, issue())
    watcher.listen(second.append)
    watcher.beat()
    put(source, replace(grant, generation=1))
    watcher.beat()
    assert (first, second) == ([("login", 1000), ("refresh", 1000)], [("refresh", 1000)])


def test_a_store_that_could_not_be_read_at_first_makes_no_news_of_an_old_login(
    source: LoginSource, store: Flaky, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: list[Told] = []
    grant = put(source, issue())
    store.trouble = StoreError("away")
    watcher.listen(told.append)
    store.trouble, looks = None, store.looks
    until(lambda: store.looks > looks + 2)
    put(source, replace(grant, generation=1))
    until(lambda: told)
    assert told == [("refresh", 1000)]


def test_a_store_that_is_away_is_told_of_once_and_its_news_when_it_is_back(
    source: LoginSource, store: Flaky, issue: Issue, watcher: Watcher[Told], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Told] = []
    grant = put(source, issue())
    watcher.listen(told.append)
    store.trouble = StoreError("the disk is away")
    looks = store.looks
    until(lambda: store.looks > looks + 5)
    put_back, store.trouble = store.trouble, None
    put(source, replace(grant, generation=1))
    until(lambda: told)
    assert [record.getMessage() for record in caplog.records if "disk" in record.getMessage()] == [
        f"a look at a login failed: {put_back}.  Looking on"
    ]


def test_what_a_store_of_others_says_in_its_errors_is_not_logged(
    store: Flaky, watcher: Watcher[Told], caplog: pytest.LogCaptureFixture
) -> None:
    watcher.listen(lambda told: None)
    store.trouble = RuntimeError("redis://:password@host")
    until(lambda: caplog.records)
    assert "password" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_record_that_is_away_for_a_while_is_no_log_out(
    source: LoginSource, store: Flaky, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: list[Told] = []
    grant = put(source, issue())
    watcher.listen(told.append)
    away = store._records.pop(source.key)
    looks = store.looks
    until(lambda: store.looks > looks + 3)
    store._records[source.key] = away
    until(lambda: store.looks > looks + 9)
    put(source, signed_out(grant))
    until(lambda: told)
    assert told == [("logout", 1001)]


def test_an_older_copy_that_is_put_back_and_taken_away_again_is_no_news(
    source: LoginSource, store: Flaky, issue: Issue, watcher: Watcher[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Told] = []
    monkeypatch.setattr(watcher, "_begin", lambda: None)
    old, new = issue(), issue(generation=3)
    put(source, new)
    watcher.listen(told.append)
    for grant in (old, new):
        put(source, grant)
        watcher.beat()
    assert told == []


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises_is_logged_and_harms_nobody(
    source: LoginSource,
    issue: Issue,
    watcher: Watcher[Told],
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    told: list[Told] = []

    def fail(_: Told) -> None:
        raise error("on purpose")

    watcher.listen(fail)
    watcher.listen(told.append)
    grant = put(source, issue())
    until(lambda: told)
    put(source, signed_out(grant))
    until(lambda: len(told) == 2)
    assert caplog.text.count("a callback failed") == 2
    assert the_access_token(grant) not in caplog.text


def the_access_token(grant: Grant) -> str:
    return str.__str__(grant.tokens[0].access_token)


def again(told: list[Told]) -> Callable[[Told], None]:
    """A function of this module, defined once more."""

    def on_change(change: Told) -> None:
        told.append(change)

    on_change.__qualname__ = "on_change"
    return on_change


class Panel:
    def __init__(self, told: list[Told]) -> None:
        self.told = told

    def show(self, change: Told) -> None:
        self.told.append(change)


def test_a_callback_that_is_registered_again_is_called_once(
    source: LoginSource, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: dict[str, list[Told]] = {name: [] for name in ("list", "method", "old", "new", "lambdas")}
    panel = Panel(told["method"])
    for _ in range(2):
        watcher.listen(panel.show)
        watcher.listen(lambda change: told["lambdas"].append(change))  # noqa: PLW0108 - two of them
    watcher.listen(again(told["old"]))
    watcher.listen(again(told["new"]))
    put(source, issue())
    until(lambda: told["new"])
    assert {name: len(heard) for name, heard in told.items()} == {
        "list": 0, "method": 1, "old": 0, "new": 1, "lambdas": 2,
    }  # fmt: skip


def test_methods_of_two_objects_are_two_callbacks(source: LoginSource, issue: Issue, watcher: Watcher[Told]) -> None:
    panels = [Panel([]), Panel([])]
    for panel in panels:
        watcher.listen(panel.show)
    put(source, issue())
    until(lambda: all(panel.told for panel in panels))


def test_nobody_is_told_after_the_end_and_the_thread_ends(
    source: LoginSource, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: list[Told] = []
    heard: list[Told] = []
    stop, stop_other = watcher.listen(told.append), watcher.listen(heard.append)
    stop()
    stop()
    grant = put(source, issue())
    until(lambda: heard)
    stop_other()
    until(lambda: not ours())
    put(source, signed_out(grant))
    assert (told, heard) == ([], [("login", 1000)])


def test_the_end_of_an_earlier_registration_leaves_the_later_one(
    source: LoginSource, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: list[Told] = []
    panel = Panel(told)
    earlier = watcher.listen(panel.show)
    watcher.listen(panel.show)
    earlier()
    put(source, issue())
    until(lambda: told)


def test_one_callback_may_end_another_that_is_not_told_then(
    source: LoginSource, issue: Issue, watcher: Watcher[Told]
) -> None:
    told: list[Told] = []
    ends: list[Callable[[], None]] = []
    watcher.listen(lambda _: [end() for end in ends])
    ends.append(watcher.listen(told.append))
    watcher.listen(again(last := []))
    put(source, issue())
    until(lambda: last)
    assert told == []


def test_listening_goes_on_after_it_was_stopped(source: LoginSource, issue: Issue, watcher: Watcher[Told]) -> None:
    told: list[Told] = []
    watcher.listen(again([]))
    watcher.stop()
    watcher.stop()
    watcher.listen(told.append)
    put(source, issue())
    until(lambda: told)


def test_a_thread_that_cannot_start_is_told_and_tried_again_the_next_time(
    source: LoginSource, issue: Issue, watcher: Watcher[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Told] = []
    with monkeypatch.context() as patch:

        def fail(_: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            watcher.listen(told.append)
    watcher.listen(again([]))
    put(source, issue())
    until(lambda: told)


def listened_to_and_dropped(fake: FakeProvider) -> tuple[weakref.ref[LoginSource], Callable[[], None], KeptFresh]:
    provider = Provider(Discovery(fake.issuer), Client(fake.public_client_id))
    source = LoginSource(GrantKey(fake.issuer, "x"), MemoryStore(), provider)
    watcher, keeper = Watcher(source, lambda kind, grant: (source, kind, grant)), Keeper(source)
    source.used_by = (watcher, keeper)  # as a session holds them
    return weakref.ref(source), watcher.listen(lambda told: (source, told)), keeper.start()


def test_a_source_that_nobody_needs_is_collected_though_its_callback_refers_to_it(
    fake_provider: FakeProvider,
) -> None:
    alive, stop, kept = listened_to_and_dropped(fake_provider)

    def collected() -> bool:
        gc.collect()
        return alive() is None

    until(collected)
    until(lambda: not ours())
    stop()
    kept.stop()


def test_a_thread_that_finds_itself_in_a_forked_child_ends(watcher: Watcher[Told], keeper: Keeper) -> None:
    watcher.listen(again([]))
    keeper.start()
    module._after_fork()  # as in a child that a callback has forked
    until(lambda: not ours())
    watcher.listen(again([]))
    assert [thread.name for thread in ours()] == ["loginonce-watch"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_callbacks_and_can_have_its_own(
    source: LoginSource, issue: Issue, folder: Any, fake_provider: FakeProvider
) -> None:
    shared = LoginSource(source.key, FileStore(folder), source.provider, policy=QUICK)
    watcher = Watcher(shared, lambda kind, grant: kind)
    keeper = Keeper(shared)
    told: list[ChangeKind] = []
    grant = issue(left=-1.0)
    watcher.listen(told.append)
    keeper.start()
    reading, writing = os.pipe()
    with watcher._mutex:  # as another thread may have it
        child = os.fork()
        if child == 0:
            try:
                inherited = [*watcher._listeners, watcher._ended, keeper._ended, *ours()]
                own: list[ChangeKind] = []
                watcher.listen(own.append)
                put(shared, grant)
                until(lambda: own == ["login"])
                keeper.start()
                until(lambda: own == ["login", "refresh"])
                assert not any(inherited)
                assert told == []
                os.write(writing, b"as it should be")
            except BaseException as error:
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read() == "as it should be"
    os.waitpid(child, 0)
    until(lambda: told[:1] == ["login"])
    assert fake_provider.stats.refreshes == 1


# ── renewing ahead ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def keeper(source: LoginSource) -> Keeper:
    """One that looks when it is told to, and is not later than others."""
    keeper = Keeper(source)
    keeper._share = 0.0
    return keeper


def beat(keeper: Keeper) -> float:
    pause = keeper.beat()
    renewals_are_over()
    return pause


@pytest.mark.parametrize("left", [200.0, None])
def test_a_fresh_token_is_left_alone(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, left: float | None
) -> None:
    put(source, issue(left=left))
    assert beat(keeper) == module.BEAT
    assert fake_provider.log == []


def test_the_next_look_is_when_the_token_becomes_stale(
    source: LoginSource, issue: Issue, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 60.0)
    put(source, issue(left=50.0))
    assert 19 < beat(keeper) <= 20
    keeper._share = 0.2  # of 30 s
    assert 25 < beat(keeper) <= 26


def test_a_stale_token_is_renewed(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider
) -> None:
    put(source, issue(left=20.0))
    beat(keeper)
    assert the_grant(source).generation == 1
    assert fake_provider.stats.refreshes == 1


def test_a_stale_token_is_renewed_once_by_however_many_keepers(
    source: LoginSource, issue: Issue, fake_provider: FakeProvider
) -> None:
    put(source, issue(left=15.0))
    keepers = [Keeper(source) for _ in range(8)]
    for keeper in keepers:
        keeper.beat()
    renewals_are_over()
    assert fake_provider.stats.token_requests == 1


def test_a_keeper_waits_its_share_before_it_renews_a_stale_token(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider
) -> None:
    keeper._share = 0.2  # of 30 s
    put(source, issue(left=28.0))
    assert beat(keeper) == module.BEAT
    assert fake_provider.log == []
    put(source, issue(left=23.0, attempt=1))
    beat(keeper)
    assert fake_provider.stats.refreshes == 1


def test_keepers_wait_differently_and_never_long(source: LoginSource) -> None:
    shares = {Keeper(source)._share for _ in range(50)}
    assert len(shares) > 10
    assert 0 <= min(shares) <= max(shares) < module.SPREAD


@pytest.mark.parametrize("members", [{}, {"tokens": ()}], ids=["ended", "none yet"])
def test_where_no_token_is_left_one_is_fetched_at_once(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, members: dict[str, Any]
) -> None:
    keeper._share = 0.2
    put(source, issue(left=-1.0, **members))
    beat(keeper)
    assert fake_provider.stats.refreshes == 1


@pytest.mark.parametrize("left", [20.0, -1.0])
def test_nobody_is_asked_while_everybody_waits(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, store: Flaky, left: float
) -> None:
    grant = issue(left=left)
    put(source, replace(grant, failure=Failure(grant.spendable, "busy", "", time.time() + 60)))
    keeper._share = 0.0  # its turn comes first
    assert beat(keeper) == module.BEAT
    assert (fake_provider.log, store.tries) == ([], 0)


def test_a_source_says_which_api_its_tokens_are_for(source: LoginSource) -> None:
    assert source.resource == ""


def test_where_nobody_is_signed_in_it_waits_in_silence(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    beat(keeper)
    assert (fake_provider.log, caplog.records) == ([], [])
    put(source, issue(left=-1.0))
    beat(keeper)
    assert fake_provider.stats.refreshes == 1


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("left", [20.0, -1.0])
def test_a_login_that_the_provider_has_ended_is_said_once_and_a_new_one_is_kept_fresh(
    source: LoginSource,
    issue: Issue,
    keeper: Keeper,
    fake_provider: FakeProvider,
    caplog: pytest.LogCaptureFixture,
    left: float,
) -> None:
    grant = put(source, issue(left=left))
    fake_provider.end_sessions()
    for _ in range(5):
        beat(keeper)
    assert fake_provider.stats.token_requests == 1
    assert len(warnings(caplog)) == 1
    assert "log in!" in warnings(caplog)[0]
    put(source, issue(left=-1.0, epoch=grant.epoch + 1))
    beat(keeper)
    assert the_grant(source).generation == 1
    assert len(warnings(caplog)) == 1


def test_a_login_that_ends_by_itself_is_said_once(
    source: LoginSource, issue: Issue, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    put(source, issue(left=10.0, renewal="none", refresh_token=None))
    beat(keeper)
    assert warnings(caplog) == []
    put(source, issue(left=-1.0, renewal="none", refresh_token=None, attempt=1))
    beat(keeper)
    beat(keeper)
    assert len(warnings(caplog)) == 1


def test_what_only_the_lock_tells_is_asked_once_and_said_once(
    fake_provider: FakeProvider,
    source: LoginSource,
    issue: Issue,
    store: Flaky,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REST", 0.0)
    careful = LoginSource(source.key, store, source.provider, policy=Policy(lost="login"), hint="log in!")
    careful.provider.prepare()
    grant, now = issue(left=-1.0), time.time()
    marker = Marker(grant.spendable, "nonce", "a dead owner", now - 60, now - 40)
    put(careful, replace(grant, state="SPENDING", marker=marker))
    keeper = Keeper(careful)
    for _ in range(3):
        beat(keeper)
    assert (store.tries, len(warnings(caplog))) == (1, 1)
    assert fake_provider.stats.token_requests == 0


def test_an_attempt_that_fails_is_told_once_and_repeated_after_a_rest(
    source: LoginSource, issue: Issue, store: Flaky, keeper: Keeper, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    put(source, issue(left=-1.0))
    store.no_lock = True
    for _ in range(3):
        assert 0 < beat(keeper) <= module.BEAT
    assert store.tries == 1
    monkeypatch.setattr(module, "REST", 0.0)
    keeper._standing = keeper._standing._replace(rest_until=0.0)
    for _ in range(3):
        beat(keeper)
    assert store.tries == 4
    assert caplog.text.count("no locks today") == 1
    store.no_lock = False
    beat(keeper)
    assert the_grant(source).generation == 1


def test_a_stale_token_that_another_process_renews_is_not_asked_for_all_the_time(
    source: LoginSource, issue: Issue, store: Flaky, keeper: Keeper
) -> None:
    put(source, issue(left=20.0))
    hold = store.try_lock(source.key)
    assert hold is not None
    for _ in range(5):
        beat(keeper)
    hold.release()
    assert store.tries == 2  # ours, and the keeper's one


def test_the_next_attempt_waits_for_the_one_under_way(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST", 0.0)
    fake_provider.latency = 0.3
    put(source, issue(left=-1.0))
    for _ in range(5):
        assert keeper.beat() == module.BEAT
    assert [thread.name for thread in ours()].count("loginonce-ask") == 1
    renewals_are_over()
    assert fake_provider.stats.token_requests == 1


def test_nothing_is_spent_once_the_interpreter_is_ending(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    put(source, issue(left=-1.0))
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    beat(keeper)
    assert fake_provider.log == []


def test_it_asks_from_a_thread_for_which_the_interpreter_waits(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider
) -> None:
    fake_provider.latency = 0.2
    put(source, issue(left=-1.0))
    keeper.start()
    until(lambda: "loginonce-ask" in [thread.name for thread in ours()])
    assert {thread.name: thread.daemon for thread in ours()}.items() >= {
        "loginonce-keep": True,
        "loginonce-ask": False,
    }.items()


@pytest.mark.parametrize("trouble", [Fault.status(503), None], ids=["later", "login required"])
def test_a_late_failure_of_an_earlier_login_says_nothing_of_the_present_one(
    source: LoginSource,
    issue: Issue,
    keeper: Keeper,
    fake_provider: FakeProvider,
    caplog: pytest.LogCaptureFixture,
    trouble: Fault | None,
) -> None:
    grant = put(source, issue(left=-1.0))
    if trouble:
        fake_provider.faults.add(trouble)
    else:
        fake_provider.end_sessions()
    keeper.beat()
    assert keeper._asking is not None
    standing = keeper._standing = module._Standing((2000, 0, 0))  # it has seen the new one meanwhile
    keeper._asking.join(PATIENCE)
    assert keeper._standing == standing
    assert grant.epoch == 1000
    assert warnings(caplog) == []


def test_what_the_record_has_told_already_is_not_said_again(
    source: LoginSource, issue: Issue, keeper: Keeper, fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    fake_provider.latency = 0.2
    grant = put(source, issue(left=-1.0))
    fake_provider.end_sessions()
    keeper.beat()
    until(lambda: fake_provider.stats.token_requests)
    put(source, replace(the_grant(source), attempt=9, state="DEAD", marker=None, failure=Failure("", "refused")))
    keeper.beat()
    assert len(warnings(caplog)) == 1
    renewals_are_over()
    assert len(warnings(caplog)) == 1
    assert grant.epoch == 1000


def test_starting_twice_is_starting_once_and_it_can_begin_again(keeper: Keeper) -> None:
    first, second = keeper.start(), keeper.start()
    assert [thread.name for thread in ours()] == ["loginonce-keep"]
    second.stop()
    first.stop()
    until(lambda: not ours())
    with keeper.start() as kept:
        assert [thread.name for thread in ours()] == ["loginonce-keep"]
    until(lambda: not ours())
    kept.stop()
