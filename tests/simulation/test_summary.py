"""The columns' summary says what the load test's would say of the same requests."""

from __future__ import annotations

import math

import msgspec
import pytest

from loadtest.metrics import Summary, summarize
from loadtest.plan import Slo
from loadtest.records import RequestRecord
from loadtest.simulation.columns import ERROR_KINDS, Columns
from loadtest.simulation.plan import Failure
from loadtest.simulation.summary import summary_of, worker_name
from tests.simulation.fleets import simulated

SLO = Slo(ttft_ms=60.0, tpot_ms=14.0)


def records(columns: Columns) -> list[RequestRecord]:
    ends = columns._end
    return [
        RequestRecord(
            number=row,
            tenant="t",
            session="",
            scheduled_s=columns.arrived_s[row],
            sent_s=columns.arrived_s[row],
            ended_s=columns.ended_s[row],
            output_asked=columns.output_tokens[row],
            first_s=None if math.isnan(columns.first_s[row]) else columns.first_s[row],
            last_s=columns.ended_s[row],
            prompt_tokens=columns.prompt_tokens[row],
            cached_tokens=columns.cached_tokens[row],
            output_tokens=columns.output_tokens[row],
            worker=worker_name(columns.worker[row]),
            error=ERROR_KINDS[ends[row]] if ends[row] >= 0 else None,
        )
        for row in range(len(columns))
    ]


@pytest.mark.parametrize("warmup_s", [0.0, 3.0])
def test_both_summaries_agree(warmup_s: float) -> None:
    columns = simulated(failures=(Failure(3.5, 1, None),)).columns
    ours, _ = summary_of(columns, SLO, warmup_s)
    theirs = summarize(records(columns), SLO, warmup_s)
    skipped = {"curves", "series", "error_samples", "itl_ms"}
    for name in set(Summary.__struct_fields__) - skipped:
        got, expected = getattr(ours, name), getattr(theirs, name)
        assert flat(got) == pytest.approx(flat(expected)), name
    assert ours.curves["ttft_ms"] == pytest.approx(theirs.curves["ttft_ms"])
    assert ours.series is not None
    assert theirs.series is not None
    for name in ("bin_s", "sent_per_s", "done_per_s", "failed_per_s", "in_flight", "ttft_ms_p99"):
        assert getattr(ours.series, name) == pytest.approx(getattr(theirs.series, name)), name
    assert sum(ours.series.output_tokens_per_s) * ours.series.bin_s == pytest.approx(
        ours.output_tokens
    )


def flat(value: object) -> dict[str, object]:
    """The leaves of plain data by their path."""
    data = msgspec.to_builtins(value)
    if not isinstance(data, dict):
        return {"": data}
    return {
        f"{name}.{path}": leaf for name, inner in data.items() for path, leaf in flat(inner).items()
    }


def test_the_floor_and_the_predictions_are_told() -> None:
    summary, beyond = summary_of(simulated().columns, SLO)
    assert beyond.floor_ms is not None
    assert beyond.over_floor_ms is not None
    assert summary.ttft_ms is not None
    assert beyond.floor_ms.mean + beyond.over_floor_ms.mean == pytest.approx(summary.ttft_ms.mean)
    assert beyond.predicted_ratio == pytest.approx(summary.cached_ratio, abs=0.05)
    assert beyond.mispredicted_ratio < 0.05
