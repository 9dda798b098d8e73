"""Idle processes with `keep_fresh`: one of them renews, and no request waits for the provider.

The provider is strict: it rotates at every refresh, has no grace, and a replay would end the login.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import Crowd

import loginonce
from loginonce.testing import FakeProvider
from loginonce.watch import BEAT

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]


def generation(session: loginonce.Session) -> int:
    grant = session.source.grant()
    assert grant is not None
    return grant.generation


def test_one_of_the_idle_processes_renews_and_no_request_pays_for_it(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    crowd.fork(8)
    crowd.ask("keep_fresh")
    fake_provider.latency = 1.0
    age(owner, received=280, ends_in=20)
    until(lambda: generation(owner) == 1)
    answers = crowd.call_together(fake_provider.api("/runs"))
    assert [answer.get("status", answer) for answer in answers] == [200] * 8
    # The only one there was, and it was over before anybody asked.
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("life", "latency", "expiries"), [(1, 0.0, 8), (10, 0.5, 3)], ids=str)
def test_over_several_expiries_there_is_one_token_request_for_each_and_nobody_waits(
    fake_provider: FakeProvider,
    owner: loginonce.Session,
    gather: Gather,
    life: float,
    latency: float,
    expiries: int,
    record_property: Callable[[str, object], None],
) -> None:
    crowd = gather()
    crowd.fork(8)
    fake_provider.latency, fake_provider.access_token_lifetime = latency, life
    owner.login(tokens=fake_provider.issue())
    crowd.ask("keep_fresh")
    began, slow, longest = time.time(), [], 0.0
    fake_provider.reset_stats()
    while (round_began := time.time()) < began + life * expiries:
        answers = crowd.call_together(fake_provider.api("/runs"))
        assert [answer.get("status", answer) for answer in answers] == [200] * 8
        took = max(answer["seconds"] for answer in answers)
        slow += [(round_began, time.time())] if took >= latency else []
        longest = max(longest, took)
        time.sleep(0.1)
    stats = fake_provider.stats
    record_property("the longest request, in seconds", longest)
    record_property("token requests", stats.token_requests)
    assert stats.replays == stats.refusals == 0
    assert stats.token_requests == stats.refreshes
    # A token is renewed once a tenth of its life, at most, is left.
    assert expiries - 1 <= stats.token_requests <= expiries / 0.9 + 1
    if latency:  # and a tenth of its life is long enough for a machine that is busy
        # The machine may halt as long as a renewal takes, but not whenever there is one.
        asked = [event.time for event in fake_provider.log if event.kind == "token"]
        waited = [at for at in asked if any(begins < at + latency and at < ends for begins, ends in slow)]
        assert len(waited) < len(asked)
        assert stats.api_401 == 0


def test_a_log_out_is_told_once_to_all_that_listen(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, until: Until
) -> None:
    crowd = gather()
    first, *others = crowd.fork(6)
    crowd.ask("listen")
    began = time.time()
    first.ask("logout")
    until(lambda: all(answer["told"] for answer in crowd.ask("told")))
    for answer in crowd.ask("told"):
        ((at, kind),) = answer["told"]
        assert kind == "logout"
        assert at >= began
    assert BEAT <= 0.5  # seconds in which that is promised; what a busy machine adds is its own
    assert len(others) == 5


def test_a_new_login_anywhere_is_kept_fresh_by_those_that_had_given_up(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    crowd = gather()
    crowd.fork(3)
    crowd.ask("keep_fresh")
    owner.logout()
    time.sleep(0.4)
    owner.login(tokens=fake_provider.issue())
    fake_provider.reset_stats()
    age(owner, ends_in=-1)
    until(lambda: generation(owner) == 1)
    assert fake_provider.stats.token_requests == 1


@pytest.mark.slow
def test_a_process_that_was_suspended_beyond_the_end_renews_when_it_goes_on(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, until: Until
) -> None:
    fake_provider.access_token_lifetime = 2
    crowd = gather()
    (member,) = crowd.fork(1)
    owner.login(tokens=fake_provider.issue())
    member.ask("keep_fresh")
    with member.stopped():
        time.sleep(2.5)
        assert not fake_provider.stats.token_requests
    until(lambda: generation(owner) == 1)
    assert member.ask("call", url=fake_provider.api("/runs"))["status"] == 200
    assert fake_provider.stats.replays == 0


def test_a_forked_child_has_nothing_running_and_can_keep_the_login_fresh_itself(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, until: Until
) -> None:
    (member,) = gather().fork(1)
    member.ask("keep_fresh")
    member.ask("listen")
    child = member.ask("fork_keeping")
    try:
        assert child["inherited"] == ["MainThread"]
        age(owner, received=280, ends_in=20)
        until(lambda: generation(owner) == 1)
    finally:
        os.kill(child["pid"], signal.SIGKILL)
    assert fake_provider.stats.token_requests == 1


# ── the end of a program ─────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import time, loginonce
lab = loginonce.Session({issuer!r}, client_id={client_id!r})
{body}
print(time.time(), flush=True)
"""


def seconds_to_end(fake_provider: FakeProvider, home: Path, body: str) -> float:
    """How long a program takes to end after its last line."""
    code = PROGRAM.format(issuer=fake_provider.issuer, client_id=fake_provider.public_client_id, body=body)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "LOGINONCE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr == ""
    return time.time() - float(run.stdout)


def test_a_program_ends_at_once_although_it_keeps_fresh_and_listens(
    fake_provider: FakeProvider, owner: loginonce.Session, loginonce_home: Path
) -> None:
    beat = 30.0  # seconds between two looks, of which the end waits for none
    looking = f"import loginonce.watch; loginonce.watch.BEAT = {beat}"
    body = f"{looking}; lab.keep_fresh(); lab.on_change(print); time.sleep(0.1)"
    assert seconds_to_end(fake_provider, loginonce_home, body) < beat


def test_a_renewal_that_is_under_way_when_the_program_ends_is_saved(
    fake_provider: FakeProvider, owner: loginonce.Session, loginonce_home: Path, age: Age
) -> None:
    fake_provider.latency = 1.0
    age(owner, ends_in=-1)
    seconds_to_end(
        fake_provider,
        loginonce_home,
        "lab.keep_fresh()\nwhile lab.source.grant().state != 'SPENDING': time.sleep(0.005)",
    )
    assert generation(owner) == 1
    fake_provider.latency = 0.0
    assert owner.get(fake_provider.api("/runs")).status_code == 200
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


END = """
import atexit, dataclasses
def end_token():
    def ended(grant):
        tokens = tuple(dataclasses.replace(token, expires_at=time.time() - 1) for token in grant.tokens)
        return dataclasses.replace(grant, attempt=grant.attempt + 1, tokens=tokens)
    lab.source.change(ended)
    time.sleep(0.7)
atexit.register(end_token)
lab.keep_fresh()
"""


def test_nothing_is_begun_once_the_main_program_has_ended(
    fake_provider: FakeProvider, owner: loginonce.Session, loginonce_home: Path
) -> None:
    # What would be begun now could be cut off between the provider's answer and the saving of it.
    seconds_to_end(fake_provider, loginonce_home, END)
    assert owner.account.expires_at < time.time()
    assert fake_provider.stats.token_requests == 0
