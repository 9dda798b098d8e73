"""`Session` against Keycloak, as it is met in companies: a realm with sessions, offline sessions and roles.

The realm revokes each refresh token when it is used, and a second use ends the client's session.  What was sent is
counted by Keycloak (`keycloak.sent()`, from the realm's events), not by us.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from browser import Person
from crowd import Crowd
from desk import AtTheScreen, ends_at, let_pass, received_at, statuses
from joserfc import jwt
from joserfc.jwk import KeySet
from scripted import Connection, Scripted, answer

import loginonce
from loginonce import InvalidGrant, LoginFailed, LoginRequired
from loginonce.cli import commands

if TYPE_CHECKING:
    from keycloak import Keycloak
    from relay import Relay


SCOPE = "openid profile email"
OFFLINE = f"{SCOPE} offline_access"
QUICK = {"refusal_wait": 0.3}
ONE = {"token_requests": 1, "refreshes_ok": 1, "refusals": 0, "replays": 0}
NONE = {"token_requests": 0, "refreshes_ok": 0, "refusals": 0, "replays": 0}
REFUSED_ONCE = {"token_requests": 1, "refreshes_ok": 0, "refusals": 1, "replays": 0}

Gather = Callable[..., Crowd]


@pytest.fixture
def person(keycloak: Keycloak) -> Person:
    return Person(keycloak.username, keycloak.password)


@pytest.fixture
def lab(keycloak: Keycloak, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session that nobody has signed in to; its login lives as long as Keycloak's own session."""
    policy = loginonce.Policy(**QUICK)
    with loginonce.Session(keycloak.issuer, client_id=keycloak.client_id, scope=SCOPE, policy=policy) as session:
        yield session


@pytest.fixture
def offline(keycloak: Keycloak, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session that nobody has signed in to; its login lives on when Keycloak's own session has ended."""
    policy = loginonce.Policy(**QUICK)
    with loginonce.Session(keycloak.issuer, client_id=keycloak.client_id, scope=OFFLINE, policy=policy) as session:
        yield session


@pytest.fixture
def gather(keycloak: Keycloak, crowd_at: Callable[..., Crowd]) -> Gather:
    """Processes that share the login."""
    return partial(crowd_at, issuer=keycloak.issuer, client_id=keycloak.client_id, scope=SCOPE, policy=QUICK)


@pytest.fixture
def api(keycloak: Keycloak) -> Iterator[str]:
    """An API that judges tokens by itself, by their signature and their end, as most do.

    Keycloak's own (`keycloak.api`) reads the session each time, and a session that is read while it is ended may come
    back to life in Keycloak.
    """
    keys = KeySet.import_key_set(requests.get(f"{keycloak.issuer}/protocol/openid-connect/certs", timeout=30).json())

    def judge(connection: Connection) -> None:
        token = re.search(rb"\r\nAuthorization: Bearer (\S+)", connection.request())
        good = token is not None and jwt.decode(token[1], keys).claims["exp"] > time.time()
        status = "200 OK" if good else "401 Unauthorized"
        connection.send(answer(b"{}", status, connection="close", www_authenticate='Bearer error="invalid_token"'))

    with Scripted(judge) as server:
        yield f"http://127.0.0.1:{server.port}/runs"


def refresh_token(session: loginonce.Session) -> str:
    grant = session.source.grant()
    assert grant is not None
    assert grant.refresh_token is not None
    return grant.refresh_token


def spend(keycloak: Keycloak, token: str) -> requests.Response:
    """Somebody else sends this refresh token."""
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": keycloak.client_id}
    return requests.post(f"{keycloak.issuer}/protocol/openid-connect/token", data=form, timeout=30)


# ── sign in ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("keycloak", "sign in")
def test_a_person_signs_in_with_a_browser(keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen) -> None:
    account = lab.login(flow="browser")
    assert (account.subject, account.name, account.renews) == (keycloak.user_id, "Ada Lovelace", True)
    assert lab.get(keycloak.api).json()["preferred_username"] == keycloak.username
    assert [session["username"] for session in keycloak.sessions()] == [keycloak.username]


def test_a_person_who_refuses_is_not_signed_in(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    keycloak.ask_consent()
    screen.act = lambda prompt: person.deny_authorization(prompt.url)
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="browser")
    assert caught.value.outcome == "denied"
    assert lab.account is None


def test_a_device_code_signs_in_also_where_the_client_has_to_prove_itself_by_pkce(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    keycloak.configure(oauth2_device_polling_interval=1)
    screen.act = lambda prompt: person.approve_device(prompt.url_complete, prompt.user_code)
    assert lab.login(flow="device").name == "Ada Lovelace"
    assert lab.get(keycloak.api).status_code == 200


def test_a_denied_device_code_is_a_login_that_failed(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    keycloak.configure(oauth2_device_polling_interval=1)
    screen.act = lambda prompt: person.deny_device(prompt.url_complete, prompt.user_code)
    with pytest.raises(LoginFailed) as caught:
        lab.login(flow="device")
    assert caught.value.outcome == "denied"


def test_a_password_signs_in_and_a_wrong_one_does_not(keycloak: Keycloak, lab: loginonce.Session) -> None:
    with pytest.raises(InvalidGrant):
        lab.login(username=keycloak.username, password="wrong")
    assert lab.account is None
    assert lab.login(username=keycloak.username, password=keycloak.password).name == "Ada Lovelace"
    assert lab.get(keycloak.api).status_code == 200


def test_a_service_uses_its_own_secret(keycloak: Keycloak, loginonce_home: Path) -> None:
    service = loginonce.Session(
        keycloak.issuer,
        client_id=keycloak.service_client_id,
        client_secret=keycloak.service_client_secret,
        grant="client_credentials",
        scope="openid",
    )
    names = [service.get(keycloak.api).json()["preferred_username"] for _ in range(3)]
    assert names == [f"service-account-{keycloak.service_client_id}"] * 3
    assert len(keycloak.admin("GET", "events", type="CLIENT_LOGIN", client=keycloak.service_client_id)) == 1


def test_a_scope_that_is_not_granted_is_told(
    keycloak: Keycloak, loginonce_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keycloak.offer_scope(f"runs-{keycloak.client_id}", role="operator")
    wanted = f"{SCOPE} runs-{keycloak.client_id}"
    lab = loginonce.Session(keycloak.issuer, client_id=keycloak.client_id, scope=wanted)
    with caplog.at_level(logging.WARNING, "loginonce"):
        lab.login(username=keycloak.username, password=keycloak.password)
    assert f"granted less than was asked for: without runs-{keycloak.client_id}" in caplog.text
    assert set(lab.source.token().scope.split()) == set(SCOPE.split())
    assert lab.missing_scope == {f"runs-{keycloak.client_id}"}
    assert lab.get(keycloak.api).status_code == 200  # it asks for no more than it can have


def test_what_a_renewal_narrows_is_told(keycloak: Keycloak, loginonce_home: Path) -> None:
    keycloak.offer_scope(f"runs-{keycloak.client_id}", role="operator")
    keycloak.give_role("operator")
    wanted = f"{SCOPE} runs-{keycloak.client_id}"
    lab = loginonce.Session(keycloak.issuer, client_id=keycloak.client_id, scope=wanted)
    lab.login(username=keycloak.username, password=keycloak.password)
    assert lab.missing_scope == frozenset()
    keycloak.take_role("operator")
    assert set(lab.source.renew().scope.split()) == set(SCOPE.split())
    assert lab.missing_scope == {f"runs-{keycloak.client_id}"}


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_roles_are_in_the_access_token_and_are_those_that_keycloak_vouches_for(
    keycloak: Keycloak, lab: loginonce.Session
) -> None:
    audience = {"included.client.audience": keycloak.service_client_id, "access.token.claim": "true"}
    keycloak.map_claim("oidc-audience-mapper", **audience)  # which may ask about the token, then
    lab.login(username=keycloak.username, password=keycloak.password)
    token = lab.source.token().access_token
    keys = requests.get(f"{keycloak.issuer}/protocol/openid-connect/certs", timeout=30).json()
    said = jwt.decode(token, KeySet.import_key_set(keys)).claims["realm_access"]["roles"]
    vouched = requests.post(
        f"{keycloak.issuer}/protocol/openid-connect/token/introspect",
        data={"token": token},
        auth=(keycloak.service_client_id, keycloak.service_client_secret),
        timeout=30,
    ).json()
    assert vouched["active"]
    assert sorted(said) == sorted(vouched["realm_access"]["roles"])
    assert "analyst" in said
    assert lab.source.token().unverified_claims["realm_access"]["roles"] == said


def test_roles_in_the_id_token_are_at_hand_and_follow_each_renewal(keycloak: Keycloak, lab: loginonce.Session) -> None:
    keycloak.map_claim(
        "oidc-usermodel-realm-role-mapper",
        **{"claim.name": "realm_access.roles", "multivalued": "true", "id.token.claim": "true"},
    )
    account = lab.login(username=keycloak.username, password=keycloak.password)
    assert "analyst" in account.claims["realm_access"]["roles"]
    assert "operator" not in account.claims["realm_access"]["roles"]
    keycloak.give_role("operator")
    lab.source.renew()
    assert lab.account is not None
    assert {"analyst", "operator"} <= set(lab.account.claims["realm_access"]["roles"])


# ── refresh and rotation ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("keycloak", "refresh", "rotation")
def test_a_login_outlives_its_expiries_and_each_refresh_token_is_sent_once(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen
) -> None:
    keycloak.configure(access_token_lifespan=2)
    lab.login(flow="browser")
    keycloak.reset()
    spent = set()
    for _ in range(3):
        spent.add(refresh_token(lab))
        let_pass(ends_at(lab) + 0.01)
        assert lab.get(keycloak.api).status_code == 200
    assert len(spent) == 3
    assert keycloak.sent() == {"token_requests": 3, "refreshes_ok": 3, "refusals": 0, "replays": 0}
    assert lab.account is not None
    assert lab.account.name == "Ada Lovelace"


def _expiry(keycloak: Keycloak, lab: loginonce.Session, call: Callable[[float], list[Any]], count: int) -> None:
    keycloak.configure(access_token_lifespan=4)
    lab.login(username=keycloak.username, password=keycloak.password)
    assert call(time.time()) == [200] * count
    keycloak.configure(access_token_lifespan=60)
    keycloak.reset()
    assert call(ends_at(lab)) == [200] * count
    assert keycloak.sent() == ONE


@pytest.mark.parametrize("size", [2, 16])
def test_one_of_many_processes_renews_for_all(
    keycloak: Keycloak, lab: loginonce.Session, gather: Gather, size: int
) -> None:
    crowd = gather()
    crowd.fork(size)
    _expiry(keycloak, lab, lambda at: statuses(crowd.call_together(keycloak.api, at)), size)


def test_one_of_several_processes_started_from_nothing_renews_for_all(
    keycloak: Keycloak, lab: loginonce.Session, gather: Gather
) -> None:
    crowd = gather()
    crowd.spawn(4)
    _expiry(keycloak, lab, lambda at: statuses(crowd.call_together(keycloak.api, at)), 4)


def test_one_of_16_threads_renews_for_all(keycloak: Keycloak, lab: loginonce.Session) -> None:
    def call(at: float) -> int:
        let_pass(at)
        return lab.get(keycloak.api, timeout=30).status_code

    with ThreadPoolExecutor(16) as pool:
        _expiry(keycloak, lab, lambda at: list(pool.map(call, [at] * 16)), 16)


# ── lost answers, and grace ──────────────────────────────────────────────────────────────────────────────


def _lose_an_answer(keycloak: Keycloak, relay: Relay, crowd: Crowd) -> list[dict[str, Any]]:
    """All want to renew, the answer gets lost, and they come again when they may; what they are told then."""
    keycloak.configure(access_token_lifespan=2)
    crowd.members[0].ask("login", tokens=keycloak.tokens(SCOPE))
    keycloak.configure(access_token_lifespan=60)
    keycloak.reset()
    relay.lose = 1
    first = crowd.call_together(keycloak.api, at=time.time() + 2.1)
    assert {each.get("error") for each in first} == {"TransportError"}
    assert keycloak.sent() == ONE
    return crowd.call_together(keycloak.api, at=time.time() + max(each["retry_after"] for each in first) + 0.1)


def _crowd_at(keycloak: Keycloak, crowd_at: Callable[..., Crowd]) -> Crowd:
    crowd = crowd_at(issuer=keycloak.issuer, client_id=keycloak.client_id, scope=SCOPE, policy=QUICK)
    crowd.fork(4)
    return crowd


@pytest.mark.hazard(1)
def test_a_lost_answer_costs_one_login_and_no_more_than_two_sends(
    relayed_keycloak: Keycloak, relay: Relay, crowd_at: Callable[..., Crowd]
) -> None:
    crowd = _crowd_at(relayed_keycloak, crowd_at)
    told = _lose_an_answer(relayed_keycloak, relay, crowd)
    assert {each.get("reason") for each in told} == {"ended"}
    twice = {"token_requests": 2, "refreshes_ok": 1, "refusals": 1, "replays": 1}
    assert relayed_keycloak.sent() == twice
    assert {each.get("reason") for each in crowd.call_together(relayed_keycloak.api)} == {"ended"}
    assert relayed_keycloak.sent() == twice


@pytest.mark.hazard(1)
@pytest.mark.provider("keycloak", "grace")
def test_a_lost_answer_costs_nothing_where_keycloak_accepts_a_token_once_more(
    relayed_keycloak: Keycloak, relay: Relay, crowd_at: Callable[..., Crowd]
) -> None:
    crowd = _crowd_at(relayed_keycloak, crowd_at)
    relayed_keycloak.forgive(1)
    try:
        told = _lose_an_answer(relayed_keycloak, relay, crowd)
    finally:
        relayed_keycloak.forgive(0)
    assert statuses(told) == [200] * 4
    assert relayed_keycloak.sent() == {"token_requests": 2, "refreshes_ok": 2, "refusals": 0, "replays": 1}


# ── log out ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.provider("keycloak", "log out")
def test_a_log_out_ends_the_login_at_keycloak(keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen) -> None:
    lab.login(flow="browser")
    token, bearer = refresh_token(lab), lab.source.token().access_token
    assert lab.logout().revoked
    assert spend(keycloak, token).json()["error"] == "invalid_grant"
    assert requests.get(keycloak.api, headers={"Authorization": f"Bearer {bearer}"}, timeout=30).status_code == 401
    with pytest.raises(LoginRequired) as caught:
        lab.get(keycloak.api)
    assert caught.value.reason == "logged_out"


def test_keycloaks_own_session_ends_where_the_log_out_says(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    portal = loginonce.Session(keycloak.issuer, client_id=keycloak.other_client_id, scope=SCOPE)
    portal.login(flow="browser")
    lab.login(flow="browser")  # the same browser, so the same session
    assert [len(session["clients"]) for session in keycloak.sessions()] == [2]
    url = lab.logout().end_session_url
    assert [len(session["clients"]) for session in keycloak.sessions()] == [1]  # what is revoked is one client's part
    person.end_session(url)
    assert keycloak.sessions() == []


def test_an_offline_login_ends_at_keycloak_by_a_log_out(
    keycloak: Keycloak, offline: loginonce.Session, screen: AtTheScreen
) -> None:
    offline.login(flow="browser")
    assert len(keycloak.offline_sessions()) == 1
    assert offline.logout().revoked
    assert keycloak.offline_sessions() == []


# ── ended elsewhere ──────────────────────────────────────────────────────────────────────────────────────


def _administrator(keycloak: Keycloak, lab: loginonce.Session, person: Person) -> None:
    keycloak.log_out()


def _other_application(keycloak: Keycloak, lab: loginonce.Session, person: Person) -> None:
    portal = loginonce.Session(keycloak.issuer, client_id=keycloak.other_client_id, scope=SCOPE)
    portal.login(flow="browser")  # the same browser, so the same session
    person.end_session(portal.logout().end_session_url)


def _revoked(keycloak: Keycloak, lab: loginonce.Session, person: Person) -> None:
    form = {"token": refresh_token(lab), "client_id": keycloak.client_id}
    assert requests.post(f"{keycloak.issuer}/protocol/openid-connect/revoke", data=form, timeout=30).ok


def _thief(keycloak: Keycloak, lab: loginonce.Session, person: Person) -> None:
    stolen = refresh_token(lab)
    lab.source.renew()
    assert spend(keycloak, stolen).json()["error"] == "invalid_grant"


def _quicker_thief(keycloak: Keycloak, lab: loginonce.Session, person: Person) -> None:
    stolen = refresh_token(lab)
    assert spend(keycloak, stolen).ok
    with pytest.raises(LoginRequired):
        lab.source.renew()


@pytest.mark.parametrize(
    ("end", "refusals", "replays"),
    [
        pytest.param(_administrator, 1, 0, id="by-the-administrator"),
        pytest.param(_other_application, 1, 0, id="by-another-application"),
        pytest.param(_revoked, 1, 0, id="by-a-revocation"),
        pytest.param(_thief, 2, 1, id="by-a-thief-who-replays"),
        pytest.param(_quicker_thief, 1, 1, id="by-a-thief-who-was-quicker"),
    ],
)
@pytest.mark.hazard(28)
@pytest.mark.provider("keycloak", "ended elsewhere")
def test_ten_processes_at_work_are_told_that_the_login_has_ended_and_one_login_revives_all(
    keycloak: Keycloak,
    lab: loginonce.Session,
    api: str,
    screen: AtTheScreen,
    gather: Gather,
    person: Person,
    end: Callable[[Keycloak, loginonce.Session, Person], None],
    refusals: int,
    replays: int,
) -> None:
    keycloak.configure(access_token_lifespan=5)
    crowd = gather()
    crowd.fork(10)
    lab.login(flow="browser")
    keycloak.reset()
    for member in crowd.members:
        member.tell("work", url=api, until=ends_at(lab) + 1, pause=0.1)
    time.sleep(0.5)
    end(keycloak, lab, person)
    done = [member.hear() for member in crowd.members]
    let_pass(ends_at(lab) + 0.1)
    told = [each for work in done for each in work["bad"]]
    told += [each for _ in range(3) for each in crowd.call_together(api)]
    assert any(work["good"] for work in done)
    assert {(each.get("status"), each.get("reason")) for each in told} == {(None, "ended")}
    sent = keycloak.sent()
    assert (sent["refusals"], sent["replays"]) == (refusals, replays)
    keycloak.configure(access_token_lifespan=60)
    lab.login(flow="browser", force=True)
    keycloak.reset()
    assert statuses(crowd.call_together(api)) == [200] * 10
    assert keycloak.sent() == NONE


@pytest.mark.hazard(28)
def test_an_api_that_asks_keycloak_has_all_told_before_their_token_ends(
    keycloak: Keycloak, lab: loginonce.Session, screen: AtTheScreen, gather: Gather
) -> None:
    keycloak.configure(access_token_lifespan=20)
    crowd = gather()
    crowd.fork(4)
    lab.login(flow="browser")
    assert statuses(crowd.call_together(keycloak.api)) == [200] * 4
    let_pass(received_at(lab) + 2.1)  # a younger token would not be renewed for a 401
    keycloak.log_out()
    keycloak.reset()
    for _ in range(3):
        told = crowd.call_together(keycloak.api)
        assert {(each.get("status"), each.get("reason")) for each in told} == {(None, "ended")}
    assert keycloak.sent() == REFUSED_ONCE


def test_a_log_out_by_the_administrator_ends_an_offline_login_too(
    keycloak: Keycloak, offline: loginonce.Session
) -> None:
    offline.login(username=keycloak.username, password=keycloak.password)
    time.sleep(1.1)  # Keycloak notes the second, and what is of an earlier one is stale
    keycloak.log_out()
    keycloak.reset()
    with pytest.raises(LoginRequired) as caught:
        offline.source.renew()
    assert caught.value.reason == "ended"
    assert keycloak.sent() == REFUSED_ONCE


def test_a_closed_account_is_told(keycloak: Keycloak, lab: loginonce.Session) -> None:
    lab.login(username=keycloak.username, password=keycloak.password)
    keycloak.disable()
    keycloak.reset()
    with pytest.raises(LoginRequired) as caught:
        lab.source.renew()
    assert caught.value.reason == "ended"
    assert keycloak.sent() == REFUSED_ONCE


# ── how long ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_login_that_ran_out_is_told_as_that_after_one_question(keycloak: Keycloak, lab: loginonce.Session) -> None:
    keycloak.configure(access_token_lifespan=2, client_session_idle_timeout=3)
    lab.login(username=keycloak.username, password=keycloak.password)
    grant = lab.source.grant()
    assert grant is not None
    assert grant.refresh_expires_at is not None
    assert 1 <= grant.refresh_expires_at - grant.tokens[0].received_at <= 3  # it counts in whole seconds
    keycloak.reset()
    time.sleep(3 + 1.1)  # it was issued before now, if perhaps later than we had asked for it
    for _ in range(3):
        with pytest.raises(LoginRequired) as caught:
            lab.get(keycloak.api)
        assert caught.value.reason == "expired"
    assert keycloak.sent() == REFUSED_ONCE


def test_a_renewal_moves_the_end_of_the_login(keycloak: Keycloak, lab: loginonce.Session) -> None:
    keycloak.configure(client_session_idle_timeout=30)
    lab.login(username=keycloak.username, password=keycloak.password)
    before = lab.source.grant()
    time.sleep(2.1)
    lab.source.renew()
    after = lab.source.grant()
    assert before is not None
    assert after is not None
    assert (after.refresh_expires_at or 0) > (before.refresh_expires_at or 0) + 1


def test_an_offline_login_has_no_known_end_and_outlives_the_session(
    keycloak: Keycloak, offline: loginonce.Session, screen: AtTheScreen, person: Person
) -> None:
    offline.login(flow="browser")
    grant = offline.source.grant()
    assert grant is not None
    assert grant.refresh_expires_at is None  # "refresh_expires_in": 0 is not an end that has come
    keycloak.end_sessions()
    assert keycloak.sessions() == []
    keycloak.reset()
    offline.source.renew()
    assert keycloak.sent() == ONE
    assert offline.get(keycloak.api).status_code == 200

    keycloak.withdraw_consent()
    assert keycloak.offline_sessions() == []
    keycloak.reset()
    with pytest.raises(LoginRequired) as caught:
        offline.source.renew()
    assert caught.value.reason == "ended"
    assert keycloak.sent() == REFUSED_ONCE


# ── the doctor ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_doctor_knows_keycloak_and_says_when_the_login_ends(
    keycloak: Keycloak, lab: loginonce.Session, loginonce_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = f"issuer = '{keycloak.issuer}'\nclient_id = '{keycloak.client_id}'\nscope = '{SCOPE}'\n"
    (loginonce_home / "config.toml").write_text(f"[profiles.lab]\n{profile}")
    lab.login(username=keycloak.username, password=keycloak.password)
    keycloak.reset()
    code = commands.run(["doctor", "lab", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert code == 0
    # Keycloak's answers have no Date.
    assert {name: check["level"] for name, check in checks.items() if check["level"] != "ok"} == {"clock": "unknown"}
    assert "its issuer matches; offers PKCE, device codes, revocation, end of session" in checks["provider"]["text"]
    assert "refresh token ends" in checks["record"]["text"]
    assert "signed in as Ada Lovelace" in checks["login"]["text"]
    keycloak.log_out()
    with pytest.raises(LoginRequired):
        lab.source.renew()
    keycloak.reset()
    assert commands.run(["doctor", "lab", "--json"]) in (0, 4)
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "ended" in checks["login"]["text"]
    assert "loginonce login lab" in checks["login"]["advice"]
    assert keycloak.sent() == NONE
