"""Searches for the loads that round robin just carries, with a few short runs a workload."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.comparison.contenders import CONTROL, contender
from loadtest.comparison.rounds import Cell, Course, FleetOfARun, Watch, fleets, run_cell
from loadtest.comparison.scenarios import GOODPUT_SHARE_MIN, Scenario
from loadtest.results import Knee, RunResult
from loadtest.running import sweep

_SHARES = (0.6, 0.8, 1.0, 1.25, 1.6, 2.0)
"""Of the knee that is known, or of a guess."""
_REFINEMENTS = 1


async def find(cells: Sequence[Cell], course: Course, watch: Watch) -> dict[str, Knee]:
    """The knee of each workload among the runs."""
    knees: dict[str, Knee] = {}
    async with fleets(course, watch.clock) as fleet_of_a_run:
        for scenario in {cell.scenario.name: cell.scenario for cell in cells}.values():
            if watch.stop.is_set():
                break
            knees[scenario.name] = await _knee(scenario, course, watch, fleet_of_a_run)
            watch.tell(f"{scenario.name}: {knees[scenario.name]}")
    return knees


async def _knee(
    scenario: Scenario, course: Course, watch: Watch, fleet_of_a_run: FleetOfARun
) -> Knee:
    async def run_at(rate_per_s: float) -> RunResult:
        level = rate_per_s / scenario.knee_per_s
        cell = Cell(scenario, level, contender(CONTROL), 0)
        found = await run_cell(cell, course, watch, fleet_of_a_run)
        summary = found.run.summary
        watch.tell(
            f"{scenario.name} {rate_per_s:.3g}/s: good {summary.goodput.share:.1%}"
            f" {'; '.join(found.invalid_because)}"
        )
        return found.run

    rates = [scenario.knee_per_s * share for share in _SHARES]
    return (await sweep(run_at, rates, _REFINEMENTS, GOODPUT_SHARE_MIN)).knee
