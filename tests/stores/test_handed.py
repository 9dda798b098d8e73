"""What a worker is handed: one login's access tokens, which nobody can renew or change there."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from contract import CANARY, KEY, a_grant
from test_sealed import a_full_grant

from loginonce.errors import LoginRequired, SealError, StoreError
from loginonce.refresh import Policy, Problem, Want, decide, grant_of_logout
from loginonce.source import LoginSource
from loginonce.stores.base import TokenStore
from loginonce.stores.handed import HandedStore
from loginonce.stores.memory import MemoryStore


def test_a_pickle_takes_the_access_tokens_along_and_no_other_secret() -> None:
    store = HandedStore(a_full_grant())
    data = pickle.dumps(store)
    arrived = pickle.loads(data)
    assert arrived.load(KEY).grant == store.load(KEY).grant
    assert arrived.stamp(KEY) == store.stamp(KEY) == store.load(KEY).stamp
    for secret in (b"rt_secret_canary", b"id_secret_canary", b"claim_secret_canary"):
        assert secret not in data
    assert b"at_secret_canary" in data
    assert "canary" not in f"{store!r} {store.identity} {store.location(KEY)} {store.load(KEY)!r}"


def test_it_holds_one_login_and_no_other() -> None:
    store = HandedStore(a_grant())
    other = replace(KEY, account="else")
    assert (store.load(other).grant, store.stamp(other), store.notice(KEY)) == (None, None, None)
    assert [grant.key for grant in store.grants()] == [KEY]


def test_nothing_is_changed_or_locked_there() -> None:
    store = HandedStore(a_grant())
    for attempt in (
        lambda: store.commit(a_grant(), expected=(1, 0, 0)),
        lambda: store.try_lock(KEY),
        lambda: store.post(KEY, b"", instead_of=None),
    ):
        with pytest.raises(StoreError, match="handed an access token") as refused:
            attempt()
        assert CANARY not in str(refused.value)


def source_of(store: TokenStore) -> LoginSource:
    return LoginSource(KEY, store, None)  # type: ignore[arg-type]  # nobody is asked


def test_a_token_that_was_handed_over_and_has_ended_is_not_renewed() -> None:
    with pytest.raises(LoginRequired) as ended:
        source_of(HandedStore(a_grant())).token()
    assert ended.value.reason == "expired"


# ── what other stores leave behind, for who opens them as if they were ordinary ──────────────────────────


def test_a_sealed_record_is_neither_used_nor_replaced() -> None:
    store = MemoryStore()
    store.commit(a_grant(sealed="x", refresh_token=None, tokens=()), expected=None)
    source = source_of(store)
    for attempt in (source.token, source.grant, lambda: source.change(lambda there: grant_of_logout(KEY, there, 0))):
        with pytest.raises(SealError, match="sealed"):
            attempt()
    assert store.load(KEY).grant == a_grant(sealed="x", refresh_token=None, tokens=())


def test_nothing_can_be_done_with_a_sealed_record() -> None:
    verdict = decide(a_grant(sealed="x"), Want(KEY), Policy(), 1500.0)
    assert isinstance(verdict, Problem)
    assert verdict.kind == "store"
