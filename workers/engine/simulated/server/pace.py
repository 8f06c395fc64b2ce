"""How the engine's own time runs against the machine's: stopped, slowed, or as it is.

The scheduler lives in engine time. A hang stops that time, so that nothing is made up for when it
ends; a slow engine's time runs slower. Engine time never goes back.
"""

from __future__ import annotations

from rhizome.clock import Clock


class Pace:
    """Engine time over machine time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate = 1.0
        self._engine_s = 0.0
        self._machine_s = clock.monotonic_s()

    @property
    def stopped(self) -> bool:
        return self._rate == 0.0

    def now_s(self) -> float:
        """Engine time."""
        return self._engine_s + (self._clock.monotonic_s() - self._machine_s) * self._rate

    def wait_s(self, engine_s: float) -> float:
        """Machine seconds until engine time `engine_s`; not while stopped."""
        return max(0.0, engine_s - self.now_s()) / self._rate

    def run(self, rate: float) -> None:
        """From now on, `rate` engine seconds pass in a second; 0 stops it."""
        assert rate >= 0.0
        self._engine_s = self.now_s()
        self._machine_s = self._clock.monotonic_s()
        self._rate = rate
