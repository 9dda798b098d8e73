"""`Session` against a real authorization server: npm's oidc-provider, which is as strict as they come.

The client is public, so every refresh rotates; there is no grace; a refresh token that comes twice ends the login
and its access tokens.  What was sent is counted by the server (`oidc_provider.stats()`), not by us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from browser import Person
from crowd import Crowd
from desk import AtTheScreen, ends_at, let_pass, received_at, statuses

import loginonce
from loginonce import LoginFailed, LoginRequired
from loginonce.login import signin
from loginonce.login.device import DeviceFlow
from loginonce.login.flow import Prompt

if TYPE_CHECKING:
    from conftest import OidcProvider

SCOPE = "openid profile email offline_access"
Gather = Callable[..., Crowd]
SHORT = 2  # seconds; the server counts in whole ones, so a token of one second may be dead when it arrives


@pytest.fixture
def lab(oidc_provider: OidcProvider, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session that nobody has signed in to."""
    with loginonce.Session(oidc_provider.issuer, client_id=oidc_provider.client_id, scope=SCOPE) as session:
        yield session


@pytest.fixture
def gather(oidc_provider: OidcProvider, crowd_at: Callable[..., Crowd]) -> Gather:
    """Processes that share the login."""
    return partial(crowd_at, issuer=oidc_provider.issuer, client_id=oidc_provider.client_id, scope=SCOPE)


def sent(provider: OidcProvider) -> dict[str, int]:
    """What the token end point saw since the last reset."""
    stats = provider.stats()
    return {name: stats[name] for name in ("token_requests", "refreshes_ok", "refusals", "replays")}


ONE = {"token_requests": 1, "refreshes_ok": 1, "refusals": 0, "replays": 0}
NONE = {"token_requests": 0, "refreshes_ok": 0, "refusals": 0, "replays": 0}


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("any", "sign in")
def test_a_person_signs_in_with_a_browser(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    account = lab.login(flow="browser")
    assert (account.subject, account.name, account.renews) == ("ada", "Ada", True)  # the name is at userinfo only
    answer = lab.post(oidc_provider.api("runs"), data=b"abc").json()
    assert (answer["subject"], answer["client_id"], answer["bytes"]) == ("ada", "notebook", 3)
    assert "offline_access" in answer["scope"]


def test_a_person_who_refuses_is_not_signed_in(lab: loginonce.Session, screen: AtTheScreen, person: Person) -> None:
    screen.act = lambda prompt: person.deny_authorization(prompt.url)
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="browser")
    assert caught.value.outcome == "denied"
    assert lab.account is None


def test_an_address_can_be_pasted(
    lab: loginonce.Session, screen: AtTheScreen, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Prompt] = []
    screen.act = shown.append
    monkeypatch.setattr(signin.getpass, "getpass", lambda _="": person.open_authorization(shown[0].url, follow=False))
    assert lab.login(flow="paste").name == "Ada"


def test_a_device_code_signs_in(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    screen.act = lambda prompt: person.approve_device(prompt.url, prompt.user_code)
    account = lab.login(flow="device")
    assert (account.subject, account.name, account.renews) == ("ada", "Ada", True)
    assert lab.get(oidc_provider.api()).status_code == 200


def test_a_person_who_takes_time_with_a_device_code_is_waited_for(
    oidc_provider: OidcProvider, lab: loginonce.Session, person: Person
) -> None:
    flow = DeviceFlow(lab.source.provider, SCOPE)
    prompt = flow.begin()
    waits: list[float] = []

    def wait(seconds: float, *, trouble: str = "") -> None:
        waits.append(seconds)
        if len(waits) == 3:
            person.approve_device(prompt.url_complete, prompt.user_code)

    assert flow.finish(wait).claims["sub"] == "ada"
    assert waits == [5, 5, 5]  # the provider names no interval
    assert oidc_provider.stats()["token_requests"] == 3


def test_a_denied_device_code_is_a_login_that_failed(
    oidc_provider: OidcProvider, lab: loginonce.Session, person: Person
) -> None:
    flow = DeviceFlow(lab.source.provider, SCOPE)
    prompt = flow.begin()
    with pytest.raises(LoginFailed) as caught:
        flow.finish(lambda *_, **__: person.deny_device(prompt.url, prompt.user_code))
    assert caught.value.outcome == "denied"
    assert oidc_provider.stats()["token_requests"] == 1


def test_a_device_code_that_ran_out_is_a_login_that_failed(oidc_provider: OidcProvider, lab: loginonce.Session) -> None:
    oidc_provider.configure(device_code_ttl=1)
    flow = DeviceFlow(lab.source.provider, SCOPE)
    flow.begin()
    with pytest.raises(LoginFailed) as caught:
        flow.finish(lambda seconds, **_: time.sleep(min(seconds, 1.01)))
    assert caught.value.outcome == "timed_out"


def test_a_service_uses_its_own_secret(oidc_provider: OidcProvider, loginonce_home: Path) -> None:
    service = loginonce.Session(
        oidc_provider.issuer,
        client_id=oidc_provider.service_client_id,
        client_secret=oidc_provider.service_client_secret,
        grant="client_credentials",
    )
    assert [service.get(oidc_provider.api()).json()["subject"] for _ in range(3)] == ["service"] * 3
    assert oidc_provider.stats()["token_requests"] == 1


# ── staying signed in ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("any", "refresh", "rotation")
def test_a_login_outlives_five_expiries(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    oidc_provider.configure(access_token_ttl=SHORT)
    lab.login(flow="browser")
    oidc_provider.reset()
    spent = set()
    for _ in range(5):
        grant = lab.source.grant()
        assert grant is not None
        spent.add(grant.spendable)
        let_pass(ends_at(lab) + 0.01)
        assert lab.get(oidc_provider.api()).status_code == 200
    assert len(spent) == 5
    assert sent(oidc_provider) == {"token_requests": 5, "refreshes_ok": 5, "refusals": 0, "replays": 0}
    assert lab.account is not None
    assert lab.account.name == "Ada"  # a refreshed ID token has no name, and takes none away


@pytest.mark.hazard(35)
def test_a_provider_that_does_not_rotate_is_renewed_from_with_the_same_token(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    oidc_provider.configure(access_token_ttl=SHORT, rotation=False)
    lab.login(flow="browser")
    oidc_provider.reset()
    for _ in range(2):
        let_pass(ends_at(lab) + 0.01)
        assert lab.get(oidc_provider.api()).status_code == 200
    assert sent(oidc_provider) == {"token_requests": 2, "refreshes_ok": 2, "refusals": 0, "replays": 0}


def _storms(provider: OidcProvider, lab: loginonce.Session, call: Callable[[float], list[Any]], count: int) -> None:
    """All call at the moment of expiry, and again after the access token has died in silence."""
    provider.configure(access_token_ttl=3)
    lab.login(flow="browser")
    assert call(time.time()) == [200] * count
    provider.configure(access_token_ttl=12)
    provider.reset()

    assert call(ends_at(lab)) == [200] * count
    assert sent(provider) == ONE
    assert provider.stats()["api_ok"] == count

    let_pass(received_at(lab) + 1.3)  # a younger one would not be renewed for a 401
    provider.revoke_access_tokens()
    provider.reset()
    assert call(time.time() + 0.2) == [200] * count
    assert sent(provider) == ONE
    assert 1 <= provider.stats()["api_401"] <= count
    assert provider.stats()["api_ok"] == count


@pytest.mark.parametrize("size", [2, 8, 32, 64])
def test_one_of_many_processes_renews_for_all(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, gather: Gather, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    url = oidc_provider.api()
    _storms(oidc_provider, lab, lambda at: statuses(crowd.call_together(url, at)), size)


@pytest.mark.parametrize("size", [2, 8])
def test_one_of_several_processes_started_from_nothing_renews_for_all(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, gather: Gather, size: int
) -> None:
    crowd = gather()
    crowd.spawn(size)
    url = oidc_provider.api()
    _storms(oidc_provider, lab, lambda at: statuses(crowd.call_together(url, at)), size)


def test_one_of_64_threads_renews_for_all(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    def call(at: float) -> int:
        let_pass(at)
        return lab.get(oidc_provider.api(), timeout=20).status_code

    with ThreadPoolExecutor(64) as pool:
        _storms(oidc_provider, lab, lambda at: list(pool.map(call, [at] * 64)), 64)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("any", "log out")
def test_a_log_out_revokes_the_refresh_token(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    lab.login(flow="browser")
    grant, token = lab.source.grant(), lab.source.token()
    assert grant is not None
    assert grant.refresh_token is not None
    oidc_provider.reset()
    assert lab.logout().revoked
    assert oidc_provider.stats()["revocations"] >= 1
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token, "client_id": oidc_provider.client_id}
    refused = requests.post(oidc_provider.metadata()["token_endpoint"], data=form, timeout=10)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    bearer = {"Authorization": f"Bearer {token.access_token}"}
    assert requests.get(oidc_provider.api(), headers=bearer, timeout=10).status_code == 401
    with pytest.raises(LoginRequired) as caught:
        lab.get(oidc_provider.api())
    assert caught.value.reason == "logged_out"


def test_the_provider_session_ends_where_the_log_out_says(
    lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    assert lab.login(flow="browser").subject == "ada"
    person.login = "grace"  # somebody else sits down, and would be taken for Ada
    assert lab.login(flow="browser", force=True).subject == "ada"
    person.end_session(lab.logout().end_session_url)
    assert lab.login(flow="browser").subject == "grace"


@pytest.mark.parametrize("size", [4])
@pytest.mark.hazard(28)
@pytest.mark.provider("any", "ended elsewhere")
def test_a_session_ended_at_the_provider_is_told_to_each_process_once_and_a_login_revives_all(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, gather: Gather, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    oidc_provider.configure(access_token_ttl=5)
    lab.login(flow="browser")
    url = oidc_provider.api()
    assert statuses(crowd.call_together(url)) == [200] * size
    let_pass(received_at(lab) + 0.6)
    oidc_provider.end_session("ada")
    oidc_provider.reset()
    answers = crowd.call_together(url)
    assert [(answer.get("error"), answer.get("reason")) for answer in answers] == [("LoginRequired", "ended")] * size
    assert sent(oidc_provider) == {"token_requests": 1, "refreshes_ok": 0, "refusals": 1, "replays": 0}
    again = crowd.call_together(url)
    assert {answer.get("reason") for answer in again} == {"ended"}
    assert sent(oidc_provider)["token_requests"] == 1
    lab.login(flow="browser", force=True)
    oidc_provider.reset()
    assert statuses(crowd.call_together(url)) == [200] * size
    assert sent(oidc_provider) == NONE


# ── lost answers ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(1)
@pytest.mark.provider("any", "grace")
def test_a_lost_answer_costs_one_login_and_no_more_than_two_sends(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    oidc_provider.configure(access_token_ttl=1)
    lab.login(flow="browser")
    oidc_provider.configure(drop_token_answers=5)
    oidc_provider.reset()
    let_pass(ends_at(lab) + 0.01)
    errors: list[Exception] = []
    while not errors or not isinstance(errors[-1], LoginRequired):
        try:
            lab.get(oidc_provider.api())
        except loginonce.TransportError as error:
            errors.append(error)
            time.sleep((error.retry_after or 0) + 0.01)
        except LoginRequired as error:
            errors.append(error)
    assert [type(error).__name__ for error in errors] == ["TransportError", "LoginRequired"]
    assert sent(oidc_provider) == {"token_requests": 2, "refreshes_ok": 1, "refusals": 1, "replays": 1}
    for _ in range(3):
        with pytest.raises(LoginRequired):
            lab.get(oidc_provider.api())
    assert sent(oidc_provider)["token_requests"] == 2
    oidc_provider.configure(drop_token_answers=0, access_token_ttl=60)
    lab.login(flow="browser")
    assert lab.get(oidc_provider.api()).status_code == 200


def test_a_lost_answer_is_shared_by_all_processes(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, gather: Gather
) -> None:
    crowd = gather()
    crowd.fork(4)
    oidc_provider.configure(access_token_ttl=1)
    lab.login(flow="browser")
    oidc_provider.configure(drop_token_answers=5)
    oidc_provider.reset()
    let_pass(ends_at(lab) + 0.01)
    url = oidc_provider.api()
    first = crowd.call_together(url)
    assert {answer.get("error") for answer in first} == {"TransportError"}
    assert sent(oidc_provider)["token_requests"] == 1
    second = crowd.call_together(url, at=time.time() + 1.3)
    assert {answer.get("error") for answer in second} == {"LoginRequired"}
    third = crowd.call_together(url)
    assert {answer.get("error") for answer in third} == {"LoginRequired"}
    assert sent(oidc_provider)["token_requests"] == 2
    oidc_provider.configure(drop_token_answers=0, access_token_ttl=60)
    lab.login(flow="browser")
    assert statuses(crowd.call_together(url)) == [200] * 4


def test_an_answer_lost_early_costs_nothing_while_the_access_token_lives(
    oidc_provider: OidcProvider, lab: loginonce.Session, screen: AtTheScreen, gather: Gather
) -> None:
    crowd = gather()
    crowd.fork(4)
    lab.login(flow="browser")
    oidc_provider.configure(drop_token_answers=1)
    oidc_provider.reset()

    def near_its_end(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = [replace(t, received_at=time.time() - 280, expires_at=time.time() + 20) for t in grant.tokens]
        return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

    lab.source.change(near_its_end)
    url = oidc_provider.api()
    for _ in range(3):
        assert statuses(crowd.call_together(url)) == [200] * 4
    deadline = time.monotonic() + 5
    while oidc_provider.stats()["dropped"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(3):
        assert statuses(crowd.call_together(url, at=time.time() + 0.5)) == [200] * 4
    assert sent(oidc_provider) == ONE  # it rotated, and nobody sent the spent token again
