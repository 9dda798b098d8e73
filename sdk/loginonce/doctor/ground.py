"""Which file system a folder is on, and whether other machines may share it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["Ground", "ground"]

_SHARED = r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|afs|ceph|lustre|gpfs|beegfs|fuse\..*"


class Ground(NamedTuple):
    """Its type ("" = not known), and what to think of a lock there; `why` in words, where it is not trusted."""

    kind: str
    verdict: Literal["trusted", "doubtful"] = "trusted"
    why: str = ""


def ground(folder: Path) -> Ground:
    """As far as the platform says it: Linux does (proc(5), mountinfo)."""
    kind, longest = "", -1
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return Ground("")
    for line in lines:
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        if folder.is_relative_to(place) and len(place) >= longest:
            longest, kind = len(place), after.split(" ")[0]
    if re.fullmatch(_SHARED, kind):
        return Ground(kind, "doubtful", "its locks may not keep other machines out")
    return Ground(kind)
