"""What the environment says of proxies and certificates counts as it does for requests, each time."""

import os
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


def test_an_environment_without_proxies_is_searched_once(lab: FrugalSession, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    monkeypatch.setattr("requests.sessions.get_environ_proxies", lambda *_, **__: searched.append(1) or {})
    merged(lab, ADDRESSES[0], {})
    assert searched == []
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    merged(lab, ADDRESSES[0], {})
    assert searched == [1]


def test_where_the_system_is_asked_for_proxies_it_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not proxies.none_in_environment()


def test_an_environment_that_cannot_be_compared_is_searched_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert not proxies.none_in_environment()
