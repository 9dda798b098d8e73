"""Processes killed and interrupted at each point of a refresh, before a real and strict authorization server.

The table is that of `tests/processes/ways.py`.  npm's oidc-provider rotates at each refresh, forgives nothing, and
ends the login and its access tokens when a refresh token comes twice; it counts the replays itself.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Person
from crowd import Crowd, Launcher
from trials import KILLS, Sent, trial
from ways import LOST, REFUSED, RENEWED, STRICT, WAITED, Column, Way

import loginonce
from loginonce.login.flow import Progress

if TYPE_CHECKING:
    from conftest import OidcProvider

SCOPE = "openid offline_access"


class RealStage:
    """npm's oidc-provider as a `trials.Stage`."""

    def __init__(self, provider: OidcProvider, person: Person) -> None:
        self.url = provider.api("runs")
        self._provider = provider
        self._person = person
        self._owner = loginonce.Session(provider.issuer, client_id=provider.client_id, scope=SCOPE)

    def sign_in(self) -> None:
        self._provider.configure(drop_token_answers=0)
        self._owner.login(flow="browser", force=True)
        self._provider.reset()

    def show(self, progress: Progress) -> None:
        """Ada agrees."""
        if progress.state == "pending" and progress.prompt is not None:
            self._person.open_authorization(progress.prompt.url)

    def expire(self) -> None:
        def ended(grant: loginonce.Grant | None) -> loginonce.Grant:
            assert grant is not None
            tokens = [replace(t, received_at=time.time() - 60, expires_at=time.time() - 1) for t in grant.tokens]
            return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

        self._owner.source.change(ended)

    def prepare(self, way: Way, column: Column, holder: Callable[[], None]) -> None:
        match way.name:
            case "refused":
                self._provider.end_session("ada")
            case "lost":
                self._provider.configure(drop_token_answers=1)
            case "waited":
                self._provider.configure(token_delay=1.5)  # until the other one has come to the lock
                holder()
                self._until("token_requests")

    def meanwhile(self, way: Way) -> None:
        """Nothing happens behind these ways."""

    def rotated(self) -> None:
        self._until("refreshes_ok")

    def _until(self, count: str) -> None:
        deadline = time.monotonic() + 10
        while not self._provider.stats()[count]:
            assert time.monotonic() < deadline, f"no {count}"
            time.sleep(0.005)

    def sent(self) -> Sent:
        stats = self._provider.stats()
        return Sent(stats["token_requests"], stats["replays"])


@pytest.fixture
def stage(
    oidc_provider: OidcProvider, person: Person, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> RealStage:
    stage = RealStage(oidc_provider, person)
    monkeypatch.setattr("loginonce.session.presenter_here", lambda *_: stage)
    return stage


def cells() -> Iterator[object]:
    """Each own point of the ways that this provider can be made to go."""
    for way in (RENEWED, REFUSED, LOST, WAITED):
        for point in way.own:
            for sign in (*KILLS, signal.SIGINT) if way is RENEWED else KILLS[:1]:
                yield pytest.param(way, point, sign, id=f"{way}-{point}-{sign.name}")


@pytest.mark.parametrize(("way", "point", "sign"), list(cells()))
def test_whoever_ends_at_a_point_leaves_to_the_others_what_the_point_says(
    stage: RealStage,
    oidc_provider: OidcProvider,
    launcher: Launcher,
    loginonce_home: Path,
    way: Way,
    point: str,
    sign: signal.Signals,
) -> None:
    crowd = Crowd(
        launcher,
        loginonce_home,
        issuer=oidc_provider.issuer,
        client_id=oidc_provider.client_id,
        scope=SCOPE,
        policy=STRICT.policy,
    )
    try:
        trial(stage, crowd, way, point, sign, STRICT)
    finally:
        crowd.close()
