"""Pauses before a process is started again."""

from __future__ import annotations

from router.processes.restarting import CALM_S, PAUSE_S_MAX, Restarting


def test_the_first_failure_costs_no_pause_and_pauses_grow_to_a_bound() -> None:
    place = Restarting()
    pauses = [place.pause_s(1.0) for _ in range(40)]
    assert pauses[:4] == [0.0, 0.5, 1.0, 2.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_S_MAX


def test_a_process_that_lived_long_begins_anew() -> None:
    place = Restarting()
    for _ in range(5):
        place.pause_s(1.0)
    assert place.pause_s(CALM_S) == 0.0
    assert place.pause_s(1.0) == 0.5
