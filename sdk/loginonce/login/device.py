"""Signing in on another device (RFC 8628): a link, a code to compare, and patience."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..client import Provider
from ..errors import ErrorResponse, LoginFailed, TransportError
from ..model import Secret
from ..wire import DeviceAuthorization
from .flow import Prompt, SignedIn, Waiter, first

__all__ = ["DeviceFlow"]

LONGEST_INTERVAL = 60.0
"""Seconds between two questions, however often the provider says "slow down"."""


@dataclass(slots=True)
class DeviceFlow:
    """The device flow.  `resource` may be several, separated by spaces.  `asks` are further parameters of the request.
    `timeout` (seconds) is our own deadline: some servers say "pending" for ever.
    """

    provider: Provider
    scope: str = ""
    resource: str = ""
    timeout: float = 600.0
    asks: Mapping[str, str] = field(default_factory=dict)
    _device: DeviceAuthorization | None = field(default=None, init=False)
    _code_verifier: Secret = field(default=Secret(""), init=False)
    _deadline: float = field(default=0.0, init=False)

    def begin(self) -> Prompt:
        """Ask for a code."""
        self._device = device = self._authorization()
        patience = min(self.timeout, device.expires_in)
        self._deadline = time.monotonic() + patience
        return Prompt(
            "device",
            self.provider.server.issuer,
            self.provider.client.client_id,
            url=device.verification_uri,
            expires_at=time.time() + patience,
            user_code=device.user_code,
            url_complete=device.verification_uri_complete,
        )

    def _authorization(self) -> DeviceAuthorization:
        try:
            return self.provider.device_authorization(scope=self.scope, resource=self.resource, **self.asks)
        except ErrorResponse as error:
            methods = self.provider.server.code_challenge_methods_supported
            if error.error != "invalid_request" or "S256" not in methods:
                raise
        # Where a client has to use PKCE some want it here too, of which RFC 8628 says nothing: Keycloak does.
        # Imported here: importing loginonce must not cost what importing authlib does.
        from authlib.common.security import generate_token
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        self._code_verifier = Secret(generate_token(64))
        return self.provider.device_authorization(
            scope=self.scope,
            resource=self.resource,
            code_challenge=create_s256_code_challenge(self._code_verifier),
            code_challenge_method="S256",
            **self.asks,
        )

    def finish(self, wait: Waiter) -> SignedIn:
        """Ask until there is an answer.  A network that is away for a while ends nothing (RFC 8628 §3.5)."""
        assert self._device is not None
        interval = self._device.interval
        trouble = ""
        while (left := self._deadline - time.monotonic()) > 0:
            wait(min(interval, left), trouble=trouble)
            trouble = ""
            asked_at = time.time()
            try:
                answer = self.provider.device_token(
                    self._device.device_code, resource=first(self.resource), code_verifier=self._code_verifier
                )
            except TransportError as error:
                trouble = str(error)
                interval = min(LONGEST_INTERVAL, interval * 1.5)
            except ErrorResponse as error:
                if error.error == "slow_down":
                    interval = min(LONGEST_INTERVAL, interval + 5)  # for this and all later questions
                elif error.error != "authorization_pending" and not (error.status >= 500 or error.status == 429):
                    raise _failed(error) from None
                elif error.error != "authorization_pending":
                    trouble = str(error)
            else:
                return SignedIn(answer, asked_at, self.provider.identify(answer))
        raise LoginFailed(
            "nobody confirmed the sign-in in time",
            outcome="timed_out",
            hint="Begin again, and open the link within a few minutes.",
        )

    def close(self) -> None:
        """Nothing is open."""


def _failed(error: ErrorResponse) -> LoginFailed:
    if error.error == "access_denied":
        return LoginFailed("the sign-in was denied at the provider", outcome="denied", hint="Begin again to retry.")
    if error.error == "expired_token":
        return LoginFailed(
            "the code ran out before anybody confirmed it", outcome="timed_out", hint="Begin again to get a new code."
        )
    return LoginFailed(
        f"the provider ended the sign-in: {error}",
        outcome="rejected",
        hint="Begin again; if it stays so, ask the provider's operators whether this client may use device codes.",
    )
