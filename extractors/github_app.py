"""A GitHub App's credentials: a signed statement of an hour's tenth buys a token of an hour, renewed in time.

https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime, timedelta

import httpx
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from extractors.github_api import answered_at
from extractors.http import ApiSession
from schemas.errors import AccessRefused, BadConfig, BrokenAnswer
from schemas.payloads import parse_time
from schemas.sections import resolve_secret
from schemas.sources import GitHubSource

SKEW = timedelta(seconds=60)  # how far GitHub's clock may be behind ours
STATEMENT_LASTS = timedelta(minutes=9)  # GitHub takes 10, counted by its own clock
RENEW_BEFORE = timedelta(minutes=5)  # of the token's end


class Statement(httpx.Auth):
    """Who the App is, signed anew for each request.

    Raises:
        BadConfig: the private key is not where the configuration says, or is none.
    """

    def __init__(self, settings: GitHubSource, now: Callable[[], datetime]) -> None:
        setting = f"source {settings.name}: private_key"
        self._key = _private_key(resolve_secret(settings.private_key or "", setting), setting)
        self._app_id = str(settings.app_id)
        self._now = now

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        now = self._now()
        claims = {
            "iat": int((now - SKEW).timestamp()),
            "exp": int((now + STATEMENT_LASTS - SKEW).timestamp()),
            "iss": self._app_id,
        }
        request.headers["authorization"] = f"Bearer {jwt.encode(claims, self._key, algorithm='RS256')}"
        yield request


class InstallationToken(httpx.Auth):
    """The token of an installation, renewed before it runs out, and once when it is refused.

    Args:
        session: asks as the App, by a `Statement`.
    """

    def __init__(self, session: ApiSession, settings: GitHubSource, now: Callable[[], datetime]) -> None:
        self._session = session
        self._settings = settings
        self._now = now
        self._token = ""
        self._good_until: datetime | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        fresh = self._good_until is None or self._now() >= self._good_until
        if fresh:
            self._renew()
        request.headers["authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code != 401 or fresh:
            return
        _drop_body(response)
        self._renew()
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request

    def _renew(self) -> None:
        source, installation = self._settings.name, self._settings.installation_id
        path = f"/app/installations/{installation}/access_tokens"
        answer = self._session.post(path, {}, tolerated=(404,))
        if answer.status == 404:
            raise AccessRefused(
                f'source "{source}": the App has no installation {installation}: '
                "correct installation_id, or install the App"
            )
        body = answer.body if isinstance(answer.body, dict) else {}
        token, expires_at = body.get("token"), parse_time(body.get("expires_at"))
        if not isinstance(token, str) or not token or expires_at is None:
            raise BrokenAnswer(f'source "{source}": GitHub gave no token to the App: try again later')
        now = self._now()
        lasts = expires_at - answered_at(answer.headers, now)  # both by GitHub's clock
        self._token, self._good_until = token, now + lasts - RENEW_BEFORE


def _private_key(pem: str, setting: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise BadConfig(f"{setting}: expected the App's RSA private key in PEM form, without a password")
    return key


def _drop_body(response: httpx.Response) -> None:
    """httpx reads an answer whole before it sends another request; nobody bounds that one."""
    unread, response.stream = response.stream, httpx.ByteStream(b"")
    if isinstance(unread, httpx.SyncByteStream):
        unread.close()
