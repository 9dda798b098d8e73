"""`Value`: what `@dataclass(frozen=True)` makes of a class, for a twentieth of the price.

`import loginonce` must cost what `import requests` does.  Importing `dataclasses` is 4.5 % of that, and each class it
makes another 1 %, since it writes and compiles the methods of each one anew.  Here they are written once, for all.

To type checkers (PEP 681) and to whoever asks (`dataclasses.replace`, `fields`, `asdict`, `pprint`) a value is a frozen
dataclass; what they ask for is made when they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, dataclass_transform

__all__ = ["Value", "field", "replace"]

_MISSING: Any = object()


class _Field(NamedTuple):
    default: Any
    default_factory: Callable[[], Any] | None
    hash: bool
    repr: bool


def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    hash: bool = True,  # noqa: A002 - their names there
    repr: bool = True,  # noqa: A002
) -> Any:
    """A field that is more than a name, as `dataclasses.field`; `hash`, `repr`: whether it counts, and shows, there."""
    return _Field(default, default_factory, hash, repr)


class _AsDataclass:
    """An attribute of dataclasses, made when somebody asks for it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, _value: object, owner: type[Value]) -> Any:
        # Imported here: see above.
        import dataclasses

        described: list[Any] = []
        for name, each in owner._fields.items():
            given: dict[str, Any] = {"hash": each.hash, "repr": each.repr}
            if each.default_factory is not None:
                given["default_factory"] = each.default_factory
            elif each.default is not _MISSING:
                given["default"] = each.default
            described.append((name, owner.__annotations__[name], dataclasses.field(**given)))
        made = dataclasses.make_dataclass(owner.__name__, described, frozen=True)
        found = getattr(made, self._name)
        setattr(owner, self._name, found)
        return found


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Value:
    """Base of all values: its annotated names are the fields, in that order, and cannot be set again."""

    __dataclass_fields__: ClassVar[Any] = _AsDataclass()
    __dataclass_params__: ClassVar[Any] = _AsDataclass()
    __match_args__: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[Mapping[str, _Field]] = {}
    _required: ClassVar[tuple[str, ...]] = ()
    _blank: ClassVar[Mapping[str, Any]] = {}
    _made: ClassVar[tuple[tuple[str, Callable[[], Any]], ...]] = ()
    _hashed: ClassVar[tuple[str, ...] | None] = None

    def __init_subclass__(cls) -> None:
        names = tuple(vars(cls).get("__annotations__", ()))
        described = {name: vars(cls).get(name, _MISSING) for name in names}
        cls._fields = {
            name: each if isinstance(each, _Field) else _Field(each, None, hash=True, repr=True)
            for name, each in described.items()
        }
        cls.__match_args__ = names  # type: ignore[misc]  # which mypy takes for its own
        cls._blank = {name: each.default for name, each in cls._fields.items()}
        cls._made = tuple((name, each.default_factory) for name, each in cls._fields.items() if each.default_factory)
        cls._required = tuple(
            name for name, each in cls._fields.items() if each.default is _MISSING and each.default_factory is None
        )
        if not all(each.hash for each in cls._fields.values()):
            cls._hashed = tuple(name for name, each in cls._fields.items() if each.hash)
        for name, each in described.items():
            if isinstance(each, _Field):
                delattr(cls, name)

    def __init__(self, *given: Any, **named: Any) -> None:
        cls, names, members = type(self), self.__match_args__, self.__dict__
        members.update(cls._blank)
        members.update(zip(names, given, strict=False))
        members.update(named)
        twice = len(given) and not named.keys().isdisjoint(names[: len(given)])
        if twice or len(given) > len(names) or len(members) > len(names):
            raise TypeError(f"{cls.__name__} has the fields {', '.join(names)}, each once")
        for name, make in cls._made:
            if members[name] is _MISSING:
                members[name] = make()
        for name in cls._required:
            if members[name] is _MISSING:
                raise TypeError(f"{cls.__name__} needs its field {name}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"{name} of a {type(self).__name__} cannot be set: replace the whole")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        members = self.__dict__
        if self._hashed is None:
            return hash(tuple(members.values()))
        return hash(tuple([members[name] for name in self._hashed]))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.__dict__[name]!r}" for name, each in self._fields.items() if each.repr)
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
