"""Clocks: the real one moves, the manual one moves when told."""

from __future__ import annotations

import pytest

from rhizome.clock import Clock, ManualClock, SystemClock


async def test_the_system_clock_goes_forward_while_it_sleeps() -> None:
    clock = SystemClock()
    before_s = clock.monotonic_s()
    await clock.sleep(0.001)
    assert clock.monotonic_s() > before_s
    assert clock.wall_s() > 1.6e9


async def test_the_manual_clock_moves_by_sleep_and_advance_only() -> None:
    clock: Clock = ManualClock(5.0)
    assert (clock.monotonic_s(), clock.wall_s()) == (5.0, 5.0)
    await clock.sleep(2.5)
    await clock.sleep(-1.0)
    assert clock.monotonic_s() == 7.5
    assert isinstance(clock, ManualClock)
    clock.advance(1.0)
    assert clock.monotonic_s() == clock.wall_s() == 8.5


def test_the_manual_clock_refuses_to_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        ManualClock().advance(-0.1)
