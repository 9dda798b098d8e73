"""Where a program believes itself to be.

Each row of the table is tried, and says how: the thing itself, its marks around a real process, or, where it can't run
here, its marks alone.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from loginonce import ConfigurationError, environment
from loginonce.environment import ROWS, Environment, Row, detect

HERE: Final = Path(__file__)
TESTS: Final = HERE.parents[1]
sys.path.insert(0, str(TESTS / "notebooks"))  # where `benches` is

MARKS: Final = (
    "CI", "SSH_CONNECTION", "SSH_TTY", "REMOTE_CONTAINERS", "CODESPACES", "KUBERNETES_SERVICE_HOST", "DISPLAY",
    "WAYLAND_DISPLAY", "VOILA_REQUEST_URL", "SERVER_SOFTWARE", "COLAB_RELEASE_TAG", "DATABRICKS_RUNTIME_VERSION",
    "VSCODE_PID", "VSCODE_CWD", "JPY_SESSION_NAME", "JUPYTERHUB_USER", "JUPYTERHUB_API_TOKEN", "LOGINONCE_ENVIRONMENT",
)  # fmt: skip


def facts(here: Environment) -> tuple[bool, bool, bool, bool, bool]:
    return here.human, here.browser, here.stdin, here.notebook, here.blocking


NOBODY = (False, False, False, False, True)
DESK = (True, True, True, False, True)
REMOTE = (True, False, True, False, True)
FRONT_END = (True, False, True, True, True)


# ── what each row says, with the surroundings made up in this process ────────────────────────────────────


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files that mark a container; none of this machine's own marks counts."""
    there: dict[str, str] = {}

    def path(name: str) -> Any:
        def read_text(*, encoding: str) -> str:
            if name not in there:
                raise FileNotFoundError(name)
            return there[name]

        return SimpleNamespace(exists=lambda: name in there, read_text=read_text)

    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "Path", path)
    return there


@pytest.fixture
def terminal(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A terminal on somebody's own desktop, as `sys` tells of it."""
    seen = SimpleNamespace(stdin=Terminal(), stderr=Terminal(), modules={}, platform="linux")
    monkeypatch.setattr(environment, "sys", seen)
    monkeypatch.setenv("DISPLAY", ":0")
    return seen


Kernel = Callable[..., None]


@pytest.fixture
def kernel(terminal: SimpleNamespace) -> Kernel:
    """A kernel whose present request is `parent`, and whose notebook has these names."""

    def kernel(parent: Any = None, **names: Any) -> None:
        parent = {"content": {"allow_stdin": True}} if parent is None else parent

        def get_parent() -> Any:
            if isinstance(parent, Exception):
                raise parent
            return parent

        shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=get_parent), user_ns=names)
        terminal.modules["IPython"] = SimpleNamespace(get_ipython=lambda: shell)

    return kernel


@pytest.mark.row("desktop", "simulated")
@pytest.mark.usefixtures("terminal")
def test_a_terminal_on_a_desktop_has_a_person_and_a_browser(row: Row) -> None:
    assert (detect().name, facts(detect())) == (row.name, DESK)


@pytest.mark.usefixtures("terminal")
def test_without_a_display_there_is_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    assert facts(detect()) == REMOTE
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert facts(detect()) == DESK


@pytest.mark.row("ssh", "simulated")
@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("name", ["SSH_CONNECTION", "SSH_TTY"])
def test_a_browser_started_over_ssh_would_not_be_the_persons(
    row: Row, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "something")
    assert (detect().name, facts(detect())) == (row.name, REMOTE)


@pytest.mark.row("container", "simulated")
@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("name", ["REMOTE_CONTAINERS", "CODESPACES", "KUBERNETES_SERVICE_HOST"])
def test_a_variable_tells_of_a_container(row: Row, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "something")
    assert (detect().name, facts(detect())) == (row.name, REMOTE)


@pytest.mark.row("container", "simulated")
@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("/.dockerenv", ""),
        ("/run/.containerenv", ""),
        ("/proc/1/cgroup", "0::/kubepods/besteffort/pod1"),
        ("/proc/1/cgroup", "1:name=systemd:/docker/0123"),
    ],
)
def test_a_file_tells_of_a_container(row: Row, files: dict[str, str], file: str, content: str) -> None:
    files[file] = content
    assert (detect().name, facts(detect())) == (row.name, REMOTE)


@pytest.mark.usefixtures("terminal")
def test_a_machine_of_its_own_is_no_container(files: dict[str, str]) -> None:
    files["/proc/1/cgroup"] = "0::/init.scope"
    assert detect().name == "desktop"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("darwin", marks=pytest.mark.row("macos", "not run")),
        pytest.param("win32", marks=pytest.mark.row("windows", "not run")),
    ],
)
def test_some_desktops_need_no_display_variable(
    row: Row, terminal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("DISPLAY")
    terminal.platform = name
    assert (detect().name, facts(detect())) == (row.name, DESK)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("value", ["0", "false", "False", ""])
def test_a_build_can_be_denied(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    assert facts(detect()) == DESK


@pytest.mark.parametrize("stream", ["stdin", "stderr"])
@pytest.mark.parametrize("what", ["a file", "closed", "none", "something odd"])
def test_without_a_terminal_at_both_ends_nobody_is_there(terminal: SimpleNamespace, stream: str, what: str) -> None:
    closed = io.StringIO()
    closed.close()
    instead = {"a file": io.StringIO(), "closed": closed, "none": None, "something odd": object()}
    setattr(terminal, stream, instead[what])
    assert facts(detect()) == NOBODY


@pytest.mark.parametrize("parent", [{}, {"content": {}}, {"content": None}, LookupError()])
def test_a_kernel_that_does_not_say_has_nobody(kernel: Kernel, parent: Any) -> None:
    kernel(parent)
    assert (detect().name, facts(detect())) == ("nbclient", (False, False, False, True, True))


@pytest.mark.row("colab", "not run")
@pytest.mark.parametrize("by", ["variable", "module"])
def test_colab_tells_by_a_variable_or_a_module(
    row: Row, kernel: Kernel, terminal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    kernel()
    if by == "module":
        terminal.modules["google.colab"] = SimpleNamespace()
    else:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert (detect().name, facts(detect())) == (row.name, FRONT_END)


@pytest.mark.row("databricks", "not run")
def test_databricks_tells_by_a_variable(row: Row, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel()
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert (detect().name, facts(detect())) == (row.name, FRONT_END)


@pytest.mark.row("vscode", "not run")
@pytest.mark.parametrize("by", ["VSCODE_PID", "VSCODE_CWD", "__vsc_ipynb_file__"])
def test_vs_code_tells_by_a_variable_or_a_name_in_the_notebook(
    row: Row, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    kernel(**({by: "/home/ada/a.ipynb"} if by.startswith("__") else {}))
    if not by.startswith("__"):
        monkeypatch.setenv(by, "1")
    assert (detect().name, facts(detect())) == (row.name, FRONT_END)


def test_a_jupyter_server_started_within_vs_code_is_not_vs_code(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel()
    monkeypatch.setenv("VSCODE_PID", "1")
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ada/a.ipynb")
    assert detect().name == "jupyter"


def test_a_program_that_runs_a_notebook_is_nobody_wherever_it_runs(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel({"content": {"allow_stdin": False}})
    for name in (
        "COLAB_RELEASE_TAG",
        "DATABRICKS_RUNTIME_VERSION",
        "VSCODE_PID",
        "JUPYTERHUB_USER",
        "JPY_SESSION_NAME",
    ):
        monkeypatch.setenv(name, "1")
    assert not detect().human


@pytest.mark.parametrize("module", [SimpleNamespace(), SimpleNamespace(get_ipython=lambda: None)])
def test_ipython_that_was_only_imported_changes_nothing(terminal: SimpleNamespace, module: Any) -> None:
    terminal.modules["IPython"] = module
    assert detect().name == "desktop"


def test_ipython_has_a_browser_where_the_machine_has_a_screen(
    terminal: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.modules["IPython"] = SimpleNamespace(get_ipython=SimpleNamespace)
    assert (detect().name, facts(detect())) == ("ipython", DESK)
    monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    assert (detect().name, facts(detect())) == ("ipython", REMOTE)


def marimo(*, running: bool, request: object) -> SimpleNamespace:
    return SimpleNamespace(running_in_notebook=lambda: running, app_meta=lambda: SimpleNamespace(request=request))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (marimo(running=True, request=object()), "marimo"),
        (marimo(running=True, request=None), "desktop"),
        (marimo(running=False, request=object()), "desktop"),
        (SimpleNamespace(), "desktop"),
    ],
)
def test_marimo_counts_where_a_browser_asked_for_the_notebook(
    terminal: SimpleNamespace, module: Any, name: str
) -> None:
    terminal.modules["marimo"] = module
    assert detect().name == name


@pytest.mark.usefixtures("terminal")
def test_the_surroundings_are_asked_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect().browser
    monkeypatch.setenv("SSH_CONNECTION", "a b")
    assert not detect().browser


# ── the person's word counts before all of it ────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("named", ROWS, ids=lambda row: row.name)
def test_a_row_can_be_named_outright(monkeypatch: pytest.MonkeyPatch, named: Row) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("LOGINONCE_ENVIRONMENT", named.name)
    browser = True if named.browser is None else named.browser  # this desktop has a screen
    expected = Environment(named.human, browser, named.stdin, named.notebook, named.blocking, named.name)
    assert detect() == expected


@pytest.mark.usefixtures("terminal")
def test_a_name_that_is_in_no_row_is_told_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINONCE_ENVIRONMENT", "jupiter")
    with pytest.raises(ConfigurationError, match=r"'jupiter'.*voila, nbclient, colab.*terminal$"):
        detect()


# ── real processes ───────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import os, sys
from loginonce import environment
from loginonce.environment import detect
if "A_MACHINE_OF_ITS_OWN" in os.environ:  # the tests themselves may run in a container
    environment.Path = lambda _: type("", (), {"exists": bool, "read_text": lambda self, encoding: ""})()
here = detect()
print("HERE", here.name, here.human, here.browser, here.stdin, here.notebook, here.blocking, "END")
"""


def told(text: str) -> tuple[str, tuple[bool, ...]]:
    """What `PROGRAM` said, wherever in `text` it stands."""
    name, *values = text.rpartition("HERE ")[2].partition(" END")[0].split()
    return name, tuple(value == "True" for value in values)


def surroundings(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in MARKS}
    return kept | {"A_MACHINE_OF_ITS_OWN": "1"} | more


def in_a_terminal(*command: str, typed: str = "", **more: str) -> str:
    """What a program says to the terminal that it runs in."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings(**more), close_fds=True
        ) as program:
            os.close(theirs)
            os.write(ours, typed.encode())
            seen = b""
            while True:
                try:
                    chunk = os.read(ours, 4096)
                except OSError:  # Linux' way to say that nobody has the other end any more
                    break
                if not chunk:
                    break
                seen += chunk
            program.wait(30)
    finally:
        os.close(ours)
    return seen.decode(errors="replace")


@pytest.mark.row("terminal", "real")
def test_a_real_terminal_has_somebody_to_ask(row: Row) -> None:
    assert told(in_a_terminal(sys.executable, "-c", PROGRAM)) == (row.name, REMOTE)


@pytest.mark.row("ci", "simulated")
def test_nobody_watches_a_build(row: Row) -> None:
    assert told(in_a_terminal(sys.executable, "-c", PROGRAM, CI="true")) == (row.name, NOBODY)


@pytest.mark.row("service", "real")
def test_a_real_process_without_a_terminal_has_nobody_and_imports_no_ipython(row: Row) -> None:
    program = PROGRAM + "print('IPython' in sys.modules, 'marimo' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=surroundings(DISPLAY=":0"),
        text=True,
        timeout=30,
        check=True,
    )
    assert told(ran.stdout) == (row.name, NOBODY)
    assert ran.stdout.endswith("False False\n")


@pytest.mark.real
@pytest.mark.row("ipython", "real")
def test_a_real_ipython_is_a_terminal_with_a_name(row: Row, tmp_path: Path) -> None:
    script = tmp_path / "here.py"
    script.write_text(PROGRAM)
    command = (sys.executable, "-m", "IPython", "--quick", "--simple-prompt", "--no-banner", "--no-confirm-exit")
    typed = f"%run {script}\nexit\n"
    assert told(in_a_terminal(*command, typed=typed, IPYTHONDIR=str(tmp_path), DISPLAY=":0")) == (row.name, DESK)


@pytest.fixture
def real_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Start a kernel with these variables, and run `PROGRAM` in it for a front end that takes input or doesn't."""
    from jupyter_client import manager

    ended: list[Callable[[], None]] = []

    def run(*, stdin: bool, **variables: str) -> str:
        started, client = manager.start_new_kernel(kernel_name="python3", env=surroundings(**variables))
        ended.extend((client.stop_channels, lambda: started.shutdown_kernel(now=True)))
        said: list[str] = []
        client.execute_interactive(
            PROGRAM,
            allow_stdin=stdin,
            timeout=30,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
        return "".join(said)

    yield run
    for end in ended:
        end()


@pytest.mark.row("kernel", "real")
def test_a_real_kernel_has_a_person_if_its_front_end_takes_input(row: Row, real_kernel: Callable[..., str]) -> None:
    assert told(real_kernel(stdin=True)) == (row.name, FRONT_END)


@pytest.mark.real
@pytest.mark.row("jupyterhub", "simulated")
def test_a_real_kernel_with_the_variables_of_a_hub_is_on_it(row: Row, real_kernel: Callable[..., str]) -> None:
    hub = {"JUPYTERHUB_USER": "ada", "JUPYTERHUB_API_TOKEN": "x", "JPY_SESSION_NAME": "a.ipynb"}
    assert told(real_kernel(stdin=True, **hub)) == (row.name, FRONT_END)


# ── real front ends ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that says where it is."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": PROGRAM, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    path = tmp_path / "here.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def front() -> Path:
    """The folder of the programs; where it has to be made, that has limits of its own."""
    from benches import bench

    return bench("front")


def run_front_end(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    from benches import clean_environment

    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=clean_environment(HOME=str(folder), IPYTHONDIR=str(folder), JUPYTER_DATA_DIR=str(folder / "data")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )


@pytest.mark.real
@pytest.mark.row("nbclient", "real")
@pytest.mark.timeout(func_only=True)
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("papermill", ("here.ipynb", "done.ipynb")),
        ("jupyter-execute", ("here.ipynb", "--output", "done")),
        ("jupyter-nbconvert", ("--to", "notebook", "--execute", "here.ipynb", "--output", "done.ipynb")),
    ],
)
def test_a_real_program_that_runs_a_notebook_is_nobody(
    row: Row, front: Path, notebook: Path, program: str, arguments: tuple[str, ...]
) -> None:
    run_front_end(front / program, *arguments, folder=notebook.parent)
    done = json.loads(notebook.with_name("done.ipynb").read_text())
    outputs = "".join("".join(output.get("text", "")) for output in done["cells"][-1]["outputs"])
    assert told(outputs) == (row.name, (False, False, False, True, True))


MARIMO = """
import marimo
app = marimo.App()
@app.cell
def _():
{body}
    return
if __name__ == "__main__":
    app.run()
"""


def marimo_notebook(folder: Path) -> Path:
    path = folder / "here.py"
    path.write_text(MARIMO.format(body="".join(f"    {line}\n" for line in PROGRAM.splitlines())))
    return path


@pytest.mark.real
@pytest.mark.timeout(func_only=True)
def test_a_real_marimo_notebook_run_as_a_script_is_a_program_like_others(front: Path, tmp_path: Path) -> None:
    ran = run_front_end(front / "python", str(marimo_notebook(tmp_path)), folder=tmp_path)
    assert told(ran.stdout) == ("service", NOBODY)


@pytest.mark.real
@pytest.mark.timeout(func_only=True)
def test_a_real_marimo_export_has_nobody(front: Path, tmp_path: Path) -> None:
    export = ("-q", "export", "ipynb", str(marimo_notebook(tmp_path)), "--include-outputs", "-o", "out.ipynb")
    run_front_end(front / "marimo", *export, folder=tmp_path)
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    outputs = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", ()))
    assert told(outputs) == ("service", NOBODY)


# ── the table is true ────────────────────────────────────────────────────────────────────────────────────


@cache
def marked_tests() -> list[ast.FunctionDef]:
    """All tests, here and elsewhere, that try rows of the table."""
    texts = [path.read_text() for path in sorted(TESTS.rglob("test_*.py"))]
    nodes = [node for text in texts if ".row(" in text for node in ast.parse(text).body]
    return [node for node in nodes if isinstance(node, ast.FunctionDef) and list(rows_of(node))]


def rows_of(test: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """The rows that a test tries, and how."""
    for decorator in test.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
                name, how = (ast.literal_eval(argument) for argument in node.args)
                yield name, how


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_table_says_truly_how_a_row_was_tried(row: Row) -> None:
    hows = {how for test in marked_tests() for name, how in rows_of(test) if name == row.name}
    assert hows <= {"real", "simulated", "not run"}
    assert row.tried == next((how for how in ("real", "simulated", "not run") if how in hows), "by no test")


def test_no_test_of_a_real_thing_makes_its_surroundings_up() -> None:
    for test in marked_tests():
        fixtures = {argument.arg for argument in test.args.args}
        assert "row" in fixtures, f"{test.name} does not look at its row"
        if "real" in {how for _, how in rows_of(test)}:
            assert not fixtures & {"terminal", "kernel", "files", "monkeypatch"}, test.name
            assert not any("usefixtures" in ast.unparse(mark) for mark in test.decorator_list), test.name


def test_names_are_in_one_row_each() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_readme_has_the_table() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    for row in ROWS:
        assert f"| `{row.name}` | {row.what} | {row.recognised} | {row.tried} |" in readme
