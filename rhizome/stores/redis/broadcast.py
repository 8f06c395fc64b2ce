"""The broadcast on Redis: one pub/sub channel. The server bounds what waits for a slow listener
(`client-output-buffer-limit pubsub`), and writes none of it to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from rhizome.stores.broadcast import Listener
from rhizome.stores.redis.link import RedisLink


class RedisBroadcast:
    """A `Broadcast`."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link = link
        self._channel = link.key(name)

    async def publish(self, message: bytes) -> None:
        await self._link.call("PUBLISH", self._channel, message)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        pubsub = self._link.subscription()
        try:
            await self._subscribe(pubsub)
            yield _PubSubListener(self._link, pubsub)
        finally:
            with suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # the library has none

    async def _subscribe(self, pubsub: PubSub) -> None:
        """Returns when the server has confirmed it."""
        try:
            async with asyncio.timeout(self._link.timeout_s):
                await pubsub.subscribe(self._channel)
                while await pubsub.get_message(timeout=self._link.timeout_s) is None:
                    pass
        except (RedisError, OSError, TimeoutError) as error:
            raise self._link.unavailable(error) from error
        self._link.note_up()


class _PubSubListener:
    def __init__(self, link: RedisLink, pubsub: PubSub) -> None:
        self._link = link
        self._pubsub = pubsub

    async def receive(self, wait_s: float) -> bytes | None:
        try:
            message = await self._pubsub.get_message(timeout=wait_s)
        except (RedisError, OSError) as error:
            raise self._link.unavailable(error) from error
        return message["data"] if message is not None and message["type"] == "message" else None
