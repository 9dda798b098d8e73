"""Where this program runs, as far as it matters for asking a person to sign in.

Facts, each found in one place; what follows from them is decided in `login.choose`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "detect"]


@dataclass(frozen=True, slots=True)
class Environment:
    """`human`: somebody can see a prompt and react.  `browser`: a browser opened from here would be theirs.
    `stdin`: they can type an answer.  `notebook`: what is printed lands in a notebook cell.
    """

    human: bool
    browser: bool
    stdin: bool
    notebook: bool


def detect() -> Environment:
    """The surroundings of this process, asked anew at each call."""
    if kernel := _kernel():
        stdin = _kernel_allows_stdin(kernel)
        # The kernel's machine is in general not the browser's; without stdin nobody is there at all
        # (nbclient, papermill and nbconvert run notebooks that way).
        return Environment(human=stdin, browser=False, stdin=stdin, notebook=True)
    terminal = (
        _is_terminal(sys.stderr) and _is_terminal(sys.stdin) and os.environ.get("CI", "").lower() in ("", "0", "false")
    )
    return Environment(human=terminal, browser=terminal and _local_desktop(), stdin=terminal, notebook=False)


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]  # streams may be replaced by anything, or None
    except (AttributeError, ValueError):
        return False


def _kernel() -> object | None:
    """The ipykernel that runs us, without importing IPython where nobody else has."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None)


def _kernel_allows_stdin(kernel: object) -> bool:
    try:
        parent = kernel.get_parent()  # type: ignore[attr-defined]  # ipykernel has no stubs that mypy follows
        return bool(parent.get("content", {}).get("allow_stdin", False))
    except Exception:
        return False


def _local_desktop() -> bool:
    """Whether a browser started here would show on the person's own screen."""
    if any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "REMOTE_CONTAINERS", "CODESPACES")):
        return False
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
