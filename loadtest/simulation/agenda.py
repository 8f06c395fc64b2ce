"""Virtual time: what happens when, in order, one thing after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """A `rhizome.clock.Clock` that stands where the agenda has put it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        raise RuntimeError("nobody sleeps in virtual time: put it on the agenda")


Action = Callable[[], None]


class Agenda:
    """Actions by time; those of one time in the order in which they were put here."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._actions: list[tuple[float, int, Action]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._actions)

    def at(self, time_s: float, action: Action) -> None:
        """Puts an action on the agenda; never before now."""
        assert time_s >= self.clock.now_s, "time does not go back"
        self._number += 1
        heapq.heappush(self._actions, (time_s, self._number, action))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Acts until nothing is left, or `is_over` after some action."""
        actions, clock = self._actions, self.clock
        while actions and not is_over():
            clock.now_s, _, action = heapq.heappop(actions)
            action()
