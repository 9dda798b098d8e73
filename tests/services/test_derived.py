"""What is had by way of a login: exchanged tokens, the word on whether it is alive, and a client of one's own."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loginonce import derived as module
from loginonce.client import Discovery, Provider
from loginonce.derived import ExchangedSource, check_login
from loginonce.errors import ConfigurationError, ErrorResponse, InvalidGrant, LoginRequired, StoreError
from loginonce.home import state_folder
from loginonce.introspection import LoginCheck
from loginonce.model import Client, Grant, GrantKey, Secret, TokenSet
from loginonce.providers import ANY, Dialect
from loginonce.refresh import Policy, grant_of_logout
from loginonce.register import register, registered_secret, save_registration
from loginonce.registration import Registration
from loginonce.source import LoginSource
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault

Factory = Callable[..., FakeProvider]
FILES = "https://files.example.org"
RUNS = "https://runs.example.org"
HANDED = "http://127.0.0.1/callback"


def a_login(fake: FakeProvider, *, life: float = 300.0, **members: object) -> LoginSource:
    """A source of tokens of somebody who signed in a minute ago."""
    client_id = str(members.pop("client_id", fake.public_client_id))
    client = Client(client_id, Secret(fake.confidential_client[1]) if client_id == "service" else None)
    provider = Provider(Discovery(fake.issuer, dialect=members.pop("dialect", ANY)), client)  # type: ignore[arg-type]
    issued = fake.issue(client_id=client_id)
    now = time.time()
    token = TokenSet(Secret(issued["access_token"]), now - 60, now + life, scope=issued["scope"])
    key = GrantKey(fake.issuer, client_id)
    made = {"refresh_token": Secret(issued["refresh_token"]), "tokens": (token,), "subject": "ada", **members}
    source = LoginSource(key, MemoryStore(), provider, policy=Policy(refusal_wait=0.0))
    source.change(lambda _: Grant(key, 1000, scope=issued["scope"], **made))  # type: ignore[arg-type]
    return source


def end(source: LoginSource) -> None:
    source.change(lambda previous: grant_of_logout(source.key, previous, time.time()))


def asked(fake: FakeProvider, *kinds: str) -> int:
    return sum(event.kind in kinds for event in fake.log)


# ── several access tokens under one refresh token ────────────────────────────────────────────────────────


def test_a_second_api_gets_a_token_by_the_same_refresh_token(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(strict_resources=True)
    source = a_login(fake, resources=(FILES, RUNS))
    granted = fake.state.find(str(source.grant().refresh_token))  # type: ignore[union-attr]
    assert granted is not None
    granted.family.resources = (FILES, RUNS)
    runs, files = source.narrowed(resource=RUNS), source.narrowed(resource=FILES)
    tokens = {runs.token().access_token, files.token().access_token, source.token().access_token}
    assert len(tokens) == 3
    assert {runs.token().access_token, files.token().access_token, source.token().access_token} == tokens
    assert (runs.resource, fake.stats.refreshes, fake.stats.replays) == (RUNS, 2, 0)
    grant = source.grant()
    assert grant is not None
    assert {token.resource for token in grant.tokens} == {"", RUNS, FILES}


def test_no_refresh_token_is_spent_for_an_api_that_the_login_was_not_asked_for(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(strict_resources=True)
    source = a_login(fake, resources=(FILES,))
    with pytest.raises(LoginRequired) as caught:
        source.narrowed(resource=RUNS).token()
    assert (caught.value.reason, RUNS in str(caught.value)) == ("scope", True)
    assert fake.stats.token_requests == 0
    assert source.renew().access_token  # the login is as good as before
    assert fake.stats.replays == 0


def test_a_token_for_less_scope_is_kept_beside_the_others(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider)
    less = source.narrowed(scope="openid")
    assert less.token().scope == "openid"
    assert less.renew().scope == "openid"
    assert source.token().scope == "openid offline_access"
    assert fake_provider.stats.replays == 0


def test_more_scope_than_the_login_has_needs_a_sign_in(fake_provider: FakeProvider) -> None:
    with pytest.raises(LoginRequired) as caught:
        a_login(fake_provider).narrowed(scope="admin").token()
    assert caught.value.reason == "scope"
    assert fake_provider.stats.token_requests == 0


def test_the_fast_path_of_a_narrower_token_is_its_own(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider)
    less = source.narrowed(scope="openid")
    first = less.token()
    assert [less.token(), less.token()] == [first, first]
    assert source.token() != first
    assert fake_provider.stats.token_requests == 1


def test_a_refresh_that_brings_less_scope_is_told(
    fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    source = a_login(fake_provider)
    source.change(
        lambda grant: replace(
            grant,  # type: ignore[type-var]
            attempt=grant.attempt + 1,  # type: ignore[union-attr]
            tokens=tuple(replace(each, scope="openid offline_access admin") for each in grant.tokens),  # type: ignore[union-attr]
        )
    )
    source.renew()
    assert "granted less than before: without admin" in caplog.text
    caplog.clear()
    source.renew()
    assert "granted less" not in caplog.text


# ── exchange ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def exchanging(fake_provider_factory: Factory) -> FakeProvider:
    return fake_provider_factory(exchange_audiences={"files", FILES}, exchange_refusal="invalid_grant")


def test_a_token_is_exchanged_once_and_kept(exchanging: FakeProvider) -> None:
    source = a_login(exchanging)
    files = ExchangedSource(source, audience="files")
    first = files.token()
    assert first.access_token != source.token().access_token
    assert files.token() is first
    assert exchanging.stats.token_requests == 1
    live = exchanging.state.live_access_token(first.access_token, exchanging.now())
    assert live is not None
    assert (live.resource, live.family.subject) == ("files", "ada")


def test_an_exchanged_token_is_made_anew_when_it_ends_or_is_refused(exchanging: FakeProvider) -> None:
    files = ExchangedSource(a_login(exchanging), audience="files")
    first = files.token()
    second = files.token(rejected=first)
    assert second != first
    assert files.token(rejected=first) is second
    exchanging.access_token_lifetime = 0.001
    ended = files.token(rejected=second)
    assert files.token() != ended


def test_after_a_log_out_or_another_log_in_no_exchanged_token_is_served(exchanging: FakeProvider) -> None:
    source = a_login(exchanging)
    files = ExchangedSource(source, audience="files")
    first = files.token()
    source.change(lambda grant: replace(grant, epoch=grant.epoch + 1))  # type: ignore[type-var,union-attr]
    assert files.token() != first
    end(source)
    with pytest.raises(LoginRequired):
        files.token()


@pytest.mark.parametrize("refusal", ["invalid_grant", "invalid_token", "invalid_request"])
def test_an_access_token_that_was_ended_is_renewed_and_exchanged_once_more(
    exchanging: FakeProvider, refusal: str
) -> None:
    source = a_login(exchanging)
    exchanging.exchange_refusal = refusal
    exchanging.revoke_access_tokens()
    assert ExchangedSource(source, audience="files").token()
    assert exchanging.stats.refreshes == 1


def test_an_access_token_is_renewed_also_where_the_provider_refuses_it_in_words_of_its_own(
    exchanging: FakeProvider,
) -> None:
    source = a_login(exchanging, dialect=Dialect(refusals=("bad_token",)))
    exchanging.exchange_refusal = "bad_token"
    exchanging.revoke_access_tokens()
    assert ExchangedSource(source, audience="files").token()
    assert exchanging.stats.refreshes == 1


@pytest.mark.parametrize("subject", ["ada", ""])
def test_a_request_that_is_wrong_spends_no_refresh_token(exchanging: FakeProvider, subject: str) -> None:
    source = a_login(exchanging, subject=subject)
    exchanging.faults.add(Fault.answer({"error": "invalid_request"}, 400), where="token")
    with pytest.raises(ErrorResponse) as caught:
        ExchangedSource(source, audience="files").token()
    assert (caught.value.error, exchanging.stats.refreshes) == ("invalid_request", 0)


def test_userinfo_is_not_asked_whether_a_token_for_another_api_was_ended(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(exchange_audiences={"files"})
    source = a_login(fake, resources=(RUNS,))
    granted = fake.state.find(str(source.grant().refresh_token))  # type: ignore[union-attr]
    assert granted is not None
    granted.family.resources = (RUNS,)
    runs = source.narrowed(resource=RUNS)
    runs.token()
    fake.revoke_access_tokens()
    with pytest.raises(ErrorResponse):
        ExchangedSource(runs, audience="files").token()
    assert (asked(fake, "userinfo"), fake.stats.refreshes) == (0, 1)


def test_an_exchange_that_is_refused_is_told_and_refreshes_nothing(exchanging: FakeProvider) -> None:
    with pytest.raises(ErrorResponse) as caught:
        ExchangedSource(a_login(exchanging), audience="elsewhere").token()
    assert caught.value.error == "invalid_target"
    assert exchanging.stats.refreshes == 0


def test_an_exchange_that_no_newer_token_mends_is_told(exchanging: FakeProvider) -> None:
    source = a_login(exchanging)
    source.renew()
    exchanging.revoke_access_tokens()
    with pytest.raises(InvalidGrant):  # received a moment ago: yet another would not mend it
        ExchangedSource(source, audience="files").token()
    assert exchanging.stats.refreshes == 1


def test_sixteen_threads_exchange_once(exchanging: FakeProvider) -> None:
    files, found = ExchangedSource(a_login(exchanging), resource=FILES), []
    threads = [threading.Thread(target=lambda: found.append(files.token())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert exchanging.stats.token_requests == 1


@pytest.mark.hazard(13)
def test_a_forked_child_exchanges_by_itself(exchanging: FakeProvider) -> None:
    files = ExchangedSource(a_login(exchanging), audience="files")
    with files._mutex:  # another thread of the parent is at it
        child = os.fork()
        if child == 0:
            os._exit(0 if files._mutex.acquire(timeout=5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.hazard(13)
def test_in_a_forked_child_nobody_holds_the_mutex(exchanging: FakeProvider) -> None:
    files = ExchangedSource(a_login(exchanging), audience="files")
    files._mutex.acquire()
    module._after_fork()
    assert files.token()


# ── whether it is alive ──────────────────────────────────────────────────────────────────────────────────

INTROSPECTION = {"introspection": "ok"}


def test_introspection_of_the_refresh_token_says_that_a_login_is_alive(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(**INTROSPECTION)
    assert check_login(a_login(fake)) == LoginCheck(True, "introspection")
    assert (asked(fake, "introspect"), asked(fake, "token", "userinfo")) == (1, 0)


def test_a_login_whose_tokens_are_both_inactive_is_over_and_the_record_stays(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(**INTROSPECTION)
    source = a_login(fake)
    before = source.grant()
    fake.end_sessions()
    said = check_login(source)
    assert (said.active, said.by) == (False, "introspection")
    assert source.grant() == before
    assert fake.stats.token_requests == 0


def test_a_provider_that_introspects_access_tokens_only_leaves_a_doubt(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(**INTROSPECTION, introspects_refresh_tokens=False)
    said = check_login(a_login(fake))
    assert (said.active, said.by) == (None, "introspection")
    assert "next renewal decides" in said.detail
    assert fake.stats.token_requests == 0


@pytest.mark.parametrize("introspection", ["absent", "refuse"])
def test_where_introspection_is_not_to_be_had_userinfo_is_asked(
    fake_provider_factory: Factory, introspection: str
) -> None:
    fake = fake_provider_factory(introspection=introspection)
    assert check_login(a_login(fake)) == LoginCheck(True, "userinfo")
    assert fake.stats.token_requests == 0


def test_a_refused_access_token_alone_is_a_doubt_and_spends_nothing(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider)
    fake_provider.revoke_access_tokens()
    said = check_login(source)
    assert (said.active, said.by) == (None, "userinfo")
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize("token", [{"resource": FILES}, {}], ids=["for an API", "of nobody known"])
def test_a_token_that_is_not_for_userinfo_is_not_shown_there(
    fake_provider: FakeProvider, token: dict[str, str]
) -> None:
    now = time.time()
    held = TokenSet(Secret("at_x"), now - 60, now + 300, **token)
    source = a_login(fake_provider, tokens=(held,), subject="" if not token else "ada", resources=(FILES,))
    if token:
        source = source.narrowed(resource=FILES)
    assert check_login(source) == LoginCheck(None, "", "the provider does not say")
    assert asked(fake_provider, "userinfo") == 0


def test_a_provider_that_is_away_says_nothing(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(**INTROSPECTION)
    source = a_login(fake)
    assert source.provider.server
    fake.stop()
    assert check_login(source).active is None


def test_a_provider_without_userinfo_says_nothing(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider)
    source.provider._server = replace(source.provider.server, userinfo_endpoint="")
    assert check_login(source).active is None


def test_a_login_whose_access_token_has_ended_is_renewed_as_the_next_request_would(fake_provider: FakeProvider) -> None:
    assert check_login(a_login(fake_provider, life=-1.0)) == LoginCheck(True, "renewal")
    assert fake_provider.stats.refreshes == 1


def test_a_login_that_its_renewal_finds_ended_is_over(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider, life=-1.0)
    fake_provider.end_sessions()
    said = check_login(source)
    assert (said.active, said.by) == (False, "renewal")
    assert check_login(source).by == "record"
    assert fake_provider.stats.token_requests == 1


def test_a_renewal_that_does_not_come_about_is_a_doubt(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider, life=-1.0)
    fake_provider.faults.add(Fault.status(503))
    said = check_login(source)
    assert (said.active, said.by) == (None, "")


def test_a_store_that_fails_is_no_verdict(fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    source = a_login(fake_provider, life=-1.0)

    def broken(*_: object, **__: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(source.store, "try_lock", broken)
    with pytest.raises(StoreError):
        check_login(source)


def test_where_nobody_is_signed_in_nobody_is_asked(fake_provider: FakeProvider) -> None:
    source = a_login(fake_provider)
    end(source)
    assert check_login(source) == LoginCheck(False, "record", "somebody signed out")
    other = LoginSource(GrantKey(fake_provider.issuer, "x"), MemoryStore(), source.provider)
    assert check_login(other) == LoginCheck(False, "record", "nobody is signed in")
    assert asked(fake_provider, "token", "userinfo", "introspect") == 0


def test_a_login_without_a_refresh_token_is_asked_for_by_its_access_token(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(**INTROSPECTION)
    source = a_login(fake, client_id="service", refresh_token=None, renewal="none")
    assert check_login(source) == LoginCheck(True, "introspection")


# ── a client of one's own ────────────────────────────────────────────────────────────────────────────────


def stranger(fake: FakeProvider) -> Provider:
    return Provider(Discovery(fake.issuer), Client("-"))


def admitted(fake: FakeProvider, **given: object) -> Registration:
    usual = {"client_name": "lab", "redirect_uris": (HANDED,), "scope": "openid"}
    return register(stranger(fake), **usual | given)  # type: ignore[arg-type]


def test_a_stranger_becomes_a_client(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(registration="open")
    made = admitted(fake)
    assert made.client.client_secret is None
    assert made.client.token_endpoint_auth_method == "none"
    assert "urn:ietf:params:oauth:grant-type:device_code" in made.members["grant_types"]
    assert made.registration_access_token
    assert Provider(Discovery(fake.issuer), made.client).device_authorization(scope="openid").user_code


def test_a_provider_may_want_a_token_from_whom_it_lets_in(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(registration="let-me-in")
    with pytest.raises(ErrorResponse):
        admitted(fake)
    made = admitted(fake, initial_access_token=Secret("let-me-in"), confidential=True)
    assert made.client.client_secret


def test_a_provider_that_registers_nobody_is_told_with_the_way_out(fake_provider: FakeProvider) -> None:
    with pytest.raises(ConfigurationError, match="registers no clients"):
        admitted(fake_provider)


def test_device_codes_are_not_asked_for_where_there_are_none(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(registration="open")
    provider = Provider(Discovery(fake.issuer, {"grant_types_supported": ["authorization_code"]}), Client("-"))
    made = register(provider, client_name="lab", redirect_uris=(HANDED,))
    assert made.members["grant_types"] == ["authorization_code", "refresh_token"]


def test_a_registration_is_kept_where_only_we_read_it(fake_provider_factory: Factory, loginonce_home: Path) -> None:
    fake = fake_provider_factory(registration="open")
    made = admitted(fake, confidential=True)
    path = save_registration(fake.issuer, made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["registration_access_token"] == made.registration_access_token
    assert registered_secret(fake.issuer + "/", made.client.client_id) == made.client.client_secret
    assert registered_secret(fake.issuer, "another") is None
    assert registered_secret("https://elsewhere.example.org", made.client.client_id) is None


def test_a_client_without_a_secret_has_none(fake_provider_factory: Factory, loginonce_home: Path) -> None:
    fake = fake_provider_factory(registration="open")
    made = admitted(fake)
    save_registration(fake.issuer, made)
    assert registered_secret(fake.issuer, made.client.client_id) is None


def test_a_registration_that_others_could_read_or_that_is_none_is_not_used(
    fake_provider_factory: Factory, loginonce_home: Path
) -> None:
    fake = fake_provider_factory(registration="open")
    made = admitted(fake, confidential=True)
    path = save_registration(fake.issuer, made)
    path.chmod(0o644)
    assert registered_secret(fake.issuer, made.client.client_id) is None
    path.chmod(0o600)
    path.write_text("[]")
    assert registered_secret(fake.issuer, made.client.client_id) is None


def test_a_registration_that_cannot_be_saved_is_told(fake_provider_factory: Factory, loginonce_home: Path) -> None:
    fake = fake_provider_factory(registration="open")
    made = admitted(fake)
    (state_folder() / "clients").parent.mkdir(parents=True, exist_ok=True)
    (state_folder() / "clients").write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot be saved"):
        save_registration(fake.issuer, made)


# ── pushed requests ──────────────────────────────────────────────────────────────────────────────────────

ASKED = {"redirect_uri": HANDED, "scope": "openid", "state": "s", "resource": f"{FILES} {RUNS}"}


def test_a_request_goes_by_the_browser_where_nobody_wants_it_pushed(fake_provider_factory: Factory) -> None:
    assert a_login(fake_provider_factory(pushed_requests="ok")).provider.push(**ASKED) is None


def test_a_request_is_pushed_where_the_provider_requires_it(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(pushed_requests="required", pushed_expires_in=45)
    for client_id in (fake.public_client_id, "service"):
        provider = a_login(fake, client_id=client_id).provider
        pushed = provider.push(**ASKED)
        assert pushed is not None
        assert pushed.expires_in == 45.0
        assert provider.authorization_url(request_uri=pushed.request_uri).count("=") == 3


def test_a_request_is_pushed_where_our_settings_ask_for_it(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(pushed_requests="ok")
    server = {"require_pushed_authorization_requests": True}
    provider = Provider(Discovery(fake.issuer, server), Client(fake.public_client_id))
    assert provider.push(**ASKED) is not None


@pytest.mark.parametrize("endpoint", ["", "/par"], ids=["no place named", "nothing there"])
def test_where_there_is_no_place_for_it_the_request_goes_by_the_browser_and_that_is_told(
    fake_provider: FakeProvider, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    server: dict[str, object] = {"require_pushed_authorization_requests": True}
    if endpoint:
        server["pushed_authorization_request_endpoint"] = fake_provider.issuer + endpoint
    provider = Provider(Discovery(fake_provider.issuer, server), Client(fake_provider.public_client_id))
    assert provider.push(**ASKED) is None
    assert "goes by the browser" in caplog.text


def test_a_pushed_request_that_is_refused_is_told(fake_provider_factory: Factory) -> None:
    fake = fake_provider_factory(pushed_requests="required")
    provider = Provider(Discovery(fake.issuer), Client("nobody"))
    with pytest.raises(ErrorResponse):
        provider.push(**ASKED)
