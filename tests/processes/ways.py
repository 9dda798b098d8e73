"""The ways through a refresh, point by point, and what a process leaves behind that ends at one of them.

`WAYS` is the table of the kills: each way names every point on it (`points`), and at which of them the stored record
or the provider's view of the refresh token changes.  What the next caller meets follows from that alone, by
`Facts.verdict`; no expectation is written down for a single point.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

REUSE = 30.0  # seconds


class Column(NamedTuple):
    """A provider and the policy that goes with it."""

    name: str
    forgives: bool  # a spent refresh token within REUSE
    policy: dict[str, Any]


_QUICK = {"refusal_wait": 0.05, "wait_timeout": 15.0}
STRICT = Column("strict", forgives=False, policy=_QUICK)
CAUTIOUS = Column("cautious", forgives=False, policy={**_QUICK, "lost": "login"})
FORGIVING = Column("forgiving", forgives=True, policy={**_QUICK, "reuse_interval": REUSE})
COLUMNS = (STRICT, CAUTIOUS, FORGIVING)


class Verdict(NamedTuple):
    """What the next callers get together: a token, or `reason` for a new login; and what the provider saw in all."""

    reason: str | None
    requests: int
    replays: int


@dataclass(frozen=True)
class Facts:
    """What is true at a point.  `requests`: token requests that have reached the provider.

    `record`: what is stored, SAVED being the new tokens.  `token`: the refresh token in it, to the provider.
    """

    record: Literal["ACTIVE", "SPENDING", "SAVED", "DEAD", "LOGGED_OUT"] = "ACTIVE"
    token: Literal["unspent", "spent", "ended"] = "unspent"
    requests: int = 0

    def verdict(self, column: Column) -> Verdict:
        """A marker means that the token may be spent."""
        match self.record:
            case "SAVED":
                return Verdict(None, self.requests, 0)
            case "DEAD":
                return Verdict("ended", self.requests, 0)
            case "LOGGED_OUT":
                return Verdict("logged_out", self.requests, 0)
            case "SPENDING" if column.policy.get("lost") == "login":
                return Verdict("lost", self.requests, 0)
        sent = self.requests + 1
        if self.token == "ended":
            return Verdict("ended", sent, 0)
        if self.token == "spent" and not column.forgives:
            return Verdict("ended", sent, 1)
        return Verdict(None, sent, 0)


@dataclass(frozen=True)
class Way:
    """`points`, all of them in their order; `own`, those that no way before it has; where `Facts` change."""

    name: str
    points: tuple[str, ...]
    own: tuple[str, ...]
    changes: dict[str, dict[str, Any]] = field(repr=False)
    at_last: dict[str, Any] = field(default_factory=dict)  # what the process changes after its last point, if it lives

    def __str__(self) -> str:
        return self.name

    def at(self, point: str) -> Facts:
        """What a process leaves that ends at this point."""
        facts = Facts()
        for passed in self.points[: self.points.index(point) + 1]:
            facts = replace(facts, **self.changes.get(passed, {}))
        return facts

    def at_the_end(self) -> Facts:
        """What it leaves that goes all the way."""
        return replace(self.at(self.points[-1]), **self.at_last)


def _points(*steps: str) -> tuple[str, ...]:
    """`look.Load` → its points; the moments between `before` and `after` stand behind the step."""
    points: list[str] = []
    for step in steps:
        name, *between = step.split()
        ends = ("before",) if name.startswith("done.") else ("before", *between, "after")
        points += [f"{name}:{moment}" for moment in ends]
    return tuple(points)


class Moments(NamedTuple):
    """How far a step of a store can have come, between its `before` and its `after` (see `points`).

    `conflict`: a write that finds another record there.  `done`: when a write is there for the others.  `full`: a write
    while this machine takes no more bytes; None where that is no matter of this machine.  `taken`: whether a lock is
    seen to be another's without trying it.
    """

    lock: str = ""
    mark: str = ""
    write: str = ""
    conflict: str = ""
    release: str = ""
    done: str = ""
    full: str | None = None
    taken: bool = False


IN_FILES = Moments(
    lock="flocked",
    taken=True,
    mark="flocked reserved written renamed",
    write="flocked written renamed",
    conflict="flocked",
    done="renamed",
    full="flocked",
)


def ways(seen: Moments) -> tuple[Way, ...]:
    """The table, for a store of which this can be seen."""
    sent = (
        *_points("look.Load", f"lock.TryLock {seen.lock} prepared", "recheck.Load", f"mark.Write {seen.mark}"),
        *("send.Send:before", "send.Send:prepared", "send.Send:connected", "send.Send:sent"),
    )
    answered = (*sent, "send.Send:answered", "send.Send:after")
    released = _points(f"release.Release {seen.release}")
    settled = (*_points(f"settle.Write {seen.write}"), *released)
    done_settling = f"settle.Write:{seen.done}"
    marked = {f"mark.Write:{seen.done}": {"record": "SPENDING"}}
    spent = {**marked, "send.Send:sent": {"token": "spent", "requests": 1}}
    renewed = _way(
        "renewed",
        (),
        (*answered, *_points(f"save.Write {seen.write}"), *released, *_points("done.Use")),
        {**spent, f"save.Write:{seen.done}": {"record": "SAVED"}},
    )
    refused = _way(
        "refused",
        answered,
        (*_points("verify.Load", "verify.Wait"), *settled, *_points("done.Raise")),
        {**marked, "send.Send:sent": {"token": "ended", "requests": 1}, done_settling: {"record": "DEAD"}},
    )
    busy = _way(
        "busy",
        answered,
        (*settled, *_points("done.Raise")),
        {**marked, "send.Send:sent": {"requests": 1}, done_settling: {"record": "ACTIVE"}},
    )
    lost = _way("lost", sent, ("send.Send:after", *settled, *_points("done.Raise")), spent)
    logged_out = _way(
        "logged out",
        answered,
        (
            *_points(f"save.Write {seen.conflict}"),
            *released,
            *_points("revoke.Revoke connected sent answered", "done.Raise"),
        ),
        {**spent, "send.Send:answered": {"record": "LOGGED_OUT"}},
    )
    waited = _way(
        "waited",
        _points("look.Load"),
        _points(*(() if seen.taken else ("lock.TryLock",)), "wait.Wait", "done.Use"),
        {"look.Load:before": {"record": "SAVED", "requests": 1}},  # by whom it waits for
    )
    if seen.full is None:
        return renewed, refused, busy, lost, logged_out, waited
    disk_full = _way(
        "disk full",
        answered,
        _points(f"save.Write {seen.full}", "save.Rescue", "done.Use"),
        spent,
        record="SAVED",  # once there is room again
    )
    return renewed, refused, busy, lost, logged_out, disk_full, waited


def _way(name: str, common: tuple[str, ...], own: tuple[str, ...], changes: dict[str, Any], **at_last: Any) -> Way:
    return Way(name, common + own, own, changes, at_last)


WAYS = RENEWED, REFUSED, BUSY, LOST, LOGGED_OUT, DISK_FULL, WAITED = ways(IN_FILES)
