"""`Value`: what `@dataclass(frozen=True)` makes of a class, for a twentieth of the price.

`import loginonce` must cost what `import requests` does.  Importing `dataclasses` is 4.5 % of that, and each class it
makes another 1 %, since it writes and compiles the methods of each one anew.  Here they are written once, for all.

To type checkers (PEP 681) and to whoever asks (`dataclasses.replace`, `fields`, `asdict`, `pprint`) a value is a frozen
dataclass; what they ask for is made when they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, dataclass_transform

__all__ = ["Value", "field", "replace"]

_MISSING: Any = object()


class _Field:
    def __init__(self, default: Any, default_factory: Callable[[], Any] | None, *, hashed: bool, shown: bool) -> None:
        self.default = default
        self.default_factory = default_factory
        self.hashed = hashed
        self.shown = shown
        self.required = default is _MISSING and default_factory is None


def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    hash: bool = True,  # noqa: A002 - their names there
    repr: bool = True,  # noqa: A002
) -> Any:
    """A field that is more than a name, as `dataclasses.field`; `hash`, `repr`: whether it counts, and shows, there."""
    return _Field(default, default_factory, hashed=hash, shown=repr)


class _Shape:
    """What a class of values looks like, from its annotations; learnt when its first value is made."""

    def __init__(self, kind: type[Value]) -> None:
        self.fields: dict[str, _Field] = {}
        for name in kind.__match_args__:
            given = vars(kind).get(name, _MISSING)
            self.fields[name] = given if isinstance(given, _Field) else _Field(given, None, hashed=True, shown=True)
        self.blank = {name: each.default for name, each in self.fields.items()}
        self.made = [(name, each.default_factory) for name, each in self.fields.items() if each.default_factory]
        self.required = [name for name, each in self.fields.items() if each.required]
        self.hashed = [name for name, each in self.fields.items() if each.hashed]


class _Learnt:
    """An attribute of a class of values that is made when it is first asked for, and then stays."""

    def __init__(self, make: Callable[[type[Value]], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, _value: object, kind: type[Value]) -> Any:
        made = self._make(kind)
        if kind is not Value:  # whose own would be that of all others
            setattr(kind, self._name, made)
        return made


def _dataclass(kind: type[Value]) -> Any:
    # Imported here: see above.
    import dataclasses

    described: list[Any] = []
    for name, each in kind._shape.fields.items():  # noqa: SLF001 - one room
        given: dict[str, Any] = {"hash": each.hashed, "repr": each.shown}
        if each.default_factory is not None:
            given["default_factory"] = each.default_factory
        elif not each.required:
            given["default"] = each.default
        described.append((name, kind.__annotations__[name], dataclasses.field(**given)))
    return dataclasses.make_dataclass(kind.__name__, described, frozen=True)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Value:
    """Base of all values: its annotated names are the fields, in that order, and cannot be set again.

    A class of values is no base of another.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[Any] = _Learnt(lambda kind: _dataclass(kind).__dataclass_fields__)
    __dataclass_params__: ClassVar[Any] = _Learnt(lambda kind: _dataclass(kind).__dataclass_params__)
    _shape: ClassVar[Any] = _Learnt(_Shape)

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = tuple(vars(cls).get("__annotations__", ()))  # type: ignore[misc]  # mypy has set it

    def __init__(self, *given: Any, **named: Any) -> None:
        names, shape, members = self.__match_args__, self._shape, self.__dict__
        members.update(shape.blank)
        members.update(zip(names, given, strict=False))
        members.update(named)
        twice = given and not named.keys().isdisjoint(names[: len(given)])
        if twice or len(given) > len(names) or len(members) > len(names):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(names)}, each once")
        for name, make in shape.made:
            if members[name] is _MISSING:
                members[name] = make()
        for name in shape.required:
            if members[name] is _MISSING:
                raise TypeError(f"{type(self).__name__} needs its field {name}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"{name} of a {type(self).__name__} cannot be set: replace the whole")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(map(self.__dict__.__getitem__, self._shape.hashed)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.__dict__[name]!r}" for name, each in self._shape.fields.items() if each.shown)
        return f"{type(self).__qualname__}({shown})"


if TYPE_CHECKING:
    from dataclasses import replace  # whose arguments a type checker judges
else:

    def replace(value: Value, /, **changes: Any) -> Value:
        """The value with these fields changed, as `dataclasses.replace`."""
        changed = object.__new__(type(value))
        changed.__dict__.update(value.__dict__)
        changed.__dict__.update(changes)
        if len(changed.__dict__) != len(value.__dict__):
            raise TypeError(f"{type(value).__name__} has no field {', '.join(changes.keys() - value.__dict__.keys())}")
        return changed
