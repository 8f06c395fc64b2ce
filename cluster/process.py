"""Puts the controller process together: stores, Ray, metrics page, and a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal

from prometheus_client import CollectorRegistry

from cluster.controller import Controller
from cluster.lead import Office
from cluster.metrics import ControllerMetrics
from cluster.monitor import serve_monitor
from cluster.ray_workers import RayWorkers, require_ray
from rhizome.clock import SystemClock
from rhizome.errors import ClusterError, SettingsError
from rhizome.settings.dump import settings_tree
from rhizome.settings.tree import Settings
from rhizome.stores.open import open_stores
from rhizome.tasks import Tasks


async def run_controller(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT; raises `StartError` when it cannot start or must give up."""
    _check(settings)
    stores = await open_stores(settings.redis)
    host = ray_workers(settings)
    registry = CollectorRegistry()
    office = Office(settings, stores, host, ControllerMetrics(registry), SystemClock())
    controller = Controller(office)
    own = settings.controller
    try:
        await host.connect()
        async with (
            serve_monitor(own.metrics_host, own.metrics_port, registry, controller.health),
            Tasks("process") as tasks,
        ):
            work = tasks.start("controller", controller.run())
            end = tasks.start("signals", _asked_to_end())
            await asyncio.wait((work, end), return_when=asyncio.FIRST_COMPLETED)
            if work.done() and (error := work.exception()) is not None:
                raise ClusterError("the controller failed; see its log") from error
    finally:
        await host.close()
        await stores.close()


def ray_workers(settings: Settings) -> RayWorkers:
    """The workers on the settings' Ray cluster, not connected yet."""
    require_ray()
    from workers.actor import WorkerActor

    own = settings.controller
    settings_json = json.dumps(settings_tree(settings, reveal_secrets=True))
    return RayWorkers(own.ray_address or "", own.ray_namespace, WorkerActor, settings_json)


def _check(settings: Settings) -> None:
    if settings.redis.url is None:
        raise SettingsError(
            "the controller needs `redis.url`: workers and routers meet there",
            advice="Set `redis.url`, or use `rhizome up`, which starts a server of its own.",
        )
    if settings.controller.ray_address is None:
        raise SettingsError(
            "the controller needs `controller.ray_address`",
            advice="Give the address of a Ray head, or use `rhizome up`, which starts one.",
        )


async def _asked_to_end() -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
