"""A real Jupyter server and a real browser, for tests that read like what a person does.

`JupyterServer` is the process (JupyterLab, Notebook 7 and Voila at one address, a kernel of each of
`benches.KERNELS`), `Lab` opens notebooks in a browser, `Notebook` is one of them on a page.  What the driver has to
know: a workspace of its own for each page, no windowing (a cell out of sight would not be on the page), the
application within reach of scripts; and wait for what is shown rather than for time.  Loading JupyterLab takes longer
than all else, so a page of it is used again by the tests of a module, each with a new notebook and a new kernel.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import requests
from benches import KERNELS, ROOT, bench, clean_environment

if not os.environ.get("CI"):  # where a missing part is an error
    pytest.importorskip("playwright", reason="the notebook tests need Playwright: pip install -e '.[dev]'")

from playwright.sync_api import BrowserContext, Locator, Page, ViewportSize, expect

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
PATIENCE: Final = 45.0
"""Seconds until something that has to show has not shown.  Two cores that others use too are slow."""

VIEWPORT: Final[ViewportSize] = {"width": 1280, "height": 800}

Theme = Literal["light", "dark"]
App = Literal["lab", "notebook"]

_THEMES: Final = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


_IN_THE_WAY: Final = """async ([name, patience]) => {
  // "idle" is told before a connection stands, and what is asked until then may be lost: a request has to come back.
  const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000, false));
  const shown = () => [...(window.jupyterapp?.shell?.widgets("main") ?? [])].find((one) => one.context?.path === name);
  let kernel;
  for (const end = Date.now() + patience * 1000; Date.now() < end; await pause(0.05)) {
    kernel = shown()?.sessionContext?.session?.kernel;
    if (kernel?.status !== "idle" || kernel.connectionStatus !== "connected") continue;
    const asked = kernel.requestExecute({ code: "", silent: true, store_history: false });
    if (await Promise.race([asked.done.then(() => true, () => false), pause(1)])) return "";
  }
  return `${shown() ? "" : "not shown; "}kernel ${kernel?.id}: ${kernel?.status}, ${kernel?.connectionStatus}`;
}"""
"""Why no request gets through to the kernel of a notebook, "" if one does."""


_CLOSES_ALL: Final = """async () => {
  for (const widget of [...window.jupyterapp.shell.widgets("main")]) {
    if (widget.context) widget.context.model.dirty = false;  // nobody is asked whether to save
    widget.close();
  }
  document.querySelectorAll(".jp-Dialog").forEach((dialog) => dialog.remove());
}"""


class KernelSilent(AssertionError):
    """No request gets through to a kernel."""


class JupyterServer:
    """A Jupyter server on a free port of loopback, with its own folders below `home`.

    `url`: its address.  `token`: what lets a browser in.  `files`: its notebooks.  `logins`: the `LOGINONCE_HOME`
    of all its kernels, `ipython`: their settings.
    """

    def __init__(self, home: Path) -> None:
        self.files = home / "files"
        self.logins = home / "logins"
        self._log = home / "server.log"
        self._data = home / "data"
        self.ipython = home / "ipython"
        settings = home / "settings"
        for folder in (self.files, home / "runtime", home / "config", home / "user"):
            folder.mkdir(parents=True)
        self.logins.mkdir(mode=0o700)
        for kernel in KERNELS:
            self._add_kernel(kernel)
        _set(settings, "@jupyterlab/notebook-extension/tracker", windowingMode="none")
        _set(settings, "@jupyterlab/docmanager-extension/plugin", autosave=False)  # a page saves when it is told to
        _set(settings, "@jupyterlab/apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        self.settings = settings
        self.token = secrets.token_urlsafe(24)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(bench("front") / "jupyter"), "lab", "--no-browser", "--ServerApp.ip=127.0.0.1",
                    "--ServerApp.port=0", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={self.files}",
                    f"--IdentityProvider.token={self.token}", "--LabApp.expose_app_in_browser=True",
                    "--JupyterNotebookApp.expose_app_in_browser=True", "--ServerApp.terminals_enabled=False",
                ],
                cwd=self.files,
                env=clean_environment(
                    HOME=str(home / "user"),
                    JUPYTER_CONFIG_DIR=str(home / "config"),
                    JUPYTER_DATA_DIR=str(self._data),
                    JUPYTER_RUNTIME_DIR=str(home / "runtime"),
                    JUPYTERLAB_SETTINGS_DIR=str(settings),
                    JUPYTERLAB_WORKSPACES_DIR=str(home / "workspaces"),
                    IPYTHONDIR=str(self.ipython),
                    LOGINONCE_HOME=str(self.logins),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._api = requests.Session()
        self._api.trust_env = False
        self._api.headers["Authorization"] = f"token {self.token}"
        self.url = self._address(home / "runtime" / f"jpserver-{self.process.pid}.json")

    def _add_kernel(self, name: str) -> None:
        folder = self._data / "kernels" / name
        folder.mkdir(parents=True)
        # At the level DEBUG a kernel tells its log every message, which is where a secret would turn up.
        command = [str(bench(name) / "python"), "-m", "ipykernel_launcher", "--debug", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": name, "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))

    def _address(self, told: Path) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                url: str = json.loads(told.read_text())["url"].rstrip("/")
                self._api.get(f"{url}/api/status", timeout=5).raise_for_status()
            except (OSError, ValueError, requests.RequestException):
                time.sleep(0.05)
            else:
                return url
        self.stop()
        raise AssertionError(f"the Jupyter server did not start:\n{self.log()}")

    def log(self) -> str:
        """What the server and its kernels have logged."""
        return self._log.read_text(errors="replace")

    def clear(self) -> None:
        """End all kernels; no login is left, no notebook, no setting of a test."""
        for kernel in self._ask("GET", "kernels"):
            self._ask("DELETE", f"kernels/{kernel['id']}")
        for session in self._ask("GET", "sessions"):
            self._ask("DELETE", f"sessions/{session['id']}")
        for path in (*self.logins.rglob("*"), *self.files.rglob("*")):
            if path.is_file():
                path.unlink()
        _set(self.settings, "@jupyterlab/apputils-extension/themes", theme=_THEMES["light"])

    def end_kernel(self, notebook: str) -> None:
        """End the kernel of that notebook."""
        for session in self._ask("GET", "sessions"):
            if session["path"] == notebook:
                self._ask("DELETE", f"sessions/{session['id']}")

    def stop(self) -> None:
        """End the process, by its id, and with it its kernels."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ask(self, method: str, path: str) -> Any:
        answer = self._api.request(method, f"{self.url}/api/{path}", timeout=30)
        return answer.json() if answer.ok and answer.content else None


@dataclass
class Lab:
    """JupyterLab in a browser.  Everything waits for what it is about, up to `PATIENCE` seconds.

    A test has a `Lab` as the fixture `lab`, with no login, no notebook and no kernel left from another test; its
    browser knows nobody at any provider.

    - `open(*cells, kernel=…, app=…, theme=…)` writes a notebook of these cell sources and opens it, in JupyterLab
      or Notebook 7: a `Notebook`, on which it is run, interrupted, read, saved, photographed.  Open two for two
      notebooks side by side: each has a page and a kernel of its own, and they share `LOGINONCE_HOME`.
    - `voila(*cells, kernel=…)` opens it as an app of Voila: the plain `Page`.
    - `log()` is what the server and all kernels (at the level DEBUG) have logged so far.
    - `traces()` is everything that a secret could be left in, by name: the log, and each file of the server.
    - `screenshot(page, name)` keeps a picture for people to look at.
    """

    server: JupyterServer
    browser: BrowserContext
    pictures: Path
    _count: int = field(default=0, init=False)
    _spare: list[Page] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Take over what the test before has left, and empty it."""
        for page in self.browser.pages:
            if _is_lab(page) and not self._spare:
                page.evaluate(_CLOSES_ALL)
                expect(page.locator(".jp-NotebookPanel")).to_have_count(0, timeout=PATIENCE * 1000)
                page.set_viewport_size(VIEWPORT)
                self._spare.append(page)
            else:
                page.close()
        self.server.clear()
        self.browser.clear_cookies(name=re.compile(r"^(?!_xsrf|username-)"))  # the Jupyter server's own may stay

    def open(self, *cells: str, kernel: str = KERNELS[-1], app: App = "lab", theme: Theme = "light") -> Notebook:
        """A new notebook on a new page, its kernel started, nothing run."""
        path = self._write(cells, kernel)
        notebook = self._opened(path, len(cells), app, theme)
        try:
            notebook.wait_until_idle()
        except KernelSilent:
            # Nothing of a test has run in it, so it is not for a test to judge.  Kernels listen on ports that were
            # free when the server chose them, and connections are lost; a person would try again, too.
            notebook.page.close()
            self.server.end_kernel(path.name)
            notebook = self._opened(path, len(cells), app, theme)
            notebook.wait_until_idle()
        return notebook

    def _opened(self, path: Path, count: int, app: App, theme: Theme) -> Notebook:
        if app == "lab" and self._spare:
            page = self._spare.pop()
            page.bring_to_front()
            notebook = Notebook(self, page, path, count)
            notebook.theme(theme)
            notebook._command("docmanager:open", path=path.name)
            return notebook
        _set(self.server.settings, "@jupyterlab/apputils-extension/themes", theme=_THEMES[theme])
        page = self.browser.new_page()
        workspace = f"/lab/workspaces/{path.stem}/tree" if app == "lab" else "/notebooks"
        page.goto(f"{self.server.url}{workspace}/{path.name}?token={self.server.token}")
        return Notebook(self, page, path, count)

    def voila(self, *cells: str, kernel: str = KERNELS[-1]) -> Page:
        """A new notebook as an app of Voila.  The page is complete when all of its cells have ended."""
        path = self._write(cells, kernel)
        page = self.browser.new_page()
        page.goto(f"{self.server.url}/voila/render/{path.name}?token={self.server.token}", wait_until="commit")
        return page

    def log(self) -> str:
        """What the server and its kernels have logged."""
        return self.server.log()

    def traces(self) -> dict[str, str]:
        """The log, the notebooks and whatever else the server keeps; not the logins, where tokens belong."""
        found = {"the log": self.log()}
        home = self.server.files.parent
        for path in home.rglob("*"):
            if path.is_file() and self.server.logins not in path.parents:
                found[str(path.relative_to(home))] = path.read_bytes().decode(errors="replace")
        return found

    def screenshot(self, page: Page | Locator, name: str) -> Path:
        """A picture of a page or of a part of it, as `name`.png."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{name}.png"
        page.screenshot(path=path)
        return path

    def _write(self, cells: tuple[str, ...], kernel: str) -> Path:
        self._count += 1
        path = self.server.files / f"notebook-{self._count}-{secrets.token_hex(3)}.ipynb"
        notebook = {
            "cells": [
                {"cell_type": "code", "id": f"cell-{n}", "metadata": {}, "source": source, "outputs": [],
                 "execution_count": None}
                for n, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }  # fmt: skip
        path.write_text(json.dumps(notebook))
        return path


@dataclass
class Notebook:
    """One notebook on one page.  Cells are counted from 0.

    - `run_all()` begins it and returns at once.  `run(n)` runs one cell.
    - `wait_text(n, text)` until the output of cell n shows it, `wait_finished(n)` until the cell has run to its end,
      well or not.  `text(n)` is what its output shows now, `failed(n)` whether it ended with an error.
    - `output(n)` is the output as a Playwright `Locator`: for buttons (`.get_by_role("button", name=…).click()`),
      for styles, for everything else.  `page` is the whole page.
    - `click_link(n, text)` clicks on a link in the output and gives the page that opens.  A link that would lead
      this page away fails the test.
    - `interrupt()` presses ■.  `restart()` begins the kernel anew.  `theme("dark")` switches the colours while
      everything runs.
    - `save()` saves, and gives the .ipynb as it is on the disk.  `reload()` is a person's F5.
    - `screenshot(name, n)` keeps a picture of the page, or of the output of cell n.
    """

    lab: Lab
    page: Page
    path: Path
    count: int

    def run_all(self) -> None:
        """Run All Cells."""
        self._command("notebook:run-all-cells")

    def run(self, n: int) -> None:
        """Run one cell."""
        self._cell(n).locator(".jp-InputArea-editor").click()
        self._command("notebook:run-cell")

    def interrupt(self) -> None:
        """Press ■, as a person does."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-command='notebook:interrupt-kernel']").first.click()

    def restart(self) -> None:
        """Restart the kernel, and confirm it."""
        self._command("kernelmenu:restart")
        self.page.locator(".jp-Dialog .jp-mod-accept, .jp-Dialog .jp-mod-warn").last.click()
        self.wait_until_idle()

    def theme(self, theme: Theme) -> None:
        """Switch to light or dark, while everything runs."""
        self._command("apputils:change-theme", theme=_THEMES[theme])
        light = "true" if theme == "light" else "false"
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", light, timeout=PATIENCE * 1000)

    def output(self, n: int) -> Locator:
        """What cell n has put out."""
        return self._cell(n).locator(".jp-Cell-outputArea")

    def text(self, n: int) -> str:
        """The text of what cell n has put out, "" for nothing."""
        output = self.output(n)
        return _COLOURS.sub("", output.inner_text()).strip() if output.count() else ""

    def failed(self, n: int) -> bool:
        """Whether cell n ended with an error."""
        return self.output(n).locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-mod-error").count() > 0

    def wait_text(self, n: int, text: str | re.Pattern[str], *, seconds: float = PATIENCE) -> Locator:
        """Until the output of cell n shows `text`; the output."""
        expect(self.output(n)).to_contain_text(text, timeout=seconds * 1000)
        return self.output(n)

    def wait_finished(self, n: int, *, seconds: float = PATIENCE) -> None:
        """Until cell n has run to its end: it has a number, in place of a star or nothing."""
        prompt = self._cell(n).locator(".jp-InputPrompt")
        expect(prompt).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=seconds * 1000)

    def is_running(self, n: int) -> bool:
        """Whether cell n waits for its turn or runs."""
        return self._cell(n).locator(".jp-InputPrompt").inner_text() == "[*]:"

    def has_run(self, n: int) -> bool:
        """Whether cell n has run to its end."""
        return re.match(r"^\[\d+\]:$", self._cell(n).locator(".jp-InputPrompt").inner_text()) is not None

    def click_link(self, n: int, text: str | re.Pattern[str]) -> Page:
        """Click on the first link in the output of cell n that reads so; the page that opens."""
        with self.page.context.expect_page() as opened:
            self.output(n).get_by_role("link").filter(has_text=text).first.click()
        opened.value.wait_for_load_state()
        return opened.value

    def wait_until_idle(self) -> None:
        """Until all cells are there and the kernel waits for them.  Raises `KernelSilent`."""
        cells = self.page.locator(".jp-Notebook .jp-Cell")
        expect(cells).to_have_count(self.count, timeout=PATIENCE * 1000)
        if in_the_way := self.page.evaluate(_IN_THE_WAY, [self.path.name, PATIENCE]):
            raise KernelSilent(f"no request gets through ({in_the_way}):\n{self.lab.log()[-4000:]}")

    def save(self) -> dict[str, Any]:
        """Save, and give the notebook as it is on the disk."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        notebook: dict[str, Any] = json.loads(self.path.read_text())
        return notebook

    def reload(self) -> None:
        """Load the page anew; the kernel goes on."""
        self.page.reload()
        expect(self.page.locator(".jp-Notebook .jp-Cell")).to_have_count(self.count, timeout=PATIENCE * 1000)

    def screenshot(self, name: str, n: int | None = None) -> Path:
        """A picture of the page, or of the output of cell n."""
        return self.lab.screenshot(self.page if n is None else self.output(n), name)

    def _cell(self, n: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(n)

    def _command(self, command: str, **arguments: Any) -> None:
        # Not awaited: "run all" ends when the last cell does.
        self.page.evaluate(
            "([command, given]) => { window.jupyterapp.commands.execute(command, given) }", [command, arguments]
        )


def _is_lab(page: Page) -> bool:
    return not page.is_closed() and "/lab/workspaces/" in page.url


def pictures() -> Path:
    """Where screenshots go: `LOGINONCE_SCREENSHOTS`, or a folder that is not kept in git."""
    return Path(os.environ.get("LOGINONCE_SCREENSHOTS") or ROOT / ".ci/screenshots")


def _set(folder: Path, plugin: str, **values: Any) -> None:
    path = folder / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
