"""One Jupyter server and one browser for all tests here; each test finds them empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest
from benches import KERNELS, chromium, needs

import loginonce
from canaries import Canaries
from loginonce.testing import FakeProvider

if TYPE_CHECKING:
    from lab import JupyterServer, Lab

FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.real)  # pytest asks a folder's conftest about the tests of that folder alone
    item.add_marker(pytest.mark.timeout(func_only=True))  # what is installed and started has limits of its own


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
        from lab import VIEWPORT
        from playwright.sync_api import sync_playwright
    except ImportError:
        needs("the notebook tests need Playwright: pip install -e '.[dev]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser.new_context(viewport=VIEWPORT, locale="en-GB")
        browser.close()


@pytest.fixture
def lab(jupyter_server: JupyterServer, browser_context: Any) -> Lab:
    """JupyterLab in a browser, as if nobody had been there."""
    from lab import Lab, pictures

    return Lab(jupyter_server, browser_context, pictures())


@pytest.fixture
def provider(canaries: Canaries, fake_provider_factory: Callable[..., FakeProvider]) -> FakeProvider:
    """The provider that the notebooks sign in to; what it issues is in `canaries`."""
    return fake_provider_factory()


@pytest.fixture
def made(provider: FakeProvider) -> str:
    """What a notebook makes its session by: `lab`."""
    return (
        f"import loginonce\nlab = loginonce.Session({provider.issuer!r}, client_id={provider.public_client_id!r},\n"
        "                        scope='openid offline_access')\n"
    )


@pytest.fixture
def elsewhere(lab: Lab, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[loginonce.Session]:
    """Another program of the same person, in this process."""
    monkeypatch.setenv("LOGINONCE_HOME", str(lab.server.logins))
    with loginonce.Session(
        provider.issuer, client_id=provider.public_client_id, scope="openid offline_access"
    ) as session:
        yield session


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The name of each kernel in turn."""
    name: str = request.param
    return name
