"""The broadcast in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rhizome.stores.broadcast import Listener

_WAITING_MAX = 1024


class MemoryBroadcast:
    """A `Broadcast` among the listeners of this object."""

    def __init__(self) -> None:
        self._listeners: list[QueueListener] = []

    async def publish(self, message: bytes) -> None:
        for listener in self._listeners:
            listener.offer(message)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        listener = QueueListener()
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)


class QueueListener:
    """A `Listener` with a bounded queue; what does not fit is lost."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MAX)

    def offer(self, message: bytes) -> None:
        """Puts a message into the queue."""
        if not self._waiting.full():
            self._waiting.put_nowait(message)

    async def receive(self, wait_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(wait_s):
                return await self._waiting.get()
        except TimeoutError:
            return None
