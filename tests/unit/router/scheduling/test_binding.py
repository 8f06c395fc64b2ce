"""Late binding: who should wait for the chosen worker, and who should go at once."""

from __future__ import annotations

import pytest

from router.scheduling.binding import should_wait
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
