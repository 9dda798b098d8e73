"""Log in once: every notebook, script and process stays signed in.

import loginonce
lab = loginonce.Session("https://id.example.org/realms/lab", client_id="notebook",
                        scope="openid offline_access")
lab.login()
lab.get("https://api.example.org/runs").json()
"""

from typing import Any as _Any

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
from .session import LoggedOut, Session
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


def load_ipython_extension(shell: _Any) -> None:
    """`%load_ext loginonce`: the magics `%login`, `%logout`, `%login_status`."""
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: _Any) -> None:
    """`%unload_ext loginonce`."""
    from .magics import unload

    unload(shell)
