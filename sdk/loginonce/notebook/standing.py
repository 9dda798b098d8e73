"""How a login stands, for the card and for a session that is looked at.  Nobody is asked, nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import LoginRequired, StoreError
from ..model import Account, Grant
from ..refresh import Problem
from ..source import LoginSource
from ..watch import why_over
from . import html

__all__ = ["Standing"]

State: TypeAlias = Literal["nobody", "signed_in", "over", "unreadable"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One look at a login.

    `signed_in`: by `account`; `error` says why it cannot be renewed just now, or any more, if so.  `over`: somebody
    has to sign in again, and `error` says why.  `unreadable`: the store is away, or the record is damaged (`error`).
    """

    state: State
    issuer: str
    resource: str = ""
    account: Account | None = None
    grant: Grant | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, source: LoginSource) -> Standing:
        """Look: one `stat`, as long as nothing has changed."""
        issuer, resource = source.key.issuer, source.resource
        try:
            grant = source.grant()
        except StoreError as error:
            return cls("unreadable", issuer, error=error)
        if grant is None or grant.state == "LOGGED_OUT":
            return cls("nobody", issuer)
        account = Account.of(grant, resource)
        verdict = source.verdict(grant)
        if not isinstance(verdict, Problem):
            last = why_over(source, grant)
            return cls("signed_in", issuer, resource, account, grant, source.error(last) if last else None)
        state: State = "over" if verdict.kind == "login" else "signed_in"
        return cls(state, issuer, resource, account, grant, source.error(verdict))

    def html(self, now: float, *, hint: str = "", announce: bool = True) -> str:
        """It as a person sees it.  `hint`: what to do where nobody is signed in."""
        if self.state == "signed_in" and self.account is not None and self.grant is not None:
            line = html.signed_in(self.account, announce=announce)
            if self.error is not None:
                last = isinstance(self.error, LoginRequired)
                line += html.trouble(self.error, "It renews itself no longer" if last else "Not renewed yet")
            return line + html.standing(self.account, self.grant, self.resource, now)
        if self.error is not None:
            return html.over(self.error, announce=announce)
        return html.nobody(self.issuer, hint, announce=announce)

    def __str__(self) -> str:
        if self.state == "signed_in":
            return f"signed in as {self.account}"
        return f"not signed in{f': {self.error.args[0]}' if self.error and self.error.args else ''}"
