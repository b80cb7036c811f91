"""`headrace webhooks`: takes deliveries of GitHub and Jira, and keeps what they name until it was looked at again.

A delivery is verified, written to disk and only then answered; `headrace watch` does the rest. Nothing in it is
believed: a forged or repeated delivery makes us ask the source once more, and no more than that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from extractors.deliveries import Provider, parse_body, read_delivery
from runners.addressees import Registry, addressed, introduction, is_signed, registry
from runners.inbox import Away, Inbox
from schemas.config import Config
from schemas.errors import BadConfig, InvalidPayload
from schemas.ids import digest
from transforms.postgres import Store, open_store

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 25 * 1024 * 1024
"""GitHub sends nothing larger: https://docs.github.com/webhooks/webhook-events-and-payloads#payload-cap."""
MAX_HELD_BYTES = 4 * MAX_BODY_BYTES
"""Of all bodies that are being received."""
MAX_AT_ONCE = 256
MAX_CONNECTIONS = 512
BODY_TIMEOUT_S = 10.0
CONNECTION_LIMIT_S = 30.0
STOP_TIMEOUT_S = 10
RETRY_AFTER_S = 30
QUIET_S = 60.0
"""Between two lines in the log about refused deliveries of one source."""


class Receiver:
    """Answers deliveries.

    Args:
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self, config: Config, registered: Registry, inbox: Inbox, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._registered = registered
        self._inbox = inbox
        self._now = now
        self._at_once = 0
        self._held_bytes = 0
        self._refused_at: dict[str, float] = {}

    def app(self) -> Starlette:
        """The ASGI application; the queue is looked after for as long as it lives."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            keeping = asyncio.create_task(self._inbox.keep_house())
            yield
            keeping.cancel()
            await asyncio.to_thread(self._inbox.close)

        routes = [
            Route("/healthz", self.health),
            Route("/github/{name:path}", self.github, methods=["POST"]),
            Route("/jira/{name:path}", self.jira, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    async def health(self, request: Request) -> Response:
        """Whether the database is reachable, and how long the queue is."""
        try:
            state = await self._inbox.state()
        except Away:
            return JSONResponse({"database": "away"}, 503)
        oldest = state.oldest_at.isoformat() if state.oldest_at else None
        return JSONResponse({"database": "reachable", "pending": state.pending, "oldest_at": oldest})

    async def github(self, request: Request) -> Response:
        headers = request.headers
        return await self._receive(
            request,
            "github",
            headers.get("x-hub-signature-256", ""),
            headers.get("x-github-event", ""),
            headers.get("x-github-delivery", ""),
        )

    async def jira(self, request: Request) -> Response:
        headers = request.headers
        signature = headers.get("x-hub-signature", "")
        return await self._receive(
            request, "jira", signature, "", headers.get("x-atlassian-webhook-identifier", "")
        )

    async def _receive(
        self, request: Request, provider: Provider, signature: str, event: str, provider_id: str
    ) -> Response:
        to = self._registered.get((provider, request.path_params["name"]))
        if to is None:
            raise HTTPException(404, "no source of this name takes deliveries")
        if self._inbox.is_full:
            raise _later("too many deliveries are waiting to be processed")
        async with self._body(request) as body:
            if not await asyncio.to_thread(is_signed, body, to.secret, signature):
                self._note_refusal(to.source.name)
                raise HTTPException(401, "the signature is missing or wrong")
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            form = content_type == "application/x-www-form-urlencoded" and provider == "github"
            if not form and content_type != "application/json":
                raise HTTPException(415, "expected application/json")
            try:
                value = await asyncio.to_thread(parse_body, body, form=form)
            except InvalidPayload as error:
                raise HTTPException(400, str(error)) from None
            hint = read_delivery(provider, event, value)
            if not 0 < len(provider_id) <= 200:
                provider_id = digest(body).hex()
        if event == "ping":
            return PlainTextResponse("pong")
        kept = addressed(hint, to, provider_id, self._config.sources, self._config.client)
        if not kept:
            reason = hint.ignored or "none of the configured sources reads what it is about"
            return PlainTextResponse(f"{hint.event} is ignored: {reason}", 202)
        try:
            new = await self._inbox.store(kept)
        except Away:
            raise _later("the database is away") from None
        return PlainTextResponse("stored" if new else "known", 202)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, within the bounds of size, time and memory."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise _too_large()
        if self._at_once >= MAX_AT_ONCE:
            raise _later("too many deliveries at once")
        parts: list[bytes] = []
        size = 0
        self._at_once += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in request.stream():
                    size += len(part)
                    self._held_bytes += len(part)
                    if size > MAX_BODY_BYTES:
                        raise _too_large()
                    if self._held_bytes > MAX_HELD_BYTES:
                        raise _later("too many large deliveries at once")
                    parts.append(part)
            yield b"".join(parts)
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time", _CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body did not come") from None
        finally:
            self._at_once -= 1
            self._held_bytes -= size

    def _note_refusal(self, name: str) -> None:
        if self._now() - self._refused_at.get(name, -QUIET_S) >= QUIET_S:
            self._refused_at[name] = self._now()
            logger.warning(
                "a delivery for source %r has no or a wrong signature: compare webhook_secret", name
            )


_CLOSE = {"Connection": "close"}


def _later(said: str) -> HTTPException:
    return HTTPException(503, said, {"Retry-After": str(RETRY_AFTER_S), **_CLOSE})


def _too_large() -> HTTPException:
    return HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes", _CLOSE)


class _Connection(H11Protocol):
    """Ends with its request or after a while: uvicorn has no limit for a head that comes byte by byte."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(CONNECTION_LIMIT_S, self.shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)


def serve(config: Config, announce: Callable[[str], None]) -> None:
    """Listen until Ctrl-C or SIGTERM; what is being received then is still stored and answered.

    Args:
        announce: told, line by line, where it listens and for whom.
    Raises:
        SetupError: no source takes deliveries, the address is taken, or the database cannot be had.
    """
    registered = registry(config)
    store = open_store(config)
    listener = listen(config.webhooks.host, config.webhooks.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    for line in introduction(config, registered, f"http://{shown}:{port}"):
        announce(line)
    if not ipaddress.ip_address(host).is_loopback:
        logger.warning(
            "webhooks.host: other machines reach %s in plain HTTP: put a server that speaks TLS before it",
            host,
        )
    try:
        make_server(config, registered, store).run(sockets=[listener])
    except KeyboardInterrupt:  # given on by uvicorn after it has stopped in good order
        return


def make_server(config: Config, registered: Registry, store: Store) -> uvicorn.Server:
    """A server that is not listening yet."""
    return uvicorn.Server(
        uvicorn.Config(
            Receiver(config, registered, Inbox(store)).app(),
            http=_Connection,
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket on which the server is to listen.

    Raises:
        BadConfig: it cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise BadConfig(
            f"webhooks: cannot listen on {host}, port {port}: {error.strerror}: change webhooks.host or webhooks.port"
        ) from None
    # Inherited by each connection; asyncio does so only for sockets it made. An answer is two writes, and the second
    # would wait 40 ms for the first to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
