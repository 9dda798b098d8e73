"""How something is compared with something else on a machine that is never quiet.

Both are measured in turns, A B B A A B B A: what changes slowly (heat, other programs) falls on both alike.  The
figure is the median of the ratios of neighbours; the quartiles say how much to believe it.  CPU time stands beside
wall time, and where valgrind is installed its callgrind counts instructions, which no other program can change.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = ["Cost", "Ratio", "instructions", "memory_of", "pairs_of", "process", "ratio", "timed", "turns"]


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    wall: float
    cpu: float = math.nan


@dataclass(frozen=True)
class Ratio:
    """Medians of pairwise ratios, and the quartiles of `wall`."""

    wall: float
    cpu: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        cpu = "" if math.isnan(self.cpu) else f"; CPU {self.cpu:.3f} ×"
        return f"wall {self.wall:.3f} × ({self.low:.2f} to {self.high:.2f} in {self.pairs} pairs){cpu}"


def turns(pairs: int) -> Iterable[str]:
    """A B B A A B B A …"""
    for number in range(pairs):
        yield from ("ab", "ba")[number % 2]


def pairs_of(a: Callable[[], Cost], b: Callable[[], Cost], pairs: int) -> list[tuple[Cost, Cost]]:
    """Costs of `a` and `b`, measured in turns."""
    order = list(turns(pairs))
    found: list[tuple[Cost, Cost]] = []
    for first, second in zip(order[::2], order[1::2], strict=True):
        costs = {which: (a if which == "a" else b)() for which in (first, second)}
        found.append((costs["a"], costs["b"]))
    return found


def ratio(pairs: Sequence[tuple[Cost, Cost]]) -> Ratio:
    """What `a` costs in units of `b`."""
    walls = [a.wall / b.wall for a, b in pairs]
    low, _, high = quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls * 3
    return Ratio(median(walls), median([a.cpu / b.cpu for a, b in pairs]), low, high, len(pairs))


def timed(what: Callable[[], object]) -> Cost:
    """What it costs this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def process(*arguments: str) -> Cost:
    """What a whole process costs, from its start to its end; it must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def memory_of(code: str) -> float:
    """The most memory (MB, resident) that Python ever has while it runs this."""
    # By VmHWM: getrusage counts what the parent had before the exec.
    code += "; import re; print(re.search(r'VmHWM:\\s+([0-9]+)', open('/proc/self/status').read())[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def instructions(*commands: Sequence[str]) -> list[int] | None:
    """How many each command takes, as callgrind counts them, or None where it is not installed or cannot run."""
    if shutil.which("valgrind") is None:
        return None

    def count(command: Sequence[str]) -> int:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=False,
        )
        found = re.search(r"Collected : ([0-9]+)", done.stderr)
        return int(found[1]) if found and done.returncode == 0 else 0

    with ThreadPoolExecutor(2) as pool:
        counted = list(pool.map(count, commands))
    return counted if all(counted) else None
