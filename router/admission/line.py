"""The waiting line: requests that found every worker full, in order, bounded, with deadlines.

Pure. Promises: the bound is never exceeded, and batch work takes at most half of the places; a
ticket leaves exactly once, as admitted, expired or given up; inside a class the order is that of
the tickets' ranks, then of arrival, and batch work comes after everybody interactive of its model.

A ticket's rank is the time of its arrival plus what its request costs to begin. So short requests
overtake long ones, but nobody is overtaken by those that come later than that time after him.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from rhizome.errors import QueueFull
from router.admission.classes import Priority

RETRY_AFTER_S_MIN = 1.0
RETRY_AFTER_S_MAX = 60.0
BATCH_PLACES_SHARE = 0.5
_RETRY_AFTER_S_UNKNOWN = 5.0
_ADMISSIONS_REMEMBERED = 256
_RATE_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the line."""

    number: int
    model: str
    priority: Priority
    entered_at_s: float
    deadline_s: float
    rank_s: float
    """Lower goes first."""


def _order(ticket: Ticket) -> tuple[float, int]:
    return ticket.rank_s, ticket.number


class _Queue:
    """One model's waiting tickets, in order, and its recent admissions."""

    def __init__(self) -> None:
        self.waiting: dict[Priority, list[Ticket]] = {one: [] for one in Priority}
        self.admissions: deque[float] = deque(maxlen=_ADMISSIONS_REMEMBERED)

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))


class WaitingLine:
    """The lines of all models, under one bound."""

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._batch_max = int(length_max * BATCH_PLACES_SHARE)
        self._queues: dict[str, _Queue] = {}
        self._total = 0
        self._next_number = 0

    def __len__(self) -> int:
        return self._total

    def length(self, model: str) -> int:
        """Tickets of the model."""
        queue = self._queues.get(model)
        return len(queue) if queue is not None else 0

    def oldest_wait_s(self, model: str, now_s: float) -> float:
        """How long the first ticket of the model has waited; 0 if nobody waits."""
        entered = [ticket.entered_at_s for ticket in self.in_order(model)]
        return max(0.0, now_s - min(entered)) if entered else 0.0

    def first_rank_s(self, model: str, priority: Priority) -> float | None:
        """The rank of the first whom a newcomer of this class might have to wait for, if any; for
        batch work all that is interactive goes first."""
        queue = self._queues.get(model)
        if queue is None:
            return None
        interactive = queue.waiting[Priority.INTERACTIVE]
        if priority is Priority.INTERACTIVE:
            return interactive[0].rank_s if interactive else None
        batch = queue.waiting[Priority.BATCH]
        return -math.inf if interactive else batch[0].rank_s if batch else None

    def offer(
        self, model: str, priority: Priority, now_s: float, wait_s_max: float, cost_s: float = 0.0
    ) -> Ticket:
        """A place in the line for a request that takes `cost_s` to begin; raises `QueueFull` with
        a time to come back."""
        if self._is_full(priority):
            raise QueueFull(
                f"every worker of {model!r} is busy and {self._total} requests wait already",
                retry_after_s=self.retry_after_s(model, now_s),
            )
        self._next_number += 1
        rank_s = now_s + min(max(0.0, cost_s), wait_s_max)
        ticket = Ticket(self._next_number, model, priority, now_s, now_s + wait_s_max, rank_s)
        queue = self._queues.setdefault(model, _Queue())
        bisect.insort(queue.waiting[priority], ticket, key=_order)
        self._total += 1
        return ticket

    def in_order(self, model: str) -> Iterator[Ticket]:
        """The model's tickets, interactive first; safe against removal while iterating."""
        queue = self._queues.get(model)
        if queue is not None:
            for priority in (Priority.INTERACTIVE, Priority.BATCH):
                yield from list(queue.waiting[priority])

    def models(self) -> list[str]:
        """Models that somebody waits for."""
        return [model for model, queue in self._queues.items() if len(queue)]

    def admit(self, ticket: Ticket, now_s: float) -> None:
        """The ticket's request has got a worker."""
        if self.give_up(ticket):
            self._queues[ticket.model].admissions.append(now_s)

    def give_up(self, ticket: Ticket) -> bool:
        """Takes the ticket out; False if it had left before."""
        queue = self._queues.get(ticket.model)
        if queue is None:
            return False
        waiting = queue.waiting[ticket.priority]
        at = bisect.bisect_left(waiting, _order(ticket), key=_order)
        if at == len(waiting) or waiting[at].number != ticket.number:
            return False
        del waiting[at]
        self._total -= 1
        return True

    def expire(self, now_s: float) -> list[Ticket]:
        """Takes out and returns the tickets whose deadline has passed."""
        late = [
            ticket
            for model in self.models()
            for ticket in self.in_order(model)
            if ticket.deadline_s <= now_s
        ]
        for ticket in late:
            self.give_up(ticket)
        return late

    def retry_after_s(self, model: str, now_s: float) -> float:
        """When a newcomer could expect to be admitted, from the line's measured drain rate.

        Little's law: length / rate. A line that nobody has left lately has no rate; a constant
        stands in for it.
        """
        queue = self._queues.get(model)
        recent = (
            [] if queue is None else [at for at in queue.admissions if at > now_s - _RATE_WINDOW_S]
        )
        if len(recent) < 2 or queue is None:
            return _RETRY_AFTER_S_UNKNOWN
        rate_per_s = len(recent) / max(1e-3, now_s - recent[0])
        return min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, (len(queue) + 1) / rate_per_s))

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        assert self._total == sum(len(queue) for queue in self._queues.values())
        assert 0 <= self._total <= self._length_max
        assert self._batch_waiting() <= self._batch_max
        for model, queue in self._queues.items():
            for priority, tickets in queue.waiting.items():
                for ticket in tickets:
                    assert (ticket.model, ticket.priority) == (model, priority)
                assert tickets == sorted(tickets, key=_order)

    def _is_full(self, priority: Priority) -> bool:
        if self._total >= self._length_max:
            return True
        return priority is Priority.BATCH and self._batch_waiting() >= self._batch_max

    def _batch_waiting(self) -> int:
        return sum(len(queue.waiting[Priority.BATCH]) for queue in self._queues.values())
