"""Token exchange (RFC 8693): one's access token for another, for another audience."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace

from .errors import ProtocolError
from .model import Secret, TokenSet
from .providers import ANY, Dialect
from .wire import Answer, Form, judge_token, token_form

__all__ = ["ExchangedToken", "exchange_form", "judge_exchange"]

TOKEN_EXCHANGE_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True, slots=True)
class ExchangedToken(TokenSet):
    """What a token was exchanged for.  It is nobody's login: nothing renews it, and a log-out here does not revoke it.

    `issued_token_type` is an address of RFC 8693 §3, `refresh_token` the caller's to use, where the provider gives one.
    """

    issued_token_type: str = ""
    refresh_token: Secret | None = None


def exchange_form(
    subject_token: Secret, *, audience: str = "", resource: str = "", scope: str = "", requested_token_type: str = ""
) -> Form:
    """The form of an exchange of one's access token (RFC 8693 §2.1)."""
    return token_form(
        TOKEN_EXCHANGE_GRANT_TYPE,
        subject_token=subject_token,
        subject_token_type=ACCESS_TOKEN_TYPE,
        audience=audience,
        resource=resource,
        scope=scope,
        requested_token_type=requested_token_type,
    )


def judge_exchange(
    answer: Answer,
    asked_at: float,
    *,
    scope: str = "",
    resource: str = "",
    dpop_key: Secret | None = None,
    dialect: Dialect = ANY,
) -> ExchangedToken:
    """The token in an answer (RFC 8693 §2.2.1); `asked_at` in POSIX seconds.

    `scope` and `resource` are what was asked for, `dpop_key` is what it was asked with, `dialect` how the
    provider refuses.  Raises `InvalidGrant`, `ErrorResponse` or `ProtocolError`.
    """
    given = judge_token(answer, dialect)
    given = replace(given, dpop_key=dpop_key if given.token_type == "DPoP" else None)
    issued = json.loads(answer.body).get("issued_token_type")
    if not isinstance(issued, str):
        raise ProtocolError("the answer to a token exchange does not say which type of token it is (RFC 8693 §2.2.1)")
    made = given.token_set(asked_at, scope=scope, resource=resource)
    members = {each.name: getattr(made, each.name) for each in fields(made)}
    return ExchangedToken(**members, issued_token_type=issued, refresh_token=given.refresh_token)
