"""Tokens of Google Cloud, from a file or from a service account's JSON."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from schemas.errors import AccessRefused, BadConfig, ProviderUnavailable
from schemas.integrations import Integration
from tests.fakes.serving import Faults, Message, MutableMapping, Receive, Send, Stage, answer
from transforms.providers.google_access import GoogleAccess
from transforms.providers.vertex import Vertex

google_auth = pytest.importorskip("google.auth", reason="needs the [vertex] extra")


@pytest.fixture(scope="session")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class TokenServer:
    """https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests"""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.given = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        message: Message = await receive()
        form = parse_qs(message["body"].decode())
        claims = jwt.decode(
            form["assertion"][0],
            self._key.public_key(),
            ["RS256"],
            audience="https://oauth2.googleapis.com/token",
        )
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        self.given += 1
        body = {"access_token": f"token-{self.given}", "expires_in": 3600, "token_type": "Bearer"}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})


@pytest.fixture
def tokens(stage: tuple[Stage, str], private_key: rsa.RSAPrivateKey) -> Faults:
    stage[0].app = Faults(TokenServer(private_key))
    return stage[0].app


@pytest.fixture
def account(stage: tuple[Stage, str], private_key: rsa.RSAPrivateKey, tmp_path: Path) -> Path:
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    written = {
        "type": "service_account",
        "client_email": "worker@mill.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "private_key_id": "1",
        "token_uri": f"{stage[1]}/token",
    }
    path = tmp_path / "account.json"
    path.write_bytes(orjson.dumps(written))
    return path


def access(path: Path) -> GoogleAccess:
    return GoogleAccess(_integration(f"file:{path}"))


def _integration(
    api_key: str | None, url: str = "https://nowhere.invalid/v1/projects/p/locations/l"
) -> Integration:
    return Integration(name="main", provider="vertex", model="gemini-embedding-001", url=url, api_key=api_key)


def test_a_token_in_a_file_is_sent_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "token"
    found = access(path)
    for token in ("ya29.old", "ya29.new"):
        path.write_text(f"{token}\n", encoding="utf-8")
        assert found.headers() == {"authorization": f"Bearer {token}"}


def test_a_service_account_gets_one_token_for_all_threads(tokens: Faults, account: Path) -> None:
    found = access(account)
    with ThreadPoolExecutor(8) as threads:
        sent = set(threads.map(lambda _: found.headers()["authorization"], range(32)))
    assert sent == {"Bearer token-1"}
    assert tokens.paths() == ["/token"]


def test_an_account_that_google_does_not_know_is_refused(tokens: Faults, account: Path) -> None:
    tokens.next(answer(400, body={"error": "invalid_grant", "error_description": "Invalid JWT Signature."}))
    with pytest.raises(AccessRefused, match=r'integration "main".*check api_key') as raised:
        access(account).headers()
    assert "PRIVATE KEY" not in f"{raised.value!r} {raised.value.__context__!r}"


def test_a_token_server_out_of_order_is_asked_again_later(
    tokens: Faults, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # google-auth's own retries
    tokens.next(answer(503, body={"error": "internal_failure"}), times=100)
    with pytest.raises(ProviderUnavailable, match="for now"):
        access(account).headers()


@pytest.mark.parametrize("written", ["{}", '{"type": "service_account"}', '{"type": ', '{"type": "x"}'])
def test_what_is_no_account_is_refused(tmp_path: Path, written: str) -> None:
    path = tmp_path / "account.json"
    path.write_text(written, encoding="utf-8")
    with pytest.raises(AccessRefused, match="no credentials of Google"):
        access(path).headers()


@pytest.mark.parametrize(
    "url",
    [
        "https://europe-west4-aiplatform.googleapis.com",
        "https://h/v1/projects/p",
        "https://h/v1/projects/p/x/l",
    ],
)
def test_the_url_of_vertex_names_project_and_location(url: str) -> None:
    with pytest.raises(BadConfig, match="projects/PROJECT/locations/REGION"):
        Vertex(_integration("env:FAKE_KEY", url), 3072)
