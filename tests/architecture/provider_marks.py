"""A plug-in that writes down which tests fill which cells of the README's table of providers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Name, cell and whether it is tried with a real server, for each mark of each test."""
    found = sorted(
        {
            (mark.args[0], cell, item.get_closest_marker("real") is not None)
            for item in session.items
            for mark in item.iter_markers("provider")
            for cell in mark.args[1:]
        }
    )
    Path(os.environ["PROVIDER_MARKS"]).write_text(json.dumps(found), "utf-8")
