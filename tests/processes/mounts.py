"""Small disks that are really full, really read-only and really gone, and one folder on two hosts: mounted by root."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {"bindfs": "bindfs", "mkfs.btrfs": "btrfs-progs", "btrfs": "btrfs-progs", "mkfs.ext4": "e2fsprogs"}


def needs(reason: str) -> NoReturn:
    """This machine lacks what a real disk needs: skip, or fail where a skip would go unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path) -> None:
    """A machine on which the command does not work lacks something."""
    program = str(command[0])
    if os.geteuid() != 0:
        needs(f"{program} takes root")
    if shutil.which(program) is None and program in PACKAGES and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", PACKAGES[program]]
        if _quietly(*install).returncode != 0:
            _quietly("apt-get", "update", "-q")
            _quietly(*install)
    if shutil.which(program) is None:
        needs(f"there is no {program} here")
    done = _quietly(*command)
    if done.returncode != 0:
        needs(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _quietly(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@contextmanager
def mounted(place: Path, *command: str | Path) -> Iterator[Path]:
    """Until the block ends, what the command mounts at that place."""
    place.mkdir(mode=0o700, exist_ok=True)
    run(*command)
    try:
        yield place
    finally:
        # Lazily: a thread that goes on trying to save may have a file open there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Disk:
    """A disk of a few hundred kilobytes; `home` is the folder on it that is ours."""

    def __init__(self, mount: Path, home: Path) -> None:
        self.mount = mount
        self.home = home

    def fill(self) -> None:
        """To the last byte that one can have."""
        with open(self.home / "ballast", "ab", buffering=0) as ballast:
            for size in (65536, 4096, 512, 1):
                with suppress(OSError):
                    while True:
                        ballast.write(bytes(size))
            with suppress(OSError):
                os.fsync(ballast.fileno())

    def free(self) -> None:
        (self.home / "ballast").unlink()

    def remount(self, how: str) -> None:
        """`ro` or `rw`.  The kernel refuses that while a file is open for writing, such as a lock that is held."""
        run("mount", "-o", f"remount,{how}", self.mount)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Until the block ends, for all who open a file from now on: a read-only mount on top of the real one."""
        with mounted(self.home, "mount", "--bind", self.home, self.home):
            run("mount", "-o", "remount,bind,ro", self.home)
            yield

    def unplug(self) -> None:
        """From now on every access is an input/output error (EIO), as with a disk that was pulled out.

        The kernel's own switch for it (ext4, xfs: EXT4_IOC_SHUTDOWN, without a last flush).
        """
        shutdown, no_flush = 0x8004587D, ctypes.c_uint32(2)
        descriptor = os.open(self.home, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, shutdown, no_flush)
        finally:
            os.close(descriptor)


@contextmanager
def disk(kind: str, tmp_path: Path) -> Iterator[Disk]:
    """`tmpfs`, `ext4` and `btrfs`, the latter two on loop devices; `quota`: a megabyte of a btrfs that has more."""
    place, image = tmp_path / "disk", tmp_path / "image"
    if kind == "tmpfs":
        with mounted(place, "mount", "-t", "tmpfs", "-o", "size=400k,mode=0700", "tmpfs", place):
            yield Disk(place, place)
        return
    with open(image, "wb") as made:
        made.truncate((8 if kind == "ext4" else 128) << 20)
    run("mkfs.ext4" if kind == "ext4" else "mkfs.btrfs", "-q", image)
    with mounted(place, "mount", "-o", "loop", image, place):
        home = place / "home"
        if kind == "quota":
            run("btrfs", "quota", "enable", place)
            run("btrfs", "subvolume", "create", home)
            run("btrfs", "qgroup", "limit", "1M", home)
        home.mkdir(mode=0o700, exist_ok=True)
        yield Disk(place, home)


@contextmanager
def two_hosts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One folder, mounted twice: what happens in one place is seen in the other, but for the flocks.

    A stand-in for two machines that mount one home by NFS with `local_lock=all`: two FUSE mounts (bindfs) of
    one folder, each with its own inodes, attribute cache (one second) and flocks.  Kernels of test machines often
    have no NFS client; every one has FUSE.
    """
    folder = tmp_path / "exported"
    folder.mkdir(mode=0o700)
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    with mounted(first, "bindfs", folder, first), mounted(second, "bindfs", folder, second):
        yield first, second
