"""The waiting line against plain lists, in random order of arrivals, admissions and departures."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rhizome.errors import QueueFull
from router.admission.classes import Priority
from router.admission.line import RETRY_AFTER_S_MAX, RETRY_AFTER_S_MIN, Ticket, WaitingLine

LENGTH_MAX = 6
MODELS = ("m", "n")
models = st.sampled_from(MODELS)
priorities = st.sampled_from(list(Priority))


class LineOfLists(RuleBasedStateMachine):
    """Tickets come, are admitted in order, give up, or are too late."""

    @initialize()
    def begin(self) -> None:
        self.line = WaitingLine(LENGTH_MAX)
        self.waiting: list[Ticket] = []
        self.left: Counter[int] = Counter()
        self.now_s = 0.0

    @rule(
        model=models,
        priority=priorities,
        wait_s=st.sampled_from([0.5, 5.0, 50.0]),
        cost_s=st.sampled_from([0.0, 0.25, 2.0]),
    )
    def offer(self, model: str, priority: Priority, wait_s: float, cost_s: float) -> None:
        batch = sum(ticket.priority is Priority.BATCH for ticket in self.waiting)
        if len(self.waiting) == LENGTH_MAX or (priority is Priority.BATCH and batch == 3):
            with pytest.raises(QueueFull) as refused:
                self.line.offer(model, priority, self.now_s, wait_s)
            assert refused.value.retry_after_s is not None
            assert RETRY_AFTER_S_MIN <= refused.value.retry_after_s <= RETRY_AFTER_S_MAX
            return
        ticket = self.line.offer(model, priority, self.now_s, wait_s, cost_s)
        assert ticket.deadline_s == self.now_s + wait_s
        assert ticket.rank_s == self.now_s + min(cost_s, wait_s)
        self.waiting.append(ticket)

    @rule(model=models)
    def admit_the_first(self, model: str) -> None:
        first = next(self.line.in_order(model), None)
        assert first == next(iter(self.expected(model)), None)
        if first is not None:
            self.line.admit(first, self.now_s)
            self.note_left(first)

    @rule(pick=st.integers(0, 100))
    def give_up(self, pick: int) -> None:
        if self.waiting:
            ticket = self.waiting[pick % len(self.waiting)]
            assert self.line.give_up(ticket)
            assert not self.line.give_up(ticket)
            self.line.admit(ticket, self.now_s)
            self.note_left(ticket)

    @rule(delay_s=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, delay_s: float) -> None:
        self.now_s += delay_s

    @rule()
    def expire(self) -> None:
        late = self.line.expire(self.now_s)
        expected = [one for one in self.waiting if one.deadline_s <= self.now_s]
        assert sorted(one.number for one in late) == [one.number for one in expected]
        for ticket in late:
            self.note_left(ticket)

    def note_left(self, ticket: Ticket) -> None:
        self.left[ticket.number] += 1
        assert self.left[ticket.number] == 1
        self.waiting.remove(ticket)

    def expected(self, model: str) -> list[Ticket]:
        of_model = [ticket for ticket in self.waiting if ticket.model == model]
        of_model.sort(key=lambda ticket: (ticket.rank_s, ticket.number))
        return [
            ticket
            for priority in (Priority.INTERACTIVE, Priority.BATCH)
            for ticket in of_model
            if ticket.priority is priority
        ]

    @invariant()
    def the_line_is_what_is_expected(self) -> None:
        self.line.check_invariants()
        assert len(self.line) == len(self.waiting)
        assert sorted(self.line.models()) == sorted({ticket.model for ticket in self.waiting})
        for model in MODELS:
            expected = self.expected(model)
            assert list(self.line.in_order(model)) == expected
            assert self.line.length(model) == len(expected)
            oldest_s = min((ticket.entered_at_s for ticket in expected), default=self.now_s)
            assert self.line.oldest_wait_s(model, self.now_s) == self.now_s - oldest_s
            ranks = [
                ticket.rank_s for ticket in expected if ticket.priority is Priority.INTERACTIVE
            ]
            first_s = min(ranks, default=None)
            assert self.line.first_rank_s(model, Priority.INTERACTIVE) == first_s
            before_batch = -math.inf if ranks else expected[0].rank_s if expected else None
            assert self.line.first_rank_s(model, Priority.BATCH) == before_batch


LineOfLists.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWaitingLineKeepsOrder = LineOfLists.TestCase
