"""Results: when they count, how they are kept, where the knee is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.metrics import summarize
from loadtest.plan import Limits, Slo
from loadtest.records import ErrorKind
from loadtest.results import (
    RunResult,
    SweepResult,
    faults_of,
    read_result,
    write_records,
    write_result,
)
from loadtest.running import knee_of, sweep
from rhizome.errors import TraceError
from tests.unit.loadtest.records import CALM, record, run_result


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({"send_lag_ms_p99": 60.0}, "client process 1: send_lag_ms_p99 is 60, over 25"),
        ({"loop_lag_ms_p99": 26.0}, "client process 1: loop_lag_ms_p99 is 26, over 25"),
        ({"cpu_share": 0.95}, "client process 1: cpu_share is 0.95, over 0.85"),
    ],
)
def test_a_client_that_does_not_keep_up_makes_no_valid_run(
    late: dict[str, float], said: str
) -> None:
    summary = summarize([record()], Slo())
    assert faults_of(Limits(), [CALM, CALM], summary) == []
    faults = faults_of(Limits(), [CALM, msgspec.structs.replace(CALM, **late)], summary)
    assert faults == [said]


def test_a_run_counts_only_if_all_was_sent_as_it_should_be() -> None:
    full = summarize([record(0), record(1, error=ErrorKind.CLIENT_FULL)], Slo())
    assert "did not send 1 requests" in faults_of(Limits(), [CALM], full)[0]
    other = summarize([record(0, prompt_expected=99)], Slo())
    assert "another tokenizer" in faults_of(Limits(), [CALM], other)[0]
    assert faults_of(Limits(), [CALM], summarize([], Slo())) == ["no request was answered"]


def test_a_target_that_goes_away_for_good_makes_a_partial_run() -> None:
    answered = [record(number, sent_s=float(number)) for number in range(4)]
    unmet = [record(n, sent_s=float(n), error=ErrorKind.CONNECT) for n in range(4, 8)]
    gone = run_result(records=[*unmet, *answered])
    assert (gone.partial, gone.valid) == (True, False)
    assert gone.partial_because == [
        "the target was gone from 4.0 s on: the last 4 requests found no connection"
    ]
    back = run_result(records=[*answered, *unmet, record(8, sent_s=8.0)])
    assert (back.partial, back.valid) == (False, True)


def test_a_result_is_read_as_it_was_written_and_holds_no_key(tmp_path: Path) -> None:
    result = run_result(keys={"": "rzk-secret"}, faults=["client process 0 was stopped"])
    path = tmp_path / "deep" / "result.json"
    write_result(path, result)
    assert read_result(path) == result
    assert "secret" not in path.read_text()
    assert (result.partial, result.valid) == (True, False)
    assert [one.name for one in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["{}", "[", '{"schema": "other/1"}', '{"schema": 3}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"x\.json"):
        read_result(path)


def test_records_are_written_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, [record(0), record(1, error=ErrorKind.RESET)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["error"] for row in rows] == [None, "reset"]
    assert "gaps_ms" not in rows[0]


def level(goodput: float, **fields: Any) -> RunResult:
    """A run with this share of good requests."""
    good = round(100 * goodput)
    records = [record(n, first_s=0.1 if n < good else 5.0, last_s=6.0) for n in range(100)]
    return run_result(records=records, slo=Slo(ttft_ms=500.0, tpot_ms=None), **fields)


@pytest.mark.parametrize(
    ("shares", "rate", "is_beyond"),
    [
        ([1.0, 0.95, 0.5, 0.1], 2.0, False),
        ([1.0, 0.5, 0.95], 1.0, False),
        ([0.95, 0.9], 2.0, True),
        ([0.2, 1.0], None, False),
    ],
)
def test_the_knee_is_the_highest_rate_with_all_below_it_carried(
    shares: list[float], rate: float | None, is_beyond: bool
) -> None:
    levels = [(float(place + 1), level(share)) for place, share in enumerate(shares)]
    knee = knee_of(levels, 0.9)
    assert (knee.rate_per_s, knee.is_beyond) == (rate, is_beyond)


class Carrying:
    """A target that carries up to a rate, and nothing above it."""

    def __init__(self, rate_max: float, partial_at: float | None = None) -> None:
        self.asked: list[float] = []
        self._rate_max = rate_max
        self._partial_at = partial_at

    async def run_at(self, rate_per_s: float) -> RunResult:
        self.asked.append(rate_per_s)
        faults = ["stopped"] if rate_per_s == self._partial_at else []
        return level(1.0 if rate_per_s <= self._rate_max else 0.1, faults=faults)


async def test_a_sweep_narrows_the_knee_and_stops_past_it() -> None:
    target = Carrying(5.0)
    result = await sweep(target.run_at, [16, 1, 2, 4, 8, 32, 64], 3, 0.9)
    assert target.asked[:5] == [1, 2, 4, 8, 16]
    assert len(target.asked) == 8
    assert result.knee.rate_per_s is not None
    assert 4.0 < result.knee.rate_per_s <= 5.0
    assert not result.partial


async def test_a_sweep_that_is_stopped_keeps_its_levels() -> None:
    target = Carrying(100.0, partial_at=2)
    result = await sweep(target.run_at, [1, 2, 4], 3, 0.9)
    assert (target.asked, result.partial) == ([1, 2], True)
    assert isinstance(result, SweepResult)
