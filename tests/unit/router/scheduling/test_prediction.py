"""Predicted time to first token, and the filter before it."""

from __future__ import annotations

import pytest

from router.scheduling.filters import with_room
from router.scheduling.prediction import predicted_ttft_ms, uncached_tokens
from router.scheduling.types import Candidate, Candidates, RoutingRequest


def candidate(match: int = 0, queued: int = 0, in_flight: int = 0) -> Candidate:
    return Candidate("w", match, in_flight, 4, queued, 2000.0, 20.0, overhead_ms=5.0)


@pytest.mark.parametrize(
    ("match", "queued", "expected_ms"),
    [(0, 0, 505.0), (992, 0, 9.0), (0, 1000, 1005.0), (992, 1000, 509.0)],
)
def test_ttft_is_overhead_and_wait_and_own_prefill(
    match: int, queued: int, expected_ms: float
) -> None:
    request = RoutingRequest("r", "m", prompt_tokens=1000)
    assert predicted_ttft_ms(request, candidate(match, queued)) == pytest.approx(expected_ms)


def test_at_least_one_token_is_always_computed() -> None:
    assert uncached_tokens(RoutingRequest("r", "m", prompt_tokens=1), candidate()) == 1
    assert uncached_tokens(RoutingRequest("r", "m", prompt_tokens=0), candidate()) == 1


def test_candidates_without_room_are_filtered_out() -> None:
    free, full, over = candidate(in_flight=3), candidate(in_flight=4), candidate(in_flight=5)
    assert list(with_room(Candidates.of([full, free, over]))) == [free]
    assert not with_room(Candidates.of([full]))
