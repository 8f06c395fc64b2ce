from __future__ import annotations

import pytest

from loadtest.calibration.replay import Demand, replay_closed, replay_open
from workers.engine.simulated.profile import EngineProfile

PROFILE = EngineProfile(
    name="test",
    source="made up",
    a_ms=10.0,
    b_ms=1.0,
    c_ms_per_ktok=0.0,
    d_ms_per_ktok=100.0,
    request_overhead_ms=5.0,
    token_overhead_ms=2.0,
    kv_blocks=1_001,
    max_num_seqs=4,
    max_num_batched_tokens=512,
    max_model_len=4_096,
)


def test_a_request_alone_takes_overheads_prefill_and_one_step_a_token() -> None:
    (timing,) = replay_open(PROFILE, [Demand(1.0, 500, 5)])
    assert timing.ttft_ms == pytest.approx(5 + 10 + 1 + 50 + 2)
    assert timing.tpot_ms == pytest.approx(11)


def test_an_output_of_one_token_has_no_time_per_token() -> None:
    (timing,) = replay_open(PROFILE, [Demand(0.0, 8, 1)])
    assert timing.tpot_ms is None


def test_a_prompt_waits_for_the_step_under_way_and_slows_the_others() -> None:
    first, second = replay_open(PROFILE, [Demand(0.0, 100, 3), Demand(0.001, 400, 1)])
    assert first.ttft_ms == pytest.approx(5 + 21 + 2)
    assert second.ttft_ms == pytest.approx(5 + 20 + (10 + 2 + 40) + 2)
    assert first.tpot_ms == pytest.approx((52 + 11) / 2)


def test_requests_that_look_alike_share_no_cache() -> None:
    timings = replay_open(PROFILE, [Demand(float(at_s), 320, 2) for at_s in range(3)])
    assert len({round(each.ttft_ms, 6) for each in timings}) == 1


def test_timings_come_in_the_order_of_the_demands() -> None:
    long, short = replay_open(PROFILE, [Demand(5.0, 500, 2), Demand(0.0, 10, 2)])
    assert long.ttft_ms > short.ttft_ms


def test_a_closed_loop_keeps_its_concurrency_and_ends() -> None:
    timings = replay_closed(PROFILE, lambda: (100, 11), concurrency=2, requests=10)
    assert len(timings) == 10
    assert timings[-1].tpot_ms == pytest.approx(12, rel=0.05)


def test_what_exceeds_the_sequences_waits() -> None:
    timings = replay_open(PROFILE, [Demand(0.0, 16, 50) for _ in range(5)])
    assert timings[4].ttft_ms > 49 * 14


def test_with_async_scheduling_an_arrival_waits_for_the_step_that_was_decided_before_it() -> None:
    demands = [Demand(0.0, 100, 6), Demand(0.001, 400, 1)]
    ahead = PROFILE.model_copy(update={"async_scheduling": True})
    (_, at_once), (_, late) = replay_open(PROFILE, demands), replay_open(ahead, demands)
    assert late.ttft_ms - at_once.ttft_ms == pytest.approx(11)


def test_with_async_scheduling_an_idle_engine_begins_at_once() -> None:
    demands = [Demand(0.0, 100, 2), Demand(1.0, 100, 2)]
    ahead = PROFILE.model_copy(update={"async_scheduling": True})
    assert replay_open(ahead, demands) == replay_open(PROFILE, demands)
