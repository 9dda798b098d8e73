"""`%load_ext loginonce`: `%login`, `%logout` and `%login_status` in IPython and notebooks.

Without an argument they mean the one session among the notebook's names; else the profile in LOGINONCE_PROFILE.
"""

from __future__ import annotations

import os
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from .errors import ConfigurationError
from .model import Account
from .session import Session

__all__ = ["LoginMagics", "load", "unload"]

NAMES = ("login", "logout", "login_status")


@magics_class
class LoginMagics(Magics):
    """The three of them."""

    @magic_arguments()
    @argument("session", nargs="?", help="the name of a session in this notebook, or of a profile")
    @argument("--force", action="store_true", help="ask even if somebody is signed in")
    @argument("--flow", choices=["browser", "device", "paste"], help="the way to sign in (default: what fits)")
    @line_magic
    def login(self, line: str) -> Account:
        """Be signed in: at once where any program of yours is, else by a link and a code."""
        given = parse_argstring(self.login, line)
        return self._session(given.session).login(given.flow, force=given.force)

    @magic_arguments()
    @argument("session", nargs="?", help="the name of a session in this notebook, or of a profile")
    @line_magic
    def logout(self, line: str) -> None:
        """Sign out, in every program that shares the login."""
        session = self._session(parse_argstring(self.logout, line).session)
        if session.account is None:
            print(f"Nobody was signed in to {session.source.key}.")
            return
        done = session.logout()
        print(
            f"Signed out of {session.source.key.issuer}{'' if done.revoked else ' (here; it was not revoked there)'}."
        )

    @magic_arguments()
    @argument("session", nargs="?", help="the name of a session in this notebook, or of a profile")
    @line_magic
    def login_status(self, line: str) -> None:
        """Show who is signed in.  Nobody is asked."""
        session = self._session(parse_argstring(self.login_status, line).session)
        account = session.account
        plain = (
            f"{account!r} at {session.source.key.issuer}" if account else f"nobody is signed in to {session.source.key}"
        )
        display({"text/html": session._repr_html_(), "text/plain": plain}, raw=True)

    def _session(self, named: str | None) -> Session:
        assert self.shell is not None
        names: dict[str, Any] = self.shell.user_ns
        try:
            if named is not None:
                there = names.get(named)
                return there if isinstance(there, Session) else Session(named)
            sessions: dict[int, tuple[str, Session]] = {
                id(value): (name, value) for name, value in names.items() if _is_theirs(name, value)
            }
            if len(sessions) == 1:
                ((_, session),) = sessions.values()
                return session
            if sessions:
                found = ", ".join(sorted(name for name, _ in sessions.values()))
                raise UsageError(f"there are several sessions here; say which: {found}")
            if os.environ.get("LOGINONCE_PROFILE"):
                return Session()
        except ConfigurationError as error:
            raise UsageError(str(error)) from None
        raise UsageError(
            "there is no session here: make one (lab = loginonce.Session(…)), or name a profile: %login PROFILE"
        )


def _is_theirs(name: str, value: object) -> bool:
    return isinstance(value, Session) and not name.startswith("_")  # _ and _3 are results of cells


def load(shell: InteractiveShell) -> None:
    """Add the magics."""
    shell.register_magics(LoginMagics)


def unload(shell: InteractiveShell) -> None:
    """Take them away."""
    for name in NAMES:
        shell.magics_manager.magics["line"].pop(name, None)
