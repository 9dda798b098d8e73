"""Keyrings of the operating system for tests: in the memory of this process, in several tempers; or for several."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keyring
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError


class InMemory(KeyringBackend):
    """Does what a keyring does; `longest` is the longest entry it takes."""

    priority = 1  # type: ignore[assignment]  # as keyring's own backends say it
    longest = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False
        self.silent = threading.Event()  # until it is set, nothing is answered
        self.silent.set()
        self.fail_after = -1  # so many entries can still be written

    def _ask(self) -> None:
        self.silent.wait(30)
        if self.locked:
            raise KeyringLocked("dismissed")

    def get_password(self, service: str, username: str) -> str | None:
        self._ask()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._ask()
        if len(password) > self.longest:
            raise ValueError(f"too long: {len(password)}")
        if self.fail_after == 0:
            raise OSError("the daemon has gone")
        self.fail_after -= 1
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._ask()
        if (service, username) not in self.entries:
            raise PasswordDeleteError("none")
        del self.entries[service, username]


class InFolder(KeyringBackend):
    """A keyring that processes share which share LOGINONCE_HOME: each entry is a file there, and changes as a whole.

    Others get it by PYTHON_KEYRING_BACKEND=purses.InFolder.
    """

    priority = 1  # type: ignore[assignment]  # as above

    def _path(self, service: str, username: str) -> Path:
        folder = Path(os.environ["LOGINONCE_HOME"]) / "purse"
        folder.mkdir(exist_ok=True)
        return folder / hashlib.sha256(f"{service}\0{username}".encode()).hexdigest()

    def get_password(self, service: str, username: str) -> str | None:
        try:
            return self._path(service, username).read_text()
        except FileNotFoundError:
            return None

    def set_password(self, service: str, username: str, password: str) -> None:
        path = self._path(service, username)
        new = path.with_suffix("." + secrets.token_hex(4))
        new.write_text(password)
        new.replace(path)

    def delete_password(self, service: str, username: str) -> None:
        try:
            self._path(service, username).unlink()
        except FileNotFoundError:
            raise PasswordDeleteError("none") from None


@contextmanager
def in_use(backend: KeyringBackend) -> Iterator[None]:
    """Have it be the keyring of this process."""
    before = keyring.core._keyring_backend
    keyring.set_keyring(backend)
    try:
        yield
    finally:
        keyring.core._keyring_backend = before
