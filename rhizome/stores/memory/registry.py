"""The fleet registry in memory."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.clock import Clock
from rhizome.fleet.records import WorkerRecord
from rhizome.stores.memory.leased import LeasedEntries


class MemoryRegistry:
    """A `Registry`."""

    def __init__(self, clock: Clock) -> None:
        self._entries: LeasedEntries[WorkerRecord] = LeasedEntries(clock)

    async def put(self, record: WorkerRecord, lease_ttl_s: float) -> None:
        self._entries.put(record.worker_id, record.incarnation, record, lease_ttl_s)

    async def renew(self, worker_id: str, incarnation: str, lease_ttl_s: float) -> bool:
        return self._entries.renew(worker_id, incarnation, lease_ttl_s)

    async def withdraw(self, worker_id: str, incarnation: str) -> bool:
        return self._entries.remove(worker_id, incarnation)

    async def workers(self) -> Sequence[WorkerRecord]:
        return [record for _, record in self._entries.items()]
