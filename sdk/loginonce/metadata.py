"""What a provider says of itself: its discovery documents, read (OIDC Discovery §3, RFC 8414 §2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .address import secure
from .errors import ConfigurationError, ProtocolError
from .model import AuthorizationServer
from .wire import for_people

__all__ = ["metadata_urls", "read_metadata"]


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where the two documents are: OIDC Discovery §4, and RFC 8414 §3 (well-known part before the path)."""
    from authlib.oauth2.rfc8414 import get_well_known_url

    openid = issuer.rstrip("/") + "/.well-known/openid-configuration"
    return openid, get_well_known_url(issuer.rstrip("/"), external=True)


def read_metadata(
    issuer: str, documents: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any]
) -> AuthorizationServer:
    """The server as its documents describe it, the first that has a member deciding, overrides before all.

    Raises `ProtocolError` where a document is another issuer's (RFC 8414 §3.3), `ConfigurationError` for an
    override that is no member or an end point that is neither https nor loopback.
    """
    known = set(AuthorizationServer.__match_args__)
    if unknown := set(overrides) - (known - {"issuer"}):
        raise ConfigurationError(f"{', '.join(sorted(unknown))}: no such server metadata; RFC 8414 names are meant")
    for document in documents:
        named = document.get("issuer")
        if not isinstance(named, str) or named.rstrip("/") != issuer.rstrip("/"):
            raise ProtocolError(
                f"the discovery document at {issuer} says that it is of {for_people(named, 200)!r}: use that "
                "as the issuer, if it is the provider you mean"
            )
    for name, value in overrides.items():
        if _member(name, value) is None:
            raise ConfigurationError(f"{name} = {value!r} is not what RFC 8414 has there")
    members: dict[str, Any] = {"issuer": documents[0]["issuer"] if documents else issuer}
    for source in (overrides, *documents):
        for name in known & set(source):
            if name not in members and (value := _member(name, source[name])) is not None:
                members[name] = value
    server = AuthorizationServer(**members)
    for name, value in [*((name, getattr(server, name)) for name in known), *server.mtls_endpoint_aliases.items()]:
        if isinstance(value, str) and value and name.endswith(("_endpoint", "_uri", "issuer")) and not secure(value):
            raise ConfigurationError(
                f"{name} of {issuer} is {value!r}: a provider is reached by https, or on this machine"
            )
    return server


_FLAGS = frozenset({"authorization_response_iss_parameter_supported", "require_pushed_authorization_requests"})
"""Members that are true or not there."""


def _member(name: str, value: object) -> object:
    """A metadata value in the type that it must have, or None."""
    if name in _FLAGS:
        return value is True
    if name == "mtls_endpoint_aliases":
        pairs = value.items() if isinstance(value, Mapping) else ()
        return {end: url for end, url in pairs if isinstance(end, str) and isinstance(url, str)} or None
    if name.endswith("_supported"):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return None
    return value if isinstance(value, str) and value else None
