"""One coarse timer for all deadlines of a router's connections.

A timer of its own for each request, or a clock read for each token, would cost more than the
relaying itself. Here a deadline is an attribute that its owner moves as it likes, and everything
that has one is looked at every `TICK_S`: a deadline is noticed at most two ticks late, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from rhizome.clock import Clock

TICK_S = 0.1
NEVER_S = float("inf")


class Watched(Protocol):
    """Something with a deadline, in the clock's monotonic seconds."""

    deadline_s: float

    def expired(self) -> None:
        """The deadline has passed. Must not raise; moves the deadline, or ends the watching."""
        ...


class Deadlines:
    """Watches what is added until it is removed; adding and removing pair."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[Watched, None] = {}
        self.now_s = 0.0
        """The time of the last tick, plus one tick: no deadline counted from it is early."""
        self.date = b""
        """The time of the last tick as HTTP writes it."""
        self._date_wall_s = 0
        self.tick()

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, watched: Watched) -> None:
        self._watched[watched] = None

    def remove(self, watched: Watched) -> None:
        """Does nothing for what is not watched."""
        self._watched.pop(watched, None)

    def tick(self) -> None:
        """Tells all whose deadline has passed."""
        now_s = self._clock.monotonic_s()
        self.now_s = now_s + TICK_S
        wall_s = int(self._clock.wall_s())
        if wall_s != self._date_wall_s:
            self._date_wall_s = wall_s
            self.date = formatdate(wall_s, usegmt=True).encode()
        for watched in [one for one in self._watched if one.deadline_s <= now_s]:
            watched.expired()

    async def run(self, late: Callable[[float], None]) -> None:
        """Ticks for ever; `late` is told by how many seconds the event loop missed each tick."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            late(max(0.0, loop.time() - due_s))
            self.tick()
