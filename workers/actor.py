"""The class that the cluster makes a Ray actor of: a thin shell around one worker.

Requests never pass through it. It starts its worker at construction, so that Ray's restart of a
killed actor process brings the worker back by itself, under a new incarnation. A failed engine is
started again here, with growing pauses and its cause in the registry; should anything else end the
worker, the process exits and leaves the rest to Ray. Ray runs all of it in its asyncio loop; Ray
itself is imported by nobody here.
"""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from rhizome.clock import SystemClock
from rhizome.fleet.models import ModelSpec
from rhizome.logs import configure_logs
from rhizome.settings.tree import Settings
from rhizome.stores.open import open_stores
from rhizome.stores.registry import Registry
from rhizome.tasks import Tasks
from workers.lives import WorkerPlan, new_life
from workers.restarts import keep_living
from workers.runner import WorkerRunner

_log = logging.getLogger(__name__)


class WorkerActor:
    """One worker, from construction until `drain` or `stop`."""

    def __init__(self, worker_id: str, spec_json: str, settings_json: str) -> None:
        """`spec_json` is a `ModelSpec`, `settings_json` a `Settings` tree with its secrets."""
        self._settings = Settings.model_validate_json(settings_json)
        configure_logs(self._settings.logs.level, self._settings.logs.style)
        spec = ModelSpec.model_validate_json(spec_json)
        self._plan = WorkerPlan(worker_id, spec, self._settings)
        self._clock = SystemClock()
        self._runner: WorkerRunner | None = None
        self._leaving = False
        self._left = asyncio.Event()
        self._tasks = Tasks("worker-actor")
        self._life = self._tasks.start("life", self._live_on())

    def __repr__(self) -> str:
        return f"worker {self._plan.worker_id}"

    async def status(self) -> dict[str, object]:
        """The worker's record as plain data, without its keys."""
        if self._runner is None:
            return {"worker_id": self._plan.worker_id, "state": "starting"}
        record = msgspec.to_builtins(self._runner.record)
        return {name: record[name] for name in record if name not in {"api_key", "events"}}

    async def drain(self, grace_s: float | None = None) -> None:
        """Finishes what runs, at most `grace_s`, and ends the worker; the actor stays, idle.

        To be followed by killing the actor with `no_restart=True`.
        """
        self._leaving = True
        if self._runner is not None and not self._left.is_set():
            await self._runner.drain(grace_s)
        self._life.cancel()
        await self._left.wait()

    async def stop(self) -> None:
        """Ends the worker at once; the actor stays, idle."""
        await self.drain(0.0)

    async def _live_on(self) -> None:
        """Keeps the worker alive; the process ends with it unless it was asked to leave."""
        try:
            stores = await open_stores(self._settings.redis, verify=False)
            pause_s_max = self._settings.controller.restart_backoff_s_max
            try:
                await keep_living(
                    lambda: self._live(stores.registry, pause_s_max), self._clock, pause_s_max
                )
            finally:
                await stores.close()
        finally:
            if not self._leaving:
                _log.critical("worker %s ends unasked; Ray restarts it", self._plan.worker_id)
                os._exit(1)
            self._left.set()

    async def _live(self, registry: Registry, pause_s_max: float) -> None:
        failed_lease_s = pause_s_max + self._settings.worker.lease_ttl_s
        self._runner = new_life(self._plan, registry, self._clock, failed_lease_s=failed_lease_s)
        await self._runner.run()
