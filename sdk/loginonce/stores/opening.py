"""A store by its address: which kind it is, and what it is opened with.

What an address does not name is not imported, and what it names when it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..errors import ConfigurationError
from ..home import state_folder
from .base import TokenStore
from .remote import completed

if TYPE_CHECKING:
    from .locks import LockKind

__all__ = ["open_store", "split_seal"]


def open_store(where: str) -> TokenStore:
    """The store at an address: "" (the usual folder), or one of the schemes in `_STORES`, such as `file:/path`.

    Every address may end in `seal=keyring`, `seal=env` or `seal=file:/path`, as one of the settings behind its
    question mark: then the secrets are sealed with a key from there (see `stores.sealed`).  An address without its
    password gets that which `LOGINONCE_STORE` has for the same one.  Raises `ConfigurationError` for any other, and
    where an extra is not installed.
    """
    address, keys = split_seal(completed(where))
    scheme, separator, _ = address.partition(":")
    opened = _STORES.get(scheme.partition("+")[0]) if separator or not address else None
    if opened is None:
        known = ", ".join(f"{name}:…" for name in _STORES if name)
        raise ConfigurationError(f"{scheme + separator}… is not a store that is known here: there are {known}")
    store = opened(address)
    if keys is None:
        return store
    from .sealed import SealedStore

    return SealedStore(store, keys)


def split_seal(where: str) -> tuple[str, str | None]:
    """The address without its setting `seal`, and that setting."""
    address, mark, query = where.partition("?")
    given = query.split("&") if mark else []
    seals = [setting for setting in given if setting.startswith("seal=")]
    if len(seals) > 1:
        raise ConfigurationError("a store is sealed with keys from one place, and its address names several")
    others = "&".join(setting for setting in given if setting not in seals)
    return address + (f"?{others}" if others else ""), unquote(seals[0].removeprefix("seal=")) if seals else None


_LOCKS: dict[str, LockKind] = {"": "flock", "lock=flock": "flock", "lock=strict": "strict"}


def _usual_store(_: str) -> TokenStore:
    from .file import FileStore

    return FileStore(state_folder() / "logins")


def _file_store(address: str) -> TokenStore:
    from .file import FileStore

    path, _, setting = address.removeprefix("file:").removeprefix("//").partition("?")
    if not path:
        raise ConfigurationError("file: names no folder: name the whole path, such as file:/srv/logins")
    if setting not in _LOCKS:
        raise ConfigurationError(f"?{setting} in {address} means nothing here: there are {', '.join(_LOCKS)[2:]}")
    folder = Path(path).expanduser()
    if not folder.is_absolute():
        raise ConfigurationError(
            f"{address} means another folder wherever a program is started: name the whole path, such as "
            f"file:{folder.absolute()}"
        )
    return FileStore(folder, lock=_LOCKS[setting])


def _keyring_store(address: str) -> TokenStore:
    from .keyring import KeyringStore

    folder = address.removeprefix("keyring:")
    if folder and not os.path.isabs(folder):
        raise ConfigurationError(
            "there is one keyring, and its address is keyring: (or keyring:/folder, for what is no secret)"
        )
    return KeyringStore(folder or None)


@contextmanager
def _needs(package: str, extra: str) -> Iterator[None]:
    """Within, a module is imported that needs a package of an extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigurationError(
            f"this store needs the package {package}.  Run: pip install 'loginonce[{extra}]'"
        ) from None


def _redis_store(address: str) -> TokenStore:
    with _needs("redis", "redis"):
        from .redis import RedisStore
    return RedisStore(address)


def _sql_store(address: str) -> TokenStore:
    with _needs("sqlalchemy", "sql"):
        from .sql import SQLStore
    return SQLStore(address)


def _memory_store(address: str) -> TokenStore:
    from .memory import MemoryStore

    if address != "memory:":
        raise ConfigurationError("the memory has no parts, and its address is memory:")
    return MemoryStore()


_STORES: dict[str, Callable[[str], TokenStore]] = {
    "": _usual_store,
    "file": _file_store,
    "keyring": _keyring_store,
    "memory": _memory_store,
    "redis": _redis_store,
    "rediss": _redis_store,
    "postgresql": _sql_store,
    "mariadb": _sql_store,
    "mysql": _sql_store,
    "sqlite": _sql_store,
}
"""What opens an address, by its scheme up to a +."""
