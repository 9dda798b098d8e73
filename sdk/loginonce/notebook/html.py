"""What a sign-in looks like in a notebook: values in, HTML out.

Calm and typographic: one thin rule at the left, one size of text and one large code, the colours of the theme.
Every string of a server is escaped, and only http and https addresses become links.  Styles stand in the elements,
because a `<style>` of its own shows as text where saved notebooks are cleaned (forges, untrusted notebooks).

Colours are variables of the theme with `inherit` behind them, so dark mode needs nothing; only a QR code has a
white plate of its own, for cameras.  Elements that tests and style sheets may look for have classes: `loginonce`,
`loginonce-link`, `loginonce-code`, `loginonce-qr`, `loginonce-status`, `loginonce-left`.

A change of state is announced to a screen reader (`role="status"`), a second that has passed is not.
"""

from __future__ import annotations

from html import escape
from urllib.parse import urlsplit

from ..errors import LoginFailed, LoginonceError
from ..login.flow import Progress, Prompt
from ..model import Account, Grant

__all__ = [
    "begun",
    "failed",
    "left",
    "link",
    "nobody",
    "over",
    "prompt",
    "signed_in",
    "standing",
    "status",
    "trouble",
    "words",
]

_TEXT = "var(--jp-content-font-color1, var(--vscode-foreground, inherit))"
_QUIET = "var(--jp-content-font-color2, var(--vscode-descriptionForeground, inherit))"
_LINK = "var(--jp-content-link-color, var(--vscode-textLink-foreground, inherit))"
_RULE = "var(--jp-border-color1, var(--vscode-panel-border, currentColor))"
_GOOD = "var(--jp-success-color1, var(--vscode-testing-iconPassed, inherit))"
_FONT = "var(--jp-content-font-family, var(--vscode-font-family, inherit))"
_MONO = "var(--jp-code-font-family, var(--vscode-editor-font-family, ui-monospace, monospace))"

PASTE = '.login(flow="paste")'
"""What to call where device codes are of no use."""

_GOOD_NEWS, _NOBODY, _WAITING, _TROUBLE = "✓", "\N{EN DASH}", "○", "↻"

_FRAME = f"font-family: {_FONT}; font-size: 14px; line-height: 1.5; color: {_TEXT};"


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────


def words(text: object) -> str:
    """Text of a server, harmless in HTML; what does not print (also what turns the direction of reading) is a space."""
    return escape("".join(character if character.isprintable() else " " for character in str(text)))


def link(url: str, text: str = "") -> str:
    """A link that opens a tab of its own; an address that is not http or https is text."""
    shown = words(text or url)
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and url.isprintable()
    except ValueError:
        usable = False
    if not usable:
        return f"<span>{shown}</span>"
    style = f"color: {_LINK}; text-decoration: underline; text-underline-offset: 3px; overflow-wrap: anywhere;"
    return (
        f'<a class="loginonce-link" href="{escape(url)}" target="_blank" rel="noopener noreferrer" '
        f'style="{style}">{shown}</a>'
    )


def left(seconds: float) -> str:
    """Seconds as a clock shows them: `9:41`, `1:02:09`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _place(issuer: str) -> str:
    return words(issuer.removeprefix("https://").rstrip("/"))


def _quiet(inner: str, more: str = "") -> str:
    return f'<span style="color: {_QUIET}; {more}">{inner}</span>'


def _icon(glyph: str, colour: str = _QUIET) -> str:
    style = f"color: {colour}; display: inline-block; width: 1.4em; text-indent: 0;"
    return f'<span aria-hidden="true" style="{style}">{glyph}</span>'


def _line(inner: str, *, announce: bool = True) -> str:
    """One line of text, or two."""
    role = ' role="status"' if announce else ""
    return (
        f'<div class="loginonce loginonce-status"{role} style="{_FRAME} padding: 2px 0 2px 1.4em; '
        f'text-indent: -1.4em;">{inner}</div>'
    )


def _indented(inner: str) -> str:
    return f'<div style="text-indent: 0; color: {_QUIET};">{inner}</div>'


def _command(code: str) -> str:
    return (
        f'<code style="font-family: {_MONO}; font-size: 13px; color: {_TEXT}; background: none;">{words(code)}</code>'
    )


# ── a person is asked ────────────────────────────────────────────────────────────────────────────────────


def prompt(progress: Progress, *, field: bool = False) -> str:
    """Who asks, the link, the code and its QR: what stays the same while the person is elsewhere.

    `field`: there is a field below for the address of the last page.  "" where nobody is asked.
    """
    asked = progress.prompt
    if asked is None:
        return ""
    application = f'<span style="color: {_TEXT};">{words(asked.client_id)}</span>'
    title = _titled(asked) + f"<div>{_quiet(f'for the application {application}')}</div>"
    if progress.state == "elsewhere":
        same = _quiet("A sign-in is already pending in another notebook or program. This is the same one.")
        title += f'<div style="margin-top: 6px;">{same}</div>'
    if asked.kind == "password":
        below = "below" if field else "into the prompt; the password shows as dots"
        return _asked(_titled(asked), f"<div>{_quiet(f'Enter your user name and password {below}.')}</div>")
    where = asked.url_complete or asked.url
    if _host(where) == _host(asked.url):
        text = asked.url if asked.kind == "device" else f"Sign in at {urlsplit(asked.url).netloc}"
    else:
        text = where  # a link says where it leads
    body = f'<div style="margin-top: 10px; font-size: 15px;">{link(where, text)}</div>'
    if asked.kind == "device":
        body += (
            f'<div class="loginonce-code" style="font-family: {_MONO}; font-size: 30px; line-height: 1.25; '
            "letter-spacing: 0.06em; margin-top: 10px; user-select: all; -webkit-user-select: all; "
            f'overflow-wrap: anywhere;">{words(asked.user_code)}</div>'
            f"<div>{_quiet(_what_to_do_with_the_code(asked))}</div>"
        )
    elif asked.kind == "paste":
        body += _what_to_bring(field=field)
    else:
        comes_back = _quiet("The browser comes back by itself, if it runs on this machine.")
        body += f'<div style="margin-top: 6px;">{comes_back}</div>'
        if field:
            body += _what_to_bring(field=True, otherwise=True)
    return _asked(title, body, _qr(where) if asked.kind == "device" else "")


def _titled(asked: Prompt) -> str:
    return f'<div style="font-weight: 600;">Sign in to {_place(asked.issuer)}</div>'


def _asked(title: str, body: str, beside: str = "") -> str:
    return (
        f'<div class="loginonce" role="status" style="{_FRAME} display: flex; flex-wrap: wrap; gap: 14px 32px; '
        "align-items: flex-start; margin: 6px 0 2px; padding: 2px 0 2px calc(1.4em - 2px); "
        f'border-left: 2px solid {_RULE};">'
        f'<div style="flex: 0 1 auto; min-width: 0; max-width: 27em;">{title}{body}</div>{beside}</div>'
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _what_to_do_with_the_code(asked: Prompt) -> str:
    if asked.url_complete:
        return "Check that the page shows the same code."
    return "Enter this code there, and check that it matches."


def _what_to_bring(*, field: bool, otherwise: bool = False) -> str:
    begin = (
        "Otherwise the last page will not load. "
        if otherwise
        else "The last page will not load; that is as it should be. "
    )
    where = "below" if field else "into the prompt; nothing will appear there"
    return f'<div style="margin-top: 6px;">{_quiet(f"{begin}Copy its whole address and paste it {where}.")}</div>'


def _qr(url: str) -> str:
    """The link for a telephone, where segno is installed."""
    try:
        import segno
    except ImportError:
        return ""
    try:
        drawn = segno.make(url, error="m", micro=False)
    except ValueError:  # longer than a code can be
        return ""
    image = drawn.svg_inline(dark="#161616", border=0, omitsize=True)
    return (
        '<div class="loginonce-qr" role="img" aria-label="QR code of the link, for a telephone" '
        'style="box-sizing: border-box; width: 120px; height: 120px; padding: 10px; background: #fff; '
        'border-radius: 6px; flex: none; line-height: 0;">'
        f"{image}</div>"
    )


def begun() -> str:
    """A sign-in has begun, and there is nothing to tell yet."""
    return _line(f"{_icon(_WAITING)}{_quiet('Signing in …')}")


def status(progress: Progress, now: float, *, announce: bool = True, how: str = "interrupt ■ to cancel") -> str:
    """How it stands, and for how long: what changes every second.  `how` says how to end it.

    `announce`: this is a new state, not only another second.
    """
    asked = progress.prompt
    clock = ""
    if asked is not None:
        clock = (
            '<span class="loginonce-left" role="timer" aria-live="off" '
            f'style="font-variant-numeric: tabular-nums;">{left(asked.expires_at - now)} left</span>'
        )
    tail = "".join(f" · {piece}" for piece in (clock, how) if piece)
    if progress.state == "retrying":
        # The detail is for the log of experts; the sentence for people comes first.
        detail = _indented(words(progress.detail)) if progress.detail else ""
        return _line(f"{_icon(_TROUBLE)}Network problem, still trying{_quiet(tail)}{detail}", announce=announce)
    if progress.detail:  # what was entered has not been accepted
        return _line(
            f"{_icon(_TROUBLE)}{words(progress.detail)}{_indented(words('Try again') + tail)}", announce=announce
        )
    return _line(f"{_icon(_WAITING)}Waiting{_quiet(tail)}", announce=announce)


# ── how it ended, how it stands ──────────────────────────────────────────────────────────────────────────


def signed_in(account: Account, *, announce: bool = True) -> str:
    """The one quiet line."""
    standing = account.standing
    tail = _quiet(f" · {words(standing)}") if standing else ""
    return _line(f"{_icon(_GOOD_NEWS, _GOOD)}Signed in as <strong>{words(account)}</strong>{tail}", announce=announce)


def over(error: Exception, *, announce: bool = True) -> str:
    """A login that somebody has to renew: why, and what to call."""
    why, hint = _why(error)
    rest = _indented(words(hint)) if hint else ""
    return _line(f"{_icon(_NOBODY)}Not signed in: {words(why)}{rest}", announce=announce)


def failed(error: BaseException, asked: Prompt | None = None, *, told: bool = False) -> str:
    """A sign-in that did not succeed: why, and the next step.  `told`: the error itself stands right below."""
    why, hint = ("the sign-in did not succeed", "") if told else _why(error)
    steps = [words(hint)] if hint else []
    if _without_codes(error, asked):
        steps.append(f"Without device codes: {_command(PASTE)}")
    rest = _indented(" ".join(steps)) if steps else ""
    return _line(f"{_icon(_NOBODY)}{words(why[:1].upper() + why[1:])}{rest}")


def _why(error: BaseException) -> tuple[str, str]:
    """Why, and the next step.  What is not ours may say anything, so only its name is shown."""
    if not isinstance(error, LoginonceError) or not error.args:
        return f"{type(error).__name__}, see the log", ""
    return str(error.args[0]), str(getattr(error, "hint", ""))


def _without_codes(error: BaseException, asked: Prompt | None) -> bool:
    """Whether the way by pasting an address may help where this one did not."""
    if isinstance(error, LoginFailed):
        return error.outcome in ("rejected", "timed_out", "denied") and asked is not None and asked.kind == "device"
    return getattr(error, "error", "") == "unauthorized_client"  # this client may have no device codes


def nobody(issuer: str, hint: str = "", *, announce: bool = True) -> str:
    """Nobody is signed in."""
    rest = _indented(words(hint)) if hint else ""
    return _line(f"{_icon(_NOBODY)}Not signed in{_quiet(f' to {_place(issuer)}')}{rest}", announce=announce)


def trouble(error: BaseException, what: str) -> str:
    """Something that did not succeed, and leaves the login as it was."""
    why, hint = _why(error)
    rest = _indented(words(why)) + (_indented(words(hint)) if hint else "")
    return _line(f"{_icon(_TROUBLE)}{words(what)}{rest}")


def standing(account: Account, grant: Grant, resource: str, now: float) -> str:
    """What a card tells of a login besides the line: where, as whom, with which scope, and the time left."""
    rows = [_place(account.issuer)]
    if grant.scope:
        rows.append(" ".join(f"<span>{words(scope)}</span>" for scope in sorted(grant.scope.split())))
    token = grant.token_for(resource)
    bar = ""
    if token is not None and token.expires_at is not None:
        remains = token.expires_at - now
        life = max(1.0, token.expires_at - token.received_at)
        bar = _bar(min(1.0, max(0.0, remains / life)))
        told = f"{_about(remains)} left" if remains > 0 else "the next use gets a new token"
        rows.append(f'<span style="white-space: nowrap;">{told}</span>')
    return (
        f'<div class="loginonce" style="{_FRAME} padding-left: 1.4em;">'
        f'<div style="color: {_QUIET}; font-size: 13px;">{" · ".join(rows)}</div>{bar}</div>'
    )


def _bar(share: float) -> str:
    return (
        f'<div aria-hidden="true" style="height: 2px; max-width: 22em; margin: 7px 0 5px; background: {_RULE};">'
        f'<div style="height: 2px; width: {share:.0%}; background: {_QUIET}; opacity: 0.7;"></div></div>'
    )


def _about(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(0, seconds):.0f} s"
