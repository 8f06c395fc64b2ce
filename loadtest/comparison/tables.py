"""The table of a comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.comparison.results import ComparisonResult, Row, rows_of

_HEADS = (
    ("contender", "---"),
    ("TTFT mean", "---:"),
    ("p50", "---:"),
    ("p99 (ms)", "---:"),
    ("TPOT mean", "---:"),
    ("p99 (ms)", "---:"),
    ("goodput", "---:"),
    ("cached", "---:"),
    ("requests max/mean", "---:"),
    ("computed tokens max/mean", "---:"),
    ("errors", "---:"),
    ("router CPU ms/request", "---:"),
)


def markdown_of(result: ComparisonResult) -> str:
    """All rows by workload and load, and what has to be known to read them."""
    rows = rows_of(result.cells)
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        f"# Comparison: {result.name}",
        "",
        f"{result.worker_count} simulated workers, profile `{result.profile}` at speed"
        f" {result.speed:g}; {versions}; {result.machine.cores} cores, {result.machine.system}.",
        f"Took {result.took_s / 60:.1f} min: `{result.command}`",
        "",
        "Loads are shares of the highest rate that Rhizome's round robin carries. Latencies are of"
        " requests answered whole, medians over the runs; goodput is the share of all requests"
        " answered within the promised latencies. Router, engines and client share the cores.",
    ]
    if result.note:
        lines += ["", result.note]
    if result.partial:
        lines += ["", "**Partial: the comparison was stopped before its end.**"]
    for workload in dict.fromkeys(row.workload for row in rows):
        lines += ["", f"## {workload}"]
        for level in sorted({row.level for row in rows if row.workload == workload}):
            its = [row for row in rows if (row.workload, row.level) == (workload, level)]
            lines += ["", *_table(level, its)]
    invalid = [cell for cell in result.cells if not cell.valid]
    if invalid or result.faults:
        lines += ["", "## Runs that do not count", ""]
        lines += [f"- {fault}" for fault in result.faults]
        for cell in invalid:
            reasons = "; ".join(cell.invalid_because)
            lines.append(f"- {cell.workload} x{cell.level:g} {cell.contender}: {reasons}")
    return "\n".join(lines) + "\n"


def _table(level: float, rows: Sequence[Row]) -> list[str]:
    rate = rows[0].rate_per_s
    return [
        f"{level:g} of the knee, {rate:.3g} requests/s,"
        f" {rows[0].requests} requests in {rows[0].runs} run(s)",
        "",
        "| " + " | ".join(head for head, _ in _HEADS) + " |",
        "| " + " | ".join(line for _, line in _HEADS) + " |",
        *(_line(row) for row in rows),
    ]


def _line(row: Row) -> str:
    mark = "" if row.runs_valid else " (invalid)"
    cells = [
        row.contender + mark,
        _ms(row.ttft_ms_mean),
        _ms(row.ttft_ms_p50),
        _ms(row.ttft_ms_p99),
        _ms(row.tpot_ms_mean),
        _ms(row.tpot_ms_p99),
        f"{row.goodput_share:.1%}",
        "-" if row.cached_ratio is None else f"{row.cached_ratio:.1%}",
        f"{row.requests_max_over_mean:.2f}",
        f"{row.tokens_max_over_mean:.2f}",
        str(row.errors),
        f"{row.router_cpu_ms_per_request:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
