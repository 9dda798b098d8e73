"""The secrets that really passed between this library and the fake provider, collected at the provider's own door.

Tokens, codes, verifiers, client secrets and passwords: they are looked for in whatever the library leaves behind.
"""

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import parse_qs, quote_plus, urlsplit

import pytest

from loginonce.testing import FakeProvider

PASSWORD = "canary-password-5d1e8b72"
SERVICE_SECRET = "service-secret"
SENT = {"code", "code_verifier", "device_code", "refresh_token", "client_secret", "password", "token"}
ISSUED = {"access_token", "refresh_token", "id_token", "device_code"}
OTHERWISE = {"accessToken": "access_token", "refreshToken": "refresh_token"}  # a JSON back end's names


class Canaries:
    """The secrets that passed the provider's door, by what they are."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {PASSWORD: "password", SERVICE_SECRET: "client_secret"}

    def add(self, kind: str, value: object) -> None:
        if isinstance(value, str) and len(value) >= 8:
            self.known[value] = kind

    def came_in(self, environ: dict[str, Any], body: bytes) -> None:
        for name, values in parse_qs(body.decode(errors="replace")).items():
            if name in SENT:
                self.add(name, values[0])
        with contextlib.suppress(ValueError, AttributeError):
            for name, value in json.loads(body).items():
                if name in SENT:
                    self.add(name, value)
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme == "Basic":
            self.add("Basic credentials", credentials)
        elif scheme:
            self.add("access_token", credentials)

    def went_out(self, answer: Any) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            for name, value in json.loads(answer.body).items():
                if (kind := OTHERWISE.get(name, name)) in ISSUED:
                    self.add(kind, value)
        location = dict(answer.headers).get("Location", "")
        for value in parse_qs(urlsplit(location).query).get("code", []):
            self.add("code", value)

    @property
    def kinds(self) -> set[str]:
        return set(self.known.values())

    def found_in(self, text: str | bytes) -> set[str]:
        """What kinds of secrets show, whole, as the first half of one, or in an encoding."""
        shown = text.decode("latin-1") if isinstance(text, bytes) else text
        found = set()
        for secret, kind in self.known.items():
            half = secret if "." in secret or len(secret) < 20 else secret[: len(secret) // 2]
            coded = base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]
            if any(form in shown for form in (half, quote_plus(half), coded)):
                found.add(kind)
        return found

    @contextlib.contextmanager
    def listening(self) -> Iterator[Self]:
        """Overhear every fake provider in the block."""
        exchange = FakeProvider._exchange

        def overheard(provider: FakeProvider, environ: Any, body: bytes) -> Any:
            self.came_in(environ, body)
            whole = exchange(provider, environ, body)
            self.went_out(whole[0])
            return whole

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeProvider, "_exchange", overheard)
            yield self
