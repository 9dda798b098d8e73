"""The front ends and kernels that the tests run in: virtual environments, made once and kept.

They are made by uv, which takes seconds where pip takes minutes, in `.ci/notebooks` in a build and in the user's
cache folder elsewhere.  All of them hold this working copy, editable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import filelock
import platformdirs
import pytest

ROOT: Final = Path(__file__).parents[2]
INSTALL_SECONDS: Final = 300.0

_IN_ALL: Final = ("ipywidgets==8.1.*", "segno>=1.6", "-e", str(ROOT))
BENCHES: Final = {
    "front": (
        "jupyterlab==4.6.*", "notebook==7.6.*", "voila==0.5.*", "papermill>=2.6", "nbconvert>=7.16", "marimo>=0.20",
        "ipykernel>=7.4,<8", "requests>=2.34", *_IN_ALL,
    ),
    "ipykernel-6.31": ("ipykernel==6.31.*", *_IN_ALL),
    "ipykernel-7.3": ("ipykernel==7.3.*", *_IN_ALL),
    "ipykernel-newest": ("ipykernel>=7.4,<8", *_IN_ALL),
}  # fmt: skip
KERNELS: Final = tuple(name for name in BENCHES if name.startswith("ipykernel"))
"""6.31 takes no click while a cell runs, 7.3 takes it in a thread, 7.4 and later don't."""


def needs(reason: str) -> NoReturn:
    """This machine lacks what a real notebook needs: skip, or fail where a skip would go unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def bench(name: str) -> Path:
    """The folder of programs of one of the `BENCHES`, which is made where it is missing."""
    home = _folder() / name
    wanted = json.dumps([*BENCHES[name], sys.version])
    stamp = home / "made-of.json"
    home.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home.with_suffix(".lock")):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(home))
            _uv("pip", "install", "--python", str(home / "bin/python"), *BENCHES[name])
            stamp.write_text(wanted)
    return home / "bin"


def clean_environment(**more: str) -> dict[str, str]:
    """Variables for a program whose surroundings are its own: none of this process's marks is handed on."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"} | more


def chromium() -> str:
    """Debian's browser, or whatever it is called here."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    needs("the notebook tests need a Chromium: apt-get install chromium")


def _folder() -> Path:
    if os.environ.get("CI"):
        return ROOT / ".ci/notebooks"
    return platformdirs.user_cache_path("loginonce-tests") / hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]


def _uv(*arguments: str) -> None:
    try:
        from uv import find_uv_bin
    except ImportError:
        needs("the notebook tests need uv: pip install -e '.[dev]'")
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        ran = subprocess.run(
            [find_uv_bin(), "--quiet", "--no-progress", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        needs(f"uv {arguments[0]} took more than {INSTALL_SECONDS:.0f} s")
    if ran.returncode:
        needs(f"uv {' '.join(arguments)}:\n{ran.stderr}")
