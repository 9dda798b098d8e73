"""One trial: a process of the real library is killed or interrupted at one point of one way, and others go on.

The provider is behind `Stage`, so that the same trial is held before the fake one and before a real one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from crowd import Crowd, Member
from points import Meeting
from ways import Column, Facts, Verdict, Way

KILLS = (signal.SIGKILL, signal.SIGTERM)


class Sent(NamedTuple):
    """What the token end point has seen of refreshes since the sign-in."""

    requests: int
    replays: int


class Stage(Protocol):
    """A provider with a person who is signed in, as a trial needs it."""

    url: str  # of a protected resource

    def sign_in(self) -> None:
        """Somebody signs in anew, in this process; the counts begin again."""

    def expire(self) -> None:
        """The access token has ended."""

    def prepare(self, way: Way, column: Column, holder: Callable[[], None]) -> None:
        """Have the next refresh go this way; `holder` makes another process begin one."""

    def meanwhile(self, way: Way) -> None:
        """What happens while the process is on its way."""

    def rotated(self) -> None:
        """Wait until the provider has exchanged the refresh token."""

    def sent(self) -> Sent:
        """What the token end point has seen."""


def begin(stage: Stage, crowd: Crowd, way: Way, column: Column, point: str, meeting: Meeting) -> list[Member]:
    """Three members, of which the first goes this way and stops at this point (at none: is through with it)."""
    victim, waiting, later = crowd.fork(3)
    stage.sign_in()
    stage.expire()
    victim.ask("arm", point=point, place=meeting.place, fill_disk=way.name == "disk full")
    stage.prepare(way, column, lambda: waiting.tell("call", url=stage.url))
    victim.tell("call", url=stage.url)
    stage.meanwhile(way)
    return [victim, waiting, later]


def trial(stage: Stage, crowd: Crowd, way: Way, point: str, sign: signal.Signals, column: Column) -> None:
    """Nobody needs to help: the others meet what the facts at the point say, and one new login is enough."""
    with Meeting() as meeting:
        victim, waiting, later = begin(stage, crowd, way, column, point, meeting)
        assert meeting.reached() == point
        if point == "send.Send:sent":
            stage.rotated()
        if way.name != "waited":  # where it is the one that is waited for
            waiting.tell("call", url=stage.url)
        victim.send(sign)
        facts: Facts
        if sign in KILLS:
            assert victim.ended(5)
            alive, facts = [later], way.at(point)
        else:
            assert victim.hear().get("error") == "KeyboardInterrupt"  # while its refresh still stands at the point
            meeting.let_go()
            if way.name == "disk full":
                victim.ask("disk_full", full=False)
            alive, facts = [later, victim], way.at_the_end()
        verdict = facts.verdict(column)
        told = [patiently(waiting, stage.url, waiting.hear())]
        told += [patiently(member, stage.url, member.ask("call", url=stage.url)) for member in alive]
        told += [waiting.ask("call", url=stage.url)]
        assert_verdict(verdict, told, stage.sent())
        if verdict.reason is not None:
            stage.sign_in()
            alive = [waiting, *alive]
            assert [member.ask("call", url=stage.url).get("status") for member in alive] == [200] * len(alive)
            assert stage.sent() == Sent(0, 0)


def assert_verdict(verdict: Verdict, told: list[dict[str, Any]], sent: Sent) -> None:
    """All were told the same, and the provider saw no more than that takes."""
    wanted = {"status": 200} if verdict.reason is None else {"error": "LoginRequired", "reason": verdict.reason}
    assert [{name: answer.get(name) for name in wanted} for answer in told] == [wanted] * len(told), told
    assert sent == Sent(verdict.requests, verdict.replays)


def patiently(member: Member, url: str, answer: dict[str, Any]) -> dict[str, Any]:
    """What it is told in the end, where it was told to try again later; its clock is set forwards instead."""
    if answer.get("error") == "TransportError" and answer.get("retry_after"):
        assert answer["retry_after"] <= 1.25
        member.ask("shift_clock", seconds=answer["retry_after"] + 0.1)
        return member.ask("call", url=url)
    return answer
