"""ID tokens: which ones stand up to their checks, with real signatures."""

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from loginonce.claims import DEEPEST, shallow, unverified_claims
from loginonce.errors import ProtocolError
from loginonce.idtoken import LEEWAY, UnknownKey, contradiction, validate
from loginonce.model import GrantKey, Secret

NOW = 1_700_000_000
ISSUER = "https://id.example.org"
CLIENT = "notebook"
ACCESS = "the-access-token"
KEY = GrantKey(ISSUER, CLIENT)

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
OKP = OKPKey.generate_key("Ed25519", {"kid": "okp"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}


def jwks(*keys: Any, **changed: Any) -> dict[str, Any]:
    return {"keys": [{**key.as_dict(private=False), **changed} for key in keys]}


def at_hash(alg: str, access_token: str = ACCESS) -> str:
    digest = hashlib.new(HASHES.get(alg[2:], "sha512"), access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def claims(**changed: Any) -> dict[str, Any]:
    """Sound claims; None takes one out."""
    sound = {
        "iss": ISSUER, "sub": "ada", "aud": CLIENT, "exp": NOW + 300, "iat": NOW, "nonce": "n",
        "at_hash": at_hash("RS256"),
    }  # fmt: skip
    return {name: value for name, value in {**sound, **changed}.items() if value is not None}


def signed(said: dict[str, Any], key: Any = RSA, alg: str = "RS256", **header: Any) -> Secret:
    full = {"alg": alg, **({"kid": key.kid} if "kid" not in header else {}), **header}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
        return Secret(jwt.encode({k: v for k, v in full.items() if v is not None}, said, key, registry=registry))


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def check(id_token: str, keys: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    sent: dict[str, Any] = {
        "issuer": ISSUER, "client_id": CLIENT, "access_token": ACCESS, "now": NOW + 0.5, "nonce": "n", **changed,
    }  # fmt: skip
    return validate(Secret(id_token), jwks(RSA) if keys is None else keys, **sent)


# ── what stands ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_token_gives_its_claims() -> None:
    assert check(signed(claims(name="Ada"))) == claims(name="Ada")


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_an_rsa_signature_stands(alg: str) -> None:
    assert check(signed(claims(at_hash=at_hash(alg)), alg=alg))["sub"] == "ada"


@pytest.mark.parametrize(("alg", "curve"), [("ES256", "P-256"), ("ES384", "P-384"), ("ES512", "P-521")])
def test_an_elliptic_signature_stands(alg: str, curve: str) -> None:
    key = ECKey.generate_key(curve, {"kid": "k"})
    assert check(signed(claims(at_hash=at_hash(alg)), key, alg), jwks(key))["sub"] == "ada"


@pytest.mark.parametrize(
    "alg",
    [
        "EdDSA",
        "Ed25519",
    ],
)
def test_an_edwards_signature_stands(alg: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check(signed(claims(at_hash=at_hash(alg)), OKP, alg), jwks(OKP))["sub"] == "ada"


def test_no_algorithm_that_is_accepted_gives_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(signed(claims(at_hash=at_hash("EdDSA")), OKP, "EdDSA"), jwks(OKP))


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": "other", "at_hash": None},
        {"aud": [CLIENT]},
        {"aud": [CLIENT, "another"], "azp": CLIENT},
        {"azp": CLIENT},
        {"exp": NOW - LEEWAY + 1, "iat": NOW - 600},  # clocks differ a little
        {"iat": NOW + LEEWAY - 1},
        {"exp": NOW + 0.5 + 300.25},
    ],
    ids=str,
)
def test_a_variation_that_is_allowed_stands(changed: dict[str, Any]) -> None:
    assert check(signed(claims(**changed)), nonce=changed.get("nonce", "n"))["sub"] == "ada"


def test_a_nonce_is_not_asked_for_where_none_was_sent() -> None:
    assert check(signed(claims(nonce=None)), nonce=None)["sub"] == "ada"


def test_a_single_key_needs_no_name() -> None:
    assert check(signed(claims(), kid=None))["sub"] == "ada"


def test_a_header_with_members_of_its_own_stands() -> None:
    assert check(signed(claims(), x5t="abc", own="member"))["sub"] == "ada"


def test_the_right_one_of_several_keys_is_found() -> None:
    assert check(signed(claims()), jwks(EC, OKP, RSA))["sub"] == "ada"


def test_a_key_with_odd_operations_is_used() -> None:
    assert check(signed(claims()), jwks(RSA, key_ops=["sign"], use="sig"))["sub"] == "ada"


@pytest.mark.parametrize(
    "entry",
    [
        "text", None, 5, {}, {"kty": "oct", "k": "AAAA", "kid": "rsa"}, {"kty": "AKP", "kid": "rsa"},
        {"kty": "RSA", "kid": "rsa"}, {"kty": "RSA", "n": "!", "e": "!"},
        {"kty": "EC", "crv": "P-999", "x": "a", "y": "b"},
    ],
    ids=str,
)  # fmt: skip
def test_a_key_that_cannot_be_read_is_left_out(entry: object) -> None:
    assert check(signed(claims()), {"keys": [entry, *jwks(RSA)["keys"]]})["sub"] == "ada"


# ── what falls ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"iss": ISSUER + "/"},
        {"iss": None},
        {"sub": None},
        {"sub": 5},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": []},
        {"aud": None},
        {"aud": ["another", "third"], "azp": CLIENT},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"aud": [CLIENT, 5], "azp": CLIENT},
        {"azp": "another"},
        {"nonce": "other"},
        {"nonce": None},
        {"nonce": ["n"]},
        {"at_hash": at_hash("RS256", "another access token")},
        {"at_hash": "x"},
        {"at_hash": 5},
        {"exp": NOW - LEEWAY - 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": float("nan")},
        {"exp": True},
        {"iat": NOW + LEEWAY + 10},
        {"iat": None},
        {"nbf": NOW + LEEWAY + 10},
    ],
    ids=str,
)
def test_a_token_with_wrong_claims_falls(changed: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        check(signed(claims(**changed)))


def test_an_expired_token_asks_after_the_clock() -> None:
    with pytest.raises(ProtocolError, match="clock"):
        check(signed(claims(exp=NOW - 1000, iat=NOW - 2000)))


def unsigned(alg: str) -> str:
    return f"{part({'alg': alg, 'kid': 'rsa'})}.{part(claims())}."


def by_mac(key: bytes) -> str:
    """HS256 with what everybody knows as the key."""
    text = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims())}"
    return f"{text}.{part(hmac.digest(key, text.encode(), 'sha256'))}"


def by_hand(header: dict[str, Any]) -> str:
    """A true signature under a header that no library would make."""
    text = f"{part(header)}.{part(claims())}"
    return f"{text}.{part(RSA.private_key.sign(text.encode(), PKCS1v15(), SHA256()))}"


def test_the_signature_made_by_hand_is_a_true_one() -> None:
    assert check(by_hand({"alg": "RS256", "kid": "rsa"})) == claims()


FORGED: dict[str, Callable[[], str]] = {
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("None"),
    "alg empty": lambda: unsigned(""),
    "alg RS256 without a signature": lambda: unsigned("RS256"),
    "no alg": lambda: f"{part({'kid': 'rsa'})}.{part(claims())}.AAAA",
    "alg that is no text": lambda: f"{part({'alg': ['RS256'], 'kid': 'rsa'})}.{part(claims())}.AAAA",
    "HS256 with the public key (PEM)": lambda: by_mac(RSA.as_pem(private=False)),
    "HS256 with the public key (DER)": lambda: by_mac(RSA.as_der(private=False)),
    "HS256 with the modulus": lambda: by_mac(RSA.as_dict(private=False)["n"].encode()),
    "HS256 with an empty key": lambda: by_mac(b""),
    "another's key of the same name": lambda: signed(claims(), STRANGER),
    "an algorithm of another family": lambda: f"{part({'alg': 'ES256', 'kid': 'rsa'})}.{part(claims())}.{'A' * 86}",
    "a tampered payload": lambda: ".".join(
        [signed(claims()).split(".")[0], part(claims(sub="eve")), signed(claims()).split(".")[2]]
    ),
    "a signature of another": lambda: ".".join(
        [*signed(claims()).split(".")[:2], signed(claims(sub="eve")).split(".")[2]]
    ),
    "an unknown critical header": lambda: by_hand({"alg": "RS256", "kid": "rsa", "crit": ["exp2"], "exp2": 1}),
    "claims that are a list": lambda: f"{part({'alg': 'RS256', 'kid': 'rsa'})}.{part([1])}.AAAA",
    "four parts": lambda: signed(claims()) + ".AAAA",
    "five parts": lambda: signed(claims()) + ".AAAA.AAAA",
    "two parts": lambda: ".".join(signed(claims()).split(".")[:2]),
    "nothing": lambda: "",
    "no token": lambda: "hello",
    "beyond ASCII": lambda: "ä.ö.ü",
    "a lone surrogate": lambda: "\ud800.\ud800.\ud800",
    "a header too deep": lambda: f"{part(b'[' * 5000)}.{part(claims())}.AAAA",
    "endless": lambda: "A" * 1_000_000,
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_or_garbled_token_falls(forgery: str) -> None:
    id_token = FORGED[forgery]()
    with pytest.raises(ProtocolError) as caught:
        check(id_token)
    assert len(id_token) < 20 or id_token not in str(caught.value)


def test_a_token_in_an_algorithm_that_the_server_does_not_announce_falls() -> None:
    assert check(signed(claims()), algorithms=["RS256", "ES256"])["sub"] == "ada"
    with pytest.raises(ProtocolError):
        check(signed(claims(at_hash=at_hash("PS256")), alg="PS256"), algorithms=["RS256", "ES256"])


def test_an_announcement_of_macs_does_not_admit_them() -> None:
    for forgery in (by_mac(RSA.as_pem(private=False)), by_mac(b"client-secret")):
        with pytest.raises(ProtocolError):
            check(forgery, algorithms=["HS256", "none"])


def test_a_symmetric_key_that_is_published_verifies_nothing() -> None:
    key = OctKey.import_key(b"0123456789abcdef0123456789abcdef", {"kid": "oct"})
    id_token = signed(claims(), key, "HS256")
    for keys in ({"keys": [key.as_dict()]}, {"keys": [key.as_dict(), *jwks(RSA)["keys"]]}):
        with pytest.raises(ProtocolError):
            check(id_token, keys)


def test_where_the_server_announces_nothing_that_we_accept_nothing_is_accepted() -> None:
    with pytest.raises(ProtocolError):
        check(signed(claims()), algorithms=["HS256"])


# ── keys that are not there ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(jwks(STRANGER, kid="newer"), id="another"),
        pytest.param(jwks(EC, OKP), id="others"),
        pytest.param(jwks(RSA, use="enc"), id="for encryption"),
        pytest.param({"keys": []}, id="none"),
        pytest.param({}, id="no list"),
        pytest.param({"keys": {"kid": "rsa"}}, id="no list either"),
        pytest.param({"keys": [OctKey.generate_key(256, {"kid": "rsa"}).as_dict()]}, id="a symmetric one"),
    ],
)
def test_a_key_that_is_not_published_may_have_been_rotated(keys: dict[str, Any]) -> None:
    with pytest.raises(UnknownKey):
        check(signed(claims()), keys)


def test_a_token_signed_by_the_new_key_stands_once_the_keys_are_fetched_again() -> None:
    rotated = RSAKey.generate_key(2048, {"kid": "newer"})
    with pytest.raises(UnknownKey):
        check(signed(claims(), rotated), jwks(RSA))
    assert check(signed(claims(), rotated), jwks(RSA, rotated))["sub"] == "ada"


def test_a_nameless_key_among_several_is_unknown() -> None:
    with pytest.raises(UnknownKey):
        check(signed(claims(), kid=None), jwks(RSA, EC))


def test_an_unknown_key_is_a_protocol_error() -> None:
    assert issubclass(UnknownKey, ProtocolError)


def test_published_keys_are_not_changed_by_reading_them() -> None:
    keys = {"keys": [{k: v for k, v in RSA.as_dict(private=False).items() if k != "kid"}]}
    before = json.dumps(keys)
    check(signed(claims(), kid=None), keys)
    assert json.dumps(keys) == before


def test_a_private_key_that_was_published_by_mistake_still_verifies() -> None:
    assert check(signed(claims()), {"keys": [RSA.as_dict(private=True)]})["sub"] == "ada"


SOUND = signed(claims())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SOUND) - 1), st.sampled_from("Aa0-_.=\x00é"))
def test_one_character_more_or_less_makes_no_other_claims(at: int, char: str) -> None:
    for id_token in (SOUND[:at] + char + SOUND[at + 1 :], SOUND[:at], SOUND[:at] + char + SOUND[at:]):
        try:
            assert check(id_token) == claims()
        except ProtocolError as error:
            assert SOUND[50:90] not in str(error)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "at_hash", "auth_time", "amr", "acr"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=3,
        ),
        min_size=1,
    )
)
def test_no_signed_claim_of_the_wrong_type_escapes_the_checks(odd: dict[str, Any]) -> None:
    said = {**claims(), **odd}
    try:
        checked = check(signed(said))
    except ProtocolError:
        return
    assert (checked["iss"], checked["nonce"]) == (ISSUER, "n")
    assert checked["aud"] == CLIENT or CLIENT in checked["aud"]


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(st.none() | st.text(max_size=5) | st.integers(), lambda i: st.lists(i) | st.dictionaries(st.text(), i))
)
def test_no_key_set_makes_the_check_fail_otherwise(keys: Any) -> None:
    with pytest.raises(ProtocolError):
        check(SOUND, {"keys": keys})


def nested(levels: int) -> Any:
    return {"deep": nested(levels - 1)} if levels else 1


@pytest.mark.hazard(35)
def test_claims_that_are_too_deep_to_be_kept_fall() -> None:
    assert check(signed(claims(address=nested(DEEPEST - 2))))["sub"] == "ada"
    with pytest.raises(ProtocolError, match="malformed"):
        check(signed(claims(address=nested(DEEPEST - 1))))


@pytest.mark.hazard(39)
@pytest.mark.parametrize("header", [{"alg": "\x1b[2J"}, {"alg": "RS256", "kid": "rsa", "crit": ["\x1b[2J"]}])
def test_what_is_wrong_with_a_header_is_told_without_what_could_draw_on_a_terminal(header: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        check(f"{part(header)}.{part(claims())}.AAAA")
    assert str(caught.value).isprintable()


# ── without a signature ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "id_token",
    [None, "", "a", "a.b", "a.!!!.c", "a.ä.c", f"a.{part([1])}.c", f"a.{part(b'[' * 90_000)}.c", f"a.{part(b'x')}.c",
     f"a.{part(bytes([255]))}.c"],
    ids=lambda text: str(text)[:20],
)  # fmt: skip
def test_what_cannot_be_read_has_no_claims(id_token: str | None) -> None:
    assert unverified_claims(id_token) == {}


@pytest.mark.parametrize(
    ("value", "is_shallow"),
    [
        (1, True),
        (nested(DEEPEST - 1), True),
        (nested(DEEPEST), False),
        ([[[]]] * 3, True),
        ({"a": [nested(40)]}, False),
    ],
)
def test_a_value_is_shallow_up_to_a_bound(value: object, is_shallow: bool) -> None:
    assert shallow(value) is is_shallow


@pytest.mark.hazard(35)
def test_claims_that_are_too_deep_to_be_kept_are_not_read() -> None:
    assert unverified_claims(f"x.{part(nested(DEEPEST))}.x") == {}
    assert unverified_claims(f"x.{part(nested(DEEPEST - 1))}.x") != {}


def test_claims_are_read_without_a_signature() -> None:
    assert unverified_claims(f"x.{part(claims())}.x") == claims()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="eyJ.0aA_-=", max_size=60))
def test_any_text_has_claims_or_none(id_token: str) -> None:
    assert isinstance(unverified_claims(id_token), dict)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"iss": ISSUER + "/"}, ""),
        ({"aud": [CLIENT, "another"]}, ""),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"iss": 5}, "another issuer"),
        ({"aud": "another"}, "another client"),
        ({"aud": ["another"]}, "another client"),
        ({"aud": None}, "another client"),
        ({"aud": {CLIENT: 1}}, "another client"),
        ({"sub": "eve"}, "another person"),
        ({"sub": None}, "another person"),
    ],
    ids=str,
)
@pytest.mark.hazard(36)
def test_a_refreshed_token_is_of_the_same_issuer_client_and_person(changed: dict[str, Any], says: str) -> None:
    found = contradiction(claims(**changed), KEY, "ada")
    assert says in found
    assert bool(found) is bool(says)


def test_nobody_is_another_person_where_nobody_was_known() -> None:
    assert contradiction(claims(sub="eve"), KEY, "") == ""


def test_a_key_set_of_the_tests_is_a_real_one() -> None:
    assert KeySet.import_key_set(jwks(RSA, EC, OKP)).keys  # type: ignore[arg-type]
