"""The login itself: where its settings come from, how it stands, what its record says, how it renews, who could
sign in.  Nothing is asked of the provider, and nothing is written.
"""

from __future__ import annotations

import os

from ..config import FROM_ENVIRONMENT, Settings, from_environment, profiles
from ..environment import Environment, detect
from ..errors import ConfigurationError, LoginFailed
from ..home import config_file, has_ended, process_identity
from ..login.choose import choose
from ..model import AuthorizationServer, Grant, Marker
from ..refresh import Policy
from ..session import Session
from ..standing import Standing, judge
from ..text import duration, moment
from .finding import Finding, found, trouble

__all__ = ["check_login", "check_record", "check_renewal", "check_settings", "check_sign_in", "standing"]

_OF_THE_LOGIN = tuple(name.upper() for name in FROM_ENVIRONMENT)
_OTHERS = ("HOME", "PROFILE", "FLOW", "ENVIRONMENT", "DEBUG", "SEAL_KEY", "USERNAME", "PASSWORD")


def check_settings(made: Settings) -> Finding:
    """Which profile, and which variables of the environment count.  Values are not shown: one is a secret."""
    profile = profiles().get(made.profile, {})
    used = [name for name in _OTHERS if os.environ.get(f"LOGINONCE_{name}")]
    idle: list[str] = []
    counted = from_environment({**profile, "issuer": made.issuer})
    for name in _OF_THE_LOGIN:
        if os.environ.get(f"LOGINONCE_{name}", "").strip():
            counts = counted.get(name.lower()) and not profile.get(name.lower())
            (used if counts else idle).append(name)
    known = {f"LOGINONCE_{name}" for name in (*_OF_THE_LOGIN, *_OTHERS)}
    odd = sorted(name for name in os.environ if name.startswith("LOGINONCE_") and name not in known)
    text = f"profile {made.profile!r} in {config_file()}" if made.profile else f"no profile; {made.issuer}"
    for names, what in ((used, "in force"), (idle, "set and without effect")):
        if names:
            text += f"; {', '.join(f'LOGINONCE_{name}' for name in names)} {what}"
    if odd:
        text += f"; {', '.join(odd)} means nothing"
        return found("settings", text, level="attention", advice=f"Is {odd[0]} misspelt?  See the README's settings")
    if "client_secret" in profile and hasattr(os, "geteuid") and config_file().stat().st_mode & 0o077:
        text = f"{config_file()} holds a client secret and is open to other users"
        return found("settings", text, level="wrong", advice=f"Run: chmod 600 '{config_file()}'")
    return found("settings", text)


def standing(session: Session, grant: Grant | None, now: float) -> Standing:
    """How the login stands, for somebody who knows whether the owner of a marker is alive."""
    ended = grant is not None and grant.marker is not None and _owner(grant.marker) == "ended"
    return judge(session, grant, now, locked=ended)


def check_login(session: Session, stands: Standing, grant: Grant | None, now: float) -> Finding:
    """What a program can do with it."""
    who = stands.name or stands.subject or f"the client {stands.client_id}"
    sign_in = f"Run: {session.settings.command}"
    match stands.state:
        case "login_required":
            return found("login", stands.problem or "a sign-in is needed", level="wrong", advice=sign_in)
        case "error":
            return trouble("client", stands.problem or "it cannot be used")
        case "retry_later":
            pause = stands.failure["not_before"] if stands.failure else None
            text = stands.problem or "it has to wait"
            advice = f"Wait: it is tried again from {moment(pause, now)}" if pause else "Wait, and try again"
            return found("login", text.partition(".  ")[0], level="attention", advice=advice)
    if grant is None:
        return found("login", "a service: it signs in by itself at the first use")
    if stands.expires_at is None:
        until = "a token of unknown life" if stands.has_token else "no token yet, the first use gets one"
    elif stands.expires_at >= now:
        until = f"token until {moment(stands.expires_at, now)}"
    else:
        until = f"token ended {moment(stands.expires_at, now)}, the next use gets a new one"
    if grant.state == "DEAD":  # but what it brought is still good
        why = f": {grant.failure.detail}" if grant.failure and grant.failure.detail else ""
        text = f"ended at the provider{why}; {until}"
        return found("login", text, level="attention", advice=f"Before that {sign_in[0].lower()}{sign_in[1:]}")
    text = f"signed in as {who}; {until}"
    if not stands.renews:
        return found(
            "login",
            f"{text}; it cannot renew itself",
            level="attention",
            advice=f"After that {sign_in[0].lower()}{sign_in[1:]}",
        )
    return found("login", text)


def check_record(grant: Grant | None, now: float) -> Finding:
    """State, order, ends, who is renewing it, and the last failure."""
    if grant is None:
        return found("record", "there is none yet", level="unknown")
    words = [f"{grant.state}, epoch {grant.epoch}, generation {grant.generation}, attempt {grant.attempt}"]
    if grant.refresh_expires_at is not None:
        verb = "ends" if grant.refresh_expires_at >= now else "ended"
        words.append(f"refresh token {verb} {moment(grant.refresh_expires_at, now)}")
    if failure := grant.failure:
        pause = f", not before {moment(failure.not_before, now)}" if failure.not_before > now else ""
        words.append(f"last failure {failure.kind}: {failure.detail or 'it did not say why'}{pause}")
    if (marker := grant.marker) is None:
        return found("record", "; ".join(words), level="attention" if grant.failure else "ok")
    owner = marker.owner.split("/")
    who = f"process {owner[2]}" if len(owner) == 4 else "a process"
    match _owner(marker), now < marker.deadline:
        case "alive", True:
            return found("record", "; ".join([*words, f"{who} is renewing it now"]))
        case "alive", False if grant.failure is None:
            words.append(f"{who} has been renewing it for {duration(now - marker.sent_at)}, too long")
            return found(
                "record", "; ".join(words), level="attention", advice=f"Is {who} stopped?  End it, or continue it"
            )
        case ("unknown", True) if grant.failure is None:
            words.append(f"{who} on {owner[0]} is renewing it now")
            return found("record", "; ".join(words))
        case "ended", _ if grant.failure is None:
            words.append(f"{who} ended while it renewed it, {duration(now - marker.sent_at)} ago")
    words.append("its refresh token may be spent")
    return found("record", "; ".join(words), level="attention", advice="Nothing to do: the next use finds out, once")


def _owner(marker: Marker) -> str:
    """Whether the process that left it is `alive`, has `ended`, or is `unknown` here (another machine's)."""
    here, there = process_identity().split("/"), marker.owner.split("/")
    if len(there) != 4 or not there[2].isdigit() or here[0] != there[0]:
        return "unknown"
    if here[1] != there[1] or has_ended(marker.owner):  # the machine has been started anew since, or it is gone
        return "ended"
    return "alive" if here[1] else "unknown"  # where no boot is known, no process can be looked up either


def check_renewal(made: Settings, grant: Grant | None) -> Finding:
    """What the policy is, and what it means."""
    policy = made.policy
    if made.grant == "client_credentials":
        return found("renewal", "a service asks anew each time: an answer that is lost costs nothing")
    if grant is not None and grant.state in ("ACTIVE", "SPENDING") and not grant.spendable:
        asked = made.dialect.offline != "scope" or "offline_access" in grant.scope.split()
        scope = "" if asked else "; the scope offline_access may bring one"
        return found("renewal", f"the provider gave no refresh token: a person signs in each time{scope}")
    said = f"reuse_interval {policy.reuse_interval:g} s, lost = {policy.lost}"
    return found("renewal", f"an answer lost {_costs(policy)} ({said})")


def _costs(policy: Policy) -> str:
    if policy.reuse_interval > 0:
        return f"costs nothing within {policy.reuse_interval:g} s"
    # It is asked for once more by the default, which a provider that rotates strictly takes for a theft.
    return "costs one sign-in" if policy.lost == "login" else "may cost one sign-in"


def check_sign_in(made: Settings, server: AuthorizationServer | None, *, needed: bool) -> Finding:
    """Which way a sign-in would go from here, and why.  `needed`: one is needed now."""
    if made.grant == "client_credentials":
        means = {"secret": made.client_secret, "private key": made.private_key, "certificate": made.certificate}
        if not any(means.values()) and made.token_endpoint_auth_method != "none":
            text = "a service, whose secret is not here"
            return found("sign-in", text, level="wrong", advice="Set LOGINONCE_CLIENT_SECRET where it runs")
        by = next((name for name, value in means.items() if value), "secret")
        return found("sign-in", f"a service: it signs in by itself, with its {by}")
    if made.grant == "password":
        return found("sign-in", "by user name and password")
    here = detect()
    if server is None and not os.environ.get("LOGINONCE_FLOW") and here.human:
        return found("sign-in", "what the provider offers is not known", level="unknown")
    try:
        way = choose(None, server or AuthorizationServer(made.issuer), here, command=made.command)
    except LoginFailed as error:
        text = f"not from here: {_why_not(here, error)}"
        if needed:
            return found("sign-in", text, level="attention", advice=f"Run in a terminal: {made.command}")
        return found("sign-in", text)
    except ConfigurationError as error:
        return trouble("sign-in", error, advice="Set LOGINONCE_FLOW to browser, device or paste, or unset it")
    names = {"browser": "in a browser", "device": "by a code to enter elsewhere", "paste": "by pasting an address"}
    return found("sign-in", f"{names[way]}: {_why(way, here)}")


def _why(way: str, here: Environment) -> str:
    if os.environ.get("LOGINONCE_FLOW"):
        return "LOGINONCE_FLOW says so"
    if way == "browser":
        return "this is your own desktop"
    remote = any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY"))
    place = "a notebook" if here.notebook else "by SSH" if remote else "no browser of yours shows here"
    if way == "device":
        return place if here.browser is False else "the provider names no page for browsers"
    return f"{place}, and the provider has no device codes"


def _why_not(here: Environment, error: LoginFailed) -> str:
    return str(error.args[0]) if here.human else "nobody could be asked (not a terminal)"
