"""The signal board on Redis."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.stores.codec import json_codec
from rhizome.stores.redis.leased import LeasedTable
from rhizome.stores.redis.link import RedisLink
from rhizome.stores.signals import ModelSignal


class RedisSignalBoard:
    """A `SignalBoard`."""

    def __init__(self, link: RedisLink) -> None:
        self._table = LeasedTable(link, "signals")
        self._codec = json_codec("signal", tuple[ModelSignal, ...])

    async def publish(self, router_id: str, signals: Sequence[ModelSignal], ttl_s: float) -> None:
        await self._table.put(router_id, "", self._codec.encode(tuple(signals)), ttl_s)

    async def signals(self) -> Sequence[ModelSignal]:
        boards = self._codec.decode_all(body for _, body in await self._table.items())
        return [signal for board in boards for signal in board]
