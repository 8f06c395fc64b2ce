"""`python -m loadtest.overhead`, which `make bench-overhead` runs: see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import uvloop

from cluster.local.ports import free_port
from loadtest.comparison.peers import peers_directory
from loadtest.overhead import measuring
from loadtest.overhead.processes import Scaling, process_costs
from loadtest.overhead.programs import (
    HOST,
    OURS,
    SYSTEMS,
    MeasuredProgram,
    Rig,
    System,
    is_ready,
    router_command,
    worker_command,
)
from loadtest.overhead.tables import Found, Record, table
from loadtest.results import machine_facts
from rhizome.clock import Clock, SystemClock
from rhizome.errors import StartError
from rhizome.settings.load import load_settings
from workers.demo_models import ensure_model

_READY_S = 90.0
_WORKERS = 8
MODEL = "demo:llama"


def parser() -> argparse.ArgumentParser:
    """The options."""
    known = argparse.ArgumentParser(
        prog="python -m loadtest.overhead",
        description="CPU time per request and per token of Rhizome and of other routers, before "
        "workers that cost nothing; added latency, many streams, memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = known.add_argument
    names = [system.name for system in SYSTEMS]
    add("--system", action="append", choices=names, help="repeatable (default: all)")
    add("--repeats", type=int, default=3, help="runs of each system, each a new process")
    add("--scale", type=float, default=1.0, help="of the number of requests")
    add("--latency", action="store_true", help="also latency; needs a machine that is idle")
    add("--streams", type=int, default=0, help="also so many streams at once, 20 tokens/s each")
    add("--stream-tokens", type=int, default=400, help="tokens of each of them")
    add("--unique-prompts", type=int, default=0, help="also memory over so many prompts of 2 kB")
    add("--processes", type=int, default=2, help="also so many beside one (1: not)")
    add("--seed", type=int, default=1, help="of the first run's prompts")
    add("--note", default="", help="kept with the results")
    add("--results", type=Path, default=Path("loadtest") / "results", help="where they go")
    return known


async def run(options: argparse.Namespace, clock: Clock) -> Record:
    """The whole measurement; systems in turn, so that the machine's moods hit all alike."""
    settings = load_settings()
    state = settings.state_directory.expanduser()
    logs = state / "overhead"
    logs.mkdir(parents=True, exist_ok=True)
    taken: set[int] = set()

    def ports(count: int) -> tuple[int, ...]:
        for _ in range(count):
            taken.add(free_port(HOST, frozenset(taken)))
        return tuple(sorted(taken))[-count:]

    rig = Rig(
        directory=logs,
        model_directory=str(ensure_model(MODEL, state / "models")),
        peers=peers_directory(settings.state_directory),
        workers=ports(_WORKERS),
        events=ports(_WORKERS),
    )
    chosen = [one for one in SYSTEMS if one.name in (options.system or [s.name for s in SYSTEMS])]
    record = Record(
        told=shlex.join(["python", "-m", "loadtest.overhead", *sys.argv[1:]]),
        at=datetime.fromtimestamp(clock.wall_s(), UTC).isoformat(timespec="seconds"),
        machine=machine_facts(),
        note=options.note,
        direct=None,
        found=[Found(system=one.name, version=one.version) for one in chosen],
        scaling=Scaling(processes=options.processes) if options.processes > 1 else None,
    )
    async with MeasuredProgram("workers", worker_command(rig), logs / "workers.log", clock):
        if options.latency:
            record.direct = await measuring.latency(rig.workers[0], options.seed, options.scale)
        for repeat in range(options.repeats):
            for system, found in zip(chosen, record.found, strict=True):
                await _measure(system, found, rig, options, repeat)
                print(f"{system.name}: {found.costs[-1]}", flush=True)
            if record.scaling is not None:
                await _compare(record.scaling, rig, options, repeat)
    return record


async def _measure(
    system: System, found: Found, rig: Rig, options: argparse.Namespace, repeat: int
) -> None:
    """One run of one system, in new processes."""
    seed = options.seed + repeat
    async with _running(system, rig) as (program, port, metrics):
        found.costs.append(await measuring.costs(program, port, seed, options.scale))
        if repeat:
            return
        if options.latency:
            found.latency = await measuring.latency(port, seed, options.scale)
        if options.streams:
            page = metrics if system.name.startswith("rhizome") else None
            found.streams = await measuring.streams(
                program, port, page, options.streams, options.stream_tokens
            )
        if options.unique_prompts:
            found.memory_mib = await measuring.memory_mib(program, port, options.unique_prompts)


async def _compare(scaling: Scaling, rig: Rig, options: argparse.Namespace, repeat: int) -> None:
    """One run of one process and one of several, each in new ones."""
    for number, runs in ((1, scaling.one), (scaling.processes, scaling.several)):
        system = replace(OURS, name=f"rhizome/processes-{number}", processes=number)
        async with _running(system, rig) as (program, port, _):
            runs.append(await process_costs(program, port, options.seed + repeat, options.scale))
        print(f"{system.name}: {runs[-1]}", flush=True)


@asynccontextmanager
async def _running(system: System, rig: Rig) -> AsyncIterator[tuple[MeasuredProgram, int, int]]:
    """A router that is ready: its program, its port, that of its metrics."""
    port = free_port(HOST, frozenset())
    metrics = free_port(HOST, frozenset({port}))
    log = rig.directory / f"{system.name.replace('/', '-')}.log"
    command = router_command(system, rig, port, metrics)
    async with MeasuredProgram(system.name, command, log, SystemClock()) as program:
        await program.until(lambda: is_ready(port), _READY_S)
        yield program, port, metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the measurement and keeps it; gives the exit status."""
    options = parser().parse_args(arguments)
    clock = SystemClock()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            record = runner.run(run(options, clock))
    except StartError as error:
        print(f"{error.message}\n{error.advice}", file=sys.stderr)
        return error.exit_code
    day = datetime.fromtimestamp(clock.wall_s(), UTC).strftime("%Y-%m-%d")
    place = options.results / f"{day}-overhead"
    place.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(record), indent=1)
    (place / "overhead.json").write_bytes(content + b"\n")
    (place / "overhead.md").write_text(table(record), encoding="utf-8")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
