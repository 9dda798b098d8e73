"""Keycloak: how it is fetched, started and ended, and a realm of it as a test sees it.

It is Keycloak's own distribution, fetched by Maven into the user's cache folder, in development mode, with a data
base in memory.  Its realm (`keycloak.json`) rotates refresh tokens and forgives nothing: "Revoke Refresh Token" is on,
"Refresh Token Max Reuse" is 0.  What was sent is counted by Keycloak itself, in the events of the realm.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import filelock
import platformdirs
import requests

VERSION: Final = "26.7.3"  # runs on Java 17 and later
OLDEST_JAVA: Final = 17
FETCH_SECONDS: Final = 300.0  # 180 MB
START_SECONDS: Final = 300.0  # the first start of all builds the server for its options; any other takes a tenth
STOP_SECONDS: Final = 20.0
CHANGE_SECONDS: Final = 30.0
REALM: Final = Path(__file__).with_name("keycloak.json")

_TOKEN_EVENTS: Final = ("CLIENT_LOGIN", "CODE_TO_TOKEN", "OAUTH2_DEVICE_CODE_TO_TOKEN", "REFRESH_TOKEN")


class Missing(Exception):
    """What Keycloak needs is not on this machine."""


def install() -> tuple[Path, filelock.BaseFileLock]:
    """The folder of the distribution, and the lock under which it is started.  Raises `Missing`."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise Missing(f"Keycloak runs on Java and is fetched by Maven, and there is no {program} here")
    said = subprocess.run(["java", "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    release = re.search(r'version "(\d+)', said.stderr)
    if release is None or int(release[1]) < OLDEST_JAVA:
        raise Missing(f"Keycloak needs Java {OLDEST_JAVA}; this is {said.stderr.strip() or 'none that works'}")
    cache = platformdirs.user_cache_path("loginonce-tests", ensure_exists=True)
    home = cache / f"keycloak-{VERSION}"
    lock = filelock.FileLock(cache / f"keycloak-{VERSION}.lock")
    with lock:
        if not home.is_dir():
            _fetch(home)
    return home, lock


def _fetch(home: Path) -> None:
    place = home.with_suffix(".new")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    command = ["mvn", "--batch-mode", "--quiet", "dependency:unpack", f"-Dartifact={artifact}"]
    command += [f"-DoutputDirectory={place}"]
    try:
        mvn = subprocess.run(
            command,
            cwd=place,  # no project is there, and what Maven leaves goes with it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"Maven did not bring Keycloak in {FETCH_SECONDS:.0f} s") from None
    if mvn.returncode != 0:
        raise Missing(f"Maven could not bring Keycloak:\n{mvn.stdout}{mvn.stderr}")
    (place / home.name).rename(home)
    shutil.rmtree(place, ignore_errors=True)


class Server:
    """A running Keycloak with the realm in it.  `url` is its address, `realm` the realm's name."""

    def __init__(self, log: Path) -> None:
        home, lock = install()
        self._admin = ("admin", secrets.token_urlsafe(16))
        self._bearer: tuple[float, str] = (0.0, "")
        self._log = log
        with lock:  # two first starts at a time would build the server in one folder
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            with log.open("ab") as output:
                self.process = subprocess.Popen(
                    [
                        home / "bin" / "kc.sh",
                        "start-dev",
                        "--db=dev-mem",
                        "--http-host=127.0.0.1",
                        f"--http-port={port}",
                    ],
                    env={
                        **os.environ,
                        "KC_BOOTSTRAP_ADMIN_USERNAME": self._admin[0],
                        "KC_BOOTSTRAP_ADMIN_PASSWORD": self._admin[1],
                        "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # it lives for minutes
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            # Ends it when we close this pipe, or are gone however that came about.
            self._keeper = subprocess.Popen(
                ["sh", "-c", f"read _; kill {self.process.pid}"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                self._wait()
                realm = json.loads(REALM.read_text())
                self.realm: str = realm["realm"]
                self.admin("POST", "", realm)
            except BaseException:
                self.stop()
                raise

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self._ask("GET", "/realms/master").ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError(f"Keycloak did not start:\n{self._log.read_text()}")

    def admin(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """What the administrator's API says; `path` is that below /admin/realms/."""
        until, token = self._bearer
        if time.monotonic() >= until:
            name, password = self._admin
            form = {"grant_type": "password", "client_id": "admin-cli", "username": name, "password": password}
            answer = self._ask("POST", "/realms/master/protocol/openid-connect/token", data=form)
            answer.raise_for_status()
            token = answer.json()["access_token"]
            self._bearer = (time.monotonic() + answer.json()["expires_in"] / 2, token)
        answer = self._ask(
            method,
            f"/admin/realms{path and '/'}{path}",
            headers={"Authorization": f"Bearer {token}"},
            json=body,
            params=query,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else answer.headers.get("Location", "").rpartition("/")[2]

    def _ask(self, method: str, path: str, **request: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, timeout=60, **request)

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Keycloak:
    """The realm as one test sees it: with a person and clients of its own, and the administrator at hand.

    `issuer` is the realm's address (by way of `url`, where something stands in front of the server).  `client_id` is a
    public client: code with PKCE, device, password and refresh, any port at http://127.0.0.1.  `other_client_id` is
    another one like it, of another application.  `service_client_id` and `…_secret` are of a confidential client.
    `username` and `password` are the person's, `user_id` is its subject.
    """

    def __init__(self, server: Server, *, url: str = "") -> None:
        name = secrets.token_hex(4)
        self._server = server
        self._earlier: set[str] = set()
        self._base = f"{url or server.url}/realms/{server.realm}"
        self.issuer = self._base
        self.client_id = f"notebook-{name}"
        self.other_client_id = f"portal-{name}"
        self.service_client_id = f"service-{name}"
        self.service_client_secret = secrets.token_urlsafe(16)
        self.username, self.password = f"ada-{name}", secrets.token_urlsafe(16)
        public = {
            "publicClient": True,
            "directAccessGrantsEnabled": True,
            "redirectUris": ["http://127.0.0.1/*"],
            "attributes": {
                "pkce.code.challenge.method": "S256",
                "oauth2.device.authorization.grant.enabled": "true",
                "post.logout.redirect.uris": "http://127.0.0.1/*",
            },
        }
        service = {
            "publicClient": False,
            "secret": self.service_client_secret,
            "serviceAccountsEnabled": True,
            "standardFlowEnabled": False,
        }
        self._clients = {
            client_id: self.admin("POST", "clients", {"clientId": client_id, **settings})
            for client_id, settings in (
                (self.client_id, public),
                (self.other_client_id, public),
                (self.service_client_id, service),
            )
        }
        person = {
            "username": self.username,
            "enabled": True,
            "firstName": "Ada",
            "lastName": "Lovelace",
            "email": f"{name}@example.org",
            "emailVerified": True,
            "credentials": [{"type": "password", "value": self.password}],
        }
        self.user_id: str = self.admin("POST", "users", person)
        self.give_role("analyst")

    def __repr__(self) -> str:
        return f"Keycloak({self.issuer!r}, {self.client_id!r})"

    @property
    def api(self) -> str:
        """A protected resource: Keycloak's own userinfo, which knows at once that a session has ended."""
        return f"{self.issuer}/protocol/openid-connect/userinfo"

    def tokens(self, scope: str) -> dict[str, Any]:
        """A token answer for the person's password."""
        person = {"username": self.username, "password": self.password}
        form = {"grant_type": "password", "client_id": self.client_id, "scope": scope, **person}
        answer = requests.post(f"{self.issuer}/protocol/openid-connect/token", data=form, timeout=60)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    # ── what the administrator does ──────────────────────────────────────────────────────────────────────

    def admin(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """What the administrator's API says of the realm."""
        return self._server.admin(method, f"{self._server.realm}{path and '/'}{path}", body, **query)

    def change(self, **settings: Any) -> None:
        """Change the client that `client_id` names, in Keycloak's names; what it has of attributes stays."""
        path = f"clients/{self._clients[self.client_id]}"
        client = self.admin("GET", path)
        given = settings.pop("attributes", {})
        self.admin("PUT", path, {**client, **settings, "attributes": {**client["attributes"], **given}})

        def changed() -> bool:
            now = self.admin("GET", path)
            return settings.items() <= now.items() and given.items() <= now["attributes"].items()

        self._until(changed, {**settings, **given})

    def _until(self, applied: Callable[[], bool], what: object) -> None:
        """Wait until it is in force: Keycloak may answer before it applies what it was told."""
        deadline = time.monotonic() + CHANGE_SECONDS
        while not applied():
            assert time.monotonic() < deadline, f"Keycloak does not apply {what}"
            time.sleep(0.02)

    def configure(self, **attributes: Any) -> None:
        """Change attributes of the public client, with `_` for each `.`: `access_token_lifespan=2` (seconds).

        Not one second: Keycloak counts in whole ones, and may say that 0 of it are left.
        """
        assert attributes.get("access_token_lifespan") != 1, "Keycloak may say 0 of it, which counts as nothing said"
        self.change(attributes={name.replace("_", "."): str(value) for name, value in attributes.items()})
        if life := attributes.get("access_token_lifespan"):
            self._until(lambda: self._life() == life, attributes)

    def _life(self) -> int:
        """For how many seconds a token of the public client would be good now; none is issued, no event counted."""
        path = f"clients/{self._clients[self.client_id]}/evaluate-scopes/generate-example-access-token"
        token = self.admin("GET", path, userId=self.user_id, scope="openid")
        life: int = token["exp"] - token["iat"]
        return life

    def map_claim(self, mapper: str, **config: str) -> None:
        """Have a protocol mapper put a claim into the public client's tokens."""
        body = {"name": mapper, "protocol": "openid-connect", "protocolMapper": mapper, "config": config}
        self.admin("POST", f"clients/{self._clients[self.client_id]}/protocol-mappers/models", body)

    def give_role(self, name: str) -> None:
        """The person has this role of the realm from now on."""
        self.admin("POST", f"users/{self.user_id}/role-mappings/realm", [self.admin("GET", f"roles/{name}")])

    def take_role(self, name: str) -> None:
        """The person has this role of the realm no more."""
        self.admin("DELETE", f"users/{self.user_id}/role-mappings/realm", [self.admin("GET", f"roles/{name}")])

    def log_out(self) -> None:
        """The administrator logs the person out: all that was issued in an earlier second is stale."""
        self.admin("POST", f"users/{self.user_id}/logout")

    def end_sessions(self) -> None:
        """The administrator ends the person's sessions one by one; offline ones go on."""
        for session in self.sessions():
            self.admin("DELETE", f"sessions/{session['id']}")

    def forgive(self, reuses: int) -> None:
        """The whole realm accepts each refresh token so many times more, once it is spent."""
        self.admin("PUT", "", {"refreshTokenMaxReuse": reuses})
        self._until(lambda: bool(self.admin("GET", "")["refreshTokenMaxReuse"] == reuses), f"{reuses} reuses")

    def ask_consent(self) -> None:
        """The person is asked whether the public client may, from now on."""
        self.change(consentRequired=True)

    def offer_scope(self, name: str, role: str) -> None:
        """The public client may ask for this scope; it is granted to whoever has the role, and left out for others."""
        scope = self.admin("POST", "client-scopes", {"name": name, "protocol": "openid-connect"})
        self.admin("POST", f"client-scopes/{scope}/scope-mappings/realm", [self.admin("GET", f"roles/{role}")])
        self.admin("PUT", f"clients/{self._clients[self.client_id]}/optional-client-scopes/{scope}")

    def offer_audience(self, name: str, client_id: str) -> None:
        """The client may ask for this scope; with it, a token is for that other client."""
        config = {"included.client.audience": client_id, "access.token.claim": "true"}
        mapper = {
            "name": name,
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": config,
        }
        body = {"name": name, "protocol": "openid-connect", "protocolMappers": [mapper]}
        scope = self.admin("POST", "client-scopes", body)
        self.admin("PUT", f"clients/{self._clients[self.client_id]}/optional-client-scopes/{scope}")

    def withdraw_consent(self) -> None:
        """The administrator takes back what the person has allowed the public client, offline access with it."""
        self.admin("DELETE", f"users/{self.user_id}/consents/{self.client_id}")

    def disable(self, *, enabled: bool = False) -> None:
        """The person's account is closed, or opened again."""
        self.admin("PUT", f"users/{self.user_id}", {"enabled": enabled})

    def sessions(self) -> list[Mapping[str, Any]]:
        """The person's sessions, without the offline ones."""
        found: list[Mapping[str, Any]] = self.admin("GET", f"users/{self.user_id}/sessions")
        return found

    def offline_sessions(self) -> list[Mapping[str, Any]]:
        """The person's offline sessions by way of the public client."""
        path = f"users/{self.user_id}/offline-sessions/{self._clients[self.client_id]}"
        found: list[Mapping[str, Any]] = self.admin("GET", path)
        return found

    # ── what it has counted ──────────────────────────────────────────────────────────────────────────────

    def reset(self) -> None:
        """All counts to zero."""
        self._earlier |= {event["id"] for event in self.events()}

    def events(self, *types: str) -> list[Mapping[str, Any]]:
        """The events of these types (none: of all) that concern the public client, since the last reset."""
        found = self.admin("GET", "events", type=types, client=self.client_id, max=1000)
        return [event for event in found if event["id"] not in self._earlier]

    def sent(self) -> dict[str, int]:
        """What the token end point has seen of the public client since the last reset.

        `replays`: how often a refresh token was presented besides the one time that it was good.
        """
        events = self.events(*_TOKEN_EVENTS, *(f"{name}_ERROR" for name in _TOKEN_EVENTS))
        presented = Counter(event["details"].get("refresh_token_id") for event in events)
        spent = {event["details"]["refresh_token_id"] for event in events if event["type"] == "REFRESH_TOKEN"}
        return {
            "token_requests": len(events),
            "refreshes_ok": sum(event["type"] == "REFRESH_TOKEN" for event in events),
            "refusals": sum(event["type"].endswith("_ERROR") for event in events),
            "replays": sum(presented[token] - 1 for token in spent),
        }
