"""Which folders are ours, and which process we are.

`LOGINONCE_HOME` puts everything under one folder; else logins go to the platform's state folder (which nothing
purges, as it does a cache) and the settings to its configuration folder.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["at_fork_in_child", "config_file", "has_ended", "process_identity", "state_folder"]

_STARTED = time.time()


def state_folder() -> Path:
    """Where logins and what is known of providers are kept."""
    if home := os.environ.get("LOGINONCE_HOME"):
        return Path(home).expanduser()
    # Imported here: programs that name their own store do not pay for it.
    from platformdirs import user_state_path

    return user_state_path("loginonce", appauthor=False)


def config_file() -> Path:
    """The TOML file with the profiles."""
    if home := os.environ.get("LOGINONCE_HOME"):
        return Path(home).expanduser() / "config.toml"
    from platformdirs import user_config_path

    return user_config_path("loginonce", appauthor=False) / "config.toml"


def process_identity() -> str:
    """`host/boot/pid/start`: names this process among all that ever ran, as well as the platform lets us."""
    return _identity(os.getpid())


def has_ended(identity: str) -> bool:
    """Whether that process is certainly no more.  False also where that cannot be known, as on another host."""
    ours, theirs = process_identity().split("/"), identity.split("/")
    if len(theirs) != 4 or ours[:2] != theirs[:2] or not ours[1]:
        return False
    _, _, pid, start = theirs
    # Where not even our own start can be read, an unreadable one proves nothing.
    return pid.isdecimal() and bool(_started("self")) and _started(pid) != start


@functools.lru_cache(maxsize=1)  # by process id, since a forked child is another
def _identity(pid: int) -> str:
    boot, start = "", _started("self")
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()[:8]
        # Containers may share a host's name; what counts their processes they do not share.
        boot += f"-{os.stat('/proc/self/ns/pid').st_ino}"
    return f"{socket.gethostname()}/{boot}/{pid}/{start or f'{_STARTED:.0f}'}"


def _started(pid: str) -> str:
    """When that process was started, in ticks since the machine was; "" where it is dead, or nobody says."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    # The name of the program, second member, may hold spaces and parentheses: count from its end.
    members = said.rpartition(")")[2].split()
    return "" if len(members) < 20 or members[0] in "ZX" else members[19]


def at_fork_in_child(forget: Callable[[], object]) -> None:
    """Have this called in each forked child, where the platform forks at all."""
    register = getattr(os, "register_at_fork", lambda **_: None)
    register(after_in_child=forget)
