"""The standards that strict providers ask for, at one that nobody here wrote: npm's oidc-provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from browser import Person
from click.testing import CliRunner

import loginonce
from loginonce import ErrorResponse, LoginRequired, StepUpRequired
from loginonce.cli.commands import loginonce as cli
from loginonce.errors import ProtocolError
from loginonce.login.flow import Progress
from loginonce.model import Client, Secret
from loginonce.wire import Granted, Lost, Misconfigured, Refused

if TYPE_CHECKING:
    from conftest import OidcProvider

FILES, RUNS = "https://files.example.org/", "https://runs.example.org/"
SCOPE = "openid profile offline_access runs:read"


class Agrees:
    """Shows a sign-in to a person who agrees at once; the prompts stay to be looked at."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self.urls: list[str] = []

    def show(self, progress: Progress) -> None:
        if progress.state == "pending" and progress.prompt is not None and progress.prompt.url not in self.urls:
            self.urls.append(progress.prompt.url)
            if progress.prompt.kind == "device":
                self._person.approve_device(progress.prompt.url, progress.prompt.user_code)
            else:
                self._person.open_authorization(progress.prompt.url)

    def asked(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.urls[-1]).query)


@pytest.fixture(scope="module")
def strict(start_oidc_provider: Callable[..., OidcProvider]) -> OidcProvider:
    """One that has requests pushed, knows two APIs, and takes everybody as a client."""
    return start_oidc_provider(par_required=True, registration=True, resources={FILES: "opaque", RUNS: "jwt"})


@pytest.fixture
def agrees(person: Person) -> Agrees:
    return Agrees(person)


@pytest.fixture
def open_session(strict: OidcProvider, loginonce_home: Path) -> Iterator[Callable[..., loginonce.Session]]:
    strict.reset(everything=True)
    opened: list[loginonce.Session] = []

    def open_session(**given: Any) -> loginonce.Session:
        opened.append(loginonce.Session(strict.issuer, **{"client_id": strict.client_id, "scope": SCOPE} | given))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


Open = Callable[..., loginonce.Session]


def let_end(session: loginonce.Session) -> None:
    """Let its access tokens have ended."""
    now = time.time()

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = tuple(replace(each, received_at=now - 60, expires_at=now - 1) for each in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    session.source.change(older)


def test_a_provider_that_requires_pushed_requests_gets_them(
    strict: OidcProvider, open_session: Open, agrees: Agrees
) -> None:
    lab = open_session()
    assert lab.source.provider.server.require_pushed_authorization_requests
    assert lab.login("browser", presenter=agrees).subject == "ada"
    assert set(agrees.asked()) == {"response_type", "client_id", "request_uri"}
    lab.source.renew()  # so it was asked for offline access with consent (OIDC Core §11)
    assert strict.stats()["refreshes_ok"] == 1


def test_two_apis_have_a_token_each_under_one_refresh_token(
    strict: OidcProvider, open_session: Open, agrees: Agrees
) -> None:
    lab = open_session(resource=f"{FILES} {RUNS}")
    lab.login("browser", presenter=agrees)
    assert lab.get(strict.api()).json()["audience"] == FILES
    runs = lab.token(resource=RUNS)
    assert runs.unverified_claims["aud"] == RUNS
    assert runs.unverified_claims["scope"] == "runs:read"
    assert lab.token().unverified_claims == {}  # that one is opaque
    for _ in range(2):
        let_end(lab)
        assert lab.token(resource=RUNS).unverified_claims["aud"] == RUNS
        assert lab.get(strict.api()).json()["audience"] == FILES
    stats = strict.stats()
    assert (stats["refreshes_ok"], stats["replays"], stats["refusals"]) == (5, 0, 0)


def test_an_api_that_the_login_was_not_asked_for_costs_no_refresh_token(
    strict: OidcProvider, open_session: Open, agrees: Agrees
) -> None:
    lab = open_session(resource=FILES)
    lab.login("browser", presenter=agrees)
    with pytest.raises(LoginRequired) as caught:
        lab.token(resource=RUNS)
    assert caught.value.reason == "scope"
    let_end(lab)
    assert lab.get(strict.api()).ok
    stats = strict.stats()
    assert (stats["refreshes_ok"], stats["replays"], stats["refusals"]) == (1, 0, 0)


def test_such_a_question_would_have_ended_the_login_there(
    strict: OidcProvider, open_session: Open, agrees: Agrees
) -> None:
    """Why none is sent: the token is spent before the resource is looked at, and its successor is kept back."""
    lab = open_session(resource=FILES)
    lab.login("browser", presenter=agrees)
    grant, provider = lab.source.grant(), lab.source.provider
    assert grant is not None
    said = provider.refresh(grant, resource=RUNS, for_scope="", budget=10)
    assert isinstance(said, Misconfigured)
    assert said.error == "invalid_target"
    again = provider.refresh(grant, resource=FILES, for_scope="", budget=10)
    assert isinstance(again, Refused | Granted | Lost)
    assert isinstance(again, Refused)
    assert strict.stats()["replays"] == 1


def test_a_device_code_asks_for_both_apis_too(strict: OidcProvider, open_session: Open, agrees: Agrees) -> None:
    lab = open_session(resource=f"{FILES} {RUNS}")
    lab.login("device", presenter=agrees)
    assert lab.get(strict.api()).json()["audience"] == FILES
    assert lab.token(resource=RUNS).unverified_claims["aud"] == RUNS


def test_introspection_says_whether_the_login_is_alive(
    strict: OidcProvider, open_session: Open, agrees: Agrees
) -> None:
    lab = open_session()
    lab.login("browser", presenter=agrees)
    before = strict.stats()
    assert lab.check() == (True, "introspection", "")
    strict.end_session("ada")
    assert lab.check().active is False
    assert strict.stats()["token_requests"] == before["token_requests"]
    assert lab.logged_in  # nothing was concluded from it


def test_a_fresh_sign_in_is_had_where_an_api_wants_one(open_session: Open, agrees: Agrees) -> None:
    lab = open_session()
    lab.login("browser", presenter=agrees)
    time.sleep(2.1)  # the provider counts whole seconds
    began = time.time()
    lab.login("browser", challenge=StepUpRequired("fresh", max_age=1), presenter=agrees)
    grant = lab.source.grant()
    assert grant is not None
    assert grant.claims["auth_time"] >= int(began)
    assert len(agrees.urls) == 2


def test_more_scope_later_keeps_what_was_there(strict: OidcProvider, open_session: Open, agrees: Agrees) -> None:
    lab = open_session(scope="openid offline_access")
    lab.login("browser", presenter=agrees)
    lab.login("browser", scope="email", presenter=agrees)
    answer = lab.get(strict.api()).json()
    assert set(answer["scope"].split()) == {"openid", "offline_access", "email"}
    assert lab.missing_scope == frozenset()


def test_scope_that_the_provider_does_not_know_is_missing_and_told(
    open_session: Open, agrees: Agrees, caplog: pytest.LogCaptureFixture
) -> None:
    lab = open_session(scope="openid offline_access runs:read")  # belongs to an API, and none is asked for
    lab.login("browser", presenter=agrees)
    assert lab.missing_scope == {"runs:read"}
    assert "without runs:read" in caplog.text
    lab.login("browser", presenter=agrees)
    assert len(agrees.urls) == 1


@pytest.mark.parametrize("change", [{"iss": None}, {"iss": "https://elsewhere.example.org"}], ids=["none", "another"])
def test_an_answer_that_does_not_name_its_provider_is_refused(
    open_session: Open, person: Person, change: dict[str, str | None]
) -> None:
    from loginonce.login.browser import BrowserFlow

    flow = BrowserFlow(open_session().source.provider, SCOPE, receive=False)
    address = person.open_authorization(flow.begin().url, follow=False)
    parts = urlsplit(address)
    answer = {**dict(parse_qsl(parts.query)), **change}
    assert answer.keys() >= {"code", "state", "iss"}
    query = urlencode({name: value for name, value in answer.items() if value is not None})
    flow.deliver(parts._replace(query=query).geturl())
    with pytest.raises(ProtocolError):
        flow.finish(lambda *_, **__: None)


def test_a_stranger_is_registered_and_signs_in(strict: OidcProvider, loginonce_home: Path, agrees: Agrees) -> None:
    strict.reset(everything=True)
    made = CliRunner().invoke(
        cli, ["register", "lab", "--issuer", strict.issuer, "--scope", "openid offline_access"], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output
    with loginonce.Session("lab") as lab:
        assert lab.settings.client_id != strict.client_id
        assert lab.login("browser", presenter=agrees).subject == "ada"
        lab.source.renew()
        assert lab.get(strict.api()).ok


def test_a_confidential_stranger_has_its_secret_from_its_private_place(
    strict: OidcProvider, loginonce_home: Path, agrees: Agrees
) -> None:
    strict.reset(everything=True)
    arguments = ["register", "lab", "--issuer", strict.issuer, "--scope", "openid offline_access", "--confidential"]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    assert "secret" not in (loginonce_home / "config.toml").read_text().replace("client_secret_basic", "")
    with loginonce.Session("lab") as lab:
        assert lab.login("browser", presenter=agrees).subject == "ada"  # the pushed request is authenticated by it
        lab.source.renew()
        assert lab.check().active is True
        lab.source.provider.client = Client(lab.settings.client_id, Secret("wrong"))
        with pytest.raises(ErrorResponse):
            lab.login("browser", presenter=agrees, force=True)
