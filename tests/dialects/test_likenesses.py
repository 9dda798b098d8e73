"""The fake provider's likenesses by themselves: plain requests, and nothing of the client."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
import requests

from loginonce.providers import names
from loginonce.testing import Behaviour, FakeProvider
from loginonce.testing.likenesses import LIKENESSES


def refresh(fake: FakeProvider, path: str = "/token", **headers: str) -> requests.Response:
    form = {"grant_type": "refresh_token", "client_id": fake.public_client_id, "refresh_token": "no such token"}
    asking = {"Accept": "application/json", **headers}
    return requests.post(f"{fake.issuer}{path}", form, headers=asking, timeout=10)


def authorize(fake: FakeProvider, **more: str) -> requests.Response:
    query = {
        "response_type": "code",
        "client_id": fake.public_client_id,
        "redirect_uri": fake.redirect_uris[0],
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
        **more,
    }
    return requests.get(f"{fake.issuer}/authorize", query, timeout=10, allow_redirects=False)


def test_there_is_a_likeness_of_each_provider_and_of_no_other() -> None:
    assert set(LIKENESSES) == set(names())
    with pytest.raises(KeyError):
        Behaviour.like("nobody")


def test_a_likeness_can_be_changed() -> None:
    assert FakeProvider.like("google", rotation=True).rotation
    assert not Behaviour.like("google").rotation


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("any", 400, {"error": "invalid_grant"}),
        ("github", 200, {"error": "bad_refresh_token"}),
        ("dex", 400, {"error": "invalid_request"}),
        ("auth0", 403, {"error": "invalid_grant"}),
        ("supabase", 400, {"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid Refresh Token"}),
    ],
)
def test_a_refusal_looks_as_it_does_there(fake: FakeProvider, status: int, told: dict[str, Any]) -> None:
    answer = refresh(fake)
    assert (answer.status_code, answer.json()) == (status, told)


@pytest.mark.parametrize("name", ["github"])
def test_github_answers_with_a_form_whoever_does_not_ask_for_json(fake: FakeProvider) -> None:
    path = "/login/oauth/access_token"
    assert parse_qs(refresh(fake, path, Accept="*/*").text) == {"error": ["bad_refresh_token"]}
    assert refresh(fake, path, Accept="application/json").json() == {"error": "bad_refresh_token"}


@pytest.mark.parametrize("name", ["google", "cognito", "gitlab", "supabase"])
def test_some_refuse_offline_access_as_a_scope(fake: FakeProvider) -> None:
    refused = authorize(fake, scope="openid offline_access")
    assert "error=invalid_scope" in refused.headers["Location"]
    assert authorize(fake, scope="openid").status_code == 200


@pytest.mark.parametrize("name", ["google", "entra"])
def test_some_refuse_a_resource(fake: FakeProvider) -> None:
    assert authorize(fake, scope="openid", resource="https://api").status_code == 400


@pytest.mark.parametrize("name", ["spotify", "github"])
def test_some_publish_nothing(fake: FakeProvider) -> None:
    for document in ("openid-configuration", "oauth-authorization-server"):
        assert requests.get(f"{fake.issuer}/.well-known/{document}", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("name", "without", "needs"),
    [
        ("okta", 400, {"id_token_hint": "some"}),
        ("cognito", 400, {"logout_uri": "http://localhost:8400/callback"}),
        ("any", 200, {}),
    ],
)
def test_some_end_no_session_without_something(
    fake: FakeProvider, name: str, without: int, needs: dict[str, str]
) -> None:
    assert requests.get(f"{fake.issuer}/end_session", timeout=10).status_code == without
    assert requests.get(f"{fake.issuer}/end_session", needs, timeout=10).status_code == 200
