"""Addresses of stores on servers, which may hold a password: what of them is shown, sent and saved does not.

A program gives the whole address, `scheme://user:password@host/…`, or has it in `LOGINONCE_STORE`.  What is logged, put
into errors, pickled, written to a profile or into a command for a terminal is the address without its password.  Where
such an address is opened, `LOGINONCE_STORE` completes it, if that names the same store; it never completes another.
"""

from __future__ import annotations

import os
import re
from typing import Any, Self

__all__ = ["Address", "completed", "public"]

_SECRET = r"(?i)[^=&]*(?:password|passwd|pwd|secret)[^=&]*=[^&]*"


def public(address: str) -> str:
    """The address without its password: that of the user, and each in the query.

    A password may hold any character but `@`, which has to be written %40 there and everywhere behind it.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or rest.startswith("/"):  # a file, or no address of a server
        authority, place = "", rest
    else:
        authority, at, place = rest.rpartition("@")
        authority = authority.partition(":")[0] + at
    place, mark, query = place.partition("?")
    query = "&".join(part for part in query.split("&") if part and not re.fullmatch(_SECRET, part))
    return f"{scheme}{separator}{'' if authority == '@' else authority}{place}{mark if query else ''}{query}"


def completed(address: str, named: str | None = None) -> Address:
    """The address with the password that `named` has for it (None: what `LOGINONCE_STORE` says), if it has none.

    That is the address of the same user at the same place; what stands behind the question mark may differ.
    """
    named = os.environ.get("LOGINONCE_STORE", "").strip() if named is None else named
    if public(address) != address:
        return Address(address)
    if public(named) == address:
        return Address(named)
    place, mark, query = address.partition("?")
    if "://" in place and public(named).partition("?")[0] == place:
        scheme, separator, rest = named.partition("://")
        authority, at, _ = rest.rpartition("@")
        host = place.partition("://")[2].rpartition("@")[2]
        return Address(f"{scheme}{separator}{authority}{at}{host}{mark}{query}")
    return Address(address)


class Address(str):
    """An address whose `repr` is without the password, and which leaves it behind when it is pickled (HAZARDS 39)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(public(self))

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return Address, (public(self),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self
