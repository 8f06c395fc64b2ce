from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rhizome.addresses import is_loopback
from rhizome.wire.kv_events import decode_batch
from tests.support.engine_contract.engines import simulated
from tests.support.engine_contract.play import listening
from tests.support.waiting import eventually
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker

LONG = {"prompt": [300] * 40, "max_tokens": 300, "ignore_eos": True}


async def break_it(http: httpx.AsyncClient, kind: str, **fields: Any) -> None:
    answer = await http.post("/simulate/fault", json={"kind": kind} | fields)
    assert answer.status_code == 200, answer.text


async def complete(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"prompt": [300] * 40, "max_tokens": 2, "ignore_eos": True} | fields
    answer = await http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_hung_engine_is_healthy_makes_no_token_and_goes_on_where_it_was(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await break_it(http, "hang")
    asked = asyncio.ensure_future(complete(http))
    await eventually(lambda: worker.in_flight == 1)
    assert (await http.get("/health")).status_code == 200
    before = worker.ranks[0].stats.generation_tokens
    await asyncio.sleep(0.05)  # fifty steps, if there were any
    assert worker.ranks[0].stats.generation_tokens == before
    await break_it(http, "none")
    assert (await asked)["usage"]["completion_tokens"] == 2


async def test_a_fault_ends_by_itself_when_it_is_told_to(http: httpx.AsyncClient) -> None:
    await break_it(http, "hang", for_s=0.05)
    assert (await complete(http))["usage"]["completion_tokens"] == 2
    assert (await http.get("/simulate/fault")).json()["kind"] == "none"


async def test_a_slow_engine_takes_its_factor_longer(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await break_it(http, "slow", factor=50)
    clock = worker.clock
    began_s = clock.monotonic_s()
    await complete(http, max_tokens=5)
    assert clock.monotonic_s() - began_s >= 50 * 5 * 0.5e-3


async def test_a_crash_cuts_everything_and_is_the_engines_death(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await break_it(http, "hang")
    asked = asyncio.ensure_future(complete(http, **LONG))
    await eventually(lambda: worker.in_flight == 1)
    await break_it(http, "crash")
    with pytest.raises(httpx.TransportError):
        await asked
    assert "crash" in await asyncio.wait_for(worker.crashed, 30)
    with pytest.raises(httpx.ConnectError):
        await http.get("/health")


async def test_a_crash_for_a_while_comes_back_empty_on_the_same_port(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await complete(http)
    await break_it(http, "crash", for_s=0.05)

    async def lives() -> bool:
        try:
            return (await http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(lives)
    assert (await complete(http))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert not worker.crashed.done()


async def test_a_restart_in_place_forgets_the_cache_and_counts_from_zero(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    async with listening(worker.sources[0].endpoint, quiet_s=0.05) as events:
        await complete(http)
        assert (await complete(http))["usage"]["prompt_tokens_details"]["cached_tokens"] == 32
        assert await events.since_last(1)
        await break_it(http, "restart")
        assert (await complete(http))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert await events.since_last(1)
    assert events.sequences == [0, 0]


async def test_connections_are_refused_for_the_time_asked(http: httpx.AsyncClient) -> None:
    answer = await http.post("/simulate/fault", json={"kind": "refuse"})
    assert answer.status_code == 400
    await break_it(http, "refuse", for_s=1.5)
    async with httpx.AsyncClient(base_url=http.base_url, timeout=30) as other:
        with pytest.raises(httpx.ConnectError):
            await other.get("/health")

        async def accepts() -> bool:
            try:
                return (await other.get("/health")).status_code == 200
            except httpx.ConnectError:
                return False

        await eventually(accepts)


async def test_generating_requests_are_reset_now_or_on_their_way(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await break_it(http, "reset")
    with pytest.raises(httpx.TransportError):
        await complete(http)
    await break_it(http, "reset", after_s=0.05)
    with pytest.raises(httpx.TransportError):
        await complete(http, **LONG, temperature=0)
    await eventually(lambda: worker.in_flight == 0)
    assert (await http.get("/health")).status_code == 200


async def test_a_half_open_worker_says_nothing_and_keeps_its_connections(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    await break_it(http, "half_open")
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/health", timeout=0.1)
    assert (await http.get("/simulate/fault")).json()["kind"] == "half_open"
    await break_it(http, "none")
    assert (await http.get("/health")).status_code == 200


async def test_event_faults_lose_double_and_swap_batches(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    async with listening(worker.sources[0].endpoint, quiet_s=0.05) as events:
        for number, kind in enumerate(("drop_events", "duplicate_events", "reorder_events")):
            await break_it(http, kind)
            for turn in range(2):
                await complete(http, prompt=[400 + 2 * number + turn] * 40)
        await events.since_last(6)
    assert events.sequences == [1, 2, 2, 3, 5, 4]
    assert [sequence for sequence, _ in worker.publishers[0].kept] == list(range(6))
    assert all(decode_batch(payload).events for _, payload in worker.publishers[0].kept)


async def test_nobody_may_break_a_worker_that_does_not_allow_it(words: Words) -> None:
    async with simulated(words) as worker:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{worker.port}", timeout=30
        ) as http:
            answer = await http.post("/simulate/fault", json={"kind": "crash"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("peer", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_only_loopback_clients_may_break_a_worker(peer: str, loopback: bool) -> None:
    assert is_loopback(peer) == loopback


@pytest.mark.parametrize("body", ["{", '{"kind":"fire"}', '{"kind":"slow","factor":0}', "[]"])
async def test_a_fault_that_is_none_is_refused(http: httpx.AsyncClient, body: str) -> None:
    answer = await http.post("/simulate/fault", content=body)
    assert answer.status_code == 400
