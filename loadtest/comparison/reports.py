"""The files of a comparison: its numbers, its tables, and a page to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from loadtest.charts import COLOURS, LINEAR, LOG, PERCENTILES, Axis, Chart, Line, draw
from loadtest.comparison.results import ComparisonResult, Row, write_comparison
from loadtest.comparison.tables import (
    HEADS,
    READING,
    Table,
    facts_of,
    markdown_of,
    not_counted,
    tables_of,
)
from loadtest.metrics import CURVE_PERCENTILES

TABLE_FILE = "table.md"
PAGE_FILE = "report.html"
_TEMPLATE = Path(__file__).parents[1] / "data" / "comparison.html.jinja"
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
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        result=result,
        facts=facts_of(result),
        reading=READING,
        heads=HEADS,
        colours=colours,
        sections=_sections(result, colours),
        not_counted=not_counted(result),
    )


def _sections(result: ComparisonResult, colours: dict[str, int]) -> list[Section]:
    tables = tables_of(result)
    sections = []
    for workload in dict.fromkeys(table.workload for table in tables):
        its = [table for table in tables if table.workload == workload]
        charts = [_percentiles(result, table, colours) for table in its]
        if len(its) > 1:
            charts = [*_over_load(its, colours), *charts]
        sections.append(Section(workload, charts, its))
    return sections


def _over_load(tables: Sequence[Table], colours: dict[str, int]) -> list[tuple[str, str]]:
    """How the contenders fare as the load rises."""

    def drawn(title: str, unit: str, *of: Callable[[Row], float | None]) -> tuple[str, str]:
        lines = [
            Line(
                name,
                [
                    (row.rate_per_s, value_of(row))
                    for table in tables
                    for row in table.rows
                    if row.contender == name
                ],
                colour,
                is_dashed=order > 0,
            )
            for name, colour in colours.items()
            for order, value_of in enumerate(of)
        ]
        return title, draw(Chart(title, "offered requests/s", unit, lines, LINEAR, _axis(lines)))

    return [
        drawn(
            "TTFT: median, p99 dashed",
            "ms",
            lambda row: row.ttft_ms_p50,
            lambda row: row.ttft_ms_p99,
        ),
        drawn("Goodput", "% of requests", lambda row: row.goodput_share * _PERCENT),
        drawn("Cached of prompt tokens", "%", lambda row: (row.cached_ratio or 0.0) * _PERCENT),
        drawn(
            "TPOT: mean, p99 dashed",
            "ms",
            lambda row: row.tpot_ms_mean,
            lambda row: row.tpot_ms_p99,
        ),
    ]


def _percentiles(
    result: ComparisonResult, table: Table, colours: dict[str, int]
) -> tuple[str, str]:
    """The whole distribution of TTFT; of repeated runs, the first."""
    firsts = {
        cell.contender: cell.run.summary.curves["ttft_ms"]
        for cell in reversed(result.cells)
        if (cell.workload, cell.level) == (table.workload, table.level)
        and "ttft_ms" in cell.run.summary.curves
    }
    lines = [
        Line(name, list(zip(CURVE_PERCENTILES, firsts[name], strict=True)), colours[name])
        for name in colours
        if name in firsts
    ]
    title = f"TTFT at {table.level:g} of the knee"
    return title, draw(Chart(title, "percentile", "ms", lines, PERCENTILES, _axis(lines)))


def _axis(lines: Sequence[Line]) -> Axis:
    values = [y for line in lines for _, y in line.points if y is not None]
    if values and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        return LOG
    return LINEAR
