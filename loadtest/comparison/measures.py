"""What a comparison tells of a run: each number with its name, its source and how it is written.

Latencies are in the engines' own time: a run of engines at half speed shows half of what the clock
did (`CellResult.speed`). What a router costs the machine is in the machine's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.comparison.results import CellResult
from loadtest.metrics import Spread

ValueOf = Callable[[CellResult], float | None]
_MS = 1000.0


@dataclass(frozen=True)
class Measure:
    """One number of a run, and its column."""

    head: str
    of: ValueOf
    """None where the run does not tell."""
    form: str = "ms"
    """How it is written: ms, share, ratio or number."""
    is_ranged: bool = False
    """Whether the column shows the lowest and highest of repeated runs."""
    is_less_better: bool = True

    def written(self, value: float | None) -> str:
        if value is None:
            return "-"
        if self.form == "share":
            return f"{value:.1%}"
        if self.form == "ratio":
            return f"{value:.2f}"
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _latency(spread_of: Callable[[CellResult], Spread | None], name: str) -> ValueOf:
    def value(cell: CellResult) -> float | None:
        spread = spread_of(cell)
        return None if spread is None else getattr(spread, name) * cell.speed

    return value


def _ttft(name: str) -> ValueOf:
    return _latency(lambda cell: cell.run.summary.ttft_ms, name)


def _tpot(name: str) -> ValueOf:
    return _latency(lambda cell: cell.run.summary.tpot_ms, name)


def _over_floor(name: str) -> ValueOf:
    return _latency(lambda cell: cell.over_floor_ms, name)


TTFT_MEAN = Measure("TTFT mean", _ttft("mean"), is_ranged=True)
TTFT_P50 = Measure("p50", _ttft("p50"))
TTFT_P99 = Measure("p99", _ttft("p99"), is_ranged=True)
OVER_FLOOR_MEAN = Measure("over floor mean", _over_floor("mean"), is_ranged=True)
OVER_FLOOR_P99 = Measure("p99", _over_floor("p99"))
TPOT_MEAN = Measure("TPOT mean", _tpot("mean"))
TPOT_P99 = Measure("p99", _tpot("p99"))
GOODPUT = Measure(
    "goodput",
    lambda cell: cell.run.summary.goodput.share,
    "share",
    is_ranged=True,
    is_less_better=False,
)
CACHED = Measure(
    "cached", lambda cell: cell.run.summary.cached_ratio, "share", is_less_better=False
)

SCHEDULING = (
    TTFT_MEAN,
    TTFT_P50,
    TTFT_P99,
    OVER_FLOOR_MEAN,
    OVER_FLOOR_P99,
    TPOT_MEAN,
    TPOT_P99,
    GOODPUT,
    CACHED,
    Measure("requests max/mean", lambda cell: cell.balance.requests_max_over_mean, "ratio"),
    Measure("tokens max/mean", lambda cell: cell.balance.tokens_max_over_mean, "ratio"),
)
"""How well the workers were chosen, as clients and engines saw it."""
RELATIVE = (TTFT_MEAN, TTFT_P99, OVER_FLOOR_MEAN, TPOT_MEAN)
"""Those of which the ratio of two contenders is told."""


def requests_of(cell: CellResult) -> int:
    """Requests that the engines answered, warm-up included."""
    return sum(load.requests for load in cell.balance.workers.values())


def _cpu_by(count_of: Callable[[CellResult], int], unit: float) -> ValueOf:
    return lambda cell: cell.router_cpu_s * unit / max(1, count_of(cell))


def output_tokens_of(cell: CellResult) -> int:
    """Tokens that the engines made and the router passed on, warm-up included."""
    return sum(load.output_tokens for load in cell.balance.workers.values())


OVERHEAD = (
    Measure("CPU ms/request", _cpu_by(requests_of, _MS), "ratio", is_ranged=True),
    Measure("CPU us/streamed token", _cpu_by(output_tokens_of, _MS * _MS)),
    Measure("CPU share of a core", lambda cell: cell.router_cpu_share, "ratio"),
    Measure("RSS MiB", lambda cell: cell.router_rss_bytes / 2**20),
    Measure("ms outside the engines", lambda cell: cell.outside_engines_ms, is_ranged=True),
    Measure("engines' CPU", lambda cell: cell.fleet_cpu_share, "ratio"),
    Measure("engines' lag ms p99", lambda cell: cell.fleet_lag_ms_p99),
    Measure(
        "client's lag ms p99",
        lambda cell: max((one.send_lag_ms_p99 for one in cell.run.processes), default=None),
    ),
    Measure("machine idle", lambda cell: cell.machine_idle_share, "share", is_less_better=False),
)
"""What the router cost the machine, and whether the machine had enough for all."""
