"""Admission: a job is placed at once if a worker has room, waits in a bounded line, or is refused.

The worker is chosen when a job leaves the line, not when it enters (late binding). Whoever gives
load back, or sees the fleet change, calls `pump`.
"""

from __future__ import annotations

import asyncio

from rhizome.clock import Clock
from rhizome.errors import NoHealthyWorker, QueueTimeout, RequestError
from rhizome.settings.tree import AdmissionSettings
from router.admission.classes import Priority
from router.admission.line import Ticket, WaitingLine
from router.dispatch import Assignment, Dispatcher, Job

_SKIPPED_MAX = 16


class Gate:
    """The lines of this router, one per model."""

    def __init__(self, dispatcher: Dispatcher, settings: AdmissionSettings, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._clock = clock
        self._line = WaitingLine(settings.queue_length_max)
        self._jobs: dict[int, tuple[Job, asyncio.Future[Assignment]]] = {}

    def waiting(self, model: str) -> int:
        """Jobs in the model's line."""
        return self._line.length(model)

    def oldest_wait_s(self, model: str) -> float:
        """How long the longest waiting job of the model has waited."""
        return self._line.oldest_wait_s(model, self._clock.monotonic_s())

    async def enter(self, job: Job) -> Assignment:
        """Places the job, now or later; the caller releases what it gets.

        Raises `UnknownModel`, `NoHealthyWorker`, `QueueFull` or `QueueTimeout`.
        """
        self._dispatcher.check_servable(job.model, job.excluded)
        job.entered_at_s = self._clock.monotonic_s()
        if not self._line.is_ahead(job.model, job.priority):
            assignment = self._dispatcher.assign(job)
            if assignment is not None:
                return assignment
        return await self._wait(job)

    def pump(self, model: str) -> None:
        """Places as many waiting jobs of the model as there is room for, in order."""
        skipped = 0
        blocked = False
        for ticket in self._line.in_order(model):
            if blocked and ticket.priority is Priority.BATCH:
                return
            job, placed = self._jobs[ticket.number]
            assignment = self._place(job, placed)
            if assignment is not None:
                self._line.admit(ticket, self._clock.monotonic_s())
                placed.set_result(assignment)
            elif placed.done():
                self._line.give_up(ticket)
            else:  # only a job that may not go to some workers can be overtaken
                blocked, skipped = True, skipped + 1
                if not job.excluded or skipped > _SKIPPED_MAX:
                    return

    def tick(self) -> None:
        """To be called often: ends waits that were too long and looks for room that came up."""
        for ticket in self._line.expire(self._clock.monotonic_s()):
            _, placed = self._jobs[ticket.number]
            if not placed.done():
                placed.set_exception(self._too_late(ticket))
        for model in self._line.models():
            self.pump(model)

    async def _wait(self, job: Job) -> Assignment:
        now_s = self._clock.monotonic_s()
        ticket = self._line.offer(job.model, job.priority, now_s, self._settings.queue_wait_s_max)
        placed: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        self._jobs[ticket.number] = (job, placed)
        try:
            return await placed
        except asyncio.CancelledError:
            if placed.done() and not placed.cancelled() and placed.exception() is None:
                self._dispatcher.release(placed.result())  # placed and cancelled at once
            raise
        finally:
            self._line.give_up(ticket)
            del self._jobs[ticket.number]

    def _place(self, job: Job, placed: asyncio.Future[Assignment]) -> Assignment | None:
        """An assignment; None if there is no room, or `placed` has got the reason why never."""
        if placed.done():
            return None
        try:
            self._dispatcher.check_servable(job.model, job.excluded)
        except NoHealthyWorker:
            if job.excluded:  # its last worker failed it; others of the line may wait for a new one
                placed.set_exception(NoHealthyWorker("no other worker is left to try"))
            return None
        except RequestError as error:
            placed.set_exception(error)
            return None
        return self._dispatcher.assign(job)

    def _too_late(self, ticket: Ticket) -> QueueTimeout:
        now_s = self._clock.monotonic_s()
        waited_s = now_s - ticket.entered_at_s
        return QueueTimeout(
            f"no worker of {ticket.model!r} became free within {waited_s:.0f} s",
            retry_after_s=self._line.retry_after_s(ticket.model, now_s),
        )
