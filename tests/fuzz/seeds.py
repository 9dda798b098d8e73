"""Where the fuzzer begins: real messages, in the form that each target of `harness.py` takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import urlencode

import requests

import loginonce
from loginonce.testing import FakeProvider

WORDS = (  # noqa: SIM905 - as libFuzzer's dictionaries write them, and as a person reads them
    "error error_description invalid_grant invalid_client slow_down access_token refresh_token id_token token_type "
    "expires_in scope refresh_expires_in device_code user_code verification_uri verification_uri_complete interval "
    "issuer token_endpoint authorization_endpoint jwks_uri userinfo_endpoint end_session_endpoint scopes_supported "
    "code state iss aud sub azp nonce exp iat at_hash alg kid kty keys crv none RS256 HS256 EdDSA Bearer DPoP realm "
    "SPENDING ACTIVE DEAD LOGGED_OUT marker failure tokens claims not_before sends null true false NaN Infinity 1e999 "
    "https:// http:// http://127.0.0.1 https://id.example.org notebook retry-after \\\\u001b"
).split()


def plant(provider: FakeProvider, session: loginonce.Session, folder: Path) -> None:
    """One folder of seeds for each target, and the `words` that the messages are made of."""
    folder.joinpath("words").write_text("".join(f'"{word}"\n' for word in WORDS))
    for name, seeds in _seeds(provider, session).items():
        place = folder / name
        place.mkdir()
        for number, seed in enumerate(seeds):
            place.joinpath(f"seed-{number}").write_bytes(seed)


def _seeds(provider: FakeProvider, session: loginonce.Session) -> dict[str, list[bytes]]:
    client = {"client_id": provider.public_client_id}
    stored = Path(session.source.store.location(session.source.key)).read_bytes()
    tokens = provider.issue()
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], **client}
    renewed = requests.post(f"{provider.issuer}/token", data=form, timeout=5)
    refused = requests.post(f"{provider.issuer}/token", data=form, timeout=5)
    device = requests.post(f"{provider.issuer}/device_authorization", data=client, timeout=5)
    asked = {"response_type": "code", "redirect_uri": "http://127.0.0.1:4711/callback", "state": "s", "scope": "openid"}
    pkce = {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}
    came_back = provider.approve(f"{provider.issuer}/authorize?{urlencode({**asked, **pkce, **client})}")
    documents = [
        requests.get(f"{provider.issuer}/.well-known/{name}", timeout=5).content
        for name in ("openid-configuration", "oauth-authorization-server")
    ]
    ours = [document.replace(provider.issuer.encode(), b"https://id.example.org") for document in documents]
    challenges = [
        requests.get(provider.api(path), headers=headers, timeout=5).headers["WWW-Authenticate"].encode()
        for path in ("/runs", "/stepup")
        for headers in ({}, {"Authorization": f"Bearer {renewed.json()['access_token']}"})
        if (path, headers == {}) != ("/runs", False)
    ]
    id_token = renewed.json()["id_token"]
    payload = id_token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    sound = {**claims, "iss": "https://id.example.org", "aud": "notebook", "azp": "notebook", "nonce": "n",
             "exp": 1_700_000_300, "iat": 1_700_000_000, "at_hash": None}  # fmt: skip
    sound = {name: value for name, value in sound.items() if value is not None}
    jwks = json.dumps(requests.get(f"{provider.issuer}/jwks", timeout=5).json()).encode()
    return {
        "stored": [stored],
        "token_answer": [b"\0\n" + renewed.content, b"\1\n" + refused.content, b"\x057\n", b"\1\n",
                         b"\7Wed, 21 Oct 2026 07:28:00 GMT\n<html>", b"\0\n" + json.dumps(tokens).encode()],
        "device_answer": [b"\0\n" + device.content, b"\1\n" + refused.content],
        "redirect": [b"A" + came_back.encode(), b"Acode=c&iss=https://id.example.org", b"@error=access_denied"],
        "challenge": [*challenges, b'Basic realm="a, b", Bearer error="invalid_token", DPoP algs="ES256", N a=='],
        "metadata": [b"\n".join(ours), ours[0]],
        "id_token": [
            b"\n".join([id_token.encode(), json.dumps(sound).encode()]),
            b"\n".join([b'{"alg": "EdDSA", "kid": "k"}', json.dumps(sound).encode()]),
            b"\n".join([rb'{"alg": "\u0041", "crit": ["\u0041"], "kid": "k"}', json.dumps(sound).encode()]),
            b"\n".join([jwks, json.dumps(claims).encode()]),
        ],
        "planted": [b"seed"],
    }  # fmt: skip
