"""One client's connection: requests parsed in order, each handed to an exchange that answers it.

Promises: responses come in the order of the requests (pipelining); a request that is not plain
HTTP/1.1 (conflicting lengths, bare line feeds, bad chunks) is refused and ends the connection;
head, body and idle time are bounded in bytes and in seconds; a client that leaves is told to the
exchange at once, unless it sent the next request already.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import httptools

from rhizome.errors import HeadTooLong, MalformedHttp, RequestError, RequestTimeout
from rhizome.settings.tree import HttpSettings
from router.http.server.exchange import Exchange, Head, Header, refusal_bytes
from router.relay.deadlines import NEVER_S, Deadlines
from router.relay.framing import around_length, body_behind

_LINGER_S = 2.0
"""How long what a refused client still sends is read and dropped, so that it gets the refusal."""
_REQUESTS_QUEUED_MAX = 64
"""Requests read ahead of the one that is being answered; a single read may hold many."""

Opener = Callable[["ClientConnection", Head], Exchange]


class _KnownHead(NamedTuple):
    """A head that was parsed: the next one is often the same but for the length of its body."""

    around_length: tuple[bytes, bytes]
    head: Head


@dataclass(slots=True)
class Shared:
    """What the connections of one listener have in common."""

    settings: HttpSettings
    deadlines: Deadlines
    open: Opener
    """Makes the exchange for a request; raises `RequestError` for one that nothing can take."""
    connections: set[ClientConnection] = field(default_factory=set)
    is_draining: bool = False
    """No connection gets another request."""


class ClientConnection(asyncio.Protocol):
    """A connection as the event loop sees it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._deadlines = shared.deadlines
        self._settings = shared.settings
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()
        self._arriving: Exchange | None = None
        """The exchange whose body is being read."""
        self._target = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._unread_bytes = 0
        """Bytes of a head that has not ended; a parser keeps what has no end yet."""
        self._in_head = False
        self._looked_at: tuple[bytes, bytes] | None = None
        """The head that is being parsed, before and behind its length, if it came at once."""
        self._known: _KnownHead | None = None
        self._is_ending = False
        """Nothing more is read; the connection ends when what is queued is answered."""
        self._is_reading = True
        self.is_full = False
        """The client does not read what was written."""
        self.deadline_s = NEVER_S

    # What an exchange may call

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with the response that is being written."""
        return self._is_ending or self._shared.is_draining

    def write(self, data: bytes) -> None:
        """Dropped if the client is gone."""
        self.transport.write(data)

    def answered(self, exchange: Exchange, keep_alive: bool) -> None:
        """The exchange, which is the first in line, has written its whole response."""
        assert self._exchanges[0] is exchange
        self._exchanges.popleft()
        if not keep_alive or self._arriving is exchange:  # or did not wait for the whole request
            self.end()
        elif self._exchanges:
            self._exchanges[0].begin()
        elif self._is_ending or self._shared.is_draining:
            self.end()
        else:
            self.deadline_s = self._deadlines.now_s + self._settings.keep_alive_s
            self.read(True)

    def end(self) -> None:
        """Ends the connection so that what was written still arrives."""
        self._is_ending = True
        self._exchanges.clear()
        if self._arriving is None or not self.transport.can_write_eof():
            self.deadline_s = self._deadlines.now_s + self._settings.stall_timeout_s
            self.transport.close()
            return
        self._arriving = None
        self.read(True)
        self.transport.write_eof()
        self.deadline_s = self._deadlines.now_s + _LINGER_S

    def read(self, is_reading: bool) -> None:
        """Whether more of what the client sends is wanted."""
        if is_reading == self._is_reading or self.transport.is_closing():
            return
        self._is_reading = is_reading
        if is_reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def body_progress(self) -> None:
        """An upload goes on: its deadline begins anew."""
        self.deadline_s = self._deadlines.now_s + self._settings.body_timeout_s

    def drain(self) -> None:
        """The server stops: ends now if idle, else after what is being sent or answered."""
        if not self._exchanges and not self._in_head:
            self.transport.close()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not derived from it
        shared = self._shared
        if len(shared.connections) >= self._settings.connections_max:
            self.transport.abort()
            return
        shared.connections.add(self)
        self.deadline_s = self._deadlines.now_s + self._settings.header_timeout_s
        self._deadlines.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.connections.discard(self)
        self._deadlines.remove(self)
        exchanges, self._exchanges = self._exchanges, deque()
        self._is_ending = True
        for exchange in exchanges:
            exchange.left()

    def pause_writing(self) -> None:
        self.is_full = True
        self.deadline_s = self._deadlines.now_s + self._settings.stall_timeout_s
        if self._exchanges:
            self._exchanges[0].writable(False)

    def resume_writing(self) -> None:
        self.is_full = False
        self.deadline_s = NEVER_S
        if self._exchanges:
            self._exchanges[0].writable(True)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        if self._in_head:
            self._unread_bytes += len(data)
        elif not self._exchanges:
            if self._takes_whole(data):
                return
            self._looked_at = around_length(data)
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, RequestError):
                raise
            self._refuse(cause)
        except httptools.HttpParserUpgrade:
            self._refuse(MalformedHttp("this server speaks HTTP/1.1 only; send no upgrade"))
        except httptools.HttpParserError as error:
            self._refuse(MalformedHttp(f"the request is no proper HTTP/1.1: {error}"))
        else:
            if self._in_head and self._unread_bytes > self._settings.header_bytes_max:
                self._refuse(self._too_long())

    def expired(self) -> None:
        """Of the deadlines: a client was too slow, or idle."""
        self.deadline_s = NEVER_S
        if self.is_full or self._is_ending:
            self.transport.abort()
        elif self._in_head or self._arriving is not None:
            part = "head" if self._in_head else "body"
            self._refuse(RequestTimeout(f"the request's {part} did not arrive in time"))
        else:
            self.transport.close()

    def _takes_whole(self, data: bytes) -> bool:
        """Whether it was one request, whole, whose head the parser need not see again."""
        known = self._known
        if known is None or known.head.read is None:
            return False
        body = body_behind(known.around_length, data)
        if body is None:
            return False
        try:
            self._open(known.head)
        except RequestError as error:
            self._refuse(error)
            return True
        if body:
            self.on_body(body)
        self.on_message_complete()
        return True

    def _open(self, head: Head) -> None:
        exchange = self._shared.open(self, head)
        self._arriving = exchange
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self.body_progress()
            exchange.begin()
        else:
            self.read(False)

    # What the parser calls

    def on_message_begin(self) -> None:
        if len(self._exchanges) > _REQUESTS_QUEUED_MAX:
            raise MalformedHttp("too many requests are pipelined; wait for their answers")
        self._target = b""
        self._headers = []
        self._head_bytes = self._unread_bytes = 0
        self._in_head = True
        if not self._exchanges:
            self.deadline_s = self._deadlines.now_s + self._settings.header_timeout_s

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._settings.header_bytes_max:
            raise self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        headers.append((name.lower(), value))
        self._head_bytes += len(name) + len(value)
        settings = self._settings
        if len(headers) > settings.headers_max or self._head_bytes > settings.header_bytes_max:
            raise self._too_long()

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._in_head = False
        if parser.should_upgrade():
            raise MalformedHttp("this server speaks HTTP/1.1 only; send no upgrade")
        version = parser.get_http_version()
        _check(self._headers, version)
        head = Head(
            parser.get_method(),
            self._target,
            self._headers,
            version,
            version == "1.1" and parser.should_keep_alive(),
        )
        self._headers = []  # what comes now are trailers; counted, and not looked at
        if self._looked_at is not None:
            if [name for name, _ in head.headers].count(b"content-length") == 1:
                self._known = _KnownHead(self._looked_at, head)
            self._looked_at = None
        self._open(head)

    def on_body(self, body: bytes) -> None:
        if self._arriving is not None:
            self._arriving.body(body)

    def on_message_complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        if exchange is not None:
            if len(self._exchanges) == 1:
                self.deadline_s = NEVER_S
            exchange.body_ended()

    def _refuse(self, error: RequestError) -> None:
        """Answers what has no exchange, or has one that cannot go on; then ends."""
        self._in_head = False
        arriving = self._arriving
        if arriving is not None and self._exchanges and self._exchanges[-1] is arriving:
            self._exchanges.pop()
            arriving.left()
            if arriving.started:
                self.transport.abort()
                return
        refusal = _Refusal(self, error, self._deadlines.date)
        self._arriving = refusal
        self._exchanges.append(refusal)
        self._is_ending = True
        if len(self._exchanges) == 1:
            refusal.begin()

    def _too_long(self) -> HeadTooLong:
        settings = self._settings
        return HeadTooLong(
            f"the request's head is longer than {settings.header_bytes_max} bytes or has more "
            f"than {settings.headers_max} headers"
        )


def _check(headers: list[Header], version: str) -> None:
    """What the parser lets pass, and others on the way may take for something else."""
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version != "1.1"):
            raise MalformedHttp("send a body plain or in chunks, in no other transfer encoding")
    if hosts != 1 and (hosts or version == "1.1"):
        raise MalformedHttp("a request names its host in one header 'Host'")


class _Refusal:
    """An answer to bytes that are no request."""

    started = False

    def __init__(self, connection: ClientConnection, error: RequestError, date: bytes) -> None:
        self._connection = connection
        self._error = error
        self._date = date

    def begin(self) -> None:
        self._connection.write(refusal_bytes(self._error, self._date))
        self._connection.answered(self, keep_alive=False)

    def body(self, data: bytes) -> None: ...

    def body_ended(self) -> None: ...

    def left(self) -> None: ...

    def writable(self, is_writable: bool) -> None: ...
