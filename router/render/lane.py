"""A few threads for work that may stall: whoever waits learns so soon, and later work stays away.

Every job has an allowance, by its size. A job is given up when it has run for longer, or when all
threads are held by such jobs, but not merely because others are before it: a burst of healthy
prompts only waits. While all threads are held, jobs are refused at once. Threads that stay held
are replaced after a pause, a few times at most; the threads do not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from rhizome.clock import Clock
from rhizome.render.outcomes import CannotRender, Why
from rhizome.settings.tree import RenderingSettings

S_PER_BYTE = 2e-6
"""What a long body's byte is allowed: healthy tokenizers take less than half of it."""
_LOOK_S_MIN = 0.001
_REPLACED_MAX = 3
"""Sets of threads that may be held at the same time and yet be replaced."""
_PAUSE_S_MAX = 60.0
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], Any]
    allowance_s: float
    result: Future[Any] = field(default_factory=Future)
    started_s: float | None = None

    def is_late(self, now_s: float) -> bool:
        return self.late_in_s(now_s) <= 0

    def late_in_s(self, now_s: float) -> float:
        """How long until it is late if it goes on; its whole allowance before it runs."""
        return self.allowance_s - (0.0 if self.started_s is None else now_s - self.started_s)


class Lane:
    """Runs jobs for an event loop; use it from that loop only."""

    def __init__(
        self, threads: int, waiting_max: int, settings: RenderingSettings, clock: Clock
    ) -> None:
        self._count = threads
        self._waiting_max = waiting_max
        self._settings = settings
        self._clock = clock
        self._pause_s = settings.pause_s
        self._queue: SimpleQueue[_Job | None] | None = None
        self._jobs: set[_Job] = set()
        """Jobs of the present threads that have not ended."""
        self._held: list[set[_Job]] = []
        """Jobs that hold threads which were replaced."""

    async def run(self, work: Callable[[], T], size_bytes: int) -> T:
        """The result of `work`, or what it raises; raises `CannotRender` if it must be given up."""
        self._make_way()
        if len(self._jobs) >= self._waiting_max:
            raise CannotRender(Why.BUSY)
        allowance_s = self.allowance_s(size_bytes)
        job = _Job(work, allowance_s)
        self._jobs.add(job)
        self._threads().put(job)
        waiting: asyncio.Future[T] = asyncio.wrap_future(job.result)
        end_s = self._clock.monotonic_s() + self._settings.deadline_s
        look_in_s = allowance_s
        try:
            while not waiting.done():
                await asyncio.wait((waiting,), timeout=look_in_s)
                now_s = self._clock.monotonic_s()
                if not waiting.done() and (now_s >= end_s or self._is_hopeless(job, now_s)):
                    raise CannotRender(Why.DEADLINE)
                look_in_s = self._look_in_s(job, now_s)
            return waiting.result()
        finally:
            job.result.cancel()
            waiting.cancel()
            if job.result.done():
                self._jobs.discard(job)  # else it runs on, and holds its thread until it ends

    def allowance_s(self, size_bytes: int) -> float:
        """How long a job for a body of this size may run."""
        settings = self._settings
        return min(settings.deadline_s, max(settings.stall_s, size_bytes * S_PER_BYTE))

    def close(self) -> None:
        """Lets the threads end as they become free."""
        if self._queue is not None:
            for _ in range(self._count):
                self._queue.put(None)

    def _is_hopeless(self, job: _Job, now_s: float) -> bool:
        """Whether the job is late, or waits for threads that are all held by late ones."""
        return job.is_late(now_s) or self._late(now_s) >= self._count

    def _look_in_s(self, job: _Job, now_s: float) -> float:
        """When the job, which began a little after it was asked for, may be late; while it waits
        for its turn, when one of those that run may be."""
        running = self._jobs if job.started_s is None else (job,)
        left_s = (one.late_in_s(now_s) for one in running if one.started_s is not None)
        soonest_s = min((left for left in left_s if left > 0), default=job.allowance_s)
        return max(_LOOK_S_MIN, soonest_s)

    def _late(self, now_s: float) -> int:
        running = [job for job in self._jobs if not job.result.done()]
        return sum(job.is_late(now_s) for job in running)

    def _make_way(self) -> None:
        """Raises `CannotRender` while all threads are held, until it is time for new ones."""
        self._jobs = {job for job in self._jobs if not job.result.done()}
        self._held = [jobs for jobs in self._held if any(not job.result.done() for job in jobs)]
        now_s = self._clock.monotonic_s()
        if self._late(now_s) < self._count:
            if not self._held and not self._jobs:
                self._pause_s = self._settings.pause_s
            return
        since_s = max(job.started_s or now_s for job in self._jobs if job.is_late(now_s))
        if now_s - since_s < self._pause_s or len(self._held) >= _REPLACED_MAX:
            raise CannotRender(Why.STALLED)
        self._pause_s = min(_PAUSE_S_MAX, 2 * self._pause_s)
        self._held.append(self._jobs)
        self._jobs = set()
        self.close()
        self._queue = None

    def _threads(self) -> SimpleQueue[_Job | None]:
        if self._queue is None:
            queue = self._queue = SimpleQueue()
            for number in range(self._count):
                threading.Thread(
                    target=_serve, args=(queue, self._clock), name=f"render-{number}", daemon=True
                ).start()
        return self._queue


def _serve(queue: SimpleQueue[_Job | None], clock: Clock) -> None:
    while (job := queue.get()) is not None:
        if not job.result.set_running_or_notify_cancel():
            continue
        job.started_s = clock.monotonic_s()
        try:
            found = job.work()
        except BaseException as error:  # whatever it is, it belongs to whoever waits
            job.result.set_exception(error)
        else:
            job.result.set_result(found)
