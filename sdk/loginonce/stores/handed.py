"""Access tokens that were handed to a worker, which has no login of its own and never gets one.

It looks like a store with one login in it that cannot renew itself, and that nobody can change.  It is the one thing
here whose pickle holds a token, which is what it is for; refresh token, ID token and claims are left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from ..errors import StoreError
from ..model import Grant, GrantKey, Order
from ..record import decode, encode
from ..value import replace
from .base import Hold, Snapshot, Stamp, TokenStore

__all__ = ["HandedStore"]


class HandedStore(TokenStore):
    """What is left of a grant for whoever may use its access tokens and nothing else."""

    def __init__(self, grant: Grant) -> None:
        tokens = tuple(replace(token, id_token=None) for token in grant.tokens)
        self._grant = replace(
            grant,
            state="ACTIVE",
            renewal="none",
            refresh_token=None,
            refresh_expires_at=None,
            tokens=tokens,
            marker=None,
            failure=None,
            claims={},
            store="",
        )
        self.identity = f"handed:{self._grant.key}:{self._grant.order}"

    def __repr__(self) -> str:
        return f"HandedStore({self._grant.key})"

    def __reduce__(self) -> tuple[Callable[[bytes], HandedStore], tuple[bytes]]:
        """On purpose with the access tokens in the clear: they are what has to travel."""
        return _arrived, (bytes(encode(self._grant)),)

    def stamp(self, key: GrantKey) -> Stamp:
        """Always the same."""
        return self.identity if key == self._grant.key else None

    def load(self, key: GrantKey) -> Snapshot:
        """What was handed over."""
        return Snapshot(self._grant if key == self._grant.key else None, self.stamp(key), settled=True)

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Nobody signs in or out here."""
        del grant, expected, reserve
        self._refuse()

    def try_lock(self, key: GrantKey) -> Hold | None:
        """There is nothing to spend."""
        del key
        self._refuse()

    def notice(self, key: GrantKey) -> bytes | None:
        """None."""
        del key
        return None

    def post(self, key: GrantKey, notice: bytes | None, *, instead_of: bytes | None) -> bool:
        """Nobody is asked to sign in here."""
        del key, notice, instead_of
        self._refuse()

    def grants(self) -> Iterator[Grant]:
        """The one."""
        return iter([self._grant])

    def location(self, key: GrantKey) -> str:
        """Nowhere."""
        del key
        return "what this program was handed"

    def _refuse(self) -> NoReturn:
        raise StoreError(
            f"this program was handed an access token for {self._grant.key}, and no login: sign in and out where the "
            "login is kept"
        )


def _arrived(data: bytes) -> HandedStore:
    return HandedStore(decode(data))
