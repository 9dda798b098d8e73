"""What a program knows of the real front end it runs in."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benches import bench, clean_environment
from lab import App, Lab
from playwright.sync_api import Error, expect

from loginonce.environment import Row
from loginonce.testing import FakeProvider

HERE = "from loginonce.environment import detect; print(detect(), 'END')"


def says(row: Row, **facts: bool) -> str:
    """What `HERE` prints."""
    known = {"human": row.human, "browser": False, "stdin": row.stdin, "notebook": row.notebook}
    members = {**known, "blocking": row.blocking, **facts, "name": row.name}
    return f"Environment({', '.join(f'{name}={value!r}' for name, value in members.items())}) END"


@pytest.mark.row("jupyter", "real")
@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_real_jupyterlab_and_notebook_7_have_a_person(row: Row, lab: Lab, app: App) -> None:
    notebook = lab.open(HERE, app=app)
    notebook.run_all()
    notebook.wait_text(0, says(row, human=True, stdin=True, notebook=True, blocking=True))


@pytest.mark.row("voila", "real")
def test_a_real_voila_has_a_person_who_sees_nothing_before_the_end(row: Row, lab: Lab) -> None:
    page = lab.voila(HERE)
    told = says(row, human=True, stdin=False, notebook=True, blocking=False)
    expect(page.locator("body")).to_contain_text(told, timeout=45_000)


def test_a_login_in_voila_does_not_block_the_page_for_ever(lab: Lab, fake_provider: FakeProvider) -> None:
    ask = f"loginonce.Session({fake_provider.issuer!r}, client_id={fake_provider.public_client_id!r}).login('device')"
    page = lab.voila(f"import loginonce\ntry: {ask}\nexcept loginonce.LoginFailed as failed: print(failed)")
    expect(page.locator("body")).to_contain_text("a page of voila shows no prompt", timeout=45_000)
    expect(page.locator("body")).to_contain_text("Show loginonce.notebook.LoginWidget(session) in the page")
    assert len(page.locator("pre").filter(has_text="no prompt").inner_text().strip().splitlines()) == 2


MARIMO = """
import marimo
app = marimo.App()
@app.cell
def _():
    import pathlib
    from loginonce.environment import detect
    pathlib.Path("told").write_text(f"{detect()} END")  # an app's page does not show what is printed
    return
"""


@pytest.fixture(params=["run", "edit"])
def marimo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a marimo notebook, as an app or to be edited."""
    path = tmp_path / "here.py"
    path.write_text(MARIMO)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(bench("front") / "marimo"), "-q", request.param, "--headless", "--no-token", "--host", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), str(path)],
            cwd=tmp_path,
            env=clean_environment(HOME=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.mark.row("marimo", "real")
def test_a_real_marimo_in_a_browser_has_a_person(row: Row, marimo: str, tmp_path: Path, browser_context: Any) -> None:
    page = browser_context.new_page()
    told, deadline = tmp_path / "told", time.monotonic() + 60
    while not told.exists() or not told.read_text().endswith("END"):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        if not page.url.startswith(marimo):
            try:
                page.goto(marimo)
            except Error as error:
                assert "ERR_CONNECTION_REFUSED" in str(error)
        if (editor := page.locator(".cm-content")).count():  # where it can be edited it runs when it is told to
            editor.first.click()
            page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)
    assert told.read_text() == says(row, human=True, stdin=False, notebook=False, blocking=True)
    page.close()
