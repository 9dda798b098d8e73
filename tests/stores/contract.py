"""What every store of logins has to do, as a suite that is run against each of them, and against custom ones:

    from contract import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(…)

        @pytest.fixture
        def twin(self, store):  # another object for the same place, as another process would open it
            return MyStore(…)

Nothing here looks into a store: it is judged by its promise (`loginonce.stores.base`) alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from loginonce.errors import LockTimeout, StoreError
from loginonce.model import Failure, Grant, GrantKey, Marker, Order, Secret, TokenSet
from loginonce.stores.base import Hold, OrderConflict, Snapshot, TokenStore

KEY = GrantKey("https://id.example.org/realms/lab", "notebook")
CANARY = "rt_canary_5b1d8c"

ODD_TEXTS = (
    "../../etc/passwd",
    "/",
    ".",
    "a b\tc",
    "line\nbreak",
    "quote'\"`$(touch x)",
    "ünïcödé-Ωμέγα",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}",
    "\u202eright to left",
    "nul\0inside",
    "UPPER",
    "upper",
    "%2e%2e%2f",
    "x" * 3000,
    "*?[]{}",
    "-rf",
)


def a_grant(key: GrantKey = KEY, order: Order = (1, 0, 0), **members: object) -> Grant:
    """A record of that order; its access token is another one for each order, and always as long."""
    epoch, generation, attempt = order
    token = TokenSet(Secret(f"at_{epoch:06}_{generation:06}_{attempt:06}"), 1000.0, 2000.0)
    made = Grant(
        key,
        epoch,
        generation,
        attempt,
        refresh_token=Secret(f"{CANARY}_{generation:06}"),
        tokens=(token,),
        scope="openid",
        subject="ada",
    )
    return replace(made, **members)  # type: ignore[arg-type]  # whatever Grant has


def content(grant: Grant | None) -> Grant | None:
    """A record without the name of its store, which is the store's own business."""
    return None if grant is None else replace(grant, store="")


def increment(store: TokenStore, key: GrantKey = KEY) -> None:
    """Raise the generation by one, by compare and set, against any number of others.

    A store that is overrun may say so (`LockTimeout`), as long as nothing has changed then.
    """
    while True:
        try:
            before = store.load(key).grant
            after = a_grant(key, (1, before.generation + 1 if before else 1, 0))
            store.commit(after, expected=before.order if before else None)
        except (OrderConflict, LockTimeout):
            continue
        return


def settled(store: TokenStore, key: GrantKey = KEY) -> Snapshot:
    """The record once its stamp can be trusted; stores that need a moment for that get one."""
    until = time.monotonic() + 10
    while not (snapshot := store.load(key)).settled:
        assert time.monotonic() < until, "the record does not settle"
        time.sleep(0.005)
    return snapshot


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work` returned in so many threads that began at the same time."""
    barrier = threading.Barrier(count)

    def begin(index: int) -> object:
        barrier.wait(30)
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


class StoreContract:
    """Subclass it and give `store`, an empty one; and `twin`, if the place can be opened twice."""

    threads = 100
    increments = 3
    lag = 0.0  # seconds by which `stamp` may be late to tell what another object has changed

    @pytest.fixture
    def store(self) -> TokenStore:
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def twin(self, store: TokenStore) -> TokenStore:
        return store

    @pytest.fixture
    def held(self, store: TokenStore) -> Iterator[Hold]:
        hold = store.try_lock(KEY)
        assert hold is not None
        with ExitStack() as after:
            after.callback(hold.release)
            yield hold
            after.pop_all()

    # Load and commit.

    def test_a_login_that_was_never_saved_is_none(self, store: TokenStore) -> None:
        assert store.load(KEY).grant is None
        assert store.stamp(KEY) is None

    def test_absence_needs_no_time_to_be_trusted(self, store: TokenStore) -> None:
        assert store.load(KEY).settled

    def test_what_was_committed_is_loaded(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        assert content(twin.load(KEY).grant) == a_grant()

    def test_a_glance_finds_what_loading_finds(self, store: TokenStore, twin: TokenStore) -> None:
        assert twin.peek(KEY).grant is None
        store.commit(a_grant(), expected=None)
        assert content(twin.peek(KEY).grant) == a_grant()

    def test_a_loaded_secret_is_a_secret(self, store: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        grant = store.load(KEY).grant
        assert grant is not None
        assert isinstance(grant.refresh_token, Secret)
        assert isinstance(grant.tokens[0].access_token, Secret)

    def test_every_member_comes_back(self, store: TokenStore) -> None:
        whole = a_grant(
            order=(3, 2, 1),
            state="SPENDING",
            renewal="client_credentials",
            refresh_expires_at=1e10,
            marker=Marker("0123456789ab", "nonce", "host/boot/1/2", 1000.5, 1020.5, 2),
            failure=Failure("0123456789ab", "lost", "no answer in time", 1001.25, 3),
            claims={"roles": ["researcher"], "age": 36, "nested": {"deep": [None, True, 1.5]}},
        )
        store.commit(whole, expected=None)
        assert content(store.load(KEY).grant) == whole
        assert content(store.load(KEY).grant).claims == whole.claims  # type: ignore[union-attr]

    def test_commit_replaces_the_record_it_expects(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        twin.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        assert content(store.load(KEY).grant) == a_grant(order=(1, 1, 0))

    def test_a_commit_that_expects_nothing_is_refused_where_there_is_a_record(self, store: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        with pytest.raises(OrderConflict) as refused:
            store.commit(a_grant(order=(2, 0, 0)), expected=None)
        assert content(refused.value.current) == a_grant()
        assert content(store.load(KEY).grant) == a_grant()

    def test_a_commit_that_expects_a_record_is_refused_where_there_is_none(self, store: TokenStore) -> None:
        with pytest.raises(OrderConflict) as refused:
            store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        assert refused.value.current is None
        assert store.load(KEY).grant is None

    @pytest.mark.parametrize("expected", [(0, 9, 9), (1, 0, 1), (1, 1, 0), (2, 0, 0)])
    @pytest.mark.hazard(5, 26)
    def test_a_commit_that_expects_another_order_is_refused_and_told_what_is_there(
        self, store: TokenStore, expected: Order
    ) -> None:
        store.commit(a_grant(), expected=None)
        with pytest.raises(OrderConflict) as refused:
            store.commit(a_grant(order=(9, 0, 0)), expected=expected)
        assert content(refused.value.current) == a_grant()
        assert content(store.load(KEY).grant) == a_grant()

    @pytest.mark.hazard(12, 21)
    def test_a_writer_whose_base_is_gone_cannot_lower_the_order(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        for attempt in range(1, 6):
            twin.commit(a_grant(order=(1, 0, attempt)), expected=(1, 0, attempt - 1))
            with pytest.raises(OrderConflict):
                store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
            assert store.load(KEY).grant.order == (1, 0, attempt)  # type: ignore[union-attr]

    def test_a_refused_commit_shows_no_secret(self, store: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        with pytest.raises(StoreError) as refused:
            store.commit(a_grant(), expected=None)
        assert CANARY not in f"{refused.value} {refused.value!r} {refused.value.current!r} {store!r}"

    # Stamps.

    def test_commit_returns_the_stamp_that_stamp_and_load_then_have(self, store: TokenStore, twin: TokenStore) -> None:
        made = store.commit(a_grant(), expected=None)
        assert made is not None
        assert made == store.stamp(KEY) == store.load(KEY).stamp == twin.stamp(KEY)

    def test_every_change_of_a_settled_record_changes_its_stamp(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        seen = {settled(store).stamp}
        for attempt in range(1, 4):
            twin.commit(a_grant(order=(1, 0, attempt)), expected=(1, 0, attempt - 1))
            until = time.monotonic() + self.lag
            while store.stamp(KEY) in seen and time.monotonic() < until:
                time.sleep(0.001)
            assert store.stamp(KEY) not in seen
            seen.add(settled(store).stamp)

    def test_a_stamp_is_the_same_while_nothing_changes(self, store: TokenStore, twin: TokenStore) -> None:
        made = store.commit(a_grant(), expected=None)
        store.load(KEY)
        list(store.grants())
        hold = twin.try_lock(KEY)
        assert hold is not None
        hold.release()
        with pytest.raises(OrderConflict):
            twin.commit(a_grant(order=(2, 0, 0)), expected=None)
        store.commit(a_grant(replace(KEY, account="another")), expected=None)
        assert store.stamp(KEY) == twin.stamp(KEY) == made

    @pytest.mark.parametrize("commits", [60, pytest.param(200, marks=pytest.mark.slow)])
    def test_no_settled_stamp_is_ever_seen_on_another_record(
        self, store: TokenStore, twin: TokenStore, commits: int
    ) -> None:
        """A fast path that trusts a settled stamp must never serve what has been replaced."""
        store.commit(a_grant(), expected=None)
        over = threading.Event()
        trusted: dict[object, Order] = {}
        stale: list[tuple[Order, Order]] = []

        def watch() -> None:
            while not over.is_set():
                snapshot = twin.load(KEY)
                assert snapshot.grant is not None
                order = trusted.setdefault(snapshot.stamp, snapshot.grant.order) if snapshot.settled else None
                if order is None:
                    order = trusted.get(snapshot.stamp, snapshot.grant.order)
                if order != snapshot.grant.order:
                    stale.append((order, snapshot.grant.order))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for attempt in range(1, commits):
                store.commit(a_grant(order=(1, 0, attempt)), expected=(1, 0, attempt - 1))
        finally:
            over.set()
            watcher.join()
        assert not stale

    # The lock.

    @pytest.mark.hazard(14)
    def test_a_held_lock_is_refused_to_the_same_thread(self, store: TokenStore, held: Hold) -> None:
        assert store.try_lock(KEY) is None
        held.release()

    @pytest.mark.hazard(14)
    def test_a_held_lock_is_refused_to_another_object_of_the_place(self, twin: TokenStore, held: Hold) -> None:
        assert twin.try_lock(KEY) is None
        held.release()

    @pytest.mark.hazard(14)
    def test_a_held_lock_is_refused_to_other_threads(self, store: TokenStore, held: Hold) -> None:
        assert together(8, lambda _: store.try_lock(KEY)) == [None] * 8
        held.release()

    @pytest.mark.hazard(14)
    def test_of_many_threads_one_gets_the_lock(self, store: TokenStore) -> None:
        for _ in range(10):
            had = [hold for hold in together(16, lambda _: store.try_lock(KEY)) if hold is not None]
            assert len(had) == 1
            had[0].release()  # type: ignore[attr-defined]

    def test_another_thread_may_release_the_lock(self, store: TokenStore, twin: TokenStore, held: Hold) -> None:
        releaser = threading.Thread(target=held.release)
        releaser.start()
        releaser.join()
        again = twin.try_lock(KEY)
        assert again is not None
        again.release()

    def test_a_lock_can_be_had_as_often_as_it_was_released(self, store: TokenStore) -> None:
        for _ in range(50):
            hold = store.try_lock(KEY)
            assert hold is not None
            hold.release()

    def test_releasing_twice_neither_raises_nor_frees_the_next_holder(self, store: TokenStore) -> None:
        first = store.try_lock(KEY)
        assert first is not None
        first.release()
        second = store.try_lock(KEY)
        assert second is not None
        first.release()
        assert store.try_lock(KEY) is None
        second.release()
        second.release()

    def test_each_login_has_its_own_lock(self, store: TokenStore, held: Hold) -> None:
        other = store.try_lock(replace(KEY, account="another"))
        assert other is not None
        other.release()
        held.release()

    def test_the_lock_hinders_neither_reading_nor_writing(
        self, store: TokenStore, twin: TokenStore, held: Hold
    ) -> None:
        twin.commit(a_grant(), expected=None)
        assert content(twin.load(KEY).grant) == a_grant()
        held.release()

    def test_a_lock_can_be_had_before_there_is_a_record_and_makes_none(self, store: TokenStore, held: Hold) -> None:
        assert store.load(KEY).grant is None
        held.release()
        assert list(store.grants()) == []

    # Reserving.

    def test_a_lock_that_nobody_has_is_not_shown_as_taken(self, store: TokenStore, twin: TokenStore) -> None:
        assert not store.locked(KEY)
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
        assert not store.locked(KEY)
        assert not twin.locked(KEY)

    def test_to_look_at_a_lock_takes_it_from_nobody(self, store: TokenStore, twin: TokenStore, held: Hold) -> None:
        for place in (store, twin):
            place.locked(KEY)
            assert place.try_lock(KEY) is None

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────

    def test_who_waits_for_a_change_is_told_of_one(self, store: TokenStore, twin: TokenStore) -> None:
        stamp = store.commit(a_grant(), expected=None)
        lookout = store.lookout(KEY)
        changing = threading.Timer(0.1, lambda: twin.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0)))
        changing.start()
        began = time.monotonic()
        lookout.wait(stamp, 20.0)
        waited = time.monotonic() - began
        changing.join()
        assert waited < 10
        assert store.load(KEY).grant == twin.load(KEY).grant

    @pytest.mark.parametrize("changer", ["who has the lock", "somebody else"])
    def test_who_waits_while_the_lock_is_held_is_told_as_well(
        self, store: TokenStore, twin: TokenStore, changer: str
    ) -> None:
        stamp = store.commit(a_grant(), expected=None)
        hold = twin.try_lock(KEY)
        assert hold is not None
        other = twin if changer == "who has the lock" else store
        changing = threading.Timer(0.1, lambda: other.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0)))
        changing.start()
        lookout = store.lookout(KEY)
        began = time.monotonic()
        while not lookout.wait(stamp, 20.0):
            assert time.monotonic() - began < 10
        assert time.monotonic() - began < 10
        changing.join()
        hold.release()

    def test_what_has_changed_before_the_next_one_took_the_lock_is_not_waited_for(
        self, store: TokenStore, twin: TokenStore
    ) -> None:
        stamp = store.commit(a_grant(), expected=None)
        first = twin.try_lock(KEY)
        assert first is not None
        twin.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0))
        first.release()
        second = twin.try_lock(KEY)
        assert second is not None
        began = time.monotonic()
        assert store.lookout(KEY).wait(stamp, 20.0)
        assert time.monotonic() - began < 10
        second.release()

    def test_who_waits_in_vain_is_told_after_that_time(self, store: TokenStore, held: Hold) -> None:
        stamp = store.commit(a_grant(), expected=None)
        lookout = store.lookout(KEY)
        began = time.monotonic()
        lookout.wait(stamp, 0.05)
        assert time.monotonic() - began >= 0.05

    def test_what_has_changed_before_is_not_waited_for(self, store: TokenStore) -> None:
        stamp = store.commit(a_grant(), expected=None)
        lookout = store.lookout(KEY)
        store.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0))
        began = time.monotonic()
        lookout.wait(stamp, 20.0)
        assert time.monotonic() - began < 10

    def test_reserving_saves_as_any_commit_does(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None, reserve=True)
        assert content(twin.load(KEY).grant) == a_grant()
        assert store.stamp(KEY) == twin.load(KEY).stamp
        store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0), reserve=True)
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 1))
        store.commit(a_grant(order=(1, 1, 1)), expected=(1, 1, 0))
        assert content(twin.load(KEY).grant) == a_grant(order=(1, 1, 1))

    def test_reserving_is_refused_like_any_commit_where_the_order_is_another(self, store: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        with pytest.raises(OrderConflict):
            store.commit(a_grant(order=(1, 0, 2)), expected=(1, 0, 1), reserve=True)
        assert content(store.load(KEY).grant) == a_grant()

    # Notices.

    def test_a_login_that_nobody_is_asked_for_has_no_notice(self, store: TokenStore) -> None:
        assert store.notice(KEY) is None

    def test_what_was_posted_is_read_by_all(self, store: TokenStore, twin: TokenStore) -> None:
        assert store.post(KEY, b"first", instead_of=None)
        assert store.notice(KEY) == twin.notice(KEY) == b"first"
        assert twin.post(KEY, b"second", instead_of=b"first")
        assert store.notice(KEY) == twin.notice(KEY) == b"second"

    @pytest.mark.parametrize("there", [None, b"there"])
    @pytest.mark.parametrize("wanted", [None, b"ours"])
    def test_a_notice_gives_way_only_to_whoever_knows_it(
        self, store: TokenStore, twin: TokenStore, there: bytes | None, wanted: bytes | None
    ) -> None:
        if there is not None:
            assert store.post(KEY, there, instead_of=None)
        assert not twin.post(KEY, wanted, instead_of=b"something else")
        if there is not None:
            assert not twin.post(KEY, wanted, instead_of=None)
        assert store.notice(KEY) == there

    def test_a_notice_is_taken_down_by_whoever_knows_it(self, store: TokenStore, twin: TokenStore) -> None:
        store.post(KEY, b"there", instead_of=None)
        assert twin.post(KEY, None, instead_of=b"there")
        assert store.notice(KEY) is None
        assert store.post(KEY, None, instead_of=None)
        assert store.post(KEY, b"next", instead_of=None)
        assert twin.notice(KEY) == b"next"

    def test_of_many_that_post_at_once_one_is_told_that_it_did(self, store: TokenStore, twin: TokenStore) -> None:
        for turn in range(4):
            before = store.notice(KEY)

            def post(index: int, turn: int = turn, before: bytes | None = before) -> bool:
                return (store if index % 2 else twin).post(KEY, f"{turn}-{index}".encode(), instead_of=before)

            told = together(8, post)
            assert told.count(True) == 1
            assert store.notice(KEY) == f"{turn}-{told.index(True)}".encode()

    def test_a_notice_is_no_record_and_a_record_is_no_notice(self, store: TokenStore, twin: TokenStore) -> None:
        store.post(KEY, b"there", instead_of=None)
        assert twin.load(KEY).grant is None
        assert twin.stamp(KEY) is None
        assert list(twin.grants()) == []
        made = store.commit(a_grant(), expected=None)
        assert twin.notice(KEY) == b"there"
        store.post(KEY, b"next", instead_of=b"there")
        assert content(twin.load(KEY).grant) == a_grant()
        assert twin.stamp(KEY) == made
        store.post(KEY, None, instead_of=b"next")
        assert content(twin.load(KEY).grant) == a_grant()

    def test_each_login_has_its_own_notice(self, store: TokenStore, twin: TokenStore) -> None:
        other = replace(KEY, account="another")
        store.post(KEY, b"there", instead_of=None)
        assert twin.notice(other) is None
        store.post(other, b"other", instead_of=None)
        store.post(KEY, None, instead_of=b"there")
        assert twin.notice(other) == b"other"

    @pytest.mark.parametrize(
        "notice", [b"", b"\0", b"\xff\xfe not text", b'{"a": 1}\n', bytes(range(256)) * 4096], ids=len
    )
    def test_any_bytes_are_a_notice(self, store: TokenStore, twin: TokenStore, notice: bytes) -> None:
        assert store.post(KEY, notice, instead_of=None)
        assert twin.notice(KEY) == notice
        assert twin.post(KEY, None, instead_of=notice)

    def test_a_held_lock_hinders_no_notice(self, twin: TokenStore, held: Hold) -> None:
        assert twin.post(KEY, b"there", instead_of=None)
        assert twin.notice(KEY) == b"there"
        held.release()

    # All logins.

    def test_an_empty_store_lists_no_login(self, store: TokenStore) -> None:
        assert list(store.grants()) == []

    def test_all_logins_are_listed_tombstones_included(self, store: TokenStore, twin: TokenStore) -> None:
        made = [
            a_grant(replace(KEY, account="ada")),
            a_grant(replace(KEY, account="grace"), state="LOGGED_OUT", refresh_token=None, tokens=()),
            a_grant(replace(KEY, client_id="other"), state="DEAD", refresh_token=None),
        ]
        for grant in made:
            store.commit(grant, expected=None)
        listed = {grant.key: content(grant) for grant in twin.grants()}
        assert listed == {grant.key: grant for grant in made}

    # Keys.

    @pytest.mark.parametrize("member", ["issuer", "client_id", "account"])
    @pytest.mark.hazard(36)
    def test_logins_that_differ_in_one_part_of_the_key_do_not_collide(self, store: TokenStore, member: str) -> None:
        keys = [replace(KEY, **{member: f"{getattr(KEY, member)}{end}"}) for end in ("", "a", "A", "b", "/", " ")]
        for number, key in enumerate(keys, 1):
            store.commit(a_grant(key, (number, 0, 0)), expected=None)
        assert [store.load(key).grant.epoch for key in keys] == [1, 2, 3, 4, 5, 6]  # type: ignore[union-attr]
        assert len(list(store.grants())) == len(keys)

    @pytest.mark.parametrize("separator", ["/", "|", ":", "-", " ", "\n"])
    @pytest.mark.hazard(36)
    def test_a_separator_that_moves_within_the_key_makes_another_login(self, store: TokenStore, separator: str) -> None:
        keys = [
            GrantKey("https://id", f"a{separator}b", "c"),
            GrantKey("https://id", "a", f"b{separator}c"),
            GrantKey(f"https://id{separator}a", "b", "c"),
        ]
        store.commit(a_grant(keys[0]), expected=None)
        assert [store.load(key).grant is None for key in keys] == [False, True, True]

    def test_a_nul_that_moves_within_the_key_makes_another_login(self, store: TokenStore) -> None:
        self.test_a_separator_that_moves_within_the_key_makes_another_login(store, "\0")

    @pytest.mark.parametrize("odd", ODD_TEXTS, ids=lambda text: ascii(text)[1:13])
    def test_odd_characters_in_a_key_do_no_harm(self, store: TokenStore, twin: TokenStore, odd: str) -> None:
        for key in (GrantKey("https://id.example.org", odd), GrantKey("https://id.example.org", "x", odd)):
            store.commit(a_grant(key), expected=None)
            assert content(twin.load(key).grant) == a_grant(key)
            hold = store.try_lock(key)
            assert hold is not None
            hold.release()
            assert store.location(key)
        assert len(list(store.grants())) == 2

    def test_a_location_shows_no_secret_and_does_not_need_a_record(self, store: TokenStore) -> None:
        before = store.location(KEY)
        store.commit(a_grant(), expected=None)
        assert store.location(KEY) == before
        assert CANARY not in before

    # Content.

    def test_a_large_record_comes_back_whole(self, store: TokenStore, twin: TokenStore) -> None:
        tokens = tuple(TokenSet(Secret(f"{n:05}" * 2000), 1.0, 2.0, resource=f"https://api/{n}") for n in range(200))
        large = a_grant(tokens=tokens)
        store.commit(large, expected=None, reserve=True)
        assert content(twin.load(KEY).grant) == large
        store.commit(a_grant(order=(1, 1, 0)), expected=(1, 0, 0))
        assert content(twin.load(KEY).grant) == a_grant(order=(1, 1, 0))

    def test_unicode_comes_back_as_it_was(self, store: TokenStore) -> None:
        text = 'Ada Lovelace, née Byron \N{GRINNING FACE} \u2028 \x00 \x7f \r\n \\ " Ω'
        grant = a_grant(subject=text, claims={text: [text]})
        store.commit(grant, expected=None)
        loaded = store.load(KEY).grant
        assert loaded is not None
        assert (loaded.subject, loaded.claims) == (text, {text: [text]})

    # Many at once.

    def test_compare_and_set_by_many_threads_loses_nothing(self, store: TokenStore, twin: TokenStore) -> None:
        def work(index: int) -> None:
            for _ in range(self.increments):
                increment(store if index % 2 else twin)

        together(self.threads, work)
        assert store.load(KEY).grant.generation == self.threads * self.increments  # type: ignore[union-attr]

    def test_a_reader_never_sees_the_order_fall(self, store: TokenStore, twin: TokenStore) -> None:
        store.commit(a_grant(), expected=None)
        over = threading.Event()
        seen: list[Order] = []

        def read() -> None:
            while not over.is_set():
                grant = twin.load(KEY).grant
                assert grant is not None
                seen.append(grant.order)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            together(4, lambda _: [increment(store) for _ in range(10)])
        finally:
            over.set()
            reader.join()
        assert seen == sorted(seen)

    # The place.

    def test_the_same_place_has_the_same_identity(self, store: TokenStore, twin: TokenStore) -> None:
        assert store.identity == twin.identity
