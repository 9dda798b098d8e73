"""What `import loginonce` costs and does: what `import requests` does, and nothing beyond it."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import loginonce
from loginonce import FileStore, Grant, TokenSet
from loginonce.model import GrantKey, Secret

OPTIONAL_OR_LATE = {
    "IPython", "authlib", "click", "cryptography", "filelock", "flask", "httpx", "ipywidgets", "joserfc", "keyring",
    "platformdirs", "redis", "rich", "segno", "sqlalchemy", "werkzeug",
}  # fmt: skip

LIST = "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"

CAN_WAIT = {
    # where nobody signs in, and nothing is renewed
    "asyncio", "dataclasses", "encodings.ascii", "getpass", "html", "http.server", "inspect", "platform",
    "shlex", "uuid", "webbrowser",
    "loginonce.authentication", "loginonce.backend", "loginonce.client", "loginonce.doctor", "loginonce.environment",
    "loginonce.exchange", "loginonce.idtoken", "loginonce.login", "loginonce.manners", "loginonce.metadata",
    "loginonce.notebook", "loginonce.register", "loginonce.standing", "loginonce.terminal", "loginonce.transport",
    "loginonce.watch", "loginonce.wire",
    # where no token is bound to a key, no API refuses one, and no session came by a pickle
    "loginonce.challenge", "loginonce.dpop", "loginonce.stores.handed", "loginonce.stores.bell", "secrets",
    # where logins are in files, no profile is named, and the provider is none that is known
    "loginonce.providers.facts", "loginonce.stores.keyring", "loginonce.stores.memory", "loginonce.stores.move",
    "loginonce.stores.redis", "loginonce.stores.sealed", "loginonce.stores.sql", "sqlite3", "tomllib",
}  # fmt: skip
"""Modules that take time to import, and that a first request with a valid token does not need.

Where requests imports one itself, at whatever version, it costs us nothing.
"""

EVERY = "; import sys; print(*sorted(sys.modules))"


def python(code: str, *options: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    here = {"PYTHONPATH": str(Path(loginonce.__file__).parents[1])}  # and not another installation
    environment = here | ({"LOGINONCE_HOME": str(home)} if home else {})
    return subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


def loaded(code: str, home: Path | None = None, listing: str = LIST) -> set[str]:
    return set(python(code + listing, home=home).stdout.split())


def signed_in(home: Path) -> str:
    """Save a login there, and return what makes a session of it."""
    key = GrantKey("https://id.example.org", "notebook")
    token = TokenSet(Secret("a"), time.time() - 1, time.time() + 3600, scope="openid")
    store = FileStore(home / "logins")
    store.commit(Grant(key, 1, refresh_token=Secret("r"), tokens=(token,), scope="openid"), expected=None)
    return f"from loginonce import Session; lab = Session({key.issuer!r}, client_id={key.client_id!r})"


@pytest.fixture
def api() -> Iterator[str]:
    """The address of an API that says yes."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers["Authorization"] == "Bearer a" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


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


def test_importing_the_session_loads_nothing_that_can_wait() -> None:
    of_requests = loaded("import requests", listing=EVERY)
    found = loaded("from loginonce import Session", listing=EVERY)
    assert "loginonce.source" in found
    assert (found - of_requests) & CAN_WAIT == set()


def test_a_first_request_with_a_valid_token_loads_nothing_that_can_wait(tmp_path: Path, api: str) -> None:
    plain = loaded(f"import requests; requests.get({api!r})", listing=EVERY)
    code = f"{signed_in(tmp_path)}; assert lab.get({api!r}).status_code == 200"
    found = loaded(code, tmp_path, EVERY)
    assert "loginonce.stores.file" in found
    assert (found - plain) & (CAN_WAIT | OPTIONAL_OR_LATE) == set()


def test_a_first_request_loads_nothing_from_elsewhere_that_requests_does_not(tmp_path: Path, api: str) -> None:
    plain = loaded(f"import requests; requests.get({api!r})")
    more = loaded(f"{signed_in(tmp_path)}; lab.get({api!r})", tmp_path) - plain - {"loginonce"}
    assert more - set(sys.stdlib_module_names) == set()


def test_signing_in_where_somebody_is_signed_in_loads_no_event_loop_and_nothing_that_draws(tmp_path: Path) -> None:
    # On a terminal, with somebody there.
    on_a_terminal = (
        "import io, os, pty, sys; os.environ['TERM'] = 'xterm';"
        "sys.stdin = sys.stderr = io.TextIOWrapper(open(pty.openpty()[1], 'r+b', 0), write_through=True)"
    )
    here = "from loginonce.environment import detect; assert detect().human"
    code = f"{on_a_terminal}; {here}; {signed_in(tmp_path)}; assert lab.login().renews"
    found = loaded(code, tmp_path, EVERY)
    assert "loginonce.login.signin" in found
    assert found & {"asyncio", "rich", "loginonce.terminal", "segno", "ipywidgets", "IPython", "webbrowser"} == set()


def test_using_a_cached_login_loads_no_more_than_importing_it(tmp_path: Path, of_requests: set[str]) -> None:
    home = tmp_path / "home"
    code = f"{signed_in(home)};assert lab.source.token().access_token == 'a';assert lab.account is not None"
    assert (loaded(code, home) - of_requests) & OPTIONAL_OR_LATE == set()
