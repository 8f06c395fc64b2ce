"""Clocks for tests that must not wait as long as people would."""

from __future__ import annotations

import asyncio

from rhizome.clock import SystemClock


class HurriedClock(SystemClock):
    """The machine's clock, `speed` times as fast; its date is right."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def monotonic_s(self) -> float:
        return self._speed * SystemClock.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / self._speed)
