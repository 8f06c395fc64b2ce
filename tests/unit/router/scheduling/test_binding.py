"""Late binding: who should wait for a worker, and who should go at once."""

from __future__ import annotations

import pytest

from router.scheduling.binding import PLACE_WAIT_MS_MAX, should_wait, should_wait_for_place
from router.scheduling.types import Candidate, RoutingRequest


@pytest.mark.parametrize(
    ("tokens", "match", "wait_ms", "expected"),
    [
        pytest.param(500, 0, 0, False, id="the worker is idle"),
        pytest.param(500, 0, 20, False, id="it is as good as free"),
        pytest.param(500, 0, 21, True, id="a long prompt behind others"),
        pytest.param(80, 0, 900, False, id="a short prompt"),
        pytest.param(500, 420, 900, False, id="short there, by what it holds"),
        pytest.param(500, 419, 900, True, id="not short enough there"),
    ],
)
def test_who_waits(tokens: int, match: int, wait_ms: int, *, expected: bool) -> None:
    """One token takes a millisecond, a cached prompt 20."""
    chosen = Candidate("w", match, 1, 64, wait_ms, 1000.0, 20.0, overhead_ms=20.0, is_learned=True)
    assert should_wait(RoutingRequest("r", "m", tokens), chosen) is expected
    assert not should_wait(RoutingRequest("r", "m", tokens), chosen._replace(is_learned=False))


@pytest.mark.parametrize(
    ("held", "waited_ms", "others", "expected"),
    [
        pytest.param(100, 0, 0, True, id="computing it anew takes longer"),
        pytest.param(100, 99, 0, True, id="not yet as long as it saves"),
        pytest.param(100, 100, 0, False, id="for as long as it saves"),
        pytest.param(100, 100, 1.0, True, id="one more in line for each worker gains as much"),
        pytest.param(100, 200, 1.0, False, id="for as long as it saves both"),
        pytest.param(20, 0, 9.0, False, id="next to nothing to save"),
        pytest.param(400, PLACE_WAIT_MS_MAX - 1, 9.0, True, id="much to save"),
        pytest.param(400, PLACE_WAIT_MS_MAX, 9.0, False, id="never longer than this"),
    ],
)
def test_who_waits_for_a_place(
    held: int, waited_ms: float, others: float, *, expected: bool
) -> None:
    """One token takes a millisecond, a cached prompt 20."""
    free = Candidate("a", 0, 1, 64, 0, 1000.0, 20.0, overhead_ms=20.0, is_learned=True)
    full = free._replace(worker_id="b", match_tokens=held, in_flight=64)
    request = RoutingRequest("r", "m", 500)
    assert should_wait_for_place(request, free, full, waited_ms, others) is expected
    assert not should_wait_for_place(
        request, free, full._replace(is_learned=False), waited_ms, others
    )


def test_nobody_waits_for_a_place_at_a_faster_worker_that_holds_no_more() -> None:
    slow = Candidate("a", 0, 1, 64, 0, 1000.0, 20.0, overhead_ms=20.0, is_learned=True)
    fast = slow._replace(worker_id="b", in_flight=64, prefill_tokens_per_s=4000.0)
    assert not should_wait_for_place(RoutingRequest("r", "m", 500), slow, fast, 0.0, 0.0)
