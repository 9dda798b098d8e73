"""The shared prompt: one per login, whichever program asks, so that nobody sees two codes for one sign-in.

Whoever asks a person puts up a notice beside the login: what it shows, which scope that covers, who it is, and a
beat every two seconds.  Another program that needs the same login shows the same link and code, and waits for the
login to appear.  A notice whose owner has died, or is silent, counts as none, and the next one asks for itself.

All of it is a courtesy: where the store is away each program asks for itself, and what is saved is decided by the
record alone (HAZARDS 31).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from ..errors import StoreError
from ..home import has_ended, process_identity
from ..model import GrantKey, scope_set
from ..stores.base import TokenStore
from .flow import Prompt

__all__ = ["Board"]

log = logging.getLogger("loginonce")

BEAT = 2.0
"""Seconds between two signs of life of the one who asks."""

SILENCE = 8.0
"""Seconds without one, after which its prompt counts as left behind."""


@dataclass(frozen=True, slots=True)
class _Notice:
    prompt: Prompt
    scope: str
    owner: str
    beat_at: float

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> _Notice:
        """Raises `ValueError` for what is none."""
        try:
            members = json.loads(data)
            prompt = Prompt(**members.pop("prompt"))
            notice = cls(prompt, **members)
            links = (prompt.url, prompt.url_complete or prompt.url)
            if not all(link.startswith(("https://", "http://")) for link in links):
                raise ValueError("a link that is none")
            float(prompt.expires_at), float(notice.beat_at), scope_set(notice.scope), notice.owner.split("/")
        except (TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError("no notice") from error
        return notice


class Board:
    """The place beside a login where one notice can hang; `scope` is what this program needs."""

    def __init__(self, store: TokenStore, key: GrantKey, scope: frozenset[str]) -> None:
        self._store = store
        self._key = key
        self._scope = scope
        self._ours: _Notice | None = None

    def elsewhere(self, now: float) -> Prompt | None:
        """What another program asks by, if that would do for this one."""
        notice = self._read(now)
        if notice is None or not self._scope <= scope_set(notice.scope):
            return None
        if notice.prompt.kind == "paste" or (notice.prompt.kind == "browser" and not _same_machine(notice.owner)):
            return None  # its answer can only be brought there
        return notice.prompt

    def put_up(self, prompt: Prompt, scope: str, now: float) -> bool:
        """Tell the others.  False where another program was faster with a prompt that would do for this one."""
        notice = _Notice(prompt, scope, process_identity(), now)
        try:
            there = self._store.notice(self._key)
            if self.elsewhere(now) is not None:
                return False
            if self._store.post(self._key, notice.encode(), instead_of=there):
                self._ours = notice
                return True
        except StoreError as error:
            log.debug("the prompt is not shared: %s", error)
            return True
        return self.elsewhere(now) is None

    def beat(self, now: float) -> None:
        """Give a sign of life, if it is time to."""
        ours = self._ours
        if ours is None or 0 <= now - ours.beat_at < BEAT:
            return
        self._ours = self._replace(ours, _Notice(ours.prompt, ours.scope, ours.owner, now))

    def take_down(self) -> None:
        """The sign-in is over."""
        ours, self._ours = self._ours, None
        if ours is not None:
            self._replace(ours, None)

    def _replace(self, ours: _Notice, by: _Notice | None) -> _Notice | None:
        """What hangs there of ours now.  Whoever took us for dead has its own notice there, which stays."""
        try:
            data = by.encode() if by else None
            return by if self._store.post(self._key, data, instead_of=ours.encode()) else None
        except StoreError as error:
            log.debug("the prompt is shared no longer: %s", error)
            return ours if by else None

    def _read(self, now: float) -> _Notice | None:
        try:
            data = self._store.notice(self._key)
            notice = _Notice.decode(data) if data is not None else None
        except (StoreError, ValueError) as error:
            log.debug("there is no readable notice: %s", error)
            return None
        if notice is None or notice.prompt.expires_at <= now or abs(now - notice.beat_at) > SILENCE:
            return None
        return None if has_ended(notice.owner) else notice


def _same_machine(owner: str) -> bool:
    return owner.split("/")[:2] == process_identity().split("/")[:2]
