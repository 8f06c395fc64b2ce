"""The waiting line: bounds, and a truthful time to come back."""

from __future__ import annotations

import pytest

from rhizome.errors import QueueFull
from router.admission.classes import Priority
from router.admission.line import RETRY_AFTER_S_MAX, RETRY_AFTER_S_MIN, WaitingLine

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


def drained(rate_per_s: float, waiting: int, *, seconds: float = 20.0) -> tuple[WaitingLine, float]:
    """A line that has been admitting at the given rate, with `waiting` tickets left in it."""
    line, now_s, admitted = WaitingLine(10_000), 100.0, round(rate_per_s * seconds)
    for _ in range(waiting + admitted):
        line.offer("m", INTERACTIVE, now_s, 1000.0)
    for ticket in list(line.in_order("m"))[:admitted]:
        now_s += 1 / rate_per_s
        line.admit(ticket, now_s)
    return line, now_s


@pytest.mark.parametrize(("rate_per_s", "waiting"), [(2.0, 9), (10.0, 99), (0.5, 4)])
def test_retry_after_is_the_time_that_the_line_takes_to_drain(
    rate_per_s: float, waiting: int
) -> None:
    line, now_s = drained(rate_per_s, waiting)
    expected_s = (waiting + 1) / rate_per_s
    assert line.retry_after_s("m", now_s) == pytest.approx(expected_s, rel=0.15)


def test_retry_after_is_bounded() -> None:
    line, now_s = drained(0.5, 4000)
    assert line.retry_after_s("m", now_s) == RETRY_AFTER_S_MAX
    line, now_s = drained(100.0, 0)
    assert line.retry_after_s("m", now_s) == RETRY_AFTER_S_MIN


def test_a_line_that_stands_still_asks_to_come_back_later_and_later() -> None:
    line, now_s = drained(10.0, 50)
    assert line.retry_after_s("m", now_s + 10) > line.retry_after_s("m", now_s)


def test_a_full_line_refuses_with_a_time_to_come_back() -> None:
    line = WaitingLine(2)
    line.offer("m", INTERACTIVE, 0.0, 10.0)
    line.offer("n", INTERACTIVE, 0.0, 10.0)
    with pytest.raises(QueueFull, match="2 requests wait already") as refused:
        line.offer("m", INTERACTIVE, 0.0, 10.0)
    assert refused.value.retry_after_s is not None


def test_batch_work_leaves_half_of_the_places_to_people() -> None:
    line = WaitingLine(4)
    for _ in range(2):
        line.offer("m", BATCH, 0.0, 10.0)
    with pytest.raises(QueueFull):
        line.offer("n", BATCH, 0.0, 10.0)
    for _ in range(2):
        line.offer("m", INTERACTIVE, 0.0, 10.0)
    line.check_invariants()


def test_nobody_waits_in_a_line_of_no_places() -> None:
    with pytest.raises(QueueFull):
        WaitingLine(0).offer("m", INTERACTIVE, 0.0, 10.0)


def test_people_go_before_batch_work_of_the_same_model() -> None:
    line = WaitingLine(10)
    order = [line.offer("m", one, 0.0, 10.0) for one in (BATCH, INTERACTIVE, BATCH, INTERACTIVE)]
    assert list(line.in_order("m")) == [order[1], order[3], order[0], order[2]]
    assert line.first_rank_s("n", BATCH) is None


def test_a_ticket_expires_at_its_deadline() -> None:
    line = WaitingLine(10)
    ticket = line.offer("m", INTERACTIVE, 0.0, 10.0)
    assert line.expire(9.9) == []
    assert line.expire(10.0) == [ticket]
    assert not line.give_up(ticket)
