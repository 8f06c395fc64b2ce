"""Exchanges with workers: every failure has its class, every wait its deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhizome.clock import SystemClock
from rhizome.errors import WorkerTimeout, WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from rhizome.tasks import Tasks
from router.fleet import targets_of
from router.relay.connection import WorkerConnection
from router.relay.deadlines import Deadlines
from router.relay.dialect import OPENAI
from router.relay.scanner import EventScanner
from router.relay.upstream import Origin, Upstream, UpstreamRequest
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.waiting import eventually


class Kept:
    """Keeps an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.connection: WorkerConnection | None = None
        self.has_ended = False

    def on(self, connection: WorkerConnection) -> None:
        self.connection = connection

    def answered(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def received(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > 4096:
            raise WorkerUnreachable("longer than 4096")

    def ended(self) -> None:
        self.has_ended = True


@asynccontextmanager
async def upstream_with(**bounds: float) -> AsyncIterator[Upstream]:
    deadlines = Deadlines(SystemClock())
    async with Tasks("test") as tasks:
        tasks.start("deadlines", deadlines.run(lambda late_s: None))
        upstream = Upstream(RelaySettings.model_validate(bounds), deadlines)
        yield upstream
        upstream.close()
        await asyncio.sleep(0)
        assert len(deadlines) == 0


def request(stream: bool = False) -> UpstreamRequest:
    body = b'{"stream": true}' if stream else b"{}"
    return UpstreamRequest("/v1/completions", body, "req-1", {"traceparent": "t"})


async def whole(upstream: Upstream, engine: FakeEngine, stream: bool = False) -> bytes:
    target = targets_of(engine.record(api_key="k"))[0]
    answer = Kept()
    await upstream.exchange(target, request(stream), answer)
    assert answer.has_ended
    return answer.body


async def test_the_worker_gets_key_request_id_and_trace() -> None:
    async with running_engine(FakeEngine()) as engine, upstream_with() as upstream:
        await whole(upstream, engine)
        headers = engine.headers[0]
    assert headers["authorization"] == "Bearer k"
    assert headers["x-request-id"] == "req-1"
    assert headers["traceparent"] == "t"


async def test_the_rank_travels_as_a_header() -> None:
    async with running_engine(FakeEngine()) as engine, upstream_with() as upstream:
        target = targets_of(engine.record(data_parallel=2))[1]
        await upstream.exchange(target, request(), Kept())
        assert engine.headers[0]["x-data-parallel-rank"] == "1"


async def test_no_listener_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = FakeEngine(url=f"http://127.0.0.1:{free.getsockname()[1]}")
        async with upstream_with() as upstream:
            with pytest.raises(WorkerUnreachable, match="no connection"):
                await whole(upstream, engine)


async def test_silence_before_the_first_byte_is_a_timeout() -> None:
    async with (
        running_engine(FakeEngine(hold=asyncio.Event())) as engine,
        upstream_with(first_byte_timeout_s=0.05) as upstream,
    ):
        with pytest.raises(WorkerTimeout):
            await whole(upstream, engine)


async def test_a_life_that_is_too_long_is_a_timeout_though_tokens_flow() -> None:
    words = ["word"] * 100_000
    async with (
        running_engine(FakeEngine(words=words)) as engine,
        upstream_with(total_timeout_s=0.2) as upstream,
    ):
        answer = Kept()
        answer.received = lambda data: None  # type: ignore[method-assign]  # drops it
        target = targets_of(engine.record())[0]
        with pytest.raises(WorkerTimeout):
            await upstream.exchange(target, request(stream=True), answer)


async def test_a_connection_lost_in_the_body_is_unreachable() -> None:
    async with running_engine(FakeEngine(die_after=1)) as engine, upstream_with() as upstream:
        with pytest.raises(WorkerUnreachable):
            await whole(upstream, engine, stream=True)


async def test_what_the_receiver_raises_ends_the_exchange_and_the_connection() -> None:
    async with (
        running_engine(FakeEngine(words=["x" * 5000])) as engine,
        upstream_with() as upstream,
    ):
        with pytest.raises(WorkerUnreachable, match="longer than 4096"):
            await whole(upstream, engine)
        assert upstream.idle_connections() == 0


async def test_leaving_early_aborts_at_the_engine() -> None:
    async with (
        running_engine(FakeEngine(hold=asyncio.Event())) as engine,
        upstream_with() as upstream,
        Tasks("test") as tasks,
    ):
        asking = tasks.start("ask", whole(upstream, engine))
        await eventually(lambda: len(engine.requests) == 1)
        asking.cancel()
        await eventually(lambda: engine.aborted == 1)


async def test_connections_are_used_again() -> None:
    async with running_engine(FakeEngine()) as engine, upstream_with() as upstream:
        for stream in (False, True, False):
            await whole(upstream, engine, stream)
        assert upstream.idle_connections() == 1


async def test_idle_connections_end_after_their_time_and_beyond_their_number() -> None:
    async with (
        running_engine(FakeEngine()) as engine,
        upstream_with(idle_connection_s=0.05, idle_connections_max=2) as upstream,
    ):
        await asyncio.gather(*(whole(upstream, engine) for _ in range(4)))
        assert upstream.idle_connections() == 2
        await eventually(lambda: upstream.idle_connections() == 0)


async def test_a_connection_closed_while_idle_costs_no_failure() -> None:
    closing = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await reader.read(1)  # the next request is not answered
        closing.set()
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, upstream_with() as upstream:
        engine = FakeEngine(url=f"http://127.0.0.1:{port}")
        assert await whole(upstream, engine) == b"{}"
        assert await whole(upstream, engine) == b"{}"
    assert closing.is_set()


async def test_a_paused_answer_is_not_read() -> None:
    async with (
        running_engine(FakeEngine(words=["y" * 1000] * 2000)) as engine,
        upstream_with() as upstream,
        Tasks("test") as tasks,
    ):
        answer = Kept()
        sizes: list[int] = []

        def paused(data: bytes) -> None:
            sizes.append(len(data))
            assert answer.connection is not None
            answer.connection.pause()

        answer.received = paused  # type: ignore[method-assign]  # a slow reader
        target = targets_of(engine.record())[0]
        work = tasks.start("ask", upstream.exchange(target, request(stream=True), answer))
        await eventually(lambda: bool(sizes))
        await asyncio.sleep(0.2)
        assert sum(sizes) < 1_000_000
        while not work.done():
            assert answer.connection is not None
            answer.connection.resume()
            await asyncio.sleep(0)
        await work
        assert sum(sizes) > 2_000_000


TOKEN = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
MARKS = (b'"usage"', b'"error"', b"data: [DONE]")


class Passing(Kept):
    """Says after each piece that was parsed that the next may be passed on, as a relay does."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = b""
        self.parsed = b""
        self._scanner = EventScanner(OPENAI, strip_usage=False, event_bytes_max=2**20)

    def received(self, data: bytes) -> None:
        out = self._scanner.feed(data)
        self.parsed += out
        self.body += out
        assert self.connection is not None
        self.connection.pass_on(None if self._scanner.held_bytes else self._take, MARKS)

    def _take(self, data: bytes) -> None:
        self.raw += data
        size, _, rest = data.partition(b"\r\n")
        assert int(size, 16) == len(rest) - 2
        self.body += rest[:-2]


def framed(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@given(
    groups=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
async def test_tokens_come_in_order_however_chunks_and_reads_are_cut(
    groups: list[int], cuts: list[int]
) -> None:
    pieces = [TOKEN * count for count in groups]
    pieces += [TOKEN[:20], TOKEN[20:], TOKEN, TOKEN.replace(b"hi", b'\\"usage\\"'), TOKEN]
    stream = framed(*pieces, b"data: [DONE]\n\n") + b"0\r\n\r\n"
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    deadlines = Deadlines(SystemClock())
    answer = Passing()
    origin = Origin("http://127.0.0.1:1", RelaySettings(), deadlines)
    connection = WorkerConnection(origin, RelaySettings(), deadlines)
    transport = Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    answer.on(connection)
    async with Tasks("test") as tasks:
        work = tasks.start("ask", connection.exchange((b"", b""), answer))
        await asyncio.sleep(0)
        connection.data_received(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for start, end in pairwise(edges):
            connection.data_received(stream[start:end])
        await work
    assert answer.body == b"".join(pieces) + b"data: [DONE]\n\n"
    assert answer.has_ended


async def test_a_token_that_comes_alone_is_passed_on_as_it_is() -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (TOKEN, TOKEN, TOKEN, b"data: [DONE]\n\n"):
            writer.write(framed(piece))
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, upstream_with() as upstream:
        answer = Passing()
        target = targets_of(FakeEngine(url=url).record())[0]
        await upstream.exchange(target, request(), answer)
    assert answer.raw == framed(TOKEN, TOKEN)
    assert answer.parsed == TOKEN + b"data: [DONE]\n\n"
