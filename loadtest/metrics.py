"""From requests' records to a summary, by the field's names and definitions. Pure.

TTFT, TPOT, ITL and E2E are as `loadtest.records` says. Percentiles are exact, over all values,
interpolated linearly as numpy and `vllm bench serve` do. Latencies are of requests that were
answered whole; a request that failed is in the errors and never good. Requests scheduled in the
warm-up count nowhere. Rates are over the time from the first counted send to the last counted end.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.plan import Slo
from loadtest.records import RequestRecord

CURVE_PERCENTILES = (*range(1, 100), 99.5, 99.9)
SERIES_BINS_MAX = 600
UNKNOWN_WORKER = "?"

Values = npt.NDArray[np.float64]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity's distribution; all None-free, and absent altogether where there is no value."""

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests within the promised latencies."""

    slo: Slo
    share: float
    """Of all counted requests, failed ones included."""
    rate_per_s: float


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker did."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """How evenly work was spread over the workers that had any; 1 is even."""

    workers: dict[str, WorkerLoad]
    requests_max_over_mean: float
    tokens_max_over_mean: float
    """Of tokens computed: prompt tokens that were not cached, and output tokens."""


class TenantSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's part."""

    requests: int
    completed: int
    output_tokens: int
    goodput_share: float
    ttft_ms: Spread | None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The run over time, in bins of `bin_s`; bin i is from i * bin_s after the first counted send.

    Requests are counted at their send, ends and errors at their end, tokens at their arrival.
    """

    bin_s: float
    sent_per_s: list[float]
    done_per_s: list[float]
    failed_per_s: list[float]
    output_tokens_per_s: list[float]
    in_flight: list[float]
    """At the bin's end."""
    ttft_ms_p50: list[float | None]
    ttft_ms_p99: list[float | None]
    """Of the requests sent in the bin."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers."""

    requests: int
    completed: int
    errors: dict[str, int]
    error_samples: dict[str, str]
    """For each kind, what the first one said."""
    short_answers: int
    """Completed with fewer tokens than asked for."""
    prompts_miscounted: int
    """The server counted other prompt tokens than the workload has."""
    duration_s: float
    scheduled_per_s: float
    """What was offered, from the first to the last scheduled time."""
    completed_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    """None where no answer told."""
    cached_ratio: float | None
    """Cached by prompt tokens, of the answers that told both."""
    concurrency_max: int
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    goodput: Goodput
    balance: Balance | None
    tenants: dict[str, TenantSummary]
    curves: dict[str, list[float]]
    """For `ttft_ms`, `tpot_ms`, `itl_ms`, `e2e_ms`: values at `CURVE_PERCENTILES`."""
    series: Series | None


def summarize(records: Sequence[RequestRecord], slo: Slo, warmup_s: float = 0.0) -> Summary:
    """The summary of what was scheduled after the warm-up."""
    counted = [one for one in records if one.scheduled_s >= warmup_s]
    whole = [one for one in counted if one.error is None]
    duration_s = _duration_s(counted)
    prompt = sum(one.prompt_tokens or 0 for one in whole)
    output = sum(one.output_tokens or 0 for one in whole)
    cached, cached_of = _cached(whole)
    values = _latencies(whole)
    good = sum(is_good(one, slo) for one in counted)
    return Summary(
        requests=len(counted),
        completed=len(whole),
        errors=dict(Counter(one.error.value for one in counted if one.error)),
        error_samples=_samples(counted),
        short_answers=sum((one.output_tokens or 0) < one.output_asked for one in whole),
        prompts_miscounted=sum(_is_miscounted(one) for one in whole),
        duration_s=duration_s,
        scheduled_per_s=_offered(counted),
        completed_per_s=_per_s(len(whole), duration_s),
        output_tokens_per_s=_per_s(output, duration_s),
        total_tokens_per_s=_per_s(prompt + output, duration_s),
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached if cached_of else None,
        cached_ratio=cached / cached_of if cached_of else None,
        concurrency_max=_concurrency_max(counted),
        ttft_ms=spread(values["ttft_ms"]),
        tpot_ms=spread(values["tpot_ms"]),
        itl_ms=spread(values["itl_ms"]),
        e2e_ms=spread(values["e2e_ms"]),
        goodput=Goodput(
            slo=slo,
            share=good / len(counted) if counted else 0.0,
            rate_per_s=_per_s(good, duration_s),
        ),
        balance=balance_of(whole),
        tenants=_tenants(counted, slo),
        curves={name: _curve(of) for name, of in values.items() if of.size},
        series=_series(counted, whole),
    )


def is_good(record: RequestRecord, slo: Slo) -> bool:
    """Answered whole and within the promised latencies; one token has no TPOT to break."""
    if record.error is not None or record.ttft_ms is None:
        return False
    if slo.ttft_ms is not None and record.ttft_ms > slo.ttft_ms:
        return False
    return slo.tpot_ms is None or record.tpot_ms is None or record.tpot_ms <= slo.tpot_ms


def spread(values: Values) -> Spread | None:
    """None for no values."""
    if not values.size:
        return None
    p50, p90, p95, p99, p999 = np.percentile(values, [50, 90, 95, 99, 99.9])
    return Spread(
        count=int(values.size),
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        p50=float(p50),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        p999=float(p999),
        max=float(values.max()),
    )


def balance_of(whole: Iterable[RequestRecord]) -> Balance | None:
    """None unless the target names its workers."""
    by_worker: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in whole:
        by_worker[record.worker or UNKNOWN_WORKER].append(record)
    if set(by_worker) <= {UNKNOWN_WORKER}:
        return None
    loads = {
        worker: WorkerLoad(
            requests=len(its),
            prompt_tokens=sum(one.prompt_tokens or 0 for one in its),
            cached_tokens=sum(one.cached_tokens or 0 for one in its),
            output_tokens=sum(one.output_tokens or 0 for one in its),
        )
        for worker, its in sorted(by_worker.items())
    }
    return Balance(
        workers=loads,
        requests_max_over_mean=_max_over_mean([one.requests for one in loads.values()]),
        tokens_max_over_mean=_max_over_mean(
            [one.prompt_tokens - one.cached_tokens + one.output_tokens for one in loads.values()]
        ),
    )


def gaps_ms(records: Iterable[RequestRecord]) -> Values:
    """All times between chunks with content."""
    joined = b"".join(record.gaps_ms for record in records)
    return np.frombuffer(joined, dtype="<f4").astype(np.float64)


def _latencies(whole: Sequence[RequestRecord]) -> dict[str, Values]:
    return {
        "ttft_ms": _values(one.ttft_ms for one in whole),
        "tpot_ms": _values(one.tpot_ms for one in whole),
        "itl_ms": gaps_ms(whole),
        "e2e_ms": _values(one.e2e_ms for one in whole),
    }


def _values(numbers: Iterable[float | None]) -> Values:
    return np.array([number for number in numbers if number is not None], dtype=np.float64)


def _curve(values: Values) -> list[float]:
    curve: list[float] = np.percentile(values, CURVE_PERCENTILES).tolist()
    return curve


def _duration_s(counted: Sequence[RequestRecord]) -> float:
    if not counted:
        return 0.0
    return max(one.ended_s for one in counted) - min(one.sent_s for one in counted)


def _offered(counted: Sequence[RequestRecord]) -> float:
    """Requests after the first by the time that their scheduling took."""
    if len(counted) < 2:
        return 0.0
    times_s = [one.scheduled_s for one in counted]
    return _per_s(len(counted) - 1, max(times_s) - min(times_s))


def _per_s(number: float, duration_s: float) -> float:
    return number / duration_s if duration_s > 0 else 0.0


def _cached(whole: Iterable[RequestRecord]) -> tuple[int, int]:
    """Cached tokens and prompt tokens of the answers that tell both."""
    told = [
        (one.cached_tokens, one.prompt_tokens)
        for one in whole
        if one.cached_tokens is not None and one.prompt_tokens
    ]
    return sum(cached for cached, _ in told), sum(prompt for _, prompt in told)


def _samples(counted: Iterable[RequestRecord]) -> dict[str, str]:
    samples: dict[str, str] = {}
    for record in counted:
        if record.error is not None:
            said = f"{record.status}: {record.detail}" if record.status else record.detail
            samples.setdefault(record.error.value, said)
    return samples


def _is_miscounted(record: RequestRecord) -> bool:
    expected, counted = record.prompt_expected, record.prompt_tokens
    return expected is not None and counted is not None and expected != counted


def _max_over_mean(numbers: Sequence[int]) -> float:
    total = sum(numbers)
    return max(numbers) * len(numbers) / total if total else 1.0


def _tenants(counted: Iterable[RequestRecord], slo: Slo) -> dict[str, TenantSummary]:
    by_tenant: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in counted:
        by_tenant[record.tenant].append(record)
    summaries = {}
    for tenant, its in sorted(by_tenant.items()):
        whole = [one for one in its if one.error is None]
        summaries[tenant] = TenantSummary(
            requests=len(its),
            completed=len(whole),
            output_tokens=sum(one.output_tokens or 0 for one in whole),
            goodput_share=sum(is_good(one, slo) for one in its) / len(its),
            ttft_ms=spread(_values(one.ttft_ms for one in whole)),
        )
    return summaries


def _concurrency_max(counted: Iterable[RequestRecord]) -> int:
    """Most requests between send and end at one time; an end makes room for a send."""
    changes = sorted(change for one in counted for change in ((one.sent_s, 1), (one.ended_s, -1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _series(counted: Sequence[RequestRecord], whole: Sequence[RequestRecord]) -> Series | None:
    if not counted:
        return None
    begin_s = min(one.sent_s for one in counted)
    duration_s = max(_duration_s(counted), 1e-9)
    bin_s = float(max(1, math.ceil(duration_s / SERIES_BINS_MAX)))
    bins = max(1, math.ceil(duration_s / bin_s))

    def tally(times_s: Iterable[float] | Values) -> Values:
        places = ((np.fromiter(times_s, dtype=np.float64) - begin_s) / bin_s).astype(np.int64)
        return np.bincount(np.clip(places, 0, bins - 1), minlength=bins).astype(np.float64)

    sent, ended = tally(one.sent_s for one in counted), tally(one.ended_s for one in counted)
    failed = tally(one.ended_s for one in counted if one.error is not None)
    firsts: list[list[float]] = [[] for _ in range(bins)]
    for one in whole:
        if one.ttft_ms is not None:
            firsts[min(int((one.sent_s - begin_s) / bin_s), bins - 1)].append(one.ttft_ms)
    arrivals = [arrivals_s(one) for one in counted]
    tokens = tally(np.concatenate(arrivals) if arrivals else np.empty(0))
    return Series(
        bin_s=bin_s,
        sent_per_s=(sent / bin_s).tolist(),
        done_per_s=((ended - failed) / bin_s).tolist(),
        failed_per_s=(failed / bin_s).tolist(),
        output_tokens_per_s=(tokens / bin_s).tolist(),
        in_flight=(sent.cumsum() - ended.cumsum()).tolist(),
        ttft_ms_p50=[_quantile(one, 50) for one in firsts],
        ttft_ms_p99=[_quantile(one, 99) for one in firsts],
    )


def arrivals_s(record: RequestRecord) -> Values:
    """When the tokens came, a chunk counted as often as its answer has tokens to a chunk."""
    if record.first_s is None:
        return np.empty(0)
    gaps_s = np.frombuffer(record.gaps_ms, dtype="<f4").astype(np.float64) / 1000.0
    times_s = record.first_s + np.concatenate(([0.0], gaps_s.cumsum()))
    tokens = record.output_tokens or times_s.size
    spread_out: Values = times_s[np.arange(tokens) * times_s.size // tokens]
    return spread_out


def _quantile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
