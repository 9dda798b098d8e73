"""What a worker of a pool runs: it gets the session pickled, and begins when all of them are there."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import loginonce

PATIENCE = 60.0  # seconds for all workers to be there


def call(session: loginonce.Session, url: str, meeting: str, number: int, count: int) -> int:
    """GET, together with the others: each leaves a file in the folder `meeting` when it is there."""
    Path(meeting, str(number)).touch()
    deadline = time.monotonic() + PATIENCE
    while len(list(Path(meeting).iterdir())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("not all workers have come")
        time.sleep(0.001)
    return session.get(url, timeout=30).status_code


def call_in_pool(kind: str, session: loginonce.Session, url: str, count: int) -> list[int]:
    """So many calls at once, each in a worker of its own."""
    with TemporaryDirectory() as meeting:
        orders = [(session, url, meeting, number, count) for number in range(count)]
        match kind:
            case "loky":
                from joblib import Parallel, delayed

                statuses: list[int] = Parallel(n_jobs=count, backend="loky")(delayed(call)(*order) for order in orders)
                return statuses
            case "multiprocessing":
                with multiprocessing.get_context("spawn").Pool(count) as workers:
                    return workers.starmap(call, orders, chunksize=1)
            case "threads":
                pool: Executor = ThreadPoolExecutor(count)
            case _:
                pool = ProcessPoolExecutor(count, multiprocessing.get_context(kind))
        with pool:
            return list(pool.map(call, *zip(*orders, strict=True)))


def call_in_loops(session: loginonce.Session, url: str, loops: int, tasks: int) -> list[int]:
    """GET by `asyncio.to_thread` from so many tasks in each of so many event loops, each in a thread of its own."""

    async def many() -> list[Any]:
        return await asyncio.gather(*[asyncio.to_thread(lambda: session.get(url).status_code) for _ in range(tasks)])

    with ThreadPoolExecutor(loops) as pool:
        return [status for statuses in pool.map(lambda _: asyncio.run(many()), range(loops)) for status in statuses]


def work(session: loginonce.Session, url: str, until: float) -> tuple[int, list[str]]:
    """GET again and again until then (POSIX seconds): how many were good, and what went wrong."""
    good, bad = 0, []
    while time.time() < until:
        try:
            status = session.get(url, timeout=30).status_code
        except Exception as error:
            bad.append(f"{type(error).__name__}: {error}")
        else:
            good += status == 200
            bad += [] if status == 200 else [str(status)]
        time.sleep(0.02)
    return good, bad
