"""A provider, or somebody who speaks in its name, that means harm."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

import loginonce
from loginonce import ConfigurationError, InvalidGrant, ProtocolError
from loginonce.login.flow import Progress, Prompt
from loginonce.login.text import TextPresenter
from loginonce.refresh import Policy
from loginonce.testing import FakeProvider, Fault

Factory = Callable[..., FakeProvider]

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n<script>alert(1)</script>"
QUICK = Policy(refusal_wait=0.0)


def session(provider: FakeProvider, **given: Any) -> loginonce.Session:
    given = {"client_id": provider.public_client_id, "scope": "openid offline_access", "policy": QUICK} | given
    return loginonce.Session(provider.issuer, **given)


@pytest.fixture
def lab(fake_provider: FakeProvider, loginonce_home: Path) -> loginonce.Session:
    """A session that nobody has signed in to."""
    return session(fake_provider)


class Browser(TextPresenter):
    """Shows the prompt, and brings back what `act` makes of it."""

    def __init__(self, act: Callable[[Prompt], object]) -> None:
        self.shown = io.StringIO()
        super().__init__(self.shown)
        self._act = act

    def show(self, progress: Progress) -> None:
        super().show(progress)
        if progress.state == "pending" and progress.prompt is not None:
            self._act(progress.prompt)


def state_of(prompt: Prompt) -> tuple[str, str]:
    """Redirect URI and state of an authorization request."""
    asked = parse_qs(urlsplit(prompt.url).query)
    return asked["redirect_uri"][0], asked["state"][0]


def unsaved(home: Path) -> bool:
    return not list(home.glob("logins/*.login"))


def expired(provider: FakeProvider, lab: loginonce.Session) -> None:
    """Sign in with a token that ends at once."""
    tokens = provider.issue()
    lab.login(tokens={**tokens, "id_token": None, "expires_in": 0.001})
    time.sleep(0.002)


# ── whose code is it ─────────────────────────────────────────────────────────────────────────────────────


def test_a_code_of_somebody_elses_sign_in_is_worth_nothing_in_ours(
    fake_provider: FakeProvider, lab: loginonce.Session, loginonce_home: Path
) -> None:
    """Code injection: the provider knows for which PKCE challenge it was given (RFC 9700 §4.5)."""
    stolen: list[str] = []

    def inject(prompt: Prompt) -> None:
        redirect_uri, state = state_of(prompt)
        asked = {name: value for name, (value,) in parse_qs(urlsplit(prompt.url).query).items()}
        theirs = {**asked, "code_challenge": "A" * 43, "redirect_uri": "http://127.0.0.1:9/callback"}
        came_back = fake_provider.approve(f"{fake_provider.issuer}/authorize?{urlencode(theirs)}", "grace")
        stolen.append(parse_qs(urlsplit(came_back).query)["code"][0])
        requests.get(redirect_uri, {"code": stolen[0], "state": state, "iss": fake_provider.issuer}, timeout=5)

    with pytest.raises(InvalidGrant):
        lab.login(flow="browser", presenter=Browser(inject), timeout=10)
    assert stolen
    assert unsaved(loginonce_home)


def test_a_code_of_an_honest_provider_never_reaches_the_one_that_mixed_them_up(
    fake_provider_factory: Factory, loginonce_home: Path
) -> None:
    """Mix-up (RFC 9207): the attacker's metadata names the honest provider's authorization end point."""
    honest, evil = fake_provider_factory(), fake_provider_factory()
    lab = session(evil, server={"authorization_endpoint": f"{honest.issuer}/authorize"})
    with pytest.raises(ProtocolError, match="came from"):
        lab.login(flow="browser", presenter=Browser(lambda prompt: honest.approve(prompt.url)), timeout=10)
    assert evil.stats.token_requests == 0
    assert unsaved(loginonce_home)


# ── what it says of itself ───────────────────────────────────────────────────────────────────────────────

END_POINTS = [
    "token_endpoint", "authorization_endpoint", "device_authorization_endpoint", "revocation_endpoint",
    "userinfo_endpoint", "end_session_endpoint", "jwks_uri",
]  # fmt: skip


@pytest.mark.parametrize(
    "address",
    ["http://elsewhere.example.org/x", "ftp://id.example.org/x", "https:///x", f"https://id.example.org/{EVIL}",
     "https://id.example.org/a b"],
    ids=["in the clear", "no web", "no host", "escapes", "two words"],
)  # fmt: skip
@pytest.mark.parametrize("name", END_POINTS)
def test_an_end_point_that_is_no_safe_address_is_refused_and_not_kept(
    fake_provider: FakeProvider, lab: loginonce.Session, loginonce_home: Path, name: str, address: str
) -> None:
    document = {"issuer": fake_provider.issuer, "token_endpoint": f"{fake_provider.issuer}/token", name: address}
    fake_provider.faults.add(Fault.answer(document), where="discovery", times=None)
    with pytest.raises(ConfigurationError, match=name) as caught:
        lab.login(flow="device")
    assert str(caught.value).isprintable()
    assert not list(loginonce_home.glob("servers/*"))
    assert fake_provider.stats.token_requests == 0


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_a_document_too_deep_to_be_kept_is_no_document(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    for depth in (40, 900, *range(940, 1000, 4)):
        deep = b'{"issuer": "%s", "x": %s}' % (fake_provider.issuer.encode(), nested(depth))
        fake_provider.faults.clear()
        fake_provider.faults.add(Fault.status(200, deep), where="discovery", times=None)
        with pytest.raises(ProtocolError, match="JSON object"):
            lab.login(flow="device")


@pytest.mark.parametrize("where", ["jwks", "userinfo"])
def test_nothing_is_taken_abroad_by_a_redirect_of_the_provider(
    fake_provider: FakeProvider, fake_provider_factory: Factory, lab: loginonce.Session, where: Any
) -> None:
    abroad = fake_provider_factory()
    fake_provider.claims = {"ada": {}}  # so that userinfo is asked
    leads_away = Fault.status(307, headers={"Location": f"{abroad.issuer}/userinfo"})
    fake_provider.faults.add(leads_away, where=where, times=None)
    sign_in = lambda: lab.login(flow="browser", presenter=Browser(lambda p: fake_provider.approve(p.url)), timeout=10)
    if where == "jwks":
        with pytest.raises(ProtocolError):
            sign_in()
    else:
        assert sign_in().subject == "ada"
    assert abroad.log == []


# ── what it answers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(35, 39)
@pytest.mark.parametrize(
    "token", ["a\r\nX-Evil: 1", "a b", "a\x00b", "a\x1b[2J", "tökén", "\ud800", " ", "a\n"], ids=ascii
)
def test_a_token_that_would_write_headers_of_its_own_is_never_sent(
    fake_provider: FakeProvider, lab: loginonce.Session, token: str
) -> None:
    expired(fake_provider, lab)
    fake_provider.faults.add(Fault.answer({"access_token": token, "refresh_token": "r", "expires_in": 300}))
    with pytest.raises(loginonce.TransportError) as caught:
        lab.get(fake_provider.api("/runs"))
    assert fake_provider.stats.api_calls == 0
    assert str(caught.value).isprintable()
    grant = lab.source.grant()
    assert grant is not None
    assert grant.refresh_token not in (None, "r")


@pytest.mark.hazard(35)
@pytest.mark.parametrize("member", ["scope", "token_type", "refresh_token", "id_token"])
def test_no_member_of_an_answer_writes_into_another_message(
    fake_provider: FakeProvider, lab: loginonce.Session, member: str
) -> None:
    expired(fake_provider, lab)
    good = {"access_token": fake_provider.issue()["access_token"], "refresh_token": "r", "expires_in": 300}
    fake_provider.faults.add(Fault.answer({**good, member: f"a\r\nX-Evil: 1\r\n\r\n{EVIL}"}))
    if member == "token_type":
        with pytest.raises(ProtocolError) as caught:
            lab.get(fake_provider.api("/runs"))
        assert str(caught.value).isprintable()
    else:
        assert lab.get(fake_provider.api("/runs")).status_code == 200
    grant = lab.source.grant()
    assert grant is not None
    assert grant.generation == 1  # and the rotation is saved


@pytest.mark.hazard(1, 19, 35)
def test_claims_too_deep_to_be_saved_lose_no_tokens(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    """Every depth about the recursion limit, from a stack that is deeper or shallower than the one that saves."""
    expired(fake_provider, lab)
    for generation, depth in enumerate((40, *range(900, 1000, 3)), 1):
        claims = base64.urlsafe_b64encode(nested(depth)).decode()
        answer = {**fake_provider.issue(), "id_token": f"x.{claims}.x", "expires_in": 300}
        fake_provider.faults.add(Fault.answer(answer))
        assert lab.source.renew().access_token == answer["access_token"]
        saved = lab.source.store.load(lab.source.key).grant
        assert saved is not None
        assert (saved.generation, saved.refresh_token) == (generation, answer["refresh_token"])
        assert saved.claims == {}


@pytest.mark.hazard(35)
def test_an_id_token_with_claims_too_deep_to_be_saved_is_refused_at_sign_in(
    fake_provider: FakeProvider, lab: loginonce.Session, loginonce_home: Path
) -> None:
    fake_provider.tamper_id_token = lambda claims, header: ({**claims, "deep": json.loads(nested(200))}, header)
    with pytest.raises(ProtocolError, match="malformed"):
        lab.login(flow="browser", presenter=Browser(lambda p: fake_provider.approve(p.url)), timeout=10)
    assert unsaved(loginonce_home)


# ── what it would like to draw on a terminal ─────────────────────────────────────────────────────────────


def clean(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def by_device(provider: FakeProvider, lab: loginonce.Session, **evil: str) -> str:
    device = {"device_code": "d", "user_code": "ABCD", "verification_uri": "https://id/d", "interval": 0.1}
    provider.faults.add(Fault.answer({**device, **evil}), where="device")
    provider.faults.add(Fault.answer({"error": "access_denied" + EVIL, "error_description": EVIL}, 400), where="token")
    shown = io.StringIO()
    with pytest.raises((loginonce.LoginFailed, ProtocolError)) as caught:
        lab.login(flow="device", presenter=TextPresenter(shown), timeout=5)
    return shown.getvalue() + str(caught.value)


def by_refusal(provider: FakeProvider, lab: loginonce.Session, status: int, error: str) -> str:
    expired(provider, lab)
    provider.faults.add(Fault.answer({"error": error, "error_description": EVIL, "error_uri": EVIL}, status))
    with pytest.raises(loginonce.LoginonceError) as caught:
        lab.get(provider.api("/runs"))
    return str(caught.value)


def by_id_token(provider: FakeProvider, lab: loginonce.Session, **header: Any) -> str:
    evil = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", **header}).encode()).rstrip(b"=").decode()
    tokens = provider.issue()
    tokens["id_token"] = ".".join([evil, *tokens["id_token"].split(".")[1:]])
    with pytest.raises(ProtocolError) as caught:
        lab.login(tokens=tokens)
    return str(caught.value)


def by_name(provider: FakeProvider, lab: loginonce.Session) -> str:
    provider.claims["ada"] = {"name": f"Ada{EVIL}"}
    account = lab.login(tokens=provider.issue())
    assert "Ada" in str(account)
    return f"{account} {account!r}"


def by_location(provider: FakeProvider, lab: loginonce.Session) -> str:
    there = "https://id.example.org/\x1b[2J\x9b31m"
    provider.faults.add(Fault.status(302, headers={"Location": there}), where="discovery", times=None)
    with pytest.raises(ProtocolError) as caught:
        lab.login(flow="device")
    return str(caught.value)


def by_revocation(provider: FakeProvider, lab: loginonce.Session) -> str:
    lab.login(tokens=provider.issue())
    provider.faults.add(Fault.answer({"error": "no" + EVIL, "error_description": EVIL}, 400), where="revocation")
    lab.logout()
    return ""


SCREENS: dict[str, Callable[[FakeProvider, loginonce.Session], str]] = {
    "the error of a device sign-in": by_device,
    "a user code": lambda p, s: by_device(p, s, user_code=f"AB{EVIL}"),
    "a verification address": lambda p, s: by_device(p, s, verification_uri=f"https://id/{EVIL}"),
    "a complete verification address": lambda p, s: by_device(p, s, verification_uri_complete=f"https://id/{EVIL}"),
    "a refusal": lambda p, s: by_refusal(p, s, 400, "invalid_grant"),
    "a refusal of us": lambda p, s: by_refusal(p, s, 401, "invalid_client"),
    "an error that nobody knows": lambda p, s: by_refusal(p, s, 403, f"oops{EVIL}"),
    "an error of the server": lambda p, s: by_refusal(p, s, 500, "server_error"),
    "an algorithm": lambda p, s: by_id_token(p, s, alg=EVIL),
    "a critical header": lambda p, s: by_id_token(p, s, crit=[EVIL], kid=EVIL),
    "a name": by_name,
    "a redirect": by_location,
    "a refused revocation": by_revocation,
}


@pytest.mark.hazard(39)
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_that_a_provider_says_moves_the_cursor(
    fake_provider: FakeProvider, lab: loginonce.Session, caplog: pytest.LogCaptureFixture, screen: str
) -> None:
    caplog.set_level(logging.DEBUG, "loginonce")
    shown = SCREENS[screen](fake_provider, lab)
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name == "loginonce")
    assert shown or logged
    assert clean(shown), ascii(shown)
    assert clean(logged), ascii(logged)
