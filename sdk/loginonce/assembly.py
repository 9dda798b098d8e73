"""What settings stand for: the provider that they name, and the source of its tokens.

Neither needs requests, or anything that speaks to a provider, until one is asked: who finds a token in the store asks
nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .config import Settings
from .home import state_folder
from .model import Client, GrantKey, scope_set
from .source import LoginSource
from .stores.base import TokenStore
from .stores.opening import open_store

if TYPE_CHECKING:
    from .client import Issuer
    from .transport import Route

__all__ = ["provider_of", "source_of"]


def source_of(
    made: Settings,
    hint: str,
    *,
    store: TokenStore | None = None,
    provider: Callable[[], Issuer] | None = None,
) -> LoginSource:
    """The tokens of that login, from the store that the settings name unless one is given.

    `hint`: see `LoginSource`.  `provider` makes whom it asks; by default that is `provider_of`, reached as the
    settings alone say.
    """
    return LoginSource(
        GrantKey(made.issuer, made.client_id, made.account),
        store or open_store(made.store),
        provider or (lambda: provider_of(made)),
        policy=made.policy,
        scope=scope_set(made.scope),
        resource=made.resource.partition(" ")[0],
        renewal="client_credentials" if made.grant == "client_credentials" else "refresh_token",
        hint=hint,
        dpop=made.dpop,
    )


def provider_of(made: Settings, route: Callable[[], Route] | None = None) -> Issuer:
    """Whom that login is at; `route` says how to get there (default: with the client's certificate, if it has one)."""
    # Imported here: see above.
    from .client import Discovery, Provider
    from .transport import Route, Transport

    transport = Transport(route or (lambda: Route(cert=made.cert)))
    client = Client(
        made.client_id,
        made.client_secret,
        made.token_endpoint_auth_method,
        (made.redirect_uri,) if made.redirect_uri else (),
        made.private_key,
        tuple(filter(None, (made.certificate, made.certificate_key))),
        made.token_endpoint_auth_signing_alg,
        made.assertion_audience,
    )
    if made.backend:
        from .backend import Backend
        from .manners import read_manners

        return Backend(made.issuer, read_manners(made.backend, made.issuer, "the session"), client, transport)
    discovery = Discovery(made.issuer, made.server, state_folder() / "servers", dialect=made.dialect)
    return Provider(discovery, client, transport, dpop=made.dpop)
