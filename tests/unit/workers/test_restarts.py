from __future__ import annotations

import pytest

from rhizome.clock import ManualClock
from rhizome.errors import EngineFailed
from workers.restarts import keep_living


class Lives:
    """Fails for each duration given, then returns."""

    def __init__(self, clock: ManualClock, durations_s: list[float]) -> None:
        self._clock = clock
        self._durations_s = durations_s
        self.started_s: list[float] = []

    async def __call__(self) -> None:
        self.started_s.append(self._clock.monotonic_s())
        if self._durations_s:
            self._clock.advance(self._durations_s.pop(0))
            raise EngineFailed("died")


def pauses(lives: Lives, durations_s: list[float]) -> list[float]:
    starts = lives.started_s
    return [
        after - before - duration
        for before, after, duration in zip(starts[:-1], starts[1:], durations_s, strict=True)
    ]


async def test_pauses_double_up_to_the_bound() -> None:
    clock = ManualClock()
    lives = Lives(clock, [0.0] * 5)
    await keep_living(lives, clock, pause_s_max=6.0)
    assert pauses(lives, [0.0] * 5) == [1, 2, 4, 6, 6]


async def test_a_long_life_makes_the_pause_short_again() -> None:
    clock = ManualClock()
    durations_s = [0.0, 0.0, 0.0, 100.0, 0.0]
    lives = Lives(clock, list(durations_s))
    await keep_living(lives, clock, pause_s_max=60.0)
    assert pauses(lives, durations_s) == [1, 2, 4, 1, 2]


async def test_a_life_that_ends_by_itself_is_not_repeated() -> None:
    clock = ManualClock()
    lives = Lives(clock, [])
    await keep_living(lives, clock, pause_s_max=60.0)
    assert len(lives.started_s) == 1


async def test_a_bug_is_not_taken_for_a_failed_start() -> None:
    async def broken() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await keep_living(broken, ManualClock(), pause_s_max=1.0)
