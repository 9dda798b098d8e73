"""A fake authorization server and API for tests, over real HTTP on loopback.

>>> from loginonce.testing import FakeProvider, Fault, Grace
>>> with FakeProvider(grace=Grace.sibling(30)) as provider:
...     provider.faults.add(Fault.drop_after())
...     ...  # run a client against provider.issuer, then look at provider.stats

The server speaks OAuth 2.0 and OpenID Connect through Authlib's server side, and imports nothing else of
loginonce: it is a judge of the SDK, so it must not share the SDK's mistakes. Needs the extra `testing`
(Flask). Nothing is imported before the first use of a name, because the pytest plugin that lives here is
loaded at every start of pytest.

How it is built, from the inside out: `behaviour` (the knobs, and `likenesses` of providers), `state` (grants
and families, pure), `idtoken` (keys and ID tokens), `grants` (Authlib, tied to the state), `app`, `pages`, `api`,
`backend` (the end points), `faults` and `wire` (HTTP, and answers that get lost), `events` (what was seen),
`browser` (the scripted human), and `provider` (the class that holds them together).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loginonce.testing.behaviour import Behaviour, Grace
    from loginonce.testing.browser import PageRefusedError
    from loginonce.testing.events import Event, Stats, fingerprint
    from loginonce.testing.faults import Fault, Faults
    from loginonce.testing.provider import FakeProvider

__all__ = [
    "Behaviour",
    "Event",
    "FakeProvider",
    "Fault",
    "Faults",
    "Grace",
    "PageRefusedError",
    "Stats",
    "fingerprint",
]

_HOME = {
    "Behaviour": "behaviour",
    "Event": "events",
    "FakeProvider": "provider",
    "Fault": "faults",
    "Faults": "faults",
    "Grace": "behaviour",
    "PageRefusedError": "browser",
    "Stats": "events",
    "fingerprint": "events",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
