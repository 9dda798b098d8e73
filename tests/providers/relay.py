"""Stands in front of a real server and loses answers that it has given, or holds up what it is asked."""

from __future__ import annotations

import re
import socket
import time
from typing import Self
from urllib.parse import urlsplit

from scripted import Connection, Scripted


class Relay:
    """Passes on what is said, to the byte but for the end of each connection.

    `lose`: of how many refreshes from now on the answer gets lost; `hold`: for how many seconds each refresh is held
    up; `refreshes`: how many have come.  `url` is where it stands.
    """

    def __init__(self, server: str) -> None:
        self.lose = 0
        self.hold = 0.0
        self.refreshes = 0
        there = urlsplit(server)
        self._there = (there.hostname, there.port)
        self._scripted = Scripted(self._script)
        self.url = f"http://127.0.0.1:{self._scripted.port}"

    def __enter__(self) -> Self:
        self._scripted.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._scripted.__exit__(*what)

    def _script(self, connection: Connection) -> None:
        request = connection.request()
        refresh = b"grant_type=refresh_token" in request
        if refresh:
            self.refreshes += 1
            time.sleep(self.hold)
        answer = self._passed_on(request)
        if refresh and self.lose:
            self.lose -= 1
            connection.reset()
        else:
            connection.send(answer)

    def _passed_on(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
        answer = b""
        with socket.create_connection(self._there) as server:
            server.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            while data := server.recv(65536):
                answer += data
        return answer
