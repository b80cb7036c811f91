"""A fake API over real HTTP on loopback, and what can go wrong on the way to it.

app = Faults(fake_jira)
with serve(app) as url:
    app.next(answer(429, {"retry-after": "3"}), prefix="/rest/api/3/search", times=2)
    ...
assert app.paths() == ["/rest/api/3/search/jql", ...]
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Fault = Callable[[App, MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application around another: it may leave it out, or change its answer."""

BOUND_S = 10  # for a start, and for a stop


@contextmanager
def serve(app: App, *, certificate: Path | None = None) -> Iterator[str]:
    """Serve `app` while the block runs; gives its address, `http://127.0.0.1:<port>`.

    Args:
        certificate: file with a key and its certificate (PEM), for https.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        date_header=False,  # a fake has a clock of its own
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    server = uvicorn.Server(config)
    # asyncio switches Nagle's delay off only where the protocol is named: 40 ms for each answer
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            _until(lambda: server.started or not thread.is_alive())
            assert server.started, "the server did not start"
            scheme = "https" if certificate else "http"
            yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True  # an answer that sleeps is not waited for
            thread.join(BOUND_S)
            assert not thread.is_alive(), "the server did not stop"


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not done() and time.monotonic() < end:
        time.sleep(0.002)


class Stage:
    """One server for many tests: each puts its own application here. A start and a stop take 0.2 s."""

    app: App

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@dataclass(slots=True)
class Seen:
    """A request as it arrived; `headers` have lower-case names."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Planned:
    fault: Fault
    prefix: str
    method: str | None
    times: int


class Faults:
    """An application whose next requests go wrong as planned; it notes them all in `requests`."""

    def __init__(self, app: App) -> None:
        self.requests: list[Seen] = []
        self._app = app
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()

    def next(self, fault: Fault, *, prefix: str = "/", method: str | None = None, times: int = 1) -> None:
        """The next `times` requests under `prefix` meet `fault`; what was planned before them comes first."""
        with self._lock:
            self._planned.append(_Planned(fault, prefix, method, times))

    def clear(self) -> None:
        """Forget what was seen, and what was planned and not met."""
        with self._lock:
            self._planned.clear()
            self.requests.clear()

    def paths(self) -> list[str]:
        return [seen.path for seen in self.requests]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        seen = Seen(
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        )

        async def noting() -> Message:
            message = await receive()
            seen.body += message.get("body", b"")
            return message

        fault = self._take(seen)
        if fault is None:
            await self._app(scope, noting, send)
        else:
            await fault(self._app, scope, noting, send)

    def _take(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.requests.append(seen)
            for planned in self._planned:
                if seen.path.startswith(planned.prefix) and planned.method in (None, seen.method):
                    planned.times -= 1
                    if planned.times == 0:
                        self._planned.remove(planned)
                    return planned.fault
        return None


def answer(status: int, headers: Mapping[str, str] = {}, body: Any = None) -> Fault:
    """This instead of the application's answer; `body` is JSON, or sent as it is when bytes."""
    content = body if isinstance(body, bytes) else orjson.dumps(body if body is not None else {})

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await _send(send, status, {"content-type": "application/json", **headers}, content)

    return fault


def web_page(status: int = 200) -> Fault:
    """A page for people, such as a login form or a proxy's error."""
    page = b"<!DOCTYPE html><html><body><form>Log in to continue</form></body></html>"
    return answer(status, {"content-type": "text/html; charset=utf-8"}, page)


def redirect(location: str, status: int = 302) -> Fault:
    return answer(status, {"location": location})


def github_limit(reset: int) -> Fault:
    """The hourly limit is used up until `reset`, in epoch seconds."""
    message = {
        "message": "API rate limit exceeded for user ID 1.",
        "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api",
    }
    headers = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)}
    return answer(403, headers, message)


def github_secondary_limit(retry_after_s: int | None = None, status: int = 403) -> Fault:
    """Too much at once; often without saying for how long."""
    message = {
        "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
        "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api"
        "#about-secondary-rate-limits",
    }
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return answer(status, {"x-ratelimit-remaining": "4321", **headers}, message)


def slow(seconds: float) -> Fault:
    """The application's own answer, later."""

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await app(scope, receive, send)

    return fault


def dripping(pause_s: float) -> Fault:
    """An answer that never ends, a byte at a time."""

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(pause_s)

    return fault


def torn(share: float = 0.5) -> Fault:
    """The connection closes after this share of the application's body."""

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        status, headers, body = await _answered(app, scope, receive)
        headers["content-length"] = str(len(body) + 1)
        await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
        await send({"type": "http.response.body", "body": body[: int(len(body) * share)], "more_body": True})

    return fault


def not_gzip() -> Fault:
    """The application's body, said to be gzip, as it is."""
    return changed(lambda headers, body: ({**headers, "content-encoding": "gzip"}, body))


def torn_gzip() -> Fault:
    """The application's body in gzip, all but the end of it, with a content-length that is right."""
    return changed(lambda headers, body: ({**headers, "content-encoding": "gzip"}, gzip.compress(body)[:-9]))


def gzip_bomb(mib: int) -> Fault:
    """Blanks, a thousandth of their number in gzip."""
    bomb = gzip.compress(b" " * (mib << 20))
    return answer(200, {"content-encoding": "gzip"}, bomb)


def limit_in_listing() -> Fault:
    """A listing cut by the limit, whose error stands in place of the rest: not JSON, and status 200."""
    error = {
        "message": "API rate limit exceeded for 192.0.2.1.",
        "documentation_url": "https://developer.github.com/v3/#rate-limiting",
    }
    members = orjson.dumps(error, option=orjson.OPT_INDENT_2)[2:-2]
    return changed(
        lambda headers, body: (headers, body[: body.rfind(b"}") + 1] + b"\n,\n" + members + b"\n]")
    )


def changed(
    change: Callable[[dict[str, str], bytes], tuple[Mapping[str, str], bytes]],
) -> Fault:
    """The application's answer with other headers or another body."""

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        status, headers, body = await _answered(app, scope, receive)
        changed_headers, changed_body = change(headers, body)
        await _send(send, status, changed_headers, changed_body)

    return fault


async def _answered(
    app: App, scope: MutableMapping[str, Any], receive: Receive
) -> tuple[int, dict[str, str], bytes]:
    """The application's own answer, not sent."""
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, keep)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    headers = {**headers, "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
