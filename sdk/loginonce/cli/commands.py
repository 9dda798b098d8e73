"""The commands.  Each finds its session, calls the one method that does the work, and says what came of it."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from ..config import GrantType, Settings, add_profile, profile_name, profiles, set_member, settings
from ..environment import detect
from ..errors import (
    ConfigurationError,
    CorruptStore,
    LoginFailed,
    LoginonceError,
    LoginRequired,
    StoreError,
    TransportError,
)
from ..home import config_file
from ..login.browser import DEFAULT_REDIRECT_URI
from ..login.text import good_for
from ..model import Account, Members, Secret, scope_set
from ..providers import known, names, recognised
from ..session import Session, presenter_here
from ..stores.opening import open_store
from ..text import moment, plain, say
from .token import meant, print_token

if TYPE_CHECKING:
    from ..login.flow import Presenter, Progress
    from ..model import Grant, GrantKey
    from ..source import LoginSource
    from ..stores.base import TokenStore

__all__ = ["run"]

OK, FAILED, USAGE, LOGIN_REQUIRED, UNREACHABLE, INTERRUPTED = 0, 1, 2, 4, 5, 130


# ── from a command line to an exit code ──────────────────────────────────────────────────────────────────


def run(arguments: Sequence[str] | None = None, *, failure: BaseException | None = None) -> int:
    """Run one command line, and return its exit code.  What goes wrong is said in a line or two on stderr.

    `failure`: what came of it, if it was `token` and has been run without click; it is told as if click had run it.
    """
    try:
        if failure is None:
            code = loginonce.main(args=arguments, prog_name="loginonce", standalone_mode=False)
        else:
            failed = click.Command("token", callback=partial(_raise, failure))
            code = failed.main(args=(), prog_name="loginonce token", standalone_mode=False)
    except (LoginonceError, click.ClickException, click.Abort) as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            say(*_lines(error))
        return _code(error)
    except OSError as error:
        say(f"loginonce: {error}")
        return FAILED
    except Exception as error:
        if os.environ.get("LOGINONCE_DEBUG"):
            raise
        # Its message is not shown: nobody has judged what is in it.
        say(
            f"loginonce: an unexpected {type(error).__name__}, which is a fault of this program",
            "Run it again with LOGINONCE_DEBUG=1 to see where, and report that",
        )
        return FAILED
    return code if isinstance(code, int) else OK


def _raise(failure: BaseException) -> NoReturn:
    raise failure


def _code(error: Exception) -> int:
    match error:
        case LoginRequired() | LoginFailed(outcome="no_human"):
            return LOGIN_REQUIRED
        case click.Abort() | LoginFailed(outcome="cancelled"):
            return INTERRUPTED
        case TransportError():
            return UNREACHABLE
        case ConfigurationError() | click.UsageError():
            return USAGE
    return FAILED


def _lines(error: Exception) -> list[str]:
    """The message, and what to do next."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "loginonce"
            return [f"loginonce: {error.format_message()}", f"See: {command} --help"]
        case click.ClickException():
            return [f"loginonce: {error.format_message()}"]
        case click.Abort():
            return ["loginonce: interrupted"]
        case LoginRequired() | LoginFailed():
            return [f"loginonce: {error.args[0]}", *filter(None, [error.hint])]
    return [f"loginonce: {error}"]


# ── which login ──────────────────────────────────────────────────────────────────────────────────────────


def _session(profile: str | None, account: str | None = None) -> Session:
    return _advised(Session(meant(profile), account=account))


def _advised(session: Session) -> Session:
    session.source.hint = f"Run: {session.settings.command}"
    return session


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    with suppress(LoginonceError):
        return [name for name in sorted(profiles()) if name.startswith(incomplete)]
    return []


def _complete_provider(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in names() if name.startswith(incomplete)]


_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
_PROFILE = click.argument("profile", required=False, shell_complete=_complete)
_ACCOUNT = click.option("--account", metavar="NAME", help="Which of several logins at one provider.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="loginonce")
def loginonce() -> None:
    """Log in once: every notebook, script and process stays signed in."""


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────


@loginonce.command()
@_PROFILE
@click.option("--issuer", metavar="ADDRESS", help="The provider's address.")
@click.option("--provider", metavar="NAME", help="A provider that is known by name; see: loginonce providers.")
@click.option("--at", metavar="WHAT=WHERE", multiple=True, help="Where it is, such as --at realm=lab.")
@click.option("--client-id", metavar="ID", help="Who this program is to the provider.")
@click.option("--private-key", type=_FILE, help="The client's private key, as PEM or JWK (private_key_jwt).")
@click.option("--certificate", type=_FILE, help="The client's certificate, for mutual TLS.")
@click.option("--certificate-key", type=_FILE, help="The key of the certificate, if it is not in the same file.")
@click.option("--dpop", is_flag=True, help="Bind the tokens to a key that is kept with the login (RFC 9449).")
@click.option("--scope", metavar="SCOPES", help="What to ask for, separated by spaces.  [default: openid]")
@click.option("--account", metavar="NAME", help="Keeps several logins at one provider apart.")
@click.option("--resource", metavar="ADDRESS", help="The API that the token is for (RFC 8707).")
@click.option("--redirect-uri", metavar="ADDRESS", help="Where the browser comes back, as it is registered.")
@click.option("--store", metavar="ADDRESS", help="Where the login is kept, such as file:/folder.")
@click.option(
    "--grant",
    type=click.Choice([name for name in get_args(GrantType) if name]),
    help="How the login comes about, where no person signs in with a browser.",
)
@click.option("--backend", metavar="JSON", help="How a JSON back end without OAuth speaks; ADDRESS is its base then.")
@click.option("--flow", type=click.Choice(["browser", "device", "paste"]), help="How a person signs in.")
@click.option("--force", is_flag=True, help="Ask even if there is a login.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="How long to wait.")
@click.option("--client-secret-stdin", is_flag=True, help="Read the client's secret from standard input.")
@click.option("--refresh-token-stdin", is_flag=True, help="Take over a login: its refresh token by standard input.")
@click.option("--qr", is_flag=True, help="On a terminal, draw the address to open elsewhere as a QR code too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: pending, …, signed_in or failed.")
def login(profile: str | None, *, as_json: bool, qr: bool, **options: Any) -> None:
    """Sign in, if nobody has yet.

    With --issuer (or --provider) and --client-id a new PROFILE is made of it, once the sign-in has worked.  A
    PROFILE that is called as a provider is one there: loginonce login google --client-id ID.  A secret never comes by
    an option: by standard input, by LOGINONCE_CLIENT_SECRET or LOGINONCE_PASSWORD, or typed where it does not show.
    """
    presenter = _Witness(_JsonPresenter() if as_json else presenter_here(detect(), qr=qr))
    try:
        _login(profile, presenter, as_json=as_json, **options)
    except (LoginonceError, click.ClickException, KeyboardInterrupt, EOFError) as error:
        if as_json:
            failure = error if isinstance(error, Exception) and not isinstance(error, EOFError) else click.Abort()
            _emit(
                "failed",
                error=type(failure).__name__,
                reason=getattr(failure, "reason", None) or getattr(failure, "outcome", None),
                message=" ".join(_lines(failure)).removeprefix("loginonce: "),
                exit_code=_code(failure),
            )
        elif isinstance(error, LoginonceError) and presenter.told(error):
            raise click.exceptions.Exit(_code(error)) from None
        raise


def _login(
    profile: str | None,
    presenter: _Witness,
    *,
    as_json: bool,
    flow: str | None,
    force: bool,
    timeout: float | None,
    client_secret_stdin: bool,
    refresh_token_stdin: bool,
    backend: str | None,
    provider: str | None,
    at: tuple[str, ...],
    **given: Any,
) -> None:
    asked: dict[str, Any] = {name: value for name, value in given.items() if value}
    if backend:
        asked["backend"] = _table(backend)
    if provider is None and "issuer" not in asked and profile in names() and profile not in profiles():
        provider = profile
    asked |= _placed(provider, at, asked.get("issuer"))
    if client_secret_stdin and refresh_token_stdin:
        raise click.UsageError("only one secret comes by standard input; the other by LOGINONCE_CLIENT_SECRET")
    new = _is_new(profile, asked)
    if not new:
        _refuse_other_settings(profile, asked)
    if client_secret_stdin:
        asked["client_secret"] = _secret("Client secret")
    session = _session_for(profile, asked, new=new)
    made, source = session.settings, session.source
    source.hint = f"Run: {made.command}"
    if new and profile:
        source.hint = f"Run: {made.command.replace(' login ', f' login {profile} ', 1)}"
        made = replace(made, profile=profile)
    before = _before(source)
    account = session.login(
        flow,
        force=force,
        timeout=timeout,
        presenter=presenter,
        **_credentials(session, force=force, refresh_token_stdin=refresh_token_stdin),
    )
    if refresh_token_stdin:
        source.token()  # spend it now, while somebody is there to hear that it is not good
        account = session.account or account
    after = source.grant()
    if new:
        say(f"The profile {made.profile!r} is saved in {add_profile(made)}")
    already = before is not None and after is not None and before.epoch == after.epoch
    if as_json:
        _emit("signed_in", **_described(account, made), already=already)
    if as_json or not presenter.told(account):
        say(_news("Already signed in" if already else "Signed in", account, made))
    if client_secret_stdin:
        say("The client secret is not saved: programs that renew this login need it as LOGINONCE_CLIENT_SECRET")


def _table(backend: str) -> Members:
    """Raises `click.UsageError` for what is no JSON object."""
    try:
        table = json.loads(backend)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise click.UsageError('--backend has to be a JSON object, such as \'{"login": "/auth/login"}\'')
    return Members(table)


def _placed(provider: str | None, at: tuple[str, ...], issuer: str | None) -> dict[str, str]:
    """What a provider's name, and where it is, say of its issuer; and the name, where the issuer does not tell."""
    if provider is None:
        if at:
            raise click.UsageError("--at says where a provider is: name it too, by --provider")
        return {}
    if at and issuer:
        raise click.UsageError("--at and --issuer both say where the provider is")
    pairs = [pair.partition("=") for pair in at]
    if odd := [name for name, equals, _ in pairs if not equals]:
        raise click.UsageError(f"--at {odd[0]} has no value: write --at {odd[0]}=…")
    found = issuer or known(provider).at({name: value for name, _, value in pairs})
    named = {} if recognised(found).name == known(provider).name else {"provider": provider}
    return {"issuer": found, **named}


def _is_new(profile: str | None, asked: dict[str, Any]) -> bool:
    """Whether this sign-in makes a profile."""
    if profile is None or "://" in profile or not asked.get("issuer") or profile in profiles():
        return False
    profile_name(profile)
    return True


def _refuse_other_settings(profile: str | None, asked: dict[str, Any]) -> None:
    """A profile says in one place what it is: an option that says otherwise is a misunderstanding."""
    if not asked or (profile is None and "issuer" in asked):
        return
    name = meant(profile)
    if name is None or "://" in name:
        if name is not None and "issuer" in asked:
            raise click.UsageError(f"two issuers are given: {name} and {asked['issuer']}")
        return
    there = settings(name)
    asked = {option: value for option, value in asked.items() if option != "account"}  # it has several
    present = {option: there.dialect.name if option == "provider" else getattr(there, option) for option in asked}
    other = [option for option, value in asked.items() if not _same(option, value, present[option])]
    if other:
        told = ", ".join(f"{option} = {present[option]!r}" for option in other)
        raise click.UsageError(
            f"the profile {name!r} has {told}: edit it in {config_file()}, or make one of another name"
        )


def _same(option: str, given: Any, there: Any) -> bool:
    match option:
        case "scope":
            return scope_set(given) == scope_set(there)
        case "issuer":
            return bool(given.rstrip("/") == there)
    return bool(given == there)


def _session_for(profile: str | None, asked: dict[str, Any], *, new: bool) -> Session:
    others: dict[str, Any] = {name: value for name, value in asked.items() if name != "issuer"}
    if "issuer" in asked and (new or profile is None):
        settings(**asked)  # or it says here what is wrong with them
        return Session(asked["issuer"], **others)
    return Session(meant(profile), **others)


def _credentials(session: Session, *, force: bool, refresh_token_stdin: bool) -> dict[str, Any]:
    """What the sign-in needs besides a person's consent, if anything."""
    if refresh_token_stdin:
        return {"tokens": {"refresh_token": _secret("Refresh token")}}
    if session.settings.grant != "password" or sys.stdin.isatty() or (not force and _signed_in(session)):
        return {}
    username, password = session.settings.credentials()
    if password is not None:
        return {}
    if not username:
        raise click.UsageError("whose password is it?  Name the person: --account NAME, or LOGINONCE_USERNAME")
    return {"username": username, "password": _secret("Password")}


def _before(source: LoginSource) -> Grant | None:
    try:
        return source.grant()
    except CorruptStore as error:
        say(str(error))  # a new sign-in takes its place
        return None


def _signed_in(session: Session) -> bool:
    try:
        session.source.token()
    except LoginRequired:
        return False
    return True


def _secret(what: str) -> str:
    """A secret that is typed without showing, or the first line of standard input."""
    typed = sys.stdin.isatty()
    value = (getpass.getpass(f"{what} (it does not show): ") if typed else sys.stdin.readline()).strip()
    if not value:
        raise click.UsageError(f"no {what.lower()} came by standard input")
    return value


class _Witness:
    """Hands a sign-in on to the presenter, and keeps in mind how it ended, so that it is said once."""

    def __init__(self, presenter: Presenter) -> None:
        self._presenter = presenter
        self._last: Progress | None = None

    def show(self, progress: Progress) -> None:
        """Hand it on."""
        self._presenter.show(progress)
        self._last = progress

    def told(self, end: Account | LoginonceError) -> bool:
        """Whether the presenter has said so: it does where somebody was asked."""
        last = self._last
        return last is not None and last.prompt is not None and (last.account is end or last.error is end)


class _JsonPresenter:
    """Shows the prompt to a program, which shows it to its person."""

    def show(self, progress: Progress) -> None:
        """One line; how it ended is told by the next."""
        prompt = progress.prompt
        if prompt is None or progress.state in ("signed_in", "failed"):
            return
        _emit(
            progress.state,
            kind=prompt.kind,
            issuer=prompt.issuer,
            client_id=prompt.client_id,
            url=prompt.url,
            url_complete=prompt.url_complete or None,
            user_code=prompt.user_code or None,
            expires_at=prompt.expires_at,
            detail=progress.detail or None,
        )


def _emit(event: str, **members: Any) -> None:
    print(json.dumps({"event": event, **members}), flush=True)


def _described(account: Account, made: Settings) -> dict[str, Any]:
    return {
        "profile": made.profile or None,
        "issuer": made.issuer,
        "client_id": made.client_id,
        "subject": account.subject,
        "name": account.name,
        "expires_at": account.expires_at,
        "renews": account.renews,
    }


def _news(what: str, account: Account, made: Settings) -> str:
    who = account.name or account.subject or f"the client {made.client_id}"
    return f"{what} as {plain(who)} at {account.issuer}{good_for(account)}"


# ── using a login ────────────────────────────────────────────────────────────────────────────────────────


@loginonce.command()
@_PROFILE
@_ACCOUNT
@click.option("--resource", default="", metavar="ADDRESS", help="The API that it is for, of those the login is for.")
@click.option("--for-scope", "scope", default="", metavar="SCOPES", help="For no more than that.")
def token(profile: str | None, *, account: str | None, resource: str, scope: str) -> None:
    """Print an access token that is good now, and nothing else.

    It is renewed first if need be.  Nobody is ever asked: where a person has to sign in, nothing is printed and
    the exit code is 4.
    """
    print_token(profile, account=account, resource=resource, scope=scope)


@loginonce.command()
@_PROFILE
@_ACCOUNT
def refresh(profile: str | None, *, account: str | None) -> None:
    """Renew the access token now, however long it would be good."""
    session = _session(profile, account)
    renewed = session.source.renew()
    until = f"; good until {moment(renewed.expires_at, time.time())}" if renewed.expires_at is not None else ""
    say(f"Renewed the login for {session.source.key}{until}")


@loginonce.command()
@_PROFILE
@_ACCOUNT
def logout(profile: str | None, *, account: str | None) -> None:
    """End the login for every program that shares it, and revoke it at the provider."""
    session = _session(profile, account)
    if session.account is None:
        say(f"Nobody was signed in to {session.source.key}")
        return
    revoked, end_session_url = session.logout()
    say(f"Signed out of {session.source.key}")
    if not revoked:
        say("The provider has not confirmed that it ended the login: a copied token may work until it expires")
        if page := session.settings.dialect.withdraw:
            say(f"To take back what was granted, open {page}")
    if end_session_url:
        say(f"The browser may still be signed in; to end that too, open {end_session_url}")


@loginonce.command()
@_PROFILE
@_ACCOUNT
@click.option("--to", "address", metavar="ADDRESS", required=True, help="The other store, such as keyring: or file:/x.")
@click.option("--from", "origin", metavar="ADDRESS", help="The store it is in now (default: that of PROFILE).")
def move(profile: str | None, *, account: str | None, address: str, origin: str | None) -> None:
    """Move a login to another store, without a new sign-in.

    At no moment can two stores spend it.  If anything comes between, run the same command again.  PROFILE uses the
    other store from then on; programs that name the old one are told where it went.  An address without its
    password gets that which LOGINONCE_STORE has for the same store.
    """
    # Imported here, as below: no other command needs it.
    from ..stores.move import move as moved

    session = _session(profile, account)
    made, key = session.settings, session.source.key
    target = open_store(address)
    source = session.source.store if origin is None else open_store(origin)
    if origin is None and source.identity == target.identity:
        # LOGINONCE_STORE says where it is to be, as it has to where that needs a password: it is where it was before.
        usual = open_store("")
        source = usual if usual.peek(key).grant is not None else source
    was_moved = moved(key, source, target)
    say(f"{'Moved' if was_moved else 'It had been moved already:'} the login for {key} to {target.identity}")
    if made.profile:
        say(f"The profile {made.profile!r} in {set_member(made.profile, 'store', address)} uses it there")
    else:
        say("Programs that use it there name that store, or have it in LOGINONCE_STORE")
    if source.identity != target.identity:
        _tell_of_others(key, source)


def _tell_of_others(key: GrantKey, source: TokenStore) -> None:
    """A profile has one store: its other accounts have to come along, too."""
    with suppress(StoreError):  # the login was moved all the same
        for other in sorted(source.grants(), key=lambda grant: grant.key.account):
            alike = replace(other.key, account=key.account) == key
            if alike and other.key != key and other.state in ("ACTIVE", "SPENDING"):
                account = plain(other.key.account) or "(unnamed)"
                say(f"The account {account} is still in {source.identity}: move it with --account and --from, too")


@loginonce.command()
@_PROFILE
@click.option("--new-key", is_flag=True, help="Make a new key first; the others still open what they have sealed.")
def seal(profile: str | None, *, new_key: bool) -> None:
    """Seal all logins of a store anew, with the first of its keys.

    That is the store of PROFILE, whose address says where the keys are: seal=keyring, seal=env or seal=file:/path.
    """
    from ..stores.sealed import SealedStore

    store = _session(profile).source.store
    if not isinstance(store, SealedStore):
        raise click.UsageError("this store is not sealed: seal it with loginonce move --to 'ADDRESS?seal=keyring'")
    if new_key:
        say(f"The new key is called {store.new_key()}")
    say(f"Sealed anew: {store.reseal_all()}")


@loginonce.command()
@_PROFILE
@_ACCOUNT
@click.option("--all", "everything", is_flag=True, help="All profiles, all their accounts, and logins without one.")
@click.option("--json", "as_json", is_flag=True, help="Always one JSON object; no token in it.")
def status(profile: str | None, *, account: str | None, everything: bool, as_json: bool) -> int:
    """Say who is signed in, as far as it is known here; nobody is asked.

    Without PROFILE: the one that is meant, or all where several could be.
    """
    try:
        return _status(profile, account, everything=everything, as_json=as_json)
    except (LoginonceError, click.ClickException, OSError) as error:
        if as_json:
            print(json.dumps({"logins": [], "error": " ".join(_lines(error)).removeprefix("loginonce: ")}))
        raise


def _status(profile: str | None, account: str | None, *, everything: bool, as_json: bool) -> int:
    # Imported here: `token` needs none of it.
    from ..standing import all_standings, standing_of

    if (profile or account) and everything:
        raise click.UsageError("name a profile or an account, or say --all, not both")
    now = time.time()
    if not everything and profile is None and account is None:
        named = os.environ.get("LOGINONCE_PROFILE") or os.environ.get("LOGINONCE_ISSUER")
        everything = not named and len(profiles()) != 1
    standings = list(all_standings(now)) if everything else [standing_of(meant(profile), now, account=account)]
    if as_json:
        print(json.dumps({"logins": [standing.json() for standing in standings], "error": None}, indent=2))
    else:
        print("\n\n".join("\n".join(standing.text(now)) for standing in standings), end="\n" if standings else "")
        if not standings:
            say("Nobody is signed in, and there is no profile yet")
    if everything:
        return OK
    return {"login_required": LOGIN_REQUIRED, "retry_later": UNREACHABLE, "error": FAILED}.get(standings[0].state, OK)


@loginonce.command()
@_PROFILE
@click.option("--offline", is_flag=True, help="Do not ask the provider.")
@click.option("--json", "as_json", is_flag=True, help="Always one JSON object; no secret in it.")
def doctor(profile: str | None, *, offline: bool, as_json: bool) -> int:
    """Say what is wrong with a login, or with this machine, and what to do.

    Nobody is asked to sign in, and no login is renewed or changed.  Exits with 0 (all is well), 1 (something has to
    be mended), 4 (a person has to sign in) or 5 (the provider cannot be reached, or asks to wait).
    """
    # Imported here: no other command needs it.
    from ..doctor import examine
    from .report import report

    diagnosis = examine(profile, offline=offline)
    code = {"well": OK, "wrong": FAILED, "login_required": LOGIN_REQUIRED, "unreachable": UNREACHABLE}[
        diagnosis.outcome
    ]
    if as_json:
        print(json.dumps({**diagnosis.json(), "exit_code": code}, indent=2))
        return code
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 100
    icons = terminal and _can_show("✓✗·→")
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print("\n".join(report(diagnosis, width=width, icons=icons, colour=colour)))
    return code


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@loginonce.command("profiles")
def list_profiles() -> None:
    """Name the profiles, one a line, each with its issuer and client."""
    found = profiles()
    rows = [
        (name, str(made.get("issuer") or made.get("provider", "")), str(made.get("client_id", "")))
        for name, made in sorted(found.items())
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        print("  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        say("There is no profile yet.  Make one with: loginonce login NAME --issuer ADDRESS --client-id ID")


@loginonce.command("providers")
@click.argument("name", required=False, shell_complete=_complete_provider)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, or a list of them.")
def list_providers(name: str | None, *, as_json: bool) -> None:
    """Name the providers that are known, or say what is known of one, from where, and how its profile looks."""
    # Imported here: no other command needs it.
    from .facts import facts

    found = [known(each) for each in ([name] if name else names())]
    if as_json:
        told = [asdict(dialect) for dialect in found]
        print(json.dumps(told[0] if name else told, indent=2))
    elif name:
        print("\n".join(facts(found[0], width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 100)))
    else:
        for dialect in found:
            print(f"{dialect.name:<10}  {dialect.title}")


# ── accounts, and whether they are alive ─────────────────────────────────────────────────────────────────


@loginonce.command()
@_PROFILE
@click.argument("account", required=False)
def switch(profile: str | None, account: str | None) -> None:
    """Choose which ACCOUNT of a PROFILE programs use that name none; without ACCOUNT, name those there are.

    Programs that run already stay with the one that they began with.
    """
    from ..standing import all_standings

    name = meant(profile)
    if name is None or name not in profiles():
        raise click.UsageError("accounts are switched in a profile: name one of " + ", ".join(sorted(profiles())))
    chosen = settings(name).account
    there = {standing.account: standing for standing in all_standings(time.time()) if standing.profile == name}
    if account is None:
        for each, standing in sorted(there.items()):
            who = plain(standing.name or standing.subject or standing.state.replace("_", " "))
            print(f"{'*' if each == chosen else ' '} {plain(each) or '(unnamed)'}  {who}")
        return
    if account not in there:
        raise click.UsageError(
            f"nobody has signed in as {account!r}: do it with loginonce login {name} --account {shlex.quote(account)}"
        )
    say(f"The profile {name!r} in {set_member(name, 'account', account)} means {account or 'the unnamed account'} now")


@loginonce.command()
@_PROFILE
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(profile: str | None, *, account: str | None, as_json: bool) -> int:
    """Ask the provider whether a login is still alive; it is not changed by the answer.

    Exits with 0 (it is), 4 (a person has to sign in) or 5 (the provider does not say).
    """
    session = _session(profile, account)
    said = session.check()
    if as_json:
        print(json.dumps(said._asdict()))
    else:
        word = {True: "alive", False: "ended", None: "not known"}[said.active]
        how = f", by {said.by}" if said.by else ""
        say(f"The login for {session.source.key}: {word}{how}{f' ({plain(said.detail)})' if said.detail else ''}")
    return {True: OK, False: LOGIN_REQUIRED, None: UNREACHABLE}[said.active]


@loginonce.command()
@click.argument("profile")
@click.option("--issuer", metavar="ADDRESS", required=True, help="The provider's address.")
@click.option("--scope", default="openid", show_default=True, metavar="SCOPES", help="What logins will ask for.")
@click.option("--redirect-uri", metavar="ADDRESS", help="Where the browser comes back.  [default: this machine]")
@click.option("--client-name", default="loginonce", metavar="NAME", help="What people are shown who sign in.")
@click.option("--confidential", is_flag=True, help="With a secret, which is kept in a file that only you can read.")
@click.option("--initial-access-token-stdin", is_flag=True, help="Read the token that lets us in from standard input.")
def register(profile: str, *, initial_access_token_stdin: bool, **given: Any) -> None:
    """Have a provider take this machine as its client, and make a PROFILE of it (RFC 7591).

    For providers that offer it: no one has to make a client there first.
    """
    from ..register import register as registered
    from ..register import save_registration

    if profile_name(profile) in profiles():
        raise click.UsageError(f"there is a profile {profile!r} already: choose another name")
    token = Secret(_secret("Initial access token")) if initial_access_token_stdin else None
    redirect_uri = given["redirect_uri"] or DEFAULT_REDIRECT_URI
    asking = Session(given["issuer"], client_id="-", scope=given["scope"])
    made = registered(
        asking.source.oauth,
        client_name=given["client_name"],
        redirect_uris=(redirect_uri,),
        scope=given["scope"],
        confidential=given["confidential"],
        initial_access_token=token,
    )
    save_registration(asking.settings.issuer, made)
    saved = replace(
        asking.settings,
        client_id=made.client.client_id,
        token_endpoint_auth_method=made.client.token_endpoint_auth_method,
        redirect_uri=given["redirect_uri"] or "",
        profile=profile,
    )
    say(f"The profile {profile!r} is saved in {add_profile(saved)}: sign in with loginonce login {profile}")


# ── seeing it work ───────────────────────────────────────────────────────────────────────────────────────


@loginonce.command()
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Processes.")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=26, show_default=True, help="How long.")
@click.option(
    "--lifetime", type=click.IntRange(1, 600), default=2, show_default=True, help="Of an access token, in seconds."
)
@click.option("--without-lock", is_flag=True, help="The same work as most programs do it, to see how it ends.")
def demo(*, workers: int, seconds: float, lifetime: int, without_lock: bool) -> int:
    """Watch processes share one login through a dozen expiries, against a provider that comes along."""
    try:
        # By name: the demo is an extra, and nothing else here depends on it.
        show = import_module("loginonce.demo").show
        return int(show(workers=workers, seconds=seconds, lifetime=lifetime, without_lock=without_lock))
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("loginonce"):
            raise
        raise click.ClickException(
            f"the demo needs {missing.name}, which is not installed.  "
            f"Run: {sys.executable} -m pip install 'loginonce[demo]'"
        ) from None
