"""What `import loginonce` costs and does: what `import requests` does, and nothing beyond it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from loginonce import FileStore, Grant, TokenSet
from loginonce.model import GrantKey, Secret

OPTIONAL_OR_LATE = {
    "IPython", "authlib", "click", "cryptography", "filelock", "flask", "httpx", "ipywidgets", "joserfc", "keyring",
    "platformdirs", "redis", "rich", "segno", "sqlalchemy", "werkzeug",
}  # fmt: skip

LIST = "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def python(code: str, *options: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"LOGINONCE_HOME": str(home)} if home else {}
    return subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


def loaded(code: str, home: Path | None = None) -> set[str]:
    return set(python(code + LIST, home=home).stdout.split())


@pytest.fixture(scope="module")
def of_requests() -> set[str]:
    return loaded("import requests")


def test_importing_it_loads_nothing_optional_and_nothing_that_can_wait(of_requests: set[str]) -> None:
    assert (loaded("import loginonce") - of_requests) & OPTIONAL_OR_LATE == set()


def test_importing_it_loads_nothing_from_elsewhere_that_requests_does_not(of_requests: set[str]) -> None:
    more = loaded("import loginonce") - of_requests - {"loginonce"}
    assert more - set(sys.stdlib_module_names) == set()


def test_importing_the_command_line_needs_no_click(of_requests: set[str]) -> None:
    assert (loaded("import loginonce.cli") - of_requests) & OPTIONAL_OR_LATE == set()


def test_importing_it_is_silent_even_where_warnings_are_errors() -> None:
    run = python("import loginonce", "-W", "error")
    assert (run.stdout, run.stderr) == ("", "")


def test_importing_it_writes_nothing_and_starts_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = python("import threading, loginonce; print(threading.active_count())", home=home)
    assert (run.stdout.strip(), home.exists()) == ("1", False)


def test_using_a_cached_login_loads_no_more_than_importing_it(tmp_path: Path, of_requests: set[str]) -> None:
    home = tmp_path / "home"
    key = GrantKey("https://id.example.org", "notebook")
    token = TokenSet(Secret("a"), time.time() - 1, time.time() + 3600, scope="openid")
    store = FileStore(home / "logins")
    store.commit(Grant(key, 1, refresh_token=Secret("r"), tokens=(token,), scope="openid"), expected=None)
    code = (
        "import loginonce, os;"
        f"lab = loginonce.Session({key.issuer!r}, client_id={key.client_id!r});"
        "assert lab.source.token().access_token == 'a';"
        "assert lab.account is not None"
    )
    assert (loaded(code, home) - of_requests) & OPTIONAL_OR_LATE == set()
