"""The messages of the RFCs: building one and judging one are two functions, and neither does I/O.

Errors are classified by what they mean for a login, never by their sentences: the JSON `error` member first,
the HTTP status second (HAZARDS 27).  What cannot be understood is never taken for a refusal, because a refusal
ends a login and a broken gateway must not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from .address import web_address
from .claims import shallow
from .errors import ErrorResponse, InvalidGrant, ProtocolError
from .model import AuthorizationServer, Members, Secret, TokenSet
from .providers import ANY, Dialect
from .value import Value, field

__all__ = [
    "DEVICE_CODE_GRANT_TYPE",
    "LONGEST_RETRY_AFTER",
    "SENDABLE",
    "Answer",
    "Busy",
    "DeviceAuthorization",
    "Form",
    "Granted",
    "Lost",
    "Misconfigured",
    "Refused",
    "Reply",
    "TokenAnswer",
    "Unsent",
    "error_response",
    "for_people",
    "json_object",
    "judge_device_authorization",
    "judge_redirect",
    "judge_refresh",
    "judge_token",
    "oauth_error",
    "read_retry_after",
    "require_state",
    "seconds",
    "successful",
    "token_form",
]

DEVICE_CODE_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
LONGEST_RETRY_AFTER = 3600.0
"""Seconds: a provider that says "come back in a year" is asked again after an hour."""

Form: TypeAlias = list[tuple[str, str]]


class Answer(Value):
    """An HTTP answer, whole and within bounds.  Header names are lower case.  Its repr shows nothing of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<answer {self.status}, {len(self.body)} bytes>"


# ── a token request ──────────────────────────────────────────────────────────────────────────────────────


def token_form(grant_type: str, **parameters: str | None) -> Form:
    """The form of a token request (RFC 6749 §4, §6; RFC 8628 §3.4): what is None or "" is left out."""
    return [("grant_type", grant_type), *((name, value) for name, value in parameters.items() if value)]


# ── a token answer ───────────────────────────────────────────────────────────────────────────────────────


class TokenAnswer(Value):
    """A successful token answer (RFC 6749 §5.1).  Life times are in seconds, None where nothing useful is said.

    `dpop_key` is the key that the tokens were asked for with (RFC 9449), where one was.  `claims`: whose tokens they
    are, where the answer itself says so: only a back end's does (see `manners`).
    """

    access_token: Secret
    token_type: str = "Bearer"
    expires_in: float | None = None
    refresh_token: Secret | None = None
    refresh_expires_in: float | None = None
    scope: str = ""
    id_token: Secret | None = None
    dpop_key: Secret | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def token_set(
        self,
        asked_at: float,
        *,
        scope: str,
        resource: str = "",
        for_scope: str = "",
        id_token: Secret | None = None,
    ) -> TokenSet:
        """The access token; its life counts from when it was asked for (POSIX seconds), which is never too long.

        `scope` and `id_token` are what holds where the answer says nothing.
        """
        return TokenSet(
            access_token=self.access_token,
            received_at=asked_at,
            expires_at=None if self.expires_in is None else asked_at + self.expires_in,
            token_type=self.token_type,
            scope=self.scope or scope,
            resource=resource,
            for_scope=for_scope,
            id_token=self.id_token or id_token,
        )

    def refresh_expires_at(self, asked_at: float) -> float | None:
        """When the refresh token ends (POSIX seconds), where the provider says so."""
        return None if self.refresh_expires_in is None else asked_at + self.refresh_expires_in


class Granted(Value):
    """Tokens."""

    answer: TokenAnswer


class Refused(Value):
    """The refresh token is no longer good, and never will be."""

    error: str
    detail: str


class Unsent(Value):
    """The request provably never reached the provider."""

    detail: str


class Lost(Value):
    """The request may have been carried out, and the answer is not there or makes no sense.

    `answered`: with an outage, by a gateway, an error page or the provider itself.  Whether the token was spent is as
    open as before, but the provider is known to be in trouble, and will say in time what became of it.
    """

    detail: str
    answered: bool = False


class Busy(Value):
    """The provider declined to look at it now; `retry_after` in seconds."""

    detail: str
    retry_after: float | None


class Misconfigured(Value):
    """The provider objects to us, not to the refresh token."""

    error: str
    detail: str


Reply: TypeAlias = Granted | Refused | Unsent | Lost | Busy | Misconfigured

_REFUSALS = frozenset(
    {
        "invalid_grant",  # RFC 6749 §5.2
        "invalid_request",  # the same request would be wrong again
        "invalid_token",
        "expired_token",
        "access_denied",
        "interaction_required",  # OIDC Core §3.1.2.6: a person is needed
        "login_required",
        "consent_required",
    }
)
_OUR_FAULT = frozenset(
    {
        "invalid_client",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_token_type",
        "invalid_dpop_proof",
        "use_dpop_nonce",
    }
)
_NOT_NOW = frozenset({"temporarily_unavailable", "slow_down", "too_many_requests", "rate_limit_exceeded"})
SENDABLE = re.compile(r"[\x21-\x7e]+")
"""What a token may be made of that goes into a header (RFC 6750 §2.1, generously)."""


def judge_refresh(answer: Answer, now: float, dialect: Dialect = ANY) -> Reply:
    """What an answer to a refresh request means for the login (RFC 6749 §5, §6).

    `dialect`: in whose words an error may be told.
    """
    status = answer.status
    content = json_object(answer.body)
    said = _error_members(content, dialect) if content is not None else None
    what = _describe(status, said)
    if status in (429, 503):
        return Busy(what, read_retry_after(answer.headers, now))
    if said is not None and (said.error in _NOT_NOW or said.error in dialect.deferrals):
        return Busy(what, read_retry_after(answer.headers, now))
    if status >= 500 or status == 408:
        return Lost(what, answered=True)
    if said is not None and (200 <= status < 300 or status in (400, 401, 403)):
        if said.error in _REFUSALS or said.error in dialect.refusals:
            return Refused(said.error, what)
        ours = said.error in _OUR_FAULT or said.error in dialect.objections or status in (401, 403)
        # A word that no RFC knows is no verdict: a gateway's "Forbidden" is about us, the rest about nothing.
        return Misconfigured(said.error, what) if ours else Lost(what, answered=said.error == "server_error")
    if 200 <= status < 300:
        granted = _token_answer(content)
        return granted if isinstance(granted, Lost) else Granted(granted)
    if status == 400 and not answer.body.strip():
        return Refused("invalid_grant", what)
    if status in (401, 404, 405, 410):
        return Misconfigured("", what)
    return Lost(what, answered=True)  # a redirect, a page of HTML: not a word of OAuth


def judge_token(answer: Answer, dialect: Dialect = ANY) -> TokenAnswer:
    """The tokens in an answer to any other grant.

    Raises `InvalidGrant`, `ErrorResponse` or `ProtocolError`.
    """
    content = json_object(answer.body)
    if not 200 <= answer.status < 300 or (content is not None and _error_members(content, dialect)):
        raise error_response(answer, "the provider refused the token request", dialect)
    granted = _token_answer(content)
    if isinstance(granted, Lost):
        raise ProtocolError(granted.detail)
    return granted


def successful(answer: Answer, what: str) -> Members:
    """The members of any other answer that holds a JSON object and no error; `what` says what did not succeed.

    Raises `ErrorResponse` or `ProtocolError`.
    """
    content = json_object(answer.body)
    if not 200 <= answer.status < 300 or (content is not None and _error_members(content, ANY)):
        raise error_response(answer, what)
    if content is None or not shallow(content):
        raise ProtocolError(f"{what}: its answer is not a JSON object")
    return Members(content)


def error_response(answer: Answer, what: str, dialect: Dialect = ANY) -> ErrorResponse:
    """The error that an answer holds, for people (RFC 6749 §5.2)."""
    content = json_object(answer.body)
    said = (_error_members(content, dialect) if content is not None else None) or _Said("", "", "")
    over = said.error in ("invalid_grant", "expired_token") or said.error in dialect.refusals
    kind = InvalidGrant if over else ErrorResponse
    return kind(
        f"{what}: {_describe(answer.status, said)}",
        error=said.error,
        error_description=said.description,
        error_uri=said.uri,
        status=answer.status,
    )


def oauth_error(answer: Answer) -> str:
    """The error code in an answer (RFC 6749 §5.2), "" if there is none."""
    content = json_object(answer.body)
    said = _error_members(content) if content is not None else None
    return said.error if said else ""


class _Said(Value):
    error: str
    description: str
    uri: str


def _error_members(content: Mapping[str, Any], dialect: Dialect = ANY) -> _Said | None:
    error = _first(content, dialect.error_members)
    if not error:
        return None
    return _Said(
        for_people(error, 80),
        for_people(_first(content, dialect.description_members), 300),
        for_people(content.get("error_uri"), 300),
    )


def _first(content: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((value for name in names if isinstance(value := content.get(name), str) and value), "")


def for_people(value: object, length: int) -> str:
    """A string of the server's, cut short and without anything that could draw on a terminal."""
    return "".join(c for c in value if c.isprintable())[:length] if isinstance(value, str) else ""


def _describe(status: int, said: _Said | None) -> str:
    if said is None or not said.error:
        return f"HTTP {status} without an OAuth error"
    return f"{said.error} ({said.description})" if said.description else said.error


def json_object(body: bytes) -> dict[str, Any] | None:
    """The object in a body, or None where it holds none, or one that is nested beyond reason."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return Members(content) if isinstance(content, dict) else None


def _token_answer(content: Mapping[str, Any] | None) -> TokenAnswer | Lost:
    if content is None:
        return Lost("the provider's answer is not a JSON object")
    access_token = _secret(content, "access_token")
    if access_token is None or not SENDABLE.fullmatch(access_token):
        return Lost("the provider's answer has no access_token that could be sent in a header")
    return TokenAnswer(
        access_token=access_token,
        token_type=_token_type(content.get("token_type")),
        expires_in=seconds(content.get("expires_in")),
        refresh_token=_secret(content, "refresh_token"),
        # Keycloak's name, and GitHub's.
        refresh_expires_in=seconds(content.get("refresh_expires_in"))
        or seconds(content.get("refresh_token_expires_in")),
        scope=_scope(content.get("scope")),
        id_token=_secret(content, "id_token"),
    )


def _secret(content: Mapping[str, Any], name: str) -> Secret | None:
    value = content.get(name)
    return Secret(value) if isinstance(value, str) and value else None


def _token_type(value: object) -> str:
    # §7.1: case does not matter.  An odd type is kept, saved with its refresh token, and refused when it
    # is used: the rotation has happened by now (HAZARDS 35).
    if not isinstance(value, str) or value.lower() in ("", "bearer"):
        return "Bearer"
    return "DPoP" if value.lower() == "dpop" else for_people(value, 40)


def seconds(value: object) -> float | None:
    """A life time as a number or as text; None for what is missing, not a number, or not positive.

    Some say 0 for what never ends, Keycloak for what ends within this second: then a 401 decides.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 1e10 and not math.isnan(seconds) else None


def _scope(value: object) -> str:
    """A scope as text; some servers answer with a list."""
    if isinstance(value, list):
        return " ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Retry-After in seconds from now (RFC 9110 §10.2.3), whether it is a number or a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]+", value):
        return min(float(value[:9]), LONGEST_RETRY_AFTER)
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, then - now), LONGEST_RETRY_AFTER)


# ── the authorization endpoint's answer ──────────────────────────────────────────────────────────────────


def require_state(url: str, *, state: str, redirect_uri: str) -> Members:
    """What was brought back to the redirect URI, if it answers the request with this `state` (RFC 6749 §10.12).

    Raises `ProtocolError` for any other address: it belongs to another sign-in, or somebody made it up.
    """
    url = Secret(url)  # also in a traceback through here: it holds the code
    parameters = _parameters(url, redirect_uri)
    if parameters is None:
        raise ProtocolError(f"that is not the address this sign-in returns to: it should begin with {redirect_uri}")
    if parameters.get("state") != state:
        raise ProtocolError(
            "the state in the answer is not the one that was sent: it belongs to another sign-in, or somebody "
            "made it up"
        )
    return parameters


def judge_redirect(url: str, *, state: str, server: AuthorizationServer, redirect_uri: str) -> Secret:
    """The authorization code in the address that the browser was sent back to.

    `state` is compared first and always (RFC 6749 §10.12), `iss` whenever it is there, and missed where the
    provider promises it (RFC 9207 §2.4).  Raises `ProtocolError` for an answer that is not ours or not from
    this provider, `ErrorResponse` for one that says no.
    """
    # Imported here: importing loginonce must not cost what importing authlib does.
    from authlib.oauth2.rfc6749.errors import MismatchingStateException, MissingCodeException
    from authlib.oauth2.rfc6749.parameters import parse_authorization_code_response

    url = Secret(url)  # also in a traceback through here: it holds the code
    parameters = require_state(url, state=state, redirect_uri=redirect_uri)
    iss = parameters.get("iss")
    if iss is None and server.authorization_response_iss_parameter_supported:
        raise ProtocolError(f"{server.issuer} promises to name itself in its answer, and this answer does not")
    if iss is not None and iss != server.issuer:
        raise ProtocolError(f"the answer came from {for_people(iss, 200)!r}, not from {server.issuer}")
    if said := _error_members(parameters):
        raise ErrorResponse(
            f"the provider did not sign in: {_describe(0, said)}",
            error=said.error,
            error_description=said.description,
            error_uri=said.uri,
        )
    try:
        return Secret(parse_authorization_code_response(url, state=state)["code"])
    except (MissingCodeException, MismatchingStateException):
        raise ProtocolError("the answer holds neither a code nor an error") from None


def _parameters(url: str, redirect_uri: str) -> Members | None:
    """What was brought back to the redirect URI; None if the address is another one."""
    try:
        there, expected = urlsplit(url), urlsplit(redirect_uri)
    except ValueError:
        return None
    if (there.scheme, there.netloc, there.path or "/") != (expected.scheme, expected.netloc, expected.path or "/"):
        return None
    return Members(parse_qsl(there.query))


class DeviceAuthorization(Value):
    """A device authorization answer (RFC 8628 §3.2); `expires_in` and `interval` in seconds."""

    device_code: Secret
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: float
    interval: float


def judge_device_authorization(answer: Answer, dialect: Dialect = ANY) -> DeviceAuthorization:
    """What to show the person, and how often to ask.

    Raises `ErrorResponse` or `ProtocolError`.  No `interval` means five seconds (RFC 8628 §3.2); Google
    calls the address `verification_url`.
    """
    content = json_object(answer.body)
    if content is None or not 200 <= answer.status < 300 or _error_members(content, dialect):
        raise error_response(answer, "the provider did not begin a device sign-in", dialect)
    uri = content.get("verification_uri") or content.get("verification_url")
    device_code, user_code = _secret(content, "device_code"), _secret(content, "user_code")
    if not isinstance(uri, str) or device_code is None or user_code is None:
        raise ProtocolError("the device answer lacks device_code, user_code or verification_uri (RFC 8628 §3.2)")
    complete = content.get("verification_uri_complete")
    for address in (uri, complete):
        if isinstance(address, str) and not web_address(address):
            raise ProtocolError(f"the verification address {for_people(address, 100)!r} is not a web address")
    return DeviceAuthorization(
        device_code=device_code,
        user_code=for_people(user_code, 100),
        verification_uri=for_people(uri, 2000),
        verification_uri_complete=for_people(complete, 2000),
        expires_in=seconds(content.get("expires_in")) or 600.0,
        interval=seconds(content.get("interval")) or 5.0,
    )
