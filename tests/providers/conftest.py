"""Real authorization servers, as fixtures.

`oidc_provider` is npm's oidc-provider, running as a process of its own (`oidc_provider/server.mjs`).
One process serves the whole run; each test gets it emptied, with its counts at zero and its settings
as they were. A test that needs its own, or a module that keeps one login, calls `start_oidc_provider`.

`keycloak` is Keycloak (`keycloak.py`). One process serves the whole run, too; each test gets a person and
clients of its own.

A laptop without node, or without Java and Maven, skips these tests and says why; a run with `CI` set fails
instead, since nobody reads the skips there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import filelock
import pytest
import requests
from browser import Person
from desk import AtTheScreen
from keycloak import Keycloak, Missing, Server

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))  # where `crowd` is
sys.path.insert(0, str(Path(__file__).parents[1] / "services"))  # where `scripted` is

from crowd import Crowd, Launcher
from relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE: Final = Path(__file__).parent
SERVER: Final = HERE / "oidc_provider"
INSTALL_SECONDS: Final = 180.0
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0


def needs(reason: str) -> NoReturn:
    """This machine lacks what a real server needs: skip, or fail where a skip would go unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.real)  # pytest asks a folder's conftest about the tests of that folder alone
    item.add_marker(pytest.mark.timeout(func_only=True))  # a server that is installed and started has limits of its own


class OidcProvider:
    """A running oidc-provider, and the administrator's view of it.

    `settings` and their defaults stand at the top of `server.mjs`: `access_token_ttl`,
    `refresh_token_ttl`, `device_code_ttl` (seconds), `rotation`, `id_token_claims`, `redirect_uris`,
    `token_delay` (seconds), `drop_token_answers` (how many refreshes lose their answer), `dpop_nonces`,
    `clients` (more of them, by their metadata), `tls` (for clients with certificates).

    `process` is the server's process; `issuer` is its URL.
    """

    client_id: Final = "notebook"  # public: code, device, refresh; any port at http://127.0.0.1/callback
    bound_client_id: Final = "bound"  # the same, but for its tokens, which it gets only with a DPoP proof
    post_logout_redirect_uri: Final = "http://127.0.0.1/signed-out"  # any port, too
    service_client_id: Final = "service"  # confidential: client_credentials, by HTTP Basic
    service_client_secret: Final = "service-secret-for-the-tests-only"

    def __init__(self, log: Path, **settings: Any) -> None:
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                ["node", "server.mjs", json.dumps(settings)],
                cwd=SERVER,
                stdin=subprocess.PIPE,  # the server lives as long as we hold this open
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        too_late = threading.Timer(START_SECONDS, self.process.kill)
        too_late.start()
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        finally:
            too_late.cancel()
        if not line:
            self.stop()
            pytest.fail(f"oidc-provider did not start:\n{log.read_text()}")
        self.issuer: str = json.loads(line)["issuer"]

    def __repr__(self) -> str:
        return f"OidcProvider({self.issuer!r})"

    def metadata(self) -> dict[str, Any]:
        """The provider's own OpenID configuration."""
        return self._ask("GET", "/.well-known/openid-configuration")

    def api(self, path: str = "anything") -> str:
        """The URL of a protected resource; any path, method and body will do.

        Answers 200 with `subject, client_id, scope, method, bytes` (bytes: of the body received), or
        401 with a Bearer challenge.
        """
        return f"{self.issuer}/api/{path.lstrip('/')}"

    def stats(self) -> dict[str, Any]:
        """What the server has counted since it was reset.

        `token_requests`, `refreshes_ok`, `refusals` (all errors of the token end point but pending),
        `refusals_by_error`, `replays` (a spent refresh token presented, or one presented twice at a
        time), `dropped`, `revocations`, `api_ok`, `api_401`, `api_nonces` and `token_nonces` (requests that
        were refused for the nonce in their proof, and are not among the others).
        """
        return self._ask("GET", "/_test/stats")

    def reset(self, *, everything: bool = False) -> None:
        """Counts to zero; with `everything`, all logins forgotten and all settings as at the start."""
        self._ask("POST", "/_test/reset", everything=everything)

    def configure(self, **settings: Any) -> None:
        """Change settings of the running server; what it has issued already keeps its lifetime."""
        self._ask("POST", "/_test/config", **settings)

    def end_session(self, account: str | None = None) -> None:
        """An administrator ends everything of one account, or of all: sessions, grants, tokens."""
        self._ask("POST", "/_test/end_session", **({"account": account} if account else {}))

    def renew_nonces(self) -> None:
        """The API wants another nonce from now on."""
        self._ask("POST", "/_test/renew_nonces")

    def revoke_access_tokens(self, account: str | None = None) -> None:
        """Access tokens die and nobody is told; refresh tokens stay good."""
        self._ask("POST", "/_test/revoke_access_tokens", **({"account": account} if account else {}))

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(method, self.issuer + path, json=body or None, timeout=10)
        answer.raise_for_status()
        members: dict[str, Any] = answer.json()
        return members


def _installed() -> bool:
    wanted = json.loads((SERVER / "package.json").read_text())["dependencies"]["oidc-provider"]
    try:
        found = json.loads((SERVER / "node_modules/oidc-provider/package.json").read_text())["version"]
    except (OSError, ValueError):
        return False
    return bool(found == wanted)


def _install() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            needs(f"oidc-provider runs on node, and there is no {program} here")
    # oidc-provider asks for node 22 and runs on any that has this function.
    modern = ["node", "--eval", "process.exit(typeof URL.parse === 'function' ? 0 : 1)"]
    if subprocess.run(modern, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        needs("oidc-provider needs node 22, or a late node 20")
    place = hashlib.sha256(str(SERVER).encode()).hexdigest()[:16]
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"oidc-provider-{place}.lock"):
        if _installed():
            return
        try:
            npm = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--no-package-lock"],
                cwd=SERVER,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            needs(f"npm did not install oidc-provider in {INSTALL_SECONDS:.0f} s")
        if npm.returncode != 0 or not _installed():
            needs(f"npm could not install oidc-provider:\n{npm.stderr}")


@pytest.fixture(scope="session")
def start_oidc_provider(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., OidcProvider]]:
    """Start one more oidc-provider with these settings; it is stopped at the end of the run."""
    _install()
    logs = tmp_path_factory.mktemp("oidc-provider")
    started: list[OidcProvider] = []

    def start(**settings: Any) -> OidcProvider:
        provider = OidcProvider(logs / f"{len(started)}.log", **settings)
        started.append(provider)
        return provider

    yield start
    for provider in started:
        provider.stop()


@pytest.fixture(scope="session")
def _shared_oidc_provider(start_oidc_provider: Callable[..., OidcProvider]) -> OidcProvider:
    return start_oidc_provider()


@pytest.fixture
def oidc_provider(_shared_oidc_provider: OidcProvider) -> OidcProvider:
    """A real authorization server that nobody has logged in to yet."""
    _shared_oidc_provider.reset(everything=True)
    return _shared_oidc_provider


@pytest.fixture
def person() -> Person:
    """Ada, at a browser that has never seen the provider."""
    return Person("ada")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, person: Person) -> Iterator[AtTheScreen]:
    """Where prompts of this process appear; Ada agrees to each unless the test says otherwise."""
    screen = AtTheScreen()
    screen.act = lambda prompt: person.open_authorization(prompt.url)
    monkeypatch.setattr("loginonce.session.presenter_here", lambda *_: screen)
    yield screen
    screen.leave()


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def crowd_at(launcher: Launcher, loginonce_home: Path) -> Iterator[Callable[..., Crowd]]:
    """Gather processes that share the folder of logins; what is given by name goes into each one's `Session`."""
    crowds: list[Crowd] = []

    def gather(**session: Any) -> Crowd:
        crowds.append(Crowd(launcher, loginonce_home, **session))
        return crowds[-1]

    yield gather
    for crowd in crowds:
        crowd.close()


@pytest.fixture(scope="session")
def keycloak_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Keycloak for the whole run."""
    try:
        server = Server(tmp_path_factory.mktemp("keycloak") / "server.log")
    except Missing as missing:
        needs(str(missing))
    yield server
    server.stop()


@pytest.fixture
def keycloak(keycloak_server: Server) -> Keycloak:
    """A realm of a real Keycloak with a person and clients that no other test knows."""
    return Keycloak(keycloak_server)


@pytest.fixture
def relay(keycloak_server: Server) -> Iterator[Relay]:
    """What stands in front of Keycloak, and can lose its answers."""
    with Relay(keycloak_server.url) as relay:
        yield relay


@pytest.fixture
def relayed_keycloak(keycloak_server: Server, relay: Relay) -> Keycloak:
    """As `keycloak`, by way of `relay`."""
    return Keycloak(keycloak_server, url=relay.url)
