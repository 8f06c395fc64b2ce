"""Whose turn it is: a job is placed at once, waits in a bounded line, or is refused.

Who waits: jobs that find every worker full, and those that the policy had rather not send yet
(`router.scheduling.binding`): those with long prompts until their rank in the line at most, since
shorter ones would overtake them for ever, those whose best worker is full for half a second after
they let other room go. The worker is chosen when a job leaves the line, not when it enters
(late binding), and each look at the line plans it from its head: what those ahead will send where
counts as work there. No I/O and no tasks: whoever waits gives a `Pending` to be told by, a future
in the router, a simulated request in a simulation. The line is looked at when a prompt is done;
whoever else gives load back, sees the fleet change, or has joined the line, calls `pump`.
"""

from __future__ import annotations

from itertools import islice
from typing import Protocol

from rhizome.clock import Clock
from rhizome.errors import NoHealthyWorker, QueueTimeout, RequestError
from rhizome.settings.tree import AdmissionSettings
from router.admission.line import Ticket, WaitingLine
from router.dispatch import Dispatcher
from router.placement import Assignment, Held, Job

_LOOKED_AT_MAX = 16
"""Jobs at the head of a line that one look considers."""


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
        dispatcher.prompt_done = self.pump

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
        dispatcher, model = self._dispatcher, job.model
        dispatcher.check_servable(model, job.excluded)
        now_s = job.entered_at_s = self._clock.monotonic_s()
        waiting = self._line.length(model)
        if waiting:
            first_s = self._line.first_rank_s(model, job.priority)
            if first_s is not None and first_s <= now_s + dispatcher.least_prefill_s(job):
                return None
        until_s = now_s + self._settings.hold_s_max
        found = dispatcher.assign_or_hold(
            job, may_hold=self._may_hold(waiting, until_s, now_s), in_line=self._in_line(waiting)
        )
        return found if isinstance(found, Assignment) else None

    def wait(self, job: Job, pending: Pending) -> Ticket:
        """A place in the line for a job that was not placed; pair it with `leave`.

        The caller then calls `pump`: others in the line may wait for what this one does not need.
        Raises `QueueFull`.
        """
        now_s = self._clock.monotonic_s()
        job.has_waited = True
        ticket = self._line.offer(
            job.model,
            job.priority,
            now_s,
            self._settings.queue_wait_s_max,
            self._dispatcher.least_prefill_s(job),
        )
        self._jobs[ticket.number] = (job, pending)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Forgets somebody who waited: was told, or waits no more."""
        self._line.give_up(ticket)
        del self._jobs[ticket.number]

    def pump(self, model: str) -> None:
        """Places those waiting jobs of the model whose turn it is."""
        if not self._line.length(model):
            return
        try:
            for ticket in islice(self._line.in_order(model), _LOOKED_AT_MAX):
                job, pending = self._jobs[ticket.number]
                found = self._place(job, pending, ticket)
                if isinstance(found, Assignment):
                    self._line.admit(ticket, self._clock.monotonic_s())
                    pending.set_result(found)
                elif pending.done():
                    self._line.give_up(ticket)
                elif found is not None:
                    self._dispatcher.plan(found)
                elif not job.excluded:  # there is no room for anybody
                    return
        finally:
            self._dispatcher.forget_plans()

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

    def _may_hold(self, waiting: int, until_s: float, now_s: float) -> bool:
        """Whether a job that may wait until then though there is room for it may do so now, when so
        many wait."""
        settings = self._settings
        return settings.late_binding and now_s < until_s and waiting <= settings.hold_length_max

    def _in_line(self, waiting: int) -> int | None:
        """Jobs that wait, for one that may wait for a place at a full worker."""
        return waiting if self._settings.late_binding else None

    def _place(self, job: Job, pending: Pending, ticket: Ticket) -> Assignment | Held | None:
        """What the dispatcher says; None also if `pending` has got the reason why never."""
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
        until_s = min(ticket.rank_s, ticket.entered_at_s + self._settings.hold_s_max)
        waiting = self._line.length(job.model)
        may_hold = self._may_hold(waiting, until_s, self._clock.monotonic_s())
        return self._dispatcher.assign_or_hold(
            job, may_hold=may_hold, in_line=self._in_line(waiting)
        )

    def _too_late(self, ticket: Ticket) -> QueueTimeout:
        now_s = self._clock.monotonic_s()
        waited_s = now_s - ticket.entered_at_s
        return QueueTimeout(
            f"no worker of {ticket.model!r} became free within {waited_s:.0f} s",
            retry_after_s=self._line.retry_after_s(ticket.model, now_s),
        )
