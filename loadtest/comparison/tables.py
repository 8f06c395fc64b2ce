"""The tables of a comparison, in words, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.comparison.measures import OVERHEAD, RELATIVE, SCHEDULING, Measure
from loadtest.comparison.results import REAL_ENGINES, CellResult, ComparisonResult
from loadtest.comparison.rows import Reading, Row, ratio_to, rows_of, unit_costs

HEADS = ("contender", *(measure.head for measure in SCHEDULING), "errors")
READING = (
    "Loads are shares of the highest rate that Rhizome's round robin carries. Latencies are in ms"
    " of the engines' own time (what the clock showed, times their speed), of requests answered"
    " whole; of repeated runs the median, and in brackets the lowest and highest. Over floor is"
    " TTFT less that of an idle engine that holds every prefix sent before; goodput is the share of"
    " all requests answered within the promised latencies; max/mean is over the workers, of"
    " requests and of tokens computed, by the engines' own counters."
)
OVERHEAD_READING = (
    "What the router cost the machine, over all its runs, in the machine's own time: medians of the"
    " runs, and in brackets the lowest and highest. The CPU's parts are fitted over the workloads."
    " Outside the engines is the client's mean TTFT less the engines' own: router, network, and"
    " waiting in the router's line. A run in which the engines, the client or the machine were"
    " late is not counted."
)


@dataclass(frozen=True)
class Table:
    """Rows of words under heads, the first of which is a contender's name."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class LoadTable:
    """One workload under one load."""

    workload: str
    level: float
    rows: Sequence[Row]

    @property
    def table(self) -> Table:
        first = self.rows[0]
        runs = max(len(row.cells) for row in self.rows)
        title = (
            f"{self.level:g} of the knee: {first.rate_per_s:.3g} requests/s by the clock,"
            f" {first.requests} requests in {runs} run(s)"
        )
        return Table(title, HEADS, [_cells(row) for row in self.rows])


def load_tables(result: ComparisonResult) -> list[LoadTable]:
    """By workload as they were run, loads ascending."""
    rows = rows_of(result.cells)
    tables = []
    for workload in dict.fromkeys(row.workload for row in rows):
        for level in sorted({row.level for row in rows if row.workload == workload}):
            its = [row for row in rows if (row.workload, row.level) == (workload, level)]
            tables.append(LoadTable(workload, level, its))
    return tables


def relative_table(result: ComparisonResult) -> Table | None:
    """All contenders as multiples of the first; None where there is nothing to compare."""
    rows = rows_of(result.cells)
    names = list(dict.fromkeys(row.contender for row in rows))
    if len(names) < 2:
        return None
    columns = [ratio_to(names[0], rows, measure) for measure in RELATIVE]
    return Table(
        f"Against {names[0]}: geometric mean over all loads, [lowest, highest] load; above 1 is"
        " slower",
        ("contender", *_distinct_heads(RELATIVE)),
        [[name, *(_ratio(column.get(name)) for column in columns)] for name in names],
    )


def overhead_table(result: ComparisonResult) -> Table:
    """What each router cost, over all loads."""
    by_contender: dict[str, list[CellResult]] = {}
    for cell in result.cells:
        by_contender.setdefault(cell.contender, []).append(cell)
    lines = []
    for name, cells in by_contender.items():
        row = Row("", 0.0, name, cells)
        costs = unit_costs(row.used)
        parts = ["-"] * 3 if costs is None else [f"{cost:.2f}" for cost in costs]
        lines.append([_name(row), *(_written(row, measure) for measure in OVERHEAD), *parts])
    heads = [measure.head for measure in OVERHEAD]
    parts_heads = ["CPU parts: ms/request", "+ ms/1k prompt tokens", "+ us/streamed token"]
    return Table("Router overhead", ("contender", *heads, *parts_heads), lines)


def facts_of(result: ComparisonResult) -> str:
    """What was compared where, in one line."""
    is_real = result.profile == REAL_ENGINES
    engines = result.profile if is_real else f"simulated, profile {result.profile}"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return (
        f"{result.worker_count} workers ({engines}) at speed {result.speed:g}; {versions};"
        f" {result.machine.cores} cores, {result.machine.system},"
        f" Python {result.machine.python}; took {result.took_s / 60:.1f} min"
    )


def not_counted(result: ComparisonResult) -> list[str]:
    """Runs that gave nothing, or that the client or the machine may have made."""
    invalid = [
        f"{cell.workload} x{cell.level:g} {cell.contender} #{cell.repeat}:"
        f" {'; '.join(cell.invalid_because)}"
        for cell in result.cells
        if not cell.valid
    ]
    return [*result.faults, *invalid]


def markdown_of(result: ComparisonResult) -> str:
    """Everything but the charts."""
    lines = [f"# Routers compared: {result.name}", "", facts_of(result), ""]
    lines += [f"`{result.command}`", "", READING]
    if result.note:
        lines += ["", result.note]
    if result.partial:
        lines += ["", "**Partial: the comparison was stopped before its end.**"]
    relative = relative_table(result)
    if relative is not None:
        lines += ["", "## All loads together", "", *_markdown(relative)]
    workload = ""
    for load in load_tables(result):
        if load.workload != workload:
            workload = load.workload
            lines += ["", f"## {workload}"]
        lines += ["", *_markdown(load.table)]
    if result.cells:
        lines += ["", "## Router overhead", "", OVERHEAD_READING, ""]
        lines += _markdown(overhead_table(result))
    if missing := not_counted(result):
        lines += ["", "## Runs that do not count", "", *(f"- {one}" for one in missing)]
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> list[str]:
    rules = ["---", *["---:"] * (len(table.heads) - 1)]
    rows = [_joined(table.heads), _joined(rules), *(_joined(line) for line in table.lines)]
    return [table.title, "", *rows]


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    return [_name(row), *(_written(row, measure) for measure in SCHEDULING), str(row.errors)]


def _name(row: Row) -> str:
    return row.contender if row.runs_valid else f"{row.contender} (not valid)"


def _written(row: Row, measure: Measure) -> str:
    reading = row.reading(measure)
    if reading is None:
        return "-"
    middle = measure.written(reading.middle)
    if not measure.is_ranged or len(row.used) < 2:
        return middle
    return f"{middle} [{measure.written(reading.low)}, {measure.written(reading.high)}]"


def _ratio(reading: Reading | None) -> str:
    if reading is None:
        return "-"
    return f"{reading.middle:.2f} [{reading.low:.2f}, {reading.high:.2f}]"


def _distinct_heads(measures: Sequence[Measure]) -> list[str]:
    """Heads without the company of their columns: `p99` alone says nothing."""
    return [f"TTFT {one.head}" if one.head.startswith("p") else one.head for one in measures]
