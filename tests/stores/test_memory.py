"""The store in memory keeps the promise of every store, and refuses to be two stores."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from collections.abc import Callable

import pytest
from contract import KEY, StoreContract, a_grant

from loginonce.errors import StoreError
from loginonce.stores.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    def test_releasing_twice_neither_raises_nor_frees_the_next_holder(self, store: MemoryStore) -> None:
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
        hold.release()


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.commit(a_grant(), expected=None)
    return made


def in_a_child(work: Callable[[], bool]) -> bool:
    """Whether `work` came out true in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except StoreError as error:
        return "only a copy" in str(error)
    return False


def test_a_forked_child_reads_what_there_was(store: MemoryStore) -> None:
    assert in_a_child(lambda: store.load(KEY).grant == a_grant() and len(list(store.grants())) == 1)


@pytest.mark.hazard(13)
def test_a_forked_child_may_not_lock(store: MemoryStore) -> None:
    assert in_a_child(lambda: refused(lambda: store.try_lock(KEY)))


def test_a_forked_child_may_not_write(store: MemoryStore) -> None:
    assert in_a_child(lambda: refused(lambda: store.commit(a_grant(order=(2, 0, 0)), expected=(1, 0, 0))))


def test_a_forked_child_neither_reads_nor_posts_a_notice(store: MemoryStore) -> None:
    store.post(KEY, b"there", instead_of=None)
    assert in_a_child(lambda: refused(lambda: store.notice(KEY)))
    assert in_a_child(lambda: refused(lambda: store.post(KEY, None, instead_of=b"there")))


def test_a_child_that_is_forked_while_a_thread_writes_is_refused_and_does_not_hang(store: MemoryStore) -> None:
    with store._mutex:  # as another thread of the parent might hold it at that moment
        assert in_a_child(lambda: refused(lambda: store.try_lock(KEY)))


def test_a_store_that_was_made_by_another_process_is_not_ours(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert refused(lambda: store.try_lock(KEY))
    assert refused(lambda: store.locked(KEY))
    assert store.location(KEY) == f"the memory of process {store._pid}"


@pytest.mark.hazard(15)
def test_a_store_in_memory_cannot_be_sent_to_another_process(store: MemoryStore) -> None:
    with pytest.raises(TypeError, match="use the default file store"):
        pickle.dumps(store)


def test_two_stores_share_nothing(store: MemoryStore) -> None:
    other = MemoryStore()
    assert other.identity != store.identity
    assert other.load(KEY).grant is None


def test_a_store_never_gets_the_identity_of_one_that_is_gone() -> None:
    seen = set()
    for _ in range(50):
        seen.add(MemoryStore().identity)
        gc.collect(0)
    assert len(seen) == 50
