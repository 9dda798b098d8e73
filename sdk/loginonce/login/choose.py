"""Which way of signing in fits: what was asked for, then where we run, then what the provider offers."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, cast, get_args

from ..environment import Environment
from ..errors import ConfigurationError, LoginFailed
from ..model import AuthorizationServer

__all__ = ["FlowName", "choose", "require_typist"]

FlowName: TypeAlias = Literal["browser", "device", "paste"]


def choose(explicit: str | None, server: AuthorizationServer, here: Environment, *, command: str) -> FlowName:
    """The name of the flow.

    `explicit` comes before `LOGINONCE_FLOW`; else a browser where one can be shown, a device code everywhere
    remote, and the address pasted back where the provider has no device codes.  Raises `LoginFailed` where
    nobody could answer, or see the question: `command` is what that person is told to run in a terminal.
    """
    named = explicit or os.environ.get("LOGINONCE_FLOW") or None
    _require_page(here, command)
    if named is not None:
        if named not in get_args(FlowName):
            raise ConfigurationError(f"{named!r} is not a way to sign in: choose browser, device or paste")
        return cast("FlowName", named)
    if not here.human:
        raise LoginFailed(
            "a sign-in is needed, and nobody is here to do it",
            outcome="no_human",
            hint=(
                f"Run in a terminal: {command} — every program of yours uses that login.  For a service, give it a "
                "client of its own: Session(…, client_secret=…, grant='client_credentials')."
            ),
        )
    if here.browser and server.authorization_endpoint:
        return "browser"
    if server.device_authorization_endpoint:
        return "device"
    if here.stdin and server.authorization_endpoint:
        return "paste"
    raise LoginFailed(
        f"{server.issuer} offers no way to sign in from here",
        outcome="no_human",
        hint=f"Run in a terminal on a machine with a browser: {command}",
    )


def require_typist(here: Environment, *, command: str) -> None:
    """Raises `LoginFailed` where nobody could type a name and a password."""
    _require_page(here, command)
    if not (here.human and here.stdin):
        raise LoginFailed(
            "a user name and a password are needed, and nobody is here to type them",
            outcome="no_human",
            hint=f"Set LOGINONCE_USERNAME and LOGINONCE_PASSWORD, or run in a terminal: {command}",
        )


def _require_page(here: Environment, command: str) -> None:
    if not here.blocking:
        raise LoginFailed(
            f"a sign-in is needed, and a page of {here.name or 'this kind'} shows no prompt while its notebook waits",
            outcome="no_human",
            hint=f"Show loginonce.notebook.LoginWidget(session) in the page, or run in a terminal: {command}",
        )
