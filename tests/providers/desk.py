"""Somebody at a screen where prompts appear, and what tests of sessions say again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import loginonce
from loginonce.login.flow import Progress, Prompt


class AtTheScreen:
    """Shows prompts to somebody, who acts on each in a thread."""

    def __init__(self) -> None:
        self.act: Callable[[Prompt], object] = lambda _: None
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def show(self, progress: Progress) -> None:
        if progress.state == "pending":
            self._threads.append(threading.Thread(target=self._do, args=(progress.prompt,)))
            self._threads[-1].start()

    def _do(self, prompt: Prompt) -> None:
        try:
            self.act(prompt)
        except BaseException as error:
            self._errors.append(error)

    def leave(self) -> None:
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error


def ends_at(session: loginonce.Session) -> float:
    account = session.account
    assert account is not None
    assert account.expires_at is not None
    return account.expires_at


def received_at(session: loginonce.Session) -> float:
    """When the newest of its access tokens came."""
    grant = session.source.grant()
    assert grant is not None
    return max(token.received_at for token in grant.tokens)


def let_pass(until: float) -> None:
    time.sleep(max(0.0, until - time.time()))


def statuses(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer.get("status", answer) for answer in answers]
