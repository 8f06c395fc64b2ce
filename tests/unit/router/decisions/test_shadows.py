"""Shadow policies: compared choice by choice, never in the way."""

from __future__ import annotations

from random import Random

from router.decisions.shadows import Shadows
from router.scheduling.policies import build_policy
from router.scheduling.types import Candidates, Choice, RoutingRequest
from tests.unit.router.decisions.test_records import REQUEST, fleet


class Failing:
    name = "failing"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        raise RuntimeError("no idea")


def test_what_a_shadow_would_have_reused_and_lost_is_summed() -> None:
    candidates = Candidates.of(fleet([800, 0]))
    shadows = Shadows([build_policy("round_robin"), build_policy("cost")], 1.0, Random(1))
    for _ in range(4):
        chosen = build_policy("cost").choose(REQUEST, candidates, Random(1))
        assert chosen.worker_id == "w0"
        shadows.compare(REQUEST, candidates, chosen)
    turns, same = shadows.tallies["round_robin"], shadows.tallies["cost"]
    assert (turns.compared, turns.agreed) == (4, 2)
    assert (turns.tokens_more, turns.tokens_fewer) == (0, 1600)
    assert turns.ms_sooner == 0
    assert turns.ms_later > 2 * 190, "each time 800 tokens at 4000 tokens/s, and a queue"
    assert (same.agreed, same.tokens_fewer, same.ms_later) == (4, 0, 0.0)


def test_the_bounds_tell_what_no_policy_can_beat() -> None:
    candidates = Candidates.of(fleet([0, 800]))
    shadows = Shadows([build_policy("sticky")], 1.0, Random(1))
    chosen = build_policy("round_robin").choose(REQUEST, candidates, Random(1))
    assert chosen.worker_id == "w0"
    shadows.compare(REQUEST, candidates, chosen)
    assert shadows.tallies[Shadows.MOST_REUSE].tokens_more == 800
    assert shadows.tallies[Shadows.SOONEST].ms_sooner > 190
    shadows.compare(REQUEST, candidates, build_policy("cost").choose(REQUEST, candidates, Random()))
    assert shadows.tallies[Shadows.MOST_REUSE].agreed == 1
    assert shadows.tallies[Shadows.SOONEST].agreed == 1


def test_a_shadow_that_fails_is_counted_and_the_others_go_on() -> None:
    candidates = Candidates.of(fleet([0, 1]))
    shadows = Shadows([Failing(), build_policy("cost")], 1.0, Random(1))
    choice = build_policy("cost").choose(REQUEST, candidates, Random(1))
    shadows.compare(REQUEST, candidates, choice)
    failing = shadows.tallies["failing"]
    assert (failing.errors, failing.compared) == (1, 0)
    assert failing.last_error == "RuntimeError: no idea"
    assert shadows.tallies["cost"].compared == 1


def test_a_share_of_the_decisions_is_compared() -> None:
    candidates = Candidates.of(fleet([0, 1]))
    shadows = Shadows([build_policy("cost")], 0.25, Random(1))
    choice = build_policy("cost").choose(REQUEST, candidates, Random(1))
    for _ in range(2000):
        shadows.compare(REQUEST, candidates, choice)
    assert 400 < shadows.tallies["cost"].compared < 600
