"""Runs a comparison: each contender in turn before a fresh fleet, with the same requests.

For every run the engines and the router are new processes, so nobody profits from another's caches.
A contender that cannot be started costs its own runs only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil

from cluster.local.ports import free_port
from loadtest.comparison.contenders import HOST, Contender, Ports, command_of
from loadtest.comparison.fleet import FleetPlan, RunningFleet, open_fleet
from loadtest.comparison.lateness import lateness_ms_p99
from loadtest.comparison.processes import Program, Usage
from loadtest.comparison.real_fleet import empty_caches, open_engines
from loadtest.comparison.results import CellResult, Findings
from loadtest.comparison.scenarios import Scenario
from loadtest.comparison.tallies import Tally, balance_between, engine_ttft_ms, tallies
from loadtest.metrics import Spread, spread
from loadtest.plan import Limits, Plan
from loadtest.records import RequestRecord
from loadtest.results import Told
from loadtest.running import Aim, Watching, prepare, run_once
from loadtest.simulation.floor import PrefillFloor
from loadtest.simulation.prompts import KeyedPrompt
from loadtest.workloads.catalog import open_workload
from rhizome.clock import Clock
from rhizome.errors import StartError
from workers.engine.simulated.profile import load_profile

_ROUTER_READY_S = 60.0
_SETTLE_S = 1.0
"""Until a router that asks its workers every second has asked all of them; the client takes a
second more to begin."""
_PROBE_S = 2.0
ENGINES_CPU_SHARE_MAX = 0.85
"""Past this, engines may be late: they share one process."""
ENGINES_LAG_MS_P99_MAX = 20.0
"""A step takes 20 to 100 ms."""
MACHINE_IDLE_SHARE_MIN = 0.1
"""With less, router, engines and client wait for each other."""
LIMITS = Limits(send_lag_ms_p99=60.0)
"""Agents fork into bursts of long prompts, on cores that the client shares with all others. TTFT
is from the real sending, so a late one only moves the load a little."""


@dataclass(frozen=True)
class Watch:
    """Who looks on, and by which clock."""

    clock: Clock
    stop: asyncio.Event
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Course:
    """What all runs have in common."""

    fleet: FleetPlan
    programs: Mapping[str, Path]
    logs: Path
    duration_s: float
    warmup_s: float
    seed: int
    told: str
    """The command, for the record."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run to be made."""

    scenario: Scenario
    level: float
    contender: Contender
    repeat: int

    @property
    def title(self) -> str:
        return f"{self.scenario.name} x{self.level:g} {self.contender.name} #{self.repeat}"


async def compare(cells: Sequence[Cell], course: Course, watch: Watch, findings: Findings) -> None:
    """Makes the runs in their order until told to stop; the findings grow by each."""
    async with fleets(course, watch.clock) as fleet_of_a_run:
        await _compare(cells, course, watch, findings, fleet_of_a_run)


FleetOfARun = Callable[[], AbstractAsyncContextManager[RunningFleet]]


@asynccontextmanager
async def fleets(course: Course, clock: Clock) -> AsyncIterator[FleetOfARun]:
    """How each run gets its fleet, with empty caches: a new one, or real engines emptied."""
    if course.fleet.is_simulated:
        yield partial(open_fleet, course.fleet, course.logs, clock)
        return
    async with open_engines(course.fleet, course.logs, clock) as engines:

        @asynccontextmanager
        async def emptied() -> AsyncIterator[RunningFleet]:
            await empty_caches(engines)
            yield engines

        yield emptied


async def _compare(
    cells: Sequence[Cell],
    course: Course,
    watch: Watch,
    findings: Findings,
    fleet_of_a_run: FleetOfARun,
) -> None:
    for place, cell in enumerate(cells):
        if watch.stop.is_set():
            break
        try:
            found = await run_cell(cell, course, watch, fleet_of_a_run)
        except StartError as error:
            fault = f"{cell.title}: {error.message}"
            findings.faults.append(fault)
            watch.tell(f"{fault}\n{error.advice}")
            continue
        if found.run.partial:
            findings.faults.append(f"{cell.title}: {'; '.join(found.run.partial_because)}")
            break
        findings.cells.append(found)
        watch.tell(f"[{place + 1}/{len(cells)}] {cell.title}: {_brief(found)}")


async def run_cell(
    cell: Cell, course: Course, watch: Watch, fleet_of_a_run: FleetOfARun
) -> CellResult:
    """One run; raises `StartError` when its fleet or its router cannot be used."""
    clock = watch.clock
    async with fleet_of_a_run() as fleet:
        ports = _free_ports()
        command = command_of(cell.contender, fleet.place, ports, course.programs)
        log = course.logs / f"{cell.contender.name.replace('/', '-')}.log"
        url = f"http://{HOST}:{ports.api}"
        async with Program(cell.contender.name, command, log, clock) as router:
            await router.until(lambda: serves(url, fleet.place.model), _ROUTER_READY_S)
            await clock.sleep(_SETTLE_S)
            stand = Stand(fleet, router, url)
            return await _measure(cell, course, stand, watch)


@dataclass(frozen=True)
class Stand:
    """What is set up for one run."""

    fleet: RunningFleet
    router: Program
    url: str

    async def look(self, clock: Clock) -> Look:
        return Look(
            clock.monotonic_s(),
            self.router.usage(),
            self.fleet.program.usage(),
            psutil.cpu_times(),
            await tallies(worker.url for worker in self.fleet.place.workers),
        )


class Look(NamedTuple):
    """How far everybody is."""

    at_s: float
    router: Usage
    fleet: Usage
    machine: Any
    """As psutil tells it."""
    workers: dict[str, Tally]


async def _measure(cell: Cell, course: Course, stand: Stand, watch: Watch) -> CellResult:
    """Sends the load and puts together what came of it."""
    scenario = cell.scenario.at_speed(course.fleet.speed)
    place = stand.fleet.place
    duration_s = course.warmup_s + course.duration_s * scenario.duration_scale
    rate_per_s = scenario.knee_per_s * cell.level
    shape = scenario.shape(rate_per_s, duration_s, course.seed + cell.repeat)
    directory = Path(place.model_directory)
    aim = Aim(stand.url, place.model, directory, scenario.choice, shape, scenario.api)
    plan, facts = await prepare(aim, _options(aim, course, scenario))
    before = await stand.look(watch.clock)
    told = Told(cell.contender.name, course.told)
    run, measured = await run_once(plan, facts, told, watch.clock, Watching(stop=watch.stop))
    after = await stand.look(watch.clock)
    took_s = after.at_s - before.at_s
    router_cpu_s = after.router.cpu_s - before.router.cpu_s
    machine = MachineFacts(
        engines_cpu_share=(after.fleet.cpu_s - before.fleet.cpu_s) / took_s,
        engines_lag_ms_p99=(
            None
            if stand.fleet.lateness is None
            else lateness_ms_p99(stand.fleet.lateness, before.at_s, after.at_s)
        ),
        idle_share=_idle_share(before, after),
    )
    reasons = [*run.invalid_because]
    if course.fleet.is_simulated:  # real engines are to use all there is
        reasons += faults_of(machine)
    return CellResult(
        workload=scenario.name,
        level=cell.level,
        rate_per_s=rate_per_s,
        contender=cell.contender.name,
        repeat=cell.repeat,
        speed=course.fleet.speed,
        run=run,
        over_floor_ms=_over_floor(plan, course.fleet, measured.records),
        balance=balance_between(before.workers, after.workers),
        router_cpu_s=router_cpu_s,
        router_cpu_share=router_cpu_s / took_s,
        router_rss_bytes=after.router.rss_bytes,
        outside_engines_ms=_outside_engines_ms(before, after, measured.records),
        fleet_cpu_share=machine.engines_cpu_share,
        fleet_lag_ms_p99=machine.engines_lag_ms_p99,
        machine_idle_share=machine.idle_share,
        valid=not reasons,
        invalid_because=reasons,
    )


@dataclass(frozen=True)
class MachineFacts:
    """Whether the machine had enough for a run."""

    engines_cpu_share: float
    engines_lag_ms_p99: float | None
    idle_share: float


def faults_of(machine: MachineFacts) -> list[str]:
    """Why the machine, not the router, may have made the numbers; empty for a run that counts."""
    faults = []
    if machine.engines_cpu_share > ENGINES_CPU_SHARE_MAX:
        faults.append(f"the engines used {machine.engines_cpu_share:.2f} of their core")
    if machine.engines_lag_ms_p99 is None:
        faults.append("nobody noted how late the engines were")
    elif machine.engines_lag_ms_p99 > ENGINES_LAG_MS_P99_MAX:
        faults.append(
            f"the engines were late by {machine.engines_lag_ms_p99:.0f} ms (p99),"
            f" over {ENGINES_LAG_MS_P99_MAX:g}"
        )
    if machine.idle_share < MACHINE_IDLE_SHARE_MIN:
        faults.append(f"the machine was idle for only {machine.idle_share:.0%} of the time")
    return faults


def _idle_share(before: Look, after: Look) -> float:
    """Of all cores; time that the machine's host gave to others counts as used."""
    passed = sum(after.machine) - sum(before.machine)
    idle = after.machine.idle - before.machine.idle
    return float(idle / passed) if passed > 0 else 0.0


def _over_floor(plan: Plan, fleet: FleetPlan, records: Sequence[RequestRecord]) -> Spread | None:
    """How far the counted requests' TTFT is above that of an idle engine that forgets nothing."""
    if not fleet.is_simulated:
        return None
    profile = load_profile(fleet.profile).at_speed(fleet.speed)
    floor = PrefillFloor(profile.model_copy(update={"block_size": fleet.block_size}))
    by_number = {record.number: record for record in records}
    over = []
    for traced in open_workload(plan.choice, plan.shape).requests():
        record = by_number.get(traced.number)
        floor_s = floor.of_s(KeyedPrompt(traced), record.prompt_tokens if record else None)
        if record is None or record.error is not None or record.scheduled_s < plan.warmup_s:
            continue
        if record.ttft_ms is not None:
            over.append(record.ttft_ms - floor_s * 1000.0)
    return spread(np.array(over))


def _outside_engines_ms(
    before: Look, after: Look, records: Sequence[RequestRecord]
) -> float | None:
    """What lies between the client's TTFT and the engines' own, in the mean of all requests."""
    inside_ms = engine_ttft_ms(before.workers, after.workers)
    told = [one.ttft_ms for one in records if one.error is None and one.ttft_ms is not None]
    return None if inside_ms is None or not told else sum(told) / len(told) - inside_ms


def _options(aim: Aim, course: Course, scenario: Scenario) -> Plan:
    """The plan without what is found out of the target."""
    return Plan(
        url=aim.url,
        model="",
        tokenizer="",
        choice=aim.choice,
        shape=aim.shape,
        api=scenario.api,
        warmup_s=course.warmup_s,
        slo=scenario.slo,
        limits=LIMITS,
    )


def _free_ports() -> Ports:
    api = free_port(HOST, frozenset())
    return Ports(api, free_port(HOST, frozenset({api})))


async def serves(url: str, model: str) -> bool:
    """Whether the router lists the model."""
    timeout = aiohttp.ClientTimeout(total=_PROBE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/v1/models") as response,
        ):
            return response.status == 200 and model.encode() in await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _brief(found: CellResult) -> str:
    """The run in one line."""
    summary = found.run.summary
    ttft = summary.ttft_ms
    times = "no answers" if ttft is None else f"TTFT p50 {ttft.p50:.0f} p99 {ttft.p99:.0f} ms"
    cached = "" if summary.cached_ratio is None else f", cached {summary.cached_ratio:.0%}"
    mark = "" if found.valid else f" INVALID ({'; '.join(found.invalid_because)})"
    return (
        f"{times}, good {summary.goodput.share:.0%}{cached}, {summary.requests} requests,"
        f" {summary.requests - summary.completed} failed, CPU router"
        f" {found.router_cpu_share:.2f} engines {found.fleet_cpu_share:.2f}{mark}"
    )
