"""Clusters of workers go through many expiries on one login, and through their tokens where they have no login."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from workers import call, work

import loginonce
from loginonce.demo.tally import expiries
from loginonce.testing import FakeProvider

Map = Callable[..., list[Any]]

LIFE = 3  # seconds; clients renew when 0.9 of it is over, and `expiries` counts what comes after 0.75 of it
COUNT = 4


@contextmanager
def process_pool() -> Iterator[Map]:
    with ProcessPoolExecutor(COUNT, get_context("spawn")) as pool:
        yield lambda work, *each: list(pool.map(work, *each))


@contextmanager
def dask_cluster() -> Iterator[Map]:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=COUNT, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(COUNT)
        places = list(client.scheduler_info(n_workers=-1)["workers"])

        def run(work: Callable[..., Any], *each: Any) -> list[Any]:
            """One task to each worker: the cluster itself may queue several at one."""
            tasks = zip(places, zip(*each, strict=True), strict=True)
            return client.gather(
                [
                    client.submit(work, *order, workers=[place], allow_other_workers=False, pure=False)
                    for place, order in tasks
                ]
            )

        yield run


POOLS = pytest.mark.parametrize("pool", [process_pool, dask_cluster])


@POOLS
@pytest.mark.slow
@pytest.mark.hazard(15)
@pytest.mark.filterwarnings("ignore::Warning")  # of the cluster's own
def test_workers_that_share_a_login_go_through_ten_expiries_with_one_request_each(
    fake_provider: FakeProvider,
    loginonce_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    pool: Callable[[], Any],
) -> None:
    monkeypatch.setenv("LOGINONCE_SEAL_KEY", "A" * 43)
    store = f"file:{loginonce_home}/logins?seal=env"
    lab = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=store)
    with pool() as run:
        lab.login(tokens=fake_provider.issue())
        run(work, [lab] * COUNT, [fake_provider.api("/warm")] * COUNT, [0.0] * COUNT)  # everything is imported there
        fake_provider.access_token_lifetime = LIFE
        lab.source.renew()
        issued_at = [event.time for event in fake_provider.log if event.kind == "refresh"][-1]
        fake_provider.reset_stats()
        until = time.time() + 11 * LIFE
        told = run(work, [lab] * COUNT, [fake_provider.api("/runs")] * COUNT, [until] * COUNT)
    exchanges = [event.time for event in fake_provider.log if event.kind == "refresh" and event.time > issued_at]
    ended = expiries(issued_at, exchanges, fake_provider.expires_in)
    assert [bad for _, bad in told] == [[]] * COUNT
    assert all(good > 50 for good, _ in told)
    assert ended >= 10
    assert fake_provider.stats.token_requests == ended
    assert fake_provider.stats.replays == 0


@POOLS
@pytest.mark.slow
@pytest.mark.hazard(15)
@pytest.mark.filterwarnings("ignore::Warning")
def test_workers_without_a_login_are_handed_a_token_for_each_round_and_never_renew(
    fake_provider: FakeProvider, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch, pool: Callable[[], Any]
) -> None:
    lab = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
    lab.login(tokens=fake_provider.issue())
    url = fake_provider.api("/runs")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("LOGINONCE_HOME", "/nonexistent/of/workers")
        cluster = pool()
        run = cluster.__enter__()
    try:
        for number in range(10):
            fake_provider.revoke_access_tokens()
            lab.source.renew()
            handed = lab.access_only()
            meeting = loginonce_home / f"round-{number}"
            meeting.mkdir()
            each = [handed] * COUNT, [url] * COUNT, [str(meeting)] * COUNT, range(COUNT), [COUNT] * COUNT
            assert run(call, *each) == [200] * COUNT
    finally:
        cluster.__exit__(None, None, None)
    assert (fake_provider.stats.token_requests, fake_provider.stats.refreshes) == (10, 10)
    assert (fake_provider.stats.replays, fake_provider.stats.api_401) == (0, 0)
