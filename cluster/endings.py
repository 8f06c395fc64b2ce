"""Takes workers out of service: nothing new is sent, what runs may finish, then they are stopped.

The drain request in the store carries the intention: whoever leads next finds it and goes on.
"""

from __future__ import annotations

import logging

from cluster.hosts import WorkerHost
from rhizome.clock import Clock
from rhizome.errors import ClusterError
from rhizome.settings.tree import Settings
from rhizome.stores.desired import DesiredState
from rhizome.tasks import Tasks

_log = logging.getLogger(__name__)
_DRAIN_TTL_S = 30.0
_POLLS_TO_HEAR = 2.0


class Endings:
    """The workers that are being ended, each in a task of its own."""

    def __init__(
        self,
        host: WorkerHost,
        desired: DesiredState,
        settings: Settings,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._host = host
        self._desired = desired
        self._grace_s = settings.worker.drain_grace_s
        self._hear_s = _POLLS_TO_HEAR * settings.router.discovery.registry_poll_s
        self._clock = clock
        self._tasks = tasks
        self._under_way: set[str] = set()

    async def remove(self, worker_id: str, why: str, *, serving: bool) -> bool:
        """Asks for the drain and ends the worker once it is idle; True if that begins now.

        Call it at every step: the drain request is forgotten `_DRAIN_TTL_S` after the last call.
        """
        await self._desired.request_drain(worker_id, _DRAIN_TTL_S)
        return self._begin(worker_id, f"draining worker {worker_id}: {why}", drain=serving)

    def stop(self, worker_id: str, why: str) -> bool:
        """Ends the worker without waiting for anything; True if that begins now."""
        return self._begin(worker_id, f"stopping worker {worker_id}: {why}", drain=False)

    def _begin(self, worker_id: str, words: str, *, drain: bool) -> bool:
        if worker_id in self._under_way:
            return False
        _log.info("%s", words)
        self._under_way.add(worker_id)
        self._tasks.start(f"end {worker_id}", self._end(worker_id, drain=drain))
        return True

    async def _end(self, worker_id: str, *, drain: bool) -> None:
        try:
            if drain:
                await self._clock.sleep(self._hear_s)  # until every router has heard of it
                await self._host.drain(worker_id, self._grace_s)
            await self._host.stop(worker_id)
            _log.info("worker %s is gone", worker_id)
        except ClusterError as error:
            _log.warning("could not end worker %s: %s", worker_id, error.message)
        finally:
            self._under_way.discard(worker_id)
