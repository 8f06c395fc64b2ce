"""Admission: a job is placed at once if a worker has room, waits in a bounded line, or is refused.

The worker is chosen when a job leaves the line, not when it enters (late binding). Whoever gives
load back, or sees the fleet change, calls `pump`.
"""

from __future__ import annotations

import asyncio

from rhizome.clock import Clock
from rhizome.errors import QueueTimeout, RequestError
from rhizome.settings.tree import AdmissionSettings
from router.admission.line import Ticket, WaitingLine
from router.dispatch import Assignment, Dispatcher, Job


class Gate:
    """The lines of this router, one per model."""

    def __init__(self, dispatcher: Dispatcher, settings: AdmissionSettings, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._clock = clock
        self._line = WaitingLine(settings.queue_length_max)
        self._granted: dict[str, tuple[Job, asyncio.Future[Assignment]]] = {}

    def waiting(self, model: str) -> int:
        """Jobs in the model's line."""
        return self._line.length(model)

    def oldest_wait_s(self, model: str) -> float:
        """How long the longest waiting job of the model has waited."""
        return self._line.oldest_wait_s(model, self._clock.monotonic_s())

    async def enter(self, job: Job) -> Assignment:
        """Places the job, now or later.

        Raises `UnknownModel`, `NoHealthyWorker`, `QueueFull` or `QueueTimeout`.
        """
        self._dispatcher.check_servable(job.model, job.excluded)
        if not self._line.blocks(job.model, job.priority):
            assignment = self._dispatcher.assign(job)
            if assignment is not None:
                return assignment
        return await self._wait(job)
