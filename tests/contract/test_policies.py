"""What every scheduling policy promises, run on all of them."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhizome.settings.tree import PolicyName
from router.scheduling.choosing import Reason
from router.scheduling.policies import POLICY_NAMES, build_policy
from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidate, Candidates, RoutingRequest


def candidates_for(prompt_tokens: int) -> st.SearchStrategy[list[Candidate]]:
    """Valid candidates of one request; full ones too, since filters may be left out."""
    one = st.builds(
        Candidate,
        worker_id=st.sampled_from(["a", "b/0", "b/1", "c", "d", "ä"]),
        match_tokens=st.integers(0, max(0, prompt_tokens - 1)),
        in_flight=st.integers(0, 300),
        in_flight_max=st.integers(1, 256),
        queued_tokens=st.integers(0, 10**7),
        prefill_tokens_per_s=st.floats(1.0, 1e7),
        decode_step_ms=st.floats(0.01, 1e4),
        kv_usage=st.floats(0.0, 1.0),
        overhead_ms=st.floats(0.0, 1e4),
        attention_tokens=st.floats(100.0, 1e8) | st.just(math.inf),
        is_learned=st.booleans(),
    )
    return st.lists(one, min_size=1, max_size=6, unique_by=lambda c: c.worker_id)


requests = st.builds(
    RoutingRequest,
    request_id=st.text(min_size=1, max_size=5),
    model=st.just("m"),
    prompt_tokens=st.integers(1, 100_000),
    block_hashes=st.lists(st.integers(0, 2**64 - 1), max_size=20),
    session=st.none() | st.text(max_size=5),
    completion_tokens_max=st.none() | st.integers(1, 4096),
)
decisions = requests.flatmap(
    lambda request: st.tuples(st.just(request), candidates_for(request.prompt_tokens))
)


def equal_candidates(count: int) -> list[Candidate]:
    return [
        Candidate(
            worker_id=f"w{n}",
            match_tokens=0,
            in_flight=3,
            in_flight_max=64,
            queued_tokens=500,
            prefill_tokens_per_s=4000.0,
            decode_step_ms=20.0,
        )
        for n in range(count)
    ]


def a_request(number: int = 0) -> RoutingRequest:
    return RoutingRequest(
        request_id=f"req-{number}", model="m", prompt_tokens=100, block_hashes=[number, number + 1]
    )


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=40, deadline=None)
@given(decision=decisions, seed=st.integers(0, 3))
def test_a_given_candidate_is_chosen_and_explained(
    name: str, decision: tuple[RoutingRequest, list[Candidate]], seed: int
) -> None:
    request, candidates = decision
    choice = build_policy(name).choose(request, Candidates.of(candidates), Random(seed))
    at = [one.worker_id for one in candidates].index(choice.worker_id)
    assert choice.chosen.candidate == candidates[at]
    assert choice.chosen.cost_ms == choice.costs[at]
    assert choice.worker_id == choice.chosen.candidate.worker_id
    assert choice.reason in {reason.value for reason in Reason}
    assert choice.chosen.predicted_ttft_ms == predicted_ttft_ms(request, candidates[at]) > 0
    assert len(choice.costs) == len(candidates)
    assert all(cost >= 0 for cost in choice.costs), "and none is NaN"


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=15, deadline=None)
@given(decision=decisions)
def test_one_seed_gives_one_series_of_choices(
    name: str, decision: tuple[RoutingRequest, list[Candidate]]
) -> None:
    request, candidates = decision
    series = []
    for _ in range(2):
        policy, rng = build_policy(name), Random(7)
        series.append(
            [policy.choose(request, Candidates.of(candidates), rng).worker_id for _ in range(5)]
        )
    assert series[0] == series[1]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_equal_candidates_are_used_evenly(name: str) -> None:
    policy, rng = build_policy(name), Random(1)
    candidates, rounds = Candidates.of(equal_candidates(8)), 4000
    taken = Counter(
        policy.choose(a_request(number), candidates, rng).worker_id for number in range(rounds)
    )
    expected = rounds / len(candidates)
    chi_square = sum((taken[name] - expected) ** 2 / expected for name in candidates.worker_ids)
    assert chi_square < 24.3  # the 0.1 % point for 7 degrees of freedom


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_the_only_candidate_is_chosen_even_if_it_is_full(name: str) -> None:
    full = Candidate("w", 0, 9, 8, 10**6, 1.0, 1.0, kv_usage=1.0)
    assert build_policy(name).choose(a_request(), Candidates.of([full]), Random(1)).worker_id == "w"


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_policy_knows_its_name(name: str) -> None:
    assert build_policy(name).name == name


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_policy_is_fresh(name: str) -> None:
    assert build_policy(name) is not build_policy(name)


def test_the_settings_offer_what_can_be_built() -> None:
    assert get_args(PolicyName) == POLICY_NAMES


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'best'; known: round_robin, .*cost"):
        build_policy("best")
