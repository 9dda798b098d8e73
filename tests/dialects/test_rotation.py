"""What a renewal does to the refresh token, at each provider."""

from __future__ import annotations

from across import each_provider

import loginonce
from loginonce.model import Grant
from loginonce.providers import known
from loginonce.testing import FakeProvider


def grant_of(session: loginonce.Session) -> Grant:
    grant = session.source.grant()
    assert grant is not None
    return grant


@each_provider("rotation")
def test_a_refresh_token_is_replaced_where_the_provider_replaces_it_and_kept_elsewhere(
    fake: FakeProvider, signed_in: loginonce.Session, name: str
) -> None:
    tokens = [grant_of(signed_in).spendable]
    for _ in range(3):
        signed_in.source.renew()
        tokens.append(grant_of(signed_in).spendable)
    rotates = {"always": True, "never": False}.get(known(name).rotation, fake.rotation)
    assert len(set(tokens)) == (4 if rotates else 1)
    assert (fake.stats.refreshes, fake.stats.reuses, fake.stats.replays) == (3, 0, 0)
