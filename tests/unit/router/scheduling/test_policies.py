"""What each policy does that the others do not."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace

from router.scheduling.policies import build_policy
from router.scheduling.policies.cost import cost_ms
from router.scheduling.types import (
    Candidate,
    Candidates,
    Choice,
    FewCandidates,
    Lists,
    RoutingRequest,
)

PROMPT = RoutingRequest("r", "m", prompt_tokens=1000, block_hashes=list(range(62)))


def worker(
    name: str, *, match: int = 0, in_flight: int = 0, queued: int = 0, room: int = 64
) -> Candidate:
    return Candidate(
        worker_id=name,
        match_tokens=match,
        in_flight=in_flight,
        in_flight_max=room,
        queued_tokens=queued,
        prefill_tokens_per_s=4000.0,
        decode_step_ms=20.0,
    )


def chosen(policy: str, *workers: Candidate, request: RoutingRequest = PROMPT) -> Choice:
    return build_policy(policy).choose(request, Candidates.of(workers), Random(1))


def test_cost_goes_where_the_prefix_is() -> None:
    choice = chosen("cost", worker("a"), worker("b", match=992), worker("c", match=500))
    assert (choice.worker_id, choice.reason) == ("b", "lowest_cost")


def test_cost_leaves_the_prefix_when_its_queue_costs_more_than_a_prefill() -> None:
    assert chosen("cost", worker("a"), worker("b", match=992, queued=900)).worker_id == "b"
    assert chosen("cost", worker("a"), worker("b", match=992, queued=1100)).worker_id == "a"


def test_cost_avoids_running_decodes_when_prefixes_are_equal() -> None:
    assert chosen("cost", worker("a", in_flight=9), worker("b", in_flight=5)).worker_id == "b"


def test_cost_knows_slow_workers() -> None:
    slow = worker("slow")._replace(prefill_tokens_per_s=1000.0)
    assert chosen("cost", slow, worker("fast", queued=1500)).worker_id == "fast"
    assert chosen("cost", slow, worker("fast", queued=3500)).worker_id == "slow"


def test_cost_counts_what_a_full_cache_will_compute_again() -> None:
    """A copy that displaces blocks which are asked for again is made later."""
    workers = (worker("a"), worker("b", match=992, queued=1100))
    tight = replace(PROMPT, recompute_share=0.5)
    policy, candidates = build_policy("cost"), Candidates.of(workers)
    assert policy.choose(PROMPT, candidates, Random(1)).worker_id == "a"
    assert policy.choose(tight, candidates, Random(1)).worker_id == "b"


def test_cost_prefers_an_idle_worker_to_one_believed_a_little_faster() -> None:
    faster = worker("busy", in_flight=1)._replace(prefill_tokens_per_s=4400.0)
    assert chosen("cost", faster, worker("idle")).worker_id == "idle"


def test_cost_is_the_same_of_few_and_of_many() -> None:
    rng = Random(5)
    for share in (0.0, 0.4):
        rows = [
            worker(f"w{at}", match=rng.randrange(1000), queued=rng.randrange(3000), in_flight=at)
            for at in range(8)
        ]
        request = replace(PROMPT, recompute_share=share)
        candidates = Candidates.of(rows)
        columns = [list(column) for column in zip(*rows, strict=True)]
        few = FewCandidates(candidates.worker_ids, Lists(*columns[1:]))
        few_choice = build_policy("cost").choose(request, few, Random(1))
        assert list(few_choice.costs) == pytest.approx(
            list(cost_ms(request, candidates)), rel=1e-12
        )


def test_cost_is_continuous_in_load() -> None:
    costs = cost_ms(PROMPT, Candidates.of(worker("a", queued=tokens) for tokens in range(5000)))
    steps = [after - before for before, after in pairwise(costs)]
    assert max(steps) < 1.001 * min(steps)


def test_cost_draws_among_nearly_equal_workers() -> None:
    policy, rng = build_policy("cost"), Random(1)
    nearly = worker("b")._replace(prefill_tokens_per_s=4030.0)
    workers = Candidates.of([worker("a"), nearly])
    taken = Counter(policy.choose(PROMPT, workers, rng).worker_id for _ in range(400))
    assert min(taken["a"], taken["b"]) > 150


def test_round_robin_is_fair_to_each_set_of_candidates() -> None:
    policy, rng = build_policy("round_robin"), Random(1)
    taken: Counter[str] = Counter()
    for _ in range(100):  # two models take turns; a shared position would always hit the same
        for models in (("a", "b"), ("c", "d")):
            workers = Candidates.of(worker(n) for n in models)
            taken[policy.choose(PROMPT, workers, rng).worker_id] += 1
    assert set(taken.values()) == {50}


def test_round_robin_ignores_load_and_prefix() -> None:
    policy, rng = build_policy("round_robin"), Random(1)
    workers = Candidates.of(
        [worker("a", match=999, queued=10**6), worker("b", in_flight=60), worker("c")]
    )
    order = [policy.choose(PROMPT, workers, rng).worker_id for _ in range(6)]
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_least_loaded_looks_at_load_relative_to_room() -> None:
    choice = chosen("least_loaded", worker("a", in_flight=8, room=8), worker("b", in_flight=20))
    assert choice.worker_id == "b"


def test_power_of_two_never_takes_the_worst_of_all() -> None:
    policy, rng = build_policy("power_of_two"), Random(1)
    workers = Candidates.of(worker(name, in_flight=n) for n, name in enumerate("abc"))
    taken = Counter(policy.choose(PROMPT, workers, rng).worker_id for _ in range(300))
    assert taken["c"] == 0
    assert taken["a"] > taken["b"] > 50


def test_threshold_takes_a_long_match_whatever_its_load() -> None:
    choice = chosen("threshold", worker("a", match=501, in_flight=30), worker("b", match=500))
    assert (choice.worker_id, choice.reason) == ("a", "prefix_match")


def test_threshold_ignores_a_short_match() -> None:
    choice = chosen("threshold", worker("a", match=500, in_flight=1), worker("b"))
    assert (choice.worker_id, choice.reason) == ("b", "no_match")


def test_threshold_gives_up_the_match_when_loads_are_out_of_balance() -> None:
    choice = chosen("threshold", worker("a", match=992, in_flight=33), worker("b"))
    assert (choice.worker_id, choice.reason) == ("b", "imbalance")


def test_threshold_prefers_the_less_loaded_of_equal_matches() -> None:
    choice = chosen(
        "threshold", worker("a", match=992, in_flight=9), worker("b", match=992), worker("c")
    )
    assert choice.worker_id == "b"


def test_product_multiplies_prefill_work_and_batch() -> None:
    choice = chosen("product", worker("a", match=900, in_flight=9), worker("b"))
    assert list(choice.costs) == [1000.0, 1000.0]
    assert chosen("product", worker("a", match=901, in_flight=9), worker("b")).worker_id == "a"


def test_sticky_keeps_a_session_on_its_worker_as_the_prompt_grows() -> None:
    workers = [worker(f"w{n}") for n in range(8)]
    homes = {
        chosen(
            "sticky",
            *workers,
            request=replace(PROMPT, session="s", block_hashes=list(range(turn))),
        ).worker_id
        for turn in range(40)
    }
    assert len(homes) == 1


def test_sticky_moves_on_when_the_home_is_saturated_or_full() -> None:
    workers = [worker(f"w{n}", in_flight=4) for n in range(4)]
    home = chosen("sticky", *workers)
    assert home.reason == "home"
    busy = [w._replace(in_flight=8) if w.worker_id == home.worker_id else w for w in workers]
    full = [w._replace(in_flight_max=4) if w.worker_id == home.worker_id else w for w in workers]
    for others in (busy, full):
        moved = chosen("sticky", *others)
        assert moved.worker_id != home.worker_id
        assert moved.reason == "home_saturated"


def test_sticky_moves_only_the_keys_of_a_worker_that_left() -> None:
    workers = [worker(f"w{n}") for n in range(8)]
    requests = [replace(PROMPT, session=f"s{n}") for n in range(200)]
    before = [chosen("sticky", *workers, request=one).worker_id for one in requests]
    after = [chosen("sticky", *workers[:-1], request=one).worker_id for one in requests]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert moved
    assert set(moved) == {"w7"}


def test_sticky_without_a_session_goes_by_the_beginning_of_the_prompt() -> None:
    workers = [worker(f"w{n}") for n in range(8)]
    longer = replace(PROMPT, request_id="other", block_hashes=[*range(62), 100, 101])
    assert (
        chosen("sticky", *workers).worker_id == chosen("sticky", *workers, request=longer).worker_id
    )
