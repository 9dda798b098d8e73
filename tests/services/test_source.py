"""Where tokens come from: the fast path, one refresh for all, and what is kept when things go wrong in between."""

from __future__ import annotations

import _thread
import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loginonce import gate as gate_module
from loginonce import source as module
from loginonce import wire
from loginonce.client import Discovery, Provider
from loginonce.errors import (
    ConfigurationError,
    CorruptStore,
    LockTimeout,
    LoginRequired,
    ProtocolError,
    StoreError,
    TransportError,
)
from loginonce.model import Client, Grant, GrantKey, Order, Secret, TokenSet
from loginonce.refresh import Policy, grant_of_login, grant_of_logout
from loginonce.source import LoginSource, _Run
from loginonce.stores import file as file_module
from loginonce.stores.base import Hold, Lookout, OrderConflict, Snapshot, Stamp, TokenStore
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault, Grace
from loginonce.transport import Transport
from loginonce.wire import Answer, Form

Factory = Callable[..., FakeProvider]

FRESH, STALE, EXPIRED = 200.0, 10.0, -1.0
"""Seconds that a token of 300 s has left; the window is 30 s."""

PATIENCE = 20.0
QUICK = Policy(refusal_wait=0.0)


# What the tests are made of.


class Flaky(MemoryStore):
    """A store that does not do what its switches say."""

    def __init__(self) -> None:
        super().__init__()
        self.no_stamp = self.no_load = self.no_lock = self.no_commit = False
        self.tries = 0
        self.before_commit: Callable[[Grant], None] = lambda grant: None

    def stamp(self, key: GrantKey) -> Stamp:
        if self.no_stamp:
            raise StoreError("no stamp today")
        return super().stamp(key)

    def load(self, key: GrantKey) -> Snapshot:
        if self.no_load:
            raise StoreError("no reading today")
        return super().load(key)

    def locked(self, key: GrantKey) -> bool:  # as where only a try tells, on a server
        return False

    def try_lock(self, key: GrantKey) -> Hold | None:
        self.tries += 1
        if self.no_lock:
            raise StoreError("no locks today")
        return super().try_lock(key)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        self.before_commit(grant)
        if self.no_commit:
            raise StoreError("no writing today")
        return super().commit(grant, expected=expected, reserve=reserve)


class Leasing(Flaky):
    """A store whose lock is a lease."""

    def try_lock(self, key: GrantKey) -> Hold | None:
        held = super().try_lock(key)
        if held is not None:
            held.lease = True  # type: ignore[misc]
        return held


class Held(Provider):
    """A provider whose refreshes stop where the test wants them to: before they are sent, or once answered."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.before, self.after = threading.Event(), threading.Event()
        self.may_send, self.may_go = threading.Event(), threading.Event()
        self.calls = 0

    def refresh(self, grant: Grant, **members: Any) -> wire.Reply:
        self.calls += 1
        self.before.set()
        assert self.may_send.wait(PATIENCE)
        reply = super().refresh(grant, **members)
        self.after.set()
        assert self.may_go.wait(PATIENCE)
        return reply

    def let_go(self) -> None:
        self.may_send.set()
        self.may_go.set()


class Clock:
    """The time as the source sees it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, folder: Path) -> TokenStore:
    return MemoryStore() if request.param == "memory" else FileStore(folder)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def key(fake_provider: FakeProvider) -> GrantKey:
    return GrantKey(fake_provider.issuer, fake_provider.public_client_id)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No thread of ours runs on, nobody stands at a gate, nothing is unsaved."""
    gate_module._gates.clear()
    earlier = threading.enumerate()
    yield
    later = [thread for thread in threading.enumerate() if thread not in earlier]
    workers = [thread for thread in later if thread.name.startswith("loginonce")]
    for thread in workers:
        thread.join(PATIENCE)
    assert not [thread for thread in workers if thread.is_alive()]
    assert all(gate.enter() and gate.unsaved is None for gate in gate_module._gates.values())
    gate_module._gates.clear()


def issued(fake: FakeProvider, left: float = FRESH, **members: Any) -> Grant:
    """A record of a login whose access token has so many seconds left of 300."""
    tokens = fake.issue()
    now = time.time()
    token = TokenSet(Secret(tokens["access_token"]), now + left - 300, now + left, scope=tokens["scope"])
    made = Grant(
        GrantKey(fake.issuer, fake.public_client_id),
        int(now) - 1000,
        refresh_token=Secret(tokens["refresh_token"]),
        tokens=(token,),
        scope=tokens["scope"],
        subject="ada",
    )
    return replace(made, **members)


def a_source(fake: FakeProvider, store: TokenStore, *, provider: Provider | None = None, **options: Any) -> LoginSource:
    options.setdefault("policy", QUICK)
    provider = provider or Provider(Discovery(fake.issuer), Client(fake.public_client_id))
    return LoginSource(GrantKey(fake.issuer, fake.public_client_id), store, provider, hint="log in!", **options)


def held(fake: FakeProvider) -> Held:
    return Held(Discovery(fake.issuer), Client(fake.public_client_id))


def signed_in(fake: FakeProvider, store: TokenStore, left: float = FRESH, **options: Any) -> LoginSource:
    """A source of a login whose access token has so many seconds left."""
    store.commit(issued(fake, left), expected=None)
    return a_source(fake, store, **options)


def new_login(fake: FakeProvider) -> Callable[[Grant | None], Grant]:
    """What a sign-in makes of a record."""
    answer = wire.judge_token(Answer(200, {}, json.dumps(fake.issue()).encode()))
    key = GrantKey(fake.issuer, fake.public_client_id)
    scope = frozenset({"openid", "offline_access"})
    return lambda previous: grant_of_login(key, answer, previous, asked_at=time.time(), scope=scope, subject="ada")


def log_out(source: LoginSource) -> None:
    source.change(lambda previous: grant_of_logout(source.key, previous, time.time()))


def as_another_process(store: TokenStore, folder: Path) -> FileStore:
    """The same files, and no gate in common."""
    assert isinstance(store, FileStore)
    made = FileStore(folder)
    made.identity += " of another process"
    return made


def the_grant(store: TokenStore, fake: FakeProvider) -> Grant:
    grant = store.load(GrantKey(fake.issuer, fake.public_client_id)).grant
    assert grant is not None
    return grant


def all_at_once(count: int, work: Callable[[int], TokenSet]) -> list[TokenSet | BaseException]:
    barrier = threading.Barrier(count)

    def begin(number: int) -> TokenSet:
        barrier.wait(PATIENCE)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[TokenSet]] = [pool.submit(begin, number) for number in range(count)]
        return [future.exception() or future.result() for future in futures]


def in_a_thread(work: Callable[[], TokenSet]) -> Future[TokenSet]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="caller")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def workers_done() -> None:
    for thread in threading.enumerate():
        if thread.name == "loginonce-refresh":
            thread.join(PATIENCE)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def settle(store: TokenStore, key: GrantKey) -> None:
    until(lambda: store.load(key).settled)


# Another process has the lock.


def busy_elsewhere(store: TokenStore, folder: Path) -> tuple[TokenStore, Hold]:
    """The store as another process has it, and the lock that it holds."""
    other = as_another_process(store, folder) if isinstance(store, FileStore) else store
    (grant,) = store.grants()
    hold = other.try_lock(grant.key)
    assert hold is not None
    return other, hold


def renewed_by_another(store: TokenStore, fake: FakeProvider) -> Grant:
    """The record with a token that another process has got."""
    before = the_grant(store, fake)
    made = replace(before, generation=before.generation + 1, attempt=0, tokens=issued(fake).tokens)
    store.commit(made, expected=before.order)
    return made


def test_who_waits_for_another_process_begins_no_thread_and_makes_no_provider(
    fake_provider: FakeProvider, store: TokenStore, folder: Path, key: GrantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(issued(fake_provider, EXPIRED), expected=None)
    source = LoginSource(key, store, lambda: pytest.fail("a provider was made"), policy=QUICK)
    other, hold = busy_elsewhere(store, folder)
    workers: list[object] = []
    monkeypatch.setattr(_Run, "_work", workers.append)
    renewing = threading.Timer(0.2, lambda: (renewed_by_another(other, fake_provider), hold.release()))
    renewing.start()
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    renewing.join()
    assert (workers, fake_provider.log) == ([], [])


def test_one_thread_of_a_process_watches_what_another_process_does_and_tells_the_others(
    fake_provider: FakeProvider, folder: Path, key: GrantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store, EXPIRED)
    other, hold = busy_elsewhere(store, folder)
    monkeypatch.setattr(gate_module, "SLICE", 5.0)  # within them a watch that is over says so
    watching: list[int] = []
    most: list[int] = []
    kind = type(store.lookout(key))
    real = kind.wait

    def wait(lookout: Lookout, stamp: Stamp, seconds: float) -> bool:
        watching.append(1)
        most.append(len(watching))
        try:
            return real(lookout, stamp, seconds)
        finally:
            watching.pop()

    monkeypatch.setattr(kind, "wait", wait)
    with ThreadPoolExecutor(12) as pool:
        tokens = [pool.submit(source.token) for _ in range(12)]
        until(lambda: most)
        time.sleep(0.15)
        made = renewed_by_another(other, fake_provider)
        hold.release()
        assert {token.result(PATIENCE) for token in tokens} == set(made.tokens)
    assert set(most) == {1}
    assert fake_provider.stats.token_requests == 0


def test_sources_that_want_other_tokens_of_one_login_share_its_gate(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    whole = signed_in(fake_provider, store, EXPIRED)
    scopes = ["openid", "offline_access", "offline_access openid"]
    narrowed = [whole.narrowed(scope=scope) for scope in scopes]
    with ThreadPoolExecutor(len(scopes)) as pool:
        for _ in range(6):
            asked = [pool.submit(source.renew) for source in narrowed]
            for scope, token in zip(scopes, asked, strict=True):
                assert token.result(PATIENCE).scope == scope
    assert fake_provider.stats.replays == 0


def test_the_lock_is_taken_once_where_the_metadata_are_known(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    source.provider.prepare()
    source.token()
    assert flaky.tries == 1


def test_a_lock_that_another_one_takes_while_the_metadata_are_asked_for_is_waited_for(
    fake_provider: FakeProvider, flaky: Flaky
) -> None:
    hold: list[Hold | None] = []

    class Slow(Provider):
        def prepare(self, budget: float = 20.0) -> wire.Reply | None:
            hold.append(flaky.try_lock(source.key))
            return super().prepare(budget)

    provider = Slow(Discovery(fake_provider.issuer), Client("notebook"))
    source = signed_in(fake_provider, flaky, EXPIRED, provider=provider)
    with ThreadPoolExecutor(1) as pool:
        token = pool.submit(source.token)
        until(lambda: hold)
        assert hold[0] is not None  # nobody had it meanwhile
        made = renewed_by_another(flaky, fake_provider)
        hold[0].release()
        assert token.result(PATIENCE) == made.tokens[0]
    assert fake_provider.stats.token_requests == 0


def test_a_store_that_cannot_be_looked_at_any_more_does_not_end_a_wait_that_may_end_well(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    other, hold = busy_elsewhere(flaky, Path())
    failures: list[object] = []

    def failing(key: GrantKey) -> Any:
        failures.append(key)
        raise StoreError("no looks today")

    monkeypatch.setattr(flaky, "locked", failing)
    monkeypatch.setattr(flaky, "lookout", failing)
    with ThreadPoolExecutor(1) as pool:
        token = pool.submit(source.token)
        until(lambda: len(failures) > 4)
        made = renewed_by_another(other, fake_provider)
        hold.release()
        assert token.result(PATIENCE) == made.tokens[0]


def test_a_token_that_is_still_good_does_not_try_a_busy_lock_at_every_call(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY", 60.0)
    source = signed_in(fake_provider, flaky, STALE)
    hold = flaky.try_lock(source.key)
    assert hold is not None
    for _ in range(10):
        source.token()
        workers_done()
    hold.release()
    assert flaky.tries == 2  # ours, and that of the first call


# The fast path.


def test_a_provider_is_made_when_it_is_first_needed(fake_provider: FakeProvider, store: TokenStore) -> None:
    made: list[Provider] = []

    def make() -> Provider:
        made.append(Provider(Discovery(fake_provider.issuer), Client(fake_provider.public_client_id)))
        return made[-1]

    store.commit(issued(fake_provider), expected=None)
    source = LoginSource(GrantKey(fake_provider.issuer, fake_provider.public_client_id), store, make)
    source.token()
    assert made == []
    source.renew()
    source.renew()
    assert made == [source.provider]


def test_a_fresh_token_is_given_and_nobody_is_asked(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store)
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    assert fake_provider.log == []


def test_the_fast_path_is_one_stat_without_lock_parsing_or_reading(
    fake_provider: FakeProvider, folder: Path, key: GrantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    settle(store, key)
    first = source.token()
    looks: list[object] = []
    real = os.lstat

    def forbidden(*_: object, **__: object) -> Any:
        raise AssertionError("the fast path does not need that")

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", lambda path: looks.append(path) or real(path))
        for name in ("open", "stat", "fstat"):
            patch.setattr(os, name, forbidden)
        patch.setattr(file_module, "decode", forbidden)
        patch.setattr(store, "try_lock", forbidden)
        patch.setattr(store, "load", forbidden)
        patch.setattr(module, "gate_of", forbidden)
        patch.setattr(threading, "Thread", forbidden)
        again = source.token()
    assert again is first
    assert looks == [store.location(key)]


def test_a_stamp_that_is_too_young_is_not_trusted(
    fake_provider: FakeProvider, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(folder)
    monkeypatch.setattr(file_module, "GRANULARITY_NS", 10**18)
    source = signed_in(fake_provider, store)
    reads: list[object] = []
    real = store.load
    monkeypatch.setattr(store, "load", lambda key: reads.append(key) or real(key))
    for _ in range(3):
        source.token()
    assert len(reads) == 3
    monkeypatch.setattr(file_module, "GRANULARITY_NS", -(10**18))
    for _ in range(3):
        source.token()
    assert len(reads) == 4


def test_a_change_by_another_process_is_seen_by_the_next_call(
    fake_provider: FakeProvider, folder: Path, key: GrantKey
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    settle(store, key)
    old = source.token()
    newer = new_login(fake_provider)
    _, made = a_source(fake_provider, as_another_process(store, folder)).change(newer)
    assert source.token() == made.tokens[0] != old


def test_a_log_out_by_another_process_is_seen_by_the_next_call(
    fake_provider: FakeProvider, folder: Path, key: GrantKey
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    settle(store, key)
    source.token()
    log_out(a_source(fake_provider, as_another_process(store, folder)))
    with pytest.raises(LoginRequired) as ended:
        source.token()
    assert (ended.value.reason, ended.value.hint) == ("logged_out", "log in!")
    assert fake_provider.stats.token_requests == 0


def test_a_token_that_ends_while_it_is_remembered_is_renewed(
    fake_provider: FakeProvider, store: TokenStore, key: GrantKey, clock: Clock
) -> None:
    source = signed_in(fake_provider, store)
    settle(store, key)
    old = source.token()
    clock.ahead = FRESH + 1
    assert source.token() != old
    assert fake_provider.stats.refreshes == 1


@pytest.mark.parametrize("scope", [{"openid"}, {"offline_access"}, set()])
def test_who_asks_for_less_shares_the_login(fake_provider: FakeProvider, store: TokenStore, scope: set[str]) -> None:
    assert signed_in(fake_provider, store, scope=frozenset(scope)).token()


def test_who_asks_for_more_is_told_what_is_missing(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, scope=frozenset({"openid", "admin", "b"}))
    for _ in range(2):
        with pytest.raises(LoginRequired, match="admin b") as refused:
            source.token()
        assert refused.value.reason == "scope"


def test_without_a_login_one_is_required(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = a_source(fake_provider, store)
    with pytest.raises(LoginRequired, match="nobody is signed in") as refused:
        source.token()
    assert (refused.value.reason, refused.value.hint) == ("none", "log in!")
    assert source.grant() is None
    assert source.memory() is None
    assert fake_provider.log == []


def test_the_representation_shows_no_secret(fake_provider: FakeProvider, store: TokenStore, key: GrantKey) -> None:
    assert repr(signed_in(fake_provider, store)) == f"LoginSource({key})"


# One refresh for all.


@pytest.mark.hazard(5, 6)
def test_64_threads_at_the_end_of_a_token_make_one_request_and_all_succeed(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.latency = 0.1
    tokens = all_at_once(64, lambda _: source.token())
    assert set(tokens) == {the_grant(store, fake_provider).tokens[0]}
    assert fake_provider.stats.token_requests == 1
    assert the_grant(store, fake_provider).order[1:] == (1, 0)


def test_two_sources_of_one_login_in_one_process_make_one_request(fake_provider: FakeProvider, folder: Path) -> None:
    one = signed_in(fake_provider, FileStore(folder), EXPIRED)
    two = a_source(fake_provider, FileStore(folder))
    fake_provider.latency = 0.1
    tokens = all_at_once(32, lambda number: (one, two)[number % 2].token())
    assert len(set(tokens)) == 1
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(5, 6)
def test_two_processes_make_one_request(fake_provider: FakeProvider, folder: Path) -> None:
    store = FileStore(folder)
    one = signed_in(fake_provider, store, EXPIRED)
    two = a_source(fake_provider, as_another_process(store, folder))
    fake_provider.latency = 0.1
    tokens = all_at_once(32, lambda number: (one, two)[number % 2].token())
    assert len(set(tokens)) == 1
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(36)
def test_each_login_is_renewed_by_itself(fake_provider_factory: Factory, store: TokenStore) -> None:
    one, two = fake_provider_factory(), fake_provider_factory()
    provider = held(one)
    slow = signed_in(one, store, EXPIRED, provider=provider)
    quick = signed_in(two, store, EXPIRED)
    waiting = in_a_thread(slow.token)
    assert provider.before.wait(PATIENCE)
    assert quick.token()
    assert not waiting.done()
    provider.let_go()
    assert waiting.result(PATIENCE)


def test_a_waiting_process_adopts_the_new_token_without_the_lock(fake_provider: FakeProvider, folder: Path) -> None:
    store = FileStore(folder)
    provider = held(fake_provider)
    holder = signed_in(fake_provider, store, EXPIRED, provider=provider)
    waiter = a_source(fake_provider, as_another_process(store, folder))
    first = in_a_thread(holder.token)
    assert provider.before.wait(PATIENCE)
    second = in_a_thread(waiter.token)
    provider.let_go()
    assert first.result(PATIENCE) == second.result(PATIENCE)
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(10)
def test_a_process_that_waits_for_a_holder_that_dies_renews_by_itself(
    fake_provider: FakeProvider, folder: Path, key: GrantKey
) -> None:
    store = FileStore(folder)
    waiter = signed_in(fake_provider, store, EXPIRED)
    dying = FileStore(folder).try_lock(key)
    assert dying is not None
    waiting = in_a_thread(waiter.token)
    until(lambda: waiter.memory() is not None)
    dying.release()
    assert waiting.result(PATIENCE)
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(8, 10)
def test_a_wait_for_another_process_ends_at_its_bound(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED, policy=Policy(wait_timeout=0.15))
    holder = store.try_lock(source.key)
    assert holder is not None
    began = time.monotonic()
    with pytest.raises(LockTimeout, match="another process") as late:
        source.token()
    assert 0.1 < time.monotonic() - began < 2
    assert store.location(source.key) in str(late.value)
    holder.release()
    assert fake_provider.stats.token_requests == 0
    assert source.token()


@pytest.mark.hazard(8)
def test_a_wait_for_another_thread_ends_at_its_bound(fake_provider: FakeProvider, store: TokenStore) -> None:
    provider = held(fake_provider)
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    first = in_a_thread(source.token)
    assert provider.before.wait(PATIENCE)
    with pytest.raises(LockTimeout):
        a_source(fake_provider, store, policy=Policy(wait_timeout=0.15)).token()
    provider.let_go()
    assert first.result(PATIENCE)
    assert provider.calls == 1


@pytest.mark.hazard(33)
def test_a_clock_that_is_set_back_does_not_prolong_a_wait(
    fake_provider: FakeProvider, flaky: Flaky, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED, policy=Policy(wait_timeout=0.5))
    holder = flaky.try_lock(source.key)
    assert holder is not None
    real = flaky.stamp

    def stamp(key: GrantKey) -> Stamp:
        if flaky.tries > 1:  # the wait has begun
            clock.ahead = -0.5  # so little that the token is as expired as before
        return real(key)

    monkeypatch.setattr(flaky, "stamp", stamp)
    waiting = in_a_thread(source.token)
    try:
        with pytest.raises(LockTimeout):
            waiting.result(5)
    finally:
        holder.release()


def test_a_clock_that_is_set_back_just_before_a_wait_does_not_break_it(
    fake_provider: FakeProvider, flaky: Flaky, clock: Clock
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    waiting = module._Run(source, source._want)
    clock.ahead = -3600
    waiting._watch(1.0)


# Near its end: nobody waits.


@pytest.mark.hazard(8)
def test_near_its_end_the_old_token_is_given_at_once_and_one_renewal_runs_behind(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    provider = held(fake_provider)
    source = signed_in(fake_provider, store, STALE, provider=provider)
    old = the_grant(store, fake_provider).tokens[0]
    assert set(all_at_once(32, lambda _: source.token())) == {old}
    assert provider.before.wait(PATIENCE)
    assert source.token() == old
    provider.let_go()
    workers_done()
    assert source.token() == the_grant(store, fake_provider).tokens[0] != old
    assert provider.calls == fake_provider.stats.token_requests == 1


@pytest.mark.hazard(8)
def test_near_its_end_nobody_waits_for_another_process_either(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, STALE, policy=Policy(wait_timeout=3600))
    holder = store.try_lock(source.key)
    assert holder is not None
    for _ in range(3):
        assert source.token() == the_grant(store, fake_provider).tokens[0]
        workers_done()
    holder.release()
    assert fake_provider.stats.token_requests == 0


def test_a_renewal_behind_that_fails_costs_the_caller_nothing_and_is_told_to_all(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, STALE)
    fake_provider.faults.add(Fault.status(503, headers={"Retry-After": "60"}), times=None)
    old = the_grant(store, fake_provider).tokens[0]
    for _ in range(5):
        assert source.token() == old
        workers_done()
    failure = the_grant(store, fake_provider).failure
    assert failure is not None
    assert failure.kind == "busy"
    assert failure.not_before > time.time() + 50
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(29)
def test_a_refusal_behind_is_told_only_when_the_old_token_ends(
    fake_provider: FakeProvider, store: TokenStore, clock: Clock
) -> None:
    source = signed_in(fake_provider, store, STALE)
    fake_provider.end_sessions()
    old = source.token()
    workers_done()
    assert the_grant(store, fake_provider).state == "DEAD"
    assert source.token() == old
    clock.ahead = STALE
    with pytest.raises(LoginRequired):
        source.token()
    assert fake_provider.stats.token_requests == 1


def test_whoever_was_held_up_under_a_lease_before_it_could_send_begins_anew(
    fake_provider: FakeProvider, clock: Clock
) -> None:
    store = Leasing()
    source = signed_in(fake_provider, store, EXPIRED)
    source.provider.prepare()

    def stop_once(grant: Grant) -> None:  # as SIGSTOP does, between the marker and the send
        if grant.marker is not None and clock.ahead == 0:
            clock.ahead = 10.0

    store.before_commit = stop_once
    before = the_grant(store, fake_provider).tokens[0]
    assert source.token() != before
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)
    assert the_grant(store, fake_provider).order[1:] == (1, 0)
    assert store.tries == 2


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is to be had for a renewal."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "loginonce-refresh":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_workers")
def test_a_process_that_may_start_no_more_threads_renews_in_its_own(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    assert fake_provider.stats.token_requests == 1


@pytest.mark.usefixtures("no_workers")
def test_any_thread_of_such_a_process_renews(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    assert in_a_thread(source.token).result(PATIENCE) == the_grant(store, fake_provider).tokens[0]


@pytest.mark.hazard(2)
@pytest.mark.usefixtures("no_workers", "interruptible")
@pytest.mark.parametrize("sent", [True, False])
def test_an_interrupt_of_such_a_process_waits_for_what_has_been_sent_and_sends_nothing(
    fake_provider: FakeProvider, store: TokenStore, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    name = "_send" if sent else "_lock"
    real = getattr(_Run, name)

    def interrupted(run: _Run, *given: Any) -> Any:
        _thread.interrupt_main()
        return real(run, *given)

    monkeypatch.setattr(_Run, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.token()
    assert the_grant(store, fake_provider).order[1:] == (int(sent), 0)
    assert fake_provider.stats.token_requests == int(sent)
    monkeypatch.undo()
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


@pytest.mark.hazard(8)
def test_where_no_thread_is_to_be_had_nobody_with_a_good_token_waits_for_a_renewal(
    fake_provider: FakeProvider, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, store, STALE)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        before = source.token()
    assert before == the_grant(store, fake_provider).tokens[0]
    assert fake_provider.stats.token_requests == 0


@pytest.mark.hazard(8)
def test_what_is_asked_of_a_provider_about_itself_leaves_the_others_time_for_the_send(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    budgets: list[float] = []

    class Uninformed(Provider):
        def informed(self) -> bool:
            return False

        def prepare(self, budget: float = 20.0) -> Any:
            budgets.append(budget)
            return super().prepare(budget)

    source = signed_in(fake_provider, store, EXPIRED)
    source._provider = Uninformed(Discovery(fake_provider.issuer), Client(fake_provider.public_client_id))
    source.policy = Policy(wait_timeout=9.0, send_timeout=2.0)
    assert source.token()
    for policy in (Policy(wait_timeout=2.0, send_timeout=5.0), Policy(wait_timeout=9.0, send_timeout=9.0)):
        source.policy = policy
        assert source.renew()
    assert [budget for budget in budgets if budget != 20.0] == [7.0, 2.0, 5.0]


@pytest.mark.hazard(3)
def test_an_unsaved_answer_of_a_process_that_may_start_no_more_threads_keeps_its_lock_until_the_last_attempt(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "loginonce-rescue":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(gate_module, "_rescuers", [])
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    token = source.token()
    assert flaky.try_lock(source.key) is None
    flaky.before_commit, flaky.no_commit = lambda grant: None, False
    module._see_through()
    assert the_grant(flaky, fake_provider).tokens[0] == token


def test_an_unsaved_answer_for_which_no_thread_was_to_be_had_is_saved_when_one_is(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_rescuers", [])
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "loginonce-rescue":
            raise RuntimeError("can't start new thread")
        real(thread)

    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        token = source.token()
    flaky.before_commit, flaky.no_commit = lambda grant: None, False
    for _ in range(2):  # the second finds somebody at it
        with suppress(StoreError):
            source.renew()
    until(lambda: gate_module.gate_of(flaky, source.key).unsaved is None)
    assert token in the_grant(flaky, fake_provider).tokens or fake_provider.stats.token_requests == 2


class Deafening(logging.Handler):
    """A handler that raises, as one of a user's may."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("nobody may hear this")


@pytest.fixture
def deafening() -> Iterator[None]:
    logger, handler = logging.getLogger("loginonce"), Deafening()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.hazard(2, 3)
@pytest.mark.usefixtures("deafening")
def test_a_log_that_cannot_be_written_loses_no_answer(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    failures = 1

    def fail(grant: Grant) -> None:
        nonlocal failures
        if grant.generation > 0 and failures:
            failures -= 1
            raise RuntimeError("and the store fails, too")

    flaky.before_commit = fail
    token = source.token()
    until(lambda: gate_module.gate_of(flaky, source.key).unsaved is None)
    assert the_grant(flaky, fake_provider).tokens[0] == token
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


@pytest.mark.usefixtures("deafening")
def test_a_log_that_cannot_be_written_keeps_nobody_at_the_gate(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, STALE)
    flaky.no_lock = True
    source.token()
    workers_done()
    flaky.no_lock = False
    assert not gate_module.gate_of(flaky, source.key).busy
    source.renew()
    assert the_grant(flaky, fake_provider).generation == 1


def test_what_fails_in_the_background_outside_of_the_provider_is_not_tried_at_each_request(
    fake_provider: FakeProvider, store: TokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[int] = []

    def make() -> Provider:
        made.append(1)
        raise ConfigurationError("a setting is wrong")

    signed_in(fake_provider, store, STALE)
    source = LoginSource(GrantKey(fake_provider.issuer, fake_provider.public_client_id), store, make, policy=QUICK)
    for _ in range(5):
        source.token()
        workers_done()
    assert len(made) == 1
    assert caplog.text.count("a setting is wrong") == 1


def test_what_others_write_into_their_exceptions_is_not_logged(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = signed_in(fake_provider, flaky, STALE)

    def fail(key: GrantKey) -> None:
        raise RuntimeError("row: rt_canary")

    monkeypatch.setattr(flaky, "try_lock", fail)
    source.token()
    workers_done()
    assert "did not succeed: RuntimeError" in caplog.text
    assert "rt_canary" not in caplog.text


def test_an_answer_that_is_saved_meanwhile_is_not_told_of_as_unsaved(
    fake_provider: FakeProvider, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, store, STALE)
    unsaved = the_grant(store, fake_provider)

    class Saving(gate_module.Gate):
        """It is saved right after somebody has looked for the so-and-so-many-th time."""

        looks = 0

        @property  # type: ignore[override]
        def unsaved(self) -> Grant | None:
            self.looks -= 1
            return unsaved if self.looks >= 0 else None

        @unsaved.setter
        def unsaved(self, grant: Grant | None) -> None:
            pass

    gate = gate_module.gate_of(store, source.key)
    gate.__class__ = Saving
    gate.be_quiet(PATIENCE)
    for looks in range(8):
        gate.looks = looks  # type: ignore[attr-defined]
        assert source.token() == unsaved.tokens[0]
    gate.__class__ = gate_module.Gate


@pytest.mark.hazard(3)
def test_a_store_that_fails_in_an_unforeseen_way_loses_no_answer(
    fake_provider: FakeProvider, flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    failures = 2  # the worker's attempt, and the rescuer's first

    def fail(grant: Grant) -> None:
        nonlocal failures
        if grant.generation > 0 and failures > 0:
            failures -= 1
            raise ValueError("nobody foresaw this")

    flaky.before_commit = fail
    token = source.token()
    until(lambda: the_grant(flaky, fake_provider).generation == 1)
    assert the_grant(flaky, fake_provider).tokens[0] == token
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)
    assert token.access_token not in caplog.text


@pytest.mark.hazard(2)
def test_an_interrupt_just_before_the_worker_starts_does_not_shut_the_login_for_good(
    fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, MemoryStore(), EXPIRED, policy=Policy(wait_timeout=0.2))

    def interrupted(*_: object, **__: object) -> threading.Thread:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.threading, "Thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source.token()
    try:
        assert source.token()
    finally:
        gate_module._gates.clear()


def test_a_log_out_between_look_and_lock_ends_a_renewal_behind_and_keeps_nobody_from_the_next(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = signed_in(fake_provider, flaky, STALE)
    real = flaky.try_lock

    def late(key: GrantKey) -> Hold | None:
        log_out(a_source(fake_provider, flaky))
        return real(key)

    with monkeypatch.context() as patch:
        patch.setattr(flaky, "try_lock", late)
        source.token()
        workers_done()
    assert "a renewal in the background did not succeed: somebody signed out" in caplog.text
    assert gate_module.gate_of(flaky, source.key).quiet_until == 0.0
    assert fake_provider.stats.token_requests == 0


@pytest.mark.hazard(1, 2)
def test_a_worker_that_is_torn_down_frees_lock_and_gate_and_leaves_its_marker(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    class Ending(Provider):
        def refresh(self, grant: Grant, **_: Any) -> wire.Reply:
            raise SystemExit

    provider = Ending(Discovery(fake_provider.issuer), Client("notebook"))
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    with pytest.raises(SystemExit):
        source.token()
    hold = store.try_lock(source.key)
    assert hold is not None
    hold.release()
    assert the_grant(store, fake_provider).state == "SPENDING"
    assert a_source(fake_provider, store).token()


# Interrupts (the subprocesses at the end show the same for whole programs).


@pytest.mark.hazard(2)
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_abandons_the_wait_and_nothing_else(fake_provider: FakeProvider, store: TokenStore) -> None:
    interrupted = threading.Event()

    class Interrupting(Provider):
        def refresh(self, grant: Grant, **members: Any) -> wire.Reply:
            reply = super().refresh(grant, **members)
            _thread.interrupt_main()
            assert interrupted.wait(PATIENCE)
            return reply

    source = signed_in(
        fake_provider, store, EXPIRED, provider=Interrupting(Discovery(fake_provider.issuer), Client("notebook"))
    )
    with pytest.raises(KeyboardInterrupt):
        source.token()
    assert the_grant(store, fake_provider).state == "SPENDING"
    interrupted.set()
    workers_done()
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    assert fake_provider.stats.token_requests == 1


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_lock_is_taken_elsewhere_ends_the_wait_of_the_worker_too(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    holder = flaky.try_lock(source.key)
    assert holder is not None
    real = flaky.try_lock

    def interrupting(key: GrantKey) -> Hold | None:
        if flaky.tries == 1:
            _thread.interrupt_main()
        return real(key)

    monkeypatch.setattr(flaky, "try_lock", interrupting)
    with pytest.raises(KeyboardInterrupt):
        source.token()
    workers_done()
    assert not [thread for thread in threading.enumerate() if thread.name == "loginonce-refresh"]
    holder.release()
    assert fake_provider.stats.token_requests == 0
    assert source.token()


@pytest.mark.hazard(2)
def test_an_interrupt_just_after_the_worker_has_started_ends_its_wait_too(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED, policy=Policy(wait_timeout=5.0))
    holder = flaky.try_lock(source.key)
    assert holder is not None
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        real(thread)
        if thread.name == "loginonce-refresh":
            raise KeyboardInterrupt  # as it comes while `start` waits for the thread to begin

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            source.token()
    workers = [thread for thread in threading.enumerate() if thread.name == "loginonce-refresh"]
    for worker in workers:
        worker.join(1.0)
    alive = [worker for worker in workers if worker.is_alive()]
    holder.release()
    assert not alive
    assert fake_provider.stats.token_requests == 0


# A token that an API has refused.


def test_a_refused_token_is_replaced_by_one_refresh(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store)
    refused = source.token()
    newer = source.token(rejected=refused)
    assert newer != refused
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(6)
def test_many_threads_whose_token_is_refused_make_one_request(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store)
    refused = source.token()
    fake_provider.latency = 0.1
    assert len(set(all_at_once(32, lambda _: source.token(rejected=refused)))) == 1
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(23)
def test_a_refused_token_for_which_there_is_a_newer_one_needs_no_request(
    fake_provider: FakeProvider, folder: Path
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    refused = source.token()
    newer = a_source(fake_provider, as_another_process(store, folder)).token(rejected=refused)
    fake_provider.reset_stats()
    assert source.token(rejected=refused) == newer
    assert fake_provider.log == []


@pytest.mark.hazard(22)
def test_a_token_that_is_refused_as_soon_as_it_was_received_is_not_renewed(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, 299)
    refused = source.token()
    assert source.token(rejected=refused) == refused
    assert fake_provider.stats.token_requests == 0


def test_a_renewal_that_is_asked_for_happens_however_young_the_token_is(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, 299)
    first = source.token()
    second = source.renew()
    third = source.renew()
    assert len({first, second, third}) == 3
    assert fake_provider.stats.token_requests == 2


def test_a_renewal_without_a_login_requires_one(fake_provider: FakeProvider, store: TokenStore) -> None:
    with pytest.raises(LoginRequired):
        a_source(fake_provider, store).renew()


# Refusals.


@pytest.mark.hazard(28)
def test_of_32_threads_with_a_dead_login_one_asks_and_all_are_told(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.end_sessions()
    fake_provider.latency = 0.1
    outcomes = all_at_once(32, lambda _: source.token())
    assert {type(outcome) for outcome in outcomes} == {LoginRequired}
    assert {outcome.reason for outcome in outcomes} == {"ended"}  # type: ignore[union-attr]
    assert fake_provider.stats.token_requests == 1
    with pytest.raises(LoginRequired, match="ended at the provider"):
        a_source(fake_provider, store).token()
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(28)
def test_a_new_login_revives_the_same_sources(fake_provider: FakeProvider, store: TokenStore) -> None:
    one, two = signed_in(fake_provider, store, EXPIRED), a_source(fake_provider, store)
    fake_provider.end_sessions()
    for source in (one, two):
        with pytest.raises(LoginRequired):
            source.token()
    previous, made = one.change(new_login(fake_provider))
    assert previous is not None
    assert previous.state == "DEAD"
    assert one.token() == two.token() == made.tokens[0]


@pytest.mark.hazard(11)
def test_a_refused_refresh_waits_for_the_newer_record_of_a_sibling_that_takes_no_lock(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    provider = held(fake_provider)
    source = signed_in(fake_provider, store, EXPIRED, provider=provider, policy=Policy(refusal_wait=PATIENCE))
    fake_provider.faults.add(Fault.answer({"error": "invalid_grant"}, 400))
    waiting = in_a_thread(source.token)
    assert provider.before.wait(PATIENCE)
    provider.let_go()
    assert provider.after.wait(PATIENCE)
    spending = the_grant(store, fake_provider)
    sibling = replace(issued(fake_provider), epoch=spending.epoch, generation=spending.generation + 1)
    store.commit(sibling, expected=spending.order)
    assert waiting.result(PATIENCE) == sibling.tokens[0]


@pytest.mark.hazard(27)
def test_a_provider_that_objects_to_us_ends_no_login(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.faults.add(Fault.answer({"error": "invalid_client"}, 401))
    with pytest.raises(ConfigurationError, match="check client_id, its secret, key or certificate, and scope"):
        source.token()
    assert the_grant(store, fake_provider).state == "ACTIVE"
    assert the_grant(store, fake_provider).refresh_token is not None


def test_tokens_of_somebody_else_end_the_login_and_are_revoked(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.tamper_id_token = lambda claims, header: ({**claims, "sub": "grace"}, header)
    with pytest.raises(LoginRequired, match="somebody else") as ended:
        source.token()
    assert ended.value.reason == "account"
    assert fake_provider.stats.revocations == 1


@pytest.mark.hazard(35)
def test_tokens_of_an_odd_type_are_saved_and_refused(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    odd = {"access_token": "x", "token_type": "mac", "expires_in": 300, "refresh_token": "rt_next"}
    fake_provider.faults.add(Fault.answer(odd))
    with pytest.raises(ProtocolError, match="'mac'.*the login itself has been saved"):
        source.token()
    assert the_grant(store, fake_provider).refresh_token == "rt_next"


def test_a_login_that_cannot_renew_itself_runs_out(fake_provider: FakeProvider, store: TokenStore) -> None:
    store.commit(issued(fake_provider, EXPIRED, refresh_token=None, renewal="none"), expected=None)
    with pytest.raises(LoginRequired, match="run out") as ended:
        a_source(fake_provider, store).token()
    assert ended.value.reason == "expired"


# Lost answers.


def lose_one(source: LoginSource) -> None:
    with pytest.raises(TransportError, match="It is kept; try again in") as failed:
        source.token()
    assert failed.value.retry_after is not None
    assert 0 < failed.value.retry_after < 2


@pytest.mark.hazard(1, 32)
def test_after_a_lost_answer_nothing_is_sent_before_its_time(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.faults.add(Fault.drop_after())
    for _ in range(3):
        lose_one(source)
    assert fake_provider.stats.token_requests == 1
    assert the_grant(store, fake_provider).state == "SPENDING"


@pytest.mark.hazard(1)
def test_a_lost_answer_is_asked_for_once_more_and_where_that_is_a_replay_a_login_is_required(
    fake_provider: FakeProvider, store: TokenStore, clock: Clock
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.faults.add(Fault.drop_after())
    lose_one(source)
    for _ in range(3):
        clock.ahead += 60
        with pytest.raises(LoginRequired):
            source.token()
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (2, 1)


@pytest.mark.hazard(1)
def test_an_answer_that_is_lost_twice_is_lost(fake_provider: FakeProvider, store: TokenStore, clock: Clock) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.faults.add(Fault.drop_before(), times=2)
    lose_one(source)
    clock.ahead += 60
    with pytest.raises(TransportError):
        source.token()
    for _ in range(3):
        clock.ahead += 60
        with pytest.raises(LoginRequired, match="may have been used up without an answer") as ended:
            source.token()
        assert ended.value.reason == "lost"
    assert (fake_provider.stats.token_requests, fake_provider.stats.refreshes) == (2, 0)
    assert fake_provider.faults.pending == 0


@pytest.mark.hazard(1)
def test_by_policy_a_lost_answer_is_not_asked_for_again(
    fake_provider: FakeProvider, store: TokenStore, clock: Clock
) -> None:
    source = signed_in(fake_provider, store, EXPIRED, policy=Policy(lost="login"))
    fake_provider.faults.add(Fault.drop_after())
    lose_one(source)
    clock.ahead += 60
    with pytest.raises(LoginRequired) as ended:
        source.token()
    assert ended.value.reason == "lost"
    assert fake_provider.stats.token_requests == 1


@pytest.mark.parametrize("grace", [Grace.same_successor(60), Grace.sibling(60), Grace.count(3)], ids=lambda g: g.kind)
@pytest.mark.parametrize("fault", [Fault.drop_after(), Fault.truncate(), Fault.garble()], ids=["drop", "cut", "garble"])
@pytest.mark.hazard(1)
def test_within_the_reuse_interval_a_lost_answer_is_made_good(
    fake_provider_factory: Factory, store: TokenStore, clock: Clock, grace: Grace, fault: Fault
) -> None:
    fake = fake_provider_factory(grace=grace)
    source = signed_in(fake, store, EXPIRED, policy=Policy(reuse_interval=60))
    fake.faults.add(fault)
    lose_one(source)
    clock.ahead += 5
    assert source.token() == the_grant(store, fake).tokens[0]
    assert (fake.stats.reuses, fake.stats.replays) == (1, 0)
    clock.ahead += 400
    assert source.token()


def test_an_error_that_nobody_foresaw_is_an_answer_that_may_be_lost(
    fake_provider: FakeProvider, store: TokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Provider):
        def refresh(self, grant: Grant, **_: Any) -> wire.Reply:
            raise ZeroDivisionError

    provider = Broken(Discovery(fake_provider.issuer), Client("notebook"))
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    with pytest.raises(TransportError, match="ZeroDivisionError"):
        source.token()
    assert "unforeseen" in caplog.text
    assert the_grant(store, fake_provider).state == "SPENDING"


# Busy, or down.


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.hazard(32)
def test_how_long_to_stay_away_holds_for_every_process(
    fake_provider: FakeProvider, folder: Path, clock: Clock, status: int
) -> None:
    store = FileStore(folder)
    one = signed_in(fake_provider, store, EXPIRED)
    two = a_source(fake_provider, as_another_process(store, folder))
    fake_provider.faults.add(Fault.status(status, headers={"Retry-After": "30"}))
    for source in (one, two, one, two):
        with pytest.raises(TransportError) as busy:
            source.token()
        assert busy.value.retry_after is not None
        assert 25 < busy.value.retry_after <= 30
    assert fake_provider.faults.pending == 0
    clock.ahead += 31
    assert two.token() == one.token()
    assert fake_provider.stats.token_requests == 2


@pytest.mark.hazard(27, 32)
def test_a_provider_that_is_down_ends_no_login_and_is_asked_less_and_less(
    fake_provider: FakeProvider, store: TokenStore, clock: Clock
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    _ = source.provider.server
    fake_provider.stop()
    pauses = []
    for _ in range(5):
        with pytest.raises(TransportError) as down:
            source.token()
        assert down.value.retry_after is not None
        pauses.append(down.value.retry_after)
        clock.ahead += down.value.retry_after + 0.001
    assert pauses == sorted(pauses)
    assert 8 * pauses[0] < pauses[-1] < 32 * pauses[0]
    assert the_grant(store, fake_provider).state == "ACTIVE"
    fake_provider.start()
    assert source.token()
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(8)
def test_under_the_lock_nothing_but_token_requests_is_sent(fake_provider: FakeProvider, key: GrantKey) -> None:
    store = MemoryStore()
    under_the_lock: list[str] = []

    class Watched(Transport):
        def get(self, url: str, headers: Mapping[str, str] | None = None, *, budget: float) -> Answer:
            if (hold := store.try_lock(key)) is None:
                under_the_lock.append(url)
            else:
                hold.release()
            return super().get(url, headers, budget=budget)

    fake_provider.faults.add(Fault.drop_before(), times=2, where="discovery")
    provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), Watched())
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    with suppress(TransportError):
        source.token()
    assert under_the_lock == []


def test_metadata_that_cannot_be_had_sends_nothing_and_ends_no_login(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = signed_in(fake_provider, store, EXPIRED)
    fake_provider.faults.add(Fault.status(404), times=None, where="discovery")
    with pytest.raises(ConfigurationError, match="publishes no OpenID or OAuth metadata"):
        source.token()
    assert the_grant(store, fake_provider).state == "ACTIVE"
    assert fake_provider.stats.token_requests == 0


# A store that fails.


@pytest.mark.hazard(9)
def test_a_record_that_has_become_unreadable_costs_nobody_a_valid_token(
    fake_provider: FakeProvider, folder: Path, key: GrantKey
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    known = source.token()
    a_source(fake_provider, as_another_process(store, folder)).change(new_login(fake_provider))
    os.chmod(store.location(key), 0o644)
    assert source.token() == known
    assert source.memory() is not None
    with pytest.raises(StoreError, match="chmod 600"):
        source.grant()


def test_a_store_that_cannot_even_be_looked_at_costs_nobody_a_valid_token(
    fake_provider: FakeProvider, flaky: Flaky
) -> None:
    source = signed_in(fake_provider, flaky)
    known = source.token()
    flaky.no_stamp = flaky.no_load = True
    assert source.token() == known


@pytest.mark.hazard(9)
def test_a_store_that_cannot_be_read_spends_nothing(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.no_load = True
    with pytest.raises(StoreError, match="no reading today"):
        source.token()
    assert fake_provider.log == []


@pytest.mark.parametrize("left", [EXPIRED, STALE])
@pytest.mark.hazard(9)
def test_a_store_that_cannot_be_locked_is_a_store_error_and_spends_nothing(
    fake_provider: FakeProvider, flaky: Flaky, left: float, caplog: pytest.LogCaptureFixture
) -> None:
    source = signed_in(fake_provider, flaky, left)
    flaky.no_lock = True
    if left == STALE:
        assert source.token()
        workers_done()
    else:
        with pytest.raises(StoreError, match="no locks today"):
            source.token()
    assert fake_provider.stats.token_requests == 0
    assert "cannot follow phase" not in caplog.text


@pytest.mark.hazard(9)
def test_a_store_that_cannot_be_locked_spends_nothing(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.no_lock = True
    with suppress(StoreError, AssertionError):
        source.token()
    assert fake_provider.stats.token_requests == 0


def test_a_store_that_cannot_be_read_under_the_lock_spends_nothing_and_frees_the_lock(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    real = flaky.try_lock

    def lock_and_break(key: GrantKey) -> Hold | None:
        flaky.no_load = flaky.no_stamp = True
        return real(key)

    monkeypatch.setattr(flaky, "try_lock", lock_and_break)
    with pytest.raises(StoreError):
        source.token()
    assert fake_provider.stats.token_requests == 0
    hold = real(source.key)
    assert hold is not None
    hold.release()


@pytest.mark.hazard(3)
def test_what_cannot_be_marked_is_not_spent(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.no_commit = True
    with pytest.raises(StoreError, match="no writing today"):
        source.token()
    assert fake_provider.stats.token_requests == 0
    assert the_grant(flaky, fake_provider).state == "ACTIVE"
    flaky.no_commit = False
    assert source.token()


def test_what_cannot_be_marked_near_its_end_is_used_to_its_end(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, STALE)
    flaky.no_commit = True
    for _ in range(3):
        assert source.token() == the_grant(flaky, fake_provider).tokens[0]
        workers_done()
    assert fake_provider.stats.token_requests == 0


def test_a_store_that_refuses_renewals_near_the_end_is_not_tried_at_every_call(
    fake_provider: FakeProvider, flaky: Flaky
) -> None:
    source = signed_in(fake_provider, flaky, STALE)
    source.provider.prepare()
    flaky.no_commit = True
    for _ in range(10):
        source.token()
        workers_done()
    assert flaky.tries == 1


def test_a_store_that_failed_behind_is_left_alone_for_a_while(
    fake_provider: FakeProvider,
    flaky: Flaky,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = signed_in(fake_provider, flaky, STALE)
    real = flaky.try_lock

    def lock_and_break(key: GrantKey) -> Hold | None:
        flaky.no_load = flaky.no_stamp = True
        clock.ahead = STALE  # the token ends while the store ponders
        return real(key)

    with monkeypatch.context() as patch:
        patch.setattr(flaky, "try_lock", lock_and_break)
        source.token()
        workers_done()
    assert "a renewal in the background did not succeed: no stamp today" in caplog.text
    clock.ahead, flaky.no_load, flaky.no_stamp = 0.0, False, False
    source.token()
    workers_done()
    assert fake_provider.stats.token_requests == 0
    gate_module.gate_of(flaky, source.key).quiet_until = 0.0
    source.token()
    workers_done()
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(19)
def test_a_record_that_is_damaged_while_it_is_used_is_a_corrupt_store_and_then_no_login(
    fake_provider: FakeProvider, folder: Path, key: GrantKey
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store, EXPIRED)
    Path(store.location(key)).write_bytes(b"garbage")
    with pytest.raises(CorruptStore):
        source.token()
    with pytest.raises(LoginRequired):
        source.token()


@pytest.mark.hazard(21)
def test_an_older_copy_that_was_put_back_is_not_spent(
    fake_provider: FakeProvider, folder: Path, key: GrantKey, clock: Clock
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store, EXPIRED)
    path = Path(store.location(key))
    old = path.read_bytes()
    source.token()
    path.write_bytes(old)
    with pytest.raises(LoginRequired, match="older copy"):
        source.token()
    assert fake_provider.stats.token_requests == 1


# An answer that cannot be saved (HAZARDS 3).


@pytest.fixture
def unsaved(fake_provider: FakeProvider, flaky: Flaky) -> Iterator[LoginSource]:
    """A source whose answer has come and cannot be saved yet."""
    source = signed_in(fake_provider, flaky, EXPIRED)

    def refuse_answers(grant: Grant) -> None:
        flaky.no_commit = grant.generation > 0

    flaky.before_commit = refuse_answers
    source.token()
    yield source
    flaky.before_commit, flaky.no_commit, flaky.no_load = lambda grant: None, False, False
    until(lambda: gate_module.gate_of(flaky, source.key).unsaved is None)


def let_save(flaky: Flaky, source: LoginSource) -> None:
    flaky.before_commit, flaky.no_commit = lambda grant: None, False
    until(lambda: gate_module.gate_of(flaky, source.key).unsaved is None)


@pytest.mark.hazard(3)
def test_an_answer_that_cannot_be_saved_is_given_kept_and_told_of(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource, caplog: pytest.LogCaptureFixture
) -> None:
    grant = unsaved.grant()
    assert grant is not None
    assert grant.generation == 1
    assert unsaved.token() == a_source(fake_provider, flaky).token() == grant.tokens[0]
    assert the_grant(flaky, fake_provider).state == "SPENDING"
    assert fake_provider.stats.token_requests == 1


def test_an_unsaved_answer_is_given_also_where_the_store_cannot_be_read(flaky: Flaky, unsaved: LoginSource) -> None:
    token = unsaved.token()
    flaky.no_load = True
    assert unsaved.token() == token


@pytest.mark.hazard(3)
def test_an_unsaved_answer_keeps_the_lock_until_it_is_saved(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource, caplog: pytest.LogCaptureFixture
) -> None:
    assert flaky.try_lock(unsaved.key) is None
    let_save(flaky, unsaved)
    assert the_grant(flaky, fake_provider).state == "ACTIVE"
    hold = flaky.try_lock(unsaved.key)
    assert hold is not None
    hold.release()
    assert "is saved now" in caplog.text
    assert unsaved.token() == the_grant(flaky, fake_provider).tokens[0]
    assert fake_provider.stats.token_requests == 1


def test_an_answer_that_cannot_be_saved_is_told_of_loudly(
    fake_provider: FakeProvider, flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    source.token()
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "could not be saved and is kept in memory: no writing today" in told.getMessage()
    assert "rt_" not in caplog.text
    let_save(flaky, source)


@pytest.mark.hazard(3)
def test_an_unsaved_answer_that_has_expired_is_a_store_error_and_sends_nothing(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource, clock: Clock
) -> None:
    clock.ahead = 400
    with pytest.raises(StoreError, match="could not be saved yet"):
        unsaved.token()


def test_an_unsaved_answer_near_its_end_is_used_to_its_end(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource, clock: Clock
) -> None:
    grant = unsaved.grant()
    assert grant is not None
    clock.ahead = 290
    assert unsaved.token() == grant.tokens[0]


@pytest.mark.hazard(3, 26)
def test_an_unsaved_answer_is_not_saved_over_a_new_login_and_not_revoked(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource
) -> None:
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    _, made = a_source(fake_provider, flaky).change(new_login(fake_provider))
    let_save(flaky, unsaved)
    assert unsaved.token() == made.tokens[0]
    assert fake_provider.stats.revocations == 0


def test_an_unsaved_answer_is_revoked_after_a_log_out(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource
) -> None:
    log_out(a_source(fake_provider, flaky))
    with pytest.raises(LoginRequired):
        unsaved.token()
    let_save(flaky, unsaved)
    until(lambda: fake_provider.stats.revocations == 1)


def test_a_log_out_counts_at_once_also_where_an_answer_is_unsaved(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource
) -> None:
    log_out(unsaved)
    with pytest.raises(LoginRequired):
        unsaved.token()


def test_a_log_out_by_another_process_counts_at_once_also_where_an_answer_is_unsaved(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource
) -> None:
    there = the_grant(flaky, fake_provider)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    flaky.commit(grant_of_logout(unsaved.key, there, time.time()), expected=there.order)
    with pytest.raises(LoginRequired):
        unsaved.token()


def test_an_unsaved_answer_is_saved_though_its_record_was_removed_meanwhile(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource
) -> None:
    flaky._records.clear()
    let_save(flaky, unsaved)
    assert the_grant(flaky, fake_provider).generation == 1


def test_the_rescuer_sends_nothing_under_the_lock(
    fake_provider: FakeProvider, flaky: Flaky, unsaved: LoginSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_the_lock: list[bool] = []

    def revoke(token: Secret, hint: str) -> bool:
        hold = flaky.try_lock(unsaved.key)
        under_the_lock.append(hold is None)
        if hold is not None:
            hold.release()
        return True

    monkeypatch.setattr(unsaved.provider, "revoke", revoke)
    log_out(a_source(fake_provider, flaky))
    let_save(flaky, unsaved)
    until(lambda: under_the_lock)
    assert under_the_lock == [False]


def test_at_the_end_of_the_process_an_unsaved_answer_of_a_login_that_was_ended_is_revoked(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_rescuers", [])
    monkeypatch.setattr(gate_module.Rescuer, "_work", lambda rescuer: None)  # it sleeps, and is a daemon
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    source.token()
    flaky.before_commit, flaky.no_commit = lambda grant: None, False
    log_out(source)
    module._see_through()
    assert fake_provider.stats.revocations == 1


def test_at_the_end_of_the_process_an_unsaved_answer_whose_record_was_removed_is_saved(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_rescuers", [])
    monkeypatch.setattr(gate_module.Rescuer, "_work", lambda rescuer: None)
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    source.token()
    flaky.before_commit, flaky.no_commit = lambda grant: None, False
    flaky._records.clear()
    module._see_through()
    gate_module.gate_of(flaky, source.key).unsaved = None
    assert the_grant(flaky, fake_provider).generation == 1


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.hazard(3)
def test_at_the_end_of_the_process_an_unsaved_answer_is_tried_once_more(
    fake_provider: FakeProvider,
    flaky: Flaky,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    works: bool,
) -> None:
    monkeypatch.setattr(gate_module, "_rescuers", [])
    monkeypatch.setattr(gate_module.Rescuer, "_work", lambda rescuer: None)
    source = signed_in(fake_provider, flaky, EXPIRED)
    flaky.before_commit = lambda grant: setattr(flaky, "no_commit", grant.generation > 0)
    source.token()
    if works:
        flaky.before_commit, flaky.no_commit = lambda grant: None, False
    module._see_through()
    assert ("could not be saved: sign in again" in caplog.text) is not works
    assert the_grant(flaky, fake_provider).state == ("ACTIVE" if works else "SPENDING")
    let_go_of_it = gate_module.gate_of(flaky, source.key)
    assert (let_go_of_it.unsaved is None) is works
    let_go_of_it.unsaved = None
    module._see_through()  # once it is saved there is nothing left to do


@pytest.mark.hazard(3)
def test_an_answer_is_saved_on_a_disk_that_is_full_by_now(
    fake_provider: FakeProvider, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store, EXPIRED)
    full = threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if full.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    class Breaking(Provider):
        def refresh(self, grant: Grant, **members: Any) -> wire.Reply:
            reply = super().refresh(grant, **members)
            full.set()
            return reply

    source._provider = Breaking(Discovery(fake_provider.issuer), Client("notebook"))
    monkeypatch.setattr(os, "fsync", fsync)
    token = source.token()
    assert "kept in memory" in caplog.text
    assert store.load(source.key).grant.state == "SPENDING"  # type: ignore[union-attr]
    assert store.try_lock(source.key) is None
    full.clear()
    until(lambda: gate_module.gate_of(store, source.key).unsaved is None)
    assert FileStore(folder).load(source.key).grant.tokens[0] == token  # type: ignore[union-attr]


def failing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next sync of a folder fails, after the record in it was replaced."""
    real = file_module._sync_folder

    def sync(folder: Path) -> None:
        monkeypatch.setattr(file_module, "_sync_folder", real)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(file_module, "_sync_folder", sync)


def test_a_marker_that_may_not_last_and_was_not_followed_by_a_send_does_not_end_the_login(
    fake_provider: FakeProvider, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = signed_in(fake_provider, FileStore(folder), EXPIRED, policy=Policy(lost="login"))
    failing_once(monkeypatch)
    with pytest.raises(StoreError):
        source.token()
    assert fake_provider.stats.token_requests == 0
    assert source.token()


def test_an_answer_of_which_it_is_uncertain_that_it_lasts_is_said_to_be_saved_once_it_is(
    fake_provider: FakeProvider, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(Provider):
        def refresh(self, grant: Grant, **members: Any) -> wire.Reply:
            reply = super().refresh(grant, **members)
            failing_once(monkeypatch)
            return reply

    store = FileStore(folder)
    provider = Breaking(Discovery(fake_provider.issuer), Client("notebook"))
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    assert source.token() == the_grant(store, fake_provider).tokens[0]
    assert "do not end this process before it says that it is saved" in caplog.text
    until(lambda: gate_module.gate_of(store, source.key).unsaved is None)
    assert "is saved now" in caplog.text


# Log-in and log-out in between.


@pytest.fixture
def under_way(fake_provider: FakeProvider, store: TokenStore) -> Iterator[tuple[LoginSource, Future[TokenSet], Held]]:
    """A refresh whose answer has come, and is about to be saved."""
    provider = held(fake_provider)
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    provider.may_send.set()
    waiting = in_a_thread(source.token)
    assert provider.after.wait(PATIENCE)
    yield source, waiting, provider
    provider.let_go()


@pytest.mark.hazard(30)
def test_a_log_out_during_a_refresh_wins_and_what_came_is_revoked(
    fake_provider: FakeProvider, store: TokenStore, under_way: tuple[LoginSource, Future[TokenSet], Held]
) -> None:
    _, waiting, provider = under_way
    log_out(a_source(fake_provider, store))
    provider.let_go()
    ended = waiting.exception(PATIENCE)
    assert isinstance(ended, LoginRequired)
    assert ended.reason == "logged_out"
    assert the_grant(store, fake_provider).state == "LOGGED_OUT"
    assert fake_provider.stats.revocations == 1


@pytest.mark.hazard(26)
def test_a_log_in_during_a_refresh_wins_and_nothing_is_revoked(
    fake_provider: FakeProvider, store: TokenStore, under_way: tuple[LoginSource, Future[TokenSet], Held]
) -> None:
    _, waiting, provider = under_way
    _, made = a_source(fake_provider, store).change(new_login(fake_provider))
    provider.let_go()
    assert waiting.result(PATIENCE) == made.tokens[0]
    assert the_grant(store, fake_provider).order == made.order
    assert fake_provider.stats.revocations == 0


def test_a_log_in_does_not_wait_for_a_refresh_that_hangs(fake_provider: FakeProvider, store: TokenStore) -> None:
    provider = held(fake_provider)
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    waiting = in_a_thread(source.token)
    assert provider.before.wait(PATIENCE)
    other = a_source(fake_provider, store)
    _, made = other.change(new_login(fake_provider))
    assert other.token() == made.tokens[0]  # although the refresh still hangs
    provider.let_go()
    assert waiting.result(PATIENCE) == made.tokens[0]


@pytest.mark.hazard(7, 30)
def test_a_log_out_between_look_and_mark_sends_nothing(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky, EXPIRED)

    def first(grant: Grant) -> None:
        flaky.before_commit = lambda grant: None
        log_out(a_source(fake_provider, flaky))

    flaky.before_commit = first
    with pytest.raises(LoginRequired):
        source.token()
    assert fake_provider.stats.token_requests == 0


def test_a_change_is_made_anew_where_the_record_changed_meanwhile(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky)

    def first(grant: Grant) -> None:
        flaky.before_commit = lambda grant: None
        a_source(fake_provider, flaky).change(new_login(fake_provider))

    flaky.before_commit = first
    previous, made = source.change(lambda previous: grant_of_logout(source.key, previous, time.time()))
    assert previous is not None
    assert previous.epoch > 0
    assert made.epoch > previous.epoch
    assert the_grant(flaky, fake_provider).state == "LOGGED_OUT"


def test_a_change_that_never_gets_through_is_a_store_error(fake_provider: FakeProvider, flaky: Flaky) -> None:
    source = signed_in(fake_provider, flaky)

    def conflict(grant: Grant) -> None:
        raise OrderConflict

    flaky.before_commit = conflict
    with pytest.raises(StoreError, match="changed by others all the time"):
        source.change(new_login(fake_provider))


def test_a_damaged_record_is_no_obstacle_to_a_log_in(
    fake_provider: FakeProvider, folder: Path, key: GrantKey, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(folder)
    source = signed_in(fake_provider, store)
    Path(store.location(key)).write_bytes(b"garbage")
    previous, made = source.change(new_login(fake_provider))
    assert previous is None
    assert "was damaged" in caplog.text
    assert source.token() == made.tokens[0]


# Services.


def service(fake: FakeProvider, store: TokenStore, provider: Provider | None = None) -> LoginSource:
    client_id, secret = fake.confidential_client
    return LoginSource(
        GrantKey(fake.issuer, client_id),
        store,
        provider or Provider(Discovery(fake.issuer), Client(client_id, Secret(secret))),
        policy=QUICK,
        scope=frozenset({"admin"}),
        renewal="client_credentials",
    )


def test_16_threads_of_a_service_begin_from_nothing_with_one_request(
    fake_provider: FakeProvider, store: TokenStore
) -> None:
    source = service(fake_provider, store)
    fake_provider.latency = 0.1
    assert len(set(all_at_once(16, lambda _: source.token()))) == 1
    assert fake_provider.stats.token_requests == 1
    assert source.token().scope == "admin"


def test_a_service_goes_on_asking_for_ever(fake_provider: FakeProvider, store: TokenStore, clock: Clock) -> None:
    source = service(fake_provider, store)
    seen = set()
    for _ in range(3):
        seen.add(source.token())
        clock.ahead += 400
    assert len(seen) == 3
    assert fake_provider.stats.token_requests == 3


def test_a_service_asks_again_after_a_lost_answer(fake_provider: FakeProvider, store: TokenStore, clock: Clock) -> None:
    source = service(fake_provider, store)
    fake_provider.faults.add(Fault.drop_after(), times=3, where="token")
    for _ in range(3):
        with pytest.raises(TransportError):
            source.token()
        clock.ahead += 60
    assert source.token()


# Whole processes, which are interrupted, forked and ended.

PREAMBLE = """
import _thread, json, os, signal, sys, threading, time
from loginonce.client import Discovery, Provider
from loginonce.errors import LoginRequired, StoreError
from loginonce.model import Client, Grant, GrantKey
from loginonce.refresh import Policy
from loginonce.source import LoginSource
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore

issuer, folder = sys.argv[1:]
key = GrantKey(issuer, "notebook")
store = FileStore(folder)

def source(provider=Provider, store=store):
    return LoginSource(key, store, provider(Discovery(issuer), Client("notebook")), policy=Policy(refusal_wait=0.0))

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def run(script: str, fake: FakeProvider, folder: Path, *, first: str = "") -> list[str]:
    """What a program that uses the login says, line by line; it has to end by itself, and well.

    `first`: what it does before it imports us.
    """
    program = textwrap.dedent(first) + PREAMBLE + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, fake.issuer, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.hazard(2)
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_only_the_wait_and_the_answer_is_saved(fake_provider: FakeProvider, folder: Path) -> None:
    store = FileStore(folder)
    signed_in(fake_provider, store, EXPIRED)
    said = run(
        """
        interrupted = threading.Event()

        class Interrupted(Provider):
            def refresh(self, grant, **members):
                reply = super().refresh(grant, **members)
                _thread.interrupt_main()
                assert interrupted.wait(20)
                return reply

        try:
            source(Interrupted).token()
        except KeyboardInterrupt:
            say("interrupted")
            say(store.load(key).grant.state)
            interrupted.set()
        """,
        fake_provider,
        folder,
    )
    assert said == ["interrupted", "SPENDING"]
    assert the_grant(store, fake_provider).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(2)
@pytest.mark.usefixtures("interruptible")
def test_after_an_interrupt_the_same_program_goes_on(fake_provider: FakeProvider, folder: Path) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    said = run(
        """
        interrupted = threading.Event()

        class Interrupted(Provider):
            def refresh(self, grant, **members):
                os.kill(os.getpid(), signal.SIGINT)
                assert interrupted.wait(20)
                return super().refresh(grant, **members)

        mine = source(Interrupted)
        try:
            mine.token()
        except KeyboardInterrupt:
            interrupted.set()
        say(mine.token() == store.load(key).grant.tokens[0])
        """,
        fake_provider,
        folder,
    )
    assert said == ["True"]
    assert fake_provider.stats.token_requests == 1


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_another_process_is_waited_for_ends_the_wait_and_sends_nothing(
    fake_provider: FakeProvider, folder: Path
) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    said = run(
        """
        hold = FileStore(folder).try_lock(key)
        mine = source()

        class Watched(FileStore):
            told = False

            def lookout(self, key):
                if not self.told:
                    self.told = True
                    os.kill(os.getpid(), signal.SIGINT)
                return super().lookout(key)

        mine.store = Watched(folder)
        try:
            mine.token()
        except KeyboardInterrupt:
            say("interrupted")
        others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        for thread in others:
            thread.join(20)
        say(any(thread.is_alive() for thread in others))
        hold.release()
        """,
        fake_provider,
        folder,
    )
    assert said == ["interrupted", "False"]
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize("moment", ["prepare", "try_lock", "stamp"])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_before_anything_is_spent_spends_nothing(
    fake_provider: FakeProvider, folder: Path, moment: str
) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    said = run(
        f"""
        over = threading.Event()

        def interrupt():
            if threading.current_thread() is not threading.main_thread() and not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)
                assert over.wait(20)

        class Slow(Provider):
            def informed(self):
                return {moment != "prepare"} and super().informed()

            def prepare(self, budget=20.0):
                if {moment == "prepare"}:
                    interrupt()
                return super().prepare(budget)

        class Store(FileStore):
            def try_lock(self, key):
                if {moment == "try_lock"}:
                    interrupt()
                return super().try_lock(key)

            def stamp(self, key):  # looked at once more, under the lock
                if {moment == "stamp"}:
                    interrupt()
                return super().stamp(key)

        mine = source(Slow, Store(folder))
        try:
            mine.token()
        except KeyboardInterrupt:
            say("interrupted")
            over.set()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(20)
        say(store.load(key).grant.marker)
        """,
        fake_provider,
        folder,
    )
    assert said == ["interrupted", "None"]
    assert fake_provider.stats.token_requests == 0


@pytest.mark.hazard(2)
def test_a_program_that_ends_waits_for_the_renewal_behind_it(fake_provider: FakeProvider, folder: Path) -> None:
    store = FileStore(folder)
    signed_in(fake_provider, store, STALE)
    said = run(
        """
        class Late(Provider):
            def refresh(self, grant, **members):
                while threading.main_thread().is_alive():
                    time.sleep(0.005)
                return super().refresh(grant, **members)

        source(Late).token()
        say("the end")
        """,
        fake_provider,
        folder,
    )
    assert said == ["the end"]
    assert the_grant(store, fake_provider).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


def test_the_end_of_the_process_sees_its_workers_through_however_often_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Run:
        over = threading.Event()

    def interrupted_wait() -> None:
        Run.over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(Run.over, "wait", interrupted_wait)
    monkeypatch.setattr(module, "_under_way", {Run()})
    module._see_through()
    assert Run.over.is_set()


@pytest.mark.hazard(3)
def test_what_a_run_could_not_save_while_the_process_ended_is_tried_once_more(
    fake_provider: FakeProvider, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_rescuers", [])
    monkeypatch.setattr(gate_module.Rescuer, "_work", lambda rescuer: None)
    provider = held(fake_provider)
    source = signed_in(fake_provider, flaky, EXPIRED, provider=provider)
    provider.may_send.set()
    result = in_a_thread(source.token)
    assert provider.after.wait(PATIENCE)
    refused = 1

    def refuse_one(grant: Grant) -> None:
        nonlocal refused
        flaky.no_commit, refused = refused > 0, refused - 1

    flaky.before_commit = refuse_one
    threading.Timer(0.2, provider.let_go).start()
    module._see_through()
    assert the_grant(flaky, fake_provider).tokens[0] == result.result(PATIENCE)


@pytest.mark.hazard(2)
def test_nothing_is_spent_in_a_thread_that_the_end_of_the_program_cuts(
    fake_provider: FakeProvider, folder: Path
) -> None:
    store = FileStore(folder)
    signed_in(fake_provider, store, EXPIRED)
    said = run(
        """
        mine = source()

        def poll():
            assert ending.wait(20)
            try:
                mine.token()
            except Exception as error:
                say(error)
            told.set()

        threading.Thread(target=poll, daemon=True).start()
        """,
        fake_provider,
        folder,
        first="""
        import atexit, threading

        ending, told = threading.Event(), threading.Event()

        @atexit.register  # called after those of what is imported below
        def clean_up():
            ending.set()
            assert told.wait(20)
        """,
    )
    assert ["the program is ending" in line for line in said] == [True]
    assert fake_provider.stats.token_requests == 0
    assert the_grant(store, fake_provider).state == "ACTIVE"


@pytest.mark.hazard(13)
def test_a_forked_child_leaves_it_to_its_parent_to_save_and_to_see_through() -> None:
    class Mine:
        def last_attempt(self) -> None:
            os._exit(1)

    gate_module._rescuers.append(Mine())  # type: ignore[arg-type]
    try:
        child = os.fork()
        if child == 0:
            module._see_through()
            os._exit(0)
    finally:
        gate_module._rescuers.clear()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.hazard(13)
def test_a_forked_child_gets_tokens_while_a_thread_of_its_parent_renews_them(
    fake_provider: FakeProvider, folder: Path
) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    said = run(
        """
        before, go = threading.Event(), threading.Event()

        class Slow(Provider):
            def refresh(self, grant, **members):
                before.set()
                assert go.wait(20)
                return super().refresh(grant, **members)

        mine = source(Slow)
        caller = threading.Thread(target=mine.token)
        caller.start()
        assert before.wait(20)
        child = os.fork()
        if child == 0:
            say("child", mine.token().fingerprint)
            os._exit(0)
        go.set()
        caller.join()
        _, status = os.waitpid(child, 0)
        say("parent", mine.token().fingerprint)
        assert status == 0
        """,
        fake_provider,
        folder,
    )
    assert sorted(line.split()[0] for line in said) == ["child", "parent"]
    assert len({line.split()[1] for line in said}) == 1
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(13)
def test_a_forked_child_renews_by_itself(fake_provider: FakeProvider, folder: Path) -> None:
    signed_in(fake_provider, FileStore(folder))
    said = run(
        """
        mine = source()
        old = mine.token()
        if (child := os.fork()) == 0:
            say(mine.token(rejected=old) != old)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        say(mine.token() != old)
        """,
        fake_provider,
        folder,
    )
    assert said == ["True", "True"]
    assert fake_provider.stats.token_requests == 1


FORKED_MEMORY = """
from dataclasses import replace
copy = MemoryStore()
grant = store.load(key).grant
copy.commit(replace(grant, store=""), expected=None)
mine = source(store=copy)
if (child := os.fork()) == 0:
    try:
        mine.token()
    except BaseException as error:
        say(type(error).__name__, error)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.hazard(13)
def test_a_forked_child_does_not_spend_what_its_parent_has_in_memory(fake_provider: FakeProvider, folder: Path) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    assert run(FORKED_MEMORY, fake_provider, folder)
    assert fake_provider.stats.token_requests == 0


def test_a_forked_child_is_told_that_what_its_parent_has_in_memory_is_not_its_to_renew(
    fake_provider: FakeProvider, folder: Path
) -> None:
    signed_in(fake_provider, FileStore(folder), EXPIRED)
    (said,) = run(FORKED_MEMORY, fake_provider, folder)
    assert said.startswith("StoreError this login is in the memory of process")


# The gate by itself, and what cannot happen.


def test_an_action_that_ends_a_run_cannot_be_carried_out(fake_provider: FakeProvider, store: TokenStore) -> None:
    source = signed_in(fake_provider, store)
    run_of_it = module._Run(source, source._want)
    with pytest.raises(AssertionError, match="ends the run"):
        run_of_it._do(module.refresh.Use(source.token()))


def test_a_gate_lets_one_in_at_a_time_and_news_end_a_wait() -> None:
    gate = gate_module.Gate()
    assert gate.enter()
    assert not gate.enter()
    waiting = threading.Thread(target=gate.wait, args=(PATIENCE,))
    waiting.start()
    until(lambda: gate._condition._waiters)  # type: ignore[attr-defined]
    gate.announce()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    gate.leave()
    gate.wait(PATIENCE)
    assert gate.enter()


@pytest.mark.hazard(39)
def test_a_form_that_is_sent_holds_secrets_only(fake_provider: FakeProvider, store: TokenStore) -> None:
    """What a debugger shows of a refresh under way must not be a token (HAZARDS 39)."""
    seen: list[Form] = []

    class Watched(Transport):
        def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
            seen.append(form)
            return super().post(url, form, headers, budget=budget)

    provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), Watched())
    source = signed_in(fake_provider, store, EXPIRED, provider=provider)
    spent = the_grant(store, fake_provider).refresh_token
    source.token()
    assert spent is not None
    assert str.__str__(spent) not in repr(seen)
