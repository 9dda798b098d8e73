"""The challenges of an API, read from a header that may hold several of them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginonce.challenge import Challenge, bearer_challenge, parse_challenges, step_up


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        (" , ,", []),
        ("Bearer", [("bearer", {})]),
        ("BEARER realm=x", [("bearer", {"realm": "x"})]),
        ('Bearer realm="a b", error="invalid_token"', [("bearer", {"realm": "a b", "error": "invalid_token"})]),
        ('Bearer Realm = "x" , Error = y', [("bearer", {"realm": "x", "error": "y"})]),
        (r'Bearer realm="a \"quoted\" \\ b"', [("bearer", {"realm": r'a "quoted" \ b'})]),
        ('Bearer realm="a, Basic realm=b"', [("bearer", {"realm": "a, Basic realm=b"})]),
        ("Bearer error=a, error=b", [("bearer", {"error": "a"})]),
        ("Basic, Bearer error=x", [("basic", {}), ("bearer", {"error": "x"})]),
        ('Basic realm="a", Bearer error="x", DPoP algs="ES256"',
         [("basic", {"realm": "a"}), ("bearer", {"error": "x"}), ("dpop", {"algs": "ES256"})]),
        ("Negotiate YWJj=, Bearer error=x", [("negotiate", {}), ("bearer", {"error": "x"})]),
        ("Negotiate YWJj==, Bearer error=x", [("negotiate", {}), ("bearer", {"error": "x"})]),
        ("Negotiate a/b+c", [("negotiate", {})]),
        ("NTLM, Negotiate, Bearer", [("ntlm", {}), ("negotiate", {}), ("bearer", {})]),
        ("Bearer , error=x", [("bearer", {"error": "x"})]),
        ('Bearer error="open', [("bearer", {})]),
        ("Bearer error=x, @@@, Basic", [("bearer", {"error": "x"})]),
        ('"quoted"', []),
        ("error=x", []),
    ],
)  # fmt: skip
def test_challenges_are_read_one_by_one(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(scheme, parameters) for scheme, parameters in challenges]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="a", Bearer error="invalid_token"', {"error": "invalid_token"}),
        ("DPoP error=use_dpop_nonce, Bearer error=x", {"error": "use_dpop_nonce"}),
        ("Basic realm=a", None),
        ("", None),
    ],
)
@pytest.mark.hazard(22)
def test_the_challenge_that_concerns_us_is_found_among_others(header: str, found: dict[str, str] | None) -> None:
    assert bearer_challenge(header) == found


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet='aB=", \t\\/~\x00é', max_size=80))
def test_no_challenge_makes_the_reading_fail(header: str) -> None:
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in parse_challenges(header))


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a ",
        "a,",
        "=",
        '"',
        "a=",
        'a="',
        'a="b" ',
        "\\",
        'a="\\',
        " ",
        "\t,",
        "a= ",
        "a b/",
        "a =",
        "a b= ,",
        "a=b,",
    ],
)
@pytest.mark.parametrize("start", ["", "Bearer ", 'Bearer a="'])
def test_a_long_challenge_is_read_in_linear_time(start: str, piece: str) -> None:
    began = time.process_time()
    parse_challenges(start + piece * 20_000)
    assert time.process_time() - began < 2.0


# What it wants that only a sign-in gives.

FRESH = {"error": "insufficient_user_authentication"}


def test_an_api_that_wants_a_stronger_and_fresher_sign_in_is_understood() -> None:
    wanted = step_up({**FRESH, "acr_values": "urn:mfa urn:key", "max_age": "60"}, "openid")
    assert wanted is not None
    assert (wanted.acr_values, wanted.max_age, wanted.scope) == ("urn:mfa urn:key", 60.0, "")
    assert "urn:mfa" in str(wanted)
    assert "60 s" in str(wanted)
    assert ".login(challenge)" in wanted.hint


@pytest.mark.parametrize(
    ("more", "max_age"),
    [({}, None), ({"max_age": "0"}, 0.0), ({"max_age": "soon"}, None), ({"max_age": "-1"}, None)],
)
def test_a_step_up_that_names_little_is_one_all_the_same(more: dict[str, str], max_age: float | None) -> None:
    wanted = step_up({**FRESH, **more}, "openid")
    assert wanted is not None
    assert (wanted.acr_values, wanted.max_age) == ("", max_age)


def test_a_step_up_may_come_with_scope() -> None:
    wanted = step_up({**FRESH, "scope": "runs admin"}, "openid runs")
    assert wanted is not None
    assert wanted.scope == "admin"


def test_an_api_that_wants_more_scope_is_understood() -> None:
    wanted = step_up({"error": "insufficient_scope", "scope": "openid write admin", "max_age": "5"}, "openid")
    assert wanted is not None
    assert (wanted.scope, wanted.acr_values, wanted.max_age) == ("admin write", "", None)
    assert "admin write" in str(wanted)


@pytest.mark.parametrize(
    "challenge",
    [
        {},
        {"error": "invalid_token", "scope": "admin", "acr_values": "x"},
        {"error": "insufficient_scope"},
        {"error": "insufficient_scope", "scope": "openid"},
    ],
)
def test_what_no_sign_in_would_mend_is_no_step_up(challenge: dict[str, str]) -> None:
    assert step_up(challenge, "openid") is None


def test_what_an_api_wants_draws_nothing_on_a_terminal() -> None:
    wanted = step_up({**FRESH, "acr_values": "a\x1b[2Jb", "scope": "c\x07d"}, "")
    assert wanted is not None
    assert (wanted.acr_values, wanted.scope) == ("a[2Jb", "cd")
    assert str(wanted).isprintable() or "\n" in str(wanted)
    assert "\x1b" not in str(wanted)
