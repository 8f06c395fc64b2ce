"""From a simulation's columns to the summary that load tests have, and to what only it can know.

Definitions are those of `loadtest.metrics`. Left out of the summary: gaps between single tokens,
which a simulation does not keep.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.metrics import (
    CURVE_PERCENTILES,
    SERIES_BINS_MAX,
    Balance,
    Goodput,
    Series,
    Spread,
    Summary,
    TenantSummary,
    WorkerLoad,
    spread,
)
from loadtest.plan import Slo
from loadtest.simulation.columns import Columns, Floats

Mask = npt.NDArray[np.bool_]
_MS = 1000.0


class Beyond(msgspec.Struct, frozen=True, kw_only=True):
    """What no load test can measure."""

    floor_ms: Spread | None
    """First-token time on an idle engine with a cache that forgets nothing, per request."""
    over_floor_ms: Spread | None
    """TTFT minus that floor: what queueing, forgetting and the choice of workers cost."""
    predicted_ratio: float
    """Prompt tokens that the router took for cached where it sent them, of all."""
    mispredicted_ratio: float
    """Tokens by which that was wrong, either way, of all prompt tokens."""


class _Rows:
    """The counted rows of the columns, as arrays."""

    def __init__(self, columns: Columns, warmup_s: float, slo: Slo) -> None:
        self.arrived_s = np.asarray(columns.arrived_s)
        self.counted: Mask = self.arrived_s >= warmup_s
        self.whole: Mask = columns.is_complete() & self.counted
        self.first_s = np.asarray(columns.first_s)
        self.ended_s = np.asarray(columns.ended_s)
        self.prompt = np.asarray(columns.prompt_tokens)
        self.cached = np.asarray(columns.cached_tokens)
        self.predicted = np.asarray(columns.predicted_tokens)
        self.output = np.asarray(columns.output_tokens)
        self.worker = np.asarray(columns.worker)
        self.tenant = np.asarray(columns.tenant)
        self.ttft_ms = (self.first_s - self.arrived_s) * _MS
        self.e2e_ms = (self.ended_s - self.arrived_s) * _MS
        later = np.where(self.output > 1, self.output - 1, math.nan)
        self.tpot_ms = (self.ended_s - self.first_s) * _MS / later
        self.floor_ms = np.asarray(columns.floor_s) * _MS
        self.good = self.whole.copy()
        if slo.ttft_ms is not None:
            self.good &= self.ttft_ms <= slo.ttft_ms
        if slo.tpot_ms is not None:
            self.good &= ~(self.tpot_ms > slo.tpot_ms)

    @property
    def duration_s(self) -> float:
        """From the first counted arrival to the last counted end."""
        if not self.counted.any():
            return 0.0
        return float(self.ended_s[self.counted].max() - self.arrived_s[self.counted].min())


def summary_of(columns: Columns, slo: Slo, warmup_s: float = 0.0) -> tuple[Summary, Beyond]:
    """Both, of what arrived after the warm-up."""
    rows = _Rows(columns, warmup_s, slo)
    counted, whole = rows.counted, rows.whole
    requests, completed = int(counted.sum()), int(whole.sum())
    duration_s = rows.duration_s
    prompt, output, cached = (
        int(column[whole].sum()) for column in (rows.prompt, rows.output, rows.cached)
    )
    latencies = {
        "ttft_ms": rows.ttft_ms[whole],
        "tpot_ms": rows.tpot_ms[whole & (rows.output > 1)],
        "e2e_ms": rows.e2e_ms[whole],
    }
    good = int(rows.good.sum())
    summary = Summary(
        requests=requests,
        completed=completed,
        errors={kind.value: count for kind, count in columns.errors(counted).items()},
        error_samples={kind.value: detail for kind, detail in columns.details.items()},
        short_answers=0,
        prompts_miscounted=0,
        duration_s=duration_s,
        scheduled_per_s=_per_s(requests - 1, _span_s(rows.arrived_s[counted])),
        completed_per_s=_per_s(completed, duration_s),
        output_tokens_per_s=_per_s(output, duration_s),
        total_tokens_per_s=_per_s(prompt + output, duration_s),
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        cached_ratio=cached / prompt if prompt else None,
        concurrency_max=_concurrency_max(rows),
        ttft_ms=spread(latencies["ttft_ms"]),
        tpot_ms=spread(latencies["tpot_ms"]),
        itl_ms=None,
        e2e_ms=spread(latencies["e2e_ms"]),
        goodput=Goodput(
            slo=slo, share=good / requests if requests else 0.0, rate_per_s=_per_s(good, duration_s)
        ),
        balance=_balance(rows),
        tenants=_tenants(columns, rows),
        curves={
            name: np.percentile(values, CURVE_PERCENTILES).tolist()
            for name, values in latencies.items()
            if values.size
        },
        series=_series(rows) if requests else None,
    )
    return summary, _beyond(rows, prompt)


def _beyond(rows: _Rows, prompt: int) -> Beyond:
    whole = rows.whole
    wrong = int(np.abs(rows.predicted[whole] - rows.cached[whole]).sum())
    return Beyond(
        floor_ms=spread(rows.floor_ms[whole]),
        over_floor_ms=spread((rows.ttft_ms - rows.floor_ms)[whole]),
        predicted_ratio=float(rows.predicted[whole].sum()) / prompt if prompt else 0.0,
        mispredicted_ratio=wrong / prompt if prompt else 0.0,
    )


def worker_name(place: int) -> str:
    """The id of the worker at a place in the fleet."""
    return f"sim-{place:04d}"


def _balance(rows: _Rows) -> Balance | None:
    whole = rows.whole
    if not whole.any():
        return None
    places = rows.worker[whole]

    def per_worker(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.bincount(places, weights=values).astype(np.int64)

    requests = np.bincount(places)
    prompt, cached, output = (
        per_worker(column[whole]) for column in (rows.prompt, rows.cached, rows.output)
    )
    used = np.flatnonzero(requests)
    return Balance(
        workers={
            worker_name(place): WorkerLoad(
                requests=int(requests[place]),
                prompt_tokens=int(prompt[place]),
                cached_tokens=int(cached[place]),
                output_tokens=int(output[place]),
            )
            for place in used.tolist()
        },
        requests_max_over_mean=float(requests[used].max() / requests[used].mean()),
        tokens_max_over_mean=_max_over_mean((prompt - cached + output)[used]),
    )


def _max_over_mean(values: npt.NDArray[np.int64]) -> float:
    mean = float(values.mean())
    return float(values.max()) / mean if mean else 1.0


def _tenants(columns: Columns, rows: _Rows) -> dict[str, TenantSummary]:
    found = {}
    for tenant, number in sorted(columns.tenants.items()):
        counted = rows.counted & (rows.tenant == number)
        whole = rows.whole & counted
        if counted.any():
            found[tenant] = TenantSummary(
                requests=int(counted.sum()),
                completed=int(whole.sum()),
                output_tokens=int(rows.output[whole].sum()),
                goodput_share=float((rows.good & counted).sum() / counted.sum()),
                ttft_ms=spread(rows.ttft_ms[whole]),
            )
    return found


def _concurrency_max(rows: _Rows) -> int:
    """An end makes room for an arrival at the same time."""
    arrived, ended = rows.arrived_s[rows.counted], rows.ended_s[rows.counted]
    changes = np.concatenate((np.ones(len(arrived)), -np.ones(len(ended))))
    order = np.lexsort((changes, np.concatenate((arrived, ended))))
    return int(changes[order].cumsum().max()) if len(order) else 0


def _series(rows: _Rows) -> Series:
    counted, whole = rows.counted, rows.whole
    begin_s = float(rows.arrived_s[counted].min())
    duration_s = max(rows.duration_s, 1e-9)
    bin_s = float(max(1, math.ceil(duration_s / SERIES_BINS_MAX)))
    bins = max(1, math.ceil(duration_s / bin_s))

    def places(times_s: Floats) -> npt.NDArray[np.int64]:
        found = ((times_s - begin_s) / bin_s).astype(np.int64)
        return np.clip(found, 0, bins - 1)

    sent = np.bincount(places(rows.arrived_s[counted]), minlength=bins)
    ended = np.bincount(places(rows.ended_s[counted]), minlength=bins)
    failed = np.bincount(places(rows.ended_s[counted & ~whole]), minlength=bins)
    of_bin = places(rows.arrived_s[whole])
    edges = np.searchsorted(of_bin, np.arange(bins + 1))
    ttft_ms = rows.ttft_ms[whole]
    firsts = [ttft_ms[start:end] for start, end in pairwise(edges)]
    return Series(
        bin_s=bin_s,
        sent_per_s=(sent / bin_s).tolist(),
        done_per_s=((ended - failed) / bin_s).tolist(),
        failed_per_s=(failed / bin_s).tolist(),
        output_tokens_per_s=(_tokens_by_bin(rows, begin_s, bin_s, bins) / bin_s).tolist(),
        in_flight=(sent.cumsum() - ended.cumsum()).astype(np.float64).tolist(),
        ttft_ms_p50=[_quantile(one, 50) for one in firsts],
        ttft_ms_p99=[_quantile(one, 99) for one in firsts],
    )


def _tokens_by_bin(rows: _Rows, begin_s: float, bin_s: float, bins: int) -> Floats:
    """Output tokens in each bin, each answer's spread evenly from its first to its last one."""
    whole = rows.whole
    first = (rows.first_s[whole] - begin_s) / bin_s
    last = np.maximum((rows.ended_s[whole] - begin_s) / bin_s, first + 1e-9)
    rate = rows.output[whole] / (last - first)
    edges = np.arange(bins + 1)
    # Tokens until an edge are linear in it: sums over the answers begun less those ended by then.
    until = _ramp(first, rate, edges) - _ramp(last, rate, edges)
    return np.diff(until)


def _ramp(starts: Floats, rates: Floats, edges: npt.NDArray[np.int64]) -> Floats:
    """The sum of `rate * (edge - start)` over all starts before each edge."""
    order = np.argsort(starts, kind="stable")
    starts, rates = starts[order], rates[order]
    known = np.searchsorted(starts, edges)
    rate = np.concatenate(([0.0], rates.cumsum()))[known]
    offset = np.concatenate(([0.0], (rates * starts).cumsum()))[known]
    total: Floats = rate * edges - offset
    return total


def _span_s(times_s: Floats) -> float:
    return float(times_s.max() - times_s.min()) if times_s.size else 0.0


def _per_s(number: float, duration_s: float) -> float:
    return number / duration_s if duration_s > 0 else 0.0


def _quantile(values: Floats, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values.size else None
