"""What a simulation shows in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loadtest.metrics import Spread
    from loadtest.simulation.running import Simulated
    from loadtest.simulation.sizing import Promise, RateKnee, Shown, Sizing

_HEADINGS = ("TTFT", "p50", "p99", "TPOT", "p99", "good", "cached", "balance", "over", "errors")


def print_comparison(console: Console, runs: Sequence[Simulated]) -> None:
    """One row a policy."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("policy", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        summary = run.result.summary
        balance = summary.balance
        over = run.beyond.over_floor_ms
        table.add_row(
            run.policy,
            *_of(summary.ttft_ms, "mean", "p50", "p99"),
            *_of(summary.tpot_ms, "mean", "p99"),
            f"{summary.goodput.share:.1%}",
            f"{summary.cached_ratio or 0.0:.1%}",
            f"{balance.tokens_max_over_mean:.2f}" if balance is not None else "-",
            _short(over.mean) if over is not None else "-",
            str(sum(summary.errors.values())),
        )
    console.print(table)
    first = runs[0]
    console.print(
        f"{first.result.summary.requests} requests on {first.result.target.model}, "
        f"{first.virtual_s:.0f} s of virtual time; means and percentiles in ms; "
        "balance: tokens computed, busiest "
        "worker by mean; over: mean TTFT less that of an idle engine that forgets nothing",
        style="dim",
    )
    console.print(
        "simulated requests a second: "
        + ", ".join(f"{one.policy} {one.result.summary.requests / one.wall_s:.0f}" for one in runs),
        style="dim",
    )


def _of(spread: Spread | None, *names: str) -> list[str]:
    if spread is None:
        return ["-"] * len(names)
    return [_short(getattr(spread, name)) for name in names]


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def print_sizing(console: Console, sizing: Sizing, promise: Promise) -> None:
    """What was tried, ascending, and the answer."""
    table = _shown_table("workers")
    for shown in sorted(sizing.tried, key=lambda one: one.workers):
        table.add_row(str(shown.workers), *_cells(shown), _kept(shown, promise))
    console.print(table)
    if sizing.workers is None:
        console.print("no number of workers that was tried keeps the promise")
    else:
        console.print(f"{sizing.workers} workers keep p99 TTFT under {promise.ttft_ms_p99:g} ms")


def print_knee(console: Console, found: RateKnee, workers: int) -> None:
    """What was tried, ascending, and where the knee is."""
    table = _shown_table("load")
    for scale, shown in sorted(found.tried, key=lambda one: one[0]):
        kept = found.rate_scale is not None and scale <= found.rate_scale
        table.add_row(f"x {scale:.3g}", *_cells(shown), "yes" if kept else "no")
    console.print(table)
    if found.rate_scale is None:
        console.print(f"{workers} workers do not carry the lowest load that was tried")
    else:
        word = "at least " if found.is_beyond else ""
        console.print(f"{workers} workers carry {word}{found.rate_scale:.3g} times the load")


def _shown_table(heading: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (heading, "req/s", "TTFT p99 ms", "answered", "good", "kept"):
        table.add_column(name, justify="right")
    return table


def _cells(shown: Shown) -> tuple[str, ...]:
    p99 = shown.ttft_ms_p99
    return (
        f"{shown.rate_per_s:.2f}",
        "-" if p99 is None else f"{p99:.0f}",
        f"{shown.completed_share:.1%}",
        f"{shown.goodput_share:.1%}",
    )


def _kept(shown: Shown, promise: Promise) -> str:
    return "yes" if shown.keeps(promise) else "no"
