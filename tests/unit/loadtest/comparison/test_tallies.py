from __future__ import annotations

import pytest

from loadtest.comparison.tallies import Tally, balance_between, engine_ttft_ms, tally_of

PAGE = b"""\
# TYPE vllm:request_success counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{finished_reason="length",model_name="m"} 4.0
vllm:prompt_tokens_total{model_name="m"} 700.0
vllm:prompt_tokens_cached_total{model_name="m"} 300.0
vllm:generation_tokens_total{model_name="m"} 50.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 7.0
vllm:time_to_first_token_seconds_count{model_name="m"} 7.0
vllm:time_to_first_token_seconds_sum{model_name="m"} 1.4
"""


def test_a_tally_adds_up_the_labels_of_a_counter() -> None:
    assert tally_of(PAGE) == (
        {"requests": 7, "prompt_tokens": 700, "cached_tokens": 300, "output_tokens": 50},
        1.4,
        7,
    )


def test_balance_counts_what_was_done_in_between_and_idle_workers_too() -> None:
    idle = tally_of(b"")
    before = {"a": idle, "b": tally_of(PAGE)}
    after = {"a": tally_of(PAGE), "b": tally_of(PAGE)}
    balance = balance_between(before, after)
    assert balance.workers["a"].requests == 7
    assert balance.workers["b"].requests == 0
    assert balance.requests_max_over_mean == pytest.approx(2.0)
    assert balance.tokens_max_over_mean == pytest.approx(2.0)


def test_the_engines_own_mean_counts_only_what_came_in_between() -> None:
    before = {"a": tally_of(PAGE), "b": tally_of(b"")}
    after = {"a": Tally({}, 2.0, 9), "b": Tally({}, 0.4, 2)}
    assert engine_ttft_ms(before, after) == pytest.approx(250.0)
    assert engine_ttft_ms(after, after) is None
