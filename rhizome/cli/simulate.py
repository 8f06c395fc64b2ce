"""`rhizome simulate`: a fleet that is not there, under the router's own decisions, in minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer
from rich.console import Console

from rhizome.cli import load_options as flags
from rhizome.cli.simulate_tables import print_comparison, print_knee, print_sizing
from rhizome.clock import SystemClock
from rhizome.errors import SettingsError

if TYPE_CHECKING:  # numpy and the engine are for those who simulate
    from loadtest.simulation.plan import Failure, Join, Sight
    from loadtest.simulation.running import Scenario
    from rhizome.settings.tree import RouterSettings

T = TypeVar("T")
_NOT_KEPT = 1
DEFAULT_PROFILE = "qwen3-32b-h100-tp2"
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", help=f"Engine profile, built in or a JSON file; {DEFAULT_PROFILE} without it."
    ),
]
Workers = Annotated[
    list[int] | None, typer.Option("--workers", help="Workers; once for each --profile.")
]
Rate = Annotated[
    float | None, typer.Option(help="Mean requests a second; a trace's own without it.")
]
BlockSize = Annotated[
    int | None, typer.Option(help="Tokens per KV block, instead of the profile's.")
]
EventDelay = Annotated[
    float, typer.Option(min=0, help="From an engine's step to the router's index, ms.")
]
Routers = Annotated[
    int, typer.Option(min=1, max=64, help="Routers; each request meets one of them by chance.")
]
NewsDelay = Annotated[
    float,
    typer.Option(min=0, help="From a router's message about its load to the other routers, ms."),
]
Alone = Annotated[
    bool, typer.Option("--alone", help="Routers tell each other nothing, as without Redis.")
]
Failures = Annotated[
    list[str] | None,
    typer.Option("--fail", help="SECONDS:WORKER[:BACK_AFTER_S]: that worker (from 0) dies."),
]
Joins = Annotated[
    list[str] | None,
    typer.Option("--join", help="SECONDS:WORKER: that worker (from 0) is not there before."),
]
Sees = Annotated[
    str,
    typer.Option(
        help="What routers see of caches: events; counts (no events and no tokenizer, but answers "
        "tell how much was cached); nothing."
    ),
]
Warm = Annotated[
    bool,
    typer.Option("--warm/--cold", help="Whether workers that come get hot prefixes replayed."),
]
Config = Annotated[Path | None, typer.Option(help="Settings file (YAML); its router part counts.")]


def register(app: typer.Typer) -> None:
    """Adds the command and its own."""
    group = typer.Typer(
        name="simulate",
        help="Simulate a fleet under the router's own decisions, in virtual time.",
        no_args_is_help=True,
    )
    _add_run(group)
    _add_size(group)
    app.add_typer(group)


def _add_run(group: typer.Typer) -> None:
    @group.command("run")
    @flags.also(flags.WORKLOAD)
    def run(
        policy: Annotated[
            list[str] | None, typer.Option(help="How workers are chosen; repeat to compare.")
        ] = None,
        profile: Profiles = None,
        workers: Workers = None,
        block_size: BlockSize = None,
        rate: Rate = None,
        routers: Routers = 1,
        news_delay_ms: NewsDelay = 2.0,
        alone: Alone = False,
        event_delay_ms: EventDelay = 5.0,
        fail: Failures = None,
        join: Joins = None,
        warm: Warm = True,
        sight: Sees = "events",
        slo_ttft_ms: flags.SloTtft = 1000.0,
        slo_tpot_ms: flags.SloTpot = 100.0,
        config: Config = None,
        output: flags.Output = Path("simulation.json"),
        html: flags.Html = None,
        **shared: Any,
    ) -> None:
        """Play one workload under each policy and compare them."""
        given = locals() | shared
        from loadtest.report import render_report
        from loadtest.results import Told, write_result
        from loadtest.simulation.running import simulate

        flags.check_outputs(output, html)
        scenario = _scenario(given)
        policies = list(dict.fromkeys(policy or [scenario.settings.scheduling.policy]))
        for one in policies:
            scenario.plan(one)
        runs = []
        for one in policies:
            told = Told(
                shared["label"] or f"simulated {scenario.choice.name}", flags.command_line()
            )
            runs.append(simulate(scenario, one, told, SystemClock()))
            path = output if len(policies) == 1 else output.with_stem(f"{output.stem}-{one}")
            _keep(write_result, path, runs[-1].result)
        print_comparison(Console(), runs)
        if html is not None:
            _keep(_write_page, html, render_report([run.result for run in runs]))


def _add_size(group: typer.Typer) -> None:
    @group.command("size")
    @flags.also(flags.WORKLOAD)
    def size(
        slo_ttft_p99_ms: Annotated[
            float, typer.Option(min=0.001, help="Promised p99 of TTFT, ms.")
        ] = 1000.0,
        completed: Annotated[
            float, typer.Option(min=0.01, max=1.0, help="Least share of answered requests.")
        ] = 0.99,
        workers_max: Annotated[int, typer.Option(min=1, help="Most workers to try.")] = 1024,
        scales: Annotated[
            str, typer.Option(help="Times the load, to find how much the fleet carries.")
        ] = "0.5,0.75,1,1.25,1.5,2,3",
        refine: Annotated[int, typer.Option(min=0, max=10, help="Runs to narrow the knee.")] = 2,
        policy: Annotated[str, typer.Option(help="How workers are chosen.")] = "cost",
        profile: Annotated[str, typer.Option(help="Engine profile.")] = DEFAULT_PROFILE,
        workers: Annotated[int, typer.Option(min=1, help="Workers to begin with.")] = 4,
        block_size: BlockSize = None,
        rate: Rate = None,
        routers: Routers = 1,
        news_delay_ms: NewsDelay = 2.0,
        alone: Alone = False,
        event_delay_ms: EventDelay = 5.0,
        config: Config = None,
        output: flags.Output = Path("sizing.json"),
        **shared: Any,
    ) -> None:
        """Find the smallest fleet that keeps a promise, and how much load that fleet carries."""
        given = locals() | shared
        given |= {"profile": [profile], "workers": [workers], "fail": None, "join": None}
        given |= {"warm": True, "sight": "events"}
        given |= {"slo_ttft_ms": slo_ttft_p99_ms, "slo_tpot_ms": 0.0}
        from loadtest.results import Told, write_result
        from loadtest.simulation.sizing import Promise
        from loadtest.simulation.whatif import WhatIf

        if workers > workers_max:
            raise SettingsError(f"--workers {workers} is more than --workers-max {workers_max}")
        flags.check_outputs(output)
        told = Told(shared["label"] or f"{profile} {shared['workload']}", flags.command_line())
        promise = Promise(slo_ttft_p99_ms, completed)
        scenario = _scenario(given)
        scenario.plan(policy)
        what_if = WhatIf(scenario, policy, promise, told, SystemClock())
        console = Console()
        sizing = what_if.smallest_fleet(workers, workers_max)
        print_sizing(console, sizing, promise)
        if sizing.workers is None:
            raise typer.Exit(_NOT_KEPT)
        found, sweep = what_if.knee(sizing.workers, _numbers(scales, "--scales"), refine)
        print_knee(console, found, sizing.workers)
        _keep(write_result, output, sweep)


def _write_page(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _keep(write: Callable[[Path, T], None], path: Path, what: T) -> None:
    try:
        write(path, what)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from error
    typer.echo(f"wrote {path}")


def _scenario(given: dict[str, Any]) -> Scenario:
    """What the flags ask for; raises `StartError`."""
    from loadtest.plan import Slo
    from loadtest.simulation.running import Scenario, block_sized, groups_of
    from workers.engine.simulated.profile import load_profile

    names = given["profile"] or [DEFAULT_PROFILE]
    profiles = [block_sized(load_profile(name), given["block_size"]) for name in names]
    counts = given["workers"] or [8] * len(profiles)
    nowhere = {"url": "", "model": None, "tokenizer": None, "api": None}
    aim = flags.aim_of(given | nowhere, given["rate"])
    return Scenario(
        choice=aim.choice,
        shape=aim.shape,
        groups=groups_of(profiles, counts),
        settings=_router_settings(given),
        event_delay_s=given["event_delay_ms"] / 1000.0,
        failures=tuple(_failure(text) for text in given["fail"] or ()),
        joins=tuple(_join(text) for text in given["join"] or ()),
        slo=Slo(ttft_ms=given["slo_ttft_ms"] or None, tpot_ms=given["slo_tpot_ms"] or None),
        warmup_s=given["warmup"],
        sight=_sight(given["sight"]),
        routers=given["routers"],
        news_delay_s=None if given["alone"] else given["news_delay_ms"] / 1000.0,
    )


def _router_settings(given: dict[str, Any]) -> RouterSettings:
    from rhizome.settings.load import load_settings

    settings = load_settings(given["config"]).router
    if given["warm"]:
        return settings
    return settings.model_copy(
        update={"warmup": settings.warmup.model_copy(update={"enabled": False})}
    )


def _numbers(text: str, flag: str) -> list[float]:
    """Numbers above 0 that commas part."""
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError as error:
        raise SettingsError(f"{flag} {text!r} are not numbers such as 1,2,4") from error
    if not (found[0] > 0 and found[-1] < float("inf")):
        raise SettingsError(f"{flag} {text!r}: each must be above 0")
    return found


def _failure(text: str) -> Failure:
    from loadtest.simulation.plan import Failure

    words = text.split(":")
    try:
        at_s, worker = float(words[0]), int(words[1])
        back_s = float(words[2]) if len(words) > 2 else None
    except (ValueError, IndexError) as error:
        raise SettingsError(f"--fail {text!r} is not SECONDS:WORKER[:BACK_AFTER_S]") from error
    if len(words) > 3 or not 0 <= at_s < float("inf") or (back_s is not None and not back_s > 0):
        raise SettingsError(f"--fail {text!r} is not SECONDS:WORKER[:BACK_AFTER_S]")
    return Failure(at_s, worker, back_s)


def _join(text: str) -> Join:
    from loadtest.simulation.plan import Join

    when, _, which = text.partition(":")
    try:
        at_s, worker = float(when), int(which)
    except ValueError as error:
        raise SettingsError(f"--join {text!r} is not SECONDS:WORKER") from error
    if not 0 <= at_s < float("inf"):
        raise SettingsError(f"--join {text!r}: a time is 0 or more")
    return Join(at_s, worker)


def _sight(text: str) -> Sight:
    from loadtest.simulation.plan import Sight

    for known in get_args(Sight):
        if text == known:
            return cast("Sight", known)
    raise SettingsError(f"--sight {text!r} is none of {', '.join(get_args(Sight))}")
