"""The same login in every store, in one run: what a token costs, what a renewal costs, how many bytes it takes.

    python tests/benchmarks/stores.py                everything; servers are started, and installed where we may
    python tests/benchmarks/stores.py --only redis   this store beside the file
    python tests/benchmarks/stores.py --short        a minute or so; what `.ci/run` runs
    python tests/benchmarks/stores.py --write        the table goes into the README

Figures are ratios to the file store, measured in turns with it.  A renewal counts from the moment at which the token
of so many processes ends, until the last of them has its answer; the provider takes 50 ms of that.  It ends with 1
where a renewal cost more than one token request, or anybody got no answer.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))  # where `crowd` is
sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))  # where `servers` are

import pytest
import redis_server
import servers
from crowd import Crowd, Launcher
from figures import README, into_readme
from loopback import CLIENT_ID, Loopback
from measure import Cost, pairs_of, ratio

import loginonce
from loginonce.model import Grant, GrantKey
from loginonce.stores.base import TokenStore
from loginonce.stores.opening import open_store

ANSWER_TIME = 0.05  # seconds that the provider takes
LEAD = 1.6  # seconds from the ageing of a token to its end; the stores on servers take a quarter to tell of it
LOGINS = 200  # that are saved to see what one takes
FILE = "file"
MARKERS = ("<!-- stores: begin -->", "<!-- stores: end -->")


@dataclass
class Place:
    """A store: how it is opened, and the bytes that all its logins take."""

    name: str
    address: str
    taken: Callable[[], int]


@dataclass
class Row:
    """What was measured of it.  `renewals` by the number of processes; nan: not measured."""

    name: str
    token: float = math.nan
    load: float = math.nan
    renewals: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    taken: float = math.nan
    why: str = ""


# ── the stores ───────────────────────────────────────────────────────────────────────────────────────────


def on_disk(folder: Path) -> int:
    """What the file system has given for these files."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


@contextmanager
def file(folder: Path) -> Iterator[Place]:
    yield Place(FILE, f"file:{folder}", lambda: on_disk(folder))


@contextmanager
def strict(folder: Path) -> Iterator[Place]:
    yield Place("file, lock=strict", f"file:{folder}?lock=strict", lambda: on_disk(folder))


@contextmanager
def sealed(folder: Path) -> Iterator[Place]:
    logins = folder / "logins"
    yield Place("file, sealed", f"file:{logins}?seal=file:{folder}/key", lambda: on_disk(logins))


@contextmanager
def sqlite(folder: Path) -> Iterator[Place]:
    yield Place("SQLite", f"sqlite:///{folder}/logins/db", lambda: on_disk(folder))


@contextmanager
def redis(folder: Path) -> Iterator[Place]:
    server = redis_server.Server(folder)
    try:
        client = server.client()
        yield Place(
            "Redis", server.url, lambda: sum(client.memory_usage(key) for key in client.scan_iter("loginonce:*"))
        )
    finally:
        server.stop()


@contextmanager
def postgresql(_: Path) -> Iterator[Place]:
    with servers.postgresql() as server:
        size = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relname = 'loginonce_logins'"
        yield Place("PostgreSQL", server.address, lambda: int(server.sql(size)[0][0]))


@contextmanager
def mariadb(_: Path) -> Iterator[Place]:
    with servers.mariadb() as server:
        yield Place(
            "MariaDB",
            server.address,
            lambda: sum(file.stat().st_size for file in server.folder.rglob("loginonce_logins.ibd")),
        )


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "strict": strict,
    "sealed": sealed,
    "sqlite": sqlite,
    "redis": redis,
    "postgresql": postgresql,
    "mariadb": mariadb,
}


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────


class Home:
    """A login in a place: the session of this process, and a crowd that shares it."""

    def __init__(self, provider: Loopback, launcher: Launcher, home: Path, place: Place) -> None:
        self.place, self._provider, self._launcher, self._home = place, provider, launcher, home
        self._opening = {"client_id": CLIENT_ID, "store": place.address}
        self.session = loginonce.Session(provider.issuer, **self._opening)
        self.session.login(tokens=provider.issue())
        self.session.source.provider.server  # noqa: B018 - its metadata are asked for once, and kept for all

    def crowd(self, size: int) -> Crowd:
        crowd = Crowd(self._launcher, self._home, issuer=self._provider.issuer, **self._opening)
        crowd.fork(size)
        return crowd

    def tokens(self, count: int) -> Cost:
        """A token that is good, so many times."""
        token = self.session.source.token
        token()
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            token()
        return Cost(time.perf_counter() - began, time.process_time() - cpu)

    def loads(self, count: int) -> Cost:
        """The record, read so many times: what each process pays when another one has changed it."""
        store, key = self.session.source.store, self.session.source.key
        began = time.perf_counter()
        for _ in range(count):
            store.load(key)
        return Cost(time.perf_counter() - began)

    def renewal(self, crowd: Crowd, wrong: list[str]) -> Cost:
        """From the end of everybody's token until the last one has its answer."""
        size = len(crowd.members)
        ends_at = time.time() + LEAD

        def older(grant: Grant | None) -> Grant:
            assert grant is not None
            tokens = [replace(token, received_at=time.time(), expires_at=ends_at) for token in grant.tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        self.session.source.change(older)
        time.sleep(0.3)
        crowd.call_together(self._provider.api)  # everybody has it in memory
        if time.time() > ends_at - LEAD / 10:
            return self.renewal(crowd, wrong)
        self._provider.reset()
        answers = crowd.call_together(self._provider.api, at=ends_at + 0.01)
        counted = self._provider.stats()
        if [answer.get("status") for answer in answers] != [200] * size:
            wrong.append(f"{self.place.name}, {size} processes: {str(answers)[:300]}")
            return Cost(math.nan)
        if counted["token_requests"] != 1 or counted["replays"]:
            wrong.append(f"{self.place.name}, {size} processes: {counted['token_requests']} token requests")
        return Cost(max(answer["seconds"] for answer in answers))

    def bytes_of_one(self) -> float:
        """What one login more takes, on average of many."""
        store: TokenStore = open_store(self.place.address)
        grant = self.session.source.grant()
        assert grant is not None

        def save(first: int) -> None:
            for number in range(first, first + LOGINS):
                key = GrantKey(grant.key.issuer, grant.key.client_id, f"account {number}")
                store.commit(replace(grant, key=key), expected=None)

        save(0)
        before = self.place.taken()
        save(LOGINS)
        return (self.place.taken() - before) / LOGINS


def measured(ours: Home, theirs: Home, sizes: list[int], pairs: int, wrong: list[str]) -> Row:
    """`theirs` to `ours`, which is the file."""
    row = Row(theirs.place.name)
    row.token = ratio(pairs_of(lambda: theirs.tokens(1000), lambda: ours.tokens(1000), 2 * pairs)).cpu
    row.load = ratio(pairs_of(lambda: theirs.loads(100), lambda: ours.loads(100), 2 * pairs)).wall
    for size in sizes:
        with ExitStack() as stack:
            here, there = ours.crowd(size), theirs.crowd(size)
            stack.callback(here.close)
            stack.callback(there.close)
            for home, crowd in ((ours, here), (theirs, there)):
                home.renewal(crowd, wrong)
            found = pairs_of(lambda t=there: theirs.renewal(t, wrong), lambda h=here: ours.renewal(h, wrong), pairs)
            row.renewals[size] = ratio(found).wall
            row.seconds[size] = median(cost.wall for cost, _ in found)
    return row


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: list[Row], sizes: list[int]) -> str:
    """Markdown."""
    head = ["store", "a good token", "reading the record", *(f"renewal, {size} processes" for size in sizes), "bytes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        if row.why:
            lines.append(f"| {row.name} | {' | '.join([row.why] + [''] * (len(head) - 2))} |")
            continue
        cells = [f"{row.token:.2f} ×", f"{row.load:.1f} ×", *(f"{row.renewals[size]:.2f} ×" for size in sizes)]
        lines.append(f"| {' | '.join([row.name, *cells, f'{row.taken:.2f} ×'])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("python tests/benchmarks/stores.py", description="the stores beside each other")
    parser.add_argument("--only", action="append", choices=[*PLACES], help="this store; may be repeated")
    parser.add_argument("--short", action="store_true", help="a minute or so")
    parser.add_argument("--pairs", type=int, help="how often each renewal is measured beside the file's (default 6)")
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    given = parser.parse_args()
    if given.write and (given.only or given.short):
        parser.error("--write takes a whole run: without --only and --short")
    sizes, pairs = ([2, 8], 2) if given.short else ([2, 8, 32], given.pairs or 6)
    rows: list[Row] = []
    wrong: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loginonce-stores-")))
        os.environ["LOGINONCE_HOME"] = str(folder / "home")
        provider = stack.enter_context(Loopback())
        provider.answer_in(ANSWER_TIME)
        launcher = Launcher()
        stack.callback(launcher.close)
        ours = Home(provider, launcher, folder / "home", stack.enter_context(file(folder / FILE)))
        taken = ours.bytes_of_one()
        base = []
        for size in sizes:
            crowd = ours.crowd(size)
            try:
                base.append(ours.renewal(crowd, wrong).wall)
            finally:
                crowd.close()
        renewals = ", ".join(f"{1000 * seconds:.0f} ms ({size})" for size, seconds in zip(sizes, base, strict=True))
        print(
            f"file: a token in {ours.tokens(2000).wall / 2000 * 1e6:.1f} µs, the record in "
            f"{ours.loads(200).wall / 200 * 1e6:.0f} µs, {taken:.0f} bytes a login, a renewal in {renewals}"
        )
        for name in given.only or PLACES:
            try:
                with PLACES[name](folder / name) as place:
                    theirs = Home(provider, launcher, folder / "home", place)
                    row = measured(ours, theirs, sizes, pairs, wrong)
                    row.taken = theirs.bytes_of_one() / taken
            except pytest.skip.Exception as skipped:
                row = Row(name, why=f"not run: {skipped}")
            rows.append(row)
            print(table([row], sizes).splitlines()[-1], flush=True)
    whole = table(rows, sizes)
    print(f"\n{whole}")
    if given.write:
        date = time.strftime("%Y-%m-%d", time.gmtime())
        text = (
            f"Measured on {date} by `pip install -e '.[test]' && python tests/benchmarks/stores.py`, in turns with the "
            f"file store, which is 1:"
        )
        README.write_text(into_readme(f"{text}\n\n{whole}", README.read_text("utf-8"), *MARKERS), "utf-8")
    for line in wrong:
        print(f"!! {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
