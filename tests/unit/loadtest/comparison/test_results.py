from __future__ import annotations

from pathlib import Path

import msgspec

from loadtest.comparison.reports import render_page, write_all
from loadtest.comparison.results import REAL_ENGINES, ComparisonResult
from loadtest.comparison.tables import (
    facts_of,
    load_tables,
    markdown_of,
    overhead_table,
    relative_table,
)
from tests.unit.loadtest.comparison.made import cell, comparison


def test_a_row_without_any_valid_run_is_shown_and_marked() -> None:
    text = markdown_of(comparison([cell(valid=False)]))
    assert "rhizome/cost (not valid)" in text
    assert "the client was late" in text


def test_tables_are_by_workload_and_rising_load() -> None:
    cells = [cell(level=1.3), cell("smg/cache_aware", level=1.3), cell(level=0.7)]
    loads = load_tables(comparison(cells))
    assert [(load.level, len(load.table.lines)) for load in loads] == [(0.7, 1), (1.3, 2)]


def test_every_line_fits_its_heads() -> None:
    result = comparison([cell(), cell("smg/cache_aware"), cell(workload="agents")])
    relative = relative_table(result)
    assert relative is not None
    for table in (relative, overhead_table(result), *(one.table for one in load_tables(result))):
        assert all(len(line) == len(table.heads) for line in table.lines)


def test_repeated_runs_show_their_lowest_and_highest() -> None:
    text = markdown_of(comparison([cell(repeat=n, ttft_s=0.1 * (n + 1)) for n in range(3)]))
    assert "200 [100, 300]" in text


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


def test_the_workers_are_told_to_be_simulated_or_real() -> None:
    simulated = comparison([cell()])
    assert "1 workers (simulated, profile p)" in facts_of(simulated)
    real = msgspec.structs.replace(simulated, profile=REAL_ENGINES)
    assert f"1 workers ({REAL_ENGINES})" in facts_of(real)
