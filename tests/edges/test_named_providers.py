"""A provider by its name: in a program, in a profile, on the command line, and as the README shows it."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loginonce
from loginonce import ConfigurationError, Policy
from loginonce.cli.commands import run
from loginonce.cli.facts import example
from loginonce.config import add_profile, profiles, settings
from loginonce.providers import ANY, known, names
from loginonce.testing import FakeProvider

README = Path(__file__).parents[2] / "README.md"
ISSUERS = {
    "keycloak": "https://id.example.org/realms/lab",
    "authentik": "https://id.example.org/application/o/lab",
    "zitadel": "https://example.zitadel.cloud",
    "google": "https://accounts.google.com",
    "spotify": "https://accounts.spotify.com",
    "entra": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0",
    "auth0": "https://example.eu.auth0.com",
    "okta": "https://example.okta.com/oauth2/default",
    "github": "https://github.com",
    "gitlab": "https://gitlab.com",
    "dex": "https://dex.example.org",
    "hydra": "https://example.projects.oryapis.com",
    "cognito": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEf",
    "supabase": "https://abcdefgh.supabase.co/auth/v1",
    "any": "https://id.example.org",
}


@pytest.fixture(autouse=True)
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PROFILE", "ISSUER", "CLIENT_ID", "CLIENT_SECRET", "SCOPE", "ACCOUNT", "STORE"):
        monkeypatch.delenv(f"LOGINONCE_{name}", raising=False)
    return loginonce_home


@pytest.fixture
def config(home: Path) -> Path:
    return home / "config.toml"


# ── the examples ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", names())
def test_each_example_is_a_profile_for_that_provider(config: Path, name: str) -> None:
    config.write_text(example(known(name)), "utf-8")
    made = settings(name)
    assert (made.profile, made.issuer, made.dialect) == (name, ISSUERS[name], known(name))
    assert made.client_id == known(name).example["client_id"]
    assert made.scope == known(name).example.get("scope", known(name).scope)
    assert made.policy == Policy(reuse_interval=known(name).reuse_interval)


@pytest.mark.parametrize("name", names())
def test_the_command_that_tells_of_a_provider_ends_with_its_example_and_names_its_sources(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["providers", name]) == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown[shown.index("\n[profiles.") :]) == tomllib.loads(example(known(name)))
    assert all(source in shown for source in known(name).sources)


def test_the_command_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    run(["providers"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(names())
    run(["providers", "--json"])
    assert [told["name"] for told in json.loads(capsys.readouterr().out)] == list(names())


def rows() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = re.findall(
        r"^\| [^|]+ \| `(Session\(.*?\))` \| `(.*?)` \|$", README.read_text("utf-8"), re.M
    )
    return found


def test_the_readme_has_a_call_for_each_provider() -> None:
    assert sorted(issuer for _, issuer in rows()) == sorted(ISSUERS.values())


@pytest.mark.parametrize(("call", "issuer"), rows())
def test_each_call_in_the_readme_gives_the_issuer_beside_it(call: str, issuer: str) -> None:
    session: loginonce.Session = eval(call.replace("…", '"x"'), {"Session": loginonce.Session})  # our own README
    assert (session.settings.issuer, ISSUERS[session.settings.dialect.name]) == (issuer, issuer)


def test_the_profile_in_the_readme_says_what_it_seems_to_say(config: Path) -> None:
    (block,) = [text for text in re.findall(r"```toml\n(.*?)```", README.read_text("utf-8"), re.S) if "dialect" in text]
    config.write_text(block, "utf-8")
    dialect = settings("club").dialect
    assert (dialect.name, dialect.offline, dialect.refusals) == ("any", "parameter", ("token_gone",))
    assert dialect.authorization(frozenset()) == {"access_type": "offline"}
    assert dialect.error_members == ("error", "code")


# ── which provider ───────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_of_a_providers_name_is_the_profile(config: Path) -> None:
    config.write_text('[profiles.google]\nissuer = "https://id.example.org"\nclient_id = "mine"\n', "utf-8")
    assert settings("google").issuer == "https://id.example.org"


def test_an_issuer_is_recognised(config: Path) -> None:
    assert settings("https://accounts.google.com/", client_id="x").dialect == known("google")


def test_who_names_the_provider_is_believed_before_the_issuer() -> None:
    assert settings("https://id.example.org/realms/lab", client_id="x", provider="any").dialect is ANY


def test_a_named_provider_is_not_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", "https://id.example.org")
    monkeypatch.setenv("LOGINONCE_CLIENT_ID", "theirs")
    monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", "theirs")
    made = settings("google", client_id="mine")
    assert (made.issuer, made.client_secret) == ("https://accounts.google.com", None)


def test_where_it_is_may_be_in_the_environment_if_its_name_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_ISSUER", "https://id.example.org")
    made = settings("dex", client_id="mine")
    assert (made.issuer, made.dialect.name) == ("https://id.example.org", "dex")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile_or_issuer": "keycloak"}, "where is Keycloak"),
        ({"profile_or_issuer": "keycloak", "realm": "lab"}, "Say host="),
        ({"profile_or_issuer": "google", "realm": "lab"}, "Google has no realm"),
        ({"profile_or_issuer": "https://id.example.org", "realm": "lab"}, "the issuer says that already"),
        ({"realm": "lab"}, "name the provider too"),
        ({"provider": "gogle"}, "is no provider"),
        ({"profile_or_issuer": "nobody"}, "there is no profile 'nobody'.*loginonce providers"),
        ({"profile_or_issuer": "keycloak", "host": "id.example.org", "realm": 5}, "realm of .* has to be a text"),
        ({"profile_or_issuer": "entra", "tenant": "t", "resource": "https://api"}, "is not told the resource"),
        ({"issuer": "https://id.example.org", "dialect": {"colour": "blue"}}, "not colour"),
        ({"issuer": "https://id.example.org", "dialect": "blue"}, "has to be a table"),
        ({"issuer": "https://id.example.org", "colour": "blue"}, "mean nothing here: colour.*provider.*realm"),
    ],
)
def test_what_cannot_be_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings(client_id="x", **given)


def test_a_misspelt_name_of_a_sessions_argument_is_told() -> None:
    with pytest.raises(ConfigurationError, match="mean nothing here: clientid"):
        loginonce.Session("https://id.example.org", client_id="x", clientid="x")  # type: ignore[call-arg]


# ── what follows ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_that_says_a_reuse_interval_counts_before_the_providers(config: Path) -> None:
    assert settings("google", client_id="x").policy.reuse_interval == 86400
    assert settings("google", client_id="x", policy={"window": 60}).policy == Policy(window=60, reuse_interval=86400)
    assert settings("google", client_id="x", policy={"reuse_interval": 0}).policy.reuse_interval == 0
    assert settings("google", client_id="x", policy=Policy()).policy.reuse_interval == 0


def test_a_service_asks_for_no_scope_at_a_named_provider_either() -> None:
    assert settings("google", client_id="x", grant="client_credentials").scope == ""


@pytest.mark.parametrize("name", names())
def test_a_saved_profile_is_the_login_that_was_made(config: Path, name: str) -> None:
    given = {**known(name).example, "provider": name, "dialect": {"refusals": ["gone"], "authorize": {"hd": "x"}}}
    made = settings(**given)
    add_profile(made_of := replace(made, profile="work"))
    assert settings("work") == made_of
    assert "recognised_by" not in config.read_text("utf-8")
    add_profile(made_of)  # and again, as two terminals do


def test_a_saved_profile_of_a_recognised_provider_needs_no_more_than_its_issuer(config: Path) -> None:
    made = settings("google", client_id="x")
    add_profile(replace(made, profile="work"))
    assert profiles()["work"] == {"issuer": "https://accounts.google.com", "client_id": "x", "scope": made.scope}


def test_the_command_names_the_provider_where_its_issuer_does_not(config: Path) -> None:
    assert "--provider" not in settings("google", client_id="x").command
    assert "--provider dex" in settings("dex", issuer="https://dex.example.org", client_id="x").command


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--at", "realm=lab"], "name it too, by --provider"),
        (["--provider", "keycloak", "--at", "realm"], "--at realm has no value"),
        (["--provider", "keycloak", "--at", "realm=lab", "--issuer", "https://x.example"], "both say where"),
        (["--provider", "keycloak", "--at", "realm=lab"], "Say host="),
        (["--provider", "gogle"], "is no provider"),
    ],
)
def test_what_a_command_line_gets_wrong_about_a_provider_is_told(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["login", "work", "--client-id", "x", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_profile_that_is_to_be_called_as_a_provider_is_one_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["login", "keycloak", "--client-id", "x"]) == 2
    assert "where is Keycloak?" in capsys.readouterr().err


def test_a_login_at_a_provider_that_its_issuer_does_not_tell_is_saved_with_its_name(
    fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(fake_provider.issue()["refresh_token"]))
    words = ["login", "work", "--provider", "dex", "--issuer", fake_provider.issuer, "--client-id", "notebook"]
    assert run([*words, "--refresh-token-stdin"]) == 0
    assert profiles()["work"]["provider"] == "dex"
    assert settings("work").dialect == known("dex")
    capsys.readouterr()
    assert run(["status", "work"]) == 0
    assert re.search(r"^  at +Dex$", capsys.readouterr().out, re.MULTILINE)
    assert run(["login", "work", "--provider", "hydra", "--issuer", fake_provider.issuer]) == 2
    assert "has provider = 'dex'" in capsys.readouterr().err


def test_after_a_log_out_that_revokes_nothing_the_page_is_named_where_a_person_can(
    fake_provider_factory: Callable[..., FakeProvider], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_provider_factory(revocation="absent")
    config.write_text(f'[profiles.work]\nissuer = "{fake.issuer}"\nprovider = "entra"\nclient_id = "notebook"\n')
    loginonce.Session("work").login(tokens=fake.issue())
    assert run(["logout", "work"]) == 0
    assert known("entra").withdraw in capsys.readouterr().err
