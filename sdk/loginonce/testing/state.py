"""Grants, families of refresh tokens, codes and browser sessions: what an authorization server remembers.

Pure: no clock, no network; `now` is an argument, in seconds on whatever clock the caller uses throughout.
One mutex makes each method one step, above all `redeem`: "is it spent?" and "spend it" cannot come apart,
however many threads send the same refresh token.

A *family* is one login: the refresh tokens that followed one another, and every access token made with them.
Ending a family ends all of them (RFC 9700 section 4.14.2).
"""

import math
import re
import secrets
import threading
from dataclasses import dataclass, field
from typing import Literal

from loginonce.testing.behaviour import Behaviour

#: RFC 8628 section 3.2: what a client must assume when `interval` is missing.
DEFAULT_DEVICE_INTERVAL = 5
#: RFC 8628 section 3.5: what `slow_down` adds, for good.
SLOW_DOWN_ADDS = 5
#: A poll that comes a little early because of timer jitter is not too fast.
POLL_TOLERANCE = 0.9
CODE_LIFETIME = 60.0
#: No vowels, nothing that looks like something else (RFC 8628 section 6.1).
_USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


class RefusedError(Exception):
    """A refresh token is not accepted.

    Attributes:
        reason: Why, for the log.
        replay: Whether the token had been spent before.
        user: Whose it was, where known.
    """

    def __init__(self, reason: str, *, replay: bool = False, user: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.replay = replay
        self.user = user


@dataclass(eq=False)
class Family:
    """One login of `user` (None: the client itself) at `client_id`.

    Attributes:
        scope: What was granted.
        jkt: The thumbprint of the key that its refresh tokens are bound to, or None (RFC 9449 section 5).
        ended: Why all its tokens are dead, or None.
        resources: The APIs that it was asked for (RFC 8707); None: nobody has said.
        acr: How strongly the person signed in.
    """

    client_id: str
    user: str | None
    scope: str
    jkt: str | None = None
    ended: str | None = None
    access_tokens: list["AccessToken"] = field(default_factory=list, repr=False)
    resources: tuple[str, ...] | None = None
    acr: str | None = None

    @property
    def subject(self) -> str:
        """The `sub` of its tokens."""
        return self.user or self.client_id

    def end(self, reason: str) -> None:
        """End every token; the first reason stays."""
        self.ended = self.ended or reason


@dataclass(eq=False)
class RefreshToken:
    """A refresh token; `spent_at` is when it was first exchanged."""

    value: str = field(repr=False)
    family: Family
    expires_at: float | None
    spent_at: float | None = None
    reuses: int = 0
    successors: list["RefreshToken"] = field(default_factory=list, repr=False)

    @property
    def superseded(self) -> bool:
        """Whether a token it was exchanged for has been spent itself."""
        return any(successor.spent_at is not None for successor in self.successors)


@dataclass(eq=False)
class AccessToken:
    """An access token; dead when it has expired, was revoked, or its family has ended."""

    value: str = field(repr=False)
    family: Family
    scope: str
    resource: str | None
    expires_at: float
    jkt: str | None = None
    revoked: bool = False


@dataclass(eq=False)
class AuthorizationCode:
    """An authorization code and what it is bound to."""

    value: str = field(repr=False)
    client_id: str
    user: str
    scope: str
    redirect_uri: str | None
    nonce: str | None
    auth_time: float
    code_challenge: str | None
    code_challenge_method: str | None
    expires_at: float
    resource: str | None = None
    offline: bool = True
    dpop_jkt: str | None = None
    spent: bool = False
    family: Family | None = None
    resources: tuple[str, ...] = ()
    acr: str | None = None


@dataclass(eq=False)
class DeviceCode:
    """A device code and the decision of the person who was asked."""

    value: str = field(repr=False)
    user_code: str = field(repr=False)
    client_id: str
    scope: str
    expires_at: float
    interval: float
    approves_at: float = math.inf
    approver: str = ""
    polled_at: float | None = None
    decision: Literal["approved", "denied"] | None = None
    user: str | None = None
    spent: bool = False


@dataclass(frozen=True)
class Tokens:
    """What a grant yields: `expires_in` in seconds; `refresh_token` is None when there is none to give.

    `bound`: the access token is good only with proofs by a key.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scope: str
    expires_in: float
    family: Family
    reused: bool = False
    bound: bool = False


PollOutcome = Literal["approved", "denied", "pending", "slow_down", "expired", "unknown"]


class State:
    """Everything the provider remembers."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._families: list[Family] = []
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._codes: dict[str, AuthorizationCode] = {}
        self._device_codes: dict[str, DeviceCode] = {}
        self._browser_sessions: dict[str, str] = {}
        self._assertions: set[str] = set()

    def first_time(self, assertion: str) -> bool:
        """Whether this identifier of a client's assertion has not come before."""
        with self._lock:
            known = assertion in self._assertions
            self._assertions.add(assertion)
            return not known

    # Tokens.

    def open_family(
        self,
        *,
        client_id: str,
        user: str | None,
        scope: str,
        resource: str | None,
        refreshable: bool,
        now: float,
        jkt: str | None = None,
        public: bool = True,
    ) -> Tokens:
        """Start a family and return its first tokens, with a refresh token if it is `refreshable`.

        `jkt`: the thumbprint of the key that the access token is bound to, and for a `public` client all that follows.
        """
        if self._behaviour.require_offline_access and "offline_access" not in scope.split():
            refreshable = False
        with self._lock:
            family = Family(client_id, user, scope, jkt if public else None)
            self._families.append(family)
            refresh_token = self._new_refresh_token(family, now).value if refreshable else None
            return self._tokens(family, refresh_token, scope, resource, now, jkt=jkt)

    def redeem(
        self,
        value: str,
        *,
        client_id: str,
        scope: str | None,
        resource: str | None,
        now: float,
        jkt: str | None = None,
    ) -> Tokens:
        """Exchange a refresh token for new tokens, and rotate it, in one step (RFC 6749 section 6).

        `scope` narrows the access token and not the family. Raises RefusedError.
        """
        behaviour = self._behaviour
        with self._lock:
            token = self._refresh_tokens.get(value)
            if token is None or token.family.client_id != client_id:
                raise RefusedError("unknown")
            family = token.family
            if family.jkt is not None and jkt != family.jkt:
                raise RefusedError("bound to another key", user=family.user)
            spent = token.spent_at is not None
            if family.ended:
                raise RefusedError(family.ended, replay=spent, user=family.user)
            if token.expires_at is not None and now >= token.expires_at:
                raise RefusedError("expired", replay=spent, user=family.user)
            if spent and not self._grace_covers(token, now):
                if behaviour.replay_kills:
                    family.end("replay")
                raise RefusedError("spent", replay=True, user=family.user)

            if behaviour.refresh_kills_access_tokens:
                for access_token in family.access_tokens:
                    access_token.revoked = True
            successor: str | None = None
            if behaviour.rotation:
                if spent:
                    token.reuses += 1
                else:
                    token.spent_at = now
                successor = self._successor(token, now).value
            elif behaviour.same_refresh_token:
                successor = token.value
            if behaviour.strict_resources and resource and resource not in (family.resources or ()):
                raise RefusedError("invalid_target", user=family.user)
            return self._tokens(family, successor, scope or family.scope, resource, now, reused=spent, jkt=jkt)

    def _grace_covers(self, token: RefreshToken, now: float) -> bool:
        grace = self._behaviour.grace
        since = now - (token.spent_at or 0.0)
        match grace.kind:
            case "none":
                return False
            case "same_successor":
                return since <= grace.seconds and not token.superseded
            case "sibling":
                return since <= grace.seconds
            case "count":
                return token.reuses < grace.uses and not token.superseded
            case "forever":
                return True

    def _successor(self, token: RefreshToken, now: float) -> RefreshToken:
        if token.successors and self._behaviour.grace.kind == "same_successor":
            return token.successors[-1]
        successor = self._new_refresh_token(token.family, now)
        token.successors.append(successor)
        return successor

    def _new_refresh_token(self, family: Family, now: float) -> RefreshToken:
        life = self._behaviour.refresh_token_lifetime
        expires_at = None if life is None else now + life
        token = RefreshToken(f"rt_{secrets.token_urlsafe(32)}", family, expires_at)
        self._refresh_tokens[token.value] = token
        return token

    def _tokens(
        self,
        family: Family,
        refresh_token: str | None,
        scope: str,
        resource: str | None,
        now: float,
        *,
        reused: bool = False,
        jkt: str | None = None,
    ) -> Tokens:
        life = self._behaviour.expires_in
        value = f"at_{secrets.token_urlsafe(32)}"
        token = AccessToken(value, family, scope, resource, now + life, jkt)
        self._access_tokens[value] = token
        family.access_tokens.append(token)
        return Tokens(value, refresh_token, scope, life, family, reused, jkt is not None)

    def live_access_token(self, value: str, now: float) -> AccessToken | None:
        """Return the access token if the API should accept it."""
        with self._lock:
            token = self._access_tokens.get(value)
            if token is None or token.revoked or token.family.ended or now >= token.expires_at:
                return None
            return token

    def derive(self, subject: AccessToken, scope: str, resource: str | None, now: float) -> Tokens:
        """Make one more access token of the same login (RFC 8693)."""
        with self._lock:
            return self._tokens(subject.family, None, scope, resource, now)

    def alive(self, token: AccessToken | RefreshToken, now: float) -> bool:
        """Whether the API, or a refresh, would accept it."""
        if isinstance(token, AccessToken):
            return self.live_access_token(token.value, now) is not None
        with self._lock:
            over = token.expires_at is not None and now >= token.expires_at
            return not (over or token.family.ended or token.spent_at is not None)

    def find(self, value: str) -> AccessToken | RefreshToken | None:
        """Return the token with this value, dead or alive."""
        with self._lock:
            return self._access_tokens.get(value) or self._refresh_tokens.get(value)

    def find_refresh_token(self, value: str) -> RefreshToken | None:
        """Return the refresh token with this value, dead or alive."""
        with self._lock:
            return self._refresh_tokens.get(value)

    def revoke(self, token: AccessToken | RefreshToken) -> None:
        """Revoke one access token, or with a refresh token its whole family (RFC 7009 section 2.1)."""
        with self._lock:
            if isinstance(token, AccessToken):
                token.revoked = True
            else:
                token.family.end("revoked")

    def revoke_access_tokens(self) -> None:
        """Revoke every access token there is, and leave the refresh tokens alone."""
        with self._lock:
            for token in self._access_tokens.values():
                token.revoked = True

    def end_sessions(self, user: str | None) -> None:
        """End every family and browser session of `user`, or of everyone."""
        with self._lock:
            for family in self._families:
                if user is None or family.user == user:
                    family.end("session ended")
            self._browser_sessions = {
                session: owner
                for session, owner in self._browser_sessions.items()
                if user is not None and owner != user
            }

    # Authorization codes.

    def add_code(self, code: AuthorizationCode) -> None:
        """Remember an authorization code."""
        with self._lock:
            self._codes[code.value] = code

    def find_code(self, value: str, client_id: str, now: float) -> AuthorizationCode | None:
        """Return a code that can still be used by this client.

        A code that comes a second time ends what was made with it (RFC 6749 section 4.1.2).
        """
        with self._lock:
            code = self._codes.get(value)
            if code is None or code.client_id != client_id:
                return None
            if code.spent:
                if code.family:
                    code.family.end("code used twice")
                return None
            return code if now < code.expires_at else None

    def asked_with(self, value: str | None) -> AuthorizationCode | None:
        """Return a code, whatever became of it, for what its authorization request asked for."""
        with self._lock:
            return self._codes.get(value) if value else None

    def spend_code(self, code: AuthorizationCode) -> bool:
        """Spend a code; False if another request was faster."""
        with self._lock:
            fresh = not code.spent
            code.spent = True
            return fresh

    # Device codes.

    def add_device_code(self, code: DeviceCode) -> None:
        """Remember a device code."""
        with self._lock:
            self._device_codes[code.value] = code

    def find_device_code(self, value: str) -> DeviceCode | None:
        """Return the record of a device code, whatever became of it."""
        with self._lock:
            return self._device_codes.get(value)

    def poll(self, code: DeviceCode, now: float) -> PollOutcome:
        """Judge one poll (RFC 8628 section 3.5); "approved" comes once, and spends the code."""
        with self._lock:
            if code.spent:
                return "unknown"
            if now >= code.expires_at:
                return "expired"
            if code.decision is None and code.approver and now >= code.approves_at:
                code.decision, code.user = "approved", code.approver
            if code.decision == "approved":
                code.spent = True
            if code.decision:
                return code.decision
            previous, code.polled_at = code.polled_at, now
            if previous is not None and now - previous < code.interval * POLL_TOLERANCE:
                code.interval += SLOW_DOWN_ADDS
                return "slow_down"
            return "pending"

    def decide(self, user_code: str, *, user: str | None, now: float) -> bool:
        """Approve the user code as `user`, or deny it (None); False if no such code awaits a decision."""
        with self._lock:
            code = self._awaiting(user_code, now)
            if code is None:
                return False
            code.decision = "approved" if user else "denied"
            code.user = user
            return True

    def awaits_decision(self, user_code: str, now: float) -> bool:
        """Whether a device waits for a decision on this user code."""
        with self._lock:
            return self._awaiting(user_code, now) is not None

    def _awaiting(self, user_code: str, now: float) -> DeviceCode | None:
        wanted = _plain(user_code)
        for code in self._device_codes.values():
            if _plain(code.user_code) == wanted and code.decision is None and now < code.expires_at:
                return code
        return None

    # Browser sessions.

    def sign_in(self, user: str) -> str:
        """Start a browser session and return its id, the value of the cookie."""
        session = secrets.token_urlsafe(16)
        with self._lock:
            self._browser_sessions[session] = user
        return session

    def signed_in(self, session: str | None) -> str | None:
        """Return who is signed in in this browser session."""
        with self._lock:
            return self._browser_sessions.get(session) if session else None


def new_user_code() -> str:
    """Return a new user code, like `WDJB-MJHT`."""
    letters = [secrets.choice(_USER_CODE_LETTERS) for _ in range(8)]
    return f"{''.join(letters[:4])}-{''.join(letters[4:])}"


def _plain(user_code: str) -> str:
    """People leave out the hyphen and type small letters (RFC 8628 section 6.1)."""
    return re.sub(r"[^A-Z]", "", user_code.upper())
