"""The load test's summary against the definitions, written down naively."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.metrics import summarize
from loadtest.plan import Slo
from loadtest.records import ErrorKind, RequestRecord

times = st.floats(0.001, 5.0)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    sent_s = draw(st.floats(0.0, 50.0))
    first_s = sent_s + draw(times)
    output = draw(st.integers(1, 9))
    last_s = first_s + (draw(times) if output > 1 else 0.0)
    return RequestRecord(
        number=0,
        tenant=draw(st.sampled_from("ab")),
        session="s",
        scheduled_s=sent_s,
        sent_s=sent_s,
        ended_s=last_s,
        output_asked=output,
        first_s=first_s,
        last_s=last_s,
        prompt_tokens=draw(st.integers(1, 99)),
        cached_tokens=draw(st.one_of(st.none(), st.just(0))),
        output_tokens=output,
        worker=draw(st.sampled_from(["w0", "w1", None])),
        error=draw(st.sampled_from([None, None, None, ErrorKind.RESET])),
    )


def percentile(values: list[float], percent: float) -> float:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


@given(st.lists(records(), min_size=1, max_size=40), st.floats(1.0, 6000.0))
def test_the_summary_is_what_the_definitions_say(
    told: list[RequestRecord], limit_ms: float
) -> None:
    summary = summarize(told, Slo(ttft_ms=limit_ms, tpot_ms=limit_ms))
    whole = [one for one in told if one.error is None]
    ttfts = [((one.first_s or 0) - one.sent_s) * 1000 for one in whole]
    tpots = [
        ((one.last_s or 0) - (one.first_s or 0)) * 1000 / ((one.output_tokens or 0) - 1)
        for one in whole
        if (one.output_tokens or 0) > 1
    ]
    for values, spread in ((ttfts, summary.ttft_ms), (tpots, summary.tpot_ms)):
        assert (spread is None) == (not values)
        if spread is not None:
            assert spread.mean == pytest.approx(statistics.fmean(values))
            for percent, found in ((50, spread.p50), (99, spread.p99), (99.9, spread.p999)):
                assert found == pytest.approx(percentile(values, percent))
    good = 0
    for one in whole:
        ttft = ((one.first_s or 0) - one.sent_s) * 1000
        paced = (one.output_tokens or 0) < 2 or (one.tpot_ms or 0) <= limit_ms
        good += ttft <= limit_ms and paced
    assert summary.goodput.share == good / len(told)
    assert summary.completed + sum(summary.errors.values()) == len(told)
    duration_s = max(one.ended_s for one in told) - min(one.sent_s for one in told)
    assert summary.output_tokens_per_s * duration_s == pytest.approx(
        sum(one.output_tokens or 0 for one in whole)
    )
    if summary.series is not None:
        bins = summary.series
        assert sum(bins.sent_per_s) * bins.bin_s == pytest.approx(len(told))
        assert bins.in_flight[-1] == 0
    if summary.balance is not None:
        assert sum(one.requests for one in summary.balance.workers.values()) == len(whole)
        assert summary.balance.requests_max_over_mean >= 1.0
