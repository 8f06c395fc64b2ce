"""When a router process that ended is started again: at once, then with growing pauses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0
CALM_S = 60.0
"""A process that lived this long begins anew with short pauses."""


@dataclass(slots=True)
class Restarting:
    """Failures of one place in a row."""

    failures: int = 0

    def pause_s(self, lived_s: float) -> float:
        """The process ended after `lived_s`: how long to wait before the next one."""
        self.failures = 1 if lived_s >= CALM_S else self.failures + 1
        if self.failures == 1:
            return 0.0
        return min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self.failures - 2, 16))
