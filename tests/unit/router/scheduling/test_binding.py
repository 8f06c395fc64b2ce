"""Late binding: who should wait for the chosen worker, and who should go at once."""

from __future__ import annotations

import numpy as np
import pytest

from router.scheduling.binding import should_wait
from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidate, Candidates, RoutingRequest

WINDOW_MS = 20.0
PER_S = 1000.0


def candidate(name: str, match: int, wait_ms: int) -> Candidate:
    """One token takes a millisecond."""
    return Candidate(name, match, 1, 64, wait_ms, PER_S, 20.0, overhead_ms=WINDOW_MS)


@pytest.mark.parametrize(
    ("tokens", "chosen", "other", "expected"),
    [
        pytest.param(500, (0, 0), (0, 0), False, id="the worker is idle"),
        pytest.param(500, (0, 20), (0, 900), False, id="it is as good as free"),
        pytest.param(500, (0, 300), (0, 300), True, id="all are busy with others' prompts"),
        pytest.param(500, (490, 300), (0, 900), False, id="short there, long anywhere else"),
        pytest.param(500, (490, 300), (400, 900), True, id="the other would be sooner if free"),
        pytest.param(500, (400, 300), (0, 900), True, id="shorter ones might come before"),
        pytest.param(15, (0, 300), (0, 900), True, id="short anywhere"),
    ],
)
def test_who_waits(
    tokens: int, chosen: tuple[int, int], other: tuple[int, int], *, expected: bool
) -> None:
    request = RoutingRequest("r", "m", prompt_tokens=tokens)
    candidates = Candidates.of([candidate("a", *other), candidate("b", *chosen)])
    costs = np.array([predicted_ttft_ms(request, one) for one in candidates])
    assert should_wait(request, candidates, costs, 1) is expected


def test_nobody_waits_for_the_only_worker_with_a_short_prompt() -> None:
    """No other could be sooner, and it blocks nobody."""
    request = RoutingRequest("r", "m", prompt_tokens=10)
    candidates = Candidates.of([candidate("a", 0, 500)])
    costs = np.array([predicted_ttft_ms(request, one) for one in candidates])
    assert not should_wait(request, candidates, costs, 0)
