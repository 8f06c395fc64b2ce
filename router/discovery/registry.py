"""The registry's workers, looked up again and again; its silence removes nobody.

While the store cannot be reached the last known workers stay: the prober sees which of them are
dead. After it came back, workers that lost their lease meanwhile get one lease's time to return.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rhizome.clock import Clock
from rhizome.errors import StoreUnavailable
from rhizome.fleet.records import WorkerRecord
from rhizome.stores.desired import DesiredState
from rhizome.stores.registry import Registry
from router.fleet import Fleet

_log = logging.getLogger(__name__)
_SOURCE = "registry"


class RegistryDiscovery:
    """Keeps the fleet equal to the registry; `run` ends only when cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        registry: Registry,
        desired: DesiredState,
        clock: Clock,
        *,
        poll_s: float,
        lease_ttl_s: float,
    ) -> None:
        self._fleet = fleet
        self._registry = registry
        self._desired = desired
        self._clock = clock
        self._poll_s = poll_s
        self._lease_ttl_s = lease_ttl_s
        self._known: set[str] = set()
        self._keep_until_s = 0.0
        self.reachable = True
        """Whether the last look found the store."""
        fleet.begin_look(_SOURCE)

    async def run(self) -> None:
        while True:
            await self.look()
            await self._clock.sleep(self._poll_s)

    async def look(self) -> None:
        """One look at the store."""
        try:
            workers = await self._registry.workers()
            draining = await self._desired.draining()
            targets = await self._desired.targets()
        except StoreUnavailable as error:
            if self.reachable:
                _log.warning("%s; routing goes on with the workers last known", error)
            self.reachable = False
            return
        now_s = self._clock.monotonic_s()
        if not self.reachable:
            _log.info("the registry is back")
            self.reachable = True
            self._keep_until_s = now_s + self._lease_ttl_s
        self._take(workers, now_s)
        self._fleet.drain(draining)
        self._fleet.expect(targets)
        self._fleet.end_look(_SOURCE)

    def _take(self, workers: Sequence[WorkerRecord], now_s: float) -> None:
        for record in workers:
            self._fleet.upsert(record, now_s)
        listed = {record.worker_id for record in workers}
        if now_s >= self._keep_until_s:
            for worker_id in sorted(self._known - listed):
                self._fleet.remove(worker_id, "its lease ended", now_s)
            self._known = listed
        else:
            self._known |= listed
