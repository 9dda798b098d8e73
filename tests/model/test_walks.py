"""The exploration has a model of a store.  Here the same worlds are walked through over real stores, of every kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from places import Place, listed
from scenarios import LARGE, SCENARIOS
from walks import Astray, Walk
from world import CRASH, REMOVED, World

from loginonce.model import Grant, GrantKey, Order
from loginonce.stores import redis, sql
from loginonce.stores.base import Hold, Snapshot, Stamp, TokenStore
from loginonce.stores.memory import MemoryStore
from loginonce.stores.opening import open_store
from loginonce.stores.sealed import SealedStore

WALKS = 200
"""Over each store; they are shared out among the scenarios.  By default the first of them are enough."""
FEW = 80


def worlds(*, lease: bool, crashes: bool = True) -> list[World]:
    """One for each scenario that can be had with real stores: none of them removes a record by itself."""
    return [
        World(replace(scenario, symmetric=False))
        for scenario in (*SCENARIOS, *LARGE)
        if scenario.lease == lease
        and (lease or scenario in SCENARIOS)
        and not scenario.budget(REMOVED)
        and (crashes or not scenario.budget(CRASH))
    ]


@pytest.fixture(autouse=True)
def no_lease_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy with other things a walk may take its time."""
    monkeypatch.setattr(redis, "LEASE", 600.0)
    monkeypatch.setattr(sql, "LEASE", 600.0)


def walk_all(place: Place, among: list[World], walks: int = WALKS) -> list[tuple[int, int, int]]:
    """Steps, writes and conflicts of each."""
    spare: list[TokenStore] = []
    return [
        Walk(among[seed % len(among)], place.open, place.lapse, seed, place.kind.lag, spare=spare).go()
        for seed in range(walks)
    ]


@pytest.mark.parametrize("place", listed(), indirect=True)
@pytest.mark.hazard(5, 6, 9, 12, 26)
def test_on_every_way_a_store_says_and_holds_what_the_model_does(place: Place, loginonce_home: Path) -> None:
    says_and_holds_what_the_model_does(place, WALKS)


@pytest.mark.parametrize("place", listed("file", quick=("file",)), indirect=True)
@pytest.mark.hazard(5, 6, 9, 12, 26)
def test_on_some_ways_it_does_so_by_default(place: Place, loginonce_home: Path) -> None:
    says_and_holds_what_the_model_does(place, FEW)


def says_and_holds_what_the_model_does(place: Place, walks: int) -> None:
    done = walk_all(place, worlds(lease=place.kind.lease), walks)
    steps, writes, conflicts = map(sum, zip(*done, strict=True))
    print(f"{place.kind}: {len(done)} walks, {steps:,} steps, {writes} writes, {conflicts} conflicts")
    assert writes > 2 * len(done)
    assert conflicts > len(done) / 20


@pytest.mark.parametrize("walks", [FEW, pytest.param(WALKS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sealed", [False, True], ids=["memory", "sealed memory"])
def test_a_store_in_memory_does_so_too(tmp_path: Path, sealed: bool, walks: int) -> None:
    """Whose process is killed has no memory any more."""
    memory, among = MemoryStore(), worlds(lease=False, crashes=False)
    for seed in range(walks):
        opened = (lambda: SealedStore(memory, f"file:{tmp_path / 'key'}")) if sealed else (lambda: memory)
        Walk(among[seed % len(among)], opened, lambda _: None, seed).go()


# ── stores that are wrong ────────────────────────────────────────────────────────────────────────────────


class Wrong(TokenStore):
    """A store around another one; a subclass gets one thing wrong."""

    def __init__(self, inner: TokenStore) -> None:
        self.inner = inner
        self.identity = inner.identity

    def stamp(self, key: GrantKey) -> Stamp:
        return self.inner.stamp(key)

    def load(self, key: GrantKey) -> Snapshot:
        return self.inner.load(key)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        return self.inner.commit(grant, expected=expected, reserve=reserve)

    def try_lock(self, key: GrantKey) -> Hold | None:
        return self.inner.try_lock(key)

    def notice(self, key: GrantKey) -> bytes | None:
        return self.inner.notice(key)

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        return self.inner.post(key, notice, instead_of=instead_of)

    def grants(self) -> Iterator[Grant]:
        return self.inner.grants()

    def location(self, key: GrantKey) -> str:
        return self.inner.location(key)


class Blind(Wrong):
    """Its commit does not look at `expected` (HAZARDS 26)."""

    told = "although another record was there"

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        there = self.inner.load(grant.key).grant
        return self.inner.commit(grant, expected=there.order if there else None, reserve=reserve)


class Forgetful(Wrong):
    """It says that a marker is written, and does not write it (HAZARDS 1)."""

    told = "in the store is"

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        return None if grant.marker else super().commit(grant, expected=expected, reserve=reserve)


class Stale(Wrong):
    """What it has read once, it goes on telling (HAZARDS 6)."""

    told = "what is loaded is"

    def __init__(self, inner: TokenStore) -> None:
        super().__init__(inner)
        self.read: dict[GrantKey, Snapshot] = {}

    def load(self, key: GrantKey) -> Snapshot:
        return self.read.setdefault(key, super().load(key))


class Unmoved(Wrong):
    """Its stamps do not change (HAZARDS 14)."""

    told = "by its stamp the record is still"

    def stamp(self, key: GrantKey) -> Stamp:
        return 1

    def load(self, key: GrantKey) -> Snapshot:
        return replace(super().load(key), stamp=1, settled=True)


class Open(Wrong):
    """Whoever asks for its lock gets one (HAZARDS 16)."""

    told = "the lock is had"

    def try_lock(self, key: GrantKey) -> Hold | None:
        return super().try_lock(key) or Free()


class Free:
    lease = False

    def release(self) -> None:
        """There is nothing to release."""


class Sure(Wrong):
    """Its lock is a lease, and it says that it is none (HAZARDS 12)."""

    told = "says that it is no lease"

    def try_lock(self, key: GrantKey) -> Hold | None:
        hold = super().try_lock(key)
        return hold and Relabelled(hold)


class Relabelled:
    lease = False

    def __init__(self, hold: Hold) -> None:
        self.release = hold.release


class Grasping(Wrong):
    """Whoever releases late takes the lease from whoever has it now (HAZARDS 12)."""

    told = "the lock is had"

    def try_lock(self, key: GrantKey) -> Hold | None:
        hold = super().try_lock(key)
        return hold and EndsAll(self, key)


class EndsAll:
    lease = True

    def __init__(self, store: Wrong, key: GrantKey) -> None:
        self.store: Any = store.inner
        self.key = key

    def release(self) -> None:
        mine = sql._WAITS.c.id == self.store._id(self.key)
        self.store._changed(sa.update(sql._WAITS).where(mine).values(holder=None))


@pytest.mark.parametrize("wrong", [Blind, Forgetful, Stale, Unmoved, Open], ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("place", listed("file", quick=("file",)), indirect=True)
def test_a_store_that_is_wrong_leads_astray_and_the_seed_leads_there_again(
    place: Place, loginonce_home: Path, wrong: type[Wrong]
) -> None:
    among = worlds(lease=False)
    place.open = lambda: wrong(open_store(place.address))
    with pytest.raises(Astray, match=wrong.told) as first:
        walk_all(place, among)
    seed = int(re.search(r"seed (\d+)", str(first.value))[1])
    with pytest.raises(Astray) as again:
        Walk(among[seed % len(among)], place.open, place.lapse, seed).go()
    assert str(again.value) == str(first.value)


@pytest.mark.parametrize("wrong", [Blind, Sure, Grasping], ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("place", listed("SQLite"), indirect=True)
def test_a_lease_that_is_wrong_leads_astray(place: Place, loginonce_home: Path, wrong: type[Wrong]) -> None:
    place.open = lambda: wrong(open_store(place.address))
    with pytest.raises(Astray, match=wrong.told):
        walk_all(place, worlds(lease=True))
