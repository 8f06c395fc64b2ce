"""Requests for an engine: read, checked and served without the ASGI app, which would cost more
than all the rest.

This is one of the places that catch every exception: here an error becomes a response, or, after
the first byte, the last event of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from rhizome.clock import Clock
from rhizome.errors import BodyTooLarge, InternalFault, InvalidRequest, RequestError
from rhizome.errors import UnsupportedMediaType as WrongType
from rhizome.ids import request_id_or_new
from rhizome.tasks import Tasks
from router.admission.classes import Priority
from router.call import Call
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
from router.keys import KeyRing, Principal
from router.relay.deadlines import Deadlines
from router.stored.serving import Serves

_log = logging.getLogger(__name__)
_PATIENCE_S_MAX = 86_400
_REST_BYTES_MAX = 64 * 1024
"""Of a request that is refused by its head alone."""
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_PRIORITIES = {one.value.encode(): one for one in Priority}


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
        "_begun",
        "_connection",
        "_content_type",
        "_endpoint",
        "_expects_continue",
        "_headers",
        "_is_chunked",
        "_is_whole",
        "_keep_alive",
        "_left",
        "_parts",
        "_patience_s",
        "_principal",
        "_priority",
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
        self._headers = dict(head.headers)
        offered = self._headers.get(b"x-request-id")
        self._request_id = request_id_or_new(offered.decode("latin-1") if offered else None)
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = self._is_whole = self._left = self._is_chunked = False
        self._source: Source | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal: RequestError | None = None
        self._expects_continue = self._headers.get(b"expect", b"").lower() == b"100-continue"
        self.started = False
        try:
            self._check()
        except RequestError as error:
            self._refusal = error

    # What the connection tells

    def begin(self) -> None:
        self._begun = True
        if self._refusal is not None:
            if self._is_whole or not self._rest_is_short():
                self._refuse(self._refusal)
        elif self._is_whole:
            self._task = self._serving.tasks.start("request", self._serve())
        elif self._expects_continue:
            self._connection.write(CONTINUE)

    def body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._serving.body_bytes_max:
            if self._refusal is None:
                self._parts.clear()
                self._refusal = self._too_large()
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
        self._connection.write(self._head(status, content_type, headers, framing) + body)
        self._connection.answered(self, self._keep_alive)

    def follow(self, source: Source | None) -> None:
        self._source = source
        if source is not None and self._connection.is_full:
            source.pause()

    # What happens in here

    def _check(self) -> None:
        """What can be told from the head alone, before a body is read."""
        headers, serving, wanted = self._headers, self._serving, self._endpoint.media_type
        self._principal: Principal = _principal(serving.keys, headers)
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if content_type != wanted:
            kind = content_type.partition(";")[0].strip().lower()
            if kind != wanted:
                raise WrongType(
                    f"send the body as 'Content-Type: {wanted}', not {kind or 'without a type'!r}"
                )
        self._content_type = content_type
        asked = headers.get(b"x-rhizome-priority", b"interactive")
        priority = _PRIORITIES.get(asked)
        if priority is None:
            known = ", ".join(one.value for one in Priority)
            raise InvalidRequest(
                f"x-rhizome-priority must be one of {known}", param="x-rhizome-priority"
            )
        self._priority = priority
        self._patience_s = _patience_s(headers.get(b"x-request-timeout"))
        if int(headers.get(b"content-length", 0)) > serving.body_bytes_max:
            raise self._too_large()

    def _rest_is_short(self) -> bool:
        """Whether the rest of a refused request is read, so that its connection can go on."""
        if self._expects_continue or b"content-length" not in self._headers:
            return False
        longest = min(_REST_BYTES_MAX, self._serving.body_bytes_max)
        return int(self._headers[b"content-length"]) <= longest

    async def _serve(self) -> None:
        try:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            endpoint = self._endpoint
            call = Call(
                endpoint=endpoint,
                body=endpoint.read(Arrival(data, self._content_type)),
                request_id=self._request_id,
                priority=self._priority,
                accepted_at_s=self._accepted_at_s,
                principal=self._principal,
                deadline_s=self._deadline_s(),
                headers=self._trace_headers(),
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
        return None if self._patience_s is None else self._accepted_at_s + self._patience_s

    def _trace_headers(self) -> dict[str, str]:
        """The W3C trace context to pass on."""
        headers = self._headers
        return {
            name.decode(): headers[name].decode("latin-1")
            for name in _TRACE_HEADERS
            if name in headers
        }

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body is longer than {self._serving.body_bytes_max} bytes, the limit of this "
            "server (router.relay.body_bytes_max)"
        )


def _principal(keys: KeyRing, headers: dict[bytes, bytes]) -> Principal:
    """By the header of OpenAI's clients, or by that of Anthropic's."""
    authorization, key = headers.get(b"authorization"), headers.get(b"x-api-key")
    if authorization is None and key is not None:
        return keys.check_key(key)
    return keys.check(authorization)


def _patience_s(asked: bytes | None) -> float | None:
    """How long the client waits, if it says so in `x-request-timeout`."""
    if asked is None:
        return None
    try:
        patience_s = float(asked)
    except ValueError:
        patience_s = math.nan
    if not 0 < patience_s <= _PATIENCE_S_MAX:
        raise InvalidRequest(
            f"x-request-timeout must be a number of seconds, above 0 and up to {_PATIENCE_S_MAX}",
            param="x-request-timeout",
        )
    return patience_s
