"""How long a worker keeps blocks, learned from a cache that forgets after a time of its own."""

from __future__ import annotations

from random import Random

import pytest

from router.prefix.lifetimes import LIFETIME_S_RANGE, LearnedLifetimes
from router.prefix.prediction import Kept

CHAIN = list(range(100, 140))


def learned(kv_tokens: int | None = None) -> LearnedLifetimes:
    lifetimes = LearnedLifetimes()
    lifetimes.add("w", kv_tokens)
    return lifetimes


def play(
    lifetimes: LearnedLifetimes, true_s: float, *, begin_s: float = 0.0, requests: int = 4000
) -> float:
    """Prompts that come again at all ages, to a worker that keeps each for `true_s`."""
    rng, now_s = Random(3), begin_s
    used_s: dict[int, float] = {}
    for _ in range(requests):
        now_s += rng.expovariate(2.0)
        name = int(rng.paretovariate(0.3)) % 500
        kept = now_s - used_s.get(name, -1e9) <= true_s
        hashes = [name * 1000 + block for block in range(20)]
        lifetimes.answered("w", hashes, 20.0 if kept else 0.0, now_s, now_s + 0.1)
        used_s[name] = now_s + 0.1
    return now_s


@pytest.mark.parametrize("true_s", [10.0, 60.0])
def test_the_time_is_found_and_followed_when_it_changes(true_s: float) -> None:
    lifetimes = learned()
    end_s = play(lifetimes, true_s)
    found_s = lifetimes.lifetime_s("w")
    assert found_s is not None
    assert 0.8 * true_s < found_s < 2.5 * true_s
    play(lifetimes, 3 * true_s, begin_s=end_s)
    assert 2.4 * true_s < (lifetimes.lifetime_s("w") or 0.0) < 7.5 * true_s


def test_nothing_is_learned_where_answers_do_not_count_or_nothing_is_lost() -> None:
    lifetimes = learned()
    for at_s in (0.0, 10.0, 20.0):
        lifetimes.answered("w", CHAIN, None, at_s, at_s + 1)
        lifetimes.answered("w", CHAIN, 40.0, at_s + 5, at_s + 6)
    assert lifetimes.lifetime_s("w") is None


def test_a_prompt_that_was_still_being_computed_is_no_loss() -> None:
    lifetimes = learned()
    lifetimes.answered("w", CHAIN, 0.0, 0.0, 10.0)
    lifetimes.answered("w", CHAIN, 0.0, 5.0, 12.0)
    assert lifetimes.lifetime_s("w") is None


def test_a_few_losses_for_other_reasons_move_little() -> None:
    lifetimes = learned()
    play(lifetimes, 60.0)
    before_s = lifetimes.lifetime_s("w") or 0.0
    lifetimes.answered("w", CHAIN, 40.0, 1e6, 1e6)
    lifetimes.answered("w", CHAIN, 0.0, 1e6 + 1, 1e6 + 2)
    assert 0.9 * before_s < (lifetimes.lifetime_s("w") or 0.0) < before_s


def test_without_counts_the_announced_cache_bounds_what_is_kept() -> None:
    assert learned(1600).kept("w", 16, 120.0) == Kept(LIFETIME_S_RANGE[1], 100)
    assert learned(1600).kept("w", 32, 120.0) == Kept(LIFETIME_S_RANGE[1], 50)
    assert learned().kept("w", 16, 120.0) == Kept(120.0)
    assert learned().kept("unknown", 16, 120.0) == Kept(120.0)


def test_a_learned_time_and_the_bound_hold_together_until_the_worker_leaves() -> None:
    lifetimes = learned(1600)
    play(lifetimes, 10.0)
    kept = lifetimes.kept("w", 16, 120.0)
    assert kept.lifetime_s < 40.0
    assert kept.blocks_max == 100
    lifetimes.remove("w")
    assert len(lifetimes) == 0
    lifetimes.answered("w", CHAIN, 0.0, 0.0, 1.0)
    assert len(lifetimes) == 0


def test_what_is_remembered_is_bounded() -> None:
    lifetimes = learned()
    for number in range(3000):
        hashes = list(range(number * 100, number * 100 + 64))
        lifetimes.answered("w", hashes, None, float(number), float(number))
    assert len(lifetimes) <= 8192
