"""Logins in the keyring of the operating system, for desktops that want no file with a token in it.

The secrets of a record are entries of the keyring.  The rest, which holds none, is a record in a folder of its own
(see `apart`), and with it lock, change stamp, comparison and the list of logins, all as in `file`.

    loginonce <login> <version> 1…n    entries, each no longer than the keyring takes; never changed once written
    <login>.login                      the record; where its secrets would be it names version, n and a digest of them
    <login>.entries-<version>          there may be entries of that version; which process has written them

Versions.  What a record names has been written before it and is removed after its successor is there, so a crash
leaves the old login or the new one, whole.  What it leaves over besides is removed by a later commit, on proof that the
process that wrote it is dead: a living one may be about to commit it.

Time.  A keyring may ask its owner to unlock it, in a window that nobody sees, for ever.  Each question is asked from
a thread of its own: after a few seconds the log says what is waited for, and after a minute a `StoreError` does.
An answer that comes later is dropped, and entries that were written too late are removed by a later commit.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shlex
import threading
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, TypeVar

from ..errors import ConfigurationError, SealError, StoreError
from ..home import has_ended, process_identity, state_folder
from ..log import log
from ..model import Grant, GrantKey, Order, Secret
from ..record import Unshown
from .apart import ApartStore
from .base import Stamp
from .file import FileStore, read_private, write_private

__all__ = ["Keyring", "KeyringStore"]

SERVICE = "loginonce"

LIMITS = {"keyring.backends.Windows": 1200}
"""Characters that an entry may have: 2,560 bytes of UTF-16 in Windows' Credential Locker (CredWrite,
CRED_MAX_CREDENTIAL_BLOB_SIZE)."""

LIMIT = 16_000
"""The same for all others.  None is known to refuse it; some grow slow with long ones."""

USELESS = ("keyring.backends.null", "keyring.backends.fail")
"""What `keyring` takes where there is nothing, or where it was turned off: it keeps nothing, or always raises."""

PATIENCE, TELLING = 60.0, 3.0
"""Seconds for which an answer of the keyring is waited for, and after which the log says so."""

_under_way: dict[str, int] = {}
"""Versions that a thread of this process writes and has not committed yet, and which one."""

Answer = TypeVar("Answer")


class Keyring:
    """The keyring that is in use here: entries by name, each asked for within a bounded time.

    Raises `ConfigurationError` where there is none, and `StoreError` where it does not do what it is asked.
    """

    def __init__(self) -> None:
        try:
            import keyring
        except ModuleNotFoundError as missing:
            if missing.name != "keyring":
                raise
            raise ConfigurationError(
                "the keyring of this system is reached by a package that is not installed: "
                "pip install 'loginonce[keyring]'"
            ) from None
        self._backend: Any = _asked("is being looked for", _any(keyring.get_keyring))
        module = self._module = type(self._backend).__module__
        if module.endswith(".chainer"):  # several: the first one that can is written to
            found = [type(one).__module__ for one in self._backend.backends]
            module = self._module = found[0] if found else "keyring.backends.fail"
        if module in USELESS:
            raise ConfigurationError(
                "there is no keyring here that keeps anything (python -m keyring diagnose): on a machine without a "
                "desktop use the default store, or another one with seal=env or seal=file:/path"
            )
        self.limit = LIMITS.get(module, LIMIT)

    def __repr__(self) -> str:
        return f"Keyring({self._module})"

    def get(self, name: str) -> Secret | None:
        """An entry, or None."""
        found: str | None = _asked("is being read", lambda: self._backend.get_password(*_entry(name)))
        return None if found is None else Secret(found)

    def set(self, name: str, value: Secret) -> None:
        """Write an entry."""
        _asked("is being written to", lambda: self._backend.set_password(*_entry(name), value))

    def delete(self, name: str) -> bool:
        """Remove an entry; whether there was one."""
        if self.get(name) is None:  # backends differ in what they raise for an absent one
            return False
        _asked("is being written to", lambda: self._backend.delete_password(*_entry(name)))
        return True


def _any(ask: Callable[[], Any]) -> Callable[[], Any]:
    return ask  # a chain of keyrings has more to it than the type that all have


def _entry(name: str) -> tuple[str, str]:
    # Service and user.  One service for each entry: the Windows backend moves entries of one service about when a
    # second user comes, which no two processes could do at once.
    return f"{SERVICE} {name}", SERVICE


class _Silent(StoreError):
    """No answer has come in time, and it may still be carried out."""


def _asked(what: str, ask: Callable[[], Answer]) -> Answer:
    """What the keyring answered, in a bounded time.  Its errors are named, and not quoted."""
    answer: list[Answer] = []
    failed: list[str] = []
    over = threading.Event()

    def work() -> None:
        try:
            answer.append(ask())
        except Exception as error:
            failed.append(type(error).__name__)
        finally:
            over.set()

    try:
        threading.Thread(target=work, name="loginonce-keyring", daemon=True).start()
    except RuntimeError:  # the interpreter is ending and starts no more threads, or none is to be had
        work()  # which nothing bounds; else an answer could not be saved
    if not over.wait(TELLING):
        log.warning("the keyring of this system %s and does not answer: it may be asking to be unlocked", what)
        if not over.wait(PATIENCE - TELLING):
            raise _Silent(f"the keyring of this system {what}, and does not answer: unlock it, and try again")
    if failed:
        locked = ": it is locked, or its owner said no; unlock it, and try again" if "Locked" in failed[0] else ""
        raise StoreError(f"the keyring of this system {what}, and fails ({failed[0]}){locked}")
    return answer[0]


class KeyringStore(ApartStore):
    """Logins whose secrets are in the keyring of the operating system; it takes the extra `keyring`.

    `folder`: for what is no secret (default: one in the state folder).  Raises `ConfigurationError` where there is
    no keyring to be used.
    """

    inner: FileStore

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__(FileStore(folder or state_folder() / "keyring"))
        self.identity = f"keyring:{self.inner.identity.removeprefix('file:')}"
        self._keyring: Keyring | None = None

    def __repr__(self) -> str:
        return f"KeyringStore({self.identity.removeprefix('keyring:')!r})"

    def __getstate__(self) -> dict[str, Any]:
        """It looks for the keyring where it arrives."""
        return {**self.__dict__, "_keyring": None}

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> Keyring:
        if self._keyring is None:
            self._keyring = Keyring()
        return self._keyring

    def _keep(self, secrets_: bytes, readable: Grant) -> str:
        keyring, version = self._opened(), secrets.token_hex(8)
        text = Secret(secrets_.decode("ascii"))
        parts = [text[at : at + keyring.limit] for at in range(0, len(text), keyring.limit)]
        ours = self._entries(readable, version)
        _under_way[version] = get_ident()
        try:
            write_private(ours, process_identity().encode())
        except OSError as error:
            raise StoreError(f"{ours} cannot be used: {os.strerror(error.errno or 0)}") from None
        number = 0
        try:
            for number, part in enumerate(parts, 1):
                keyring.set(self._name(readable, version, number), part)
        except StoreError as error:
            if isinstance(error, _Silent):
                pass  # it may be written yet: another process looks after that, when this one is dead
            elif number > 1:
                self._remove(readable, version)
            else:
                os.unlink(ours)
            raise
        return f"keyring {version} {len(parts)} {hashlib.sha256(secrets_).hexdigest()}"

    def _fetch(self, readable: Grant) -> bytes:
        reference = readable.sealed.split(" ")
        if len(reference) != 4 or reference[0] != "keyring" or not reference[2].isdecimal():
            raise SealError(f"the login for {readable.key} is sealed in another way than by a keyring")
        _, version, count, digest = reference
        try:
            keyring = self._opened()
            parts = [keyring.get(self._name(readable, version, number)) for number in range(1, int(count) + 1)]
        except (ConfigurationError, StoreError) as error:
            raise SealError(f"the login for {readable.key} cannot be opened: {error}") from None
        found = Unshown("".join(part or "" for part in parts).encode("ascii", "replace"))
        if None in parts or hashlib.sha256(found).hexdigest() != digest:
            path = self.location(readable.key)
            raise SealError(
                f"the login for {readable.key} is not in the keyring of this system as it was put there ({keyring!r}). "
                f"It is left as it is: if another keyring was in use then, bring that one back; if its entries are "
                f"gone for good, run: rm {shlex.quote(path)}"
            )
        return found

    def commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> Stamp:
        """Write the entries, then compare and replace the record, then remove the entries of its predecessor."""
        before: Grant | None = None
        with suppress(StoreError):
            before = self.inner.peek(grant.key).grant
        stamp = super().commit(grant, expected=expected, reserve=reserve)
        for version in [version for version, thread in _under_way.copy().items() if thread == get_ident()]:
            del _under_way[version]
        if before is not None and before.order == expected and (version := _version(before)):
            self._remove(before, version)
        self._sweep(grant.key)
        return stamp

    def _not_kept(self, readable: Grant) -> None:
        if version := _version(readable):
            self._remove(readable, version)

    def _sweep(self, key: GrantKey) -> None:
        """Remove what nobody will commit any more: its process is dead, or is this one, which is through with it."""
        stem = self.location(key).removesuffix(".login") + ".entries-"
        for path in glob.glob(f"{glob.escape(stem)}{'[0-9a-f]' * 16}"):  # and not what is still being written
            with suppress(OSError, StoreError):  # it is tried again after the next commit
                found = read_private(path)
                owner = found[0].decode("ascii", "replace") if found else ""
                version = path.removeprefix(stem)
                if has_ended(owner) or (owner == process_identity() and version not in _under_way):
                    there = self.inner.peek(key).grant
                    if there is not None and _version(there) != version:
                        self._remove(there, version)

    def _remove(self, readable: Grant, version: str) -> None:
        """Remove all entries of a version, the last one first, so that what a crash leaves is found again."""
        try:
            keyring, count = self._opened(), 1
            while keyring.get(self._name(readable, version, count)) is not None:
                count += 1
            for number in reversed(range(1, count)):
                keyring.delete(self._name(readable, version, number))
            with suppress(FileNotFoundError):
                os.unlink(self._entries(readable, version))
        except (ConfigurationError, StoreError, OSError) as error:
            log.warning("what the keyring holds of an earlier state of %s stays there: %s", readable.key, error)

    def _entries(self, readable: Grant, version: str) -> str:
        return f"{self.location(readable.key).removesuffix('.login')}.entries-{version}"

    def _name(self, readable: Grant, version: str, number: int) -> str:
        login = os.path.basename(self.location(readable.key)).removesuffix(".login")
        return f"{login} {version} {number}"


def _version(readable: Grant) -> str:
    """The version of the entries that a record names, "" if it names none."""
    kind, version, *_ = *readable.sealed.split(" "), ""
    return version if kind == "keyring" else ""
