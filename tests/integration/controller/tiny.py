"""A controller process whose workers are real Ray actors around an engine that does nothing.

Run as `python -m tests.integration.controller.tiny SETTINGS`: a process of its own, so that it can
be killed. The settings' model names say how the engine behaves: `broken` never loads.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster.controller import Controller
from cluster.lead import Office
from cluster.metrics import ControllerMetrics
from cluster.ray_workers import RayWorkers
from rhizome.clock import SystemClock
from rhizome.errors import EngineFailed
from rhizome.logs import configure_logs
from rhizome.settings.dump import settings_tree
from rhizome.settings.load import load_settings
from rhizome.stores.open import open_stores
from rhizome.stores.registry import Registry
from workers.actor import WorkerActor
from workers.engine.base import EngineFacts
from workers.runner import WorkerPlace, WorkerRunner

DRAIN_S = 0.5


class IdleEngine:
    """An engine that is ready at once and busy for `DRAIN_S` when it is drained."""

    def __init__(self, model: str) -> None:
        self._model = model

    async def start(self, _: object) -> EngineFacts:
        if self._model == "broken":
            raise EngineFailed("the weights are torn")
        return EngineFacts(url="http://127.0.0.1:9", api_key=None, generates=False)

    async def wait_dead(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def drain(self, grace_s: float) -> bool:
        await asyncio.sleep(min(grace_s, DRAIN_S))
        return grace_s >= DRAIN_S

    async def stop(self) -> None:
        return None


class TinyWorker(WorkerActor):
    """The real actor with another engine."""

    async def _live(self, registry: Registry, _: float) -> None:
        plan = self._plan
        place = WorkerPlace(plan.worker_id, "http://127.0.0.1:9", "here", os.getpid())
        engine = IdleEngine(plan.spec.name)
        worker = plan.settings.worker
        self._runner = WorkerRunner(place, plan.spec, worker, engine, registry, self._clock)
        await self._runner.run()


async def main(file: Path) -> None:
    settings = load_settings(file, environment={})
    configure_logs("info", "text")
    own = settings.controller
    host = RayWorkers(
        own.ray_address or "",
        own.ray_namespace,
        TinyWorker,
        json.dumps(settings_tree(settings, reveal_secrets=True)),
    )
    await host.connect()
    stores = await open_stores(settings.redis)
    metrics = ControllerMetrics(CollectorRegistry())
    await Controller(Office(settings, stores, host, metrics, SystemClock())).run()


if __name__ == "__main__":
    from tests.integration.controller.tiny import main as imported_main

    asyncio.run(imported_main(Path(sys.argv[1])))
