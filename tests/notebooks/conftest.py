"""One Jupyter server and one browser for all tests here; each test finds them empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from benches import KERNELS, chromium, needs

if TYPE_CHECKING:
    from lab import JupyterServer, Lab

HERE: Final = Path(__file__).parent
FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def jupyter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """The server, for the whole run."""
    try:
        from lab import JupyterServer
    except ImportError:
        needs("the notebook tests need Playwright: pip install -e '.[dev]'")
    server = JupyterServer(tmp_path_factory.mktemp("jupyter"))
    yield server
    server.stop()


# While Playwright is open, its event loop counts as running in this thread, and other tests can't run theirs.
@pytest.fixture(scope="module")
def browser_context() -> Iterator[Any]:
    """The browser: one for all, since JupyterLab comes much faster out of its cache."""
    path = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        needs("the notebook tests need Playwright: pip install -e '.[dev]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
        browser.close()


@pytest.fixture
def lab(jupyter_server: JupyterServer, browser_context: Any) -> Iterator[Lab]:
    """JupyterLab in a browser, as if nobody had been there."""
    from lab import Lab, pictures

    jupyter_server.clear()
    browser_context.clear_cookies()
    yield Lab(jupyter_server, browser_context, pictures())
    for page in browser_context.pages:
        page.close()


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The name of each kernel in turn."""
    name: str = request.param
    return name
