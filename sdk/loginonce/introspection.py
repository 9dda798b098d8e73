"""Whether a token is still good, in the provider's words (RFC 7662 §2.2, OIDC Core §5.3)."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple, TypeAlias

from .wire import Answer

__all__ = ["By", "LoginCheck", "judge_introspection", "judge_userinfo"]


By: TypeAlias = Literal["record", "introspection", "userinfo", "renewal", ""]


class LoginCheck(NamedTuple):
    """Whether a login is alive at the provider.

    `active` is None where the provider did not say, or said what can be taken two ways: that is no reason to sign in
    again.  `by` is who knew: `record` (it was ended before, nobody was asked), `introspection`, `userinfo`, or
    `renewal` (a token was due, and was asked for).  `detail` is for people.
    """

    active: bool | None
    by: By = ""
    detail: str = ""


def judge_introspection(answer: Answer) -> bool | None:
    """Whether the token is active; None where that is not what the answer says, such as that we may not ask."""
    try:
        active = json.loads(answer.body)["active"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return active if answer.status == 200 and isinstance(active, bool) else None


def judge_userinfo(answer: Answer, subject: str, *, member: str = "sub") -> bool | None:
    """Whether the access token is good, as far as this proves it: None for any other answer, or another person's.

    `member` is where it says whose the token is.
    """
    if answer.status == 401:
        return False
    try:
        sub = str(json.loads(answer.body)[member])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return True if answer.status == 200 and sub == subject else None
