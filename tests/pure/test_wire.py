"""The messages of the RFCs: what is sent, and what each kind of answer means."""

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginonce.address import on_this_machine, origin, secure
from loginonce.errors import ConfigurationError, ErrorResponse, InvalidGrant, ProtocolError
from loginonce.metadata import read_metadata
from loginonce.model import AuthorizationServer, Secret
from loginonce.wire import (
    LONGEST_RETRY_AFTER,
    Answer,
    Busy,
    DeviceAuthorization,
    Granted,
    Lost,
    Members,
    Misconfigured,
    Refused,
    TokenAnswer,
    error_response,
    judge_device_authorization,
    judge_redirect,
    judge_refresh,
    judge_token,
    token_form,
)

NOW = 1_700_000_000.0
ISSUER = "https://id.example.org"
SERVER = AuthorizationServer(ISSUER)
HTML = b"<!doctype html><title>502 Bad Gateway</title>"


def told(status: int, body: object = b"", **headers: str) -> Answer:
    """An answer; `retry_after="5"` is the header `retry-after: 5`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def tokens(**members: Any) -> dict[str, Any]:
    """The members of a token answer; None leaves one out."""
    whole = {"access_token": "access", "token_type": "Bearer", "expires_in": 300, "refresh_token": "refresh", **members}
    return {name: value for name, value in whole.items() if value is not None}


# ── a token request ──────────────────────────────────────────────────────────────────────────────────────


def test_a_form_leaves_out_what_is_not_there() -> None:
    form = token_form("refresh_token", refresh_token="r", scope="", resource=None)
    assert form == [("grant_type", "refresh_token"), ("refresh_token", "r")]


# ── what an answer to a refresh means ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "gateway"),
    [
        (told(502, HTML), True),
        (told(500, {"error": "server_error"}), True),
        (told(408), True),
        (told(302), True),
        (told(404, HTML), None),
        (told(200, HTML), False),
        (told(204), False),
    ],
)
def test_what_is_no_success_is_told_from_an_answer_that_may_have_been_one(answer: Answer, gateway: bool | None) -> None:
    reply = judge_refresh(answer, NOW)
    assert gateway == (reply.answered if isinstance(reply, Lost) else None)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(told(200, tokens()), Granted, id="tokens"),
        pytest.param(told(201, tokens()), Granted, id="tokens, 201"),
        pytest.param(told(200, tokens(refresh_token=None)), Granted, id="Google, Spotify: no refresh_token"),
        pytest.param(told(200, tokens(token_type="DPoP")), Granted, id="odd type: saved first"),
        pytest.param(told(200, tokens(error="")), Granted, id="an empty error is none"),
        pytest.param(told(200, tokens(error=None) | {"error": None}), Granted, id="a null error is none"),
        pytest.param(told(200, {"error": "invalid_grant", "error_description": "…"}), Refused, id="an error with 200"),
        pytest.param(told(400, {"error": "invalid_grant"}), Refused, id="invalid_grant"),
        pytest.param(
            told(400, {"error": "invalid_grant", "error_description": "Stale token"}), Refused, id="Keycloak: stale"
        ),
        pytest.param(
            told(400, {"error": "invalid_grant", "error_description": "Session not active"}),
            Refused,
            id="Keycloak: ended",
        ),
        pytest.param(told(403, {"error": "invalid_grant"}), Refused, id="Auth0: 403"),
        pytest.param(told(401, {"error": "invalid_grant"}), Refused, id="invalid_grant with 401"),
        pytest.param(told(400, {"error": "invalid_request"}), Refused, id="Dex: invalid_request"),
        pytest.param(told(400), Refused, id="empty 400"),
        pytest.param(told(400, b" \r\n"), Refused, id="blank 400"),
        pytest.param(told(401, {"error": "invalid_client"}), Misconfigured, id="invalid_client"),
        pytest.param(told(400, {"error": "invalid_client"}), Misconfigured, id="invalid_client with 400"),
        pytest.param(told(200, {"error": "invalid_client"}), Misconfigured, id="invalid_client with 200"),
        pytest.param(told(400, {"error": "unauthorized_client"}), Misconfigured, id="unauthorized_client"),
        pytest.param(told(400, {"error": "unsupported_grant_type"}), Misconfigured, id="unsupported_grant_type"),
        pytest.param(told(400, {"error": "invalid_scope"}), Misconfigured, id="invalid_scope"),
        pytest.param(told(400, {"error": "invalid_target"}), Misconfigured, id="invalid_target"),
        pytest.param(told(400, {"error": "use_dpop_nonce"}), Misconfigured, id="use_dpop_nonce"),
        pytest.param(told(401), Misconfigured, id="empty 401"),
        pytest.param(told(404, {"error": "Realm does not exist"}), Misconfigured, id="Keycloak: no such realm"),
        pytest.param(told(404, HTML), Misconfigured, id="no such address"),
        pytest.param(told(405, HTML), Misconfigured, id="no such method"),
        pytest.param(told(410), Misconfigured, id="gone"),
        pytest.param(told(429), Busy, id="429"),
        pytest.param(told(429, {"error": "invalid_grant"}), Busy, id="429 whatever it says"),
        pytest.param(told(503, HTML), Busy, id="503"),
        pytest.param(told(400, {"error": "temporarily_unavailable"}), Busy, id="temporarily_unavailable"),
        pytest.param(told(400, {"error": "slow_down"}), Busy, id="slow_down"),
        pytest.param(told(403, {"error": "too_many_requests"}), Busy, id="Auth0: too_many_requests"),
        pytest.param(told(500, {"error": "temporarily_unavailable"}), Busy, id="temporarily_unavailable with 500"),
        pytest.param(told(400, {"error": "server_error"}), Lost, id="server_error with 400"),
        pytest.param(told(500, {"error": "server_error"}), Lost, id="server_error"),
        pytest.param(told(500, {"error": "invalid_grant"}), Lost, id="500 whatever it says"),
        pytest.param(told(502, HTML), Lost, id="HTML 502"),
        pytest.param(told(504), Lost, id="504"),
        pytest.param(told(408), Lost, id="408"),
        pytest.param(told(200, HTML), Lost, id="HTML 200: a captive portal"),
        pytest.param(told(200), Lost, id="empty 200"),
        pytest.param(told(204), Lost, id="204"),
        pytest.param(told(200, b'{"access_token": "abc'), Lost, id="cut short"),
        pytest.param(told(200, b"\xff\xfe\xfd"), Lost, id="not UTF-8"),
        pytest.param(told(200, b"[" * 100_000), Lost, id="too deep"),
        pytest.param(told(200, b'{"expires_in": ' + b"9" * 5000 + b"}"), Lost, id="a number without end"),
        pytest.param(told(200, [tokens()]), Lost, id="a list"),
        pytest.param(told(200, tokens(access_token=None)), Lost, id="no access_token"),
        pytest.param(told(200, tokens(access_token="")), Lost, id="empty access_token"),
        pytest.param(told(200, tokens(access_token=5)), Lost, id="access_token that is no text"),
        pytest.param(told(200, tokens(access_token="a\r\nX-Evil: 1")), Lost, id="access_token with a line end"),
        pytest.param(told(200, tokens(access_token="ä")), Lost, id="access_token beyond ASCII"),
        pytest.param(told(302, location="https://elsewhere"), Lost, id="redirect"),
        pytest.param(told(400, HTML), Lost, id="HTML 400"),
        pytest.param(told(403, HTML), Lost, id="HTML 403: a firewall"),
        pytest.param(told(403), Lost, id="empty 403"),
        pytest.param(told(400, {"message": "no"}), Lost, id="JSON without an error"),
        pytest.param(told(400, {"error": {"code": 5}}), Lost, id="an error that is no text"),
        pytest.param(told(418, {"error": "invalid_grant"}), Lost, id="a status that OAuth does not know"),
    ],
)
@pytest.mark.hazard(27)
def test_an_answer_to_a_refresh_is_classified_by_error_then_status(answer: Answer, kind: type) -> None:
    assert type(judge_refresh(answer, NOW)) is kind


def test_an_outage_that_a_server_tells_with_400_is_one_all_the_same() -> None:
    (told_so, unknown) = (judge_refresh(told(400, {"error": word}), NOW) for word in ("server_error", "odd_word"))
    assert isinstance(told_so, Lost)
    assert told_so.answered, "it does not use up the one repetition"
    assert isinstance(unknown, Lost)
    assert not unknown.answered


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(told(403, {"status": 403, "error": "Forbidden", "path": "/token"}), id="Spring's own error page"),
        pytest.param(told(401, {"statusCode": 401, "error": "Unauthorized"}), id="an API gateway"),
        pytest.param(told(400, {"error": "Bad Request"}), id="a proxy"),
        pytest.param(told(400, {"error": "unknown_error"}), id="Keycloak's word for an exception"),
        pytest.param(told(403, {"error": "\u200b"}), id="a word without a letter"),
    ],
)
@pytest.mark.hazard(27)
def test_an_error_that_no_rfc_knows_does_not_end_a_login(answer: Answer) -> None:
    assert not isinstance(judge_refresh(answer, NOW), Refused)


def test_a_refusal_tells_what_the_provider_said() -> None:
    body = {"error": "invalid_grant", "error_description": "Token is not active"}
    assert judge_refresh(told(400, body), NOW) == Refused("invalid_grant", "invalid_grant (Token is not active)")


@pytest.mark.hazard(27)
def test_an_empty_400_counts_as_invalid_grant() -> None:
    assert judge_refresh(told(400), NOW) == Refused("invalid_grant", "HTTP 400 without an OAuth error")


def test_what_a_provider_says_cannot_draw_on_a_terminal_or_fill_it() -> None:
    reply = judge_refresh(told(400, {"error": "a\x1b[2Jb\n" * 50, "error_description": "\x07c" * 900}), NOW)
    assert isinstance(reply, Lost)
    assert reply.detail.isprintable()
    assert len(reply.detail) == 80 + 300 + 3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        (" 120 ", 120.0),
        ("99999999999999999999", LONGEST_RETRY_AFTER),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), LONGEST_RETRY_AFTER),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Wed, 99 Foo 2023 99:99:99 GMT", None),
        ("Mon, 01 Jan 99999999 00:00:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.hazard(32)
def test_retry_after_is_read_as_seconds_or_as_a_date(status: int, value: str, seconds: float | None) -> None:
    reply = judge_refresh(told(status, retry_after=value), NOW)
    assert isinstance(reply, Busy)
    assert reply.retry_after == seconds


def test_without_retry_after_nothing_is_known() -> None:
    assert judge_refresh(told(429), NOW) == Busy("HTTP 429 without an OAuth error", None)


def test_a_retry_after_in_digits_that_are_none_is_ignored() -> None:
    assert judge_refresh(told(429, retry_after="²"), NOW) == Busy("HTTP 429 without an OAuth error", None)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        (0.5, 0.5),
        ("300", 300.0),
        (" 300 ", 300.0),
        (None, None),
        ("soon", None),
        ("", None),
        (0, None),
        (-1, None),
        ("-1", None),
        (float("nan"), None),
        ("nan", None),
        (float("inf"), None),
        ("1e400", None),
        (1e300, None),
        (10**400, None),
        (True, None),
        ([300], None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("name", ["expires_in", "refresh_expires_in", "refresh_token_expires_in"])
@pytest.mark.hazard(34)
def test_a_life_is_read_as_a_number_or_a_text_and_nonsense_is_not_known(
    name: str, value: object, seconds: float | None
) -> None:
    answer = judge_token(told(200, tokens(expires_in=None) | {name: value}))
    assert (answer.expires_in if name == "expires_in" else answer.refresh_expires_in) == seconds


def test_keycloaks_zero_gives_way_to_what_else_is_said() -> None:
    assert judge_token(told(200, tokens(refresh_expires_in=0, refresh_token_expires_in=60))).refresh_expires_in == 60


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("Bearer", "Bearer"),
        ("bearer", "Bearer"),
        ("BEARER", "Bearer"),
        (None, "Bearer"),
        ("", "Bearer"),
        (5, "Bearer"),
        ("DPoP", "DPoP"),
        ("N_A", "N_A"),
        ("x\x1b" * 100, "x" * 40),
    ],
)
@pytest.mark.hazard(35)
def test_a_token_type_is_bearer_in_any_case_and_an_odd_one_is_kept(value: object, kept: str) -> None:
    assert judge_token(told(200, tokens(token_type=None) | {"token_type": value})).token_type == kept


@pytest.mark.parametrize(
    ("value", "scope"), [("a b", "a b"), (["a", "b"], "a b"), (["a", 5, None], "a"), (None, ""), (5, ""), ([], "")]
)
@pytest.mark.hazard(35)
def test_a_scope_is_a_text_or_a_list(value: object, scope: str) -> None:
    assert judge_token(told(200, tokens(scope=value))).scope == scope


@pytest.mark.parametrize("name", ["refresh_token", "id_token"])
@pytest.mark.parametrize(("value", "kept"), [("t", "t"), ("", None), (None, None), (5, None), (["t"], None)])
def test_a_further_token_is_a_text_or_not_there(name: str, value: object, kept: str | None) -> None:
    assert getattr(judge_token(told(200, tokens() | {name: value})), name) == kept


def test_tokens_are_secrets_from_the_start() -> None:
    answer = judge_token(told(200, tokens(access_token="canary-1", refresh_token="canary-2", id_token="canary-3")))
    assert "canary" not in repr(answer)


@pytest.mark.hazard(33)
def test_a_token_set_counts_from_when_it_was_asked_for() -> None:
    made = TokenAnswer(Secret("a"), expires_in=60.0).token_set(NOW, scope="s", resource="r", for_scope="f")
    assert (made.received_at, made.expires_at, made.scope, made.resource, made.for_scope) == (
        NOW,
        NOW + 60,
        "s",
        "r",
        "f",
    )


def test_a_token_set_without_a_life_has_no_end() -> None:
    assert TokenAnswer(Secret("a")).token_set(NOW, scope="").expires_at is None


def test_a_token_set_prefers_what_the_answer_says() -> None:
    given_ = TokenAnswer(Secret("a"), scope="said", id_token=Secret("new"))
    made = given_.token_set(NOW, scope="asked", id_token=Secret("old"))
    assert (made.scope, made.id_token) == ("said", "new")


@pytest.mark.parametrize(("life", "end"), [(None, None), (60.0, NOW + 60)])
def test_a_refresh_token_ends_when_the_provider_says_so(life: float | None, end: float | None) -> None:
    assert TokenAnswer(Secret("a"), refresh_expires_in=life).refresh_expires_at(NOW) == end


# ── any other grant ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (told(400, {"error": "invalid_grant"}), InvalidGrant),
        (told(200, {"error": "expired_token"}), InvalidGrant),
        (told(400, {"error": "expired_token"}), InvalidGrant),
        (told(400, {"error": "authorization_pending"}), ErrorResponse),
        (told(400, {"error": "access_denied"}), ErrorResponse),
        (told(401, {"error": "invalid_client"}), ErrorResponse),
        (told(200, tokens(error="access_denied")), ErrorResponse),
        (told(502, HTML), ErrorResponse),
        (told(302), ErrorResponse),
        (told(200, HTML), ProtocolError),
        (told(200, {}), ProtocolError),
        (told(200, []), ProtocolError),
        (told(200, tokens(access_token="a b")), ProtocolError),
    ],
)
def test_any_other_grant_raises_what_its_answer_means(answer: Answer, kind: type[Exception]) -> None:
    with pytest.raises((ErrorResponse, ProtocolError)) as caught:
        judge_token(answer)
    assert type(caught.value) is kind


def test_an_error_holds_the_members_of_the_answer() -> None:
    body = {"error": "access_denied", "error_description": "no", "error_uri": "https://e", "state": "x"}
    error = error_response(told(403, body), "signing in")
    assert str(error) == "signing in: access_denied (no)"
    members = (error.error, error.error_description, error.error_uri, error.status)
    assert members == ("access_denied", "no", "https://e", 403)


@pytest.mark.parametrize("body", [HTML, b"", {}, {"error": 5}, [1]])
def test_an_error_without_members_tells_the_status(body: object) -> None:
    error = error_response(told(502, body), "signing in")
    assert (str(error), error.error, error.status) == ("signing in: HTTP 502 without an OAuth error", "", 502)


# ── the authorization endpoint's answer ──────────────────────────────────────────────────────────────────

REDIRECT = "http://127.0.0.1:8080/callback"


def redirected(query: str, *, base: str = REDIRECT, state: str = "st", promised: bool = False) -> str:
    server = AuthorizationServer(ISSUER, authorization_response_iss_parameter_supported=promised)
    return judge_redirect(base + query, state=state, server=server, redirect_uri=REDIRECT)


@pytest.mark.parametrize(
    ("query", "promised"),
    [
        ("?code=abc&state=st", False),
        ("?state=st&code=abc&session_state=x", False),
        (f"?code=abc&state=st&iss={ISSUER}", False),
        (f"?code=abc&state=st&iss={ISSUER}", True),
        ("?code=abc&state=st#fragment", False),
    ],
)
def test_a_code_comes_with_our_state_and_from_this_provider(query: str, promised: bool) -> None:
    code = redirected(query, promised=promised)
    assert (code, repr(code) != repr(str(code))) == ("abc", True)


@pytest.mark.parametrize(
    ("query", "promised", "why"),
    [
        ("?code=abc", False, "state"),
        ("?code=abc&state=", False, "state"),
        ("?code=abc&state=other", False, "state"),
        ("?error=access_denied&state=other", False, "state"),
        ("?code=abc&state=st", True, "promises"),
        ("?error=access_denied&state=st", True, "promises"),
        ("?code=abc&state=st&iss=https://evil.example", False, "came from"),
        ("?code=abc&state=st&iss=https://evil.example", True, "came from"),
        (f"?code=abc&state=st&iss={ISSUER}/", True, "came from"),
        ("?state=st", False, "neither a code nor an error"),
        ("?state=st&code=", False, "neither a code nor an error"),
    ],
)
def test_an_answer_that_is_not_ours_or_not_from_this_provider_is_refused(query: str, promised: bool, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        redirected(query, promised=promised)


@pytest.mark.parametrize(
    "base",
    [
        "https://127.0.0.1:8080/callback",
        "http://127.0.0.1:8081/callback",
        "http://127.0.0.1:8080/other",
        "http://evil@127.0.0.1:8080/callback",
        "http://evil.example/callback",
        "",
        "hello",
    ],
)
def test_an_address_that_is_not_the_one_we_return_to_is_refused(base: str) -> None:
    with pytest.raises(ProtocolError, match="not the address"):
        redirected("?code=abc&state=st", base=base)


@pytest.mark.parametrize("base", ["http://[::1", "http://[no]/callback"])
def test_an_address_that_is_none_is_refused_like_any_other(base: str) -> None:
    with pytest.raises(ProtocolError):
        redirected("?code=abc&state=st", base=base)


def test_a_no_of_the_provider_is_an_error_response() -> None:
    with pytest.raises(ErrorResponse) as caught:
        redirected("?error=access_denied&error_description=not+today&error_uri=https://e&state=st")
    error = caught.value
    assert (error.error, error.error_description, error.error_uri) == ("access_denied", "not today", "https://e")
    assert str(error) == "the provider did not sign in: access_denied (not today)"


# ── device authorization ─────────────────────────────────────────────────────────────────────────────────

DEVICE = {
    "device_code": "d",
    "user_code": "ABCD",
    "verification_uri": "https://id/device",
    "expires_in": 900,
    "interval": 7,
}


def device(**members: Any) -> Answer:
    return told(200, {name: value for name, value in {**DEVICE, **members}.items() if value is not None})


def test_a_device_answer_is_read() -> None:
    read = judge_device_authorization(device(verification_uri_complete="https://id/device?c=ABCD"))
    assert read == DeviceAuthorization(
        Secret("d"), "ABCD", "https://id/device", "https://id/device?c=ABCD", 900.0, 7.0
    )  # fmt: skip


def test_a_device_code_does_not_show() -> None:
    assert "canary" not in repr(judge_device_authorization(device(device_code="canary")))


def test_google_calls_the_address_by_another_name() -> None:
    read = judge_device_authorization(device(verification_uri=None, verification_url="https://google/device"))
    assert (read.verification_uri, read.verification_uri_complete) == ("https://google/device", "")


@pytest.mark.parametrize(("name", "value"), [("interval", 5.0), ("expires_in", 600.0)])
@pytest.mark.parametrize("said", [None, 0, "soon"])
def test_a_device_answer_without_a_time_has_the_usual_one(name: str, value: float, said: object) -> None:
    assert getattr(judge_device_authorization(device(**{name: said})), name) == value


@pytest.mark.parametrize("name", ["device_code", "user_code", "verification_uri"])
@pytest.mark.parametrize("value", [None, 5, ["x"]])
def test_a_device_answer_that_lacks_a_member_is_refused(name: str, value: object) -> None:
    with pytest.raises(ProtocolError, match="lacks"):
        judge_device_authorization(device(**{name: value}))


@pytest.mark.parametrize("name", ["device_code", "user_code"])
def test_a_device_answer_with_an_empty_member_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        judge_device_authorization(device(**{name: ""}))


@pytest.mark.parametrize("name", ["verification_uri", "verification_uri_complete"])
@pytest.mark.parametrize(
    "value",
    ["javascript:alert(1)", "file:///etc/passwd", "id.example.org/device", "https://id/x y", "https://id/\x1b[2J"],
)
def test_a_verification_address_is_a_web_address(name: str, value: str) -> None:
    with pytest.raises(ProtocolError, match="not a web address"):
        judge_device_authorization(device(**{name: value}))


def test_a_verification_address_that_is_none_is_refused() -> None:
    with pytest.raises(ProtocolError):
        judge_device_authorization(device(verification_uri="https://[id"))


def test_a_complete_address_that_is_no_text_is_left_out() -> None:
    assert judge_device_authorization(device(verification_uri_complete=5)).verification_uri_complete == ""


@pytest.mark.parametrize(
    "answer",
    [told(400, {"error": "invalid_client"}), told(200, {"error": "x"}), told(404, HTML), told(200, HTML), told(302)],
)
def test_a_device_answer_that_is_an_error_says_so(answer: Answer) -> None:
    with pytest.raises(ErrorResponse, match="did not begin a device sign-in"):
        judge_device_authorization(answer)


# ── whatever comes ───────────────────────────────────────────────────────────────────────────────────────

names = st.sampled_from(
    ["error", "error_description", "access_token", "refresh_token", "id_token", "token_type", "expires_in", "scope",
     "refresh_expires_in", "device_code", "user_code", "verification_uri", "verification_uri_complete", "interval"]
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
likely = st.sampled_from(["invalid_grant", "server_error", "a", "https://id/x", 5, "5", ["a"], "", "é\n"])
bodies = st.binary(max_size=40) | st.dictionaries(names, anything | likely, max_size=6).map(
    lambda members: json.dumps(members).encode()
)
statuses = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 408, 410, 418, 429, 500, 502, 503])
retry_afters = st.text(alphabet=st.characters(max_codepoint=127), max_size=30)


@settings(max_examples=300, deadline=None)
@given(statuses, bodies, retry_afters)
@pytest.mark.hazard(27, 35)
def test_any_answer_to_a_refresh_has_a_meaning(status: int, body: bytes, after: str) -> None:
    reply = judge_refresh(Answer(status, {"retry-after": after}, body), NOW)
    assert isinstance(reply, Granted | Refused | Lost | Busy | Misconfigured)
    if isinstance(reply, Granted):
        assert reply.answer.access_token.isascii()
        assert not {" ", "\r", "\n"} & set(reply.answer.access_token)
        assert reply.answer.expires_in is None or 0 < reply.answer.expires_in < 1e10
    if isinstance(reply, Refused):
        assert status < 500
    if isinstance(reply, Busy):
        assert reply.retry_after is None or 0 <= reply.retry_after <= LONGEST_RETRY_AFTER


@settings(max_examples=200, deadline=None)
@given(statuses, bodies)
def test_any_other_answer_is_tokens_or_a_documented_error(status: int, body: bytes) -> None:
    try:
        assert isinstance(judge_token(told(status, body)), TokenAnswer)
    except (ErrorResponse, ProtocolError) as error:
        assert str(error).isprintable()


@settings(max_examples=200, deadline=None)
@given(statuses, bodies)
def test_any_device_answer_is_a_prompt_or_a_documented_error(status: int, body: bytes) -> None:
    try:
        read = judge_device_authorization(told(status, body))
    except (ErrorResponse, ProtocolError) as error:
        assert str(error).isprintable()
    else:
        assert (read.user_code + read.verification_uri + read.verification_uri_complete).isprintable()
        assert read.interval > 0 < read.expires_in


end_points = st.sampled_from(
    ["issuer", "token_endpoint", "authorization_endpoint", "jwks_uri", "userinfo_endpoint", "scopes_supported",
     "authorization_response_iss_parameter_supported", "end_session_endpoint", "unknown"]
)  # fmt: skip
addresses = st.sampled_from(
    [
        ISSUER,
        ISSUER + "/",
        "https://[",
        "http://127.0.0.1:5/x",
        "http://evil.example",
        "https://id/\x1b",
        "https://id/\r\n",
    ]
)
documents = st.lists(
    st.dictionaries(end_points, anything | addresses, max_size=5).map(lambda members: {"issuer": ISSUER, **members}),
    max_size=2,
)


@settings(max_examples=200, deadline=None)
@given(documents)
def test_any_documents_are_a_server_or_a_documented_error(found: list[dict[str, Any]]) -> None:
    try:
        server = read_metadata(ISSUER, found, {})
    except (ProtocolError, ConfigurationError) as error:
        assert str(error).isprintable()
        return
    assert server.issuer.rstrip("/") == ISSUER
    for url in (server.token_endpoint, server.authorization_endpoint, server.jwks_uri, server.end_session_endpoint):
        assert not url or (secure(url) and url.isprintable())


queries = st.lists(
    st.tuples(
        st.sampled_from(["code", "state", "iss", "error", "error_description", "x"]), st.text(max_size=8) | likely
    ),
    max_size=5,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


@settings(max_examples=200, deadline=None)
@given(queries | st.text(max_size=30), st.booleans(), st.sampled_from([REDIRECT + "?", REDIRECT + "?state=st&", ""]))
def test_any_address_is_our_code_or_a_documented_error(query: str, promised: bool, base: str) -> None:
    try:
        code = redirected(query, base=base, promised=promised)
    except (ErrorResponse, ProtocolError) as error:
        assert str(error).isprintable()
        return
    assert code
    assert base
    assert "code" in query


# ── what shows, and what is an address ───────────────────────────────────────────────────────────────────


def test_an_answer_shows_how_long_it_is_and_not_what_it_says() -> None:
    assert repr(Answer(200, {}, b"secret")) == "<answer 200, 6 bytes>"


def test_members_show_their_names_and_not_their_values() -> None:
    assert repr(Members(refresh_token="secret", a=1)) == "<2 members: a, refresh_token>"


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:80/x", True),
        ("http://localhost", True),
        ("https://id.example.org", False),
        ("http://[::1", False),
        ("nonsense", False),
    ],
)
def test_only_loopback_is_on_this_machine(url: str, here: bool) -> None:
    assert on_this_machine(url) is here


def test_what_is_no_address_has_no_origin() -> None:
    assert origin("http://[::1") == origin("http://x:port") == ""
