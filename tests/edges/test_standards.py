"""What strict providers and APIs ask of a login, as a session meets it: scope, stronger sign-ins, several APIs."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from test_login import Human

import loginonce
from loginonce import ConfigurationError, LoginFailed, LoginRequired, StepUpRequired
from loginonce.bearer import BearerAuth
from loginonce.derived import ExchangedSource
from loginonce.login.flow import Prompt
from loginonce.testing import FakeProvider

Factory = Callable[..., FakeProvider]
Act = Callable[[Prompt], object]
FILES, RUNS = "https://files.example.org/", "https://runs.example.org/"
MFA = "urn:example:mfa"


class Desk:
    """A provider, sessions for it, and a person who agrees to what is asked."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.prompts: list[Prompt] = []
        self._opened: list[loginonce.Session] = []

    def session(self, **given: Any) -> loginonce.Session:
        given = {"client_id": self.provider.public_client_id, "scope": "openid offline_access"} | given
        self._opened.append(loginonce.Session(self.provider.issuer, **given))
        return self._opened[-1]

    def login(
        self,
        session: loginonce.Session,
        challenge: StepUpRequired | None = None,
        *,
        act: Act | None = None,
        **given: Any,
    ) -> loginonce.Account:
        human = Human(act or (lambda prompt: self.provider.approve(prompt.user_code or prompt.url)))
        try:
            return session.login(given.pop("flow", "browser"), challenge=challenge, presenter=human, **given)
        finally:
            human.leave()
            self.prompts += human.prompts

    def asked(self, at: int = -1) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.prompts[at].url).query)

    def close(self) -> None:
        for session in self._opened:
            session.close()


@pytest.fixture
def at(fake_provider_factory: Factory, loginonce_home: Path) -> Iterator[Callable[..., Desk]]:
    """A desk at a provider with these knobs."""
    desks: list[Desk] = []

    def at(**knobs: Any) -> Desk:
        desks.append(Desk(fake_provider_factory(**knobs)))
        return desks[-1]

    yield at
    for desk in desks:
        desk.close()


At = Callable[..., Desk]


def epoch(session: loginonce.Session) -> int:
    grant = session.source.grant()
    assert grant is not None
    return grant.epoch


def age(session: loginonce.Session, *, ends_in: float) -> None:
    """Let the access tokens have been received a minute ago, and end in so many seconds."""
    now = time.time()

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = (replace(token, received_at=now - 60, expires_at=now + ends_in) for token in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

    session.source.change(older)


# ── a stronger sign-in ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flow", ["browser", "device"])
def test_an_api_that_wants_a_stronger_sign_in_gets_one(at: At, flow: str) -> None:
    desk = at()
    lab = desk.session()
    desk.login(lab)
    with pytest.raises(StepUpRequired) as caught:
        lab.get(desk.provider.api("/stepup"))
    assert (caught.value.acr_values, caught.value.max_age) == (MFA, 60.0)
    desk.login(lab, caught.value, flow=flow)
    if flow == "browser":  # device codes know of no such thing (RFC 9470 §4), and are asked with it all the same
        assert desk.asked()["acr_values"] == [MFA]
        assert desk.asked()["max_age"] == ["60"]
        assert lab.get(desk.provider.api("/stepup")).status_code == 200
    assert len(desk.prompts) == 2


def test_a_challenge_may_stand_first_as_in_the_readme(at: At) -> None:
    desk = at()
    lab = desk.session()
    desk.login(lab)
    with pytest.raises(StepUpRequired) as caught:
        lab.get(desk.provider.api("/stepup"))
    human = Human(lambda prompt: desk.provider.approve(prompt.url))
    sign_in = lab.login(caught.value, presenter=human, wait=False)
    sign_in.cancel()
    with pytest.raises(LoginFailed):
        sign_in.wait()


def test_a_challenge_that_somebody_has_answered_by_now_asks_nobody(at: At) -> None:
    desk = at()
    lab, other = desk.session(), desk.session()
    desk.login(lab)
    challenges = []
    for session in (lab, other):
        with pytest.raises(StepUpRequired) as caught:
            session.get(desk.provider.api("/stepup"))
        challenges.append(caught.value)
    desk.login(lab, challenges[0])
    desk.login(other, challenges[1])
    assert len(desk.prompts) == 2
    assert other.get(desk.provider.api("/stepup")).ok


@pytest.mark.parametrize("knobs", [{"acr": False}, {}], ids=["it does not say", "another acr"])
def test_a_sign_in_that_is_not_as_strong_is_saved_and_told(
    at: At, caplog: pytest.LogCaptureFixture, knobs: dict[str, Any]
) -> None:
    desk = at(**knobs)
    if not knobs:
        desk.provider.tamper_id_token = lambda claims, header: ({**claims, "acr": "urn:example:password"}, header)
    lab = desk.session()
    desk.login(lab)
    with pytest.raises(StepUpRequired) as caught:
        lab.get(desk.provider.api("/stepup"))
    before = epoch(lab)
    desk.login(lab, caught.value)
    assert epoch(lab) > before
    assert ("this sign-in is urn:example:password" in caplog.text) == (not knobs)


def test_a_sign_in_that_is_not_as_fresh_is_told(at: At, caplog: pytest.LogCaptureFixture) -> None:
    desk = at()
    desk.provider.tamper_id_token = lambda claims, header: ({**claims, "auth_time": int(time.time()) - 900}, header)
    lab = desk.session()
    desk.login(lab, StepUpRequired("fresh", max_age=60))
    assert "at most 60 s old" in caplog.text


def test_a_stronger_sign_in_that_is_cancelled_leaves_the_login_as_it_was(at: At) -> None:
    desk = at()
    lab = desk.session()
    desk.login(lab)
    before = lab.source.grant()
    with pytest.raises(LoginFailed):
        desk.login(lab, StepUpRequired("more", acr_values=MFA), act=lambda _: None, timeout=0.3)
    assert lab.source.grant() == before
    assert lab.get(desk.provider.api("/runs")).ok


# ── more scope ───────────────────────────────────────────────────────────────────────────────────────────


def test_more_scope_is_asked_for_on_top_of_what_the_login_has(at: At) -> None:
    desk = at()
    lab = desk.session(scope="openid offline_access runs")
    desk.login(lab)
    with pytest.raises(StepUpRequired) as caught:
        lab.get(desk.provider.api("/scope"))
    desk.login(lab, caught.value)
    assert set(desk.asked()["scope"][0].split()) == {"openid", "offline_access", "runs", "admin"}
    assert lab.get(desk.provider.api("/scope")).ok
    desk.login(lab, scope="admin runs")  # it has that now
    assert len(desk.prompts) == 2


def test_more_scope_that_the_person_does_not_agree_to_costs_nothing(at: At) -> None:
    desk = at()
    lab = desk.session()
    desk.login(lab)
    before = lab.source.grant()
    with pytest.raises(LoginFailed) as caught:
        desk.login(lab, scope="admin", act=lambda prompt: desk.provider.deny(prompt.url))
    assert caught.value.outcome == "denied"
    assert lab.source.grant() == before
    assert lab.get(desk.provider.api("/runs")).ok


def test_scope_that_is_not_granted_is_told_and_not_asked_for_again_and_again(
    at: At, caplog: pytest.LogCaptureFixture
) -> None:
    desk = at(issue_scope="openid offline_access")
    lab = desk.session(scope="openid offline_access admin")
    desk.login(lab)
    assert lab.missing_scope == {"admin"}
    assert "without admin" in caplog.text
    desk.login(lab)  # asks nobody: there is a login
    with pytest.raises(StepUpRequired) as wanted:
        lab.get(desk.provider.api("/scope"))
    with pytest.raises(LoginFailed, match="did not grant it"):
        desk.login(lab, wanted.value)
    assert len(desk.prompts) == 1
    desk.provider.issue_scope = None
    desk.login(lab, wanted.value, force=True)
    assert lab.missing_scope == frozenset()
    assert lab.get(desk.provider.api("/scope")).ok


def test_a_refresh_that_grants_less_is_told(at: At, caplog: pytest.LogCaptureFixture) -> None:
    desk = at()
    lab = desk.session(scope="openid offline_access admin")
    desk.login(lab)
    lab.source.renew()
    assert "granted less than before" not in caplog.text
    desk.provider.omit = {"scope"}
    lab.source.renew()
    assert "granted less than before" not in caplog.text  # whoever says nothing has changed nothing (RFC 6749 §5.1)
    desk.provider.omit = frozenset()
    family = desk.provider.state.find(str(lab.source.token().access_token))
    assert family is not None
    family.family.scope = "openid offline_access"
    lab.source.renew()
    assert "granted less than before" in caplog.text
    assert lab.missing_scope == {"admin"}


def test_where_nobody_is_signed_in_no_scope_is_missing(at: At) -> None:
    assert at().session().missing_scope == frozenset()


def test_a_prompt_that_shows_nothing_is_refused(at: At) -> None:
    desk = at()
    with pytest.raises(ConfigurationError, match="prompt='none'"):
        desk.login(desk.session(), prompt="none")


def test_a_prompt_for_the_provider_stands_beside_the_consent_that_offline_access_needs(at: At) -> None:
    desk = at()
    desk.login(desk.session(), prompt="select_account")
    assert desk.asked()["prompt"] == ["select_account consent"]
    desk.login(desk.session(scope="openid"), prompt="login consent", force=True)
    assert desk.asked()["prompt"] == ["login consent"]


# ── several APIs ─────────────────────────────────────────────────────────────────────────────────────────


def test_one_sign_in_has_tokens_for_several_apis(at: At) -> None:
    desk = at(strict_resources=True)
    lab = desk.session(resource=f"{FILES} {RUNS}")
    desk.login(lab)
    assert desk.asked()["resource"] == [FILES, RUNS]
    assert lab.get(desk.provider.api("/x")).json()["resource"] == FILES
    runs = lab.token(resource=RUNS)
    signed = requests.get(desk.provider.api("/x"), headers={"Authorization": f"Bearer {runs.access_token}"}, timeout=5)
    assert signed.json()["resource"] == RUNS
    beside = desk.session(resource=RUNS)  # another program, which needs only that one
    assert beside.get(desk.provider.api("/x")).json()["resource"] == RUNS
    assert beside.token().access_token == runs.access_token
    assert (desk.provider.stats.refreshes, desk.provider.stats.replays) == (1, 0)


def test_both_tokens_are_renewed_by_the_one_refresh_token(at: At) -> None:
    desk = at(strict_resources=True)
    lab = desk.session(resource=f"{FILES} {RUNS}")
    desk.login(lab)
    lab.token(resource=RUNS)
    for _ in range(3):
        age(lab, ends_in=-1)
        assert lab.token(resource=RUNS).resource == RUNS
        assert lab.get(desk.provider.api("/x")).json()["resource"] == FILES
    assert (desk.provider.stats.refreshes, desk.provider.stats.replays) == (7, 0)


def test_an_api_that_the_login_was_not_asked_for_needs_one_more_sign_in_and_keeps_the_others(at: At) -> None:
    desk = at(strict_resources=True)
    files = desk.session(resource=FILES)
    desk.login(files)
    runs = desk.session(resource=RUNS)
    with pytest.raises(LoginRequired) as caught:
        runs.get(desk.provider.api("/x"))
    assert caught.value.reason == "scope"
    assert desk.provider.stats.refreshes == 0
    desk.login(runs)
    assert desk.asked()["resource"] == [RUNS, FILES]
    assert runs.get(desk.provider.api("/x")).json()["resource"] == RUNS
    assert files.get(desk.provider.api("/x")).json()["resource"] == FILES
    assert len(desk.prompts) == 2


def test_a_device_code_asks_for_all_apis(at: At) -> None:
    desk = at()
    lab = desk.session(resource=f"{FILES} {RUNS}")
    desk.login(lab, flow="device")
    assert lab.get(desk.provider.api("/x")).json()["resource"] == FILES
    assert lab.token(resource=RUNS).resource == RUNS


def test_a_service_and_a_password_ask_for_the_api_too(at: At) -> None:
    desk = at()
    client_id, secret = desk.provider.confidential_client
    robot = desk.session(
        client_id=client_id, client_secret=secret, grant="client_credentials", scope="", resource=FILES
    )
    robot.login()
    assert robot.get(desk.provider.api("/x")).json()["resource"] == FILES
    assert robot.token(resource=RUNS).resource == RUNS  # it was not asked for, but a service asks anew each time
    person = desk.session(client_id=client_id, client_secret=secret, account="ada", resource=FILES)
    person.login(username="ada", password="lovelace")
    assert person.get(desk.provider.api("/x")).json()["resource"] == FILES


# ── pushed requests ──────────────────────────────────────────────────────────────────────────────────────


def test_where_requests_have_to_be_pushed_the_browser_brings_a_reference_only(at: At) -> None:
    desk = at(pushed_requests="required", pushed_expires_in=30)
    lab = desk.session()
    assert desk.login(lab).name == "Ada Lovelace"
    assert set(desk.asked()) == {"response_type", "client_id", "request_uri"}
    assert desk.prompts[0].expires_at - time.time() < 31
    assert lab.get(desk.provider.api("/runs")).ok


# ── exchange, claims, whether it is alive ────────────────────────────────────────────────────────────────


def test_a_token_for_another_audience_is_had_by_exchange(at: At) -> None:
    desk = at(exchange_audiences={"files"})
    lab = desk.session()
    desk.login(lab)
    files = lab.exchange(audience="files", scope="openid")
    assert files is lab.exchange(audience="files", scope="openid")
    assert files.access_token != lab.token().access_token
    assert files.refresh_token is None
    before = lab.source.grant()
    answer = requests.get(desk.provider.api("/x"), auth=BearerAuth(ExchangedSource(lab.source, audience="files")))
    assert answer.json()["resource"] == "files"
    assert lab.source.grant() == before  # the login knows nothing of it


def test_the_word_on_whether_it_is_alive_is_typed_and_changes_nothing(at: At) -> None:
    desk = at(introspection="ok")
    lab = desk.session()
    assert lab.check().active is False
    desk.login(lab)
    assert lab.check() == (True, "introspection", "")
    desk.provider.end_sessions()
    assert lab.check().active is False
    assert lab.logged_in  # until a renewal is refused


def test_an_opaque_token_claims_nothing(at: At) -> None:
    desk = at()
    lab = desk.session()
    desk.login(lab)
    assert lab.token().unverified_claims == {}


def test_a_session_with_tokens_of_several_kinds_is_pickled_without_them(at: At) -> None:
    desk = at(exchange_audiences={"files"})
    lab = desk.session(resource=FILES)
    desk.login(lab)
    lab.token(resource=FILES, scope="openid")
    lab.exchange(audience="files")
    there = pickle.loads(pickle.dumps(lab))
    assert there.token(resource=FILES).resource == FILES
    assert b"at_" not in pickle.dumps(lab)
    assert json.dumps(there.settings.resource) == json.dumps(FILES)


def test_a_record_keeps_what_the_login_was_asked_for_in_another_process(at: At) -> None:
    desk = at(strict_resources=True)
    lab = desk.session(resource=f"{FILES} {RUNS}")
    desk.login(lab)
    stored = desk.session().source.grant()
    assert stored is not None
    assert stored.resources == (FILES, RUNS)
