"""The durable queue of batch lines: leased delivery, exactly one stored result a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch."""

    batch_id: str
    index: int
    """Position in the input file, from 0; the identity of the line."""
    custom_id: str
    url: str
    """The endpoint, e.g. `/v1/chat/completions`."""
    body: bytes
    """The request's JSON."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A line under a lease held by one consumer."""

    receipt: str
    line: Line
    deliveries: int
    """How often it has been handed out, this time included."""


class LineQueue(Protocol):
    """A queue with a consumer group.

    A line stays queued until it is acknowledged. A line whose lease has ended is handed out again
    with `deliveries` raised; what to do with one that was delivered too often is up to the consumer
    (`bury`).
    """

    async def enqueue(self, lines: Sequence[Line]) -> None: ...

    async def lease(self, consumer: str, count_max: int, lease_s: float) -> Sequence[Delivery]:
        """Up to `count_max` lines, those with ended leases first; empty when there are none."""
        ...

    async def renew(self, consumer: str, receipts: Sequence[str]) -> Sequence[str]:
        """Restarts the leases; returns those still held by `consumer`."""
        ...

    async def complete(self, consumer: str, delivery: Delivery, result: bytes) -> bool:
        """Stores the line's result once and acknowledges it; False when one was stored before."""
        ...

    async def bury(self, consumer: str, delivery: Delivery, cause: str, result: bytes) -> bool:
        """As `complete`, and keeps the line with its cause in the dead-letter list."""
        ...

    async def results(self, batch_id: str) -> Sequence[tuple[int, bytes]]:
        """The stored results by line index, ordered."""
        ...

    async def result_count(self, batch_id: str) -> int: ...

    async def discard(self, batch_id: str) -> None:
        """Forgets the batch's stored results (its output file has been written)."""
        ...

    async def dead_letters(self, count_max: int) -> Sequence[tuple[Line, str]]:
        """The newest dead letters with their causes."""
        ...

    async def depth(self) -> int:
        """Lines enqueued and not acknowledged."""
        ...
