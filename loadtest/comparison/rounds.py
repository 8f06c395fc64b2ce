"""Runs a comparison: each contender in turn before a fresh fleet, with the same requests.

For every run the engines and the router are new processes, so nobody profits from another's caches.
A contender that cannot be started costs its own runs only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp

from cluster.local.ports import free_port
from loadtest.comparison.contenders import HOST, Contender, Ports, command_of
from loadtest.comparison.fleet import FleetPlan, RunningFleet, open_fleet
from loadtest.comparison.processes import Program
from loadtest.comparison.results import CellResult, Findings
from loadtest.comparison.scenarios import Scenario
from loadtest.comparison.tallies import Tally, balance_between, tallies
from loadtest.plan import Limits, Plan
from loadtest.results import Told
from loadtest.running import Aim, Watching, prepare, run_once
from rhizome.clock import Clock
from rhizome.errors import StartError

_ROUTER_READY_S = 60.0
_SETTLE_S = 1.0
_PROBE_S = 2.0
FLEET_CPU_SHARE_MAX = 0.85
"""Past this, engines may be late: they share one process."""
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
    def rate_per_s(self) -> float:
        return self.scenario.knee_per_s * self.level

    @property
    def title(self) -> str:
        return f"{self.scenario.name} x{self.level:g} {self.contender.name} #{self.repeat}"


async def compare(cells: Sequence[Cell], course: Course, watch: Watch, findings: Findings) -> None:
    """Makes the runs in their order until told to stop; the findings grow by each."""
    for place, cell in enumerate(cells):
        if watch.stop.is_set():
            break
        try:
            found = await run_cell(cell, course, watch)
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


async def run_cell(cell: Cell, course: Course, watch: Watch) -> CellResult:
    """One run; raises `StartError` when its fleet or its router cannot be used."""
    clock = watch.clock
    async with open_fleet(course.fleet, course.logs, clock) as fleet:
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
            self.router.cpu_s(),
            self.fleet.program.cpu_s(),
            await tallies(worker.url for worker in self.fleet.place.workers),
        )


class Look(NamedTuple):
    """How far everybody is."""

    at_s: float
    router_cpu_s: float
    fleet_cpu_s: float
    workers: dict[str, Tally]


async def _measure(cell: Cell, course: Course, stand: Stand, watch: Watch) -> CellResult:
    """Sends the load and puts together what came of it."""
    scenario = cell.scenario
    place = stand.fleet.place
    seed = course.seed + cell.repeat
    duration_s = course.warmup_s + course.duration_s * scenario.duration_scale
    shape = scenario.shape(cell.rate_per_s, duration_s, seed)
    directory = Path(place.model_directory)
    aim = Aim(stand.url, place.model, directory, scenario.choice, shape, scenario.api)
    plan, facts = await prepare(aim, _options(aim, course, scenario))
    before = await stand.look(watch.clock)
    told = Told(cell.contender.name, course.told)
    run, _ = await run_once(plan, facts, told, watch.clock, Watching(stop=watch.stop))
    after = await stand.look(watch.clock)
    took_s = after.at_s - before.at_s
    fleet_share = (after.fleet_cpu_s - before.fleet_cpu_s) / took_s
    reasons = list(run.invalid_because)
    if fleet_share > FLEET_CPU_SHARE_MAX:
        reasons.append(f"the engines used {fleet_share:.2f} of their core and may have been late")
    return CellResult(
        workload=scenario.name,
        level=cell.level,
        rate_per_s=cell.rate_per_s,
        contender=cell.contender.name,
        repeat=cell.repeat,
        run=run,
        balance=balance_between(before.workers, after.workers),
        router_cpu_s=after.router_cpu_s - before.router_cpu_s,
        router_cpu_share=(after.router_cpu_s - before.router_cpu_s) / took_s,
        fleet_cpu_share=fleet_share,
        valid=not reasons,
        invalid_because=reasons,
    )


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
