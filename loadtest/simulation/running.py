"""A simulation from what was asked for to results that stand beside those of load tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import psutil

from loadtest.client.target import TargetFacts
from loadtest.plan import Slo
from loadtest.results import RunResult, Told, machine_facts
from loadtest.simulation.fleet import MODEL, FleetSimulation
from loadtest.simulation.plan import Failure, FleetPlan, Join, Sight, Tally
from loadtest.simulation.summary import Beyond, summary_of
from loadtest.workloads.catalog import Choice, open_workload
from loadtest.workloads.shaping import Shape
from rhizome import __version__
from rhizome.clock import Clock
from rhizome.errors import NotEnoughMemory, SettingsError
from rhizome.logs import redact
from rhizome.settings.tree import RouterSettings
from router.prefix.index import BLOCK_BYTES, HOLDING_BYTES
from router.scheduling.policies import POLICY_NAMES
from workers.engine.simulated.profile import EngineProfile

BYTES_PER_BLOCK = 700
"""Memory of one full block in a simulation: the engine's, its events' and the index's part."""
BYTES_PER_ROUTER = 200
"""The part of it that each router has of its own."""
_COLLECT_EVERY = 500_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to simulate, but for the policy."""

    choice: Choice
    shape: Shape
    groups: tuple[tuple[EngineProfile, int], ...]
    """Engine profiles, and how many workers have each."""
    settings: RouterSettings = field(default_factory=RouterSettings)
    event_delay_s: float = 0.005
    failures: tuple[Failure, ...] = ()
    joins: tuple[Join, ...] = ()
    sight: Sight = "events"
    slo: Slo = field(default_factory=Slo)
    warmup_s: float = 0.0
    routers: int = 1
    news_delay_s: float | None = 0.002

    @property
    def workers(self) -> int:
        return sum(count for _, count in self.groups)

    def plan(self, policy: str) -> FleetPlan:
        """The fleet under a policy; raises `SettingsError` or `NotEnoughMemory`."""
        if policy not in POLICY_NAMES:
            raise SettingsError(
                f"there is no policy {policy!r}", advice=f"Known are {', '.join(POLICY_NAMES)}."
            )
        workers = self.workers
        if not workers:
            raise SettingsError("a fleet has at least one worker")
        befallen = [one.worker for one in self.failures] + [one.worker for one in self.joins]
        for place in befallen:
            if not 0 <= place < workers:
                raise SettingsError(f"there is no worker {place}: the fleet has 0 to {workers - 1}")
        blocks = sum(profile.kv_blocks * count for profile, count in self.groups)
        _check_memory(blocks, workers, self.routers)
        return FleetPlan(
            profiles=tuple(profile for profile, count in self.groups for _ in range(count)),
            settings=_with(self.settings, policy, blocks),
            seed=self.shape.seed,
            event_delay_s=self.event_delay_s,
            failures=self.failures,
            joins=self.joins,
            sight=self.sight,
            routers=self.routers,
            news_delay_s=self.news_delay_s,
        )


@dataclass(frozen=True, slots=True)
class Simulated:
    """One policy's run."""

    policy: str
    result: RunResult
    beyond: Beyond
    tally: Tally
    virtual_s: float
    wall_s: float


def simulate(scenario: Scenario, policy: str, told: Told, clock: Clock) -> Simulated:
    """Plays the scenario under one policy; raises `StartError` for what cannot be."""
    plan = scenario.plan(policy)
    workload = open_workload(scenario.choice, scenario.shape)
    begun_wall_s, begun_s, begun_cpu_s = clock.wall_s(), clock.monotonic_s(), _cpu_s()
    simulation = FleetSimulation(plan)
    with _rare_collections():
        simulation.run(workload.requests())
    wall_s, cpu_s = clock.monotonic_s() - begun_s, _cpu_s() - begun_cpu_s
    if not len(simulation.columns):
        raise SettingsError("the workload has no request in that time")
    summary, beyond = summary_of(simulation.columns, scenario.slo, scenario.warmup_s)
    facts = {
        "policy": policy,
        "workers": [
            {"profile": profile.name, "count": count, "block_size": profile.block_size}
            for profile, count in scenario.groups
        ],
        "seed": plan.seed,
        "routers": plan.routers,
        "news_delay_s": plan.news_delay_s if plan.tells else None,
        "news": simulation.tally.news,
        "event_delay_s": plan.event_delay_s,
        "failures": len(plan.failures),
        "joins": len(plan.joins),
        "sight": plan.sight,
        "replayed_tokens": simulation.tally.replayed_tokens,
        "warmup_s": scenario.warmup_s,
        "beyond": msgspec.to_builtins(beyond),
        "virtual_s": simulation.clock.now_s,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "requests_per_wall_s": len(simulation.columns) / wall_s if wall_s > 0 else None,
        "engine_steps": simulation.tally.steps,
    }
    result = RunResult(
        label=f"{told.label} {policy}".strip(),
        rhizome_version=__version__,
        command=redact(told.command),
        begun_wall_s=begun_wall_s,
        machine=machine_facts(),
        target=_target(scenario),
        workload=dict(workload.facts),
        plan={"simulation": facts},
        processes=[],
        valid=summary.completed > 0,
        invalid_because=[] if summary.completed else ["no request was answered"],
        partial=False,
        partial_because=[],
        summary=summary,
    )
    tally, virtual_s = simulation.tally, simulation.clock.now_s
    return Simulated(policy, result, beyond, tally, virtual_s, wall_s)


def block_sized(profile: EngineProfile, block_size: int | None) -> EngineProfile:
    """The profile with blocks of another size and as much cache.

    Larger blocks make a simulation faster and smaller, and its hits coarser.
    """
    if block_size is None or block_size == profile.block_size:
        return profile
    if block_size < 1:
        raise SettingsError(f"a block of {block_size} tokens is not possible")
    kv_blocks = max(2, profile.kv_tokens // block_size + 1)
    longest = min(profile.max_model_len, kv_blocks * block_size)
    return profile.model_copy(
        update={"block_size": block_size, "kv_blocks": kv_blocks, "max_model_len": longest}
    )


def groups_of(
    profiles: Sequence[EngineProfile], counts: Sequence[int]
) -> tuple[tuple[EngineProfile, int], ...]:
    """Profiles with their counts; raises `SettingsError` unless each has one above 0."""
    if len(profiles) != len(counts):
        raise SettingsError(
            f"{len(profiles)} profiles and {len(counts)} numbers of workers do not fit",
            advice="Give --workers once for each --profile.",
        )
    if any(count < 1 for count in counts):
        raise SettingsError("a number of workers is at least 1")
    return tuple(zip(profiles, counts, strict=True))


def _with(settings: RouterSettings, policy: str, blocks: int) -> RouterSettings:
    """The router's settings under a policy, its index large enough for what the fleet can hold.

    A fleet that is too large for the index of its router is another question than which policy is
    best, and would hide the answer.
    """
    scheduling = settings.scheduling.model_copy(update={"policy": policy})
    needed = 2 * blocks * (BLOCK_BYTES + HOLDING_BYTES)
    bytes_max = max(settings.prefix.index_bytes_max, needed)
    prefix = settings.prefix.model_copy(update={"index_bytes_max": bytes_max})
    return settings.model_copy(update={"scheduling": scheduling, "prefix": prefix})


def _target(scenario: Scenario) -> TargetFacts:
    return TargetFacts(
        url=f"simulation of {scenario.workers} workers",
        model=" + ".join(f"{count} x {profile.name}" for profile, count in scenario.groups),
        models=[MODEL],
        root=None,
        version=__version__,
        max_model_len=max(profile.max_model_len for profile, _ in scenario.groups),
    )


def _check_memory(blocks: int, workers: int, routers: int) -> None:
    per_block = BYTES_PER_BLOCK + (routers - 1) * BYTES_PER_ROUTER
    needed, there = blocks * per_block, psutil.virtual_memory().available
    if needed > there:
        raise NotEnoughMemory(
            f"{workers} workers with {blocks:,} blocks need up to {needed / 2**30:.1f} GiB, and "
            f"{there / 2**30:.1f} GiB are free",
            advice="Larger blocks (--block-size 64) need less, and so do fewer workers.",
        )


def _cpu_s() -> float:
    """CPU time of this process: on a machine that others use too, the truer measure of speed."""
    times = psutil.Process().cpu_times()
    return times.user + times.system


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A simulation makes many objects and no cycles: looking for some costs a fifth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
