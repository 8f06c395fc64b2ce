"""The files of a comparison: its numbers, its tables, and a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.charts import COLOURS, LINEAR, LOG, PERCENTILES, Axis, Chart, Line, draw
from loadtest.comparison import measures
from loadtest.comparison.measures import Measure
from loadtest.comparison.results import ComparisonResult, write_comparison
from loadtest.comparison.tables import (
    OVERHEAD_READING,
    READING,
    LoadTable,
    Table,
    facts_of,
    load_tables,
    markdown_of,
    not_counted,
    overhead_table,
    relative_table,
)
from loadtest.metrics import CURVE_PERCENTILES
from loadtest.pages import page_template

TABLE_FILE = "table.md"
PAGE_FILE = "report.html"
_TEMPLATE = "comparison.html.jinja"
_WIDE_RANGE = 10.0
"""Values further apart than this are drawn on a logarithmic scale."""
_PERCENT = 100.0


@dataclass(frozen=True)
class Section:
    """One workload on the page."""

    workload: str
    charts: list[tuple[str, str]]
    """Titles and drawings."""
    tables: list[Table]


def write_all(directory: Path, result: ComparisonResult) -> list[Path]:
    """Writes them; returns where they are."""
    numbers = write_comparison(directory, result)
    table = directory / TABLE_FILE
    table.write_text(markdown_of(result), encoding="utf-8")
    page = directory / PAGE_FILE
    page.write_text(render_page(result), encoding="utf-8")
    return [numbers, table, page]


def render_page(result: ComparisonResult) -> str:
    """One page that needs nothing but itself."""
    names = dict.fromkeys(cell.contender for cell in result.cells)
    colours = {name: place % COLOURS for place, name in enumerate(names)}
    return page_template(_TEMPLATE).render(
        result=result,
        facts=facts_of(result),
        reading=READING,
        overhead_reading=OVERHEAD_READING,
        relative=relative_table(result),
        overhead=overhead_table(result),
        colours=colours,
        sections=_sections(result, colours),
        not_counted=not_counted(result),
    )


def _sections(result: ComparisonResult, colours: dict[str, int]) -> list[Section]:
    loads = load_tables(result)
    sections = []
    for workload in dict.fromkeys(load.workload for load in loads):
        its = [load for load in loads if load.workload == workload]
        charts = [_percentiles(result, load, colours) for load in its]
        if len(its) > 1:
            charts = [*_over_load(its, colours), *charts]
        sections.append(Section(workload, charts, [load.table for load in its]))
    return sections


def _over_load(loads: Sequence[LoadTable], colours: dict[str, int]) -> list[tuple[str, str]]:
    """How the contenders fare as the load rises."""

    def drawn(title: str, unit: str, *of: Measure) -> tuple[str, str]:
        percent = _PERCENT if of[0].form == "share" else 1.0
        lines = [
            Line(
                name,
                [
                    (row.rate_per_s, None if value is None else value * percent)
                    for load in loads
                    for row in load.rows
                    if row.contender == name
                    for value in [row.middle(measure)]
                ],
                colour,
                is_dashed=order > 0,
            )
            for name, colour in colours.items()
            for order, measure in enumerate(of)
        ]
        return title, draw(Chart(title, "offered requests/s", unit, lines, LINEAR, _axis(lines)))

    return [
        drawn("TTFT: median, p99 dashed", "ms", measures.TTFT_P50, measures.TTFT_P99),
        drawn(
            "TTFT over its floor: mean, p99 dashed",
            "ms",
            measures.OVER_FLOOR_MEAN,
            measures.OVER_FLOOR_P99,
        ),
        drawn("Goodput", "% of requests", measures.GOODPUT),
        drawn("Cached of prompt tokens", "%", measures.CACHED),
        drawn("TPOT: mean, p99 dashed", "ms", measures.TPOT_MEAN, measures.TPOT_P99),
    ]


def _percentiles(
    result: ComparisonResult, load: LoadTable, colours: dict[str, int]
) -> tuple[str, str]:
    """The whole distribution of TTFT; of repeated runs, the first."""
    firsts = {
        cell.contender: [value * cell.speed for value in cell.run.summary.curves["ttft_ms"]]
        for cell in reversed(result.cells)
        if (cell.workload, cell.level) == (load.workload, load.level)
        and "ttft_ms" in cell.run.summary.curves
    }
    lines = [
        Line(name, list(zip(CURVE_PERCENTILES, firsts[name], strict=True)), colours[name])
        for name in colours
        if name in firsts
    ]
    title = f"TTFT at {load.level:g} of the knee"
    return title, draw(Chart(title, "percentile", "ms", lines, PERCENTILES, _axis(lines)))


def _axis(lines: Sequence[Line]) -> Axis:
    values = [y for line in lines for _, y in line.points if y is not None]
    if values and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        return LOG
    return LINEAR
