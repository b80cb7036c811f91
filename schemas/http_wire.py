"""One HTTP request and its whole answer, bounded in seconds and bytes: for sources and for providers."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from threading import Event, Timer
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one answer may cost.

    Args:
        connect_s: for a connection, TLS included.
        read_s: between two pieces of an answer.
        total_s: from the request to the end of the answer.
        max_bytes: of a body, decompressed.
    """

    connect_s: float = 10
    read_s: float = 60
    total_s: float = 180
    max_bytes: int = 64 << 20


class Overdue(Exception):
    """`Bounds.total_s` has passed."""


class TornBody(Exception):
    """A body is not what its Content-Encoding says, or ends too early."""


class BodyTooLarge(Exception):
    """A body has more than `Bounds.max_bytes`."""


class Wire:
    """A client whose answers are bounded, one at a time."""

    def __init__(self, client: httpx.Client, bounds: Bounds) -> None:
        self._client = client
        self._bounds = bounds
        self._socket: socket.socket | None = None  # the last one opened; a connection that is kept has it too

    def exchange(self, request: httpx.Request, auth: httpx.Auth | None) -> httpx.Response:
        """The answer with its body decompressed; it knows nothing of the headers of its request.

        Raises:
            httpx.TransportError: the connection failed.
            Overdue, TornBody, BodyTooLarge: see there.
        """
        request.extensions["trace"] = self._note_socket
        with self._deadline():
            response = self._client.send(request, auth=auth, stream=True)
            try:
                encoding = response.headers.get("content-encoding", "")
                body = decoded(response.iter_raw(), encoding, self._bounds.max_bytes)
            finally:
                response.close()
        headers = [pair for pair in response.headers.raw if pair[0].lower() not in _OF_THE_TRANSFER]
        asked = httpx.Request(request.method, request.url)
        return httpx.Response(response.status_code, headers=headers, content=body, request=asked)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """httpx bounds each read, not their sum: when the time is over, the connection is cut."""
        over = Event()

        def cut() -> None:
            over.set()
            if self._socket is not None:
                with suppress(OSError):  # closed meanwhile
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

        timer = Timer(self._bounds.total_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (httpx.TransportError, TornBody):
            if not over.is_set():
                raise
        finally:
            timer.cancel()
        if over.is_set():  # an answer that ends with its connection looks whole when that is cut
            raise Overdue

    def _note_socket(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")


_OF_THE_TRANSFER = (b"content-encoding", b"content-length", b"transfer-encoding")


def decoded(pieces: Iterable[bytes], encoding: str, max_bytes: int) -> bytes:
    """A body from its pieces, `identity` or `gzip`, holding at most about twice `max_bytes`.

    httpx's own decoders unpack a piece whole, and one encoding within another.

    Raises:
        TornBody, BodyTooLarge: see there.
    """
    match encoding.strip().lower():
        case "" | "identity":
            unpacked = pieces
        case "gzip" | "x-gzip":
            unpacked = _gunzipped(pieces, max_bytes + 1)
        case _:
            raise TornBody
    body = bytearray()
    for piece in unpacked:
        body += piece
        if len(body) > max_bytes:
            raise BodyTooLarge
    return bytes(body)


def _gunzipped(pieces: Iterable[bytes], max_piece: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    begun = False
    for piece in pieces:
        begun = True
        try:
            yield stream.decompress(piece, max_piece)
        except zlib.error:
            raise TornBody from None
        if stream.unused_data:
            raise TornBody
    if begun and not stream.eof:
        raise TornBody


def retry_after_s(answer: httpx.Response, now: datetime) -> float | None:
    """Seconds that the header Retry-After asks for, as a number or as a date; None when it does not."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one without a time zone
        return None
