"""The searches: the smallest fleet that keeps a promise, and the load where it breaks."""

from __future__ import annotations

import pytest

from loadtest.simulation.sizing import Promise, Shown, knee, smallest_fleet

PROMISE = Promise(ttft_ms_p99=100.0, completed_share=0.9)


def shown(workers: int, ttft_ms: float | None, completed: float = 1.0) -> Shown:
    return Shown(workers, 1.0, ttft_ms, completed, completed)


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 9, 63, 64])
@pytest.mark.parametrize("begin", [1, 4, 64])
def test_the_smallest_fleet_is_found_and_the_one_below_was_tried(needed: int, begin: int) -> None:
    found = smallest_fleet(
        lambda workers: shown(workers, 50.0 if workers >= needed else 500.0), PROMISE, begin, 64
    )
    assert found.workers == needed
    tried = [one.workers for one in found.tried]
    assert needed == 1 or needed - 1 in tried
    assert len(tried) == len(set(tried)) <= 14


def test_a_promise_that_no_fleet_keeps_is_told() -> None:
    found = smallest_fleet(lambda workers: shown(workers, 500.0), PROMISE, 4, 10)
    assert found.workers is None
    assert [one.workers for one in found.tried] == [4, 8, 10]


def test_refusing_most_requests_keeps_no_promise() -> None:
    assert not shown(1, 1.0, completed=0.5).keeps(PROMISE)
    assert not shown(1, None, completed=0.0).keeps(PROMISE)
    assert shown(1, 100.0, completed=0.9).keeps(PROMISE)


def test_the_knee_is_narrowed_between_the_last_kept_and_the_first_broken_load() -> None:
    found = knee(lambda scale: shown(1, 50.0 if scale <= 1.3 else 500.0), PROMISE, [2, 1, 4], 3)
    assert [scale for scale, _ in found.tried] == [1, 2, 1.5, 1.25, 1.375]
    assert (found.rate_scale, found.is_beyond) == (1.25, False)


def test_a_fleet_that_carries_all_loads_has_its_knee_beyond() -> None:
    found = knee(lambda _: shown(1, 50.0), PROMISE, [1, 2], 3)
    assert (found.rate_scale, found.is_beyond) == (2, True)


def test_a_fleet_that_carries_no_load_has_no_knee() -> None:
    found = knee(lambda _: shown(1, 500.0), PROMISE, [1, 2], 3)
    assert (found.rate_scale, found.is_beyond, len(found.tried)) == (None, False, 1)
