"""`Value` against what it stands in for: a frozen dataclass of the same fields."""

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from loginonce.value import Value, field, replace


class Point(Value):
    """As a value."""

    x: int
    y: int = 2
    label: str = field(default="p", repr=False)
    more: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Model:
    """As a dataclass."""

    x: int
    y: int = 2
    label: str = dataclasses.field(default="p", repr=False)
    more: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)


class Other(Value):
    """Of the same fields, and of another kind."""

    x: int
    y: int = 2


class Nothing(Value):
    """Without fields."""


MADE: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 3), {}),
    ((1, 3, "q", {"a": 1}), {}),
    ((), {"x": 1, "label": "q"}),
    ((1,), {"more": {"a": 1}}),
]


@pytest.mark.parametrize(("given", "named"), MADE)
def test_it_takes_and_shows_its_fields_as_a_dataclass_does(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    value, model = Point(*given, **named), Model(*given, **named)
    assert dataclasses.asdict(value) == dataclasses.asdict(model)
    assert repr(value) == repr(model).replace("Model", "Point")
    assert hash(value) == hash(model)


@pytest.mark.parametrize(
    ("given", "named"), [((), {}), ((), {"y": 1}), ((1, 2, "", {}, 5), {}), ((1,), {"x": 1}), ((1,), {"z": 1})]
)
def test_what_a_dataclass_refuses_it_refuses(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Model(*given, **named)
    with pytest.raises(TypeError):
        Point(*given, **named)


def test_values_are_equal_by_their_fields_and_their_kind() -> None:
    assert Point(1) == Point(1, 2)
    assert Point(1) != Point(2)
    assert Point(1, more={"a": 1}) != Point(1)
    assert Other(1) != Point(1)
    assert Nothing() == Nothing()
    assert Point(1) != (1, 2, "p", {})


def test_what_does_not_count_for_the_hash_need_not_have_one() -> None:
    assert hash(Point(1, more={"a": 1})) == hash(Point(1))


def test_each_is_given_a_new_one_of_what_is_made_for_it() -> None:
    assert Point(1).more is not Point(1).more


def test_what_is_replaced_is_a_new_value() -> None:
    before = Point(1)
    for after in (replace(before, y=5), dataclasses.replace(before, y=5)):
        assert (before, after) == (Point(1), Point(1, 5))


def test_only_a_field_can_be_replaced() -> None:
    with pytest.raises(TypeError, match="no field z"):
        replace(Point(1), z=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["x", "more", "new"])
def test_nothing_about_it_can_be_set_or_removed(name: str) -> None:
    value = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(value, name)
    assert value == Point(1)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_of_it_is_equal(again: Any) -> None:
    value = Point(1, more={"a": 1})
    assert again(value) == value


def test_a_look_at_the_base_changes_no_value() -> None:
    class New(Value):
        x: int

    assert dataclasses.fields(Value) == ()
    assert vars(Value)["_shape"] is not Value._shape
    assert New(1).x == 1


def test_it_is_matched_by_position() -> None:
    match Point(1, 3):
        case Point(x, y):
            assert (x, y) == (1, 3)
        case _:
            pytest.fail("it was not matched")


def test_its_fields_are_those_of_a_dataclass() -> None:
    described = [
        [(each.name, each.default, each.default_factory, each.hash, each.repr) for each in dataclasses.fields(kind)]
        for kind in (Point, Model)
    ]
    # A dataclass leaves it open (None) whether what is compared counts for the hash.
    assert described[0] == [(*rest, hashed is not False, shown) for *rest, hashed, shown in described[1]]
