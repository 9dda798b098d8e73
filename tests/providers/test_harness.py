"""The harness itself, judged with plain requests: what the other suites may rely on.

Some of these pin down what oidc-provider does although no RFC asks for it (the answer has no
`interval`; nobody is told to slow down). When an update changes one, the tests of loginonce that were
measured against it need a second look; the failing name says which fact moved.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from browser import Person, Stuck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import OidcProvider

    Answer = tuple[int, dict[str, Any]]

REDIRECT_URI = "http://127.0.0.1:49152/callback"  # nothing listens there
SCOPE = "openid profile email offline_access"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Wire:
    """Requests as RFC 6749, 7009, 7636 and 8628 spell them; nothing of loginonce."""

    def __init__(self, provider: OidcProvider) -> None:
        self.provider = provider
        self.metadata = provider.metadata()

    def post(self, endpoint: str, auth: tuple[str, str] | None = None, **form: str) -> Answer:
        if auth is None:
            form["client_id"] = self.provider.client_id
        answer = requests.post(self.metadata[endpoint], data=form, auth=auth, timeout=10)
        return answer.status_code, answer.json() if answer.content else {}

    def refresh(self, refresh_token: str) -> Answer:
        return self.post("token_endpoint", grant_type="refresh_token", refresh_token=refresh_token)

    def authorization(self, **changed: str) -> tuple[str, str]:
        """An authorization URL, and the code verifier that belongs to it."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        query = {
            "client_id": self.provider.client_id,
            "response_type": "code",
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "prompt": "consent",
            "state": "s-1",
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
        } | changed
        return f"{self.metadata['authorization_endpoint']}?{urlencode(query)}", verifier

    def log_in(self, person: Person, **changed: str) -> dict[str, Any]:
        url, verifier = self.authorization(**changed)
        redirect = members(person.open_authorization(url, follow=False))
        status, tokens = self.post(
            "token_endpoint",
            grant_type="authorization_code",
            code=redirect["code"],
            redirect_uri=changed.get("redirect_uri", REDIRECT_URI),
            code_verifier=verifier,
        )
        assert status == 200, tokens
        return tokens

    def begin_device(self) -> dict[str, Any]:
        status, answer = self.post("device_authorization_endpoint", scope=SCOPE)
        assert status == 200, answer
        return answer

    def poll(self, device: dict[str, Any]) -> Answer:
        return self.post("token_endpoint", grant_type=DEVICE_GRANT, device_code=device["device_code"])

    def call(self, access_token: str) -> requests.Response:
        bearer = {"Authorization": f"Bearer {access_token}"}
        return requests.get(self.provider.api(), headers=bearer, timeout=10)


def members(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def claims(id_token: str) -> dict[str, Any]:
    payload = id_token.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return content


@pytest.fixture
def wire(oidc_provider: OidcProvider) -> Wire:
    return Wire(oidc_provider)


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A loopback receiver: its redirect URI, and the paths that were asked of it."""
    seen: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/callback", seen
        server.shutdown()


# --- discovery -----------------------------------------------------------------------------------


def test_both_discovery_documents_are_served_and_say_the_same(oidc_provider: OidcProvider) -> None:
    documents = [
        requests.get(f"{oidc_provider.issuer}/.well-known/{name}", timeout=10).json()
        for name in ("openid-configuration", "oauth-authorization-server")
    ]
    assert documents[0] == documents[1]
    assert documents[0]["issuer"] == oidc_provider.issuer
    assert documents[0]["code_challenge_methods_supported"] == ["S256"]
    assert documents[0]["authorization_response_iss_parameter_supported"] is True


# --- authorization code --------------------------------------------------------------------------


def test_a_code_login_ends_in_access_refresh_and_id_token(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    assert set(tokens) == {
        "access_token", "expires_in", "id_token", "refresh_token", "scope", "token_type",
    }  # fmt: skip
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    assert set(tokens["scope"].split()) == set(SCOPE.split())
    assert claims(tokens["id_token"])["sub"] == "ada"
    assert wire.call(tokens["access_token"]).json()["subject"] == "ada"


def test_the_redirect_carries_state_and_issuer(wire: Wire, person: Person) -> None:
    url, _ = wire.authorization(state="s-2")
    redirect = members(person.open_authorization(url, follow=False))
    assert set(redirect) == {"code", "iss", "state"}
    assert redirect["state"] == "s-2"
    assert redirect["iss"] == wire.provider.issuer


def test_a_followed_redirect_reaches_the_loopback_receiver(
    wire: Wire, person: Person, receiver: tuple[str, list[str]]
) -> None:
    redirect_uri, seen = receiver
    url, _ = wire.authorization(redirect_uri=redirect_uri)
    final = person.open_authorization(url)
    assert seen == [f"/callback?{urlsplit(final).query}"]


def test_a_second_login_at_the_same_browser_asks_for_no_password(wire: Wire, person: Person) -> None:
    wire.log_in(person)
    person.login = "somebody else, if anybody asked"
    assert wire.call(wire.log_in(person)["access_token"]).json()["subject"] == "ada"


def test_a_refused_consent_is_access_denied_at_the_client(wire: Wire, person: Person) -> None:
    url, _ = wire.authorization()
    redirect = members(person.deny_authorization(url, follow=False))
    assert redirect["error"] == "access_denied"
    assert redirect["state"] == "s-1"
    assert "code" not in redirect


@pytest.mark.parametrize(
    "changed", [{"code_challenge_method": "plain"}, {"code_challenge": "", "code_challenge_method": ""}]
)
def test_an_authorization_without_s256_is_an_error(wire: Wire, person: Person, changed: dict[str, str]) -> None:
    url, _ = wire.authorization(**changed)
    assert members(person.open_authorization(url, follow=False))["error"] == "invalid_request"


def test_an_unknown_redirect_uri_leaves_the_person_at_the_provider(wire: Wire, person: Person) -> None:
    url, _ = wire.authorization(redirect_uri="http://127.0.0.1:49152/elsewhere")
    with pytest.raises(Stuck, match="400"):
        person.open_authorization(url, follow=False)


def test_without_prompt_consent_there_is_no_refresh_token(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person, prompt="login")
    assert "refresh_token" not in tokens
    assert "offline_access" not in tokens["scope"]


def test_name_and_email_are_at_userinfo_and_not_in_the_id_token(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    userinfo = requests.get(wire.metadata["userinfo_endpoint"], headers=bearer, timeout=10).json()
    assert userinfo == {
        "sub": "ada", "name": "Ada", "email": "ada@example.org", "email_verified": True,
    }  # fmt: skip
    assert "name" not in claims(tokens["id_token"])


def test_the_id_token_has_the_name_when_asked_for_it(
    start_oidc_provider: Callable[..., OidcProvider], person: Person
) -> None:
    tokens = Wire(start_oidc_provider(id_token_claims=True)).log_in(person)
    assert claims(tokens["id_token"])["name"] == "Ada"


# --- refresh -------------------------------------------------------------------------------------


def test_a_refresh_rotates_and_repeats_the_id_token(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    status, second = wire.refresh(first["refresh_token"])
    assert status == 200
    assert set(second) == set(first)
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert claims(second["id_token"])["sub"] == "ada"
    assert wire.provider.stats()["refreshes_ok"] == 1


def test_a_refresh_leaves_the_earlier_access_token_alive(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    wire.refresh(first["refresh_token"])
    assert wire.call(first["access_token"]).status_code == 200


def test_a_replay_ends_the_whole_family(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    _, second = wire.refresh(first["refresh_token"])
    assert wire.call(second["access_token"]).status_code == 200

    status, refusal = wire.refresh(first["refresh_token"])
    assert (status, refusal["error"]) == (400, "invalid_grant")
    assert wire.provider.stats()["replays"] == 1

    assert wire.refresh(second["refresh_token"])[1]["error"] == "invalid_grant"
    assert wire.call(first["access_token"]).status_code == 401
    assert wire.call(second["access_token"]).status_code == 401
    counted = wire.provider.stats()
    assert counted["replays"] == 1  # the second refusal was of a token never spent
    assert counted["refusals_by_error"] == {"invalid_grant": 2}


def test_every_replay_of_a_dead_family_is_counted(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    wire.refresh(first["refresh_token"])
    wire.refresh(first["refresh_token"])
    wire.refresh(first["refresh_token"])
    assert wire.provider.stats()["replays"] == 2


def test_one_token_sent_twice_at_a_time_is_a_replay(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(wire.refresh, [first["refresh_token"]] * 8))
    assert any(status == 200 for status, _ in answers)
    assert wire.provider.stats()["replays"] == 7


def test_a_spent_token_is_still_good_where_nothing_rotates(wire: Wire, person: Person) -> None:
    wire.provider.configure(rotation=False)
    first = wire.log_in(person)
    for _ in range(2):
        status, again = wire.refresh(first["refresh_token"])
        assert status == 200
        assert again["refresh_token"] == first["refresh_token"]
    assert wire.provider.stats()["replays"] == 0


def test_every_refusal_reads_alike(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    _, second = wire.refresh(first["refresh_token"])
    replayed = wire.refresh(first["refresh_token"])
    assert wire.refresh(second["refresh_token"]) == replayed
    assert wire.refresh("never-issued") == replayed


def test_a_refresh_token_past_its_life_is_refused(wire: Wire, person: Person) -> None:
    wire.provider.configure(refresh_token_ttl=1)
    tokens = wire.log_in(person)
    time.sleep(1.1)
    assert wire.refresh(tokens["refresh_token"])[1]["error"] == "invalid_grant"


def test_two_logins_at_one_browser_are_one_family(wire: Wire, person: Person) -> None:
    one, other = wire.log_in(person), wire.log_in(person)
    wire.refresh(one["refresh_token"])
    wire.refresh(one["refresh_token"])  # a replay
    assert wire.refresh(other["refresh_token"])[1]["error"] == "invalid_grant"


def test_a_lost_answer_has_rotated_all_the_same(wire: Wire, person: Person) -> None:
    first = wire.log_in(person)
    wire.provider.configure(drop_token_answers=1)
    with pytest.raises(requests.ConnectionError):
        wire.refresh(first["refresh_token"])
    counted = wire.provider.stats()
    assert (counted["refreshes_ok"], counted["dropped"], counted["replays"]) == (1, 1, 0)
    assert wire.refresh(first["refresh_token"])[0] == 400
    assert wire.provider.stats()["replays"] == 1


def test_a_delayed_token_endpoint_answers_late(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    wire.provider.configure(token_delay=0.3)
    began = time.monotonic()
    assert wire.refresh(tokens["refresh_token"])[0] == 200
    assert time.monotonic() - began >= 0.3


# --- device --------------------------------------------------------------------------------------


def test_a_device_login_is_pending_until_approved(wire: Wire, person: Person) -> None:
    device = wire.begin_device()
    assert set(device) == {
        "device_code", "user_code", "verification_uri", "verification_uri_complete", "expires_in",
    }  # fmt: skip  # no interval: RFC 8628 section 3.2 then says 5 seconds
    status, pending = wire.poll(device)
    assert (status, pending["error"]) == (400, "authorization_pending")

    person.approve_device(device["verification_uri"], device["user_code"])
    status, tokens = wire.poll(device)
    assert status == 200
    assert "refresh_token" in tokens
    assert wire.call(tokens["access_token"]).json()["subject"] == "ada"
    assert wire.provider.stats()["refusals"] == 0


def test_a_device_is_approved_by_the_complete_uri(wire: Wire, person: Person) -> None:
    device = wire.begin_device()
    person.approve_device(device["verification_uri_complete"], device["user_code"])
    assert wire.poll(device)[0] == 200


def test_a_denied_device_gets_access_denied(wire: Wire, person: Person) -> None:
    device = wire.begin_device()
    person.deny_device(device["verification_uri"], device["user_code"])
    status, denied = wire.poll(device)
    assert (status, denied["error"]) == (400, "access_denied")


def test_an_expired_device_code_is_expired_token(wire: Wire) -> None:
    wire.provider.configure(device_code_ttl=1)
    device = wire.begin_device()
    assert device["expires_in"] == 1
    time.sleep(1.1)
    status, expired = wire.poll(device)
    assert (status, expired["error"]) == (400, "expired_token")


def test_a_device_code_works_once(wire: Wire, person: Person) -> None:
    device = wire.begin_device()
    person.approve_device(device["verification_uri"], device["user_code"])
    _, tokens = wire.poll(device)
    assert wire.poll(device)[1]["error"] == "invalid_grant"
    assert wire.call(tokens["access_token"]).status_code == 401  # a reused code ends what came of it


def test_nobody_is_told_to_slow_down(wire: Wire) -> None:
    device = wire.begin_device()
    assert {wire.poll(device)[1]["error"] for _ in range(10)} == {"authorization_pending"}


def test_a_wrong_user_code_gets_the_person_stuck(wire: Wire, person: Person) -> None:
    with pytest.raises(Stuck, match="did not take the code"):
        person.approve_device(wire.begin_device()["verification_uri"], "WRNG-CODE")


# --- ends ----------------------------------------------------------------------------------------


def test_a_revoked_refresh_token_takes_its_access_token_along(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    assert wire.post("revocation_endpoint", token=tokens["refresh_token"]) == (200, {})
    assert wire.refresh(tokens["refresh_token"])[1]["error"] == "invalid_grant"
    assert wire.call(tokens["access_token"]).status_code == 401
    counted = wire.provider.stats()
    assert (counted["revocations"], counted["replays"]) == (1, 0)


def test_revoking_an_unknown_token_succeeds_and_ends_nothing(wire: Wire) -> None:
    assert wire.post("revocation_endpoint", token="never-issued") == (200, {})
    assert wire.provider.stats()["revocations"] == 0


def test_a_revoked_access_token_takes_the_refresh_token_along(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    assert wire.post("revocation_endpoint", token=tokens["access_token"]) == (200, {})
    assert wire.call(tokens["access_token"]).status_code == 401
    assert wire.refresh(tokens["refresh_token"])[1]["error"] == "invalid_grant"


def test_a_session_ended_at_the_provider_refuses_the_refresh(wire: Wire, person: Person) -> None:
    hers, his = wire.log_in(person), wire.log_in(Person("charles"))
    wire.provider.end_session("ada")
    status, refusal = wire.refresh(hers["refresh_token"])
    assert (status, refusal["error"]) == (400, "invalid_grant")
    assert wire.call(hers["access_token"]).status_code == 401
    assert wire.provider.stats()["replays"] == 0
    assert wire.refresh(his["refresh_token"])[0] == 200


def test_access_tokens_can_die_while_the_refresh_token_lives(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    wire.provider.revoke_access_tokens()
    refused = wire.call(tokens["access_token"])
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    status, renewed = wire.refresh(tokens["refresh_token"])
    assert status == 200
    assert wire.call(renewed["access_token"]).status_code == 200
    counted = wire.provider.stats()
    assert (counted["api_ok"], counted["api_401"]) == (1, 1)


def test_an_access_token_dies_at_its_second(wire: Wire, person: Person) -> None:
    wire.provider.configure(access_token_ttl=1)
    tokens = wire.log_in(person)
    assert tokens["expires_in"] == 1
    time.sleep(1.1)
    assert wire.call(tokens["access_token"]).status_code == 401


def test_a_confirmed_logout_returns_to_the_client(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    query = {
        "id_token_hint": tokens["id_token"],
        "post_logout_redirect_uri": "http://127.0.0.1:49152/signed-out",
        "state": "bye",
    }
    final = person.end_session(f"{wire.metadata['end_session_endpoint']}?{urlencode(query)}")
    assert final == "http://127.0.0.1:49152/signed-out?state=bye"
    person.login = "grace"  # the browser is signed out, so the next login asks who it is
    assert wire.call(wire.log_in(person)["access_token"]).json()["subject"] == "grace"


def test_a_confirmed_logout_leaves_offline_access_alive(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    query = urlencode({"id_token_hint": tokens["id_token"]})
    person.end_session(f"{wire.metadata['end_session_endpoint']}?{query}")
    assert wire.refresh(tokens["refresh_token"])[0] == 200


def test_a_confirmed_logout_ends_a_login_without_offline_access(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person, scope="openid")
    query = urlencode({"id_token_hint": tokens["id_token"]})
    person.end_session(f"{wire.metadata['end_session_endpoint']}?{query}")
    assert wire.call(tokens["access_token"]).status_code == 401


# --- the service, the API, the process -----------------------------------------------------------


def test_the_service_gets_an_access_token_and_nothing_to_refresh_it(wire: Wire) -> None:
    account = (wire.provider.service_client_id, wire.provider.service_client_secret)
    status, tokens = wire.post("token_endpoint", account, grant_type="client_credentials")
    assert status == 200
    assert set(tokens) == {"access_token", "expires_in", "token_type"}
    assert wire.call(tokens["access_token"]).json()["subject"] == "service"


def test_a_wrong_client_secret_is_invalid_client(wire: Wire) -> None:
    account = (wire.provider.service_client_id, "wrong")
    status, refusal = wire.post("token_endpoint", account, grant_type="client_credentials")
    assert (status, refusal["error"]) == (401, "invalid_client")


def test_the_api_tells_nobody_of_an_error_who_sent_no_token(oidc_provider: OidcProvider) -> None:
    refused = requests.get(oidc_provider.api("runs"), timeout=10)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="api"'


def test_sixty_four_callers_are_served_at_once(wire: Wire, person: Person) -> None:
    token = wire.log_in(person)["access_token"]
    together = threading.Barrier(64, timeout=20)

    def call(_: int) -> int:
        together.wait()
        return wire.call(token).status_code

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(call, range(64))) == [200] * 64
    assert wire.provider.stats()["api_ok"] == 64


def test_a_reset_forgets_counts_but_no_login(wire: Wire, person: Person) -> None:
    tokens = wire.log_in(person)
    wire.provider.reset()
    assert wire.provider.stats()["token_requests"] == 0
    assert wire.refresh(tokens["refresh_token"])[0] == 200


def test_the_server_ends_when_its_owner_lets_go(
    start_oidc_provider: Callable[..., OidcProvider],
) -> None:
    provider = start_oidc_provider()
    assert provider.process.stdin is not None
    provider.process.stdin.close()
    assert provider.process.wait(timeout=5) == 0
