"""A person without a browser: reads a provider's pages, fills in its forms, presses its buttons.

Owns no knowledge of any one provider. A page is read for its forms; a form is filled in by what its
fields are called (hidden ones go back as they came); a button or link is a refusal if it is labelled
like one. So the same person can log in wherever plain HTML forms are served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import DefaultCookiePolicy
from typing import Final
from urllib.parse import parse_qs, urljoin, urlsplit

import requests

_LOGIN_FIELDS: Final = frozenset({"login", "username", "user", "email"})
_CODE_FIELDS: Final = frozenset({"user_code", "device_user_code"})
_REFUSAL: Final = re.compile(r"\b(abort|cancel|decline|deny|no|reject)\b", re.IGNORECASE)
_PATIENCE: Final = 25  # pages and redirects; a login takes ten
_TIMEOUT: Final = 15.0  # seconds per page


class Stuck(AssertionError):
    """The person cannot go on: an error page, or a form that comes back although it was filled in."""


@dataclass
class _Field:
    name: str
    value: str
    kind: str


@dataclass
class _Button:
    name: str
    value: str
    form_id: str | None
    label: str = ""

    @property
    def refuses(self) -> bool:
        return bool(_REFUSAL.search(f"{self.name} {self.value} {self.label}"))


@dataclass
class _Link:
    href: str
    label: str = ""


@dataclass
class _Form:
    action: str
    method: str
    id: str | None
    fields: list[_Field] = field(default_factory=list)
    buttons: list[_Button] = field(default_factory=list)

    @property
    def asks_for_password(self) -> bool:
        return any(each.kind == "password" for each in self.fields)

    @property
    def asks_for_user_code(self) -> bool:
        return any(each.kind != "hidden" and each.name in _CODE_FIELDS for each in self.fields)


class _Page(HTMLParser):
    """The forms, links and readable text of one HTML page."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__()
        self.url = response.url
        self.status = response.status_code
        self.forms: list[_Form] = []
        self.links: list[_Link] = []
        self._text: list[str] = []
        self._form: _Form | None = None
        self._labelled: _Button | _Link | None = None
        self._unread = 0
        self._loose_buttons: list[_Button] = []  # outside their form, tied to it by the form's id
        self.feed(response.text)
        self.close()
        for button in self._loose_buttons:
            for form in self.forms:
                if form.id is not None and form.id == button.form_id:
                    form.buttons.append(button)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        kind = given.get("type", "").lower()
        if tag == "form":
            action = urljoin(self.url, given.get("action") or self.url)
            self._form = _Form(action, given.get("method", "get").upper(), given.get("id"))
            self.forms.append(self._form)
        elif tag == "a" and "href" in given:
            self._labelled = _Link(given["href"])
            self.links.append(self._labelled)
        elif tag == "button" and kind in {"", "submit"}:
            self._labelled = self._add_button(given)
        elif tag == "input" and kind in {"submit", "image"}:
            self._add_button(given)
        elif tag == "input" and self._form is not None and given.get("name"):
            if kind not in {"checkbox", "radio"} or "checked" in given:
                self._form.fields.append(_Field(given["name"], given.get("value", ""), kind or "text"))
        elif tag in {"style", "script"}:
            self._unread += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag in {"a", "button"}:
            self._labelled = None
        elif tag in {"style", "script"}:
            self._unread -= 1

    def handle_data(self, data: str) -> None:
        if self._labelled is not None:
            self._labelled.label += data
        if not self._unread:
            self._text.append(data)

    def _add_button(self, given: dict[str, str]) -> _Button:
        button = _Button(given.get("name", ""), given.get("value", ""), given.get("form"))
        if button.form_id is None and self._form is not None:
            self._form.buttons.append(button)
        else:
            self._loose_buttons.append(button)
        return button

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._text).split())

    @property
    def form(self) -> _Form | None:
        """The form this page is about."""

        def importance(form: _Form) -> tuple[bool, bool, bool]:
            return form.asks_for_password, form.asks_for_user_code, form.method == "POST"

        return max(self.forms, key=importance, default=None)


@dataclass
class _Errand:
    """What the person wants from a walk through the provider's pages, and how far it has come."""

    returns_to: str | None = None
    user_code: str | None = None
    refuse: bool = False
    gave_password: bool = False
    gave_user_code: bool = False
    refused: bool = False


class Person:
    """Somebody with an account, and with the cookies of one browser.

    >>> Person("ada").open_authorization(url)  # doctest: +SKIP
    'http://127.0.0.1:54321/callback?code=…&state=…&iss=…'
    """

    def __init__(self, login: str = "ada", password: str = "correct horse") -> None:
        self.login = login
        self.password = password
        self._browser = requests.Session()
        self._browser.trust_env = False  # a .netrc or a proxy of this machine is nobody's cookie
        # Browsers take this machine for secure, by plain http too; all that a person visits here is on it.
        self._browser.cookies.set_policy(DefaultCookiePolicy(secure_protocols=("https", "http")))

    def __repr__(self) -> str:
        return f"Person({self.login!r})"

    def open_authorization(self, url: str, *, follow: bool = True) -> str:
        """Log in and consent; return the redirect that carries the answer to the client.

        With `follow` the redirect is also visited, as a browser would, so a client's loopback receiver
        gets it. Without, it is only returned, as when somebody copies it from the address bar.
        """
        return self._authorize(url, follow=follow, refuse=False)

    def deny_authorization(self, url: str, *, follow: bool = True) -> str:
        """Log in, then refuse to consent; otherwise like `open_authorization`."""
        return self._authorize(url, follow=follow, refuse=True)

    def approve_device(self, verification_uri: str, user_code: str) -> None:
        """Enter the code, confirm it, log in and consent. Takes `verification_uri_complete` too."""
        self._walk(verification_uri, _Errand(user_code=user_code))

    def deny_device(self, verification_uri: str, user_code: str) -> None:
        """Enter the code, and refuse at the first page that lets one refuse."""
        errand = _Errand(user_code=user_code, refuse=True)
        self._walk(verification_uri, errand)
        if not errand.refused:
            raise Stuck(f"no page after {verification_uri} let {self} refuse")

    def end_session(self, url: str, *, follow: bool = False) -> str:
        """Log out at the provider (RP-initiated logout), confirming if asked; return the final URL."""
        returns_to = parse_qs(urlsplit(url).query).get("post_logout_redirect_uri", [None])[0]
        final = self._walk(url, _Errand(returns_to=returns_to))
        if follow and returns_to is not None:
            _visit(final)
        return final

    def _authorize(self, url: str, *, follow: bool, refuse: bool) -> str:
        asked = parse_qs(urlsplit(url).query)
        # A request that was pushed (RFC 9126) does not say where it returns to: anywhere but to the provider.
        returns_to = asked["redirect_uri"][0] if "request_uri" not in asked else ""
        final = self._walk(url, _Errand(returns_to=returns_to, refuse=refuse))
        if not (_same_place(final, returns_to) if returns_to else _leaves(final, url)):
            raise Stuck(f"{self} ended at {final}, not at {returns_to}")
        if follow:
            _visit(final)
        return final

    def _walk(self, url: str, errand: _Errand) -> str:
        """Follow redirects and answer pages until nothing is left to answer; return the last URL."""
        step = requests.Request("GET", url)
        for _ in range(_PATIENCE):
            request = step.prepare()
            request.prepare_cookies(self._browser.cookies)  # by our policy; a session would go by its own
            response = self._browser.send(request, allow_redirects=False, timeout=_TIMEOUT)
            if response.is_redirect:
                target = urljoin(response.url, response.headers["Location"])
                if errand.returns_to and _same_place(target, errand.returns_to):
                    return target
                if errand.returns_to == "" and _leaves(target, url):
                    return target
                step = requests.Request("GET", target)
                continue
            page = _Page(response)
            answer = self._answer(page, errand)
            if answer is None:
                return page.url
            step = answer
        raise Stuck(f"{self} was sent around {_PATIENCE} times, last at {response.url}")

    def _answer(self, page: _Page, errand: _Errand) -> requests.Request | None:
        """The next request, or None if the errand is done."""
        if errand.refused:
            return None
        form = page.form
        if page.status >= requests.codes.bad_request:
            raise Stuck(f"{page.url} answered {page.status}: {page.text}")
        # Nobody refuses before having said who they are or what it is about.
        identified = form is None or not (form.asks_for_password or form.asks_for_user_code)
        if errand.refuse and identified and (refusal := self._refuse(page, form)):
            errand.refused = True
            return refusal
        if form is None:
            return None
        accept = next((button for button in form.buttons if not button.refuses), None)
        return _submit(form, accept, self._typed(page, form, errand))

    def _refuse(self, page: _Page, form: _Form | None) -> requests.Request | None:
        if form is not None:
            for button in form.buttons:
                if button.refuses:
                    return _submit(form, button, {})
        for link in page.links:
            if _REFUSAL.search(link.label):
                return requests.Request("GET", urljoin(page.url, link.href))
        return None

    def _typed(self, page: _Page, form: _Form, errand: _Errand) -> dict[str, str]:
        typed: dict[str, str] = {}
        if form.asks_for_password:
            if errand.gave_password:
                raise Stuck(f"{page.url} did not take the password: {page.text}")
            errand.gave_password = True
        if form.asks_for_user_code:
            if errand.gave_user_code or errand.user_code is None:
                raise Stuck(f"{page.url} did not take the code: {page.text}")
            errand.gave_user_code = True
        for each in form.fields:
            if each.kind == "password":
                typed[each.name] = self.password
            elif each.kind != "hidden" and each.name in _CODE_FIELDS:
                typed[each.name] = errand.user_code or ""
            elif each.kind in {"text", "email"} and each.name in _LOGIN_FIELDS:
                typed[each.name] = self.login
        return typed


def _submit(form: _Form, button: _Button | None, typed: dict[str, str]) -> requests.Request:
    content = [(each.name, typed.get(each.name, each.value)) for each in form.fields]
    if button is not None and button.name:
        content.append((button.name, button.value))
    if form.method == "POST":
        return requests.Request("POST", form.action, data=content)
    return requests.Request("GET", form.action, params=content)


def _leaves(target: str, url: str) -> bool:
    return urlsplit(target).netloc != urlsplit(url).netloc


def _same_place(url: str, other: str) -> bool:
    """Whether two URLs differ at most in query and fragment."""
    return urlsplit(url)[:3] == urlsplit(other)[:3]


def _visit(url: str) -> None:
    """Open the client's own page; the provider's cookies stay at home."""
    with requests.Session() as elsewhere:
        elsewhere.trust_env = False
        elsewhere.get(url, timeout=_TIMEOUT)
