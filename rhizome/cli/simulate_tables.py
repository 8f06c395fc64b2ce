"""What a simulation shows in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loadtest.metrics import Spread
    from loadtest.simulation.running import Simulated


def print_comparison(console: Console, runs: Sequence[Simulated]) -> None:
    """One row a policy."""
    table = Table(box=None, pad_edge=False)
    table.add_column("policy")
    for heading in (
        "TTFT mean",
        "p50",
        "p99",
        "TPOT mean",
        "p99",
        "goodput",
        "good/s",
        "cached",
        "balance",
        "over floor",
        "errors",
        "sim req/s",
    ):
        table.add_column(heading, justify="right")
    for run in runs:
        summary = run.result.summary
        balance = summary.balance
        over = run.beyond.over_floor_ms
        table.add_row(
            run.policy,
            *_of(summary.ttft_ms, "mean", "p50", "p99"),
            *_of(summary.tpot_ms, "mean", "p99"),
            f"{summary.goodput.share:.1%}",
            f"{summary.goodput.rate_per_s:.1f}",
            f"{summary.cached_ratio or 0.0:.1%}",
            f"{balance.tokens_max_over_mean:.2f}" if balance is not None else "-",
            f"{over.mean:.0f}" if over is not None else "-",
            str(sum(summary.errors.values())),
            f"{summary.requests / run.wall_s:.0f}",
        )
    console.print(table)
    first = runs[0]
    console.print(
        f"{first.result.summary.requests} requests on {first.result.target.model}, "
        f"{first.virtual_s:.0f} s of virtual time; times in ms; balance: tokens computed, busiest "
        "worker by mean; over floor: mean TTFT less that of an idle engine that forgets nothing",
        style="dim",
    )


def _of(spread: Spread | None, *names: str) -> list[str]:
    if spread is None:
        return ["-"] * len(names)
    return [f"{getattr(spread, name):.1f}" for name in names]
