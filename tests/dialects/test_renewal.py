"""Renewing at each provider: one request, and the API takes what comes of it."""

from __future__ import annotations

from across import each_provider

import loginonce
from loginonce.testing import FakeProvider


@each_provider("refresh")
def test_a_renewal_is_one_request_and_brings_a_token_that_the_api_takes(
    fake: FakeProvider, signed_in: loginonce.Session
) -> None:
    before = signed_in.source.token()
    after = signed_in.source.renew()
    assert after.fingerprint != before.fingerprint
    assert signed_in.get(fake.api("/runs")).json()["subject"] == "ada"
    assert (fake.stats.refreshes, fake.stats.refusals) == (1, 0)
