"""How a person, or a secret, makes a login.

Each way is two-phase: `begin()` says what to show, `finish()` waits and brings the tokens.  A terminal, a
notebook and an application share them, and differ only in how they show a `Prompt`.
"""

from .browser import BrowserFlow, PasteFlow
from .choose import choose
from .device import DeviceFlow
from .flow import ClientCredentialsFlow, Handed, HandedFlow, LoginFlow, PasswordFlow, Prompt, SignedIn, Waiter

__all__ = [
    "BrowserFlow",
    "ClientCredentialsFlow",
    "DeviceFlow",
    "Handed",
    "HandedFlow",
    "LoginFlow",
    "PasswordFlow",
    "PasteFlow",
    "Prompt",
    "SignedIn",
    "Waiter",
    "choose",
]
