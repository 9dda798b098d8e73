"""Temporary files that are not files of their own: somebody put them there while the folder was open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loginonce.errors import StoreError
from loginonce.model import Grant, GrantKey, Secret
from loginonce.stores.file import FileStore

KEY = GrantKey("https://id.example.org", "notebook")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "logins")
    store.commit(Grant(KEY, 1, refresh_token=Secret("r-1")), expected=None)
    return store


def renew(store: FileStore) -> None:
    store.commit(Grant(KEY, 1, 0, 1, refresh_token=Secret("r-2")), expected=(1, 0, 0), reserve=True)


@pytest.mark.hazard(18, 20)
@pytest.mark.parametrize("suffix", [".next", ".room"])
def test_a_hard_link_in_place_of_a_temporary_file_is_not_written_through(
    store: FileStore, tmp_path: Path, suffix: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    precious.chmod(0o640)
    os.link(precious, store.location(KEY) + suffix)
    with pytest.raises(StoreError, match="not a file of its own"):
        renew(store)
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("precious", 0o640)


@pytest.mark.hazard(18)
@pytest.mark.parametrize("suffix", [".next", ".room"])
def test_a_pipe_in_place_of_a_temporary_file_is_not_waited_at(store: FileStore, suffix: str) -> None:
    os.mkfifo(store.location(KEY) + suffix)
    with pytest.raises(StoreError):
        renew(store)
    renew(store)  # it was removed: what is left is ours


@pytest.mark.hazard(18)
def test_a_pipe_with_a_reader_gets_nothing(store: FileStore) -> None:
    pipe = store.location(KEY) + ".next"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(StoreError, match="not a file of its own"):
        renew(store)
    assert os.read(reader, 100) == b""
    os.close(reader)
