"""An API that means harm: to get at the token, or to hold up whoever calls it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import Connection, Script, Scripted, answer, saying

import loginonce
from loginonce.testing import FakeProvider

SLACK = 3.0


@pytest.fixture
def lab(fake_provider: FakeProvider, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """Signed in, with a token that was received long enough ago to be renewed when it is refused."""
    session = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
    tokens = fake_provider.issue()
    session.login(tokens={**tokens, "expires_in": 0.02, "id_token": None})  # its youth is a tenth of its life
    yield session
    session.close()


def refusing_first(refusal: Script) -> Script:
    """Refuse the first request in this way, and grant the second."""

    def script(connection: Connection) -> None:
        if connection.server.connections == 1:
            refusal(connection)
        else:
            saying(answer(b"fine"))(connection)

    return script


def endless(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        while not connection.server.stopping.wait(0.001):
            connection.send(b"400\r\n" + b"x" * 0x400 + b"\r\n")


def trickling(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 401 No\r\n\r\n")
    connection.trickle(b"x")


def said_to_be_huge(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 99999999999999999999\r\n\r\n")
    connection.trickle(b"x")


@pytest.mark.hazard(22)
@pytest.mark.parametrize("refusal", [endless, trickling, said_to_be_huge])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_that_never_ends_holds_nobody_up(lab: loginonce.Session, refusal: Script, *, stream: bool) -> None:
    lab.source.renew()
    _older(lab)
    with Scripted(refusing_first(refusal)) as api:
        carried = lab.source.token()
        began = time.monotonic()
        response = lab.get(api.url, stream=stream, timeout=10)
        assert (response.status_code, response.content) == (200, b"fine")
        assert time.monotonic() - began < SLACK
        assert lab.source.token().access_token != carried.access_token


def _older(lab: loginonce.Session) -> None:
    """Let the token have been received a minute ago."""

    def older(grant: loginonce.Grant | None) -> loginonce.Grant:
        assert grant is not None
        tokens = tuple(replace(token, received_at=token.received_at - 60) for token in grant.tokens)
        return replace(grant, attempt=grant.attempt + 1, tokens=tokens)

    lab.source.change(older)


CHALLENGES = {
    "long": b'Bearer realm="' + b"\\\\" * 30_000 + b'"',
    "unfinished": b'Bearer realm="' + b"a" * 60_000,
    "many": b", ".join([b"Bearer a=b"] * 5_000),
    "of commas": b"," * 60_000,
    "of spaces": b"Bearer " + b" " * 60_000,
    "beyond ASCII": 'Bearer error="ünïcode"'.encode(),
    "with escapes": b'Bearer error="\x1b[2J"',
}


@pytest.mark.hazard(22)
@pytest.mark.parametrize("which", CHALLENGES)
def test_no_challenge_costs_more_than_one_refresh(
    fake_provider: FakeProvider, lab: loginonce.Session, which: str
) -> None:
    lab.source.renew()
    _older(lab)
    fake_provider.reset_stats()
    challenge = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: " + CHALLENGES[which] + b"\r\n\r\n"
    with Scripted(saying(challenge)) as api:
        began = time.monotonic()
        assert lab.get(api.url, timeout=10).status_code == 401
        assert time.monotonic() - began < SLACK
        assert api.connections == 2
    assert fake_provider.stats.token_requests == 1


LOCATIONS = {
    "with our origin as its user": "http://127.0.0.1:{api}@127.0.0.1:{abroad}/",
    "without a scheme": "//127.0.0.1:{abroad}/",
    "with back slashes": "/\\127.0.0.1:{abroad}/",
    "in capitals": "HTTP://127.0.0.1:{abroad}/",
    "by another name": "http://localhost:{api}/other",
    "by an address in another notation": "http://127.1:{abroad}/",
    "with a tab in it": "http://127.0.0.1:{abroad}/\t",
}


@pytest.mark.hazard(25)
@pytest.mark.parametrize("which", LOCATIONS)
@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_no_spelling_of_another_origin_gets_the_token(lab: loginonce.Session, which: str, status: str) -> None:
    lab.source.renew()
    with Scripted(saying(answer())) as abroad:

        def lead_away(connection: Connection) -> None:
            request = connection.request()
            if request.startswith(b"GET /token"):
                there = LOCATIONS[which].format(api=connection.server.port, abroad=abroad.port)
                connection.send(answer(b"", status, location=there))
            else:
                connection.send(answer())

        with Scripted(lead_away) as api:
            with contextlib.suppress(loginonce.LoginonceError, OSError):  # what requests makes of an odd address
                lab.get(api.url, timeout=5)
            assert b"\r\nauthorization: bearer " in api.requests[0].lower()
            led = [request for request in abroad.requests + api.requests[1:] if not request.startswith(b"GET /%5C")]
            assert not [request for request in led if b"bearer" in request.lower()]
