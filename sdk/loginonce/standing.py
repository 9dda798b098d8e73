"""How each login stands, from what is stored here: what `loginonce status` tells.  Nobody is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .config import profiles
from .errors import LoginonceError, SealError
from .model import Account, Failure, Grant, scope_set
from .refresh import Problem, Use, Want, decide
from .session import Session
from .stores.opening import open_store
from .text import moment, plain

__all__ = ["Standing", "all_standings", "judge", "standing_of"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One login, as `status --json` tells of it.  Times are POSIX seconds; None = not known, or none.

    `state` is what a program can do with it: `signed_in` (a token is there, or will be had without a person),
    `login_required` (`reason`: see `errors.Reason`), `retry_later` (not before `failure.not_before`), `error`;
    `problem` says in a sentence why it is not the first.
    """

    profile: str | None
    issuer: str = ""
    provider: str = ""
    client_id: str = ""
    account: str = ""
    scope: str = ""
    state: Literal["signed_in", "login_required", "retry_later", "error"] = "signed_in"
    reason: str | None = None
    problem: str | None = None
    subject: str = ""
    name: str = ""
    has_token: bool = False
    expires_at: float | None = None
    expires_in: float | None = None
    renews: bool = False
    renewing: bool = False
    failure: dict[str, Any] | None = None
    store: str = ""

    def json(self) -> dict[str, Any]:
        """The object for programs."""
        return asdict(self)

    def text(self, now: float) -> list[str]:
        """The lines for people."""
        who = f"{self.name} ({self.subject})" if self.name and self.subject else self.name or self.subject
        rows = {
            "state": f"{self.state.replace('_', ' ')}{f': {self.problem}' if self.problem else ''}",
            "who": who,
            "issuer": self.issuer,
            "at": self.provider,
            "client": self.client_id,
            "scope": self.scope,
            "token": self._token(now) if self.state == "signed_in" else "",
            "renews": self._renews() if self.state == "signed_in" else "",
            "failure": self._failure(now),
            "store": self.store,
        }
        return [
            plain(self.profile or "(no profile)") + (f", account {plain(self.account)}" if self.account else ""),
            *(f"  {label:<8}{plain(value)}" for label, value in rows.items() if value),
        ]

    def _token(self, now: float) -> str:
        if self.expires_at is None:
            return (
                "the provider does not say how long it is good"
                if self.has_token
                else "none yet; the first use gets one"
            )
        if self.expires_at >= now:
            return f"good until {moment(self.expires_at, now)}"
        return f"ended at {moment(self.expires_at, now)}; the next use gets a new one"

    def _renews(self) -> str:
        if self.renewing:
            return "by itself; it is being renewed right now"
        return "by itself" if self.renews else "no: a person signs in again when it has ended"

    def _failure(self, now: float) -> str:
        if self.failure is None:
            return ""
        not_before = self.failure["not_before"]
        pause = f"; it is tried again from {moment(not_before, now)}" if not_before else ""
        return f"{self.failure['kind']}: {self.failure['detail']}{pause}"


def standing_of(profile: str | None, now: float, *, account: str | None = None) -> Standing:
    """How the login stands that this profile, or the environment, means.  Raises `LoginonceError`."""
    session = Session(profile, account=account)
    try:
        return judge(session, session.source.grant(), now)
    except SealError as error:
        return _sealed(session, judge(session, _as_listed(session), now), error)


def judge(session: Session, grant: Grant | None, now: float, *, locked: bool = False) -> Standing:
    """How a session's login stands, if this is its record.  `locked`: whoever left a marker in it is not alive."""
    made = session.settings
    want = Want(
        session.source.key,
        resource=session.source.resource,
        scope=scope_set(made.scope),
        renewal="client_credentials" if made.grant == "client_credentials" else "refresh_token",
    )
    return replace(_standing(session, want, grant, now, locked=locked), profile=made.profile or None)


def all_standings(now: float) -> Iterator[Standing]:
    """Every profile, what the environment names, and every login that is stored besides: of another account of a
    profile, which has its name too, or without one.

    A profile that cannot be judged is told of, and ends nothing.  Raises `ConfigurationError` where the profiles
    cannot be read.
    """
    found = profiles()
    addresses = {os.environ.get("LOGINONCE_STORE", ""), *(str(made.get("store", "")) for made in found.values())}
    named: list[str | None] = [*sorted(found)]
    if os.environ.get("LOGINONCE_ISSUER") and not os.environ.get("LOGINONCE_PROFILE"):
        named.append(None)
    shown: set[str] = set()
    of_profile: dict[tuple[str, str], str] = {}
    for name in named:
        try:
            standing = standing_of(name, now)
        except LoginonceError as error:
            yield Standing(name, state="error", problem=str(error))
        else:
            shown.add(standing.store)
            if name:
                of_profile.setdefault((standing.issuer, standing.client_id), name)
            yield standing
    for address in sorted(addresses):
        try:
            store = open_store(address)
            there = sorted(store.grants(), key=lambda found: str(found.key))
        except LoginonceError as error:
            if not any(made.get("store", "") == address for made in found.values()):  # else its profile has told of it
                yield Standing(None, state="error", problem=str(error))
            continue
        for grant in there:
            key = grant.key
            if grant.state == "LOGGED_OUT" or store.location(key) in shown:
                continue
            shown.add(store.location(key))
            session = Session(key.issuer, client_id=key.client_id, account=key.account, store=store)
            resource = grant.tokens[0].resource if grant.tokens else ""
            profile = of_profile.get((key.issuer, key.client_id))
            try:
                standing = _standing(session, Want(key, resource=resource), session.source.grant(), now)
            except SealError as error:
                standing = _sealed(session, _standing(session, Want(key), grant, now), error)
            yield replace(standing, profile=profile)


def _as_listed(session: Session) -> Grant | None:
    """What can be read of a login without the key that opens it."""
    key = session.source.key
    return next((grant for grant in session.source.store.grants() if grant.key == key), None)


def _sealed(session: Session, standing: Standing, error: SealError) -> Standing:
    """Whose login it is, and that no more can be told."""
    profile = session.settings.profile or None
    return replace(standing, profile=profile, state="error", problem=str(error), renews=False, has_token=False)


def _standing(session: Session, want: Want, grant: Grant | None, now: float, *, locked: bool = False) -> Standing:
    source = session.source
    account = Account.of(grant, want.resource) if grant and grant.state != "LOGGED_OUT" else None
    # Not under the lock, in general: whoever has left a marker may be alive, and about to save.
    verdict = decide(grant, want, session.settings.policy, now, locked=locked)
    token = grant.token_for(want.resource) if grant else None
    marker = grant.marker if grant else None
    standing = Standing(
        None,
        issuer=want.key.issuer,
        provider=dialect.title if (dialect := session.settings.dialect).name != "any" else "",
        client_id=want.key.client_id,
        account=want.key.account,
        scope=grant.scope if grant and grant.scope else session.settings.scope,
        subject=account.subject if account else "",
        name=account.name if account else "",
        has_token=token is not None,
        expires_at=token.expires_at if token else None,
        expires_in=token.expires_at - now if token and token.expires_at is not None else None,
        renews=account.renews if account else want.renewal == "client_credentials",
        renewing=marker is not None and now < marker.deadline and not isinstance(verdict, Use),
        failure=_failure(grant.failure, now) if grant and grant.failure else None,
        store=source.store.location(want.key),
    )
    if not isinstance(verdict, Problem):
        return standing
    problem = str(source.error(verdict).args[0])
    if verdict.kind == "later":
        return replace(standing, state="retry_later", problem=problem)
    if verdict.kind in ("misconfigured", "store"):
        return replace(standing, state="error", problem=problem)
    return replace(standing, state="login_required", reason=verdict.reason, problem=problem, renews=False)


def _failure(failure: Failure, now: float) -> dict[str, Any]:
    return {
        "kind": failure.kind,
        "detail": failure.detail,
        "count": failure.count,
        "not_before": failure.not_before if failure.not_before > now else None,
    }
