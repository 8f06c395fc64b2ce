"""Requests for an engine: read, checked and served without the ASGI app, which would cost more
than all the rest.

This is one of the places that catch every exception: here an error becomes a response, or, after
the first byte, the last event of the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from rhizome.clock import Clock
from rhizome.errors import InternalFault, RequestError
from rhizome.ids import request_id_or_new
from rhizome.tasks import Tasks
from router.call import Call
from router.http.asked import asked_of, too_large
from router.http.client import Headers, Source
from router.http.server.connection import ClientConnection
from router.http.server.exchange import (
    CONTINUE,
    JSON,
    STATUS_LINES,
    Head,
    error_headers,
    refusal_bytes,
)
from router.http.surface import Arrival, Endpoint
from router.keys import KeyRing
from router.relay.deadlines import Deadlines
from router.stored.serving import Serves

_log = logging.getLogger(__name__)
_REST_BYTES_MAX = 64 * 1024
"""Of a request that is refused by its head alone."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What exchanges need to be served."""

    service: Serves
    keys: KeyRing
    tasks: Tasks
    deadlines: Deadlines
    clock: Clock
    body_bytes_max: int


class GenerationExchange:
    """One request for an engine; also the `Client` that the service answers."""

    __slots__ = (
        "_accepted_at_s",
        "_asked",
        "_begun",
        "_connection",
        "_endpoint",
        "_is_chunked",
        "_is_whole",
        "_keep_alive",
        "_left",
        "_parts",
        "_refusal",
        "_request_id",
        "_serving",
        "_size",
        "_source",
        "_task",
        "_version",
        "started",
    )

    def __init__(
        self, connection: ClientConnection, head: Head, endpoint: Endpoint, serving: Serving
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._serving = serving
        self._accepted_at_s = serving.clock.monotonic_s()
        self._keep_alive = head.keep_alive
        self._version = head.version
        asked = asked_of(head, endpoint.media_type, serving.keys, serving.body_bytes_max)
        self._asked = asked
        self._request_id = request_id_or_new(asked.offered_id)
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = self._is_whole = self._left = self._is_chunked = False
        self._source: Source | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal = asked.refusal
        self.started = False

    # What the connection tells

    def begin(self) -> None:
        self._begun = True
        if self._refusal is not None:
            if self._is_whole or not self._rest_is_short():
                self._refuse(self._refusal)
        elif self._is_whole:
            self._task = self._serving.tasks.start("request", self._serve())
        elif self._asked.expects_continue:
            self._connection.write(CONTINUE)

    def body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._serving.body_bytes_max:
            if self._refusal is None:
                self._parts.clear()
                self._refusal = too_large(self._serving.body_bytes_max)
                if self._begun:
                    self._refuse(self._refusal)
            return
        self._parts.append(data)

    def body_ended(self) -> None:
        self._is_whole = True
        if self._begun and self._refusal is not None:
            self._refuse(self._refusal)
        elif self._begun:
            self._task = self._serving.tasks.start("request", self._serve())

    def left(self) -> None:
        self._left = True
        if self._task is not None:
            self._task.cancel("the client left")

    def writable(self, is_writable: bool) -> None:
        if self._source is not None:
            if is_writable:
                self._source.resume()
            else:
                self._source.pause()

    # What the service calls

    def start(self, status: int, content_type: str, headers: Headers) -> None:
        self.started = True
        self._is_chunked = self._version == "1.1"
        if not self._is_chunked:
            self._keep_alive = False
        framing = "transfer-encoding: chunked\r\n" if self._is_chunked else ""
        self._connection.write(self._head(status, content_type, headers, framing))

    def write(self, data: bytes) -> None:
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._connection.transport.write(data)

    def passage(self) -> Callable[[bytes], object] | None:
        return self._connection.transport.write if self._is_chunked else None

    def end(self, data: bytes = b"") -> None:
        if self._left:
            return
        if data:
            self.write(data)
        if self._is_chunked:
            self._connection.transport.write(b"0\r\n\r\n")
        self._connection.answered(self, self._keep_alive)

    def whole(self, status: int, content_type: str, headers: Headers, body: bytes) -> None:
        if self._left:
            return
        self.started = True
        framing = f"content-length: {len(body)}\r\n"
        head = self._head(status, content_type, headers, framing)
        self._connection.transport.write(head + body)
        self._connection.answered(self, self._keep_alive)

    def follow(self, source: Source | None) -> None:
        self._source = source
        if source is not None and self._connection.is_full:
            source.pause()

    # What happens in here

    def _rest_is_short(self) -> bool:
        """Whether the rest of a refused request is read, so that its connection can go on."""
        length = self._asked.length
        if self._asked.expects_continue or length is None:
            return False
        return length <= min(_REST_BYTES_MAX, self._serving.body_bytes_max)

    async def _serve(self) -> None:
        try:
            data = b"".join(self._parts)
            self._parts.clear()
            endpoint, asked = self._endpoint, self._asked
            call = Call(
                endpoint=endpoint,
                body=endpoint.read(Arrival(data, asked.content_type)),
                request_id=self._request_id,
                priority=asked.priority,
                accepted_at_s=self._accepted_at_s,
                principal=asked.principal,
                deadline_s=self._deadline_s(),
                headers=asked.trace,
            )
            await self._serving.service.serve(call, self)
        except RequestError as error:
            self._refuse(error)
        except Exception:
            _log.exception("fault while serving %s", self._endpoint.path)
            self._refuse(InternalFault("an internal error; the router's log has the details"))

    def _refuse(self, error: RequestError) -> None:
        """The error as a response, or as the last event of a stream that has begun."""
        if self._left:
            return
        dialect = self._endpoint.dialect
        if self.started:
            self.end(dialect.error_event(error))
        elif self._is_whole:
            headers = tuple(error_headers(error, self._request_id))
            self.whole(error.status, JSON, headers, dialect.error_body(error))
        else:
            self.started = True
            date = self._serving.deadlines.date
            self._connection.write(refusal_bytes(error, date, self._request_id, dialect))
            self._connection.answered(self, keep_alive=False)

    def _head(self, status: int, content_type: str, headers: Headers, framing: str) -> bytes:
        if self._connection.is_last:
            self._keep_alive = False
        if not self._keep_alive:
            framing += "connection: close\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        date = self._serving.deadlines.date.decode()
        return (
            f"{STATUS_LINES[status]}date: {date}\r\ncontent-type: {content_type}\r\n"
            f"{lines}{framing}\r\n"
        ).encode("latin-1", "replace")

    def _deadline_s(self) -> float | None:
        patience_s = self._asked.patience_s
        return None if patience_s is None else self._accepted_at_s + patience_s
