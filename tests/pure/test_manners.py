"""A back end that knows no OAuth: the settings that describe it, what is sent to it, what each of its answers means."""

import base64
import dataclasses
import json
import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginonce.errors import ConfigurationError, ErrorResponse, InvalidGrant, ProtocolError
from loginonce.manners import Manners, Place, judge_login, judge_renewal, message, read_manners
from loginonce.model import Secret
from loginonce.wire import Answer, Busy, Granted, Lost, Misconfigured, Refused

NOW = 1_700_000_000.0
BASE = "https://shop.example.org"
END = datetime.fromtimestamp(NOW + 600, UTC)
HTML = b"<!doctype html><title>403 Forbidden</title>"


def spoken(**table: Any) -> Manners:
    return read_manners({"login": "/auth/login", "refresh": "/auth/refresh", **table}, BASE, "the test")


PLAIN = spoken()


def told(status: int, body: object = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def jwt(**claims: Any) -> str:
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims))
        + ".s"
    )


def granted(answer: Answer, manners: Manners = PLAIN) -> Any:
    reply = judge_renewal(answer, manners, NOW)
    assert isinstance(reply, Granted), reply
    return reply.answer


# ── the settings ─────────────────────────────────────────────────────────────────────────────────────────


def test_two_addresses_are_enough_to_know_a_back_end() -> None:
    assert PLAIN.login == Place("POST", f"{BASE}/auth/login")
    assert PLAIN.refresh == Place("POST", f"{BASE}/auth/refresh")
    assert PLAIN.logout is None


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("/session", Place("POST", f"{BASE}/session")),
        ("PUT /session", Place("PUT", f"{BASE}/session")),
        ("DELETE  /session", Place("DELETE", f"{BASE}/session")),
        ("https://id.example.org/token", Place("POST", "https://id.example.org/token")),
        ("PATCH http://127.0.0.1:8000/token", Place("PATCH", "http://127.0.0.1:8000/token")),
        ("", None),
    ],
)
def test_a_place_is_a_path_or_an_address_and_perhaps_a_method(given: str, place: Place | None) -> None:
    assert spoken(refresh=given).refresh == place


def test_a_base_with_a_path_stays_before_the_paths() -> None:
    assert (
        read_manners({"login": "/login"}, "https://example.org/api/", "x").login.url == "https://example.org/api/login"
    )


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"login": ""}, "has no login"),
        ({"login": "GET /login"}, "no place"),
        ({"login": "login"}, "no place"),
        ({"login": "http://shop.example.org/login"}, "no place"),
        ({"login": "https://["}, "no place"),
        ({"login": 7}, "no place"),
        ({"logn": "/login"}, r"logn.*There are login, refresh"),
        ({"answer": {"acces_token": "t"}}, r"acces_token.*There are access_token"),
        ({"request": {"email": "username"}}, r"email.*There are username"),
        ({"request": {"username": 7}}, "request.username"),
        ({"request": "username"}, "request of .* table"),
        ({"headers": ["a"]}, "headers of .* table"),
        ({"headers": {"a b": "c"}}, "'a b' among the headers"),
        ({"headers": {"X-Key": "c\r\nHost: evil"}}, "'X-Key' among the headers"),
        ({"headers": {"X-Key": 7}}, "'X-Key' among the headers"),
        ({"extra": {"device": {"id": 7}}}, "extra.device"),
        ({"lifetime": 0}, "lifetime"),
        ({"lifetime": "long"}, "lifetime"),
        ({"lifetime": True}, "lifetime"),
        ({"lifetime": "900"}, "lifetime"),
        ({"refused": 401}, "refused"),
        ({"refused": [500]}, "refused"),
        ({"refused": [429]}, "refused"),
        ({"refused": [True]}, "refused"),
        ({"refused": [""]}, "refused"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        spoken(**table)
    assert "the test" in str(caught.value)


def test_headers_and_constant_members_do_not_show() -> None:
    manners = spoken(
        headers={"X-Api-Key": "canary", "Content-Type": "application/vnd.api+json"}, extra={"key": "canary"}
    )
    assert manners.headers["X-Api-Key"] == "canary"
    assert "canary" not in repr(manners)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────


def test_names_and_constant_members_are_the_back_ends_own() -> None:
    manners = spoken(
        request={"username": "user.email", "password": "user.secret", "access_token": "old"},
        extra={"device": "laptop", "user.kind": 7},
    )
    assert json.loads(message(manners, username="ada", password="p")) == {
        "user": {"email": "ada", "secret": "p", "kind": 7},
        "device": "laptop",
    }
    assert json.loads(message(manners, refresh_token="r", access_token="a")) == {
        "token": "r", "old": "a", "device": "laptop", "user": {"kind": 7},
    }  # fmt: skip


def test_what_has_no_name_there_is_not_sent() -> None:
    assert json.loads(message(PLAIN, refresh_token="r", access_token="a")) == {"token": "r"}


def test_a_message_shows_nothing_of_itself() -> None:
    body = message(PLAIN, username="ada", password="lovelace")
    assert isinstance(body, Secret)
    assert "lovelace" not in repr(body)
    assert message(PLAIN, username="Zoë", password="naïve").isascii()


def test_two_members_cannot_have_one_place() -> None:
    with pytest.raises(ConfigurationError, match=r"user\.name"):
        message(spoken(request={"username": "user.name"}, extra={"user": "ada"}), username="ada")


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────

ENDS = {
    "milliseconds": (NOW + 600) * 1000,
    "seconds": NOW + 600,
    "microseconds": (NOW + 600) * 1e6,
    "nanoseconds": int(NOW + 600) * 10**9,
    "a text of milliseconds": str(int(NOW + 600) * 1000),
    "a text of seconds": f" {NOW + 600} ",
    "ISO with Z": END.isoformat().replace("+00:00", "Z"),
    "ISO with a zone": END.astimezone(datetime.strptime("+0530", "%z").tzinfo).isoformat(),
    "ISO without a zone": END.replace(tzinfo=None).isoformat(),
    "ISO with milliseconds": END.isoformat(timespec="milliseconds"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_the_end_of_a_token_is_read_however_it_is_written(end: object) -> None:
    assert granted(told(200, {"accessToken": "a", "accessTokenExpiry": end})).expires_in == pytest.approx(600)


def test_a_time_without_a_zone_is_not_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        body = {"accessToken": "a", "accessTokenExpiry": ENDS["ISO without a zone"]}
        assert granted(told(200, body)).expires_in == pytest.approx(600)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "end", [None, True, 3600, "3600", "soon", "", "nan", "inf", 10**400, -1e12, [1], {"a": 1}, "2026-99-99"]
)
def test_what_is_no_end_leaves_it_open(end: object) -> None:
    assert granted(told(200, {"accessToken": "a", "accessTokenExpiry": end})).expires_in is None


@pytest.mark.parametrize(
    ("life", "seconds"),
    [(900, 900), ("900", 900), ("15m", 900), ("1h", 3600), ("7 d", 604800), ("500ms", 0.5), ("30s", 30),
     (0, None), (-5, None), ("soon", None), ("1.2.3h", None), (None, None), (10**13, None)],
)  # fmt: skip
def test_a_life_is_read_however_it_is_written(life: object, seconds: float | None) -> None:
    assert granted(told(200, {"accessToken": "a", "expiresIn": life})).expires_in == seconds


def test_a_life_may_be_told_in_milliseconds() -> None:
    assert (
        granted(told(200, {"accessToken": "a", "ttl": 900_000}), spoken(answer={"expires_in_ms": "ttl"})).expires_in
        == 900
    )


def test_without_an_end_the_token_itself_may_say_it() -> None:
    assert granted(told(200, {"accessToken": jwt(exp=NOW + 60)})).expires_in == 60
    assert granted(told(200, {"accessToken": jwt(exp="soon")})).expires_in is None


def test_what_the_answer_says_counts_before_the_token_and_that_before_the_settings() -> None:
    manners = spoken(lifetime=300)
    both = {"accessToken": jwt(exp=NOW + 60), "accessTokenExpiry": (NOW + 30) * 1000}
    assert granted(told(200, both), manners).expires_in == 30
    assert granted(told(200, {"accessToken": jwt(exp=NOW + 60)}), manners).expires_in == 60
    assert granted(told(200, {"accessToken": "opaque"}), manners).expires_in == 300


def test_an_end_that_has_passed_leaves_it_to_a_401() -> None:
    assert (
        granted(told(200, {"accessToken": "a", "accessTokenExpiry": NOW - 5}), spoken(lifetime=300)).expires_in is None
    )


@pytest.mark.parametrize("skew", [-7200, -3, 3, 7200])
@pytest.mark.hazard(33)
def test_a_clock_that_differs_is_allowed_for(skew: float) -> None:
    there = NOW + skew
    answer = told(
        200, {"accessToken": "a", "accessTokenExpiry": (there + 600) * 1000}, date=formatdate(there, usegmt=True)
    )
    assert 598 <= granted(answer).expires_in <= 600


def test_a_clock_that_agrees_is_as_exact_as_ours() -> None:
    answer = told(200, {"accessToken": "a", "accessTokenExpiry": (NOW + 2) * 1000}, date=formatdate(NOW, usegmt=True))
    assert granted(answer).expires_in == pytest.approx(2)
    assert granted(dataclasses.replace(answer, headers={"date": "yesterday"})).expires_in == pytest.approx(2)


def test_nested_answers_are_read_by_paths_and_a_name_with_a_dot_by_itself() -> None:
    manners = spoken(
        answer={"access_token": "data.tokens.access", "refresh_token": "data.tokens.refresh", "expires_at": "a.b"}
    )
    answer = granted(told(200, {"data": {"tokens": {"access": "A", "refresh": "R"}}, "a.b": NOW + 5}), manners)
    assert (answer.access_token, answer.refresh_token, answer.expires_in) == ("A", "R", 5)


def test_an_answer_without_a_refresh_token_brings_none() -> None:
    assert granted(told(200, {"accessToken": "a"})).refresh_token is None
    assert granted(told(201, {"accessToken": "a", "refreshToken": ""})).refresh_token is None


def test_a_refresh_token_that_could_not_be_used_is_not_kept() -> None:
    login = judge_login(told(200, {"accessToken": "a", "refreshToken": "r"}), spoken(refresh=""), NOW)
    assert login.refresh_token is None


def test_the_end_of_a_refresh_token_is_read_too() -> None:
    assert granted(told(200, {"accessToken": "a", "refreshTokenExpiry": (NOW + 90) * 1000})).refresh_expires_in == 90
    assert granted(told(200, {"accessToken": "a", "refreshToken": jwt(exp=NOW + 80)})).refresh_expires_in == 80
    assert granted(told(200, {"accessToken": "a", "refreshTokenExpiry": NOW - 1})).refresh_expires_in is None


@pytest.mark.parametrize(
    ("body", "claims"),
    [
        ({"user": {"id": 7, "name": "Ada"}}, {"sub": "7", "name": "Ada"}),
        (
            {"accessToken": jwt(sub="u7", email="ada@example.org", roles=["x"])},
            {"sub": "u7", "email": "ada@example.org"},
        ),
        ({"accessToken": jwt(sub="u7"), "user": {"id": 7}}, {"sub": "7"}),
        ({"user": {"id": True, "name": ["Ada"]}}, {}),
        ({"user": "Ada"}, {}),
        ({"accessToken": jwt(sub="", name=None)}, {}),
    ],
)
def test_who_it_is_comes_from_the_answer_or_from_its_token(body: dict[str, Any], claims: dict[str, str]) -> None:
    assert judge_login(told(200, {"accessToken": "a", **body}), PLAIN, NOW).claims == claims


@pytest.mark.parametrize("token", [None, "", 7, "two words", "a\r\nb", "naïve"])
def test_what_is_no_token_is_an_answer_that_is_lost_and_says_what_is_there(token: object) -> None:
    reply = judge_renewal(told(200, {"accessToken": token, "jwt": "secret"}), PLAIN, NOW)
    assert isinstance(reply, Lost)
    assert not reply.answered
    assert "accessToken" in reply.detail
    assert "jwt" in reply.detail
    assert "secret" not in reply.detail


@pytest.mark.parametrize("body", [b"", b"OK", b"[]", b"null", HTML, b"[" * 100_000])
def test_a_success_that_is_no_json_object_is_an_answer_that_is_lost(body: bytes) -> None:
    assert isinstance(judge_renewal(told(200, body), PLAIN, NOW), Lost)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────

NO = {"error": "token_expired", "message": "please log in"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_401_or_403_with_json_ends_the_login(status: int) -> None:
    reply = judge_renewal(told(status, NO), PLAIN, NOW)
    assert reply == Refused("token_expired", f"HTTP {status} (token_expired, please log in)")
    assert judge_renewal(told(status, {}), PLAIN, NOW) == Refused(f"HTTP {status}", f"HTTP {status}")


KEEPS = {
    "a gateway's page": told(403, HTML),
    "a login page": told(401, HTML),
    "an outage": told(500, NO),
    "an outage with a page": told(502, HTML),
    "too many requests": told(429, NO),
    "unavailable": told(503, NO),
    "a time-out": told(408, NO),
    "a redirect": told(302, b"", location="/login"),
    "a word by itself": told(403, b"Forbidden"),
    "nothing": told(401),
    "another address": told(404, HTML),
    "another address, in JSON": told(404, NO),
    "an objection": told(400, NO),
    "something new": told(418, b"teapot"),
}


@pytest.mark.parametrize("answer", KEEPS.values(), ids=KEEPS)
@pytest.mark.hazard(27)
def test_what_cannot_be_understood_ends_no_login(answer: Answer) -> None:
    assert not isinstance(judge_renewal(answer, PLAIN, NOW), Refused | Granted)


@pytest.mark.parametrize(
    ("refused", "answer"),
    [
        ([404], told(404, {"error": "no such token"})),
        ([403], told(403, b"Forbidden")),
        ([401], told(401)),
        (["token_expired"], told(400, NO)),
        (["token_expired"], told(200, NO)),
        ([401, "token_expired"], told(403, NO)),
    ],
)
def test_what_the_settings_call_a_refusal_is_one(refused: list[Any], answer: Answer) -> None:
    assert isinstance(judge_renewal(answer, spoken(refused=refused), NOW), Refused)


@pytest.mark.parametrize(
    "answer",
    [told(403, HTML), told(404, HTML), told(500, NO), told(503, NO), told(401, {"error": "maintenance"})],
    ids=["a page", "another page", "an outage", "unavailable", "a status that is not among them"],
)
@pytest.mark.hazard(27)
def test_no_settings_make_a_refusal_of_a_page_or_an_outage(answer: Answer) -> None:
    manners = spoken(refused=[403, 404, "token_expired"])
    assert not isinstance(judge_renewal(answer, manners, NOW), Refused)


def test_where_the_words_are_is_a_setting_too() -> None:
    manners = spoken(answer={"error": "problem.code", "message": "problem.text"}, refused=["E7"])
    reply = judge_renewal(told(422, {"problem": {"code": "E7", "text": "over"}}), manners, NOW)
    assert reply == Refused("E7", "HTTP 422 (E7, over)")


@pytest.mark.parametrize("status", [429, 503])
def test_a_back_end_that_is_busy_says_for_how_long(status: int) -> None:
    assert judge_renewal(told(status, b"", retry_after="7"), PLAIN, NOW) == Busy(f"HTTP {status}", 7.0)


@pytest.mark.parametrize(
    ("answer", "answered"),
    [
        (told(500, NO), True),
        (told(302), True),
        (told(403, HTML), True),
        (told(418, b"teapot"), True),
        (told(400, NO), False),
    ],
    ids=["an outage", "a redirect", "a page", "no json", "its own word"],
)
def test_only_its_own_word_counts_as_an_answer_of_the_back_end(answer: Answer, answered: bool) -> None:
    reply = judge_renewal(answer, PLAIN, NOW)
    assert isinstance(reply, Lost)
    assert reply.answered is answered


@pytest.mark.parametrize("answer", [told(401), told(403, b"Forbidden")])
def test_a_refusal_in_plain_text_is_told_with_the_setting_that_helps(answer: Answer) -> None:
    reply = judge_renewal(answer, PLAIN, NOW)
    assert isinstance(reply, Misconfigured)
    assert f"refused = [{answer.status}]" in reply.detail


@pytest.mark.parametrize("status", [404, 405, 410])
def test_an_address_that_is_not_there_is_named(status: int) -> None:
    reply = judge_renewal(told(status, HTML), PLAIN, NOW)
    assert isinstance(reply, Misconfigured)
    assert f"{BASE}/auth/refresh" in reply.detail


# ── a sign-in ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [told(401, {"error": "bad", "message": "wrong password"}), told(401), told(400, NO), told(403, HTML), told(422, NO),
     told(404, {"error": "no such user"}), told(200, {"error": "bad"})],
)  # fmt: skip
def test_a_password_that_is_not_accepted_is_an_invalid_grant(answer: Answer) -> None:
    with pytest.raises(InvalidGrant) as caught:
        judge_login(answer, PLAIN, NOW)
    assert caught.value.status == answer.status


@pytest.mark.parametrize("answer", [told(404, HTML), told(500), told(429), told(302)])
def test_another_error_at_a_sign_in_says_nothing_of_the_password(answer: Answer) -> None:
    with pytest.raises(ErrorResponse) as caught:
        judge_login(answer, PLAIN, NOW)
    assert not isinstance(caught.value, InvalidGrant)
    assert caught.value.status == answer.status


@pytest.mark.parametrize("body", [{"token": "canary"}, {}, []])
def test_a_sign_in_without_a_token_says_what_is_there_instead(body: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        judge_login(told(200, body), PLAIN, NOW)
    assert "canary" not in str(caught.value)


def test_what_a_server_says_draws_nothing_on_a_terminal() -> None:
    reply = judge_renewal(told(401, {"error": "\x1b[2Jgone\n" * 99, "message": ["a"], "x": 1}), PLAIN, NOW)
    assert isinstance(reply, Refused)
    assert reply.detail.isprintable()
    assert len(reply.detail) < 400


@given(
    status=st.integers(200, 599),
    body=st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(
        st.sampled_from(["accessToken", "accessTokenExpiry", "expiresIn", "user", "id", "error", "data"]), inner)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_answer_is_more_than_can_be_judged(status: int, body: object) -> None:
    judge_renewal(told(status, body), PLAIN, NOW)
    try:
        judge_login(told(status, body), PLAIN, NOW)
    except (ErrorResponse, ProtocolError):
        pass
