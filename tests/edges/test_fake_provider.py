"""The fake provider does what its knobs say. Real HTTP with plain requests, nothing of the SDK."""

import base64
import hashlib
import http.client
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from joserfc import jwt
from joserfc.errors import BadSignatureError, UnsupportedAlgorithmError
from joserfc.jwk import KeySet

from loginonce.testing import FakeProvider, Fault, Grace, PageRefusedError, Stats, fingerprint
from loginonce.testing.faults import Where

Factory = Callable[..., FakeProvider]
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
REDIRECT = "http://127.0.0.1:9/callback"  # the discard port: nobody listens


@pytest.fixture
def web() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def ask(web: requests.Session) -> Callable[..., requests.Response]:
    """Send a token request as the public client."""

    def ask(provider: FakeProvider, grant_type: str, **form: str) -> requests.Response:
        form = {"grant_type": grant_type, "client_id": provider.public_client_id} | form
        return web.post(f"{provider.issuer}/token", data=form, timeout=5, allow_redirects=False)

    return ask


@pytest.fixture
def refresh(ask: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    def refresh(provider: FakeProvider, token: str, **form: str) -> requests.Response:
        return ask(provider, "refresh_token", refresh_token=token, **form)

    return refresh


@pytest.fixture
def alive(web: requests.Session) -> Callable[..., bool]:
    """Whether the API accepts an access token."""

    def alive(provider: FakeProvider, access_token: str) -> bool:
        bearer = {"Authorization": f"Bearer {access_token}"}
        return web.get(provider.api("/runs"), headers=bearer, timeout=5).ok

    return alive


Ask = Callable[..., requests.Response]
Alive = Callable[..., bool]


# Rotation, grace, families.


def test_a_refresh_rotates_and_leaves_the_old_access_token_alive(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    first = fake_provider.issue()
    second = refresh(fake_provider, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert alive(fake_provider, first["access_token"])
    assert alive(fake_provider, second["access_token"])
    assert refresh(fake_provider, second["refresh_token"]).ok


def test_a_replay_without_grace_kills_refresh_and_access_tokens_of_the_family_only(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    other = fake_provider.issue()
    first = fake_provider.issue()
    second = refresh(fake_provider, first["refresh_token"]).json()
    replay = refresh(fake_provider, first["refresh_token"])
    assert (replay.status_code, replay.json()) == (400, {"error": "invalid_grant"})
    assert refresh(fake_provider, second["refresh_token"]).status_code == 400
    assert not alive(fake_provider, first["access_token"])
    assert not alive(fake_provider, second["access_token"])
    assert alive(fake_provider, other["access_token"])
    assert fake_provider.stats == Stats(token_requests=3, refreshes=1, replays=1, refusals=2, api_calls=3, api_401=2)


def test_a_replay_that_does_not_kill_is_only_refused(
    fake_provider_factory: Factory, refresh: Ask, alive: Alive
) -> None:
    provider = fake_provider_factory(replay_kills=False)
    first = provider.issue()
    second = refresh(provider, first["refresh_token"]).json()
    assert not refresh(provider, first["refresh_token"]).ok
    assert alive(provider, second["access_token"])
    assert refresh(provider, second["refresh_token"]).ok


def test_grace_same_successor_gives_the_same_refresh_token_until_its_time_is_over(
    fake_provider_factory: Factory, refresh: Ask
) -> None:
    provider = fake_provider_factory(grace=Grace.same_successor(30))
    first = provider.issue()["refresh_token"]
    answers = [refresh(provider, first).json() for _ in range(3)]
    assert len({answer["refresh_token"] for answer in answers}) == 1
    assert len({answer["access_token"] for answer in answers}) == 3
    assert (provider.stats.refreshes, provider.stats.reuses, provider.stats.replays) == (3, 2, 0)
    provider.advance(31)
    assert not refresh(provider, first).ok
    assert not refresh(provider, answers[0]["refresh_token"]).ok


def test_grace_same_successor_ends_once_the_successor_is_spent(fake_provider_factory: Factory, refresh: Ask) -> None:
    provider = fake_provider_factory(grace=Grace.same_successor(30))
    first = provider.issue()["refresh_token"]
    second = refresh(provider, first).json()["refresh_token"]
    assert refresh(provider, second).ok
    assert not refresh(provider, first).ok


def test_grace_sibling_gives_a_new_refresh_token_each_time_until_its_time_is_over(
    fake_provider_factory: Factory, refresh: Ask
) -> None:
    provider = fake_provider_factory(grace=Grace.sibling(30))
    first = provider.issue()["refresh_token"]
    siblings = [refresh(provider, first).json()["refresh_token"] for _ in range(3)]
    assert len(set(siblings)) == 3
    assert all(refresh(provider, sibling).ok for sibling in siblings)
    provider.advance(31)
    assert not refresh(provider, first).ok


def test_grace_count_allows_exactly_so_many_reuses(fake_provider_factory: Factory, refresh: Ask) -> None:
    provider = fake_provider_factory(grace=Grace.count(2))
    first = provider.issue()["refresh_token"]
    assert [refresh(provider, first).status_code for _ in range(4)] == [200, 200, 200, 400]


def test_grace_forever_never_refuses_an_old_refresh_token(fake_provider_factory: Factory, refresh: Ask) -> None:
    provider = fake_provider_factory(grace=Grace.forever())
    first = provider.issue()["refresh_token"]
    assert refresh(provider, refresh(provider, first).json()["refresh_token"]).ok
    provider.advance(10**7)
    assert refresh(provider, first).ok


def test_without_rotation_the_answer_has_no_refresh_token_and_the_old_one_stays_good(
    fake_provider_factory: Factory, refresh: Ask
) -> None:
    provider = fake_provider_factory(rotation=False)
    first = provider.issue()["refresh_token"]
    for _ in range(2):
        answer = refresh(provider, first)
        assert answer.ok
        assert "refresh_token" not in answer.json()


def test_a_refresh_can_kill_the_earlier_access_tokens(
    fake_provider_factory: Factory, refresh: Ask, alive: Alive
) -> None:
    provider = fake_provider_factory(refresh_kills_access_tokens=True)
    first = provider.issue()
    second = refresh(provider, first["refresh_token"]).json()
    assert not alive(provider, first["access_token"])
    assert alive(provider, second["access_token"])


def test_of_64_threads_with_one_refresh_token_one_succeeds_and_the_family_is_dead(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    token = fake_provider.issue()["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "notebook"}
    together = threading.Barrier(64)

    def send(_: int) -> requests.Response:
        together.wait()
        return requests.post(f"{fake_provider.issuer}/token", data=form, timeout=10)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(send, range(64)))
    won = [answer.json() for answer in answers if answer.ok]
    assert len(won) == 1
    stats = fake_provider.stats
    assert (stats.token_requests, stats.refreshes, stats.replays, stats.refusals) == (64, 1, 63, 63)
    assert not alive(fake_provider, won[0]["access_token"])
    assert not refresh(fake_provider, won[0]["refresh_token"]).ok


def test_two_requests_with_one_refresh_token_under_way_at_once_are_counted_as_an_overlap(
    fake_provider_factory: Factory, refresh: Ask
) -> None:
    provider = fake_provider_factory(grace=Grace.forever(), latency=0.1)
    token = provider.issue()["refresh_token"]
    assert refresh(provider, token).ok
    assert provider.stats.overlaps == 0
    with ThreadPoolExecutor(2) as pool:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "notebook"}
        list(pool.map(lambda _: requests.post(f"{provider.issuer}/token", data=form, timeout=5), range(2)))
    assert provider.stats.overlaps == 1


def test_a_refresh_token_ends_after_its_lifetime(fake_provider_factory: Factory, refresh: Ask) -> None:
    provider = fake_provider_factory(refresh_token_lifetime=60, refresh_expires_in_member="refresh_expires_in")
    first = provider.issue()
    assert first["refresh_expires_in"] == 60
    provider.advance(59)
    second = refresh(provider, first["refresh_token"]).json()
    provider.advance(61)
    assert not refresh(provider, second["refresh_token"]).ok
    assert provider.log[-1].detail == "expired"


def test_another_client_can_not_use_a_refresh_token(fake_provider: FakeProvider, web: requests.Session) -> None:
    token = fake_provider.issue()["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": token}
    answer = web.post(f"{fake_provider.issuer}/token", data=form, auth=fake_provider.confidential_client, timeout=5)
    assert answer.json()["error"] == "invalid_grant"
    assert fake_provider.stats.refusals == 1


@pytest.mark.parametrize(
    ("refusal", "status", "body"),
    [
        ("invalid_grant", 400, b'{"error": "invalid_grant"}'),
        ("invalid_request", 400, b'{"error": "invalid_request"}'),
        ("github", 200, b'{"error": "bad_refresh_token"}'),
        ("empty_400", 400, b""),
    ],
)
def test_a_refusal_looks_as_asked(
    fake_provider_factory: Factory, refresh: Ask, refusal: str, status: int, body: bytes
) -> None:
    answer = refresh(fake_provider_factory(refusal=refusal), "no such token")
    assert (answer.status_code, answer.content) == (status, body)


def test_a_refresh_can_narrow_the_scope_for_once_and_never_widen_it(fake_provider: FakeProvider, refresh: Ask) -> None:
    first = fake_provider.issue(scope="openid offline_access email")
    second = refresh(fake_provider, first["refresh_token"], scope="email").json()
    assert second["scope"] == "email"
    third = refresh(fake_provider, second["refresh_token"]).json()
    assert third["scope"] == "openid offline_access email"
    wider = refresh(fake_provider, third["refresh_token"], scope="openid admin")
    assert wider.json()["error"] == "invalid_scope"
    assert refresh(fake_provider, third["refresh_token"]).ok


def test_offline_access_can_be_required_for_a_refresh_token(fake_provider_factory: Factory) -> None:
    provider = fake_provider_factory(require_offline_access=True)
    assert "refresh_token" not in provider.issue(scope="openid")
    assert "refresh_token" in provider.issue(scope="openid offline_access")


# What answers say.


@pytest.mark.parametrize(("lifetime", "told"), [(300.0, 300), (1.9, 1), (0.2, 0.2)])
def test_an_access_token_lives_as_long_as_expires_in_says(
    fake_provider_factory: Factory, alive: Alive, lifetime: float, told: float
) -> None:
    provider = fake_provider_factory(access_token_lifetime=lifetime)
    answer = provider.issue()
    assert answer["expires_in"] == told
    assert isinstance(answer["expires_in"], int) == (told >= 1)
    assert alive(provider, answer["access_token"])
    provider.advance(told)
    assert not alive(provider, answer["access_token"])


def test_expires_in_can_lie(fake_provider_factory: Factory, alive: Alive) -> None:
    provider = fake_provider_factory(access_token_lifetime=1, lie_expires_in=3600)
    answer = provider.issue()
    assert answer["expires_in"] == 3600
    provider.advance(1)
    assert not alive(provider, answer["access_token"])


def test_members_can_be_left_out(fake_provider_factory: Factory, refresh: Ask) -> None:
    left_out = frozenset({"expires_in", "scope", "id_token"})
    provider = fake_provider_factory(omit=left_out)
    first = provider.issue()
    second = refresh(provider, first["refresh_token"]).json()
    assert not left_out & (first.keys() | second.keys())


def test_less_scope_can_be_granted_than_asked(fake_provider_factory: Factory, ask: Ask) -> None:
    provider = fake_provider_factory(issue_scope="openid")
    assert provider.issue(scope="openid admin")["scope"] == "openid"
    assert code_login(provider, ask, scope="openid admin")["scope"] == "openid"


def test_a_knob_can_be_turned_while_the_provider_runs(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.rotation = False
    assert "refresh_token" not in refresh(fake_provider, token).json()


# Faults.


def test_drop_before_closes_the_connection_and_spends_nothing(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.drop_before())
    with pytest.raises(requests.ConnectionError):
        refresh(fake_provider, token)
    assert fake_provider.stats == Stats(token_requests=1)
    assert refresh(fake_provider, token).ok


def test_drop_after_closes_the_connection_and_has_spent_the_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.drop_after())
    with pytest.raises(requests.ConnectionError):
        refresh(fake_provider, token)
    assert fake_provider.stats.refreshes == 1
    assert refresh(fake_provider, token).status_code == 400  # on a new connection
    assert fake_provider.stats.replays == 1


def test_a_fault_happens_as_often_as_told_and_in_order(fake_provider: FakeProvider, refresh: Ask) -> None:
    fake_provider.faults.add(Fault.status(503, headers={"Retry-After": "7"}), times=2)
    fake_provider.faults.add(Fault.status(429))
    token = fake_provider.issue()["refresh_token"]
    answers = [refresh(fake_provider, token) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert fake_provider.faults.pending == 0


def test_a_delay_after_lets_the_client_give_up_when_the_token_is_spent(fake_provider: FakeProvider) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.delay(5))
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "notebook"}
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{fake_provider.issuer}/token", data=form, timeout=0.2)
    assert fake_provider.stats.refreshes == 1


def test_a_delay_before_leaves_the_token_unspent_meanwhile(fake_provider: FakeProvider) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.delay(5, after=False))
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "notebook"}
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{fake_provider.issuer}/token", data=form, timeout=0.2)
    assert fake_provider.stats.refreshes == 0


def test_truncate_sends_half_of_a_body_and_has_spent_the_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.truncate())
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        refresh(fake_provider, token)
    assert fake_provider.stats.refreshes == 1
    assert not refresh(fake_provider, token).ok


def test_garble_answers_200_without_json_and_has_spent_the_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.garble())
    answer = refresh(fake_provider, token)
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    assert fake_provider.stats.refreshes == 1


def test_trickle_outlives_a_read_timeout_that_looks_at_each_byte_only(
    fake_provider: FakeProvider, web: requests.Session
) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.trickle(0.5))
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "notebook"}
    began = time.monotonic()
    answer = web.post(f"{fake_provider.issuer}/token", data=form, timeout=0.3)
    assert answer.json()["refresh_token"]
    assert time.monotonic() - began >= 0.5


def test_rotate_then_status_has_spent_the_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.rotate_then_status(502, "<h1>Bad gateway</h1>"))
    answer = refresh(fake_provider, token)
    assert (answer.status_code, answer.text) == (502, "<h1>Bad gateway</h1>")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert fake_provider.stats.refreshes == 1


def test_answer_is_given_without_processing(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    fake_provider.faults.add(Fault.answer({"error": "temporarily_unavailable"}, status=400))
    assert refresh(fake_provider, token).json() == {"error": "temporarily_unavailable"}
    assert refresh(fake_provider, token).ok


def test_a_redirect_and_an_empty_400_can_be_answers(fake_provider: FakeProvider, refresh: Ask) -> None:
    fake_provider.faults.add(Fault.status(302, headers={"Location": "https://portal.example/"}))
    fake_provider.faults.add(Fault.status(400))
    redirect = refresh(fake_provider, "x")
    assert (redirect.status_code, redirect.headers["Location"]) == (302, "https://portal.example/")
    empty = refresh(fake_provider, "x")
    assert (empty.status_code, empty.content) == (400, b"")


@pytest.mark.parametrize(
    ("where", "method", "path"),
    [
        ("discovery", "GET", "/.well-known/openid-configuration"),
        ("discovery", "GET", "/.well-known/oauth-authorization-server"),
        ("jwks", "GET", "/jwks"),
        ("device", "POST", "/device_authorization"),
        ("token", "POST", "/token"),
        ("revocation", "POST", "/revoke"),
        ("userinfo", "GET", "/userinfo"),
        ("authorize", "GET", "/authorize"),
        ("api", "PUT", "/api/runs"),
    ],
)
def test_a_fault_happens_where_it_was_put(
    fake_provider: FakeProvider, web: requests.Session, refresh: Ask, where: Where, method: str, path: str
) -> None:
    fake_provider.faults.add(Fault.status(500), where=where)
    if where != "token":
        assert refresh(fake_provider, fake_provider.issue()["refresh_token"]).ok
    assert web.request(method, fake_provider.issuer + path, timeout=5).status_code == 500
    assert fake_provider.faults.pending == 0


def test_cleared_faults_do_not_happen(fake_provider: FakeProvider, refresh: Ask) -> None:
    fake_provider.faults.add(Fault.drop_after(), times=None)
    fake_provider.faults.clear()
    assert refresh(fake_provider, fake_provider.issue()["refresh_token"]).ok


# Device flow.


def begin_device(provider: FakeProvider, scope: str = "openid offline_access") -> dict[str, Any]:
    form = {"client_id": provider.public_client_id, "scope": scope}
    answer = requests.post(f"{provider.issuer}/device_authorization", data=form, timeout=5)
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()
    return result


def test_a_device_is_pending_then_signed_in_once_approved_and_its_code_works_once(
    fake_provider: FakeProvider, ask: Ask, alive: Alive
) -> None:
    device = begin_device(fake_provider)
    assert (device["interval"], device["expires_in"]) == (1, 600)
    pending = ask(fake_provider, DEVICE, device_code=device["device_code"])
    assert (pending.status_code, pending.json()["error"]) == (400, "authorization_pending")
    fake_provider.approve(device["user_code"].lower().replace("-", ""))
    tokens = ask(fake_provider, DEVICE, device_code=device["device_code"]).json()
    assert alive(fake_provider, tokens["access_token"])
    assert {"refresh_token", "id_token"} <= tokens.keys()
    again = ask(fake_provider, DEVICE, device_code=device["device_code"])
    assert again.json()["error"] == "invalid_grant"


def test_a_provider_without_users_hands_out_codes_that_nobody_approves(fake_provider_factory: Factory) -> None:
    provider = fake_provider_factory(users={}, approves_after=0.0)
    form = {"client_id": provider.public_client_id, "scope": "openid"}
    device = requests.post(f"{provider.issuer}/device_authorization", data=form, timeout=5).json()
    polled = {"grant_type": DEVICE, "client_id": provider.public_client_id, "device_code": device["device_code"]}
    answer = requests.post(f"{provider.issuer}/token", data=polled, timeout=5)
    assert answer.json()["error"] == "authorization_pending"


def test_a_device_that_polls_too_fast_must_slow_down_by_five_seconds_for_good(
    fake_provider: FakeProvider, ask: Ask
) -> None:
    code = begin_device(fake_provider)["device_code"]

    def poll() -> str:
        error: str = ask(fake_provider, DEVICE, device_code=code).json()["error"]
        return error

    assert poll() == "authorization_pending"
    assert poll() == "slow_down"  # now 6 s
    fake_provider.advance(5)
    assert poll() == "slow_down"  # now 11 s
    fake_provider.advance(11)
    assert poll() == "authorization_pending"


def test_a_device_can_be_denied(fake_provider: FakeProvider, ask: Ask) -> None:
    device = begin_device(fake_provider)
    fake_provider.deny(device["verification_uri_complete"])
    assert ask(fake_provider, DEVICE, device_code=device["device_code"]).json()["error"] == "access_denied"


def test_a_device_code_expires(fake_provider_factory: Factory, ask: Ask) -> None:
    provider = fake_provider_factory(device_expires_in=30)
    device = begin_device(provider)
    provider.advance(30)
    assert ask(provider, DEVICE, device_code=device["device_code"]).json()["error"] == "expired_token"
    with pytest.raises(PageRefusedError, match="No device waits"):
        provider.approve(device["user_code"])


def test_the_device_answer_can_lack_an_interval_and_say_verification_url(
    fake_provider_factory: Factory,
) -> None:
    provider = fake_provider_factory(device_interval=None, device_uri_member="verification_url")
    device = begin_device(provider)
    assert "interval" not in device
    assert "verification_uri" not in device
    assert requests.get(device["verification_url"], timeout=5).ok


# Authorization code.


def authorization_url(provider: FakeProvider, **changes: str | None) -> tuple[str, str]:
    """Return an authorization URL, and the code verifier that belongs to it."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    query: dict[str, str | None] = {
        "response_type": "code",
        "client_id": provider.public_client_id,
        "redirect_uri": REDIRECT,
        "scope": "openid offline_access",
        "state": "some state",
        "nonce": "some nonce",
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    kept = {name: value for name, value in (query | changes).items() if value is not None}
    return f"{provider.issuer}/authorize?{urlencode(kept)}", verifier


def parameters(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def code_login(provider: FakeProvider, ask: Ask, **changes: str) -> dict[str, Any]:
    url, verifier = authorization_url(provider, **changes)
    code = parameters(provider.approve(url))["code"]
    answer = ask(provider, "authorization_code", code=code, redirect_uri=REDIRECT, code_verifier=verifier)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_an_approved_request_returns_code_state_and_issuer_and_the_code_gives_tokens(
    fake_provider: FakeProvider, ask: Ask, alive: Alive
) -> None:
    url, verifier = authorization_url(fake_provider)
    final = fake_provider.approve(url, user="grace")
    assert final.startswith(f"{REDIRECT}?")
    answered = parameters(final)
    assert (answered["state"], answered["iss"]) == ("some state", fake_provider.issuer)
    form = {"code": answered["code"], "redirect_uri": REDIRECT, "code_verifier": verifier}
    tokens = ask(fake_provider, "authorization_code", **form).json()
    assert alive(fake_provider, tokens["access_token"])
    assert tokens["refresh_token"]


def test_a_code_that_comes_twice_is_refused_and_ends_what_was_made_with_it(
    fake_provider: FakeProvider, ask: Ask, alive: Alive
) -> None:
    url, verifier = authorization_url(fake_provider)
    form = {"code": parameters(fake_provider.approve(url))["code"], "redirect_uri": REDIRECT}
    tokens = ask(fake_provider, "authorization_code", code_verifier=verifier, **form).json()
    again = ask(fake_provider, "authorization_code", code_verifier=verifier, **form)
    assert again.json()["error"] == "invalid_grant"
    assert not alive(fake_provider, tokens["access_token"])


def test_a_wrong_or_missing_verifier_is_refused(fake_provider: FakeProvider, ask: Ask) -> None:
    url, _ = authorization_url(fake_provider)
    form = {"code": parameters(fake_provider.approve(url))["code"], "redirect_uri": REDIRECT}
    wrong = ask(fake_provider, "authorization_code", code_verifier="x" * 43, **form)
    assert wrong.json()["error"] == "invalid_grant"
    missing = ask(fake_provider, "authorization_code", **form)
    assert missing.json()["error"] == "invalid_request"


def test_another_redirect_uri_at_the_token_endpoint_is_refused(fake_provider: FakeProvider, ask: Ask) -> None:
    url, verifier = authorization_url(fake_provider)
    code = parameters(fake_provider.approve(url))["code"]
    other = "http://127.0.0.1:10/callback"
    answer = ask(fake_provider, "authorization_code", code=code, redirect_uri=other, code_verifier=verifier)
    assert answer.json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:8000/elsewhere",
        "http://localhost:8000/callback",
        "https://127.0.0.1:8000/callback",
        "https://service.example.org:8443/callback",
        "https://attacker.example/callback",
        None,
    ],
)
def test_a_redirect_uri_that_is_not_registered_gets_an_error_page_and_no_redirect(
    fake_provider: FakeProvider, uri: str | None
) -> None:
    url, _ = authorization_url(fake_provider, redirect_uri=uri)
    answer = requests.get(url, timeout=5, allow_redirects=False)
    assert answer.status_code == 400
    with pytest.raises(PageRefusedError) as error:
        fake_provider.approve(url)
    assert error.value.status == 400


def test_the_port_of_a_loopback_redirect_can_be_made_to_matter(fake_provider_factory: Factory) -> None:
    provider = fake_provider_factory(loopback_any_port=False, redirect_uris=("http://127.0.0.1:8765/callback",))
    exact, _ = authorization_url(provider, redirect_uri="http://127.0.0.1:8765/callback")
    assert requests.get(exact, timeout=5).ok
    other, _ = authorization_url(provider, redirect_uri="http://127.0.0.1:8766/callback")
    assert requests.get(other, timeout=5).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [{"code_challenge": None, "code_challenge_method": None}, {"code_challenge_method": "plain"}],
)
def test_a_public_client_must_use_pkce_with_s256(fake_provider: FakeProvider, changes: dict[str, str | None]) -> None:
    url, _ = authorization_url(fake_provider, **changes)
    answered = parameters(fake_provider.approve(url))
    assert (answered["error"], answered["state"]) == ("invalid_request", "some state")
    assert answered["iss"] == fake_provider.issuer


def test_a_denied_request_returns_access_denied(fake_provider: FakeProvider) -> None:
    url, _ = authorization_url(fake_provider)
    answered = parameters(fake_provider.deny(url))
    assert (answered["error"], answered["state"]) == ("access_denied", "some state")
    assert answered["iss"] == fake_provider.issuer


def test_iss_can_be_missing_from_the_authorization_response(fake_provider_factory: Factory) -> None:
    provider = fake_provider_factory(authorization_response_iss=False)
    assert "iss" not in parameters(provider.approve(authorization_url(provider)[0]))
    document = requests.get(f"{provider.issuer}/.well-known/oauth-authorization-server", timeout=5).json()
    assert "authorization_response_iss_parameter_supported" not in document


def test_prompt_none_needs_a_browser_session_and_prompt_login_ignores_it(
    fake_provider: FakeProvider, web: requests.Session
) -> None:
    silent, _ = authorization_url(fake_provider, prompt="none")
    assert parameters(fake_provider.approve(silent))["error"] == "login_required"
    form = {"username": "ada", "password": "lovelace", "decision": "approve"}
    web.post(authorization_url(fake_provider)[0], data=form, timeout=5, allow_redirects=False)
    answer = web.get(silent, timeout=5, allow_redirects=False)
    assert parameters(answer.headers["Location"])["code"]
    assert "Signed in as" in web.get(authorization_url(fake_provider)[0], timeout=5).text
    assert "Password" in web.get(authorization_url(fake_provider, prompt="login")[0], timeout=5).text


def test_a_wrong_password_is_refused_on_the_page(fake_provider: FakeProvider) -> None:
    form = {"username": "ada", "password": "wrong", "decision": "approve"}
    answer = requests.post(authorization_url(fake_provider)[0], data=form, timeout=5, allow_redirects=False)
    assert answer.status_code == 403


def test_approve_reaches_the_loopback_receiver_of_the_client(fake_provider: FakeProvider) -> None:
    received: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        thread = threading.Thread(target=receiver.handle_request)
        thread.start()
        uri = f"http://127.0.0.1:{receiver.server_port}/callback"
        final = fake_provider.approve(authorization_url(fake_provider, redirect_uri=uri)[0])
        thread.join()
    assert final == f"http://127.0.0.1:{receiver.server_port}{received[0]}"


# The confidential client.


def test_the_confidential_client_can_use_basic_and_post_and_nothing_without_its_secret(
    fake_provider: FakeProvider, web: requests.Session
) -> None:
    url = f"{fake_provider.issuer}/token"
    client_id, secret = fake_provider.confidential_client
    form = {"grant_type": "client_credentials", "scope": "admin"}
    basic = web.post(url, data=form, auth=(client_id, secret), timeout=5)
    post = web.post(url, data=form | {"client_id": client_id, "client_secret": secret}, timeout=5)
    for answer in (basic.json(), post.json()):
        assert not {"refresh_token", "id_token"} & answer.keys()
        assert answer["scope"] == "admin"
    wrong = web.post(url, data=form, auth=(client_id, "wrong"), timeout=5)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert "Basic" in wrong.headers["WWW-Authenticate"]
    none = web.post(url, data=form | {"client_id": client_id}, timeout=5)
    assert none.json()["error"] == "invalid_client"


def test_the_password_grant_gives_tokens_for_the_right_password_only(
    fake_provider: FakeProvider, web: requests.Session
) -> None:
    form = {"grant_type": "password", "username": "ada", "password": "lovelace", "scope": "openid"}
    url, auth = f"{fake_provider.issuer}/token", fake_provider.confidential_client
    assert {"refresh_token", "id_token"} <= web.post(url, data=form, auth=auth, timeout=5).json().keys()
    wrong = web.post(url, data=form | {"password": "wrong"}, auth=auth, timeout=5)
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")


def test_the_public_client_can_not_use_client_credentials(fake_provider: FakeProvider, ask: Ask) -> None:
    assert ask(fake_provider, "client_credentials").json()["error"] == "unauthorized_client"


# Revocation, and the administrator.


def revoke(provider: FakeProvider, token: str, **form: str) -> requests.Response:
    form = {"client_id": provider.public_client_id, "token": token} | form
    return requests.post(f"{provider.issuer}/revoke", data=form, timeout=5)


def test_revoking_a_refresh_token_ends_its_family_and_is_always_answered_200(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    tokens = fake_provider.issue()
    assert revoke(fake_provider, tokens["refresh_token"], token_type_hint="access_token").status_code == 200
    assert not alive(fake_provider, tokens["access_token"])
    assert not refresh(fake_provider, tokens["refresh_token"]).ok
    assert revoke(fake_provider, "no such token").status_code == 200
    assert fake_provider.stats.revocations == 1


def test_revoking_an_access_token_leaves_the_refresh_token(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    tokens = fake_provider.issue()
    assert revoke(fake_provider, tokens["access_token"]).status_code == 200
    assert not alive(fake_provider, tokens["access_token"])
    assert refresh(fake_provider, tokens["refresh_token"]).ok


def test_revocation_can_refuse(fake_provider_factory: Factory, refresh: Ask) -> None:
    provider = fake_provider_factory(revocation="refuse")
    tokens = provider.issue()
    public = revoke(provider, tokens["refresh_token"])
    assert (public.status_code, public.json()["error"]) == (400, "invalid_client")
    confidential = requests.post(
        f"{provider.issuer}/revoke",
        data={"token": tokens["refresh_token"]},
        auth=provider.confidential_client,
        timeout=5,
    )
    assert (confidential.status_code, confidential.json()["error"]) == (400, "unsupported_token_type")
    assert refresh(provider, tokens["refresh_token"]).ok


def test_revocation_can_be_absent(fake_provider_factory: Factory) -> None:
    provider = fake_provider_factory(revocation="absent")
    assert revoke(provider, "x").status_code == 404
    document = requests.get(f"{provider.issuer}/.well-known/oauth-authorization-server", timeout=5).json()
    assert "revocation_endpoint" not in document


def test_ended_sessions_kill_the_tokens_of_that_user_only(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    ada, grace = fake_provider.issue("ada"), fake_provider.issue("grace")
    fake_provider.end_sessions("ada")
    assert not alive(fake_provider, ada["access_token"])
    assert not refresh(fake_provider, ada["refresh_token"]).ok
    assert alive(fake_provider, grace["access_token"])
    fake_provider.end_sessions()
    assert not refresh(fake_provider, grace["refresh_token"]).ok


def test_revoked_access_tokens_leave_the_refresh_tokens(
    fake_provider: FakeProvider, refresh: Ask, alive: Alive
) -> None:
    tokens = fake_provider.issue()
    fake_provider.revoke_access_tokens()
    assert not alive(fake_provider, tokens["access_token"])
    assert alive(fake_provider, refresh(fake_provider, tokens["refresh_token"]).json()["access_token"])


def test_end_session_ends_the_login_and_returns_to_the_client(
    fake_provider: FakeProvider, web: requests.Session, alive: Alive
) -> None:
    tokens = fake_provider.issue()
    query = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": REDIRECT, "state": "s"}
    url = f"{fake_provider.issuer}/end_session"
    answer = web.get(url, params=query, timeout=5, allow_redirects=False)
    assert answer.headers["Location"] == f"{REDIRECT}?state=s"
    assert not alive(fake_provider, tokens["access_token"])


# Metadata and ID tokens.


def test_each_discovery_document_tells_something_the_other_does_not(fake_provider: FakeProvider) -> None:
    openid, oauth = (
        requests.get(f"{fake_provider.issuer}/.well-known/{name}", timeout=5).json()
        for name in ("openid-configuration", "oauth-authorization-server")
    )
    assert openid["issuer"] == oauth["issuer"] == fake_provider.issuer
    assert {"userinfo_endpoint", "end_session_endpoint"} <= openid.keys() - oauth.keys()
    assert {"device_authorization_endpoint", "revocation_endpoint"} <= oauth.keys() - openid.keys()


def verified(provider: FakeProvider, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return claims and header of an ID token, verified with the published keys."""
    keys = KeySet.import_key_set(requests.get(f"{provider.issuer}/jwks", timeout=5).json())
    decoded = jwt.decode(token, keys, algorithms=[provider.id_token_alg])
    return dict(decoded.claims), dict(decoded.header)


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_an_id_token_verifies_and_tells_who_signed_in(fake_provider_factory: Factory, ask: Ask, alg: str) -> None:
    provider = fake_provider_factory(id_token_alg=alg)
    answer = code_login(provider, ask)
    claims, header = verified(provider, answer["id_token"])
    assert header["alg"] == alg
    assert (claims["iss"], claims["aud"], claims["azp"]) == (provider.issuer, "notebook", "notebook")
    assert (claims["sub"], claims["name"], claims["email"]) == ("ada", "Ada Lovelace", "ada@example.org")
    assert claims["roles"] == ["researcher"]
    assert "/lab" in claims["groups"]
    assert claims["nonce"] == "some nonce"
    half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert claims["iat"] <= time.time() < claims["exp"]


def test_the_id_token_of_a_refresh_has_the_same_subject_and_no_nonce(
    fake_provider: FakeProvider, ask: Ask, refresh: Ask
) -> None:
    first = code_login(fake_provider, ask)
    claims, _ = verified(fake_provider, refresh(fake_provider, first["refresh_token"]).json()["id_token"])
    assert claims["sub"] == "ada"
    assert "nonce" not in claims


def test_without_the_scope_openid_there_is_no_id_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    tokens = fake_provider.issue(scope="offline_access")
    assert "id_token" not in tokens
    assert "id_token" not in refresh(fake_provider, tokens["refresh_token"]).json()


def test_rotated_keys_sign_under_a_new_kid_and_old_id_tokens_still_verify(
    fake_provider: FakeProvider,
) -> None:
    fake_provider.id_token_alg = "ES256"  # quicker to make than an RSA key
    old = fake_provider.issue()["id_token"]
    fake_provider.rotate_keys()
    new = fake_provider.issue()["id_token"]
    _, old_header = verified(fake_provider, old)
    _, new_header = verified(fake_provider, new)
    assert old_header["kid"] != new_header["kid"]


def test_a_tampered_id_token_does_not_verify_or_says_what_it_was_told(fake_provider: FakeProvider) -> None:
    fake_provider.tamper_id_token = lambda claims, header: (claims | {"aud": "other"}, header)
    assert verified(fake_provider, fake_provider.issue()["id_token"])[0]["aud"] == "other"
    fake_provider.tamper_signature = True
    with pytest.raises(BadSignatureError):
        verified(fake_provider, fake_provider.issue()["id_token"])


@pytest.mark.parametrize("alg", ["none", "HS256"])
def test_an_id_token_can_use_an_algorithm_that_nobody_should_accept(fake_provider: FakeProvider, alg: str) -> None:
    fake_provider.tamper_id_token = lambda claims, header: (claims, header | {"alg": alg})
    token = fake_provider.issue()["id_token"]
    assert (token.rpartition(".")[2] == "") == (alg == "none")
    with pytest.raises(UnsupportedAlgorithmError):
        verified(fake_provider, token)


def test_a_skewed_clock_shows_in_id_token_and_date_and_leaves_lifetimes_alone(
    fake_provider: FakeProvider, web: requests.Session, alive: Alive
) -> None:
    fake_provider.clock_skew = 3600
    tokens = fake_provider.issue()
    assert verified(fake_provider, tokens["id_token"])[0]["iat"] == pytest.approx(time.time() + 3600, abs=5)
    date = web.get(f"{fake_provider.issuer}/jwks", timeout=5).headers["Date"]
    assert parsedate_to_datetime(date).timestamp() == pytest.approx(time.time() + 3600, abs=5)
    assert alive(fake_provider, tokens["access_token"])


def test_userinfo_tells_the_claims_to_a_live_token_only(fake_provider: FakeProvider, web: requests.Session) -> None:
    url, token = f"{fake_provider.issuer}/userinfo", fake_provider.issue()["access_token"]
    answer = web.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5)
    assert (answer.json()["sub"], answer.json()["name"]) == ("ada", "Ada Lovelace")
    fake_provider.revoke_access_tokens()
    assert web.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5).status_code == 401


# The API.


@pytest.fixture
def bearer(fake_provider: FakeProvider) -> dict[str, str]:
    return {"Authorization": f"Bearer {fake_provider.issue()['access_token']}"}


def test_the_api_describes_what_it_got(
    fake_provider: FakeProvider, web: requests.Session, bearer: dict[str, str]
) -> None:
    answer = web.put(fake_provider.api("/runs/7"), data=b"a" * 70_000, headers=bearer, timeout=5).json()
    assert answer["subject"] == "ada"
    assert (answer["method"], answer["path"]) == ("PUT", "/api/runs/7")
    assert answer["body_length"] == 70_000
    assert answer["body_sha256"] == hashlib.sha256(b"a" * 70_000).hexdigest()


def test_the_api_takes_a_chunked_body_and_the_connection_stays_usable(
    fake_provider: FakeProvider, web: requests.Session, bearer: dict[str, str]
) -> None:
    parts = iter([b"ab", b"cd"])
    answer = web.post(fake_provider.api("/runs"), data=parts, headers=bearer, timeout=5)
    assert answer.json()["body_sha256"] == hashlib.sha256(b"abcd").hexdigest()
    assert web.get(fake_provider.api("/runs"), headers=bearer, timeout=5).ok


def test_a_missing_token_gets_a_challenge_without_an_error_code(
    fake_provider: FakeProvider, web: requests.Session
) -> None:
    answer = web.get(fake_provider.api("/runs"), timeout=5)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="api"'


def test_a_dead_token_gets_an_invalid_token_challenge(
    fake_provider: FakeProvider, web: requests.Session, bearer: dict[str, str]
) -> None:
    fake_provider.advance(301)
    answer = web.get(fake_provider.api("/runs"), headers=bearer, timeout=5)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/scope", 403, "insufficient_scope"),
        ("/stepup", 401, "insufficient_user_authentication"),
        ("/never", 401, "invalid_token"),
    ],
)
def test_the_api_challenges_even_a_live_token(
    fake_provider: FakeProvider,
    web: requests.Session,
    bearer: dict[str, str],
    path: str,
    status: int,
    error: str,
) -> None:
    answer = web.get(fake_provider.api(path), headers=bearer, timeout=5)
    assert answer.status_code == status
    assert f'error="{error}"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("status", [302, 307])
def test_the_api_redirects_anywhere_and_the_open_end_point_tells_whether_a_token_came(
    fake_provider: FakeProvider, web: requests.Session, bearer: dict[str, str], status: int
) -> None:
    query = {"to": fake_provider.api("/open"), "status": str(status)}
    answer = web.post(fake_provider.api("/redirect"), params=query, data=b"x", headers=bearer, timeout=5)
    assert answer.history[0].status_code == status
    assert answer.json()["authorization"] is True
    assert answer.json()["method"] == ("GET" if status == 302 else "POST")
    assert web.get(fake_provider.api("/open"), timeout=5).json()["authorization"] is False


def test_the_resource_of_a_token_is_shown_by_the_api(
    fake_provider: FakeProvider, web: requests.Session, refresh: Ask
) -> None:
    token = fake_provider.issue()["refresh_token"]
    access_token = refresh(fake_provider, token, resource="https://api.example").json()["access_token"]
    headers = {"Authorization": f"Bearer {access_token}"}
    answer = web.get(fake_provider.api("/runs"), headers=headers, timeout=5).json()
    assert answer["resource"] == "https://api.example"


# The server.


def test_a_connection_serves_many_requests(fake_provider: FakeProvider) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fake_provider.port, timeout=5)
    with closing(connection):
        connection.connect()
        first = connection.sock
        for _ in range(20):
            connection.request("POST", "/token", "grant_type=refresh_token")
            assert connection.getresponse().read()
            assert connection.sock is first


def test_a_client_that_dies_while_sending_spends_nothing_and_leaves_the_server_well(
    fake_provider: FakeProvider, refresh: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    token = fake_provider.issue()["refresh_token"]
    form = f"grant_type=refresh_token&client_id=notebook&refresh_token={token}"
    head = "POST /token HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fake_provider.port)) as connection:
        connection.sendall((head + form).encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
    assert fake_provider.stats == Stats()
    assert refresh(fake_provider, token).ok
    assert capfd.readouterr().err == ""


def test_a_stopped_provider_refuses_connections_and_remembers_everything_when_started_again(
    fake_provider: FakeProvider, web: requests.Session, refresh: Ask
) -> None:
    issuer, token = fake_provider.issuer, fake_provider.issue()["refresh_token"]
    web.get(f"{issuer}/jwks", timeout=5)  # leaves a connection open
    fake_provider.stop()
    with pytest.raises(requests.ConnectionError):
        web.get(f"{issuer}/jwks", timeout=5)
    fake_provider.start()
    assert fake_provider.issuer == issuer
    assert refresh(fake_provider, token).ok


def test_the_log_tells_what_happened_and_holds_no_token(fake_provider: FakeProvider, refresh: Ask) -> None:
    token = fake_provider.issue()["refresh_token"]
    refresh(fake_provider, token)
    refresh(fake_provider, token)
    assert [event.kind for event in fake_provider.log] == ["token", "refresh", "token", "replay", "refused"]
    assert {event.fingerprint for event in fake_provider.log} == {fingerprint(token)}
    assert all(event.grant_type == "refresh_token" for event in fake_provider.log)
    assert token not in repr(fake_provider.log)
    fake_provider.reset_stats()
    assert (fake_provider.log, fake_provider.stats) == ([], Stats())


def test_importing_the_package_and_the_plugin_imports_no_server() -> None:
    code = (
        "import sys, loginonce.testing, loginonce.testing.plugin;"
        "print(sorted({'flask', 'werkzeug', 'authlib', 'joserfc'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_home_fixture_is_an_empty_private_folder(
    loginonce_home: Path,
) -> None:
    assert os.environ["LOGINONCE_HOME"] == str(loginonce_home)
    assert list(loginonce_home.iterdir()) == []
    assert loginonce_home.stat().st_mode & 0o777 == 0o700
