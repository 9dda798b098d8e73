"""How a client says who it is: which method is taken, and what is sent by each."""

from __future__ import annotations

import base64
import json
import traceback
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from loginonce.authentication import SigningKey, authenticate, authentication_method, by_certificate, read_key
from loginonce.errors import ConfigurationError
from loginonce.model import AuthorizationServer, Client, Secret

ISSUER = "https://id.example.org"
TOKEN = f"{ISSUER}/token"
SERVER = AuthorizationServer(ISSUER, token_endpoint=TOKEN)
SECRET = Secret("s3cr:t &é")
NOW = 1_700_000_000.0
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def said(client: Client, server: AuthorizationServer = SERVER, **given: Any) -> tuple[dict[str, str], dict[str, str]]:
    headers, form = authenticate(client, server, [("a", "b")], **{"now": NOW, "jti": "j1", **given})
    assert form[0] == ("a", "b")
    return headers, dict(form)


def pem(key: Any, encryption: Any = None) -> Secret:
    made = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return Secret(made.decode())


RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def by_key(key: SigningKey, client: Client | None = None, **server: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of the assertion, whose signature is good."""
    there = AuthorizationServer(ISSUER, token_endpoint=TOKEN, **server)
    headers, form = said(client or Client("robot", private_key="robot.pem"), there, key=key)
    assert headers == {}
    assert (form["client_id"], form["client_assertion_type"]) == ("robot", ASSERTION)
    header = json.loads(base64.urlsafe_b64decode(form["client_assertion"].split(".")[0] + "=="))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EdDSA has a newer name
        made = jwt.decode(form["client_assertion"], key.key, algorithms=[header["alg"]])
    return made.header, made.claims


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "secret", "supported", "sent"),
    [
        (None, None, (), "nothing"),
        ("none", None, (), "nothing"),
        ("none", SECRET, (), "nothing"),
        (None, SECRET, (), "basic"),
        (None, SECRET, ("client_secret_post", "client_secret_basic"), "basic"),
        (None, SECRET, ("private_key_jwt",), "basic"),
        (None, SECRET, ("client_secret_post",), "post"),
        ("client_secret_basic", SECRET, ("client_secret_post",), "basic"),
        ("client_secret_post", SECRET, (), "post"),
    ],
)
def test_a_client_says_who_it_is_as_configured_else_as_the_server_takes_it(
    method: str | None, secret: Secret | None, supported: tuple[str, ...], sent: str
) -> None:
    server = AuthorizationServer(ISSUER, token_endpoint_auth_methods_supported=supported)
    headers, form = said(Client("my client", secret, method), server)
    assert (list(headers) == ["Authorization"], form.get("client_secret"), form.get("client_id")) == {
        "nothing": (False, None, "my client"),
        "basic": (True, None, None),
        "post": (False, SECRET, "my client"),
    }[sent]


def test_basic_encodes_both_parts_before_it_joins_them() -> None:
    headers, _ = said(Client("my:client", SECRET))
    scheme, _, pair = headers["Authorization"].partition(" ")
    name, _, secret = base64.b64decode(pair).decode().partition(":")
    assert (scheme, unquote_plus(name), unquote_plus(secret)) == ("Basic", "my:client", SECRET)


@pytest.mark.hazard(39)
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "client_secret_jwt"])
def test_what_is_sent_does_not_show(method: str) -> None:
    headers, form = said(Client("c", SECRET, method))
    sent = {*headers.values(), form.get("client_secret"), form.get("client_assertion")} - {None}
    assert len(sent) == 1
    assert not any(str(each) in f"{headers!r} {form!r}" for each in sent)


def test_a_form_that_is_authenticated_is_not_changed_in_place() -> None:
    form = [("a", "b")]
    authenticate(Client("c", SECRET, "client_secret_post"), SERVER, form, now=NOW, jti="j")
    assert form == [("a", "b")]


@pytest.mark.parametrize(
    ("method", "lacking"),
    [
        ("client_secret_basic", "client_secret"),
        ("client_secret_post", "client_secret"),
        ("client_secret_jwt", "client_secret"),
        ("private_key_jwt", "private key"),
        ("tls_client_auth", "certificate"),
        ("self_signed_tls_client_auth", "certificate"),
    ],
)
def test_a_method_without_its_means_is_not_tried(method: str, lacking: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no {lacking}"):
        said(Client("c", None, method))


def test_an_unknown_method_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="'magic'"):
        said(Client("c", SECRET, "magic"))


# ── which method ─────────────────────────────────────────────────────────────────────────────────────────

ALL = ("client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth")


@pytest.mark.parametrize(
    ("means", "supported", "method"),
    [
        ({"private_key": "k.pem"}, (), "private_key_jwt"),
        ({"private_key": "k.pem", "client_secret": SECRET}, ALL, "private_key_jwt"),
        ({"private_key": "k.pem", "client_secret": SECRET}, ("client_secret_post",), "client_secret_post"),
        ({"certificate": ("c.pem",)}, ALL, "tls_client_auth"),
        ({"certificate": ("c.pem",)}, ("self_signed_tls_client_auth",), "self_signed_tls_client_auth"),
        ({"client_secret": SECRET}, ("client_secret_jwt",), "client_secret_jwt"),
        ({}, ALL, "none"),
    ],
)
def test_the_method_is_the_first_for_which_there_are_means_and_which_the_server_takes(
    means: dict[str, Any], supported: tuple[str, ...], method: str
) -> None:
    server = AuthorizationServer(ISSUER, token_endpoint_auth_methods_supported=supported)
    assert authentication_method(Client("c", **means), server) == method


def test_by_a_certificate_the_form_only_names_the_client() -> None:
    client = Client("c", certificate=("c.pem", "c.key"), token_endpoint_auth_method="tls_client_auth")
    assert said(client) == ({}, {"a": "b", "client_id": "c"})
    assert by_certificate(client, SERVER)
    assert not by_certificate(Client("c", SECRET), SERVER)


# ── assertions ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_assertion_says_what_rfc_7523_wants_and_is_for_the_issuer_alone() -> None:
    _, claims = by_key(read_key(pem(P256), "k"))
    assert (claims["iss"], claims["sub"], claims["aud"], claims["jti"]) == ("robot", "robot", ISSUER, "j1")


def test_an_assertion_is_short_lived_and_not_of_the_future_by_a_clock_that_is_a_little_fast() -> None:
    _, claims = by_key(read_key(pem(P256), "k"))
    assert claims["iat"] < NOW - 3
    assert NOW + 30 < claims["exp"] <= claims["iat"] + 60


@pytest.mark.parametrize(("given", "audience"), [("token_endpoint", TOKEN), ("https://else", "https://else")])
def test_the_audience_can_be_another_for_servers_that_want_it(given: str, audience: str) -> None:
    client = Client("robot", private_key="k", assertion_audience=given)
    assert by_key(read_key(pem(P256), "k"), client)[1]["aud"] == audience


@pytest.mark.parametrize(
    ("key", "named", "algorithm"),
    [
        (RSA, (), "RS256"),
        (RSA, ("ES256", "PS256"), "PS256"),
        (RSA, ("ES256",), "RS256"),
        (P256, ("RS256", "ES256"), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), (), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), (), "ES512"),
        (ED25519, (), "EdDSA"),
        (ED25519, ("Ed25519",), "Ed25519"),
    ],
)
def test_the_algorithm_is_one_of_the_key_that_the_server_names(
    key: Any, named: tuple[str, ...], algorithm: str
) -> None:
    header, _ = by_key(read_key(pem(key), "k"), token_endpoint_auth_signing_alg_values_supported=named)
    assert header["alg"] == algorithm


def test_an_algorithm_that_was_registered_is_used() -> None:
    client = Client("robot", private_key="k", token_endpoint_auth_signing_alg="PS384")
    assert by_key(read_key(pem(RSA), "k"), client)[0]["alg"] == "PS384"


def test_an_algorithm_that_the_key_cannot_do_is_a_mistake_in_the_settings() -> None:
    client = Client("robot", private_key="k", token_endpoint_auth_signing_alg="ES256")
    with pytest.raises(ConfigurationError, match="ES256"):
        said(client, key=read_key(pem(RSA), "k"))


def test_a_client_secret_signs_with_its_octets() -> None:
    secret = Secret("a secret of more than thirty-two octets é")
    _, form = said(Client("robot", secret, "client_secret_jwt"))
    made = jwt.decode(form["client_assertion"], OctKey.import_key(secret), algorithms=["HS256"])
    assert (made.claims["sub"], made.claims["aud"]) == ("robot", ISSUER)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_jwk_is_read_with_its_name_and_its_algorithm() -> None:
    jwk = ECKey.generate_key("P-256", {"kid": "2026-11", "alg": "ES256", "use": "sig"})
    header, _ = by_key(read_key(Secret(json.dumps(jwk.as_dict(private=True))), "k"))
    assert (header["kid"], header["alg"]) == ("2026-11", "ES256")


def test_of_a_jwk_set_the_first_private_key_is_taken() -> None:
    public, private = (ECKey.generate_key("P-256", {"kid": kid}) for kid in ("a", "b"))
    keys = [public.as_dict(private=False), private.as_dict(private=True)]
    assert read_key(Secret(json.dumps({"keys": keys})), "k").kid == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing like a key",
        "{",
        "{}",
        '{"keys": 3}',
        '{"keys": []}',
        '{"kty": "EC", "crv": "P-256", "d": "AAAA"}',
        '{"kty": "magic", "d": "AAAA"}',
        json.dumps(ECKey.generate_key("P-256").as_dict(private=False)),
        json.dumps({**ECKey.generate_key("P-256").as_dict(private=True), "d": 5}),
        pem(RSA, BestAvailableEncryption(b"passphrase")),
        pem(x25519.X25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(RSA)[:400] + "\n-----END PRIVATE KEY-----\n",
        ECKey.generate_key("P-256").as_pem(private=False).decode(),
    ],
)
@pytest.mark.hazard(39)
def test_what_is_no_usable_private_key_is_refused_and_not_shown(text: str) -> None:
    text = Secret(text)  # this frame is in the traceback, too
    with pytest.raises(ConfigurationError, match=r"lab\.pem holds no private key") as caught:
        read_key(text, "lab.pem")
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert caught.value.__context__ is None
    assert not text[60:100] or text[60:100] not in shown


def test_a_key_that_must_not_sign_is_a_mistake_in_the_settings() -> None:
    jwk = ECKey.generate_key("P-256", {"use": "enc"})
    with pytest.raises(ConfigurationError, match="cannot sign"):
        said(Client("robot", private_key="k"), key=read_key(Secret(json.dumps(jwk.as_dict(private=True))), "k"))


@pytest.mark.hazard(39)
def test_a_key_does_not_show(tmp_path: Path) -> None:
    text = json.dumps(ECKey.generate_key("P-256").as_dict(private=True))
    key = read_key(Secret(text), "k")
    assert json.loads(text)["d"] not in f"{key!r} {Client('robot', private_key=Secret(text))!r}"
