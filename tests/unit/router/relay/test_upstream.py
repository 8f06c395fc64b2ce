"""Exchanges with workers: every failure has its class, every wait its deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from rhizome.errors import WorkerTimeout, WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from router.fleet import targets_of
from router.relay.upstream import Upstream, UpstreamRequest
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.waiting import eventually


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def request(stream: bool = False) -> UpstreamRequest:
    body = b'{"stream": true}' if stream else b"{}"
    return UpstreamRequest("/v1/completions", body, "req-1", {"traceparent": "t"})


async def whole(upstream: Upstream, engine: FakeEngine, stream: bool = False) -> bytes:
    target = targets_of(engine.record(api_key="k"))[0]
    async with upstream.exchange(target, request(stream)) as answer:
        return await answer.whole()


async def test_the_worker_gets_key_request_id_and_trace(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine()) as engine:
        await whole(Upstream(session, RelaySettings()), engine)
        headers = engine.headers[0]
    assert headers["authorization"] == "Bearer k"
    assert headers["x-request-id"] == "req-1"
    assert headers["traceparent"] == "t"


async def test_the_rank_travels_as_a_header(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine()) as engine:
        target = targets_of(engine.record(data_parallel=2))[1]
        upstream = Upstream(session, RelaySettings())
        async with upstream.exchange(target, request()) as answer:
            await answer.whole()
        assert engine.headers[0]["x-data-parallel-rank"] == "1"


async def test_no_listener_is_unreachable(session: aiohttp.ClientSession) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = FakeEngine(url=f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(WorkerUnreachable, match="no connection"):
            await whole(Upstream(session, RelaySettings()), engine)


async def test_silence_before_the_first_byte_is_a_timeout(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
        upstream = Upstream(session, RelaySettings(first_byte_timeout_s=0.05))
        with pytest.raises(WorkerTimeout):
            await whole(upstream, engine)


async def test_a_connection_lost_in_the_body_is_unreachable(
    session: aiohttp.ClientSession,
) -> None:
    async with running_engine(FakeEngine(die_after=1)) as engine:
        with pytest.raises(WorkerUnreachable):
            await whole(Upstream(session, RelaySettings()), engine, stream=True)


async def test_an_answer_over_the_bound_is_cut(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine(words=["x" * 5000])) as engine:
        upstream = Upstream(session, RelaySettings(response_bytes_max=1024))
        with pytest.raises(WorkerUnreachable, match="longer than 1024"):
            await whole(upstream, engine)


async def test_leaving_early_aborts_at_the_engine(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine(hold=asyncio.Event())) as engine:
        upstream = Upstream(session, RelaySettings())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await whole(upstream, engine)
        await eventually(lambda: engine.aborted == 1, within_s=2)


async def test_connections_are_used_again(session: aiohttp.ClientSession) -> None:
    async with running_engine(FakeEngine()) as engine:
        upstream = Upstream(session, RelaySettings())
        for _ in range(3):
            await whole(upstream, engine)
        assert session.connector is not None
        kept = session.connector._conns
        assert sum(len(of_host) for of_host in kept.values()) == 1
