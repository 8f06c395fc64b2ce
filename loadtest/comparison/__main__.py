"""`python -m loadtest.comparison`, which `make bench-compare` runs: see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtest.comparison import contenders, knees, scenarios
from loadtest.comparison.fleet import FleetPlan
from loadtest.comparison.peers import peers_directory
from loadtest.comparison.priority import keep_family_at
from loadtest.comparison.reports import write_all
from loadtest.comparison.results import (
    REAL_ENGINES,
    ComparisonResult,
    Findings,
    write_comparison,
)
from loadtest.comparison.rounds import Cell, Course, Watch, compare
from loadtest.results import machine_facts
from rhizome.clock import Clock, SystemClock
from rhizome.errors import StartError
from rhizome.settings.load import load_settings
from rhizome.tasks import Tasks
from workers.demo_models import ensure_model

RESULTS = Path("loadtest") / "results"
MODEL = "demo:llama"
SERVED_NAME = "simulated"
PROFILE = "qwen3-32b-h100-tp2"
BETWEEN_S = 3.4
"""Of each run that is neither load nor answers: programs start and settle."""
ANSWERS_S = 2.6
"""How long the last answers take, in the engines' time."""
FULL_REPEATS = 3


def parser() -> argparse.ArgumentParser:
    """The options."""
    known = argparse.ArgumentParser(
        prog="python -m loadtest.comparison",
        description="The same fleet and the same requests under Rhizome and other routers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = known.add_argument
    add("--full", action="store_true", help="all workloads, three runs of each")
    add("--contender", action="append", help="SYSTEM/POLICY, repeatable (default: six)")
    add("--workload", action="append", help="repeatable (default: four)")
    add("--level", action="append", type=float, help="share of the knee, repeatable (default: 3)")
    add("--duration-s", type=float, default=2.7, help="measured time of a run")
    add("--warmup-s", type=float, default=1.2, help="sent before that and not counted")
    add("--repeats", type=int, help="runs of each, with seeds of their own (default: 1)")
    add("--seed", type=int, default=1, help="of the first repeat")
    add("--engine", choices=("simulated", "vllm"), default="simulated", help="the workers")
    add("--workers", type=int, default=8, help="how many of them")
    add("--profile", default=PROFILE, help="of the simulated engines")
    add("--speed", type=float, default=0.75, help="of the engines and of the workloads' time")
    add("--block-size", type=int, default=16, help="of the engines' KV cache; vLLM on CPU: 32")
    add("--max-model-len", type=int, default=131_072, help="of the simulated engines")
    add("--find-knee", action="store_true", help="only search for round robin's knees")
    add("--nice", type=int, help="niceness of all programs; below 0 for root only")
    add("--name", default="default", help="part of the results' directory")
    add("--note", default="", help="kept with the results")
    add("--results", type=Path, default=RESULTS, help="where results go")
    return known


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """All runs; contenders in turn under each load, so that the machine's moods hit all alike."""
    names = options.contender or contenders.DEFAULT_CONTENDERS
    chosen = [contenders.contender(name) for name in names]
    workloads = scenarios.FULL_SCENARIOS if options.full else scenarios.DEFAULT_SCENARIOS
    loads = [scenarios.scenario(name) for name in options.workload or workloads]
    repeats = FULL_REPEATS if options.full else 1
    return [
        Cell(load, level, one, repeat)
        for repeat in range(options.repeats or repeats)
        for load in loads
        for level in options.level or load.levels
        for one in chosen
    ]


def estimate_s(options: argparse.Namespace, cells: Sequence[Cell]) -> float:
    """How long the runs will take, about."""
    duration_s, speed = float(options.duration_s), float(options.speed)
    fixed_s = float(options.warmup_s) + BETWEEN_S
    return sum(
        cell.scenario.duration_scale * duration_s
        + (cell.scenario.tail_s + ANSWERS_S) / speed
        + fixed_s
        for cell in cells
    )


def course_of(options: argparse.Namespace, cells: Sequence[Cell], directory: Path) -> Course:
    """What the runs share; installs the peers and makes the model where they are not there."""
    settings = load_settings()
    model = ensure_model(MODEL, settings.state_directory.expanduser() / "models")
    peers = peers_directory(settings.state_directory)
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return Course(
        fleet=FleetPlan(
            model=SERVED_NAME,
            model_directory=str(model),
            profile=options.profile,
            speed=options.speed,
            max_model_len=options.max_model_len,
            block_size=options.block_size,
            count=options.workers,
            engine=options.engine,
        ),
        programs=contenders.prepare([cell.contender for cell in cells], peers),
        logs=logs,
        duration_s=options.duration_s,
        warmup_s=options.warmup_s,
        seed=options.seed,
        told=shlex.join(["python", "-m", "loadtest.comparison", *sys.argv[1:]]),
    )


async def run(options: argparse.Namespace, clock: Clock) -> int:
    """The comparison, or the search for knees."""
    cells = cells_of(options)
    story = Story(options, cells, clock.wall_s())
    say(f"{len(cells)} runs, about {estimate_s(options, cells) / 60:.0f} minutes")
    course = course_of(options, cells, story.directory)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def tell(words: str) -> None:
        say(words)
        write_comparison(story.directory, story.result(course.told, clock, partial=True))

    async with Tasks("comparison") as tasks:
        if options.nice is not None:
            tasks.start("priority", keep_family_at(options.nice, clock))
        if options.find_knee:
            await knees.find(cells, course, Watch(clock, stop, say))
            return 0
        await compare(cells, course, Watch(clock, stop, tell), story.findings)
    for path in write_all(story.directory, story.result(course.told, clock, partial=stop.is_set())):
        say(str(path))
    return 0 if len(story.findings.cells) == len(cells) else 1


class Story:
    """A comparison as it goes; what is known can be written at any time."""

    def __init__(
        self, options: argparse.Namespace, cells: Sequence[Cell], begun_wall_s: float
    ) -> None:
        day = datetime.fromtimestamp(begun_wall_s, UTC).date()
        self.directory: Path = options.results / f"{day}-{options.name}"
        self.findings = Findings()
        self._options = options
        self._cells = cells
        self._begun_wall_s = begun_wall_s

    def result(self, command: str, clock: Clock, *, partial: bool) -> ComparisonResult:
        options = self._options
        return ComparisonResult(
            name=options.name,
            command=command,
            note=options.note,
            begun_wall_s=self._begun_wall_s,
            took_s=clock.wall_s() - self._begun_wall_s,
            machine=machine_facts(),
            versions={cell.contender.system: cell.contender.version for cell in self._cells},
            profile=options.profile if options.engine == "simulated" else REAL_ENGINES,
            speed=options.speed,
            worker_count=options.workers,
            cells=self.findings.cells,
            faults=self.findings.faults,
            partial=partial,
        )


def say(words: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> None:
    """Tells why it cannot begin, and exits as the error says."""
    try:
        sys.exit(asyncio.run(run(parser().parse_args(), SystemClock())))
    except StartError as error:
        sys.stderr.write(f"{error.message}\n{error.advice}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
