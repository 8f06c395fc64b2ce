"""The tables of a comparison, in words, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.comparison.results import ComparisonResult, Row, rows_of

HEADS = (
    "contender",
    "TTFT mean",
    "p50",
    "p99",
    "TPOT mean",
    "p50",
    "p99",
    "goodput",
    "cached",
    "requests max/mean",
    "tokens max/mean",
    "errors",
    "router CPU",
)
READING = (
    "Loads are shares of the highest rate that Rhizome's round robin carries. Latencies are in ms,"
    " of requests answered whole, medians over the runs; goodput is the share of all requests"
    " answered within the promised latencies; max/mean is over the workers, of requests and of"
    " tokens computed, by the engines' own counters; the router's CPU is in ms a request. Router,"
    " engines and client share the machine's cores."
)


@dataclass(frozen=True)
class Table:
    """One workload under one load."""

    workload: str
    level: float
    title: str
    rows: list[Row]

    @property
    def lines(self) -> list[list[str]]:
        """The cells of each row, under `HEADS`."""
        return [_cells(row) for row in self.rows]


def tables_of(result: ComparisonResult) -> list[Table]:
    """By workload as they were run, loads ascending."""
    rows = rows_of(result.cells)
    tables = []
    for workload in dict.fromkeys(row.workload for row in rows):
        for level in sorted({row.level for row in rows if row.workload == workload}):
            its = [row for row in rows if (row.workload, row.level) == (workload, level)]
            title = (
                f"{level:g} of the knee: {its[0].rate_per_s:.3g} requests/s,"
                f" {its[0].requests} requests in {its[0].runs} run(s)"
            )
            tables.append(Table(workload, level, title, its))
    return tables


def facts_of(result: ComparisonResult) -> str:
    """What was compared where, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return (
        f"{result.worker_count} simulated workers of profile {result.profile} at speed"
        f" {result.speed:g}; {versions}; {result.machine.cores} cores, {result.machine.system},"
        f" Python {result.machine.python}; took {result.took_s / 60:.1f} min"
    )


def not_counted(result: ComparisonResult) -> list[str]:
    """Runs that gave nothing, or that the client or the machine may have made."""
    invalid = [
        f"{cell.workload} x{cell.level:g} {cell.contender}: {'; '.join(cell.invalid_because)}"
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
    workload = ""
    for table in tables_of(result):
        if table.workload != workload:
            workload = table.workload
            lines += ["", f"## {workload}"]
        lines += ["", table.title, "", *_markdown_table(table)]
    if missing := not_counted(result):
        lines += ["", "## Runs that do not count", "", *(f"- {one}" for one in missing)]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    rules = ["---", *["---:"] * (len(HEADS) - 1)]
    return [_joined(HEADS), _joined(rules), *(_joined(line) for line in table.lines)]


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    mark = "" if row.runs_valid else " (not valid)"
    return [
        row.contender + mark,
        *map(_ms, (row.ttft_ms_mean, row.ttft_ms_p50, row.ttft_ms_p99)),
        *map(_ms, (row.tpot_ms_mean, row.tpot_ms_p50, row.tpot_ms_p99)),
        f"{row.goodput_share:.1%}",
        "-" if row.cached_ratio is None else f"{row.cached_ratio:.1%}",
        f"{row.requests_max_over_mean:.2f}",
        f"{row.tokens_max_over_mean:.2f}",
        str(row.errors),
        f"{row.router_cpu_ms_per_request:.2f}",
    ]


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
