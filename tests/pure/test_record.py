"""A record as bytes: what goes in comes out, and what was damaged is told from what is whole."""

import hashlib
import json
import pickle
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginonce.errors import CorruptStore, StoreError
from loginonce.model import Failure, Grant, GrantKey, Marker, Secret, TokenSet
from loginonce.record import SCHEMA, Unshown, decode, encode, put_together, take_apart

CANARY = "canary-51c0ffee"
FULL = Grant(
    GrantKey("https://id.example.org", "notebook", "ada"),
    epoch=1_700_000_000,
    generation=7,
    attempt=3,
    state="SPENDING",
    refresh_token=Secret(CANARY + "-refresh"),
    refresh_expires_at=1_700_009_999.5,
    tokens=(
        TokenSet(Secret(CANARY + "-access"), 1.0, 2.0, "Bearer", "a b", "https://api", "a", Secret(CANARY + "-id")),
        TokenSet(Secret(CANARY + "-other"), 1.0),
    ),
    marker=Marker("f" * 12, "n", "host/boot/1/2", 1.0, 21.0, 2),
    failure=Failure("f" * 12, "lost", "reset by peer", 22.0, 4),
    scope="a b",
    resources=("https://api", "https://other"),
    subject="ada",
    claims={"sub": "ada", "roles": ["admin", "ä"], "nested": {"n": None}},
    store="0123",
)

texts = st.text(max_size=20)
secrets = st.builds(Secret, texts)
times = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
tokens = st.builds(
    TokenSet, secrets, times, st.none() | times, texts, texts, texts, texts, st.none() | secrets
)  # fmt: skip
markers = st.builds(Marker, texts, texts, texts, times, times, counts)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | times | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    state = draw(st.sampled_from(["ACTIVE", "SPENDING", "DEAD", "LOGGED_OUT"]))
    return Grant(
        key=GrantKey(draw(texts), draw(texts), draw(texts)),
        epoch=draw(counts),
        generation=draw(counts),
        attempt=draw(counts),
        state=state,  # type: ignore[arg-type]
        renewal=draw(st.sampled_from(["refresh_token", "client_credentials", "none"])),  # type: ignore[arg-type]
        refresh_token=draw(st.none() | secrets),
        refresh_expires_at=draw(st.none() | times),
        tokens=tuple(draw(st.lists(tokens, max_size=2))),
        marker=draw(markers) if state == "SPENDING" else None,
        failure=draw(st.none() | st.builds(Failure, texts, texts, texts, times, counts)),
        scope=draw(texts),
        resources=tuple(draw(st.lists(texts, max_size=2))),
        subject=draw(texts),
        claims=draw(st.dictionaries(texts, values, max_size=3)),
        store=draw(texts),
        dpop_key=draw(st.none() | st.builds(Secret, st.text(min_size=1, max_size=20))),
    )


@settings(max_examples=60, deadline=None)
@given(grants())
def test_what_was_written_is_what_is_read(grant: Grant) -> None:
    assert decode(encode(grant)) == grant


def test_a_full_record_is_read_as_it_was_written() -> None:
    assert decode(encode(FULL)) == FULL


def test_secrets_are_secrets_again_after_reading() -> None:
    back = decode(encode(FULL))
    assert CANARY not in repr(back)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(back)


def test_a_record_is_a_header_and_a_line_of_json() -> None:
    header, body, end = encode(FULL).split(b"\n")
    assert header == b"loginonce %d %s" % (SCHEMA, hashlib.sha256(body).hexdigest().encode())
    assert (json.loads(body)["refresh_token"], end) == (CANARY + "-refresh", b"")


def test_the_same_record_is_the_same_bytes() -> None:
    assert encode(FULL) == encode(decode(encode(FULL)))


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────

DATA = encode(FULL)
CHECKSUM = DATA.split()[2]


def refused(data: bytes) -> bool:
    """Whether it is refused, as it should be: by a `StoreError` that shows nothing of the content."""
    try:
        back = decode(data)
    except StoreError as error:
        shown = f"{error} {error!r} {error.__cause__!r}"
        assert CANARY not in shown
        assert error.__suppress_context__ or error.__context__ is None
        return True
    assert back == FULL, "garbled bytes were read as another record"
    return False


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
@pytest.mark.hazard(19)
def test_a_flipped_bit_never_makes_another_record(at: int, flip: int) -> None:
    refused(DATA[:at] + bytes([DATA[at] ^ flip]) + DATA[at + 1 :])


@pytest.mark.parametrize("length", [*range(0, len(DATA) - 1, 7), len(DATA) - 2])
@pytest.mark.hazard(19)
def test_a_record_that_was_cut_short_is_refused(length: int) -> None:
    assert refused(DATA[:length])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DATA)), st.binary(min_size=1, max_size=5))
def test_a_record_with_something_put_in_never_makes_another_record(at: int, more: bytes) -> None:
    refused(DATA[:at] + more + DATA[at:])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"loginonce 1 ".__add__))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b"loginonce 1 ", b"loginonce  1 "),
        (b"loginonce 1 ", b"loginonce 1  "),
        (b"loginonce 1 ", b"loginonce\t1 "),
        (b"loginonce 1 ", b" loginonce 1 "),
        (b"loginonce 1 ", b"Loginonce 1 "),
        (b"loginonce 1 ", b"loginonce "),
        (b"loginonce 1 ", b"loginonce +1 "),
        (b"loginonce 1 ", b"loginonce 1_0 "),
        (b"loginonce 1 ", b"loginonce \xd9\xa1 "),
        (b"loginonce 1 ", b"loginonce 0000001 "),
        (CHECKSUM, CHECKSUM.upper()),
        (CHECKSUM, CHECKSUM + b" "),
        (CHECKSUM, CHECKSUM + b"0"),
        (CHECKSUM, CHECKSUM[:-1]),
        (CHECKSUM, b"g" * 64),
        (CHECKSUM, b""),
    ],
)
def test_a_header_is_as_it_is_written_to_the_letter(there: bytes, instead: bytes) -> None:
    data = DATA.replace(there, instead, 1)
    assert data != DATA
    with pytest.raises(CorruptStore, match="does not begin like a login record"):
        decode(data)


def test_a_record_without_its_last_byte_is_refused() -> None:
    assert refused(DATA[:-1])


@pytest.mark.parametrize("schema", [b"4", b"10", b"999999"])
@pytest.mark.hazard(19)
def test_a_record_of_a_newer_version_says_so_and_is_not_called_damaged(schema: bytes) -> None:
    with pytest.raises(StoreError, match="upgrade loginonce") as caught:
        decode(DATA.replace(b"loginonce 1", b"loginonce " + schema, 1))
    assert not isinstance(caught.value, CorruptStore)


@pytest.mark.parametrize("schema", [b"0", b"01"])
def test_a_schema_that_never_was_is_refused(schema: bytes) -> None:
    assert refused(DATA.replace(b"loginonce 1", b"loginonce " + schema, 1))


def test_an_endless_schema_number_is_refused() -> None:
    assert refused(DATA.replace(b"loginonce 1", b"loginonce " + b"9" * 5000, 1))


# ── whole, and yet not a record ──────────────────────────────────────────────────────────────────────────


def sealed(content: object) -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return b"loginonce 1 %s\n%s\n" % (hashlib.sha256(body).hexdigest().encode(), body)


def with_members(**changed: Any) -> bytes:
    return sealed({**json.loads(DATA.split(b"\n")[1]), **changed})


@pytest.mark.parametrize(
    "data",
    [
        sealed(b"not json " + CANARY.encode()),
        sealed(b"\xff\xfe" + CANARY.encode()),
        sealed(b"[" * 100_000),
        sealed([]),
        sealed(None),
        sealed(CANARY),
        sealed({}),
        with_members(state="CANARY"),
        with_members(state=["ACTIVE"]),
        with_members(state="ACTIVE"),  # with a marker
        with_members(marker=None),  # SPENDING without one
        with_members(marker=[CANARY]),
        with_members(failure=CANARY),
        with_members(epoch="1"),
        with_members(epoch=-1),
        with_members(epoch=True),
        with_members(generation=1.0),
        with_members(issuer=None),
        with_members(refresh_token=5),
        with_members(refresh_expires_at="soon"),
        with_members(tokens=None),
        with_members(tokens=[CANARY]),
        with_members(tokens=[{"access_token": CANARY}]),
        with_members(claims=CANARY),
        with_members(claims=None),
    ],
)
def test_a_sealed_record_that_makes_no_sense_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptStore) as caught:
        decode(data)
    assert CANARY not in str(caught.value)
    assert refused(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_members(renewal="bogus"), id="renewal that is none"),
        pytest.param(with_members(renewal=5), id="renewal that is no text"),
        pytest.param(with_members(marker={}), id="an empty marker"),
        pytest.param(with_members(failure=0), id="a failure that is a number"),
        pytest.param(with_members(claims=[["a", 1]]), id="claims that are a list"),
        pytest.param(with_members(resources="https://api"), id="resources that are a text"),
        pytest.param(with_members(resources=[5]), id="a resource that is a number"),
        pytest.param(with_members(refresh_expires_at="12"), id="a time that is a text"),
        pytest.param(with_members(refresh_expires_at=float("nan")), id="a time that is not a number"),
        pytest.param(with_members(refresh_expires_at=10**400), id="a time that no float holds"),
    ],
)
def test_a_sealed_record_with_a_member_of_the_wrong_type_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptStore):
        decode(data)


def test_members_that_a_newer_minor_version_adds_are_ignored() -> None:
    assert decode(with_members(later="yes")) == FULL


def test_a_record_of_before_there_were_resources_is_read() -> None:
    members = json.loads(DATA.split(b"\n")[1])
    del members["resources"]
    assert decode(sealed(members)) == replace(FULL, resources=())


def test_a_record_without_marker_and_failure_is_read() -> None:
    plain = replace(FULL, state="ACTIVE", marker=None, failure=None)
    assert decode(encode(plain)) == plain


@pytest.mark.parametrize(("made", "claimed"), [(b"loginonce 1 ", b"loginonce 2 "), (b"loginonce 2 ", b"loginonce 1 ")])
def test_a_schema_that_is_not_that_of_its_content_is_damage(made: bytes, claimed: bytes) -> None:
    data = encode(Grant(GrantKey("https://id.example.org", "notebook"), 1, sealed="x" if b"2" in made else ""))
    with pytest.raises(CorruptStore):
        decode(data.replace(made, claimed, 1))


BOUND = replace(FULL, dpop_key=Secret(CANARY + "-key"))


@pytest.mark.hazard(39)
def test_a_record_is_in_no_traceback() -> None:
    assert repr(Unshown(b"rt_canary")) == str(Unshown(b"rt_canary")) == f"{Unshown(b'rt_canary')}" == "<9 bytes>"
    assert all(type(each) is Unshown for each in (encode(FULL), take_apart(FULL)[1]))


@pytest.mark.hazard(39)
@pytest.mark.parametrize("damage", [lambda data: data.partition(b"\n")[2], lambda data: data.replace(b"\n", b"", 1)])
def test_a_record_that_lost_its_first_line_is_in_no_traceback(damage: Callable[[bytes], bytes]) -> None:
    damaged = Unshown(damage(encode(replace(FULL, claims={}, scope="canary " * 5))))
    assert damaged.count(b"canary") > 4
    with pytest.raises(CorruptStore) as caught:
        decode(damaged)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    assert [frame.name for frame in frames if "canary" in str(frame.locals)] == []


def test_secrets_of_a_form_that_is_not_known_are_in_no_traceback() -> None:
    with pytest.raises(StoreError, match="newer version") as caught:
        put_together(take_apart(FULL)[0], b'{"tokens": "rt_canary"}')
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert [frame.name for frame in told.stack][-1] == "put_together"
    assert not any("canary" in str(frame.locals) for frame in told.stack)


@pytest.mark.hazard(37)
def test_a_record_with_a_key_is_not_read_by_a_version_that_would_lose_it() -> None:
    assert encode(BOUND).startswith(b"loginonce 3 ")
    assert encode(FULL).startswith(b"loginonce 1 ")


@pytest.mark.hazard(37)
def test_a_key_is_kept_once_and_comes_with_each_token() -> None:
    back = decode(encode(BOUND))
    assert encode(BOUND).count(CANARY.encode() + b"-key") == 1
    token = back.token_for("https://api", "a")
    assert token is not None
    again = encode(replace(back, tokens=(token,)))
    assert (token.dpop_key, decode(again).tokens) == (BOUND.dpop_key, BOUND.tokens[:1])
    assert again.count(CANARY.encode() + b"-key") == 1


@pytest.mark.hazard(39)
def test_a_key_is_kept_apart_with_the_other_secrets() -> None:
    readable, secrets = take_apart(BOUND)
    assert (readable.dpop_key, CANARY in repr(readable)) == (None, False)
    assert put_together(replace(readable, sealed="x"), secrets) == BOUND
    assert encode(replace(readable, sealed="x")).startswith(b"loginonce 2 ")
