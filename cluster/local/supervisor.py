"""The supervisor of a local cluster: starts every process, watches them, ends them in order.

Promises: nothing starts before models and memory are checked; each phase is shown and timed; a
router, controller or runner that dies is started again a bounded number of times; whatever ends the
supervisor, the processes end, the router first, the stores last. It leaves out the orphans of
processes that were killed: `cluster.local.warden` ends those.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psutil
from pydantic import SecretStr

from cluster.local.layout import ClusterFiles, models_directory, write_private
from cluster.local.memory import available_bytes, require_memory
from cluster.local.next_steps import next_steps
from cluster.local.ports import free_port
from cluster.local.progress import Progress
from cluster.local.ray_head import RayHead, RayPortTaken
from cluster.local.readiness import FleetWait, router_url, wait_router
from cluster.local.record import (
    ClusterRecord,
    ClusterState,
    Failure,
    cluster_lock,
    pid_of,
    write_record,
)
from cluster.local.services import Services, child_environment, service_command
from cluster.local.warden import end_processes
from rhizome.clock import Clock
from rhizome.errors import StartError
from rhizome.settings.dump import settings_yaml
from rhizome.settings.tree import Settings
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores, open_stores
from rhizome.stores.valkey import EmbeddedValkey
from rhizome.tasks import Tasks
from workers.demo_models import ensure_model

_WATCH_S = 0.2
_ROUTER_TIMEOUT_S = 60.0
_SERVICE_GRACE_S = 10.0
_RAY_GRACE_S = 20.0
_RAY_TRIES = 3


async def supervise(
    settings: Settings, files: ClusterFiles, progress: Progress, clock: Clock
) -> None:
    """Runs the cluster until SIGINT or SIGTERM (returns), or until it cannot go on.

    Raises `StartError`; by then every process has ended.
    """
    files.make()
    with cluster_lock(files):
        await LocalCluster(settings, files, progress, clock).run()


class LocalCluster:
    """One start of one cluster."""

    def __init__(
        self, settings: Settings, files: ClusterFiles, progress: Progress, clock: Clock
    ) -> None:
        self._settings = settings
        self._files = files
        self._progress = progress
        self._clock = clock
        self._stop = asyncio.Event()
        self._environment = child_environment(files)
        self._services = Services(files, self._environment, clock, self._say)
        self._valkey: EmbeddedValkey | None = None
        self._ray: RayHead | None = None
        self._record = ClusterRecord(
            name=settings.name, started_wall_s=clock.wall_s(), warden=pid_of(os.getppid())
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._write_record()
        failure: StartError | None = None
        try:
            failure = await self._live_until_stopped()
        finally:
            self._progress.close()
            await self._end(failure)
        if failure is not None:
            raise failure

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._say("ending at once")
            self._services.kill()
        self._stop.set()

    async def _live_until_stopped(self) -> StartError | None:
        async with Tasks("local cluster") as tasks:
            life = tasks.start("life", self._live())
            stop = tasks.start("stop", self._stop.wait())
            await asyncio.wait((life, stop), return_when=asyncio.FIRST_COMPLETED)
            return life.result() if life.done() else None

    async def _live(self) -> StartError:
        """Why the cluster cannot go on."""
        try:
            await self._start()
            await self._watch()
        except StartError as error:
            return error

    async def _start(self) -> None:
        with self._phase("Models"):
            directories = await self._make_models()
            require_memory(self._settings.models, directories, available_bytes())
        with self._phase("Store"):
            stores = await self._open_store()
        try:
            ray = self._launch_ray()
            await self._ask_for_workers(stores)
            self._start_service("router", self._settings.router.shutdown_grace_s + 5.0)
            self._start_service("batch", _SERVICE_GRACE_S)
            with self._phase("Ray"):
                await self._wait_ray(ray)
            self._start_service("controller", _SERVICE_GRACE_S)
            with self._phase("Router"):
                await self._wait_router("/health/live")
            with self._phase("Workers"):
                await self._wait_workers(stores)
                await self._wait_router("/health/ready")
        finally:
            await stores.close()
        self._become_ready()

    async def _make_models(self) -> dict[str, Path]:
        """Where each model is, by its name; raises `ModelUnusable`."""
        directory = models_directory(self._settings.state_directory)
        loop = asyncio.get_running_loop()

        def tell(phase: str, share: float) -> None:
            loop.call_soon_threadsafe(self._progress.note, f"{phase} {share:.0%}")

        return {
            spec.name: await asyncio.to_thread(ensure_model, spec.source, directory, tell)
            for spec in self._settings.models
        }

    async def _open_store(self) -> Stores:
        """A Valkey of our own, or the Redis of the settings; raises `StoreUnreachable`."""
        redis = self._settings.redis
        if redis.url is None:
            self._valkey = EmbeddedValkey(
                self._files.valkey, free_port=lambda: free_port("127.0.0.1", frozenset())
            )
            await self._valkey.start()
            redis = redis.model_copy(update={"url": SecretStr(self._valkey.url)})
            self._settings = self._settings.model_copy(update={"redis": redis})
        return await open_stores(redis)

    def _launch_ray(self) -> RayHead:
        router = self._settings.router
        known = {router.port, router.metrics_port, router.admin.port}
        known.add(self._settings.controller.metrics_port)
        port = free_port("127.0.0.1", frozenset(known))
        self._ray = RayHead(self._files, port, environment=self._environment, clock=self._clock)
        controller = self._settings.controller.model_copy(update={"ray_address": self._ray.address})
        self._settings = self._settings.model_copy(update={"controller": controller})
        text = settings_yaml(self._settings, reveal_secrets=True, defaults=False)
        write_private(self._files.settings, text)
        self._ray.launch()
        return self._ray

    async def _wait_ray(self, ray: RayHead) -> None:
        """Returns when it has started, with another port if its own was taken meanwhile."""
        for _ in range(_RAY_TRIES - 1):
            try:
                await ray.wait_started()
            except RayPortTaken:
                self._say("Ray's port was taken meanwhile; it starts with another one")
                await ray.stop(_RAY_GRACE_S)
                ray = self._launch_ray()
            else:
                return
        await ray.wait_started()

    async def _ask_for_workers(self, stores: Stores) -> None:
        """Starts from the numbers asked for now, whatever an earlier start ended with."""
        for spec in self._settings.models:
            target = ModelTarget(
                workers=spec.workers, reason="rhizome up", at_wall_s=self._clock.wall_s()
            )
            await stores.desired.put_target(spec.name, target)

    def _start_service(self, name: str, grace_s: float) -> None:
        self._services.start(name, service_command(name, self._files.settings), grace_s)
        self._write_record()

    async def _wait_router(self, path: str) -> None:
        await wait_router(
            self._settings.router, path, _ROUTER_TIMEOUT_S, self._clock, self._check_processes
        )

    async def _wait_workers(self, stores: Stores) -> None:
        wait = FleetWait(
            stores,
            self._settings.models,
            self._record.started_wall_s,
            self._clock,
            self._check_processes,
        )
        await wait.run(self._settings.worker.start_timeout_s, self._progress.note)

    def _become_ready(self) -> None:
        router = self._settings.router
        self._services.restarting = True
        self._record.state = ClusterState.READY
        self._record.url = router_url(router)
        self._record.metrics_url = f"http://{router.metrics_host}:{router.metrics_port}/metrics"
        self._record.ports = {
            "router": router.port,
            "router-metrics": router.metrics_port,
            "router-admin": router.admin.port,
            "controller-metrics": self._settings.controller.metrics_port,
        }
        self._write_record()
        for line in next_steps(self._settings, self._files):
            self._say(line)

    async def _watch(self) -> NoReturn:
        """Raises `StartError` when the cluster cannot go on."""
        while True:
            self._check_processes()
            if self._valkey is not None and not self._valkey.running():
                self._say("Valkey ended; it starts again with what it had written")
                await self._valkey.stop()
                await self._valkey.start()
                self._write_record()
            await self._clock.sleep(_WATCH_S)

    def _check_processes(self) -> None:
        if self._ray is not None:
            self._ray.check()
        if self._services.check():
            self._write_record()

    async def _end(self, failure: StartError | None) -> None:
        """Ends every process in order; bounded by the sum of the graces."""
        self._record.state = ClusterState.STOPPING
        self._write_record()
        if failure is None:
            self._say("ending: router and runner, controller, Ray with its workers, store")
        await self._services.stop("router", "batch")
        await self._services.stop("controller")
        if self._ray is not None:
            await self._ray.stop(_RAY_GRACE_S)
        if self._valkey is not None:
            await self._valkey.stop()
        left = await asyncio.to_thread(end_processes, psutil.Process().children(recursive=True))
        if left:
            self._say(f"these processes would not end: {[process.pid for process in left]}")
        self._files.settings.unlink(missing_ok=True)
        self._files.admin_key.unlink(missing_ok=True)
        self._record.state = ClusterState.ENDED
        if failure is not None:
            self._record.state = ClusterState.FAILED
            self._record.failure = Failure(failure.message, failure.advice, failure.exit_code)
        self._record.processes = {}
        self._write_record()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Shows and times a phase; one that fails is shown by the error alone."""
        begun_s = self._clock.monotonic_s()
        self._progress.begin(name)
        yield
        took_s = round(self._clock.monotonic_s() - begun_s, 3)
        self._record.phases_s[name] = took_s
        self._progress.done(name, took_s)
        self._write_record()

    def _say(self, line: str) -> None:
        self._progress.say(line)

    def _write_record(self) -> None:
        numbers = {"supervisor": os.getpid(), **self._services.pids()}
        if self._ray is not None and self._ray.child is not None and self._ray.child.pid:
            numbers["ray"] = self._ray.child.pid
        if self._valkey is not None and self._valkey.running():
            numbers["valkey"] = self._valkey.pid
        found = {name: pid_of(number) for name, number in numbers.items()}
        self._record.processes = {name: pid for name, pid in found.items() if pid is not None}
        write_record(self._files, self._record)
