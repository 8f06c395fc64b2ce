"""Results as one HTML page that needs nothing but itself: tables, curves, sweeps, how it was done.

Several results are shown side by side; a sweep's levels count as runs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtest.charts import COLOURS, LINEAR, LOG, PERCENTILES, Axis, Chart, Line, Mark, draw, number
from loadtest.metrics import CURVE_PERCENTILES, Spread, Summary
from loadtest.pages import page_template
from loadtest.results import Result, RunResult, SweepResult

_LATENCIES = {
    "ttft_ms": "Time to first token (TTFT)",
    "tpot_ms": "Time per output token (TPOT)",
    "itl_ms": "Inter-token latency (ITL)",
    "e2e_ms": "End to end (E2E)",
}
_WIDE_RANGE = 30.0
"""A chart whose values differ by more than this factor is drawn on a logarithmic scale."""


@dataclass(frozen=True)
class Shown:
    """A run with its name and colour in the report."""

    name: str
    colour: int
    run: RunResult

    @property
    def summary(self) -> Summary:
        return self.run.summary


@dataclass(frozen=True)
class Drawn:
    """A chart on the page."""

    title: str
    svg: str


def render_report(results: Sequence[Result], title: str = "Rhizome load test") -> str:
    """The page."""
    shown = _shown(results)
    sweeps = [one for one in results if isinstance(one, SweepResult)]
    template = page_template("report.html.jinja", {"num": _figure, "pretty": _pretty})
    return template.render(
        title=title,
        colours=COLOURS,
        shown=shown,
        rows=_rows(shown),
        sweeps=[(place, one) for place, one in enumerate(sweeps)],
        sweep_charts=_sweep_charts(sweeps),
        curves=[_curves(name, label, shown) for name, label in _LATENCIES.items()],
        over_time=_over_time(shown),
        workers=_workers(shown),
    )


def _shown(results: Sequence[Result]) -> list[Shown]:
    named: list[tuple[str, RunResult]] = []
    for result in results:
        if isinstance(result, RunResult):
            named.append((result.label, result))
        else:
            named += [
                (f"{result.label} @ {number(one.summary.scheduled_per_s)}/s", one)
                for one in result.levels
            ]
    return [Shown(name, colour, run) for colour, (name, run) in enumerate(named)]


def _rows(shown: Sequence[Shown]) -> list[tuple[str, list[str]]]:
    """The table: a name and one cell for each run."""
    cells: list[tuple[str, Callable[[Summary], Any]]] = [
        ("Requests", lambda one: one.requests),
        ("Completed", lambda one: one.completed),
        ("Errors", _errors),
        ("Offered, requests/s", lambda one: one.scheduled_per_s),
        ("Completed, requests/s", lambda one: one.completed_per_s),
        ("Output, tokens/s", lambda one: one.output_tokens_per_s),
        ("Prompt tokens", lambda one: one.prompt_tokens),
        ("Cached of prompt tokens", lambda one: _percent(one.cached_ratio)),
        ("Goodput, share", lambda one: _percent(one.goodput.share)),
        ("Goodput, requests/s", lambda one: one.goodput.rate_per_s),
        ("TTFT mean, ms", lambda one: _of(one.ttft_ms, "mean")),
        ("TTFT p50, ms", lambda one: _of(one.ttft_ms, "p50")),
        ("TTFT p90, ms", lambda one: _of(one.ttft_ms, "p90")),
        ("TTFT p99, ms", lambda one: _of(one.ttft_ms, "p99")),
        ("TPOT p50, ms", lambda one: _of(one.tpot_ms, "p50")),
        ("TPOT p99, ms", lambda one: _of(one.tpot_ms, "p99")),
        ("ITL p99, ms", lambda one: _of(one.itl_ms, "p99")),
        ("E2E p50, ms", lambda one: _of(one.e2e_ms, "p50")),
        ("E2E p99, ms", lambda one: _of(one.e2e_ms, "p99")),
        ("Most in flight", lambda one: one.concurrency_max),
        (
            "Workers' tokens, max/mean",
            lambda one: one.balance and one.balance.tokens_max_over_mean,
        ),
    ]
    return [(name, [_figure(of(one.summary)) for one in shown]) for name, of in cells]


def _curves(name: str, label: str, shown: Sequence[Shown]) -> Drawn:
    lines = [
        Line(
            one.name,
            list(zip(CURVE_PERCENTILES, one.summary.curves[name], strict=True)),
            one.colour,
        )
        for one in shown
        if name in one.summary.curves
    ]
    chart = Chart(label, "percentile", "ms", lines, PERCENTILES, _axis_for(lines))
    return Drawn(label, draw(chart))


def _over_time(shown: Sequence[Shown]) -> list[Drawn]:
    def drawn(title: str, unit: str, *names: str) -> Drawn:
        lines: list[Line] = []
        for one in shown:
            series = one.summary.series
            if series is None:
                continue
            for place, name in enumerate(names):
                values = enumerate(getattr(series, name))
                points = [(second * series.bin_s, value) for second, value in values]
                lines.append(Line(one.name, points, one.colour, is_dashed=place > 0))
        y = _axis_for(lines) if unit == "ms" else LINEAR
        return Drawn(title, draw(Chart(title, "s", unit, lines, LINEAR, y)))

    return [
        drawn("TTFT: median, p99 dashed", "ms", "ttft_ms_p50", "ttft_ms_p99"),
        drawn("Output tokens", "tokens/s", "output_tokens_per_s"),
        drawn("Requests in flight", "requests", "in_flight"),
        drawn("Requests sent, failed dashed", "requests/s", "sent_per_s", "failed_per_s"),
    ]


def _sweep_charts(sweeps: Sequence[SweepResult]) -> list[Drawn]:
    if not sweeps:
        return []
    knees = [
        Mark(one.knee.rate_per_s, f"knee {number(one.knee.rate_per_s)}/s", place)
        for place, one in enumerate(sweeps)
        if one.knee.rate_per_s is not None
    ]
    slo = sweeps[0].levels[0].summary.goodput.slo
    ttft_slo = [] if slo.ttft_ms is None else [Mark(slo.ttft_ms, f"promised {slo.ttft_ms:g} ms")]
    least = sweeps[0].knee.goodput_share_min

    def drawn(
        title: str, unit: str, *of: Callable[[Summary], Any], marks: Sequence[Mark] = ()
    ) -> Drawn:
        lines = [
            Line(
                sweep.label,
                [(level.summary.scheduled_per_s, get(level.summary)) for level in sweep.levels],
                place,
                is_dashed=order > 0,
            )
            for place, sweep in enumerate(sweeps)
            for order, get in enumerate(of)
        ]
        x_label = "offered requests/s"
        chart = Chart(title, x_label, unit, lines, LINEAR, _axis_for(lines), knees, marks)
        return Drawn(title, draw(chart))

    return [
        drawn(
            "TTFT: median, p99 dashed",
            "ms",
            lambda one: one.ttft_ms and one.ttft_ms.p50,
            lambda one: one.ttft_ms and one.ttft_ms.p99,
            marks=ttft_slo,
        ),
        drawn(
            "Goodput",
            "share of requests",
            lambda one: one.goodput.share,
            marks=[Mark(least, f"least {least:g}")],
        ),
        drawn("Output tokens", "tokens/s", lambda one: one.output_tokens_per_s),
        drawn("TPOT p99", "ms", lambda one: one.tpot_ms and one.tpot_ms.p99),
    ]


@dataclass(frozen=True)
class WorkerBar:
    """One worker's part, in percent of the busiest one's tokens."""

    name: str
    requests: int
    computed_percent: float
    cached_percent: float
    output_percent: float
    tokens: int


def _workers(shown: Sequence[Shown]) -> list[tuple[Shown, list[WorkerBar]]]:
    sections = []
    for one in shown:
        balance = one.summary.balance
        if balance is None:
            continue
        loads = balance.workers.items()
        most = max(load.prompt_tokens + load.output_tokens for _, load in loads) or 1
        bars = [
            WorkerBar(
                name,
                load.requests,
                100.0 * (load.prompt_tokens - load.cached_tokens) / most,
                100.0 * load.cached_tokens / most,
                100.0 * load.output_tokens / most,
                load.prompt_tokens + load.output_tokens,
            )
            for name, load in loads
        ]
        sections.append((one, bars))
    return sections


def _axis_for(lines: Sequence[Line]) -> Axis:
    """Logarithmic where the values are positive and far apart."""
    values = [y for line in lines for _, y in line.points if y is not None]
    if values and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        return LOG
    return LINEAR


def _errors(summary: Summary) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in summary.errors.items()) or "0"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _of(spread: Spread | None, name: str) -> float | None:
    return None if spread is None else getattr(spread, name)


def _figure(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - a dash for no value, not a minus
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
