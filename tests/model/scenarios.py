"""What is explored: small worlds, each with a few of the accidents, which together cover all of them."""

from __future__ import annotations

from dataclasses import replace

from world import (
    AGAIN,
    CRASH,
    DECLINED,
    ENDED,
    LOGIN,
    LOGOUT,
    LOST,
    NOT_WRITTEN,
    OTHER_PERSON,
    REMOVED,
    RESTORED,
    ROGUE,
    RUN_OUT,
    UNREADABLE,
    Behaviour,
    Scenario,
)

from loginonce.refresh import Policy
from loginonce.wire import Busy, Lost, Misconfigured, Unsent

PROVIDERS = {
    "a strict provider": Behaviour(),
    "a provider that only refuses a replay": Behaviour(kills_family=False),
    "a grace with the same successor": Behaviour(grace="same", interval=10),
    "a grace with siblings": Behaviour(grace="sibling", interval=10),
    "a grace by count": Behaviour(grace="count"),
    "no rotation": Behaviour(rotates=False),
}

RETRY = Policy()
LOGIN_AGAIN = Policy(lost="login")
STALE = (-100.0, 0.0, 5.0, 15.0)
"""Seconds from the end of the first token: STALE, EXPIRED, beyond a pause or a verification, beyond a grace."""

SHORT = (0.0, 5.0)

LEASE = (0.0, 6.0, 31.0, 66.0)
"""Later than a send may begin, later than its end is waited for by others, and the same once more."""


def policy_for(provider: Behaviour, policy: Policy) -> Policy:
    """The policy of somebody who has told us the provider's reuse interval."""
    return replace(policy, reuse_interval=provider.interval)


def _crash_and_loss() -> list[Scenario]:
    return [
        Scenario(
            f"{name}, policy {policy.lost}",
            provider=provider,
            policy=policy_for(provider, policy),
            accidents=((CRASH, 1), (LOST, 1)),
        )
        for name, provider in PROVIDERS.items()
        for policy in (RETRY, LOGIN_AGAIN)
    ]


SIBLINGS = PROVIDERS["a grace with siblings"]
DECLINES = (Unsent("no route"), Busy("429", 3.0), Busy("503", None), Misconfigured("invalid_client", ""))
GATEWAY = (Lost("502", answered=True),)

SCENARIOS = [
    Scenario("an API refuses", times=(-1800.0, -1795.0, 0.0), rejecting=True, accidents=((LOST, 1),)),
    Scenario("a service", service=True, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("three processes and a crash", processes=3, times=SHORT, accidents=((CRASH, 1),)),
    Scenario("three processes and a loss", processes=3, times=SHORT, accidents=((LOST, 1),)),
    Scenario("nothing goes wrong", times=STALE),
    Scenario("nothing goes wrong, policy login", policy=LOGIN_AGAIN, times=STALE),
    Scenario("nothing goes wrong, three processes", processes=3, times=STALE),
    *_crash_and_loss(),
    Scenario("a token near its end", times=STALE, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("a token near its end, policy login", times=STALE, policy=LOGIN_AGAIN, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("two resources", resources=("", "x"), times=SHORT, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("the provider declines", declines=DECLINES, accidents=((CRASH, 1), (DECLINED, 1))),
    Scenario("a gateway answers", times=(*SHORT, 15.0), declines=GATEWAY, accidents=((DECLINED, 3), (AGAIN, 2))),
    Scenario(
        "a gateway answers, and a loss", times=SHORT, declines=GATEWAY, accidents=((DECLINED, 2), (LOST, 1), (AGAIN, 2))
    ),
    Scenario(
        "the provider declines after a loss, and the interval ends",
        provider=SIBLINGS,
        policy=policy_for(SIBLINGS, LOGIN_AGAIN),
        accidents=((LOST, 1), (DECLINED, 1), (AGAIN, 1)),
    ),
    Scenario(
        "short-lived tokens", provider=Behaviour(life=8.0), times=(0.0, 5.0, 15.0), accidents=((CRASH, 1), (AGAIN, 1))
    ),
    Scenario("log-in and log-out elsewhere", times=SHORT, accidents=((LOGIN, 1), (LOGOUT, 1), (CRASH, 1))),
    Scenario("log-ins elsewhere", accidents=((LOGIN, 2), (LOST, 1)), times=SHORT),
    Scenario("the session is ended", times=SHORT, accidents=((ENDED, 1), (LOGIN, 1), (LOST, 1))),
    Scenario("a lockless program", accidents=((ROGUE, 1), (CRASH, 1))),
    Scenario(
        "a lockless program, siblings",
        provider=SIBLINGS,
        policy=policy_for(SIBLINGS, RETRY),
        times=SHORT,
        accidents=((ROGUE, 1), (LOST, 1), (LOGIN, 1)),
    ),
    Scenario("a lockless program, no rotation", provider=PROVIDERS["no rotation"], accidents=((ROGUE, 1), (LOST, 1))),
    Scenario("writes fail", unsure_writes=True, accidents=((NOT_WRITTEN, 2), (CRASH, 1))),
    Scenario("writes fail, and the provider declines", accidents=((NOT_WRITTEN, 2), (DECLINED, 1), (LOST, 1))),
    Scenario("a write fails at log-in or log-out", times=SHORT, accidents=((NOT_WRITTEN, 1), (LOGIN, 1), (LOGOUT, 1))),
    Scenario("the store cannot be read", times=STALE, accidents=((UNREADABLE, 1), (LOST, 1), (LOGIN, 1))),
    Scenario("the store cannot be read after a refusal", times=STALE[:3], accidents=((UNREADABLE, 1), (ENDED, 1))),
    Scenario("the store cannot be read after a log-out", times=STALE[:2], accidents=((UNREADABLE, 1), (LOGOUT, 1))),
    Scenario("an older copy is put back", times=SHORT, accidents=((RESTORED, 1), (CRASH, 1), (AGAIN, 1))),
    Scenario("an older copy is put back while a write fails", times=SHORT, accidents=((RESTORED, 1), (NOT_WRITTEN, 1))),
    Scenario("the record is removed", times=SHORT, accidents=((REMOVED, 1), (NOT_WRITTEN, 1), (LOGIN, 1))),
    Scenario("the answer is somebody else's", times=SHORT, accidents=((OTHER_PERSON, 1), (LOGIN, 1), (NOT_WRITTEN, 1))),
    Scenario("a lease", lease=True, times=LEASE[::2], accidents=((CRASH, 1), (LOST, 1))),
    Scenario("a lease that runs out", lease=True, times=LEASE[:3], accidents=((RUN_OUT, 1),)),
    Scenario(
        "a lease that runs out, policy login",
        lease=True,
        policy=LOGIN_AGAIN,
        times=LEASE[::2],
        accidents=((RUN_OUT, 1), (LOST, 1)),
    ),
    Scenario(
        "a lease that runs out, siblings",
        lease=True,
        provider=SIBLINGS,
        policy=policy_for(SIBLINGS, RETRY),
        times=LEASE[::2],
        accidents=((RUN_OUT, 1), (LOST, 1)),
    ),
    Scenario(
        "a lease runs out near the end of a token", lease=True, times=(-100.0, 0.0, 31.0), accidents=((RUN_OUT, 2),)
    ),
    Scenario(
        "a lease, log-in and log-out", lease=True, times=LEASE[::2], accidents=((RUN_OUT, 1), (LOGIN, 1), (LOGOUT, 1))
    ),
    Scenario("three processes and a log-in", processes=3, times=SHORT, accidents=((LOGIN, 1),)),
    Scenario("three processes and a lockless program", processes=3, times=SHORT, accidents=((ROGUE, 1),)),
]

LARGE = [
    Scenario("three processes and a crash, at length", processes=3, accidents=((CRASH, 1),)),
    Scenario(
        "an API refuses, at length",
        times=(-1800.0, -1795.0, -60.0, 0.0),
        rejecting=True,
        accidents=((CRASH, 1), (LOST, 1)),
    ),
    Scenario("a service, declined", service=True, accidents=((CRASH, 1), (LOST, 1), (DECLINED, 1))),
    Scenario("three processes and a loss, at length", processes=3, times=(0.0, 5.0, 15.0), accidents=((LOST, 1),)),
    Scenario("two crashes, two losses", accidents=((CRASH, 2), (LOST, 2))),
    Scenario(
        "two crashes, two losses, siblings",
        provider=SIBLINGS,
        policy=policy_for(SIBLINGS, RETRY),
        accidents=((CRASH, 2), (LOST, 2)),
    ),
    Scenario("processes with names", symmetric=False, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("declined after two losses", accidents=((LOST, 2), (DECLINED, 1), (AGAIN, 2))),
    Scenario(
        "short-lived tokens, again and again",
        provider=Behaviour(life=8.0),
        times=(0.0, 5.0, 15.0),
        accidents=((CRASH, 1), (LOST, 1), (AGAIN, 1)),
    ),
    Scenario(
        "three processes, a crash and a loss", processes=3, times=(0.0, 5.0, 15.0), accidents=((CRASH, 1), (LOST, 1))
    ),
    Scenario("three processes, log-in and log-out", processes=3, times=SHORT, accidents=((LOGIN, 1), (LOGOUT, 1))),
    Scenario("everybody else at once", times=SHORT, accidents=((LOGIN, 1), (LOGOUT, 1), (ENDED, 1), (ROGUE, 1))),
    Scenario("the store fails in every way", times=STALE[:3], accidents=((NOT_WRITTEN, 2), (UNREADABLE, 2), (LOST, 1))),
    Scenario(
        "the store fails while others write",
        times=STALE[:3],
        accidents=((NOT_WRITTEN, 1), (UNREADABLE, 1), (LOGIN, 1), (LOGOUT, 1)),
    ),
    Scenario(
        "near its end, with everything a network can do", times=STALE, accidents=((CRASH, 1), (LOST, 1), (DECLINED, 2))
    ),
    Scenario(
        "log-in, log-out, a crash and a loss", accidents=((LOGIN, 1), (LOGOUT, 1), (CRASH, 1), (LOST, 1)), times=SHORT
    ),
    Scenario(
        "a lockless program, a crash, a loss and a log-in",
        accidents=((ROGUE, 1), (CRASH, 1), (LOST, 1), (LOGIN, 1)),
        times=SHORT,
    ),
    Scenario("two lockless programs", times=(0.0, 5.0, 15.0), accidents=((ROGUE, 2), (CRASH, 1), (LOST, 1))),
    Scenario(
        "failed writes, crashes and losses", unsure_writes=True, accidents=((NOT_WRITTEN, 2), (CRASH, 1), (LOST, 1))
    ),
    Scenario(
        "three processes, a crash and a loss, siblings",
        processes=3,
        provider=SIBLINGS,
        policy=policy_for(SIBLINGS, RETRY),
        accidents=((CRASH, 1), (LOST, 1)),
    ),
    Scenario("three processes near the end of a token", processes=3, times=STALE, accidents=((CRASH, 1), (LOST, 1))),
    Scenario("three processes, a log-in and a crash", processes=3, times=SHORT, accidents=((LOGIN, 1), (CRASH, 1))),
    Scenario("a lease and a crash, at length", lease=True, times=LEASE, accidents=((RUN_OUT, 1), (CRASH, 1))),
    Scenario("a lease and a loss, at length", lease=True, times=LEASE, accidents=((RUN_OUT, 1), (LOST, 1))),
    Scenario(
        "two leases run out, a crash and a loss",
        lease=True,
        times=LEASE,
        accidents=((RUN_OUT, 2), (CRASH, 1), (LOST, 1)),
    ),
    Scenario(
        "three processes and a lease that runs out",
        processes=3,
        lease=True,
        times=LEASE[::2],
        accidents=((RUN_OUT, 1), (CRASH, 1)),
    ),
    Scenario("three processes and failing writes", processes=3, times=SHORT, accidents=((NOT_WRITTEN, 1), (CRASH, 1))),
]
