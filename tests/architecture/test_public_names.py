"""What `loginonce` offers by name, and that each name says what it is."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import loginonce

NAMES = [
    "Account",
    "AuthorizationServer",
    "Change",
    "Client",
    "ConfigurationError",
    "CorruptStore",
    "ErrorResponse",
    "ExchangedToken",
    "FileStore",
    "Grant",
    "InvalidGrant",
    "KeyringStore",
    "LockTimeout",
    "LoggedOut",
    "LoginCheck",
    "LoginFailed",
    "LoginRequired",
    "LoginSource",
    "LoginonceError",
    "MemoryStore",
    "Policy",
    "ProtocolError",
    "SealError",
    "SealedStore",
    "Session",
    "StepUpRequired",
    "StoreError",
    "TokenSet",
    "TokenSource",
    "TokenStore",
    "TransportError",
]


HOOKS = {"load_ipython_extension", "unload_ipython_extension"}
"""What IPython looks for in a package; nothing for people."""

PACKAGE = Path(loginonce.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)


def test_the_public_names_are_these() -> None:
    assert loginonce.__all__ == NAMES


def test_nothing_else_lies_about_in_the_package() -> None:
    found = {
        name for name in dir(loginonce) if not name.startswith("_") and not inspect.ismodule(getattr(loginonce, name))
    }
    assert found == set(NAMES) | HOOKS


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_stands_for_something_of_its_own(name: str) -> None:
    value = getattr(loginonce, name)
    assert value.__module__.startswith("loginonce.")
    assert value.__name__ == name


def in_a_new_process(code: str) -> str:
    # Here all of it has been imported by other tests.
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout


def test_all_names_can_be_had_at_once_by_a_star() -> None:
    assert in_a_new_process(f"from loginonce import *; print(all(map(globals().get, {NAMES})))") == "True\n"


@pytest.mark.parametrize("name", ["errors", "model", "refresh", "session", "source", "stores"])
def test_the_modules_that_the_names_are_from_need_no_import_of_their_own(name: str) -> None:
    assert in_a_new_process(f"import loginonce; print(loginonce.{name}.__name__)") == f"loginonce.{name}\n"


def test_a_name_that_is_not_there_is_told_of_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'loginonce' has no attribute 'Sesion'"):
        _ = loginonce.Sesion


def undocumented(module: ModuleType) -> list[str]:
    missing = [] if module.__doc__ else [module.__name__]
    public = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in public:
        value: Any = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__ != module.__name__:
            continue
        written = value.__doc__ or ""
        # A dataclass without a docstring is given its signature as one, a named tuple its fields.
        if not written.strip() or written.startswith(f"{name}("):
            missing.append(f"{module.__name__}.{name}")
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_every_public_class_and_function_says_what_it_is(name: str) -> None:
    assert undocumented(importlib.import_module(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_public_method_says_what_it_does(name: str) -> None:
    owner = getattr(loginonce, name)
    methods = inspect.getmembers(owner, lambda member: inspect.isfunction(member) or isinstance(member, property))
    own = [
        (method, value)
        for method, value in methods
        if not method.startswith("_") and str(getattr(value, "__module__", "loginonce")).startswith("loginonce")
    ]
    assert [method for method, value in own if not inspect.getdoc(value)] == []
