"""Where a program believes itself to be."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from loginonce import environment
from loginonce.environment import Environment, detect

NOBODY = Environment(human=False, browser=False, stdin=False, notebook=False)
DESK = Environment(human=True, browser=True, stdin=True, notebook=False)
REMOTE = Environment(human=True, browser=False, stdin=True, notebook=False)

MARKS = ("CI", "SSH_CONNECTION", "SSH_TTY", "REMOTE_CONTAINERS", "CODESPACES", "DISPLAY", "WAYLAND_DISPLAY")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files that mark a container; none of this machine's own marks counts."""
    there: set[str] = set()
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "Path", lambda path: SimpleNamespace(exists=lambda: path in there))
    return there


@pytest.fixture
def terminal(marks: set[str], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A terminal on somebody's own desktop, as `sys` tells of it."""
    seen = SimpleNamespace(stdin=Terminal(), stderr=Terminal(), modules={}, platform="linux")
    monkeypatch.setattr(environment, "sys", seen)
    monkeypatch.setenv("DISPLAY", ":0")
    return seen


@pytest.fixture
def kernel(terminal: SimpleNamespace) -> Callable[[Any], None]:
    """A kernel whose present request is `parent`."""

    def kernel(parent: Any) -> None:
        def get_parent() -> Any:
            if isinstance(parent, Exception):
                raise parent
            return parent

        shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=get_parent))
        terminal.modules["IPython"] = SimpleNamespace(get_ipython=lambda: shell)

    return kernel


Kernel = Callable[[Any], None]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_on_a_desktop_has_a_person_and_a_browser() -> None:
    assert detect() == DESK


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("name", ["SSH_CONNECTION", "SSH_TTY", "REMOTE_CONTAINERS", "CODESPACES"])
def test_a_browser_started_on_a_remote_machine_would_not_be_the_persons(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "something")
    assert detect() == REMOTE


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("file", ["/.dockerenv", "/run/.containerenv"])
def test_a_container_has_no_browser(marks: set[str], file: str) -> None:
    marks.add(file)
    assert detect() == REMOTE


@pytest.mark.usefixtures("terminal")
def test_without_a_display_there_is_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    assert detect() == REMOTE
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert detect() == DESK


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_some_desktops_need_no_display_variable(
    terminal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.delenv("DISPLAY")
    terminal.platform = platform
    assert detect() == DESK


@pytest.mark.usefixtures("terminal")
def test_nobody_watches_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert detect() == NOBODY


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("stream", ["stdin", "stderr"])
@pytest.mark.parametrize("what", ["a file", "closed", "none", "something odd"])
def test_without_a_terminal_at_both_ends_nobody_is_there(terminal: SimpleNamespace, stream: str, what: str) -> None:
    closed = io.StringIO()
    closed.close()
    instead = {"a file": io.StringIO(), "closed": closed, "none": None, "something odd": object()}
    setattr(terminal, stream, instead[what])
    assert detect() == NOBODY


@pytest.mark.parametrize("stdin", [True, False])
def test_a_kernel_has_a_person_if_its_front_end_takes_input(kernel: Kernel, stdin: bool) -> None:
    kernel({"content": {"allow_stdin": stdin}})
    assert detect() == Environment(human=stdin, browser=False, stdin=stdin, notebook=True)


@pytest.mark.parametrize("parent", [{}, {"content": {}}, {"content": None}, None, LookupError()])
def test_a_kernel_that_does_not_say_has_nobody(kernel: Kernel, parent: Any) -> None:
    kernel(parent)
    assert detect() == Environment(human=False, browser=False, stdin=False, notebook=True)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("module", [SimpleNamespace(), SimpleNamespace(get_ipython=lambda: None)])
def test_ipython_without_a_kernel_is_a_terminal(terminal: SimpleNamespace, module: Any) -> None:
    terminal.modules["IPython"] = module
    assert detect() == DESK


@pytest.mark.usefixtures("terminal")
def test_the_surroundings_are_asked_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect().browser
    monkeypatch.setenv("SSH_CONNECTION", "a b")
    assert not detect().browser


PROGRAM = "from loginonce.environment import detect; import sys; print(detect().human, 'IPython' in sys.modules)"


@pytest.mark.parametrize("at_a_terminal", [True, False])
def test_a_real_process_knows_whether_it_is_at_a_terminal(at_a_terminal: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in MARKS}
    ours, theirs = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdin=theirs if at_a_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environ,
            text=True,
            timeout=30,
            check=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    # Nobody's IPython is imported just to ask.
    assert ran.stdout == f"{at_a_terminal} False\n"


@pytest.fixture
def real_kernel() -> Iterator[Any]:
    from jupyter_client import manager

    started, client = manager.start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    started.shutdown_kernel(now=True)


def test_a_real_kernel_knows_whether_its_front_end_takes_input(real_kernel: Any) -> None:
    for stdin in (True, False):
        said: list[str] = []
        real_kernel.execute_interactive(
            "from loginonce.environment import detect; print(detect())",
            allow_stdin=stdin,
            timeout=30,
            output_hook=lambda message, said=said: said.append(message["content"].get("text", "")),
        )
        assert f"human={stdin}, browser=False, stdin={stdin}, notebook=True" in "".join(said)
