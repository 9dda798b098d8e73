"""Logging out at each provider: what is revoked, and where the browser ends the rest."""

from __future__ import annotations

import pytest
import requests
from across import Sessions, each_provider

import loginonce
from loginonce.providers import known
from loginonce.testing import FakeProvider


@each_provider("log out")
def test_a_log_out_revokes_what_can_be_revoked(fake: FakeProvider, signed_in: loginonce.Session, name: str) -> None:
    token = signed_in.source.token().access_token
    done = signed_in.logout()
    assert done.revoked == (fake.revocation == "ok")
    if known(name).revocation != "not verified":
        assert done.revoked == (known(name).revocation == "yes")
    answer = requests.get(fake.api("/runs"), headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.ok == (not done.revoked)


@each_provider("log out")
def test_the_address_that_ends_the_browsers_session_does_so_or_is_not_given(
    fake: FakeProvider, signed_in: loginonce.Session, name: str
) -> None:
    url = signed_in.logout().end_session_url
    assert bool(url) == (fake.end_session not in ("absent", "hint"))
    if url:
        assert "signed out" in requests.get(url, timeout=10).text


@pytest.mark.parametrize("name", ["auth0"])
def test_an_end_point_that_the_metadata_leaves_out_is_known_anyway(
    fake: FakeProvider, session: loginonce.Session
) -> None:
    fake.end_session = "absent"
    assert session.logout().end_session_url == f"{fake.issuer}/v2/logout?client_id={fake.public_client_id}"


@pytest.mark.parametrize("name", ["cognito"])
def test_cognito_comes_back_to_the_redirect_uri_that_was_said(fake: FakeProvider, session_of: Sessions) -> None:
    fake.redirect_uris = ("http://localhost:9000/",)
    url = session_of("cognito", redirect_uri="http://localhost:9000/").logout().end_session_url
    assert "signed out" in requests.get(url, timeout=10).text
