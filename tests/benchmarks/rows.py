"""What is measured: one function for each row of the table, in its order; each yields the figures it found.

Ratios are to plain requests, unless a row says otherwise.  What must hold whatever the machine does (one token
request, no failure) is required, and ends the run with an error; no time is.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))  # where `crowd` is

from clients import LOGINONCE, PEERS, PLAIN, Way, login_of, read
from crowd import Crowd, Launcher, Member
from loopback import CLIENT_ID, Loopback
from measure import Cost, Ratio, instructions, memory_of, pairs_of, process, ratio

HERE = Path(__file__).parent
PYTHON = sys.executable
ANSWER_TIME = 0.05
"""Seconds that the provider takes for a token request where herds wait for one."""

SETTLED = 0.06
"""Seconds after which the change stamp of a record is trusted."""

MEMORY_OF_ONE = 48
"""MB that a forked member may come to own; a herd is as large as the memory allows."""


@dataclass
class Figure:
    """One line of the table.  `unit` is × (a ratio), ms, MB, or a plural.

    `alone`: what of it would be so without loginonce, where that is not 1 or nought.
    """

    row: str
    what: str
    measured: float
    target: float | None = None
    unit: str = "×"
    at_least: bool = False
    note: str = ""
    alone: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or nothing to be measured."""
        if self.target is None or math.isnan(self.measured):
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target


@dataclass
class Storm:
    """How often each of the rounds of a herd of so many ended with what."""

    size: int
    rounds: int
    token_requests: float
    replays: float
    ended: int
    served: float
    signed_in_after: float


@dataclass
class Standing:
    """What one of the ways costs and does, beside the others; `why` tells why a figure is missing."""

    name: str
    version: str = ""
    cache: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    storms: list[Storm] = field(default_factory=list)
    why: str = ""


class Bench:
    """What the rows share: the provider, a place for files, how long to take, and what has been found wrong."""

    def __init__(self, provider: Loopback, folder: Path, *, short: bool = False, seconds: float = 60.0) -> None:
        self.provider = provider
        self.short = short
        self.seconds = seconds
        self.load = os.getloadavg()[0]  # before it all
        self.wrong: list[str] = []
        self.standings: dict[str, Standing] = {}
        self.curve: list[dict[str, float]] = []
        self._folder = folder
        self._launcher: Launcher | None = None
        self._folders = 0

    def times(self, full: int, short: int) -> int:
        """How often something is done."""
        return short if self.short else full

    def require(self, holds: object, otherwise: str) -> None:
        """What must hold on any machine."""
        if not holds:
            self.wrong.append(otherwise)
            print(f"!! {otherwise}", file=sys.stderr, flush=True)

    def folder(self) -> str:
        """A new one."""
        self._folders += 1
        made = self._folder / str(self._folders)
        made.mkdir()
        return str(made)

    def login(self, way: Way, **issued: Any) -> str:
        """A folder in which this way finds a new login, whose token lives for an hour unless told otherwise."""
        folder = self.folder()
        way.save(folder, login_of(self.provider.issuer, self.provider.issue(**issued)))
        return folder

    def herd(self, count: int) -> Crowd:
        """So many forked processes that have imported everything."""
        if self._launcher is None:
            self._launcher = Launcher(HERE / "herd.py")
        crowd = Crowd(self._launcher, self._folder)
        crowd.fork(count)
        return crowd

    def end(self) -> None:
        if self._launcher is not None:
            self._launcher.close()


Row = Callable[[Bench], Iterator[Figure]]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    """One that `--list` shows and `--only` names."""
    ROWS[function.__name__.strip("_").replace("_", "-")] = function
    return function


def clients(*arguments: str) -> list[str]:
    """A command line of `clients.py`."""
    return [PYTHON, str(HERE / "clients.py"), *arguments]


def told(command: list[str], **variables: str) -> Ratio:
    """The ratio that a process of its own has measured, with these variables in its environment."""
    surroundings = {**os.environ, **variables}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=surroundings
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return ratio([(Cost(a, b), Cost(c, d)) for a, b, c, d in json.loads(done.stdout.splitlines()[-1])])


# ── a process ────────────────────────────────────────────────────────────────────────────────────────────


def importing(code: str, pairs: int) -> Ratio:
    """What that import costs, the whole process, to importing requests."""
    ours, plain = ([PYTHON, "-c", one] for one in (code, PLAIN.importing))
    process(*ours)  # compiles what is not
    return ratio(pairs_of(lambda: process(*ours), lambda: process(*plain), pairs))


def more_memory(code: str, times: int) -> float:
    """MB that this import takes beyond requests."""
    found = [(memory_of(code), memory_of(PLAIN.importing)) for _ in range(times)]
    return median(ours - plain for ours, plain in found)


def in_instructions(what: str, name: str, counted: list[int] | None, target: float | None) -> Figure:
    """The first of them to the second."""
    if counted is None:
        return Figure(name, what, math.nan, target, note="no valgrind that runs here")
    ours, plain = counted
    return Figure(name, what, ours / plain, target, note=f"{ours / 1e6:.2f} to {plain / 1e6:.2f} million")


@row
def _import(bench: Bench) -> Iterator[Figure]:
    """`import loginonce` to `import requests`, whole process: CPU, memory."""
    # The package alone imports next to nothing; with the session comes what a program uses.
    for what, code in {"import": "import loginonce", "import of Session": LOGINONCE.importing}.items():
        found = importing(code, bench.times(24, 6))
        yield Figure("import", f"{what}, CPU of the whole process", found.cpu, 1.05, note=str(found))
        if not bench.short:
            counted = instructions(*([PYTHON, "-c", one] for one in (code, PLAIN.importing)))
            yield in_instructions(f"{what}, instructions of the whole process", "import", counted, 1.05)
        yield Figure("import", f"{what}, memory beyond requests", more_memory(code, bench.times(5, 2)), 2.0, "MB")


@row
def request(bench: Bench) -> Iterator[Figure]:
    """One request with a valid token over a transport that does nothing, to one with a static header."""
    proxied = {"HTTPS_PROXY": "http://proxy.example.org:3128", "NO_PROXY": "127.0.0.1,.example.net"}
    for what, variables in {"one request": {}, "one request by a proxy of the environment": proxied}.items():
        found = told(clients("null", bench.folder(), LOGINONCE.name, str(bench.times(40, 10))), **variables)
        yield Figure("request", f"{what}, CPU", found.cpu, 0.90, note=str(found))
    few, many = 20, 120
    counted = instructions(
        *(
            clients("requests", bench.folder(), name, str(count))
            for name in (LOGINONCE.name, PLAIN.name)
            for count in (many, few)
        )
    )
    if counted is not None:
        counted = [(counted[at] - counted[at + 1]) // (many - few) for at in (0, 2)]
    yield in_instructions("one request, instructions", "request", counted, 0.90)


@row
def threads(bench: Bench) -> Iterator[Figure]:
    """One request where the process has 10 logins and 20 threads, to one of a single login and thread."""
    found = told(clients("threads", bench.folder(), LOGINONCE.name, str(bench.times(24, 6))))
    plain = told(clients("threads", bench.folder(), PLAIN.name, str(bench.times(12, 4))))
    yield Figure(
        "threads", "one request of 10 logins in 20 threads / of one", found.cpu, 1.02,
        note=f"{found}; plain requests by the same measure {plain.cpu:.3f} ×", alone=plain.cpu,
    )  # fmt: skip


BARE = """
import json, requests
with open({path!r}) as file:
    token = json.load(file)["answer"]["access_token"]
assert requests.get({url!r}, headers={{"Authorization": "Bearer " + token}}).status_code == 200
"""

OURS = """
import loginonce
lab = loginonce.Session({issuer!r}, client_id={client_id!r})
assert lab.get({url!r}).status_code == 200
"""


@row
def first_answer(bench: Bench) -> Iterator[Figure]:
    """A new process with a login in the store to its first answer, to bare requests with a token from a file."""
    provider = bench.provider
    folder = bench.login(LOGINONCE)
    os.environ["LOGINONCE_HOME"] = os.path.join(folder, "home")
    bare = BARE.format(path=os.path.join(folder, "login.json"), url=provider.api)
    ours = OURS.format(issuer=provider.issuer, client_id=CLIENT_ID, url=provider.api)
    process(PYTHON, "-c", ours)
    found = ratio(
        pairs_of(lambda: process(PYTHON, "-c", ours), lambda: process(PYTHON, "-c", bare), bench.times(24, 6))
    )
    yield Figure("first-answer", "new process to its first answer", found.wall, 1.05, note=str(found))


@row
def command(bench: Bench) -> Iterator[Figure]:
    """`loginonce token` with a valid login, to `python -c 'import requests'`."""
    folder = bench.login(LOGINONCE)
    home = Path(folder, "home")
    os.environ["LOGINONCE_HOME"] = str(home)
    profile = f'[profiles.lab]\nissuer = "{bench.provider.issuer}"\nclient_id = "{CLIENT_ID}"\n'
    (home / "config.toml").write_text(profile)
    script = Path(sys.executable).with_name("loginonce")
    ours = [str(script)] if script.exists() else [PYTHON, "-m", "loginonce.cli"]
    process(*ours, "token", "lab")
    plain = [PYTHON, "-c", "import requests"]
    found = ratio(pairs_of(lambda: process(*ours, "token", "lab"), lambda: process(*plain), bench.times(24, 6)))
    yield Figure("command", "loginonce token / python -c 'import requests'", found.wall, 1.15, note=str(found))


# ── herds ────────────────────────────────────────────────────────────────────────────────────────────────


def about_to_end(
    bench: Bench, member: Member, folder: str, lead: float, warm: Callable[[], None]
) -> tuple[float, float]:
    """Make the token of a login one that ends in `lead` seconds, which everybody has in memory by then.

    `warm` makes them use it.  Returns when it ends (POSIX seconds), and the lead that it took.
    """
    while True:
        bench.provider.reset()
        ends_at = member.ask("age", folder=folder, received=0.0, ends_in=lead)["ends_at"]
        time.sleep(SETTLED)
        warm()
        # In the last tenth of its life it is renewed early: that must not have begun.
        if time.time() < ends_at - lead / 8 and bench.provider.stats()["token_requests"] == 0:
            return ends_at, lead
        time.sleep(1.0)  # until what has begun is over
        lead *= 1.5


class Herd:
    """Processes that hold one login each way, and are released together again and again."""

    def __init__(self, bench: Bench, size: int) -> None:
        self._bench = bench
        self.size = size
        self._ours, self._plain, self._bare = bench.login(LOGINONCE), bench.login(PLAIN), bench.login(PLAIN)
        bench.provider.answer_in(ANSWER_TIME)
        self.crowd = bench.herd(size)
        self.crowd.ask("set_up", ways=[(LOGINONCE.name, self._ours), (PLAIN.name, self._plain)])
        self._lead = 0.15 + size * 0.004  # seconds in which everybody can make a request
        self.alone: list[float] = []  # of each plain herd: its own seconds, and those of the round trip
        self.trips: list[float] = []

    def _released(self, way: Way, folder: str, at: float, expected: int) -> Cost:
        """How long after that moment the last one had its answer."""
        provider = self._bench.provider
        answers = self.crowd.ask("get", name=way.name, folder=folder, url=provider.api, at=at)
        failed = [answer for answer in answers if answer.get("status") != 200]
        requests = provider.stats()["token_requests"]
        self._bench.require(not failed, f"{self.size} × {way.name}: {len(failed)} failed, such as {failed[:1]}")
        self._bench.require(requests == expected, f"{self.size} × {way.name}: {requests} token requests")
        cpu = sum(answer.get("cpu", math.nan) for answer in answers)
        return Cost(max(answer.get("over", math.inf) for answer in answers) - at, cpu)

    def _soon(self) -> float:
        return time.time() + 0.02 + self.size / 2000

    def plain(self) -> Cost:
        """The herd of plain requests, and one token round trip."""
        self._bench.provider.reset()
        herd = self._released(PLAIN, self._plain, self._soon(), 0)
        trip = self.round_trip()
        self.alone.append(herd.wall)
        self.trips.append(trip.wall)
        return Cost(herd.wall + trip.wall, herd.cpu + trip.cpu)

    def round_trip(self) -> Cost:
        answer = self.crowd.members[0].ask("round_trip", folder=self._bare)
        return Cost(answer["seconds"], answer["cpu"])

    def _warm(self) -> None:
        self.crowd.ask("get", name=LOGINONCE.name, folder=self._ours, url=self._bench.provider.api)

    def at_expiry(self) -> Cost:
        """Everybody has the token in memory, and it has just ended."""
        ends_at, self._lead = about_to_end(self._bench, self.crowd.members[0], self._ours, self._lead, self._warm)
        return self._released(LOGINONCE, self._ours, max(ends_at + 0.002, self._soon()), 1)

    def after_a_revocation(self) -> Cost:
        """Everybody has a token in memory that the API has just begun to refuse."""
        self.crowd.members[0].ask("age", folder=self._ours, received=60.0, ends_in=3600.0)
        time.sleep(SETTLED)
        self._warm()
        self._bench.provider.reset()
        self._bench.provider.revoke_access_tokens(but=read(self._plain)["answer"]["access_token"])
        return self._released(LOGINONCE, self._ours, self._soon(), 1)

    def close(self) -> None:
        self.crowd.close()
        self._bench.provider.answer_in(0.0)


def herd_row(bench: Bench, name: str, what: Callable[[Herd], Cost], targets: dict[int, float]) -> Iterator[Figure]:
    for size, target in targets.items():
        herd = Herd(bench, size)
        try:
            what(herd)
            found = ratio(pairs_of(lambda herd=herd: what(herd), herd.plain, bench.times(12 if size < 32 else 8, 3)))
        finally:
            herd.close()
        yield Figure(name, f"{size} processes {WORDS[name]}", found.wall, target, note=str(found))


WORDS = {"expiry": "released at expiry", "revocation": "after a silent revocation"}


@row
def expiry(bench: Bench) -> Iterator[Figure]:
    """Processes released at expiry, until all have their answer, to the plain herd and one token round trip."""
    sizes = {2: 1.15, 8: 1.05} if bench.short else {2: 1.15, 8: 1.05, 32: 1.0, 64: 1.0}
    yield from herd_row(bench, "expiry", Herd.at_expiry, sizes)


@row
def revocation(bench: Bench) -> Iterator[Figure]:
    """The same when the API suddenly refuses a token that seems good (401)."""
    sizes = {8: 1.3} if bench.short else {2: 1.3, 8: 1.3, 32: 1.3, 64: 1.3}
    yield from herd_row(bench, "revocation", Herd.after_a_revocation, sizes)


@row
def thread_herd(bench: Bench) -> Iterator[Figure]:
    """64 threads of one process, released at expiry, to 64 plain ones and one token round trip."""
    size = 64
    herd = Herd(bench, 1)
    (member,) = herd.crowd.members
    lead = 0.5
    ours, plain = bench.login(LOGINONCE), bench.login(PLAIN)
    member.ask("set_up", ways=[(LOGINONCE.name, ours), (PLAIN.name, plain)], threads=size)
    provider = bench.provider

    def released(way: Way, folder: str, at: float, expected: int) -> float:
        given = {"name": way.name, "folder": folder, "url": provider.api, "threads": size, "at": at}
        answer = member.ask("get_in_threads", **given)
        requests = provider.stats()["token_requests"]
        bench.require(answer.get("statuses") == [200] * size, f"64 threads, {way.name}: {str(answer)[:300]}")
        bench.require(requests == expected, f"64 threads, {way.name}: {requests} token requests")
        return float(answer.get("over", math.inf)) - at

    def warm() -> None:
        member.ask("get_in_threads", name=LOGINONCE.name, folder=ours, url=provider.api, threads=size)

    def at_expiry() -> Cost:
        nonlocal lead
        ends_at, lead = about_to_end(bench, member, ours, lead, warm)
        return Cost(released(LOGINONCE, ours, ends_at + 0.002, 1))

    def all_plain() -> Cost:
        provider.reset()
        taken = released(PLAIN, plain, time.time() + 0.05, 0)
        return Cost(taken + herd.round_trip().wall)

    try:
        at_expiry()
        found = ratio(pairs_of(at_expiry, all_plain, bench.times(12, 3)))
    finally:
        herd.close()
    yield Figure("thread-herd", "64 threads released at expiry", found.wall, 1.05, note=str(found))


@row
def refresh(bench: Bench) -> Iterator[Figure]:
    """One refresh beyond the time that the provider takes itself, and beside it a bare POST of the same form."""
    provider = bench.provider
    ours, bare = bench.login(LOGINONCE), bench.login(PLAIN)
    crowd = bench.herd(1)
    (member,) = crowd.members
    disk: dict[str, list[float]] = {"renew": [], "round_trip": []}
    try:
        member.ask("set_up", ways=[(LOGINONCE.name, ours)])

        def beyond(do: str, folder: str) -> Cost:
            provider.reset()
            answer = member.ask(do, folder=folder)
            own = provider.stats()["own"]
            bench.require(len(own) == 1, f"one refresh: {len(own)} token requests")
            disk[do].append(answer["disk"])
            return Cost(answer["seconds"] - own[0], answer["cpu"])

        beyond("renew", ours)
        disk["renew"].clear()
        found = pairs_of(lambda: beyond("renew", ours), lambda: beyond("round_trip", bare), bench.times(60, 10))
    finally:
        crowd.close()
    whole, posting = (1000 * median(pair[which].wall for pair in found) for which in (0, 1))
    cpu, bare_cpu = (1000 * median(pair[which].cpu for pair in found) for which in (0, 1))
    on_disk, one_save = (1000 * median(disk[do]) for do in ("renew", "round_trip"))
    note = (
        f"CPU {cpu:.2f} ms; a bare POST of the same form takes {posting:.2f} ms beyond it, CPU {bare_cpu:.2f} ms, and "
        f"its answer {one_save:.2f} ms until it is on the disk"
    )
    yield Figure(
        "refresh", "one refresh beyond the provider's own time", whole, 1.0, "ms", note=note, alone=posting + one_save
    )
    rest = 1000 * median(
        ours.wall - disks - bare.wall for (ours, bare), disks in zip(found, disk["renew"], strict=True)
    )
    note = f"the disk takes {on_disk:.2f} ms of it (fsync, rename, allocation)"
    yield Figure("refresh", "the same, beyond a bare POST and the disk", rest, None, "ms", note=note)


@row
def soak(bench: Bench) -> Iterator[Figure]:
    """8 processes that call all the time on tokens of three seconds, to plain requests with a token that lasts."""
    size, slices = 8, bench.times(6, 2)
    seconds = bench.seconds / slices
    provider = bench.provider
    folders = {LOGINONCE: bench.login(LOGINONCE, lifetime=3), PLAIN: bench.login(PLAIN)}
    crowd = bench.herd(size)
    tails: dict[Way, list[float]] = {LOGINONCE: [], PLAIN: []}
    busy: list[float] = []
    requests = failed = 0

    def hurry(way: Way) -> Cost:
        nonlocal requests, failed
        before = provider.stats()["cpu"]
        provider.reset()
        given = {"name": way.name, "folder": folders[way], "url": provider.api, "seconds": seconds}
        answers = crowd.ask("hurry", **given, at=time.time() + 0.05)
        stats = provider.stats()
        failures = [failure for answer in answers for failure in answer.get("failures", [str(answer)])]
        failed += len(failures) if way is LOGINONCE else 0
        bench.require(not failures, f"8 processes, {way.name}: {len(failures)} failures, such as {failures[:1]}")
        bench.require(stats["replays"] + stats["refusals"] == 0, f"8 processes: {stats['replays']} replays")
        bench.require(stats["token_requests"] <= seconds / 2 + 2, f"{stats['token_requests']} token requests")
        requests += stats["token_requests"]
        busy.append((stats["cpu"] - before) / seconds)
        took = sorted(one for answer in answers for one in answer["took"])
        tails[way].append(took[len(took) * 99 // 100])
        return Cost(seconds / len(took), sum(answer["cpu"] for answer in answers) / len(took))

    try:
        crowd.ask("set_up", ways=[(way.name, folder) for way, folder in folders.items()])
        found = ratio(pairs_of(lambda: hurry(LOGINONCE), lambda: hurry(PLAIN), slices))
    finally:
        crowd.close()
    p99 = median(ours / plain for ours, plain in zip(tails[LOGINONCE], tails[PLAIN], strict=True))
    note = (
        f"CPU of a request {found.cpu:.3f} ×; {requests} token requests in {bench.seconds:.0f} s; "
        f"the provider's process was {max(busy):.0%} busy at most"
    )
    yield Figure("soak", "8 processes, 3 s tokens: throughput", 1 / found.wall, 0.97, at_least=True, note=note)
    plain = median(tails[PLAIN]) / 1000
    yield Figure("soak", "8 processes, 3 s tokens: p99", p99, 1.15, note=f"plain requests: {plain:.1f} ms")
    yield Figure("soak", "8 processes, 3 s tokens: failures", failed, 0, "")


@row
def growth(bench: Bench) -> Iterator[Figure]:
    """From 2 to 256 processes: what a herd needs, and the part of it that is the refresh."""
    largest = min(16 if bench.short else 256, available_memory() // MEMORY_OF_ONE)
    sizes = [size for size in (2, 4, 8, 16, 32, 64, 128, 256) if size <= largest]
    for size in sizes:
        herd = Herd(bench, size)
        try:
            herd.at_expiry()
            found = pairs_of(herd.at_expiry, herd.plain, bench.times(4, 2))
        finally:
            herd.close()
        ours = [cost.wall for cost, _ in found]
        part = median(all_ours - alone for all_ours, alone in zip(ours, herd.alone, strict=True))
        bench.curve.append(
            {
                "size": size,
                "ours": median(ours),
                "plain": median(herd.alone),
                "trip": median(herd.trips),
                "refresh": part,
            }
        )
    small, large = bench.curve[0], bench.curve[-1]
    all_in_all = large["ours"] / large["plain"]
    note = ", ".join(f"{point['size']:.0f}: {point['refresh'] * 1000:.0f} ms" for point in bench.curve)
    yield Figure("growth", f"{sizes[-1]} processes at expiry / plain herd alone", all_in_all, None, note=f"in {sizes}")
    # Constant: what the largest herd waits for its refresh is no more than what the smallest does.
    yield Figure(
        "growth", f"the refresh part, {sizes[-1]} / {sizes[0]} processes", large["refresh"] / small["refresh"], 1.15,
        note=f"beyond the plain herd: {note}",
    )  # fmt: skip


def available_memory() -> int:
    """MB."""
    found = re.search(r"MemAvailable:\s+([0-9]+)", Path("/proc/meminfo").read_text())
    return int(found[1]) // 1024 if found else 4096


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────


@row
def durable(bench: Bench) -> Iterator[Figure]:
    """How often one refresh waits for the disk."""
    folder = bench.login(LOGINONCE, first=1)
    time.sleep(1.05)  # then it has to be renewed
    command = clients("first", folder, LOGINONCE.name, bench.provider.api)
    trace = Path(folder, "trace")
    bench.provider.reset()
    tracer = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
    how = "strace"
    if shutil.which("strace") is None or subprocess.run([*tracer, "true"], capture_output=True, check=False).returncode:
        how = "os.fsync, wrapped"  # also where a container forbids to trace
        tracer = [PYTHON, str(HERE / "counted.py"), str(trace)]
        del command[0]
    subprocess.run([*tracer, *command], check=True)
    synced = re.findall(r"f(?:data)?sync\([0-9]+<(.*)>\)", trace.read_text())
    folders = sum(os.path.isdir(path) for path in synced)
    bench.require(bench.provider.stats()["token_requests"] == 1, "durable writes: not one refresh")
    yield Figure("durable", "one refresh: files synced", len(synced) - folders, 2, "", note=f"counted by {how}")
    yield Figure("durable", "one refresh: folders synced", folders, 2, "")


@row
def many_logins(bench: Bench) -> Iterator[Figure]:
    """Any single operation in a store with 1,000 logins, to the same in a store with one."""
    import loginonce

    provider = bench.provider
    count = bench.times(1000, 100)

    def session(store: loginonce.FileStore, number: int) -> loginonce.Session:
        return loginonce.Session(
            provider.issuer,
            client_id=CLIENT_ID,
            account=f"person-{number}",
            store=store,
            server={"token_endpoint": provider.token_endpoint},
        )

    full, lone = loginonce.FileStore(bench.folder() + "/logins"), loginonce.FileStore(bench.folder() + "/logins")
    session(lone, 0).login(tokens=provider.issue())
    sync, os.fsync = os.fsync, lambda _: None  # filling it is not what is measured
    try:
        for number in range(count):
            session(full, number).login(tokens=provider.issue())
    finally:
        os.fsync = sync
    there, alone = session(full, 0), session(lone, 0)
    time.sleep(SETTLED)

    def cached(at: loginonce.Session) -> None:
        for _ in range(2000):
            at.source.token()

    def opened(at: loginonce.Session) -> None:
        for _ in range(40):
            session(full if at is there else lone, 0).source.token()

    def renewed(at: loginonce.Session) -> None:
        for _ in range(5):
            at.source.renew()

    def signed_in_and_out(at: loginonce.Session) -> None:
        at.logout()
        at.login(tokens=provider.issue())

    what = {
        "the next token": cached,
        "a new session's first token": opened,
        "a refresh": renewed,
        "a log-out and a log-in": signed_in_and_out,
    }
    from measure import timed

    found = {
        name: ratio(pairs_of(lambda do=do: timed(lambda: do(there)), lambda do=do: timed(lambda: do(alone)), pairs))
        for name, do in what.items()
        for pairs in (bench.times(16, 4),)
    }
    worst = max(found, key=lambda name: found[name].cpu)
    note = "; ".join(f"{name} {each.cpu:.2f} ×" for name, each in found.items())
    yield Figure(
        "many-logins", f"{count:,} logins in one store, the worst operation", found[worst].cpu, 1.05,
        note=f"CPU; {note}",
    )  # fmt: skip


# ── side by side ─────────────────────────────────────────────────────────────────────────────────────────

STORMS = (2, 8)


@row
def peers(bench: Bench) -> Iterator[Figure]:
    """Each peer beside it: import, memory, one request, a new process, and N processes whose token has ended."""
    ways = [LOGINONCE] if bench.short else [LOGINONCE, *PEERS]
    for way in ways:
        standing = bench.standings[way.name] = Standing(way.name, cache=way.cache, why=way.missing)
        if standing.why:
            continue
        standing.version = way.version
        for name, measure in MEASURED.items():
            try:
                standing.figures[name] = measure(bench, way)
            except Exception as error:
                standing.why += f"{name}: {str(error)[:120]}; "
    storms(bench, [way for way in ways if not way.missing])
    ours = bench.standings[LOGINONCE.name]
    for storm in ours.storms:
        bench.require(storm.token_requests == 1, f"a storm of {storm.size}: {storm.token_requests} token requests")
        bench.require(storm.served == storm.signed_in_after == storm.size, f"a storm of {storm.size}: some failed")
        bench.require(storm.replays == storm.ended == 0, f"a storm of {storm.size}: {storm.replays} replays")
    for standing in bench.standings.values():
        for storm in standing.storms:
            note = f"{storm.replays:g} replays; ended in {storm.ended} of {storm.rounds}; served {storm.served:g}"
            what = f"{standing.name}, {storm.size} processes: token requests"
            yield Figure("peers", what, storm.token_requests, 1 if standing is ours else None, "", note=note)


def first_answer_of(bench: Bench, way: Way) -> float:
    """A new process with a saved login to its first answer, to plain requests by the same program."""
    ours, plain = (clients("first", bench.login(one), one.name, bench.provider.api) for one in (way, PLAIN))
    process(*ours)
    return ratio(pairs_of(lambda: process(*ours), lambda: process(*plain), bench.times(6, 2))).wall


def one_request_of(bench: Bench, way: Way) -> Ratio:
    """One request of it over a transport that does nothing."""
    return told(clients("null", bench.folder(), way.name, str(bench.times(16, 4)), bench.provider.issuer))


MEASURED: dict[str, Callable[[Bench, Way], float]] = {
    "import, CPU": lambda bench, way: importing(way.importing, bench.times(6, 2)).cpu,
    "memory, MB": lambda bench, way: more_memory(way.importing, bench.times(3, 1)),
    "one request, CPU": lambda bench, way: one_request_of(bench, way).cpu,
    "new process, wall": first_answer_of,
}


def storms(bench: Bench, ways: list[Way], sizes: tuple[int, ...] = STORMS) -> None:
    """Processes whose token has ended call together, each round with a new login."""
    provider = bench.provider
    rounds = bench.times(5, 2)
    for size in sizes:
        crowd = bench.herd(size)
        try:
            for way in ways:
                provider.answer_in(0.0)
                folders = [bench.login(way, first=1) for _ in range(rounds)]
                answers = crowd.ask("set_up", ways=[(way.name, folder) for folder in folders])
                if any(answers):
                    bench.standings[way.name].why += f"storm: {answers[0].get('message', '')[:120]}; "
                    continue
                time.sleep(1.05)  # until the provider, too, takes the token for ended
                provider.answer_in(ANSWER_TIME)
                bench.standings[way.name].storms.append(storm(bench, crowd, way, folders))
        finally:
            crowd.close()
            provider.answer_in(0.0)


def storm(bench: Bench, crowd: Crowd, way: Way, folders: list[str]) -> Storm:
    size = len(crowd.members)
    found = []
    for folder in folders:
        bench.provider.reset()
        given = {"name": way.name, "folder": folder, "url": bench.provider.api}
        answers = crowd.ask("get", **given, at=time.time() + 0.05)
        stats = bench.provider.stats()
        again = crowd.ask("get", **given)
        served, after = (sum(each.get("status") == 200 for each in one) for one in (answers, again))
        found.append((stats["token_requests"], stats["replays"], stats["families_ended"], served, after))
    requests, replays, ended, served, after = zip(*found, strict=True)
    return Storm(size, len(folders), median(requests), median(replays), sum(ended), median(served), median(after))
