"""A `Session` whose tokens are bound to a key (DPoP): proofs, nonces, redirects, resends; and nothing of it stays."""

from __future__ import annotations

import copy
import io
import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc.jwk import ECKey

import loginonce
from loginonce import LoginRequired, bearer, dpop
from loginonce.model import Secret, TokenSet
from loginonce.testing import FakeProvider

Factory = Callable[..., FakeProvider]
SCOPE = "openid offline_access"


@pytest.fixture(autouse=True)
def no_nonces(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Nothing is known of any API."""
    known: dict[str, str] = {}
    monkeypatch.setattr(bearer, "_nonces", known)
    return known


@pytest.fixture
def fake(fake_provider_factory: Factory) -> FakeProvider:
    return fake_provider_factory(dpop="required", dpop_nonces=True)


@pytest.fixture
def key() -> Secret:
    return Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))


@pytest.fixture
def lab(fake: FakeProvider, key: Secret, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session that is signed in as Ada, for five minutes."""
    with loginonce.Session(fake.issuer, client_id=fake.public_client_id, scope=SCOPE, dpop=True) as session:
        session.login(tokens={**fake.issue(jkt=dpop.thumbprint(key)), "dpop_key": key})
        yield session


def refuse(fake: FakeProvider, session: loginonce.Session) -> None:
    """Have the API refuse a token that looks good, and is old enough to be renewed for that."""
    fake.revoke_access_tokens()

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = tuple(replace(token, received_at=time.time() - 60) for token in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    session.source.change(older)


def nonces_asked(fake: FakeProvider) -> int:
    return sum(event.kind == "dpop_nonce" for event in fake.log)


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flow", ["browser", "device"])
def test_a_sign_in_makes_a_key_that_is_kept_with_the_login(fake: FakeProvider, loginonce_home: Path, flow: str) -> None:
    class Ada:
        def show(self, progress: Any) -> None:
            if progress.state == "pending":
                fake.approve(progress.prompt.user_code or progress.prompt.url)

    fake.device_interval = 0.05  # type: ignore[assignment]
    with loginonce.Session(fake.issuer, client_id=fake.public_client_id, scope=SCOPE, dpop=True) as first:
        first.login(flow, presenter=Ada())
        grant = first.source.grant()
        assert grant is not None
        assert grant.dpop_key == first.source.provider.dpop_key()
    with loginonce.Session(fake.issuer, client_id=fake.public_client_id, scope=SCOPE) as second:
        assert second.source.token().dpop_key == grant.dpop_key
        assert second.get(fake.api("/runs")).json()["subject"] == "ada"
        assert second.source.renew().dpop_key == grant.dpop_key


def test_a_service_with_a_key(fake: FakeProvider, loginonce_home: Path) -> None:
    client_id, secret = fake.confidential_client
    given = {"client_id": client_id, "client_secret": secret, "grant": "client_credentials", "dpop": True}
    with loginonce.Session(fake.issuer, **given) as robot:
        with pytest.raises(LoginRequired):
            robot.get(fake.api("/runs"))
        robot.login()
        assert robot.get(fake.api("/runs")).json()["subject"] == client_id


def test_who_is_signed_in_without_a_key_is_asked_to_sign_in_for_one(
    fake_provider: FakeProvider, loginonce_home: Path
) -> None:
    given = {"client_id": fake_provider.public_client_id, "scope": SCOPE}
    with loginonce.Session(fake_provider.issuer, **given) as plain:
        plain.login(tokens=fake_provider.issue())
        with loginonce.Session(fake_provider.issuer, dpop=True, **given) as bound:
            with pytest.raises(LoginRequired, match="DPoP"):
                bound.get(fake_provider.api("/runs"))
            assert not bound.logged_in
        assert plain.get(fake_provider.api("/runs")).ok


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(37)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_nonce_of_an_api_costs_one_request(fake: FakeProvider, lab: loginonce.Session, method: str) -> None:
    for _ in range(3):
        answer = lab.request(method, fake.api("/runs"), params={"a": "1"}, data=b"body")
        assert (answer.status_code, answer.json()["method"], answer.json()["body_length"]) == (200, method, 4)
    assert (nonces_asked(fake), fake.stats.token_requests) == (1, 0)
    fake.renew_dpop_nonces()
    assert lab.request(method, fake.api("/runs")).ok
    assert nonces_asked(fake) == 2


def test_each_answer_may_bring_the_nonce_for_the_next_request(
    fake: FakeProvider, lab: loginonce.Session, no_nonces: dict[str, str]
) -> None:
    lab.get(fake.api("/runs"))
    no_nonces.clear()
    fake.dpop_nonces = False
    lab.get(fake.api("/runs"))  # asks for none, and tells none
    assert no_nonces == {}
    fake.dpop_nonces = True
    lab.get(fake.api("/runs"))
    assert len(no_nonces) == 1


@pytest.mark.hazard(22, 37)
def test_a_refused_token_and_an_old_nonce_cost_one_renewal_and_two_resends(
    fake: FakeProvider, lab: loginonce.Session
) -> None:
    assert lab.get(fake.api("/runs")).ok
    refuse(fake, lab)
    fake.reset_stats()
    fake.renew_dpop_nonces()
    assert lab.get(fake.api("/runs")).ok
    assert (fake.stats.refreshes, fake.stats.replays) == (1, 0)
    assert fake.stats.api_calls <= 3


@pytest.mark.hazard(22)
def test_an_api_that_never_has_enough_of_nonces_is_asked_twice(
    fake: FakeProvider, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = fake.proofs.judge
    monkeypatch.setattr(fake.proofs, "judge", lambda *given: (fake.renew_dpop_nonces(), judge(*given))[1])
    assert lab.get(fake.api("/runs")).status_code == 401
    assert (fake.stats.api_calls, fake.stats.token_requests) == (2, 0)


@pytest.mark.hazard(22)
def test_an_api_that_refuses_every_token_is_asked_twice(fake: FakeProvider, lab: loginonce.Session) -> None:
    lab.get(fake.api("/runs"))
    refuse(fake, lab)
    fake.reset_stats()
    assert lab.get(fake.api("/never")).status_code == 401
    assert (fake.stats.refreshes, fake.stats.api_calls) == (1, 2)


@pytest.mark.hazard(22)
def test_however_many_newer_tokens_there_are_and_nonces_each_is_tried_once(
    fake: FakeProvider, key: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless:
        """A source that always has another token."""

        given = 0

        def token(self, *, rejected: Any = None) -> TokenSet:
            self.given += 1
            return TokenSet(Secret(f"token-{self.given}"), 0.0, token_type="DPoP", dpop_key=key)

    judge = fake.proofs.judge
    monkeypatch.setattr(fake.proofs, "judge", lambda *given: (fake.renew_dpop_nonces(), judge(*given))[1])
    source = Endless()
    assert requests.get(fake.api("/runs"), auth=bearer.BearerAuth(source)).status_code == 401
    assert (source.given, fake.stats.api_calls) == (2, 2)


@pytest.mark.hazard(24)
def test_a_body_that_cannot_be_rewound_is_not_sent_again_for_a_nonce(
    fake: FakeProvider, lab: loginonce.Session
) -> None:
    assert lab.post(fake.api("/runs"), data=(part for part in [b"a", b"b"])).status_code == 401
    assert fake.stats.api_calls == 1
    answer = lab.post(fake.api("/runs"), data=(part for part in [b"a", b"b"]))  # the nonce is known now
    assert (answer.status_code, answer.json()["body_length"]) == (200, 2)


@pytest.mark.hazard(24)
def test_a_file_is_sent_again_whole(fake: FakeProvider, lab: loginonce.Session) -> None:
    assert lab.post(fake.api("/runs"), data=io.BytesIO(b"x" * 1000)).json()["body_length"] == 1000
    assert nonces_asked(fake) == 1


def test_each_hop_of_a_redirect_has_a_proof_of_its_own(fake: FakeProvider, lab: loginonce.Session) -> None:
    answer = lab.post(fake.api("/redirect"), params={"to": "/api/runs", "status": "307"}, data=b"body")
    assert (answer.status_code, answer.json()["body_length"]) == (200, 4)


@pytest.mark.hazard(25)
def test_neither_token_nor_proof_goes_to_another_origin(
    fake: FakeProvider, lab: loginonce.Session, fake_provider_factory: Factory
) -> None:
    other = fake_provider_factory()
    seen: list[dict[str, str]] = []
    exchange = other._exchange
    other._server.exchange = lambda environ, body: (  # type: ignore[union-attr]
        seen.append({name: text for name, text in environ.items() if name in ("HTTP_AUTHORIZATION", "HTTP_DPOP")}),
        exchange(environ, body),
    )[1]
    assert lab.get(fake.api("/redirect"), params={"to": other.api("/open")}).json()["authorization"] is False
    assert seen == [{}]


@pytest.mark.hazard(39)
def test_neither_token_nor_proof_is_left_on_what_a_program_keeps(fake: FakeProvider, lab: loginonce.Session) -> None:
    prepared = lab.prepare_request(requests.Request("GET", fake.api("/redirect"), params={"to": "/api/runs"}))
    answer = lab.send(prepared)
    for request in (prepared, answer.request, *(hop.request for hop in answer.history)):
        assert not {"Authorization", "DPoP"} & set(request.headers)
    kept = pickle.dumps(answer)
    assert b"eyJ" not in kept  # how every proof begins
    assert lab.source.token().access_token.encode() not in kept


@pytest.mark.hazard(37)
def test_plain_requests_prove_too(fake: FakeProvider, lab: loginonce.Session) -> None:
    for _ in range(2):
        answer = requests.get(fake.api("/runs"), auth=lab.auth)
        assert answer.status_code == 200
        assert not {"Authorization", "DPoP"} & set(answer.request.headers)
    assert nonces_asked(fake) == 1


def test_a_proof_that_went_along_with_a_redirect_is_made_anew_and_nothing_is_spent(
    fake: FakeProvider, lab: loginonce.Session
) -> None:
    def older(grant: Any) -> Any:  # a token that was got just now would not be renewed in any case
        tokens = [replace(token, received_at=token.received_at - 60) for token in grant.tokens]
        return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

    lab.source.change(older)
    assert lab.get(fake.api("/runs")).ok  # the API's nonce is known
    answer = requests.get(fake.api("/redirect"), params={"to": fake.api("/runs")}, auth=lab.auth)
    assert answer.status_code == 200
    assert fake.stats.token_requests == 0


def test_neither_token_nor_proof_of_another_session_goes_to_a_foreign_origin(
    fake: FakeProvider, fake_provider_factory: Factory, lab: loginonce.Session
) -> None:
    seen: list[Any] = []
    with requests.Session() as spied:
        keep = spied.get_adapter("http://").send
        adapter = lab.get_adapter("http://")
        adapter.send = lambda request, **settings: seen.append(request) or keep(request, **settings)
        elsewhere = fake_provider_factory().api("/open")
        lab.get(fake.api("/runs"))
        seen.clear()
        lab.get(fake.api("/redirect"), params={"to": elsewhere}, auth=bearer.BearerAuth(lab.source))
    assert [{"Authorization", "DPoP"} & set(request.headers) for request in seen] == [{"Authorization", "DPoP"}, set()]


def test_nonces_are_kept_of_so_many_apis_and_no_more(
    fake: FakeProvider, lab: loginonce.Session, no_nonces: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer, "MOST_NONCES", 2)
    no_nonces.update({"https://a:443": "1", "https://b:443": "2"})
    assert lab.get(fake.api("/runs")).ok
    assert list(no_nonces) == [fake.issuer]


# ── other processes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(15)
def test_a_pickled_session_finds_its_key_where_the_login_is(
    fake: FakeProvider, lab: loginonce.Session, key: Secret
) -> None:
    sent = pickle.dumps(lab)
    assert json.loads(key)["d"].encode() not in sent
    assert pickle.loads(sent).get(fake.api("/runs")).ok


def test_what_is_handed_to_a_worker_is_signed_with_the_key(
    fake: FakeProvider, lab: loginonce.Session, key: Secret
) -> None:
    worker = pickle.loads(pickle.dumps(lab.access_only()))
    assert worker.source.token().dpop_key == key
    assert worker.get(fake.api("/runs")).ok


@pytest.mark.hazard(39)
def test_the_key_shows_nowhere(lab: loginonce.Session, key: Secret) -> None:
    d = json.loads(key)["d"]
    shown = [lab, lab.source, lab.source.token(), lab.source.grant(), lab.source.provider, copy.copy(lab).settings]
    assert not any(d in f"{each!r} {each}" for each in shown)
