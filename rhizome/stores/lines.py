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


class LineResult(msgspec.Struct, frozen=True):
    """How a line ended."""

    output: bytes
    """What the output or error file says of it."""
    failed: bool = False


class ResultCounts(msgspec.Struct, frozen=True):
    """How many results of a batch are stored, and how many of those are failures."""

    stored: int
    failed: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A line under a lease held by one consumer."""

    receipt: str
    line: Line
    deliveries: int
    """How often it has been handed out, this time included."""


class LineQueue(Protocol):
    """A queue with a consumer group, first in first out over all batches.

    A line stays queued until it is acknowledged (`complete`, `bury`, `drop`). A line whose lease
    has ended is handed out again with `deliveries` raised; what to do with one that was delivered
    too often is up to the consumer. A batch is open from its first line until `close`; lines and
    results for a closed batch are passed over.
    """

    async def enqueue(self, batch_id: str, lines: Sequence[Line]) -> None:
        """Adds lines of one batch, in the order of their index.

        Lines up to the highest index enqueued before are passed over, so that an expansion can be
        repeated from its start after a crash.
        """
        ...

    async def enqueued(self, batch_id: str) -> int:
        """One more than the highest index enqueued; 0 for a batch that has no line yet."""
        ...

    async def settle(self, batch_id: str, results: Sequence[tuple[int, LineResult]]) -> None:
        """Stores results, once each, for lines that are never enqueued (malformed ones)."""
        ...

    async def lease(self, consumer: str, count_max: int, lease_s: float) -> Sequence[Delivery]:
        """Up to `count_max` lines, those untouched for `lease_s` or more first; may be empty.

        All consumers must use the same `lease_s`: it is the asker who judges others' silence.
        """
        ...

    async def renew(self, consumer: str, receipts: Sequence[str]) -> Sequence[str]:
        """Restarts the leases; returns those still held by `consumer`."""
        ...

    async def release(self, consumer: str, receipts: Sequence[str]) -> None:
        """Gives lines back at once, as if they had not been handed out this time."""
        ...

    async def complete(self, consumer: str, delivery: Delivery, result: LineResult) -> bool:
        """Stores the line's result once and acknowledges it; False when none was stored now."""
        ...

    async def bury(self, consumer: str, delivery: Delivery, cause: str, result: LineResult) -> bool:
        """As `complete`, and keeps the line with its cause in the bounded dead-letter list."""
        ...

    async def drop(self, consumer: str, delivery: Delivery) -> None:
        """Acknowledges the line without a result (its batch was cancelled)."""
        ...

    async def results(
        self, batch_id: str, first_index: int, count: int
    ) -> Sequence[tuple[int, LineResult]]:
        """The stored results of lines `first_index` to `first_index + count - 1`, ordered."""
        ...

    async def counts(self, batch_id: str) -> ResultCounts: ...

    async def close(self, batch_id: str) -> None:
        """Freezes the batch: what is stored stays, nothing is added."""
        ...

    async def discard(self, batch_id: str) -> None:
        """Closes the batch and forgets its results (its output file has been written)."""
        ...

    async def dead_letters(self, count_max: int) -> Sequence[tuple[Line, str]]:
        """The newest dead letters with their causes."""
        ...

    async def depth(self) -> int:
        """Lines enqueued and not acknowledged."""
        ...
