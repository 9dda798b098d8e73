"""One run of the demo, from the provider's start to the verdict."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import LoginFailed
from ..testing import FakeProvider
from .crew import Crew
from .display import progress, result, tell
from .tally import Tally, expiries

__all__ = ["play"]

LATENCY = 0.1
"""Seconds that a token request takes, as it would over a real network."""


def play(*, workers: int, seconds: float, lifetime: float, without_lock: bool) -> int:
    """Run it; see `demo.show`."""
    with (
        tempfile.TemporaryDirectory(prefix="loginonce-demo-") as folder,
        FakeProvider(access_token_lifetime=lifetime, latency=LATENCY) as provider,
    ):
        tell(
            f"A provider runs at {provider.issuer}: access tokens live for {provider.expires_in:g} s, and a refresh "
            "token\nthat is used twice ends the login."
        )
        home = Path(folder)
        with Crew(workers, _environment(home), home) as crew:
            tell(f"{workers} processes are ready: {', '.join(str(worker.process.pid) for worker in crew)}")
            orders = _tokens_in_a_file(provider, home) if without_lock else _login(provider, home)
            orders["api"] = provider.api("/runs")
            issued_at = [event.time for event in provider.log if event.kind == "token"][-1:] or [time.time()]
            provider.reset_stats()
            crew.begin(orders)
            _watch(provider, crew, seconds)
            crew.finish()
            tally = _count(provider, crew, issued_at[0])
            trouble = crew.trouble()
    what = "each with its own copy of the tokens, and no lock" if without_lock else "one login"
    result(tally, title=f"{workers} processes, {what}")
    if trouble and not tally.holds:
        tell(f"The first complaint: {trouble}")
    return 0 if tally.holds else 1


def _environment(home: Path) -> dict[str, str]:
    """That of the children: a folder of their own for logins, and no way round by a proxy."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOGINONCE_")}
    return inherited | {"LOGINONCE_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _login(provider: FakeProvider, home: Path) -> dict[str, Any]:
    """Sign in as anybody would, in a terminal; the person who confirms it is the provider's scripted one."""
    command = [
        "loginonce", "login", "demo", "--issuer", provider.issuer, "--client-id", provider.public_client_id,
        "--scope", "openid offline_access", "--flow", "device",
    ]  # fmt: skip
    tell(f"$ {shlex.join(command)}")
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "loginonce.cli", *command[1:], "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(home),
        start_new_session=True,
    )
    event: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "pending":
                provider.approve(event["user_code"])
        process.wait(10)
    finally:
        process.kill()
        process.communicate()
    if event.get("event") != "signed_in":
        raise LoginFailed(f"the demo could not sign in: {event.get('message', 'its sign-in was silent')}")
    tell(f"Signed in as {event['name']}.  Now all of them work:")
    return {}


def _tokens_in_a_file(provider: FakeProvider, home: Path) -> dict[str, Any]:
    tokens = provider.issue()
    tokens["expires_at"] = time.time() + tokens["expires_in"]
    file = home / "tokens.json"
    file.write_text(json.dumps(tokens), "utf-8")
    file.chmod(0o600)
    tell("The tokens of one login are in a JSON file that all of them share.  Now they work:")
    return {
        "file": str(file),
        "token_endpoint": f"{provider.issuer}/token",
        "client_id": provider.public_client_id,
    }


def _watch(provider: FakeProvider, crew: Crew, seconds: float) -> None:
    """Show what happens, until the time is over or nobody is left."""
    begun = time.monotonic()
    with progress(seconds) as display:
        while True:
            elapsed = min(seconds, time.monotonic() - begun)
            stats = provider.stats
            display.show(elapsed, crew, stats.token_requests, stats.replays)
            if elapsed >= seconds or all(worker.ended for worker in crew):
                return
            time.sleep(0.1)


def _count(provider: FakeProvider, crew: Crew, issued_at: float) -> Tally:
    stats = provider.stats
    return Tally(
        workers=len(crew.workers),
        calls=stats.api_calls,
        expiries=expiries(
            issued_at, (event.time for event in provider.log if event.kind == "refresh"), provider.expires_in
        ),
        token_requests=stats.token_requests,
        replays=stats.replays,
        failures=sum(worker.report.failures for worker in crew),
        ended=sum(worker.ended for worker in crew),
    )
