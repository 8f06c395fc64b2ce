"""The worker as a Ray actor with a real engine: Ray brings a killed one back by itself."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.dump import settings_tree
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings
from rhizome.stores.open import open_stores
from rhizome.stores.registry import Registry
from tests.support.processes import family, living
from tests.support.waiting import eventually
from workers.actor import WorkerActor

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(420),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

START_S = 180.0


@pytest.fixture
def ray_cluster() -> Iterator[Any]:
    import ray

    directory = tempfile.mkdtemp(prefix="rz-")  # short: it becomes part of socket names
    ray.init(
        num_cpus=2,
        namespace="test",
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
        _temp_dir=directory,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        flags={
            "redis.url": valkey_url,
            "redis.namespace": "actor-test",
            "state_directory": tmp_path,
            "controller.restart_backoff_s_max": 2,
        },
        environment={},
    )


async def until(registry: Registry, state: WorkerState, not_incarnation: str = "") -> WorkerRecord:
    found: list[WorkerRecord] = []

    async def reached() -> bool:
        found[:] = [
            record
            for record in await registry.workers()
            if record.state is state and record.incarnation != not_incarnation
        ]
        return bool(found)

    await eventually(reached, within_s=START_S, every_s=0.2)
    return found[0]


def start_actor(ray: Any, settings: Settings, spec: ModelSpec) -> Any:
    options = {"name": spec.name, "lifetime": "detached", "max_restarts": -1, "num_cpus": 0}
    return (
        ray.remote(WorkerActor)
        .options(**options)
        .remote(
            f"{spec.name}-1",
            spec.model_dump_json(),
            json.dumps(settings_tree(settings, reveal_secrets=True)),
        )
    )


async def test_ray_brings_a_killed_worker_back_under_a_new_incarnation(
    ray_cluster: Any, settings: Settings
) -> None:
    spec = ModelSpec(name="moe", source="demo:mixtral", kv_cache_memory="50M", block_size=32)
    actor = start_actor(ray_cluster, settings, spec)
    stores = await open_stores(settings.redis)
    first = await until(stores.registry, WorkerState.READY)
    assert first.pid is not None
    processes = family(first.pid)
    assert len(processes) >= 3
    psutil.Process(first.pid).send_signal(signal.SIGKILL)
    second = await until(stores.registry, WorkerState.READY, not_incarnation=first.incarnation)
    assert (second.worker_id, second.model) == ("moe-1", "moe")
    assert second.pid != first.pid
    assert second.api_key != first.api_key
    assert living(processes) == []
    status = await actor.status.remote()
    assert status["state"] == "ready"
    assert "api_key" not in status
    assert second.pid is not None
    processes = family(second.pid)[1:]
    await asyncio.wait_for(actor.drain.remote(5.0), 60)
    assert list(await stores.registry.workers()) == []
    await eventually(lambda: not living(processes))
    ray_cluster.kill(actor, no_restart=True)
    await stores.close()


async def test_a_worker_that_cannot_start_says_why_and_tries_again(
    ray_cluster: Any, settings: Settings, tmp_path: Path
) -> None:
    spec = ModelSpec(name="lost", source=str(tmp_path / "nowhere"))
    actor = start_actor(ray_cluster, settings, spec)
    stores = await open_stores(settings.redis)
    first = await until(stores.registry, WorkerState.FAILED)
    assert "nowhere does not exist" in first.detail
    second = await until(stores.registry, WorkerState.FAILED, not_incarnation=first.incarnation)
    assert second.pid == first.pid
    await asyncio.wait_for(actor.stop.remote(), 30)
    assert list(await stores.registry.workers()) == []
    ray_cluster.kill(actor, no_restart=True)
    await stores.close()
