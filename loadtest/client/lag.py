"""How late the client itself is: its sends, its event loop, and the CPU that it takes."""

from __future__ import annotations

import numpy as np
import psutil

from loadtest.records import ProcessFacts
from rhizome.clock import Clock

_TICK_S = 0.02
_KEPT_MAX = 500_000


class Lags:
    """One process's lags while it sends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sends_s: list[float] = []
        self._wakes_s: list[float] = []
        self._process = psutil.Process()
        self._begun_s = clock.monotonic_s()
        self._cpu_begun_s = self._cpu_s()

    def sent(self, late_s: float) -> None:
        """A request left `late_s` after its time."""
        if len(self._sends_s) < _KEPT_MAX:
            self._sends_s.append(late_s)

    async def watch(self) -> None:
        """Measures the loop until cancelled."""
        while len(self._wakes_s) < _KEPT_MAX:
            begun_s = self._clock.monotonic_s()
            await self._clock.sleep(_TICK_S)
            self._wakes_s.append(max(0.0, self._clock.monotonic_s() - begun_s - _TICK_S))

    def facts(self, answers_real: int, answers_made_up: int) -> ProcessFacts:
        """What was measured since this object was made."""
        wall_s = self._clock.monotonic_s() - self._begun_s
        send_ms = _quantiles_ms(self._sends_s)
        loop_ms = _quantiles_ms(self._wakes_s)
        return ProcessFacts(
            cpu_share=(self._cpu_s() - self._cpu_begun_s) / wall_s if wall_s > 0 else 0.0,
            send_lag_ms_p50=send_ms[0],
            send_lag_ms_p99=send_ms[1],
            send_lag_ms_max=send_ms[2],
            loop_lag_ms_p50=loop_ms[0],
            loop_lag_ms_p99=loop_ms[1],
            loop_lag_ms_max=loop_ms[2],
            answers_real=answers_real,
            answers_made_up=answers_made_up,
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _quantiles_ms(lags_s: list[float]) -> tuple[float, float, float]:
    """p50, p99 and maximum."""
    if not lags_s:
        return 0.0, 0.0, 0.0
    p50, p99, highest = np.quantile(np.array(lags_s) * 1000.0, [0.5, 0.99, 1.0])
    return float(p50), float(p99), float(highest)
