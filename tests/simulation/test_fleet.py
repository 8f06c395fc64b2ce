"""What a simulated fleet promises: one end for each request, nothing left over, the same again."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.plan import Slo
from loadtest.records import ErrorKind
from loadtest.simulation.fleet import MODEL, FleetSimulation
from loadtest.simulation.plan import Failure, FleetPlan, Sight
from loadtest.simulation.summary import summary_of
from router.scheduling.policies import POLICY_NAMES
from tests.simulation.fleets import PROFILE, conversations, settings_with, simulated


def errors(simulation: FleetSimulation) -> dict[ErrorKind, int]:
    return simulation.columns.errors(np.ones(len(simulation.columns), np.bool_))


def columns(simulation: FleetSimulation) -> tuple[bytes, ...]:
    kept = simulation.columns
    return tuple(
        column.tobytes()
        for column in (kept.first_s, kept.ended_s, kept.floor_s, kept.cached_tokens, kept.worker)
    )


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_request_is_answered_and_nothing_is_left_over(policy: str) -> None:
    simulation = simulated(policy=policy)
    assert len(simulation.columns) == 240
    assert simulation.columns.is_complete().all()
    assert errors(simulation) == {}


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_the_same_seed_gives_the_same_result_bit_for_bit(policy: str) -> None:
    failures = (Failure(2.0, 1, 3.0),)
    first, second = (simulated(policy=policy, failures=failures, seed=3) for _ in range(2))
    assert columns(first) == columns(second)
    assert first.tally == second.tally


def test_another_seed_gives_another_result() -> None:
    assert columns(simulated(seed=1)) != columns(simulated(seed=2))


def test_without_delay_the_index_holds_exactly_what_the_engines_hold() -> None:
    looks = 0

    def compare(simulation: FleetSimulation) -> None:
        nonlocal looks
        for worker_id, worker in simulation.workers.items():
            held = worker.scheduler.pool.content()
            known = simulation.routers[0].index.block_count(worker_id)
            # What the step under way has changed is told at its end.
            pending = sum(len(getattr(one, "keys", ())) for one in worker.scheduler.pool.events)
            assert abs(len(held) - known) <= pending
            looks += 1

    simulation = simulated(event_delay_s=0.0, watch=compare)
    assert looks > 20
    for worker_id, worker in simulation.workers.items():
        held = worker.scheduler.pool.content()
        assert simulation.routers[0].index.block_count(worker_id) <= len(held)


def test_the_boards_say_what_their_sources_say() -> None:
    looks = 0

    def look(simulation: FleetSimulation) -> None:
        nonlocal looks
        board = simulation.routers[0].dispatcher.standings.of(MODEL)
        board.check_invariants()
        assert [target.target_id for target in board.targets] == [
            target.target_id for target in simulation.routers[0].fleet.eligible(MODEL)
        ]
        looks += 1

    simulated(failures=(Failure(3.0, 0, 4.0),), watch=look)
    assert looks > 5


def test_the_cost_policy_finds_more_in_caches_than_round_robin() -> None:
    ratio = {}
    for policy in ("cost", "round_robin"):
        summary, beyond = summary_of(simulated(policy=policy).columns, Slo())
        assert summary.cached_ratio is not None
        assert beyond.over_floor_ms is not None
        ratio[policy] = summary.cached_ratio, beyond.over_floor_ms.mean
    assert ratio["cost"][0] > 1.3 * ratio["round_robin"][0]
    assert ratio["cost"][1] < 0.6 * ratio["round_robin"][1]


def test_no_request_is_faster_than_the_floor_and_an_idle_worker_is_at_it() -> None:
    roomy = PROFILE.model_copy(update={"kv_blocks": 50_000})
    simulation = simulated(profiles=(roomy,), sessions=10, rate_per_s=0.05)
    ttft_s = np.asarray(simulation.columns.first_s) - np.asarray(simulation.columns.arrived_s)
    over_s = ttft_s - np.asarray(simulation.columns.floor_s)
    assert over_s.min() > -1e-9
    assert np.quantile(over_s, 0.8) < 1e-9, "few meet another one there"


def test_a_dead_worker_breaks_what_it_was_answering_and_others_take_the_rest() -> None:
    simulation = simulated(rate_per_s=60.0, failures=(Failure(2.0, 2, 2.0), Failure(3.0, 0, None)))
    broken = errors(simulation)
    assert set(broken) == {ErrorKind.STREAM_ERROR}
    assert 0 < broken[ErrorKind.STREAM_ERROR] < 40
    assert simulation.tally.retries > 0
    assert len(simulation.routers[0].fleet.records()) == 3
    last = np.asarray(simulation.columns.worker)[-60:]
    assert 0 not in last, "the one that stayed away"
    assert 2 in last, "the one that came back"


def test_a_fleet_that_is_dead_refuses_and_recovers() -> None:
    failures = tuple(Failure(2.0, place, 3.0) for place in range(4))
    simulation = simulated(failures=failures)
    assert ErrorKind.HTTP_5XX in errors(simulation)
    arrived = np.asarray(simulation.columns.arrived_s)
    assert simulation.columns.is_complete()[arrived > 5.1].all()


def test_a_full_fleet_lets_wait_then_refuses() -> None:
    settings = settings_with(queue_length_max=20, queue_wait_s_max=0.5)
    simulation = simulated(1, sessions=100, rate_per_s=200.0, settings=settings)
    refused = errors(simulation)
    assert simulation.tally.queued > 0
    assert set(refused) == {ErrorKind.HTTP_429}
    said = " ".join(simulation.columns.details.values())
    assert "busy" in said or "became free" in said


def test_a_request_that_fits_no_engine_is_refused_by_it() -> None:
    small = PROFILE.model_copy(update={"max_model_len": 400})
    simulation = simulated(profiles=(small,) * 2)
    refused = errors(simulation)
    assert set(refused) == {ErrorKind.HTTP_4XX}
    assert refused[ErrorKind.HTTP_4XX] < len(simulation.columns)


def test_a_slow_worker_gets_less_once_it_is_known() -> None:
    slow = PROFILE.at_speed(0.2)
    simulation = simulated(profiles=(PROFILE, PROFILE, PROFILE, slow), sessions=120)
    shares = np.bincount(np.asarray(simulation.columns.worker)[100:], minlength=4)
    assert shares[3] < 0.4 * shares[:3].mean()


def test_without_events_a_fleet_learns_where_prefixes_are_and_invents_little() -> None:
    ratio, wrong = {}, {}
    sights: tuple[Sight, ...] = ("events", "counts", "nothing")
    for sight in sights:
        plan = FleetPlan(profiles=(PROFILE,) * 4, settings=settings_with(), sight=sight)
        simulation = FleetSimulation(plan)
        simulation.run(conversations(120, 20.0))
        simulation.check_invariants()
        summary, beyond = summary_of(simulation.columns, Slo())
        ratio[sight], wrong[sight] = summary.cached_ratio or 0.0, beyond.mispredicted_ratio
    assert wrong["events"] < 0.05
    assert ratio["counts"] > 0.85 * ratio["events"]
    assert ratio["nothing"] > 0.75 * ratio["events"]
