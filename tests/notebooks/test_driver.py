"""The harness does what its docstrings say, so that a test on top of it fails for its own reasons."""

from __future__ import annotations

import re

import pytest
from lab import Lab
from playwright.sync_api import expect

CANARY = "'canary-' + '4711'"


def test_two_notebooks_have_kernels_of_their_own_and_one_home(lab: Lab) -> None:
    home = "import os, pathlib; note = pathlib.Path(os.environ['LOGINONCE_HOME']) / 'note'"
    writer = lab.open(f"{home}; note.write_text(str(os.getpid()))")
    writer.run_all()
    writer.wait_finished(0)
    reader = lab.open(f"{home}; print(int(note.read_text()) != os.getpid())", kernel="ipykernel-6.31")
    reader.run_all()
    reader.wait_text(0, "True")
    assert not reader.failed(0)


def test_a_secret_that_is_printed_is_found_in_the_saved_notebook_and_in_the_log(lab: Lab) -> None:
    notebook = lab.open(f"print({CANARY}); get_ipython().kernel.log.error({CANARY})")
    assert not any("canary-4711" in text for text in lab.traces().values())
    notebook.run_all()
    notebook.wait_text(0, "canary-4711")
    assert notebook.save()["cells"][0]["outputs"][0]["text"] == ["canary-4711\n"]
    found = {name for name, text in lab.traces().items() if "canary-4711" in text}
    assert f"files/{notebook.path.name}" in found
    assert "the log" in found


def test_dark_is_dark_and_light_is_light(lab: Lab) -> None:
    notebook = lab.open("from IPython.display import HTML; HTML('<b>Ada</b>')", theme="dark")
    notebook.run_all()
    notebook.wait_text(0, "Ada")
    body = notebook.page.locator("body")
    expect(body).to_have_attribute("data-jp-theme-light", "false")
    dark = notebook.screenshot("harness-dark").read_bytes()
    notebook.theme("light")
    expect(body).to_have_attribute("data-jp-theme-light", "true")
    assert notebook.screenshot("harness-light").read_bytes() != dark


def test_an_error_is_told_from_a_result_and_a_new_kernel_from_an_old_one(lab: Lab) -> None:
    notebook = lab.open("first = 1", "print('first' in dir())", "1 / 0", "print('never')")
    notebook.run_all()
    notebook.wait_text(2, "ZeroDivisionError")
    assert notebook.failed(2)
    assert not notebook.failed(1)
    assert notebook.text(1) == "True"
    assert not notebook.has_run(3)
    notebook.restart()
    notebook.run(1)
    notebook.wait_text(1, "False")


def test_a_notebook_whose_kernel_never_answers_is_opened_once_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.PATIENCE", 20.0)
    startup = lab.server.ipython / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    hanging = startup / "hanging.py"
    hanging.write_text(f"import pathlib, time; pathlib.Path({str(hanging)!r}).unlink(); time.sleep(600)")
    notebook = lab.open("print(6 * 7)")
    assert not hanging.exists()
    notebook.run_all()
    notebook.wait_text(0, "42")


def test_a_widget_is_shown_and_its_button_reaches_the_kernel(lab: Lab) -> None:
    notebook = lab.open(
        "import ipywidgets\n"
        "button, label = ipywidgets.Button(description='Press'), ipywidgets.Label('before')\n"
        "button.on_click(lambda _: setattr(label, 'value', 'after'))\n"
        "ipywidgets.VBox([button, label])"
    )
    notebook.run_all()
    notebook.output(0).get_by_role("button", name="Press").click()
    notebook.wait_text(0, re.compile("after"))
    notebook.reload()
    expect(notebook.page.locator(".jp-Notebook .jp-Cell")).to_have_count(1)
