from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.scaling.decide import decide
from cluster.scaling.types import Decision, Demand, Observation, Reason, ScalingState
from rhizome.settings.cluster import ScalingSettings

SETTINGS = ScalingSettings(
    ttft_target_ms=1000, queue_wait_target_ms=100, up_after_s=3, down_after_s=60, step_max=2
)
CALM = Demand(
    queued=0,
    queue_wait_ms_max=0.0,
    in_flight=0,
    predicted_ttft_ms_p90=None,
    refused=0,
    complete=True,
)
WAITING = replace(CALM, queued=5, in_flight=10, queue_wait_ms_max=150.0)
SEEN = Observation(
    target=2, min_workers=1, max_workers=8, ready=2, loading=0, room_per_worker=10, demand=CALM
)


class Model:
    """A model whose workers are ready as soon as they are asked for, unless told otherwise."""

    def __init__(self, **changes: Any) -> None:
        self.seen = replace(SEEN, **changes)
        self.state = ScalingState()
        self.now_s = 0.0

    def observe(self, demand: Demand | None, for_s: float = 0.0, **changes: Any) -> Decision:
        """Decides now and once a second for `for_s` more; returns the last decision."""
        end_s = self.now_s + for_s
        while True:
            seen = replace(self.seen, demand=demand, **changes)
            decision = decide(self.state, seen, SETTINGS, self.now_s)
            self.state = decision.state
            ready = changes.get("ready", decision.target)
            self.seen = replace(self.seen, target=decision.target, ready=ready)
            self.now_s += 1.0
            if self.now_s > end_s:
                return decision


def test_a_long_queue_wait_adds_workers_after_it_has_lasted() -> None:
    model = Model()
    assert model.observe(WAITING, for_s=2).reason is Reason.PRESSURE_YOUNG
    grown = model.observe(WAITING)
    assert (grown.target, grown.reason) == (3, Reason.PRESSURE)
    assert "queue wait 150 ms, target 100 ms" in grown.explain


def test_a_short_spike_adds_nothing() -> None:
    model = Model()
    model.observe(WAITING, for_s=2)
    model.observe(CALM)
    assert model.observe(WAITING, for_s=2).reason is Reason.PRESSURE_YOUNG


def test_predicted_first_token_time_is_pressure_while_nobody_waits() -> None:
    model = Model()
    slow = replace(CALM, in_flight=4, predicted_ttft_ms_p90=1800.0)
    model.observe(slow, for_s=2)
    assert model.observe(slow).target == 4


def test_refusals_are_pressure() -> None:
    model = Model()
    model.observe(replace(CALM, refused=3), for_s=2)
    assert model.observe(replace(CALM, refused=3)).target == 3


def test_a_step_adds_at_most_step_max_however_bad_it_is() -> None:
    model = Model()
    flood = replace(WAITING, queued=500, queue_wait_ms_max=60_000.0)
    model.observe(flood, for_s=2)
    assert model.observe(flood).target == 4


def test_workers_that_load_count_as_capacity_to_come() -> None:
    model = Model(target=3, ready=2, loading=1)
    slow = replace(CALM, in_flight=10, predicted_ttft_ms_p90=1100.0)
    held = model.observe(slow, for_s=100, ready=2, loading=1)
    assert (held.target, held.reason) == (3, Reason.LOADING)


def test_more_requests_than_all_to_come_can_hold_add_workers_all_the_same() -> None:
    model = Model(target=3, ready=2, loading=1)
    flood = replace(WAITING, queued=40)
    model.observe(flood, for_s=2, ready=2, loading=1)
    assert model.observe(flood, ready=2, loading=1).target == 5


def test_refusals_while_no_worker_is_ready_do_not_multiply_workers() -> None:
    model = Model(ready=0, loading=2)
    held = model.observe(replace(CALM, refused=9), for_s=60, ready=0, loading=2)
    assert (held.target, held.reason) == (2, Reason.LOADING)


def test_the_maximum_is_never_passed() -> None:
    model = Model(max_workers=2)
    held = model.observe(WAITING, for_s=60)
    assert (held.target, held.reason) == (2, Reason.AT_MAXIMUM)


def test_from_zero_the_first_request_brings_one_worker_at_once() -> None:
    model = Model(target=0, min_workers=0, ready=0)
    grown = model.observe(replace(CALM, queued=50, queue_wait_ms_max=150.0))
    assert (grown.target, grown.reason) == (1, Reason.FIRST_WORKER)


def test_low_use_shrinks_to_what_was_needed_after_the_cool_down_and_not_before() -> None:
    model = Model(target=6, ready=6)
    light = replace(CALM, in_flight=4)
    assert model.observe(light, for_s=59).reason is Reason.COOLING_DOWN
    shrunk = model.observe(light)
    assert (shrunk.target, shrunk.reason) == (2, Reason.LOW_USE)


def test_the_most_that_was_needed_in_the_cool_down_counts() -> None:
    model = Model(target=6, ready=6)
    model.observe(CALM, for_s=30)
    model.observe(replace(CALM, in_flight=8))
    model.observe(CALM, for_s=31)
    assert model.seen.target == 3


def test_what_would_fill_the_rest_beyond_the_share_stays() -> None:
    model = Model()
    assert model.observe(replace(CALM, in_flight=3), for_s=300).target == 2
    assert model.observe(replace(CALM, in_flight=2), for_s=300).target == 1


def test_a_first_token_time_that_would_pass_its_target_with_fewer_stays() -> None:
    model = Model()
    near = replace(CALM, in_flight=2, predicted_ttft_ms_p90=600.0)
    assert model.observe(near, for_s=300).target == 2


def test_a_slow_prompt_alone_does_not_hold_workers_for_ever() -> None:
    model = Model(target=3, ready=3)
    lonely = replace(CALM, in_flight=1, predicted_ttft_ms_p90=900.0)
    assert model.observe(lonely, for_s=300).target == 1


def test_missing_signals_hold_and_start_the_cool_down_again() -> None:
    model = Model(target=4, ready=4)
    model.observe(CALM, for_s=50)
    assert model.observe(None, for_s=600).reason is Reason.NO_SIGNALS
    assert model.observe(CALM, for_s=59).target == 4
    assert model.observe(CALM, for_s=1).target == 1


def test_stale_signals_of_one_router_hold_a_shrink_but_not_growth() -> None:
    model = Model(target=4, ready=4)
    assert model.observe(replace(CALM, complete=False), for_s=600).target == 4
    part = replace(WAITING, complete=False)
    model.observe(part, for_s=2)
    assert model.observe(part).target == 6


def test_a_worker_that_has_just_loaded_is_kept_for_a_cool_down() -> None:
    model = Model(target=2, ready=1, loading=1)
    model.observe(CALM, for_s=200, ready=1, loading=1)
    model.seen = replace(model.seen, ready=2, loading=0)
    assert model.observe(CALM, for_s=59).target == 2
    assert model.observe(CALM, for_s=1).target == 1


def test_an_operators_target_is_a_new_start() -> None:
    model = Model()
    model.observe(CALM, for_s=55)
    model.seen = replace(model.seen, target=5, ready=5)
    assert model.observe(CALM, for_s=59).target == 5
    assert model.observe(CALM, for_s=1).target == 1


def test_a_target_outside_new_bounds_moves_to_the_nearest_bound() -> None:
    assert Model(target=9).observe(None).target == 8
    lifted = Model(target=0).observe(None)
    assert (lifted.target, lifted.reason) == (1, Reason.BOUNDS)


def test_a_share_of_zero_shrinks_only_without_any_request() -> None:
    settings = SETTINGS.model_copy(update={"down_utilization": 0.0})
    state = ScalingState(target=2, watched_since_s=0.0)
    busy = replace(SEEN, demand=replace(CALM, in_flight=1))
    assert decide(state, busy, settings, 100.0).target == 2
    assert decide(state, SEEN, settings, 100.0).target == 1
