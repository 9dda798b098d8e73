"""A sealed store keeps the promise of every store, shows no secret to whoever has no key, and never loses a login."""

from __future__ import annotations

import base64
import json
import os
import pickle
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from contract import CANARY, KEY, StoreContract, a_grant, content, together
from purses import InMemory, in_use

from loginonce.errors import ConfigurationError, LockTimeout, SealError, StoreError
from loginonce.model import Failure, Grant, GrantKey, Marker, Secret, TokenSet
from loginonce.record import decode, encode
from loginonce.stores import base
from loginonce.stores.base import OrderConflict, TokenStore
from loginonce.stores.file import FileStore
from loginonce.stores.memory import MemoryStore
from loginonce.stores.opening import open_store
from loginonce.stores.sealed import KeyFile, KeyInKeyring, KeyVariable, SealedStore, SealKey, seal_keys

TOKENS = ("rt_secret_canary", "at_secret_canary", "id_secret_canary", "claim_secret_canary")


def a_full_grant(order: tuple[int, int, int] = (1, 0, 0)) -> Grant:
    refresh, access, identity, claim = TOKENS
    token = TokenSet(Secret(access), 1000.0, 2000.0, id_token=Secret(identity))
    return a_grant(order=order, refresh_token=Secret(refresh), tokens=(token,), claims={"email": claim})


def a_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "seal"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logins"


@pytest.fixture
def sealed(folder: Path, keyfile: Path) -> SealedStore:
    return SealedStore(FileStore(folder), f"file:{keyfile}")


class TestSealedFileStore(StoreContract):
    threads = 16

    @pytest.fixture
    def store(self, folder: Path, keyfile: Path) -> TokenStore:
        return SealedStore(FileStore(folder), KeyFile(keyfile))

    @pytest.fixture
    def twin(self, folder: Path, keyfile: Path) -> TokenStore:
        return SealedStore(FileStore(folder), KeyFile(keyfile))


class TestSealedMemoryStore(StoreContract):
    threads = 16

    @pytest.fixture
    def store(self, keyfile: Path) -> TokenStore:
        return SealedStore(MemoryStore(), KeyFile(keyfile))

    def test_releasing_twice_neither_raises_nor_frees_the_next_holder(self, store: TokenStore) -> None:
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
        hold.release()


class Slow(KeyFile):
    """Reads the keys, and another one makes the first and seals with it before what was read arrives."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def read(self) -> tuple[SealKey, ...]:
        found = super().read()
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return found


def test_the_first_key_may_be_made_by_another_one_in_the_same_moment(folder: Path, keyfile: Path) -> None:
    keys = Slow(keyfile)
    store, other = SealedStore(FileStore(folder), keys), SealedStore(FileStore(folder), KeyFile(keyfile))
    theirs = GrantKey(KEY.issuer, "another client")
    keys.meanwhile = lambda: other.commit(a_grant(theirs), expected=None)
    store.commit(a_grant(), expected=None)
    assert content(other.load(KEY).grant) == a_grant()
    assert content(store.load(theirs).grant) == a_grant(theirs)


# ── what can be read ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(39)
def test_no_secret_is_in_any_file_of_a_sealed_store(sealed: SealedStore, folder: Path) -> None:
    sealed.commit(a_full_grant(), expected=None, reserve=True)
    sealed.commit(replace(a_full_grant((1, 0, 1)), state="DEAD"), expected=(1, 0, 0))
    raw = b"".join(path.read_bytes() for path in folder.iterdir())
    assert KEY.issuer.encode() in raw
    for secret in TOKENS:
        for form in (secret.encode(), base64.b64encode(secret.encode())[:-4], secret.encode().hex().encode()):
            assert form not in raw


@pytest.mark.hazard(39)
def test_no_secret_and_no_key_shows_in_errors_reprs_or_pickles(
    sealed: SealedStore, folder: Path, keyfile: Path, tmp_path: Path
) -> None:
    sealed.commit(a_full_grant(), expected=None)
    key = keyfile.read_text().strip()
    with pytest.raises(SealError) as refused:
        SealedStore(FileStore(folder), f"file:{tmp_path / 'other'}").load(KEY)
    shown = f"{refused.value!r} {sealed!r} {sealed._keys!r} {pickle.dumps(sealed)!r} {sealed.inner.load(KEY)!r}"
    assert not any(secret in shown for secret in (*TOKENS, key))
    assert SealKey.of(key).kid in f"{refused.value}"


def test_a_pickled_store_opens_the_same_logins(sealed: SealedStore) -> None:
    sealed.commit(a_full_grant(), expected=None)
    assert content(pickle.loads(pickle.dumps(sealed)).load(KEY).grant) == a_full_grant()


def test_what_the_protocol_needs_is_read_without_a_key(sealed: SealedStore, folder: Path) -> None:
    marker, failure = Marker("0123456789ab", "n", "o", 1.0, 2.0), Failure("0123456789ab", "lost")
    full = replace(a_full_grant((3, 2, 1)), state="SPENDING", marker=marker, failure=failure)
    sealed.commit(full, expected=None)
    (bare,) = FileStore(folder).grants()
    assert bare.sealed
    assert content(replace(bare, sealed="")) == replace(full, refresh_token=None, tokens=(), claims={})


def test_a_record_without_secrets_is_not_sealed(sealed: SealedStore, folder: Path) -> None:
    over = a_grant(state="LOGGED_OUT", refresh_token=None, tokens=())
    sealed.commit(over, expected=None)
    assert content(FileStore(folder).load(KEY).grant) == over


def test_the_same_login_is_never_sealed_twice_the_same_way(sealed: SealedStore, folder: Path) -> None:
    bare = FileStore(folder)
    sealed.commit(a_full_grant(), expected=None)
    first = bare.load(KEY).grant
    os.unlink(bare.location(KEY))
    sealed.commit(a_full_grant(), expected=None)
    second = bare.load(KEY).grant
    assert first is not None
    assert second is not None
    assert first.sealed != second.sealed


def test_what_is_sealed_is_a_compact_jwe_that_names_its_key(sealed: SealedStore, folder: Path, keyfile: Path) -> None:
    sealed.commit(a_full_grant(), expected=None)
    grant = FileStore(folder).load(KEY).grant
    assert grant is not None
    header, encrypted_key, *_ = grant.sealed.split(".")
    read = json.loads(base64.urlsafe_b64decode(header + "=="))
    assert (read["alg"], read["enc"], encrypted_key) == ("dir", "A256GCM", "")
    assert read["kid"] == SealKey.of(keyfile.read_text()).kid


def test_a_version_that_knows_nothing_of_seals_does_not_take_it_for_its_own() -> None:
    assert encode(a_grant(sealed="x")).startswith(b"loginonce 2 ")
    assert encode(a_grant()).startswith(b"loginonce 1 ")
    assert decode(encode(a_grant(sealed="x"))) == a_grant(sealed="x")


# ── swapped, altered ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(36)
@pytest.mark.parametrize(
    "change",
    [
        lambda grant: replace(grant, key=replace(KEY, account="grace")),
        lambda grant: replace(grant, epoch=grant.epoch + 1),
        lambda grant: replace(grant, generation=grant.generation + 1),
        lambda grant: replace(grant, attempt=grant.attempt + 1),
        lambda grant: replace(grant, state="DEAD"),
        lambda grant: replace(grant, state="SPENDING", marker=Marker("f" * 12, "n", "o", 1.0, 2.0)),
        lambda grant: replace(grant, subject="grace"),
        lambda grant: replace(grant, scope="openid admin"),
        lambda grant: replace(grant, sealed=grant.sealed[:-30] + "A" * 30),
        lambda grant: replace(grant, sealed="x.y.z"),
        lambda grant: replace(grant, sealed=f"{base64.urlsafe_b64encode(b'{}').decode()}.."),
    ],
)
def test_secrets_open_in_the_record_that_they_were_sealed_for_and_in_no_other(
    sealed: SealedStore, folder: Path, change: Callable[[Grant], Grant]
) -> None:
    sealed.commit(a_full_grant(), expected=None)
    bare = FileStore(folder)
    grant = bare.load(KEY).grant
    assert grant is not None
    moved = change(grant)
    os.unlink(bare.location(KEY))
    bare.commit(moved, expected=None)
    with pytest.raises(SealError, match="altered|sealed with the key"):
        sealed.load(moved.key)
    assert bare.load(moved.key).grant == moved  # neither set aside nor changed


def test_secrets_of_a_form_that_is_not_known_are_a_newer_versions(
    sealed: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginonce.stores.apart.take_apart", lambda grant: (replace(grant, tokens=()), b"[]"))
    sealed.commit(a_full_grant(), expected=None)
    with pytest.raises(StoreError, match="upgrade loginonce"):
        sealed.load(KEY)


# ── without the key ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stranger(sealed: SealedStore, folder: Path, tmp_path: Path) -> SealedStore:
    """The same store, where one login is, for somebody with another key."""
    sealed.commit(a_full_grant(), expected=None)
    other = tmp_path / "other"
    other.write_text(a_key())
    other.chmod(0o600)
    return SealedStore(FileStore(folder), f"file:{other}")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".login", ".room", "")}


@pytest.mark.hazard(19, 26)
def test_a_wrong_key_is_said_and_nothing_is_touched(stranger: SealedStore, sealed: SealedStore, folder: Path) -> None:
    before = everything(folder)
    for attempt in (stranger.load, stranger.peek):
        with pytest.raises(SealError, match=r"sealed with the key \w+, and .* has only \w+\.  Bring that key back"):
            attempt(KEY)
    with pytest.raises(OrderConflict) as conflict:
        stranger.commit(a_full_grant((2, 0, 0)), expected=None)
    assert conflict.value.current is not None
    assert conflict.value.current.order == (1, 0, 0)
    assert everything(folder) == before
    assert content(sealed.load(KEY).grant) == a_full_grant()


def test_without_the_key_logins_are_listed_by_what_can_be_read(stranger: SealedStore) -> None:
    (listed,) = stranger.grants()
    assert (listed.key, listed.subject, listed.refresh_token, bool(listed.sealed)) == (KEY, "ada", None, True)


def test_no_key_is_made_where_there_are_sealed_logins(
    sealed: SealedStore, folder: Path, tmp_path: Path, keyfile: Path
) -> None:
    sealed.commit(a_full_grant(), expected=None)
    elsewhere = tmp_path / "not mounted" / "seal"
    other = SealedStore(FileStore(folder), KeyFile(elsewhere))
    with pytest.raises(SealError, match="has no key"):
        other.commit(replace(a_full_grant(), key=replace(KEY, account="grace")), expected=None)
    assert not elsewhere.exists()


def test_the_missing_variable_is_told_and_how_to_make_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGINONCE_SEAL_KEY", raising=False)
    with pytest.raises(SealError, match=r"LOGINONCE_SEAL_KEY is not set.*openssl rand -base64 32"):
        SealedStore(FileStore(folder), "env").commit(a_full_grant(), expected=None)
    assert FileStore(folder).load(KEY).grant is None


@pytest.mark.parametrize("text", ["secret-canary", "secret-canary" * 10, base64.b64encode(b"secret-canary").decode()])
def test_what_is_no_key_is_told_and_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LOGINONCE_SEAL_KEY", text)
    with pytest.raises(SealError, match="32 bytes in base64") as refused:
        SealedStore(FileStore(folder), "env").commit(a_full_grant(), expected=None)
    assert text not in str(refused.value)


@pytest.mark.hazard(18)
def test_a_key_that_others_can_read_is_refused(sealed: SealedStore, keyfile: Path, folder: Path) -> None:
    sealed.commit(a_full_grant(), expected=None)
    keyfile.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        SealedStore(FileStore(folder), f"file:{keyfile}").load(KEY)


def test_a_key_file_that_cannot_be_read_or_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_text("")
    inside = KeyFile(tmp_path / "plain" / "seal")
    with pytest.raises(SealError, match="Not a directory"):
        inside.read()
    with pytest.raises(StoreError, match="cannot be locked"):
        inside.add(first=True)
    monkeypatch.setattr("loginonce.stores.sealed.write_private", _full)
    with pytest.raises(StoreError, match="no key can be written"):
        KeyFile(tmp_path / "seal").add(first=True)
    monkeypatch.setattr("loginonce.stores.sealed.take", lambda *_, **__: None)
    with pytest.raises(LockTimeout):
        KeyFile(tmp_path / "seal").add(first=True)


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_either_alphabet_and_any_padding_is_the_same_key() -> None:
    raw = bytes(range(224, 256))
    forms = {
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        f" {base64.b64encode(raw).decode()}\n",
    }
    assert len({SealKey.of(form) for form in forms}) == 1


def test_many_that_need_the_first_key_at_once_make_one(keyfile: Path) -> None:
    assert len(set(together(8, lambda _: KeyFile(keyfile).add(first=True)))) == 1
    assert len(KeyFile(keyfile).read()) == 1


@pytest.fixture
def backend(loginonce_home: Path) -> Iterator[InMemory]:
    backend = InMemory()
    with in_use(backend):
        yield backend


def test_keys_live_in_the_keyring(folder: Path, backend: InMemory) -> None:
    store = SealedStore(FileStore(folder), "keyring")
    store.commit(a_full_grant(), expected=None)
    assert [service for service, _ in backend.entries] == ["loginonce seal"]
    assert content(SealedStore(FileStore(folder), KeyInKeyring()).load(KEY).grant) == a_full_grant()
    assert KeyInKeyring().add(first=True) == KeyInKeyring().read()[0]
    store.new_key()
    assert len(KeyInKeyring().read()) == 2


def test_a_locked_keyring_is_told_and_the_login_stays(folder: Path, backend: InMemory) -> None:
    SealedStore(FileStore(folder), "keyring").commit(a_full_grant(), expected=None)
    backend.locked = True
    with pytest.raises(StoreError, match="it is locked, or its owner said no"):
        SealedStore(FileStore(folder), "keyring").load(KEY)
    backend.locked = False
    assert content(SealedStore(FileStore(folder), "keyring").load(KEY).grant) == a_full_grant()


def test_a_new_key_seals_and_the_old_one_opens(sealed: SealedStore, folder: Path, keyfile: Path) -> None:
    other = replace(KEY, account="grace")
    sealed.commit(a_full_grant(), expected=None)
    sealed.commit(replace(a_full_grant(), key=other), expected=None)
    old = keyfile.read_text()
    running = SealedStore(FileStore(folder), f"file:{keyfile}")
    running.load(KEY)  # it knows the old key only
    kid = sealed.new_key()
    assert sealed.reseal(KEY)
    assert content(running.load(KEY).grant) == replace(a_full_grant(), attempt=1)
    assert content(running.load(other).grant) == replace(a_full_grant(), key=other)
    running.commit(replace(a_full_grant((1, 1, 0)), key=other), expected=(1, 0, 0))  # any commit seals anew
    assert sealed.reseal_all() == 0
    keyfile.write_text(keyfile.read_text().replace(old, ""))
    (only,) = KeyFile(keyfile).read()
    assert only.kid == kid
    fresh = SealedStore(FileStore(folder), KeyFile(keyfile))
    assert [grant.sealed for grant in fresh.grants()] == ["", ""]


def test_what_was_saved_unsealed_is_read_and_sealed_at_its_next_commit(sealed: SealedStore, folder: Path) -> None:
    FileStore(folder).commit(a_full_grant(), expected=None)
    assert content(sealed.load(KEY).grant) == a_full_grant()
    assert sealed.reseal_all() == 1
    assert sealed.reseal_all() == 0
    assert TOKENS[0].encode() not in Path(sealed.location(KEY)).read_bytes()
    assert content(sealed.load(KEY).grant) == replace(a_full_grant(), attempt=1)


def test_sealing_anew_skips_what_has_no_secrets_or_is_gone(sealed: SealedStore) -> None:
    assert not sealed.reseal(KEY)
    sealed.commit(a_grant(state="LOGGED_OUT", refresh_token=None, tokens=()), expected=None)
    assert sealed.reseal_all() == 0


def test_sealing_anew_waits_for_a_renewal_and_not_for_ever(
    sealed: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.commit(a_full_grant(), expected=None)
    hold = sealed.try_lock(KEY)
    assert hold is not None
    monkeypatch.setattr(base.wait_for_lock, "__defaults__", (0.05,))
    with pytest.raises(LockTimeout):
        sealed.reseal(KEY)
    hold.release()
    assert not sealed.reseal(KEY)


def test_sealing_anew_begins_again_when_somebody_signs_in_meanwhile(
    sealed: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileStore.commit(sealed.inner, a_full_grant(), expected=None)  # type: ignore[arg-type]
    commit, calls = SealedStore.commit, []

    def overtaken(self: SealedStore, grant: Grant, **options: object) -> object:
        calls.append(grant.order)
        if len(calls) == 1 or endless:
            raise OrderConflict
        return commit(self, grant, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SealedStore, "commit", overtaken)
    endless = False
    assert sealed.reseal(KEY)
    assert calls == [(1, 0, 1)] * 2
    endless = True
    sealed.new_key()
    with pytest.raises(StoreError, match="all the time"):
        sealed.reseal(KEY)


# ── addresses, processes ─────────────────────────────────────────────────────────────────────────────────


def read_elsewhere(address: str) -> str:
    grant = open_store(address).load(KEY).grant
    assert grant is not None
    assert grant.refresh_token is not None
    return str(grant.refresh_token)


@pytest.mark.parametrize("keys", ["env", "file"])
def test_a_sealed_login_is_read_in_another_process(
    folder: Path, keyfile: Path, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv("LOGINONCE_SEAL_KEY", f"{a_key()}, {a_key()}")
    address = f"file:{folder}?seal={keys if keys == 'env' else f'file:{keyfile}'}"
    open_store(address).commit(a_full_grant(), expected=None)
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_elsewhere, [address]) == TOKENS[0]


def test_the_setting_stands_anywhere_among_the_others(folder: Path, loginonce_home: Path) -> None:
    for address in (f"file:{folder}?seal=env&lock=strict", f"file:{folder}?lock=strict&seal=env"):
        store = open_store(address)
        assert isinstance(store, SealedStore)
        assert repr(store) == f"SealedStore(FileStore('{folder}'), 'the variable LOGINONCE_SEAL_KEY')"
        assert store.inner._lock_kind == "strict"  # type: ignore[attr-defined]
    usual = open_store("?seal=env")
    assert isinstance(usual, SealedStore)
    assert usual.identity == open_store("").identity
    assert isinstance(open_store("memory:?seal=env"), SealedStore)


def test_a_path_may_be_written_as_in_an_address(folder: Path, tmp_path: Path) -> None:
    open_store(f"file:{folder}?seal=file:{tmp_path}/a%26b").commit(a_full_grant(), expected=None)
    assert (tmp_path / "a&b").exists()


@pytest.mark.parametrize("keys", ["", "purse", "file:relative", "file:", "env&seal=keyring"])
def test_keys_from_nowhere_are_refused(folder: Path, keys: str) -> None:
    with pytest.raises(ConfigurationError, match="seal"):
        open_store(f"file:{folder}?seal={keys}")


def test_there_are_three_sources_of_keys(tmp_path: Path) -> None:
    kinds = [type(seal_keys(name)) for name in ("keyring", "env", f"file://{tmp_path}/k")]
    assert kinds == [KeyInKeyring, KeyVariable, KeyFile]
    assert CANARY not in repr(seal_keys("env"))


def test_what_is_asked_of_a_person_is_shared_through_the_inner_store(sealed: SealedStore, folder: Path) -> None:
    assert sealed.post(KEY, b"sign in there", instead_of=None)
    assert sealed.notice(KEY) == FileStore(folder).notice(KEY) == b"sign in there"
