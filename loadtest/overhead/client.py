"""The load of a row: so many connections, each with one request at a time, or sends at a rate.

Answers are looked at as little as can be: their status and their end. Times are taken for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import httptools

from rhizome.clock import SystemClock

PATH = "/v1/chat/completions"
_now_s = SystemClock.monotonic_s  # a loop of uvloop counts whole milliseconds


@dataclass(slots=True)
class Tally:
    """What came of the requests of one load."""

    done: int = 0
    failed: int = 0
    tokens: int = 0
    bytes: int = 0
    latencies_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    """Between two pieces of a stream, where asked for."""


class Asker(asyncio.Protocol):
    """One connection; `ask` sends, and the callback is called at the answer's end."""

    def __init__(self, tally: Tally, keep_gaps: bool) -> None:
        self._tally = tally
        self._keep_gaps = keep_gaps
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._ended: Callable[[Asker], None] | None = None
        self._sent_s = self._last_s = 0.0
        self._tail = b""

    def ask(self, data: bytes, ended: Callable[[Asker], None]) -> None:
        self._ended = ended
        self._last_s = 0.0
        self._sent_s = _now_s()
        if self._transport.is_closing():
            self._loop.call_soon(self._end, False)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended is not None:
            self._end(False)

    def data_received(self, data: bytes) -> None:
        if self._keep_gaps:
            now_s = _now_s()
            if self._last_s:
                self._tally.gaps_s.append(now_s - self._last_s)
            self._last_s = now_s
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._tally.bytes += len(body)
        self._tally.tokens += body.count(b'"delta"')
        self._tail = body[-16:]

    def on_message_complete(self) -> None:
        is_good = self._parser.get_status_code() == 200
        stream = self._tail.endswith(b"\n\n")
        self._end(is_good and (not stream or b"[DONE]" in self._tail))

    def _end(self, is_good: bool, /) -> None:
        ended, self._ended = self._ended, None
        if is_good:
            self._tally.done += 1
            self._tally.latencies_s.append(_now_s() - self._sent_s)
        else:
            self._tally.failed += 1
        if ended is not None:
            ended(self)


class Load:
    """Requests to one address."""

    def __init__(self, port: int, key: str, bodies: Iterator[bytes]) -> None:
        self._port = port
        self._bodies = bodies
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nUser-Agent: overhead\r\nAccept: */*\r\n"
        ).encode()

    async def closed(self, connections: int, count: int) -> Tally:
        """So many requests over so many connections, each sends when it has its answer."""
        tally = Tally()
        askers = await self._connect(connections, tally)
        done = asyncio.get_running_loop().create_future()
        left = count
        running = 0

        def next_one(asker: Asker) -> None:
            nonlocal left, running
            running -= 1
            if left > 0 and tally.failed < count // 10 + 1:
                start(asker)
            elif running == 0 and not done.done():
                done.set_result(None)

        def start(asker: Asker) -> None:
            nonlocal left, running
            left -= 1
            running += 1
            asker.ask(self._request(), next_one)

        for asker in askers[:count]:
            start(asker)
        await done
        for asker in askers:
            asker.close()
        return tally

    async def open(self, rate_per_s: float, count: int, *, keep_gaps: bool = False) -> Tally:
        """So many requests at a steady rate, whatever becomes of those before."""
        loop = asyncio.get_running_loop()
        tally = Tally()
        idle: list[Asker] = await self._connect(8, tally, keep_gaps)
        askers = list(idle)
        begin_s = loop.time() + 0.05
        for number in range(count):
            delay_s = begin_s + number / rate_per_s - loop.time()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            if not idle:
                fresh = await self._connect(1, tally, keep_gaps)
                askers += fresh
                idle += fresh
            idle.pop().ask(self._request(), idle.append)
        while tally.done + tally.failed < count:  # noqa: ASYNC110 - counts, not an event
            await asyncio.sleep(0.01)
        for asker in askers:
            asker.close()
        return tally

    def _request(self) -> bytes:
        body = next(self._bodies)
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    async def _connect(self, count: int, tally: Tally, keep_gaps: bool = False) -> list[Asker]:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(count):
            _, asker = await loop.create_connection(
                lambda: Asker(tally, keep_gaps), "127.0.0.1", self._port
            )
            made.append(asker)
        return made
