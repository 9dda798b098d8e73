"""The nouns: frozen values, and secrets that work as strings without showing as ones."""

import copy
import dataclasses
import hashlib
import pickle
import pprint
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginonce.model import (
    Account,
    AuthorizationServer,
    Client,
    Failure,
    Grant,
    GrantKey,
    Marker,
    Secret,
    TokenSet,
    fingerprint,
    scope_set,
)

KEY = GrantKey("https://id.example.org", "notebook")
CANARY = "canary-7f3a9c-do-not-show"
HOLDERS: list[Any] = [
    Secret(CANARY),
    TokenSet(Secret(CANARY), 0.0, id_token=Secret(CANARY)),
    Grant(KEY, 1, refresh_token=Secret(CANARY), tokens=(TokenSet(Secret(CANARY), 0.0),)),
    Client("notebook", client_secret=Secret(CANARY)),
]


def token(text: str = "a", **more: Any) -> TokenSet:
    return TokenSet(Secret(text), 0.0, **more)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_the_string_that_it_holds() -> None:
    assert Secret("abc") == "abc"
    assert f"Bearer {Secret('abc')}" == "Bearer abc"
    assert {Secret("abc"): 1}["abc"] == 1


@pytest.mark.hazard(39)
def test_the_repr_of_a_secret_is_its_fingerprint() -> None:
    assert repr(Secret("abc")) == f"<secret {hashlib.sha256(b'abc').hexdigest()[:12]}>"


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize("show", [repr, pprint.pformat, "{!r}".format, lambda it: repr([it, {"k": it}])])
@pytest.mark.hazard(39)
def test_no_rendering_of_a_value_shows_its_secret(holder: Any, show: Callable[[Any], str]) -> None:
    assert CANARY not in show(holder)


@pytest.mark.parametrize("holder", HOLDERS[1:], ids=lambda holder: type(holder).__name__)
def test_no_str_of_a_value_shows_its_secret(holder: Any) -> None:
    assert CANARY not in str(holder)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.hazard(15, 39)
def test_a_value_with_a_secret_is_not_pickled_by_any_protocol(holder: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(holder, protocol)


def test_a_copy_of_a_secret_is_a_secret() -> None:
    secret = Secret(CANARY)
    assert (copy.copy(secret), copy.deepcopy([secret])[0]) == (secret, secret)
    assert isinstance(copy.deepcopy({"k": secret})["k"], Secret)
    assert CANARY not in repr(dataclasses.asdict(token(CANARY)))


def test_a_part_of_a_secret_does_not_show_either() -> None:
    assert CANARY[:20] not in repr(Secret(CANARY)[:20])


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_fingerprint_is_twelve_hexadecimal_digits_of_any_text(text: str) -> None:
    assert len(fingerprint(text)) == 12
    assert int(fingerprint(text), 16) >= 0


def test_a_fingerprint_is_made_of_what_json_can_bring_too() -> None:
    assert fingerprint("\ud800") != fingerprint("\ud801")


# ── scopes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("scope", "tokens"),
    [(None, set()), ("", set()), ("  ", set()), ("a", {"a"}), (" b a  a\t", {"a", "b"}), (["a", "b"], {"a", "b"})],
)
def test_a_scope_is_a_set_of_words(scope: Any, tokens: set[str]) -> None:
    assert scope_set(scope) == tokens


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        token(),
        Marker("f", "n", "o", 0.0, 1.0),
        Failure("f", "busy"),
        Grant(KEY, 1),
        Account("i", "s"),
        Client("c"),
        AuthorizationServer("i"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen_hashable_and_have_no_room_for_more(value: Any) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "x")
    with pytest.raises(FrozenInstanceError):
        value.more = "x"
    assert hash(value) == hash(replace(value))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (KEY, "https://id.example.org (client notebook)"),
        (replace(KEY, account="ada"), "ada at https://id.example.org (client notebook)"),
    ],
)
def test_a_login_is_named_by_person_provider_and_client(key: GrantKey, text: str) -> None:
    assert str(key) == text


def test_a_token_is_identified_by_its_fingerprint() -> None:
    assert token("abc").fingerprint == fingerprint("abc")


def test_a_record_is_ordered_by_epoch_then_generation_then_attempt() -> None:
    records = [Grant(KEY, 2, 0, 0), Grant(KEY, 1, 1, 0), Grant(KEY, 1, 0, 5)]
    assert [grant.order for grant in sorted(records, key=lambda grant: grant.order)] == [
        (1, 0, 5),
        (1, 1, 0),
        (2, 0, 0),
    ]


def test_what_a_renewal_spends_is_the_refresh_token() -> None:
    assert Grant(KEY, 1, refresh_token=Secret("r")).spendable == fingerprint("r")


@pytest.mark.parametrize("refresh_token", [None, Secret("")])
def test_without_a_refresh_token_there_is_nothing_to_spend(refresh_token: Secret | None) -> None:
    assert Grant(KEY, 1, refresh_token=refresh_token).spendable == ""


def test_what_a_service_spends_is_the_same_for_ever_and_differs_by_login() -> None:
    services = [Grant(replace(KEY, client_id=name), 1, renewal="client_credentials") for name in ("a", "a", "b")]
    assert services[0].spendable == services[1].spendable != services[2].spendable


@pytest.mark.hazard(36)
def test_access_tokens_are_found_by_resource_and_narrower_scope() -> None:
    tokens = (token("a"), token("b", resource="r"), token("c", for_scope="s"), token("d", resource="r", for_scope="s"))
    grant = Grant(KEY, 1, tokens=tokens)
    found = [grant.token_for(), grant.token_for("r"), grant.token_for("", "s"), grant.token_for("r", "s")]
    assert tuple(found) == tokens
    assert grant.token_for("other") is None


def test_a_new_access_token_takes_the_place_of_its_predecessor_only() -> None:
    grant = Grant(KEY, 1, tokens=(token("a"), token("b", resource="r")))
    assert [kept.access_token for kept in grant.with_token(token("c"))] == ["c", "b"]


@pytest.mark.parametrize(
    ("account", "text"),
    [
        (Account("i", "s", name="Ada"), "Ada"),
        (Account("i", "s"), "s"),
        (Account("i", ""), "(no name given)"),
    ],
)
def test_an_account_is_called_by_the_best_name_there_is(account: Account, text: str) -> None:
    assert str(account) == text


@pytest.mark.parametrize(
    ("account", "text"),
    [
        (Account("i", "s", name="Ada"), "Account(subject='s', name='Ada')"),
        (Account("i", "s", renews=True), "Account(subject='s', name='', renews itself)"),
        (Account("i", "s", claims={"email": "private"}), "Account(subject='s', name='')"),
    ],
)
def test_the_repr_of_an_account_tells_who_and_whether_it_lasts(account: Account, text: str) -> None:
    assert repr(account) == text


def test_the_repr_of_an_account_tells_when_its_access_ends() -> None:
    assert ", expires " in repr(Account("i", "s", expires_at=1_700_000_000.0))


def test_the_name_of_an_account_cannot_draw_on_a_terminal() -> None:
    assert str(Account("https://id", "5", "Ada\x1b[2J\r\nroot")) == "Ada[2Jroot"
    assert str(Account("https://id", "5\x07")) == "5"


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "Ada", "preferred_username": "ada", "email": "a@b"}, "Ada"),
        ({"name": "", "preferred_username": "ada", "email": "a@b"}, "ada"),
        ({"email": "a@b"}, "a@b"),
        ({}, ""),
    ],
)
def test_an_account_is_named_by_the_first_claim_that_names_it(claims: dict[str, str], name: str) -> None:
    token = TokenSet(Secret("a"), 0.0, 300.0, resource="https://api")
    grant = Grant(
        GrantKey("https://id", "c"), 1, refresh_token=Secret("r"), tokens=(token,), subject="5", claims=claims
    )
    account = Account.of(grant, "https://api")
    assert (account.name, account.subject, account.expires_at, account.renews) == (name, "5", 300.0, True)
    assert Account.of(grant).expires_at is None


def test_an_account_in_a_notebook_shows_nothing_that_a_server_made_up() -> None:
    shown = Account("https://id", "5", "<b>Ada</b>", expires_at=1_700_000_000.0, renews=True)._repr_html_()
    assert "<strong>&lt;b&gt;Ada&lt;/b&gt;</strong> · https://id · token until " in shown
    assert shown.endswith("renews itself</span>")
