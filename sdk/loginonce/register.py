"""Becoming a provider's client without anybody's help (RFC 7591), and keeping what it gave where only we read it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .client import BUDGET, Provider
from .errors import ConfigurationError, StoreError
from .home import state_folder
from .model import Members, Secret
from .registration import Registration, judge_registration, registration_request
from .stores.file import read_private, write_private
from .transport import Transport
from .wire import DEVICE_CODE_GRANT_TYPE

__all__ = ["register", "registered_secret", "save_registration"]


def register(
    provider: Provider,
    *,
    client_name: str,
    redirect_uris: tuple[str, ...],
    scope: str = "",
    confidential: bool = False,
    initial_access_token: Secret | None = None,
    transport: Transport | None = None,
) -> Registration:
    """Have a provider take us as a client: a native application that signs people in, and renews.

    `confidential`: with a secret of its own.  `initial_access_token`: lets us in where not everybody may.
    Nothing is kept; `save_registration` does that.  Raises `TransportError`, `ProtocolError`, `ErrorResponse`, and
    `ConfigurationError` where the provider registers nobody.
    """
    server = provider.server
    if not server.registration_endpoint:
        raise ConfigurationError(
            f"{server.issuer} registers no clients by itself: have its operators do it, and use --client-id"
        )
    offered = server.grant_types_supported
    grants = ["authorization_code", "refresh_token"]
    if server.device_authorization_endpoint and (not offered or DEVICE_CODE_GRANT_TYPE in offered):
        grants.append(DEVICE_CODE_GRANT_TYPE)
    body = registration_request(
        client_name=client_name,
        redirect_uris=redirect_uris,
        grant_types=tuple(grants),
        scope=scope,
        confidential=confidential,
    )
    headers = {"Content-Type": "application/json"}
    if initial_access_token is not None:
        headers["Authorization"] = Secret(f"Bearer {initial_access_token}")
    answer = (transport or Transport()).post(server.registration_endpoint, body, headers, budget=BUDGET)
    return judge_registration(answer)


def save_registration(issuer: str, made: Registration) -> Path:
    """Keep the provider's whole answer in a file that is ours alone.  Raises `ConfigurationError`."""
    path = _path(issuer, made.client.client_id)
    try:
        write_private(str(path), json.dumps(dict(made.members), default=str).encode())
    except (OSError, StoreError) as error:
        raise ConfigurationError(f"the registration at {issuer} cannot be saved: {error}") from None
    return path


def registered_secret(issuer: str, client_id: str) -> Secret | None:
    """The secret of a client that was registered from here, if it has one."""
    try:
        found = read_private(str(_path(issuer, client_id)))
        secret = Members(json.loads(found[0])).get("client_secret") if found else None
    except (OSError, ValueError, TypeError, RecursionError, StoreError):
        return None
    return Secret(secret) if isinstance(secret, str) and secret else None


def _path(issuer: str, client_id: str) -> Path:
    digest = hashlib.sha256(f"{issuer.rstrip('/')}\n{client_id}".encode()).hexdigest()[:24]
    return state_folder() / "clients" / f"{digest}.json"
