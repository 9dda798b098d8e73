"""One worker: a process of its own that calls an API in a loop.

Its orders come as one line of JSON on stdin, when everybody is ready; the end of stdin ends it, also when the
demo itself has died.  What it did goes to stdout, one line of JSON after each call.  No token is in either.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import requests

from loginonce import LoginonceError, LoginRequired, Session
from loginonce.demo.naive import LoggedOutError, Naive
from loginonce.home import process_identity
from loginonce.model import fingerprint

__all__ = ["main"]

PAUSE = (0.05, 0.15)
"""Seconds between two calls, from and to."""


class _Way(NamedTuple):
    """A way to stay signed in: how to call, and what can be said of the token afterwards."""

    get: Callable[[str], requests.Response]
    look: Callable[[], tuple[str, str]]  # the token's fingerprint, and what the process is doing


def _with_loginonce() -> _Way:
    session = Session("demo")

    def look() -> tuple[str, str]:
        grant = session.source.grant()
        token = grant.token_for() if grant else None
        mine = grant is not None and grant.marker is not None and grant.marker.owner == process_identity()
        return token.fingerprint if token else "", "renewing" if mine else "working"

    return _Way(lambda url: session.get(url, timeout=10), look)


def _without(orders: dict[str, Any]) -> _Way:
    naive = Naive(orders["file"], orders["token_endpoint"], orders["client_id"])
    return _Way(naive.get, lambda: (fingerprint(naive.access_token), "working"))


def main() -> None:
    """Wait for orders, and work until stdin ends."""
    _tell(state="ready")
    line = sys.stdin.readline()
    if not line:
        return
    orders = json.loads(line)
    over = threading.Event()
    threading.Thread(target=_watch_stdin, args=(over,), daemon=True).start()
    way = _without(orders) if "file" in orders else _with_loginonce()
    calls = failures = expiries = 0
    token, state = "", "working"
    while not over.is_set():
        calls += 1
        try:
            failures += way.get(orders["api"]).status_code != 200
        except (LoginRequired, LoggedOutError):
            failures += 1
            _tell(state="logged out", calls=calls, failures=failures, token=token, expiries=expiries)
            return
        except (LoginonceError, requests.RequestException) as error:
            failures += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        previous = token
        token, state = way.look()
        expiries += bool(previous) and token != previous
        _tell(state=state, calls=calls, failures=failures, token=token, expiries=expiries)
        over.wait(random.uniform(*PAUSE))  # noqa: S311 - so that the workers are not in step
    _tell(state="done", calls=calls, failures=failures, token=token, expiries=expiries)


def _watch_stdin(over: threading.Event) -> None:
    while os.read(0, 1024):  # not by way of sys.stdin: a thread that waits there would hold up the exit
        pass
    over.set()


def _tell(**report: Any) -> None:
    try:
        print(json.dumps(report), flush=True)
    except BrokenPipeError:  # the demo has died, and nobody reads it
        os._exit(1)


if __name__ == "__main__":
    main()
