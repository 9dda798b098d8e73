"""The public API as a typed program uses it.  Never run: mypy reads it."""

from typing import assert_type

import requests

import loginonce
from loginonce import (
    Account,
    Change,
    FileStore,
    LoggedOut,
    LoginSource,
    MemoryStore,
    Policy,
    Session,
    TokenSet,
    TokenSource,
)


class Fixed:
    """A source of somebody else's."""

    def token(self, *, rejected: TokenSet | None = None) -> TokenSet:
        raise loginonce.LoginRequired("none", reason="expired", hint="sign in")


def notice(change: Change) -> None:
    assert_type(change.account, Account | None)
    if change.kind == "ended":
        assert_type(change.hint, str)


def by_name() -> None:
    Session("google", client_id="notebook")
    Session("entra", tenant="11111111-2222-3333-4444-555555555555", client_id="notebook")
    Session(
        provider="keycloak", host="id.example.org", realm="lab", client_id="notebook", dialect={"rotation": "always"}
    )


def program() -> None:
    lab = Session(
        "https://id.example.org",
        client_id="notebook",
        scope="openid",
        store=FileStore("/tmp/x"),
        origins=["https://files.example.org"],
        server={"token_endpoint": "https://id.example.org/token"},
        policy=Policy(window=60, lost="login"),
    )
    Session("lab", store="memory:")
    Session("https://shop.example.org", backend={"login": "/auth/login", "refused": [401]})
    Session("lab", store=MemoryStore())
    assert_type(lab.login(), Account)
    assert_type(lab.login("device", force=True, timeout=60), Account)
    lab.login(username="ada", password="…")
    lab.login(tokens={"access_token": "a", "expires_in": 60})
    assert_type(lab.account, Account | None)
    assert_type(lab.get("https://api.example.org"), requests.Response)
    assert_type(lab.logged_in, bool)
    stop = lab.on_change(notice)
    assert_type(stop(), None)
    with lab.keep_fresh() as kept:
        kept.stop()
    assert_type(lab.logout(), LoggedOut)
    assert_type(lab.logout().revoked, bool)
    assert_type(lab.source, LoginSource)
    source: TokenSource = lab.source
    assert_type(source.token(), TokenSet)
    source = Fixed()
    requests.get("https://api.example.org", auth=lab.auth, timeout=5)
    plain: requests.Session = lab
    plain.close()


def errors() -> None:
    try:
        program()
    except loginonce.LoginRequired as error:
        assert_type(error.hint, str)
        if error.reason == "expired":
            pass
    except loginonce.TransportError as error:
        assert_type(error.retry_after, float | None)
    except loginonce.ErrorResponse as error:
        assert_type(error.error, str)
        assert_type(error.status, int)
    except TimeoutError:
        pass


def mistakes() -> None:
    """Each of these is one, and is found (`--warn-unused-ignores` tells of one that is not)."""
    Policy(lost="never")  # type: ignore[arg-type]
    Session("lab", policy={"window": 1})  # type: ignore[arg-type]
    TokenSet("plain", 0.0)  # type: ignore[arg-type]
    Session("lab").on_change(print)
    Session("lab").on_change(lambda: None)  # type: ignore[arg-type, misc]
    Session("lab").source = Fixed()  # type: ignore[assignment]
    raise loginonce.LoginRequired("x", reason="because")  # type: ignore[arg-type]
