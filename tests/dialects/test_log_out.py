"""Logging out at each provider: what is revoked, and where the browser ends the rest."""

from __future__ import annotations

import requests
from across import each_provider

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
