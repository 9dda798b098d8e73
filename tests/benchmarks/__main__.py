"""The benchmark: `pip install -e '.[benchmark]' && python tests/benchmarks`.

    --list          what there is
    --only NAME     one row, or several
    --short         a minute or so, without peers; what `.ci/run` runs
    --seconds N     how long the eight processes call (default 60)
    --into FOLDER   figures.json and figures.svg go there
    --write         they go beside this file, and the tables into the README

It ends with 1 where something that must hold did not; whether a target is met does not change how it ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import figures
from loopback import Loopback
from rows import ROWS, Bench, Figure


def main() -> int:
    parser = argparse.ArgumentParser("python tests/benchmarks", description="loginonce beside requests and its peers")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--only", action="append", choices=[*ROWS], metavar="NAME", help="this row; may be repeated")
    parser.add_argument("--short", action="store_true", help="a minute or so, without peers")
    parser.add_argument("--seconds", type=float, help="how long the eight processes call (default 60; short: 6)")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="write figures.json and figures.svg there")
    parser.add_argument("--write", action="store_true", help="write them beside this file, and the README's tables")
    given = parser.parse_args()
    if given.list:
        for name, row in ROWS.items():
            print(f"{name:<14} {(row.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if given.write and (given.only or given.short):
        parser.error("--write takes a whole run: without --only and --short")
    seconds = given.seconds or (6.0 if given.short else 60.0)
    began = time.monotonic()
    found: list[Figure] = []
    prepare()
    with tempfile.TemporaryDirectory(prefix="loginonce-bench-") as folder, Loopback() as provider:
        bench = Bench(provider, Path(folder), short=given.short, seconds=seconds)
        print(f"load {bench.load:.1f} on {os.cpu_count()} cores; files in {folder}\n")
        print(f"{'what':<52} {'measured':>10}  {'target':<11}", flush=True)
        try:
            for name in given.only or ROWS:
                try:
                    for figure in ROWS[name](bench):
                        found.append(figure)
                        print(figures.line(figure), flush=True)
                except Exception as error:
                    traceback.print_exc()
                    bench.require(holds=False, otherwise=f"{name}: {type(error).__name__}: {error}")
        finally:
            bench.end()
        print()
        if bench.standings:
            print("\n".join(figures.beside(list(bench.standings.values()))), end="\n\n")
        if (given.write or given.into) and bench.wrong:
            print("nothing is written: something that must hold did not")
        elif given.write or given.into:
            for path in figures.save(bench, found, into=given.into):
                print(f"written: {path}")
    missed = [figure.what for figure in found if figure.met is False]
    print(f"{time.monotonic() - began:.0f} s; load {os.getloadavg()[0]:.1f}; targets missed: {len(missed)}")
    for wrong in bench.wrong:
        print(f"must not be: {wrong}", file=sys.stderr)
    return 1 if bench.wrong else 0


KEPT = {"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT", "TMPDIR", "USER", "VIRTUAL_ENV"}


def prepare() -> None:
    """Surroundings in which all are measured alike, today and elsewhere.

    A small environment: requests goes through all of its variables twice for each request (for proxies), so the
    more there are the better looks whoever does that less often.  Bytecode is written, else each start compiles.
    """
    for name in os.environ.keys() - KEPT:
        del os.environ[name]
    sys.dont_write_bytecode = False
    warnings.simplefilter("ignore")  # peers'


if __name__ == "__main__":
    sys.exit(main())
