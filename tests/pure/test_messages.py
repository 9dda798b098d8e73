"""Pushed requests, exchange, introspection, registration, and the claims of a JWT that nobody checked."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from loginonce.errors import ErrorResponse, InvalidGrant, ProtocolError
from loginonce.exchange import exchange_form, judge_exchange
from loginonce.introspection import judge_introspection, judge_userinfo
from loginonce.model import Secret, TokenSet
from loginonce.providers import Dialect
from loginonce.pushed import judge_pushed
from loginonce.registration import judge_registration, registration_request
from loginonce.wire import Answer, Members

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
CANARY = "canary-of-the-messages"


def said(content: Any, status: int = 200) -> Answer:
    return Answer(status, {}, content if isinstance(content, bytes) else json.dumps(content).encode())


NO_ANSWERS = [said(b""), said(b"<html>"), said([1]), said("text"), said({})]


# ── pushed requests ──────────────────────────────────────────────────────────────────────────────────────


def test_a_pushed_request_gives_a_reference_and_how_long_it_is_good() -> None:
    pushed = judge_pushed(said({"request_uri": "urn:x:1", "expires_in": 90}, 201))
    assert (pushed.request_uri, pushed.expires_in) == ("urn:x:1", 90.0)
    assert "urn:x:1" not in repr(pushed)


def test_a_reference_without_an_end_is_good_for_a_minute() -> None:
    assert judge_pushed(said({"request_uri": "urn:x:1"})).expires_in == 60.0


@pytest.mark.parametrize("answer", [*NO_ANSWERS, said({"request_uri": 5})])
def test_an_answer_without_a_reference_breaks_the_rfc(answer: Answer) -> None:
    with pytest.raises(ProtocolError):
        judge_pushed(answer)


def test_what_could_not_be_read_again_from_deep_in_a_program_is_no_answer() -> None:
    deep: Any = "urn:x:1"
    for _ in range(40):
        deep = [deep]
    with pytest.raises(ProtocolError, match="not a JSON object"):
        judge_pushed(said({"request_uri": "urn:x:1", "more": deep}))


def test_a_refused_pushed_request_is_told_in_the_providers_words() -> None:
    with pytest.raises(ErrorResponse) as caught:
        judge_pushed(said({"error": "invalid_redirect_uri", "error_description": "not yours"}, 400))
    assert (caught.value.error, caught.value.error_description) == ("invalid_redirect_uri", "not yours")


# ── exchange ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_exchange_names_the_token_its_type_and_what_is_wanted() -> None:
    assert exchange_form(Secret("a"), audience="files", scope="read") == [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "a"),
        ("subject_token_type", ACCESS_TOKEN),
        ("audience", "files"),
        ("scope", "read"),
    ]


GIVEN = {"access_token": CANARY, "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 60}


def test_an_exchanged_token_knows_its_end_and_what_it_is() -> None:
    made = judge_exchange(said({**GIVEN, "refresh_token": "r"}), 1000.0, scope="read", resource="https://files")
    assert isinstance(made, TokenSet)
    assert (made.access_token, made.expires_at, made.issued_token_type) == (CANARY, 1060.0, ACCESS_TOKEN)
    assert (made.scope, made.resource, made.refresh_token) == ("read", "https://files", "r")
    assert CANARY not in repr(made)


def test_what_is_no_access_token_says_so_by_its_type() -> None:
    made = judge_exchange(said({**GIVEN, "token_type": "N_A"}), 1000.0)
    assert made.token_type == "N_A"


@pytest.mark.parametrize("answer", [*NO_ANSWERS, said({n: v for n, v in GIVEN.items() if n != "issued_token_type"})])
def test_an_exchange_that_does_not_say_what_it_brought_breaks_the_rfc(answer: Answer) -> None:
    with pytest.raises(ProtocolError):
        judge_exchange(answer, 1000.0)


def test_a_refused_exchange_is_told_by_its_error() -> None:
    with pytest.raises(ErrorResponse) as caught:
        judge_exchange(said({"error": "invalid_target"}, 400), 1000.0)
    assert caught.value.error == "invalid_target"
    with pytest.raises(InvalidGrant):
        judge_exchange(said({"error": "invalid_grant"}, 400), 1000.0)


def test_an_exchange_is_refused_in_the_words_of_the_provider() -> None:
    dialect = Dialect(error_members=("code",), refusals=("bad_token",))
    with pytest.raises(InvalidGrant):  # also with a status that says it has gone well, as GitHub's
        judge_exchange(said({"code": "bad_token"}), 1000.0, dialect=dialect)


# ── whether a token is alive ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("active", [True, False])
def test_an_introspection_says_whether_a_token_is_active(active: bool) -> None:
    assert judge_introspection(said({"active": active})) is active


@pytest.mark.parametrize(
    "answer",
    [*NO_ANSWERS, said({"active": "true"}), said({"active": True}, 401), said({"active": False}, 500)],
)
def test_any_other_answer_to_an_introspection_says_nothing(answer: Answer) -> None:
    assert judge_introspection(answer) is None


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (said({"sub": "ada"}), True),
        (said({"sub": "grace"}), None),
        (said({"sub": "ada"}, 403), None),
        (said({"error": "invalid_token"}, 401), False),
        (said(b"<html>", 502), None),
        *((answer, None) for answer in NO_ANSWERS),
    ],
)
def test_userinfo_proves_a_token_good_or_refused_or_nothing(answer: Answer, alive: bool | None) -> None:
    assert judge_userinfo(answer, "ada") is alive


# ── registration ─────────────────────────────────────────────────────────────────────────────────────────


def request(**given: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "client_name": "lab",
        "redirect_uris": ("http://127.0.0.1/callback",),
        "grant_types": ("authorization_code", "refresh_token"),
        "scope": "openid",
        "confidential": False,
    }
    members: dict[str, Any] = json.loads(registration_request(**usual | given))
    return members


def test_a_registration_asks_for_a_native_public_client() -> None:
    assert request() == {
        "client_name": "lab",
        "application_type": "native",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "scope": "openid",
    }


def test_a_registration_may_ask_for_a_secret_and_for_no_code() -> None:
    asked = request(confidential=True, scope="", grant_types=("refresh_token",))
    assert (asked["token_endpoint_auth_method"], asked["response_types"]) == ("client_secret_basic", [])
    assert "scope" not in asked


def test_what_a_registration_brings_is_kept_and_its_secrets_do_not_show() -> None:
    made = judge_registration(
        said(
            {
                "client_id": "c1",
                "client_secret": CANARY,
                "client_secret_expires_at": 2000,
                "token_endpoint_auth_method": "client_secret_post",
                "registration_client_uri": "https://id.example.org/register/c1",
                "registration_access_token": CANARY,
            },
            201,
        )
    )
    assert (made.client.client_id, made.client.client_secret) == ("c1", CANARY)
    assert made.client.token_endpoint_auth_method == "client_secret_post"
    assert (made.client_secret_expires_at, made.registration_access_token) == (2000.0, CANARY)
    assert made.registration_client_uri == "https://id.example.org/register/c1"
    assert isinstance(made.members, Members)
    assert CANARY not in repr(made)


def test_a_client_without_a_secret_and_without_a_place_to_change_it_is_one() -> None:
    made = judge_registration(said({"client_id": "c1", "client_secret_expires_at": 0, "registration_client_uri": "x"}))
    assert (made.client.client_secret, made.client.token_endpoint_auth_method) == (None, None)
    assert (made.client_secret_expires_at, made.registration_client_uri) == (None, "")
    assert made.registration_access_token is None


@pytest.mark.parametrize("answer", [*NO_ANSWERS, said({"client_id": ""}), said({"client_id": 5})])
def test_a_registration_without_a_client_id_breaks_the_rfc(answer: Answer) -> None:
    with pytest.raises(ProtocolError):
        judge_registration(answer)


def test_a_refused_registration_is_told() -> None:
    with pytest.raises(ErrorResponse, match="did not register"):
        judge_registration(said({"error": "invalid_client_metadata"}, 400))


# ── claims of an access token ────────────────────────────────────────────────────────────────────────────


def jwt(claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.c2ln"


def test_a_jwt_access_token_says_what_it_says_of_itself() -> None:
    token = TokenSet(Secret(jwt({"sub": "ada", "roles": ["x"]})), 0.0)
    assert token.unverified_claims == {"sub": "ada", "roles": ["x"]}


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "", jwt([1]), jwt("x")])
def test_an_opaque_access_token_says_nothing_of_itself(text: str) -> None:
    assert TokenSet(Secret(text), 0.0).unverified_claims == {}
