"""Where requests wait for their first step, or for another one after they were preempted."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from workers.engine.simulated.requests import Progress


class Waiting(Protocol):
    """An order among waiting requests; `put_back` is for one that was preempted."""

    def put(self, progress: Progress) -> None: ...

    def put_back(self, progress: Progress) -> None: ...

    def head(self) -> Progress:
        """The next one; only when there is one."""
        ...

    def pop(self) -> Progress:
        """Removes and returns the head."""
        ...

    def remove(self, progress: Progress) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Progress]: ...


class FifoWaiting:
    """First come, first served; a preempted request goes to the front."""

    def __init__(self) -> None:
        self._queue: deque[Progress] = deque()

    def put(self, progress: Progress) -> None:
        self._queue.append(progress)

    def put_back(self, progress: Progress) -> None:
        self._queue.appendleft(progress)

    def head(self) -> Progress:
        return self._queue[0]

    def pop(self) -> Progress:
        return self._queue.popleft()

    def remove(self, progress: Progress) -> None:
        self._queue.remove(progress)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Progress]:
        return iter(self._queue)


class PriorityWaiting:
    """The smallest priority first, the earlier arrival within one; also for preempted ones."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, str], Progress]] = []

    def put(self, progress: Progress) -> None:
        heapq.heappush(self._heap, (progress.order, progress))

    put_back = put

    def head(self) -> Progress:
        return self._heap[0][1]

    def pop(self) -> Progress:
        return heapq.heappop(self._heap)[1]

    def remove(self, progress: Progress) -> None:
        self._heap.remove((progress.order, progress))
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Progress]:
        return (progress for _, progress in sorted(self._heap, key=lambda entry: entry[0]))
