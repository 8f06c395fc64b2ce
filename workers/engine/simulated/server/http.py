"""HTTP/1.1 for the simulated engine: requests in, replies and event streams out, little per token.

A token costs one write of ready-made bytes; there is no coroutine per connection or per request.
Handlers are synchronous and answer now or later through the `Exchange`. Promises: replies in the
order of the requests, bounded heads, bodies and unread output, and word of a client that left.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from operator import methodcaller
from typing import Protocol, cast

import httptools

from workers.engine.simulated.server.refusals import Refusal

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 64 * 2**20
UNREAD_BYTES_MAX = 8 * 2**20
"""A client that leaves this much unread is cut off."""
PIPELINED_MAX = 16

_LINGER_NONE = struct.pack("ii", 1, 0)
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_JSON = b"application/json"
_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Request:
    """One request as it came in, complete."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "peer", "query")

    def __init__(self, method: str, path: str, headers: dict[bytes, bytes], peer: str) -> None:
        self.method = method
        self.path = path
        """Without the query."""
        self.query = b""
        self.headers = headers
        """Names in lower case."""
        self.body = b""
        self.keep_alive = True
        self.peer = peer
        """The client's address."""

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Exchange:
    """One request and the way back to its client; answered once, with a reply or a stream."""

    __slots__ = (
        "_connection",
        "error_form",
        "extra_headers",
        "gone",
        "on_gone",
        "over",
        "request",
    )

    def __init__(self, request: Request, connection: Connection) -> None:
        self.request = request
        self._connection = connection
        self.gone = False
        """Whether the client left (or was cut off) before the answer's end."""
        self.over = False
        """Whether the answer has been given in full."""
        self.on_gone: Callable[[], None] | None = None
        self.extra_headers: dict[bytes, bytes] = {}
        self.error_form: Callable[[Refusal], bytes] = methodcaller("body")
        """How refusals look to this client."""

    def refuse(self, refusal: Refusal) -> None:
        """The whole answer, where there is none."""
        self.reply(refusal.status, self.error_form(refusal))

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: bytes | None = _JSON,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """The whole answer."""
        if self.gone:
            return
        parts = [_STATUS_LINES[status], b"server: uvicorn\r\n"]
        for name, value in (self.extra_headers | dict(headers or {})).items():
            parts += [name, b": ", value, b"\r\n"]
        parts.append(b"content-length: %d\r\n" % len(body))
        if content_type is not None:
            parts += [b"content-type: ", content_type, b"\r\n"]
        parts += [b"\r\n", b"" if self.request.method == "HEAD" else body]
        self._connection.write(b"".join(parts))
        self._connection.answered(self)

    def begin_stream(self) -> None:
        """The head of an event stream; `send` and `end` follow."""
        if self.gone:
            return
        parts = [_STATUS_LINES[200], b"server: uvicorn\r\n"]
        for name, value in self.extra_headers.items():
            parts += [name, b": ", value, b"\r\n"]
        parts += [b"content-type: ", _EVENT_STREAM, b"\r\ntransfer-encoding: chunked\r\n\r\n"]
        self._connection.write(b"".join(parts))

    def send(self, data: bytes) -> None:
        """One piece of the stream, as a chunk of its own."""
        if not self.gone:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes) -> None:
        """The last piece, if there is one, and the end of the stream."""
        if not self.gone:
            piece = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            self._connection.write(piece + b"0\r\n\r\n")
            self._connection.answered(self)

    def cut(self) -> None:
        """Resets the connection, unless the answer has ended."""
        if not self.over:
            self._connection.reset()

    def break_off(self) -> None:
        """Ends the connection after what is written, in the middle of a stream."""
        self.over = True
        self._connection.close()

    def mute(self) -> None:
        """Nothing more comes on this connection, and it does not end."""
        self._connection.mute = True

    def is_on(self, connection: Connection) -> bool:
        """Whether it came over this connection."""
        return self._connection is connection


class Door(Protocol):
    """What connections ask of their server."""

    def handle(self, exchange: Exchange) -> None:
        """Answers now or later; raises nothing."""
        ...

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request] = deque()
        self._active: Exchange | None = None
        self._peer = ""
        self.mute = False
        """A half-open connection: neither answers nor ends."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._body_bytes = 0

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not derived from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._door.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        active, self._active = self._active, None
        if active is not None:
            active.gone = True
            if active.on_gone is not None:
                active.on_gone()
        self._door.closed(self)

    def data_received(self, data: bytes) -> None:
        if self.mute:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.reset()
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"connection: close\r\n\r\nInvalid HTTP request received."
            )
            self.close()
            return
        # Outside the parser: it would take a fault of a handler for one of the request.
        self._next()

    # From the parser.

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head_bytes = b"", {}, 0
        self._pieces, self._body_bytes = [], 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            raise ValueError("the body is too long")
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        url = httptools.parse_url(self._url)
        path = url.path or b"/"
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, path.decode("latin-1"), self._headers, self._peer)
        request.query = url.query or b""
        request.body = b"".join(self._pieces)
        request.keep_alive = self._parser.should_keep_alive()
        self._pieces = []
        if len(self._waiting) >= PIPELINED_MAX:
            raise ValueError("too many requests at once on one connection")
        self._waiting.append(request)

    def _count_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError("the head is too long")

    def _next(self) -> None:
        if self._active is None and self._waiting and self._transport is not None:
            self._active = Exchange(self._waiting.popleft(), self)
            self._door.handle(self._active)

    # From the exchange and the server.

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self.mute:
            return
        transport.write(data)
        if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.reset()

    def answered(self, exchange: Exchange) -> None:
        """The exchange is over; goes on with the next request."""
        if self._active is not exchange or self.mute:
            return
        self._active = None
        exchange.over = True
        if not exchange.request.keep_alive:
            if self._transport is not None:
                self._transport.close()
            return
        self._next()

    def close(self) -> None:
        """Ends the connection after what is written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Ends the connection at once, with a TCP reset."""
        if self._transport is None:
            return
        plain = self._transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._transport.abort()
