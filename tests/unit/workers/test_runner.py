from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from rhizome.clock import SystemClock
from rhizome.errors import EngineFailed, ModelUnusable, StartError, StoreUnavailable
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.settings.cluster import WorkerSettings
from rhizome.stores.memory.registry import MemoryRegistry
from tests.support.waiting import eventually
from workers.engine.base import EngineFacts, Say
from workers.runner import WorkerPlace, WorkerRunner

KEY = "rzk-test-key-of-the-engine"
SETTINGS = WorkerSettings(heartbeat_s=0.01, lease_ttl_s=2, start_timeout_s=30, drain_grace_s=30)
EVENTS = (EventSource(endpoint="tcp://127.0.0.1:1", topic="kv", curve_key="k"),)


class FakeEngine:
    """An `Engine` that serves one canned answer."""

    def __init__(self) -> None:
        self.fault: StartError | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.warm_up_status = 200
        self.warm_ups: list[dict[str, object]] = []
        self.stopped = 0
        self.url = ""
        self._site: web.AppRunner | None = None

    async def start(self, say: Say) -> EngineFacts:
        say("loading weights")
        await self.may_start.wait()
        if self.fault is not None:
            raise self.fault
        app = web.Application()
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._site = web.AppRunner(app)
        await self._site.setup()
        listener = web.TCPSite(self._site, "127.0.0.1", 0)
        await listener.start()
        self.url = f"http://127.0.0.1:{self._site.addresses[0][1]}"
        return EngineFacts(
            url=self.url, api_key=KEY, events=EVENTS, block_size=16, kv_blocks=99, max_num_seqs=8
        )

    async def wait_dead(self) -> str:
        return await asyncio.shield(self.died)

    async def drain(self, grace_s: float) -> bool:
        try:
            await asyncio.wait_for(self.idle.wait(), grace_s)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        self.stopped += 1
        if self._site is not None:
            await self._site.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        model = {"id": "m", "parent": None}
        return web.json_response({"data": [model, {"id": "pirate", "parent": "m"}, {"id": "else"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        self.warm_ups.append(await request.json())
        return web.json_response({}, status=self.warm_up_status)


class Outage:
    """A `Registry` that can be made unreachable."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self.down = False

    def _reach(self) -> MemoryRegistry:
        if self.down:
            raise StoreUnavailable("no answer")
        return self._registry

    async def put(self, record: WorkerRecord, lease_ttl_s: float) -> None:
        await self._reach().put(record, lease_ttl_s)

    async def renew(self, worker_id: str, incarnation: str, lease_ttl_s: float) -> bool:
        return await self._reach().renew(worker_id, incarnation, lease_ttl_s)

    async def withdraw(self, worker_id: str, incarnation: str) -> bool:
        return await self._reach().withdraw(worker_id, incarnation)

    async def workers(self) -> Sequence[WorkerRecord]:
        return await self._reach().workers()


class Stage:
    """A runner with its neighbours."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.memory = MemoryRegistry(self.clock)
        self.registry = Outage(self.memory)
        self.engine = FakeEngine()
        self.runner = self.new_runner(self.engine)
        self._runs: list[asyncio.Task[None]] = []

    def new_runner(self, engine: FakeEngine, settings: WorkerSettings = SETTINGS) -> WorkerRunner:
        place = WorkerPlace("w1", "http://127.0.0.1:1", "node-a", 42)
        spec = ModelSpec(name="m", source="demo:llama")
        return WorkerRunner(place, spec, settings, engine, self.registry, self.clock)

    def run(self, runner: WorkerRunner | None = None) -> asyncio.Task[None]:
        task = asyncio.ensure_future((runner or self.runner).run())
        self._runs.append(task)
        return task

    async def seen(self) -> WorkerRecord | None:
        return next(iter(await self.memory.workers()), None)

    async def until(self, state: WorkerState) -> WorkerRecord:
        async def reached() -> bool:
            record = await self.seen()
            return record is not None and record.state is state

        await eventually(reached)
        record = await self.seen()
        assert record is not None
        return record

    async def close(self) -> None:
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


async def test_a_worker_is_loading_until_its_engine_has_answered_once(stage: Stage) -> None:
    stage.engine.may_start.clear()
    stage.run()

    async def says_what_it_does() -> bool:
        record = await stage.seen()
        return record is not None and record.detail == "loading weights"

    await eventually(says_what_it_does)
    loading = await stage.until(WorkerState.LOADING)
    assert (loading.url, loading.pid, loading.node) == ("http://127.0.0.1:1", 42, "node-a")
    assert stage.engine.warm_ups == []
    stage.engine.may_start.set()
    ready = await stage.until(WorkerState.READY)
    assert len(stage.engine.warm_ups) == 1
    assert ready.incarnation == loading.incarnation
    assert (ready.url, ready.api_key, ready.events) == (stage.engine.url, KEY, EVENTS)
    assert (ready.block_size, ready.kv_blocks, ready.detail) == (16, 99, "")
    assert ready.adapters == ("pirate",)
    await stage.runner.wait_ready()


async def test_the_lease_outlives_its_ttl_while_the_worker_lives(stage: Stage) -> None:
    stage.run()
    await stage.until(WorkerState.READY)
    await asyncio.sleep(SETTINGS.lease_ttl_s * 1.5)
    assert await stage.seen() is not None


async def test_a_failed_start_is_registered_with_its_cause_and_raised(stage: Stage) -> None:
    stage.engine.fault = ModelUnusable("the weights are cut off")
    with pytest.raises(ModelUnusable, match="cut off"):
        await stage.run()
    failed = await stage.until(WorkerState.FAILED)
    assert failed.detail == "the weights are cut off"
    assert stage.engine.stopped == 1


async def test_an_engine_that_cannot_answer_is_not_ready(stage: Stage) -> None:
    stage.engine.warm_up_status = 500
    with pytest.raises(EngineFailed, match="first request with 500"):
        await stage.run()
    assert stage.engine.stopped == 1


async def test_a_start_has_a_deadline(stage: Stage) -> None:
    stage.engine.may_start.clear()
    hasty = WorkerSettings(start_timeout_s=0.05, heartbeat_s=0.01)
    with pytest.raises(EngineFailed, match="did not start within"):
        await stage.run(stage.new_runner(stage.engine, hasty))
    assert stage.engine.stopped == 1


async def test_the_death_of_the_engine_is_registered_with_its_cause(stage: Stage) -> None:
    run = stage.run()
    await stage.until(WorkerState.READY)
    stage.engine.died.set_result("killed by SIGKILL")
    with pytest.raises(EngineFailed, match="SIGKILL"):
        await run
    assert (await stage.until(WorkerState.FAILED)).detail == "killed by SIGKILL"


async def test_a_drain_waits_for_what_runs_and_then_withdraws(stage: Stage) -> None:
    run = stage.run()
    await stage.until(WorkerState.READY)
    stage.engine.idle.clear()
    leaving = asyncio.ensure_future(stage.runner.drain(5))
    await stage.until(WorkerState.DRAINING)
    assert stage.engine.stopped == 0
    stage.engine.idle.set()
    await leaving
    await run
    assert await stage.seen() is None
    assert stage.engine.stopped == 1


async def test_a_drain_ends_with_its_grace(stage: Stage) -> None:
    run = stage.run()
    await stage.until(WorkerState.READY)
    stage.engine.idle.clear()
    await stage.runner.drain(0.05)
    await run
    assert await stage.seen() is None


async def test_a_worker_that_loads_can_be_stopped(stage: Stage) -> None:
    stage.engine.may_start.clear()
    run = stage.run()
    await stage.until(WorkerState.LOADING)
    await stage.runner.stop()
    await run
    assert await stage.seen() is None
    assert stage.engine.stopped == 1


async def test_an_outage_of_the_registry_stops_nothing_and_is_made_up_for(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.registry.down = True
    run = stage.run()
    await stage.runner.wait_ready()
    await asyncio.sleep(0.1)
    assert not run.done()
    assert caplog.text.count("the registry does not answer") == 1
    stage.registry.down = False
    assert (await stage.until(WorkerState.READY)).kv_blocks == 99


async def test_a_lost_entry_is_written_again(stage: Stage) -> None:
    stage.run()
    ready = await stage.until(WorkerState.READY)
    await stage.memory.withdraw(ready.worker_id, ready.incarnation)
    assert await stage.until(WorkerState.READY) == ready


async def test_every_start_has_an_incarnation_of_its_own_and_the_older_one_leaves(
    stage: Stage,
) -> None:
    run = stage.run()
    first = await stage.until(WorkerState.READY)
    newer_engine = FakeEngine()
    newer = stage.new_runner(newer_engine)
    stage.run(newer)
    await run
    await newer.wait_ready()
    record = await stage.until(WorkerState.READY)
    assert record.incarnation == newer.record.incarnation != first.incarnation
    assert stage.engine.stopped == 1
    assert newer_engine.stopped == 0


async def test_draining_a_failed_worker_forgets_its_failure(stage: Stage) -> None:
    stage.engine.fault = EngineFailed("no memory")
    with pytest.raises(EngineFailed):
        await stage.run()
    await stage.runner.drain()
    assert await stage.seen() is None
