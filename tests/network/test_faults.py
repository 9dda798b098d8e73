"""The network between a signed-in session and its provider, broken in every way: what the record says afterwards,
that the login is kept, how long anybody waits, and that the next good answer heals it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty import FAULTS, SEND, SLACK, WAIT, World

import loginonce
from loginonce.refresh import Policy
from loginonce.testing import FakeProvider, Fault

Make = Callable[..., World]
EXPIRED, STALE = -1.0, 20.0
PATIENCE = 10.0

QUICKLY = {"refused", "a silent hang", "busy, in seconds"}
"""What is run each time in the second table too; the rest of it is slow."""

each = pytest.mark.parametrize("fault", FAULTS)
some = pytest.mark.parametrize(
    "fault", [name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
those_that_hang = pytest.mark.parametrize("fault", [name for name, row in FAULTS.items() if row.hangs])


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    for worker in workers():
        worker.join(PATIENCE)
        assert not worker.is_alive()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loginonce-refresh"]


@each
@pytest.mark.hazard(1, 4, 8, 27, 32)
def test_a_fault_costs_no_login_and_the_next_good_answer_heals_it(world: Make, fault: str) -> None:
    broken = world(fault)
    broken.age(EXPIRED)
    before, began, clock = broken.grant, time.monotonic(), time.time()
    with pytest.raises(loginonce.TransportError) as caught:
        broken.call()
    assert time.monotonic() - began < SEND + SLACK
    after = broken.grant
    assert (after.state, after.failure and after.failure.kind) == (broken.row.state, broken.row.kind)
    assert after.failure is not None
    assert after.failure.not_before - clock >= broken.row.pause
    assert caught.value.retry_after == pytest.approx(after.failure.not_before - time.time(), abs=SLACK)
    assert after.refresh_token == before.refresh_token == "r-1"
    assert after.generation == before.generation
    assert (after.marker is not None) == (broken.row.state == "SPENDING")

    asked, began = broken.server.connections, time.monotonic()
    with pytest.raises(loginonce.TransportError):
        broken.call()
    assert time.monotonic() - began < SLACK
    assert broken.server.connections == asked  # nobody asks before its time

    broken.heal()
    broken.wait_out()
    assert broken.call() == 200
    assert broken.carried == "new"
    healed = broken.grant
    assert (healed.state, healed.generation) == ("ACTIVE", before.generation + 1)
    assert (healed.refresh_token, healed.marker, healed.failure) == ("r-2", None, None)


@some
@pytest.mark.hazard(8, 29)
def test_who_has_a_valid_token_does_not_notice(world: Make, fault: str) -> None:
    send = 4 * SEND  # in which a busy machine makes two calls
    broken = world(fault, send=send)
    broken.age(STALE)
    began = time.monotonic()
    assert broken.call() == 200
    assert broken.carried == "old"
    if broken.row.hangs:
        assert workers(), "the call came back after the fault, not during it"
        assert broken.call() == 200
        assert workers()
        assert time.monotonic() - began < send
    for worker in workers():
        worker.join(PATIENCE)
    assert broken.grant.failure is not None
    assert broken.call() == 200
    assert broken.carried == "old"


@those_that_hang
@pytest.mark.slow
@pytest.mark.hazard(8)
def test_many_threads_wait_no_longer_than_their_policy_says(world: Make, fault: str) -> None:
    broken = world(fault)
    broken.age(EXPIRED)

    def call(_: int) -> float:
        began = time.monotonic()
        with pytest.raises((loginonce.TransportError, loginonce.LockTimeout)):
            broken.call()
        return time.monotonic() - began

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(call, range(16))) < max(SEND, WAIT) + SLACK
    assert broken.server.connections <= 1


@pytest.mark.hazard(4, 25)
def test_a_redirect_of_the_token_end_point_takes_the_refresh_token_nowhere(world: Make) -> None:
    broken = world("a redirect")
    broken.age(EXPIRED)
    with pytest.raises(loginonce.TransportError):
        broken.call()
    assert broken.server.connections == 1
    assert broken.abroad.connections == 0


@pytest.mark.hazard(8)
def test_discovery_that_hangs_is_bounded_and_spends_nothing(
    fake_provider: FakeProvider, loginonce_home: object
) -> None:
    policy = Policy(send_timeout=SEND, wait_timeout=WAIT, refusal_wait=0.0)
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, policy=policy)
    session.login(tokens={**fake_provider.issue(), "expires_in": 0.001, "id_token": None})
    fake_provider.faults.add(Fault.delay(20.0), times=None, where="discovery")
    before, began = session.source.grant(), time.monotonic()
    with pytest.raises(loginonce.TransportError):
        session.get(fake_provider.api("/runs"))
    assert time.monotonic() - began < WAIT + SLACK
    assert fake_provider.stats.token_requests == 0
    after = session.source.grant()
    assert before is not None
    assert after is not None
    assert (after.state, after.refresh_token) == ("ACTIVE", before.refresh_token)


@pytest.mark.hazard(8, 32)
def test_an_outage_longer_than_many_retries_ends_no_login_as_long_as_nothing_was_sent(world: Make) -> None:
    broken = world("refused")
    broken.age(EXPIRED)
    pauses = []
    for _ in range(8):
        with pytest.raises(loginonce.TransportError) as caught:
            broken.call()
        pauses.append(caught.value.retry_after or 0.0)
        broken.wait_out()
    assert broken.grant.state == "ACTIVE"
    assert sorted(pauses[:7]) == pauses[:7]
    assert 60 <= pauses[-1] <= 75
    broken.heal()
    assert broken.call() == 200
