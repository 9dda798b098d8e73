"""Log in once: every notebook, script and process stays signed in.

import loginonce
lab = loginonce.Session("https://id.example.org/realms/lab", client_id="notebook",
                        scope="openid offline_access")
lab.login()
lab.get("https://api.example.org/runs").json()
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:
    from .client import LoggedOut
    from .errors import (
        ConfigurationError,
        CorruptStore,
        ErrorResponse,
        InvalidGrant,
        LockTimeout,
        LoginFailed,
        LoginonceError,
        LoginRequired,
        ProtocolError,
        SealError,
        StepUpRequired,
        StoreError,
        TransportError,
    )
    from .exchange import ExchangedToken
    from .introspection import LoginCheck
    from .model import Account, AuthorizationServer, Change, Client, Grant, TokenSet
    from .refresh import Policy
    from .session import Session
    from .source import LoginSource, TokenSource
    from .stores.base import TokenStore
    from .stores.file import FileStore
    from .stores.keyring import KeyringStore
    from .stores.memory import MemoryStore
    from .stores.sealed import SealedStore

__all__ = [
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

_MODULES = {
    "Account": "model",
    "AuthorizationServer": "model",
    "Change": "model",
    "Client": "model",
    "ConfigurationError": "errors",
    "CorruptStore": "errors",
    "ErrorResponse": "errors",
    "ExchangedToken": "exchange",
    "FileStore": "stores.file",
    "Grant": "model",
    "InvalidGrant": "errors",
    "KeyringStore": "stores.keyring",
    "LockTimeout": "errors",
    "LoggedOut": "client",
    "LoginCheck": "introspection",
    "LoginFailed": "errors",
    "LoginRequired": "errors",
    "LoginSource": "source",
    "LoginonceError": "errors",
    "MemoryStore": "stores.memory",
    "Policy": "refresh",
    "ProtocolError": "errors",
    "SealError": "errors",
    "SealedStore": "stores.sealed",
    "Session": "session",
    "StepUpRequired": "errors",
    "StoreError": "errors",
    "TokenSet": "model",
    "TokenSource": "source",
    "TokenStore": "stores.base",
    "TransportError": "errors",
}
"""Where each name is at home.  It is imported when it is first asked for: who uses a part does not pay for all."""


def __getattr__(name: str) -> _typing.Any:
    if name in _MODULES:
        found = globals()[name] = getattr(_import_module(f".{_MODULES[name]}", __name__), name)
        return found
    if name in {module.partition(".")[0] for module in _MODULES.values()}:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: _typing.Any) -> None:
    """`%load_ext loginonce`: the magics `%login`, `%logout`, `%login_status`."""
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: _typing.Any) -> None:
    """`%unload_ext loginonce`."""
    from .magics import unload

    unload(shell)
