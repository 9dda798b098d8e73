"""How most programs keep a token today, for comparison: do not copy this.

The tokens are in a JSON file that all processes share.  Each reads it at its start, refreshes when it finds its
own copy expired or refused, and writes the file back.  There is no lock, and nobody reads again before sending.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import requests

__all__ = ["LoggedOutError", "Naive"]


class LoggedOutError(Exception):
    """The provider refuses to refresh: a person has to sign in again."""


class Naive:
    """An API client with its own copy of the tokens."""

    def __init__(self, file: str, token_endpoint: str, client_id: str) -> None:
        self._file = Path(file)
        self._token_endpoint = token_endpoint
        self._client_id = client_id
        self._tokens: dict[str, Any] = json.loads(self._file.read_text("utf-8"))
        self._web = requests.Session()

    @property
    def access_token(self) -> str:
        """The token that it uses now."""
        return str(self._tokens["access_token"])

    def get(self, url: str) -> requests.Response:
        """Call the API."""
        if time.time() >= self._tokens["expires_at"]:
            self._refresh()
        response = self._ask(url)
        if response.status_code == 401:
            self._refresh()
            response = self._ask(url)
        return response

    def _ask(self, url: str) -> requests.Response:
        return self._web.get(url, headers={"Authorization": f"Bearer {self.access_token}"}, timeout=10)

    def _refresh(self) -> None:
        answer = self._web.post(
            self._token_endpoint,
            data={
                "grant_type": "refresh_token",
                "client_id": self._client_id,
                "refresh_token": self._tokens["refresh_token"],
            },
            timeout=10,
        )
        if answer.status_code != 200:
            raise LoggedOutError
        tokens = answer.json()
        tokens["expires_at"] = time.time() + tokens["expires_in"]
        self._tokens = tokens
        self._file.write_text(json.dumps(tokens), "utf-8")
