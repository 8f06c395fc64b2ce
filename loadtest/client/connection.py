"""HTTP/1.1 as cheap as Python can: a protocol class over httptools, and a pool of idle ones.

A load generator spends its core on this file, so there is no task, no stream and no queue between
the socket and the exchange: what arrives is parsed and timed in the same call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from loadtest.client.exchange import Exchange
from loadtest.records import ErrorKind
from rhizome.errors import TargetUnusable

IDLE_MAX_S = 2.0
"""An idle connection older than this is not used again: the server may be about to close it."""
_KEPT_HEADERS = frozenset({b"x-rhizome-worker", b"x-request-id"})

Ended = Callable[[Exchange], None]


class Address(msgspec.Struct, frozen=True):
    """Where requests go."""

    host: str
    port: int
    path: str
    is_tls: bool

    @staticmethod
    def of(url: str) -> Address:
        """Of a base URL such as `http://host:8000`; raises `TargetUnusable`."""
        try:
            parts = urlsplit(url.rstrip("/"))
            port = parts.port
        except ValueError as error:
            raise TargetUnusable(f"{url!r} is no URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise TargetUnusable(f"{url!r} is no URL of a server", advice="Give http://HOST:PORT.")
        is_tls = parts.scheme == "https"
        path = parts.path.removesuffix("/v1")
        return Address(parts.hostname, port or (443 if is_tls else 80), path, is_tls)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._now_s = 0.0
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Sends the request of an exchange."""
        assert self._transport is not None
        assert self._exchange is None
        self._exchange = exchange
        self._headers = {}
        self._transport.write(data)

    def abort(self) -> None:
        """Closes at once; the exchange is forgotten."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not derived from it

    def data_received(self, data: bytes) -> None:
        self._now_s = self._pool.now_s()
        if self._exchange is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._over(ErrorKind.UNREADABLE, str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._exchange is not None:
            self._over(ErrorKind.RESET, str(error or "closed by the server"))

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered in _KEPT_HEADERS:
            self._headers[lowered] = value

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.answered(self._parser.get_status_code(), self._headers, self._now_s)

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.feed(body, self._now_s)

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.end()
        if self._parser.should_keep_alive() and self.is_open:
            self.idle_since_s = self._now_s
            self._parser = httptools.HttpResponseParser(self)
            self._pool.give_back(self)
        else:
            self.abort()
        self._pool.ended(exchange)

    def _over(self, kind: ErrorKind, detail: str) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.fail(kind, detail)
            self._pool.ended(exchange)


class Connections:
    """The connections of one process to one address."""

    def __init__(
        self, address: Address, now_s: Callable[[], float], ended: Ended, connect_timeout_s: float
    ) -> None:
        self.now_s = now_s
        self.ended = ended
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if address.is_tls else None

    def idle(self) -> Connection | None:
        """A connection that can be used at once, the last one used first."""
        oldest_s = self.now_s() - IDLE_MAX_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since_s >= oldest_s:
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new one; raises `OSError` or `TimeoutError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(self), self._address.host, self._address.port, ssl=self._tls
            )
        return connection

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


def head_of(address: Address, path: str, length: int, headers: dict[str, str]) -> bytes:
    """The head of a POST with a JSON body."""
    lines = [
        f"POST {address.path}{path} HTTP/1.1",
        f"Host: {address.authority}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {length}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1")
