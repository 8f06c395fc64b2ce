"""Clocks for tests that must not wait as long as people would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from rhizome.clock import SystemClock

_SPEED = 5.0
PATIENCE = {
    "router__relay__connect_timeout_s": 2.0 * _SPEED,
    "router__relay__comment_interval_s": 15.0 * _SPEED,
    "router__http__header_timeout_s": 10.0 * _SPEED,
}
"""A router's shortest timeouts under a hurried clock, as long as they are without it."""


class HurriedClock(SystemClock):
    """The machine's clock, which can go five times as fast; its date is right."""

    def __init__(self, *, hurries: bool = False) -> None:
        self._speed = _SPEED if hurries else 1.0
        self._since_s = self._at_s = SystemClock.monotonic_s()

    def monotonic_s(self) -> float:
        return self._at_s + self._speed * (SystemClock.monotonic_s() - self._since_s)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / self._speed)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Fast as long as the block runs."""
        self._go(_SPEED)
        try:
            yield
        finally:
            self._go(1.0)

    def _go(self, speed: float) -> None:
        self._at_s, self._since_s = self.monotonic_s(), SystemClock.monotonic_s()
        self._speed = speed
