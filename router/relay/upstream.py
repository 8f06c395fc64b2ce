"""HTTP to workers: pooled connections, one exchange at a time, with a deadline on every wait.

Failures are translated once: no connection or a connection lost is `WorkerUnreachable`, silence is
`WorkerTimeout`. Leaving an exchange before its end closes the connection, which makes the engine
abort the request. A connection that was closed while it was idle is no failure of the worker: the
request goes out again on a new one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from rhizome.errors import WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from router.fleet import Target
from router.relay.connection import NotSent, Receiver, WorkerConnection
from router.relay.deadlines import Deadlines

_ORIGINS_MAX = 16_384
_HEADS_MAX = 64


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What is sent to a worker."""

    path: str
    body: bytes
    request_id: str
    headers: Mapping[str, str]
    """Beside those that every request has; names and values are free of line breaks."""
    content_type: str = "application/json"


class Origin:
    """One worker's address, and the idle connections to it, the one used last at the end."""

    def __init__(self, url: str, settings: RelaySettings, deadlines: Deadlines) -> None:
        parts = urlsplit(url)
        self._settings = settings
        self._deadlines = deadlines
        self.host = parts.hostname or ""
        self.is_tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_tls else 80)
        self.path = parts.path.rstrip("/")
        self.authority = parts.netloc.rpartition("@")[2]
        self.idle: list[WorkerConnection] = []
        self.heads: dict[tuple[str, str, str | None, int | None], str] = {}
        """How heads of requests begin, by path, type of the body, key and rank."""

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.is_tls else None

    def take(self) -> WorkerConnection | None:
        """An idle connection, if there is one."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
        return None

    def give_back(self, connection: WorkerConnection) -> None:
        if len(self.idle) >= self._settings.idle_connections_max:
            connection.abort()
            return
        connection.keep(self._settings.idle_connection_s)
        self.idle.append(connection)

    def forget(self, connection: WorkerConnection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)

    async def connect(self) -> WorkerConnection:
        """A new connection; raises `WorkerUnreachable`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: WorkerConnection(self, self._settings, self._deadlines),
                    self.host,
                    self.port,
                    ssl=self.tls,
                )
        except (OSError, TimeoutError) as error:
            raise WorkerUnreachable("no connection to the worker") from error
        return connection

    def close(self) -> None:
        for connection in self.idle:
            connection.abort()
        self.idle.clear()


class Answer(Receiver, Protocol):
    """A receiver that knows which connection to pause while its own reader is slow."""

    def on(self, connection: WorkerConnection) -> None:
        """The answer will come on this connection."""
        ...


class Upstream:
    """Pooled connections to all workers."""

    def __init__(self, settings: RelaySettings, deadlines: Deadlines) -> None:
        self._settings = settings
        self._deadlines = deadlines
        self._origins: dict[str, Origin] = {}

    async def exchange(self, target: Target, request: UpstreamRequest, answer: Answer) -> None:
        """Sends the request to the target and hands its answer to `answer`; returns at its end.

        Raises `WorkerUnreachable`, `WorkerTimeout` and what `answer` raises.
        """
        origin = self._origin(target.record.url)
        parts = (_head(origin, target, request), request.body)
        connection = origin.take()
        while connection is not None:
            try:
                answer.on(connection)
                return await connection.exchange(parts, answer)
            except NotSent:
                connection = origin.take()
        connection = await origin.connect()
        try:
            answer.on(connection)
            return await connection.exchange(parts, answer)
        except NotSent as error:
            raise WorkerUnreachable(
                "the worker closed the connection before it answered"
            ) from error

    def idle_connections(self) -> int:
        """Connections that are kept for later."""
        return sum(len(origin.idle) for origin in self._origins.values())

    def close(self) -> None:
        """Closes what is idle."""
        for origin in self._origins.values():
            origin.close()

    def _origin(self, url: str) -> Origin:
        origin = self._origins.get(url)
        if origin is None:
            if len(self._origins) >= _ORIGINS_MAX:
                self._origins.pop(next(iter(self._origins))).close()
            origin = self._origins[url] = Origin(url, self._settings, self._deadlines)
        return origin


def _head(origin: Origin, target: Target, request: UpstreamRequest) -> bytes:
    key = (request.path, request.content_type, target.record.api_key, target.rank)
    same = origin.heads.get(key)
    if same is None:
        if len(origin.heads) >= _HEADS_MAX:  # uploads have a type each
            origin.heads.clear()
        same = origin.heads[key] = _same_in_all(origin, target, request)
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    return (
        f"{same}Content-Length: {len(request.body)}\r\nX-Request-Id: {request.request_id}\r\n"
        f"{''.join(lines)}\r\n"
    ).encode("latin-1", "replace")


def _same_in_all(origin: Origin, target: Target, request: UpstreamRequest) -> str:
    """What the heads of all requests of one kind to a target begin with."""
    lines = (
        f"POST {origin.path}{request.path} HTTP/1.1\r\nHost: {origin.authority}\r\n"
        f"Content-Type: {request.content_type}\r\nAccept-Encoding: identity\r\n"
    )
    if target.record.api_key is not None:
        lines += f"Authorization: Bearer {target.record.api_key}\r\n"
    if target.rank is not None:
        lines += f"X-data-parallel-rank: {target.rank}\r\n"
    return lines
