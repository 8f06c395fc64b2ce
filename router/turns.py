"""Whose turn it is: a job is placed at once if a worker has room, waits in a bounded line, or is
refused.

The worker is chosen when a job leaves the line, not when it enters (late binding). No I/O and no
tasks: whoever waits gives a `Pending` to be told by, a future in the router, a simulated request
in a simulation. Whoever gives load back, or sees the fleet change, calls `pump`.
"""

from __future__ import annotations

from typing import Protocol

from rhizome.clock import Clock
from rhizome.errors import NoHealthyWorker, QueueTimeout, RequestError
from rhizome.settings.tree import AdmissionSettings
from router.admission.classes import Priority
from router.admission.line import Ticket, WaitingLine
from router.dispatch import Assignment, Dispatcher, Job

_SKIPPED_MAX = 16


class Pending(Protocol):
    """Somebody who waits. One of the two results is set, once, unless it is done before."""

    def done(self) -> bool: ...

    def set_result(self, result: Assignment, /) -> None: ...

    def set_exception(self, exception: RequestError, /) -> None: ...


class Turns:
    """The lines of this router, one per model."""

    def __init__(self, dispatcher: Dispatcher, settings: AdmissionSettings, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._clock = clock
        self._line = WaitingLine(settings.queue_length_max)
        self._jobs: dict[int, tuple[Job, Pending]] = {}

    def waiting(self, model: str) -> int:
        """Jobs in the model's line."""
        return self._line.length(model)

    def oldest_wait_s(self, model: str) -> float:
        """How long the longest waiting job of the model has waited."""
        return self._line.oldest_wait_s(model, self._clock.monotonic_s())

    def enter(self, job: Job) -> Assignment | None:
        """Places the job if it need not wait.

        Raises `UnknownModel` or `NoHealthyWorker`.
        """
        self._dispatcher.check_servable(job.model, job.excluded)
        job.entered_at_s = self._clock.monotonic_s()
        if self._line.is_ahead(job.model, job.priority):
            return None
        return self._dispatcher.assign(job)

    def wait(self, job: Job, pending: Pending) -> Ticket:
        """A place in the line for a job that was not placed; pair it with `leave`.

        Raises `QueueFull`.
        """
        now_s = self._clock.monotonic_s()
        ticket = self._line.offer(job.model, job.priority, now_s, self._settings.queue_wait_s_max)
        self._jobs[ticket.number] = (job, pending)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Forgets somebody who waited: was told, or waits no more."""
        self._line.give_up(ticket)
        del self._jobs[ticket.number]

    def pump(self, model: str) -> None:
        """Places as many waiting jobs of the model as there is room for, in order."""
        if not self._line.length(model):
            return
        skipped = 0
        for ticket in self._line.in_order(model):
            if skipped and ticket.priority is Priority.BATCH:
                return
            job, pending = self._jobs[ticket.number]
            assignment = self._place(job, pending)
            if assignment is not None:
                self._line.admit(ticket, self._clock.monotonic_s())
                pending.set_result(assignment)
            elif pending.done():
                self._line.give_up(ticket)
            else:  # only a job that may not go to some workers can be overtaken
                skipped += 1
                if not job.excluded or skipped > _SKIPPED_MAX:
                    return

    def tick(self) -> None:
        """To be called often: ends waits that were too long and looks for room that came up."""
        for ticket in self._line.expire(self._clock.monotonic_s()):
            _, pending = self._jobs[ticket.number]
            if not pending.done():
                pending.set_exception(self._too_late(ticket))
        for model in self._line.models():
            self.pump(model)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        self._line.check_invariants()
        assert len(self._line) <= len(self._jobs)

    def _place(self, job: Job, pending: Pending) -> Assignment | None:
        """An assignment; None if there is no room, or `pending` has got the reason why never."""
        if pending.done():
            return None
        try:
            self._dispatcher.check_servable(job.model, job.excluded)
        except NoHealthyWorker:
            if job.excluded:  # its last worker failed it; others of the line may wait for a new one
                pending.set_exception(NoHealthyWorker("no other worker is left to try"))
            return None
        except RequestError as error:
            pending.set_exception(error)
            return None
        return self._dispatcher.assign(job)

    def _too_late(self, ticket: Ticket) -> QueueTimeout:
        now_s = self._clock.monotonic_s()
        waited_s = now_s - ticket.entered_at_s
        return QueueTimeout(
            f"no worker of {ticket.model!r} became free within {waited_s:.0f} s",
            retry_after_s=self._line.retry_after_s(ticket.model, now_s),
        )
