"""A JSON back end over real HTTP, and its logins: renewed by the same loop, store and rules as any provider's."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from scripted import Scripted, answer, saying

from loginonce.backend import Backend
from loginonce.errors import ConfigurationError, ErrorResponse, InvalidGrant, LoginRequired, TransportError
from loginonce.manners import read_manners
from loginonce.model import Client, Grant, GrantKey, Secret
from loginonce.refresh import Policy, grant_of_login
from loginonce.source import LoginSource
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault, Grace
from loginonce.wire import Busy, Granted, Lost, Misconfigured, Refused, TokenAnswer, Unsent

Serve = Callable[..., Scripted]
KEY = GrantKey("https://shop.example.org", "notebook")


def spoken(base: str, **table: Any) -> Backend:
    whole = {"login": "/auth/login", "refresh": "/auth/refresh", "logout": "/auth/logout", **table}
    return Backend(base, read_manners(whole, base, "the test"), Client("notebook"))


@pytest.fixture
def backend(fake_provider: FakeProvider) -> Backend:
    return spoken(fake_provider.issuer)


def a_grant(answer: TokenAnswer, **members: Any) -> Grant:
    return replace(grant_of_login(KEY, answer, None, asked_at=time.time(), scope=frozenset()), **members)


def renewed(backend: Backend, grant: Grant, budget: float = 5.0) -> Any:
    return backend.refresh(grant, resource="", for_scope="", budget=budget)


def sent(server: Scripted) -> tuple[str, dict[str, Any]]:
    """Head and body of the one request that a server saw."""
    (request,) = server.requests
    head, _, body = request.decode().partition("\r\n\r\n")
    return head, json.loads(body)


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_password_brings_tokens_and_whose_they_are(backend: Backend) -> None:
    answer = backend.password("ada", "lovelace", scope="")
    assert answer.refresh_token is not None
    assert answer.expires_in == pytest.approx(300, abs=2)
    assert backend.identify(answer) == {"sub": "ada", "name": "Ada Lovelace"}
    assert backend.identify(TokenAnswer(Secret("from elsewhere"))) == {}


def test_a_wrong_password_is_an_invalid_grant(backend: Backend) -> None:
    with pytest.raises(InvalidGrant, match="bad_credentials"):
        backend.password("ada", "wrong", scope="")


def test_a_refresh_token_is_exchanged_and_its_replay_refused(backend: Backend, fake_provider: FakeProvider) -> None:
    grant = a_grant(backend.password("ada", "lovelace", scope=""))
    assert backend.prepare() is None
    first, second = renewed(backend, grant), renewed(backend, grant)
    assert isinstance(first, Granted)
    assert first.answer.refresh_token not in (None, grant.refresh_token)
    assert isinstance(second, Refused)
    assert fake_provider.stats.replays == 1


def test_method_names_headers_and_constant_members_go_as_configured(serve: Serve) -> None:
    server = serve(saying(answer(b'{"accessToken": "a"}')))
    backend = spoken(
        f"http://127.0.0.1:{server.port}",
        refresh="PUT /v2/token",
        request={"refresh_token": "session.key", "access_token": "session.old"},
        extra={"device": "laptop"},
        headers={"X-Api-Key": "k", "Content-Type": "application/vnd.api+json"},
    )
    reply = renewed(backend, a_grant(TokenAnswer(Secret("old"), refresh_token=Secret("r"))))
    head, body = sent(server)
    assert isinstance(reply, Granted)
    assert head.startswith("PUT /v2/token HTTP/1.1\r\n")
    assert "x-api-key: k" in head.lower()
    assert "content-type: application/vnd.api+json" in head.lower()
    assert body == {"device": "laptop", "session": {"key": "r", "old": "old"}}


def test_a_secret_never_travels_in_an_address(serve: Serve) -> None:
    server = serve(saying(answer(b'{"accessToken": "a"}')))
    spoken(f"http://127.0.0.1:{server.port}").password("ada", "canary", scope="")
    head, body = sent(server)
    assert "canary" not in head
    assert body == {"username": "ada", "password": "canary"}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(b"{}", "401 Unauthorized"), Refused),
        (answer(b"<html>", "403 Forbidden"), Lost),
        (answer(b"{}", "503 Service Unavailable", retry_after="3"), Busy),
        (answer(b"", "302 Found", location="http://127.0.0.1:9/"), Lost),
        (answer(b"", "404 Not Found"), Misconfigured),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", Lost),
    ],
    ids=["refused", "a page", "busy", "a redirect", "no such place", "cut off"],
)
def test_what_comes_of_a_refresh_is_a_reply(serve: Serve, reply: bytes, kind: type) -> None:
    server = serve(saying(reply))
    backend = spoken(f"http://127.0.0.1:{server.port}")
    assert isinstance(renewed(backend, a_grant(TokenAnswer(Secret("a"), refresh_token=Secret("r")))), kind)
    assert server.connections == 1


@pytest.fixture
def gone() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_what_was_never_sent_is_known_not_to_be_spent(gone: str) -> None:
    assert isinstance(renewed(spoken(gone), a_grant(TokenAnswer(Secret("a")), refresh_token=Secret("r"))), Unsent)


def test_a_message_that_cannot_be_written_is_a_fault_of_the_settings(
    backend: Backend, fake_provider: FakeProvider
) -> None:
    odd = spoken(fake_provider.issuer, request={"refresh_token": "a.b"}, extra={"a": 1})
    assert isinstance(renewed(odd, a_grant(TokenAnswer(Secret("a"), refresh_token=Secret("r")))), Misconfigured)
    assert fake_provider.stats.token_requests == 0


def test_without_a_place_for_it_nothing_is_renewed(fake_provider: FakeProvider) -> None:
    backend = spoken(fake_provider.issuer, refresh="")
    unprepared = backend.prepare()
    assert isinstance(unprepared, Misconfigured)
    assert renewed(backend, a_grant(TokenAnswer(Secret("a"), refresh_token=Secret("r")))) == unprepared
    assert a_grant(backend.password("ada", "lovelace", scope="")).renewal == "none"


def test_a_log_out_is_told_with_the_token_that_there_is(serve: Serve) -> None:
    for hint, header, body in (("refresh_token", "", {"token": "t"}), ("access_token", "authorization: bearer t", {})):
        server = serve(saying(answer(b"", "204 No Content")))
        assert spoken(f"http://127.0.0.1:{server.port}").revoke(Secret("t"), hint)
        head, told = sent(server)
        assert header in head.lower()
        assert ("authorization" in head.lower()) is bool(header)
        assert told == body


def test_a_log_out_that_fails_is_only_a_warning(serve: Serve, gone: str, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(saying(answer(b"", "500 Oops")))
    for base in (f"http://127.0.0.1:{server.port}", gone):
        assert not spoken(base).revoke(Secret("canary"), "refresh_token")
    assert len(caplog.records) == 2
    assert "canary" not in caplog.text


def test_without_a_place_for_it_nobody_is_told_of_a_log_out(fake_provider: FakeProvider) -> None:
    backend = spoken(fake_provider.issuer, logout="")
    assert not backend.revoke(Secret("t"), "refresh_token")
    assert backend.end_session_url() == ""
    assert backend.dpop_key() is None
    assert backend.introspect(Secret("t"), "refresh_token") is None
    assert backend.knows(a_grant(TokenAnswer(Secret("t"))).tokens[0], "ada") is None
    assert backend.server.revocation_endpoint == ""


def test_a_back_end_that_is_out_of_order_says_nothing_of_the_password(serve: Serve, gone: str) -> None:
    server = serve(saying(answer(b"", "500 Oops")))
    backend = spoken(f"http://127.0.0.1:{server.port}")
    with pytest.raises(ErrorResponse) as caught:
        backend.password("ada", "canary", scope="")
    assert not isinstance(caught.value, InvalidGrant)
    with pytest.raises(TransportError):
        spoken(gone).password("ada", "canary", scope="")


def test_it_shows_its_address_and_no_more(fake_provider: FakeProvider) -> None:
    backend = spoken(fake_provider.issuer, headers={"X-Key": "canary"})
    assert repr(backend) == f"Backend('{fake_provider.issuer}')"
    assert "canary" not in repr(backend.manners)
    assert backend.server.grant_types_supported == ("password",)


# ── a login of it ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def source(backend: Backend) -> Iterator[LoginSource]:
    """A login with a token that is good for five minutes."""
    source = LoginSource(KEY, MemoryStore(), backend, policy=Policy(refusal_wait=0.0))
    answer = backend.password("ada", "lovelace", scope="")
    source.change(lambda _: a_grant(answer))
    yield source
    while any(thread.name == "loginonce-refresh" for thread in threading.enumerate()):
        time.sleep(0.005)


def left(source: LoginSource, seconds: float) -> None:
    """Have the access token end in so many seconds of 300."""
    now = time.time()

    def aged(grant: Grant | None) -> Grant:
        assert grant is not None
        tokens = tuple(replace(t, received_at=now + seconds - 300, expires_at=now + seconds) for t in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    source.change(aged)


def test_a_token_near_its_end_is_renewed_and_nobody_waits(source: LoginSource, fake_provider: FakeProvider) -> None:
    left(source, 10)
    fake_provider.faults.add(Fault.delay(0.2, after=False))
    old = source.token()
    deadline = time.monotonic() + 10
    while source.token() == old:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert fake_provider.stats.refreshes == 1


def test_any_number_of_threads_renew_an_ended_token_once(source: LoginSource, fake_provider: FakeProvider) -> None:
    left(source, -1)
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(lambda _: source.token().access_token, range(16)))
    assert len(tokens) == 1
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


def test_a_refresh_token_that_is_rotated_replaces_its_predecessor(
    source: LoginSource, fake_provider: FakeProvider
) -> None:
    for _ in range(3):
        source.renew()
    assert (fake_provider.stats.refreshes, fake_provider.stats.replays) == (3, 0)
    grant = source.grant()
    assert grant is not None
    assert grant.generation == 3


def test_a_refresh_token_that_is_not_rotated_is_kept(source: LoginSource, fake_provider: FakeProvider) -> None:
    fake_provider.rotation = False
    before = source.grant()
    for _ in range(3):
        source.renew()
    after = source.grant()
    assert before is not None
    assert after is not None
    assert after.refresh_token == before.refresh_token
    assert (fake_provider.stats.refreshes, fake_provider.stats.refusals) == (3, 0)


@pytest.mark.hazard(1)
def test_an_answer_that_is_lost_after_the_rotation_is_asked_for_again_within_the_grace(
    source: LoginSource, fake_provider: FakeProvider
) -> None:
    fake_provider.grace = Grace.sibling(30)
    source.policy = Policy(reuse_interval=30)
    left(source, -1)
    fake_provider.faults.add(Fault.drop_after())
    with pytest.raises(TransportError) as lost:
        source.token()
    time.sleep(lost.value.retry_after or 0)
    assert source.token().access_token
    assert (fake_provider.stats.reuses, fake_provider.stats.replays) == (1, 0)


@pytest.mark.hazard(1)
def test_an_answer_that_is_lost_costs_a_sign_in_where_the_policy_says_so(
    source: LoginSource, fake_provider: FakeProvider
) -> None:
    source.policy = Policy(lost="login")
    left(source, -1)
    fake_provider.faults.add(Fault.drop_after())
    with pytest.raises(TransportError) as lost:
        source.token()
    time.sleep(lost.value.retry_after or 0)
    with pytest.raises(LoginRequired) as caught:
        source.token()
    assert caught.value.reason == "lost"
    assert (fake_provider.stats.token_requests, fake_provider.stats.replays) == (1, 0)


@pytest.mark.hazard(28)
def test_a_login_that_was_ended_elsewhere_is_asked_for_once(source: LoginSource, fake_provider: FakeProvider) -> None:
    fake_provider.end_sessions()
    left(source, -1)
    for _ in range(3):
        with pytest.raises(LoginRequired) as caught:
            source.token()
        assert caught.value.reason == "ended"
    assert fake_provider.stats.token_requests == 1


def test_what_takes_oauth_is_told_that_there_is_none(source: LoginSource) -> None:
    with pytest.raises(ConfigurationError, match="knows no OAuth"):
        source.oauth  # noqa: B018


@pytest.mark.hazard(27)
def test_an_outage_ends_no_login(source: LoginSource, fake_provider: FakeProvider) -> None:
    left(source, -1)
    fake_provider.faults.add(Fault.status(502))
    with pytest.raises(TransportError) as later:
        source.token()
    time.sleep(later.value.retry_after or 0)
    assert source.token().access_token
    assert fake_provider.stats.replays == 0
