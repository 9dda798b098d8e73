"""A small world around the real refresh machine: one store, its lock, one provider, a clock, and accidents.

The machine is `loginonce.refresh` itself; this module only answers its actions, each answer being one atomic
step of one process.  Sending takes two: the request reaches the provider, and later its answer arrives.

A state is a flat tuple of small integers, (surroundings, record, provider, tick, one for each process): everything
else is interned in tables, and what a process can do next is worked out once for each combination it depends on.
Processes are alike (same owner, same nonce), so two states that differ only in who is who count as one; a
`Scenario(symmetric=False)` gives them names instead.

What an invariant says is written down here a second time, on purpose without asking the machine: by what the
store holds, by what the provider saw, and by a few notes on each process (`Local`).

    I1–I11   as in `loginonce.refresh`
    I12      a token that is handed out is still good
    T1       without crashes, lost answers, lockless spenders and restored copies no spent token is ever sent
    T2       nobody is asked to sign in while the login can be renewed
    T3       where nothing went wrong, nothing is raised
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from loginonce import gate, refresh
from loginonce.model import Grant, GrantKey, Order, Secret, TokenSet, fingerprint
from loginonce.refresh import Policy, Want
from loginonce.stores.base import OrderConflict
from loginonce.wire import Busy, Granted, Lost, Misconfigured, Refused, Reply, TokenAnswer, Unsent

KEY = GrantKey("https://id.example", "app")
EXPIRY = 1_000_000.0
"""POSIX seconds at which the first access token ends; the times of a scenario count from here."""


class Accident(IntEnum):
    """What may go wrong, or be done by others: each has a budget, so that the exploration ends."""

    NONE = 0
    CRASH = 1  # a process is killed; its lock is free, and a fresh caller may take its place
    LOST = 2  # a request or its answer is lost
    DECLINED = 3  # never sent, busy, misconfigured
    NOT_WRITTEN = 4  # the store refuses a write
    UNREADABLE = 5  # the store cannot be read, or its lock not be tried
    AGAIN = 6  # a process whose call is over calls again, with what it remembers
    LOGIN = 7  # somebody signs in elsewhere
    LOGOUT = 8  # somebody signs out elsewhere
    ENDED = 9  # the provider ends the session
    ROGUE = 10  # a program without the lock spends the refresh token, and then writes
    RESTORED = 11  # an older copy of the record is put back
    REMOVED = 12  # the record is gone
    OTHER_PERSON = 13  # the provider answers for somebody else
    RUN_OUT = 14  # a lease ends, and its holder does not know


NONE, CRASH, LOST, DECLINED, NOT_WRITTEN, UNREADABLE, AGAIN = list(Accident)[:7]
LOGIN, LOGOUT, ENDED, ROGUE, RESTORED, REMOVED, OTHER_PERSON, RUN_OUT = list(Accident)[7:]


@dataclass(frozen=True)
class Behaviour:
    """How the provider treats a refresh token.

    `grace`: what happens to one that is sent again within `interval` seconds (or `count` times): refused,
    the same successor, another one.  `kills_family`: a replay beyond that ends the login.  `one_session`: all
    logins share the provider's session, so that revoking one ends the others.
    """

    rotates: bool = True
    grace: Literal["none", "same", "sibling", "count"] = "none"
    interval: float = 0.0
    count: int = 1
    kills_family: bool = True
    one_session: bool = True
    life: float = 3600.0


@dataclass(frozen=True)
class Scenario:
    """What is explored: how many processes, which provider and policy, which instants, and which accidents.

    `times` are seconds from the end of the first access token.  `wants` are what a caller may start with.
    """

    name: str
    processes: int = 2
    policy: Policy = field(default_factory=Policy)
    provider: Behaviour = field(default_factory=Behaviour)
    times: tuple[float, ...] = (0.0, 5.0, 15.0, 60.0)
    accidents: tuple[tuple[Accident, int], ...] = ()
    resources: tuple[str, ...] = ("",)
    rejecting: bool = False  # some callers come with a 401 for the first access token
    service: bool = False  # client_credentials, with no record at first
    declines: tuple[Reply, ...] = (Unsent("no route"),)
    unsure_writes: bool = False  # a write that is reported as failed may have happened
    lease: bool = False  # the lock is one
    symmetric: bool = True

    def budget(self, accident: Accident) -> int:
        return dict(self.accidents).get(accident, 0)


# ── the provider ─────────────────────────────────────────────────────────────────────────────────────────


class Spendable(NamedTuple):
    """A refresh token as its provider knows it: which login, when it was spent, for what, and how often we sent it."""

    family: int
    spent: int = -1  # tick
    child: int = -1
    replays: int = 0
    sends: int = 0  # by the library; a rogue's do not count


class Provider(NamedTuple):
    """All refresh tokens, the logins that have ended, and how many answers were given."""

    tokens: tuple[Spendable, ...] = (Spendable(0),)
    dead: frozenset[int] = frozenset()
    answers: int = 0


class Outcome(NamedTuple):
    reply: Reply
    provider: Provider
    replayed: bool


def number(token: str) -> int:
    """Refresh token "r3" is the provider's fourth."""
    return int(token[1:])


def with_token(provider: Provider, index: int, token: Spendable) -> Provider:
    tokens = list(provider.tokens)
    tokens[index : index + 1] = [token]
    return provider._replace(tokens=tuple(tokens))


def exchange(provider: Provider, index: int, tick: int, at: Callable[[int], float], how: Behaviour) -> Outcome:
    """What the provider makes of one refresh token."""
    token = provider.tokens[index]
    if token.family in provider.dead:
        return Outcome(Refused("invalid_grant", ""), provider, False)
    if token.spent < 0:
        if not how.rotates:
            return Outcome(_granted(provider, None, how), provider._replace(answers=provider.answers + 1), False)
        return _successor(with_token(provider, index, token._replace(spent=tick)), index, how)
    within = at(tick) - at(token.spent) < how.interval
    again = with_token(provider, index, token._replace(replays=token.replays + 1))
    if how.grace == "same" and within:
        return Outcome(_granted(again, token.child, how), again._replace(answers=again.answers + 1), False)
    if (how.grace == "sibling" and within) or (how.grace == "count" and token.replays < how.count):
        return _successor(again, index, how)
    dead = provider.dead | {token.family} if how.kills_family else provider.dead
    return Outcome(Refused("invalid_grant", ""), again._replace(dead=dead), True)


def _successor(provider: Provider, index: int, how: Behaviour) -> Outcome:
    child = len(provider.tokens)
    parent = provider.tokens[index]
    provider = with_token(provider, index, parent._replace(child=child))
    provider = provider._replace(tokens=(*provider.tokens, Spendable(parent.family)), answers=provider.answers + 1)
    return Outcome(_granted(provider._replace(answers=provider.answers - 1), child, how), provider, False)


def _granted(provider: Provider, child: int | None, how: Behaviour) -> Granted:
    secret = None if child is None else Secret(f"r{child}")
    return Granted(TokenAnswer(Secret(f"a{provider.answers + 1}"), expires_in=how.life, refresh_token=secret))


def revoked(provider: Provider, token: str, how: Behaviour) -> Provider:
    """What a revocation leaves: the family dies, and whatever shares its session."""
    if not token.startswith("r"):
        return provider
    family = provider.tokens[number(token)].family
    gone = {t.family for t in provider.tokens} if how.one_session else {family}
    return provider._replace(dead=provider.dead | gone)


def _someone_else(provider: Provider) -> Secret:
    claims = json.dumps({"iss": "https://elsewhere.example", "sub": "eve", "aud": "app"}).encode()
    body = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    return Secret(f"e30.{body}.{provider.answers}")


# ── a process ────────────────────────────────────────────────────────────────────────────────────────────


class Local(NamedTuple):
    """One process: where its machine stands, and what the checks need to remember of it."""

    stage: Literal["fresh", "run", "over", "rescue"] = "fresh"
    node: int = -1  # (Refresh, Action)
    holds: bool = False
    ran_out: bool = False  # it believes to hold a lease, which has ended
    arriving: Reply | None = None  # the provider has answered, and the answer is on its way
    sending: int = -1  # the refresh token that is under way
    asked: int = -1  # tick
    sends: int = 0  # of this run
    durable: int = -1  # the record that this run wrote last
    owes: str = ""  # what the provider gave to this run and nobody has saved yet
    given_up: str = ""  # an access token that this run revoked, or let go
    memory: int = -1  # the last record that this process knows
    seen: Order = (0, 0, 0)
    rescued: int = -1  # what its rescuer holds, and the order that the record must have for it
    expected: Order | None = None
    looked: int = -1  # for broken variants: the record as it was before the lock


Excuse = Literal[
    "",
    "restored",  # an older copy was put back, or the record removed
    "doubtful",  # a token may have been spent without an answer being saved
    "ended",  # or the login has ended
    "ended or unwritten",  # or the store failed
    "anything",  # anything but a crash or a sign-in
    "nobody renews",  # no other process holds the lock, having marked the record; or a lease has run out
    "held",  # a living process holds the lock, or its lease has run out
    "rogue idle",  # no lockless program is between spending and writing
]


class Claim(NamedTuple):
    """An invariant that this move breaks, always or unless something excuses it."""

    invariant: str
    message: str
    unless: Excuse = ""


class Move(NamedTuple):
    """One step of one process: what it costs, what is there afterwards, and what it breaks."""

    label: str
    cost: int
    local: int
    record: int
    provider: int
    claims: tuple[Claim, ...] = ()
    sends: int = -1


class Turn(NamedTuple):
    """One step of the surroundings."""

    label: str
    around: int
    record: int
    provider: int
    tick: int
    claims: tuple[Claim, ...] = ()
    due: bool = False  # it comes by itself, and is no accident


class Around(NamedTuple):
    """The surroundings: what may still go wrong, and what others are in the middle of."""

    left: tuple[int, ...]
    rogue: int = -1  # the record that a lockless program is about to write
    revoking: str = ""  # the refresh token that a log-out is about to revoke


State = tuple[int, ...]


class Real:
    """The shell as it should be: it does what the machine asks for.  Broken variants override one thing each."""

    name = "the real machine"
    keeps_look = False
    lock_outlives_owner = False

    def step(self, machine: refresh.Refresh, event: refresh.Event, now: float) -> refresh.Next:
        return refresh.step(machine, event, now)

    def read(self, machine: refresh.Refresh, local: Local, stored: int) -> int:
        """Which record a Load finds."""
        return stored

    def lock(self, *, free: bool) -> tuple[bool, bool]:
        """What TryLock says, and whether the lock is held then."""
        return free, free

    def commit(self, machine: refresh.Refresh, stored: Grant | None, write: refresh.Write) -> str:
        """Whether a Write is `written`, a `conflict`, or only `pretended`."""
        return "written" if (stored.order if stored else None) == write.expected else "conflict"

    def is_late(self, latest: float, now: float) -> bool:
        """Whether it is too late to send what was written ahead."""
        return now > latest

    def spend(self, grant: Grant, looked: Grant | None) -> str:
        """The refresh token that is sent."""
        return str(grant.refresh_token)


# ── the world ────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """All that can happen in a scenario: `initial`, `turns` of the surroundings, `moves` of a process."""

    def __init__(self, scenario: Scenario, variant: Real | None = None) -> None:
        self.scenario = scenario
        self.variant = variant or Real()
        self.now = tuple(EXPIRY + t for t in scenario.times)
        self._keeps_memory = bool(scenario.budget(UNREADABLE) or scenario.budget(AGAIN))
        self.grants: list[Grant | None] = []
        self._grant_ids: dict[Grant | None, int] = {}
        self.providers: list[Provider] = []
        self._provider_ids: dict[Provider, int] = {}
        self.locals: list[Local] = []
        self._local_ids: dict[Local, int] = {}
        self.arounds: list[Around] = []
        self._around_ids: dict[Around, int] = {}
        self.nodes: list[refresh.Next] = []
        self._node_ids: dict[refresh.Next, int] = {}
        self._steps: dict[tuple[Any, ...], int | str] = {}
        self._moves: dict[tuple[Any, ...], list[Move]] = {}
        self._turns: dict[tuple[int, ...], list[Turn]] = {}
        self._spent: dict[tuple[int, int], int] = {}
        # what the explorer asks of each process in each state, as plain lists
        self.holds: list[bool] = []
        self.runs: list[bool] = []
        self.watches: list[bool] = []  # waits for a sibling's record, the lock held
        self.sending: list[int] = []
        self._asked: list[int] = []
        self._minds_lock: list[bool] = []
        self._minds_provider: list[bool] = []
        self._minds_record: list[bool] = []
        self._blame: list[int] = []
        self.steps = 0

        self._no_grant = self.grant_id(None)
        self._first = self.grant_id(None if scenario.service else self._first_grant())
        self._fresh = self._local_id(Local())
        around = Around(tuple(scenario.budget(accident) for accident in Accident))
        self.initial: State = (
            self._around_id(around),
            self._first,
            self._provider_id(Provider()),
            0,
            *([self._fresh] * scenario.processes),
        )

    def _resources(self) -> tuple[str, ...]:
        return tuple(filter(None, self.scenario.resources))

    def _first_grant(self) -> Grant:
        token = TokenSet(Secret("a0"), EXPIRY - 3600, EXPIRY)
        return Grant(KEY, 1000, refresh_token=Secret("r0"), tokens=(token,), resources=self._resources())

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────

    def grant_id(self, grant: Grant | None) -> int:
        found = self._grant_ids.get(grant)
        if found is None:
            found = self._grant_ids[grant] = len(self.grants)
            self.grants.append(grant)
        return found

    def _provider_id(self, provider: Provider) -> int:
        found = self._provider_ids.get(provider)
        if found is None:
            found = self._provider_ids[provider] = len(self.providers)
            self.providers.append(provider)
        return found

    def _local_id(self, local: Local) -> int:
        found = self._local_ids.get(local)
        if found is None:
            found = self._local_ids[local] = len(self.locals)
            self.locals.append(local)
            self.holds.append(local.holds)
            self.runs.append(local.stage == "run")
            self.sending.append(local.sending)
            self._asked.append(local.asked if local.arriving is not None else -1)
            action = self.nodes[local.node][1] if local.stage == "run" else None
            self.watches.append((local.holds or self.scenario.lease) and isinstance(action, refresh.Wait))
            self._minds_lock.append(isinstance(action, refresh.TryLock))
            self._minds_provider.append(isinstance(action, refresh.Send | refresh.Revoke) or local.stage == "rescue")
            self._minds_record.append(
                isinstance(action, refresh.Load | refresh.Write | refresh.Send) or local.stage == "rescue"
            )
        return found

    def _around_id(self, around: Around) -> int:
        found = self._around_ids.get(around)
        if found is None:
            found = self._around_ids[around] = len(self.arounds)
            self.arounds.append(around)
            self._blame.append(self._blame_of(around))
        return found

    def _node_id(self, node: refresh.Next) -> int:
        found = self._node_ids.get(node)
        if found is None:
            found = self._node_ids[node] = len(self.nodes)
            self.nodes.append(node)
        return found

    # ── excuses ──────────────────────────────────────────────────────────────────────────────────────────

    def _blame_of(self, around: Around) -> int:
        """Bits, one for each excuse in `Claim` that depends on what has happened so far."""
        used = {a for a in Accident if around.left[a] < self.scenario.budget(a)}
        doubtful = used & {CRASH, LOST, ROGUE, RESTORED, REMOVED, OTHER_PERSON, RUN_OUT}
        bits = 1 * bool(used & {RESTORED, REMOVED})
        bits |= 2 * bool(doubtful | used & {ENDED, LOGOUT})
        bits |= 4 * bool(used & {NOT_WRITTEN, UNREADABLE})
        bits |= 8 * bool(used - {AGAIN, CRASH, LOGIN})
        bits |= 16 * bool(doubtful)
        return bits | 32 * bool(used & {RUN_OUT})

    def broken(self, claims: Iterable[Claim], state: State, actor: int) -> list[Claim]:
        """Those of the claims that nothing excuses."""
        blame = self._blame[state[0]]
        found = []
        for claim in claims:
            match claim.unless:
                case "":
                    excused = False
                case "restored":
                    excused = bool(blame & 1)
                case "doubtful":
                    excused = bool(blame & 16)
                case "ended":
                    excused = bool(blame & 2)
                case "ended or unwritten":
                    excused = bool(blame & 6)
                case "anything":
                    excused = bool(blame & 8)
                case "nobody renews":
                    excused = bool(blame & 33) or not self._renewed_by_another(state, actor)
                case "held":
                    excused = bool(blame & 32) or any(
                        self.holds[p] and self.locals[p].stage != "over" for p in state[4:]
                    )
                case "rogue idle":
                    excused = not self._rogue_has_the_successor(state)
            if not excused:
                found.append(claim)
        return found

    def _renewed_by_another(self, state: State, actor: int) -> bool:
        stored = self.grants[state[1]]
        others = (self.locals[p] for i, p in enumerate(state[4:]) if i != actor)
        spending = stored is not None and stored.state == "SPENDING"
        return spending and any(q.holds and q.stage == "run" and q.durable == state[1] for q in others)

    def _rogue_has_the_successor(self, state: State) -> bool:
        rogue = self.arounds[state[0]].rogue
        written, stored = self.grants[rogue] if rogue >= 0 else None, self.grants[state[1]]
        return (
            written is not None
            and stored is not None
            and stored.epoch == written.epoch
            and stored.state in {"SPENDING", "DEAD"}
        )

    # ── the surroundings ─────────────────────────────────────────────────────────────────────────────────

    def spend(self, around: int, cost: int) -> int:
        """The surroundings after this accident, or -1 where there have been enough of it."""
        found = self._spent.get((around, cost))
        if found is None:
            there = self.arounds[around]
            left = list(there.left)
            left[cost] -= 1
            found = -1 if left[cost] < 0 else self._around_id(there._replace(left=tuple(left)))
            self._spent[around, cost] = found
        return found

    def turns(self, state: State) -> list[Turn]:
        """What the surroundings can do."""
        around, record, provider, tick = state[:4]
        key = (around, record, provider, tick)
        found = self._turns.get(key)
        if found is None:
            found = self._turns[key] = list(self._find_turns(*key))
        return found

    def time_may_pass(self, state: State) -> bool:
        """An answer that has not come within the send budget is lost; a lockless writer is quicker than that."""
        tick = state[3]
        if tick + 1 >= len(self.now) or self.arounds[state[0]].rogue >= 0:
            return False
        then = self.now[tick + 1]
        return all(
            self._asked[p] < 0 or then - self.now[self._asked[p]] <= self.scenario.policy.send_timeout
            for p in state[4:]
        )

    def _find_turns(self, around: int, record: int, provider: int, tick: int) -> Iterable[Turn]:
        there, stored, now = self.arounds[around], self.grants[record], self.now[tick]
        known = self.providers[provider]
        how = self.scenario.provider

        if (after := self.spend(around, LOGIN)) >= 0:
            index = len(known.tokens)
            grown = known._replace(tokens=(*known.tokens, Spendable(index)), answers=known.answers + 1)
            answer = TokenAnswer(Secret(f"a{grown.answers}"), expires_in=how.life, refresh_token=Secret(f"r{index}"))
            grant = refresh.grant_of_login(
                KEY, answer, stored, asked_at=now, scope=frozenset(), resources=self._resources()
            )
            yield self._other("somebody signs in", after, stored, grant, grown, tick)
        if stored is not None and (after := self.spend(around, LOGOUT)) >= 0:
            pending = self.arounds[after]._replace(revoking=str(stored.refresh_token or ""))
            grant = refresh.grant_of_logout(KEY, stored, now)
            yield self._other("somebody signs out", self._around_id(pending), stored, grant, known, tick)
        if there.revoking:
            gone = revoked(known, there.revoking, how)
            after = self._around_id(there._replace(revoking=""))
            yield Turn(f"the log-out revokes {there.revoking}", after, record, self._provider_id(gone), tick)
        if (after := self.spend(around, ENDED)) >= 0:
            gone = known._replace(dead=frozenset(t.family for t in known.tokens))
            yield Turn("the provider ends the session", after, record, self._provider_id(gone), tick)
        if (after := self.spend(around, RESTORED)) >= 0 and record != self._first:
            yield Turn("the first copy of the record is put back", after, self._first, provider, tick)
        if (after := self.spend(around, REMOVED)) >= 0 and record != self._no_grant:
            yield Turn("the record is removed", after, self._no_grant, provider, tick)
        if stored is not None and stored.refresh_token and (after := self.spend(around, ROGUE)) >= 0:
            outcome = exchange(known, number(stored.refresh_token), tick, self.now.__getitem__, how)
            if isinstance(outcome.reply, Granted):
                grant = _by_rogue(stored, outcome.reply.answer, now)
                after = self._around_id(self.arounds[after]._replace(rogue=self.grant_id(grant)))
            label = f"a program without the lock spends {stored.refresh_token}: {_short(outcome.reply)}"
            yield Turn(label, after, record, self._provider_id(outcome.provider), tick)
        if there.rogue >= 0:
            after = self._around_id(there._replace(rogue=-1))
            successor = self.grants[there.rogue]
            assert successor is not None
            if stored is not None and stored.order < successor.order:
                yield self._other("that program writes", after, stored, successor, known, tick, due=True)
            else:
                label = "that program finds a newer record, and keeps its own to itself"
                yield Turn(label, after, record, provider, tick, due=True)

    def _other(
        self, who: str, around: int, old: Grant | None, new: Grant, provider: Provider, tick: int, *, due: bool = False
    ) -> Turn:
        claims = () if old is None or new.order > old.order else (Claim("I3", f"{who}: {_show(old)} → {_show(new)}"),)
        label = f"{who}: {_show(new)}"
        return Turn(label, around, self.grant_id(new), self._provider_id(provider), tick, claims, due)

    # ── a process ────────────────────────────────────────────────────────────────────────────────────────

    def moves(self, state: State, actor: int, *, free: bool) -> list[Move]:
        """What this process can do next."""
        local = state[4 + actor]
        key = (
            local,
            state[1] if self._minds_record[local] else -1,
            state[2] if self._minds_provider[local] else -1,
            state[3],
            free if self._minds_lock[local] else None,
        )
        found = self._moves.get(key)
        if found is None:
            who = 0 if self.scenario.symmetric else actor
            found = self._moves[key] = list(self._find_moves(*key, who=who))
        # What a move does not touch is -1 in the table, and stays as it is.
        return found

    def _find_moves(
        self, p: int, record: int, provider: int, tick: int, free: bool | None, *, who: int
    ) -> Iterable[Move]:
        local = self.locals[p]
        match local.stage:
            case "fresh":
                yield from self._starts(local, tick, NONE, who)
                return
            case "over":
                yield from self._starts(local, tick, AGAIN, who)
                return
            case "rescue":
                yield self._killed(local, record, provider)
                yield from self._runs_out(local, record, provider)
                yield self._rescued(local, record, provider)
                return
        machine, action = self.nodes[local.node]
        yield self._killed(local, record, provider)
        yield from self._runs_out(local, record, provider)
        match action:
            case refresh.Load():
                found = self.variant.read(machine, local, record)
                noted = self._noted(local, found)
                if self.variant.keeps_look and machine.phase == "look":
                    noted = noted._replace(looked=found)
                event = refresh.Loaded(self.grants[found])
                yield self._went(noted, event, ("loaded", found), tick, f"reads {_show(event.grant)}", NONE, record)
                yield self._unreadable(local, tick, "cannot read the store", record)
            case refresh.TryLock():
                assert free is not None
                said, held = self.variant.lock(free=free)
                label = "takes the lock" if said else "finds the lock taken"
                after = local._replace(holds=held)
                event = refresh.Locked(said, self.scenario.lease)
                yield self._went(after, event, ("locked", said), tick, label, NONE, record)
                yield self._unreadable(local, tick, "cannot try the lock", record)
            case refresh.Wait(seconds):
                claims = self._waiting(local, machine, seconds, tick)
                yield self._went(
                    local,
                    refresh.Waited(),
                    "waited",
                    tick,
                    f"has waited (up to {seconds:g} s)",
                    NONE,
                    record,
                    claims=claims,
                )
            case refresh.Write():
                yield from self._writes(local, machine, action, record, tick)
            case refresh.Send(grant, latest):
                yield from self._sends(local, machine, grant, latest, record, provider, tick)
            case refresh.Release():
                after = local._replace(holds=False, ran_out=False)
                yield self._went(after, refresh.Released(), "released", tick, "releases the lock", NONE, record)
            case refresh.Revoke(token):
                yield self._revokes(local, token, record, provider, tick)
            case refresh.Rescue(grant):
                yield self._went(
                    local._replace(owes=""),
                    refresh.Rescuing(),
                    "rescuing",
                    tick,
                    f"keeps {_show(grant)} in memory, and the lock",
                    NONE,
                    record,
                    rescuing=True,
                )
            case _:
                raise AssertionError(action)

    def _starts(self, local: Local, tick: int, cost: int, who: int) -> Iterable[Move]:
        renewal: Any = "client_credentials" if self.scenario.service else "refresh_token"
        wants = [Want(KEY, resource, seen=local.seen, renewal=renewal) for resource in self.scenario.resources]
        if self.scenario.rejecting:
            wants.append(replace(wants[0], rejected=fingerprint("a0")))
        name = f"p{who}"
        for want in wants:
            node = refresh.start(want, self.scenario.policy, self.now[tick], owner=name, nonce=f"{who:04x}")
            after = Local("run", self._node_id(node), memory=local.memory, seen=local.seen)
            call = "calls again" if cost else "calls"
            label = call + (f" for {want.resource}" if want.resource else "")
            label += ", with a 401 for a0" if want.rejected else ""
            yield Move(label, cost, self._local_id(after), -1, -1)

    def _killed(self, local: Local, record: int, provider: int) -> Move:
        left = self._fresh
        if self.variant.lock_outlives_owner and local.holds:
            left = self._local_id(Local("over", holds=True))
        return Move("is killed", CRASH, left, record, provider)

    def _runs_out(self, local: Local, record: int, provider: int) -> Iterable[Move]:
        if self.scenario.lease and local.holds:
            after = self._local_id(local._replace(holds=False, ran_out=True))
            yield Move("is held up, and its lease runs out", RUN_OUT, after, record, provider)

    def _noted(self, local: Local, record: int) -> Local:
        if not self._keeps_memory:
            return local
        grant = self.grants[record]
        return local._replace(memory=record, seen=max(local.seen, grant.order) if grant else local.seen)

    def _react(self, node: int, event: refresh.Event, name: object, tick: int) -> int | str:
        """The machine's next node, or how it broke."""
        key = (node, name, tick)
        found = self._steps.get(key)
        if found is None:
            self.steps += 1
            try:
                found = self._node_id(self.variant.step(self.nodes[node][0], event, self.now[tick]))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            self._steps[key] = found
        return found

    def _went(
        self,
        local: Local,
        event: refresh.Event,
        name: object,
        tick: int,
        label: str,
        cost: int,
        record: int,
        *,
        provider: int = -1,
        claims: tuple[Claim, ...] = (),
        rescuing: bool = False,
    ) -> Move:
        """The move by which the machine hears of this event."""
        before, _ = self.nodes[local.node]
        node = self._react(local.node, event, name, tick)
        if isinstance(node, str):
            broken = Claim("I7", f"the machine broke in phase {before.phase}: {node}")
            return Move(f"{label}; the machine breaks", cost, self._fresh, record, provider, (*claims, broken))
        machine, action = self.nodes[node]
        if isinstance(event, refresh.Loaded) and before.phase == "look" and isinstance(action, refresh.TryLock):
            good = self._good(event.grant, machine.want, tick)
            if good is not None and machine.meanwhile is None:
                claims = (*claims, Claim("I6", f"{good.access_token} is good, and this caller may come to wait"))
        after = local._replace(node=node)
        match action:
            case refresh.Use(token):
                claims = (*claims, *self._used(after, machine, token, tick, rescuing=rescuing))
                label += f" ⇒ uses {token.access_token}"
            case refresh.Raise(problem):
                claims = (*claims, *self._raised(after, problem))
                label += f" ⇒ raises {problem.kind}{f' ({problem.reason})' if problem.kind == 'login' else ''}"
            case _:
                return Move(label, cost, self._local_id(after), record, provider, claims)
        if rescuing:
            _, rescue = self.nodes[local.node]
            assert isinstance(rescue, refresh.Rescue)
            after = Local(
                "rescue",
                local.node,
                holds=True,
                rescued=self.grant_id(rescue.grant),
                expected=rescue.expected,
                memory=local.memory,
                seen=local.seen,
            )
        else:
            after = Local("over", memory=local.memory, seen=local.seen) if self._keeps_memory else Local("over")
        return Move(label, cost, self._local_id(after), record, provider, claims)

    def _unreadable(self, local: Local, tick: int, label: str, record: int) -> Move:
        memory = self.grants[local.memory] if local.memory >= 0 else None
        event = refresh.Unreadable(memory, "unreadable")
        return self._went(local, event, ("unreadable", local.memory), tick, label, UNREADABLE, record)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────

    def _writes(
        self, local: Local, machine: refresh.Refresh, write: refresh.Write, record: int, tick: int
    ) -> Iterable[Move]:
        stored = self.grants[record]
        shown = f"writes {_show(write.grant)} over {_show(stored)}"
        result = self.variant.commit(machine, stored, write)
        written = self.grant_id(write.grant)
        saved = self._noted(local, written)._replace(durable=written, owes=_still_owed(local.owes, write.grant))
        claims = self._committed(local, machine, stored, write.grant)
        if result == "written":
            yield self._went(saved, refresh.Written(), "written", tick, shown, NONE, written, claims=claims)
        elif result == "pretended":
            yield self._went(
                local, refresh.Written(), "written", tick, f"does not write {_show(write.grant)}", NONE, record
            )
        else:
            after = local
            if machine.phase == "save" and stored is not None and machine.grant is not None:
                ours = machine.grant
                if stored.order >= ours.order and stored.state != "LOGGED_OUT":
                    # A sign-in or a sibling's answer takes the place of ours, which is let go and not revoked.
                    after = local._replace(owes="", given_up=_access(ours, machine.want.resource))
            label = f"cannot write {_show(write.grant)}: {_show(stored)} is there"
            yield self._went(after, refresh.Conflict(stored), ("conflict", record), tick, label, NONE, record)
        failed = refresh.NotWritten("disk full")
        label = f"fails to write {_show(write.grant)}"
        yield self._went(local, failed, "not written", tick, label, NOT_WRITTEN, record)
        if self.scenario.unsure_writes and result == "written":
            label = f"{shown}, and is told that it failed"
            yield self._went(local, failed, "not written", tick, label, NOT_WRITTEN, written, claims=claims)

    def _committed(self, local: Local, machine: refresh.Refresh, old: Grant | None, new: Grant) -> tuple[Claim, ...]:
        claims = []
        change = f"{_show(old)} → {_show(new)}"
        if old is not None and new.order <= old.order:
            claims.append(Claim("I3", f"the order does not rise: {change}"))
        if new.state == "DEAD":
            refused = new.failure.fingerprint if new.failure else ""
            if old is None or old.spendable != refused:
                claims.append(Claim("I5", f"a refusal changes a record that does not hold what was refused: {change}"))
        if old is not None and old.state == "LOGGED_OUT":
            claims.append(Claim("I9", f"a log-out is undone: {change}"))
        if old is not None and old.state == "DEAD" and (new.state != "ACTIVE" or new.epoch <= old.epoch):
            claims.append(Claim("I9", f"a dead login is touched within its epoch: {change}"))
        if not (local.holds or local.ran_out):
            claims.append(Claim("I11", f"written without the lock: {change}"))
        return tuple(claims)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────

    def _sends(
        self,
        local: Local,
        machine: refresh.Refresh,
        grant: Grant,
        latest: float | None,
        record: int,
        provider: int,
        tick: int,
    ) -> Iterable[Move]:
        how, known = self.scenario.provider, self.providers[provider]
        if local.arriving is not None:
            yield self._answered(
                local, local.arriving, record, tick, f"hears the answer: {_short(local.arriving)}", NONE
            )
            yield self._answered(local, Lost("reset"), record, tick, "loses the answer", LOST)
            if not self.scenario.service:
                # What a gateway answers for does not count as a send (`Lost`), so it does not count here either.
                token = known.tokens[local.sending]
                forgiven = self._provider_id(with_token(known, local.sending, token._replace(sends=token.sends - 1)))
                gateway = Lost("502", answered=True)
                yield self._answered(local, gateway, record, tick, "hears a gateway", LOST, provider=forgiven)
            return
        if latest is not None and self.variant.is_late(latest, self.now[tick]):
            yield self._went(local, refresh.Late(), "late", tick, "is too late to send", NONE, record)
            return
        looked = self.grants[local.looked] if local.looked >= 0 else None
        token = "r0" if self.scenario.service else self.variant.spend(grant, looked)
        claims = list(self._before_send(local, machine, grant, token, tick))
        index = number(token)
        if self.scenario.service:
            answers = known.answers + 1
            reply: Reply = Granted(TokenAnswer(Secret(f"a{answers}"), expires_in=how.life))
            outcome = Outcome(reply, known._replace(answers=answers), False)
        else:
            claims += self._replaying(machine, grant, known.tokens[index], tick)
            counted = with_token(known, index, known.tokens[index]._replace(sends=known.tokens[index].sends + 1))
            outcome = exchange(counted, index, tick, self.now.__getitem__, how)
        if outcome.replayed:
            claims.append(Claim("T1", f"{token} was spent before, and is sent again", "doubtful"))
        after = local._replace(arriving=outcome.reply, sending=index, asked=tick, sends=local.sends + 1)
        yield Move(
            f"sends {token}, and the provider says {_short(outcome.reply)}",
            NONE,
            self._local_id(after),
            record,
            self._provider_id(outcome.provider),
            tuple(claims),
            sends=index,
        )
        if isinstance(outcome.reply, Granted):
            answer = replace(outcome.reply.answer, id_token=_someone_else(outcome.provider))
            other = after._replace(arriving=Granted(answer))
            label = f"sends {token}, and the provider answers for somebody else"
            yield Move(
                label,
                OTHER_PERSON,
                self._local_id(other),
                record,
                self._provider_id(outcome.provider),
                tuple(claims),
                index,
            )
        tried = local._replace(asked=tick, sends=local.sends + 1)
        for reply in self.scenario.declines:
            label = f"sends {token} in vain: {_short(reply)}"
            yield self._answered(tried, reply, record, tick, label, DECLINED, claims=tuple(claims), provider=provider)
        label = f"sends {token}, which is lost on its way"
        yield self._answered(tried, Lost("reset"), record, tick, label, LOST, claims=tuple(claims), provider=provider)

    def _before_send(
        self, local: Local, machine: refresh.Refresh, grant: Grant, token: str, tick: int
    ) -> Iterable[Claim]:
        if not (local.holds or local.ran_out):
            yield Claim("I11", f"{token} is sent without the lock")
        if local.durable < 0 or self.grants[local.durable] != grant:
            yield Claim("I1", f"{token} is sent without a durable marker")
        marker = grant.marker
        if grant.state != "SPENDING" or marker is None:
            yield Claim("I1", f"{token} is sent from a record that does not say so")
        elif not self.scenario.service and marker.fingerprint != fingerprint(token):
            yield Claim("I1", f"{token} is sent, and the marker names another")
        if local.sends:
            yield Claim("I10", f"one call sends twice ({token})")

    def _replaying(self, machine: refresh.Refresh, grant: Grant, token: Spendable, tick: int) -> Iterable[Claim]:
        """Whether the policy allows to send again what the provider has had before."""
        if token.sends == 0 or not self.scenario.provider.rotates:
            return
        policy = self.scenario.policy
        decided = grant.marker.deadline - policy.send_timeout - refresh.LATE if grant.marker else self.now[tick]
        spent = self.now[token.spent] if token.spent >= 0 else decided
        if decided - spent < policy.reuse_interval and token.sends < policy.sends_inside_interval:
            return
        good = grant.token_for(machine.want.resource)
        left = good is not None and good.expires_at is not None and good.expires_at - decided > 2
        if left and machine.want.rejected != (good.fingerprint if good else ""):
            yield Claim("I1", f"sent {token.sends + 1} times, with a good access token at hand", "restored")
        elif policy.lost != "retry_once" or token.sends >= 2:
            yield Claim("I1", f"sent {token.sends + 1} times, which the policy does not allow", "restored")

    def _answered(
        self,
        local: Local,
        reply: Reply,
        record: int,
        tick: int,
        label: str,
        cost: int,
        *,
        claims: tuple[Claim, ...] = (),
        provider: int = -1,
    ) -> Move:
        owes = ""
        if isinstance(reply, Granted):
            owes = str(reply.answer.refresh_token or reply.answer.access_token)
        after = local._replace(arriving=None, sending=-1, asked=-1, owes=owes)
        asked_at = self.now[local.asked]
        event = refresh.Answered(reply, asked_at)
        return self._went(
            after, event, ("answered", reply, asked_at), tick, label, cost, record, claims=claims, provider=provider
        )

    def _revokes(self, local: Local, token: str, record: int, provider: int, tick: int) -> Move:
        claims = []
        if local.holds:
            claims.append(Claim("I8", f"{token} is revoked while the lock is held"))
        if local.owes != token:
            claims.append(Claim("I4", f"{token} is revoked, although no log-out superseded it"))
        gone = revoked(self.providers[provider], token, self.scenario.provider)
        machine, _ = self.nodes[local.node]
        after = local._replace(owes="", given_up=_access(machine.grant, machine.want.resource))
        label = f"revokes {token}"
        return self._went(
            after,
            refresh.Revoked(),
            "revoked",
            tick,
            label,
            NONE,
            record,
            provider=self._provider_id(gone),
            claims=tuple(claims),
        )

    def _rescued(self, local: Local, record: int, provider: int) -> Move:
        """One attempt of the real rescuer in `source`, against this store and provider."""
        grant = self.grants[local.rescued]
        assert grant is not None
        attempt = _Attempt(self.grants[record], self.providers[provider], self.scenario.provider)
        rescuer, done = attempt.run(grant, local.expected)
        claims = list(attempt.claims)
        there = attempt.stored
        kept = there is not None and _still_owed(_given(grant), there) == ""
        superseded = there is not None and there.order >= grant.order
        if done and not kept and not attempt.revoked and not superseded:
            claims.append(Claim("I4", f"the rescuer gives up {_show(grant)}, and there is only {_show(there)}"))
        if done and not attempt.released:
            claims.append(Claim("I7", "the rescuer keeps the lock for ever"))
        if done:
            after = Local("over", memory=local.memory, seen=local.seen)
        else:
            after = local._replace(rescued=self.grant_id(rescuer.grant), expected=rescuer.expected)
        return Move(
            f"tries to save {_show(grant)} once more",
            NONE,
            self._local_id(after),
            self.grant_id(there),
            self._provider_id(attempt.provider),
            tuple(claims),
        )

    # ── waiting and the end ──────────────────────────────────────────────────────────────────────────────

    def _good(self, grant: Grant | None, want: Want, tick: int) -> TokenSet | None:
        """The record's access token, if it can be used: judged without asking the machine."""
        token = grant.token_for(want.resource) if grant else None
        if token is None or token.expires_at is None or token.fingerprint == want.rejected:
            return None
        return token if token.expires_at - self.now[tick] > 2 else None

    def _waiting(self, local: Local, machine: refresh.Refresh, seconds: float, tick: int) -> tuple[Claim, ...]:
        claims = []
        if not local.holds and machine.meanwhile is not None:
            claims.append(Claim("I6", "a caller with a good token waits"))
        if not local.holds and seconds > self.scenario.policy.wait_timeout:
            claims.append(Claim("I6", f"a wait of {seconds:g} s is beyond its bound"))
        if local.holds and seconds > self.scenario.policy.refusal_wait:
            claims.append(Claim("I6", f"a wait of {seconds:g} s with the lock held"))
        return tuple(claims)

    def _used(
        self, local: Local, machine: refresh.Refresh, token: TokenSet, tick: int, *, rescuing: bool
    ) -> Iterable[Claim]:
        now = self.now[tick]
        if local.holds and not rescuing:
            yield Claim("I7", "a call ends with the lock held")
        if local.owes:
            yield Claim("I4", f"{local.owes} came, and was neither saved nor revoked")
        mine = self.grants[local.durable] if local.durable >= 0 else None
        earned = mine is not None and mine.state == "ACTIVE" and token in mine.tokens
        # What this run has just received is handed out however short its life: nothing better would come.
        if token.expires_at is not None and now >= token.expires_at and not (earned or rescuing):
            yield Claim("I12", f"{token.access_token} is handed out after its end")
        if token.fingerprint == machine.want.rejected and now - token.received_at >= refresh.JUST_RECEIVED:
            yield Claim("I12", f"{token.access_token} is handed out although it was refused")
        if local.given_up == token.access_token:
            yield Claim("I12", f"{token.access_token} is handed out, and was given up before")

    def _raised(self, local: Local, problem: refresh.Problem) -> Iterable[Claim]:
        if local.holds:
            yield Claim("I7", "a call ends with the lock held")
        if local.owes:
            yield Claim("I4", f"{local.owes} came, and was neither saved nor revoked")
        if problem.kind == "login":
            told = f"LoginRequired ({problem.reason})"
            # Under the policy `login` a failed write, too, may leave a login in doubt.
            doubt: Excuse = "ended" if self.scenario.policy.lost == "retry_once" else "ended or unwritten"
            yield Claim("T2", f"{told}, and nothing has happened to the login", doubt)
            yield Claim("T2", f"{told}, while another process is renewing the login", "nobody renews")
            if problem.reason == "ended":
                yield Claim("T2", f"{told}, while a sibling is about to write its successor", "rogue idle")
        elif problem.kind == "lock":
            yield Claim("I7", "the lock is waited for in vain, and its owner is dead", "held")
        else:
            yield Claim("T3", f"{problem.kind}: {problem.detail}", "anything")

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────

    def describe(self, state: State) -> str:
        """The shared part of a state, in one line."""
        known = self.providers[state[2]]
        tokens = ", ".join(
            f"r{i}" + (" ended" if t.family in known.dead else " spent" if t.spent >= 0 else "")
            for i, t in enumerate(known.tokens)
        )
        return f"{self.scenario.times[state[3]]:+g} s · {_show(self.grants[state[1]])} · provider: {tokens}"


class _Attempt:
    """What the real rescuer does in one attempt: it meets this object as its store, provider, lock and gate."""

    def __init__(self, stored: Grant | None, provider: Provider, how: Behaviour) -> None:
        self.stored, self.provider, self.how = stored, provider, how
        self.released = self.failing = False
        self.revoked = ""
        self.claims: list[Claim] = []

    def run(self, grant: Grant, expected: Order | None) -> tuple[Any, bool]:
        """The rescuer afterwards, and whether it is done."""
        store: Any = SimpleNamespace(commit=self._commit)
        shut: Any = SimpleNamespace(unsaved=grant, announce=lambda: None)
        hold: Any = SimpleNamespace(release=self._release)
        rescuer = gate.Rescuer(store, shut, hold, grant, expected, "disk full", revoke=self._revoke)
        log = logging.getLogger("loginonce")  # it speaks up for each attempt, as it should
        quiet, log.disabled = log.disabled, True
        try:
            return rescuer, rescuer._attempt()
        finally:
            log.disabled = quiet

    def _commit(self, grant: Grant, *, expected: Order | None, reserve: bool = False) -> None:
        if (self.stored.order if self.stored else None) != expected:
            raise OrderConflict(current=self.stored)
        if self.stored is not None and (grant.order <= self.stored.order or self.stored.state == "LOGGED_OUT"):
            self.claims.append(Claim("I3", f"the rescuer writes {_show(grant)} over {_show(self.stored)}"))
        self.stored = grant

    def _revoke(self, token: str) -> bool:
        if not self.released:
            self.claims.append(Claim("I8", f"the rescuer revokes {token} while it holds the lock"))
        self.revoked = token
        self.provider = revoked(self.provider, token, self.how)
        return True

    def _release(self) -> None:
        self.released = True


def _by_rogue(stored: Grant, answer: TokenAnswer, now: float) -> Grant:
    return replace(
        stored,
        generation=stored.generation + 1,
        attempt=0,
        state="ACTIVE",
        refresh_token=answer.refresh_token or stored.refresh_token,
        tokens=(answer.token_set(now, scope=""),),
        marker=None,
        failure=None,
    )


def _given(grant: Grant) -> str:
    return str(grant.refresh_token or grant.tokens[0].access_token)


def _access(grant: Grant | None, resource: str = "") -> str:
    token = grant.token_for(resource) if grant else None
    return str(token.access_token) if token else ""


def _still_owed(owes: str, saved: Grant) -> str:
    """What is still to be saved once this record is."""
    if not owes or saved.refresh_token == owes or any(t.access_token == owes for t in saved.tokens):
        return ""
    return owes


def _short(reply: Reply) -> str:
    match reply:
        case Granted(answer):
            return f"{answer.access_token} {answer.refresh_token or ''}".strip()
        case Refused() | Unsent() | Busy() | Misconfigured() | Lost():
            return type(reply).__name__.lower()


def _show(grant: Grant | None) -> str:
    """A record in a few characters."""
    if grant is None:
        return "no record"
    what = f"{grant.state}{grant.order} {grant.refresh_token or '-'}/{_access(grant) or '-'}"
    if grant.marker:
        what += f" marker×{grant.marker.sends}"
    if grant.failure:
        what += f" {grant.failure.kind}"
    return f"[{what}]"
