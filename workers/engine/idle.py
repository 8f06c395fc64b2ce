"""Waiting until an engine has nothing to do, as a drain does, whatever the engine is made of."""

from __future__ import annotations

from collections.abc import Callable

from rhizome.clock import Clock

_INTERVAL_S = 0.1
_LASTS_S = 0.5


async def until_idle(in_flight: Callable[[], int], grace_s: float, clock: Clock) -> bool:
    """True once nothing has run for a moment: a router may still be dispatching.

    After `grace_s` whether nothing runs at that time.
    """
    deadline_s = clock.monotonic_s() + grace_s
    idle_since_s: float | None = None
    while True:
        now_s = clock.monotonic_s()
        if in_flight():
            idle_since_s = None
        elif idle_since_s is None:
            idle_since_s = now_s
        elif now_s - idle_since_s >= _LASTS_S:
            return True
        if now_s >= deadline_s:
            return in_flight() == 0
        await clock.sleep(_INTERVAL_S)
