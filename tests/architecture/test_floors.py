"""The floors hold: who imports whom, and what the lower ones may know of."""

import ast
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

import loginonce

ROOT = Path(__file__).parents[2]
PACKAGE = Path(loginonce.__file__).parent
PURE = (
    "errors", "address", "claims", "model", "providers/__init__", "providers/facts", "record", "wire", "idtoken",
    "authentication", "challenge", "dpop", "exchange", "introspection", "manners", "metadata", "pushed", "registration",
    "refresh", "value",
)  # fmt: skip
LOW = (
    *PURE, "transport", "home", "log", "text", "backend", "client", "gate", "source", "watch", "derived", "register",
    "stores/__init__", "stores/base", "stores/file", "stores/locks", "stores/memory",
)  # fmt: skip

CALCULATES = {
    "__future__", "base64", "collections", "dataclasses", "datetime", "email", "functools", "hashlib", "html",
    "ipaddress", "json", "math", "re", "typing", "urllib", "warnings",
}  # fmt: skip
"""What the pure floor may import of the standard library: nothing that reads, writes, waits or rolls dice."""


def source(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text("utf-8")


def imports(module: str) -> set[str]:
    """The top-level packages that a module imports, at any depth of its code; relative ones are left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def optional_dependencies() -> set[str]:
    """The names in the extras; those of the core, and of the tests, are none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {
        extra: {re.split(r"[^A-Za-z0-9_-]", wanted)[0].lower() for wanted in listed}
        for extra, listed in {"": project["dependencies"], **project["optional-dependencies"]}.items()
    }
    core = names.pop("")
    return set().union(*(names[extra] for extra in names.keys() - {"test", "dev"})) - core - {"loginonce"}


def test_no_module_imports_from_a_higher_floor() -> None:
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    run = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"Contracts: [3-9]\d* kept, 0 broken", run.stdout)


@pytest.mark.parametrize("module", PURE)
def test_the_pure_floor_only_calculates(module: str) -> None:
    assert imports(module) <= CALCULATES | {"authlib", "joserfc"}


@pytest.mark.parametrize("module", PURE)
def test_the_pure_floor_asks_for_no_time_and_opens_nothing(module: str) -> None:
    called = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(source(module))) if isinstance(node, ast.Call)
    }  # fmt: skip
    names = {name.rpartition(".")[2] for name in called}
    assert not names & {"open", "print", "input", "now", "today", "utcnow", "time", "monotonic", "sleep", "getenv"}


def test_there_are_optional_dependencies_to_look_for() -> None:
    assert {"click", "rich", "flask"} <= optional_dependencies()


@pytest.mark.parametrize("module", LOW)
def test_no_lower_floor_mentions_an_optional_dependency(module: str) -> None:
    written = re.sub(r"[a-z0-9+]+://", "", source(module).lower())  # an address of a store is advice, not a dependency
    assert not set(re.findall(r"[a-z0-9_]+", written)) & optional_dependencies()


def test_every_module_of_the_lower_floors_is_in_this_list() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")}
    higher = {
        "__init__",
        "environment",
        "assembly",
        "session",
        "bearer",
        "proxies",
        "config",
        "standing",
        "terminal",
        "cli",
        "magics",
    }
    assert top - higher == {module for module in LOW if "/" not in module}


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_top_level_of_the_repository_holds_what_it_should_and_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a git checkout")
    seen = {line.partition("/")[0] for line in tracked.splitlines()}
    assert {name for name in seen if not name.startswith(".")} <= {
        "pyproject.toml",
        "README.md",
        "notebooks",
        "sdk",
        "tests",
    }
