"""A strict authorization server and its API on loopback: a process of its own, cheap enough to stay out of the way.

It rotates at each refresh and grants no grace: a refresh token that comes again ends its family, access tokens and
all.  One thread does everything, so its numbers are exact.  `loginonce.testing.FakeProvider` judges more finely and
costs ten times as much per request: with two cores and eight callers it would be what is measured.

    python loopback.py    prints its port, and ends when its standard input does

`Loopback` is the handle of who started it; the two speak HTTP to each other, on paths below `/control/`.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import secrets
import subprocess
import sys
import time
from typing import Any, Self
from urllib.parse import parse_qs

HOST = "127.0.0.1"
CLIENT_ID = "notebook"
BACKLOG = 1024

SCOPE = "api"
OF_VENDORS = {
    "client_info": base64.urlsafe_b64encode(b'{"uid": "ada", "utid": "lab"}').decode().rstrip("="),  # Entra's
    "resource_server": "api",  # Globus's, as the next one
    "other_tokens": [],
}
"""Members of a token answer that only the clients of one provider look for, and cannot do without."""

Json = dict[str, Any]


class Family:
    """One login: what has been issued for it, and whether it is over."""

    def __init__(self, lifetime: int) -> None:
        self.lifetime = lifetime  # seconds, of the access tokens that come next
        self.ended = False
        self.access_tokens: dict[str, float] = {}


class Judge:
    """What is issued, what is refused, and what was counted on the way."""

    def __init__(self) -> None:
        self.delay = 0.0  # seconds that a token request takes
        self._refresh_tokens: dict[str, tuple[Family, bool]] = {}  # and whether it is spent
        self._access_tokens: dict[str, Family] = {}
        self.reset()

    def reset(self) -> None:
        self.counted = dict.fromkeys(
            ("token_requests", "refreshes", "replays", "refusals", "families_ended", "api_answers", "api_refusals"), 0
        )
        self.own: list[float] = []  # seconds from the last byte of a token request to its answer

    def issue(self, family: Family) -> Json:
        access_token, refresh_token = f"at_{secrets.token_urlsafe(32)}", f"rt_{secrets.token_urlsafe(32)}"
        self._access_tokens[access_token] = family
        family.access_tokens[access_token] = time.time() + family.lifetime
        self._refresh_tokens[refresh_token] = (family, False)
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": family.lifetime,
            "refresh_token": refresh_token,
            "scope": SCOPE,
            **OF_VENDORS,
        }

    def refresh(self, refresh_token: str) -> Json | None:
        """The answer to a refresh, or None for `invalid_grant`."""
        family, spent = self._refresh_tokens.get(refresh_token, (None, False))
        if spent and family is not None:
            self.counted["replays"] += 1
            self.counted["families_ended"] += not family.ended
            family.ended = True
        if family is None or family.ended:
            self.counted["refusals"] += 1
            return None
        self.counted["refreshes"] += 1
        self._refresh_tokens[refresh_token] = (family, True)
        return self.issue(family)

    def accepts(self, access_token: str) -> bool:
        family = self._access_tokens.get(access_token)
        return family is not None and not family.ended and time.time() < family.access_tokens.get(access_token, 0.0)

    def revoke_access_tokens(self, but: str) -> None:
        """Silently, as a key rotation or a restarted API does it; refresh tokens stay good."""
        self._access_tokens = {token: family for token, family in self._access_tokens.items() if token == but}


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests are read whole, and come one after the other."""

    judge: Judge
    issuer: str

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", 0))
        if len(rest) < length:
            return
        self._received = rest[length:]
        self._serve(lines[0].split(" ")[1], fields, rest[:length])

    def _serve(self, path: str, fields: dict[str, str], body: bytes) -> None:
        judge = self.judge
        if path.startswith("/api/"):
            good = judge.accepts(fields.get("authorization", "").removeprefix("Bearer "))
            judge.counted["api_answers" if good else "api_refusals"] += 1
            self._write(GOOD if good else REFUSED)
        elif path.endswith("/token"):
            received = time.perf_counter()
            judge.counted["token_requests"] += 1
            answer = judge.refresh(parse_qs(body.decode()).get("refresh_token", [""])[0])
            told = told_as(200, answer) if answer is not None else told_as(400, {"error": "invalid_grant"})
            asyncio.get_running_loop().call_later(judge.delay, self._tell, told, received)
        elif "/.well-known/" in path:
            self._write(told_as(200, self._metadata()))
        elif path.startswith("/control/"):
            self._write(told_as(200, self._control(path.removeprefix("/control/"), json.loads(body or b"{}"))))
        else:
            self._write(told_as(404, {}))

    def _tell(self, told: bytes, received: float) -> None:
        self._write(told)
        self.judge.own.append(time.perf_counter() - received)

    def _write(self, told: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(told)

    def _metadata(self) -> Json:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
        }

    def _control(self, what: str, given: Json) -> Json:
        judge = self.judge
        match what:
            case "issue":
                family = Family(given["first"])
                answer = judge.issue(family)
                family.lifetime = given["lifetime"]
                return answer
            case "delay":
                judge.delay = given["seconds"]
            case "revoke":
                judge.revoke_access_tokens(given["but"])
            case "reset":
                judge.reset()
            case "stats":
                return {**judge.counted, "own": judge.own, "cpu": time.process_time()}
        return {}


def told_as(status: int, members: Json) -> bytes:
    """A whole answer."""
    body = json.dumps(members).encode()
    challenge = 'WWW-Authenticate: Bearer error="invalid_token"\r\n' if status == 401 else ""
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{challenge}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


GOOD = told_as(200, {"runs": list(range(20))})
REFUSED = told_as(401, {})


async def serve() -> None:
    loop = asyncio.get_running_loop()
    Connection.judge = Judge()
    server = await loop.create_server(Connection, HOST, 0, backlog=BACKLOG)
    port = server.sockets[0].getsockname()[1]
    Connection.issuer = f"http://{HOST}:{port}"
    print(port, flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()


class Loopback:
    """The server's process, as who started it sees it; a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._control = http.client.HTTPConnection(HOST, int(self._process.stdout.readline()), timeout=60)
        self.issuer = f"http://{HOST}:{self._control.port}"
        self.token_endpoint = f"{self.issuer}/token"
        self.api = f"{self.issuer}/api/runs"
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.communicate(timeout=10)

    def _ask(self, what: str, **given: Any) -> Json:
        self._control.request("POST", f"/control/{what}", json.dumps(given))
        told: Json = json.load(self._control.getresponse())
        return told

    def issue(self, *, lifetime: int = 3600, first: int | None = None) -> Json:
        """The token answer (RFC 6749 §5.1) of a new login; its access tokens live for so many seconds, or the
        first of them for another time.
        """
        return self._ask("issue", lifetime=lifetime, first=lifetime if first is None else first)

    def answer_in(self, seconds: float) -> None:
        """How long a token request takes from now on."""
        self._ask("delay", seconds=seconds)

    def revoke_access_tokens(self, *, but: str = "") -> None:
        """End all access tokens but that one, and tell nobody."""
        self._ask("revoke", but=but)

    def reset(self) -> None:
        """Count from nought."""
        self._ask("reset")

    def stats(self) -> Json:
        """What was counted since; `own`: seconds that each token request took here; `cpu`: seconds of this process."""
        return self._ask("stats")


if __name__ == "__main__":
    asyncio.run(serve())
