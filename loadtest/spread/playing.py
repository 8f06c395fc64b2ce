"""One scenario under one policy: what each worker had to do over time, and what requests got."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random

import numpy as np
import numpy.typing as npt

from loadtest.simulation.columns import Columns
from loadtest.simulation.fleet import FleetSimulation
from loadtest.simulation.plan import Join
from loadtest.simulation.running import Scenario
from loadtest.spread.cases import AFFINITY, COLD, LOAD, NOBODY, Case
from loadtest.workloads.catalog import open_workload
from loadtest.workloads.shaping import Shape
from rhizome.settings.tree import RouterSettings
from router.scheduling.policies.sticky import StickyPolicy
from router.scheduling.types import Candidates, Choice, RoutingRequest

Floats = npt.NDArray[np.float64]
_LOOK_S = 0.25
_FLOOD_PER_WORKER_S = 40.0
"""Requests a second and worker that are more than any of these fleets can answer."""
_FLOOD_S = (20.0, 60.0)


class Affinity:
    """A `router.scheduling.types.Policy`: as sticky, but never elsewhere while there is room."""

    name = AFFINITY

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        idle = Candidates.of(one._replace(in_flight=0) for one in candidates)
        return StickyPolicy().choose(request, idle, rng)


@dataclass(eq=False)
class Played:
    """A run that is over."""

    case: Case
    policy: str
    rate_per_s: float
    columns: Columns
    looks: list[list[int]] = field(default_factory=list)
    """Requests that each engine had, running or waiting, every `_LOOK_S`."""

    @cached_property
    def arrived_s(self) -> Floats:
        return np.asarray(self.columns.arrived_s)

    def ttft_ms(self, begin_s: float, end_s: float = np.inf, worker: int | None = None) -> Floats:
        """Of whole answers to requests that came in that time, of one worker or of all."""
        counted = self._counted(begin_s, end_s)
        if worker is not None:
            counted &= np.asarray(self.columns.worker) == worker
        taken_s = np.asarray(self.columns.first_s) - self.arrived_s
        found: Floats = taken_s[counted] * 1000.0
        return found

    def cached_ratio(self, begin_s: float, end_s: float = np.inf) -> float:
        """Cached tokens of all prompt tokens."""
        counted = self._counted(begin_s, end_s)
        prompt = int(np.asarray(self.columns.prompt_tokens)[counted].sum())
        return int(np.asarray(self.columns.cached_tokens)[counted].sum()) / max(1, prompt)

    def shares(self, begin_s: float, end_s: float = np.inf) -> Floats:
        """Each worker's share of the requests that came in that time."""
        counts = np.bincount(
            np.asarray(self.columns.worker)[self._counted(begin_s, end_s)],
            minlength=len(self.case.speeds),
        )
        found: Floats = counts / max(1, counts.sum())
        return found

    def in_flight(self, begin_s: float, end_s: float = math.inf) -> Floats:
        """A row a look, a column a worker, while requests came."""
        rows = np.array(self.looks, np.float64)
        times_s = np.arange(1, len(rows) + 1) * _LOOK_S
        found: Floats = rows[(times_s > begin_s) & (times_s <= min(end_s, self.case.duration_s))]
        return found

    def failed(self) -> int:
        """Requests that did not get a whole answer."""
        return int((~self.columns.is_complete()).sum())

    def _counted(self, begin_s: float, end_s: float) -> npt.NDArray[np.bool_]:
        within = (self.arrived_s >= begin_s) & (self.arrived_s < end_s)
        return within & self.columns.is_complete()


def capacity_per_s(case: Case, seed: int) -> float:
    """Requests a second that the fleet answers under the case's first policy, when there are
    always more than enough."""
    begin_s, end_s = _FLOOD_S
    speeds = case.speeds[: case.workers_carrying]
    case = replace(case, speeds=speeds, joins=(), failures=())
    flood = Shape(seed=seed, rate_per_s=_FLOOD_PER_WORKER_S * len(case.speeds), duration_s=end_s)
    played = _play(case, case.policies[0], flood)
    ended_s = np.asarray(played.columns.ended_s)[played.columns.is_complete()]
    return float(((ended_s >= begin_s) & (ended_s < end_s)).sum() / (end_s - begin_s))


def play(case: Case, policy: str, capacity: float, seed: int) -> Played:
    """The case at its share of the capacity."""
    shape = Shape(seed=seed, rate_per_s=LOAD * capacity, duration_s=case.duration_s)
    return _play(case, policy, shape)


def _settings(policy: str) -> RouterSettings:
    settings = RouterSettings()
    if policy != COLD:
        return settings
    return settings.model_copy(
        update={"warmup": settings.warmup.model_copy(update={"enabled": False})}
    )


def _play(case: Case, policy: str, shape: Shape) -> Played:
    scenario = Scenario(
        choice=case.choice,
        shape=shape,
        groups=tuple((profile, 1) for profile in case.profiles()),
        settings=_settings(policy),
        failures=case.failures,
        joins=case.joins if policy != NOBODY else (Join(math.inf, case.joins[0].worker),),
    )
    known = {AFFINITY: "sticky", COLD: "cost", NOBODY: "cost"}.get(policy, policy)
    simulation = FleetSimulation(scenario.plan(known))
    if policy == AFFINITY:
        simulation.routers[0].dispatcher.policy = Affinity()
    played = Played(case, policy, shape.rate_per_s or 0.0, simulation.columns)

    def look() -> None:
        row = [0] * len(case.speeds)
        for worker in simulation.workers.values():
            row[worker.place] = worker.scheduler.running + worker.scheduler.waiting
        played.looks.append(row)

    for number in range(1, int((shape.duration_s or 0.0) / _LOOK_S) + 1):
        simulation.agenda.at(number * _LOOK_S, look)
    simulation.run(open_workload(scenario.choice, scenario.shape).requests())
    return played
