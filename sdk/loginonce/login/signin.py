"""One sign-in from beginning to end: choose the way, show the prompt, wait, bring the tokens.

While a person is asked, the store is watched: a sign-in from anywhere else ends the prompt (HAZARDS 31).
"""

from __future__ import annotations

import getpass
import sys
import time
import webbrowser
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TextIO

from ..environment import detect
from ..errors import LoginFailed, StoreError
from ..model import Grant, Secret, scope_set
from ..source import LoginSource
from .browser import DEFAULT_REDIRECT_URI, BrowserFlow, PasteFlow
from .choose import choose
from .device import DeviceFlow
from .flow import ClientCredentialsFlow, HandedFlow, LoginFlow, PasswordFlow, Prompt, SignedIn

__all__ = ["Presenter", "TextPresenter", "Wishes", "sign_in"]

SLICE = 0.1
"""Seconds between two looks at whether the wait is still wanted; what an interrupt takes at most."""


class Wishes(Protocol):
    """What of a login's settings matters to a sign-in; `config.Settings` has it."""

    @property
    def scope(self) -> str:
        """What to ask for, separated by spaces."""

    @property
    def resource(self) -> str:
        """The API that the token is for (RFC 8707), or ""."""

    @property
    def redirect_uri(self) -> str:
        """Where the browser comes back, as it is registered, or ""."""

    @property
    def grant(self) -> str:
        """How the login comes about, where no person signs in."""

    @property
    def command(self) -> str:
        """What to run in a terminal to sign in."""


class Presenter(Protocol):
    """Shows a prompt to a person."""

    def show(self, prompt: Prompt) -> None:
        """The link, the code, what to do."""

    def done(self) -> None:
        """The sign-in is over, one way or the other."""


class TextPresenter:
    """Lines of text: the address first, then a browser if one can be shown."""

    def __init__(self, out: TextIO | None = None, *, browser: bool = False) -> None:
        self._out = out or sys.stderr
        self._browser = browser

    def show(self, prompt: Prompt) -> None:
        """Print what to do."""
        minutes = max(1, round((prompt.expires_at - time.time()) / 60))
        print(f"Sign in {prompt.client_id!r} at {prompt.issuer}:", file=self._out)
        print(f"\n    {prompt.url_complete or prompt.url}\n", file=self._out)
        if prompt.kind == "device":
            print(f"and check that the code is  {prompt.user_code}", file=self._out)
            if prompt.url_complete:
                print(f"(or go to {prompt.url} and enter it)", file=self._out)
        if prompt.kind == "paste":
            print(
                "The last page will not load; that is as it should be.  Copy its whole address and paste it "
                "here.  Nothing will appear while you paste.",
                file=self._out,
            )
        else:
            print(f"Waiting for up to {minutes} min; Ctrl-C cancels.", file=self._out)
        self._out.flush()
        if prompt.kind == "browser" and self._browser:
            webbrowser.open(prompt.url)

    def done(self) -> None:
        """Nothing to take back from a terminal."""


class _Elsewhere(Exception):
    """The login appeared while this prompt was open."""


def sign_in(
    source: LoginSource,
    made: Wishes,
    *,
    flow: str | None = None,
    username: str | None = None,
    password: str | None = None,
    tokens: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    presenter: Presenter | None = None,
) -> SignedIn | None:
    """What a new sign-in brought, or None where the login has appeared from elsewhere in the meantime.

    `made` are the settings of the login.  Raises `LoginFailed` and what the provider has to say.
    """
    before = _active(source)
    # Whoever asks for more keeps what the login has: else two programs would sign each other out in turn.
    scope = " ".join(sorted(scope_set(made.scope) | scope_set(before.scope if before else "")))
    way, presenter = _way(source, made, scope, flow, username, password, tokens, timeout, presenter)
    grant = _known(source)
    epoch = grant.epoch if grant else 0
    try:
        prompt = way.begin()
        if prompt is not None:
            presenter.show(prompt)
        wanted = scope_set(made.scope)
        return replace(way.finish(lambda seconds: _wait(source, epoch, wanted, seconds)), scope=scope)
    except _Elsewhere:
        return None
    except KeyboardInterrupt:
        raise LoginFailed("the sign-in was cancelled", outcome="cancelled", hint="Begin again to retry.") from None
    finally:
        way.close()
        presenter.done()


def _way(
    source: LoginSource,
    made: Wishes,
    scope: str,
    flow: str | None,
    username: str | None,
    password: str | None,
    tokens: Mapping[str, Any] | None,
    timeout: float | None,
    presenter: Presenter | None,
) -> tuple[LoginFlow, Presenter]:
    provider = source.provider
    here = detect()
    shows_nothing = presenter is None and not here.blocking  # who brings a presenter knows how it is seen
    presenter = presenter or TextPresenter(sys.stdout if here.notebook else sys.stderr, browser=here.browser)
    if tokens is not None:
        return HandedFlow(provider, tokens), presenter
    if username is not None:
        return PasswordFlow(provider, username, Secret(password or ""), scope), presenter
    if made.grant == "client_credentials":
        return ClientCredentialsFlow(provider, scope, made.resource), presenter
    where: dict[str, Any] = {
        "scope": scope,
        "resource": made.resource,
        **({"timeout": timeout} if timeout is not None else {}),
    }
    redirect_uri = made.redirect_uri or DEFAULT_REDIRECT_URI
    chosen = choose(flow, provider.server, here, command=made.command)
    if shows_nothing:
        raise LoginFailed(
            f"a sign-in is needed, and a page of {here.name} shows no prompt while its notebook waits",
            outcome="no_human",
            hint=f"Run in a terminal: {made.command} — the page uses that login.",
        )
    match chosen:
        case "device":
            return DeviceFlow(provider, **where), presenter
        case "browser":
            return BrowserFlow(provider, redirect_uri=redirect_uri, **where), presenter
        case "paste":
            return PasteFlow(
                provider, lambda: getpass.getpass("Address: "), redirect_uri=redirect_uri, **where
            ), presenter


def _active(source: LoginSource) -> Grant | None:
    grant = _known(source)
    return grant if grant is not None and grant.state in ("ACTIVE", "SPENDING") else None


def _known(source: LoginSource) -> Grant | None:
    try:
        return source.grant()
    except StoreError:
        return None  # a new sign-in replaces what cannot be read


def _wait(source: LoginSource, epoch: int, wanted: frozenset[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        active = _active(source)
        if active is not None and active.epoch > epoch and wanted <= scope_set(active.scope):
            raise _Elsewhere
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(SLICE, left))
