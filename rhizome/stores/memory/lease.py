"""Leader leases in memory."""

from __future__ import annotations

from rhizome.clock import Clock
from rhizome.stores.memory.leased import LeasedEntries


class MemoryLease:
    """A `Lease`."""

    def __init__(self, clock: Clock) -> None:
        self._entries: LeasedEntries[str] = LeasedEntries(clock)

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        if self._entries.get(name) not in (None, holder):
            return False
        self._entries.put(name, holder, holder, ttl_s)
        return True

    async def renew(self, name: str, holder: str, ttl_s: float) -> bool:
        return self._entries.renew(name, holder, ttl_s)

    async def release(self, name: str, holder: str) -> bool:
        return self._entries.remove(name, holder)

    async def holder(self, name: str) -> str | None:
        return self._entries.get(name)
