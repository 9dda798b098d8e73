"""The shared prompt: one per login, whichever program asks, so that nobody sees two codes for one sign-in.

Whoever asks a person puts up a notice beside the login: what it shows, which scope that covers, who it is, and a
beat every two seconds.  Another program that needs the same login shows the same link and code, and waits for the
login to appear.  A notice whose owner has died, or is silent, counts as none, and the next one asks for itself.

All of it is a courtesy: where the store is away each program asks for itself, and what is saved is decided by the
record alone (HAZARDS 31).  Whoever can write a notice can read the login, so a forged one wins nothing; but it is
judged like a server's answer all the same: it draws nothing on a terminal, leads nowhere but to a web page, and
keeps nobody waiting for longer than its beats go on.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, replace

from ..address import secure
from ..errors import StoreError
from ..home import has_ended, process_identity
from ..log import log
from ..model import GrantKey, scope_set
from ..stores.base import TokenStore
from .flow import Prompt

__all__ = ["Board"]

BEAT = 2.0
"""Seconds between two signs of life of the one who asks."""

SILENCE = 25.0
"""Seconds without one, after which its prompt counts as left behind.  More than a question to the provider may
take: a network that is away silences the one who asks, and whoever asked in its place would fare no better."""

LARGEST_NOTICE = 16 * 1024
"""Bytes; the longest address is a fraction of that."""


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
        if len(data) > LARGEST_NOTICE:
            raise ValueError("too large for a notice")
        try:
            members = json.loads(data)
            notice = cls(Prompt(**members.pop("prompt")), **members)
        except (TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError("no notice") from error
        prompt = notice.prompt
        texts = (prompt.kind, prompt.issuer, prompt.client_id, prompt.url, prompt.url_complete, prompt.user_code)
        if not all(isinstance(text, str) and text.isprintable() for text in (*texts, notice.scope, notice.owner)):
            raise ValueError("a text that is none")
        if not all(type(at) in (int, float) and 0 <= at < 1e11 for at in (prompt.expires_at, notice.beat_at)):
            raise ValueError("a time that is none")
        if not (secure(prompt.url) and secure(prompt.url_complete or prompt.url)):
            raise ValueError("an address that is none")
        return notice


class Board:
    """The place beside a login where one notice can hang; `scope` is what this program needs.  Safe among threads."""

    def __init__(self, store: TokenStore, key: GrantKey, scope: frozenset[str]) -> None:
        self._store = store
        self._key = key
        self._scope = scope
        self._mutex = threading.Lock()
        self._ours: _Notice | None = None
        self._over = False

    def elsewhere(self, kind: str, now: float) -> Prompt | None:
        """What another program asks by, if that would do for this one, whose own prompt would be of that kind."""
        notice = self._read(now)
        if notice is None or not self._scope <= scope_set(notice.scope):
            return None
        match notice.prompt.kind:
            case "device":
                return notice.prompt
            case "browser" if kind == "browser" and _same_machine(notice.owner):
                return notice.prompt  # it comes back to this machine, and so does a browser that is shown from here
        return None

    def put_up(self, prompt: Prompt, scope: str, now: float) -> bool:
        """Tell the others.  False where another program was faster with a prompt that would do for this one."""
        if prompt.kind in ("paste", "password"):
            return True  # its answer can only be brought here
        key = self._key
        prompt = replace(prompt, issuer=key.issuer, client_id=key.client_id)
        notice = _Notice(prompt, scope, process_identity(), now)
        with self._mutex:
            if self._over:
                return True
            try:
                there = self._store.notice(key)
                if self.elsewhere(prompt.kind, now) is not None:
                    return False
                if self._store.post(key, notice.encode(), instead_of=there):
                    self._ours = notice
                    return True
            except StoreError as error:
                log.debug("the prompt is not shared: %s", error)
                return True
        return self.elsewhere(prompt.kind, now) is None

    def beat(self, now: float) -> None:
        """Give a sign of life, if it is time to."""
        with self._mutex:
            ours = self._ours
            if ours is not None and not 0 <= now - ours.beat_at < BEAT:
                self._ours = self._replace(ours, replace(ours, beat_at=now))

    def take_down(self) -> None:
        """The sign-in is over: nothing of it hangs here from now on."""
        with self._mutex:
            ours, self._ours, self._over = self._ours, None, True
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
        if (notice.prompt.issuer, notice.prompt.client_id) != (self._key.issuer, self._key.client_id):
            return None  # that of another login
        return None if has_ended(notice.owner) else notice


def _same_machine(owner: str) -> bool:
    return owner.split("/")[:2] == process_identity().split("/")[:2]
