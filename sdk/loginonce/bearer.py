"""A token on a request of requests (RFC 6750, RFC 9449): put on for the wire, taken off again, renewed on a 401.

Token and proof are on the request only while it is under way.  What a program keeps of an exchange
(`response.request`, an exception, a pickle of either) does not hold them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.utils import rewind_body

from .address import origin, secure
from .log import log
from .model import Secret, TokenSet
from .proxies import environment_proxies, leaves_this_machine
from .source import TokenSource

__all__ = ["WORTH_A_LOOK", "BearerAuth", "answer_401", "forget", "learn", "put_on", "take_off"]

NOT_MENDED_BY_A_REFRESH = frozenset({"insufficient_scope", "insufficient_user_authentication"})
"""Challenges that ask for another sign-in, not for another token (RFC 6750 §3.1, RFC 9470 §3)."""

WORTH_A_LOOK = (401, 403)
"""Answers that may say what is wrong with the token."""

WORTH_READING = 64 * 1024
"""Bytes of a refused answer that cost less than a new connection."""


_nonces: dict[str, str] = {}
"""The latest nonce of each API, by its origin (RFC 9449 §9).  It is no secret, and no login's in particular."""

MOST_NONCES = 1000
"""APIs of which one is kept; any is asked for again."""


def put_on(request: requests.PreparedRequest, token: TokenSet) -> None:
    """Sign a request, with a proof made for it where the token is bound to a key."""
    # A Secret, so that a traceback through the lower layers shows its fingerprint.
    request.headers["Authorization"] = Secret(f"{token.token_type} {token.access_token}")
    if token.dpop_key is not None:
        # Imported here, as below: few tokens are bound to a key.
        import secrets

        from .dpop import proof

        url = request.url or ""
        request.headers["DPoP"] = proof(
            token.dpop_key,
            request.method or "",
            url,
            now=time.time(),
            jti=secrets.token_urlsafe(16),
            access_token=token.access_token,
            nonce=_nonces.get(origin(url), ""),
        )


def take_off(request: requests.PreparedRequest) -> None:
    """Unsign it."""
    for name in ("Authorization", "DPoP"):
        request.headers.pop(name, None)


def learn(token: TokenSet, response: requests.Response) -> None:
    """Keep the nonce that an answer brings for the next proof."""
    if token.dpop_key is None:
        return
    from .dpop import given_nonce

    if nonce := given_nonce(response.headers):
        if len(_nonces) >= MOST_NONCES:
            _nonces.clear()
        _nonces[origin(response.url)] = nonce


def _refused_for_its_proof(token: TokenSet, response: requests.Response) -> bool:
    if token.dpop_key is None:
        return False
    from .dpop import refuses_the_proof
    from .wire import Answer

    headers = {name.lower(): text for name, text in response.headers.items()}
    return refuses_the_proof(Answer(response.status_code, headers, b""))


def forget(error: BaseException) -> None:
    """Clear the local variables of the frames that sent a request: http.client's hold the raw header."""
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        current = following.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            for frame, _ in traceback.walk_tb(current.__traceback__):
                if frame.f_globals.get("__name__", "").partition(".")[0] in ("http", "requests", "urllib3"):
                    with suppress(RuntimeError):  # it is still running: this very call came by it
                        frame.clear()
            following += [current.__cause__, current.__context__]


def answer_401(
    source: TokenSource,
    carried: TokenSet,
    response: requests.Response,
    send: Callable[[requests.PreparedRequest], requests.Response],
) -> requests.Response:
    """What the caller gets for a 401: the answer to one more try with a newer token, or this one.

    One refresh and one resend at most (I10), and one more resend where an API refuses the proof alone, such as for the
    nonce that it lacks: then the token is the same (HAZARDS 37).  A body that cannot be rewound is not sent
    again: the refresh happens, the 401 is returned (HAZARDS 24).  Also for a 403, which no token mends.  Raises what
    `TokenSource.token` raises, and `StepUpRequired` where the API names a sign-in that would help.
    """
    # Imported here: most requests meet no 401.
    from .challenge import bearer_challenge

    renewed = proven = False
    while response.status_code == 401:
        if _refused_for_its_proof(carried, response):
            if proven or not _rewound(response.request):
                break
            proven = True
        else:
            challenge = bearer_challenge(response.headers.get("WWW-Authenticate", "")) or {}
            if renewed or challenge.get("error") in NOT_MENDED_BY_A_REFRESH:
                break
            renewed = True
            try:
                newer = source.token(rejected=carried)
            except BaseException:
                response.close()  # nobody gets it, so nobody else would
                raise
            if newer.access_token == carried.access_token or not _rewound(response.request):
                break
            carried = newer
        response = _again(carried, response, send)
        learn(carried, response)
    return _unless_step_up(carried, response)


def _again(
    token: TokenSet, response: requests.Response, send: Callable[[requests.PreparedRequest], requests.Response]
) -> requests.Response:
    """The answer to the same request once more, signed with that token."""
    request = response.request
    if _short(response):
        response.content  # noqa: B018 - read to its end, so that the connection can be used again
    response.close()
    began = time.perf_counter()
    repeated = request.copy()
    _with_cookies_of(response, repeated)
    put_on(repeated, token)
    try:
        again = send(repeated)
    except BaseException as error:
        forget(error)
        if getattr(error, "request", None) is repeated:
            error.request = request  # type: ignore[attr-defined]  # of requests' own exceptions
        raise
    again.request = request
    again.elapsed = response.elapsed + timedelta(seconds=time.perf_counter() - began)
    return again


def _unless_step_up(carried: TokenSet, response: requests.Response) -> requests.Response:
    from .challenge import bearer_challenge, step_up

    challenge = bearer_challenge(response.headers.get("WWW-Authenticate", ""))
    wanted = step_up(challenge, carried.scope) if challenge and response.status_code in WORTH_A_LOOK else None
    if wanted is None:
        return response
    if _short(response):
        response.content  # noqa: B018 - for who catches it
    else:
        response.close()
    wanted.response = response
    raise wanted


def _short(response: requests.Response) -> bool:
    """Whether the answer says of itself that it ends soon: another might never, and its connection is let go."""
    length = response.headers.get("Content-Length", "")
    return length.isdecimal() and int(length[:9]) <= WORTH_READING


def _with_cookies_of(response: requests.Response, repeated: requests.PreparedRequest) -> None:
    """The cookies that the 401 brought go along, as with the other authentications of requests."""
    jar = getattr(repeated, "_cookies", None)
    if jar is not None and response.headers.get("Set-Cookie"):
        extract_cookies_to_jar(jar, repeated, response.raw)  # type: ignore[no-untyped-call]  # requests'
        repeated.headers.pop("Cookie", None)
        repeated.prepare_cookies(jar)


def _rewound(request: requests.PreparedRequest) -> bool:
    """Whether the body is as it was before it was sent."""
    body: Any = request.body
    if body is None or isinstance(body, bytes | bytearray | str):
        return True
    if isinstance(getattr(request, "_body_position", None), int):  # requests has no public word for it
        try:
            rewind_body(request)
        except requests.exceptions.UnrewindableBodyError:
            return False
        return True
    return False


class BearerAuth(AuthBase):
    """The same for requests sent without a `loginonce.Session`: `requests.get(url, auth=session.auth)`.

    A request that was prepared with it is good for one sending: the token is taken off again when the answer is
    there, and when it is the last one off those that redirected.  Nothing can be done where no last answer comes, as
    where redirects are not followed, and the frames of an exception belong to others.  Of proxies it knows those of
    the environment.  A `Session` does all of that.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign the request, if its address may see a token."""
        url = request.url or ""
        if not secure(url):
            log.warning("no token is sent to %s: it is neither https nor on this machine", origin(url))
            return request
        if url[:5].lower() == "http:" and leaves_this_machine(url, dict(environment_proxies(url))):
            log.warning(
                "no token is sent to %s: it would go by a proxy that is elsewhere, and unencrypted.  Set NO_PROXY, or "
                "send it by the Session",
                origin(url),
            )
            return request
        token = self._source.token()
        put_on(request, token)

        asked: list[requests.PreparedRequest] = []

        def answered(response: requests.Response, **settings: Any) -> requests.Response | None:
            # The hook travels with redirects; it answers for the address that was called, and for no other.
            request = response.request
            asked.append(request)
            if response.is_redirect:
                return None
            for each in asked:
                hooks = [hook for hook in each.hooks.get("response", ()) if hook is not answered]
                each.hooks = {**each.hooks, "response": hooks}
                if isinstance(each.headers.get("Authorization"), Secret):  # else it is of .netrc, or of nobody
                    take_off(each)
            asked.clear()
            if origin(request.url or "") != origin(url):
                return None
            learn(token, response)
            if response.status_code not in WORTH_A_LOOK:
                return None
            connection: Any = response.connection
            return answer_401(self._source, token, response, lambda again: connection.send(again, **settings))

        request.hooks["response"] = [answered, *request.hooks.get("response", ())]
        return request
