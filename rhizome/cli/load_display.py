"""What a load test shows in the terminal: how it stands, then how it went."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.charts import number

if TYPE_CHECKING:
    from loadtest.client.frames import Progress
    from loadtest.metrics import Spread
    from loadtest.results import RunResult, SweepResult


class Standing:
    """A line that is kept up to date while a run goes on."""

    def __init__(self, console: Console, name: str) -> None:
        self._name = name
        self._parts: dict[int, Progress] = {}
        self._before: dict[int, Progress] = {}
        self._live = Live(
            console=console, transient=True, auto_refresh=False, get_renderable=self._line
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, progress: Progress) -> None:
        """What one client process tells."""
        if before := self._parts.get(progress.part):
            self._before[progress.part] = before
        self._parts[progress.part] = progress
        self._live.refresh()

    def _line(self) -> str:
        now = self._parts.values()
        if not now:
            return f"{self._name}: starting the client processes"
        failed = sum(one.failed for one in now)
        return (
            f"{self._name}: {max(one.at_s for one in now):.0f} s · "
            f"{sum(one.sent for one in now)} sent · {sum(one.done for one in now)} done · "
            f"{'[red]' if failed else ''}{failed} failed{'[/red]' if failed else ''} · "
            f"{sum(one.in_flight for one in now)} in flight · "
            f"{number(self._tokens_per_s())} tokens/s · Ctrl-C ends it"
        )

    def _tokens_per_s(self) -> float:
        total = 0.0
        for part, before in self._before.items():
            now = self._parts[part]
            if now.at_s > before.at_s:
                total += (now.tokens - before.tokens) / (now.at_s - before.at_s)
        return total


def print_run(console: Console, result: RunResult) -> None:
    """The result's numbers, and whether they count."""
    summary = result.summary
    console.print(
        f"[bold]{result.label}[/bold]: {summary.completed} of {summary.requests} answered, "
        f"{number(summary.scheduled_per_s)} requests/s offered, "
        f"{number(summary.output_tokens_per_s)} output tokens/s"
    )
    table = Table("", "mean", "p50", "p90", "p99", "max", box=None, pad_edge=False)
    for name, spread in (
        ("TTFT ms", summary.ttft_ms),
        ("TPOT ms", summary.tpot_ms),
        ("ITL ms", summary.itl_ms),
        ("E2E ms", summary.e2e_ms),
    ):
        table.add_row(name, *_cells(spread))
    console.print(table)
    slo = summary.goodput.slo
    console.print(
        f"goodput {summary.goodput.share:.1%} ({number(summary.goodput.rate_per_s)}/s) "
        f"within TTFT {_promise(slo.ttft_ms)}, TPOT {_promise(slo.tpot_ms)}"
    )
    if summary.cached_ratio is not None:
        console.print(f"cached {summary.cached_ratio:.1%} of {summary.prompt_tokens} prompt tokens")
    if summary.balance is not None:
        console.print(
            f"{len(summary.balance.workers)} workers, "
            f"tokens max/mean {summary.balance.tokens_max_over_mean:.2f}"
        )
    for kind, count in summary.errors.items():
        console.print(
            f"[red]{count} {kind}[/red]: {summary.error_samples.get(kind, '')}", markup=True
        )
    if result.partial:
        console.print(f"[red]partial[/red]: {'; '.join(result.partial_because)}")
    if not result.valid:
        console.print(f"[red]not valid[/red]: {'; '.join(result.invalid_because)}")


def print_sweep(console: Console, result: SweepResult) -> None:
    """One line a level, and the knee."""
    table = Table(
        "offered/s", "goodput", "TTFT p50", "TTFT p99", "TPOT p99", "tokens/s", "cached", "",
        box=None, pad_edge=False,
    )  # fmt: skip
    for level in result.levels:
        summary = level.summary
        table.add_row(
            number(summary.scheduled_per_s),
            f"{summary.goodput.share:.1%}",
            _cell(summary.ttft_ms, "p50"),
            _cell(summary.ttft_ms, "p99"),
            _cell(summary.tpot_ms, "p99"),
            number(summary.output_tokens_per_s),
            "-" if summary.cached_ratio is None else f"{summary.cached_ratio:.1%}",
            "" if level.valid else "[red]not valid[/red]",
        )
    console.print(table)
    knee = result.knee
    if knee.rate_per_s is None:
        console.print("even the lowest load is more than it carries")
    else:
        console.print(
            f"the knee is {'at or beyond' if knee.is_beyond else 'at'} "
            f"[bold]{number(knee.rate_per_s)} requests/s[/bold] "
            f"(goodput at least {knee.goodput_share_min:.0%})"
        )


def _cells(spread: Spread | None) -> list[str]:
    return [_cell(spread, name) for name in ("mean", "p50", "p90", "p99", "max")]


def _cell(spread: Spread | None, name: str) -> str:
    return "-" if spread is None else number(getattr(spread, name))


def _promise(limit_ms: float | None) -> str:
    return "any" if limit_ms is None else f"{limit_ms:g} ms"
