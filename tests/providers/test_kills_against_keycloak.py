"""Processes killed and interrupted at the dangerous points of a refresh, before Keycloak.

The table is that of `tests/processes/ways.py`; all its points are tried against npm's oidc-provider.  Here it is those
around which the record or Keycloak's view of the refresh token changes.  Keycloak counts what it is sent itself.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crowd import Crowd
from trials import Sent, trial
from ways import LOST, REFUSED, RENEWED, STRICT, WAITED, Column, Way

import loginonce

if TYPE_CHECKING:
    from keycloak import Keycloak
    from relay import Relay

SCOPE = "openid profile email"
KILLED = (
    (RENEWED, "mark.Write:written"),
    (RENEWED, "mark.Write:renamed"),
    (RENEWED, "send.Send:before"),
    (RENEWED, "send.Send:connected"),
    (RENEWED, "send.Send:sent"),
    (RENEWED, "send.Send:answered"),
    (RENEWED, "save.Write:flocked"),
    (RENEWED, "save.Write:written"),
    (RENEWED, "save.Write:renamed"),
    (RENEWED, "release.Release:after"),
    (REFUSED, "verify.Wait:before"),
    (REFUSED, "settle.Write:written"),
    (REFUSED, "settle.Write:renamed"),
    (LOST, "send.Send:after"),
    (LOST, "settle.Write:renamed"),
    (WAITED, "wait.Wait:before"),
)
INTERRUPTED = (
    (RENEWED, "send.Send:connected"),
    (RENEWED, "send.Send:sent"),
    (RENEWED, "send.Send:answered"),
    (RENEWED, "save.Write:written"),
)


class KeycloakStage:
    """Keycloak as a `trials.Stage`."""

    def __init__(self, keycloak: Keycloak, relay: Relay) -> None:
        self.url = keycloak.api
        self._keycloak = keycloak
        self._relay = relay
        self._owner = loginonce.Session(keycloak.issuer, client_id=keycloak.client_id, scope=SCOPE)

    def sign_in(self) -> None:
        self._relay.lose, self._relay.hold = 0, 0.0
        self._owner.login(username=self._keycloak.username, password=self._keycloak.password, force=True)
        self._keycloak.reset()

    def expire(self) -> None:
        def ended(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            tokens = [replace(t, received_at=time.time() - 60, expires_at=time.time() - 1) for t in grant.tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        self._owner.source.change(ended)

    def prepare(self, way: Way, column: Column, holder: Callable[[], None]) -> None:
        match way.name:
            case "refused":
                self._keycloak.log_out()
            case "lost":
                self._relay.lose = 1
            case "waited":
                self._relay.hold = 1.5  # until the other one has come to the lock
                before = self._relay.refreshes
                holder()
                self._until(lambda: self._relay.refreshes > before)

    def meanwhile(self, way: Way) -> None:
        """Nothing happens behind these ways."""

    def rotated(self) -> None:
        self._until(lambda: self._keycloak.sent()["refreshes_ok"] > 0)

    def _until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def sent(self) -> Sent:
        sent = self._keycloak.sent()
        return Sent(sent["token_requests"], sent["replays"])


@pytest.fixture
def stage(relayed_keycloak: Keycloak, relay: Relay, loginonce_home: Path) -> KeycloakStage:
    return KeycloakStage(relayed_keycloak, relay)


def cells() -> Iterator[object]:
    for points, sign in ((KILLED, signal.SIGKILL), (INTERRUPTED, signal.SIGINT)):
        for way, point in points:
            yield pytest.param(way, point, sign, id=f"{way}-{point}-{sign.name}")


@pytest.mark.parametrize(("way", "point", "sign"), list(cells()))
def test_whoever_ends_at_a_dangerous_point_leaves_to_the_others_what_the_point_says(
    stage: KeycloakStage,
    relayed_keycloak: Keycloak,
    crowd_at: Callable[..., Crowd],
    way: Way,
    point: str,
    sign: signal.Signals,
) -> None:
    crowd = crowd_at(
        issuer=relayed_keycloak.issuer, client_id=relayed_keycloak.client_id, scope=SCOPE, policy=STRICT.policy
    )
    trial(stage, crowd, way, point, sign, STRICT)
