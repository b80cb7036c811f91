"""One JSON request to a provider, bounded in seconds and bytes, and what its failure means. Nothing is repeated.

No message holds a key, a text or words of the far end; codes of its errors are shown where they look like codes.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from schemas.errors import (
    AccessRefused,
    BadAnswer,
    InputRefused,
    NotAllowed,
    OutOfCredit,
    PipelineError,
    ProviderTimeout,
    ProviderUnavailable,
    QueryRefused,
    RateLimited,
    SourceUnreachable,
    WrongAddress,
)
from schemas.http_wire import BodyTooLarge, Bounds, Overdue, TornBody, Wire, retry_after_s
from schemas.integrations import Integration
from schemas.sections import resolve_secret

MAX_CONNECT_S = 10
MAX_ANSWER_BYTES = 64 << 20
"""A thousand vectors of 2048 numbers, written out, are 45 MB."""
MAX_CODE_CHARS = 64

_CODE = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{MAX_CODE_CHARS - 1}}}|[0-9]{{1,6}}")
_SENDABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")

Meaning = Callable[[int, Any], type[PipelineError] | None]
"""(status, JSON of the answer or None) -> what it means at this API; None where the status says enough."""


def _as_the_status_says(status: int, body: Any) -> type[PipelineError] | None:
    return None


def _not_said(body: Any) -> float | None:
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom to ask, and how its refusals are to be read.

    Args:
        integration: its name, for messages.
        product: whose API it is, for messages.
        base_url: what paths are relative to, without a slash at its end.
        timeout_s: from the request to the end of the answer.
        headers: asked for each request, since keys are changed and tokens expire; may raise a PipelineError.
        meaning: of an answer that is none of 2xx and 429.
        wait_s: JSON of a 429 that has no Retry-After -> seconds it asks to wait.
    """

    integration: str
    product: str
    base_url: str
    timeout_s: float
    headers: Callable[[], Mapping[str, str]]
    meaning: Meaning = _as_the_status_says
    wait_s: Callable[[Any], float | None] = _not_said

    @property
    def place(self) -> str:
        """The subject of every message."""
        host = urlsplit(self.base_url).netloc
        return f'integration "{self.integration}": {self.product} at {host}'


def caller_of(
    integration: Integration,
    product: str,
    own_url: str,
    headers: Callable[[], Mapping[str, str]],
    meaning: Meaning = _as_the_status_says,
    wait_s: Callable[[Any], float | None] = _not_said,
) -> Caller:
    """As `Caller`, for an integration; its provider is at `own_url` where the configuration does not say."""
    url = (integration.url or own_url).rstrip("/")
    return Caller(integration.name, product, url, integration.performance.timeout_s, headers, meaning, wait_s)


def key_of(integration: Integration) -> str:
    """The key as it is now: files that hold keys are written anew.

    Raises:
        BadConfig: it is not where the reference says; AccessRefused: there is no reference.
    """
    if integration.api_key is None:
        raise AccessRefused(
            f'integration "{integration.name}" has no api_key: give "env:NAME" or "file:/path"'
        )
    return resolve_secret(integration.api_key, f'api_key of integration "{integration.name}"')


def bearer(integration: Integration) -> Callable[[], Mapping[str, str]]:
    """Headers with the key as a bearer token, made anew for each request."""
    return lambda: {"authorization": f"Bearer {key_of(integration)}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON object, and the headers it came with."""

    body: dict[str, Any]
    headers: httpx.Headers


class JsonClient:
    """Asks one API; may be used by several threads, each of which has a connection to itself while it asks.

    Raises:
        WrongAddress: the base URL is none.
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._bounds = Bounds(
            connect_s=min(MAX_CONNECT_S, caller.timeout_s),
            read_s=caller.timeout_s,
            total_s=caller.timeout_s,
            max_bytes=MAX_ANSWER_BYTES,
        )
        self._clients: list[httpx.Client] = []
        self._idle: list[Wire] = []
        try:
            self._idle.append(self._new_lane())
            self._base = httpx.URL(caller.base_url)
        except (OSError, ValueError, ImportError):
            problem: PipelineError = SourceUnreachable(
                f'integration "{caller.integration}": the proxy or certificates named in the environment cannot be '
                "used: check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            )
        except httpx.InvalidURL:
            problem = WrongAddress(f'integration "{caller.integration}": url is no address')
        else:
            return
        raise problem

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        """Ask for `path`, relative to the base.

        Raises:
            As `transforms.providers.base.Provider.embed`.
        """
        return self._ask("GET", path, params, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Post `body` to `path`, relative to the base.

        Raises:
            As `get`.
        """
        try:
            content = orjson.dumps(body)
        except TypeError:  # half a surrogate pair, from a terminal
            content = None
        if content is None:
            raise InputRefused(
                f"{self._caller.place} was not asked: a text holds what is no Unicode character"
            )
        return self._ask("POST", path, None, content)

    def close(self) -> None:
        """Give the connections back."""
        for client in self._clients:
            client.close()

    def _ask(self, method: str, path: str, params: Mapping[str, str] | None, content: bytes | None) -> Answer:
        headers = dict(self._caller.headers())
        if not all(_SENDABLE.fullmatch(value) for value in headers.values()):
            raise AccessRefused(
                f"{self._caller.place} was not asked: the key is empty, or holds characters that cannot be sent: "
                "check api_key"
            )
        if content is not None:
            headers["content-type"] = "application/json"
        response = self._exchange(method, path, params, content, headers)
        body = _parsed(response)
        if not response.is_success:
            raise of_status(self._caller, response, body, datetime.now(UTC))
        if not isinstance(body, dict):
            raise BadAnswer(f"{self._caller.place} sent something else than a JSON object")
        return Answer(body, response.headers)

    def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        place = self._caller.place
        try:
            with self._lane() as wire:
                url = f"{str(self._base).rstrip('/')}/{path.lstrip('/')}"
                request = self._clients[0].build_request(
                    method, url, params=params, content=content, headers=headers
                )
                return wire.exchange(request, None)
        except (httpx.TransportError, httpx.InvalidURL, Overdue) as error:
            problem = of_transport(place, error)
        except BodyTooLarge:
            problem = BadAnswer(f"{place} sent more than {MAX_ANSWER_BYTES >> 20} MiB")
        except TornBody:
            problem = ProviderUnavailable(f"{place} sent half an answer")
        raise problem  # out here: the error above knows the request, key and texts and all

    @contextmanager
    def _lane(self) -> Iterator[Wire]:
        try:
            wire = self._idle.pop()  # the one used last: its connection is the most likely to be open still
        except IndexError:
            wire = self._new_lane()
        try:
            yield wire
        finally:
            self._idle.append(wire)

    def _new_lane(self) -> Wire:
        client = httpx.Client(
            headers={
                "accept": "application/json",
                "accept-encoding": "gzip",
                "user-agent": f"headrace/{version('headrace')}",
            },
            timeout=httpx.Timeout(self._bounds.read_s, connect=self._bounds.connect_s),
            limits=httpx.Limits(max_connections=1),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            verify=_certificates(),
        )
        self._clients.append(client)
        return Wire(client, self._bounds)


@cache
def _certificates() -> ssl.SSLContext:
    """Read once for all connections of this process: it takes longer than many a request."""
    return httpx.create_ssl_context()


def _parsed(response: httpx.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None


def of_transport(place: str, error: Exception) -> PipelineError:
    """What a request means that got no whole answer; pure.

    Args:
        place: the subject of the message.
    """
    match error:
        case httpx.ConnectTimeout() | httpx.ConnectError() | httpx.ProxyError():
            line = f"{place} cannot be connected to: check url, the network and the proxy if it never can"
            return ProviderUnavailable(line, False)
        case Overdue() | httpx.TimeoutException():
            return ProviderTimeout(
                f"{place} did not answer in time: raise performance.timeout_s if it never does"
            )
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return WrongAddress(f"{place}: not an address that can be asked: check url")
    return ProviderUnavailable(f"{place} broke the connection")


_HINTS: dict[type[PipelineError], str] = {
    AccessRefused: "does not take the key: check api_key",
    NotAllowed: "knows the key, which may not do that: check what it is allowed to",
    OutOfCredit: "says that the account has nothing left to pay with",
    WrongAddress: "has no such model or path: check model and url",
    QueryRefused: "does not take what is asked for: check model and dimensions",
    InputRefused: "does not take a text",
    ProviderUnavailable: "could not answer",
}


_FROM_BETWEEN = (502, 504, 524)
"""Said by a proxy or gateway that got no answer, or half of one: behind it the request may have been computed."""


def of_status(caller: Caller, response: httpx.Response, body: Any, now: datetime) -> PipelineError:
    """What an answer means whose status is not 2xx; pure.

    Args:
        body: JSON of the answer, None where it is none.
    """
    status = response.status_code
    said = ", ".join([f"HTTP {status}", *(code for code in codes(body) if code != str(status))])
    kind = OutOfCredit if "insufficient_quota" in codes(body) else caller.meaning(status, body)
    if status == 429 and kind is None:
        wait_s = retry_after_s(response, now)
        wait_s = caller.wait_s(body) if wait_s is None else wait_s
        return RateLimited(f"{caller.place} limits requests ({said})", wait_s)
    kind = kind or _kind_of(status)
    line = f"{caller.place} {_HINTS[kind]} ({said})"
    return ProviderUnavailable(line, status in _FROM_BETWEEN) if kind is ProviderUnavailable else kind(line)


def _kind_of(status: int) -> type[PipelineError]:
    match status:
        case 401:
            return AccessRefused
        case 402:
            return OutOfCredit
        case 403:
            return NotAllowed
        case 400 | 413 | 422:
            return InputRefused
        case 408 | 425:
            return ProviderUnavailable
        case _ if status >= 500:
            return ProviderUnavailable
        case _ if status < 400:  # a redirect: keys are not sent elsewhere
            return WrongAddress
        case 404 | 405 | 410:
            return WrongAddress
    return QueryRefused


def codes(body: Any) -> list[str]:
    """The names an API gives to its error, where they look like names: they go into messages and logs."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return []
    found = [str(error.get(key)) for key in ("type", "status", "code") if error.get(key) is not None]
    return [code for code in dict.fromkeys(found) if _CODE.fullmatch(code)]
