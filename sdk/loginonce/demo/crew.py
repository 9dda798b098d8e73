"""The workers, seen from the demo: started, told to begin, listened to, ended by their ids."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Crew", "Worker"]

START = 30.0
"""Seconds in which all workers have to be there; one that is late begins late."""

PATIENCE = 8.0
"""Seconds in which a worker that has been told to end has to; a refresh under way is finished first."""


@dataclass(frozen=True, slots=True)
class Report:
    """The latest word of a worker; `token` is a fingerprint."""

    state: str = "starting"
    calls: int = 0
    failures: int = 0
    token: str = ""
    expiries: int = 0


@dataclass(eq=False)
class Worker:
    """One process."""

    number: int
    process: subprocess.Popen[str]
    report: Report = field(default_factory=Report)

    @property
    def standing_by(self) -> bool:
        """Whether it waits for orders (or never will)."""
        return self.report.state == "ready" or self.process.poll() is not None

    @property
    def ended(self) -> bool:
        """Whether it has stopped before its time: logged out, or crashed."""
        return self.report.state == "logged out" or (self.process.poll() is not None and self.report.state != "done")

    @property
    def state(self) -> str:
        """What it is doing, for people."""
        return self.report.state if not self.ended or self.report.state == "logged out" else "crashed"

    def listen(self) -> None:
        """Take its reports until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.report = Report(**json.loads(line))


class Crew:
    """All workers.  A context manager: however it is left, no worker is there afterwards."""

    def __init__(self, count: int, environment: Mapping[str, str], folder: Path) -> None:
        self._count = count
        self._environment = dict(environment)
        self._folder = folder
        self._listeners: list[threading.Thread] = []
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        """Start them; they wait for orders."""
        try:
            for number in range(1, self._count + 1):
                self._start(number)
            deadline = time.monotonic() + START
            while time.monotonic() < deadline and not all(worker.standing_by for worker in self):
                time.sleep(0.02)
        except BaseException:
            self._end(patience=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them; at once if something went wrong."""
        self._end(patience=PATIENCE if kind is None else 0.5)

    def __iter__(self) -> Iterator[Worker]:
        """Each worker."""
        return iter(self.workers)

    def begin(self, orders: Mapping[str, Any]) -> None:
        """Let them all go."""
        for worker in self.workers:
            self._tell(worker, json.dumps(orders) + "\n")

    def finish(self) -> None:
        """Let them come to an end, and hear their last reports."""
        self._end(patience=PATIENCE)

    def trouble(self) -> str:
        """What a worker last complained of, if any did."""
        for path in sorted(self._folder.glob("worker-*.log")):
            if lines := path.read_text("utf-8", "replace").strip().splitlines():
                return f"{path.stem}: {lines[-1]}"
        return ""

    def _start(self, number: int) -> None:
        with (self._folder / f"worker-{number}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loginonce.demo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the demo alone, which ends them in order
            )
        worker = Worker(number, process)
        self.workers.append(worker)
        listener = threading.Thread(target=worker.listen, name=f"worker-{number}", daemon=True)
        listener.start()
        self._listeners.append(listener)

    @staticmethod
    def _tell(worker: Worker, line: str | None) -> None:
        """Send a line to its stdin, or close it."""
        stdin = worker.process.stdin
        assert stdin is not None
        try:
            if line is None:
                stdin.close()
            else:
                stdin.write(line)
                stdin.flush()
        except OSError:
            pass  # it has ended already, which its state tells

    def _end(self, patience: float) -> None:
        for worker in self.workers:
            self._tell(worker, None)
        deadline = time.monotonic() + patience
        for worker in self.workers:
            _await(worker.process, deadline)
        for worker, listener in zip(self.workers, self._listeners, strict=False):
            listener.join(2.0)
            assert worker.process.stdout is not None
            worker.process.stdout.close()


def _await(process: subprocess.Popen[str], deadline: float) -> None:
    """Wait for its end, and bring it about after the deadline."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
