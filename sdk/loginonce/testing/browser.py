"""The scripted human: opens a page of the provider, fills in its form, follows where it leads.

Over real HTTP, with the standard library, so that neither a browser nor the SDK's own transport is needed,
and no proxy settings get in the way.
"""

import http.client
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Literal
from urllib.parse import urlencode, urljoin, urlsplit

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_MOST_HOPS = 10
_TIMEOUT = 10.0


class PageRefusedError(RuntimeError):
    """The provider showed an error page; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the provider's page says {status}: {text}")
        self.status = status


def submit(url: str, *, decision: Literal["approve", "deny"], username: str = "", password: str = "") -> str:
    """Open `url`, submit the form on it, and return the address at which the browser ends.

    Redirects are followed to loopback addresses only; a receiver that does not listen leaves its address in
    the address bar, and that is returned. Raises PageRefusedError for an error page.
    """
    url, status, page = _open(url)
    if status is None:  # sent on without a question, as with prompt=none
        return url
    form = _Form()
    form.feed(page)
    if form.action is None or status >= HTTPStatus.BAD_REQUEST:
        raise PageRefusedError(status, form.text)
    fields = form.hidden | {"username": username, "password": password, "decision": decision}
    url, status, page = _open(urljoin(url, form.action), fields)
    if status is not None and status >= HTTPStatus.BAD_REQUEST:
        answer = _Form()
        answer.feed(page)
        raise PageRefusedError(status, answer.text)
    return url


def _open(url: str, fields: dict[str, str] | None = None) -> tuple[str, int | None, str]:
    """Return the final address, the status of its page (None: it could not be opened), and the page."""
    origin = urlsplit(url).netloc
    for _ in range(_MOST_HOPS):
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in _LOOPBACK:
            return url, None, ""
        try:
            status, location, page = _request(url, fields)
        except OSError:
            if parts.netloc == origin:
                raise
            return url, None, ""
        if location is None:
            return url, status if parts.netloc == origin else None, page
        url, fields = urljoin(url, location), None
    msg = f"more than {_MOST_HOPS} redirects, the last one to {url}"
    raise RuntimeError(msg)


def _request(url: str, fields: dict[str, str] | None) -> tuple[int, str | None, str]:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT)
    try:
        if fields is None:
            connection.request("GET", path)
        else:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", path, urlencode(fields), form)
        response = connection.getresponse()
        page = response.read().decode(errors="replace")
    finally:
        connection.close()
    redirect = HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST
    return response.status, response.headers.get("Location") if redirect else None, page


class _Form(HTMLParser):
    """The one form of a page, and the page's text."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.hidden: dict[str, str] = {}
        self._words: list[str] = []
        self._skipping = False

    @property
    def text(self) -> str:
        return " ".join(self._words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values.get("action", "")
        elif tag == "input" and values.get("type") == "hidden":
            self.hidden[values["name"]] = values.get("value", "")
        elif tag in {"style", "title"}:
            self._skipping = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"style", "title"}:
            self._skipping = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._skipping:
            self._words.append(data.strip())
