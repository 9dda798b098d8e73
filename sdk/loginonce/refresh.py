"""The protocol of a refresh, as a state machine without I/O, clock or randomness.

`decide` says *why* a refresh happens.  `start` and `step` say what has to be done next, one action at a time;
the loop in `source` does it and hands back what came of it.  Time and nonces are arguments, so the same
machine is driven by real processes and by the exhaustive exploration in `tests/model`.

Theory of operation.  A refresh token may be spent once, so the record is written ahead (state SPENDING, with a
marker) before the token is sent, and every later reader of that record knows that the token *may* be spent:

    look ──fresh──────────────────────────────────────────────▶ Use
     │ ▲  └─login needed, or not before ──────────────────────▶ Raise
     │ └──── wait ◀─busy──┐
     └─stale or expired─▶ lock ──busy, and the old one is good─▶ Use
                           │
                        recheck ──somebody was quicker──▶ release ─▶ Use
                           │
                          mark    SPENDING on disk; if that fails nothing is sent
                           │
                          send ──tokens──▶ save ─▶ release ─▶ Use
                           ├─refused────▶ verify (did a sibling write?) ─▶ settle DEAD
                           ├─never sent, busy, our own fault ─▶ settle ACTIVE, not before …
                           └─answer lost ─▶ settle SPENDING: the marker stays

A lock may be a lease, which ends by itself while its holder goes on in good faith.  Then a marker does not prove that
its owner is dead, so nobody acts on it before its deadline; and whoever was held up between the marker and the send
(a stopped process, a machine that slept) does not send, and begins anew.  So no two sends overlap, but for one that is
stopped between its last look at the clock and the sending; a late holder meets a comparison that fails (HAZARDS 12).

`save` and `settle` compare the order (epoch, generation, attempt) that this machine wrote with the one that is
there.  A log-out that came between wins, and what we were given is revoked; a new login wins, and it is not
(providers tie both to one session); a write that fails is handed to a rescuer that goes on holding the lock.

What holds in every order of events; `tests/model` explores them all, and looks for these by their numbers:

    I1   no send without a marker on the disk, and no token is sent more often than the policy says
    I2   no two sends of one refresh token overlap
    I3   the order of a record only rises
    I4   an answer that came is saved, or revoked as superseded, or its loss is raised
    I5   a refusal changes only a record that still holds the refused token
    I6   every wait has a bound, and nobody waits who has a good token
    I7   after a crash the next caller goes on by itself, or is told once to sign in
    I8   under the lock only the token end point is asked, never a person
    I9   a login that is dead or logged out sends nothing until somebody signs in
    I10  one call of an API causes one refresh and one resend at most
    I11  where there is no lock, or no store that keeps, nothing is sent

HAZARDS n is an accident of the list in `tests/architecture/hazards.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

from .claims import unverified_claims
from .errors import Reason
from .model import Failure, Grant, GrantKey, Marker, Order, Secret, TokenSet, scope_set
from .value import Value, replace

if TYPE_CHECKING:
    from .wire import Reply, TokenAnswer

__all__ = ["Policy", "Want", "decide", "fresh_span", "freshness", "grant_of_login", "shortfall", "start", "step"]

CLOCK_TOLERANCE = 60.0
"""Seconds by which a token may seem to come from the future before the clock is taken to have been set back."""

JUST_RECEIVED = 5.0
"""Seconds (at most a tenth of its life) within which a new token that an API refuses is not refreshed again: it
would not be mended by yet another (HAZARDS 22)."""

LONGEST_PAUSE = 4500.0
"""Seconds for which a failure may ask everybody to wait: `wire.LONGEST_RETRY_AFTER`, and by how much it is spread."""

LATE = 5.0
"""Seconds that may pass between the writing of a marker and the send that it announces; later nothing is sent."""

TOO_LATE = 4
"""How often that may happen to a caller who waits too long already: a laptop sleeps once, a store is slow each time."""

CLOCK_DIFFERENCE = 5.0
"""Seconds by which the clocks of two hosts may differ that share a login under leases."""

VERIFY_PAUSE = 0.05
"""Seconds between two looks at the record while waiting for a sibling's newer one."""


class Policy(Value):
    """How a login is renewed.  All times in seconds.

    `window`: how long before its end a token is renewed, at most a tenth of its life.
    `send_timeout`: the whole of one token request; `wait_timeout`: how long a caller waits for another's.
    `reuse_interval`: for how long the provider accepts a spent refresh token again (its setting, never
    inferred; 0 = it does not).
    `lost`: what to do outside that interval when a refresh token may be spent and no access token is left:
    `retry_once` sends it once more, `login` asks for a new sign-in.  A send that was answered with an outage
    (a gateway's answer, an error page, `server_error`) does not count, so after one of those it may be sent again.
    `refusal_wait`: how long a refused token's record is watched for a sibling's newer one.
    `sends_inside_interval`: how often one refresh token is sent within `reuse_interval`, the first time included.
    """

    window: float = 300.0
    send_timeout: float = 20.0
    wait_timeout: float = 30.0
    reuse_interval: float = 0.0
    lost: Literal["retry_once", "login"] = "retry_once"
    refusal_wait: float = 2.0
    sends_inside_interval: int = 3


class Want(Value):
    """What a caller needs: which login, for what, and what it has seen so far.

    `scope` is what the caller's session asks of the login, and `dpop` whether its tokens have to be bound to a key;
    `rejected` the fingerprint of an access token that
    an API refused (or, with `force`, that the caller wants renewed however young it is); `seen` the highest
    order that this process knows of (a lower one is an older copy).
    """

    key: GrantKey
    resource: str = ""
    for_scope: str = ""
    scope: frozenset[str] = frozenset()
    rejected: str = ""
    seen: Order = (0, 0, 0)
    renewal: Literal["refresh_token", "client_credentials"] = "refresh_token"
    force: bool = False
    dpop: bool = False


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────

Band: TypeAlias = "Literal['FRESH', 'STALE', 'EXPIRED']"


class Problem(Value):
    """Why there is no token for the caller; `source` makes the error for people of it."""

    kind: Literal["login", "later", "misconfigured", "store", "lock"]
    reason: Reason = "none"
    detail: str = ""
    retry_after: float | None = None


class Use(Value):
    """This token is the answer."""

    token: TokenSet


class Renew(Value):
    """A refresh is due; `meanwhile` is the token that is still good, if there is one."""

    meanwhile: TokenSet | None


def fresh_span(token: TokenSet, policy: Policy) -> tuple[float, float]:
    """From when until when (POSIX seconds) a token is FRESH, and needs no thought at all."""
    if token.expires_at is None:
        return float("-inf"), float("inf")  # a 401 decides
    return token.received_at - CLOCK_TOLERANCE, token.expires_at - min(policy.window, _life(token) / 10)


def freshness(token: TokenSet | None, want: Want, policy: Policy, now: float) -> Band:
    """The band in which a token is: FRESH (use it), STALE (renew, nobody waits) or EXPIRED (or refused)."""
    if token is None:
        return "EXPIRED"
    if token.fingerprint == want.rejected:
        young = JUST_RECEIVED if token.expires_at is None else min(JUST_RECEIVED, _life(token) / 10)
        just_received = 0 <= now - token.received_at < young
        return "FRESH" if just_received and not want.force else "EXPIRED"
    begin, end = fresh_span(token, policy)
    if begin <= now < end:
        return "FRESH"
    if token.expires_at is None or now >= token.expires_at - _on_its_way(token):
        return "EXPIRED"
    return "STALE"  # near its end; or received in what is now the future, so its age is not known


def _on_its_way(token: TokenSet) -> float:
    """How long before its end a token is no longer worth sending, in seconds."""
    return min(2.0, _life(token) / 50)


def _life(token: TokenSet) -> float:
    return max(0.0, (token.expires_at or 0.0) - token.received_at)


def decide(
    grant: Grant | None, want: Want, policy: Policy, now: float, *, locked: bool = True
) -> Use | Renew | Problem:
    """Why a refresh happens, or does not: the whole rule, for a record as it was just read.

    `locked`: the lock is held, so that whoever left a marker is dead.  `refresh_expires_at` decides nothing:
    whether a refresh token has ended is asked of the provider, once, since its clock counts.
    """
    if grant is not None and grant.sealed:
        return Problem("store", detail="its secrets are sealed, and nobody here has the key")
    if grant is None:  # a service needs nobody, but where tokens are bound, for the key of its sign-in
        at_once = want.renewal == "client_credentials" and not want.dpop
        return Renew(None) if at_once else Problem("login", "none")
    token = grant.token_for(want.resource, want.for_scope)
    if missing := shortfall(grant, want.scope, dpop=want.dpop):
        if grant.state in ("ACTIVE", "SPENDING"):
            return Problem("login", "scope", missing)
        token = None
    elif token is None and not _asked_for(grant, want.resource) and grant.state in ("ACTIVE", "SPENDING"):
        return Problem("login", "scope", want.resource)
    band = freshness(token, want, policy, now)
    if band == "FRESH" and token is not None:
        return Use(token)
    usable = token if band == "STALE" else None
    obstacle = _obstacle(grant, want, policy, now, patient=usable is not None, locked=locked)
    if obstacle is None:
        return Renew(usable)
    return Use(usable) if usable is not None else obstacle


def _asked_for(grant: Grant, resource: str) -> bool:
    """Whether a token for that API may be had (RFC 8707 §2.2: of those the login was asked for)."""
    return not resource or resource in grant.resources or grant.renewal == "client_credentials"


def shortfall(grant: Grant, scope: frozenset[str], *, dpop: bool) -> str:
    """What a login lacks of that, in words; "" if nothing."""
    lacking = sorted(scope - scope_set(grant.scope))
    return " ".join([*lacking, *(["tokens bound to a key (DPoP)"] if dpop and not grant.dpop_key else [])])


def _obstacle(grant: Grant, want: Want, policy: Policy, now: float, *, patient: bool, locked: bool) -> Problem | None:
    """Why nothing may be spent now, if so.  `patient`: an access token is left, so nothing is risked."""
    failure = grant.failure
    if grant.state == "LOGGED_OUT":
        if failure is not None and failure.kind == "moved":
            return Problem("login", "moved", failure.detail)
        return Problem("login", "logged_out")
    if grant.state == "DEAD":
        why: dict[str, Reason] = {"subject": "account", "expired": "expired"}
        return Problem(
            "login", why.get(failure.kind, "ended") if failure else "ended", failure.detail if failure else ""
        )
    if grant.order < want.seen:
        return Problem("login", "lost", "the stored record is an older copy of one seen before")
    if not grant.spendable:
        return Problem("login", "expired")
    if failure is not None and failure.fingerprint == grant.spendable:
        pause = failure.not_before - now
        if 0 < pause <= LONGEST_PAUSE:  # longer only by a clock that was set back (HAZARDS 33)
            kind: Literal["misconfigured", "later"] = "misconfigured" if failure.kind == "misconfigured" else "later"
            return Problem(kind, detail=failure.detail, retry_after=pause)
    marker = grant.marker
    if marker is None or grant.renewal == "client_credentials":
        return None
    if not patient and not locked:
        return None  # its owner may be alive, and about to save: only the lock tells
    if 0 <= now - marker.sent_at < policy.reuse_interval and marker.sends < policy.sends_inside_interval:
        return None
    if not patient and policy.lost == "retry_once" and marker.sends < 2:
        return None
    return Problem("login", "lost", failure.detail if failure else "")


# ── how: the machine ─────────────────────────────────────────────────────────────────────────────────────


class Load(Value):
    """Read the record.  → `Loaded` or `Unreadable`."""


class TryLock(Value):
    """Try once to get this login's lock.  → `Locked`."""


class Wait(Value):
    """Wait until the record changes, or at most that many seconds.  → `Waited`."""

    seconds: float


class Write(Value):
    """Commit this record, if the order there is still `expected` (None: no record).

    `reserve`: make sure of the space for the answer too.  → `Written`, `Conflict` or `NotWritten`.
    """

    grant: Grant
    expected: Order | None
    reserve: bool = False


class Send(Value):
    """Spend this record's refresh token, once.  → `Answered`, or `Late`.

    `latest`: POSIX seconds after which nothing may be sent, where a lease is all that is held.
    """

    grant: Grant
    latest: float | None = None


class Release(Value):
    """Release the lock.  → `Released`."""


class Revoke(Value):
    """Revoke what nobody will use, as well as it can be done.  → `Revoked`."""

    token: Secret


class Rescue(Value):
    """Keep this record in memory, the lock held, and go on trying to commit it.  → `Rescuing`."""

    grant: Grant
    expected: Order | None
    detail: str


class Raise(Value):
    """The end, without a token."""

    problem: Problem


Action: TypeAlias = Load | TryLock | Wait | Write | Send | Release | Revoke | Rescue | Use | Raise


class Loaded(Value):
    """The record as it is now, or None."""

    grant: Grant | None


class Unreadable(Value):
    """The store cannot be read; `memory` is the last record that this process knows."""

    memory: Grant | None
    detail: str


class Locked(Value):
    """Whether the lock was had, and whether it is a lease, which may end before it is released."""

    held: bool
    lease: bool = False


class Waited(Value):
    """The wait is over."""


class Written(Value):
    """The record is durable."""


class Conflict(Value):
    """Another record is there, and stays."""

    current: Grant | None


class NotWritten(Value):
    """The store refused; nothing has changed."""

    detail: str


class Answered(Value):
    """What came of the token request; `asked_at` (POSIX seconds) is just before it was sent."""

    reply: Reply
    asked_at: float


class Late(Value):
    """It was too late to send, and nothing was."""


class Released(Value):
    """The lock is free."""


class Revoked(Value):
    """Revoked, or at least tried."""


class Rescuing(Value):
    """The rescuer has the record and the lock."""


Event: TypeAlias = (
    Loaded
    | Unreadable
    | Locked
    | Waited
    | Written
    | Conflict
    | NotWritten
    | Answered
    | Late
    | Released
    | Revoked
    | Rescuing
)

Phase: TypeAlias = Literal[
    "look", "lock", "wait", "recheck", "mark", "send", "save", "verify", "settle", "release", "revoke", "done"
]


class Refresh(Value):
    """Where one caller's refresh stands.  Hashable, so that an exploration can tell states apart."""

    want: Want
    policy: Policy
    started: float
    deadline: float  # until when this caller waits for another's refresh
    owner: str
    nonce: str
    phase: Phase = "look"
    lease: bool = False
    grant: Grant | None = None  # the record as this caller last wrote it, or what it is about to save
    earlier: Marker | None = None  # of a send before ours, which left it open whether the token is spent
    base: Order | None = None  # the order that the record must still have for that
    meanwhile: TokenSet | None = None
    problem: Problem | None = None  # what to raise when no token is left
    spent: bool = False  # whether this run has had its one turn (I10)
    late: int = 0  # how often too much time had passed for a send
    verify_until: float = 0.0
    revoking: Secret | None = None
    then: Literal["look", "use", "raise", "wait"] = "look"  # what follows `release` (and `revoke`)


Next: TypeAlias = tuple[Refresh, Action]


def start(want: Want, policy: Policy, now: float, *, owner: str, nonce: str) -> Next:
    """The machine for one caller and its first action.  `nonce` is fresh for each, `owner` names the process."""
    return Refresh(want, policy, now, now + policy.wait_timeout, owner, nonce), Load()


def step(state: Refresh, event: Event, now: float) -> Next:
    """What has to be done next, now that this came of the last action."""
    match state.phase, event:
        case "look", Loaded(grant):
            return _look(state, grant, now)
        case "lock", Locked(True, lease):
            return replace(state, phase="recheck", lease=lease), Load()
        case "lock", Locked():
            return _busy(state, now)
        case "wait", Waited():
            return replace(state, phase="look"), Load()
        case "recheck", Loaded(grant) | Conflict(grant):
            return _recheck(state, grant, now)
        case "mark", Written():
            marker = _ours(state).marker
            latest = marker.deadline - state.policy.send_timeout if state.lease and marker else None
            return replace(state, phase="send", spent=True), Send(_ours(state), latest)
        case "mark", Conflict(current):
            return _recheck(state, current, now)
        case "mark", NotWritten(detail):
            return _unmark(state, Problem("store", detail=detail), now)
        case "send", Answered():
            return _judge(state, event, now)
        case "send", Late():
            slow = Problem("later", detail="the store takes too long to write for a send to be safe")
            back = replace(
                state,
                phase="settle",
                grant=_unmarked(state),
                base=_ours(state).order,
                spent=False,
                late=state.late + 1,
                problem=slow if state.late + 1 >= TOO_LATE and now >= state.deadline else None,
            )
            return back, Write(_ours(back), back.base)
        case "save", Written():
            return _release(replace(state, meanwhile=_earned(state)), "use")
        case "save", Conflict(current):
            return _superseded(state, current)
        case "save", NotWritten(detail):
            return replace(state, then="use"), Rescue(_ours(state), state.base, detail)
        case "save", Rescuing():
            return replace(state, phase="done"), Use(_earned(state))
        case "verify", Waited():
            return state, Load()
        case "verify", Loaded(current):
            if current is None or current.order != state.base:
                return _release(state, "look")  # a sibling was there: what it wrote counts
            if state.verify_until - state.policy.refusal_wait <= now < state.verify_until:
                return state, Wait(min(VERIFY_PAUSE, state.verify_until - now))
            return replace(state, phase="settle"), Write(_ours(state), state.base)
        case "settle", Written() | NotWritten():
            # Not written: the marker stays, which is the careful reading of what happened.
            return _release(state, "look" if state.problem is None else "raise")
        case "settle", Conflict():
            return _release(state, "look")
        case "release", Released():
            if state.revoking is not None:
                return replace(state, phase="revoke"), Revoke(state.revoking)
            return _after(state, now)
        case "revoke", Revoked():
            return _after(state, now)
        case (("look" | "lock" | "recheck" | "verify"), Unreadable(memory, detail)):
            return _unreadable(state, memory, detail, now)
        case _:
            raise AssertionError(f"{type(event).__name__} cannot follow phase {state.phase}")


def _busy(state: Refresh, now: float) -> Next:
    """Somebody else is at it: the token that is still good, or a bounded wait."""
    if (token := _still_good(state, now)) is not None:
        return replace(state, phase="done"), Use(token)
    if now < state.started:  # a clock that was set back does not prolong the wait by as much
        state = replace(state, started=now, deadline=now + state.policy.wait_timeout)
    if now >= state.deadline:
        return replace(state, phase="done"), Raise(Problem("lock"))
    return replace(state, phase="wait", meanwhile=None), Wait(state.deadline - now)


def _look(state: Refresh, grant: Grant | None, now: float) -> Next:
    verdict = decide(grant, state.want, state.policy, now, locked=False)
    match verdict:
        case Use():
            return replace(state, phase="done"), verdict
        case Problem():
            return replace(state, phase="done"), Raise(verdict)
        case Renew(meanwhile):
            if state.spent:  # one call causes at most one refresh (I10)
                problem = state.problem or Problem("later", detail="the login changed while it was renewed")
                done = replace(state, phase="done")
                return (done, Use(meanwhile)) if meanwhile is not None else (done, Raise(problem))
            return replace(state, phase="lock", meanwhile=meanwhile), TryLock()
    assert_never(verdict)


def _recheck(state: Refresh, grant: Grant | None, now: float) -> Next:
    verdict = decide(grant, state.want, state.policy, now)
    if state.lease and not isinstance(verdict, Use) and _sender_may_live(grant, now):
        return _release(replace(state, meanwhile=_still_good(state, now)), "wait")
    match verdict:
        case Use(token):
            return _release(replace(state, meanwhile=token), "use")
        case Problem():
            return _release(replace(state, meanwhile=None, problem=verdict), "raise")
        case Renew(meanwhile):
            spending = _spending(grant, state, now)
            ahead = replace(
                state,
                phase="mark",
                grant=spending,
                earlier=grant.marker if grant else None,
                base=grant.order if grant else None,
                meanwhile=meanwhile,
            )
            return ahead, Write(spending, ahead.base, reserve=True)
    assert_never(verdict)


def _sender_may_live(grant: Grant | None, now: float) -> bool:
    """Under a lease: whether somebody may be sending this record's refresh token, or be about to save the answer."""
    marker = grant.marker if grant else None
    if grant is None or marker is None or grant.renewal == "client_credentials":
        return False
    return marker.sent_at - CLOCK_DIFFERENCE <= now < marker.deadline + CLOCK_DIFFERENCE


def _spending(grant: Grant | None, state: Refresh, now: float) -> Grant:
    """The record that is written ahead of the send."""
    if grant is None:  # a service's first: there is nothing yet, and nothing to lose
        epoch = max(1, int(now), state.want.seen[0] + 1)
        grant = Grant(
            state.want.key,
            epoch,
            renewal="client_credentials",
            scope=" ".join(sorted(state.want.scope)),
            subject=state.want.key.client_id,
            claims={"sub": state.want.key.client_id},
        )
    earlier = grant.marker
    marker = Marker(
        fingerprint=grant.spendable,
        nonce=state.nonce,
        owner=state.owner,
        sent_at=earlier.sent_at if earlier else now,
        deadline=now + LATE + state.policy.send_timeout,
        sends=earlier.sends + 1 if earlier else 1,
    )
    return replace(grant, state="SPENDING", attempt=grant.attempt + 1, marker=marker)


def _judge(state: Refresh, answered: Answered, now: float) -> Next:
    """What the provider's answer, or its absence, means for the record."""
    # Imported here: where the token is good nothing is sent, and nothing answered.
    from .wire import Busy, Granted, Lost, Misconfigured, Refused, Unsent

    spent = replace(state, base=_ours(state).order)
    reply = answered.reply
    match reply:
        case Granted(answer):
            return _granted(spent, answer, answered.asked_at)
        case Refused(error, detail):
            end = _ours(state).refresh_expires_at
            kind = "expired" if end is not None and now >= end else "refused"
            verify = replace(
                spent,
                phase="verify",
                grant=_dead(_ours(state), kind, detail or error),
                verify_until=now + state.policy.refusal_wait,
            )
            return verify, Load()
        case Unsent(detail):
            return _settle(spent, Problem("later", detail=detail), "unsent", now, marker=state.earlier)
        case Busy(detail, retry_after):
            return _settle(spent, Problem("later", "none", detail, retry_after), "busy", now, marker=state.earlier)
        case Misconfigured(error, detail):
            problem = Problem("misconfigured", detail=detail or error)
            return _settle(spent, problem, "misconfigured", now, marker=state.earlier)
        case Lost(detail, gateway):
            marker = _ours(state).marker
            if gateway and marker is not None:
                # An outage must not use up the policy's one repetition: it would end every login that met it twice.
                marker = replace(marker, sends=marker.sends - 1)
            return _settle(spent, Problem("later", detail=detail), "lost", now, marker=marker)
    assert_never(reply)


def _granted(state: Refresh, answer: TokenAnswer, asked_at: float) -> Next:
    from .idtoken import contradiction

    grant = _ours(state)
    # A service is nobody whom an ID token could tell of; Keycloak sends one, about an account that stands for it.
    claims = unverified_claims(answer.id_token) if grant.renewal == "refresh_token" else {}
    if claims and (detail := contradiction(claims, grant.key, grant.subject)):
        # OIDC Core §12.2: another issuer, client or person.  These tokens are nobody's here.
        dead = _dead(grant, "subject", detail)
        return replace(state, phase="settle", grant=dead, revoking=answer.refresh_token), Write(dead, state.base)
    earned = _with_answer(grant, answer, asked_at, state.want)
    if claims:
        # A login that was handed over as a bare refresh token learns here whose it is.
        subject = grant.subject or str(claims.get("sub") or "")
        earned = replace(earned, claims={**grant.claims, **claims}, subject=subject)
    return replace(state, phase="save", grant=earned), Write(earned, state.base)


def _with_answer(grant: Grant, answer: TokenAnswer, asked_at: float, want: Want) -> Grant:
    previous = grant.token_for(want.resource, want.for_scope)
    token = answer.token_set(
        asked_at,
        scope=previous.scope if previous else want.for_scope or grant.scope,
        resource=want.resource,
        for_scope=want.for_scope,
        id_token=previous.id_token if previous else None,
    )
    return replace(
        grant,
        generation=grant.generation + 1,
        attempt=0,
        state="ACTIVE",
        refresh_token=answer.refresh_token or grant.refresh_token,  # none in the answer: keep (RFC 6749 §6)
        refresh_expires_at=answer.refresh_expires_at(asked_at)
        or (None if answer.refresh_token else grant.refresh_expires_at),
        tokens=grant.with_token(token),
        marker=None,
        failure=None,
    )


def _dead(grant: Grant, kind: str, detail: str) -> Grant:
    """The verdict on a refresh token, for every process; access tokens that still live are served to their end."""
    return replace(
        grant,
        attempt=grant.attempt + 1,
        state="DEAD",
        refresh_token=None,
        marker=None,
        failure=Failure(grant.spendable, kind, detail),
        tokens=() if kind == "subject" else grant.tokens,
    )


def _settle(state: Refresh, problem: Problem, kind: str, now: float, *, marker: Marker | None) -> Next:
    """Nothing was gained.  The record says why, and until when nobody need ask again (HAZARDS 32).

    `marker` is what remains to be known of sends: ours, if its answer was lost, else that of an earlier one.
    """
    grant = _ours(state)
    if marker is not None:
        marker = replace(marker, deadline=0.0)  # nobody is busy with it any more
    earlier = grant.failure
    count = earlier.count + 1 if earlier and earlier.fingerprint == grant.spendable else 1
    longest = 5.0 if kind == "misconfigured" else 60.0  # whoever mends a setting does not want to wait
    spread = 1 + int(state.nonce[:4] or "0", 16) / 0xFFFF / 4  # apart from the logins of other people
    pause = max(problem.retry_after or 0.0, min(longest, 2.0 ** min(count - 1, 10)) * spread)
    failed = replace(
        grant,
        attempt=grant.attempt + 1,
        state="SPENDING" if marker else "ACTIVE",
        marker=marker,
        failure=Failure(grant.spendable, kind, problem.detail, now + pause, count),
    )
    told = replace(problem, retry_after=pause)
    return replace(state, phase="settle", grant=failed, problem=told), Write(failed, state.base)


def supersede(earned: Grant, current: Grant | None) -> Write | Revoke | None:
    """What becomes of an answer when another record is there: written over it, revoked, or let go."""
    if current is None:  # somebody removed it; what we hold is good
        return Write(earned, None)
    if current.order < earned.order:
        # Only attempts came between (or an older copy was put back): ours is still the one successor.  A
        # verdict of death was passed on its predecessor, so a revival counts as a new epoch.
        epoch = max(earned.epoch, current.epoch + (current.state == "DEAD"))
        return Write(replace(earned, epoch=epoch), current.order)
    if current.state == "LOGGED_OUT" and earned.refresh_token:
        return Revoke(earned.refresh_token)
    return None


def _superseded(state: Refresh, current: Grant | None) -> Next:
    """Our answer came, and the record is not the one that we wrote ahead."""
    following = supersede(_ours(state), current)
    if isinstance(following, Write):
        return replace(state, grant=following.grant, base=following.expected), following
    return _release(replace(state, revoking=following.token if following else None), "look")


def _unreadable(state: Refresh, memory: Grant | None, detail: str, now: float) -> Next:
    """The store is gone: what is known is served to its end, nothing is spent (I11)."""
    token = memory.token_for(state.want.resource, state.want.for_scope) if memory else None
    if freshness(token, state.want, state.policy, now) == "EXPIRED":
        token = None
    state = replace(state, meanwhile=token, problem=Problem("store", detail=detail))
    if state.phase in ("look", "lock"):
        return _after(replace(state, then="raise"), now)
    return _release(state, "raise")


def _unmark(state: Refresh, problem: Problem, now: float) -> Next:
    """The marker could not be made to last, so nothing is sent.  It may be there all the same: take it back."""
    grant = _ours(state)
    token = grant.token_for(state.want.resource, state.want.for_scope)
    usable = None if freshness(token, state.want, state.policy, now) == "EXPIRED" else token
    unmarked = _unmarked(state)
    back = replace(
        state, phase="settle", grant=unmarked, base=grant.order, meanwhile=usable, problem=problem, spent=True
    )
    return back, Write(unmarked, grant.order)


def _unmarked(state: Refresh) -> Grant:
    """The record without our marker: nothing was sent, so all that is known is what was known before."""
    grant = _ours(state)
    return replace(
        grant, attempt=grant.attempt + 1, state="SPENDING" if state.earlier else "ACTIVE", marker=state.earlier
    )


def _release(state: Refresh, then: Literal["look", "use", "raise", "wait"]) -> Next:
    return replace(state, phase="release", then=then), Release()


def _after(state: Refresh, now: float) -> Next:
    """The lock is free: give the caller what it came for."""
    done = replace(state, phase="done")
    token = _still_good(state, now)
    match state.then:
        case "use" if state.meanwhile is not None and (state.spent or token is not None):
            # What this run has earned is served however short its life.
            return done, Use(state.meanwhile)
        case "look" | "use":
            return replace(state, phase="look", revoking=None), Load()
        case "wait":
            return _busy(state, now)
        case "raise":
            if token is not None:
                return done, Use(token)
            assert state.problem is not None
            return done, Raise(state.problem)
    assert_never(state.then)


def _still_good(state: Refresh, now: float) -> TokenSet | None:
    """The token that was good when this caller looked, if it still is."""
    return None if freshness(state.meanwhile, state.want, state.policy, now) == "EXPIRED" else state.meanwhile


def _ours(state: Refresh) -> Grant:
    assert state.grant is not None
    return state.grant


def _earned(state: Refresh) -> TokenSet:
    token = _ours(state).token_for(state.want.resource, state.want.for_scope)
    assert token is not None
    return token


def grant_of_login(
    key: GrantKey,
    answer: TokenAnswer,
    previous: Grant | None,
    *,
    asked_at: float,
    scope: frozenset[str],
    subject: str = "",
    claims: dict[str, object] | None = None,
    resources: tuple[str, ...] = (),
    renewal: Literal["refresh_token", "client_credentials"] = "refresh_token",
) -> Grant:
    """The record that a sign-in makes, in an epoch of its own.

    Epochs are POSIX seconds unless the last one was later: so they rise even past a record that was set aside
    or deleted, and a process that knew the old one does not take the new for an older copy.  `resources` are the APIs
    that were asked for; the answer's access token is for the first.
    """
    resource = resources[0] if resources else ""
    requested = " ".join(sorted(scope))
    granted = " ".join(sorted(scope | scope_set(answer.scope)))
    tokens = () if not answer.access_token else (answer.token_set(asked_at, scope=requested, resource=resource),)
    return Grant(
        key=key,
        epoch=max(int(asked_at), previous.epoch + 1 if previous else 1),
        renewal=renewal if answer.refresh_token or renewal == "client_credentials" else "none",
        refresh_token=answer.refresh_token,
        refresh_expires_at=answer.refresh_expires_at(asked_at),
        tokens=tokens,
        scope=granted,
        resources=resources,
        subject=subject,
        claims=claims or {},
        dpop_key=answer.dpop_key,
    )


def grant_of_logout(key: GrantKey, previous: Grant | None, now: float) -> Grant:
    """The tombstone that a log-out leaves: every process sees it at its next call, and sends nothing more."""
    return Grant(
        key=key,
        epoch=max(int(now), previous.epoch + 1 if previous else 1),
        state="LOGGED_OUT",
        renewal=previous.renewal if previous else "none",
        scope=previous.scope if previous else "",
        subject=previous.subject if previous else "",
    )
