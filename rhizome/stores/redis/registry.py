"""The fleet registry on Redis."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.fleet.records import WorkerRecord
from rhizome.stores.codec import json_codec
from rhizome.stores.redis.leased import LeasedTable
from rhizome.stores.redis.link import RedisLink


class RedisRegistry:
    """A `Registry`."""

    def __init__(self, link: RedisLink) -> None:
        self._table = LeasedTable(link, "workers")
        self._codec = json_codec("worker", WorkerRecord)

    async def put(self, record: WorkerRecord, lease_ttl_s: float) -> None:
        body = self._codec.encode(record)
        await self._table.put(record.worker_id, record.incarnation, body, lease_ttl_s)

    async def renew(self, worker_id: str, incarnation: str, lease_ttl_s: float) -> bool:
        return await self._table.renew(worker_id, incarnation, lease_ttl_s)

    async def withdraw(self, worker_id: str, incarnation: str) -> bool:
        return await self._table.remove(worker_id, incarnation)

    async def workers(self) -> Sequence[WorkerRecord]:
        return self._codec.decode_all(body for _, body in await self._table.items())
