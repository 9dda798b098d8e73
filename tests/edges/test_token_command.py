"""`loginonce token` is run without click where its command line is a plain one: nobody can tell, but by the time."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from loginonce import FileStore, Grant, LoginFailed, TokenSet
from loginonce.cli import main
from loginonce.cli.token import asked
from loginonce.model import Failure, GrantKey, Marker, Secret
from loginonce.testing import FakeProvider

KEY = GrantKey("https://id.example.org", "notebook")
NOBODY_THERE = "http://127.0.0.1:9"
API = "https://api.example.org"
PROFILE = f'[profiles.lab]\nissuer = "{KEY.issuer}"\nclient_id = "{KEY.client_id}"\n'
SECOND = '[profiles.other]\nissuer = "https://other.example.org"\nclient_id = "x"\n'


class Told(NamedTuple):
    """How a command ended, and what it said."""

    code: object
    out: str
    err: str


@pytest.fixture
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name != "LOGINONCE_HOME"]:
        monkeypatch.delenv(name)
    logger = logging.getLogger("loginonce")
    kept = logger.handlers[:], logger.level, logger.propagate
    (loginonce_home / "config.toml").write_text(PROFILE)
    yield loginonce_home
    logger.handlers[:], logger.propagate = kept[0], kept[2]
    logger.setLevel(kept[1])


@pytest.fixture
def one_way(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Run a command line in a copy of the home: as it is run, or by click alone."""
    copies = iter(range(1000))

    def run(*arguments: str, by_click: bool) -> Told:
        copy = home.parent / f"copy-{next(copies)}"
        shutil.copytree(home, copy)
        with monkeypatch.context() as patched:
            patched.setenv("LOGINONCE_HOME", str(copy))
            patched.setattr("sys.stdout", sys.stdout)  # click leaves another where its reader has gone
            if by_click:
                patched.setattr("loginonce.cli.token.asked", lambda _: None)
            with pytest.raises(SystemExit) as end:
                main(arguments)
        out, err = (re.sub(r"broken-[0-9]+", "broken", said.replace(str(copy), "HOME")) for said in capsys.readouterr())
        return Told(end.value.code, out, err)

    return run


@pytest.fixture
def by_both(one_way: Callable[..., Told]) -> Callable[..., Told]:
    """By both ways, which must agree."""

    def both(*arguments: str) -> Told:
        ours = one_way(*arguments, by_click=False)
        assert ours == one_way(*arguments, by_click=True)
        return ours

    return both


def a_token(*, ends_in: float = 3600.0, resource: str = "", for_scope: str = "") -> TokenSet:
    now = time.time()
    text = f"token{resource}{for_scope}"
    return TokenSet(Secret(text), now - 100, now + ends_in, scope="openid", resource=resource, for_scope=for_scope)


def keep(home: Path, **members: object) -> None:
    """A login that is signed in, but for these members."""
    usual = {"refresh_token": Secret("r"), "tokens": (a_token(),), "scope": "openid", "key": KEY, "epoch": 1}
    FileStore(home / "logins").commit(Grant(**{**usual, **members}), expected=None)  # type: ignore[arg-type]


def _valid(home: Path) -> None:
    keep(home, tokens=(a_token(), a_token(resource=API), a_token(for_scope="openid")), resources=(API,))
    keep(home, key=replace(KEY, account="bob"), tokens=(replace(a_token(), access_token=Secret("bob's")),))


def _nobody(home: Path) -> None:
    shutil.rmtree(home / "logins", ignore_errors=True)


def _logged_out(home: Path) -> None:
    keep(home, state="LOGGED_OUT", tokens=(), refresh_token=None)


def _dead(home: Path) -> None:
    keep(home, state="DEAD", tokens=(), refresh_token=None, failure=Failure("f", "refused", "no longer good"))


def _moved(home: Path) -> None:
    keep(home, state="LOGGED_OUT", tokens=(), refresh_token=None, failure=Failure("", "moved", "file:/elsewhere"))


def _run_out(home: Path) -> None:
    keep(home, tokens=(a_token(ends_in=-1),), refresh_token=None, renewal="none")


def _lost(home: Path) -> None:
    marker = Marker("f", "n", "owner", time.time() - 600, 0.0, sends=3)
    keep(home, state="SPENDING", tokens=(), marker=marker)


def _less_scope(home: Path) -> None:
    keep(home)
    (home / "config.toml").write_text(f'{PROFILE}scope = "openid mail"\n')


def _unreachable(home: Path) -> None:
    keep(home, key=GrantKey(NOBODY_THERE, "notebook"), tokens=())
    (home / "config.toml").write_text(f'[profiles.lab]\nissuer = "{NOBODY_THERE}"\nclient_id = "notebook"\n')


def _damaged(home: Path) -> None:
    keep(home)
    (file,) = (home / "logins").glob("*.login")
    file.write_bytes(file.read_bytes()[:-10])


def _open_to_others(home: Path) -> None:
    keep(home)
    (file,) = (home / "logins").glob("*.login")
    file.chmod(0o644)


def _folder_open_to_others(home: Path) -> None:
    keep(home)
    (home / "logins").chmod(0o755)


def _newer(home: Path) -> None:
    keep(home)
    (file,) = (home / "logins").glob("*.login")
    file.write_bytes(file.read_bytes().replace(b"loginonce 1", b"loginonce 7"))


def _odd_type(home: Path) -> None:
    keep(home, tokens=(replace(a_token(), token_type="MAC"),))


def _bound(home: Path) -> None:
    keep(home, tokens=(replace(a_token(), token_type="DPoP"),), dpop_key=Secret("{}"))


def _warned_of(home: Path) -> None:
    keep(home)
    (home / "config.toml").write_text(f'{PROFILE}client_secret = "hush"\n')
    (home / "config.toml").chmod(0o644)


def _two_profiles(home: Path) -> None:
    keep(home)
    (home / "config.toml").write_text(PROFILE + SECOND)


def _no_profile(home: Path) -> None:
    keep(home)
    (home / "config.toml").unlink()


def _no_toml(home: Path) -> None:
    keep(home)
    (home / "config.toml").write_text("[profiles.lab\n")


def _unknown_member(home: Path) -> None:
    keep(home)
    (home / "config.toml").write_text(f'{PROFILE}colour = "blue"\n')


def _unknown_store(home: Path) -> None:
    (home / "config.toml").write_text(f'{PROFILE}store = "floppy:/a"\n')


def _sealed(home: Path) -> None:
    keep(home, sealed="elsewhere", tokens=(), refresh_token=None)


STATES: dict[Callable[[Path], None], tuple[int, str, str]] = {
    _valid: (0, "token\n", ""),
    _nobody: (4, "", "nobody is signed in"),
    _logged_out: (4, "", "signed out"),
    _dead: (4, "", "ended at the provider"),
    _moved: (4, "", "moved to file:/elsewhere"),
    _run_out: (4, "", "has run out"),
    _lost: (4, "", "may have been used up"),
    _less_scope: (4, "", "does not cover"),
    _unreachable: (5, "", "could not be renewed"),
    _damaged: (1, "", "was damaged"),
    _open_to_others: (1, "", "chmod 600"),
    _folder_open_to_others: (1, "", "chmod 700"),
    _newer: (1, "", "newer version"),
    _odd_type: (1, "", "cannot be used here"),
    _bound: (0, "token\n", "bound to a key"),
    _warned_of: (0, "token\n", "holds a secret and is open"),
    _two_profiles: (0, "token\n", ""),
    _no_profile: (2, "", "no profile 'lab'"),
    _no_toml: (2, "", "not valid TOML"),
    _unknown_member: (2, "", "colour"),
    _unknown_store: (2, "", "not a store"),
    _sealed: (1, "", "sealed"),
}

PLAIN = (
    ["token"],
    ["token", "lab"],
    ["token", "nope"],
    ["token", KEY.issuer],
    ["token", "lab", "--account", "bob"],
    ["token", "--account=bob", "lab"],
    ["token", "--resource", API],
    ["token", "--resource=https://another.example.org", "lab"],
    ["token", "lab", "--for-scope", "openid"],
    ["token", "lab", "--for-scope", "mail openid"],
)
ODD = (
    [],
    ["--version"],
    ["--help"],
    ["tokens"],
    ["status", "lab"],
    ["--help", "token"],
    ["token", "-h"],
    ["token", "lab", "--help"],
    ["token", "lab", "other"],
    ["token", "--json"],
    ["token", "--account"],
    ["token", "lab", "--account"],
    ["token", "--account="],
    ["token", "--account", ""],
    ["token", "--account", "--resource"],
    ["token", "--account", "a", "--account", "bob"],
    ["token", "--acc", "bob"],
    ["token", "--account bob"],
    ["token", ""],
    ["token", "-"],
    ["token", "--", "lab"],
    ["token", "--", "--account"],
)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__[1:])
def test_whatever_state_a_login_is_in_the_command_says_the_same_by_both_ways(
    home: Path, by_both: Callable[..., Told], state: Callable[[Path], None]
) -> None:
    state(home)
    told = {tuple(arguments): by_both(*arguments) for arguments in PLAIN}
    code, out, said = STATES[state]
    of_lab = told["token", "lab"]
    assert (of_lab.code, of_lab.out) == (code, out)
    assert said in of_lab.err
    assert bool(of_lab.err) == bool(said)


def test_the_options_choose_among_the_tokens_by_both_ways(home: Path, by_both: Callable[..., Told]) -> None:
    _valid(home)
    assert by_both("token", "lab", "--account", "bob") == (0, "bob's\n", "")
    assert by_both("token", f"--resource={API}") == (0, f"token{API}\n", "")
    assert by_both("token", "--for-scope", "openid") == (0, "tokenopenid\n", "")


@pytest.mark.parametrize("arguments", ODD, ids=" ".join)
def test_any_other_command_line_is_for_click(home: Path, by_both: Callable[..., Told], arguments: list[str]) -> None:
    _valid(home)
    assert asked(arguments) is None
    by_both(*arguments)


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_a_plain_command_line_is_not_for_click(arguments: list[str]) -> None:
    assert asked(arguments) is not None


def test_what_click_would_expand_on_windows_is_for_click() -> None:
    assert asked(["token", "~/lab"]) is None
    assert asked(["token", "--account", "%USERNAME%"]) is None


def test_a_shell_that_asks_for_completions_asks_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LOGINONCE_COMPLETE", "bash_complete")
    assert asked(["token", "lab"]) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"LOGINONCE_PROFILE": "lab"},
        {"LOGINONCE_PROFILE": "nope"},
        {"LOGINONCE_ISSUER": KEY.issuer, "LOGINONCE_CLIENT_ID": KEY.client_id},
        {"LOGINONCE_ISSUER": KEY.issuer},
        {"LOGINONCE_ISSUER": KEY.issuer, "LOGINONCE_CLIENT_ID": KEY.client_id, "LOGINONCE_ACCOUNT": "bob"},
        {"LOGINONCE_PROFILE": "lab", "LOGINONCE_STORE": "memory:"},
        {"LOGINONCE_PROFILE": "lab", "LOGINONCE_STORE": "floppy:/a"},
        {"LOGINONCE_PROFILE": "lab", "LOGINONCE_SCOPE": "openid mail"},
    ],
    ids=" ".join,
)
def test_what_the_environment_says_counts_alike_by_both_ways(
    home: Path, by_both: Callable[..., Told], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    _valid(home)
    (home / "config.toml").write_text(PROFILE + SECOND)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for arguments in PLAIN:
        by_both(*arguments)


@pytest.mark.parametrize("by_click", [False, True])
def test_a_token_that_has_ended_is_renewed_by_either_way(
    home: Path, one_way: Callable[..., Told], fake_provider: FakeProvider, by_click: bool
) -> None:
    client_id, issued = fake_provider.public_client_id, fake_provider.issue()
    (home / "config.toml").write_text(f'[profiles.lab]\nissuer = "{fake_provider.issuer}"\nclient_id = "{client_id}"\n')
    keep(home, key=GrantKey(fake_provider.issuer, client_id), tokens=(), refresh_token=Secret(issued["refresh_token"]))
    fake_provider.reset_stats()
    told = one_way("token", "lab", by_click=by_click)
    assert (told.code, told.err, fake_provider.stats.refreshes) == (0, "", 1)
    assert told.out.strip() in fake_provider.state._access_tokens


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (KeyboardInterrupt(), 130),
        (EOFError(), 130),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), 1),
        (ValueError("a secret"), 1),
        (LoginFailed("nobody answered", outcome="no_human", hint="Do this"), 4),
        (LoginFailed("cancelled", outcome="cancelled"), 130),
        (SystemExit(7), 7),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_goes_wrong_is_told_alike_by_both_ways(
    home: Path,
    by_both: Callable[..., Told],
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("loginonce.cli.token.source_of", fail)
    told = by_both("token", "lab")
    assert (told.code, told.out) == (code, "")
    assert "a secret" not in told.err


def test_without_click_a_token_that_is_there_is_printed_all_the_same(home: Path) -> None:
    _valid(home)
    script = "import sys; sys.modules['click'] = None; from loginonce.cli import main; main(['token', 'lab'])"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "token\n", "")


def test_a_token_that_is_there_is_printed_without_click_and_requests(home: Path) -> None:
    _valid(home)
    script = (
        "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr));"
        "from loginonce.cli import main; main(['token', 'lab'])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30)
    assert done.stdout == "token\n"
    loaded = set(json.loads(done.stderr))
    assert (
        loaded & {"click", "requests", "urllib3", "http.client", "email", "dataclasses", "asyncio", "inspect"} == set()
    )
