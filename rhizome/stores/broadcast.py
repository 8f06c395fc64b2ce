"""Short messages to every process that listens now: lossy, quick, kept nowhere.

For what is worth something for milliseconds only, such as the load that routers cause.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

MESSAGE_BYTES_MAX = 256 * 1024
"""Longest message that every implementation carries."""


class Listener(Protocol):
    """One subscription, alive inside the block of `Broadcast.listen`."""

    async def receive(self, wait_s: float) -> bytes | None:
        """The next message, or None if none came within `wait_s`.

        Raises `StoreUnavailable` when the subscription is lost.
        """
        ...


class Broadcast(Protocol):
    """A channel between processes.

    Whoever listens when a message is published gets it once, in the order of its publisher, its own
    messages included; or does not get it: when the store fails, or when it reads too slowly and
    what waits for it passes a bound. Nothing is kept for those who come later.
    """

    async def publish(self, message: bytes) -> None:
        """Raises `StoreUnavailable` when the store cannot be reached; who does not listen is not
        told of."""
        ...

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Subscribes; what is published from inside the block on is heard."""
        ...
