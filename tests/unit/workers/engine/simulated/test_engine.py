from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from rhizome.clock import SystemClock
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerState
from rhizome.settings.cluster import WorkerSettings
from rhizome.settings.tree import Settings
from rhizome.stores.memory.registry import MemoryRegistry
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.waiting import eventually
from workers.lives import WorkerPlan, new_life
from workers.runner import WorkerRunner


def runner(tmp_path: Path, registry: MemoryRegistry) -> WorkerRunner:
    spec = ModelSpec(
        name="m",
        source=str(write_tokenizer(tmp_path / "model")),
        engine="simulated",
        engine_args={"speed-factor": 20, "faults": True},
    )
    settings = Settings(worker=WorkerSettings(heartbeat_s=0.05, lease_ttl_s=5))
    plan = WorkerPlan("w", spec, settings, api_key="sesame")
    return new_life(plan, registry, SystemClock())


async def test_a_worker_with_a_simulated_engine_registers_serves_and_drains(tmp_path: Path) -> None:
    registry = MemoryRegistry(SystemClock())
    life = runner(tmp_path, registry)
    running = asyncio.ensure_future(life.run())
    await asyncio.wait_for(life.wait_ready(), 20)
    (record,) = await registry.workers()
    assert (record.state, record.engine, record.block_size) == (WorkerState.READY, "simulated", 16)
    assert record.events[0].curve_key
    async with httpx.AsyncClient(headers={"authorization": "Bearer sesame"}, timeout=30) as http:
        body = {"model": "m", "prompt": "hello", "max_tokens": 3, "ignore_eos": True}
        answer = await http.post(f"{record.url}/v1/completions", json=body)
    assert answer.json()["usage"]["completion_tokens"] == 3
    await life.drain(5)
    await running
    assert not await registry.workers()


async def test_a_simulated_crash_is_the_engines_death(tmp_path: Path) -> None:
    registry = MemoryRegistry(SystemClock())
    life = runner(tmp_path, registry)
    running = asyncio.ensure_future(life.run())
    await asyncio.wait_for(life.wait_ready(), 20)
    async with httpx.AsyncClient(headers={"authorization": "Bearer sesame"}, timeout=30) as http:
        await http.post(f"{life.record.url}/simulate/fault", json={"kind": "crash"})
    await eventually(running.done)
    assert "crash" in str(running.exception())
    (record,) = await registry.workers()
    assert (record.state, "crash" in record.detail) == (WorkerState.FAILED, True)
