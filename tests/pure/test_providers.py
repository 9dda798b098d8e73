"""The facts about providers: each from somewhere, each in its place, and each to be said otherwise."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from loginonce import providers
from loginonce.errors import ConfigurationError, InvalidGrant
from loginonce.providers import ANY, MARKS, NOT_VERIFIED, PLACES, Dialect, known, names, recognised
from loginonce.wire import Answer, Busy, Lost, Misconfigured, Refused, error_response, judge_refresh

FOR_PEOPLE = {"name", "title", "example", "remarks", "sources"}
FACTS = [item.name for item in fields(Dialect) if item.name not in FOR_PEOPLE]
NAMED = [name for name in names() if name != "any"]


def told(status: int, **members: Any) -> Answer:
    return Answer(status, {}, json.dumps(members).encode())


# ── facts and sources ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMED)
def test_each_fact_that_is_not_as_anywhere_names_its_source_or_says_that_nobody_looked(name: str) -> None:
    dialect = known(name)
    departs = [fact for fact in FACTS if getattr(dialect, fact) != getattr(ANY, fact)]
    assert [fact for fact in departs if not dialect.source(fact)] == []


@pytest.mark.parametrize("name", names())
def test_a_source_is_an_address_and_vouches_for_facts_that_there_are(name: str) -> None:
    for source, facts in known(name).sources.items():
        assert source == NOT_VERIFIED or re.fullmatch(r"https://[^\s]+\.[^\s]+", source), source
        assert set(facts.split()) <= set(FACTS), source


@pytest.mark.parametrize("name", names())
def test_a_fact_is_not_both_from_somewhere_and_not_verified(name: str) -> None:
    sources = dict(known(name).sources)
    unverified = set(sources.pop(NOT_VERIFIED, "").split())
    assert not unverified & {fact for facts in sources.values() for fact in facts.split()}


def test_the_providers_are_these() -> None:
    assert set(names()) == {
        "keycloak", "authentik", "zitadel", "google", "spotify", "entra", "auth0", "okta", "github", "gitlab", "dex",
        "hydra", "cognito", "supabase", "any",
    }  # fmt: skip
    assert all(known(name).name == name for name in names())


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="'gogle' is no provider.*google"):
        known("gogle")


def test_the_places_are_those_that_the_providers_have() -> None:
    assert set(PLACES) == {place for name in names() for place in known(name).places}


def test_where_nothing_can_be_revoked_a_page_is_named_where_a_person_can() -> None:
    assert [name for name in names() if known(name).revocation == "no" and not known(name).withdraw] == []


@pytest.mark.parametrize("name", names())
def test_a_dialect_travels_to_other_processes_as_it_is(name: str) -> None:
    assert pickle.loads(pickle.dumps(known(name))) == known(name)


def test_a_dialects_repr_is_short_and_tells_of_changes() -> None:
    assert repr(ANY) == "<Dialect any>"
    assert repr(known("google").but({"scope": "openid"}, "it")) == "<Dialect google, with changes>"


# ── recognised ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("issuer", "name"),
    [
        ("https://accounts.google.com", "google"),
        ("https://Accounts.Google.com", "google"),
        ("https://accounts.google.com.evil.example", "any"),
        ("https://evil.example/accounts.google.com", "any"),
        ("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0", "entra"),
        ("https://lab.eu.auth0.com", "auth0"),
        ("https://auth0.com", "any"),
        ("https://.auth0.com", "any"),
        ("https://lab.okta.com/oauth2/default", "okta"),
        ("https://lab.oktapreview.com", "okta"),
        ("https://github.com", "github"),
        ("https://gitlab.com", "gitlab"),
        ("https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC", "cognito"),
        ("https://abc.supabase.co/auth/v1", "supabase"),
        ("https://lab.zitadel.cloud", "zitadel"),
        ("https://lab.projects.oryapis.com", "hydra"),
        ("http://127.0.0.1:8080/realms/lab", "keycloak"),
        ("https://id.example.org/auth/realms/lab", "keycloak"),
        ("https://id.example.org/realms/", "any"),
        ("https://id.example.org/application/o/lab", "authentik"),
        ("https://id.example.org", "any"),
        ("", "any"),
    ],
)
def test_a_provider_is_recognised_by_its_issuer(issuer: str, name: str) -> None:
    assert recognised(issuer).name == name


def test_what_a_provider_is_recognised_by_is_where_it_is_looked_for() -> None:
    assert {name: known(name).recognised_by for name in NAMED if known(name).recognised_by} == MARKS


# ── where it is ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_address_is_made_of_its_places() -> None:
    assert known("keycloak").at({"host": "id.example.org", "realm": "lab"}) == "https://id.example.org/realms/lab"


def test_what_is_missing_of_an_address_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"where is Keycloak\?  Say realm=…, or the whole issuer=…"):
        known("keycloak").at({"host": "id.example.org"})
    with pytest.raises(ConfigurationError, match=r"where is Dex\?  Say issuer=…$"):
        known("dex").at({})


def test_what_an_address_does_not_have_is_named() -> None:
    with pytest.raises(ConfigurationError, match="Google has no realm: what says where it is, is only the issuer"):
        known("google").at({"realm": "lab"})
    with pytest.raises(ConfigurationError, match="Okta has no realm.*domain, authorization_server"):
        known("okta").at({"realm": "lab"})


@pytest.mark.parametrize("realm", ["lab/../master", "a b", "lab?x=1", "lab#", "../x", "@evil.example", "."])
def test_a_place_is_a_part_of_an_address_and_no_way_to_another(realm: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a part of an address"):
        known("keycloak").at({"host": "id.example.org", "realm": realm})


# ── said otherwise ───────────────────────────────────────────────────────────────────────────────────────


def test_every_fact_can_be_said_otherwise_and_comes_back_as_that_change() -> None:
    others: dict[str, Any] = {}
    for fact in FACTS:
        present = getattr(ANY, fact)
        match present:
            case bool():
                others[fact] = not present
            case float():
                others[fact] = 7.0
            case tuple():
                others[fact] = ("something",)
            case Mapping():
                others[fact] = {**present, "something": "else"}
            case _:
                choices = providers._CHOICES.get(fact, ("something",))
                others[fact] = next(choice for choice in choices if choice != present)
    others.pop("recognised_by")
    other = ANY.but(others, "the profile")
    assert {fact: getattr(other, fact) for fact in others} == others
    assert set(other.changes()) == set(others)
    assert ANY.but(other.changes(), "the profile") == other


def test_a_table_is_added_to_and_an_empty_text_takes_an_entry_away() -> None:
    google = known("google").but({"authorize": {"hd": "example.org", "prompt": ""}}, "the profile")
    assert google.authorize == {"access_type": "offline", "hd": "example.org"}
    assert google.changes() == {"authorize": {"hd": "example.org", "prompt": ""}}
    assert known("google").but(google.changes(), "the profile") == google


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotations": "always"}, "may set .*rotation.*not rotations"),
        ({"name": "mine"}, "not name"),
        ({"sources": {}}, "not sources"),
        ({"rotation": "sometimes"}, "rotation = 'sometimes' in the dialect of it has to be one of always"),
        ({"refusals": "gone"}, "refusals = 'gone' in the dialect of it has to be a list of texts"),
        ({"refusals": [1]}, "a list of texts"),
        ({"authorize": {"max_age": 1}}, "a table of texts"),
        ({"authorize": ["prompt"]}, "a table of texts"),
        ({"discovered": "no"}, "true or false"),
        ({"grace_seconds": True}, "a number of seconds"),
        ({"grace_seconds": -1}, "a number of seconds"),
        ({"scope": 5}, "a text"),
        ({"authorize": {"state": "mine"}}, "state in authorize of it is for the sign-in itself to say"),
        ({"authorize": {"code_challenge": "mine"}}, "code_challenge in authorize"),
    ],
)
def test_what_is_no_fact_or_cannot_be_one_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ANY.but(changes, "it")


# ── what the code asks ───────────────────────────────────────────────────────────────────────────────────


def test_offline_access_is_asked_for_where_it_is_a_scope_and_dropped_elsewhere() -> None:
    assert ANY.asked("openid offline_access") == "openid offline_access"
    assert known("google").asked("openid offline_access email") == "openid email"
    assert known("google").asked("openid  email") == "openid  email"


def test_the_resource_is_told_by_the_providers_own_name_for_it() -> None:
    assert ANY.resource("https://api") == {"resource": "https://api"}
    assert known("auth0").resource("https://api") == {"audience": "https://api"}
    assert known("entra").resource("https://api") == {}
    assert ANY.resource("") == {}


def test_the_end_of_a_session_has_all_that_it_needs_or_is_none() -> None:
    assert ANY.ending(client_id="x", redirect_uri="") == {"client_id": "x"}
    assert known("cognito").ending(client_id="x", redirect_uri="http://localhost") == {
        "client_id": "x",
        "logout_uri": "http://localhost",
    }
    assert known("cognito").ending(client_id="x", redirect_uri="") is None
    assert known("okta").ending(client_id="x", redirect_uri="http://localhost") is None


def test_who_it_is_has_the_names_of_openid() -> None:
    said = known("github").identity({"id": 583231, "login": "ada", "name": "Ada Lovelace"})
    assert (said["sub"], said["preferred_username"], said["name"]) == (583231, "ada", "Ada Lovelace")
    assert ANY.identity({"sub": "ada", "id": 5}) == {"sub": "ada", "id": 5}


@pytest.mark.hazard(27)
@pytest.mark.parametrize(
    ("name", "answer", "kind"),
    [
        ("github", told(200, error="bad_refresh_token", error_description="…"), Refused),
        ("github", told(200, error="incorrect_client_credentials"), Misconfigured),
        ("dex", told(400, error="invalid_request", error_description="Refresh token expired."), Refused),
        ("supabase", told(400, code=400, error_code="refresh_token_not_found", msg="…"), Refused),
        ("supabase", told(400, code=400, error_code="refresh_token_already_used", msg="…"), Refused),
        ("supabase", told(400, error="invalid_grant"), Refused),
        ("supabase", told(400, code=400, error_code="over_request_rate_limit", msg="…"), Busy),
        ("supabase", told(400, code=400, error_code="unexpected_failure", msg="…"), Lost),
        ("supabase", told(500, code=500, error_code="refresh_token_not_found", msg="…"), Lost),
        ("cognito", told(400, __type="NotAuthorizedException", message="Refresh Token has been revoked"), Refused),
        ("cognito", told(400, __type="TooManyRequestsException", message="…"), Busy),
        ("cognito", told(400, error="invalid_grant"), Refused),
        ("google", told(401, error="deleted_client"), Misconfigured),
        ("auth0", told(403, error="invalid_grant", error_description="Unknown or invalid refresh token."), Refused),
        ("spotify", told(400, error="invalid_grant", error_description="Refresh token revoked"), Refused),
        ("any", told(400, code=400, error_code="refresh_token_not_found", msg="…"), Lost),
        ("any", told(200, error="bad_refresh_token"), Lost),
    ],
)
def test_each_providers_words_mean_what_they_mean_there(name: str, answer: Answer, kind: type) -> None:
    assert type(judge_refresh(answer, 0.0, known(name))) is kind


def test_a_refusal_in_a_providers_own_words_is_told_in_them() -> None:
    answer = told(400, code=400, error_code="refresh_token_not_found", msg="Invalid Refresh Token")
    error = error_response(answer, "no", known("supabase"))
    assert isinstance(error, InvalidGrant)
    assert (error.error, error.error_description) == ("refresh_token_not_found", "Invalid Refresh Token")
