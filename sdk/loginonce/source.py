"""Where tokens come from: `TokenSource`, and the one loop that drives the state machine of `refresh`.

`LoginSource.token` is the way of every request.  Its fast path is one look at the clock and one `stat`: no lock,
no parsing.  Everything else goes through `_drive`, which does what `refresh.step` asks for, one action at a time.

Threads.  Per process and login there is one `Gate`.  Whoever passes it goes on in a worker thread of its own,
which takes the store's lock, spends, saves and ends: a keyboard interrupt ends the caller's wait and nothing
else (HAZARDS 2).  The worker is no daemon, so a program that ends waits for it, within its budgets, however
often it is interrupted.  The others wait at the gate, or do not wait at all if their token is still good.

Processes.  Where another one has the lock, no worker is begun: one of the callers waits for the record to change, and
the new token is adopted when it is there (`stores.base.Lookout`).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol, assert_never

from . import refresh
from .errors import (
    ConfigurationError,
    CorruptStore,
    LockTimeout,
    LoginRequired,
    ProtocolError,
    Reason,
    SealError,
    StoreError,
    TransportError,
)
from .gate import SLICE, Rescuer, gate_of, go_on_saving, save_the_rest
from .home import at_fork_in_child, process_identity
from .log import in_words, log, unforeseen
from .model import Grant, GrantKey, Order, TokenSet, scope_set
from .refresh import Policy, Problem, Renew, Use, Want
from .stores.base import Hold, Lookout, OrderConflict, Snapshot, Stamp, TokenStore
from .value import Value, replace

if TYPE_CHECKING:
    from .client import Issuer, Provider
    from .wire import Reply

__all__ = ["LoginSource", "TokenSource"]

PATIENCE = 0.25
"""Seconds after which who waits looks at the lock again: not every store tells of its release."""

BUSY = 0.05
"""Seconds for which a process whose token is still good does not try the lock again that another one had."""

QUIET = 5.0
"""Seconds after a renewal in the background failed on the store, before this process tries that again."""


class TokenSource(Protocol):
    """The seam: whatever sends requests needs this one method, and nothing else of this library."""

    def token(self, *, rejected: TokenSet | None = None) -> TokenSet:
        """An access token that is good now.

        `rejected` is one that an API has just refused (401): the answer is then another one, or the same one
        again where another would not help.  Raises `LoginRequired`; `TransportError`, whose `retry_after` is in
        seconds; `ConfigurationError` where the provider does not take this client; `ProtocolError` for an answer or a
        token that cannot be used; `StoreError`, such as `LockTimeout`.
        """


class _Known(Value):
    """What the fast path needs: this stamp, this token, and from when until when it needs no thought."""

    stamp: Stamp
    token: TokenSet
    begin: float
    end: float


class LoginSource:
    """Tokens of one stored login, renewed by whichever of its processes is first.

    `scope` is what the login has to cover.  `resource` is the API that the access tokens are for (RFC 8707),
    `for_scope` the narrower scope that they are for, "" being whatever the login has.  `provider` may be what makes it:
    most programs find a token, and need none of what speaks to one.  `hint` is the exact next command when a person has
    to sign in.
    """

    def __init__(
        self,
        key: GrantKey,
        store: TokenStore,
        provider: Issuer | Callable[[], Issuer],
        *,
        policy: Policy | None = None,
        scope: frozenset[str] = frozenset(),
        resource: str = "",
        for_scope: str = "",
        renewal: Literal["refresh_token", "client_credentials"] = "refresh_token",
        hint: str = "",
        dpop: bool = False,
    ) -> None:
        self.key = key
        self.store = store
        self._provider = provider
        self.policy = policy or Policy()
        self.hint = hint
        self._want = Want(key, resource, for_scope, scope | scope_set(for_scope), renewal=renewal, dpop=dpop)
        self._known: _Known | None = None
        self._memory = Snapshot(None, None, settled=False)
        self._highest: Order = (0, 0, 0)

    def __repr__(self) -> str:
        return f"LoginSource({self.key})"

    @property
    def provider(self) -> Issuer:
        """Whom it asks."""
        provider = self._provider
        if callable(provider):
            provider = self._provider = provider()
        return provider

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────

    def token(self, *, rejected: TokenSet | None = None) -> TokenSet:
        """An access token that is good now (see `TokenSource`)."""
        known = self._known
        if known is not None and rejected is None and known.begin <= time.time() < known.end:
            try:
                if self.store.stamp(self.key) == known.stamp:
                    return known.token
            except StoreError:
                pass  # the slow way knows what to do without a store
        return self._usable(self._obtain(rejected.fingerprint if rejected else "", force=False))

    def renew(self) -> TokenSet:
        """A new access token now, however young the present one is; one that another process just got counts.

        Raises what `token` raises.
        """
        grant = self.grant()
        token = self._token_in(grant)
        return self._usable(self._obtain(token.fingerprint if token else "", force=True))

    def narrowed(self, *, resource: str = "", scope: str = "") -> LoginSource:
        """Access tokens of the same login for one of its APIs, or for less scope: renewed by the same refresh token."""
        want = self._want
        return LoginSource(
            self.key,
            self.store,
            lambda: self.provider,
            policy=self.policy,
            scope=want.scope,
            resource=resource or want.resource,
            for_scope=" ".join(sorted(scope_set(scope))),
            renewal=want.renewal,
            hint=self.hint,
            dpop=want.dpop,
        )

    def _token_in(self, grant: Grant | None) -> TokenSet | None:
        return grant.token_for(self._want.resource, self._want.for_scope) if grant else None

    def tell_if_narrowed(self, grant: Grant, scope: str) -> None:
        """Warn where a refresh brought less scope than the access token before had; no word of it is no change."""
        before = self._token_in(grant)
        if before and scope and (lost := scope_set(before.scope) - scope_set(scope) - {"offline_access", "openid"}):
            log.warning("%s granted less than before: without %s", self.key, " ".join(sorted(lost)))

    def _usable(self, token: TokenSet) -> TokenSet:
        if not token.fits and token.dpop_key is not None:
            raise ProtocolError(
                f"{self.key} now issues tokens of the type {token.token_type!r}, which are not bound to the key of "
                "this login, and so are not used; the login itself has been saved"
            )
        if not token.fits:
            raise ProtocolError(
                f"{self.key} now issues tokens of the type {token.token_type!r}, which cannot be used here; the "
                "login itself has been saved"
            )
        return token

    def _obtain(self, rejected: str, *, force: bool) -> TokenSet:
        want = replace(self._want, rejected=rejected, force=force, seen=self._highest)
        return _Run(self, want).result()

    # ── the record ───────────────────────────────────────────────────────────────────────────────────────

    def grant(self) -> Grant | None:
        """The record as it is now, or None.  Raises `StoreError`."""
        return self.snapshot().grant

    def snapshot(self) -> Snapshot:
        """The record by way of its change stamp: read only if it may have changed."""
        gate = gate_of(self.store, self.key)
        memory = self._memory
        if gate.unsaved is None and memory.settled and self.store.stamp(self.key) == memory.stamp:
            return memory
        unsaved = gate.unsaved
        try:
            snapshot = self.store.load(self.key)
            self._refuse_sealed(snapshot.grant)
        except StoreError:
            if unsaved is None:
                raise
            snapshot = Snapshot(None, None, settled=False)
        if unsaved is not None and (snapshot.grant is None or snapshot.grant.order < unsaved.order):
            return Snapshot(unsaved, None, settled=False)
        self._remember(snapshot)
        return snapshot

    @property
    def oauth(self) -> Provider:
        """The provider.  Raises `ConfigurationError` where the issuer is none, but a plain back end."""
        from .client import Provider

        if not isinstance(self.provider, Provider):
            raise ConfigurationError(f"{self.key} knows no OAuth: it takes a user name and a password")
        return self.provider

    @property
    def resource(self) -> str:
        """The API that its tokens are for (RFC 8707), or ""."""
        return self._want.resource

    def verdict(self, grant: Grant | None) -> Use | Renew | Problem:
        """What `token` would have to do about that record now; nothing of it is done."""
        want = replace(self._want, seen=self._highest)
        return refresh.decide(grant, want, self.policy, time.time(), locked=False)

    def memory(self) -> Grant | None:
        """The last record that this process knows, also when the store is gone."""
        return self._memory.grant

    def _remember(self, snapshot: Snapshot) -> None:
        self._memory = snapshot
        self._known = None
        grant = snapshot.grant
        if grant is None:
            return
        self._highest = max(self._highest, grant.order)
        token = self._token_in(grant)
        enough = not refresh.shortfall(grant, self._want.scope, dpop=self._want.dpop)
        if snapshot.settled and token is not None and token.fits and enough:
            self._known = _Known(snapshot.stamp, token, *refresh.fresh_span(token, self.policy))

    def change(self, make: Callable[[Grant | None], Grant]) -> tuple[Grant | None, Grant]:
        """Replace the record by what `make` makes of it, and return both.  For log-in and log-out.

        It does not wait for a refresh that is under way: that one finds its base gone.
        """
        previous: Grant | None = None
        for _ in range(20):
            try:
                previous = self.store.load(self.key).grant
            except CorruptStore as error:
                log.warning("%s", error)
            self._refuse_sealed(previous)
            made = make(previous)
            try:
                self.store.commit(made, expected=previous.order if previous else None)
            except OrderConflict:
                continue
            self._highest = made.order
            self._memory = Snapshot(None, None, settled=False)
            self._known = None
            gate_of(self.store, self.key).announce()
            return previous, made
        raise StoreError(f"the login for {self.key} is being changed by others all the time")

    def _refuse_sealed(self, grant: Grant | None) -> None:
        """A store that sealed a login also opens it; what comes sealed was opened as if it were another one."""
        if grant is not None and grant.sealed:
            raise SealError(
                f"the login for {self.key} is sealed, or its tokens are kept elsewhere, and it was opened as if they "
                f"were in {self.store.location(self.key)}.  Open it as it was saved, with store='…?seal=…' or the like"
            )

    # ── errors for people ────────────────────────────────────────────────────────────────────────────────

    def error(self, problem: Problem, cause: StoreError | None = None) -> Exception:
        """What the machine found, as the exception for it."""
        match problem.kind:
            case "login":
                text = _WHY[problem.reason].format(key=self.key, detail=problem.detail or "it did not say why")
                hint = f"Use it there: store={problem.detail!r}" if problem.reason == "moved" else self.hint
                return LoginRequired(text, reason=problem.reason, hint=hint)
            case "later":
                seconds = max(0.0, problem.retry_after or 0.0)
                return TransportError(
                    f"the login for {self.key} could not be renewed just now: {problem.detail}.  It is kept; try "
                    f"again in {seconds:.0f} s",
                    retry_after=seconds,
                )
            case "misconfigured":
                return ConfigurationError(
                    f"the provider does not accept this client: {problem.detail}.  The login for {self.key} is "
                    "kept; check client_id, its secret, key or certificate, and scope"
                )
            case "store":
                return cause or StoreError(problem.detail)
            case "lock":
                return LockTimeout(
                    f"another process has been renewing the login for {self.key} for more than "
                    f"{self.policy.wait_timeout:.0f} s ({self.store.location(self.key)}); try again, and if it "
                    "stays so, look for a stopped process"
                )
        assert_never(problem.kind)


_WHY: dict[Reason, str] = {
    "none": "nobody is signed in to {key}",
    "expired": "the login for {key} has run out, and it cannot renew itself",
    "ended": "the login for {key} was ended at the provider: {detail}",
    "logged_out": "somebody signed out of {key}",
    "moved": "the login for {key} was moved to {detail}",
    "lost": "the login for {key} may have been used up without an answer arriving: {detail}",
    "scope": "the login for {key} does not cover what is asked for now: {detail}",
    "account": "the login for {key} was ended, because the provider began to answer for somebody else: {detail}",
}


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────


class _Run:
    """One caller's way through the machine: in its own thread until the gate, then in a worker."""

    def __init__(self, source: LoginSource, want: Want) -> None:
        self._source = source
        self._gate = gate_of(source.store, source.key)
        self._started = time.time()
        self._hold: Hold | None = None
        self._abandoned = False
        self._thread = threading.get_ident()
        self._prepared = False
        self._unprepared: Reply | None = None
        self._stamp: Stamp = None  # as it was before the record was loaded
        self._lookout: Lookout | None = None
        self._trouble: StoreError | None = None
        self._machine, self._action = refresh.start(
            want, source.policy, self._started, owner=process_identity(), nonce=os.urandom(8).hex()
        )
        self._outcome: TokenSet | BaseException | None = None
        self.over = threading.Event()

    def result(self) -> TokenSet:
        """The token, or what prevents it."""
        while True:
            match self._action:
                case refresh.Use(token):
                    return token
                case refresh.Raise(problem):
                    raise self._source.error(problem, self._trouble)
                case refresh.TryLock() if (unsaved := self._gate.unsaved) is not None:
                    go_on_saving()
                    detail = "the renewed login could not be saved yet; see the log"
                    self._went(refresh.Unreadable(unsaved, detail))
                case refresh.TryLock() if self._machine.meanwhile is not None:
                    # STALE: whoever passes the gate renews in the background, and nobody waits (I6).
                    meanwhile = self._machine.meanwhile  # read before the worker goes on with the machine
                    if time.monotonic() >= self._gate.quiet_until and not self._gate.busy:
                        if self._taken():
                            self._gate.be_quiet(BUSY)
                        else:
                            self._start_worker(elsewhere=True)
                    return meanwhile
                case refresh.TryLock():
                    free = not self._gate.busy and not self._taken()
                    if free and (brought := self._await_worker()) is not None:
                        return brought
                    self._went(refresh.Locked(held=False))
                case refresh.Wait(seconds):
                    patience = min(seconds, PATIENCE)
                    if self._gate.wait(patience):
                        self._gate.looked(changed=self._watch(patience))
                    self._went(refresh.Waited())
                case action:
                    self._went(self._do(action))

    def _went(self, event: refresh.Event) -> None:
        self._machine, self._action = refresh.step(self._machine, event, time.time())

    def _await_worker(self) -> TokenSet | None:
        """What the worker brought; None if another one was at the gate before it."""
        self.over.clear()  # of an earlier one of this run, which found the gate taken
        try:
            self._start_worker()
            while not self.over.wait(SLICE):
                pass
        except BaseException:
            self._abandoned = True  # only the wait ends; what has been sent is also saved
            raise
        if not isinstance(self._outcome, BaseException):
            return self._outcome
        try:
            raise self._outcome
        finally:
            self._outcome = None  # the exception's traceback leads to this frame

    def _start_worker(self, *, elsewhere: bool = False) -> None:
        """`elsewhere`: in a thread of its own or not at all, since nobody needs what it brings yet."""
        worker = threading.Thread(target=self._work, name="loginonce-refresh", daemon=False)
        try:
            worker.start()
        except RuntimeError:  # the interpreter is ending and starts no more threads, or none is to be had
            if elsewhere:
                self._gate.be_quiet(QUIET)
            else:
                self._work_here()

    def _work_here(self) -> None:
        """In the caller's thread.  An interrupt is held back until it is over: a worker would meet none (HAZARDS 2).

        Its caller has given up then, so that what is not spent yet stays so.
        """
        # Imported here: this is rare.
        import signal

        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            self._work()
            return
        interrupted = False

        def hold_back(*_: object) -> None:
            nonlocal interrupted
            self._abandoned = interrupted = True

        signal.signal(signal.SIGINT, hold_back)
        try:
            self._work()
        finally:
            signal.signal(signal.SIGINT, before)
            if interrupted:
                signal.raise_signal(signal.SIGINT)

    def _work(self) -> None:
        # The gate is entered and left in here, where no interrupt comes between.
        if not self._gate.enter():
            self.over.set()
            return
        background = self._machine.meanwhile is not None
        _under_way.add(self)
        try:
            self._outcome = self._drive()
        except BaseException as error:
            self._outcome = error
        finally:
            trouble = self._trouble or (self._outcome if isinstance(self._outcome, BaseException) else None)
            # What the provider had against it stands in the record, with the time to ask again.
            if background and trouble is not None and not isinstance(trouble, TransportError | LoginRequired):
                self._gate.be_quiet(QUIET)
            if self._hold is not None:
                self._hold.release()
            self._gate.leave()
            self.over.set()
            _under_way.discard(self)
            if background and trouble is not None:
                log.warning("a renewal in the background did not succeed: %s", in_words(trouble))

    def _drive(self) -> TokenSet:
        """Do what the machine asks for until it is done.  Runs in the worker."""
        while True:
            match self._action:
                case refresh.Use(token):
                    return token
                case refresh.Raise(problem):
                    raise self._source.error(problem, self._trouble)
                case action:
                    self._went(self._do(action))

    def _unwanted(self) -> bool:
        """Whether nobody waits for it any more, and nothing is spent yet; what has been sent is seen through."""
        cut_short = _ending.is_set() and self._thread != threading.main_thread().ident
        return (self._abandoned or cut_short) and not self._machine.spent

    def _do(self, action: refresh.Action) -> refresh.Event:
        source = self._source
        match action:
            case refresh.TryLock() | refresh.Wait() | refresh.Write(reserve=True) if self._unwanted():
                why = "the program is ending" if _ending.is_set() else "the caller has given up waiting"
                raise LockTimeout(f"the login for {source.key} is not renewed any more: {why}")
            case refresh.Load():
                with suppress(StoreError):  # reading tells
                    self._stamp = source.store.stamp(source.key)
                try:
                    return refresh.Loaded(source.snapshot().grant)
                except StoreError as error:
                    self._trouble = error
                    return refresh.Unreadable(source.memory(), str(error))
            case refresh.TryLock():
                try:
                    self._lock()
                except StoreError as error:
                    self._trouble = error
                    return refresh.Unreadable(source.memory(), str(error))
                return refresh.Locked(self._hold is not None, self._hold is not None and self._hold.lease)
            case refresh.Wait(seconds):
                self._watch(min(seconds, PATIENCE))
                return refresh.Waited()
            case refresh.Write(grant, expected, reserve):
                return self._write(grant, expected, reserve=reserve)
            case refresh.Send(grant, latest):
                return self._send(grant, latest)
            case refresh.Release():
                assert self._hold is not None
                self._hold.release()
                self._hold = None
                return refresh.Released()
            case refresh.Revoke(token):
                source.provider.revoke(token, "refresh_token")
                return refresh.Revoked()
            case refresh.Rescue(grant, expected, detail):
                assert self._hold is not None
                rescuer = Rescuer(
                    source.store, self._gate, self._hold, grant, expected, detail,
                    revoke=lambda token: source.provider.revoke(token, "refresh_token"),
                )  # fmt: skip
                rescuer.start()
                self._hold = None
                return refresh.Rescuing()
            case refresh.Use() | refresh.Raise():
                raise AssertionError(f"{type(action).__name__} ends the run")
        assert_never(action)

    def _taken(self) -> bool:
        try:
            return self._source.store.locked(self._source.key)
        except StoreError:  # to try it tells
            return False

    def _lock(self) -> None:
        """Try once to get the lock.  Inside of it nobody is asked for anything but tokens (I8).

        What speaks to the provider is made by who has the lock, since the others will not need it; what would have to
        be fetched for it is fetched outside, and the lock tried once more.
        """
        source, store = self._source, self._source.store
        self._hold = store.try_lock(source.key)
        if self._hold is not None and not self._prepared:
            budget = 0.0
            if not source.provider.informed():
                self._hold.release()
                # So long that the others of this process, who wait at the gate, are there for the send as well.
                policy = source.policy
                budget = min(policy.wait_timeout, max(5.0, policy.wait_timeout - policy.send_timeout))
                self._hold = None
            self._unprepared = source.provider.prepare(budget=budget)
            self._prepared = True
            if self._hold is None:
                self._hold = store.try_lock(source.key)
        if self._hold is None:
            self._gate.be_quiet(BUSY)

    def _watch(self, seconds: float) -> bool:
        """Until the record is another than the one that was loaded, at most so long; whether it is."""
        source = self._source
        try:
            if self._lookout is None:
                self._lookout = source.store.lookout(source.key)
            return self._lookout.wait(self._stamp, seconds)
        except StoreError:  # what follows is to read the record, and tells
            time.sleep(min(seconds, 0.01))
            return False

    def _write(self, grant: Grant, expected: Order | None, *, reserve: bool) -> refresh.Event:
        try:
            self._source.store.commit(grant, expected=expected, reserve=reserve)
        except OrderConflict as conflict:
            return refresh.Conflict(conflict.current)
        except Exception as error:
            # Also what nobody foresaw: an answer that is on its way to the store must not be lost by it.
            if not isinstance(error, StoreError):
                unforeseen("a store failed in an unforeseen way", error)
                error = StoreError(f"the store failed in an unforeseen way: {type(error).__name__}")
            self._trouble = error
            return refresh.NotWritten(str(error))
        self._source._remember(Snapshot(grant, None, settled=False))  # noqa: SLF001 - one room, two classes
        if not reserve:  # a marker is no news to who waits for a token
            self._gate.announce()
        return refresh.Written()

    def _send(self, grant: Grant, latest: float | None) -> refresh.Event:
        asked_at = time.time()
        want = self._machine.want
        if self._unprepared is not None:
            return refresh.Answered(self._unprepared, asked_at)
        if latest is not None and asked_at > latest:
            return refresh.Late()
        try:
            reply = self._source.provider.refresh(
                grant,
                resource=want.resource,
                for_scope=want.for_scope,
                budget=self._source.policy.send_timeout,
            )
        except Exception as error:
            from .wire import Lost

            unforeseen("a token request failed in an unforeseen way", error)
            reply = Lost(f"unforeseen: {type(error).__name__}")
        log.info("renewing %s: %s", self._source.key, type(reply).__name__)
        from .wire import Granted

        if isinstance(reply, Granted):
            self._source.tell_if_narrowed(grant, reply.answer.scope)
        return refresh.Answered(reply, asked_at)


_under_way: set[_Run] = set()

_ending = threading.Event()
"""Whether the interpreter ends, and with it all threads but the main one, wherever they are."""

at_fork_in_child(_under_way.clear)


def _see_through() -> None:
    """At the end of the process: a second interrupt has ended the interpreter's own wait for its threads, and
    would end what they have begun with it (HAZARDS 2).  Each is bounded by its budgets.

    Then what could not be saved is tried once more; not before, since a run that ends here may leave some.
    """
    # The threads themselves cannot be asked: an interrupted `join` takes one for ended.
    while begun := [run for run in list(_under_way) if not run.over.is_set()]:
        with suppress(BaseException):  # an interrupt, or what the program's own signal handler raises
            for run in begun:
                run._abandoned = True  # noqa: SLF001 - one room
            begun[0].over.wait()
    save_the_rest()


atexit.register(_see_through)
atexit.register(_ending.set)  # the last one is called first
