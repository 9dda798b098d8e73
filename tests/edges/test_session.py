"""`Session` is a `requests.Session` in every way, and signed in."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict

import loginonce
from loginonce import LoginRequired, Policy, StepUpRequired, proxies
from loginonce.testing import FakeProvider, Fault, Stats, fingerprint

Factory = Callable[..., FakeProvider]


@pytest.fixture
def open_session(fake_provider: FakeProvider, loginonce_home: Path) -> Iterator[Callable[..., loginonce.Session]]:
    """One more session for the login at the fake provider."""
    opened = []

    def open_session(**given: Any) -> loginonce.Session:
        given = {"client_id": fake_provider.public_client_id} | given
        opened.append(loginonce.Session(fake_provider.issuer, **given))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


Open = Callable[..., loginonce.Session]


@pytest.fixture
def lab(fake_provider: FakeProvider, open_session: Open) -> loginonce.Session:
    """A session that is signed in as Ada, for five minutes."""
    session = open_session()
    session.login(tokens=fake_provider.issue())
    return session


def age(session: loginonce.Session, *, received: float = 60.0, ends_in: float | None = None) -> None:
    """Let the access tokens have been received so many seconds ago, and end in so many."""
    now = time.time()

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = [replace(token, received_at=now - received) for token in grant.tokens]
        if ends_in is not None:
            tokens = [replace(token, expires_at=now + ends_in) for token in tokens]
        return replace(grant, attempt=grant.attempt + 1, tokens=tuple(tokens))

    session.source.change(older)


@pytest.fixture
def refused(fake_provider: FakeProvider, lab: loginonce.Session) -> loginonce.Session:
    """A session whose access token looks good and is refused by the API."""
    age(lab)
    fake_provider.revoke_access_tokens()
    return lab


class Seen(NamedTuple):
    """A request as a server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Elsewhere:
    """A server at another origin, with answers to order; it keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                outer.seen.append(Seen(self.command, self.path, dict(self.headers), body))
                status, headers, content = outer.answers.get(self.path.partition("?")[0], (200, {}, b"{}"))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if self.command != "HEAD" else b"")

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = do

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def authorizations(self) -> list[str | None]:
        return [CaseInsensitiveDict(seen.headers).get("Authorization") for seen in self.seen]


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    yield server
    server.close()


class Recorded(BaseAdapter):
    """An adapter that answers by itself, with what it was asked for kept."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[str, str | None]] = []
        self.settings: list[dict[str, Any]] = []
        self._statuses = list(statuses)
        self._headers = headers or {}

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        self.seen.append((request.url or "", request.headers.get("Authorization")))
        self.settings.append(settings)
        response = requests.Response()
        response.status_code = self._statuses.pop(0) if self._statuses else 200
        response.headers.update(self._headers)
        response.url, response.request, response.raw = request.url or "", request, io.BytesIO(b"{}")
        response.connection = self  # type: ignore[attr-defined]
        return response

    def close(self) -> None:
        pass


def token_of(session: loginonce.Session) -> str:
    return session.source.token().access_token


# ── renewing ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fresh_token_is_used_without_asking_the_provider(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    assert [lab.get(fake_provider.api("/runs")).status_code for _ in range(3)] == [200] * 3
    assert fake_provider.stats == Stats(api_calls=3)


def test_a_token_near_its_end_is_renewed_while_it_is_still_used(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    age(lab, received=280, ends_in=20)
    old = fingerprint(token_of(lab))
    fake_provider.reset_stats()
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    deadline = time.monotonic() + 5
    while fingerprint(token_of(lab)) == old and time.monotonic() < deadline:
        time.sleep(0.005)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 1
    assert [event.fingerprint == old for event in fake_provider.log if event.kind == "api"] == [True, False]


@pytest.mark.hazard(29)
def test_a_failed_early_renewal_leaves_the_good_token_in_use(
    fake_provider: FakeProvider, lab: loginonce.Session, caplog: pytest.LogCaptureFixture
) -> None:
    age(lab, received=280, ends_in=20)
    fake_provider.faults.add(Fault.status(503), times=None)
    assert [lab.get(fake_provider.api("/runs")).status_code for _ in range(3)] == [200] * 3
    for thread in threading.enumerate():
        if thread.name == "loginonce-refresh":
            thread.join()
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 1


def test_an_expired_token_is_renewed_before_the_call(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    age(lab, ends_in=-1)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats == Stats(token_requests=1, refreshes=1, api_calls=1)


def test_a_refused_token_is_renewed_and_the_call_sent_again(
    fake_provider: FakeProvider, refused: loginonce.Session
) -> None:
    answer = refused.get(fake_provider.api("/runs"))
    assert answer.status_code == 200
    assert answer.history == []
    assert fake_provider.stats == Stats(token_requests=1, refreshes=1, api_calls=2, api_401=1)


@pytest.mark.hazard(22)
def test_a_second_401_is_returned_and_not_answered_again(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    age(lab)
    answer = lab.get(fake_provider.api("/never"))
    assert answer.status_code == 401
    assert answer.json() == {"error": "invalid_token"}
    assert fake_provider.stats == Stats(token_requests=1, refreshes=1, api_calls=2, api_401=2)


@pytest.mark.hazard(22)
def test_a_token_received_a_moment_ago_is_not_renewed_for_a_401(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    for _ in range(3):
        assert lab.get(fake_provider.api("/never")).status_code == 401
    assert fake_provider.stats == Stats(api_calls=3, api_401=3)


@pytest.mark.hazard(23)
def test_a_newer_token_of_somebody_else_answers_a_401_without_a_refresh(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    token_of(lab)
    carried = lab.source.token()
    other = open_session()
    age(other)
    fake_provider.revoke_access_tokens()
    other.get(fake_provider.api("/runs"))
    fake_provider.reset_stats()
    assert lab.source.token(rejected=carried).access_token != carried.access_token
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize(("path", "status"), [("/scope", 403), ("/stepup", 401)])
@pytest.mark.parametrize("outside", [False, True], ids=["in the session", "by its auth"])
@pytest.mark.hazard(22)
def test_what_asks_for_another_sign_in_is_told_and_not_answered_by_a_refresh(
    fake_provider: FakeProvider, lab: loginonce.Session, path: str, status: int, outside: bool
) -> None:
    age(lab)
    with pytest.raises(StepUpRequired) as wanted:
        (requests.get(fake_provider.api(path), auth=lab.auth) if outside else lab.get(fake_provider.api(path)))
    assert wanted.value.response.status_code == status
    assert "error" in wanted.value.response.json()  # it can still be read
    assert "Authorization" not in wanted.value.response.request.headers
    assert fake_provider.stats.token_requests == 0
    assert fake_provider.stats.api_calls == 1


def test_insufficient_scope_with_401_is_not_answered_by_a_refresh(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    age(lab)
    challenge = 'Basic realm="x", Bearer realm="api", error="insufficient_scope", scope="admin"'
    lab.mount("https://api.example.org", adapter := Recorded(401, headers={"WWW-Authenticate": challenge}))
    with pytest.raises(StepUpRequired, match="admin"):
        lab.get("https://api.example.org/x")
    assert len(adapter.seen) == 1
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("scope", ["", ', scope="openid"'], ids=["none named", "what the token has"])
def test_where_no_scope_would_help_the_answer_is_the_callers(
    fake_provider: FakeProvider, lab: loginonce.Session, status: int, scope: str
) -> None:
    age(lab)
    challenge = f'Bearer error="insufficient_scope"{scope}'
    lab.mount("https://api.example.org", Recorded(status, headers={"WWW-Authenticate": challenge}))
    assert lab.get("https://api.example.org/x").status_code == status
    assert fake_provider.stats.token_requests == 0


def test_a_403_that_says_nothing_of_scope_is_the_callers(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    age(lab)
    lab.mount("https://api.example.org", adapter := Recorded(403))
    assert lab.get("https://api.example.org/x").status_code == 403
    assert len(adapter.seen) == 1
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize("challenge", ["", "Basic realm=x", 'Bearer error="invalid_token', "%%% not a header"])
def test_a_401_with_an_odd_challenge_or_none_is_answered_by_a_refresh(
    fake_provider: FakeProvider, lab: loginonce.Session, challenge: str
) -> None:
    age(lab)
    lab.mount("https://api.example.org", adapter := Recorded(401, headers={"WWW-Authenticate": challenge}))
    assert lab.get("https://api.example.org/x").status_code == 200
    assert len(adapter.seen) == 2
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(27, 32)
def test_a_provider_that_is_away_is_a_transport_error_with_a_time_to_come_back(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    token_of(lab)
    age(lab, ends_in=-1)
    fake_provider.faults.add(Fault.status(503, headers={"Retry-After": "7"}), times=None)
    for _ in range(3):
        with pytest.raises(loginonce.TransportError) as caught:
            lab.get(fake_provider.api("/runs"))
        assert caught.value.retry_after == pytest.approx(7, abs=1)
    assert fake_provider.stats.token_requests == 1


# ── what is sent again ───────────────────────────────────────────────────────────────────────────────────

CONTENT = "bytes, and ünïcode: ".encode() * 5000


def _begun(file: Any) -> Any:
    """Whoever sends it again from its beginning sends too much."""
    file.seek(4)
    return file


BODIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "nothing": lambda _: {},
    "bytes": lambda _: {"data": CONTENT},
    "bytearray": lambda _: {"data": bytearray(CONTENT)},
    "text": lambda _: {"data": CONTENT.decode()},
    "form": lambda _: {"data": {"a": ["1", "2"], "b": "ü"}},
    "json": lambda _: {"json": {"a": ["ü", None, 1.5]}},
    "file": lambda file: {"data": _begun(file)},
    "memory": lambda _: {"data": io.BytesIO(CONTENT)},
    "multipart": lambda _: {"files": {"upload": ("name.txt", CONTENT, "text/plain")}, "data": {"a": "b"}},
    "multipart file": lambda file: {"files": {"upload": _begun(file)}},
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "bytearray" else kind for kind in BODIES],
)
@pytest.mark.hazard(24)
def test_a_body_is_sent_again_as_it_was(
    elsewhere: Elsewhere, lab: loginonce.Session, kind: str, tmp_path: Path
) -> None:
    age(lab)
    elsewhere.answers["/x"] = (401, {}, b"{}")
    (tmp_path / "body").write_bytes(b"skip" + CONTENT)
    with (tmp_path / "body").open("rb") as file:
        lab.post(f"{elsewhere.origin}/x", **BODIES[kind](file))
    first, second = elsewhere.seen
    assert first.body == second.body
    if kind not in ("nothing", "form", "json"):
        assert CONTENT in first.body
    for seen in (first, second):
        seen.headers.pop("Authorization")
    assert first.headers == second.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_the_api_gets_the_body_that_was_meant(
    fake_provider: FakeProvider, refused: loginonce.Session, method: str
) -> None:
    answer = refused.request(method, fake_provider.api("/runs"), data=io.BytesIO(CONTENT)).json()
    assert answer["method"] == method
    assert answer["body_sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert answer["body_length"] == len(CONTENT)
    assert fake_provider.stats.api_401 == 1


@pytest.mark.hazard(24)
def test_a_generator_is_not_sent_again_and_the_refresh_happens(
    fake_provider: FakeProvider, refused: loginonce.Session
) -> None:
    answer = refused.post(fake_provider.api("/runs"), data=(part for part in [b"a", b"b"]))
    assert answer.status_code == 401
    assert fake_provider.stats == Stats(token_requests=1, refreshes=1, api_calls=1, api_401=1)
    again = refused.post(fake_provider.api("/runs"), data=(part for part in [b"a", b"b"]))
    assert again.json()["body_sha256"] == hashlib.sha256(b"ab").hexdigest()
    assert fake_provider.stats.token_requests == 1


class _Unrewindable(io.BytesIO):
    def seek(self, *_: object) -> int:
        raise OSError("a pipe cannot be rewound")


class _Unknowable(io.BytesIO):
    def tell(self) -> int:
        raise OSError("a pipe has no position")


@pytest.mark.parametrize("kind", [_Unrewindable, _Unknowable])
@pytest.mark.hazard(24)
def test_a_stream_that_cannot_be_rewound_is_not_sent_again(
    elsewhere: Elsewhere, fake_provider: FakeProvider, lab: loginonce.Session, kind: type[io.BytesIO]
) -> None:
    age(lab)
    elsewhere.answers["/x"] = (401, {}, b"{}")
    assert lab.post(f"{elsewhere.origin}/x", data=kind(b"abc")).status_code == 401
    assert [seen.body for seen in elsewhere.seen] == [b"abc"]
    assert fake_provider.stats.token_requests == 1


def test_an_answer_can_be_streamed_after_a_refresh(fake_provider: FakeProvider, refused: loginonce.Session) -> None:
    with refused.get(fake_provider.api("/runs"), stream=True) as answer:
        assert answer.status_code == 200
        assert answer._content is False  # not read yet
        assert json.loads(b"".join(answer.iter_content(7)))["path"] == "/api/runs"


def test_a_refused_answer_gives_its_connection_back(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    age(lab)
    elsewhere.answers["/x"] = (401, {}, b"x" * 100_000)
    with lab.get(f"{elsewhere.origin}/x", stream=True) as answer:
        pools = lab.get_adapter(answer.url).poolmanager.pools  # type: ignore[attr-defined]
        pool = pools[next(iter(pools.keys()))]
        assert (pool.num_connections, pool.num_requests) == (1, 2)
        assert answer.content == b"x" * 100_000


def test_a_call_and_its_second_try_are_timed_together(fake_provider: FakeProvider, refused: loginonce.Session) -> None:
    fake_provider.latency = 0.1
    began = time.perf_counter()
    answer = refused.get(fake_provider.api("/runs"))
    assert answer.elapsed.total_seconds() < time.perf_counter() - began


# ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["session", "request"])
def test_hooks_see_only_the_answer_that_counts(
    fake_provider: FakeProvider, refused: loginonce.Session, where: str
) -> None:
    seen = []

    def hook(response: requests.Response, **_: Any) -> None:
        seen.append(response.status_code)
        response.raise_for_status()

    if where == "session":
        refused.hooks["response"].append(hook)
        refused.get(fake_provider.api("/runs"))
    else:
        refused.get(fake_provider.api("/runs"), hooks={"response": [hook]})
    assert seen == [200]


@pytest.mark.parametrize("form", ["function", "list", "dict of function"])
def test_hooks_may_be_given_in_each_form_that_requests_takes(
    fake_provider: FakeProvider, refused: loginonce.Session, form: str
) -> None:
    seen = []

    def hook(response: requests.Response, **_: Any) -> None:
        seen.append(response.status_code)

    if form == "function":
        refused.get(fake_provider.api("/runs"), hooks={"response": hook})
    elif form == "list":
        refused.get(fake_provider.api("/runs"), hooks={"response": [hook, hook]})
    else:
        refused.hooks = {"response": hook}
        refused.get(fake_provider.api("/runs"))
    assert set(seen) == {200}


def test_a_hook_on_a_prepared_request_may_be_a_function(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    seen = []
    prepared = lab.prepare_request(requests.Request("GET", fake_provider.api("/runs")))
    prepared.hooks = {"response": lambda response, **_: seen.append(response.status_code)}
    lab.send(prepared)
    assert seen == [200]


def test_a_hook_that_raises_raises_what_it_raised(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    lab.hooks["response"].append(lambda response, **_: response.raise_for_status())
    with pytest.raises(requests.HTTPError) as caught:
        lab.get(fake_provider.api("/never"))
    assert caught.value.response.status_code == 401
    caught.value.response.close()


def test_a_hook_may_replace_the_answer(fake_provider: FakeProvider, refused: loginonce.Session) -> None:
    other = requests.Response()
    other.status_code, other.raw, other.request = 299, io.BytesIO(b""), requests.PreparedRequest()

    def hook(response: requests.Response, **_: Any) -> requests.Response:
        response.close()
        return other

    assert refused.get(fake_provider.api("/runs"), hooks={"response": hook}) is other


# ── prepared requests ────────────────────────────────────────────────────────────────────────────────────


def test_a_prepared_request_is_signed_and_renewed_like_any_other(
    fake_provider: FakeProvider, refused: loginonce.Session
) -> None:
    prepared = refused.prepare_request(requests.Request("POST", fake_provider.api("/runs"), data=b"abc"))
    assert "Authorization" not in prepared.headers
    assert refused.send(prepared).json()["body_length"] == 3
    assert fake_provider.stats.token_requests == 1


def test_a_request_prepared_without_the_session_is_signed_too(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    prepared = requests.Request("GET", fake_provider.api("/runs")).prepare()
    assert lab.send(prepared).status_code == 200


def test_a_prepared_request_can_be_sent_again_and_by_another_session(
    fake_provider: FakeProvider, refused: loginonce.Session, open_session: Open
) -> None:
    prepared = refused.prepare_request(requests.Request("POST", fake_provider.api("/runs"), data=b"abc"))
    other = open_session()
    for session in (refused, refused, other, refused):
        assert session.send(prepared).json()["body_length"] == 3
    age(other)
    fake_provider.revoke_access_tokens()
    fake_provider.reset_stats()
    assert other.send(prepared).status_code == 200
    assert fake_provider.stats.api_calls == 2


def test_a_prepared_request_whose_address_is_changed_addresses_the_new_one(
    elsewhere: Elsewhere, fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    prepared = lab.prepare_request(requests.Request("GET", elsewhere.origin))
    lab.send(prepared)
    prepared.url = fake_provider.api("/runs")
    assert lab.send(prepared).status_code == 200


def test_what_is_no_prepared_request_is_refused_as_requests_does(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    with pytest.raises(ValueError, match="PreparedRequests"):
        lab.send(requests.Request("GET", fake_provider.api("/runs")))  # type: ignore[arg-type]


def test_one_prepared_request_can_be_sent_by_two_threads_at_once(lab: loginonce.Session) -> None:
    second_is_in, first_is_out = threading.Event(), threading.Event()

    class Meeting(Recorded):
        def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
            if not self.settings:  # the first one, whose answer comes while the second is about to be sent
                self.settings.append({})
                assert second_is_in.wait(5)
            else:
                second_is_in.set()
                first_is_out.wait(1)
            return super().send(request, **settings)

    def first() -> None:
        lab.send(prepared)
        first_is_out.set()

    lab.mount("https://", adapter := Meeting())
    prepared = lab.prepare_request(requests.Request("GET", "https://api.example.org/"))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        while not adapter.settings:
            time.sleep(0.001)
        pool.submit(lab.send, prepared).result()
        one.result()
    bearer = f"Bearer {token_of(lab)}"
    assert [authorization for _, authorization in adapter.seen] == [bearer, bearer]


# ── where the token goes ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(39)
def test_the_token_is_not_left_on_what_a_program_keeps(fake_provider: FakeProvider, refused: loginonce.Session) -> None:
    answer = refused.get(fake_provider.api("/redirect"), params={"to": fake_provider.api("/runs")})
    assert answer.json()["path"] == "/api/runs"
    secrets = {token_of(refused), f"Bearer {token_of(refused)}"}
    for kept in (answer, *answer.history):
        assert "Authorization" not in kept.request.headers
        assert not any(secret in str(kept.request.__dict__) for secret in secrets)


def test_a_redirect_to_the_same_origin_keeps_the_token(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    answer = lab.get(fake_provider.api("/redirect"), params={"to": fake_provider.api("/runs")})
    assert answer.status_code == 200
    assert [each.status_code for each in answer.history] == [302]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.hazard(25)
def test_a_redirect_to_another_origin_never_takes_the_token_along(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session, status: int
) -> None:
    where = {"to": f"{elsewhere.origin}/landing", "status": str(status)}
    assert lab.post(fake_provider.api("/redirect"), params=where, data=b"abc").status_code == 200
    assert elsewhere.authorizations == [None]


def test_another_sessions_auth_goes_along_with_a_redirect_as_with_requests(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    age(lab)
    where = {"to": fake_provider.api("/runs")}
    assert lab.get(fake_provider.api("/redirect"), params=where, auth=open_session().auth).status_code == 200
    assert fake_provider.stats.token_requests == 0


@pytest.mark.hazard(25)
def test_a_redirect_never_gives_the_token_to_another_provider(
    fake_provider: FakeProvider, fake_provider_factory: Factory, lab: loginonce.Session
) -> None:
    other = fake_provider_factory()
    answer = lab.get(fake_provider.api("/redirect"), params={"to": other.api("/open")})
    assert answer.json()["authorization"] is False
    answer = lab.get(fake_provider.api("/redirect"), params={"to": other.api("/runs")})
    assert answer.status_code == 401
    assert fake_provider.stats.token_requests == 0  # a 401 from there is not about this token


def test_a_refused_token_at_the_end_of_a_redirect_is_renewed(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    age(lab)
    elsewhere.answers["/from"] = (307, {"Location": f"{elsewhere.origin}/to"}, b"")
    elsewhere.answers["/to"] = (401, {}, b"")
    assert lab.put(f"{elsewhere.origin}/from", data=io.BytesIO(b"abc")).status_code == 401
    assert [(seen.path, seen.body) for seen in elsewhere.seen] == [("/from", b"abc"), ("/to", b"abc"), ("/to", b"abc")]
    assert len(set(elsewhere.authorizations)) == 2
    assert fake_provider.stats.token_requests == 1


def test_origins_let_a_redirect_take_the_token(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session, open_session: Open
) -> None:
    trusting = open_session(origins=[f"{elsewhere.origin}/whatever"])
    trusting.get(fake_provider.api("/redirect"), params={"to": elsewhere.origin})
    assert elsewhere.authorizations == [f"Bearer {token_of(lab)}"]


@pytest.mark.parametrize(
    ("named", "origin"),
    [
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example/x"),
        ("https://Files.Example.ORG:443/whatever", "https://files.example.org/x"),
        ("https://files.example.org", "https://FILES.example.org:443/x"),
    ],
)
def test_a_named_origin_is_the_one_that_requests_speak_to(
    lab: loginonce.Session, open_session: Open, named: str, origin: str
) -> None:
    trusting = open_session(origins=[named])
    trusting.mount("https://", adapter := Redirecting())
    trusting.get(on_to("https://api.example.org/", origin))
    assert [authorization for _, authorization in adapter.seen] == [f"Bearer {token_of(lab)}"] * 2


@pytest.mark.parametrize(
    "origins",
    [
        "https://files.example.org",
        b"https://files.example.org",
        ["files.example.org"],
        ["files.example.org:443"],
        ["//files.example.org"],
        ["http://files.example.org"],
        ["ftp://files.example.org"],
        ["https://"],
        ["https://*.example.org"],
        ["https://files.example.org:port"],
        ["https://[::1"],
        ["https://files.example.org", ""],
        [None],
        [b"\xff"],
        7,
    ],
    ids=repr,
)
def test_origins_that_no_request_ever_has_are_refused(open_session: Open, origins: Any) -> None:
    with pytest.raises(loginonce.ConfigurationError, match=r"origins.*https://files\.example\.org"):
        open_session(origins=origins)


@pytest.mark.parametrize("before", ["http://", ""])
def test_origins_that_are_refused_show_no_password(open_session: Open, before: str) -> None:
    with pytest.raises(loginonce.ConfigurationError) as caught:
        open_session(origins=[f"{before}somebody:secret@files.example.org"])
    assert "files.example.org" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("origin", ["http://localhost:8000", "http://[::1]:8000/", "http://127.0.0.1"])
def test_origins_may_be_of_this_machine_without_https(open_session: Open, origin: str) -> None:
    open_session(origins=iter([origin]))


def test_the_token_comes_back_with_a_redirect_to_the_origin_that_was_addressed(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    elsewhere.answers["/there"] = (302, {"Location": fake_provider.api("/runs")}, b"")
    answer = lab.get(fake_provider.api("/redirect"), params={"to": f"{elsewhere.origin}/there"})
    assert answer.status_code == 200
    assert elsewhere.authorizations == [None]


def test_an_origin_that_a_redirect_leads_to_does_not_become_an_addressed_one(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    first = lab.get(fake_provider.api("/redirect"), params={"to": elsewhere.origin}, allow_redirects=False)
    assert first.next is not None
    lab.send(first.next)
    lab.send(first.next)
    assert elsewhere.authorizations == [None, None]


class Redirecting(Recorded):
    """Every `/from` leads to what its query names."""

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        response = super().send(request, **settings)
        if onward := parse_qs(urlsplit(request.url or "").query).get("to"):
            response.status_code, response.headers["Location"] = 302, onward[0]
        return response


@pytest.fixture
def redirecting(lab: loginonce.Session) -> Redirecting:
    lab.mount("https://", adapter := Redirecting())
    return adapter


def of_the_caller(request: requests.PreparedRequest) -> None:
    request.headers["Authorization"] = "Custom abc"


def of_the_caller_by_requests(request: requests.PreparedRequest) -> None:
    request.prepare_auth(("a", "b"))


@pytest.mark.parametrize(
    ("sets", "header"), [(of_the_caller, "Custom abc"), (of_the_caller_by_requests, "Basic YTpi")], ids=["own", "basic"]
)
def test_a_header_of_the_caller_on_the_next_hop_is_left_alone(
    lab: loginonce.Session, redirecting: Redirecting, sets: Callable[[requests.PreparedRequest], None], header: str
) -> None:
    to = on_to("https://api.example.org/", "https://api.example.org/end")
    following = lab.get(on_to("https://api.example.org/", to), allow_redirects=False).next
    assert following is not None
    sets(following)
    lab.send(following)
    bearer = f"Bearer {token_of(lab)}"
    assert [authorization for _, authorization in redirecting.seen] == [bearer, header, header]


def test_a_session_whose_auth_is_set_to_none_before_the_next_hop_does_not_sign_it(
    lab: loginonce.Session, redirecting: Redirecting
) -> None:
    to = on_to("https://api.example.org/", "https://api.example.org/end")
    following = lab.get(on_to("https://api.example.org/", to), allow_redirects=False).next
    lab.auth = None
    assert following is not None
    lab.send(following)
    assert [bool(authorization) for _, authorization in redirecting.seen] == [True, False, False]


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_netrc_says_of_another_origin_stays_there_and_the_token_comes_back(
    lab: loginonce.Session, redirecting: Redirecting, by_hand: bool
) -> None:
    there = on_to("https://files.example.org/", "https://api.example.org/end")
    answer = lab.get(on_to("https://api.example.org/", there), allow_redirects=not by_hand)
    while answer.next is not None:
        answer = lab.send(answer.next, allow_redirects=False)
    bearer = f"Bearer {token_of(lab)}"
    assert [authorization for _, authorization in redirecting.seen] == [bearer, "Basic ZDpk", bearer]


@pytest.mark.parametrize(
    "url", ["http://api.example.org/x", "http://127.0.0.1.example.org/x", "http://169.254.169.254/x", "http://0.0.0.0/"]
)
def test_no_token_goes_to_http_beyond_this_machine(
    lab: loginonce.Session, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab.mount("http://", adapter := Recorded())
    with caplog.at_level(logging.WARNING, "loginonce"):
        assert lab.get(url).status_code == 200
    assert adapter.seen == [(url, None)]
    assert "no token is sent" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.org/",
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://[::1]:1/",
        "http://a.localhost/",
    ],
)
def test_https_and_this_machine_may_have_the_token(lab: loginonce.Session, url: str) -> None:
    lab.mount("http://", adapter := Recorded())
    lab.mount("https://", adapter)
    lab.get(url)
    assert adapter.seen == [(url, f"Bearer {token_of(lab)}")]


@pytest.mark.hazard(25)
def test_a_redirect_from_https_to_http_loses_the_token_even_to_a_named_origin(open_session: Open, lab: Any) -> None:
    session = open_session()
    session._origins = frozenset({"http://api.example.org:80"})  # as a pickle may have it that was made elsewhere
    session.mount("https://", first := Recorded(302, headers={"Location": "http://api.example.org/y"}))
    session.mount("http://", second := Recorded())
    session.get("https://api.example.org/x")
    assert first.seen[0][1] is not None
    assert second.seen == [("http://api.example.org/y", None)]


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\ndefault login d password d\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("netrc")
@pytest.mark.hazard(25)
def test_netrc_never_replaces_the_token(
    fake_provider: FakeProvider, elsewhere: Elsewhere, refused: loginonce.Session
) -> None:
    assert requests.get(fake_provider.api("/open"), timeout=5).json()["authorization"] is True  # it is in force
    assert refused.get(fake_provider.api("/runs")).status_code == 200
    answer = refused.get(fake_provider.api("/redirect"), params={"to": fake_provider.api("/runs")})
    assert answer.status_code == 200
    refused.get(elsewhere.origin)
    assert elsewhere.authorizations == [f"Bearer {token_of(refused)}"]


@pytest.mark.usefixtures("netrc")
@pytest.mark.hazard(4, 25)
def test_netrc_stays_out_of_what_is_said_to_the_provider(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    age(lab, ends_in=-1)
    assert lab.get(fake_provider.api("/runs")).status_code == 200


# ── what the caller says himself ─────────────────────────────────────────────────────────────────────────


def test_a_header_of_the_caller_is_left_alone(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    elsewhere.answers["/x"] = (401, {}, b"")
    assert lab.get(f"{elsewhere.origin}/x", headers={"authorization": "Custom abc"}).status_code == 401
    lab.headers["Authorization"] = "Session xyz"
    lab.get(f"{elsewhere.origin}/x")
    assert elsewhere.authorizations == ["Custom abc", "Session xyz"]


def test_auth_of_the_caller_is_left_alone(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    lab.get(f"{elsewhere.origin}/x", auth=("a", "b"))
    lab.auth = ("c", "d")
    lab.get(f"{elsewhere.origin}/x")
    assert elsewhere.authorizations == ["Basic YTpi", "Basic Yzpk"]


def test_a_name_and_password_in_the_address_are_used_as_requests_does(
    elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    url = elsewhere.origin.replace("//", "//a:b@")
    requests.Session().get(url)
    lab.get(url)
    assert elsewhere.authorizations == ["Basic YTpi", "Basic YTpi"]


def test_a_name_and_password_count_in_an_address_of_bytes_too(lab: loginonce.Session) -> None:
    request = requests.Request("GET", b"https://a:b@api.example.org/x")
    lab.mount("https://", adapter := Recorded())
    lab.send(lab.prepare_request(request))
    assert [authorization for _, authorization in adapter.seen] == ["Basic YTpi"]


# ── other ways to use the login ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [None, b"abc"])
def test_plain_requests_can_use_the_login_and_renew_it(
    fake_provider: FakeProvider, refused: loginonce.Session, body: bytes | None
) -> None:
    answer = requests.post(fake_provider.api("/runs"), data=body, auth=refused.auth, timeout=5)
    assert answer.json()["body_length"] == len(body or b"")
    assert fake_provider.stats == Stats(token_requests=1, refreshes=1, api_calls=2, api_401=1)


@pytest.mark.hazard(25)
def test_plain_requests_do_not_give_the_token_to_another_origin(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    elsewhere.answers["/"] = (401, {}, b"")
    where = {"to": elsewhere.origin + "/"}
    answer = requests.get(fake_provider.api("/redirect"), params=where, auth=lab.auth, timeout=5)
    assert answer.status_code == 401
    assert elsewhere.authorizations == [None]
    assert fake_provider.stats.token_requests == 0


def test_plain_requests_do_not_give_the_token_to_http_beyond_this_machine(lab: loginonce.Session) -> None:
    with requests.Session() as plain:
        plain.mount("http://", adapter := Recorded())
        plain.get("http://api.example.org/x", auth=lab.auth)
    assert adapter.seen == [("http://api.example.org/x", None)]


def test_another_session_of_requests_can_have_the_login_as_its_auth(
    fake_provider: FakeProvider, refused: loginonce.Session
) -> None:
    with requests.Session() as plain:
        plain.auth = refused.auth
        assert [plain.get(fake_provider.api("/runs")).status_code for _ in range(2)] == [200, 200]
    assert fake_provider.stats.token_requests == 1


def test_plain_requests_do_not_leave_the_token_on_the_answer(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    answer = requests.get(fake_provider.api("/runs"), auth=lab.auth, timeout=5)
    assert "Authorization" not in answer.request.headers


def test_the_session_takes_its_own_auth_as_an_argument(fake_provider: FakeProvider, refused: loginonce.Session) -> None:
    assert refused.get(fake_provider.api("/runs"), auth=refused.auth).status_code == 200
    assert fake_provider.stats.token_requests == 1


def test_its_own_auth_as_an_argument_is_not_left_on_a_request_that_failed(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    fake_provider.faults.add(Fault.drop_after(), where="api")
    with pytest.raises(requests.ConnectionError) as caught:
        lab.get(fake_provider.api("/runs"), auth=lab.auth)
    assert caught.value.request is not None
    assert "Authorization" not in caught.value.request.headers


def test_with_its_own_auth_as_an_argument_a_redirect_takes_the_token_to_named_origins(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session, open_session: Open
) -> None:
    trusting = open_session(origins=[elsewhere.origin])
    trusting.get(fake_provider.api("/redirect"), params={"to": elsewhere.origin}, auth=trusting.auth)
    assert elsewhere.authorizations == [f"Bearer {token_of(lab)}"]


def test_auth_as_an_argument_wins_over_the_address_and_the_headers_as_with_requests(
    elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    lab.get(elsewhere.origin.replace("//", "//a:b@"), auth=lab.auth)
    lab.get(elsewhere.origin, auth=lab.auth, headers={"Authorization": "Custom abc"})
    assert elsewhere.authorizations == [f"Bearer {token_of(lab)}"] * 2


@pytest.mark.parametrize("whose", ["its own", "another session's", "its own, set aside"])
@pytest.mark.parametrize("how", ["get", "send", "redirect"])
def test_auth_as_an_argument_lets_no_token_go_in_the_clear_to_a_proxy_of_another_machine(
    elsewhere: Elsewhere, lab: loginonce.Session, open_session: Open, whose: str, how: str
) -> None:
    auth, path = lab.auth, "/from" if how == "redirect" else "/to"
    elsewhere.answers["/from"] = (307, {"Location": "/to"}, b"")
    lab.proxies = {"http": "http://proxy.invalid:3128"}
    if whose == "another session's":
        auth = open_session().auth
    if whose == "its own, set aside":
        lab.auth = None
    request = requests.Request("GET", elsewhere.origin + path, auth=auth)
    if how == "send":
        lab.send(lab.prepare_request(request))
    else:
        lab.get(request.url, auth=auth)
    assert set(elsewhere.authorizations) == {f"Bearer {token_of(lab)}"}
    assert elsewhere.seen[-1].path == "/to"


def test_the_source_is_all_that_another_library_needs(lab: loginonce.Session) -> None:
    source: loginonce.TokenSource = lab.source
    token = source.token()
    assert token.token_type == "Bearer"
    assert source.token(rejected=token).access_token == token.access_token  # it came a moment ago


# ── as requests does it ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("of_session", [{}, {"a": "1", "b": None}, {"a": ["1", "2"]}, [("a", "1")], "a=1"], ids=str)
@pytest.mark.parametrize(
    "of_request", [None, {}, {"b": "3"}, {"a": None}, [("a", "3"), ("c", "4")], [], "a=5", ""], ids=str
)
def test_what_is_asked_for_is_what_requests_would_ask_for(
    lab: loginonce.Session, of_session: Any, of_request: Any
) -> None:
    plain = requests.Session()
    urls = []
    for session in (lab, plain):
        session.params = copy.copy(of_session)
        request = requests.Request("GET", "https://api.example.org/x?y=0", params=of_request)
        urls.append(session.prepare_request(request).url)
        assert session.params == of_session
    assert urls[0] == urls[1]


class Flaky(HTTPAdapter):
    """A mounted adapter of the caller's."""

    def send(self, *args: Any, **settings: Any) -> requests.Response:
        answer = super().send(*args, **settings)
        answer.headers["X-Adapter"] = type(self).__name__
        return answer


def _with_cookies(session: requests.Session, at: str) -> Any:
    session.cookies.set("own", "1")
    session.get(f"{at}/cookie")
    return session.get(f"{at}/plain", cookies={"once": "2"}), session.cookies.get_dict()


def _with_params(session: requests.Session, at: str) -> Any:
    session.params = {"a": "1", "b": "2"}
    return session.get(f"{at}/plain", params={"b": None, "c": ["x", "y"], "d": "ü"})


def _with_headers(session: requests.Session, at: str) -> Any:
    session.headers.update({"X-One": "1", "Accept": "text/plain"})
    return session.get(f"{at}/plain", headers={"X-Two": "2", "Accept": None, "User-Agent": "me"})


def _with_adapter(session: requests.Session, at: str) -> Any:
    session.mount(at, Flaky())
    answer = session.get(f"{at}/plain")
    return answer, answer.headers["X-Adapter"]


def _with_hooks(session: requests.Session, at: str) -> Any:
    seen: list[Any] = []
    session.hooks["response"].append(lambda response, **given: seen.append((response.status_code, sorted(given))))
    return session.get(f"{at}/redirect", hooks={"response": [lambda response, **_: seen.append(response.url)]}), seen


def _with_redirects(session: requests.Session, at: str) -> Any:
    answer = session.post(f"{at}/redirect", data="abc")
    return answer, [(each.status_code, each.request.method, each.is_redirect) for each in answer.history]


def _without_redirects(session: requests.Session, at: str) -> Any:
    answer = session.get(f"{at}/redirect", allow_redirects=False)
    assert answer.next is not None
    return answer, answer.next.url, session.send(answer.next)


def _too_many_redirects(session: requests.Session, at: str) -> Any:
    session.max_redirects = 3
    session.get(f"{at}/round")


def _with_status(session: requests.Session, at: str) -> Any:
    session.get(f"{at}/missing").raise_for_status()


def _with_head(session: requests.Session, at: str) -> Any:
    return session.head(f"{at}/redirect"), session.options(f"{at}/plain"), session.delete(f"{at}/plain")


def _with_json(session: requests.Session, at: str) -> Any:
    return session.put(f"{at}/plain", json={"ü": [1]}).json(), session.patch(f"{at}/text").json()


def _with_proxy(session: requests.Session, at: str) -> Any:
    session.trust_env = False
    session.proxies = {"http": at}
    return session.get("http://localhost:1/by-proxy", proxies={"ftp": "http://127.0.0.1:1"})


def _with_a_dead_proxy(session: requests.Session, at: str) -> Any:
    session.get(f"{at}/plain", proxies={"http": "http://127.0.0.1:1"})


def _with_a_timeout(session: requests.Session, at: str) -> Any:
    session.get("http://127.0.0.1:1/", timeout=(0.5, 0.5))


def _with_a_bad_address(session: requests.Session, at: str) -> Any:
    session.get("no scheme")


def _with_another_bad_address(session: requests.Session, at: str) -> Any:
    session.get("http://")


def _with_an_unknown_scheme(session: requests.Session, at: str) -> Any:
    session.get("gopher://127.0.0.1/")


def _with_a_context(session: requests.Session, at: str) -> Any:
    with session as inner:
        return inner.get(f"{at}/plain"), inner is session


def _seen(answer: Any, at: str) -> Any:
    """What can be compared of an outcome."""
    if isinstance(answer, requests.Response):
        request = {name: value for name, value in answer.request.headers.items() if name != "Authorization"}
        url = (answer.url or "").replace(at, "")
        return answer.status_code, url, answer.reason, answer.content, answer.request.method, request
    if isinstance(answer, list | tuple):
        return [_seen(each, at) for each in answer]
    return answer.replace(at, "") if isinstance(answer, str) else answer


@pytest.mark.parametrize(
    "use",
    [
        _with_cookies, _with_params, _with_headers, _with_adapter, _with_hooks, _with_redirects, _without_redirects,
        _too_many_redirects, _with_status, _with_head, _with_json, _with_proxy, _with_a_dead_proxy, _with_a_timeout,
        _with_a_bad_address, _with_another_bad_address, _with_an_unknown_scheme, _with_a_context,
    ],
    ids=lambda use: use.__name__.strip("_"),
)  # fmt: skip
def test_the_session_does_what_requests_does(
    elsewhere: Elsewhere, lab: loginonce.Session, use: Callable[[requests.Session, str], Any]
) -> None:
    elsewhere.answers |= {
        "/cookie": (200, {"Set-Cookie": "theirs=3; Path=/"}, b""),
        "/redirect": (302, {"Location": "/plain?from=redirect", "Set-Cookie": "hop=1"}, b""),
        "/round": (302, {"Location": "/round"}, b""),
        "/missing": (404, {}, b""),
        "/text": (200, {}, b"no JSON"),
    }
    outcomes = []
    with requests.Session() as plain:
        for session in (plain, lab):
            try:
                outcome: Any = _seen(use(session, elsewhere.origin), elsewhere.origin)
            except Exception as error:
                outcome = type(error)
            seen = [(each.method, each.path, each.body) for each in elsewhere.seen]
            cookies = [CaseInsensitiveDict(each.headers).get("Cookie") for each in elsewhere.seen]
            elsewhere.seen.clear()
            outcomes.append((outcome, seen, cookies))
    assert outcomes[0] == outcomes[1]


def test_cookies_of_a_refused_answer_are_kept(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    age(lab)
    elsewhere.answers["/x"] = (401, {"Set-Cookie": "seen=1; Path=/"}, b"")
    lab.get(f"{elsewhere.origin}/x")
    assert lab.cookies.get_dict() == {"seen": "1"}


def test_cookies_of_a_refused_answer_go_with_the_second_try(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    age(lab)
    elsewhere.answers["/x"] = (401, {"Set-Cookie": "affinity=1; Path=/"}, b"")
    lab.get(f"{elsewhere.origin}/x")
    assert [CaseInsensitiveDict(seen.headers).get("Cookie") for seen in elsewhere.seen] == [None, "affinity=1"]


def test_settings_of_a_call_reach_the_second_try(lab: loginonce.Session) -> None:
    age(lab)
    lab.mount("https://", adapter := Recorded(401))
    lab.trust_env = False
    lab.get("https://api.example.org/", timeout=(1, 2), verify=False, cert="pem", stream=True)
    first, second = adapter.settings
    assert first == second
    assert (second["timeout"], second["verify"], second["cert"], second["stream"]) == ((1, 2), False, "pem", True)


@pytest.fixture
def far_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another machine, for everything."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("far_proxy")
@pytest.mark.parametrize("how", ["environment", "session", "call", "send"])
def test_what_is_meant_for_this_machine_goes_by_no_proxy_of_another(
    fake_provider: FakeProvider, lab: loginonce.Session, how: str
) -> None:
    age(lab)
    fake_provider.revoke_access_tokens()  # so that one goes out again, too
    url, given = fake_provider.api("/runs"), {"http": "http://proxy.invalid:3128"}
    if how == "session":
        lab.proxies = given
    if how == "send":
        answer = lab.send(lab.prepare_request(requests.Request("GET", url)))
    else:
        answer = lab.get(url, **({"proxies": given} if how == "call" else {}))
    assert answer.status_code == 200
    where = {"to": url}
    assert lab.get(fake_provider.api("/redirect"), params=where).status_code == 200


def test_the_next_hop_of_a_redirect_goes_by_the_proxy_that_was_given(
    fake_provider: FakeProvider, elsewhere: Elsewhere, lab: loginonce.Session
) -> None:
    far = "http://api.example.org/there"
    proxies = {"http://api.example.org": elsewhere.origin, "http": "http://proxy.invalid:3128"}
    assert lab.get(fake_provider.api("/redirect"), params={"to": far}, proxies=proxies).status_code == 200
    assert [(seen.path, "Authorization" in seen.headers) for seen in elsewhere.seen] == [(far, False)]


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_goes_by_no_proxy_holds_no_password_of_one(
    elsewhere: Elsewhere, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://somebody:password@proxy.invalid:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    elsewhere.answers["/from"] = (302, {"Location": "/to"}, b"")
    answer = lab.get(f"{elsewhere.origin}/from", allow_redirects=not by_hand)
    if by_hand:
        assert answer.next is not None
        lab.send(answer.next)
    assert [seen.path for seen in elsewhere.seen] == ["/from", "/to"]
    assert not [seen for seen in elsewhere.seen if "Proxy-Authorization" in seen.headers]


@pytest.mark.parametrize("trust_env", [True, False])
def test_what_is_sent_with_no_proxies_named_goes_by_those_of_requests(
    lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch, trust_env: bool
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:3128")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    urls = [f"{scheme}://{host}.example.org/" for scheme in ("http", "https") for host in ("api", "files")]
    sent = []
    plain = requests.Session()
    for session in (lab, plain):
        session.trust_env = trust_env
        for own in ({}, {"no_proxy": "api.example.org"}, {"https": "http://127.0.0.1:1"}, None):
            session.proxies = own
            session.mount("http://", adapter := Recorded())
            session.mount("https://", adapter)
            for url in urls:
                session.send(requests.Request("GET", url).prepare())
            sent.append([settings["proxies"] for settings in adapter.settings])
    assert sent[:4] == sent[4:]


@pytest.mark.parametrize("url", ["https://api.example.org/", "http://127.0.0.1:1/"])
def test_a_no_proxy_of_the_session_lets_the_environment_be_looked_at_again(lab: loginonce.Session, url: str) -> None:
    # requests writes it into the environment for a moment, in which another thread may have looked.
    lab.proxies = {"no_proxy": "api.example.org"}
    for scheme in ("http://", "https://"):
        lab.mount(scheme, Recorded())
    kept = proxies._answers()
    lab.send(requests.Request("GET", url).prepare())
    assert proxies._answers() is not kept


@pytest.mark.usefixtures("far_proxy")
def test_plain_requests_send_no_token_in_the_clear_to_a_proxy_of_another_machine(
    lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = (requests.Request("GET", url) for url in ("http://127.0.0.1:1/x", "https://api.example.org/x"))
    with requests.Session() as plain:
        assert "Authorization" not in lab.auth(plain.prepare_request(near)).headers
        assert "Authorization" in lab.auth(plain.prepare_request(far)).headers
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert "Authorization" in lab.auth(plain.prepare_request(near)).headers


def test_a_session_that_ignores_the_environment_ignores_it_towards_the_provider_too(
    fake_provider: FakeProvider, lab: loginonce.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(lab, ends_in=-1)
    lab.trust_env = False
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert lab.get(fake_provider.api("/runs")).status_code == 200


def test_a_session_whose_proxies_are_none_is_renewed_and_speaks_to_its_api(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    age(lab, ends_in=-1)
    lab.proxies = None
    assert lab.get(fake_provider.api("/runs")).status_code == 200


@pytest.mark.parametrize(
    ("verify", "towards_the_provider"),
    [(Path("/ca.pem"), "/ca.pem"), ("/ca.pem", "/ca.pem"), (True, None), (False, None), (None, None)],
    ids=str,
)
def test_a_ca_file_counts_towards_the_provider_too_be_it_a_path_or_a_text(
    lab: loginonce.Session, verify: Any, towards_the_provider: str | None
) -> None:
    lab.verify = verify
    assert lab._route().verify == towards_the_provider


def test_an_error_of_the_callers_own_hook_can_be_looked_into(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    def hook(response: requests.Response, **_: Any) -> None:
        seen = response.status_code
        response.close()
        raise ArithmeticError(seen)

    with pytest.raises(ArithmeticError) as caught:
        lab.get(fake_provider.api("/runs"), hooks={"response": hook})
    assert caught.traceback[-1].locals["seen"] == 200


def test_an_error_of_the_network_is_the_one_requests_raises(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    fake_provider.faults.add(Fault.delay(1), where="api")
    with pytest.raises(requests.ReadTimeout):
        lab.get(fake_provider.api("/runs"), timeout=0.05)
    fake_provider.faults.add(Fault.drop_after(), where="api")
    with pytest.raises(requests.ConnectionError) as caught:
        lab.get(fake_provider.api("/runs"))
    assert caught.value.request is not None
    assert "Authorization" not in caught.value.request.headers
    fake_provider.faults.add(Fault.truncate(), where="api")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        lab.get(fake_provider.api("/runs"))


def test_an_error_in_the_second_try_is_the_one_requests_raises(
    fake_provider: FakeProvider, refused: loginonce.Session
) -> None:
    fake_provider.faults.add(Fault(), where="api")  # the first call goes by
    fake_provider.faults.add(Fault.drop_before(), where="api")
    with pytest.raises(requests.ConnectionError):
        refused.get(fake_provider.api("/runs"))


def test_a_mock_of_the_requests_class_sees_the_token(lab: loginonce.Session, requests_mock: Any) -> None:
    requests_mock.get("https://api.example.org/runs", json=[1])
    assert lab.get("https://api.example.org/runs").json() == [1]
    assert requests_mock.last_request.url == "https://api.example.org/runs"
    assert requests_mock.call_count == 1


def test_a_mock_can_tell_that_a_call_was_signed(lab: loginonce.Session, requests_mock: Any) -> None:
    header = {"Authorization": f"Bearer {token_of(lab)}"}
    requests_mock.get("https://api.example.org/runs", request_headers=header, text="signed")
    assert lab.get("https://api.example.org/runs").text == "signed"


def test_a_mock_keeps_the_token_of_the_requests_it_recorded(lab: loginonce.Session, requests_mock: Any) -> None:
    requests_mock.get("https://api.example.org/runs")
    lab.get("https://api.example.org/runs")
    assert requests_mock.last_request.headers["Authorization"] == f"Bearer {token_of(lab)}"


def test_a_mock_can_refuse_once(fake_provider: FakeProvider, lab: loginonce.Session, requests_mock: Any) -> None:
    age(lab)
    requests_mock.real_http = True  # the provider is to be had
    requests_mock.get("https://api.example.org/runs", [{"status_code": 401}, {"text": "ok"}])
    assert lab.get("https://api.example.org/runs").text == "ok"
    assert requests_mock.call_count == 2
    assert fake_provider.stats.token_requests == 1


# ── pickles, copies, other processes ─────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(15)
def test_a_pickled_session_is_the_same_session(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    lab.headers["X-One"] = "1"
    lab.cookies.set("own", "2")
    lab.verify = "ca.pem"
    data = pickle.dumps(lab)
    assert token_of(lab).encode() not in data
    with pickle.loads(data) as other:
        assert (other.headers, other.cookies.get_dict(), other.verify) == (lab.headers, {"own": "2"}, "ca.pem")
        assert other.settings == lab.settings
        assert other.get(fake_provider.api("/runs")).status_code == 200
        assert other.account == lab.account


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copied_session_is_signed_in_and_renews_itself(
    fake_provider: FakeProvider, refused: loginonce.Session, duplicate: Callable[[Any], loginonce.Session]
) -> None:
    assert duplicate(refused).get(fake_provider.api("/runs")).status_code == 200
    assert refused.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 1


def test_a_deep_copy_has_headers_cookies_and_adapters_of_its_own(
    fake_provider: FakeProvider, lab: loginonce.Session
) -> None:
    lab.cookies.set("one", "1")
    twin = copy.deepcopy(lab)
    twin.headers["X-Two"] = "2"
    twin.cookies.set("two", "2")
    assert ("X-Two" in lab.headers, lab.cookies.get_dict()) == (False, {"one": "1"})
    assert twin.cookies.get_dict() == {"one": "1", "two": "2"}
    assert not {id(each) for each in twin.adapters.values()} & {id(each) for each in lab.adapters.values()}
    assert twin.get(fake_provider.api("/runs")).status_code == 200


def test_the_auth_of_the_caller_survives_a_pickle(elsewhere: Elsewhere, lab: loginonce.Session) -> None:
    lab.auth = ("a", "b")
    pickle.loads(pickle.dumps(lab)).get(elsewhere.origin)
    assert elsewhere.authorizations == ["Basic YTpi"]


def test_a_copy_of_a_service_can_still_renew(fake_provider: FakeProvider, open_session: Open) -> None:
    client_id, secret = fake_provider.confidential_client
    service = open_session(client_id=client_id, client_secret=secret, grant="client_credentials")
    age_and_call = copy.copy(service)
    assert age_and_call.get(fake_provider.api("/runs")).status_code == 200


@pytest.mark.parametrize("store", ["file", "memory"])
def test_an_answer_can_be_pickled_as_with_requests(fake_provider: FakeProvider, open_session: Open, store: str) -> None:
    session = open_session(store=loginonce.MemoryStore() if store == "memory" else None)
    session.login(tokens=fake_provider.issue())
    answer = session.get(fake_provider.api("/runs"))
    data = pickle.dumps(answer)
    assert token_of(session).encode() not in data
    assert pickle.loads(data).json() == answer.json()


@pytest.mark.hazard(15)
def test_a_spawned_process_gets_a_session_and_uses_it(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    program = (
        "import pickle, sys\n"
        "session, url = pickle.load(sys.stdin.buffer)\n"
        "print(session.get(url).status_code, session.account.subject)\n"
    )
    age(lab, ends_in=-1)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((lab, fake_provider.api("/runs"))),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.split() == [b"200", b"ada"]
    fake_provider.reset_stats()
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 0


@pytest.mark.hazard(13)
def test_a_forked_child_speaks_on_connections_of_its_own(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    program = """
import os, socket, sys
import loginonce
url = sys.argv[3]
lab = loginonce.Session(sys.argv[1], client_id=sys.argv[2])
lab.mount("http://127.0.0.1", requests_adapter := __import__("requests").adapters.HTTPAdapter(pool_maxsize=3))
lab.get(url)
pool = requests_adapter.poolmanager
child = os.fork()
if child == 0:
    assert requests_adapter.poolmanager is not pool, "the pool is the parent's"
    assert requests_adapter._pool_maxsize == 3
    os._exit(lab.get(url).status_code != 200)
assert os.waitpid(child, 0)[1] == 0
assert requests_adapter.poolmanager is pool
assert lab.get(url).status_code == 200
"""
    arguments = [fake_provider.issuer, fake_provider.public_client_id, fake_provider.api("/runs")]
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


# ── who is signed in ─────────────────────────────────────────────────────────────────────────────────────


def test_the_account_says_who_is_signed_in(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    account = lab.account
    assert account is not None
    assert (account.subject, account.name, account.issuer) == ("ada", "Ada Lovelace", fake_provider.issuer)
    assert account.renews
    assert account.expires_at == pytest.approx(time.time() + 300, abs=2)
    assert account.claims["roles"] == ["researcher"]
    assert account.claims["groups"] == ["/lab", "/lab/engines"]
    assert str(account) == "Ada Lovelace"


def test_nobody_is_the_account_before_a_login_and_after_a_log_out(lab: loginonce.Session, open_session: Open) -> None:
    assert open_session(account="grace").account is None
    lab.logout()
    assert lab.account is None


def test_the_account_costs_no_request(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.reset_stats()
    fake_provider.stop()
    assert [lab.account for _ in range(3)] == [lab.account] * 3


def test_claims_that_change_at_a_refresh_are_seen(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.claims["ada"] = fake_provider.claims["ada"] | {"roles": ["admin"]}
    age(lab, ends_in=-1)
    token_of(lab)
    assert lab.account is not None
    assert lab.account.claims["roles"] == ["admin"]


def test_a_login_that_exists_is_used_and_nobody_is_asked(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    other = open_session()
    assert other.login().subject == "ada"
    assert fake_provider.stats.token_requests == 0


def test_a_call_before_any_login_says_what_to_run(fake_provider: FakeProvider, open_session: Open) -> None:
    with pytest.raises(LoginRequired) as caught:
        open_session().get(fake_provider.api("/runs"))
    assert caught.value.reason == "none"
    assert f"loginonce login --issuer {fake_provider.issuer} --client-id notebook" in caught.value.hint
    assert fake_provider.stats == Stats()


# ── the end of a login ───────────────────────────────────────────────────────────────────────────────────


def test_a_log_out_revokes_the_login_and_everybody_sees_it(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    other = open_session()
    token = token_of(other)
    done = lab.logout()
    assert done.revoked
    assert [event.detail for event in fake_provider.log if event.kind == "revoked"] == ["refresh_token"]
    for session in (lab, other):
        with pytest.raises(LoginRequired) as caught:
            session.get(fake_provider.api("/runs"))
        assert caught.value.reason == "logged_out"
    bearer = {"Authorization": f"Bearer {token}"}
    assert requests.get(fake_provider.api("/runs"), headers=bearer, timeout=5).status_code == 401


@pytest.mark.parametrize("revocation", ["refuse", "absent"])
def test_a_log_out_counts_here_whatever_the_provider_says(
    fake_provider: FakeProvider, lab: loginonce.Session, revocation: Any
) -> None:
    lab.source.provider.forget_server()
    fake_provider.revocation = revocation
    assert lab.logout().revoked is False
    with pytest.raises(LoginRequired):
        lab.get(fake_provider.api("/runs"))


def test_a_log_out_counts_here_when_the_provider_is_away(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    fake_provider.stop()
    assert lab.logout().revoked is False
    assert lab.account is None


def test_a_log_out_says_where_the_provider_session_ends(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    url = lab.logout().end_session_url
    assert url == f"{fake_provider.issuer}/end_session?client_id={fake_provider.public_client_id}"


def test_a_log_out_twice_does_no_harm(lab: loginonce.Session) -> None:
    assert lab.logout().revoked
    assert not lab.logout().revoked


def test_a_login_elsewhere_revives_a_session(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    lab.logout()
    with pytest.raises(LoginRequired):
        lab.get(fake_provider.api("/runs"))
    open_session().login(tokens=fake_provider.issue("grace"))
    assert lab.get(fake_provider.api("/runs")).json()["subject"] == "grace"
    assert lab.account is not None
    assert lab.account.subject == "grace"


@pytest.mark.hazard(28)
def test_an_ended_login_is_asked_about_once(fake_provider: FakeProvider, open_session: Open) -> None:
    session = open_session(policy=Policy(refusal_wait=0.05))
    session.login(tokens=fake_provider.issue())
    age(session)
    fake_provider.end_sessions()
    for _ in range(3):
        with pytest.raises(LoginRequired) as caught:
            session.get(fake_provider.api("/runs"))
        assert caught.value.reason == "ended"
    assert fake_provider.stats.token_requests == 1


def test_a_login_without_a_refresh_token_ends_as_expired(fake_provider: FakeProvider, lab: loginonce.Session) -> None:
    answer = fake_provider.issue()
    del answer["refresh_token"]
    lab.login(tokens=answer)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    assert lab.account is not None
    assert not lab.account.renews
    age(lab, ends_in=-1)
    with pytest.raises(LoginRequired) as caught:
        lab.get(fake_provider.api("/runs"))
    assert caught.value.reason == "expired"


def test_a_login_after_the_end_of_one_asks_for_a_new_one(
    fake_provider: FakeProvider, open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(policy=Policy(refusal_wait=0.05))
    session.login(tokens=fake_provider.issue())
    age(session)
    fake_provider.end_sessions()
    with pytest.raises(LoginRequired, match=r"Call \.login\(\)"):
        session.get(fake_provider.api("/runs"))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(loginonce.LoginFailed, match="nobody is here to do it"):  # so it would have asked
        session.login()


# ── scope ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_that_asks_for_more_scope_has_to_sign_in(
    fake_provider: FakeProvider, lab: loginonce.Session, open_session: Open
) -> None:
    greedy = open_session(scope="openid admin")
    with pytest.raises(LoginRequired) as caught:
        greedy.get(fake_provider.api("/scope"))
    assert caught.value.reason == "scope"
    assert "admin" in str(caught.value)
    assert lab.get(fake_provider.api("/runs")).status_code == 200
    greedy.login(tokens=fake_provider.issue(scope="openid admin offline_access"))
    assert greedy.get(fake_provider.api("/scope")).status_code == 200


def test_a_session_that_asks_for_less_scope_shares_the_login(fake_provider: FakeProvider, open_session: Open) -> None:
    wide = open_session(scope="openid admin offline_access")
    wide.login(tokens=fake_provider.issue(scope="openid admin offline_access"))
    narrow = open_session(scope="openid")
    assert token_of(narrow) == token_of(wide)
    age(narrow, ends_in=-1)
    assert narrow.get(fake_provider.api("/runs")).status_code == 200
    assert wide.get(fake_provider.api("/scope")).status_code == 200  # the refresh did not narrow it
    assert fake_provider.stats.token_requests == 1


@pytest.mark.hazard(36)
def test_accounts_are_kept_apart(fake_provider: FakeProvider, open_session: Open) -> None:
    for name in ("ada", "grace"):
        open_session(account=name).login(tokens=fake_provider.issue(name))
    for name in ("ada", "grace"):
        assert open_session(account=name).get(fake_provider.api("/runs")).json()["subject"] == name


# ── services, passwords, tokens at hand ──────────────────────────────────────────────────────────────────


@pytest.fixture
def service(fake_provider: FakeProvider, open_session: Open) -> loginonce.Session:
    client_id, secret = fake_provider.confidential_client
    return open_session(client_id=client_id, client_secret=secret, scope="runs", grant="client_credentials")


def test_a_service_needs_no_login(fake_provider: FakeProvider, service: loginonce.Session) -> None:
    assert service.get(fake_provider.api("/runs")).json()["subject"] == "service"
    assert service.login().renews
    assert fake_provider.stats.token_requests == 1


def test_a_service_renews_itself_before_expiry_and_after_a_401(
    fake_provider: FakeProvider, service: loginonce.Session
) -> None:
    service.login()
    age(service, ends_in=-1)
    assert service.get(fake_provider.api("/runs")).status_code == 200
    age(service)
    fake_provider.revoke_access_tokens()
    assert service.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 3


def test_a_service_with_a_wrong_secret_is_told_so(fake_provider: FakeProvider, open_session: Open) -> None:
    client_id, _ = fake_provider.confidential_client
    session = open_session(client_id=client_id, client_secret="wrong", grant="client_credentials")
    with pytest.raises(loginonce.ConfigurationError) as caught:
        session.get(fake_provider.api("/runs"))
    assert "wrong" not in str(caught.value)


def test_a_service_is_an_account_with_a_name_of_its_own(service: loginonce.Session) -> None:
    assert service.login().subject == "service"


def test_a_name_and_password_make_a_login_that_renews_itself(fake_provider: FakeProvider, open_session: Open) -> None:
    client_id, secret = fake_provider.confidential_client
    session = open_session(client_id=client_id, client_secret=secret, scope="openid")
    account = session.login(username="grace", password="hopper")
    assert (account.subject, account.name) == ("grace", "Grace Hopper")
    age(session, ends_in=-1)
    assert session.get(fake_provider.api("/runs")).json()["subject"] == "grace"


def test_a_wrong_password_is_refused_and_nothing_is_saved(fake_provider: FakeProvider, open_session: Open) -> None:
    client_id, secret = fake_provider.confidential_client
    session = open_session(client_id=client_id, client_secret=secret)
    with pytest.raises(loginonce.InvalidGrant) as caught:
        session.login(username="grace", password="correct horse")
    assert "correct horse" not in str(caught.value)
    assert session.account is None


def test_a_refresh_token_at_hand_is_a_login(fake_provider: FakeProvider, open_session: Open) -> None:
    session = open_session()
    session.login(tokens={"refresh_token": fake_provider.issue()["refresh_token"]})
    assert session.get(fake_provider.api("/runs")).status_code == 200
    assert fake_provider.stats.token_requests == 1


@pytest.mark.parametrize("tokens", [{}, {"token": "x"}, {"refresh_token": None}, {"access_token": ""}])
def test_tokens_that_are_none_are_refused(open_session: Open, tokens: dict[str, Any]) -> None:
    session = open_session()
    with pytest.raises(loginonce.ConfigurationError):
        session.login(tokens=tokens)
    assert session.account is None


def test_an_absolute_expiry_at_hand_is_kept(fake_provider: FakeProvider, open_session: Open) -> None:
    answer = fake_provider.issue()
    del answer["expires_in"]
    end = time.time() + 100
    assert open_session().login(tokens=answer | {"expires_at": end}).expires_at == pytest.approx(end, abs=1)


def test_tokens_that_were_kept_for_an_hour_are_still_a_login(fake_provider: FakeProvider, open_session: Open) -> None:
    fake_provider.clock_skew = -3600
    answer = fake_provider.issue()
    fake_provider.clock_skew = 0
    assert open_session().login(tokens=answer).subject == "ada"


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_threads_share_one_session(fake_provider: FakeProvider, refused: loginonce.Session, count: int) -> None:
    together = threading.Barrier(count, timeout=20)

    def call(_: int) -> int:
        together.wait()
        return refused.get(fake_provider.api("/runs")).status_code

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(call, range(count))) == [200] * count
        assert fake_provider.stats.token_requests == 1
        age(refused, ends_in=-1)
        assert list(pool.map(call, range(count))) == [200] * count
    assert fake_provider.stats.token_requests == 2
    assert fake_provider.stats.replays == 0


@pytest.fixture
def damaged(lab: loginonce.Session, loginonce_home: Path) -> None:
    (record,) = (loginonce_home / "logins").glob("*.login")
    record.write_bytes(record.read_bytes()[:-40])


@pytest.mark.usefixtures("damaged")
@pytest.mark.hazard(19)
def test_a_damaged_record_is_told_of_once_and_a_login_mends_it(fake_provider: FakeProvider, open_session: Open) -> None:
    session = open_session()
    with pytest.raises(loginonce.CorruptStore, match="sign in again"):
        session.get(fake_provider.api("/runs"))
    with pytest.raises(LoginRequired):
        session.get(fake_provider.api("/runs"))
    assert session.login(tokens=fake_provider.issue()).subject == "ada"
    assert session.get(fake_provider.api("/runs")).status_code == 200


@pytest.mark.usefixtures("damaged")
def test_a_login_is_not_stopped_by_a_damaged_record(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(loginonce.LoginFailed, match="nobody is here"):
        open_session().login()


# Where a token goes in longer chains, and whose authentication counts.


class ApiKey(requests.auth.AuthBase):
    """An authentication that leaves Authorization alone."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Api-Key"] = "k"
        return request


class Replacing:
    """A hook that makes another answer of each."""

    def __call__(self, response: requests.Response, **_: Any) -> requests.Response:
        other = requests.Response()
        other.__dict__.update({k: v for k, v in response.__dict__.items() if not k.startswith("_loginonce")})
        return other


class Abroad:
    """Another origin: `/to?` sends the visitor on, every path keeps in mind which Authorization came by."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.headers.get("Authorization"))
                onward = parse_qs(urlsplit(self.path).query).get("to")
                self.send_response(302 if onward else 200)
                if onward:
                    self.send_header("Location", onward[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def abroad() -> Iterator[Abroad]:
    there = Abroad()
    thread = threading.Thread(target=there.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield there
    there.server.shutdown()
    there.server.server_close()
    thread.join()


def on_to(through: str, to: str) -> str:
    return f"{through}?{urlencode({'to': to})}"


def led_abroad(here: FakeProvider, abroad: Abroad, *, hops: int) -> str:
    """An address of ours that leads abroad, and there from one to the next so many times."""
    address = abroad.address
    for _ in range(hops):
        address = on_to(abroad.address, address)
    return on_to(here.api("/redirect"), address)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_however_long_it_is_led_around_abroad_no_token_goes_along(
    fake_provider: FakeProvider, lab: loginonce.Session, abroad: Abroad, hops: int
) -> None:
    assert lab.get(led_abroad(fake_provider, abroad, hops=hops)).status_code == 200
    assert abroad.heard == [None] * (hops + 1)


def test_followed_by_hand_no_token_goes_abroad_either(
    fake_provider: FakeProvider, lab: loginonce.Session, abroad: Abroad
) -> None:
    answer = lab.get(led_abroad(fake_provider, abroad, hops=1), allow_redirects=False)
    while answer.next is not None:
        answer = lab.send(answer.next, allow_redirects=False)
    assert abroad.heard == [None, None]


def test_back_from_abroad_the_token_is_put_on_again(
    fake_provider: FakeProvider, lab: loginonce.Session, abroad: Abroad
) -> None:
    back = on_to(abroad.address, fake_provider.api("/runs"))
    answer = lab.get(on_to(fake_provider.api("/redirect"), back))
    assert answer.json()["subject"] == "ada"
    assert abroad.heard == [None]


def test_a_hook_that_replaces_the_answer_does_not_send_the_token_abroad(
    fake_provider: FakeProvider, lab: loginonce.Session, abroad: Abroad
) -> None:
    lab.get(led_abroad(fake_provider, abroad, hops=1), hooks={"response": Replacing()})
    assert abroad.heard == [None, None]


@pytest.mark.parametrize(
    "own",
    [
        {"auth": ("u", "p")},
        {"auth": ApiKey()},
        {"auth": requests.auth.HTTPDigestAuth("u", "p")},
        {"headers": {"Authorization": "Mine x"}},
    ],
    ids=["basic", "a header of its own", "digest", "by hand"],
)
def test_who_brings_an_authentication_of_their_own_sends_no_token_anywhere(
    fake_provider: FakeProvider, lab: loginonce.Session, abroad: Abroad, own: dict[str, Any]
) -> None:
    lab.get(on_to(abroad.address, on_to(fake_provider.api("/redirect"), abroad.address)), **own)
    lab.get(on_to(abroad.address, abroad.address), **own)
    assert not [header for header in abroad.heard if header and header.startswith("Bearer")]
    assert fake_provider.stats.token_requests == 0


@pytest.mark.parametrize("own", [None, ApiKey()], ids=["none", "another"])
def test_a_session_whose_auth_is_set_to_something_else_signs_nothing(
    lab: loginonce.Session, abroad: Abroad, own: Any
) -> None:
    lab.get(abroad.address)
    lab.auth = own
    lab.get(abroad.address)
    assert [bool(header) for header in abroad.heard] == [True, False]


def test_a_deep_copy_keeps_the_client_secret(fake_provider: FakeProvider, loginonce_home: Path) -> None:
    name, secret = fake_provider.confidential_client
    robot = loginonce.Session(
        fake_provider.issuer, client_id=name, client_secret=secret, grant="client_credentials", scope="openid"
    )
    assert copy.deepcopy(robot).get(fake_provider.api("/runs")).status_code == 200
