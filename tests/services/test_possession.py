"""Logins whose tokens are bound to a key (DPoP, RFC 9449): at the token end point, with nonces and without."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc.jwk import ECKey

from loginonce import client as module
from loginonce import dpop
from loginonce.client import Discovery, Provider
from loginonce.errors import ConfigurationError, ErrorResponse, LoginRequired, ProtocolError
from loginonce.login.browser import BrowserFlow
from loginonce.login.flow import HandedFlow
from loginonce.model import Client, Grant, GrantKey, Secret, TokenSet
from loginonce.refresh import grant_of_login
from loginonce.source import LoginSource
from loginonce.stores.memory import MemoryStore
from loginonce.testing import FakeProvider, Fault
from loginonce.transport import AnswerLost, NeverSent, Transport
from loginonce.wire import Answer, Form, Granted, Lost, Misconfigured, Refused, Unsent

Factory = Callable[..., FakeProvider]
SCOPE = "openid offline_access"


def a_key() -> Secret:
    return Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))


class Recording(Transport):
    """A transport that notes the proofs it is asked to send, and may do something before each."""

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.proofs: list[str] = []
        self.budgets: list[float] = []
        self._before = before

    def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
        self.proofs.append(headers["DPoP"])
        self.budgets.append(budget)
        self._before(len(self.proofs))
        return super().post(url, form, headers, budget=budget)


def of(fake: FakeProvider, transport: Transport | None = None) -> Provider:
    return Provider(Discovery(fake.issuer), Client(fake.public_client_id), transport, dpop=True)


def service(fake: FakeProvider) -> Provider:
    client_id, secret = fake.confidential_client
    return Provider(Discovery(fake.issuer), Client(client_id, Secret(secret)), dpop=True)


def a_grant(fake: FakeProvider, key: Secret) -> Grant:
    issued = fake.issue(jkt=dpop.thumbprint(key))
    refresh_token = Secret(issued["refresh_token"])
    return Grant(GrantKey(fake.issuer, "notebook"), 1, refresh_token=refresh_token, scope=SCOPE, dpop_key=key)


def renewed(provider: Provider, grant: Grant, budget: float = 5.0) -> Any:
    return provider.refresh(grant, resource="", for_scope="", budget=budget)


def nonces_asked(fake: FakeProvider) -> int:
    return sum(event.kind == "dpop_nonce" for event in fake.log)


@pytest.fixture
def strict(fake_provider_factory: Factory) -> FakeProvider:
    """A provider that issues nothing without a proof, and wants its nonces in them."""
    return fake_provider_factory(dpop="required", dpop_nonces=True)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_asked_for_with_a_key_that_comes_with_them(fake_provider: FakeProvider) -> None:
    provider = service(fake_provider)
    answer = provider.client_credentials(scope="admin")
    assert (answer.token_type, answer.dpop_key) == ("DPoP", provider.dpop_key())


def test_a_code_is_bound_to_the_key_before_there_are_tokens(fake_provider: FakeProvider) -> None:
    flow = BrowserFlow(of(fake_provider), SCOPE, redirect_uri="http://127.0.0.1/callback", receive=False)
    prompt = flow.begin()
    flow.deliver(fake_provider.approve(prompt.url))
    answer = flow.finish(lambda *_, **__: None).answer
    assert answer.dpop_key is not None
    assert f"dpop_jkt={dpop.thumbprint(answer.dpop_key)}" in prompt.url


@pytest.mark.parametrize("pushed", ["absent", "required"])
@pytest.mark.parametrize("same_key", [True, False])
def test_a_code_is_no_use_with_another_key(fake_provider_factory: Factory, pushed: str, same_key: bool) -> None:
    fake = fake_provider_factory(pushed_requests=pushed)
    flow = BrowserFlow(of(fake), SCOPE, redirect_uri="http://127.0.0.1/callback", receive=False)
    flow.deliver(fake.approve(flow.begin().url))
    if same_key:
        assert flow.finish(lambda *_, **__: None).answer.token_type == "DPoP"
        return
    flow.provider.__dict__["_made"] = a_key()
    with pytest.raises(ErrorResponse, match="invalid_grant"):
        flow.finish(lambda *_, **__: None)


def test_who_signed_in_is_asked_with_a_proof(strict: FakeProvider) -> None:
    key = a_key()
    issued = strict.issue(jkt=dpop.thumbprint(key))
    del issued["id_token"]
    signed_in = HandedFlow(of(strict), {**issued, "dpop_key": key, "id_token": None}).finish(lambda *_, **__: None)
    assert of(strict).userinfo(signed_in.answer.access_token, key)["name"] == "Ada Lovelace"


@pytest.mark.hazard(37)
def test_a_provider_that_issues_plain_tokens_instead_is_told_of_and_they_are_revoked(
    fake_provider_factory: Factory,
) -> None:
    fake = fake_provider_factory(dpop="ignored", users={"ada": "pw"})
    client_id, secret = fake.confidential_client
    provider = Provider(Discovery(fake.issuer), Client(client_id, Secret(secret)), dpop=True)
    with pytest.raises(ProtocolError, match="bound to a key"):
        provider.password("ada", "pw", scope=SCOPE)
    assert fake.stats.revocations == 1
    with pytest.raises(ProtocolError, match="bound to a key"):  # here is nothing to revoke
        provider.client_credentials(scope="admin")


# ── refreshing ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(37)
def test_a_refresh_is_proven_by_the_key_of_the_login(fake_provider: FakeProvider) -> None:
    grant = a_grant(fake_provider, a_key())
    reply = renewed(Provider(Discovery(fake_provider.issuer), Client("notebook")), grant)  # whatever the session asks
    assert isinstance(reply, Granted)
    assert reply.answer.token_type == "DPoP"


def test_a_refresh_with_another_key_is_refused(fake_provider: FakeProvider) -> None:
    grant = a_grant(fake_provider, a_key())
    stolen = Grant(grant.key, 1, refresh_token=grant.refresh_token, dpop_key=a_key())
    assert isinstance(renewed(of(fake_provider), stolen), Refused)


@pytest.mark.hazard(37)
def test_a_nonce_is_asked_for_once_and_the_refresh_token_spent_once(strict: FakeProvider) -> None:
    transport = Recording()
    provider, key = of(strict, transport), a_key()
    reply = renewed(provider, a_grant(strict, key))
    assert isinstance(reply, Granted)
    assert (len(transport.proofs), strict.stats.refreshes, strict.stats.replays, strict.stats.overlaps) == (2, 1, 0, 0)
    assert len(set(transport.proofs)) == 2
    renewed(provider, a_grant(strict, key))
    assert (len(transport.proofs), nonces_asked(strict)) == (3, 1)  # it is known now


@pytest.mark.hazard(37)
def test_a_nonce_that_has_been_replaced_costs_one_more_request(strict: FakeProvider) -> None:
    provider, key = of(strict), a_key()
    renewed(provider, a_grant(strict, key))
    strict.renew_dpop_nonces()
    assert isinstance(renewed(provider, a_grant(strict, key)), Granted)
    assert nonces_asked(strict) == 2


def test_a_provider_that_never_has_enough_of_nonces_is_asked_twice(strict: FakeProvider) -> None:
    transport = Recording(lambda _: strict.renew_dpop_nonces())
    reply = renewed(of(strict, transport), a_grant(strict, a_key()))
    assert isinstance(reply, Misconfigured)
    assert reply.error == "use_dpop_nonce"
    assert (len(transport.proofs), strict.stats.refreshes) == (2, 0)


def test_both_requests_share_one_budget(strict: FakeProvider) -> None:
    transport = Recording(lambda _: time.sleep(0.3))
    assert isinstance(renewed(of(strict, transport), a_grant(strict, a_key()), budget=5.0), Granted)
    assert transport.budgets[1] < transport.budgets[0] - 0.25


@pytest.mark.hazard(12)
def test_nothing_more_is_sent_when_the_time_is_over(strict: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [0.0]  # by the machine: the monotonic clock stands still meanwhile
    real = time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + slept[0])
    transport = Recording(lambda _: slept.append(slept.pop() + 30.0))
    reply = renewed(of(strict, transport), a_grant(strict, a_key()))
    assert isinstance(reply, Unsent)
    assert (len(transport.proofs), strict.stats.refreshes) == (1, 0)


@pytest.mark.parametrize(("failure", "reply"), [(AnswerLost, Lost), (NeverSent, Unsent)])
def test_what_becomes_of_the_second_request_is_what_became_of_the_refresh(
    strict: FakeProvider, failure: type[Exception], reply: type
) -> None:
    def second_fails(number: int) -> None:
        if number == 2:
            raise failure("the network")

    assert isinstance(renewed(of(strict, Recording(second_fails)), a_grant(strict, a_key())), reply)


def test_an_answer_that_is_lost_after_the_nonce_was_learned_is_not_asked_for_again(strict: FakeProvider) -> None:
    provider, key = of(strict), a_key()
    renewed(provider, a_grant(strict, key))
    strict.faults.add(Fault.drop_after())
    before = strict.stats.token_requests
    assert isinstance(renewed(provider, a_grant(strict, key)), Lost)
    assert strict.stats.token_requests == before + 1


# ── the login ────────────────────────────────────────────────────────────────────────────────────────────


def signed_in(fake: FakeProvider, key: Secret | None, *, dpop_wanted: bool = True, **issued: Any) -> LoginSource:
    """A source over a store with one login."""
    store, grant_key = MemoryStore(), GrantKey(fake.issuer, "notebook")
    tokens = {**fake.issue(jkt=dpop.thumbprint(key) if key else None), **issued}
    brought = HandedFlow(
        Provider(Discovery(fake.issuer), Client("notebook")), {**tokens, **({"dpop_key": key} if key else {})}
    ).finish(lambda *_, **__: None)
    source = LoginSource(grant_key, store, of(fake), dpop=dpop_wanted)
    source.change(
        lambda previous: grant_of_login(
            grant_key, brought.answer, previous, asked_at=brought.asked_at, scope=frozenset(SCOPE.split())
        )
    )
    return source


@pytest.mark.hazard(37)
def test_the_key_comes_with_each_token_and_stays_the_same(fake_provider: FakeProvider) -> None:
    key = a_key()
    source = signed_in(fake_provider, key)
    first, second = source.token(), source.renew()
    assert first.access_token != second.access_token
    assert (first.dpop_key, second.dpop_key, source.token().dpop_key) == (key, key, key)


def test_whoever_asks_for_bound_tokens_needs_a_login_that_has_them(fake_provider: FakeProvider) -> None:
    source = signed_in(fake_provider, None)
    for _ in range(2):
        with pytest.raises(LoginRequired, match="DPoP") as caught:
            source.token()
        assert caught.value.reason == "scope"


def test_whoever_asks_for_nothing_shares_a_login_with_a_key(fake_provider: FakeProvider) -> None:
    source = signed_in(fake_provider, a_key(), dpop_wanted=False)
    assert source.token().token_type == "DPoP"


@pytest.mark.hazard(37)
def test_a_login_with_a_key_does_not_go_on_with_plain_tokens(fake_provider: FakeProvider) -> None:
    source = signed_in(fake_provider, a_key())
    fake_provider.dpop = "ignored"
    for family in fake_provider.state._families:
        family.jkt = None  # a provider that forgot what it had bound
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not bound to the key"):
            source.renew()
    for _ in range(3):
        with pytest.raises(ProtocolError, match="not bound to the key"):
            source.token()  # the fast way, too
    fake_provider.dpop = "accepted"
    assert source.renew().token_type == "DPoP"  # the login has been saved all the same


def test_a_service_gets_its_key_when_it_signs_in(fake_provider: FakeProvider) -> None:
    client_id, secret = fake_provider.confidential_client
    provider = Provider(Discovery(fake_provider.issuer), Client(client_id, Secret(secret)), dpop=True)
    key = GrantKey(fake_provider.issuer, client_id)
    source = LoginSource(key, MemoryStore(), provider, renewal="client_credentials", dpop=True)
    with pytest.raises(LoginRequired):
        source.token()
    answer = provider.client_credentials(scope="admin")
    source.change(
        lambda previous: grant_of_login(
            key, answer, previous, asked_at=time.time(), scope=frozenset(), renewal="client_credentials"
        )
    )
    assert source.renew().dpop_key == answer.dpop_key


def test_tokens_that_are_handed_in_need_the_key_that_they_are_bound_to(fake_provider: FakeProvider) -> None:
    key = a_key()
    bound = fake_provider.issue(jkt=dpop.thumbprint(key))
    plain = fake_provider.issue()
    lacking = [(bound, False), (plain, True), ({**plain, "dpop_key": key}, False)]
    for tokens, wanted in lacking:
        provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), dpop=wanted)
        with pytest.raises(ConfigurationError, match="dpop_key"):
            HandedFlow(provider, tokens).finish(lambda *_, **__: None)


def test_a_bare_refresh_token_is_bound_by_its_first_use(fake_provider: FakeProvider) -> None:
    provider = of(fake_provider)
    tokens = {"refresh_token": fake_provider.issue()["refresh_token"]}
    assert HandedFlow(provider, tokens).finish(lambda *_, **__: None).answer.dpop_key == provider.dpop_key()


def test_two_threads_that_need_the_key_at_once_get_the_same(
    fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = of(fake_provider)
    other = a_key()
    made = ECKey.generate_key

    def overtaken(*given: Any, **named: Any) -> ECKey:
        provider.__dict__.setdefault("_made", other)
        return made(*given, **named)

    monkeypatch.setattr(ECKey, "generate_key", overtaken)
    assert provider.dpop_key() == other


def test_a_token_set_knows_whether_it_can_be_used() -> None:
    token = TokenSet(Secret("a"), 0.0)
    key = a_key()
    fits = [
        (kind, bound, TokenSet(token.access_token, 0.0, token_type=kind, dpop_key=key if bound else None).fits)
        for kind in ("Bearer", "DPoP", "MAC")
        for bound in (False, True)
    ]
    assert [(kind, bound) for kind, bound, good in fits if good] == [("Bearer", False), ("DPoP", True)]


@pytest.mark.hazard(37)
def test_a_request_that_is_repeated_for_its_nonce_has_a_new_assertion_too(strict: FakeProvider) -> None:
    key = ECKey.generate_key("P-256")
    strict.add_client("robot", public_key=key.as_dict(private=False))
    client = Client("robot", private_key=Secret(json.dumps(key.as_dict(private=True))))
    provider = Provider(Discovery(strict.issuer), client, dpop=True)
    assert provider.client_credentials(scope="admin").token_type == "DPoP"  # an assertion is taken only once
    assert nonces_asked(strict) == 1
