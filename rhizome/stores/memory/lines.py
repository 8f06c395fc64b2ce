"""The line queue in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rhizome.clock import Clock
from rhizome.stores.lines import Delivery, Line, LineResult, ResultCounts


@dataclass(slots=True)
class _Queued:
    line: Line
    consumer: str | None = None
    touched_s: float = 0.0
    deliveries: int = 0


@dataclass(slots=True)
class _Batch:
    enqueued: int = 0
    closed: bool = False
    results: dict[int, LineResult] = field(default_factory=dict)


class MemoryLineQueue:
    """A `LineQueue`."""

    def __init__(self, clock: Clock, dead_letters_max: int) -> None:
        self._clock = clock
        self._last_receipt = 0
        self._queued: dict[str, _Queued] = {}
        self._batches: dict[str, _Batch] = {}
        self._dead: deque[tuple[Line, str]] = deque(maxlen=dead_letters_max)

    async def enqueue(self, batch_id: str, lines: Sequence[Line]) -> None:
        batch = self._batches.setdefault(batch_id, _Batch())
        for line in lines:
            if batch.closed or line.index < batch.enqueued:
                continue
            self._last_receipt += 1
            self._queued[str(self._last_receipt)] = _Queued(line)
            batch.enqueued = line.index + 1

    async def enqueued(self, batch_id: str) -> int:
        batch = self._batches.get(batch_id)
        return batch.enqueued if batch is not None else 0

    async def settle(self, batch_id: str, results: Sequence[tuple[int, LineResult]]) -> None:
        self._batches.setdefault(batch_id, _Batch())
        for index, result in results:
            self._store(batch_id, index, result)

    async def lease(self, consumer: str, count_max: int, lease_s: float) -> Sequence[Delivery]:
        now_s = self._clock.monotonic_s()
        held = [(key, one) for key, one in self._queued.items() if one.consumer is not None]
        ended = [(key, one) for key, one in held if now_s - one.touched_s >= lease_s]
        fresh = [(key, one) for key, one in self._queued.items() if one.consumer is None]
        deliveries = []
        for receipt, queued in (ended + fresh)[:count_max]:
            queued.consumer, queued.touched_s = consumer, now_s
            queued.deliveries += 1
            deliveries.append(
                Delivery(receipt=receipt, line=queued.line, deliveries=queued.deliveries)
            )
        return deliveries

    async def renew(self, consumer: str, receipts: Sequence[str]) -> Sequence[str]:
        held = self._held(consumer, receipts)
        for receipt in held:
            self._queued[receipt].touched_s = self._clock.monotonic_s()
        return held

    async def release(self, consumer: str, receipts: Sequence[str]) -> None:
        for receipt in self._held(consumer, receipts):
            queued = self._queued[receipt]
            queued.touched_s = float("-inf")
            queued.deliveries -= 1

    async def complete(self, consumer: str, delivery: Delivery, result: LineResult) -> bool:
        self._queued.pop(delivery.receipt, None)
        return self._store(delivery.line.batch_id, delivery.line.index, result)

    async def bury(self, consumer: str, delivery: Delivery, cause: str, result: LineResult) -> bool:
        stored = await self.complete(consumer, delivery, result)
        if stored:
            self._dead.appendleft((delivery.line, cause))
        return stored

    async def drop(self, consumer: str, delivery: Delivery) -> None:
        self._queued.pop(delivery.receipt, None)

    async def results(
        self, batch_id: str, first_index: int, count: int
    ) -> Sequence[tuple[int, LineResult]]:
        stored = self._results(batch_id)
        wanted = range(first_index, first_index + count)
        return [(index, stored[index]) for index in wanted if index in stored]

    async def counts(self, batch_id: str) -> ResultCounts:
        stored = self._results(batch_id).values()
        return ResultCounts(len(stored), sum(result.failed for result in stored))

    async def close(self, batch_id: str) -> None:
        self._batches.setdefault(batch_id, _Batch()).closed = True

    async def discard(self, batch_id: str) -> None:
        await self.close(batch_id)
        self._results(batch_id).clear()

    async def dead_letters(self, count_max: int) -> Sequence[tuple[Line, str]]:
        return list(self._dead)[:count_max]

    async def depth(self) -> int:
        return len(self._queued)

    def _held(self, consumer: str, receipts: Sequence[str]) -> list[str]:
        return [
            receipt
            for receipt in receipts
            if receipt in self._queued and self._queued[receipt].consumer == consumer
        ]

    def _results(self, batch_id: str) -> dict[int, LineResult]:
        batch = self._batches.get(batch_id)
        return batch.results if batch is not None else {}

    def _store(self, batch_id: str, index: int, result: LineResult) -> bool:
        batch = self._batches.get(batch_id)
        if batch is None or batch.closed or index in batch.results:
            return False
        batch.results[index] = result
        return True
