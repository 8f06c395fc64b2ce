"""The only place that reads the clock.

Time is an argument everywhere else, so that a whole cluster can run under a virtual clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time and of waiting.

    `monotonic_s` never goes backwards and is comparable only within one process; `wall_s` is
    seconds since the Unix epoch and is comparable, within clock skew, between hosts.
    """

    def monotonic_s(self) -> float: ...

    def wall_s(self) -> float: ...

    async def sleep(self, delay_s: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    monotonic_s = staticmethod(time.monotonic)
    wall_s = staticmethod(time.time)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class ManualClock:
    """A clock that moves only when told to; `sleep` moves it and yields once."""

    def __init__(self, start_s: float = 1_000.0) -> None:
        self._now_s = start_s

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._now_s

    def advance(self, delay_s: float) -> None:
        if delay_s < 0:
            raise ValueError(f"time cannot go back: {delay_s} s")
        self._now_s += delay_s

    async def sleep(self, delay_s: float) -> None:
        self.advance(max(0.0, delay_s))
        await asyncio.sleep(0)
