from __future__ import annotations

import pytest

from loadtest.comparison.tallies import balance_between, tally_of

PAGE = b"""\
# TYPE vllm:request_success counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{finished_reason="length",model_name="m"} 4.0
vllm:prompt_tokens_total{model_name="m"} 700.0
vllm:prompt_tokens_cached_total{model_name="m"} 300.0
vllm:generation_tokens_total{model_name="m"} 50.0
"""


def test_a_tally_adds_up_the_labels_of_a_counter() -> None:
    assert tally_of(PAGE) == {
        "requests": 7,
        "prompt_tokens": 700,
        "cached_tokens": 300,
        "output_tokens": 50,
    }


def test_balance_counts_what_was_done_in_between_and_idle_workers_too() -> None:
    idle = dict.fromkeys(tally_of(PAGE), 0)
    before = {"a": idle, "b": tally_of(PAGE)}
    after = {"a": tally_of(PAGE), "b": tally_of(PAGE)}
    balance = balance_between(before, after)
    assert balance.workers["a"].requests == 7
    assert balance.workers["b"].requests == 0
    assert balance.requests_max_over_mean == pytest.approx(2.0)
    assert balance.tokens_max_over_mean == pytest.approx(2.0)
