"""A process of a herd: what `tests/processes/member.py` does, and each of the ways of `clients`.

python herd.py launcher FD    forks a member for every socket that it is sent
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))  # where `member` is

import member
import requests
from clients import LOGINONCE, WAYS, Get, read
from requests.adapters import HTTPAdapter

import loginonce

PATIENCE = 60.0  # seconds for one answer
ON_DISK = ("fsync", "ftruncate", "posix_fallocate", "replace")
"""The calls of `os` that wait for the disk's journal."""


class Animal(member.Member):
    """One process, with any number of sessions; each is known by its way and its folder."""

    def __init__(self) -> None:
        super().__init__()
        self._gets: dict[tuple[str, str], Get] = {}
        self._sessions: dict[str, loginonce.Session] = {}
        self._pool: ThreadPoolExecutor | None = None

    def do_open(self, home: str) -> dict[str, Any]:
        """Nothing yet: each way has a folder of its own."""
        return {}

    def do_set_up(self, ways: list[tuple[str, str]], threads: int = 0) -> dict[str, Any]:
        """Open these ways, each (name, folder), for so many threads."""
        for name, folder in ways:
            session, self._gets[name, folder] = WAYS[name].open(folder)
            if threads:
                session.mount("http://", HTTPAdapter(pool_maxsize=threads))
            if name == LOGINONCE.name:
                self._sessions[folder] = session
        if threads:
            self._pool = ThreadPoolExecutor(threads)
        return {}

    def do_save(self, name: str, folder: str, login: dict[str, Any]) -> dict[str, Any]:
        """Put a login where this way looks for it."""
        WAYS[name].save(folder, login)
        return {}

    def do_get(self, name: str, folder: str, url: str, at: float = 0.0) -> dict[str, Any]:
        """One GET that begins at that moment; its status, when it was over (POSIX seconds), and its CPU (s)."""
        time.sleep(max(0.0, at - time.time()))
        cpu = time.process_time()
        status = self._gets[name, folder](url, timeout=PATIENCE).status_code
        return {"status": status, "over": time.time(), "cpu": time.process_time() - cpu}

    def do_get_in_threads(self, name: str, folder: str, url: str, threads: int, at: float = 0.0) -> dict[str, Any]:
        """The same in so many threads that share one session; when the last was over."""
        assert self._pool is not None
        answers = list(self._pool.map(lambda _: self.do_get(name, folder, url, at), range(threads)))
        return {"statuses": [answer["status"] for answer in answers], "over": max(a["over"] for a in answers)}

    def do_round_trip(self, folder: str) -> dict[str, Any]:
        """One token request as a program without any library sends it, and what it takes to save its answer safely."""
        login = read(folder)
        form = {"grant_type": "refresh_token", "client_id": login["client_id"]}
        began, cpu = time.perf_counter(), time.process_time()
        answer = requests.post(
            login["token_endpoint"],
            data={**form, "refresh_token": login["answer"]["refresh_token"]},
            timeout=PATIENCE,
        ).json()
        spent = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        began = time.perf_counter()
        following = os.path.join(folder, "login.next")
        with open(following, "w") as file:
            json.dump({**login, "answer": answer}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(following, os.path.join(folder, "login.json"))
        directory = os.open(folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        return {**spent, "disk": time.perf_counter() - began}

    def do_renew(self, folder: str) -> dict[str, Any]:
        """One renewal, from asking for it to having the new token: seconds of it, on the disk, and of CPU."""
        on_disk: list[float] = []

        def timed(call: Callable[..., Any]) -> Callable[..., Any]:
            def timing(*given: Any, **named: Any) -> Any:
                began = time.perf_counter()
                try:
                    return call(*given, **named)
                finally:
                    on_disk.append(time.perf_counter() - began)

            return timing

        calls = {name: getattr(os, name) for name in ON_DISK if hasattr(os, name)}
        for name, call in calls.items():
            setattr(os, name, timed(call))
        try:
            began, cpu = time.perf_counter(), time.process_time()
            self._sessions[folder].source.renew()
            ended = time.perf_counter()
            return {"seconds": ended - began, "disk": sum(on_disk), "cpu": time.process_time() - cpu}
        finally:
            for name, call in calls.items():
                setattr(os, name, call)

    def do_age(self, folder: str, received: float, ends_in: float) -> dict[str, Any]:
        """Let the access token have been received so many seconds ago, and end in so many; returns when it ends."""
        ends_at = time.time() + ends_in

        def older(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            tokens = [replace(t, received_at=time.time() - received, expires_at=ends_at) for t in grant.tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        self._sessions[folder].source.change(older)
        return {"ends_at": ends_at}

    def do_hurry(self, name: str, folder: str, url: str, at: float, seconds: float) -> dict[str, Any]:
        """GET after GET, for that long from that moment on: how many µs each took, what failed, and the CPU (s)."""
        get, took, failures = self._gets[name, folder], [], []
        time.sleep(max(0.0, at - time.time()))
        now, cpu = time.perf_counter(), time.process_time()
        end = now + seconds
        while now < end:
            began = now
            try:
                status = get(url, timeout=PATIENCE).status_code
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")
            else:
                failures += [f"status {status}"] * (status != 200)
            now = time.perf_counter()
            took.append(round((now - began) * 1e6))
        return {"took": took, "failures": failures, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    member.launch(socket.socket(fileno=int(sys.argv[2])), Animal)
