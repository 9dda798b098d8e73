"""What happens to a login while nobody asks: `Watcher` tells of its changes, `Keeper` renews it before its end.

Both look at the record four times a second, which is one `stat` while nothing has changed, each from a daemon
thread of its own: a callback that takes long delays no renewal, and neither keeps an interpreter alive.  The
threads hold on to what they work for only while they look, so a session that nobody needs is collected as ever.
A forked child has none of them, and starts its own when it asks for one (HAZARDS 13).

Changes are read off the order of the record (epoch, generation, attempt), which only rises.  So every process
finds the same ones, its own among them, each once and in their order.  What came and went between two looks is
told as far as the record proves it: ten renewals are one `refresh`, a log-out that a new login followed is not told.

The keeper decides nothing.  It asks `refresh.decide` what a request would have to do now, and has it done before
one comes; which process of the many does it is settled by the lock, as for requests.  It asks from a thread that
is no daemon, and only while the main thread lives: the interpreter waits for such a thread, so no refresh token is
sent whose answer could not be saved any more (HAZARDS 2).
"""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FunctionType
from typing import Generic, NamedTuple, Self, TypeVar

from .errors import LoginRequired, StoreError
from .home import at_fork_in_child
from .log import in_words, log
from .model import ChangeKind, Grant, Order, State, TokenSet
from .refresh import Problem, Renew, Use, fresh_span
from .source import LoginSource

__all__ = ["Keeper", "KeptFresh", "Watcher", "why_over"]

BEAT = 0.25
"""Seconds between two looks: what another process did is told within it, and so is the end of a suspension."""

SLOW_BEAT = 2.0
"""The same, while the store cannot be used."""

SPREAD = 0.25
"""Up to which part of the time in which a token is STALE the keepers wait, so that not all wake in one moment."""

REST, SHORTEST_REST = 1.0, 0.02
"""Seconds between two attempts that changed nothing: less than one where a token is STALE for a short time only."""

Told = TypeVar("Told")


def why_over(source: LoginSource, grant: Grant) -> Problem | None:
    """Why nothing renews this login any more, if so, also while an access token of it is still good."""
    if grant.state not in ("DEAD", "LOGGED_OUT"):
        return None
    verdict = source.verdict(replace(grant, tokens=()))
    assert isinstance(verdict, Problem)
    return verdict


# ── threads that look now and then ───────────────────────────────────────────────────────────────────────


class _Background(ABC):
    """Something to look at now and then, in a daemon thread, until it is ended or nobody holds it any more."""

    name: str

    def __init__(self, source: LoginSource) -> None:
        self._source = source
        self.forget()
        _backgrounds.add(self)

    def forget(self) -> None:
        """Be as new.  For a forked child, where the thread is not, and the mutex may be held by nobody."""
        self._mutex = threading.Lock()
        self._ended: threading.Event | None = None

    def _begin(self) -> None:
        """Have a thread; the mutex is held."""
        if self._ended is None:
            ended = threading.Event()
            thread = threading.Thread(target=_beat_on, args=(weakref.ref(self), ended), name=self.name, daemon=True)
            self._ended = ended
            try:
                thread.start()
            except BaseException:
                self._ended = None
                raise

    def _end(self) -> None:
        """Have none; the mutex is held.  A look that is under way is finished."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def belongs_to(self, ended: threading.Event) -> bool:
        """Whether that is the event of the present thread, rather than of one that was ended or of the parent."""
        return self._ended is ended

    @abstractmethod
    def beat(self) -> float:
        """Look, act, and return in how many seconds to look again.  Raises `StoreError`."""


def _beat_on(background: weakref.ref[_Background], ended: threading.Event) -> None:
    """What the threads do.  Between two beats they hold nothing but the event."""
    pause, troubled = 0.0, False
    while not ended.wait(pause):
        this = background()
        if this is None or not this.belongs_to(ended):
            return
        try:
            pause, troubled = this.beat(), False
        except Exception as error:
            if not troubled:
                log.warning("a look at a login failed: %s.  Looking on", in_words(error))
            pause, troubled = SLOW_BEAT, True
        del this


_backgrounds: weakref.WeakSet[_Background] = weakref.WeakSet()


def _after_fork() -> None:
    for background in list(_backgrounds):
        background.forget()


at_fork_in_child(_after_fork)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────


class _Seen(NamedTuple):
    """As much of a record as tells a change of it."""

    order: Order
    state: State


_NOTHING = _Seen((0, 0, 0), "LOGGED_OUT")
"""No record: nobody is signed in."""


def _changes(seen: _Seen, now: _Seen) -> Iterator[ChangeKind]:
    """What has happened between two looks, as far as the second proves it."""
    if now.order <= seen.order:  # unchanged; or an older copy was put back, which is no news
        return
    (epoch, generation, _), (earlier_epoch, earlier_generation, _) = now.order, seen.order
    if now.state == "LOGGED_OUT":
        if seen.state != "LOGGED_OUT":
            yield "logout"
        return
    if epoch > earlier_epoch:
        yield "login"
    elif generation > earlier_generation:
        yield "refresh"
    if now.state == "DEAD" and (epoch > earlier_epoch or seen.state != "DEAD"):
        yield "ended"


class _Listener(Generic[Told]):
    """One callback, and what it has been told of."""

    def __init__(self, callback: Callable[[Told], object], seen: _Seen | None) -> None:
        self.callback = callback
        self.identity = _identity(callback)
        self.seen = seen  # None: the store could not be read, so the first look is where it begins


def _identity(callback: Callable[..., object]) -> object:
    """What is equal for two callbacks that are the same one.

    A function of a module that was defined again, as by running a notebook's cell once more, is the same one.
    """
    if isinstance(callback, FunctionType) and "<" not in callback.__qualname__:  # no lambda, no inner function
        return (callback.__module__, callback.__qualname__)
    return callback


class Watcher(_Background, Generic[Told]):
    """Tells its listeners of each change of a login, whichever process made it, from one thread.

    `describe` makes of a change what the listeners get.  The thread lives while there are listeners.
    """

    name = "loginonce-watch"

    def __init__(self, source: LoginSource, describe: Callable[[ChangeKind, Grant], Told]) -> None:
        super().__init__(source)
        self._describe = describe

    def forget(self) -> None:
        """Be as new: without listeners."""
        super().forget()
        self._listeners: tuple[_Listener[Told], ...] = ()

    def listen(self, callback: Callable[[Told], object]) -> Callable[[], None]:
        """Call it with every change from now on, until the function that is returned is called.

        The same callback again takes the place of the earlier one.  One that raises is logged.
        """
        try:
            grant = self._source.grant()
            seen = _Seen(grant.order, grant.state) if grant else _NOTHING
        except StoreError:
            seen = None
        listener = _Listener(callback, seen)
        with self._mutex:
            self._listeners = (*(one for one in self._listeners if one.identity != listener.identity), listener)
            self._begin()
        itself, registered = weakref.ref(self), weakref.ref(listener)

        def stop() -> None:
            """Tell it no more.  A call that is under way is finished."""
            watcher = itself()
            if watcher is not None:
                watcher._remove(registered())  # noqa: SLF001 - the same room

        return stop

    def _remove(self, listener: _Listener[Told] | None) -> None:
        with self._mutex:
            self._listeners = tuple(one for one in self._listeners if one is not listener)
            if not self._listeners:
                self._end()

    def stop(self) -> None:
        """Tell nobody any more."""
        with self._mutex:
            self._listeners = ()
            self._end()

    def beat(self) -> float:
        """Look, and tell."""
        grant = self._source.grant()
        if grant is None:  # removed, or the folder is away for a while: what is there later tells
            return BEAT
        now = _Seen(grant.order, grant.state)
        for listener in self._listeners:
            seen = listener.seen or now
            listener.seen = max(seen, now)
            for kind in _changes(seen, now):
                if listener in self._listeners:  # it may have been stopped by another one, or by itself
                    self._tell(listener, kind, grant)
        return BEAT

    def _tell(self, listener: _Listener[Told], kind: ChangeKind, grant: Grant) -> None:
        try:
            listener.callback(self._describe(kind, grant))
        except BaseException:  # also SystemExit: it would end the thread, and nobody else would be told
            log.exception("a callback failed that was told of a %s of %s", kind, self._source.key)


# ── renewing ahead ───────────────────────────────────────────────────────────────────────────────────────


class _Standing(NamedTuple):
    """What the keeper has found out about one generation of the login; a new one begins anew."""

    generation: Order | None
    over: bool = False
    rest_until: float = 0.0  # time.monotonic
    troubled: bool = False


class Keeper(_Background):
    """Renews a login shortly before its access token ends, so that no request waits for the provider.

    A login that a person has to renew is told of once, by a warning, and left alone until there is a new one.
    """

    name = "loginonce-keep"

    def __init__(self, source: LoginSource) -> None:
        super().__init__(source)
        self._share = SPREAD * secrets.randbelow(1000) / 1000

    def forget(self) -> None:
        """Be as new: not running."""
        super().forget()
        self._asking: threading.Thread | None = None
        self._standing = _Standing(None)

    def start(self) -> KeptFresh:
        """Keep the login fresh from now on, if that is not so already."""
        with self._mutex:
            self._begin()
        return KeptFresh(self)

    def stop(self) -> None:
        """Keep it fresh no longer.  A renewal that is under way is finished."""
        with self._mutex:
            self._end()

    def beat(self) -> float:
        """Look, and have it renewed if it is time."""
        source = self._source
        grant = source.grant()
        generation = (grant.epoch, grant.generation, 0) if grant else (0, 0, 0)
        if self._standing.generation != generation:
            self._standing = _Standing(generation)
        if self._standing.over:
            return BEAT
        verdict = (why_over(source, grant) if grant else None) or source.verdict(grant)
        now = time.time()
        match verdict:
            case Problem("login", reason):
                if reason != "none":  # where nobody has signed in yet nothing has been lost
                    self._give_up(source.error(verdict))
            case Problem():
                pass  # everybody waits
            case Use(token):  # it is fresh, or may not be renewed yet
                stale, window = self._stale(token)
                begins = stale + self._share * window
                if now < begins:
                    return min(BEAT, begins - now)
            case Renew(token) if token is not None:
                stale, window = self._stale(token)
                begins = stale + self._share * window
                if stale <= now < begins:
                    return min(BEAT, begins - now)
                return self._ask(min(REST, max(SHORTEST_REST, window / 4)))
            case _:  # no token is left: without delay
                return self._ask(REST)
        return BEAT

    def _stale(self, token: TokenSet) -> tuple[float, float]:
        """From when that token is STALE (POSIX seconds; inf = never), and for how long."""
        begin = fresh_span(token, self._source.policy)[1]
        return begin, 0.0 if token.expires_at is None else token.expires_at - begin

    def _ask(self, rest: float) -> float:
        left = self._standing.rest_until - time.monotonic()
        if left <= 0 and (self._asking is None or not self._asking.is_alive()):
            left = rest
            self._standing = self._standing._replace(rest_until=time.monotonic() + rest)
            asking = threading.Thread(target=self._renew, args=(self._standing,), name="loginonce-ask", daemon=False)
            self._asking = asking
            asking.start()
        return min(BEAT, left) if left > 0 else BEAT

    def _renew(self, standing: _Standing) -> None:
        if not threading.main_thread().is_alive():  # the interpreter ends, and may not have seen this thread
            return
        try:
            self._source.token()
        except LoginRequired as error:
            if self._standing.generation == standing.generation:
                self._give_up(error)
        except Exception as error:
            if not standing.troubled:
                log.info("a renewal ahead of time failed: %s", in_words(error))
            if self._standing.generation == standing.generation:
                self._standing = standing._replace(troubled=True, rest_until=time.monotonic() + REST)

    def _give_up(self, error: Exception) -> None:
        if not self._standing.over:
            self._standing = self._standing._replace(over=True)
            log.warning("not kept fresh any more, until there is a new login: %s", in_words(error))


class KeptFresh:
    """What `Session.keep_fresh` returns: it ends by `stop()`, or with a `with` block, or with the session."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = weakref.ref(keeper)

    def stop(self) -> None:
        """Keep the session's login fresh no longer.  A renewal that is under way is finished."""
        keeper = self._keeper()
        if keeper is not None:
            keeper.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
