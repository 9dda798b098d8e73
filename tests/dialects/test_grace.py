"""A refresh token that comes again, at each provider: by its grace, beyond it, and after an answer that was lost."""

from __future__ import annotations

import time

import pytest
from across import Sessions, each_provider

import loginonce
from loginonce.errors import LoginRequired, TransportError
from loginonce.model import Grant
from loginonce.providers import known
from loginonce.testing import FakeProvider, Fault
from loginonce.wire import Granted, Refused, Reply


def spend(session: loginonce.Session, grant: Grant) -> Reply:
    """Send this record's refresh token, whatever became of it."""
    return session.source.provider.refresh(grant, resource="", for_scope="", budget=10)


@each_provider("grace")
def test_a_spent_refresh_token_is_good_for_what_the_provider_says(
    fake: FakeProvider, signed_in: loginonce.Session, name: str
) -> None:
    grant = signed_in.source.grant()
    assert grant is not None
    assert isinstance(spend(signed_in, grant), Granted)
    again = spend(signed_in, grant)
    grace = known(name).grace if fake.rotation else "forever"
    if grace == "none":
        assert isinstance(again, Refused), again
        return
    assert isinstance(again, Granted), again
    fake.advance(3600)
    later = spend(signed_in, grant)
    lasts = grace == "forever" or known(name).reuse_interval >= 3600
    assert isinstance(later, Granted if lasts else Refused), later


def lose_an_answer(fake: FakeProvider, session: loginonce.Session) -> None:
    """The provider has carried out the request, and its answer does not arrive; then wait as long as has to be."""
    session.login(tokens=fake.issue(scope=f"{session.settings.scope} offline_access"))
    fake.faults.add(Fault.drop_after())
    with pytest.raises(TransportError) as lost:
        session.source.renew()
    time.sleep((lost.value.retry_after or 0) + 0.05)


@pytest.mark.parametrize("name", ["google", "entra", "supabase"])
def test_where_a_spent_one_stays_good_a_lost_answer_costs_no_sign_in(
    fake: FakeProvider, session_of: Sessions, name: str
) -> None:
    session = session_of(name, policy={"lost": "login"})  # which would be asked for but for the dialect
    lose_an_answer(fake, session)
    session.source.renew()
    assert (fake.stats.replays, fake.stats.refusals) == (0, 0)


@pytest.mark.parametrize("name", ["okta"])
def test_where_operators_may_have_set_no_grace_none_is_counted_on(
    fake: FakeProvider, session_of: Sessions, name: str
) -> None:
    session = session_of(name, policy={"lost": "login"})
    lose_an_answer(fake, session)
    with pytest.raises(LoginRequired) as required:
        session.source.renew()
    assert required.value.reason == "lost"
    assert fake.stats.reuses == 0


@pytest.mark.parametrize("name", ["zitadel"])
def test_without_a_grace_a_lost_answer_costs_one_sign_in_and_one_replay(
    fake: FakeProvider, session_of: Sessions, name: str
) -> None:
    session = session_of(name, policy={"refusal_wait": 0})
    lose_an_answer(fake, session)
    for _ in range(2):
        with pytest.raises(LoginRequired):
            session.source.renew()
    assert fake.stats.replays == 1
