from __future__ import annotations

import pytest

from tests.support.simulated_runs import Ledger, finish, profile, request, run
from workers.engine.simulated.cache import Cleared, Removed, Stored
from workers.engine.simulated.profile import MixtureOfExperts, Speculation
from workers.engine.simulated.requests import RequestUnfit, Started
from workers.engine.simulated.scheduler import Scheduler


def _single(**changes: object) -> Scheduler:
    return Scheduler(profile(**changes), fuse=False)


# Prefix hits


@pytest.mark.parametrize(("prompt_len", "cached"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_the_last_prompt_token_is_always_computed(prompt_len: int, cached: int) -> None:
    scheduler = _single()
    ledger = run(scheduler, [request("a", prompt_len), request("b", prompt_len, arrival_s=5.0)])
    assert ledger.cached == {"a": 0, "b": cached}


def test_blocks_are_found_as_soon_as_the_step_that_fills_them_is_scheduled() -> None:
    scheduler = _single()
    scheduler.add(request("a", 9))
    scheduler.add(request("b", 10))
    step = scheduler.step(0.0)
    assert step is not None
    assert step.started == [Started("a", 0), Started("b", 8)]


def test_output_becomes_findable_block_by_block_but_for_its_last_token() -> None:
    # 6 + 6 tokens: the twelfth is sampled but never computed, so the third block never fills.
    scheduler = _single()
    ledger = run(scheduler, [request("a", 6, 6), request("b", 13, arrival_s=5.0)])
    assert ledger.cached["b"] == 8
    ledger = run(_single(), [request("a", 6, 7), request("b", 13, arrival_s=5.0)])
    assert ledger.cached["b"] == 12


def test_stored_blocks_name_their_parent_and_place() -> None:
    ledger = run(_single(), [request("a", 9, 4)])
    key = [("same",) * count for count in range(1, 4)]
    assert ledger.events == [
        Stored("a", 0, key[:2], None, key[:2]),
        Stored("a", 2, key[2:], key[1], key[2:]),
    ]


def test_blocks_of_the_output_are_private_without_a_key_for_them() -> None:
    scheduler = _single()
    plain = request("a", 6, 7)
    private = type(plain)("a", 6, plain.block_keys, 7, 0.0)
    ledger = run(scheduler, [private, request("b", 13, arrival_s=5.0)])
    assert ledger.cached["b"] == 4


# One step


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = _single(max_num_batched_tokens=10)
    scheduler.add(request("a", 25))
    steps = [scheduler.step(0.0) for _ in range(3)]
    assert [step.prefill_tokens for step in steps if step] == [10, 10, 5]
    assert [step.first for step in steps if step] == [[], [], ["a"]]


def test_decoding_goes_before_prompts_in_the_budget() -> None:
    scheduler = _single(max_num_batched_tokens=10)
    scheduler.add(request("a", 5, text=("a",)))
    scheduler.step(0.0)
    scheduler.add(request("b", 20, text=("b",)))
    step = scheduler.step(0.0)
    assert step is not None
    assert step.tokens == {"a": 1}
    assert step.prefill_tokens == 9


def test_a_step_takes_the_time_of_the_profile() -> None:
    scheduler = _single(max_num_batched_tokens=64)
    scheduler.add(request("a", 10, text=("a",)))
    first = scheduler.step(1.0)
    assert first is not None
    assert first.duration_s == pytest.approx((10 + 0.5 + 100 * 10 / 1000) / 1000)
    scheduler.add(request("b", 20, text=("b",)))
    second = scheduler.step(2.0)
    assert second is not None
    assert second.duration_s == pytest.approx((10 + 1 + 7 * 11 / 1000 + 100 * 20 / 1000) / 1000)
    assert second.start_s == 2.0


def test_prefill_may_cost_more_the_more_comes_before_it() -> None:
    scheduler = _single(max_num_batched_tokens=10, e_ms_per_mtok2=1e6)
    scheduler.add(request("a", 15))
    scheduler.step(0.0)
    second = scheduler.step(0.0)
    assert second is not None
    assert second.duration_s == pytest.approx((10 + 0.5 + 0.5 + 5 * (10 + 2.5)) / 1000)


def test_no_more_than_max_num_seqs_run() -> None:
    scheduler = _single(max_num_seqs=2)
    for name in "abc":
        scheduler.add(request(name, 5))
    scheduler.step(0.0)
    assert (scheduler.running, scheduler.waiting) == (2, 1)


def test_a_long_prompt_is_held_back_only_while_others_are_there() -> None:
    scheduler = _single(long_prefill_token_threshold=6)
    scheduler.add(request("a", 20, text=("a",)))
    alone = scheduler.step(0.0)
    scheduler.add(request("b", 20, text=("b",)))
    together = scheduler.step(0.0)
    assert alone is not None
    assert together is not None
    assert (alone.prefill_tokens, together.prefill_tokens) == (20, 6)


def test_few_sequences_read_few_experts() -> None:
    moe = MixtureOfExperts(experts=4, active=1, expert_ms=8.0)
    scheduler = _single(moe=moe)
    scheduler.add(request("a", 1, 2))
    step = scheduler.step(0.0)
    assert step is not None
    assert step.duration_s == pytest.approx((10 - 8 * 0.75 + 0.5 + 0.1) / 1000)


def test_speculation_gains_its_mean_and_lengthens_the_step() -> None:
    scheduler = _single(speculation=Speculation(tokens_per_step=2.5, step_factor=1.2))
    scheduler.add(request("a", 4, 9))
    steps = [step for _ in range(4) if (step := scheduler.step(0.0))]
    assert [step.tokens["a"] for step in steps] == [1, 2, 3, 2]
    assert steps[1].duration_s == pytest.approx(1.2 * (10 + 0.5 + 7 * 5 / 1000) / 1000)
    finish(scheduler, ledger := Ledger())
    assert ledger.finished_s.keys() == {"a"}
    assert scheduler.idle


# Room


def test_a_request_is_admitted_only_if_its_whole_prompt_fits() -> None:
    scheduler = _single(max_num_batched_tokens=8)  # 15 blocks of 4 tokens
    scheduler.add(request("a", 36, text=("a",)))
    scheduler.add(request("b", 28, text=("b",)))
    for _ in range(5):
        scheduler.step(0.0)
    assert (scheduler.running, scheduler.waiting) == (1, 1)


def test_hits_in_use_count_once_towards_the_room() -> None:
    scheduler = _single()
    scheduler.add(request("a", 37, 8))
    scheduler.step(0.0)
    scheduler.add(request("b", 45, 8))
    scheduler.step(0.0)
    assert scheduler.running == 2


def test_the_watermark_leaves_room_while_others_run() -> None:
    for watermark, running in ((0.0, 2), (0.2, 1)):
        scheduler = _single(watermark=watermark)
        scheduler.add(request("a", 32, text=("a",)))
        scheduler.step(0.0)
        scheduler.add(request("b", 24, text=("b",)))
        scheduler.step(0.0)
        assert scheduler.running == running


def test_the_last_one_is_preempted_and_goes_to_the_front_of_the_queue() -> None:
    scheduler = _single(max_num_batched_tokens=64)
    for name in "abc":
        scheduler.add(request(name, 19, 12, text=(name,)))
    scheduler.add(request("d", 19, 12, text=("d",)))
    first = scheduler.step(0.0)
    assert first is not None
    assert [started.request_id for started in first.started] == ["a", "b", "c"]
    steps = [step for _ in range(3) if (step := scheduler.step(0.0))]
    assert [step.preempted for step in steps] == [[], ["c"], []]
    assert steps[1].tokens.keys() == {"a", "b"}, "nobody is admitted in a step that preempts"
    assert scheduler.preemptions == 1
    scheduler.check_invariants()
    ledger = finish(scheduler, Ledger())
    assert ledger.finished_s["c"] < ledger.finished_s["d"]


def test_a_preempted_request_finds_its_own_blocks_again_and_reports_its_first_hit() -> None:
    scheduler = _single(max_num_batched_tokens=64)
    scheduler.add(request("a", 28, 3, text=("a",)))
    scheduler.add(request("b", 28, 9, text=("b",)))
    steps = [step for _ in range(4) if (step := scheduler.step(0.0))]
    assert [step.preempted for step in steps] == [[], ["b"], [], []]
    assert steps[2].finished == ["a"]
    assert not steps[3].started, "a request starts once"
    assert steps[3].tokens == {"b": 1}
    assert steps[3].prefill_tokens == 0, "all but its newest token was found"


def test_priority_decides_who_is_admitted_and_who_is_preempted() -> None:
    scheduler = _single(policy="priority", max_num_batched_tokens=64)
    scheduler.add(request("low", 19, 12, text=("low",), priority=5))
    scheduler.add(request("mid", 19, 12, text=("mid",), priority=3, arrival_s=1.0))
    scheduler.add(request("high", 19, 12, text=("high",), priority=1, arrival_s=2.0))
    scheduler.add(request("next", 19, 12, text=("next",), priority=2, arrival_s=3.0))
    first = scheduler.step(0.0)
    assert first is not None
    assert [started.request_id for started in first.started] == ["high", "next", "mid"]
    preempted = [name for _ in range(3) if (step := scheduler.step(0.0)) for name in step.preempted]
    assert preempted == ["mid"]


def test_within_a_priority_the_earlier_arrival_goes_first() -> None:
    scheduler = _single(policy="priority", max_num_seqs=1)
    scheduler.add(request("late", 5, arrival_s=2.0))
    scheduler.add(request("early", 5, arrival_s=1.0))
    step = scheduler.step(3.0)
    assert step is not None
    assert [started.request_id for started in step.started] == ["early"]


def test_eviction_is_told_before_what_replaces_it() -> None:
    scheduler = _single(max_num_batched_tokens=64)
    ledger = run(
        scheduler,
        [request("a", 41, 2, text=("a",)), request("b", 41, 2, text=("b",), arrival_s=9.0)],
    )
    kinds = [type(event) for event in ledger.events]
    assert kinds == [Stored, Removed, Stored]
    removed = ledger.events[1]
    assert isinstance(removed, Removed)
    assert list(removed.keys) == [("a",) * count for count in range(10, 4, -1)]


# Leaving


def test_an_abort_frees_the_blocks_at_once_and_keeps_them_findable() -> None:
    scheduler = _single()
    scheduler.add(request("a", 12, 9))
    scheduler.step(0.0)
    assert scheduler.kv_used_blocks == 3
    assert scheduler.abort("a")
    assert scheduler.kv_used_blocks == 0
    assert scheduler.idle
    assert not scheduler.abort("a")
    scheduler.add(request("b", 13, 1))
    step = scheduler.step(1.0)
    assert step is not None
    assert step.started == [Started("b", 12)]


def test_an_abort_during_a_step_loses_the_tokens_of_that_step() -> None:
    scheduler = Scheduler(profile())
    scheduler.add(request("a", 5, 9, text=("a",)))
    scheduler.add(request("b", 5, 9, text=("b",)))
    end_s = scheduler.next_event_s()
    assert end_s is not None
    scheduler.advance(end_s / 2)
    assert scheduler.abort("a")
    (step,) = scheduler.advance(end_s)
    assert step.tokens == {"b": 1}
    assert "a" not in scheduler
    assert "b" in scheduler


def test_an_abort_cuts_a_row_at_the_step_under_way() -> None:
    scheduler = Scheduler(profile())
    for name in "ab":
        scheduler.add(request(name, 5, 30, text=(name,)))
    scheduler.advance(0.1)
    scheduler.abort("a")
    (step,) = scheduler.advance(scheduler.next_event_s() or 0.0)
    assert step.steps == 1
    assert step.tokens == {"b": 1}


def test_a_waiting_request_can_be_aborted() -> None:
    for policy in ("fcfs", "priority"):
        scheduler = _single(policy=policy, max_num_seqs=1)
        for name in "abc":
            scheduler.add(request(name, 5))
        scheduler.step(0.0)
        assert scheduler.abort("b")
        assert scheduler.waiting == 1
        scheduler.check_invariants()


def test_the_cache_is_cleared_only_when_nobody_uses_it() -> None:
    scheduler = _single()
    scheduler.add(request("a", 9, 2))
    scheduler.step(0.0)
    assert not scheduler.clear_cache()
    scheduler.step(0.0)
    assert scheduler.clear_cache()
    assert scheduler.take_events() == [Cleared()]


# Time


def test_steps_follow_each_other_without_a_gap_while_there_is_work() -> None:
    scheduler = _single()
    scheduler.add(request("a", 9, 5, arrival_s=3.0))
    steps = scheduler.advance(10.0)
    assert steps[0].start_s == 3.0
    assert [step.start_s for step in steps[1:]] == [step.end_s for step in steps[:-1]]
    assert scheduler.next_event_s() is None


def test_decoding_is_one_row_until_somebody_finishes_or_arrives() -> None:
    scheduler = Scheduler(profile())
    scheduler.add(request("a", 9, 20))
    first, rest = scheduler.advance(10.0)
    assert (first.steps, rest.steps) == (1, 19)
    assert rest.tokens == {"a": 19}
    assert rest.end_of(19) == rest.end_s

    scheduler.add(request("b", 9, 20, text=("b",), arrival_s=20.0))
    scheduler.advance(20.05)
    scheduler.add(request("c", 9, 20, text=("c",), arrival_s=20.05))
    steps = scheduler.advance(30.0)
    assert steps[0].steps == 1
    assert steps[1].started == [Started("c", 0)]


def test_an_arrival_that_cannot_be_admitted_cuts_no_row() -> None:
    scheduler = Scheduler(profile(max_num_seqs=1))
    scheduler.add(request("a", 9, 20))
    scheduler.advance(0.05)
    before_s = scheduler.next_event_s()
    scheduler.add(request("b", 9, 20, arrival_s=0.05))
    assert scheduler.next_event_s() == before_s


def test_an_arrival_before_its_time_is_refused() -> None:
    scheduler = Scheduler(profile())
    scheduler.add(request("a", 9, 20))
    scheduler.advance(0.05)
    with pytest.raises(RequestUnfit, match="advance to its arrival first"):
        scheduler.add(request("b", 9, 20, arrival_s=1.0))


def test_a_single_step_and_a_step_under_way_exclude_each_other() -> None:
    scheduler = Scheduler(profile())
    assert scheduler.step(0.0) is None
    scheduler.add(request("a", 9, 20))
    scheduler.next_event_s()
    with pytest.raises(RuntimeError, match="under way"):
        scheduler.step(0.0)


@pytest.mark.parametrize(
    ("prompt_len", "output_len", "cause"),
    [(0, 1, "at least one token"), (5, 0, "at least one token"), (57, 4, "exceed max_model_len")],
)
def test_what_can_never_run_is_refused(prompt_len: int, output_len: int, cause: str) -> None:
    with pytest.raises(RequestUnfit, match=cause):
        _single().add(request("a", prompt_len, output_len))


def test_a_request_contradicting_itself_or_another_is_refused() -> None:
    scheduler = _single()
    with pytest.raises(RequestUnfit, match="keys for 2 full blocks"):
        scheduler.add(request("a", 8, block_size=8))
    scheduler.add(request("a", 8))
    with pytest.raises(RequestUnfit, match="here already"):
        scheduler.add(request("a", 8))


def test_usage_is_the_share_of_blocks_in_use() -> None:
    scheduler = _single()
    scheduler.add(request("a", 12))
    scheduler.step(0.0)
    assert scheduler.kv_usage == 3 / 15
