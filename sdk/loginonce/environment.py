"""Where this program runs, as far as it matters for asking a person to sign in.

One table, `ROWS`, read from the top: the first row whose marks are found says what follows.  A kernel is judged by
whether its front end takes input, since that is what tells a person from a program that runs a notebook; which front
end it is matters less, and JupyterLab and Notebook 7 can't be told apart from inside.  What follows from all of it
is decided in `login.choose`.

`LOGINONCE_ENVIRONMENT` names a row outright, for surroundings that this table judges wrongly.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigurationError
from .value import Value

__all__ = ["ROWS", "Environment", "Row", "detect"]


class Environment(Value):
    """`human`: somebody can see a prompt and react.  `browser`: a browser opened from here would be theirs.
    `stdin`: they can type an answer.  `notebook`: what IPython displays, HTML too, lands in a notebook cell.
    `blocking`: they see a prompt although the cell or line that showed it hasn't ended.  `name`: the row's.
    """

    human: bool
    browser: bool
    stdin: bool
    notebook: bool
    blocking: bool = True
    name: str = ""


class Row(Value):
    """One kind of surroundings: `recognised` says by which `marks`, in words, and the rest is what follows.

    `browser` is None where it depends on whether this machine has a screen of the person's.  `tried`: "real" (the
    thing itself runs in our tests), "simulated" (its marks, as its source sets them, around a real process), "not
    run" (it can't be run in our tests; its marks are known from its documents or its users).
    """

    name: str
    what: str
    recognised: str
    marks: Callable[[_Here], object]
    tried: Literal["real", "simulated", "not run"]
    human: bool = True
    browser: bool | None = False
    stdin: bool = True
    notebook: bool = False
    blocking: bool = True

    def environment(self, here: _Here) -> Environment:
        """What follows."""
        browser = here.has_screen if self.browser is None else self.browser
        return Environment(self.human, browser, self.stdin, self.notebook, self.blocking, self.name)


def detect() -> Environment:
    """The surroundings of this process, asked anew at each call.

    Raises `ConfigurationError` where `LOGINONCE_ENVIRONMENT` names no row.
    """
    here = _Here()
    if named := os.environ.get("LOGINONCE_ENVIRONMENT", "").strip():
        for row in ROWS:
            if row.name == named:
                return row.environment(here)
        raise ConfigurationError(
            f"LOGINONCE_ENVIRONMENT={named!r} is not among the surroundings that are known: "
            + ", ".join(row.name for row in ROWS)
        )
    return next(row for row in ROWS if row.marks(here)).environment(here)


ROWS = (
    # ── kernels ──────────────────────────────────────────────────────────────────────────────────────────
    # A browser that a kernel opens is in general not the person's: the kernel's machine is another.
    Row(
        name="voila",
        what="Voila",
        recognised="kernel · `VOILA_REQUEST_URL` or `SERVER_SOFTWARE=voila/…`",
        marks=lambda here: here.kernel and here.in_voila,
        stdin=False,
        notebook=True,
        blocking=False,  # the page comes when the last cell has ended, unless it is rendered progressively
        tried="real",
    ),
    Row(
        name="nbclient",
        what="nbclient, papermill, nbconvert",
        recognised="kernel · the request says `allow_stdin: false`",
        marks=lambda here: here.kernel and not here.takes_input,
        human=False,
        stdin=False,
        notebook=True,
        tried="real",
    ),
    Row(
        name="colab",
        what="Google Colab",
        recognised="kernel · `COLAB_RELEASE_TAG` or the module `google.colab`",
        marks=lambda here: here.kernel and (here.has("COLAB_RELEASE_TAG") or "google.colab" in sys.modules),
        notebook=True,
        tried="not run",
    ),
    Row(
        name="databricks",
        what="Databricks notebook",
        recognised="kernel · `DATABRICKS_RUNTIME_VERSION`",
        marks=lambda here: here.kernel and here.has("DATABRICKS_RUNTIME_VERSION"),
        notebook=True,
        tried="not run",
    ),
    Row(
        name="vscode",
        what="VS Code, local and remote",
        recognised="kernel · `__vsc_ipynb_file__` in its names; `VSCODE_PID` or `VSCODE_CWD` and no Jupyter session",
        # An ordinary Jupyter server that was started from within VS Code inherits its variables.
        marks=lambda here: (
            here.kernel
            and (
                "__vsc_ipynb_file__" in here.names
                or (here.has("VSCODE_PID", "VSCODE_CWD") and not here.has("JPY_SESSION_NAME"))
            )
        ),
        notebook=True,
        tried="not run",
    ),
    Row(
        name="jupyterhub",
        what="a Jupyter server of JupyterHub",
        recognised="kernel · `JUPYTERHUB_USER` or `JUPYTERHUB_API_TOKEN`",
        marks=lambda here: here.kernel and here.has("JUPYTERHUB_USER", "JUPYTERHUB_API_TOKEN"),
        notebook=True,
        tried="simulated",
    ),
    Row(
        name="jupyter",
        what="JupyterLab, Notebook 7",
        recognised="kernel · `JPY_SESSION_NAME`",
        marks=lambda here: here.kernel and here.has("JPY_SESSION_NAME"),
        notebook=True,
        tried="real",
    ),
    Row(
        name="kernel",
        what="another front end (console, Spyder, …)",
        recognised="kernel · the request says `allow_stdin: true`",
        marks=lambda here: here.kernel,
        notebook=True,
        tried="real",
    ),
    # ── other notebooks ──────────────────────────────────────────────────────────────────────────────────
    Row(
        name="marimo",
        what="marimo, edited or run as an app",
        recognised="`marimo.running_in_notebook()`, asked for by a browser; `marimo export` is a *service*",
        marks=lambda here: here.in_marimo,
        stdin=False,  # an app's page has no place to type an answer
        tried="real",
    ),
    # ── terminals, and none ──────────────────────────────────────────────────────────────────────────────
    Row(
        name="ci",
        what="a build",
        recognised="`CI`, unless 0 or false",
        marks=lambda here: here.building,
        human=False,
        stdin=False,
        tried="simulated",
    ),
    Row(
        name="service",
        what="cron, a service, a pipe",
        recognised="stdin or stderr is not a terminal",
        marks=lambda here: not here.at_a_terminal,
        human=False,
        stdin=False,
        tried="real",
    ),
    Row(
        name="ipython",
        what="IPython",
        recognised="terminal · IPython's shell without a kernel",
        marks=lambda here: here.shell,
        browser=None,
        tried="real",
    ),
    Row(
        name="ssh",
        what="a terminal over SSH",
        recognised="terminal · `SSH_CONNECTION` or `SSH_TTY`",
        marks=lambda here: here.over_ssh,
        tried="simulated",
    ),
    Row(
        name="container",
        what="a container, Codespaces",
        recognised="terminal · `/.dockerenv`, `/run/.containerenv`, `/proc/1/cgroup`, `KUBERNETES_SERVICE_HOST`, "
        "`REMOTE_CONTAINERS`, `CODESPACES`",
        marks=lambda here: here.in_container,
        tried="simulated",
    ),
    Row(
        name="windows",
        what="a terminal on Windows",
        recognised="terminal · the platform",
        marks=lambda here: here.platform == "win32",
        browser=True,
        tried="not run",
    ),
    Row(
        name="macos",
        what="a terminal on macOS",
        recognised="terminal · the platform",
        marks=lambda here: here.platform == "darwin",
        browser=True,
        tried="not run",
    ),
    Row(
        name="desktop",
        what="a terminal on a desktop",
        recognised="terminal · `DISPLAY` or `WAYLAND_DISPLAY`",
        marks=lambda here: here.has_screen,
        browser=True,
        tried="simulated",
    ),
    Row(
        name="terminal",
        what="a terminal on a machine without a screen",
        recognised="terminal",
        marks=lambda _: True,
        tried="real",
    ),
)
"""From the top: the first row whose marks are found counts.  The last one fits always."""


class _Here:
    """What this process can see of its surroundings."""

    def __init__(self) -> None:
        # Without importing IPython where nobody else has.
        ipython = sys.modules.get("IPython")
        self.shell: Any = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
        self.kernel: Any = getattr(self.shell, "kernel", None)
        self.platform: str = sys.platform

    @staticmethod
    def has(*names: str) -> bool:
        """Whether one of these variables is set."""
        return any(os.environ.get(name) for name in names)

    @property
    def names(self) -> Any:
        """The variables of the notebook."""
        return getattr(self.shell, "user_ns", ())

    @property
    def takes_input(self) -> bool:
        """Whether whoever sent the request that runs now would answer a question."""
        try:
            return bool(self.kernel.get_parent().get("content", {}).get("allow_stdin", False))
        except Exception:  # ipykernel's context, or another's kernel: what can't be asked does not say yes
            return False

    @property
    def in_voila(self) -> bool:
        """Whether Voila runs this kernel."""
        return self.has("VOILA_REQUEST_URL") or os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")

    @property
    def in_marimo(self) -> bool:
        """Whether a browser looks at this marimo notebook; there is none at an export."""
        marimo = sys.modules.get("marimo")
        try:
            return marimo is not None and marimo.running_in_notebook() and marimo.app_meta().request is not None
        except Exception:  # half imported, or of another version
            return False

    @property
    def building(self) -> bool:
        """Whether this is a step of continuous integration."""
        return os.environ.get("CI", "").lower() not in ("", "0", "false")

    @property
    def at_a_terminal(self) -> bool:
        """Whether a question can be seen and answered."""
        return _is_terminal(sys.stderr) and _is_terminal(sys.stdin)

    @property
    def over_ssh(self) -> bool:
        """Whether the terminal is somewhere else."""
        return self.has("SSH_CONNECTION", "SSH_TTY")

    @property
    def in_container(self) -> bool:
        """Whether this machine is one within a machine."""
        if self.has("REMOTE_CONTAINERS", "CODESPACES", "KUBERNETES_SERVICE_HOST"):
            return True
        if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
            return True
        try:
            groups = Path("/proc/1/cgroup").read_text(encoding="utf-8")
        except OSError:
            return False
        return re.search(r"docker|kubepods|containerd|libpod|lxc", groups) is not None

    @property
    def has_screen(self) -> bool:
        """Whether a browser started here would show on the person's own screen."""
        if self.over_ssh or self.in_container:
            return False
        return self.platform in ("darwin", "win32") or self.has("DISPLAY", "WAYLAND_DISPLAY")


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # streams may be replaced by anything, or None
        return False
