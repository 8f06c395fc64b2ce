"""Scaling over random traces: whatever the demand does, the promises of `decide` hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scaling.decide import decide
from cluster.scaling.removals import Removable, choose_removals
from cluster.scaling.types import Demand, Observation, ScalingState
from rhizome.fleet.records import WorkerState
from rhizome.settings.cluster import ScalingSettings

COOL_DOWN_S = 30.0
SETTINGS = ScalingSettings(up_after_s=3, down_after_s=COOL_DOWN_S, step_max=3)
IDLE = Demand(
    queued=0,
    queue_wait_ms_max=0.0,
    in_flight=0,
    predicted_ttft_ms_p90=None,
    refused=0,
    complete=True,
)
demands = st.none() | st.builds(
    Demand,
    queued=st.integers(0, 50),
    queue_wait_ms_max=st.floats(0, 2000),
    in_flight=st.integers(0, 200),
    predicted_ttft_ms_p90=st.none() | st.floats(0, 8000),
    refused=st.integers(0, 3),
    complete=st.booleans(),
)
phases = st.tuples(demands, st.integers(1, 90), st.none() | st.integers(0, 12))


@dataclass
class Moment:
    at_s: float
    before: int
    after: int
    demand: Demand | None


def run(trace: list[tuple[Demand | None, int, int | None]], low: int, high: int) -> list[Moment]:
    """Decides once a second; workers load for five seconds; an operator may set the target at the
    start of a phase."""
    state, now_s, moments = ScalingState(), 0.0, []
    target, ready, ready_at_s = low, low, 0.0
    for demand, seconds, operator in trace:
        if operator is not None:
            target = min(max(operator, low), high)
        for _ in range(seconds):
            ready = target if now_s >= ready_at_s else min(ready, target)
            seen = Observation(
                target=target,
                min_workers=low,
                max_workers=high,
                ready=ready,
                loading=target - ready,
                room_per_worker=8,
                demand=demand,
            )
            decision = decide(state, seen, SETTINGS, now_s)
            state = decision.state
            moments.append(Moment(now_s, target, decision.target, demand))
            if decision.target > target:
                ready_at_s = now_s + 5.0
            target = decision.target
            now_s += 1.0
    return moments


bounds = st.tuples(st.integers(0, 4), st.integers(0, 8)).map(lambda two: (two[0], sum(two)))
traces = st.lists(phases, min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(traces, bounds)
def test_the_target_never_leaves_its_bounds(
    trace: list[tuple[Demand | None, int, int | None]], ends: tuple[int, int]
) -> None:
    for moment in run(trace, *ends):
        assert ends[0] <= moment.after <= ends[1]
        assert moment.after - moment.before <= SETTINGS.step_max


@settings(max_examples=300, deadline=None)
@given(traces, bounds)
def test_nothing_changes_without_signals_and_nothing_shrinks_on_stale_ones(
    trace: list[tuple[Demand | None, int, int | None]], ends: tuple[int, int]
) -> None:
    for moment in run(trace, *ends):
        if moment.demand is None:
            assert moment.after == moment.before
        elif not moment.demand.complete:
            assert moment.after >= moment.before


@settings(max_examples=300, deadline=None)
@given(traces, bounds)
def test_a_cool_down_has_at_most_one_turn_from_growing_to_shrinking(
    trace: list[tuple[Demand | None, int, int | None]], ends: tuple[int, int]
) -> None:
    grown_s = turned_s = float("-inf")
    growing = False
    for moment in run(trace, *ends):
        if moment.after > moment.before:
            growing, grown_s = True, moment.at_s
        elif moment.after < moment.before:
            assert moment.at_s - grown_s >= COOL_DOWN_S
            if growing:
                assert moment.at_s - turned_s >= COOL_DOWN_S
                turned_s = moment.at_s
            growing = False


@settings(max_examples=200, deadline=None)
@given(traces, bounds)
def test_idle_for_a_cool_down_means_the_minimum(
    trace: list[tuple[Demand | None, int, int | None]], ends: tuple[int, int]
) -> None:
    loading_s = 5
    idle = (IDLE, int(COOL_DOWN_S) + loading_s + 1, None)
    assert run([*trace, idle], *ends)[-1].after == ends[0]


@settings(max_examples=200, deadline=None)
@given(traces, bounds)
def test_what_is_remembered_stays_small(
    trace: list[tuple[Demand | None, int, int | None]], ends: tuple[int, int]
) -> None:
    state, now_s = ScalingState(), 0.0
    seen = Observation(ends[1], ends[0], ends[1], ends[1], 0, 8, None)
    for demand, seconds, _ in trace:
        for _ in range(seconds):
            decision = decide(state, replace(seen, demand=demand), SETTINGS, now_s)
            state, now_s = decision.state, now_s + 1.0
            seen = replace(seen, target=decision.target)
            needs = [need for _, need in state.needs]
            assert needs == sorted(set(needs), reverse=True)
            assert len(needs) <= ends[1] + 1


workers = st.lists(
    st.tuples(
        st.sampled_from([WorkerState.READY, WorkerState.LOADING, WorkerState.FAILED]),
        st.floats(0, 100),
        st.none() | st.integers(0, 5),
    ),
    max_size=8,
).map(lambda rows: [Removable(f"w{number}", *row) for number, row in enumerate(rows)])


@given(workers, st.integers(-1, 9))
def test_removals_are_distinct_and_keep_a_ready_worker_while_another_can_go(
    fleet: list[Removable], count: int
) -> None:
    chosen = choose_removals(fleet, count)
    assert len(chosen) == len(set(chosen)) == min(max(count, 0), len(fleet))
    by_id = {one.worker_id: one for one in fleet}
    ready = {one.worker_id for one in fleet if one.state is WorkerState.READY}
    if ready and len(chosen) < len(fleet):
        assert ready - set(chosen)
    for one in chosen:
        if by_id[one].state is WorkerState.LOADING:
            left = [by_id[name] for name in ready - set(chosen)]
            assert sum(worker.in_flight == 0 for worker in left) <= 1
