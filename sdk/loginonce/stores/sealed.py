"""Logins whose secrets are sealed: in any store, and nobody reads them there who has not the key.

What is sealed (refresh token, access and ID tokens, claims) is one JWE (RFC 7516) in compact form, `dir` and
`A256GCM`, with a fresh nonce each time, and takes their place in the record (see `apart`).  Its protected header,
which is authenticated with it, holds `kid`, the name of the key, and `record`, a digest of all that stays readable:
whose login it is, order, state, marker.  So it opens in the one record that it was sealed for, and in no other.

Keys.  A source of keys is the keyring of the operating system, a file, or the variable LOGINONCE_SEAL_KEY.  It may
hold several: the first one seals, all of them open.  So a key is replaced by putting a new one before it and
sealing everything again (`reseal`, `loginonce seal`); every commit does so too.  A keyring and a file get their first
key when the first login is sealed, and never where there are sealed logins already: then the key is somewhere else.

What it does not do: a record can be deleted, or replaced as a whole by an older one or by somebody's unsealed
login, by whoever can write to the store.  And a program that may open the login has the key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import ConfigurationError, LockTimeout, SealError, StoreError
from ..home import state_folder
from ..model import Grant, GrantKey, Secret
from ..record import Unshown, binding, put_together, take_apart
from .apart import ApartStore
from .base import OrderConflict, TokenStore, wait_for_lock
from .file import _private_folder, read_private, write_private
from .locks import take

__all__ = ["KeyFile", "KeyInKeyring", "KeyVariable", "SealKey", "SealKeys", "SealedStore", "seal_keys"]

VARIABLE = "LOGINONCE_SEAL_KEY"


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────


class SealKey(NamedTuple):
    """256 bits, as base64url without padding (a JWK's `k`, RFC 7518 §6.4), and the name that they go by."""

    kid: str
    k: Secret

    @classmethod
    def of(cls, text: str) -> SealKey:
        """The key in that text: 32 bytes in base64, either alphabet.  Raises `ValueError`, which does not show it."""
        plain = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}", plain):
            raise ValueError("a key has to be 32 bytes in base64")
        raw = base64.urlsafe_b64decode(plain + "=")
        plain = base64.urlsafe_b64encode(raw).decode().rstrip("=")  # its last digit has bits to spare
        return cls(hashlib.sha256(b"loginonce seal " + raw).hexdigest()[:16], Secret(plain))

    @classmethod
    def new(cls) -> SealKey:
        """A random one."""
        return cls.of(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())


class SealKeys(Protocol):
    """Where keys are; `where` says it, for people."""

    @property
    def where(self) -> str: ...

    def read(self) -> tuple[SealKey, ...]:
        """The keys that are there, the one that seals first.  Raises `StoreError`."""

    def add(self, *, first: bool) -> SealKey:
        """Make a new key and put it before the others; `first`: only where there is none, else what is there.

        Raises `StoreError`, also where that cannot be done from here.
        """


def _parsed(text: str, where: str) -> tuple[SealKey, ...]:
    text = Secret(text)  # also in a traceback through here
    try:
        return tuple(SealKey.of(word) for word in re.split(r"[\s,]+", text) if word)
    except ValueError as error:
        wrong = str(error)
    raise SealError(f"{where} holds something else than keys: {wrong}.  Such as comes from: openssl rand -base64 32")


def _joined(keys: tuple[SealKey, ...]) -> Secret:
    return Secret("".join(f"{key.k}\n" for key in keys))


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Nobody else makes a key meanwhile."""
    try:
        _private_folder(Path(path).parent)
        hold = take("flock", path, timeout=10.0)
    except OSError as error:
        raise StoreError(f"{path} cannot be locked: {error.strerror}") from None
    if hold is None:
        raise LockTimeout(f"{path} has been held for 10 seconds; look for a stopped process")
    try:
        yield
    finally:
        hold.release()


class KeyVariable:
    """The keys in LOGINONCE_SEAL_KEY, separated by spaces or commas."""

    where = f"the variable {VARIABLE}"

    def read(self) -> tuple[SealKey, ...]:
        """As it is in the environment now."""
        return _parsed(os.environ.get(VARIABLE, ""), self.where)

    def add(self, *, first: bool) -> SealKey:
        """Not from here: it is set where this program is started."""
        del first
        raise SealError(f"{self.where} is not set.  Make a key where programs are started: openssl rand -base64 32")


class KeyFile:
    """The keys in a file of ours alone (mode 0600), one a line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.realpath(os.path.expanduser(path))
        self.where = self._path

    def read(self) -> tuple[SealKey, ...]:
        """The lines of the file; none where there is no file."""
        try:
            found = read_private(self._path)
        except OSError as error:
            raise SealError(f"{self._path} cannot be read: {error.strerror}") from None
        return _parsed(found[0].decode("ascii", "replace"), self.where) if found else ()

    def add(self, *, first: bool) -> SealKey:
        """Write the file anew, as a whole."""
        with _alone(f"{self._path}.lock"):
            there = self.read()
            if there and first:
                return there[0]
            made = SealKey.new()
            try:
                write_private(self._path, Unshown(_joined((made, *there)).encode()))
            except OSError as error:
                raise StoreError(f"no key can be written to {self._path}: {error.strerror}") from None
            return made


class KeyInKeyring:
    """The keys in the keyring of the operating system; it takes the extra `keyring`."""

    where = "the keyring of this system"

    def read(self) -> tuple[SealKey, ...]:
        """One entry holds them all."""
        from .keyring import Keyring

        return _parsed(Keyring().get("seal") or "", self.where)

    def add(self, *, first: bool) -> SealKey:
        """Replace the entry; a lock in the state folder keeps two programs from doing that at once."""
        from .keyring import Keyring

        with _alone(str(state_folder() / "keyring" / "seal.lock")):
            there = self.read()
            if there and first:
                return there[0]
            made = SealKey.new()
            Keyring().set("seal", _joined((made, *there)))
            return made


def seal_keys(where: str) -> SealKeys:
    """The source of keys by its name: `keyring`, `env` or `file:/path`.  Raises `ConfigurationError`."""
    if where == "keyring":
        return KeyInKeyring()
    if where == "env":
        return KeyVariable()
    if where.startswith("file:"):
        path = Path(where.removeprefix("file:").removeprefix("//")).expanduser()
        if path.is_absolute():
            return KeyFile(path)
    raise ConfigurationError(f"seal={where} means nothing here: there are seal=keyring, seal=env and seal=file:/path")


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────


class SealedStore(ApartStore):
    """A store around another one, in which the secrets are sealed with a key from `keys` (see `seal_keys`).

        SealedStore(FileStore("~/logins"), "keyring")

    Where the key is not here everything raises `SealError`, and nothing is changed.
    """

    def __init__(self, inner: TokenStore, keys: SealKeys | str) -> None:
        super().__init__(inner)
        self._source = seal_keys(keys) if isinstance(keys, str) else keys
        self._keys: tuple[SealKey, ...] = ()

    def __repr__(self) -> str:
        return f"SealedStore({self.inner!r}, {self._source.where!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the keys, which are looked up where it arrives."""
        return {**self.__dict__, "_keys": ()}

    def reseal(self, key: GrantKey) -> bool:
        """Seal that login with the first key, unless it is; whether anything was changed.

        It waits for a renewal that is under way.  Raises `StoreError`, `LockTimeout` among them.
        """
        hold = wait_for_lock(self.inner, key)
        try:
            self._keys = self._source.read()
            for _ in range(20):
                readable = self.inner.peek(key).grant
                if readable is None or not take_apart(readable)[1] + readable.sealed.encode():
                    return False
                if readable.sealed and _kid(readable) == self._first().kid:
                    return False
                grant = put_together(readable, self._fetch(readable)) if readable.sealed else readable
                with suppress(OrderConflict):  # a sign-in or sign-out waits for no lock
                    self.commit(replace(grant, attempt=grant.attempt + 1), expected=grant.order)
                    return True
        finally:
            hold.release()
        raise StoreError(f"the login for {key} is being changed by others all the time")

    def reseal_all(self) -> int:
        """The same for every login of the store; how many were changed."""
        return sum(self.reseal(grant.key) for grant in list(self.inner.grants()))

    def new_key(self) -> str:
        """Make a new key, which seals from now on, and return its `kid`; the others open as before."""
        made = self._source.add(first=False)
        self._keys = self._source.read()
        return made.kid

    # ── sealing ──────────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, secrets: bytes, readable: Grant) -> str:
        from joserfc import jwe

        kid, k = self._first()
        header = {"alg": "dir", "enc": "A256GCM", "kid": kid, "record": binding(readable)}
        return jwe.encrypt_compact(header, secrets, _imported(k), registry=_registry())

    def _fetch(self, readable: Grant) -> bytes:
        from joserfc import jwe
        from joserfc.errors import JoseError

        key = self._named(_kid(readable), readable)
        try:
            opened = jwe.decrypt_compact(readable.sealed, _imported(key.k), registry=_registry())
        except (JoseError, ValueError):
            opened = None
        if opened is None or opened.plaintext is None or opened.protected.get("record") != binding(readable):
            raise SealError(
                f"the login for {readable.key} does not open with the key that it names, {key.kid}: its record was "
                f"altered, or put there from another one.  It is left as it is, in {self.location(readable.key)}"
            )
        return opened.plaintext

    def _first(self) -> SealKey:
        if not self._keys:
            self._keys = self._source.read()
        if not self._keys:
            sealed = next((grant for grant in self.inner.grants() if grant.sealed), None)
            if sealed is not None:
                return self._named(_kid(sealed), sealed)  # whoever sealed it may have made its key just now
            self._keys = (self._source.add(first=True),)
        return self._keys[0]

    def _named(self, kid: str, readable: Grant) -> SealKey:
        for look_again in (False, True):
            if look_again:
                self._keys = self._source.read()  # another process may have made one since
            for key in self._keys:
                if key.kid == kid:
                    return key
        raise self._missing(kid, readable)

    def _missing(self, kid: str, readable: Grant) -> SealError:
        there = f"has only {', '.join(key.kid for key in self._keys)}" if self._keys else "has no key"
        return SealError(
            f"the login for {readable.key} is sealed with the key {kid}, and {self._source.where} {there}.  Bring "
            f"that key back: the login is as it was, in {self.location(readable.key)}.  If the key is lost for good, "
            "remove it there and sign in again"
        )


def _kid(readable: Grant) -> str:
    """The name of the key, as the header says it; nothing is verified."""
    header = readable.sealed.partition(".")[0]
    with suppress(ValueError, AttributeError):
        kid = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))).get("kid")
        if isinstance(kid, str) and kid.isalnum():
            return kid
    return "(not named)"


def _imported(k: Secret) -> Any:
    from joserfc.jwk import OctKey

    return OctKey.import_key({"kty": "oct", "k": k})


def _registry() -> Any:
    from joserfc.jwe import JWERegistry

    # Two algorithms and no others; and a header of our own, which is not a registered one.
    registry = JWERegistry(algorithms=["dir", "A256GCM"], strict_check_header=False)
    # It would refuse to open what it has sealed, past 64 kB: how long a record may be is the inner store's business.
    registry.max_ciphertext_length = 1 << 30
    return registry
