"""Workers given by hand: asked what they are until they answer, and again when they come back.

They come from the settings, or are added and removed while the router runs.

A worker may be dead when the router starts; it joins the fleet with its first answer and stays in
it from then on: the prober says whether it may get requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import aiohttp

from rhizome.clock import Clock
from rhizome.errors import Conflict
from rhizome.tasks import Tasks
from router.discovery.asking import Asker, WorkerSilent
from router.discovery.describe import describe
from router.discovery.static_worker import StaticWorker
from router.fleet import Fleet

_log = logging.getLogger(__name__)
WORKERS_MAX = 1024
_PAUSE_S_MIN = 0.25
_PAUSE_S_MAX = 5.0
_SOURCE = "static"


class StaticDiscovery:
    """Puts the given workers into the fleet; `run` ends only when cancelled."""

    def __init__(
        self,
        workers: Sequence[StaticWorker],
        fleet: Fleet,
        session: aiohttp.ClientSession,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._workers = {worker.worker_id: worker for worker in workers}
        self._fleet = fleet
        self._session = session
        self._clock = clock
        self._timeout_s = timeout_s
        self._look_again: dict[str, asyncio.Event] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._tasks: Tasks | None = None
        self._unasked = set(self._workers)
        self._has_met_one = False
        if self._workers:
            fleet.begin_look(_SOURCE)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def addresses(self) -> dict[str, str]:
        """The workers' URLs by id, also of those that never answered."""
        return {worker_id: worker.url for worker_id, worker in self._workers.items()}

    def add(self, worker: StaticWorker) -> None:
        """One more worker; raises `Conflict` where it is here already, or there are too many."""
        if worker.worker_id in self._workers:
            raise Conflict(f"the worker {worker.worker_id} is here already")
        if len(self._workers) >= WORKERS_MAX:
            raise Conflict(f"there are {WORKERS_MAX} workers given by hand, which is the most")
        self._workers[worker.worker_id] = worker
        self._start(worker)

    async def remove(self, worker_id: str) -> bool:
        """Forgets the worker, whose running requests may finish; False for one not given by
        hand."""
        if self._workers.pop(worker_id, None) is None:
            return False
        keeping = self._keeping.pop(worker_id, None)
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait({keeping})
        self._look_again.pop(worker_id, None)
        self._unasked.discard(worker_id)
        self._conclude()
        self._fleet.remove(worker_id, "removed by hand", self._clock.monotonic_s())
        return True

    def recheck(self, worker_id: str) -> None:
        """The worker may have been restarted: ask again what it is. Others are passed over."""
        if worker_id in self._look_again:
            self._look_again[worker_id].set()

    async def run(self) -> None:
        """Each worker has a task of its own, so that a dead one delays nobody."""
        async with Tasks("static-workers") as self._tasks:
            for worker in self._workers.values():
                self._start(worker)
            await asyncio.Event().wait()

    def _start(self, worker: StaticWorker) -> None:
        if self._tasks is not None:
            self._look_again[worker.worker_id] = asyncio.Event()
            keeping = self._tasks.start(worker.worker_id, self._keep(worker))
            self._keeping[worker.worker_id] = keeping

    async def _keep(self, worker: StaticWorker) -> None:
        look_again = self._look_again[worker.worker_id]
        asker = Asker(self._session, worker.url, worker.key, self._timeout_s)
        looks, pause_s, told = 0, _PAUSE_S_MIN, ""
        while True:
            look_again.clear()
            try:
                record = await describe(worker, asker, looks)
            except WorkerSilent as silent:
                self._asked(worker, answered=False)
                if str(silent) != told:
                    told = str(silent)
                    _log.warning("worker %s cannot be used yet: %s", worker.url, told)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_S_MAX)
                continue
            looks, pause_s, told = looks + 1, _PAUSE_S_MIN, ""
            _log.info(
                "worker %s serves %s%s",
                worker.url,
                record.model,
                "" if record.events else " and publishes no KV events",
            )
            self._fleet.upsert(record, self._clock.monotonic_s())
            self._asked(worker, answered=True)
            await look_again.wait()

    def _asked(self, worker: StaticWorker, *, answered: bool) -> None:
        self._unasked.discard(worker.worker_id)
        self._has_met_one |= answered
        self._conclude()

    def _conclude(self) -> None:
        """The first look is over when all were asked and one at least has answered: a router that
        has met nobody cannot say that a model does not exist."""
        if not self._unasked and (self._has_met_one or not self._workers):
            self._fleet.end_look(_SOURCE)
