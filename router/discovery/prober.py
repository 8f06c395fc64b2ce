"""Asks every worker, again and again, whether it is well and how much it has to do.

Each worker has a task of its own, begun when it joins the fleet and ended when it leaves, so a
worker that does not answer delays no other. Health decides about suspension; a load that cannot be
read only leaves the last one standing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from rhizome.clock import Clock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.tree import DiscoverySettings
from rhizome.tasks import Tasks
from router.discovery.asking import Asker, WorkerSilent
from router.discovery.describe import METRICS_BYTES_MAX, START_TIME
from router.discovery.exposition import Sample, SampleReader
from router.fleet import EngineLoad, Fleet, targets_of

_log = logging.getLogger(__name__)
_HEALTH_BYTES_MAX = 64 * 1024
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_USAGE = "vllm:kv_cache_usage_perc"
_PROBED = (WorkerState.READY, WorkerState.DRAINING)
_reader = SampleReader((_RUNNING, _WAITING, _KV_USAGE, START_TIME))


class Prober:
    """A fleet listener that registers itself; `run` ends only when cancelled.

    `on_recovery` is called with the id of a worker that may be another process than before: it
    answers again after failures, or says that it started at another time.
    """

    def __init__(
        self,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        clock: Clock,
        settings: DiscoverySettings,
        on_recovery: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self._session = session
        self._clock = clock
        self._settings = settings
        self._on_recovery = on_recovery
        self._tasks = Tasks("prober")
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Watches until cancelled."""
        async with self._tasks:
            self._fleet.listen(self)
            await asyncio.Event().wait()

    def joined(self, record: WorkerRecord) -> None:
        """Begins to watch the worker."""
        self._watches[record.worker_id] = self._tasks.start(
            record.worker_id, self._watch(record.worker_id)
        )

    def left(self, record: WorkerRecord) -> None:
        """Ends the watch."""
        watch = self._watches.pop(record.worker_id, None)
        if watch is not None:
            watch.cancel()

    async def _watch(self, worker_id: str) -> None:
        failing, started_s = False, None
        while (record := self._fleet.worker(worker_id)) is not None:
            if record.state in _PROBED:
                well = await self._probe(record)
                now_started_s = await self._report(record) if well else None
                restarted = None not in (started_s, now_started_s) and started_s != now_started_s
                if (well and failing) or restarted:
                    self._on_recovery(worker_id)
                failing = not well
                started_s = now_started_s or started_s
            await self._clock.sleep(self._settings.probe_interval_s)

    async def _probe(self, record: WorkerRecord) -> bool:
        try:
            status, _ = await self._asker(record).get("/health", _HEALTH_BYTES_MAX)
            detail = "" if status == 200 else f"/health answered {status}"
        except WorkerSilent as silent:
            detail = str(silent)
        well = not detail
        self._fleet.probe(record.worker_id, well, self._clock.monotonic_s(), detail)
        return well

    async def _report(self, record: WorkerRecord) -> float | None:
        """Tells the fleet the engine's load; returns when its process started, if it says so."""
        try:
            status, page = await self._asker(record).get("/metrics", METRICS_BYTES_MAX)
        except WorkerSilent as silent:
            _log.debug("no load of %s: %s", record.worker_id, silent)
            return None
        samples = _reader.read(page) if status == 200 else []
        now_s = self._clock.monotonic_s()
        for target in targets_of(record):
            load = _load_of(samples, str(target.rank or 0))
            if load is not None:
                self._fleet.report(target.target_id, load, now_s)
        return next((one.value for one in samples if one.name == START_TIME), None)

    def _asker(self, record: WorkerRecord) -> Asker:
        return Asker(self._session, record.url, record.api_key, self._settings.probe_timeout_s)


def _load_of(samples: list[Sample], engine: str) -> EngineLoad | None:
    """The load of one rank, which the engine calls `engine`; None if it is not on the page."""
    values = {one.name: one.value for one in samples if one.labels.get("engine", "0") == engine}
    if _RUNNING not in values or _WAITING not in values:
        return None
    try:
        return EngineLoad(
            running=max(0, int(values[_RUNNING])),
            waiting=max(0, int(values[_WAITING])),
            kv_usage=min(1.0, max(0.0, values.get(_KV_USAGE, 0.0))),
        )
    except (ValueError, OverflowError):
        return None
