from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from loadtest.comparison.reports import render_page, write_all
from loadtest.comparison.results import ComparisonResult, rows_of
from loadtest.comparison.tables import markdown_of, tables_of
from tests.unit.loadtest.comparison.made import cell, comparison


def test_a_row_is_the_median_of_its_repeats() -> None:
    cells = [cell(repeat=number, ttft_s=ttft_s) for number, ttft_s in enumerate((0.1, 0.3, 0.2))]
    (row,) = rows_of(cells)
    assert (row.runs, row.runs_valid, row.requests) == (3, 3, 12)
    assert row.ttft_ms_p50 == pytest.approx(200.0)


def test_a_run_that_does_not_count_leaves_the_row_to_the_others() -> None:
    (row,) = rows_of([cell(ttft_s=0.1), cell(repeat=1, ttft_s=9.0, valid=False)])
    assert (row.runs, row.runs_valid) == (2, 1)
    assert row.ttft_ms_p50 == pytest.approx(100.0)


def test_a_row_without_any_valid_run_is_shown_and_marked() -> None:
    text = markdown_of(comparison([cell(valid=False)]))
    assert "rhizome/cost (not valid)" in text
    assert "the client was late" in text


def test_failed_requests_are_counted_and_cost_goodput() -> None:
    (row,) = rows_of([cell(failed=4)])
    assert (row.requests, row.errors) == (8, 4)
    assert row.goodput_share == pytest.approx(0.5)


def test_the_routers_cpu_is_told_by_request_answered() -> None:
    (row,) = rows_of([cell()])
    assert row.router_cpu_ms_per_request == pytest.approx(5.0)


def test_tables_are_by_workload_and_rising_load() -> None:
    cells = [cell(level=1.3), cell("smg/cache_aware", level=1.3), cell(level=0.7)]
    tables = tables_of(comparison(cells))
    assert [(table.level, len(table.lines)) for table in tables] == [(0.7, 1), (1.3, 2)]


def test_a_partial_comparison_says_so_and_what_it_has_is_written(tmp_path: Path) -> None:
    result = comparison([cell()], partial=True)
    numbers, table, page = write_all(tmp_path, result)
    assert msgspec.json.decode(numbers.read_bytes(), type=ComparisonResult) == result
    assert "Partial" in table.read_text()
    assert "Partial" in page.read_text()


def test_the_page_needs_nothing_but_itself() -> None:
    cells = [cell(level=level) for level in (0.7, 1.0)] + [cell("smg/<b>")]
    page = render_page(comparison(cells))
    assert "<svg" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "smg/<b>" not in page
