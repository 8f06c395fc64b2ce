"""From runs to what is told of them: medians of repeats, ratios between contenders, unit costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadtest.calibration.fitting import nonnegative_least_squares
from loadtest.comparison.measures import Measure, output_tokens_of, requests_of
from loadtest.comparison.results import CellResult

_MS = 1000.0


class Reading(NamedTuple):
    """A number that was measured several times."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One contender under one load; the valid ones among its runs count, or all if none is."""

    workload: str
    level: float
    contender: str
    cells: Sequence[CellResult]

    @property
    def rate_per_s(self) -> float:
        """By the clock."""
        return self.cells[0].rate_per_s

    @property
    def used(self) -> Sequence[CellResult]:
        return [cell for cell in self.cells if cell.valid] or self.cells

    @property
    def runs_valid(self) -> int:
        return sum(cell.valid for cell in self.cells)

    @property
    def requests(self) -> int:
        return sum(cell.run.summary.requests for cell in self.used)

    @property
    def errors(self) -> int:
        return self.requests - sum(cell.run.summary.completed for cell in self.used)

    def reading(self, measure: Measure) -> Reading | None:
        """Median, lowest and highest of its runs; None where none tells."""
        values = [value for cell in self.used if (value := measure.of(cell)) is not None]
        return Reading(statistics.median(values), min(values), max(values)) if values else None

    def middle(self, measure: Measure) -> float | None:
        reading = self.reading(measure)
        return None if reading is None else reading.middle


def rows_of(cells: Iterable[CellResult]) -> list[Row]:
    """Rows in the order in which their first run was made."""
    groups: dict[tuple[str, float, str], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.workload, cell.level, cell.contender), []).append(cell)
    return [Row(*key, group) for key, group in groups.items()]


def ratio_to(reference: str, rows: Sequence[Row], measure: Measure) -> dict[str, Reading]:
    """For each contender its number as a multiple of the reference's: geometric mean over the
    loads, lowest and highest load. Repeats of a load are compared pair by pair, since a pair has
    the same requests; of these the median counts. Runs that are not valid are left out.
    """
    values = {
        (row.workload, row.level, cell.repeat, row.contender): measure.of(cell)
        for row in rows
        for cell in row.cells
        if cell.valid
    }
    found: dict[str, dict[tuple[str, float], list[float]]] = {}
    for (workload, level, repeat, contender), value in values.items():
        other = values.get((workload, level, repeat, reference))
        if value and other and value > 0 and other > 0:
            by_load = found.setdefault(contender, {})
            by_load.setdefault((workload, level), []).append(value / other)
    return {contender: _over_loads(by_load.values()) for contender, by_load in found.items()}


def _over_loads(loads: Iterable[list[float]]) -> Reading:
    ratios = [statistics.median(pairs) for pairs in loads]
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
    return Reading(mean, min(ratios), max(ratios))


class UnitCosts(NamedTuple):
    """What a router's CPU time is made of."""

    request_ms: float
    prompt_ktok_ms: float
    """For a thousand prompt tokens."""
    output_token_us: float


def unit_costs(cells: Sequence[CellResult]) -> UnitCosts | None:
    """Fitted to one contender's runs; None unless they are of three workloads, without which the
    three parts cannot be told apart."""
    if len({cell.workload for cell in cells}) < len(UnitCosts._fields):
        return None
    work = np.array(
        [(requests_of(cell), _prompt_ktok(cell), output_tokens_of(cell)) for cell in cells],
        dtype=np.float64,
    )
    cpu_ms = np.array([max(cell.router_cpu_s, 1e-3) * _MS for cell in cells])
    # Each run counts alike, whatever its length.
    request_ms, prompt_ms, token_ms = nonnegative_least_squares(
        work / cpu_ms[:, None], np.ones(len(cells))
    )
    return UnitCosts(float(request_ms), float(prompt_ms), float(token_ms) * _MS)


def _prompt_ktok(cell: CellResult) -> float:
    return sum(load.prompt_tokens for load in cell.balance.workers.values()) / 1000.0
