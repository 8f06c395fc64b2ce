"""One connection to a worker: an answer at a time, told to its receiver as the bytes arrive.

There is no task, no queue and no stream between the socket and the receiver: what arrives is parsed
and handed on in the same call, which is most of what makes a token cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import httptools

from rhizome.errors import RequestError, WorkerTimeout, WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from router.relay.deadlines import NEVER_S, Deadlines
from router.relay.framing import (
    CHUNK_BYTES_MAX,
    CHUNK_HEADS,
    EVENT_CHUNK_END,
    around_length,
    body_behind,
)

_HEAD_BYTES_MAX = 64 * 1024


class Receiver(Protocol):
    """Takes one answer. A call may raise a `RequestError`, which ends the exchange with it."""

    def answered(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The head is here; of the headers, those in `KEPT_HEADERS`."""
        ...

    def received(self, data: bytes) -> None:
        """Some of the body, never empty."""
        ...

    def ended(self) -> None:
        """The body has come whole."""
        ...


KEPT_HEADERS = frozenset({b"content-type", b"retry-after"})


class _KnownHead(NamedTuple):
    """A head that was parsed: the next one is often the same but for the length of its body."""

    around_length: tuple[bytes, bytes]
    status: int
    headers: dict[bytes, bytes]


class NotSent(Exception):
    """A connection that had been idle turned out to be closed: nothing came back on it."""


class WorkerConnection(asyncio.Protocol):
    """A connection in the pool or with an exchange on it."""

    def __init__(self, pool: Pool, settings: RelaySettings, deadlines: Deadlines) -> None:
        self._pool = pool
        self._settings = settings
        self._deadlines = deadlines
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._over: asyncio.Future[None] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._is_framed = False
        self._has_body = False
        self._is_paused = False
        self._passing: Callable[[bytes], object] | None = None
        self._marks: tuple[bytes, bytes, bytes] = (b"", b"", b"")
        self._is_between_chunks = False
        self._idle_timeout_s = settings.idle_timeout_s
        self.deadline_s = self._token_deadline_s = NEVER_S
        self._life = _Life(self)
        self._looked_at: tuple[bytes, bytes] | None = None
        """The head of this answer, before and behind its length, if it came at once."""
        self._known: _KnownHead | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, parts: tuple[bytes, bytes], receiver: Receiver) -> None:
        """Sends a request (head and body) and hands its answer to the receiver.

        Returns when the answer is complete. Raises `WorkerTimeout`, `WorkerUnreachable`, what the
        receiver raised, or `NotSent` if the connection was closed before it answered; leaving
        early, by whatever exception, closes the connection, which makes the engine abort.
        """
        assert self._receiver is None
        transport = self._transport
        if transport is None:
            raise NotSent
        deadlines = self._deadlines
        self._receiver, self._has_body, self._passing = receiver, False, None
        over = self._over = self._loop.create_future()
        self._life.deadline_s = deadlines.now_s + self._settings.total_timeout_s
        self._token_deadline_s = deadlines.now_s + self._settings.first_byte_timeout_s
        self.deadline_s = self._token_deadline_s
        if len(parts[1]) < 65_536:
            transport.write(parts[0] + parts[1])
        else:
            transport.writelines(parts)
        try:
            await over
        except BaseException:
            if self._over is over:  # not if the answer is complete and the connection kept
                self._receiver = self._over = self._passing = None
                self.abort()
            raise
        finally:
            self._life.deadline_s = NEVER_S

    def pause(self) -> None:
        """The receiver's client is slow: reads no more until `resume`."""
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self.deadline_s = self._deadlines.now_s + self._idle_timeout_s
            self._transport.resume_reading()

    def await_token(self) -> None:
        """What came was no token yet: the deadline is still that of the first one."""
        self.deadline_s = self._token_deadline_s

    def pass_on(self, write: Callable[[bytes], object] | None, marks: tuple[bytes, ...]) -> None:
        """Hands the tokens that come next to `write`, framing included, unless one has a mark.

        A token here is one whole chunk of whole events. All else goes to the receiver, which says
        anew each time whether what follows may be passed on. Without three marks nothing is.
        """
        if len(marks) == 3:
            self._passing, self._marks = write, (marks[0], marks[1], marks[2])

    def keep(self, idle_s: float) -> None:
        """Idle from now on, for so long."""
        self.deadline_s = self._deadlines.now_s + idle_s

    def abort(self) -> None:
        """Closes at once."""
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _unwatch(self) -> None:
        self._deadlines.remove(self)
        self._deadlines.remove(self._life)

    def expired(self) -> None:
        """The worker was silent for too long, or the connection idle."""
        if self._receiver is None:
            self._pool.forget(self)
            self.abort()
        elif self._is_paused:
            self.deadline_s = self._deadlines.now_s + self._idle_timeout_s
        else:
            self.time_out()

    def time_out(self) -> None:
        """Gives the exchange up."""
        self._fail(WorkerTimeout("the worker did not answer in time"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not derived from it
        self._deadlines.add(self)
        self._deadlines.add(self._life)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._unwatch()
        if self._receiver is None:
            self._pool.forget(self)
        elif self._has_body and not self._is_framed and error is None:
            self._complete(keep_alive=False)  # an answer without a length ends with its connection
        elif self._head_bytes or self._has_body:
            self._fail(WorkerUnreachable("the worker broke off its answer"))
        else:
            self._fail(NotSent())

    def data_received(self, data: bytes) -> None:
        passing = self._passing
        if (
            passing is not None
            and self._is_between_chunks
            and len(data) < CHUNK_BYTES_MAX
            and data.startswith(CHUNK_HEADS[len(data)])
            and data.endswith(EVENT_CHUNK_END)
        ):
            first, second, third = self._marks
            if first not in data and second not in data and third not in data:
                self.deadline_s = self._deadlines.now_s + self._idle_timeout_s
                passing(data)
                return
        if self._head_bytes or self._has_body or not self._takes_whole(data):
            self._parse(data)

    def _takes_whole(self, data: bytes) -> bool:
        """Whether it was one answer, whole, whose head the parser need not see again."""
        known, receiver = self._known, self._receiver
        if known is None or receiver is None:
            return False
        body = body_behind(known.around_length, data)
        if not body:
            return False
        try:
            receiver.answered(known.status, known.headers)
            receiver.received(body)
        except RequestError as error:
            self._fail(error)
            return True
        self._complete(keep_alive=True)
        return True

    def _parse(self, data: bytes) -> None:
        if self._receiver is None:
            self._pool.forget(self)
            self.abort()
            return
        if not self._has_body:
            if not self._head_bytes:
                self._looked_at = around_length(data)
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, RequestError):
                raise
            self._fail(cause)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(WorkerUnreachable("the worker's answer is no HTTP"))
        else:
            self._is_between_chunks = self._is_between_chunks and data.endswith(b"\r\n")
            if not self._has_body and self._head_bytes > _HEAD_BYTES_MAX:
                self._fail(WorkerUnreachable("the worker's answer has too long a head"))

    def on_message_begin(self) -> None:
        self._headers = {}
        self._is_framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in KEPT_HEADERS:
            self._headers[name] = value
        elif name in (b"content-length", b"transfer-encoding"):
            self._is_framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._looked_at = None
        elif self._receiver is not None:
            self._receiver.answered(status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._has_body = True
        self.deadline_s = self._deadlines.now_s + self._idle_timeout_s
        if self._receiver is not None:
            self._receiver.received(body)

    def on_chunk_header(self) -> None:
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self._is_between_chunks = True

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._receiver is None or status < 200:
            return
        keep_alive = self._parser.should_keep_alive()
        if self._looked_at is not None and keep_alive and status == 200:
            self._known = _KnownHead(self._looked_at, status, self._headers)
        self._complete(keep_alive)

    def _complete(self, keep_alive: bool) -> None:
        receiver, over = self._receiver, self._over
        assert receiver is not None
        assert over is not None
        try:
            receiver.ended()
        except RequestError as error:
            self._fail(error)
            return
        self._receiver = self._over = self._passing = None
        self._is_between_chunks = False
        self._head_bytes = 0
        if self._is_paused:
            self.resume()
        if self._transport is not None and keep_alive:
            self._pool.give_back(self)
        else:
            self.abort()
        over.set_result(None)

    def _fail(self, error: Exception) -> None:
        over, self._receiver, self._over, self._passing = self._over, None, None, None
        self.abort()
        if over is not None and not over.done():
            over.set_exception(error)


class _Life:
    """The deadline of a whole exchange, however lively it is."""

    __slots__ = ("_connection", "deadline_s")

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self.deadline_s = NEVER_S

    def expired(self) -> None:
        self.deadline_s = NEVER_S
        self._connection.time_out()


class Pool(Protocol):
    """Where idle connections are kept."""

    def give_back(self, connection: WorkerConnection) -> None: ...

    def forget(self, connection: WorkerConnection) -> None:
        """The connection can no longer be used; does nothing for one that is not idle."""
        ...
