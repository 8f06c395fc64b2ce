"""Workers that come to a simulated fleet when it is hot."""

from __future__ import annotations

import numpy as np

from loadtest.simulation.fleet import FleetSimulation
from loadtest.simulation.plan import Failure, FleetPlan, Join
from rhizome.settings.tree import RouterSettings
from tests.simulation.fleets import PROFILE, conversations, settings_with


def joined(settings: RouterSettings, *joins: Join, **plan: object) -> FleetSimulation:
    simulation = FleetSimulation(
        FleetPlan(profiles=(PROFILE,) * 4, settings=settings, joins=joins, **plan)  # type: ignore[arg-type]  # whatever a test asks for
    )
    simulation.run(conversations(80, 30.0))
    simulation.check_invariants()
    return simulation


def warmup(settings: RouterSettings, **changes: object) -> RouterSettings:
    changed = settings.warmup.model_copy(update=changes)
    return settings.model_copy(update={"warmup": changed})


def first_answers(simulation: FleetSimulation, worker: int, count: int = 8) -> tuple[float, float]:
    """Mean share of cached tokens, and mean TTFT in seconds, of a worker's first requests."""
    columns = simulation.columns
    rows = np.flatnonzero(np.asarray(columns.worker) == worker)[:count]
    cached = np.asarray(columns.cached_tokens)[rows] / np.asarray(columns.prompt_tokens)[rows]
    ttft_s = np.asarray(columns.first_s)[rows] - np.asarray(columns.arrived_s)[rows]
    return float(cached.mean()), float(ttft_s.mean())


def test_a_worker_that_joins_is_not_there_before_and_answers_soon_after() -> None:
    simulation = joined(settings_with(), Join(4.0, 3))
    arrived = np.asarray(simulation.columns.arrived_s)
    at_three = np.asarray(simulation.columns.worker) == 3
    assert arrived[at_three].min() >= 4.0
    assert at_three[(arrived > 5.0) & (arrived < 7.0)].mean() > 0.1
    assert simulation.tally.replayed_tokens > 0


def test_a_warm_worker_reuses_from_its_first_requests_on() -> None:
    without = warmup(settings_with(), enabled=False)
    gained = []
    for seed in range(4):  # who comes first is chance
        cold = joined(without, Join(4.0, 3), seed=seed)
        warm = joined(settings_with(), Join(4.0, 3), seed=seed)
        assert cold.tally.replayed_tokens == 0
        gained.append(first_answers(warm, 3)[0] - first_answers(cold, 3)[0])
    assert np.mean(gained) > 0.1


def test_one_that_comes_back_is_warmed_and_one_that_is_there_from_the_start_is_not() -> None:
    assert joined(settings_with()).tally.replayed_tokens == 0
    back = joined(settings_with(), failures=(Failure(3.0, 1, 2.0),))
    assert back.tally.replayed_tokens > 0


def test_warming_holds_back_no_longer_than_its_deadline() -> None:
    slow = warmup(settings_with(), deadline_s=0.001)
    arrived = np.asarray(joined(slow, Join(4.0, 3)).columns.arrived_s)
    assert len(arrived) == 320
    held = warmup(settings_with(), deadline_s=3.0, concurrency=1)
    simulation = joined(held, Join(4.0, 3), failures=(Failure(4.01, 3, 1.0),))
    assert simulation.columns.is_complete().mean() > 0.95
