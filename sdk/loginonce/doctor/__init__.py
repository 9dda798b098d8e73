"""What is wrong with a login, and what to do: the judgement behind `loginonce doctor`.

It asks nobody, spends nothing and changes no login.  It is bounded: what touches the disk and what touches the
network run beside each other in threads of their own, and what has not come back in time is reported as that.  It
goes on where things are broken, since that is when it is called.

`place` looks at the store, its disk and its lock (`contest`), `provider` at the network, `login` at the settings
and the record.  Each gives `Finding`s; what follows from all of them is the `Diagnosis`.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

from ..config import profiles
from ..errors import CorruptStore, LoginonceError, StoreError, TransportError
from ..home import config_file
from ..model import AuthorizationServer, Grant
from ..session import Session
from ..standing import Standing
from ..stores.opening import open_store
from .finding import Finding, Level, found, trouble, wrong
from .login import check_login, check_record, check_renewal, check_settings, check_sign_in, standing
from .place import check_place
from .provider import Heard, ask, check_clock, check_network, check_provider, known_server

__all__ = ["Diagnosis", "Finding", "Level", "examine"]

T = TypeVar("T")

Outcome: TypeAlias = Literal["well", "wrong", "unreachable", "login_required"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, the most telling first, and what follows from them.

    `outcome`: the first thing that has to be done about it: mend what is `wrong`, get through to the provider,
    sign in.  `verdict` says so in a sentence.
    """

    profile: str | None
    findings: tuple[Finding, ...]
    outcome: Outcome
    verdict: str

    def json(self) -> dict[str, Any]:
        """The object for programs."""
        return {
            "profile": self.profile,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "checks": [asdict(finding) for finding in self.findings],
        }


def examine(profile: str | None = None, *, offline: bool = False, seconds: float = 10.0) -> Diagnosis:
    """Look at the login of that profile (or issuer, or what the environment means), and at this machine.

    `offline`: the provider is not asked.  `seconds`: how long the provider, and the store, may take to answer.
    Never raises for what is broken.
    """
    logger = logging.getLogger("loginonce")
    disabled, logger.disabled = logger.disabled, True  # what there is to say is said here
    try:
        return _examine(profile, offline=offline, seconds=seconds)
    finally:
        logger.disabled = disabled


def _examine(profile: str | None, *, offline: bool, seconds: float) -> Diagnosis:
    until = time.monotonic() + seconds
    try:
        session, which = _Errand(lambda: _session(profile)).result(until, _late)
    except (LoginonceError, OSError) as error:
        finding = trouble("settings", error)
        session, which = None, [replace(finding, advice=finding.advice or f"See to it in {config_file()}")]
    of_place = _Errand(lambda: _place(session, seconds))
    if session is None:
        findings = [
            *which,
            *_in_time(of_place, until),
            *_guarded("clock", lambda: check_clock(None, None, time.time())),
        ]
        return _diagnosis(profile, [*findings, *_guarded("program", _program)], None)
    of_record = _Errand(lambda: _grant(session))
    of_provider = None if offline else _Errand(lambda: ask(session.settings, seconds))
    heard = _heard(of_provider, until)
    return _of_login(session, heard, of_record, _in_time(of_place, until), until)


def _of_login(
    session: Session, heard: Heard | None, of_record: _Errand[Grant | None], of_place: list[Finding], until: float
) -> Diagnosis:
    made, now = session.settings, time.time()
    grant: Grant | None = None
    stands: Standing | None = None
    findings = list(_guarded("settings", lambda: check_settings(made)))
    try:
        grant = of_record.result(until, _late)
        stands = standing(session, grant, now)
    except (LoginonceError, OSError) as error:
        findings.append(_unreadable(error, of_place, made.command))
    else:
        findings += _guarded("login", lambda: check_login(session, stands, grant, now))
        findings += _guarded("record", lambda: check_record(grant, now))
    kept: AuthorizationServer | None = _Errand(lambda: known_server(made)).result(until, lambda: None)
    needed = stands is not None and stands.state == "login_required"
    server = (heard.server if heard else None) or kept
    findings += _guarded("renewal", lambda: check_renewal(made, grant))
    findings += _guarded("sign-in", lambda: check_sign_in(made, server, needed=needed))
    findings += of_place
    findings += _guarded("network", lambda: check_network(made, heard))
    if heard is None or heard.reached:
        findings += _guarded("provider", lambda: check_provider(made, heard, kept))
    findings += _guarded("clock", lambda: check_clock(heard, grant, now))
    findings += _guarded("program", _program)
    return _diagnosis(made.profile or None, findings, stands, command=made.command)


def _guarded(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    """The finding of a check; where a check itself goes wrong, the others go on."""
    try:
        yield check()
    except (LoginonceError, OSError) as error:
        yield trouble(name, error)
    except Exception as error:
        # Its message is not shown: nobody has judged what is in it.
        yield found(name, f"could not be checked: an unforeseen {type(error).__name__}", level="unknown")


def _session(profile: str | None) -> tuple[Session | None, list[Finding]]:
    """The login that is meant, or why it is none.  Raises `LoginonceError`."""
    if profile or os.environ.get("LOGINONCE_PROFILE") or os.environ.get("LOGINONCE_ISSUER"):
        return Session(profile), []
    names = sorted(profiles())
    if len(names) == 1:
        return Session(names[0]), []
    if names:
        text = f"several logins could be meant: {', '.join(names)}"
        return None, [found("settings", text, level="unknown", advice=f"Name one: loginonce doctor {names[0]}")]
    advice = "Make one: loginonce login NAME --issuer ADDRESS --client-id ID"
    return None, [found("settings", "there is no profile yet", level="unknown", advice=advice)]


def _place(session: Session | None, seconds: float) -> list[Finding]:
    try:
        if session is not None:
            return check_place(session.source.store, session.settings.store, session.source.key, seconds)
        address = os.environ.get("LOGINONCE_STORE", "").strip()
        return check_place(open_store(address), address, None, seconds)
    except (LoginonceError, OSError) as error:
        return [trouble("store", error)]


def _grant(session: Session) -> Grant | None:
    return session.source.store.peek(session.source.key).grant


def _late() -> NoReturn:
    raise StoreError("the disk does not answer; see whether its server is there")


def _in_time(of_place: _Errand[list[Finding]], until: float) -> list[Finding]:
    advice = "See whether its server is there, or set LOGINONCE_HOME to a folder on a local disk"
    late = [wrong("store", "the disk does not answer", advice)]
    return of_place.result(until, lambda: late)


def _heard(of_provider: _Errand[Heard] | None, until: float) -> Heard | None:
    if of_provider is None:
        return None
    late = TransportError("no answer: its name could not be looked up in time")
    return of_provider.result(until, lambda: Heard(error=late))


def _unreadable(error: Exception, of_place: list[Finding], command: str) -> Finding:
    if isinstance(error, CorruptStore):
        advice = f"Run: {command} (the file is set aside then, not deleted)"
        return wrong("record", f"the saved login is damaged: {error}", advice)
    if any(finding.name in ("store", "access") and finding.level == "wrong" for finding in of_place):
        return found("record", "it cannot be read, for what is wrong with its place", level="unknown")
    return trouble("record", error)


def _program() -> Finding:
    parts = [f"{name} {_version(name)}" for name in ("loginonce", "requests", "authlib", "filelock")]
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return found("program", f"{', '.join(parts)}, {where}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _diagnosis(
    profile: str | None, findings: list[Finding], stands: Standing | None, *, command: str = ""
) -> Diagnosis:
    wrong = [finding.name for finding in findings if finding.level == "wrong"]
    look = [finding.name for finding in findings if finding.level == "attention"]
    state = stands.state if stands else None
    outcome: Outcome = "well"
    blind = any(finding.level == "unknown" for finding in findings)
    verdict = (
        f"All is well{', as far as it could be checked' if blind else ''}."
        if stands
        else "This machine is fit for logins; name one to have it looked at."
    )
    if look:
        verdict = f"It works; worth a look: {', '.join(look)}."
    if mend := [name for name in wrong if name not in ("login", "network")]:
        outcome = "wrong"
        verdict = f"{_several(len(mend))} wrong: {', '.join(mend)}.  Follow the arrow, then run this again."
    elif "network" in wrong:
        then = "when it can be, a person has to sign in" if state == "login_required" else "what is saved here is kept"
        outcome, verdict = "unreachable", f"The provider cannot be reached; {then}."
    elif state == "retry_later":
        outcome, verdict = "unreachable", "The provider asks to wait; the login is kept, and tried again by itself."
    elif state == "login_required":
        outcome, verdict = "login_required", f"A person has to sign in.  Run: {command}"
    return Diagnosis(profile, tuple(findings), outcome, verdict)


def _several(count: int) -> str:
    return "One thing is" if count == 1 else f"{count} things are"


class _Errand(Generic[T]):
    """Something that is done in a thread, which nobody waits for longer than is good."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._outcome: list[T | BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(work,), name="loginonce-doctor", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._outcome.append(work())
        except BaseException as error:
            self._outcome.append(error)

    def result(self, until: float, late: Callable[[], T]) -> T:
        """What came of it, or what is to be said where nothing came in time.  Raises what it raised."""
        self._thread.join(max(0.0, until + 0.5 - time.monotonic()))
        if not self._outcome:
            return late()
        outcome = self._outcome[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
