"""Signing in at each provider: what it wants to be asked, where the browser comes back, and who it is then."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from across import Seen, Sessions, SignIn, each_provider

import loginonce
from loginonce.errors import ConfigurationError, ProtocolError
from loginonce.providers import known, names
from loginonce.testing import FakeProvider, PageRefusedError


@each_provider("sign in")
def test_a_browser_sign_in_brings_a_login_that_renews_itself(
    fake: FakeProvider, session: loginonce.Session, by_browser: SignIn
) -> None:
    account = by_browser(session)
    assert (account.subject, account.renews) == ("ada", True)
    assert account.name == ("Ada Lovelace" if "profile" in session.settings.scope or account.claims else "")
    assert session.get(fake.api("/runs")).json()["subject"] == "ada"
    assert any(event.kind == "discovery" for event in fake.log) == fake.metadata


@each_provider("sign in", among=["google", "github", "any"])
def test_a_device_sign_in_does_too(fake: FakeProvider, session: loginonce.Session, seen: Seen) -> None:
    sign_in = session.login("device", wait=False, presenter=seen)
    prompt = seen.prompt()
    assert prompt.url.endswith("/device")
    fake.approve(prompt.user_code)
    assert sign_in.wait().renews


@each_provider("sign in", among=[name for name in names() if known(name).device == "no"])
def test_where_there_are_no_device_codes_none_are_asked_for(
    fake: FakeProvider, session: loginonce.Session, seen: Seen
) -> None:
    with pytest.raises(ConfigurationError, match="device_authorization_endpoint"):
        session.login("device", presenter=seen)


@pytest.mark.parametrize("name", ["google", "authentik"])
def test_without_its_dialect_the_same_sign_in_brings_no_refresh_token(
    fake: FakeProvider, session_of: Sessions, by_browser: SignIn
) -> None:
    """A control, as the next two: the fake provider has its quirks, and it is the dialect that knows them."""
    assert not by_browser(session_of("any", redirect_uri=fake.redirect_uris[0])).renews


@pytest.mark.parametrize("name", ["spotify", "github"])
def test_without_its_dialect_its_end_points_are_not_found(session_of: Sessions, by_browser: SignIn) -> None:
    with pytest.raises(ProtocolError, match="publishes no"):
        by_browser(session_of("any", server={}))


@pytest.mark.parametrize("name", ["entra", "auth0", "dex", "supabase"])
def test_without_its_dialect_the_browser_would_come_back_where_it_may_not(
    session_of: Sessions, by_browser: SignIn
) -> None:
    with pytest.raises(PageRefusedError):
        by_browser(session_of("any"))


@each_provider("sign in")
def test_offline_access_can_be_written_in_the_scope_of_any_provider(
    session_of: Sessions, by_browser: SignIn, name: str
) -> None:
    """Where it is not a scope it is asked for in the provider's own way, or comes anyway."""
    session = session_of(name, scope=f"{known(name).scope} offline_access".strip())
    assert by_browser(session).renews
    session.source.renew()  # and what was asked for is taken to be there


def asked(session: loginonce.Session, seen: Seen) -> dict[str, str]:
    sign_in = session.login("paste", wait=False, presenter=seen)
    query = parse_qs(urlsplit(seen.prompt().url).query)
    sign_in.cancel()
    return {name: value for name, (value,) in query.items()}


@pytest.mark.parametrize("name", ["google"])
def test_google_is_asked_for_offline_access_and_consent(session: loginonce.Session, seen: Seen) -> None:
    query = asked(session, seen)
    assert (query["access_type"], query["prompt"]) == ("offline", "consent")


@pytest.mark.parametrize("name", ["any", "entra"])
def test_consent_is_asked_for_with_offline_access_unless_the_provider_would_take_it_amiss(
    session_of: Sessions, seen: Seen, name: str
) -> None:
    query = asked(session_of(name, scope="openid offline_access"), seen)
    assert query.get("prompt") == {"any": "consent"}.get(name)


@pytest.mark.parametrize("name", ["auth0"])
def test_auth0_is_told_the_audience(fake: FakeProvider, session_of: Sessions, by_browser: SignIn) -> None:
    session = session_of("auth0", resource="https://api.example.org")
    by_browser(session)
    assert session.get(fake.api("/runs")).json()["resource"] == "https://api.example.org"
    session.source.renew()
    assert session.get(fake.api("/runs")).json()["resource"] == "https://api.example.org"
