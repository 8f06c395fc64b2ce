"""What is noted of a choice: the cheapest candidates, the chosen one always among them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhizome.outcome import Outcome
from router.decisions.records import COST, Attempt, Considered, Decision, Ending
from router.decisions.shadows import Tally
from router.decisions.views import decision_view, shadow_view
from router.scheduling.policies import POLICY_NAMES, build_policy
from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidate, Candidates, RoutingRequest

REQUEST = RoutingRequest("r", "m", 1000, [1, 2])
WORKER = Candidate(
    worker_id="w",
    match_tokens=0,
    in_flight=0,
    in_flight_max=64,
    queued_tokens=0,
    prefill_tokens_per_s=4000.0,
    decode_step_ms=20.0,
)


def fleet(matches: list[int]) -> list[Candidate]:
    return [
        WORKER._replace(worker_id=f"w{n}", match_tokens=match, queued_tokens=7 * n, overhead_ms=3.0)
        for n, match in enumerate(matches)
    ]


def decision_of(matches: list[int], policy: str = "cost", most: int = 32) -> Decision:
    candidates = Candidates.of(fleet(matches))
    choice = build_policy(policy).choose(REQUEST, candidates, Random(1))
    decision = Decision("r", "/v1/chat/completions", "m", "alice", "interactive", True, 100.0)
    decision.rendered(1000, exact=True)
    attempt = Attempt.of(policy, REQUEST, choice, Considered.of(candidates, choice, most))
    attempt.waited_ms = 1.5
    decision.chose(attempt)
    return decision


@given(
    matches=st.lists(st.integers(0, 999), min_size=1, max_size=40),
    most=st.integers(1, 48),
    policy=st.sampled_from(POLICY_NAMES),
)
def test_the_cheapest_candidates_and_the_chosen_one_are_kept(
    matches: list[int], most: int, policy: str
) -> None:
    (attempt,) = decision_of(matches, policy, most).attempts
    considered = attempt.considered
    assert considered.total == len(matches)
    assert len(considered.names) == considered.columns.shape[1] == min(most, len(matches))
    assert considered.names[considered.chosen] == attempt.worker
    assert len(set(considered.names)) == len(considered.names)
    given_ones = fleet(matches)
    for place, name in enumerate(considered.names):
        assert considered.candidates()[place] == given_ones[int(name[1:])]
    candidates = Candidates.of(fleet(matches))
    costs = build_policy(policy).choose(REQUEST, candidates, Random(1)).costs
    left_out = [costs[n] for n in range(len(matches)) if f"w{n}" not in considered.names]
    others = [
        cost
        for name, cost in zip(considered.names, considered.columns[COST], strict=True)
        if name != attempt.worker
    ]
    if left_out and others:
        assert max(others) <= min(left_out) * (1 + 1e-6) + 1e-6


def test_a_record_does_not_change_with_the_columns_it_was_made_of() -> None:
    candidates = Candidates.of(fleet([5, 6]))
    choice = build_policy("cost").choose(REQUEST, candidates, Random(1))
    considered = Considered.of(candidates, choice, 8)
    before = considered.columns.copy()
    candidates.in_flight[:] = 9
    candidates.queued_tokens[:] = 9
    assert (considered.columns == before).all()


def test_a_view_says_what_was_known_and_what_came_of_it() -> None:
    decision = decision_of([900, 0, 500])
    decision.ended(Ending(Outcome.COMPLETED, 100.25, 200, None, 1001, 896, 12), 40.0)
    view = decision_view(decision, "router-1", 1000.0)
    (attempt,) = view.attempts
    assert (view.state, view.outcome, view.duration_ms) == ("ended", "completed", 250.0)
    assert (view.predicted_cached_tokens, view.cached_tokens) == (900, 896)
    assert (attempt.worker, attempt.ttft_ms, attempt.waited_ms) == ("w0", 40.0, 1.5)
    assert [one.worker for one in attempt.candidates] == ["w0", "w2", "w1"], "cheapest first"
    assert [one.chosen for one in attempt.candidates] == [True, False, False]
    for one, candidate in zip(attempt.candidates, (0, 2, 1), strict=True):
        expected = predicted_ttft_ms(REQUEST, fleet([900, 0, 500])[candidate])
        assert one.predicted_ttft_ms == pytest.approx(expected, rel=1e-5)
        assert one.uncached_tokens == 1000 - one.match_tokens


def test_a_failed_attempt_says_why_and_only_the_last_one_has_a_first_byte() -> None:
    decision = decision_of([1, 2])
    decision.failed("worker_unreachable")
    decision.chose(decision_of([3]).attempts[0])
    decision.ended(Ending(Outcome.COMPLETED, 101.0), 5.0)
    first, second = decision_view(decision, "router-1", 0.0).attempts
    assert (first.failure, first.ttft_ms) == ("worker_unreachable", None)
    assert (second.failure, second.ttft_ms) == (None, 5.0)


def test_a_shadow_that_compared_nothing_has_no_agreement() -> None:
    assert shadow_view("sticky", Tally()).agreement is None
