"""Health decides who gets requests; load is reported per rank; nobody waits for the dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from rhizome.clock import SystemClock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.tree import DiscoverySettings
from rhizome.tasks import Tasks
from router.discovery.prober import Prober
from router.fleet import EngineLoad, Fleet
from tests.support.waiting import eventually
from tests.unit.router.discovery.fake_engine import FakeEngine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


def record(worker_id: str, url: str, *, key: str | None = None, ranks: int = 1) -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        incarnation="a",
        model="m",
        url=url,
        state=WorkerState.READY,
        api_key=key,
        data_parallel=ranks,
    )


@asynccontextmanager
async def probing(session: aiohttp.ClientSession, *records: WorkerRecord) -> AsyncIterator[Fleet]:
    fleet = Fleet(failures_to_suspend=2)
    for one in records:
        fleet.upsert(one, 0.0)
    settings = DiscoverySettings(probe_interval_s=0.02, probe_timeout_s=0.3)
    prober = Prober(fleet, session, SystemClock(), settings)
    async with Tasks("test") as tasks:
        tasks.start("prober", prober.run())
        yield fleet


def eligible(fleet: Fleet) -> set[str]:
    return {target.target_id for target in fleet.eligible("m")}


async def test_a_worker_that_hangs_is_suspended_and_the_other_is_asked_on(
    session: aiohttp.ClientSession,
) -> None:
    well, hanging = FakeEngine(), FakeEngine(hang=True)
    async with (
        well.serving() as well_url,
        hanging.serving() as hanging_url,
        probing(session, record("w1", well_url), record("w2", hanging_url)) as fleet,
    ):
        await eventually(lambda: eligible(fleet) == {"w1"})
        await eventually(lambda: well.asked.count("/health") > 5)
        hanging.hang = False
        await eventually(lambda: eligible(fleet) == {"w1", "w2"})


async def test_the_load_is_reported_with_the_key(session: aiohttp.ClientSession) -> None:
    async with (
        FakeEngine(key="k").serving() as url,
        probing(session, record("w1", url, key="k")) as fleet,
    ):
        target = fleet.eligible("m")[0]
        await eventually(lambda: fleet.load(target) is not None)
        assert fleet.load(target) == EngineLoad(running=3, waiting=2, kv_usage=0.25)


async def test_a_rank_without_samples_keeps_no_load(session: aiohttp.ClientSession) -> None:
    async with (
        FakeEngine().serving() as url,
        probing(session, record("w1", url, ranks=2)) as fleet,
    ):
        first, second = fleet.eligible("m")
        await eventually(lambda: fleet.load(first) is not None)
        assert fleet.load(second) is None


async def test_a_load_that_is_no_number_is_no_load(session: aiohttp.ClientSession) -> None:
    engine = FakeEngine(running=float("nan"))
    async with engine.serving() as url, probing(session, record("w1", url)) as fleet:
        await eventually(lambda: engine.asked.count("/metrics") > 2)
        assert fleet.load(fleet.eligible("m")[0]) is None


async def test_a_worker_that_loads_is_not_asked_and_one_that_left_no_longer(
    session: aiohttp.ClientSession,
) -> None:
    engine = FakeEngine()
    async with engine.serving() as url:
        loading = msgspec.structs.replace(record("w1", url), state=WorkerState.LOADING)
        async with probing(session, loading) as fleet:
            await asyncio.sleep(0.05)
            assert engine.asked == []
            fleet.upsert(record("w1", url), 0.0)
            await eventually(lambda: len(engine.asked) > 2)
            fleet.remove("w1", "test", 0.0)
            await asyncio.sleep(0.05)
            asked = len(engine.asked)
            await asyncio.sleep(0.1)
            assert len(engine.asked) == asked
