"""The signal board in memory."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.clock import Clock
from rhizome.stores.memory.leased import LeasedEntries
from rhizome.stores.signals import ModelSignal


class MemorySignalBoard:
    """A `SignalBoard`."""

    def __init__(self, clock: Clock) -> None:
        self._entries: LeasedEntries[tuple[ModelSignal, ...]] = LeasedEntries(clock)

    async def publish(self, router_id: str, signals: Sequence[ModelSignal], ttl_s: float) -> None:
        self._entries.put(router_id, "", tuple(signals), ttl_s)

    async def signals(self) -> Sequence[ModelSignal]:
        return [signal for _, said in self._entries.items() for signal in said]
