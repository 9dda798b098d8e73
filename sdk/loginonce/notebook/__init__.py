"""Signing in where outputs are rich: the prompt in a notebook's cell, and a card for panels, apps and Voila.

`html` is the one look of both.  The card needs the extra `notebook` (ipywidgets); the prompt needs nothing, and
shows a QR code beside the link where segno is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .presenter import NotebookPresenter

if TYPE_CHECKING:
    from .widget import LoginWidget

__all__ = ["LoginWidget", "NotebookPresenter"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the prompt in a cell works without ipywidgets.
    if name != "LoginWidget":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .widget import LoginWidget
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "ipywidgets":
            raise
        raise ImportError(
            "LoginWidget needs ipywidgets, which is not installed: pip install 'loginonce[notebook]'"
        ) from None
    return LoginWidget
