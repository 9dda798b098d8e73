"""Who is measured: plain requests, loginonce, and its peers, each set up as its own documents recommend.

Every one of them is a `Way` from a login that is at hand to a session and a `get`.  What a way needs is imported
when it is opened, so that this module can be loaded by a process that measures one of them and no other.

    python clients.py null FOLDER NAME PAIRS [ISSUER]   ratios of a request to a plain one, no network, as JSON
    python clients.py threads FOLDER NAME PAIRS         ratios of 10 logins in 20 threads to one login in one
    python clients.py requests FOLDER NAME N            so many requests, for callgrind to count
    python clients.py first FOLDER NAME URL             one answer from the API, with the login that is in the folder
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Get = Callable[[str], Any]

FAR = "https://api.example.org/runs"
"""Where requests go whose transport is null."""


class Way:
    """One client.  `save` puts a login where its processes look for it, `open` gives a session and a `get`."""

    name: str
    module: str
    """What a program that uses it imports."""
    cache = ""
    """What it offers for a login that processes share, or ""."""
    distributions: str
    imported = ""
    """How, where naming `module` would load nothing yet."""

    @property
    def missing(self) -> str:
        """Why it cannot be measured here, or ""."""
        for needed in self.module.split(", "):
            try:
                found = importlib.util.find_spec(needed) is not None
            except ModuleNotFoundError:  # the package around it
                found = False
            if not found:
                return f"{needed.partition('.')[0]} is not installed"
        return ""

    @property
    def importing(self) -> str:
        """The statement by which a program gets it."""
        return self.imported or f"import {self.module}"

    @property
    def version(self) -> str:
        """Of its distribution."""
        from importlib import metadata

        return " + ".join(metadata.version(name) for name in self.distributions.split(", "))

    def save(self, folder: str, login: Json) -> None:
        """Most keep a token by themselves only in memory: the program writes it down."""
        write(folder, login)

    def open(self, folder: str) -> tuple[Any, Get]:
        raise NotImplementedError


def write(folder: str, login: Json) -> None:
    with open(os.path.join(folder, "login.json"), "w") as file:
        json.dump(login, file)


def read(folder: str) -> Json:
    with open(os.path.join(folder, "login.json")) as file:
        login: Json = json.load(file)
    return login


def login_of(issuer: str, answer: Json) -> Json:
    """A token answer as what a program writes down."""
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/token",
        "client_id": "notebook",
        "expires_at": time.time() + answer["expires_in"],
        "answer": answer,
    }


class Plain(Way):
    """requests with a static header: what there is to be compared with."""

    name, module = "requests", "requests"
    distributions = "requests"

    def open(self, folder: str) -> tuple[Any, Get]:
        import requests

        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {read(folder)['answer']['access_token']}"
        return session, session.get


class Loginonce(Way):
    name, module = "loginonce", "loginonce"
    distributions = "loginonce"
    imported = "from loginonce import Session"
    cache = "its store"

    def save(self, folder: str, login: Json) -> None:
        super().save(folder, login)
        session, _ = self.open(folder)
        session.login(tokens=login["answer"])
        session.source.provider.server  # noqa: B018 - fetched once, and kept in the folder for all

    def open(self, folder: str) -> tuple[Any, Get]:
        import loginonce

        os.environ["LOGINONCE_HOME"] = os.path.join(folder, "home")
        login = read(folder)
        # What every program of a site would have: the end points are not looked up by the runs without a network.
        server = {"token_endpoint": login["token_endpoint"]}
        session = loginonce.Session(login["issuer"], client_id=login["client_id"], server=server)
        return session, session.get


class Authlib(Way):
    name, module = "authlib", "authlib.integrations.requests_client"
    distributions = "authlib"

    def open(self, folder: str) -> tuple[Any, Get]:
        from authlib.integrations.requests_client import OAuth2Session

        login = read(folder)

        def update_token(token: Any, **_: Any) -> None:
            write(folder, {**login, "answer": dict(token), "expires_at": token["expires_at"]})

        session = OAuth2Session(
            login["client_id"],
            token={**login["answer"], "expires_at": int(login["expires_at"])},
            token_endpoint=login["token_endpoint"],
            token_endpoint_auth_method="none",
            update_token=update_token,
        )
        return session, session.get


class RequestsOAuthlib(Way):
    name, module = "requests-oauthlib", "requests_oauthlib"
    distributions = "requests-oauthlib"

    def open(self, folder: str) -> tuple[Any, Get]:
        from requests_oauthlib import OAuth2Session

        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # the provider is on loopback
        login = read(folder)

        def update_token(token: Any) -> None:
            write(folder, {**login, "answer": dict(token), "expires_at": token["expires_at"]})

        session = OAuth2Session(
            login["client_id"],
            token={**login["answer"], "expires_at": login["expires_at"]},
            auto_refresh_url=login["token_endpoint"],
            auto_refresh_kwargs={"client_id": login["client_id"]},
            token_updater=update_token,
        )
        return session, session.get


class GoogleAuth(Way):
    name, module = "google-auth", "google.oauth2.credentials, google.auth.transport.requests"
    distributions = "google-auth"
    cache = "token.json, as in its quickstarts"

    def save(self, folder: str, login: Json) -> None:
        from datetime import UTC, datetime

        from google.oauth2.credentials import Credentials

        super().save(folder, login)
        credentials = Credentials(
            login["answer"]["access_token"],
            refresh_token=login["answer"]["refresh_token"],
            client_id=login["client_id"],
            client_secret="none",
            expiry=datetime.fromtimestamp(login["expires_at"], UTC).replace(tzinfo=None),
        )
        with open(os.path.join(folder, "token.json"), "w") as file:
            file.write(credentials.to_json())

    def open(self, folder: str) -> tuple[Any, Get]:
        from google.auth.transport.requests import AuthorizedSession, Request
        from google.oauth2.credentials import Credentials

        path = os.path.join(folder, "token.json")
        credentials = Credentials.from_authorized_user_file(path)
        credentials._token_uri = read(folder)["token_endpoint"]  # a saved file is always Google's
        session = AuthorizedSession(credentials)

        def get(url: str, **given: Any) -> Any:
            if not credentials.valid:
                credentials.refresh(Request())
                with open(path, "w") as file:
                    file.write(credentials.to_json())
            return session.get(url, **given)

        return session, get


class RequestsOAuth2Client(Way):
    name, module = "requests_oauth2client", "requests_oauth2client"
    distributions = "requests_oauth2client"

    def open(self, folder: str) -> tuple[Any, Get]:
        from datetime import UTC, datetime

        import requests
        from requests_oauth2client import BearerToken, OAuth2AccessTokenAuth, OAuth2Client

        login = read(folder)
        expires_at = datetime.fromtimestamp(login["expires_at"], UTC)
        client = OAuth2Client(login["token_endpoint"], client_id=login["client_id"], testing=True)
        token = BearerToken(
            login["answer"]["access_token"],
            expires_at=expires_at,
            refresh_token=login["answer"]["refresh_token"],
        )
        session = requests.Session()
        session.auth = OAuth2AccessTokenAuth(client, token)
        return session, session.get


class Msal(Way):
    """Microsoft's, which insists on https addresses: its own hook for an HTTP client leads them to loopback."""

    name, module = "MSAL + extensions", "msal, msal_extensions"
    distributions = "msal, msal-extensions"
    cache = "PersistedTokenCache, with its file lock"

    def _application(self, folder: str) -> Any:
        import msal
        import msal_extensions
        import requests

        issuer = read(folder)["issuer"]
        secure = issuer.replace("http://", "https://")

        class Client:
            def __init__(self) -> None:
                self._session = requests.Session()

            def get(self, url: str, **given: Any) -> Any:
                answer = self._session.get(url.replace(secure, issuer), **given)
                answer._content = answer.content.replace(issuer.encode(), secure.encode())
                return answer

            def post(self, url: str, **given: Any) -> Any:
                return self._session.post(url.replace(secure, issuer), **given)

            def close(self) -> None:
                self._session.close()

        cache = msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(os.path.join(folder, "msal.json")))
        return msal.PublicClientApplication(
            "notebook",
            authority=f"{secure}/lab",
            validate_authority=False,
            instance_discovery=False,
            token_cache=cache,
            http_client=Client(),
        )

    def save(self, folder: str, login: Json) -> None:
        super().save(folder, login)
        application = self._application(folder)
        application.token_cache.add(
            {
                "client_id": login["client_id"],
                "scope": ["api"],
                "token_endpoint": f"{application.authority.token_endpoint}",
                "environment": application.authority.instance,
                "response": {**login["answer"], "id_token_claims": {"sub": "ada"}},
            }
        )

    def open(self, folder: str) -> tuple[Any, Get]:
        import requests

        application = self._application(folder)
        (account,) = application.get_accounts()
        session = requests.Session()

        def get(url: str, **given: Any) -> Any:
            tokens = application.acquire_token_silent_with_error(["api"], account)
            if not tokens or "access_token" not in tokens:
                raise PermissionError(f"no token: {tokens and tokens.get('error')}")
            return session.get(url, headers={"Authorization": f"Bearer {tokens['access_token']}"}, **given)

        return session, get


class RequestsAuth(Way):
    name, module = "requests_auth", "requests_auth"
    distributions = "requests_auth"
    cache = "JsonTokenFileCache"

    def _auth(self, folder: str) -> tuple[Any, Any]:
        from requests_auth import JsonTokenFileCache, OAuth2AuthorizationCode

        login = read(folder)
        auth = OAuth2AuthorizationCode(
            f"{login['issuer']}/authorize", login["token_endpoint"], client_id=login["client_id"]
        )
        return auth, JsonTokenFileCache(os.path.join(folder, "requests-auth.json"))

    def save(self, folder: str, login: Json) -> None:
        super().save(folder, login)
        auth, cache = self._auth(folder)
        answer = login["answer"]
        cache._add_token(auth.state, answer["access_token"], login["expires_at"], answer["refresh_token"])

    def open(self, folder: str) -> tuple[Any, Get]:
        import requests
        from requests_auth import OAuth2

        auth, cache = self._auth(folder)

        def nobody_there() -> None:
            raise PermissionError("a person would have to sign in")

        auth.request_new_token = nobody_there  # else it opens a browser
        session = requests.Session()
        session.auth = auth

        def get(url: str, **given: Any) -> Any:
            OAuth2.token_cache = cache  # one for the whole process, and there are more logins than one
            return session.get(url, **given)

        return session, get


class GlobusSdk(Way):
    name, module = "globus-sdk", "globus_sdk, globus_sdk.token_storage"
    distributions = "globus-sdk"
    imported = "from globus_sdk import NativeAppAuthClient, RefreshTokenAuthorizer"
    cache = "JSONTokenStorage"

    def save(self, folder: str, login: Json) -> None:
        from globus_sdk.token_storage import JSONTokenStorage, TokenStorageData

        super().save(folder, login)
        answer = login["answer"]
        data = TokenStorageData(
            resource_server="api",
            identity_id=None,
            scope=answer["scope"],
            access_token=answer["access_token"],
            refresh_token=answer["refresh_token"],
            expires_at_seconds=int(login["expires_at"]),
            token_type="Bearer",
        )
        JSONTokenStorage(os.path.join(folder, "globus.json")).store_token_data_by_resource_server({"api": data})

    def open(self, folder: str) -> tuple[Any, Get]:
        import globus_sdk
        import requests
        from globus_sdk.token_storage import JSONTokenStorage

        login = read(folder)
        storage = JSONTokenStorage(os.path.join(folder, "globus.json"))
        data = storage.get_token_data("api")
        assert data is not None and data.refresh_token is not None
        client = globus_sdk.NativeAppAuthClient(login["client_id"], base_url=login["issuer"])
        authorizer = globus_sdk.RefreshTokenAuthorizer(
            data.refresh_token,
            client,
            access_token=data.access_token,
            expires_at=data.expires_at_seconds,
            on_refresh=storage.store_token_response,
        )
        session = requests.Session()

        def get(url: str, **given: Any) -> Any:
            return session.get(url, headers={"Authorization": authorizer.get_authorization_header()}, **given)

        return session, get


PLAIN, LOGINONCE = Plain(), Loginonce()
PEERS: list[Way] = [
    Authlib(), RequestsOAuthlib(), GoogleAuth(), RequestsOAuth2Client(), Msal(), RequestsAuth(), GlobusSdk()
]  # fmt: skip
WAYS = {way.name: way for way in (PLAIN, LOGINONCE, *PEERS)}


# ── what a process of its own measures ───────────────────────────────────────────────────────────────────


def mount_null(session: Any, seen: Callable[[Any], object] | None) -> None:
    """Requests of this session go nowhere, and have their answer at once; `seen` is shown each."""
    from io import BytesIO

    import requests
    from requests.adapters import BaseAdapter

    class Null(BaseAdapter):
        def send(self, request: Any, **_: Any) -> Any:
            if seen is not None:
                seen(request)
            answer = requests.Response()
            answer.status_code = 200
            answer.headers["Content-Type"] = "application/json"
            answer.raw = BytesIO(b"{}")
            answer.url, answer.request, answer.connection = request.url, request, self
            return answer

        def close(self) -> None:
            pass

    session.mount("https://", Null())


NOWHERE = "http://127.0.0.1:9"
"""An issuer that nobody has to ask."""


def opened(
    way: Way, folder: str, number: int = 0, *, issuer: str = NOWHERE, seen: Callable[[Any], object] | None = None
) -> Get:
    """A `get` with a token that is good for an hour and without a network."""
    place = os.path.join(folder, f"{way.name}-{number}")
    os.makedirs(place)
    answer = {"access_token": f"at_{number}", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt"}
    way.save(place, login_of(issuer, {**answer, "scope": "api", "client_info": CLIENT_INFO}))
    session, get = way.open(place)
    mount_null(session, seen)
    assert get(FAR).status_code == 200
    time.sleep(0.1)  # until the change stamp of a file that was written just now is trusted
    assert get(FAR).status_code == 200
    return get


CLIENT_INFO = "eyJ1aWQiOiAiYWRhIiwgInV0aWQiOiAibGFiIn0"


def repeat(get: Get, count: int) -> None:
    for _ in range(count):
        get(FAR)


def null(folder: str, name: str, pairs: str, issuer: str = NOWHERE) -> None:
    from measure import pairs_of, timed

    plain, ours = opened(PLAIN, folder), opened(WAYS[name], folder, 1, issuer=issuer)
    found = pairs_of(lambda: timed(lambda: repeat(ours, 200)), lambda: timed(lambda: repeat(plain, 200)), int(pairs))
    print(json.dumps([[a.wall, a.cpu, b.wall, b.cpu] for a, b in found]))


def threads(folder: str, name: str, pairs: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from measure import pairs_of, timed

    gets = [opened(WAYS[name], folder, number) for number in range(10)]
    with ThreadPoolExecutor(20) as pool:

        def in_threads() -> None:
            list(pool.map(lambda number: repeat(gets[number % 10], 20), range(20)))

        in_threads()
        found = pairs_of(lambda: timed(in_threads), lambda: timed(lambda: repeat(gets[0], 400)), int(pairs))
    print(json.dumps([[a.wall, a.cpu, b.wall, b.cpu] for a, b in found]))


def first(folder: str, name: str, url: str) -> None:
    _, get = WAYS[name].open(folder)
    assert get(url).status_code == 200


if __name__ == "__main__":
    what, where, *arguments = sys.argv[1:]
    if what == "requests":
        repeat(opened(WAYS[arguments[0]], where), int(arguments[1]))
    else:
        {"null": null, "threads": threads, "first": first}[what](where, *arguments)
