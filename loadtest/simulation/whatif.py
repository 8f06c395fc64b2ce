"""What-if questions about one scenario, each answered by simulations of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from loadtest.results import Knee, RunResult, SweepResult, Told
from loadtest.simulation import sizing
from loadtest.simulation.running import Scenario, Simulated, simulate
from loadtest.simulation.sizing import Promise, RateKnee, Shown, Sizing
from rhizome.clock import Clock
from rhizome.errors import SettingsError


@dataclass(slots=True)
class WhatIf:
    """Asks a scenario with workers of one kind; no simulation is played twice."""

    scenario: Scenario
    policy: str
    promise: Promise
    told: Told
    clock: Clock
    _played: dict[tuple[int, float], RunResult] = field(default_factory=dict)

    def smallest_fleet(self, begin: int, workers_max: int) -> Sizing:
        """How many workers keep the promise."""
        return sizing.smallest_fleet(
            lambda workers: self._show(workers, 1.0), self.promise, begin, workers_max
        )

    def knee(
        self, workers: int, scales: list[float], refinements: int
    ) -> tuple[RateKnee, SweepResult]:
        """How many times the load so many workers carry; also as the result of a sweep."""
        found = sizing.knee(
            lambda scale: self._show(workers, scale), self.promise, scales, refinements
        )
        levels = [self._played[workers, scale] for scale, _ in sorted(found.tried)]
        carried = None
        if found.rate_scale is not None:
            carried = self._played[workers, found.rate_scale].summary.scheduled_per_s
        sweep = SweepResult(
            label=f"{self.told.label}, {workers} workers",
            levels=levels,
            knee=Knee(
                goodput_share_min=self.promise.completed_share,
                rate_per_s=carried,
                is_beyond=found.is_beyond,
            ),
            partial=False,
        )
        return found, sweep

    def _show(self, workers: int, scale: float) -> Shown:
        result = self._played.get((workers, scale))
        if result is None:
            result = self._play(workers, scale).result
            self._played[workers, scale] = result
        summary = result.summary
        return Shown(
            workers=workers,
            rate_per_s=summary.scheduled_per_s,
            ttft_ms_p99=None if summary.ttft_ms is None else summary.ttft_ms.p99,
            completed_share=summary.completed / summary.requests if summary.requests else 0.0,
            goodput_share=summary.goodput.share,
        )

    def _play(self, workers: int, scale: float) -> Simulated:
        if len(self.scenario.groups) != 1:
            raise SettingsError("sizing asks for workers of one profile")
        shape = self.scenario.shape
        if shape.rate_per_s is not None:
            shape = msgspec.structs.replace(shape, rate_per_s=shape.rate_per_s * scale)
        else:
            shape = msgspec.structs.replace(shape, rate_scale=shape.rate_scale * scale)
        profile, _ = self.scenario.groups[0]
        scenario = replace(self.scenario, shape=shape, groups=((profile, workers),))
        return simulate(scenario, self.policy, self.told, self.clock)
