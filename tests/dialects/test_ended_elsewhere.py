"""A login that was ended at the provider: each says so in its own words, and each is asked once."""

from __future__ import annotations

import pytest
from across import Sessions, each_provider

import loginonce
from loginonce.errors import LoginRequired, TransportError
from loginonce.refresh import Policy
from loginonce.testing import FakeProvider


@each_provider("ended elsewhere")
def test_a_login_that_was_ended_elsewhere_asks_for_a_sign_in_after_one_question(
    fake: FakeProvider, session_of: Sessions, name: str
) -> None:
    session = session_of(name, policy=Policy(refusal_wait=0))
    session.login(tokens=fake.issue(scope=f"{session.settings.scope} offline_access"))
    fake.end_sessions("ada")
    for _ in range(3):
        with pytest.raises(LoginRequired) as required:
            session.source.renew()
        assert required.value.reason == "ended"
    assert (fake.stats.refusals, fake.stats.replays) == (1, 0)
    session_of(name).login(tokens=fake.issue())  # elsewhere; and it revives this one
    assert session.get(fake.api("/runs")).ok


@pytest.mark.parametrize("name", ["github", "supabase"])
def test_without_its_dialect_the_same_refusal_is_no_verdict(
    fake: FakeProvider, session_of: Sessions, name: str
) -> None:
    """The control: the words are the provider's own."""
    end_points = {
        "token_endpoint": f"{fake.issuer}/token",
        "authorization_endpoint": f"{fake.issuer}/authorize",
    }
    session = session_of("any", server=end_points, policy=Policy(refusal_wait=0))
    session.login(tokens=fake.issue())
    fake.end_sessions("ada")
    with pytest.raises(TransportError):
        session.source.renew()


def test_a_profile_can_say_an_unknown_providers_words(fake_provider_factory, loginonce_home) -> None:
    fake = fake_provider_factory(refusal="supabase")
    dialect = {"refusals": ["refresh_token_not_found"], "error_members": ["error_code"]}
    policy = Policy(refusal_wait=0)
    session = loginonce.Session(fake.issuer, client_id=fake.public_client_id, dialect=dialect, policy=policy)
    session.login(tokens=fake.issue())
    fake.end_sessions()
    with pytest.raises(LoginRequired) as required:
        session.source.renew()
    assert required.value.reason == "ended"
