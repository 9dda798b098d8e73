"""A machine with the core dependencies only: everything works that needs no extra, and the rest says so."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from loginonce.testing import FakeProvider

ROOT = Path(__file__).parents[2]
CORE = {"requests", "authlib", "platformdirs", "filelock"}
EXTRAS = [
    "IPython",
    "click",
    "flask",
    "ipywidgets",
    "segno",
    "rich",
    "redis",
    "sqlalchemy",
    "httpx",
    "keyring",
    "pytest",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Bare:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"

    def run(self, *arguments: str, home: Path | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {"LOGINONCE_HOME": str(home)} if home else {}
        done = subprocess.run(
            [str(self.python), *arguments],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    bare = Bare(folder)
    bare.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT))
    return bare


def test_no_extra_came_along(bare: Bare) -> None:
    code = f"import importlib.util as u; print([n for n in {EXTRAS} if u.find_spec(n)])"
    assert bare.run("-c", code).stdout.strip() == "[]"


def test_importing_it_works_and_is_silent(bare: Bare) -> None:
    run = bare.run("-W", "error", "-c", "import loginonce")
    assert (run.stdout, run.stderr) == ("", "")


def test_the_types_are_shipped(bare: Bare) -> None:
    code = "import loginonce, pathlib; print((pathlib.Path(loginonce.__file__).parent / 'py.typed').is_file())"
    assert bare.run("-c", code).stdout.strip() == "True"


def test_a_login_is_made_used_renewed_and_ended(bare: Bare, fake_provider: FakeProvider, tmp_path: Path) -> None:
    fake_provider.access_token_lifetime = 1
    code = f"""
import time, loginonce
lab = loginonce.Session({fake_provider.issuer!r}, client_id={fake_provider.public_client_id!r})
assert lab.login(tokens={fake_provider.issue()!r}).name == "Ada Lovelace"
time.sleep(1.1)
assert lab.get({fake_provider.api("/runs")!r}).status_code == 200
assert lab.logout().revoked
"""
    bare.run("-W", "error", "-c", code, home=tmp_path / "home")
    assert fake_provider.stats.refreshes == 1


def test_the_command_says_what_is_missing(bare: Bare) -> None:
    run = bare.run("-c", "from loginonce.cli import main; main([])", ok=False)
    assert run.returncode == 1
    assert "loginonce[cli]" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_fake_provider_says_what_is_missing(bare: Bare) -> None:
    run = bare.run("-c", "from loginonce.testing import FakeProvider", ok=False)
    assert run.returncode == 1
    assert "flask" in run.stderr.lower()


def test_the_card_says_what_is_missing(bare: Bare) -> None:
    run = bare.run("-c", "import loginonce.notebook; from loginonce.notebook import LoginWidget", ok=False)
    assert run.returncode == 1
    assert "pip install 'loginonce[notebook]'" in run.stderr.splitlines()[-1]
