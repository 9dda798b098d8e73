"""Certificates for servers and clients of the tests."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass
class Certificates:
    """Files: a CA, a certificate of it for 127.0.0.1, one for another host, one for a client; each with its key."""

    ca: str
    here: tuple[str, str]
    elsewhere: tuple[str, str]
    client: tuple[str, str]

    def context(self, pair: tuple[str, str], *, clients: bool = False) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*pair)
        if clients:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(self.ca)
        return made
