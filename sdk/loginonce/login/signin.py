"""One sign-in from beginning to end: is there a login, which way fits, ask, wait, save.

It runs in a thread of its own, so that whoever waits for it can stop waiting: an interrupt ends the wait, and what
the provider has answered by then is saved all the same (HAZARDS 2).  A program that ends gives it a moment for that,
and no more: the network may be away for longer than anybody waits for a program to end.

While a person is asked the store is watched: a sign-in from anywhere else ends the prompt, and another program's
prompt is shown in place of a second one (HAZARDS 31).
"""

from __future__ import annotations

import atexit
import contextvars
import getpass
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, TypeGuard

from ..environment import Environment, detect
from ..errors import (
    ConfigurationError,
    CorruptStore,
    LoginFailed,
    LoginonceError,
    LoginRequired,
    ProtocolError,
    SealError,
    StepUpRequired,
    StoreError,
)
from ..idtoken import LEEWAY
from ..log import log
from ..model import Account, Grant, Members, Secret, scope_set
from ..refresh import grant_of_login, shortfall
from ..source import LoginSource
from ..text import plain
from .browser import BrowserFlow
from .choose import FlowName, choose, require_typist
from .device import DeviceFlow
from .flow import ClientCredentialsFlow, HandedFlow, LoginFlow, PasswordFlow, Presenter, Progress, Prompt, SignedIn
from .form import FormFlow
from .pending import Board

__all__ = ["SignIn", "Wishes"]

_Asking: TypeAlias = DeviceFlow | BrowserFlow | FormFlow
_Way: TypeAlias = FlowName | Literal["password"]

SLICE = 0.1
"""Seconds between two looks at whether the wait is still wanted; what an interrupt takes at most."""

TRIES = 3
"""How often an address may be pasted that is not the answer; a terminal cuts a line that is too long for it."""

FAREWELL = 0.3
"""Seconds that a cancelled sign-in has to take its prompt back before the caller goes on without it."""

PARTING = 1.5
"""Seconds that a program which ends waits for the answer to a question that is under way."""


class Wishes(Protocol):
    """What of a login's settings matters to a sign-in; `config.Settings` has it."""

    @property
    def scope(self) -> str:
        """What to ask for, separated by spaces."""

    @property
    def resource(self) -> str:
        """The APIs that the login is for (RFC 8707), separated by spaces, or ""."""

    @property
    def redirect_uri(self) -> str:
        """Where the browser comes back, as it is registered, or ""."""

    @property
    def grant(self) -> str:
        """How the login comes about, where no person signs in."""

    @property
    def command(self) -> str:
        """What to run in a terminal to sign in."""

    def credentials(self) -> tuple[str, Secret | None]:
        """The user name and the password that are known without asking; "" and None where they are not."""


class _Elsewhere(Exception):
    """The login appeared while a person was asked."""


class _Cancelled(Exception):
    """Nobody waits for this sign-in any more."""


class SignIn:
    """A sign-in under way; it has begun when the constructor returns (`start=False`: it begins with the wait for it).

    `flow`, `username`, `password`, `tokens`, `force`, `timeout`, `scope`, `prompt`, `challenge`: see `Session.login`.
    `presenter` shows it.
    `here`: where the person is (default: `environment.detect`).  `types`: an address or a password that has to be
    brought is typed at this program's input; else the presenter has fields for it, and calls `paste` or `enter`.
    `progress` is how it stands, None until there is something to tell.
    """

    def __init__(
        self,
        source: LoginSource,
        made: Wishes,
        presenter: Presenter,
        *,
        flow: str | None = None,
        force: bool = False,
        username: str | None = None,
        password: str | None = None,
        tokens: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        here: Environment | None = None,
        types: bool = True,
        start: bool = True,
        scope: str = "",
        prompt: str = "",
        challenge: StepUpRequired | None = None,
    ) -> None:
        self.progress: Progress | None = None
        self._source = source
        self._made = made
        self._presenter = presenter
        self._flow = flow
        self._challenge = challenge
        self._username = username
        self._password = None if password is None else Secret(password)
        self._tokens = None if tokens is None else Members(tokens)
        self._timeout = timeout
        self._look_first = not force and tokens is None and username is None and not prompt
        self._needs = scope_set(made.scope) | scope_set(scope) | scope_set(challenge.scope if challenge else "")
        self._resources = tuple(dict.fromkeys([*filter(None, [source.resource]), *made.resource.split()]))
        self._asks = _asks(prompt, challenge)
        # Whoever names a flow, or asks for more than scope, wants that and not another program's prompt.
        self._shares = flow is None and not self._asks
        self._here = here or detect()  # in the caller's thread: a kernel tells its cells apart by it
        self._types = types
        self._epoch = 0
        self._asking: BrowserFlow | FormFlow | None = None
        self._to_be_typed = False
        self._typing = False
        self._mispasted = 0
        self._why: LoginonceError = _cancelled()
        self._cancelled = threading.Event()
        self._ending = threading.Lock()
        self._ended = False
        self._over = threading.Event()
        self._board = Board(source.store, source.key, self._needs)
        # In the caller's context: what a notebook prints and displays lands in the cell that it was begun in.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="loginonce-sign-in", daemon=True)
        if start:
            self._start()

    def __repr__(self) -> str:
        state = self.progress.state if self.progress else "begun"
        return f"<SignIn {self._source.key}: {state}>"

    # ── for whoever waits ────────────────────────────────────────────────────────────────────────────────

    @property
    def done(self) -> bool:
        """Whether it is over, one way or the other."""
        return self._over.is_set()

    def wait(self) -> Account:
        """Wait until it is over.  Raises what it ended with; an interrupt cancels it (`LoginFailed`)."""
        self._refuse_in_child()
        try:
            if self._thread.ident is None:
                self._start()  # in here, so that no interrupt finds a sign-in that nobody waits for
            while not self._over.wait(SLICE):
                self._read()
        except BaseException as error:
            self._give_up(error)
            self._over.wait(FAREWELL)
            self._raise(error)
        return self._result()

    async def wait_async(self) -> Account:
        """The same, in slices that an interrupt and other tasks come between."""
        # Imported here: who calls `wait` has no event loop.
        import asyncio

        self._refuse_in_child()
        try:
            if self._thread.ident is None:
                self._start()
            while not self._over.is_set():
                await asyncio.sleep(SLICE)
                self._read()
        except GeneratorExit:  # the loop is gone: there is nothing to wait in
            self.cancel()
            raise
        except BaseException as error:
            self._give_up(error)
            for _ in range(10):  # not for the event: it is the loop that must not stand still
                if not self._over.is_set():
                    await asyncio.sleep(FAREWELL / 10)
            if isinstance(error, asyncio.CancelledError):
                # As an interrupted cell is: two lines in a notebook too.  Not by a class of our own: asyncio compares.
                error._render_traceback_ = self._why._render_traceback_  # type: ignore[attr-defined]
            self._raise(error)
        return self._result()

    def cancel(self) -> None:
        """Stop asking.  What the provider has answered by now is saved all the same."""
        self._cancelled.set()

    def paste(self, address: str) -> None:
        """Bring the whole address of the last page, where the browser cannot come back by itself.

        Raises `ProtocolError` for an address that does not answer this sign-in, which goes on, and
        `ConfigurationError` where none is waited for.
        """
        address = Secret(address.strip())  # also in a traceback through here
        asking = self._asking
        if not isinstance(asking, BrowserFlow):
            raise ConfigurationError("this sign-in does not wait for an address")
        asking.deliver(address)

    def enter(self, username: str, password: str) -> None:
        """Bring a user name and a password.  What is wrong with them is told by the next progress.

        Raises `ConfigurationError` where none are waited for.
        """
        password = Secret(password)  # also in a traceback through here
        asking = self._asking
        if not isinstance(asking, FormFlow):
            raise ConfigurationError("this sign-in does not wait for a password")
        asking.deliver(username, password)

    def _read(self) -> None:
        """Where somebody has to type something, and can: ask for it, in the thread that may."""
        asking = self._asking
        if asking is None or not self._to_be_typed:
            return
        if isinstance(asking, BrowserFlow):
            self._read_address(asking)
        elif asking.waiting:
            self._read_credentials(asking)

    def _read_credentials(self, asking: FormFlow) -> None:
        username, password = asking.username, Secret("")
        self._typing = True
        try:
            if not username:
                if not self._here.notebook:  # whose standard output shows where it is asked
                    print("User name: ", end="", file=sys.stderr, flush=True)
                username = input("User name: " if self._here.notebook else "").strip()
            if username:
                password = Secret(getpass.getpass(f"Password for {plain(username, 100)} (it does not show): "))
        except EOFError:
            pass
        finally:
            self._typing = False
        if self._over.wait(0 if password else SLICE):
            return  # somebody has signed in elsewhere while this one was typing
        if not password:
            raise LoginFailed("no password was entered", outcome="cancelled", hint="Begin again to retry.")
        asking.deliver(username, password)

    def _read_address(self, asking: BrowserFlow) -> None:
        self._typing = True
        try:
            address = getpass.getpass("Address: ")
        except EOFError:
            address = ""
        finally:
            self._typing = False
        address = Secret(address.strip())
        if self._over.wait(0 if address else SLICE):
            return  # somebody has signed in elsewhere while this one was typing
        if not address:
            raise LoginFailed(
                "no address was pasted",
                outcome="cancelled",
                hint="Begin again, and paste the whole address of the last page, even if that page shows an error.",
            )
        try:
            asking.deliver(address)
        except ProtocolError as error:
            self._mispasted += 1
            if self._mispasted >= TRIES:
                raise
            print(f"{plain(str(error))}.  Paste the whole address of the last page.", file=sys.stderr)
            return  # and it is asked for again
        while not self._over.wait(SLICE):
            pass

    def _refuse_in_child(self) -> None:
        """A forked child has no thread that would ever tell it the end."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._over.is_set():
            raise LoginFailed(
                "this sign-in goes on in the process that began it, of which this one is a fork",
                outcome="cancelled",
                hint="Call .login() here: it shows the same prompt.",
            )

    def _start(self) -> None:
        _under_way.add(self)
        self._thread.start()

    def _give_up(self, error: BaseException) -> None:
        if isinstance(error, LoginonceError):
            self._why = error
        self.cancel()

    def _raise(self, error: BaseException) -> NoReturn:
        """Leave, whether or not the thread has come to its end: a network that is away may hold it for long."""
        self._end(Progress("failed", error=self._why))
        if isinstance(error, KeyboardInterrupt) and self.progress is not None and self.progress.error is self._why:
            raise self._why from None
        raise error

    def _result(self) -> Account:
        progress = self.progress
        assert progress is not None
        if progress.account is not None:
            return progress.account
        assert progress.error is not None
        raise progress.error

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            last = Progress("signed_in", account=self._go())
        except _Cancelled:
            last = Progress("failed", error=self._why)
        except BaseException as error:
            last = Progress("failed", error=error)
        self._end(last)

    def _end(self, last: Progress) -> None:
        """Say how it ended, once: whoever waited may have gone before the thread came to its end."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
        prompt = self.progress.prompt if self.progress else None
        self.progress = replace(last, prompt=prompt, detail="press Enter" if self._typing else "")
        try:
            self._board.take_down()
        except Exception as error:
            log.debug("the notice could not be taken down: %s", error)
        try:
            self._presenter.show(self.progress)
        except Exception as error:  # what has been saved is saved, and is told by the result
            log.warning("the end of the sign-in could not be shown: %s", error)
        finally:
            self._over.set()

    def _go(self) -> Account:
        if self._look_first and (account := self._present()) is not None:
            return account
        grant = _known(self._source)
        self._epoch = grant.epoch if grant else 0
        scope = self._scope()
        if (way := self._silent_way(scope)) is not None:
            return self._save(replace(way.finish(self._pause), scope=scope, resource=" ".join(self._resources)))
        named = self._named()
        if (hold := self._source.store.try_lock(self._source.key)) is not None:
            hold.release()  # a store that cannot keep a login says so here, before a person is asked
        began = time.monotonic()
        try:
            while True:
                if self._shares and (prompt := self._board.elsewhere(named, time.time())) is not None:
                    self._follow(prompt, named, began)
                elif (brought := self._ask(self._way(named))) is not None:
                    return self._save(brought)
        except _Elsewhere:
            return self._account()

    def _present(self) -> Account | None:
        """The account, if no sign-in is needed.  A login that has ended needs one, whatever is left of it."""
        try:
            token = self._source.token()
        except LoginRequired:
            return None
        except CorruptStore as error:
            log.warning("%s", error)
            return None
        active, wanted = _active(self._source), self._challenge
        if active is None or not self._covered(active):
            return None
        if wanted is not None and not active.epoch > wanted.epoch > 0:  # else somebody has signed in since
            if wanted.acr_values or wanted.max_age is not None or not wanted.scope:
                return None
            if missing := " ".join(sorted(scope_set(wanted.scope) - scope_set(token.scope))):
                raise LoginFailed(
                    f"{self._source.key} was asked for {missing} before, and did not grant it",
                    hint="Ask its operators for it; .login(force=True) asks once more.",
                )
        log.info("already signed in: %s", self._source.key)
        return self._account()

    def _covered(self, grant: Grant) -> bool:
        """Whether a login is for all that this program needs."""
        short = shortfall(grant, self._needs, dpop=self._source.provider.dpop)
        return not short and set(self._resources) <= set(grant.resources)

    def _all_resources(self) -> str:
        before = _active(self._source)
        return " ".join(dict.fromkeys([*self._resources, *(before.resources if before else ())]))

    def _scope(self) -> str:
        """Whoever asks for more keeps what the login has: else two programs would sign each other out in turn."""
        before = _active(self._source)
        return " ".join(sorted(self._needs | scope_set(before.scope if before else "")))

    def _named(self) -> _Way:
        """The way to ask a person, where one can be asked."""
        here, command = self._here, self._made.command
        if self._username is not None or (self._made.grant == "password" and self._flow is None):
            require_typist(here, command=command)
            return "password"
        return choose(self._flow, self._source.oauth.server, here, command=command)

    def _silent_way(self, scope: str) -> LoginFlow | None:
        provider = self._source.provider
        if self._tokens is not None:
            return HandedFlow(provider, self._tokens)
        username, password = self._username, self._password
        if username is None and self._flow is None:
            username, password = self._made.credentials()
        if username and password is not None:
            return PasswordFlow(provider, username, password, scope, " ".join(self._resources))
        if self._made.grant == "client_credentials":
            return ClientCredentialsFlow(self._source.oauth, scope, " ".join(self._resources))
        return None

    def _way(self, named: _Way) -> _Asking:
        way: _Asking
        if named == "password":
            username = self._username or self._made.credentials()[0]
            way = FormFlow(self._source.provider, self._scope(), self._all_resources(), username)
            if self._timeout is not None:
                way.timeout = self._timeout
            return way
        provider, scope, resource = self._source.oauth, self._scope(), self._all_resources()
        asks = {**_login_hint(self._source.key.account, _known(self._source)), **self._asks}
        if named == "device":
            way = DeviceFlow(provider, scope, resource, asks=asks)
        else:
            redirect_uri = self._made.redirect_uri or provider.dialect.redirect_uri
            way = BrowserFlow(provider, scope, resource, redirect_uri, asks=asks)
            # A presenter with a field for the address can offer both ways back.
            way.receive = named == "browser" or not self._types
            way.or_paste = not self._types
        if self._timeout is not None:
            way.timeout = self._timeout
        return way

    def _ask(self, way: _Asking) -> SignedIn | None:
        """Ask a person.  None where another program was a moment faster."""
        try:
            try:
                prompt = way.begin()
            except ConfigurationError:
                # A registered port has room for one receiver: that of whoever asks already, or is about to.
                self._pause(2 * SLICE)
                if self._shares and self._board.elsewhere("browser", time.time()) is not None:
                    return None
                raise
            if not self._board.put_up(prompt, way.scope, time.time()) and self._shares:
                return None
            self._asking = None if isinstance(way, DeviceFlow) else way
            self._tell(Progress("pending", prompt))
            self._to_be_typed = self._types and prompt.kind in ("paste", "password")  # now that it has been shown
            return replace(way.finish(self._pause), scope=way.scope, resource=way.resource)
        finally:
            self._asking, self._to_be_typed = None, False
            way.close()

    def _follow(self, prompt: Prompt, named: _Way, began: float) -> None:
        """Show another program's prompt for as long as it asks by it."""
        self._tell(Progress("elsewhere", prompt))
        while self._board.elsewhere(named, time.time()) == prompt:
            self._pause(SLICE)
            if self._timeout is not None and time.monotonic() - began > self._timeout:
                raise LoginFailed(
                    "nobody confirmed the sign-in in time", outcome="timed_out", hint="Begin again to retry."
                )
        self._pause(0.0)  # it may be gone because it has succeeded

    def _pause(self, seconds: float, *, trouble: str = "") -> None:
        shown = self.progress
        if shown is not None and shown.state in ("pending", "retrying"):
            again = shown.prompt is not None and shown.prompt.kind == "password"  # whatever the trouble was
            self._tell(Progress("retrying" if trouble and not again else "pending", shown.prompt, detail=trouble))
        until = time.monotonic() + seconds
        while True:
            if self._cancelled.is_set():
                raise _Cancelled
            active = _active(self._source)
            if active is not None and active.epoch > self._epoch and self._covered(active):
                raise _Elsewhere
            self._board.beat(time.time())
            left = until - time.monotonic()
            if left <= 0:
                return
            self._cancelled.wait(min(SLICE, left))

    def _tell(self, progress: Progress) -> None:
        if progress != self.progress and not self._ended:
            self.progress = progress
            self._presenter.show(progress)

    def _save(self, brought: SignedIn) -> Account:
        key = self._source.key
        asked, given = scope_set(brought.scope), scope_set(brought.answer.scope)
        if given and (narrower := asked - given - {"offline_access", "openid"}):
            log.warning("%s granted less than was asked for: without %s", key, " ".join(sorted(narrower)))

        def make(previous: Grant | None) -> Grant:
            made = grant_of_login(
                key,
                brought.answer,
                previous,
                asked_at=brought.asked_at,
                scope=asked,
                subject=str(brought.claims.get("sub") or ""),
                claims=dict(brought.claims),
                resources=tuple(brought.resource.split()),
                renewal=brought.renewal,
            )
            if key.account and _another_person(previous, made):
                raise _wrong_account(previous, made)
            return made

        try:
            previous, made = self._source.change(make)
        except LoginFailed:
            if brought.answer.refresh_token is not None:
                self._source.provider.revoke(brought.answer.refresh_token, "refresh_token")
            raise
        for odd in (_doubt_about_account(previous, made), _doubt_about_strength(self._challenge, brought)):
            if odd:
                log.warning("%s: %s", key, odd)
        return self._account()

    def _account(self) -> Account:
        grant = self._source.grant()
        if grant is None:
            raise StoreError(f"the login for {self._source.key} was removed from its store as soon as it was made")
        return Account.of(grant, self._source.resource)


# ── what is asked for beyond the usual, and whether that is what came ────────────────────────────────────


def _asks(prompt: str, challenge: StepUpRequired | None) -> dict[str, str]:
    """The parameters of an authorization request for these (OIDC Core §3.1.2.1, RFC 9470 §4)."""
    if "none" in prompt.split():
        raise ConfigurationError("prompt='none' shows nobody anything, and this asks a person: leave it out")
    asks = {"prompt": prompt}
    if challenge is not None:
        asks["acr_values"] = challenge.acr_values
        asks["max_age"] = "" if challenge.max_age is None else f"{challenge.max_age:.0f}"
    return {name: value for name, value in asks.items() if value}


def _login_hint(account: str, before: Grant | None) -> dict[str, str]:
    """Whom a named login is of, for the provider's form, where that is known: the name may be a mere label."""
    if not account:
        return {}
    known = {} if before is None else before.claims
    hint = account if "@" in account else str(known.get("email") or known.get("preferred_username") or "")
    return {"login_hint": hint} if hint else {}


def _another_person(previous: Grant | None, made: Grant) -> TypeGuard[Grant]:
    if previous is None or previous.state == "LOGGED_OUT" or not (previous.subject and made.subject):
        return False
    return previous.subject != made.subject


def _wrong_account(previous: Grant, made: Grant) -> LoginFailed:
    name, was, came = made.key.account, Account.of(previous), Account.of(made)
    return LoginFailed(
        f"this sign-in was as {came}, and the login named {name!r} is that of {was}: it stays as it was",
        hint=f"Sign in as {was}, give {came} a name of its own (account=…), or log out of this one first.",
    )


def _doubt_about_account(previous: Grant | None, made: Grant) -> str:
    if _another_person(previous, made):
        return f"it was the login of {Account.of(previous)}, and is that of {Account.of(made)} from now on, everywhere"
    account, claims = made.key.account.casefold(), made.claims
    names = [str(claims[name]).casefold() for name in ("email", "preferred_username", "upn") if claims.get(name)]
    if "@" in account and names and account not in names:
        return f"signed in as {Account.of(made)}, who is called {names[0]} there"
    return ""


def _doubt_about_strength(challenge: StepUpRequired | None, brought: SignedIn) -> str:
    """What the provider says of the sign-in, where it is not what the API wanted (RFC 9470 §5): it may refuse again."""
    acr, auth_time = brought.claims.get("acr"), brought.claims.get("auth_time")
    if challenge is None:
        return ""
    if challenge.acr_values and acr is not None and acr not in challenge.acr_values.split():
        return f"the API wants one of {challenge.acr_values}, and this sign-in is {plain(str(acr))[:80]}"
    age = brought.asked_at - auth_time if isinstance(auth_time, int | float) else 0.0
    if challenge.max_age is not None and age > challenge.max_age + LEEWAY:
        return f"the API wants a sign-in at most {challenge.max_age:.0f} s old, and got one of {age:.0f} s ago"
    return ""


_under_way: weakref.WeakSet[SignIn] = weakref.WeakSet()


@atexit.register
def _part() -> None:
    """A program that ends asks nobody any more; an answer that is on its way is still saved, if it does not dawdle."""
    until = time.monotonic() + PARTING
    under_way = [each for each in _under_way if each._thread.is_alive()]  # noqa: SLF001 - it is this module's
    for each in under_way:
        each.cancel()
    try:
        for each in under_way:
            each._thread.join(max(0.0, until - time.monotonic()))  # noqa: SLF001
            each._end(Progress("failed", error=_cancelled()))  # noqa: SLF001
    except KeyboardInterrupt:
        pass  # then at once


def _cancelled() -> LoginFailed:
    return LoginFailed("the sign-in was cancelled", outcome="cancelled", hint="Begin again to retry.")


def _active(source: LoginSource) -> Grant | None:
    grant = _known(source)
    return grant if grant is not None and grant.state in ("ACTIVE", "SPENDING") else None


def _known(source: LoginSource) -> Grant | None:
    try:
        return source.grant()
    except SealError:
        raise  # but not what only a key is missing for
    except StoreError:
        return None  # a new sign-in replaces what cannot be read
