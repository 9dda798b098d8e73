"""What we say to a provider, and what we make of what it says: against the fake one, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from scripted import Scripted, answer, saying

from loginonce import client as module
from loginonce import idtoken, wire
from loginonce.client import Discovery, Provider
from loginonce.errors import (
    ConfigurationError,
    ErrorResponse,
    InvalidGrant,
    ProtocolError,
    TransportError,
)
from loginonce.model import Client, Grant, GrantKey, Secret
from loginonce.providers import ANY
from loginonce.testing import FakeProvider, Fault
from loginonce.transport import Transport
from loginonce.wire import Answer, Busy, Form, Granted, Lost, Misconfigured, Refused, TokenAnswer, Unsent

Factory = Callable[..., FakeProvider]
Serve = Callable[..., Scripted]

REDIRECT = "http://127.0.0.1:9/callback"


class Recording(Transport):
    """A transport that notes what it is asked to send."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[tuple[str, dict[str, str], Mapping[str, str]]] = []

    def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
        self.posts.append((url, dict(form), headers))
        return super().post(url, form, headers, budget=budget)


class Nothing(Transport):
    """A transport that must not be used."""

    def _exchange(self, *_: Any) -> Answer:
        raise AssertionError("a request was sent")


def public(fake: FakeProvider, **discovery: Any) -> Provider:
    return Provider(Discovery(fake.issuer, **discovery), Client(fake.public_client_id))


def confidential(fake: FakeProvider, transport: Transport | None = None, **members: Any) -> Provider:
    client_id, secret = fake.confidential_client
    return Provider(Discovery(fake.issuer), Client(client_id, Secret(secret), **members), transport)


def a_grant(fake: FakeProvider, client_id: str = "notebook", **members: Any) -> Grant:
    issued = fake.issue(client_id=client_id)
    made = {"refresh_token": Secret(issued["refresh_token"]), "scope": issued["scope"], **members}
    return Grant(GrantKey(fake.issuer, client_id), 1, **made)


def refreshed(provider: Provider, grant: Grant, for_scope: str = "", budget: float = 5.0) -> wire.Reply:
    return provider.refresh(grant, resource="", for_scope=for_scope, budget=budget)


def discoveries(fake: FakeProvider) -> int:
    return sum(event.kind == "discovery" for event in fake.log)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    return pauses


# What a provider says of itself.


def test_both_documents_are_read_and_merged(fake_provider: FakeProvider) -> None:
    server = public(fake_provider).server
    assert server.userinfo_endpoint == f"{fake_provider.issuer}/userinfo"  # only the OpenID document says so
    assert server.revocation_endpoint == f"{fake_provider.issuer}/revoke"  # only the OAuth document does
    assert server.token_endpoint == f"{fake_provider.issuer}/token"
    assert discoveries(fake_provider) == 2


def test_they_are_asked_for_once(fake_provider: FakeProvider) -> None:
    provider = public(fake_provider)
    assert provider.server is provider.server
    assert discoveries(fake_provider) == 2


def test_a_provider_that_publishes_nothing_is_not_asked_for_it(fake_provider: FakeProvider) -> None:
    silent = replace(ANY, discovered=False)
    there = Discovery("https://nowhere.invalid", {"token_endpoint": fake_provider.issuer + "/token"}, dialect=silent)
    assert Provider(there, Client("x")).server.token_endpoint == fake_provider.issuer + "/token"


def test_overrides_go_before_the_documents(fake_provider: FakeProvider) -> None:
    there = f"{fake_provider.issuer}/elsewhere"
    server = public(fake_provider, overrides={"token_endpoint": there}).server
    assert server.token_endpoint == there
    assert server.jwks_uri == f"{fake_provider.issuer}/jwks"


def test_an_override_that_is_no_metadata_is_a_configuration_error(fake_provider: FakeProvider) -> None:
    with pytest.raises(ConfigurationError, match="tokens_endpoint"):
        _ = public(fake_provider, overrides={"tokens_endpoint": "https://x"}).server


def test_an_override_that_is_no_address_is_a_configuration_error(fake_provider: FakeProvider) -> None:
    with pytest.raises(ConfigurationError):
        _ = public(fake_provider, overrides={"token_endpoint": "https://["}).server


@pytest.mark.parametrize("issuer", ["http://id.example.org", "lab", "", "ftp://127.0.0.1"])
def test_an_issuer_that_is_no_safe_address_is_a_configuration_error(issuer: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be an issuer"):
        _ = Provider(Discovery(issuer), Client("x"), Nothing()).server


def test_one_document_is_enough(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.status(404), where="discovery")
    server = public(fake_provider).server
    assert server.revocation_endpoint
    assert not server.userinfo_endpoint


def test_documents_of_another_issuer_are_a_protocol_error(fake_provider: FakeProvider, folder: Path) -> None:
    fake_provider.faults.add(Fault.answer({"issuer": "https://evil.example.org"}), where="discovery")
    with pytest.raises(ProtocolError, match=r"https://evil\.example\.org"):
        _ = public(fake_provider, folder=folder).server
    assert not folder.exists()


def test_documents_that_are_no_json_are_a_protocol_error_that_says_where(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.status(200, "<html>log in to the wifi"), times=2, where="discovery")
    with pytest.raises(ProtocolError, match="something else than a JSON object.*name its end points"):
        _ = public(fake_provider).server


@pytest.mark.parametrize("content", [[], "text", 1, None])
def test_documents_that_are_no_objects_are_a_protocol_error(fake_provider: FakeProvider, content: object) -> None:
    fake_provider.faults.add(Fault.answer(content), times=2, where="discovery")
    with pytest.raises(ProtocolError, match="JSON object"):
        _ = public(fake_provider).server


def test_a_document_of_endless_depth_is_a_protocol_error(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.status(200, "[" * 200_000), times=2, where="discovery")
    with pytest.raises(ProtocolError, match="JSON object"):
        _ = public(fake_provider).server


def test_documents_that_are_not_there_are_a_protocol_error(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.status(404), times=2, where="discovery")
    with pytest.raises(ProtocolError, match="publishes no OpenID or OAuth metadata"):
        _ = public(fake_provider).server


@pytest.mark.parametrize("headers", [{"Location": "https://id.example.org/new"}, {}])
def test_a_redirecting_issuer_is_a_protocol_error_that_says_where_to(
    fake_provider: FakeProvider, headers: dict[str, str]
) -> None:
    fake_provider.faults.add(Fault.status(301, headers=headers), times=2, where="discovery")
    with pytest.raises(ProtocolError, match="redirects to .*use that as the issuer") as failed:
        _ = public(fake_provider).server
    assert headers.get("Location", "?") in str(failed.value)


def test_an_issuer_that_cannot_be_reached_is_a_transport_error(fake_provider: FakeProvider) -> None:
    issuer = fake_provider.issuer
    fake_provider.stop()
    with pytest.raises(TransportError, match=f"{issuer} cannot be reached"):
        _ = Provider(Discovery(issuer), Client("x")).server


def test_end_points_that_are_given_need_no_documents(fake_provider: FakeProvider) -> None:
    issuer = fake_provider.issuer
    fake_provider.stop()
    server = Provider(Discovery(issuer, {"token_endpoint": f"{issuer}/token"}), Client("x")).server
    assert (server.issuer, server.token_endpoint) == (issuer, f"{issuer}/token")


# The kept documents.


@pytest.fixture
def kept(fake_provider: FakeProvider, folder: Path) -> Path:
    """The file in which the documents of the fake provider are kept; it has been asked for them once."""
    _ = public(fake_provider, folder=folder).server
    (path,) = folder.iterdir()
    fake_provider.reset_stats()
    return path


def test_kept_documents_need_no_request(fake_provider: FakeProvider, folder: Path, kept: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600
    second = Provider(Discovery(fake_provider.issuer, folder=folder), Client("x"), Nothing())
    assert second.server == public(fake_provider).server


def test_a_provider_is_informed_once_its_metadata_are_at_hand(fake_provider: FakeProvider, folder: Path) -> None:
    provider = public(fake_provider, folder=folder)
    assert not provider.informed()
    provider.prepare()
    assert provider.informed()
    fake_provider.reset_stats()
    assert public(fake_provider, folder=folder).informed()
    provider.forget_server()
    assert not provider.informed()
    # `prepare` says what is wrong with that one.
    assert not public(fake_provider, folder=folder, overrides={"tokens_endpoint": "https://x"}).informed()


def test_overrides_go_before_kept_documents_and_are_not_kept(
    fake_provider: FakeProvider, folder: Path, kept: Path
) -> None:
    there = f"{fake_provider.issuer}/elsewhere"
    assert public(fake_provider, folder=folder, overrides={"token_endpoint": there}).server.token_endpoint == there
    assert public(fake_provider, folder=folder).server.token_endpoint == f"{fake_provider.issuer}/token"
    assert discoveries(fake_provider) == 0


@pytest.mark.parametrize("age", [86401, -60])
@pytest.mark.hazard(33)
def test_documents_that_are_too_old_or_from_the_future_are_asked_for_again(
    fake_provider: FakeProvider, folder: Path, kept: Path, age: float
) -> None:
    os.utime(kept, (time.time() - age,) * 2)
    _ = public(fake_provider, folder=folder).server
    assert discoveries(fake_provider) == 2
    assert abs(kept.stat().st_mtime - time.time()) < 30


DAY = 86400.0


def test_one_asks_for_documents_that_are_too_old_and_the_others_go_on_with_them(
    fake_provider: FakeProvider, folder: Path, kept: Path
) -> None:
    os.utime(kept, (time.time() - 10 * DAY,) * 2)
    asking, *others = (public(fake_provider, folder=folder) for _ in range(4))
    assert not asking.informed()
    assert all(other.informed() for other in others)
    assert discoveries(fake_provider) == 0
    assert asking.server.token_endpoint == f"{fake_provider.issuer}/token"
    assert discoveries(fake_provider) == 2
    assert abs(kept.stat().st_mtime - time.time()) < 30


@pytest.mark.parametrize(("max_age", "seconds"), [(DAY, module.ASKING), (10.0, 5.0)])
def test_who_was_to_ask_and_did_not_is_followed_by_another_soon(
    fake_provider: FakeProvider, folder: Path, kept: Path, max_age: float, seconds: float
) -> None:
    os.utime(kept, (time.time() - 2 * max_age,) * 2)
    assert not public(fake_provider, folder=folder, max_age=max_age).informed()
    since = time.time() - kept.stat().st_mtime
    assert max_age - seconds <= since < max_age
    os.utime(kept, (kept.stat().st_mtime - seconds,) * 2)  # as it will be then
    assert not public(fake_provider, folder=folder, max_age=max_age).informed()


def test_how_long_documents_are_kept_can_be_chosen(fake_provider: FakeProvider, folder: Path, kept: Path) -> None:
    os.utime(kept, (time.time() - 100,) * 2)
    _ = public(fake_provider, folder=folder, max_age=1000).server
    assert discoveries(fake_provider) == 0
    _ = public(fake_provider, folder=folder, max_age=50).server
    assert discoveries(fake_provider) == 2


GARBAGE = {
    "empty": b"",
    "not json": b"\xff\x00",
    "no documents": b"[]",
    "an object": b'{"issuer": "x"}',
    "an empty object": b"{}",
    "a number": b"1",
    "a list of numbers": b"[1]",
    "null": b"null",
    "another issuer": b'[{"issuer": "https://evil.example.org"}]',
    "no issuer": b'[{"token_endpoint": "https://evil.example.org"}]',
    "an unsafe end point": b'[{"issuer": "ISSUER", "token_endpoint": "http://evil.example.org"}]',
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_kept_garbage_is_ignored_and_replaced(
    fake_provider: FakeProvider, folder: Path, kept: Path, data: bytes
) -> None:
    kept.write_bytes(data.replace(b"ISSUER", fake_provider.issuer.encode()))
    assert public(fake_provider, folder=folder).server.token_endpoint == f"{fake_provider.issuer}/token"
    assert discoveries(fake_provider) == 2
    assert len(json.loads(kept.read_bytes())) == 2


def test_kept_garbage_of_endless_depth_is_ignored(fake_provider: FakeProvider, folder: Path, kept: Path) -> None:
    kept.write_bytes(b"[" * 200_000)
    assert public(fake_provider, folder=folder).server


@pytest.mark.parametrize("mode", [0o644, 0o660])
@pytest.mark.hazard(18)
def test_kept_documents_that_others_could_have_touched_are_ignored(
    fake_provider: FakeProvider, folder: Path, kept: Path, mode: int
) -> None:
    evil = [{"issuer": fake_provider.issuer, "token_endpoint": "https://evil.example.org/token"}]
    kept.write_text(json.dumps(evil))
    kept.chmod(mode)
    assert public(fake_provider, folder=folder).server.token_endpoint == f"{fake_provider.issuer}/token"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_documents_that_cannot_be_kept_are_used_all_the_same(fake_provider: FakeProvider, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert public(fake_provider, folder=tmp_path / "file").server.token_endpoint


def test_each_issuer_has_its_own_file(fake_provider_factory: Factory, folder: Path) -> None:
    one, two = fake_provider_factory(), fake_provider_factory()
    for fake in (one, two, one, two):
        assert public(fake, folder=folder).server.issuer == fake.issuer
    assert (discoveries(one), discoveries(two)) == (2, 2)


@pytest.mark.parametrize("fault", [Fault.drop_before(), Fault.status(503), Fault.status(429), Fault.status(502, "<")])
def test_half_of_the_documents_is_not_kept_when_the_other_half_was_only_late(
    fake_provider: FakeProvider, folder: Path, fault: Fault
) -> None:
    fake_provider.faults.add(Fault.delay(0.0), where="discovery")  # the first is as it should be
    fake_provider.faults.add(fault, where="discovery")  # the second is not
    _ = public(fake_provider, folder=folder).server
    assert public(fake_provider, folder=folder).server.revocation_endpoint


def test_the_whole_that_was_kept_is_better_than_half(fake_provider: FakeProvider, folder: Path, kept: Path) -> None:
    provider = public(fake_provider, folder=folder)
    before = provider.server
    whole = kept.read_bytes()
    provider.forget_server()
    fake_provider.faults.add(Fault.status(200, json.dumps({"issuer": fake_provider.issuer})), where="discovery")
    fake_provider.faults.add(Fault.status(503), where="discovery")
    assert provider.server == before
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("end_point", ["http://id.example.org/token", "https:///"])
def test_end_points_that_no_secret_may_be_sent_to_do_not_replace_those_that_are_known(
    fake_provider: FakeProvider, folder: Path, kept: Path, caplog: pytest.LogCaptureFixture, end_point: str
) -> None:
    provider = public(fake_provider, folder=folder)
    before = provider.server
    provider.forget_server()
    odd = json.dumps({"issuer": fake_provider.issuer, "token_endpoint": end_point})
    fake_provider.faults.add(Fault.status(200, odd), times=2, where="discovery")
    assert provider.server == before
    assert "goes on being used" in caplog.text


def test_what_was_kept_before_the_clock_was_set_back_is_known_in_an_outage(
    fake_provider: FakeProvider, folder: Path, kept: Path
) -> None:
    before = public(fake_provider, folder=folder).server
    os.utime(kept, (time.time() + 3600,) * 2)
    fake_provider.stop()
    assert public(fake_provider, folder=folder).server == before


def test_what_is_forgotten_is_asked_for_anew(fake_provider: FakeProvider, folder: Path, kept: Path) -> None:
    provider = public(fake_provider, folder=folder)
    _ = provider.server
    provider.forget_server()
    _ = provider.server
    assert discoveries(fake_provider) == 2
    assert kept.exists()


def test_what_is_forgotten_while_nobody_is_there_is_known_as_before(
    fake_provider: FakeProvider, folder: Path, kept: Path
) -> None:
    provider = public(fake_provider, folder=folder)
    before = provider.server
    provider.forget_server()
    fake_provider.stop()
    assert provider.server == before
    assert kept.exists()


def test_forgetting_needs_no_file(fake_provider: FakeProvider) -> None:
    provider = public(fake_provider)
    _ = provider.server
    provider.forget_server()
    _ = provider.server
    assert discoveries(fake_provider) == 4


def test_the_representation_shows_no_secret(fake_provider: FakeProvider) -> None:
    shown = repr(confidential(fake_provider))
    assert fake_provider.issuer in shown
    assert "service" in shown
    assert "service-secret" not in shown


# Refreshing: every way it can go is a reply.


def test_a_refresh_brings_tokens(fake_provider: FakeProvider) -> None:
    grant = a_grant(fake_provider)
    reply = refreshed(public(fake_provider), grant)
    assert isinstance(reply, Granted)
    assert reply.answer.refresh_token not in (None, grant.refresh_token)
    assert fake_provider.stats.refreshes == 1


@pytest.mark.hazard(12)
def test_a_refresh_whose_time_is_over_before_it_is_sent_is_not_sent(fake_provider: FakeProvider) -> None:
    provider = public(fake_provider)
    assert provider.prepare() is None
    assert isinstance(refreshed(provider, a_grant(fake_provider), budget=0), Unsent)
    assert fake_provider.stats.token_requests == 0


def test_a_refresh_may_ask_for_less_scope_and_for_a_resource(fake_provider: FakeProvider) -> None:
    transport = Recording()
    provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), transport)
    reply = provider.refresh(a_grant(fake_provider), resource="https://api", for_scope="openid", budget=5)
    assert isinstance(reply, Granted)
    assert reply.answer.scope == "openid"
    assert transport.posts[0][1]["resource"] == "https://api"


REPLIES: dict[str, tuple[Fault, type]] = {
    "dropped before": (Fault.drop_before(), Lost),
    "dropped after": (Fault.drop_after(), Lost),
    "truncated": (Fault.truncate(), Lost),
    "garbled": (Fault.garble(), Lost),
    "too late": (Fault.delay(30), Lost),
    "trickling": (Fault.trickle(30), Lost),
    "500": (Fault.status(500), Lost),
    "502 and a page": (Fault.rotate_then_status(502, "<html>bad gateway</html>"), Lost),
    "server_error": (Fault.answer({"error": "server_error"}, 400), Lost),
    "a redirect": (Fault.status(302, headers={"Location": "https://elsewhere.example.org"}), Lost),
    "200 and a page": (Fault.status(200, "<html>log in</html>"), Lost),
    "200 and no token": (Fault.answer({}), Lost),
    "a list": (Fault.answer([]), Lost),
    "400 and a page": (Fault.status(400, "<html>"), Lost),
    "429": (Fault.status(429, headers={"Retry-After": "7"}), Busy),
    "503": (Fault.status(503), Busy),
    "temporarily_unavailable": (Fault.answer({"error": "temporarily_unavailable"}, 400), Busy),
    "invalid_grant": (Fault.answer({"error": "invalid_grant"}, 400), Refused),
    "invalid_request": (Fault.answer({"error": "invalid_request"}, 400), Refused),
    "an error with 200": (Fault.answer({"error": "invalid_grant"}, 200), Refused),
    "empty 400": (Fault.status(400), Refused),
    "invalid_client": (Fault.answer({"error": "invalid_client"}, 401), Misconfigured),
    "invalid_scope": (Fault.answer({"error": "invalid_scope"}, 400), Misconfigured),
    "404": (Fault.status(404), Misconfigured),
    "405": (Fault.status(405), Misconfigured),
    "401 and nothing": (Fault.status(401), Misconfigured),
}


@pytest.mark.parametrize(("fault", "kind"), REPLIES.values(), ids=REPLIES)
@pytest.mark.hazard(4, 27)
def test_what_becomes_of_a_refresh_is_a_reply_and_it_is_sent_once(
    fake_provider: FakeProvider, fault: Fault, kind: type
) -> None:
    provider = public(fake_provider)
    _ = provider.server
    fake_provider.faults.add(fault)
    reply = refreshed(provider, a_grant(fake_provider), budget=0.3)
    assert isinstance(reply, kind)
    assert fake_provider.stats.token_requests == 1


def test_how_long_to_stay_away_comes_along(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.status(429, headers={"Retry-After": "7"}))
    reply = refreshed(public(fake_provider), a_grant(fake_provider))
    assert isinstance(reply, Busy)
    assert reply.retry_after == 7


def test_a_provider_that_is_down_was_sent_nothing(fake_provider: FakeProvider) -> None:
    provider, grant = public(fake_provider), a_grant(fake_provider)
    _ = provider.server
    fake_provider.stop()
    assert isinstance(refreshed(provider, grant), Unsent)


def test_a_provider_whose_documents_cannot_be_had_was_sent_nothing(fake_provider: FakeProvider) -> None:
    provider, grant = public(fake_provider), a_grant(fake_provider)
    fake_provider.stop()
    assert isinstance(refreshed(provider, grant), Unsent)


def test_a_client_that_cannot_authenticate_sends_nothing(fake_provider: FakeProvider) -> None:
    provider = confidential(fake_provider, token_endpoint_auth_method="private_key_jwt")
    reply = refreshed(provider, a_grant(fake_provider, "service"))
    assert isinstance(reply, Misconfigured)
    assert fake_provider.stats.token_requests == 0


def test_a_provider_without_a_token_end_point_is_sent_nothing(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.answer({"issuer": fake_provider.issuer}), times=2, where="discovery")
    reply = refreshed(public(fake_provider), a_grant(fake_provider))
    assert isinstance(reply, Misconfigured)
    assert "token_endpoint" in reply.detail


def test_a_transport_that_refuses_the_address_is_our_own_fault(fake_provider: FakeProvider) -> None:
    class Refusing(Transport):
        def post(self, url: str, form: Form, headers: Mapping[str, str], *, budget: float) -> Answer:
            raise ConfigurationError("not there")

    provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), Refusing())
    assert refreshed(provider, a_grant(fake_provider)) == Misconfigured("", "not there")


@pytest.mark.parametrize("status", [404, 405, 410])
def test_a_token_end_point_that_is_gone_is_asked_for_anew(
    fake_provider: FakeProvider, folder: Path, kept: Path, status: int
) -> None:
    provider = public(fake_provider, folder=folder)
    grant = a_grant(fake_provider)
    fake_provider.faults.add(Fault.status(status))
    assert isinstance(refreshed(provider, grant), Misconfigured)
    assert isinstance(refreshed(provider, grant), Granted)
    assert discoveries(fake_provider) == 2


def test_a_token_end_point_whose_host_is_gone_is_asked_for_anew(
    fake_provider: FakeProvider, folder: Path, kept: Path
) -> None:
    moved = json.loads(kept.read_bytes())
    for document in moved:
        document["token_endpoint"] = "http://127.0.0.1:1/token"
    kept.write_text(json.dumps(moved))
    provider, grant = public(fake_provider, folder=folder), a_grant(fake_provider)
    assert isinstance(refreshed(provider, grant), Unsent)
    assert isinstance(refreshed(provider, grant), Granted)


# Who we are.


def test_a_public_client_names_itself_in_the_form(fake_provider: FakeProvider) -> None:
    transport = Recording()
    provider = Provider(Discovery(fake_provider.issuer), Client("notebook"), transport)
    assert isinstance(refreshed(provider, a_grant(fake_provider)), Granted)
    ((_, form, headers),) = transport.posts
    assert form["client_id"] == "notebook"
    assert "Authorization" not in headers


def test_a_confidential_client_authenticates_by_basic(fake_provider: FakeProvider) -> None:
    transport = Recording()
    provider = confidential(fake_provider, transport)
    assert isinstance(refreshed(provider, a_grant(fake_provider, "service")), Granted)
    ((_, form, headers),) = transport.posts
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"service:service-secret").decode()
    assert "client_secret" not in form


def test_a_confidential_client_may_authenticate_by_post(fake_provider: FakeProvider) -> None:
    transport = Recording()
    provider = confidential(fake_provider, transport, token_endpoint_auth_method="client_secret_post")
    assert isinstance(refreshed(provider, a_grant(fake_provider, "service")), Granted)
    ((_, form, headers),) = transport.posts
    assert (form["client_id"], form["client_secret"]) == ("service", "service-secret")
    assert "Authorization" not in headers


def test_a_wrong_secret_is_our_own_fault_and_spends_nothing(fake_provider: FakeProvider) -> None:
    provider = Provider(Discovery(fake_provider.issuer), Client("service", Secret("wrong")))
    grant = a_grant(fake_provider, "service")
    assert isinstance(refreshed(provider, grant), Misconfigured)
    assert isinstance(refreshed(confidential(fake_provider), grant), Granted)


# The other grants.


def test_a_service_gets_its_own_tokens_and_renews_by_asking_again(fake_provider: FakeProvider) -> None:
    provider = confidential(fake_provider)
    assert provider.client_credentials(scope="admin").scope == "admin"
    grant = Grant(GrantKey(fake_provider.issuer, "service"), 1, renewal="client_credentials", scope="admin")
    reply = refreshed(provider, grant)
    assert isinstance(reply, Granted)
    assert (reply.answer.scope, reply.answer.refresh_token) == ("admin", None)
    narrower = refreshed(provider, grant, for_scope="email")
    assert isinstance(narrower, Granted)
    assert narrower.answer.scope == "email"


def test_a_code_is_exchanged_for_tokens(fake_provider: FakeProvider) -> None:
    provider = public(fake_provider)
    verifier = "v" * 43
    digest = hashlib.sha256(verifier.encode()).digest()
    url = provider.authorization_url(
        redirect_uri=REDIRECT,
        scope="openid offline_access",
        state="s",
        nonce="n",
        login_hint=None,
        code_challenge=base64.urlsafe_b64encode(digest).decode().rstrip("="),
        code_challenge_method="S256",
    )
    query = parse_qs(urlsplit(url).query)
    assert (query["response_type"], query["client_id"]) == (["code"], ["notebook"])
    assert "login_hint" not in query
    back = fake_provider.approve(url)
    code = parse_qs(urlsplit(back).query)["code"][0]
    tokens = provider.authorization_code(code, redirect_uri=REDIRECT, code_verifier=verifier)
    assert tokens.refresh_token is not None
    assert provider.identify(tokens, nonce="n")["sub"] == "ada"
    with pytest.raises(ProtocolError):
        provider.identify(tokens, nonce="another")
    with pytest.raises(InvalidGrant):
        provider.authorization_code(code, redirect_uri=REDIRECT, code_verifier=verifier)


def test_a_device_gets_tokens_once_a_person_has_agreed(fake_provider: FakeProvider) -> None:
    provider = public(fake_provider)
    device = provider.device_authorization(scope="openid offline_access", resource="")
    with pytest.raises(ErrorResponse) as waiting:
        provider.device_token(device.device_code)
    assert waiting.value.error == "authorization_pending"
    fake_provider.approve(device.user_code)
    assert provider.device_token(device.device_code).refresh_token


def test_a_password_is_exchanged_for_tokens(fake_provider: FakeProvider) -> None:
    provider = confidential(fake_provider)
    assert provider.password("ada", "lovelace", scope="openid").id_token
    with pytest.raises(InvalidGrant):
        provider.password("ada", "wrong", scope="openid")


def test_an_end_point_that_is_not_named_is_a_configuration_error_that_says_how_to_give_it(
    fake_provider: FakeProvider,
) -> None:
    fake_provider.faults.add(Fault.answer({"issuer": fake_provider.issuer}), times=2, where="discovery")
    with pytest.raises(ConfigurationError, match=r"device_authorization_endpoint.*Session\(…, server="):
        public(fake_provider).device_authorization(scope="openid")


def test_signing_in_at_a_provider_that_is_down_is_a_transport_error(fake_provider: FakeProvider) -> None:
    provider = confidential(fake_provider)
    _ = provider.server
    fake_provider.stop()
    with pytest.raises(TransportError):
        provider.client_credentials(scope="")


# Who signed in.


def tokens_of(fake: FakeProvider, **options: Any) -> TokenAnswer:
    return wire.judge_token(Answer(200, {}, json.dumps(fake.issue(**options)).encode()))


def userinfos(fake: FakeProvider) -> int:
    return sum(event.kind == "userinfo" for event in fake.log)


def test_an_id_token_says_who_signed_in(fake_provider: FakeProvider) -> None:
    claims = public(fake_provider).identify(tokens_of(fake_provider))
    assert (claims["sub"], claims["name"], claims["roles"]) == ("ada", "Ada Lovelace", ["researcher"])
    assert userinfos(fake_provider) == 0


def test_userinfo_says_what_the_id_token_does_not(fake_provider: FakeProvider) -> None:
    def without_name(claims: dict[str, Any], header: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {k: v for k, v in claims.items() if k in ("iss", "sub", "aud", "exp", "iat")}, header

    fake_provider.tamper_id_token = without_name
    claims = public(fake_provider).identify(tokens_of(fake_provider))
    assert (claims["sub"], claims["name"], claims["aud"]) == ("ada", "Ada Lovelace", "notebook")
    assert userinfos(fake_provider) == 1


def test_userinfo_of_another_person_is_not_believed(fake_provider: FakeProvider) -> None:
    fake_provider.tamper_id_token = lambda claims, header: (
        {k: v for k, v in claims.items() if k != "name"},
        header,
    )
    fake_provider.faults.add(Fault.answer({"sub": "grace", "name": "Grace Hopper"}), where="userinfo")
    claims = public(fake_provider).identify(tokens_of(fake_provider))
    assert claims["sub"] == "ada"
    assert "name" not in claims


@pytest.mark.parametrize("fault", [Fault.status(500), Fault.drop_before(), Fault.answer([]), Fault.status(200, "<")])
def test_userinfo_that_fails_does_not_spoil_a_sign_in(fake_provider: FakeProvider, fault: Fault) -> None:
    fake_provider.omit = {"id_token"}
    tokens = tokens_of(fake_provider)
    fake_provider.faults.add(fault, where="userinfo")
    assert public(fake_provider).identify(tokens) == {}


def test_without_an_id_token_userinfo_says_who_signed_in(fake_provider: FakeProvider) -> None:
    fake_provider.omit = {"id_token"}
    assert public(fake_provider).identify(tokens_of(fake_provider))["sub"] == "ada"


def test_without_openid_nobody_is_asked(fake_provider: FakeProvider) -> None:
    assert public(fake_provider).identify(tokens_of(fake_provider, scope="offline_access")) == {}
    assert userinfos(fake_provider) == 0


def test_without_a_userinfo_end_point_the_id_token_is_enough(fake_provider: FakeProvider) -> None:
    fake_provider.tamper_id_token = lambda claims, header: (
        {k: v for k, v in claims.items() if k != "name"},
        header,
    )
    provider = public(fake_provider)
    fake_provider.faults.add(Fault.status(404), where="discovery")  # the document that names it
    claims = provider.identify(tokens_of(fake_provider))
    assert claims["sub"] == "ada"
    assert "name" not in claims


def test_an_id_token_with_a_broken_signature_is_a_protocol_error(fake_provider: FakeProvider) -> None:
    fake_provider.tamper_signature = True
    with pytest.raises(ProtocolError):
        public(fake_provider).identify(tokens_of(fake_provider))


def test_a_key_that_appears_only_at_the_second_look_is_found(
    fake_provider: FakeProvider, no_pauses: list[float]
) -> None:
    fake_provider.rotate_keys()
    tokens = tokens_of(fake_provider)
    fake_provider.faults.add(Fault.answer({"keys": []}), where="jwks")
    assert public(fake_provider).identify(tokens)["sub"] == "ada"
    assert no_pauses == [1.0]


def test_a_key_that_was_rotated_between_two_sign_ins_is_found(
    fake_provider: FakeProvider, no_pauses: list[float]
) -> None:
    provider = public(fake_provider)
    assert provider.identify(tokens_of(fake_provider))["sub"] == "ada"
    fake_provider.rotate_keys()
    assert provider.identify(tokens_of(fake_provider))["sub"] == "ada"
    assert no_pauses == []


def test_a_key_that_never_appears_is_a_protocol_error(fake_provider: FakeProvider, no_pauses: list[float]) -> None:
    fake_provider.faults.add(Fault.answer({"keys": []}), times=2, where="jwks")
    with pytest.raises(idtoken.UnknownKey):
        public(fake_provider).identify(tokens_of(fake_provider))
    assert no_pauses == [1.0]
    assert fake_provider.faults.pending == 0


@pytest.mark.parametrize("fault", [Fault.status(500), Fault.answer([1]), Fault.status(200, "[" * 200_000)])
def test_keys_that_cannot_be_read_are_a_protocol_error(fake_provider: FakeProvider, fault: Fault) -> None:
    fake_provider.faults.add(fault, where="jwks")
    with pytest.raises(ProtocolError, match="did not say its signing keys: HTTP"):
        public(fake_provider).identify(tokens_of(fake_provider))


# The end.


def test_a_revoked_token_is_gone(fake_provider: FakeProvider) -> None:
    grant = a_grant(fake_provider)
    assert grant.refresh_token is not None
    assert public(fake_provider).revoke(grant.refresh_token, "refresh_token") is True
    assert fake_provider.stats.revocations == 1
    assert isinstance(refreshed(public(fake_provider), grant), Refused)


def test_a_refused_revocation_is_told_and_raises_nothing(
    fake_provider_factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    fake = fake_provider_factory(revocation="refuse")
    assert public(fake).revoke(Secret("rt_canary"), "refresh_token") is False
    assert "could not be revoked" in caplog.text
    assert "rt_canary" not in caplog.text


def test_where_nothing_can_be_revoked_nothing_is_sent(
    fake_provider_factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    fake = fake_provider_factory(revocation="absent")
    assert public(fake).revoke(Secret("x"), "access_token") is False
    assert caplog.text == ""


@pytest.mark.parametrize("down", ["before discovery", "after discovery"])
def test_a_revocation_that_does_not_arrive_raises_nothing(
    fake_provider: FakeProvider, down: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = public(fake_provider)
    if down == "after discovery":
        _ = provider.server
    fake_provider.stop()
    assert provider.revoke(Secret("x"), "refresh_token") is False
    assert "could not be revoked" in caplog.text


def test_where_a_browser_ends_the_session_is_an_address_without_tokens(fake_provider: FakeProvider) -> None:
    url = public(fake_provider).end_session_url(post_logout_redirect_uri=REDIRECT, state=None)
    assert url.startswith(f"{fake_provider.issuer}/end_session?")
    assert parse_qs(urlsplit(url).query) == {"client_id": ["notebook"], "post_logout_redirect_uri": [REDIRECT]}


def test_an_end_point_with_a_query_keeps_it(fake_provider: FakeProvider) -> None:
    there = {"end_session_endpoint": f"{fake_provider.issuer}/end?tenant=1"}
    assert (
        public(fake_provider, overrides=there).end_session_url()
        == f"{there['end_session_endpoint']}&client_id=notebook"
    )


def test_where_no_session_can_be_ended_the_address_is_empty(fake_provider: FakeProvider) -> None:
    issuer = fake_provider.issuer
    fake_provider.faults.add(Fault.status(404), where="discovery")  # the document that names it
    assert public(fake_provider).end_session_url() == ""
    fake_provider.stop()
    assert Provider(Discovery(issuer), Client("x")).end_session_url() == ""


def test_a_provider_of_another_issuer_gets_no_secret(serve: Serve) -> None:
    """Discovery that does not check out must come before anything that holds a token."""
    server = serve(saying(answer(b'{"issuer": "https://evil.example.org"}')))
    issuer = server.url.removesuffix("/token")
    provider = Provider(Discovery(issuer), Client("service", Secret("canary")))
    grant = Grant(GrantKey(issuer, "service"), 1, refresh_token=Secret("rt_canary"))
    with suppress(ProtocolError):
        provider.client_credentials(scope="")
    assert isinstance(refreshed(provider, grant), Misconfigured)
    assert not any(b"canary" in request or b"POST" in request for request in server.requests)


# While the provider's own pages are away.


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.drop_before(), id="away"),
        pytest.param(Fault.status(503), id="busy"),
        pytest.param(Fault.status(200, "<html>Back soon"), id="a page"),
        pytest.param(Fault.status(404), id="gone"),
    ],
)
@pytest.mark.hazard(27)
def test_documents_of_yesterday_are_better_than_none(
    fake_provider: FakeProvider, folder: Path, kept: Path, fault: Fault
) -> None:
    long_ago = time.time() - 10 * 86400
    os.utime(kept, (long_ago, long_ago))
    fake_provider.faults.add(fault, times=None, where="discovery")
    provider = public(fake_provider, folder=folder)
    assert provider.prepare() is None
    assert provider.server.token_endpoint


@pytest.mark.parametrize(
    ("fault", "kind", "seconds"),
    [
        (Fault.status(503, headers={"Retry-After": "7"}), Busy, 7.0),
        (Fault.status(429, headers={"Retry-After": "7"}), Busy, 7.0),
        (Fault.status(503, headers={"Retry-After": "3600"}), Busy, module.ASKING),  # the others may know enough
        (Fault.status(502), Unsent, None),
        (Fault.status(404), Misconfigured, None),
    ],
    ids=str,
)
@pytest.mark.hazard(32)
def test_a_provider_that_is_away_when_it_is_asked_about_itself_is_not_a_fault_of_the_client(
    fake_provider: FakeProvider, fault: Fault, kind: type, seconds: float | None
) -> None:
    fake_provider.faults.add(fault, times=None, where="discovery")
    reply = public(fake_provider).prepare()
    assert type(reply) is kind
    assert getattr(reply, "retry_after", None) == seconds


def test_learning_about_a_provider_has_one_budget_for_all_of_it(fake_provider: FakeProvider) -> None:
    fake_provider.faults.add(Fault.delay(30, after=False), times=None, where="discovery")
    began = time.monotonic()
    assert isinstance(public(fake_provider).prepare(budget=0.4), Unsent)
    assert time.monotonic() - began < 5
