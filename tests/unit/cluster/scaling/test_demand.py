from __future__ import annotations

from typing import Any

import msgspec

from cluster.scaling.demand import sum_signals
from rhizome.stores.signals import ModelSignal

NOW_S = 1000.0
SIGNAL = ModelSignal(
    model="m",
    router_id="r1",
    at_wall_s=NOW_S,
    window_s=1.0,
    queued=2,
    queue_wait_ms_max=40.0,
    in_flight=5,
    predicted_ttft_ms_p90=None,
    arrivals_per_s=3.0,
    refused=1,
)


def signal(**changes: Any) -> ModelSignal:
    return msgspec.structs.replace(SIGNAL, **changes)


def test_routers_are_summed_and_their_worst_times_kept() -> None:
    other = signal(router_id="r2", queue_wait_ms_max=90.0, predicted_ttft_ms_p90=700.0)
    demand = sum_signals([SIGNAL, other], "m", NOW_S)
    assert demand is not None
    assert (demand.queued, demand.in_flight, demand.refused) == (4, 10, 2)
    assert (demand.queue_wait_ms_max, demand.predicted_ttft_ms_p90) == (90.0, 700.0)
    assert demand.complete


def test_no_signal_about_the_model_is_not_zero_demand() -> None:
    assert sum_signals([signal(model="other")], "m", NOW_S) is None
    assert sum_signals([], "m", NOW_S) is None


def test_stale_signals_are_left_out_and_make_the_sum_incomplete() -> None:
    stale = signal(router_id="r2", at_wall_s=NOW_S - 6.0)
    demand = sum_signals([SIGNAL, stale], "m", NOW_S)
    assert demand is not None
    assert demand.queued == 2
    assert not demand.complete
    assert sum_signals([stale], "m", NOW_S) is None


def test_a_routers_fast_clock_does_not_make_its_signal_stale() -> None:
    assert sum_signals([signal(at_wall_s=NOW_S + 30.0)], "m", NOW_S) is not None
