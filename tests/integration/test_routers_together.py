"""Three real routers share their load over a real Valkey, which freezes and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from rhizome.stores.valkey import EmbeddedValkey
from tests.support.router_rig import (
    RunningRouter,
    running_router,
    simulated_workers,
    under_load,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Rig:
    valkey: EmbeddedValkey
    routers: list[RunningRouter]

    async def peers(self) -> list[float]:
        """How many others each router shares load with."""
        return [sum(await router.samples("router_peers")) for router in self.routers]

    async def told_in_flight(self) -> list[float]:
        return [sum(await router.samples("router_peers_in_flight")) for router in self.routers]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """For all tests; the last one kills a router."""
    tmp_path = tmp_path_factory.mktemp("routers")
    valkey = EmbeddedValkey(tmp_path / "valkey")
    await valkey.start()
    try:
        async with AsyncExitStack() as stack:
            workers = await stack.enter_async_context(simulated_workers(tmp_path, 2))
            environment = {
                "RHIZOME_REDIS__URL": valkey.url,
                "RHIZOME_ROUTER__PEERS__LEASE_S": "2.0",
                "RHIZOME_ROUTER__PEERS__WHOLE_INTERVAL_S": "0.5",
            }
            routers = [
                await stack.enter_async_context(running_router(tmp_path, workers, **environment))
                for _ in range(3)
            ]
            made = Rig(valkey, routers)
            await eventually(lambda: _are(made, [2, 2, 2]), within_s=30)
            yield made
    finally:
        await valkey.stop()


async def _are(rig: Rig, peers: list[int]) -> bool:
    return await rig.peers() == peers


async def test_no_request_fails_while_the_store_is_frozen_and_sharing_heals(rig: Rig) -> None:
    urls = [router.url for router in rig.routers]
    async with under_load(urls, 6, fresh=False) as load:
        await eventually(lambda: load.answered > 50, within_s=60)
        os.kill(rig.valkey.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: _are(rig, [0, 0, 0]), within_s=30)
            said = [router.log.read_text() for router in rig.routers]
            assert all("counts its own alone" in text for text in said)
            assert all("the channel between routers is unavailable" in text for text in said)
            alone = load.answered
            await eventually(lambda: load.answered > alone + 50, within_s=60)
        finally:
            os.kill(rig.valkey.pid, signal.SIGCONT)
        await eventually(lambda: _are(rig, [2, 2, 2]), within_s=30)
        together = load.answered
        await eventually(lambda: load.answered > together + 50, within_s=60)
    assert load.failures == []

    async def nothing_left() -> bool:
        return await rig.told_in_flight() == [0, 0, 0]

    await eventually(nothing_left, within_s=30)


async def test_others_know_of_a_running_answer_until_its_router_dies(rig: Rig) -> None:
    first = rig.routers[0]
    body = {"model": "m", "prompt": "a long story", "max_tokens": 1000, "ignore_eos": True}
    async with aiohttp.ClientSession() as http:
        url = f"{first.url}/v1/completions"
        async with http.post(url, json=body | {"stream": True}) as answer:
            await answer.content.readany()

            async def others_know() -> bool:
                return await rig.told_in_flight() == [0, 1, 1]

            await eventually(others_know, within_s=30)
            first.process.kill()
    first.process.wait(30)
    left = Rig(rig.valkey, rig.routers[1:])

    async def forgotten() -> bool:
        return await left.told_in_flight() == [0, 0] and await left.peers() == [1, 1]

    await eventually(forgotten, within_s=30)
