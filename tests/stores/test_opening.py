"""A store is opened by its address, and what an address cannot mean is told."""

import sys
from pathlib import Path

import pytest

from loginonce.errors import ConfigurationError, StoreError
from loginonce.model import GrantKey
from loginonce.stores.opening import open_store, split_seal
from loginonce.stores.remote import completed

KEY = GrantKey("https://id.example.org/realms/lab", "notebook")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGINONCE_STORE", raising=False)


def test_a_store_in_a_folder_is_the_same_wherever_a_program_starts(tmp_path: Path) -> None:
    assert open_store(f"file:{tmp_path}/x").identity == open_store(f"file://{tmp_path}/x").identity
    with pytest.raises(ConfigurationError, match="name the whole path"):
        open_store("file:logins")
    with pytest.raises(ConfigurationError, match="keyring:/folder"):
        open_store("keyring:logins")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "file:/srv/logins?lock=strict",
        "keyring:",
        "redis://ada:x@H:6379/0?wait=1",
        "rediss://[::1]/2?prefix=lab",
        "postgresql://ada:x@h/logins?sslmode=require",
        "mariadb+pymysql://h/logins",
        "sqlite:////srv/logins/db",
        "redis://h?seal=env",
    ],
)
def test_the_identity_of_a_store_is_an_address_that_opens_it(
    address: str, loginonce_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINONCE_SEAL_KEY", "A" * 43 + "=")
    store = open_store(address)
    assert open_store(store.identity).identity == store.identity
    assert ":x@" not in store.identity


def test_the_memory_is_another_store_each_time() -> None:
    assert open_store("memory:").identity != open_store("memory:").identity


@pytest.mark.parametrize("address", ["carrier-pigeon:coop", "/srv/logins", "file"])
def test_an_unknown_store_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="not a store that is known here"):
        open_store(address)


@pytest.mark.parametrize(("missing", "told"), [("redis", r"pip install 'loginonce\[redis\]'"), ("selectors", None)])
def test_without_the_redis_client_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str, told: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "loginonce.stores.redis", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError if told else ModuleNotFoundError, match=told):
        open_store("redis://localhost")


def test_the_lock_of_a_folder_is_chosen_in_its_address(tmp_path: Path) -> None:
    assert open_store(f"file:{tmp_path}/x?lock=strict").location(KEY) == open_store(f"file:{tmp_path}/x").location(KEY)
    hold = open_store(f"file:{tmp_path}/x?lock=strict").try_lock(KEY)
    assert hold is not None
    hold.release()
    with pytest.raises(StoreError, match=r"kept with lock=strict.*lock=flock"):
        open_store(f"file:{tmp_path}/x?lock=flock").try_lock(KEY)


@pytest.mark.parametrize("setting", ["lock=none", "lock=", "strict", "lock=strict&x=1"])
def test_a_setting_of_a_folder_that_means_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="there are lock=flock, lock=strict"):
        open_store(f"file:/srv/logins?{setting}")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("file:", "names no folder"),
        ("memory:x", "its address is memory:"),
        ("file:/x?seal=env&seal=keyring", "names several"),
    ],
)
def test_an_address_that_says_too_little_or_too_much_is_refused(address: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_store(address)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("file:/x", ("file:/x", None)),
        ("?seal=env", ("", "env")),
        ("file:/x?lock=strict&seal=file:/a%26b", ("file:/x?lock=strict", "file:/a&b")),
        ("redis://h?seal=keyring&wait=1", ("redis://h?wait=1", "keyring")),
    ],
)
def test_where_the_keys_are_is_told_apart_from_the_place(address: str, parts: tuple[str, str | None]) -> None:
    assert split_seal(address) == parts


@pytest.mark.parametrize(
    ("address", "named", "whole"),
    [
        ("redis://h/0", "redis://:hush@h/0", "redis://:hush@h/0"),
        ("redis://h/0?seal=env", "redis://:hush@h/0", "redis://:hush@h/0?seal=env"),
        ("redis://h/0", "redis://:hush@h/0?seal=env", "redis://:hush@h/0"),
        ("redis://ada@h/0?wait=1", "redis://ada:hu?sh@h/0?wait=2", "redis://ada:hu?sh@h/0?wait=1"),
        ("redis://h/0", "rediss://:hush@h/0", "redis://h/0"),
        ("redis://h/0", "redis://:hush@h/1", "redis://h/0"),
        ("redis://h/0", "redis://ada:hush@h/0", "redis://h/0"),
        ("redis://:own@h/0?wait=1", "redis://:hush@h/0", "redis://:own@h/0?wait=1"),
        ("redis://h/0?wait=1", "redis://h/0", "redis://h/0?wait=1"),
        ("file:/x", "file:/x?lock=strict", "file:/x"),
        ("", "redis://:hush@h/0", ""),
    ],
)
def test_a_password_completes_the_address_of_the_same_user_at_the_same_place(
    address: str, named: str, whole: str
) -> None:
    assert str(completed(address, named)) == whole
