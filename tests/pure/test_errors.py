"""The errors: their tree, what they carry, and how they read to a person."""

import inspect
import pickle

import pytest

from loginonce import errors
from loginonce.errors import (
    ConfigurationError,
    CorruptStore,
    ErrorResponse,
    InvalidGrant,
    LockTimeout,
    LoginFailed,
    LoginonceError,
    LoginRequired,
    ProtocolError,
    StepUpRequired,
    StoreError,
    TransportError,
)

FOR_PEOPLE = (LoginRequired, LoginFailed, StepUpRequired)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (ConfigurationError, LoginonceError),
        (ConfigurationError, ValueError),
        (TransportError, LoginonceError),
        (ProtocolError, LoginonceError),
        (ErrorResponse, LoginonceError),
        (InvalidGrant, ErrorResponse),
        (LoginRequired, LoginonceError),
        (LoginFailed, LoginonceError),
        (StepUpRequired, LoginonceError),
        (StoreError, LoginonceError),
        (LockTimeout, StoreError),
        (LockTimeout, TimeoutError),
        (CorruptStore, StoreError),
    ],
)
def test_the_tree_is_as_drawn(kind: type, base: type) -> None:
    assert issubclass(kind, base)


def test_every_error_of_the_module_is_public_and_in_the_drawing() -> None:
    defined = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, LoginonceError) and not name.startswith("_")
    }
    assert defined == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in defined)


def test_errors_that_a_caller_treats_differently_are_not_kinds_of_each_other() -> None:
    siblings = [ConfigurationError, TransportError, ProtocolError, ErrorResponse, *FOR_PEOPLE, StoreError]
    assert not [(a, b) for a in siblings for b in siblings if a is not b and issubclass(a, b)]


def test_a_transport_error_knows_when_to_try_again() -> None:
    assert (TransportError("x").retry_after, TransportError("x", retry_after=3.0).retry_after) == (None, 3.0)


def test_an_error_response_carries_the_members_of_the_answer() -> None:
    error = InvalidGrant("no", error="invalid_grant", error_description="it is over", error_uri="https://e", status=400)
    members = (error.error, error.error_description, error.error_uri, error.status)
    assert (str(error), members) == ("no", ("invalid_grant", "it is over", "https://e", 400))


@pytest.mark.parametrize("kind", FOR_PEOPLE)
def test_an_error_for_people_ends_with_what_to_do(kind: type[LoginRequired]) -> None:
    assert str(kind("nobody is signed in", hint="Run: loginonce login lab")) == (
        "nobody is signed in\nRun: loginonce login lab"
    )


@pytest.mark.parametrize("kind", FOR_PEOPLE)
def test_an_error_for_people_without_a_hint_is_one_line(kind: type[LoginRequired]) -> None:
    assert str(kind("nobody is signed in")) == "nobody is signed in"


@pytest.mark.parametrize("kind", FOR_PEOPLE)
def test_a_notebook_shows_two_lines_in_place_of_a_traceback(kind: type[LoginRequired]) -> None:
    lines = kind("nobody is signed in", hint="Call .login()")._render_traceback_()
    assert lines == [f"{kind.__name__}: nobody is signed in", "Call .login()"]


def test_what_a_caller_asks_of_an_error_for_people_is_there() -> None:
    assert LoginRequired("x", reason="lost").reason == "lost"
    assert LoginFailed("x", outcome="denied").outcome == "denied"
    step_up = StepUpRequired("x", acr_values="a b", max_age=5.0)
    assert (step_up.acr_values, step_up.max_age) == ("a b", 5.0)


@pytest.mark.parametrize(
    "error",
    [
        LoginRequired("m", reason="ended", hint="h"),
        LoginFailed("m", outcome="denied", hint="h"),
        StepUpRequired("m", acr_values="a", max_age=1.0, hint="h"),
        TransportError("m", retry_after=2.0),
        InvalidGrant("m", error="invalid_grant", status=400),
        LockTimeout("m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_comes_from_another_process_is_whole(error: LoginonceError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.args, vars(back)) == (type(error), error.args, vars(error))
