"""A login as a card with buttons, for panels, apps and Voila.

It shows how the login stands, whichever process changed it: a thread of the card looks at the store four times a
second while the card is on a page (one `stat`), and at the clock.  `Session.on_change` would need a thread beside it,
and tells less: not that the store is away, nor that a renewal has to wait.  Nothing here blocks: signing in, out and
renewing go on in threads of their own, a front end may deliver clicks on any thread, and all state is behind one lock.

Link and code are in the card only while somebody is asked.  An address or a password is taken out of its field before
it is looked at, and is not echoed to other pages.  `close` blanks every part, so a notebook that is saved with
the state of its widgets keeps nothing of it.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import ipywidgets as widgets
from traitlets import Unicode

from ..environment import detect
from ..errors import ConfigurationError, LoginFailed, LoginonceError, ProtocolError
from ..log import log
from ..login.flow import Progress
from ..login.signin import SignIn, Wishes
from ..model import Secret
from ..source import LoginSource
from . import html
from .standing import Standing

__all__ = ["LoginWidget"]

BEAT = 0.25
"""Seconds between two looks at the store: what another kernel did shows within it."""


_PASTE = "paste the whole address here, and press Enter"

INDENT = "21.6px"
"""Where the text of `html` begins in a widget: field and buttons begin there too."""


class SignedIn(Protocol):
    """What a card needs of a session."""

    @property
    def source(self) -> LoginSource:
        """Its login."""

    @property
    def settings(self) -> Wishes:
        """What to sign in with."""

    def logout(self) -> object:
        """Sign out everywhere."""

    def keep_fresh(self) -> object:
        """Renew in the background."""


class _Field(widgets.Password):  # type: ignore[misc]  # ipywidgets has no types
    """Where an address or a password goes: it shows dots, and other pages with the same card are not told of it."""

    value = Unicode("").tag(sync=True, echo_update=False)


class LoginWidget(widgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """The login of a session, live, with buttons: sign in, sign out, renew now, switch account.

        card = loginonce.notebook.LoginWidget(lab)

    It never blocks.  From then on the session keeps its login fresh (`Session.keep_fresh`).  `close()` ends a sign-in
    that is pending in it and leaves one static line.
    """

    def __init__(self, session: SignedIn, **settings: Any) -> None:
        self._session = session
        self._mutex = threading.RLock()
        self._sign_in: SignIn | None = None
        self._progress: Progress | None = None
        self._message = ""
        self._busy = False
        self._announced: object = None
        self._ended: threading.Event | None = None
        self._closed = False
        self._displays: list[Any] = []
        self._line, self._ask, self._note = widgets.HTML(), widgets.HTML(), widgets.HTML()
        place = {"width": "27em", "max_width": f"calc(100% - {INDENT} - 2px)", "margin": f"2px 0 2px {INDENT}"}
        self._name = widgets.Text(placeholder="user name", continuous_update=False, layout=place)
        self._field = _Field(placeholder=_PASTE, continuous_update=False, layout=place)
        self._field.observe(self._typed, "value")
        self._buttons = {
            name: widgets.Button(description=name, layout={"width": "auto"})
            for name in ("Sign in", "Cancel", "Renew now", "Switch account", "Sign out")
        }
        clicks: dict[str, Callable[[], None]] = {
            "Sign in": lambda: self._begin(force=False),
            "Cancel": self._cancel,
            "Renew now": lambda: self._do("The login could not be renewed now", self._session.source.renew),
            "Switch account": lambda: self._begin(force=True),
            "Sign out": lambda: self._do("Signing out did not succeed", self._session.logout),
        }
        for name, button in self._buttons.items():
            button.on_click(lambda _, click=clicks[name]: click())
        layout = {"flex_flow": "row wrap", "margin": f"0 0 0 calc({INDENT} - 2px)"}
        row = widgets.HBox(list(self._buttons.values()), layout=layout)
        super().__init__([self._line, self._ask, self._name, self._field, self._note, row], **settings)
        self._parts = (self._line, self._ask, self._name, self._field, self._note, *self._buttons.values(), row)
        self._view_count = 0  # front ends count the pages that show it from now on
        self.observe(self._seen, "_view_count")
        self._look()
        self._watch()

    def __repr__(self) -> str:
        # Its own: that of widgets shows what is in their fields.
        return f"<LoginWidget: {'closed' if self._closed else Standing.of(self._session.source)}>"

    # ── on a page ────────────────────────────────────────────────────────────────────────────────────────

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self._closed:
            display(self._static(), raw=True)
        else:
            self._displays.append(display(self._repr_mimebundle_(), raw=True, display_id=True))

    def _repr_mimebundle_(self, **settings: Any) -> dict[str, Any]:
        return {**(super()._repr_mimebundle_(**settings) or {}), **self._static()}

    def _static(self) -> dict[str, str]:
        """For front ends without widgets, and for what is saved: no link, no code."""
        hint = "Run this cell to sign in."
        return {
            "text/html": Standing.of(self._session.source).html(time.time(), hint=hint, announce=False),
            "text/plain": repr(self),
        }

    def close(self) -> None:
        """End what is pending, and leave nothing of it: one static line takes the card's place."""
        with self._mutex:
            if self._closed:
                return
            self._rest()
            self._cancel()
            self._closed = True
            for part in (self._line, self._ask, self._name, self._field, self._note):
                part.value = ""
            static = self._static()
        for shown in self._displays:
            shown.update(static, raw=True)
        self._displays = []
        for part in self._parts:
            part.close()
        super().close()

    def __del__(self) -> None:
        """Closing belongs to whoever made it; what is collected has no page any more."""

    # ── live ─────────────────────────────────────────────────────────────────────────────────────────────

    def _seen(self, change: Any) -> None:
        """The front end tells on how many pages it is."""
        if change["new"]:
            self._watch()
        else:
            self._rest()

    def _watch(self) -> None:
        with self._mutex:
            if self._ended is None and not self._closed:
                self._ended = threading.Event()
                self._session.keep_fresh()
                _in_thread(self._beat, self._ended, name="loginonce-card", daemon=True)

    def _rest(self) -> None:
        with self._mutex:
            if self._ended is not None:
                self._ended.set()
                self._ended = None

    def _beat(self, ended: threading.Event) -> None:
        failed = False
        while not ended.wait(BEAT):
            try:
                self._look()
                failed = False
            except Exception as error:  # also a kernel that ends
                if not failed:
                    log.warning("the login card could not be brought up to date: %s", type(error).__name__)
                failed = True

    def _look(self) -> None:
        """Bring every part up to date; what has not changed is not sent."""
        with self._mutex:
            if self._closed:
                return
            now, progress = time.time(), self._progress
            standing = Standing.of(self._session.source)
            state = (standing.state, progress.state if progress else None, progress.prompt if progress else None)
            announce, self._announced = state != self._announced, state
            asked = progress.prompt if progress else None
            field = asked is not None and asked.kind != "device" and self._sign_in is not None
            field = field and progress is not None and progress.state != "elsewhere"
            note = self._message
            if progress is not None:
                note += html.status(progress, now, announce=announce, how="")
            by_name = field and asked is not None and asked.kind == "password"
            self._field.placeholder = "password; press Enter" if by_name else _PASTE
            _show(self._name, by_name)
            _show(self._field, field)
            # While somebody is asked to sign in, that nobody is signed in goes without saying.
            self._line.value = "" if asked and standing.state != "signed_in" else standing.html(now, announce=announce)
            self._ask.value = html.prompt(progress, field=field) if progress else ""
            self._note.value = note
            asking, signed_in = self._sign_in is not None, standing.state == "signed_in"
            renews = standing.account is not None and standing.account.renews
            for part in (self._line, self._ask, self._note):
                _show(part, bool(part.value))
            for name, shown in {
                "Sign in": not asking and not signed_in,
                "Cancel": asking,
                "Renew now": not asking and signed_in and renews,
                "Switch account": not asking and signed_in,
                "Sign out": not asking and signed_in,
            }.items():
                _show(self._buttons[name], shown)
                self._buttons[name].disabled = self._busy

    # ── what the buttons do ──────────────────────────────────────────────────────────────────────────────

    def _begin(self, *, force: bool) -> None:
        with self._mutex:
            if self._sign_in is not None or self._busy or self._closed:
                return
            self._message = ""
            try:
                # Whoever clicks is there, and has a field to bring an address by.
                here = replace(detect(), human=True, stdin=True, blocking=True)
                source, made = self._session.source, self._session.settings
                self._name.value = "" if force else made.credentials()[0]
                self._sign_in = SignIn(source, made, _Shown(self), force=force, here=here, types=False)
            except LoginonceError as error:
                self._message = html.failed(error)
            self._look()

    def _cancel(self) -> None:
        with self._mutex:
            if self._sign_in is not None:
                self._sign_in.cancel()

    def _progressed(self, progress: Progress) -> None:
        """The sign-in tells how it stands, on its own thread."""
        with self._mutex:
            self._message = ""
            self._progress = progress
            if progress.state in ("signed_in", "failed"):
                self._progress = self._sign_in = None
                cancelled = isinstance(progress.error, LoginFailed) and progress.error.outcome == "cancelled"
                if progress.error is not None and not cancelled:
                    self._message = html.failed(progress.error, progress.prompt)
            self._look()

    def _typed(self, change: Any) -> None:
        typed = Secret(change["new"])
        if not typed:
            return
        self._field.value = ""
        with self._mutex:
            sign_in = self._sign_in
            asked = self._progress.prompt if self._progress else None
        try:
            if sign_in is not None and asked is not None and asked.kind == "password":
                if not (name := self._name.value.strip()):
                    raise ConfigurationError("the user name comes first")
                sign_in.enter(name, typed)
            elif sign_in is not None:
                sign_in.paste(typed)
            complaint = ""
        except (ProtocolError, ConfigurationError) as error:
            complaint = html.trouble(error, "That was not it; the sign-in goes on")
        with self._mutex:
            self._message = complaint
            self._look()

    def _do(self, otherwise: str, what: Callable[[], object]) -> None:
        """Something that may take a while, in a thread of its own; `otherwise` is said where it fails."""
        with self._mutex:
            if self._busy or self._sign_in is not None or self._closed:
                return
            self._busy, self._message = True, ""
            self._look()
        # No daemon: an answer that has come is saved, also where the kernel ends meanwhile.
        _in_thread(self._done, otherwise, what, name="loginonce-card-act", daemon=False)

    def _done(self, otherwise: str, what: Callable[[], object]) -> None:
        message = ""
        try:
            what()
        except Exception as error:
            message = html.trouble(error, otherwise)
            log.info("%s: %s", otherwise, type(error).__name__)
        with self._mutex:
            self._busy, self._message = False, message
            self._look()


class _Shown:
    """The presenter of a card's sign-in."""

    def __init__(self, card: LoginWidget) -> None:
        self._card = card

    def show(self, progress: Progress) -> None:
        """Hand it on."""
        self._card._progressed(progress)  # noqa: SLF001 - the same room


def _in_thread(function: Callable[..., None], *arguments: Any, name: str, daemon: bool) -> None:
    """In the present context, by which a kernel tells where a message belongs."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(function, *arguments), name=name, daemon=daemon).start()


def _show(part: Any, shown: bool) -> None:  # noqa: FBT001 - a state, not a switch
    part.layout.display = None if shown else "none"
