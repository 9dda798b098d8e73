"""The state machine of a refresh, driven by hand: every action, what can come of it, and what follows."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from loginonce.model import Failure, Grant, GrantKey, Marker, Secret, TokenSet, fingerprint
from loginonce.refresh import (
    CLOCK_TOLERANCE,
    LATE,
    TOO_LATE,
    Action,
    Answered,
    Conflict,
    Event,
    Late,
    Load,
    Loaded,
    Locked,
    NotWritten,
    Policy,
    Problem,
    Raise,
    Refresh,
    Release,
    Released,
    Renew,
    Rescue,
    Rescuing,
    Revoke,
    Revoked,
    Send,
    TryLock,
    Unreadable,
    Use,
    Wait,
    Waited,
    Want,
    Write,
    Written,
    decide,
    fresh_span,
    freshness,
    grant_of_login,
    grant_of_logout,
    start,
    step,
)
from loginonce.wire import LONGEST_RETRY_AFTER, Busy, Granted, Lost, Misconfigured, Refused, Reply, TokenAnswer, Unsent

NOW = 1_700_000_000.0
KEY = GrantKey("https://id.example.org", "notebook")
WANT = Want(KEY)
POLICY = Policy()
INTERVAL = Policy(reuse_interval=30.0)
LOGIN = Policy(lost="login")


def token(text: str = "access-1", *, received: float = NOW, life: float | None = 3600.0, **more: Any) -> TokenSet:
    return TokenSet(Secret(text), received, None if life is None else received + life, **{"scope": "openid", **more})


def grant(*tokens: TokenSet, **more: Any) -> Grant:
    members: dict[str, Any] = {"epoch": 10, "refresh_token": Secret("refresh-1"), "scope": "openid", **more}
    return Grant(KEY, tokens=tokens, **members)


def expired(**more: Any) -> Grant:
    return grant(token(received=NOW - 7200), **more)


def stale(**more: Any) -> Grant:
    return grant(token(received=NOW - 3500), **more)


def service(**more: Any) -> Grant:
    return Grant(KEY, epoch=10, renewal="client_credentials", **more)


def marked(base: Grant, *, sent_at: float = NOW, sends: int = 1) -> Grant:
    """The record that a sender left which was never heard of again."""
    marker = Marker(base.spendable, "0" * 16, "elsewhere/1/2/3", sent_at, sent_at + 20, sends)
    return replace(base, state="SPENDING", attempt=base.attempt + 1, marker=marker)


def answer(
    access: str = "access-2",
    refresh: str | None = "refresh-2",
    *,
    claims: dict[str, Any] | None = None,
    expires_in: float | None = 3600.0,
    **more: Any,
) -> Granted:
    id_token = None
    if claims is not None:
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        id_token = Secret(f"e30.{payload}.c2ln")
    return Granted(
        TokenAnswer(
            Secret(access),
            expires_in=expires_in,
            refresh_token=Secret(refresh) if refresh else None,
            id_token=id_token,
            **more,
        )
    )


class Walk:
    """One caller's way: hand it what came of each action, look at the next one."""

    def __init__(self, want: Want = WANT, policy: Policy = POLICY, now: float = NOW, nonce: str = "0" * 16) -> None:
        self.now = now
        self.state: Refresh
        self.action: Action
        self.state, self.action = start(want, policy, now, owner="here/1/2/3", nonce=nonce)

    def then(self, event: Event, *, after: float = 0.0) -> Action:
        self.now += after
        self.state, self.action = step(self.state, event, self.now)
        return self.action

    def to_lock(self, stored: Grant | None) -> Action:
        self.then(Loaded(stored))
        assert isinstance(self.action, TryLock)
        self.then(Locked(held=True))
        assert isinstance(self.action, Load)
        return self.then(Loaded(stored))

    def to_send(self, stored: Grant | None) -> Grant:
        """As far as the request; returns the record that was written ahead of it."""
        write = self.to_lock(stored)
        assert isinstance(write, Write)
        send = self.then(Written())
        assert isinstance(send, Send)
        return send.grant

    def turned_away(self, stored: Grant | None) -> Action:
        """What the caller gets who finds, under the lock, that nothing may be spent."""
        assert self.to_lock(stored) == Release()
        return self.then(Released())

    def answered(self, stored: Grant | None, reply: Reply) -> Action:
        self.to_send(stored)
        return self.then(Answered(reply, self.now))


def written(action: Action) -> Grant:
    assert isinstance(action, Write)
    return action.grant


def problem(action: Action) -> Problem:
    assert isinstance(action, Raise)
    return action.problem


# ── the three bands ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("life", "window", "end"),
    [
        (3600.0, 300.0, 3300.0),
        (3600.0, 10.0, 3590.0),
        (60.0, 300.0, 54.0),  # a life shorter than the window: a tenth of it (HAZARDS 34)
        (1.0, 300.0, 0.9),
    ],
)
def test_a_token_is_fresh_until_the_window_or_a_tenth_of_its_life_is_left(
    life: float, window: float, end: float
) -> None:
    begin, until = fresh_span(token(life=life), Policy(window=window))
    assert (begin, until) == (NOW - CLOCK_TOLERANCE, pytest.approx(NOW + end))


@pytest.mark.hazard(34)
def test_a_token_without_an_end_is_fresh_for_ever() -> None:
    assert fresh_span(token(life=None), POLICY) == (float("-inf"), float("inf"))


@pytest.mark.parametrize(
    ("at", "band"),
    [
        (-61.0, "STALE"),  # the clock was set back: its age is not known (HAZARDS 33)
        (-60.0, "FRESH"),
        (0.0, "FRESH"),
        (3299.9, "FRESH"),
        (3300.0, "STALE"),
        (3597.9, "STALE"),
        (3598.0, "EXPIRED"),  # it would end on its way
        (3600.0, "EXPIRED"),
        (1e9, "EXPIRED"),
    ],
)
def test_the_band_of_an_hour_long_token_follows_its_age(at: float, band: str) -> None:
    assert freshness(token(), WANT, POLICY, NOW + at) == band


@pytest.mark.parametrize("life", [1.0, 5.0, 60.0])
@pytest.mark.hazard(34)
def test_a_short_lived_token_is_fresh_when_it_arrives_and_stale_before_it_ends(life: float) -> None:
    bands = [freshness(token(life=life), WANT, POLICY, NOW + life * part) for part in (0.0, 0.89, 0.95, 1.0)]
    assert bands == ["FRESH", "FRESH", "STALE", "EXPIRED"]


def test_a_token_that_was_never_good_is_expired_at_once() -> None:
    assert freshness(token(life=-5.0), WANT, POLICY, NOW) == "EXPIRED"


def test_no_token_counts_as_expired() -> None:
    assert freshness(None, WANT, POLICY, NOW) == "EXPIRED"


def test_a_token_without_an_end_is_fresh_long_after() -> None:
    assert freshness(token(life=None), WANT, POLICY, NOW + 1e9) == "FRESH"


@pytest.mark.parametrize(
    ("life", "age", "band"),
    [
        (3600.0, 0.0, "FRESH"),
        (3600.0, 4.9, "FRESH"),
        (3600.0, 5.0, "EXPIRED"),
        (20.0, 1.9, "FRESH"),
        (20.0, 2.0, "EXPIRED"),  # a tenth of its life comes before five seconds
        (None, 4.9, "FRESH"),
        (None, 5.0, "EXPIRED"),
        (3600.0, -1.0, "EXPIRED"),  # from the future: not known to be new
    ],
)
def test_a_rejected_token_counts_only_while_it_was_just_received(life: float | None, age: float, band: str) -> None:
    refused = token(life=life)
    assert freshness(refused, replace(WANT, rejected=refused.fingerprint), POLICY, NOW + age) == band


def test_a_forced_renewal_does_not_spare_a_token_that_was_just_received() -> None:
    young = token()
    assert freshness(young, replace(WANT, rejected=young.fingerprint, force=True), POLICY, NOW) == "EXPIRED"


def test_the_rejection_of_an_older_token_says_nothing_about_the_present_one() -> None:
    assert freshness(token(), replace(WANT, rejected=fingerprint("access-0")), POLICY, NOW + 60) == "FRESH"


# ── decide: why a refresh happens ────────────────────────────────────────────────────────────────────────


def failed(base: Grant, kind: str = "busy", *, until: float = NOW + 30, of: str | None = None) -> Grant:
    from loginonce.model import Failure

    return replace(base, failure=Failure(base.spendable if of is None else of, kind, "it said so", until))


@pytest.mark.parametrize(
    ("stored", "want", "policy", "verdict"),
    [
        pytest.param(None, WANT, POLICY, Problem("login", "none"), id="no record"),
        pytest.param(None, replace(WANT, renewal="client_credentials"), POLICY, Renew(None), id="a service's first"),
        pytest.param(grant(token()), WANT, POLICY, Use(token()), id="fresh"),
        pytest.param(stale(), WANT, POLICY, Renew(stale().tokens[0]), id="stale"),
        pytest.param(expired(), WANT, POLICY, Renew(None), id="expired"),
        pytest.param(grant(), WANT, POLICY, Renew(None), id="no access token yet"),
        pytest.param(
            grant(token(), resources=("https://api",)),
            replace(WANT, resource="https://api"),
            POLICY,
            Renew(None),
            id="no access token yet for that resource",
        ),
        pytest.param(
            grant(token(), resources=("https://api",)),
            replace(WANT, resource="https://other"),
            POLICY,
            Problem("login", "scope", "https://other"),
            id="a resource that the login was not asked for",
        ),
        pytest.param(
            expired(resources=("https://api",)),
            replace(WANT, resource="https://other"),
            POLICY,
            Problem("login", "scope", "https://other"),
            id="a resource that the login was not asked for, and nothing is left",
        ),
        pytest.param(
            grant(token(), renewal="client_credentials"),
            replace(WANT, resource="https://api", renewal="client_credentials"),
            POLICY,
            Renew(None),
            id="a service asks for any resource",
        ),
        pytest.param(
            grant(token(), state="DEAD", failure=Failure("", "refused", "gone")),
            replace(WANT, resource="https://api"),
            POLICY,
            Problem("login", "ended", "gone"),
            id="that the login has ended counts before what it was asked for",
        ),
        pytest.param(
            grant(token(resource="https://api")),
            replace(WANT, resource="https://api"),
            POLICY,
            Use(token(resource="https://api")),
            id="the access token for that resource",
        ),
        pytest.param(
            grant(token()), replace(WANT, scope=frozenset({"b", "a", "openid"})), POLICY,
            Problem("login", "scope", "a b"), id="more scope than granted",
        ),
        pytest.param(grant(token()), replace(WANT, scope=frozenset({"openid"})), POLICY, Use(token()), id="less scope"),
        pytest.param(
            expired(refresh_token=None, renewal="none"), WANT, POLICY, Problem("login", "expired"), id="not renewable"
        ),
        pytest.param(
            stale(refresh_token=None, renewal="none"), WANT, POLICY, Use(stale().tokens[0]), id="not renewable, alive"
        ),
        pytest.param(
            expired(state="LOGGED_OUT"), WANT, POLICY, Problem("login", "logged_out"), id="logged out"
        ),
        pytest.param(expired(state="DEAD"), WANT, POLICY, Problem("login", "ended"), id="dead, nobody knows why"),
        pytest.param(
            failed(expired(state="DEAD"), "refused"), WANT, POLICY, Problem("login", "ended", "it said so"), id="dead"
        ),
        pytest.param(
            failed(expired(state="DEAD"), "subject"), WANT, POLICY, Problem("login", "account", "it said so"),
            id="dead, for somebody else",
        ),
        pytest.param(grant(token(), state="DEAD"), WANT, POLICY, Use(token()), id="dead, its token lives (HAZARDS 29)"),
        pytest.param(stale(state="DEAD"), WANT, POLICY, Use(stale().tokens[0]), id="dead, its token lives a little"),
        pytest.param(
            expired(), replace(WANT, seen=(10, 0, 1)), POLICY,
            Problem("login", "lost", "the stored record is an older copy of one seen before"),
            id="rolled back (HAZARDS 21)",
        ),
        pytest.param(expired(), replace(WANT, seen=(10, 0, 0)), POLICY, Renew(None), id="the one seen before"),
        pytest.param(
            grant(token()), replace(WANT, seen=(11, 0, 0)), POLICY, Use(token()), id="rolled back, its token lives"
        ),
        pytest.param(
            failed(expired()), WANT, POLICY, Problem("later", "none", "it said so", 30.0), id="not before (HAZARDS 32)"
        ),
        pytest.param(failed(stale()), WANT, POLICY, Use(stale().tokens[0]), id="not before, token alive"),
        pytest.param(failed(expired(), until=NOW), WANT, POLICY, Renew(None), id="not before is over"),
        pytest.param(failed(expired(), of="another"), WANT, POLICY, Renew(None), id="not before, of an older token"),
        pytest.param(marked(expired()), WANT, POLICY, Renew(None), id="may be spent: retry_once"),
        pytest.param(marked(expired()), WANT, LOGIN, Problem("login", "lost", ""), id="may be spent: login"),
        pytest.param(
            failed(marked(expired()), "lost", until=NOW), WANT, LOGIN, Problem("login", "lost", "it said so"),
            id="may be spent: login, and why",
        ),
        pytest.param(
            marked(expired(), sends=2), WANT, POLICY, Problem("login", "lost", ""), id="may be spent: retried once"
        ),
        pytest.param(marked(stale()), WANT, POLICY, Use(stale().tokens[0]), id="may be spent, token alive: no risk"),
        pytest.param(
            marked(stale()), WANT, INTERVAL, Renew(stale().tokens[0]), id="may be spent, in the reuse interval"
        ),
        pytest.param(
            marked(expired(), sent_at=NOW - 29.9, sends=2), WANT, INTERVAL, Renew(None), id="in the interval, twice"
        ),
        pytest.param(
            marked(expired(), sent_at=NOW - 29.9, sends=3), WANT, INTERVAL, Problem("login", "lost", ""),
            id="in the interval, often enough",
        ),
        pytest.param(
            marked(expired(), sent_at=NOW - 30, sends=2), WANT, INTERVAL, Problem("login", "lost", ""),
            id="after the interval",
        ),
        pytest.param(
            marked(expired(), sent_at=NOW - 30), WANT, replace(INTERVAL, lost="login"), Problem("login", "lost", ""),
            id="after the interval: login",
        ),
        pytest.param(
            marked(expired(), sent_at=NOW + 99, sends=2), WANT, INTERVAL, Problem("login", "lost", ""),
            id="sent in the future: the clock was set back",
        ),
        pytest.param(
            marked(service(tokens=expired().tokens), sends=9), WANT, LOGIN, Renew(None), id="a service spends nothing"
        ),
    ],
)  # fmt: skip
def test_the_whole_rule(stored: Grant | None, want: Want, policy: Policy, verdict: object) -> None:
    found = decide(stored, want, policy, NOW)
    assert (type(found), found) == (type(verdict), verdict)


def test_a_dead_login_does_not_serve_a_session_that_asks_for_more_scope_than_it_has() -> None:
    verdict = decide(grant(token(), state="DEAD"), replace(WANT, scope=frozenset({"admin"})), POLICY, NOW)
    assert isinstance(verdict, Problem)


@pytest.mark.hazard(32, 33)
def test_not_before_does_not_outlast_a_clock_that_was_set_back_by_a_day() -> None:
    assert decide(failed(grant()), WANT, POLICY, NOW - 86400) == Renew(None)


def test_the_longest_pause_that_a_provider_can_ask_for_is_kept() -> None:
    settled = written(Walk(nonce="ffff").answered(expired(), Busy("HTTP 503", LONGEST_RETRY_AFTER)))
    assert isinstance(decide(settled, WANT, POLICY, NOW), Problem)


def test_a_wrong_setting_is_called_one_also_by_the_next_caller() -> None:
    verdict = decide(failed(expired(), "misconfigured", until=NOW + 2), WANT, POLICY, NOW)
    assert isinstance(verdict, Problem)
    assert verdict.kind == "misconfigured"


# ── look, lock, wait ─────────────────────────────────────────────────────────────────────────────────────


def test_the_first_thing_is_to_read_the_record() -> None:
    assert Walk().action == Load()


def test_a_fresh_token_is_used_without_a_lock() -> None:
    assert Walk().then(Loaded(grant(token()))) == Use(token())


def test_nobody_signed_in_is_told_without_a_lock() -> None:
    assert problem(Walk().then(Loaded(None))) == Problem("login", "none")


def test_a_stale_token_is_used_at_once_where_another_holds_the_lock() -> None:
    walk = Walk()
    assert walk.then(Loaded(stale())) == TryLock()
    assert walk.then(Locked(held=False)) == Use(stale().tokens[0])


def test_without_a_token_the_caller_waits_for_the_holder_until_its_own_deadline() -> None:
    walk = Walk()
    walk.then(Loaded(expired()))
    assert walk.then(Locked(held=False), after=10) == Wait(20.0)
    assert walk.then(Waited(), after=5) == Load()


def test_a_waiter_adopts_the_new_token_without_the_lock() -> None:
    walk = Walk()
    walk.then(Loaded(expired()))
    walk.then(Locked(held=False))
    walk.then(Waited())
    assert walk.then(Loaded(grant(token("access-2"), generation=1))) == Use(token("access-2"))


def test_a_waiter_gives_up_at_its_deadline() -> None:
    walk = Walk(policy=Policy(wait_timeout=30))
    for after in (0.0, 30.0):
        walk.then(Loaded(expired()), after=after)
        walk.then(Locked(held=False))
        if after:
            break
        walk.then(Waited())
    assert problem(walk.action) == Problem("lock")


@pytest.mark.hazard(33)
def test_a_clock_that_is_set_back_does_not_prolong_a_wait() -> None:
    walk = Walk()
    walk.then(Loaded(expired()))
    walk.then(Locked(held=False))
    walk.then(Waited(), after=-3600)
    walk.then(Loaded(expired()))
    action = walk.then(Locked(held=False))
    assert isinstance(action, Wait)
    assert action.seconds <= POLICY.wait_timeout


def test_a_rejected_token_makes_the_caller_wait_though_it_has_not_expired() -> None:
    walk = Walk(replace(WANT, rejected=token().fingerprint), now=NOW + 60)
    walk.then(Loaded(grant(token())))
    assert isinstance(walk.then(Locked(held=False)), Wait)


@pytest.mark.hazard(23)
def test_a_rejected_token_is_answered_by_a_newer_one_in_the_store() -> None:
    walk = Walk(replace(WANT, rejected=token().fingerprint), now=NOW + 60)
    assert walk.then(Loaded(grant(token("access-2"), generation=1))) == Use(token("access-2"))


# ── recheck, mark ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(5, 6)
def test_a_token_that_another_got_while_we_took_the_lock_is_adopted_and_nothing_is_sent() -> None:
    walk = Walk()
    walk.then(Loaded(expired()))
    walk.then(Locked(held=True))
    assert walk.then(Loaded(grant(token("access-2"), generation=1))) == Release()
    assert walk.then(Released()) == Use(token("access-2"))


@pytest.mark.parametrize(
    ("there", "reason"),
    [(grant_of_logout(KEY, grant(), NOW), "logged_out"), (expired(state="DEAD"), "ended"), (None, "none")],
)
def test_a_login_that_ended_while_we_took_the_lock_is_told_after_its_release(there: Grant, reason: str) -> None:
    walk = Walk()
    walk.then(Loaded(stale()))
    walk.then(Locked(held=True))
    assert walk.then(Loaded(there)) == Release()
    assert problem(walk.then(Released())).reason == reason


def test_the_record_is_marked_before_anything_is_sent() -> None:
    walk = Walk()
    write = walk.to_lock(expired(generation=3, attempt=4))
    assert isinstance(write, Write)
    assert (write.expected, write.reserve) == ((10, 3, 4), True)
    marker = Marker(fingerprint("refresh-1"), "0" * 16, "here/1/2/3", NOW, NOW + LATE + POLICY.send_timeout, 1)
    assert write.grant == replace(expired(generation=3, attempt=5), state="SPENDING", marker=marker)
    assert walk.then(Written()) == Send(write.grant)


def test_a_second_send_keeps_when_the_first_was_and_counts() -> None:
    ahead = written(Walk().to_lock(marked(expired(), sent_at=NOW - 500)))
    assert ahead.marker is not None
    assert (ahead.marker.sent_at, ahead.marker.sends, ahead.marker.deadline) == (NOW - 500, 2, NOW + LATE + 20)


# ── a lock that is a lease ───────────────────────────────────────────────────────────────────────────────


def leased(stored: Grant | None, *, want: Want = WANT, policy: Policy = POLICY) -> tuple[Walk, Action]:
    """A caller that has the lease, and has read the record again."""
    walk = Walk(want, policy)
    walk.then(Loaded(stored))
    walk.then(Locked(held=True, lease=True))
    return walk, walk.then(Loaded(stored))


def in_hand(*, since: float, left: float | None = None) -> Grant:
    """A record that somebody has marked so many seconds ago."""
    marker = Marker(fingerprint("refresh-1"), "1" * 16, "there/1/2/3", NOW - since, NOW - since + LATE + 20)
    stored = expired() if left is None else near_its_end(left)
    return replace(stored, state="SPENDING", marker=marker)


def near_its_end(left: float) -> Grant:
    return grant(replace(token(), received_at=NOW - 3600, expires_at=NOW + left))


@pytest.mark.parametrize("since", [0.0, 24.0, 29.9])
@pytest.mark.hazard(12)
def test_under_a_lease_a_marker_is_respected_until_its_sender_must_be_done(since: float) -> None:
    walk, action = leased(in_hand(since=since))
    assert action == Release()
    assert isinstance(walk.then(Released()), Wait)
    assert isinstance(walk.then(Waited()), Load)


def test_under_a_lease_a_marker_counts_as_left_behind_after_that() -> None:
    _, action = leased(in_hand(since=30.1))
    assert isinstance(action, Write)


def test_under_a_lease_a_sender_that_has_given_up_is_not_waited_for() -> None:
    stored = in_hand(since=3)
    assert stored.marker is not None
    _, action = leased(replace(stored, marker=replace(stored.marker, deadline=0.0)))
    assert isinstance(action, Write)


def test_under_a_lease_a_good_token_is_used_while_another_may_be_sending() -> None:
    stored = in_hand(since=3, left=60)
    walk, action = leased(stored, policy=INTERVAL)
    assert action == Release()
    assert walk.then(Released()) == Use(stored.tokens[0])


def test_the_wait_for_another_sender_under_a_lease_is_bounded() -> None:
    walk, _ = leased(in_hand(since=3))
    assert problem(walk.then(Released(), after=POLICY.wait_timeout)).kind == "lock"


def test_a_service_does_not_mind_who_else_asks_under_a_lease() -> None:
    stored = replace(in_hand(since=3), renewal="client_credentials", refresh_token=None)
    _, action = leased(stored, want=replace(WANT, renewal="client_credentials"))
    assert isinstance(action, Write)


def test_a_lease_bounds_when_a_send_may_begin_and_a_lock_does_not() -> None:
    walk, _ = leased(expired())
    send = walk.then(Written())
    assert isinstance(send, Send)
    assert send.latest == NOW + LATE
    walk = Walk()
    walk.to_lock(expired())
    send = walk.then(Written())
    assert isinstance(send, Send)
    assert send.latest is None


@pytest.mark.parametrize("earlier", [False, True])
def test_whoever_is_too_late_takes_the_marker_back_and_begins_anew(earlier: bool) -> None:
    walk, action = leased(in_hand(since=100) if earlier else expired())
    assert isinstance(action, Write)
    ahead = action.grant
    walk.then(Written())
    back = walk.then(Late(), after=10)
    assert isinstance(back, Write)
    assert back.expected == ahead.order
    assert back.grant.order > ahead.order
    assert (back.grant.state, back.grant.marker) == (
        ("SPENDING", in_hand(since=100).marker) if earlier else ("ACTIVE", None)
    )
    assert back.grant.failure is None
    assert isinstance(walk.then(Written()), Release)
    assert isinstance(walk.then(Released()), Load)
    assert isinstance(walk.then(Loaded(expired())), TryLock)  # its turn was not used up


def test_a_store_that_is_always_too_late_is_given_up_in_time() -> None:
    walk, action = leased(expired())
    for left in reversed(range(TOO_LATE)):
        assert isinstance(action, Write)
        walk.then(Written())
        back = written(walk.then(Late(), after=Policy().wait_timeout))
        assert (back.state, back.marker) == ("ACTIVE", None)
        assert isinstance(walk.then(Written()), Release)
        if left:  # something else may have kept it
            assert isinstance(walk.then(Released()), Load)
            assert isinstance(walk.then(Loaded(expired())), TryLock)
            assert isinstance(walk.then(Locked(held=True, lease=True)), Load)
            action = walk.then(Loaded(expired()))
    told = problem(walk.then(Released()))
    assert (told.kind, told.detail) == ("later", "the store takes too long to write for a send to be safe")


@pytest.mark.hazard(3)
def test_a_record_that_cannot_be_marked_is_not_spent() -> None:
    walk = Walk()
    walk.to_lock(expired())
    walk.then(NotWritten("the disk is full"))
    assert walk.then(NotWritten("the disk is full")) == Release()
    assert problem(walk.then(Released())) == Problem("store", detail="the disk is full")


def test_a_marker_that_may_be_there_although_it_could_not_be_written_is_taken_back() -> None:
    walk = Walk()
    ahead = written(walk.to_lock(expired()))
    back = walk.then(NotWritten("the folder could not be synced"))
    assert isinstance(back, Write)
    assert (back.expected, back.grant.state, back.grant.marker) == (ahead.order, "ACTIVE", None)
    walk.then(Written())
    assert problem(walk.then(Released())).kind == "store"


def test_a_marker_that_was_never_there_is_not_tried_twice_in_one_call() -> None:
    walk = Walk()
    walk.to_lock(expired())
    walk.then(NotWritten("the disk is full"))
    assert walk.then(Conflict(expired())) == Release()
    assert walk.then(Released()) == Load()
    assert problem(walk.then(Loaded(expired()))) == Problem("store", detail="the disk is full")


def test_a_stale_token_is_served_where_the_record_cannot_be_marked() -> None:
    walk = Walk()
    walk.to_lock(stale())
    walk.then(NotWritten("the disk is full"))
    walk.then(NotWritten("the disk is full"))
    assert walk.then(Released()) == Use(stale().tokens[0])


def test_a_rejected_token_is_not_served_where_the_record_cannot_be_marked() -> None:
    walk = Walk(replace(WANT, rejected=token().fingerprint), now=NOW + 60)
    walk.to_lock(grant(token()))
    walk.then(NotWritten("the disk is full"))
    walk.then(NotWritten("the disk is full"))
    assert problem(walk.then(Released())).kind == "store"


@pytest.mark.hazard(6, 7)
def test_a_conflict_at_the_mark_begins_anew_with_what_is_there() -> None:
    walk = Walk()
    walk.to_lock(expired())
    write = walk.then(Conflict(expired(attempt=7)))
    assert isinstance(write, Write)
    assert (write.expected, write.grant.attempt) == ((10, 0, 7), 8)


@pytest.mark.hazard(30)
def test_a_log_out_at_the_mark_ends_it_unsent() -> None:
    walk = Walk()
    walk.to_lock(expired())
    assert walk.then(Conflict(grant_of_logout(KEY, expired(), NOW))) == Release()
    assert problem(walk.then(Released())).reason == "logged_out"


@pytest.mark.hazard(7)
def test_a_new_login_at_the_mark_is_adopted_unsent() -> None:
    walk = Walk()
    walk.to_lock(expired())
    walk.then(Conflict(grant(token("access-9"), epoch=11)))
    assert walk.then(Released()) == Use(token("access-9"))


# ── send, save ───────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_saved_over_the_mark_then_released_then_used() -> None:
    walk = Walk()
    save = walk.answered(expired(generation=3, attempt=4), answer())
    assert isinstance(save, Write)
    assert (save.expected, save.grant.order, save.reserve) == ((10, 3, 5), (10, 4, 0), False)
    assert (save.grant.state, save.grant.marker, save.grant.refresh_token) == ("ACTIVE", None, "refresh-2")
    assert walk.then(Written()) == Release()
    assert walk.then(Released()) == Use(token("access-2", scope="openid"))


def test_a_renewal_clears_what_went_wrong_before() -> None:
    assert written(Walk().answered(failed(expired(), until=NOW), answer())).failure is None


@pytest.mark.hazard(35)
def test_an_answer_without_a_refresh_token_keeps_the_old_one() -> None:
    assert written(Walk().answered(expired(), answer(refresh=None))).refresh_token == "refresh-1"


@pytest.mark.parametrize(
    ("previous", "said", "scope"),
    [("a b", "", "a b"), ("a b", "a", "a"), (None, "", "openid"), (None, "a", "a")],
)
@pytest.mark.hazard(35)
def test_an_answer_without_scope_means_the_scope_of_before(previous: str | None, said: str, scope: str) -> None:
    tokens = () if previous is None else (token(received=NOW - 7200, scope=previous),)
    save = written(Walk().answered(grant(*tokens), answer(scope=said)))
    assert save.tokens[0].scope == scope


@pytest.mark.hazard(35)
def test_a_narrower_token_leaves_what_the_login_covers() -> None:
    save = written(Walk(replace(WANT, for_scope="a")).answered(grant(scope="a b"), answer()))
    assert (save.scope, save.tokens[0].scope, save.tokens[0].for_scope) == ("a b", "a", "a")


def test_the_id_token_of_before_stays_where_none_comes() -> None:
    before = token(received=NOW - 7200, id_token=Secret("id-1"))
    assert written(Walk().answered(grant(before), answer())).tokens[0].id_token == "id-1"


@pytest.mark.hazard(36)
def test_the_tokens_of_other_resources_stay() -> None:
    other = token("other", resource="https://api")
    save = written(Walk().answered(grant(other), answer()))
    assert [kept.access_token for kept in save.tokens] == ["access-2", "other"]


@pytest.mark.hazard(33)
def test_a_life_counts_from_when_it_was_asked_for() -> None:
    walk = Walk()
    walk.to_send(expired())
    save = written(walk.then(Answered(answer(expires_in=100.0), NOW - 15), after=5))
    assert (save.tokens[0].received_at, save.tokens[0].expires_at) == (NOW - 15, NOW + 85)


@pytest.mark.parametrize(("said", "stored"), [(1800.0, NOW + 1800), (None, NOW + 50)])
def test_the_end_of_a_refresh_token_is_stored_where_it_is_said(said: float | None, stored: float) -> None:
    save = written(Walk().answered(expired(refresh_expires_at=NOW + 50), answer(refresh=None, refresh_expires_in=said)))
    assert save.refresh_expires_at == stored


def test_the_end_of_a_refresh_token_is_not_that_of_its_successor() -> None:
    save = written(Walk().answered(expired(refresh_expires_at=NOW + 50), answer(refresh="refresh-2")))
    assert save.refresh_expires_at is None


@pytest.mark.hazard(3)
def test_a_save_that_fails_is_handed_to_a_rescuer_and_its_token_is_used() -> None:
    walk = Walk()
    save = walk.answered(expired(), answer())
    rescue = walk.then(NotWritten("input/output error"))
    assert rescue == Rescue(written(save), (10, 0, 1), "input/output error")
    assert walk.then(Rescuing()) == Use(token("access-2", scope="openid"))


@pytest.mark.hazard(30)
def test_a_log_out_before_the_save_wins_and_what_we_were_given_is_revoked() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    out = grant_of_logout(KEY, expired(), NOW)
    assert walk.then(Conflict(out)) == Release()
    assert walk.then(Released()) == Revoke(Secret("refresh-2"))
    assert walk.then(Revoked()) == Load()
    assert problem(walk.then(Loaded(out))) == Problem("login", "logged_out")


def test_after_a_log_out_an_answer_without_a_refresh_token_revokes_the_kept_one() -> None:
    walk = Walk()
    walk.answered(expired(), answer(refresh=None))
    walk.then(Conflict(grant_of_logout(KEY, expired(), NOW)))
    assert walk.then(Released()) == Revoke(Secret("refresh-1"))


def test_a_new_login_before_the_save_wins_and_nothing_is_revoked() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    newer = grant(token("access-9"), epoch=11)
    assert walk.then(Conflict(newer)) == Release()
    assert walk.then(Released()) == Load()
    assert walk.then(Loaded(newer)) == Use(token("access-9"))


def test_a_new_login_before_the_save_is_not_renewed_by_the_same_call() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    walk.then(Conflict(grant(epoch=11)))
    walk.then(Released())
    assert problem(walk.then(Loaded(grant(epoch=11)))) == Problem(
        "later", detail="the login changed while it was renewed"
    )


def test_a_new_login_with_a_stale_token_before_the_save_is_used_as_it_is() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    walk.then(Conflict(stale(epoch=11)))
    walk.then(Released())
    assert walk.then(Loaded(stale(epoch=11))) == Use(stale().tokens[0])


def test_a_siblings_answer_before_the_save_is_adopted_and_nothing_is_revoked() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    sibling = grant(token("access-3"), generation=1)
    assert walk.then(Conflict(sibling)) == Release()
    assert walk.then(Released()) == Load()


def test_a_record_that_was_removed_before_the_save_is_made_again() -> None:
    walk = Walk()
    save = walk.answered(expired(), answer())
    again = walk.then(Conflict(None))
    assert again == Write(written(save), None)
    assert walk.then(Written()) == Release()
    assert walk.then(Released()) == Use(token("access-2", scope="openid"))


def test_attempts_of_others_before_the_save_are_overwritten() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    again = walk.then(Conflict(marked(expired(attempt=4))))
    assert isinstance(again, Write)
    assert (again.expected, again.grant.order) == ((10, 0, 5), (10, 1, 0))


def test_a_verdict_of_death_before_the_save_is_overruled_in_a_new_epoch() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    again = walk.then(Conflict(expired(attempt=9, state="DEAD")))
    assert isinstance(again, Write)
    assert (again.expected, again.grant.order, again.grant.state) == ((10, 0, 9), (11, 1, 0), "ACTIVE")


@pytest.mark.hazard(21)
def test_an_older_copy_that_was_put_back_before_the_save_is_overwritten() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    again = walk.then(Conflict(expired(epoch=9, generation=50)))
    assert isinstance(again, Write)
    assert (again.expected, again.grant.order) == ((9, 50, 0), (10, 1, 0))


def test_a_second_save_that_fails_is_rescued_against_the_record_that_is_there() -> None:
    walk = Walk()
    walk.answered(expired(), answer())
    walk.then(Conflict(marked(expired(attempt=4))))
    rescue = walk.then(NotWritten("input/output error"))
    assert isinstance(rescue, Rescue)
    assert rescue.expected == (10, 0, 5)


# ── who answers ──────────────────────────────────────────────────────────────────────────────────────────

ADA = {"iss": KEY.issuer, "aud": KEY.client_id, "sub": "ada"}


def test_claims_of_a_new_id_token_are_added_to_the_old_ones() -> None:
    before = expired(subject="ada", claims={"sub": "ada", "name": "Ada", "email": "old"})
    save = written(Walk().answered(before, answer(claims={**ADA, "email": "new"})))
    assert save.claims == {**ADA, "name": "Ada", "email": "new"}


@pytest.mark.parametrize("changed", [{"sub": "eve"}, {"aud": "another"}, {"iss": "https://evil.example"}])
@pytest.mark.hazard(36)
def test_an_answer_for_somebody_else_ends_the_login_and_is_revoked(changed: dict[str, str]) -> None:
    walk = Walk()
    settle = walk.answered(stale(subject="ada"), answer(claims={**ADA, **changed}))
    dead = written(settle)
    assert (dead.state, dead.tokens, dead.refresh_token, dead.marker) == ("DEAD", (), None, None)
    assert dead.failure is not None
    assert (dead.failure.kind, dead.failure.fingerprint) == ("subject", fingerprint("refresh-1"))
    assert walk.then(Written()) == Release()
    assert walk.then(Released()) == Revoke(Secret("refresh-2"))
    assert walk.then(Revoked()) == Load()
    assert problem(walk.then(Loaded(dead))).reason == "account"


def test_an_answer_for_somebody_else_without_a_refresh_token_has_nothing_to_revoke() -> None:
    walk = Walk()
    walk.answered(expired(subject="ada"), answer(refresh=None, claims={**ADA, "sub": "eve"}))
    walk.then(Written())
    assert walk.then(Released()) == Load()


@pytest.mark.parametrize("said", [None, {}])
def test_an_answer_that_says_nothing_of_the_person_leaves_the_claims(said: dict[str, str] | None) -> None:
    before = expired(subject="ada", claims={"sub": "ada"})
    assert written(Walk().answered(before, answer(claims=said))).claims == {"sub": "ada"}


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────

NO = Refused("invalid_grant", "invalid_grant (it is over)")


def test_a_refusal_is_verified_before_it_is_believed() -> None:
    assert Walk().answered(expired(), NO) == Load()


def test_a_refused_record_is_watched_for_a_sibling_then_declared_dead() -> None:
    walk = Walk(policy=Policy(refusal_wait=0.12))
    ahead = walk.to_send(expired())
    walk.then(Answered(NO, NOW))
    waits = []
    while not isinstance(walk.action, Write):
        assert isinstance(walk.action, Load)
        waited = walk.then(Loaded(ahead))
        if isinstance(waited, Wait):
            waits.append(round(waited.seconds, 3))
            walk.then(Waited(), after=waited.seconds)
    assert waits[:3] == [0.05, 0.05, 0.02]
    assert (walk.action.expected, walk.action.grant.state) == (ahead.order, "DEAD")
    assert walk.then(Written()) == Release()
    assert walk.then(Released()) == Load()
    assert problem(walk.then(Loaded(written(Write(walk.state.grant or ahead, None))))).reason == "ended"


@pytest.mark.hazard(33)
def test_a_clock_that_is_set_back_does_not_prolong_the_verification() -> None:
    walk = Walk(policy=Policy(refusal_wait=2.0))
    ahead = walk.to_send(expired())
    walk.then(Answered(NO, NOW))
    walk.then(Loaded(ahead))
    walk.then(Waited(), after=-3600)
    for _ in range(100):  # five seconds of pauses
        if isinstance(walk.action, Write):
            break
        walk.then(Loaded(ahead) if isinstance(walk.action, Load) else Waited(), after=0.05)
    assert isinstance(walk.action, Write)


def dead_after(stored: Grant) -> tuple[Walk, Grant]:
    walk = Walk(policy=Policy(refusal_wait=0.0))
    ahead = walk.to_send(stored)
    walk.then(Answered(NO, NOW))
    return walk, written(walk.then(Loaded(ahead)))


@pytest.mark.hazard(28)
def test_the_verdict_holds_the_fingerprint_of_what_was_refused_and_not_the_token() -> None:
    _, dead = dead_after(expired())
    assert dead.failure is not None
    assert (dead.failure.fingerprint, dead.failure.detail) == (fingerprint("refresh-1"), "invalid_grant (it is over)")
    assert (dead.refresh_token, dead.marker) == (None, None)


def test_a_verdict_without_words_names_the_error() -> None:
    walk = Walk(policy=Policy(refusal_wait=0.0))
    ahead = walk.to_send(expired())
    walk.then(Answered(Refused("invalid_grant", ""), NOW))
    dead = written(walk.then(Loaded(ahead)))
    assert dead.failure is not None
    assert dead.failure.detail == "invalid_grant"


@pytest.mark.hazard(29)
def test_a_refused_early_refresh_keeps_serving_the_token_that_lives() -> None:
    walk, dead = dead_after(stale())
    assert dead.tokens == stale().tokens
    walk.then(Written())
    walk.then(Released())
    assert walk.then(Loaded(dead)) == Use(stale().tokens[0])


@pytest.mark.hazard(28)
def test_a_dead_record_sends_nothing_more() -> None:
    _, dead = dead_after(expired())
    assert problem(Walk(now=NOW + 1e6).then(Loaded(dead))) == Problem("login", "ended", "invalid_grant (it is over)")


@pytest.mark.parametrize("current", [grant(token("access-2"), generation=1), grant(token("access-2"), epoch=11)])
@pytest.mark.hazard(11, 26)
def test_a_sibling_that_was_quicker_is_adopted_after_a_refusal(current: Grant) -> None:
    walk = Walk()
    walk.answered(expired(), NO)
    assert walk.then(Loaded(current)) == Release()
    assert walk.then(Released()) == Load()
    assert walk.then(Loaded(current)) == Use(token("access-2"))


@pytest.mark.hazard(26)
def test_a_record_that_is_gone_after_a_refusal_stays_gone() -> None:
    walk = Walk()
    walk.answered(expired(), NO)
    assert walk.then(Loaded(None)) == Release()
    walk.then(Released())
    assert problem(walk.then(Loaded(None))).reason == "none"


@pytest.mark.hazard(26)
def test_a_new_login_between_verification_and_verdict_is_not_touched() -> None:
    walk, _ = dead_after(expired())
    newer = grant(token("access-9"), epoch=11)
    assert walk.then(Conflict(newer)) == Release()
    assert walk.then(Released()) == Load()
    assert walk.then(Loaded(newer)) == Use(token("access-9"))


def test_a_verdict_that_cannot_be_written_leaves_the_mark_and_sends_nothing_more_in_this_call() -> None:
    walk, _ = dead_after(expired())
    walk.then(NotWritten("read-only"))
    walk.then(Released())
    assert problem(walk.then(Loaded(marked(expired())))).kind == "later"


# ── never sent, busy, our fault, lost ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (Unsent("no route"), "unsent", Problem("later", detail="no route", retry_after=1.0)),
        (Busy("HTTP 503", 120.0), "busy", Problem("later", detail="HTTP 503", retry_after=120.0)),
        (Busy("HTTP 429", None), "busy", Problem("later", detail="HTTP 429", retry_after=1.0)),
        (
            Misconfigured("invalid_client", ""),
            "misconfigured",
            Problem("misconfigured", detail="invalid_client", retry_after=1.0),
        ),
    ],
)
@pytest.mark.hazard(27, 32)
def test_a_failure_that_spends_nothing_clears_the_mark_and_tells_everybody_when_to_try_again(
    reply: Reply, kind: str, told: Problem
) -> None:
    walk = Walk()
    settled = written(walk.answered(expired(), reply))
    assert (settled.state, settled.marker, settled.refresh_token) == ("ACTIVE", None, "refresh-1")
    assert settled.failure is not None
    assert (settled.failure.kind, settled.failure.fingerprint) == (kind, fingerprint("refresh-1"))
    assert settled.failure.not_before == NOW + (told.retry_after or 0.0)
    assert walk.then(Written()) == Release()
    assert problem(walk.then(Released())) == told
    assert isinstance(decide(settled, WANT, POLICY, NOW + 0.5), Problem)
    assert decide(settled, WANT, POLICY, NOW + 121) == Renew(None)


@pytest.mark.hazard(1)
def test_a_lost_answer_leaves_the_mark() -> None:
    walk = Walk()
    settled = written(walk.answered(expired(), Lost("reset by peer")))
    assert (settled.state, settled.failure and settled.failure.kind) == ("SPENDING", "lost")
    assert settled.marker is not None
    assert (settled.marker.sent_at, settled.marker.sends) == (NOW, 1)
    walk.then(Written())
    assert problem(walk.then(Released())) == Problem("later", detail="reset by peer", retry_after=1.0)


@pytest.mark.hazard(27)
def test_an_outage_behind_a_gateway_does_not_use_up_the_one_repetition() -> None:
    stored, now = expired(), NOW
    for _ in range(20):
        stored = written(Walk(now=now).answered(stored, Lost("HTTP 502", answered=True)))
        assert stored.failure is not None
        now = stored.failure.not_before + 1
        assert decide(stored, WANT, POLICY, now) == Renew(None)
    stored = written(Walk(now=now).answered(stored, Lost("reset by peer")))
    assert stored.marker is not None
    assert (stored.marker.sends, stored.marker.sent_at) == (1, NOW)


def test_a_gateway_leaves_the_token_in_doubt_where_the_policy_is_careful() -> None:
    stored = written(Walk(policy=LOGIN).answered(expired(), Lost("HTTP 502", answered=True)))
    assert decide(stored, WANT, LOGIN, NOW + 99) == Problem("login", "lost", "HTTP 502")


@pytest.mark.parametrize("reply", [Unsent("x"), Busy("x", None), Misconfigured("x", "x"), Lost("x")])
def test_whatever_fails_a_stale_token_is_served(reply: Reply) -> None:
    walk = Walk()
    walk.answered(stale(), reply)
    walk.then(Written())
    assert walk.then(Released()) == Use(stale().tokens[0])


@pytest.mark.parametrize("reply", [Unsent("x"), Lost("x")])
def test_a_failure_that_cannot_be_written_is_told_all_the_same(reply: Reply) -> None:
    walk = Walk()
    walk.answered(expired(), reply)
    assert walk.then(NotWritten("read-only")) == Release()
    assert problem(walk.then(Released())).kind == "later"


def test_a_new_login_while_a_failure_is_written_is_used() -> None:
    walk = Walk()
    walk.answered(expired(), Lost("x"))
    newer = grant(token("access-9"), epoch=11)
    walk.then(Conflict(newer))
    walk.then(Released())
    assert walk.then(Loaded(newer)) == Use(token("access-9"))


def test_after_a_failure_a_change_that_brings_no_token_tells_of_the_failure() -> None:
    walk = Walk()
    walk.answered(expired(), Lost("reset by peer"))
    walk.then(Conflict(expired(attempt=5)))
    walk.then(Released())
    assert problem(walk.then(Loaded(expired(attempt=5)))) == Problem("later", detail="reset by peer", retry_after=1.0)


@pytest.mark.parametrize(("kind", "longest"), [(Unsent("x"), 60.0), (Misconfigured("x", "x"), 5.0)])
@pytest.mark.hazard(32)
def test_pauses_double_up_to_a_bound(kind: Reply, longest: float) -> None:
    stored, pauses = expired(), []
    for _ in range(9):
        walk = Walk()
        stored = written(walk.answered(replace(failed_until_now(stored)), kind))
        assert stored.failure is not None
        pauses.append(stored.failure.not_before - NOW)
    assert pauses == [min(longest, 2.0**n) for n in range(9)]


def failed_until_now(stored: Grant) -> Grant:
    return replace(stored, failure=stored.failure and replace(stored.failure, not_before=NOW))


@pytest.mark.parametrize(("nonce", "pause"), [("0000", 1.0), ("ffff", 1.25), ("", 1.0)])
@pytest.mark.hazard(32)
def test_pauses_are_spread_by_the_nonce(nonce: str, pause: float) -> None:
    settled = written(Walk(nonce=nonce).answered(expired(), Unsent("x")))
    assert settled.failure is not None
    assert settled.failure.not_before - NOW == pytest.approx(pause)


def test_failures_of_an_older_refresh_token_do_not_count() -> None:
    settled = written(Walk().answered(failed(expired(), of="another"), Unsent("x")))
    assert settled.failure is not None
    assert settled.failure.count == 1


@pytest.mark.parametrize("reply", [Unsent("no route"), Misconfigured("invalid_client", "")])
def test_an_outage_of_a_day_is_a_failure_like_the_first(reply: Reply) -> None:
    stored = failed(expired(), "unsent", until=NOW)
    assert stored.failure is not None
    stored = replace(stored, failure=replace(stored.failure, count=1024))
    settled = written(Walk().answered(stored, reply))
    assert (settled.state, settled.marker) == ("ACTIVE", None)


# ── after a lost answer ──────────────────────────────────────────────────────────────────────────────────


def lost(policy: Policy, stored: Grant | None = None) -> Grant:
    walk = Walk(policy=policy)
    return written(walk.answered(stored or expired(), Lost("reset by peer")))


@pytest.mark.hazard(1)
def test_inside_the_reuse_interval_it_is_sent_again_and_the_answer_saved() -> None:
    walk = Walk(policy=INTERVAL, now=NOW + 5)
    save = written(walk.answered(lost(INTERVAL), answer()))
    assert (save.state, save.marker, save.failure, save.refresh_token) == ("ACTIVE", None, None, "refresh-2")


def test_inside_the_reuse_interval_it_is_sent_three_times_at_most() -> None:
    stored, sends = lost(INTERVAL), 1
    for seconds in (5, 10, 15, 20):
        if isinstance(Walk(policy=INTERVAL, now=NOW + seconds).to_lock(stored), Write):
            walk = Walk(policy=INTERVAL, now=NOW + seconds)
            stored, sends = written(walk.answered(stored, Lost("again"))), sends + 1
    assert sends == 3
    assert problem(Walk(policy=INTERVAL, now=NOW + 25).turned_away(stored)).reason == "lost"


def test_outside_the_reuse_interval_it_is_sent_once_more_and_no_more() -> None:
    again = written(Walk(now=NOW + 99).answered(lost(POLICY), Lost("again")))
    assert problem(Walk(now=NOW + 999).turned_away(again)) == Problem("login", "lost", "again")


@pytest.mark.hazard(10, 12)
def test_a_marker_is_no_verdict_before_the_lock_is_had_for_its_owner_may_be_alive() -> None:
    walk = Walk(policy=LOGIN, now=NOW + 1)
    assert walk.then(Loaded(lost(LOGIN))) == TryLock()
    assert isinstance(walk.then(Locked(held=False)), Wait)


def test_by_the_policy_login_it_is_not_sent_again() -> None:
    assert problem(Walk(policy=LOGIN, now=NOW + 99).turned_away(lost(LOGIN))) == Problem(
        "login", "lost", "reset by peer"
    )


def test_while_an_access_token_lives_nothing_is_risked() -> None:
    stored = lost(POLICY, grant(token(received=NOW - 3310)))
    assert Walk(now=NOW + 2).then(Loaded(stored)) == Use(stored.tokens[0])


def test_a_refused_repetition_ends_the_login() -> None:
    walk = Walk(policy=Policy(refusal_wait=0.0), now=NOW + 99)
    ahead = walk.to_send(lost(POLICY))
    walk.then(Answered(NO, walk.now))
    assert written(walk.then(Loaded(ahead))).state == "DEAD"


@pytest.mark.parametrize("reply", [Unsent("no route"), Busy("HTTP 503", None), Misconfigured("invalid_client", "")])
def test_a_repetition_that_spends_nothing_keeps_the_evidence_of_the_first_send(reply: Reply) -> None:
    settled = written(Walk(policy=INTERVAL, now=NOW + 5).answered(lost(INTERVAL), reply))
    assert settled.marker is not None
    assert (settled.state, settled.marker.sent_at) == ("SPENDING", NOW)


@pytest.mark.hazard(1)
def test_a_token_that_may_be_spent_is_sent_no_oftener_than_the_policy_says() -> None:
    stored, sends = expired(), 0
    for turn in range(12):
        if not isinstance(Walk(now=NOW + 1000 * turn).to_lock(stored), Write):
            break
        walk = Walk(now=NOW + 1000 * turn)
        # What the provider declines is no send: only those count whose fate nobody knows.
        declined = turn % 2
        reply = Busy("HTTP 503", None) if declined else Lost("reset by peer")
        stored, sends = written(walk.answered(stored, reply)), sends + (not declined)
    assert sends == 2


# ── a service's own tokens ───────────────────────────────────────────────────────────────────────────────

SERVICE = Want(KEY, scope=frozenset({"b", "a"}), renewal="client_credentials")


def test_a_services_first_record_is_marked_where_there_is_none() -> None:
    write = Walk(SERVICE).to_lock(None)
    assert isinstance(write, Write)
    assert (write.expected, write.reserve) == (None, True)
    assert (write.grant.order, write.grant.renewal, write.grant.scope) == (
        (int(NOW), 0, 1),
        "client_credentials",
        "a b",
    )


def test_a_services_answer_is_saved_like_any_other() -> None:
    walk = Walk(SERVICE)
    save = written(walk.answered(None, answer(refresh=None)))
    assert (save.order, save.refresh_token, save.tokens[0].scope) == ((int(NOW), 1, 0), None, "a b")


def test_an_id_token_that_a_service_is_sent_is_about_nobody() -> None:
    save = written(Walk(SERVICE).answered(None, answer(refresh=None, claims={**ADA, "sub": "an account of its own"})))
    assert (save.state, save.subject, save.claims) == ("ACTIVE", KEY.client_id, {"sub": KEY.client_id})


def test_a_services_epoch_is_never_zero() -> None:
    assert written(Walk(SERVICE, now=0.0).to_lock(None)).epoch == 1


def test_a_service_asks_again_whatever_was_lost() -> None:
    stored = lost(LOGIN, service(tokens=expired().tokens))
    assert isinstance(Walk(policy=LOGIN, now=NOW + 2).to_lock(stored), Write)


def test_a_refused_service_stays_refused_until_it_logs_in() -> None:
    _, dead = dead_after(service(tokens=expired().tokens))
    want = replace(WANT, renewal="client_credentials")
    assert problem(Walk(want, now=NOW + 1e6).then(Loaded(dead))).reason == "ended"


def test_a_services_first_record_is_newer_than_any_that_this_process_has_seen() -> None:
    want = replace(SERVICE, seen=(int(NOW) + 500, 3, 0))  # the clock was set back, and the record removed
    assert written(Walk(want).answered(None, answer(refresh=None))).order > want.seen


# ── the store cannot be read ─────────────────────────────────────────────────────────────────────────────

GONE = "input/output error"


@pytest.mark.parametrize("memory", [grant(token()), stale(), grant(token(), state="DEAD")])
@pytest.mark.hazard(9)
def test_what_is_known_is_served_where_the_store_cannot_be_read(memory: Grant) -> None:
    assert Walk().then(Unreadable(memory, GONE)) == Use(memory.tokens[0])


@pytest.mark.parametrize("memory", [None, expired(), grant()])
@pytest.mark.hazard(9)
def test_nothing_is_spent_where_the_store_cannot_be_read(memory: Grant | None) -> None:
    assert problem(Walk().then(Unreadable(memory, GONE))) == Problem("store", detail=GONE)


@pytest.mark.parametrize(
    ("memory", "outcome"),
    [(stale(), Use(stale().tokens[0])), (expired(), Raise(Problem("store", detail=GONE)))],
)
def test_the_lock_is_released_where_the_store_cannot_be_read_under_it(memory: Grant, outcome: Action) -> None:
    walk = Walk()
    walk.then(Loaded(memory))
    walk.then(Locked(held=True))
    assert walk.then(Unreadable(memory, GONE)) == Release()
    assert walk.then(Released()) == outcome


def test_no_verdict_is_passed_where_a_refusal_cannot_be_verified() -> None:
    walk = Walk()
    walk.answered(expired(), NO)
    assert walk.then(Unreadable(expired(), GONE)) == Release()
    assert problem(walk.then(Released())) == Problem("store", detail=GONE)


def test_a_live_token_is_served_where_a_refusal_cannot_be_verified() -> None:
    walk = Walk()
    walk.answered(stale(), NO)
    walk.then(Unreadable(stale(), GONE))
    assert walk.then(Released()) == Use(stale().tokens[0])


@pytest.mark.parametrize("stored", [expired(), grant()], ids=["ours is expired", "we have none"])
def test_the_token_that_was_found_good_is_the_one_that_is_served(stored: Grant) -> None:
    walk = Walk()
    walk.answered(stored, NO)
    walk.then(Unreadable(grant(token("access-2"), generation=1), GONE))  # another thread has read a newer record
    assert walk.then(Released()) == Use(token("access-2"))


def test_a_dropped_answer_is_not_served_where_the_store_cannot_be_read_any_more() -> None:
    walk = Walk()
    walk.answered(expired(), answer("dropped"))
    walk.then(Conflict(grant(token("access-9"), epoch=11)))
    walk.then(Released())
    assert walk.then(Unreadable(grant(token("access-9"), epoch=11), GONE)) == Use(token("access-9"))


@pytest.mark.parametrize(("stored", "outcome"), [(stale(), Use), (expired(), Raise)])
def test_a_lock_that_cannot_be_tried_for_want_of_a_store_spends_nothing(stored: Grant, outcome: type) -> None:
    walk = Walk()
    walk.then(Loaded(stored))
    action = walk.then(Unreadable(stored, GONE))
    while isinstance(action, Release):
        action = walk.then(Released())
    assert isinstance(action, outcome)


def test_an_event_that_cannot_follow_is_a_mistake_in_the_loop() -> None:
    with pytest.raises(AssertionError, match="Released cannot follow phase look"):
        Walk().then(Released())


# ── log-in and log-out ───────────────────────────────────────────────────────────────────────────────────

ANSWER = TokenAnswer(Secret("access-1"), expires_in=60.0, refresh_token=Secret("refresh-1"), scope="a c")


def signed_in(given: TokenAnswer = ANSWER, previous: Grant | None = None, **more: Any) -> Grant:
    members: dict[str, Any] = {"asked_at": NOW, "scope": frozenset({"b", "a"}), **more}
    return grant_of_login(KEY, given, previous, **members)


def test_a_login_makes_an_active_record_in_an_epoch_of_its_time() -> None:
    made = signed_in(subject="ada", claims={"sub": "ada"}, resources=("https://api",))
    assert (made.order, made.state, made.renewal) == ((int(NOW), 0, 0), "ACTIVE", "refresh_token")
    assert (made.refresh_token, made.subject, made.claims) == ("refresh-1", "ada", {"sub": "ada"})
    assert made.tokens == (token(life=60.0, scope="a c", resource="https://api"),)


def test_a_login_covers_what_was_asked_for_and_what_was_given() -> None:
    assert signed_in().scope == "a b c"


def test_a_token_without_scope_has_the_one_that_was_asked_for() -> None:
    assert signed_in(replace(ANSWER, scope="")).tokens[0].scope == "a b"


@pytest.mark.parametrize(
    ("before", "epoch"), [(5, int(NOW)), (int(NOW), int(NOW) + 1), (int(NOW) + 99, int(NOW) + 100)]
)
def test_the_epoch_rises_with_each_login_whatever_the_clock_says(before: int, epoch: int) -> None:
    assert signed_in(previous=grant(epoch=before)).epoch == epoch


@pytest.mark.hazard(28)
def test_a_login_clears_verdict_and_mark() -> None:
    made = signed_in(previous=failed(marked(expired()), "refused"))
    assert (made.failure, made.marker) == (None, None)


@pytest.mark.parametrize(
    ("given", "renewal", "kept"),
    [
        (ANSWER, "refresh_token", "refresh_token"),
        (replace(ANSWER, refresh_token=None), "refresh_token", "none"),
        (replace(ANSWER, refresh_token=None), "client_credentials", "client_credentials"),
    ],
)
def test_a_login_renews_itself_by_what_it_was_given(given: TokenAnswer, renewal: str, kept: str) -> None:
    assert signed_in(given, renewal=renewal).renewal == kept


def test_a_login_by_a_refresh_token_alone_has_no_access_token_yet() -> None:
    made = signed_in(replace(ANSWER, access_token=Secret("")))
    assert made.tokens == ()
    assert isinstance(Walk().to_lock(made), Write)


def test_the_end_of_the_refresh_token_is_stored_at_login() -> None:
    assert signed_in(replace(ANSWER, refresh_expires_in=1800.0)).refresh_expires_at == NOW + 1800


@pytest.mark.parametrize(("previous", "epoch"), [(None, int(NOW)), (grant(epoch=int(NOW) + 5), int(NOW) + 6)])
def test_a_log_out_leaves_a_tombstone_in_a_new_epoch(previous: Grant | None, epoch: int) -> None:
    out = grant_of_logout(KEY, previous, NOW)
    assert (out.state, out.order, out.refresh_token, out.tokens) == ("LOGGED_OUT", (epoch, 0, 0), None, ())


def test_a_tombstone_tells_whose_it_is() -> None:
    out = grant_of_logout(KEY, grant(subject="ada", scope="a b", renewal="none"), NOW)
    assert (out.subject, out.scope, out.renewal) == ("ada", "a b", "none")
