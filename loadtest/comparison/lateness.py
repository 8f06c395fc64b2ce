"""How late the simulated engines are: a clock beside them in their process, and what it showed.

The engines wait for the ends of their steps on one event loop. What that loop is late, the tokens
are late, whatever router is in front.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhizome.clock import Clock

_TICK_S = 0.02
_WRITE_EVERY = 10


async def note_lateness(path: Path, clock: Clock) -> None:
    """Until cancelled, appends pairs of monotonic time and lateness in seconds, as doubles."""
    with path.open("wb") as file:
        while True:
            pairs = []
            for _ in range(_WRITE_EVERY):
                due_s = clock.monotonic_s() + _TICK_S
                await clock.sleep(_TICK_S)
                now_s = clock.monotonic_s()
                pairs.append((now_s, max(0.0, now_s - due_s)))
            file.write(np.array(pairs, dtype=np.float64).tobytes())
            file.flush()


def lateness_ms_p99(path: Path, begin_s: float, end_s: float) -> float | None:
    """The 99th percentile between two monotonic times; None if nothing was noted."""
    try:
        noted = np.fromfile(path, dtype=np.float64)
    except OSError:
        return None
    pairs = noted[: noted.size // 2 * 2].reshape(-1, 2)
    within = pairs[(pairs[:, 0] >= begin_s) & (pairs[:, 0] <= end_s), 1]
    return float(np.percentile(within, 99) * 1000.0) if within.size else None
