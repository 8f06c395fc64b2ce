"""How far several processes scale, from what requests cost."""

from __future__ import annotations

import pytest

from loadtest.overhead.processes import ProcessCosts, Scaling, scaling_lines


def costs(request_us: float, token_us: float) -> ProcessCosts:
    return ProcessCosts(request_us=request_us, requests_per_s=1000.0, token_us=token_us)


def test_processes_scale_by_what_a_request_costs_more_than_in_one() -> None:
    scaling = Scaling(
        processes=2,
        one=[costs(100, 10), costs(90, 10), costs(500, 10)],
        several=[costs(110, 10), costs(125, 10), costs(125, 10)],
    )
    assert scaling.requests == pytest.approx(2 * 100 / 125)
    assert scaling.tokens == pytest.approx(2.0)
    assert "| 2 | 125.0 | 1000 | 10.0 | 1.60 | 2.00 |" in scaling_lines(scaling)


def test_nothing_is_shown_of_what_was_not_measured() -> None:
    assert scaling_lines(None) == []
    assert scaling_lines(Scaling(processes=2)) == []
