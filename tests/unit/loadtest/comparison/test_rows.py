from __future__ import annotations

import msgspec
import pytest

from loadtest.comparison.measures import (
    GOODPUT,
    OVER_FLOOR_MEAN,
    OVERHEAD,
    SCHEDULING,
    TTFT_MEAN,
    TTFT_P50,
)
from loadtest.comparison.rows import ratio_to, rows_of, unit_costs
from loadtest.metrics import WorkerLoad
from tests.unit.loadtest.comparison.made import cell


def test_a_row_is_the_median_of_its_repeats_with_the_lowest_and_highest() -> None:
    cells = [cell(repeat=number, ttft_s=ttft_s) for number, ttft_s in enumerate((0.1, 0.4, 0.2))]
    (row,) = rows_of(cells)
    assert (len(row.cells), row.runs_valid, row.requests) == (3, 3, 12)
    assert row.reading(TTFT_P50) == pytest.approx((200.0, 100.0, 400.0))


def test_latencies_are_in_the_engines_own_time() -> None:
    (row,) = rows_of([cell(ttft_s=0.2, speed=0.5)])
    assert row.middle(TTFT_MEAN) == pytest.approx(100.0)
    assert row.middle(OVER_FLOOR_MEAN) == pytest.approx(50.0)


def test_a_run_that_does_not_count_leaves_the_row_to_the_others() -> None:
    (row,) = rows_of([cell(ttft_s=0.1), cell(repeat=1, ttft_s=9.0, valid=False)])
    assert (len(row.cells), row.runs_valid) == (2, 1)
    assert row.middle(TTFT_P50) == pytest.approx(100.0)


def test_failed_requests_are_counted_and_cost_goodput() -> None:
    (row,) = rows_of([cell(failed=4)])
    assert (row.requests, row.errors) == (8, 4)
    assert row.middle(GOODPUT) == pytest.approx(0.5)


def test_what_a_run_does_not_tell_is_left_out_and_not_zero() -> None:
    silent = msgspec.structs.replace(cell(), outside_engines_ms=None, over_floor_ms=None)
    (row,) = rows_of([silent])
    assert row.reading(OVER_FLOOR_MEAN) is None
    (outside,) = [one for one in OVERHEAD if one.head == "ms outside the engines"]
    assert outside.written(row.middle(outside)) == "-"


def test_the_routers_cpu_is_told_by_request_and_by_token() -> None:
    (row,) = rows_of([cell()])
    by_request, by_token = OVERHEAD[0], OVERHEAD[1]
    assert row.middle(by_request) == pytest.approx(5.0)
    assert row.middle(by_token) == pytest.approx(500.0)


def test_no_two_columns_of_a_table_mean_the_same() -> None:
    assert len({measure.of for measure in SCHEDULING}) == len(SCHEDULING)


def test_contenders_are_compared_pair_by_pair_and_load_by_load() -> None:
    cells = [
        cell(level=level, repeat=repeat, ttft_s=ttft_s * (1.0 + repeat))
        for level, ttft_s in ((0.7, 0.1), (1.3, 1.0))
        for repeat in range(3)
    ]
    cells += [
        cell("smg/cache_aware", level=level, repeat=repeat, ttft_s=ttft_s * (1.0 + repeat))
        for level, ttft_s in ((0.7, 0.2), (1.3, 8.0))
        for repeat in range(3)
    ]
    found = ratio_to("rhizome/cost", rows_of(cells), TTFT_MEAN)
    assert found["rhizome/cost"] == pytest.approx((1.0, 1.0, 1.0))
    assert found["smg/cache_aware"] == pytest.approx((4.0, 2.0, 8.0))


def test_a_pair_with_a_run_that_does_not_count_is_left_out() -> None:
    cells = [cell(ttft_s=0.1), cell("smg/cache_aware", ttft_s=0.2, valid=False)]
    assert "smg/cache_aware" not in ratio_to("rhizome/cost", rows_of(cells), TTFT_MEAN)


def test_the_parts_of_the_cpu_are_found_again() -> None:
    def run(workload: str, requests: int, prompt: int, output: int) -> float:
        return 0.002 * requests + 0.001 * prompt / 1000 + 20e-6 * output

    loads = {
        "sessions": (300, 400_000, 12_000),
        "agents": (60, 400_000, 2_000),
        "decode-heavy": (40, 4_000, 8_000),
    }
    cells = [
        cell(
            workload=workload,
            load=WorkerLoad(
                requests=requests, prompt_tokens=prompt, cached_tokens=0, output_tokens=output
            ),
            router_cpu_s=run(workload, requests, prompt, output),
        )
        for workload, (requests, prompt, output) in loads.items()
    ]
    assert unit_costs(cells) == pytest.approx((2.0, 1.0, 20.0))
    assert unit_costs(cells[:2]) is None
