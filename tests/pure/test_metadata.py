"""A provider's documents, and which addresses a secret may travel to."""

from typing import Any

import pytest

from loginonce.address import origin, secure
from loginonce.errors import ConfigurationError, ProtocolError
from loginonce.metadata import metadata_urls, read_metadata
from loginonce.model import AuthorizationServer

ISSUER = "https://id.example.org"
SERVER = AuthorizationServer(ISSUER)


@pytest.mark.parametrize(
    ("issuer", "openid", "oauth"),
    [
        (
            "https://id.example.org",
            "https://id.example.org/.well-known/openid-configuration",
            "https://id.example.org/.well-known/oauth-authorization-server",
        ),
        (
            "https://id.example.org/realms/lab/",
            "https://id.example.org/realms/lab/.well-known/openid-configuration",
            "https://id.example.org/.well-known/oauth-authorization-server/realms/lab",
        ),
    ],
)
def test_the_two_documents_are_where_their_specifications_put_them(issuer: str, openid: str, oauth: str) -> None:
    assert metadata_urls(issuer) == (openid, oauth)


def test_the_first_document_that_has_a_member_decides_and_the_caller_before_all() -> None:
    documents = [
        {"issuer": ISSUER, "token_endpoint": ISSUER + "/1"},
        {
            "issuer": ISSUER,
            "token_endpoint": ISSUER + "/2",
            "jwks_uri": ISSUER + "/2",
            "userinfo_endpoint": ISSUER + "/2",
        },
    ]
    server = read_metadata(ISSUER, documents, {"jwks_uri": ISSUER + "/0"})
    assert (server.token_endpoint, server.jwks_uri, server.userinfo_endpoint) == (
        ISSUER + "/1",
        ISSUER + "/0",
        ISSUER + "/2",
    )


def test_without_documents_the_overrides_are_all_that_is_known() -> None:
    assert read_metadata(ISSUER, [], {"token_endpoint": ISSUER + "/t"}) == AuthorizationServer(ISSUER, ISSUER + "/t")


def test_a_slash_at_the_end_is_no_other_issuer_and_the_documents_spelling_counts() -> None:
    assert read_metadata(ISSUER, [{"issuer": ISSUER + "/"}], {}).issuer == ISSUER + "/"


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("scopes_supported", ["a", "b"], ("a", "b")),
        ("scopes_supported", [], ()),
        ("scopes_supported", ["a", 5], ()),
        ("scopes_supported", "a b", ()),
        ("authorization_response_iss_parameter_supported", True, True),
        ("authorization_response_iss_parameter_supported", False, False),
        ("authorization_response_iss_parameter_supported", "true", False),
        ("token_endpoint", 5, ""),
        ("token_endpoint", "", ""),
        ("token_endpoint", None, ""),
    ],
)
def test_a_member_of_the_wrong_type_is_as_good_as_missing(name: str, value: object, read: object) -> None:
    assert getattr(read_metadata(ISSUER, [{"issuer": ISSUER, name: value}], {}), name) == read


def test_a_member_that_is_missing_in_one_document_by_its_type_is_taken_from_the_next() -> None:
    documents = [{"issuer": ISSUER, "token_endpoint": 5}, {"issuer": ISSUER, "token_endpoint": ISSUER + "/t"}]
    assert read_metadata(ISSUER, documents, {}).token_endpoint == ISSUER + "/t"


def test_members_that_nobody_needs_are_ignored() -> None:
    assert read_metadata(ISSUER, [{"issuer": ISSUER, "check_session_iframe": "http://x"}], {}) == SERVER


@pytest.mark.parametrize("named", ["https://evil.example", "http://id.example.org", ISSUER + "/realms/a", None, 5, ""])
def test_a_document_of_another_issuer_is_refused(named: object) -> None:
    with pytest.raises(ProtocolError, match="says that it is of"):
        read_metadata(ISSUER, [{"issuer": ISSUER}, {"issuer": named}], {})


def test_an_override_that_is_no_member_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="aa, tokenendpoint"):
        read_metadata(ISSUER, [], {"tokenendpoint": "x", "aa": "x"})


@pytest.mark.parametrize(
    "override",
    [{"token_endpoint": 5}, {"scopes_supported": "a b"}, {"issuer": "https://other.example"}],
    ids=lambda override: next(iter(override)),
)
def test_an_override_that_cannot_be_used_is_a_mistake(override: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        read_metadata(ISSUER, [{"issuer": ISSUER}], override)


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri", "revocation_endpoint", "end_session_endpoint"])
@pytest.mark.parametrize("url", ["http://id.example.org/x", "ftp://x", "x", "https://"])
def test_an_end_point_that_is_neither_https_nor_here_is_refused(name: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        read_metadata(ISSUER, [{"issuer": ISSUER, name: url}], {})


def test_an_end_point_that_is_no_address_is_refused_like_any_other() -> None:
    try:
        read_metadata(ISSUER, [{"issuer": ISSUER, "token_endpoint": "https://["}], {})
    except ConfigurationError:
        return
    pytest.fail("it was accepted")


def test_an_issuer_in_the_clear_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="issuer"):
        read_metadata("http://id.example.org", [], {})


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://api.example.org/x", True),
        ("HTTPS://api.example.org", True),
        ("https://", False),
        ("http://127.0.0.1:5000/x", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:5000", True),
        ("http://localhost:5000", True),
        ("http://app.localhost", True),
        ("http://api.example.org", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://evillocalhost", False),
        ("http://0.0.0.0", False),
        ("http://10.0.0.1", False),
        ("http://", False),
        ("ftp://127.0.0.1", False),
        ("//127.0.0.1", False),
        ("https://api.example.org/\x1b[2J", False),
        ("https://api.example.org/\nx", False),
        ("https://api.example.org/a b", False),
        ("\thttps://api.example.org/", False),
        ("https://api.example.org/\u202ex", False),
        ("", False),
    ],
)
def test_a_secret_travels_by_https_or_stays_on_this_machine(url: str, safe: bool) -> None:
    assert secure(url) is safe


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://api.example.org", True),
        ("https://API.example.org:443/x?y#z", True),
        ("https://user@api.example.org/", True),
        ("http://api.example.org", False),
        ("https://api.example.org:8443", False),
        ("https://api.example.org.evil.example", False),
        ("other://api.example.org", False),
        ("", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, same: bool) -> None:
    assert (origin(url) == "https://api.example.org:443") is same
