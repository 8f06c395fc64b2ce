"""The summary by hand-made runs."""

from __future__ import annotations

import pytest

from loadtest.metrics import arrivals_s, summarize
from loadtest.plan import Slo
from loadtest.records import ErrorKind
from tests.unit.loadtest.records import record

SLO = Slo(ttft_ms=150.0, tpot_ms=60.0)


def test_latencies_are_of_whole_answers_and_goodput_of_all() -> None:
    records = [
        record(0, 0.0),
        record(1, 1.0, first_s=1.3, last_s=1.4),
        record(2, 2.0, error=ErrorKind.RESET, detail="gone", output_tokens=None),
        record(3, 3.0, error=ErrorKind.HTTP_429, status=429, first_s=None, detail="full"),
    ]
    summary = summarize(records, SLO)
    assert (summary.requests, summary.completed) == (4, 2)
    assert summary.errors == {"reset": 1, "http_429": 1}
    assert summary.error_samples == {"reset": "200: gone", "http_429": "429: full"}
    assert summary.ttft_ms is not None
    assert (summary.ttft_ms.count, summary.ttft_ms.max) == pytest.approx((2, 300.0))
    assert summary.goodput.share == 0.25
    assert summary.duration_s == pytest.approx(3.2)
    assert summary.goodput.rate_per_s == pytest.approx(1 / 3.2)
    assert summary.scheduled_per_s == pytest.approx(1.0)


def test_the_warm_up_counts_nowhere() -> None:
    summary = summarize([record(0, 0.0), record(1, 5.0), record(2, 6.0)], SLO, warmup_s=5.0)
    assert summary.requests == 2
    assert summary.duration_s == pytest.approx(1.2)
    assert summary.series is not None
    assert sum(summary.series.sent_per_s) == 2


def test_cached_ratio_is_of_the_answers_that_tell() -> None:
    records = [record(0, cached_tokens=8), record(1, cached_tokens=0), record(2)]
    summary = summarize(records, SLO)
    assert (summary.cached_tokens, summary.cached_ratio) == (8, 0.4)
    assert summarize([record()], SLO).cached_ratio is None


def test_balance_is_of_tokens_computed() -> None:
    records = [
        record(0, worker="a", prompt_tokens=100, cached_tokens=100, output_tokens=10),
        record(1, worker="a", prompt_tokens=100, cached_tokens=90, output_tokens=10),
        record(2, worker="b", prompt_tokens=60, cached_tokens=0, output_tokens=0),
    ]
    balance = summarize(records, SLO).balance
    assert balance is not None
    assert balance.requests_max_over_mean == pytest.approx(4 / 3)
    assert balance.tokens_max_over_mean == pytest.approx(60 / 45)
    assert summarize([record()], SLO).balance is None


def test_short_answers_and_miscounted_prompts_are_counted() -> None:
    records = [record(0, output_tokens=2), record(1, prompt_expected=10), record(2)]
    summary = summarize([*records, record(3, prompt_expected=11)], SLO)
    assert (summary.short_answers, summary.prompts_miscounted) == (1, 1)


def test_one_token_has_no_pace_and_breaks_no_promise_of_it() -> None:
    only = record(0, output_asked=1, output_tokens=1, last_s=0.1, gaps_ms=b"")
    summary = summarize([only], SLO)
    assert summary.tpot_ms is None
    assert summary.goodput.share == 1.0
    assert summarize([record(0, first_s=0.19)], Slo(ttft_ms=None)).goodput.share == 1.0


def test_tenants_are_told_apart() -> None:
    records = [record(0, tenant="a"), record(1, tenant="b", first_s=0.9, last_s=1.0)]
    tenants = summarize(records, SLO).tenants
    assert (tenants["a"].goodput_share, tenants["b"].goodput_share) == (1.0, 0.0)


def test_concurrency_counts_what_is_between_send_and_end() -> None:
    records = [record(0, 0.0, ended_s=2.0), record(1, 1.0, ended_s=3.0), record(2, 2.0)]
    assert summarize(records, SLO).concurrency_max == 2


def test_a_chunk_of_several_tokens_counts_as_often() -> None:
    told = record(0, output_tokens=6)
    assert arrivals_s(told).tolist() == pytest.approx([0.1, 0.1, 0.15, 0.15, 0.2, 0.2])


def test_a_long_run_has_wider_bins() -> None:
    records = [record(0, 0.0), record(1, 3000.0)]
    series = summarize(records, SLO).series
    assert series is not None
    assert (series.bin_s, len(series.sent_per_s)) == (6.0, 501)
    assert series.ttft_ms_p50[1] is None
    assert sum(series.output_tokens_per_s) * series.bin_s == pytest.approx(6)


def test_a_run_without_a_request_has_a_summary() -> None:
    summary = summarize([], SLO)
    assert (summary.requests, summary.series, summary.ttft_ms) == (0, None, None)
    assert summary.goodput.share == 0.0
