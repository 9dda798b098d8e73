"""Clients of which more is asked, against Keycloak: that say who they are by a signature (OIDC Core §9), whose tokens
are bound to a key (DPoP, RFC 9449), and that exchange one token for another (RFC 8693).

What was sent is counted by Keycloak, from the realm's events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from browser import Person
from crowd import Crowd
from desk import AtTheScreen, ends_at, let_pass, statuses
from joserfc.jwk import ECKey, RSAKey

import loginonce
from loginonce import dpop
from loginonce.errors import ConfigurationError, ErrorResponse, LoginRequired
from loginonce.model import Secret

if TYPE_CHECKING:
    from keycloak import Keycloak

SCOPE = "openid profile email"
SECRET = "a secret of more than thirty-two octets, for the tests only"
QUICK = {"refusal_wait": 0.3}
ONE = {"token_requests": 1, "refreshes_ok": 1, "refusals": 0, "replays": 0}
NONE = {"token_requests": 0, "refreshes_ok": 0, "refusals": 0, "replays": 0}


@pytest.fixture
def person(keycloak: Keycloak) -> Person:
    return Person(keycloak.username, keycloak.password)


@pytest.fixture
def enter(keycloak: Keycloak, loginonce_home: Path) -> Iterator[Callable[..., loginonce.Session]]:
    """A session of the client, with these arguments of `Session`."""
    policy = loginonce.Policy(**QUICK)
    made: list[loginonce.Session] = []

    def enter(scope: str = SCOPE, **given: Any) -> loginonce.Session:
        given = {"client_id": keycloak.client_id, "scope": scope, "policy": policy, **given}
        made.append(loginonce.Session(keycloak.issuer, **given))
        return made[-1]

    yield enter
    for session in made:
        session.close()


Enter = Callable[..., loginonce.Session]


# ── one token for another ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(keycloak: Keycloak) -> str:
    """The scope with which a token is for the service, that the client has to ask for."""
    name = f"files-{keycloak.client_id}"
    keycloak.change(publicClient=False, secret=SECRET, attributes={"standard.token.exchange.enabled": "true"})
    keycloak.offer_audience(name, keycloak.service_client_id)
    return name


@pytest.fixture
def exchanging(keycloak: Keycloak, files: str, enter: Enter) -> loginonce.Session:
    """A session that somebody has signed in to long enough ago for a refusal to be worth a renewal."""
    keycloak.configure(access_token_lifespan=10)
    lab = enter(client_secret=SECRET)
    lab.login(username=keycloak.username, password=keycloak.password)
    keycloak.reset()
    time.sleep(1.2)
    return lab


def revoke_access_token(keycloak: Keycloak, session: loginonce.Session) -> None:
    """Somebody ends the access token, and not the login."""
    form = {"token": session.source.token().access_token, "token_type_hint": "access_token"}
    answer = requests.post(
        f"{keycloak.issuer}/protocol/openid-connect/revoke",
        data=form,
        auth=(keycloak.client_id, SECRET),
        timeout=30,
    )
    assert answer.ok, answer.text


def test_a_token_is_exchanged_for_one_that_another_audience_takes(
    keycloak: Keycloak, exchanging: loginonce.Session, files: str
) -> None:
    assert keycloak.service_client_id not in exchanging.source.token().unverified_claims["aud"]
    token = exchanging.exchange(audience=keycloak.service_client_id, scope=files)
    assert token.unverified_claims["aud"] == keycloak.service_client_id
    assert (token.refresh_token, token.issued_token_type.rpartition(":")[2]) == (None, "access_token")
    assert exchanging.exchange(audience=keycloak.service_client_id, scope=files) is token
    vouched = requests.post(
        f"{keycloak.issuer}/protocol/openid-connect/token/introspect",
        data={"token": token.access_token},
        auth=(keycloak.service_client_id, keycloak.service_client_secret),
        timeout=30,
    ).json()
    assert (vouched["active"], vouched["sub"]) == (True, keycloak.user_id)
    assert keycloak.sent() == NONE  # of the login's own


@pytest.mark.parametrize(("known", "error"), [(True, "invalid_request"), (False, "invalid_client")])
def test_an_exchange_that_keycloak_does_not_allow_is_told_and_spends_no_refresh_token(
    keycloak: Keycloak, exchanging: loginonce.Session, known: bool, error: str
) -> None:
    """None of the scopes brings that audience, or nobody is called so."""
    with pytest.raises(ErrorResponse) as caught:
        exchanging.exchange(audience=keycloak.service_client_id if known else "nobody")
    assert (caught.value.error, "udience" in caught.value.error_description) == (error, True)
    assert exchanging.logged_in
    assert keycloak.sent() == NONE


def test_a_client_that_may_not_exchange_is_told(keycloak: Keycloak, exchanging: loginonce.Session, files: str) -> None:
    keycloak.configure(standard_token_exchange_enabled="false")
    with pytest.raises(ErrorResponse):
        exchanging.exchange(audience=keycloak.service_client_id, scope=files)
    assert keycloak.sent() == NONE


def test_an_access_token_that_was_ended_by_itself_is_renewed_and_exchanged(
    keycloak: Keycloak, exchanging: loginonce.Session, files: str
) -> None:
    revoke_access_token(keycloak, exchanging)
    token = exchanging.exchange(audience=keycloak.service_client_id, scope=files)
    assert token.unverified_claims["aud"] == keycloak.service_client_id
    assert keycloak.sent() == ONE


def test_a_login_that_was_ended_at_keycloak_is_exchanged_no_more_until_a_new_one(
    keycloak: Keycloak, exchanging: loginonce.Session, files: str
) -> None:
    keycloak.log_out()
    with pytest.raises(LoginRequired):
        exchanging.exchange(audience=keycloak.service_client_id, scope=files)
    assert keycloak.sent() == {**NONE, "token_requests": 1, "refusals": 1}
    let_pass(time.time() + 1.1)  # what is issued within the second of the log-out is stale
    exchanging.login(username=keycloak.username, password=keycloak.password)
    assert exchanging.exchange(audience=keycloak.service_client_id, scope=files).access_token


# ── a client that signs ──────────────────────────────────────────────────────────────────────────────────


class Robot:
    """The private key of a client, as a file, and the client in the realm that has its public half."""

    def __init__(self, keycloak: Keycloak, folder: Path, kind: str) -> None:
        key = RSAKey.generate_key(2048, {"kid": "r1"}) if kind == "rsa" else ECKey.generate_key("P-256", {"kid": "e1"})
        self.path = folder / f"{kind}.json"
        self.path.write_text(json.dumps(key.as_dict(private=True)))
        self.path.chmod(0o600)
        public = {**key.as_dict(private=False), "use": "sig", "alg": "RS256" if kind == "rsa" else "ES256"}
        keycloak.change(
            publicClient=False,
            serviceAccountsEnabled=True,
            clientAuthenticatorType="client-jwt",
            attributes={"use.jwks.string": "true", "jwks.string": json.dumps({"keys": [public]})},
        )


@pytest.fixture(params=["rsa", "ec"])
def robot(request: pytest.FixtureRequest, keycloak: Keycloak, tmp_path: Path) -> Robot:
    return Robot(keycloak, tmp_path, request.param)


def serves(keycloak: Keycloak, service: loginonce.Session) -> None:
    """It signs in as itself, twice, and userinfo knows who it is."""
    assert service.login().renews
    service.source.renew()
    assert service.get(keycloak.api).json()["preferred_username"] == f"service-account-{keycloak.client_id}"
    assert {event["type"] for event in keycloak.events()} == {"CLIENT_LOGIN"}


def test_a_service_with_a_private_key_is_known(keycloak: Keycloak, robot: Robot, enter: Enter) -> None:
    serves(keycloak, enter("openid", private_key=str(robot.path), grant="client_credentials"))


@pytest.mark.provider("keycloak", "sign in", "refresh", "log out")
def test_a_person_signs_in_at_a_client_with_a_private_key_and_is_renewed(
    keycloak: Keycloak, robot: Robot, enter: Enter, screen: AtTheScreen
) -> None:
    lab = enter(private_key=str(robot.path))
    assert lab.login(flow="browser").name == "Ada Lovelace"
    keycloak.reset()
    for _ in range(2):  # an assertion is good for one request
        lab.source.renew()
    assert lab.get(keycloak.api).status_code == 200
    assert keycloak.sent() == {"token_requests": 2, "refreshes_ok": 2, "refusals": 0, "replays": 0}
    assert lab.logout().revoked
    assert keycloak.sessions() == []


def test_a_key_that_is_not_the_clients_is_refused_and_the_login_is_kept(
    keycloak: Keycloak, enter: Enter, tmp_path: Path
) -> None:
    ours = Robot(keycloak, tmp_path, "ec")
    lab = enter(private_key=str(ours.path))
    lab.login(username=keycloak.username, password=keycloak.password)
    good = ours.path.read_text()
    ours.path.write_text(json.dumps(ECKey.generate_key("P-256", {"kid": "e1"}).as_dict(private=True)))
    with pytest.raises(ConfigurationError, match="client"):
        lab.source.renew()
    ours.path.write_text(good)
    grant = lab.source.grant()
    assert grant is not None
    assert grant.failure is not None
    let_pass(grant.failure.not_before)  # nobody asks again before
    keycloak.reset()
    assert lab.source.renew()
    assert keycloak.sent() == ONE  # the refresh token was not spent by the refusal


def test_a_client_whose_secret_signs_is_known(keycloak: Keycloak, enter: Enter) -> None:
    keycloak.change(
        publicClient=False, serviceAccountsEnabled=True, clientAuthenticatorType="client-secret-jwt", secret=SECRET
    )
    given = {"client_secret": SECRET, "token_endpoint_auth_method": "client_secret_jwt"}
    lab = enter(**given)
    assert lab.login(username=keycloak.username, password=keycloak.password).name == "Ada Lovelace"
    lab.source.renew()
    assert lab.get(keycloak.api).status_code == 200
    keycloak.reset()
    serves(keycloak, enter("openid", grant="client_credentials", account="service", **given))


# ── tokens bound to a key ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bound(keycloak: Keycloak, enter: Enter) -> loginonce.Session:
    """A session of a client that gets nothing without a proof; nobody has signed in."""
    keycloak.configure(dpop_bound_access_tokens="true")
    return enter(dpop=True)


def test_without_a_proof_a_bound_client_gets_nothing(
    keycloak: Keycloak, bound: loginonce.Session, enter: Enter
) -> None:
    with pytest.raises(ErrorResponse) as caught:
        enter(account="plain").login(username=keycloak.username, password=keycloak.password)
    assert "DPoP" in str(caught.value)
    assert keycloak.sessions() == []


@pytest.mark.provider("keycloak", "sign in", "refresh", "log out")
def test_a_person_signs_in_by_a_browser_and_has_tokens_bound_to_one_key(
    keycloak: Keycloak, bound: loginonce.Session, screen: AtTheScreen
) -> None:
    assert bound.login(flow="browser").name == "Ada Lovelace"
    first = bound.source.token()
    assert first.dpop_key is not None
    keycloak.reset()
    second = bound.source.renew()
    assert keycloak.sent() == ONE
    assert [each.token_type for each in (first, second)] == ["DPoP"] * 2
    jkt = dpop.thumbprint(first.dpop_key)
    assert [each.unverified_claims["cnf"]["jkt"] for each in (first, second)] == [jkt] * 2
    assert bound.get(keycloak.api).json()["preferred_username"] == keycloak.username
    assert bound.logout().revoked


def test_a_bound_token_is_no_use_without_its_key(keycloak: Keycloak, bound: loginonce.Session) -> None:
    bound.login(username=keycloak.username, password=keycloak.password)
    token = bound.source.token()
    plain = requests.get(keycloak.api, headers={"Authorization": f"Bearer {token.access_token}"}, timeout=30)
    assert plain.status_code == 401
    other = Secret(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))
    for key, status in ((other, 401), (token.dpop_key, 200)):
        assert key is not None
        proof = dpop.proof(
            key, "GET", keycloak.api, now=time.time(), jti=str(time.time_ns()), access_token=token.access_token
        )
        headers = {"Authorization": f"DPoP {token.access_token}", "DPoP": proof}
        assert requests.get(keycloak.api, headers=headers, timeout=30).status_code == status


@pytest.mark.hazard(7, 37)
def test_one_of_four_processes_renews_a_bound_token_for_all(
    keycloak: Keycloak, bound: loginonce.Session, crowd_at: Callable[..., Crowd]
) -> None:
    crowd = crowd_at(issuer=keycloak.issuer, client_id=keycloak.client_id, scope=SCOPE, policy=QUICK, dpop=True)
    crowd.fork(4)
    keycloak.configure(access_token_lifespan=4)
    bound.login(username=keycloak.username, password=keycloak.password)
    assert statuses(crowd.call_together(keycloak.api, time.time())) == [200] * 4
    keycloak.configure(access_token_lifespan=60)
    keycloak.reset()
    assert statuses(crowd.call_together(keycloak.api, ends_at(bound))) == [200] * 4
    assert keycloak.sent() == ONE
    assert bound.get(keycloak.api).status_code == 200
