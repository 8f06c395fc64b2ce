"""What a comparison found: every run, and the medians of runs that were repeated."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from loadtest.metrics import Balance, Spread
from loadtest.results import Machine, RunResult

SCHEMA = "rhizome.loadtest.comparison/1"
RESULT_FILE = "comparison.json"


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one load, once."""

    workload: str
    level: float
    """Share of round robin's knee."""
    rate_per_s: float
    contender: str
    repeat: int
    run: RunResult
    balance: Balance
    """By the engines' own counters, warm-up included."""
    router_cpu_s: float
    router_cpu_share: float
    """Of one core."""
    fleet_cpu_share: float
    """Of one core, for all simulated engines."""
    valid: bool
    invalid_because: list[str]


class ComparisonResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole comparison."""

    schema: str = SCHEMA
    name: str
    command: str
    note: str
    begun_wall_s: float
    took_s: float
    machine: Machine
    versions: dict[str, str]
    """By system."""
    profile: str
    speed: float
    worker_count: int
    cells: list[CellResult]
    faults: list[str]
    """Runs that gave no result, and why."""
    partial: bool


class Findings(msgspec.Struct, kw_only=True):
    """Grows run by run."""

    cells: list[CellResult] = []
    faults: list[str] = []
    """Runs that gave no result, and why."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: medians over the repeats of a run, of the valid ones if there are."""

    workload: str
    level: float
    rate_per_s: float
    contender: str
    runs: int
    runs_valid: int
    requests: int
    errors: int
    ttft_ms_mean: float | None
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    tpot_ms_mean: float | None
    tpot_ms_p50: float | None
    tpot_ms_p99: float | None
    goodput_share: float
    cached_ratio: float | None
    requests_max_over_mean: float
    tokens_max_over_mean: float
    router_cpu_ms_per_request: float


def rows_of(cells: Iterable[CellResult]) -> list[Row]:
    """Rows in the order in which their first run was made."""
    groups: dict[tuple[str, float, str], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.workload, cell.level, cell.contender), []).append(cell)
    return [_row(group) for group in groups.values()]


def write_comparison(directory: Path, result: ComparisonResult) -> Path:
    """Writes the JSON, whole or not at all; whose home directory it was is not told."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RESULT_FILE
    part = path.with_name(f"{path.name}.part")
    data = msgspec.json.encode(result).replace(str(Path.home()).encode(), b"~")
    part.write_bytes(msgspec.json.format(data, indent=1) + b"\n")
    part.replace(path)
    return path


def _row(cells: Sequence[CellResult]) -> Row:
    valid = [cell for cell in cells if cell.valid]
    used = valid or list(cells)
    summaries = [cell.run.summary for cell in used]
    ttft = [one.ttft_ms for one in summaries]
    tpot = [one.tpot_ms for one in summaries]
    first = cells[0]
    return Row(
        workload=first.workload,
        level=first.level,
        rate_per_s=first.rate_per_s,
        contender=first.contender,
        runs=len(cells),
        runs_valid=len(valid),
        requests=sum(one.requests for one in summaries),
        errors=sum(one.requests - one.completed for one in summaries),
        ttft_ms_mean=_median_of(ttft, "mean"),
        ttft_ms_p50=_median_of(ttft, "p50"),
        ttft_ms_p99=_median_of(ttft, "p99"),
        tpot_ms_mean=_median_of(tpot, "mean"),
        tpot_ms_p50=_median_of(tpot, "p50"),
        tpot_ms_p99=_median_of(tpot, "p99"),
        goodput_share=statistics.median(one.goodput.share for one in summaries),
        cached_ratio=_median([one.cached_ratio for one in summaries]),
        requests_max_over_mean=statistics.median(
            cell.balance.requests_max_over_mean for cell in used
        ),
        tokens_max_over_mean=statistics.median(cell.balance.tokens_max_over_mean for cell in used),
        router_cpu_ms_per_request=statistics.median(
            cell.router_cpu_s * 1000.0 / max(1, _sent(cell)) for cell in used
        ),
    )


def _sent(cell: CellResult) -> int:
    """Requests that the engines answered, warm-up included."""
    return sum(load.requests for load in cell.balance.workers.values())


def _median_of(spreads: Sequence[Spread | None], name: str) -> float | None:
    return _median([None if one is None else getattr(one, name) for one in spreads])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
