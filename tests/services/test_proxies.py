"""What the environment says of proxies and certificates counts as it does for requests, each time."""

import io
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import requests

from loginonce import proxies
from loginonce.proxies import FrugalSession

ADDRESSES = ["https://api.example.org/x", "http://api.example.org:8080/x", "http://127.0.0.1/x", "https://10.1.2.3"]
VARIABLES: list[dict[str, str]] = [
    {},
    {"https_proxy": "http://proxy:3128"},
    {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.org"},
    {"Http_Proxy": "http://mixed:1", "no_proxy": "10.0.0.0/8"},
    {"all_proxy": "socks5://proxy:1080"},
    {"no_proxy": "localhost"},
    {"http_proxy": ""},
    {"ftp_proxy": "http://proxy:21", "REQUEST_METHOD": "GET"},
    {"REQUESTS_CA_BUNDLE": "/a.pem", "CURL_CA_BUNDLE": "/b.pem"},
    {"CURL_CA_BUNDLE": "/b.pem", "http_proxy": "http://proxy:3128"},
]
GIVEN: list[dict[str, Any]] = [
    {},
    {"proxies": {"https": "http://given:1"}},
    {"proxies": {"no_proxy": "example.org"}},
    {"verify": False, "cert": "/client.pem", "stream": True},
    {"verify": "/mine.pem"},
]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> FrugalSession:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)
    return FrugalSession()


def merged(session: requests.Session, url: str, given: dict[str, Any]) -> dict[str, Any]:
    settings = {"proxies": {}, "stream": None, "verify": None, "cert": None, **given}
    settings["proxies"] = dict(settings["proxies"])
    return session.merge_environment_settings(url, **settings)


@pytest.mark.parametrize("trust_env", [True, False])
@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_settings_are_those_of_requests_however_the_environment_changes(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], trust_env: bool
) -> None:
    plain = requests.Session()
    for session in (lab, plain):
        session.trust_env = trust_env
        session.proxies = {"ftp": "http://own:1"}
    for variables in [*VARIABLES, *reversed(VARIABLES)]:
        with monkeypatch.context() as changed:
            for name, value in variables.items():
                changed.setenv(name, value)
            for url in ADDRESSES:
                assert merged(lab, url, given) == merged(plain, url, given), (variables, url)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses for which the environment was searched."""
    found: list[str] = []
    real = proxies.get_environ_proxies
    monkeypatch.setattr(proxies, "get_environ_proxies", lambda url: found.append(url) or real(url))
    return found


@pytest.mark.parametrize("variable", ["https_proxy", "NO_PROXY"])
def test_an_environment_is_searched_once_for_each_host_until_it_changes(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, searched: list[str], variable: str
) -> None:
    monkeypatch.setenv("LC_PAPER", "1")  # whatever was kept is of another one
    for path in "abc":
        merged(lab, f"https://api.example.org/{path}", {})
        merged(lab, f"https://files.example.org/{path}", {})
    assert searched == ["https://api.example.org/a", "https://files.example.org/a"]
    searched.clear()
    monkeypatch.setenv(variable, "http://proxy:3128")
    for path in "abc":
        merged(lab, f"https://api.example.org/{path}", {})
    assert searched == ["https://api.example.org/a"]


def test_where_no_mapping_is_given_the_environment_is_not_asked_as_with_requests(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    url, rest = ADDRESSES[0], (None, None, None)
    assert lab.merge_environment_settings(url, None, *rest) == {
        **requests.Session().merge_environment_settings(url, None, *rest),
        "proxies": {},
    }


def test_what_a_caller_does_to_its_proxies_stays_with_it(lab: FrugalSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    for _ in range(2):
        found = merged(lab, ADDRESSES[0], {})
        assert found["proxies"] == {"https": "http://proxy:3128"}
        found["proxies"].clear()


def test_of_so_many_hosts_and_no_more_it_is_kept(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, searched: list[str]
) -> None:
    monkeypatch.setenv("LC_PAPER", "2")
    monkeypatch.setattr(proxies, "MOST_HOSTS", 2)
    for _ in range(2):
        for host in "abc":
            merged(lab, f"https://{host}.example.org", {})
    assert searched == [f"https://{host}.example.org" for host in "abcc"]


def test_variables_that_change_while_they_are_searched_are_searched_again(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = proxies.get_environ_proxies

    def changing(url: str) -> dict[str, str]:
        monkeypatch.setenv("https_proxy", "http://late:1")
        return real(url)

    monkeypatch.setenv("LC_PAPER", "3")
    monkeypatch.setattr(proxies, "get_environ_proxies", changing)
    merged(lab, ADDRESSES[0], {})
    monkeypatch.setattr(proxies, "get_environ_proxies", real)
    monkeypatch.delenv("https_proxy")
    assert merged(lab, ADDRESSES[0], {})["proxies"] == {}


def test_where_the_system_is_asked_for_proxies_it_is_asked_each_time(
    monkeypatch: pytest.MonkeyPatch, searched: list[str]
) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert [proxies.environment_proxies(url) for url in (ADDRESSES[0], ADDRESSES[0])] == [{}, {}]
    assert len(searched) == 2


def test_an_environment_that_cannot_be_compared_is_searched_each_time(
    monkeypatch: pytest.MonkeyPatch, searched: list[str]
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for _ in range(2):
        proxies.environment_proxies(ADDRESSES[0])
    assert len(searched) == 2


def by_send(lab: FrugalSession) -> None:
    lab.resolved(requests.Request("GET", "http://slow.example.org/").prepare())


def by_a_redirect(lab: FrugalSession) -> None:
    lab.rebuild_proxies(requests.Request("GET", "http://slow.example.org/").prepare(), lab.proxies)


def by_a_call(lab: FrugalSession) -> None:
    lab.get("http://slow.example.org/", proxies=dict(lab.proxies))


class Answering(requests.adapters.BaseAdapter):
    """An adapter that answers by itself."""

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw, response.request = 200, io.BytesIO(b""), request
        return response

    def close(self) -> None:
        pass


@pytest.mark.parametrize("asks", [by_send, by_a_redirect, by_a_call])
def test_what_was_found_while_another_thread_had_a_no_proxy_of_its_own_is_not_kept(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, asks: Callable[[FrugalSession], object]
) -> None:
    # requests writes the session's no_proxy into the environment for a moment.
    changed, found = threading.Event(), threading.Event()
    bypassed, searched = requests.utils.proxy_bypass, proxies.get_environ_proxies

    def slow(host: str) -> bool:
        if host == "slow.example.org":
            changed.set()
            assert found.wait(5)
        return bool(bypassed(host))

    def meeting(url: str) -> dict[str, str]:
        # The environment has been compared by now, and is the same again before it is compared once more.
        other.start()
        assert changed.wait(5)
        result = searched(url)
        found.set()
        other.join()
        return result

    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setattr("requests.utils.proxy_bypass", slow)
    lab.proxies = {"no_proxy": "api.example.org"}
    lab.mount("http://", Answering())
    other = threading.Thread(target=asks, args=[lab])
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(proxies, "get_environ_proxies", meeting)
        assert proxies.environment_proxies("http://api.example.org/") == {}  # as it was then
    assert proxies.environment_proxies("http://api.example.org/")["http"] == "http://proxy:3128"


@pytest.mark.parametrize("own", [None, {}, {"http": "http://own:1"}], ids=str)
def test_what_was_found_is_kept_where_no_no_proxy_is_given(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, searched: list[str], own: dict[str, str] | None
) -> None:
    monkeypatch.setenv("LC_PAPER", "4")
    lab.proxies = own
    for _ in range(2):
        proxies.environment_proxies(ADDRESSES[1])
        request = requests.Request("GET", ADDRESSES[1]).prepare()
        assert lab.resolved(request) == lab.rebuild_proxies(request, own) == (own or {})
    assert searched == [ADDRESSES[1]]


@pytest.mark.parametrize("kind", ["compared", "not compared"])
def test_where_requests_cannot_read_an_address_no_local_variable_shows_the_environment(
    lab: FrugalSession, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SOME_SECRET", "canary" + "-of-the-environment")
    monkeypatch.setenv("NO_PROXY", "x.example")  # so that requests reads the port
    if kind == "not compared":
        monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(ValueError, match="Port") as caught:
        merged(lab, "htps://api.example.org:{port}/", {})
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    showing = [
        (frame.name, name)
        for frame in shown.stack
        for name, value in (frame.locals or {}).items()
        if "canary-of-the-environment" in value
    ]
    assert showing == []


@pytest.mark.parametrize("url", ["https://api.example.org:port/", "file:///x", "https://[::1/"])
def test_an_address_that_is_none_is_judged_by_requests(lab: FrugalSession, url: str) -> None:
    try:
        expected = merged(requests.Session(), url, {})
    except ValueError as error:
        with pytest.raises(type(error)):
            merged(lab, url, {})
    else:
        assert merged(lab, url, {}) == expected
