"""Stored responses in memory."""

from __future__ import annotations

from rhizome.clock import Clock


class MemoryStoredResponses:
    """A `StoredResponses`."""

    def __init__(self, clock: Clock, stored_max: int) -> None:
        self._clock = clock
        self._stored_max = stored_max
        self._records: dict[tuple[str, str], tuple[float, bytes]] = {}

    async def put(self, owner: str, response_id: str, body: bytes, ttl_s: float) -> None:
        key = owner, response_id
        self._records.pop(key, None)
        self._records[key] = (self._clock.monotonic_s() + ttl_s, body)
        while len(self._records) > self._stored_max:
            del self._records[next(iter(self._records))]

    async def get(self, owner: str, response_id: str) -> bytes | None:
        ends_s, body = self._records.get((owner, response_id), (0.0, b""))
        return body if ends_s > self._clock.monotonic_s() else None

    async def delete(self, owner: str, response_id: str) -> bool:
        found = await self.get(owner, response_id)
        self._records.pop((owner, response_id), None)
        return found is not None
