"""`rhizome loadtest`: workloads against a server, open loop, with results that can be compared."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from loadtest.workloads.catalog import KINDS, settings_of
from rhizome.cli import load_options as flags
from rhizome.cli.load_display import Standing, print_run, print_sweep
from rhizome.clock import SystemClock
from rhizome.errors import SettingsError

if TYPE_CHECKING:  # numpy, the tokenizer and the template engine are for those who run a test
    from loadtest.plan import Plan
    from loadtest.results import Result, RunResult, SweepResult
    from loadtest.running import Aim

_NOT_VALID = 1


def register(app: typer.Typer) -> None:
    """Adds the command and its own."""
    group = typer.Typer(
        name="loadtest", help="Load a server and measure what it gives.", no_args_is_help=True
    )
    _add_run(group)
    _add_sweep(group)
    _add_report(group)
    _add_workloads(group)
    app.add_typer(group)


def _add_run(group: typer.Typer) -> None:
    @group.command("run")
    @flags.also(flags.WORKLOAD, flags.CLIENT)
    def run(
        url: flags.Url,
        rate: Annotated[
            float | None, typer.Option(help="Mean requests a second; a trace's own without it.")
        ] = None,
        output: flags.Output = Path("loadtest.json"),
        save_requests: Annotated[
            Path | None, typer.Option(help="One JSON line for each request.")
        ] = None,
        **given: Any,
    ) -> None:
        """Send one workload. The exit status is 1 for a result that is not valid."""
        flags.check_outputs(output, given["html"], save_requests)
        aim = flags.aim_of(given | {"url": url}, rate)
        plan = flags.plan_of(given, aim)
        result = asyncio.run(_run(aim, plan, given["label"], save_requests))
        print_run(Console(), result)
        _keep(result, output, given["html"])
        if not result.valid:
            raise typer.Exit(_NOT_VALID)


def _add_sweep(group: typer.Typer) -> None:
    @group.command("sweep")
    @flags.also(flags.WORKLOAD, flags.CLIENT)
    def sweep(
        url: flags.Url,
        rates: Annotated[str, typer.Option(help="Requests a second, such as 1,2,4,8.")],
        refine: Annotated[
            int, typer.Option(min=0, max=10, help="Further runs to narrow the knee.")
        ] = 0,
        goodput: Annotated[
            float, typer.Option(min=0.01, max=1.0, help="Least share of good requests.")
        ] = 0.9,
        output: flags.Output = Path("loadtest-sweep.json"),
        **given: Any,
    ) -> None:
        """Send one workload at rising rates and find the knee: the highest rate, all lower ones
        included, at which the share of good requests is at least --goodput. Each level has a seed
        of its own, counted up from --seed, so that none meets another's cache."""
        flags.check_outputs(output, given["html"])
        levels = _rates(rates)
        aim = flags.aim_of(given | {"url": url}, levels[0])
        plan = flags.plan_of(given, aim)
        how = _Levels(levels, refine, goodput)
        result = asyncio.run(_sweep(aim, plan, given["label"], how))
        print_sweep(Console(), result)
        _keep(result, output, given["html"])
        if not all(level.valid for level in result.levels):
            raise typer.Exit(_NOT_VALID)


def _add_report(group: typer.Typer) -> None:
    @group.command("report")
    def report(
        results: Annotated[list[Path], typer.Argument(help="Results of runs or sweeps, JSON.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path(
            "loadtest.html"
        ),
        title: Annotated[str, typer.Option(help="Its heading.")] = "Rhizome load test",
    ) -> None:
        """Put results side by side on one page that needs nothing but itself."""
        from loadtest.report import render_report
        from loadtest.results import read_result

        page = render_report([read_result(path) for path in results], title)
        _write_page(output, page)


def _add_workloads(group: typer.Typer) -> None:
    @group.command("workloads")
    def workloads() -> None:
        """List the workloads and their settings with the defaults."""
        console = Console(highlight=False)
        for name, kind in KINDS.items():
            console.print(f"[bold]{name}[/bold]: {kind.summary}")
            defaults = (f"{setting}={value}" for setting, value in settings_of(name).items())
            console.print(f"  {' '.join(defaults)}", style="dim")


class _Levels(msgspec.Struct, frozen=True):
    rates_per_s: list[float]
    refinements: int
    goodput_share_min: float


async def _run(aim: Aim, options: Plan, label: str | None, save_requests: Path | None) -> RunResult:
    from loadtest.results import Told, write_records
    from loadtest.running import Watching, prepare, run_once

    plan, facts = await prepare(aim, options)
    name = label or facts.model
    stop = _stopped_by_ctrl_c()
    with Standing(Console(stderr=True), name) as standing:
        result, measured = await run_once(
            plan,
            facts,
            Told(name, flags.command_line()),
            SystemClock(),
            Watching(standing.update, stop),
        )
    if save_requests is not None:
        write_records(save_requests, measured.records)
    return result


async def _sweep(aim: Aim, options: Plan, label: str | None, levels: _Levels) -> SweepResult:
    from loadtest.results import Told
    from loadtest.running import Watching, prepare, run_once, sweep

    plan, facts = await prepare(aim, options)
    name = label or facts.model
    stop = _stopped_by_ctrl_c()
    console = Console(stderr=True)
    seeds = count(plan.shape.seed)  # a level must not meet what an earlier one left in caches

    async def run_at(rate_per_s: float) -> RunResult:
        shape = msgspec.structs.replace(plan.shape, rate_per_s=rate_per_s, seed=next(seeds))
        level = msgspec.structs.replace(plan, shape=shape)
        with Standing(console, f"{name} at {rate_per_s:.3g}/s") as standing:
            watching = Watching(standing.update, stop)
            told = Told(name, flags.command_line())
            result, _ = await run_once(level, facts, told, SystemClock(), watching)
        return result

    return await sweep(run_at, levels.rates_per_s, levels.refinements, levels.goodput_share_min)


def _stopped_by_ctrl_c() -> asyncio.Event:
    """Set by the first Ctrl-C; what is known by then becomes a result."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def _rates(text: str) -> list[float]:
    try:
        rates = sorted({float(word) for word in text.split(",")})
    except ValueError as error:
        raise SettingsError(f"--rates {text!r} are not numbers such as 1,2,4") from error
    if rates[0] <= 0:
        raise SettingsError(f"a rate must be above 0, not {rates[0]:g}")
    return rates


def _keep(result: Result, output: Path, html: Path | None) -> None:
    from loadtest.report import render_report
    from loadtest.results import write_result

    _writing(output, lambda: write_result(output, result))
    if html is not None:
        _write_page(html, render_report([result]))


def _write_page(path: Path, page: str) -> None:
    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")

    _writing(path, write)


def _writing(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from error
    typer.echo(f"wrote {path}")
