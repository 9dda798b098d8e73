"""The folder of logins on real disks that fill up, fail and go, and a folder that somebody tampers with.

A real session, over a real file store, at a strict provider: a replay would end the login.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mounts
import pytest
from crowd import Crowd

import loginonce
from loginonce.gate import gate_of
from loginonce.stores.file import FileStore
from loginonce.testing import FakeProvider

Gather = Callable[..., Crowd]
Age = Callable[..., None]
Until = Callable[[Callable[[], object]], None]

REAL = pytest.mark.real
SOON = 8.0  # seconds; a token that ends then needs no renewal for most of them, also on a busy machine


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mounts.Disk]:
    with mounts.disk(getattr(request, "param", "tmpfs"), tmp_path) as made:
        yield made


@pytest.fixture
def lab(disk: mounts.Disk, fake_provider: FakeProvider, loginonce_home: Path) -> Iterator[loginonce.Session]:
    """A session whose login, and nothing else of it, is on the disk; it has used its token."""
    session = loginonce.Session(
        fake_provider.issuer, client_id=fake_provider.public_client_id, store=FileStore(disk.home / "logins")
    )
    session.login(tokens=fake_provider.issue())
    assert session.get(fake_provider.api("/before")).status_code == 200
    yield session
    unsaved(session, forget=True)


def unsaved(session: loginonce.Session, *, forget: bool = False) -> bool:
    """Whether an answer is in memory only; `forget` it at the end of a test."""
    gate = gate_of(session.source.store, session.source.key)
    found = gate.unsaved is not None
    if forget:
        gate.unsaved = None
    return found


def before_the_answer(session: loginonce.Session, happens: Callable[[], object], monkeypatch: Any) -> None:
    """Have something happen once the marker is saved, and before the token is sent."""
    real = session.source.provider.refresh

    def refresh(*args: Any, **members: Any) -> Any:
        monkeypatch.setattr(session.source.provider, "refresh", real)
        happens()
        return real(*args, **members)

    monkeypatch.setattr(session.source.provider, "refresh", refresh)


def saved(session: loginonce.Session) -> loginonce.Grant:
    """The record as another process reads it."""
    grant = FileStore(Path(session.source.store.location(session.source.key)).parent).load(session.source.key).grant
    assert grant is not None
    return grant


# Full: to the last byte of the disk, and to the last of a quota.

full = pytest.mark.parametrize(
    ("disk", "told"), [("tmpfs", "disk is full"), ("quota", "quota is used up")], indirect=["disk"]
)


@REAL
@full
def test_on_a_full_disk_nothing_is_sent_and_once_there_is_space_the_login_goes_on(
    fake_provider: FakeProvider, lab: loginonce.Session, disk: mounts.Disk, age: Age, told: str
) -> None:
    age(lab, ends_in=0.0)
    disk.fill()
    for _ in range(3):
        with pytest.raises(loginonce.StoreError, match=told):
            lab.get(fake_provider.api("/x"))
    assert fake_provider.stats.token_requests == 0
    disk.free()
    assert lab.get(fake_provider.api("/x")).status_code == 200
    assert fake_provider.stats.token_requests == 1
    assert saved(lab).state == "ACTIVE"


def filled(disk: mounts.Disk) -> None:
    disk.fill()
    with pytest.raises(OSError, match=r"No space|quota"):
        (disk.home / "proof").write_bytes(bytes(8192))


@REAL
@pytest.mark.parametrize("disk", ["tmpfs", "ext4", "btrfs"], indirect=True)
def test_a_disk_that_fills_up_between_marker_and_answer_still_saves_it(
    fake_provider: FakeProvider, lab: loginonce.Session, disk: mounts.Disk, age: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(lab, ends_in=0.0)
    before_the_answer(lab, lambda: filled(disk), monkeypatch)
    assert lab.get(fake_provider.api("/x")).status_code == 200
    assert not unsaved(lab)
    assert saved(lab).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


@REAL
@pytest.mark.parametrize("disk", ["quota"], indirect=True)
def test_an_answer_that_a_quota_of_btrfs_keeps_out_is_used_kept_and_saved_once_there_is_space(
    fake_provider: FakeProvider,
    lab: loginonce.Session,
    disk: mounts.Disk,
    age: Age,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It charges what changes in its own tables too, so that there even reserved space cannot be written."""
    age(lab, ends_in=0.0)
    before_the_answer(lab, lambda: filled(disk), monkeypatch)
    for _ in range(3):
        assert lab.get(fake_provider.api("/x")).status_code == 200
    disk.free()
    os.sync()  # btrfs counts what was freed with the next transaction
    until(lambda: not unsaved(lab))
    assert saved(lab).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


@REAL
@pytest.mark.parametrize("disk", ["tmpfs", "quota"], indirect=True)
def test_on_a_full_disk_a_token_that_is_still_good_is_used(
    fake_provider: FakeProvider, lab: loginonce.Session, disk: mounts.Disk, age: Age
) -> None:
    age(lab, received=300.0, ends_in=20.0)  # near its end: a renewal is due
    disk.fill()
    for _ in range(3):
        assert lab.get(fake_provider.api("/x")).status_code == 200
    assert fake_provider.stats.token_requests == 0


# Read-only, and gone.


@REAL
@pytest.mark.parametrize("disk", ["tmpfs", "ext4"], indirect=True)
def test_a_disk_that_was_remounted_read_only_sends_nothing_and_goes_on_when_it_can_be_written(
    fake_provider: FakeProvider, lab: loginonce.Session, disk: mounts.Disk, age: Age
) -> None:
    age(lab, ends_in=0.0)
    disk.remount("ro")
    with pytest.raises(loginonce.StoreError, match=r"read-only.*LOGINONCE_HOME"):
        lab.get(fake_provider.api("/x"))
    assert fake_provider.stats.token_requests == 0
    disk.remount("rw")
    assert lab.get(fake_provider.api("/x")).status_code == 200
    assert fake_provider.stats.token_requests == 1


@REAL
def test_an_answer_for_a_disk_that_became_read_only_is_used_kept_and_saved_when_it_can_be(
    fake_provider: FakeProvider,
    lab: loginonce.Session,
    disk: mounts.Disk,
    age: Age,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    age(lab, ends_in=0.0)
    with ExitStack() as trouble:
        before_the_answer(lab, lambda: trouble.enter_context(disk.read_only()), monkeypatch)
        for _ in range(3):
            assert lab.get(fake_provider.api("/x")).status_code == 200
        assert unsaved(lab)
        assert saved(lab).state == "SPENDING"
    until(lambda: not unsaved(lab))
    assert saved(lab).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


@REAL
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_a_disk_that_answers_with_errors_sends_nothing_and_costs_nobody_a_good_token(
    fake_provider: FakeProvider, lab: loginonce.Session, disk: mounts.Disk, age: Age
) -> None:
    age(lab, received=0.0, ends_in=SOON)
    assert lab.get(fake_provider.api("/x")).status_code == 200
    disk.unplug()
    assert lab.get(fake_provider.api("/x")).status_code == 200
    time.sleep(SOON)
    with pytest.raises(loginonce.StoreError, match=r"Input/output error|cannot be used"):
        lab.get(fake_provider.api("/x"))
    assert fake_provider.stats.token_requests == 0


@REAL
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_an_answer_for_a_disk_that_was_pulled_out_is_used_and_kept_and_its_predecessor_is_not_sent_again(
    fake_provider: FakeProvider,
    lab: loginonce.Session,
    disk: mounts.Disk,
    age: Age,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    age(lab, ends_in=0.0)
    before_the_answer(lab, disk.unplug, monkeypatch)
    for _ in range(3):
        assert lab.get(fake_provider.api("/x")).status_code == 200
    assert unsaved(lab)
    assert fake_provider.stats.token_requests == 1
    assert fake_provider.stats.replays == 0


# Permission, in a process whose root has no more rights than its owner.

LOSES_PERMISSION = """
import os, sys, time
import loginonce

issuer, client_id, url, folder = sys.argv[1:]
lab = loginonce.Session(issuer, client_id=client_id)

def call():
    try:
        print(lab.get(url).status_code)
    except loginonce.StoreError as error:
        print("chmod" if "chmod" in str(error) else "permission" if "permission was refused" in str(error) else error)

call()
ends = lab.source.grant().tokens[0].expires_at
os.chmod(folder, 0)
call()
time.sleep(max(0, ends - time.time()))
call()
os.chmod(folder, 0o750)
call()
os.chmod(folder, 0o700)
call()
"""


@REAL
def test_permission_that_is_lost_stops_the_spending_and_nothing_else(
    fake_provider: FakeProvider, owner: loginonce.Session, loginonce_home: Path, age: Age
) -> None:
    age(owner, received=0.0, ends_in=SOON)
    if shutil.which("setpriv") is None:
        mounts.needs("there is no setpriv (util-linux) here")
    words = [sys.executable, "-c", LOSES_PERMISSION, fake_provider.issuer, fake_provider.public_client_id]
    words += [fake_provider.api("/x"), str(loginonce_home / "logins")]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    finally:
        (loginonce_home / "logins").chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["200", "200", "permission", "chmod", "200"]
    assert fake_provider.stats.token_requests == 1


# A folder that somebody tampers with while processes use it.


@pytest.fixture
def crowd(gather: Gather, owner: loginonce.Session, fake_provider: FakeProvider) -> Crowd:
    """Three processes that have used the login."""
    crowd = gather()
    crowd.fork(3)
    assert statuses(crowd, fake_provider) == [200] * 3
    return crowd


def statuses(crowd: Crowd, provider: FakeProvider) -> list[Any]:
    return [answer.get("status", answer.get("reason") or answer.get("error")) for answer in crowd.call_together(provider.api("/x"))]  # fmt: skip  # noqa: E501


def record_of(session: loginonce.Session) -> Path:
    return Path(session.source.store.location(session.source.key))


def test_a_folder_that_is_deleted_under_running_processes_is_no_login_until_somebody_signs_in(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd
) -> None:
    shutil.rmtree(record_of(owner).parent)
    assert statuses(crowd, fake_provider) == ["none"] * 3
    assert fake_provider.stats.token_requests == 0
    crowd.members[0].ask("login", tokens=dict(fake_provider.issue()))
    assert statuses(crowd, fake_provider) == [200] * 3


def test_a_folder_that_is_deleted_while_a_token_is_being_spent_costs_no_login(
    fake_provider: FakeProvider, owner: loginonce.Session, age: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(owner, ends_in=0.0)
    before_the_answer(owner, lambda: shutil.rmtree(record_of(owner).parent), monkeypatch)
    assert owner.get(fake_provider.api("/x")).status_code == 200
    assert saved(owner).order[1:] == (1, 0)
    assert fake_provider.stats.token_requests == 1


def test_a_folder_that_was_put_back_to_yesterday_is_not_spent_by_those_who_know_today(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, age: Age, tmp_path: Path
) -> None:
    folder = record_of(owner).parent
    age(owner, ends_in=0.0)
    shutil.copytree(folder, tmp_path / "yesterday")  # its store id too
    assert statuses(crowd, fake_provider) == [200] * 3
    assert fake_provider.stats.token_requests == 1
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "yesterday", folder)
    assert statuses(crowd, fake_provider) == ["lost"] * 3
    assert fake_provider.stats.token_requests == 1
    crowd.members[0].ask("login", tokens=dict(fake_provider.issue()))
    assert statuses(crowd, fake_provider) == [200] * 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"", id="empty", marks=pytest.mark.slow),
        pytest.param(lambda data: bytes(len(data)), id="zeros", marks=pytest.mark.slow),
        pytest.param(lambda data: data.replace(b"openid", b"OpenID", 1), id="altered", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_record_is_told_of_once_kept_aside_and_never_spent(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, damage: Callable[[bytes], bytes]
) -> None:
    record = record_of(owner)
    damaged = damage(record.read_bytes())
    record.write_bytes(damaged)
    answers = statuses(crowd, fake_provider) + statuses(crowd, fake_provider)
    assert set(answers) <= {200, "none", "CorruptStore"}
    assert [path.read_bytes() for path in record.parent.glob("*.broken-*")] == [damaged]
    assert answers[3:] == ["none"] * 3
    assert fake_provider.stats.token_requests == 0


# Two versions side by side.


def newer(record: Path) -> bytes:
    """The record as a later version, with a schema of its own, has written it."""
    data = re.sub(rb"^loginonce 1 ", b"loginonce 9 ", record.read_bytes())
    record.with_suffix(".new").write_bytes(data)
    record.with_suffix(".new").chmod(0o600)
    os.replace(record.with_suffix(".new"), record)
    return data


@pytest.mark.slow
def test_processes_of_an_older_version_use_what_they_have_and_spend_nothing_of_a_newer_record(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, age: Age
) -> None:
    age(owner, received=0.0, ends_in=SOON)
    assert statuses(crowd, fake_provider) == [200] * 3
    data = newer(record_of(owner))
    assert statuses(crowd, fake_provider) == [200] * 3
    time.sleep(SOON)
    answers = crowd.call_together(fake_provider.api("/x"))
    assert all("upgrade loginonce" in answer["message"] for answer in answers)
    assert fake_provider.stats.token_requests == 0
    assert record_of(owner).read_bytes() == data


@pytest.mark.parametrize("change", ["login", "logout"])
def test_an_older_version_neither_signs_in_over_a_newer_record_nor_out_of_it(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, change: str
) -> None:
    data = newer(record_of(owner))
    members = {"tokens": dict(fake_provider.issue())} if change == "login" else {}
    assert "upgrade loginonce" in crowd.members[0].ask(change, **members)["message"]
    assert record_of(owner).read_bytes() == data
    assert list(record_of(owner).parent.glob("*.broken-*")) == []


# Links.


def test_processes_that_reach_the_folder_by_a_link_share_its_login(
    fake_provider: FakeProvider, owner: loginonce.Session, gather: Gather, age: Age, tmp_path: Path
) -> None:
    folder = record_of(owner).parent
    (tmp_path / "link").symlink_to(folder)
    crowds = [gather(store=f"file:{place}") for place in (folder, tmp_path / "link")]
    for crowd in crowds:
        crowd.fork(2)
    age(owner, ends_in=0.0)
    at = time.time() + 0.1
    for crowd in crowds:
        for member in crowd.members:
            member.tell("call", url=fake_provider.api("/x"), at=at)
    assert [member.hear()["status"] for crowd in crowds for member in crowd.members] == [200] * 4
    assert fake_provider.stats.token_requests == 1


def test_a_record_behind_a_symbolic_link_is_not_spent(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, tmp_path: Path
) -> None:
    record = record_of(owner)
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    for member in crowd.members:  # the token in memory lives, and is used
        assert member.ask("call", url=fake_provider.api("/x"))["status"] == 200
    fresh = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id)
    with pytest.raises(loginonce.StoreError, match="symbolic link"):
        fresh.get(fake_provider.api("/x"))
    assert fake_provider.stats.token_requests == 0


def test_a_hard_link_keeps_what_was_and_the_login_goes_on(
    fake_provider: FakeProvider, owner: loginonce.Session, crowd: Crowd, age: Age, tmp_path: Path
) -> None:
    record = record_of(owner)
    age(owner, ends_in=0.0)
    os.link(record, tmp_path / "backup")
    before = record.read_bytes()
    assert statuses(crowd, fake_provider) == [200] * 3
    assert (tmp_path / "backup").read_bytes() == before != record.read_bytes()
    assert fake_provider.stats.token_requests == 1


def test_a_record_of_another_folder_is_not_spent_there(
    fake_provider: FakeProvider, owner: loginonce.Session, tmp_path: Path, age: Age
) -> None:
    age(owner, ends_in=0.0)
    copy = FileStore(tmp_path / "copy")
    (tmp_path / "copy").mkdir(mode=0o700)
    shutil.copy2(record_of(owner), copy.location(owner.source.key))
    other = loginonce.Session(fake_provider.issuer, client_id=fake_provider.public_client_id, store=copy)
    with pytest.raises(loginonce.CorruptStore, match="copied here from another store"):
        other.get(fake_provider.api("/x"))
    assert fake_provider.stats.token_requests == 0
    assert owner.get(fake_provider.api("/x")).status_code == 200
