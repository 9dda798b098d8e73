"""How `loginonce providers NAME` looks: what is known of a provider, from where, and a profile to begin with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import fields

from ..providers import ANY, Dialect
from ..text import duration

__all__ = ["example", "facts"]

_SECONDS = ("grace_seconds", "reuse_interval", "refresh_idle", "refresh_life")


def example(dialect: Dialect) -> str:
    """A profile for that provider, as it stands in `config.toml`."""
    named = {} if dialect is ANY else {"provider": dialect.name}
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**named, **dialect.example}.items()]
    return "\n".join([f"[profiles.{dialect.name}]", *lines])


def facts(dialect: Dialect, *, width: int) -> list[str]:
    """The lines: each fact that is not as with any provider, with its source; then the remarks and the profile."""
    lines = [dialect.title]
    for item in fields(Dialect):
        value, source = getattr(dialect, item.name), dialect.source(item.name)
        if item.name in ("name", "title", "example", "remarks", "sources") or not (
            source or value != getattr(ANY, item.name)
        ):
            continue
        lines += _wrapped(f"{item.name:<24}{_said(item.name, value)}", width, "  ", 26)
        lines += [f"{'':26}({source})"] if source else []
    for remark in dialect.remarks:
        lines += _wrapped(f"· {remark}", width, "", 2)
    return [*lines, "", *example(dialect).splitlines()]


def _wrapped(text: str, width: int, first: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, max(60, width), initial_indent=first, subsequent_indent=" " * indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _said(name: str, value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float() if name in _SECONDS:
            return duration(value) if value else "not told, or none"
        case tuple():
            return ", ".join(map(str, value)) or "none"
        case Mapping():
            return ", ".join(f"{entry} = {said or '(to be said)'}" for entry, said in value.items()) or "none"
    return str(value) or "none"
