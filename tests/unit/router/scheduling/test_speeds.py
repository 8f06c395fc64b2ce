"""Learned speeds: fast, robust, and charged to the right part."""

from __future__ import annotations

import math
from random import Random

import pytest

from router.scheduling.speeds import (
    ATTENTION_TOKENS_PRIOR,
    DECODE_STEP_MS_RANGE,
    OVERHEAD_MS_PRIOR,
    OVERHEAD_MS_RANGE,
    PREFILL_TOKENS_PER_S_RANGE,
    LearnedSpeeds,
)


def speeds() -> LearnedSpeeds:
    learned = LearnedSpeeds(prefill_tokens_per_s=4000.0, decode_step_ms=20.0)
    learned.add("w", "m")
    return learned


def feed(
    learned: LearnedSpeeds,
    count: int,
    tokens_per_s: float,
    overhead_ms: float,
    *,
    target: str = "w",
    tokens: tuple[int, int] = (16, 4000),
    noise: float = 0.1,
    seed: int = 1,
) -> None:
    """Observations of a worker that has the given speed, with noise."""
    rng = Random(seed)
    for _ in range(count):
        size = round(math.exp(rng.uniform(math.log(tokens[0]), math.log(tokens[1]))))
        ttft_ms = (overhead_ms + size / tokens_per_s * 1000) * rng.lognormvariate(0, noise)
        learned.observe_first_token(target, size, ttft_ms, alone=True)


def test_the_prior_holds_until_something_is_learned() -> None:
    learned = speeds()
    assert learned.prefill_tokens_per_s("w") == pytest.approx(4000)
    assert learned.decode_step_ms("w") == 20
    assert learned.overhead_ms("w") == OVERHEAD_MS_PRIOR


@pytest.mark.parametrize("tokens_per_s", [300.0, 1500.0, 50_000.0])
@pytest.mark.parametrize("overhead_ms", [3.0, 60.0])
def test_speed_and_overhead_are_learned_in_tens_of_requests(
    tokens_per_s: float, overhead_ms: float
) -> None:
    learned = speeds()
    feed(learned, 60, tokens_per_s, overhead_ms, tokens=(16, 30_000))
    for size in (16, 500, 8000):
        predicted = learned.overhead_ms("w") + size / learned.prefill_tokens_per_s("w") * 1000
        assert predicted == pytest.approx(overhead_ms + size / tokens_per_s * 1000, rel=0.35)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(tokens_per_s, rel=0.35)


def test_a_changed_speed_is_learned_again() -> None:
    learned = speeds()
    feed(learned, 100, 10_000, 5)
    feed(learned, 60, 2000, 5)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(2000, rel=0.35)


def test_cached_prompts_teach_the_overhead_and_not_the_speed() -> None:
    learned = speeds()
    feed(learned, 40, 4000, 5)
    before = learned.prefill_tokens_per_s("w")
    for _ in range(200):
        learned.observe_first_token("w", 3, 40.0, alone=True)
    assert learned.overhead_ms("w") == pytest.approx(40, rel=0.2)
    assert learned.prefill_tokens_per_s("w") > before / 1.6


@pytest.mark.parametrize("attention_tokens", [20_000.0, 200_000.0])
def test_what_attention_costs_is_learned_from_long_prompts(attention_tokens: float) -> None:
    learned, rng = speeds(), Random(3)
    for _ in range(200):
        tokens, cached = rng.randrange(100, 60_000), rng.randrange(0, 20_000)
        area = tokens * (cached + tokens / 2)
        ttft_ms = (20.0 + 0.05 * (tokens + area / attention_tokens)) * rng.lognormvariate(0, 0.1)
        learned.observe_first_token("w", tokens, ttft_ms, alone=True, cached_tokens=cached)
    assert learned.attention_tokens("w") == pytest.approx(attention_tokens, rel=0.4)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(20_000, rel=0.25)


def test_short_prompts_teach_nothing_of_attention() -> None:
    learned = speeds()
    feed(learned, 200, 10_000, 5, tokens=(16, 2000))
    assert learned.attention_tokens("w") == pytest.approx(ATTENTION_TOKENS_PRIOR)


def test_one_outlier_changes_little() -> None:
    learned = speeds()
    feed(learned, 60, 4000, 5)
    before = learned.prefill_tokens_per_s("w")
    learned.observe_first_token("w", 1000, 600_000.0, alone=True)
    assert before / 1.2 < learned.prefill_tokens_per_s("w") < before * 1.2


def test_what_was_queued_before_is_part_of_the_work() -> None:
    learned = speeds()
    for _ in range(100):
        learned.observe_first_token("w", 100, 1010.0, alone=False, queued_tokens=3900)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(4000, rel=0.05)


def test_requests_that_did_not_wait_alone_teach_less() -> None:
    shared, alone = speeds(), speeds()
    shared.observe_first_token("w", 1000, 1000.0, alone=False)
    alone.observe_first_token("w", 1000, 1000.0, alone=True)
    assert alone.prefill_tokens_per_s("w") < shared.prefill_tokens_per_s("w") < 4000


def test_the_decode_step_is_learned_from_long_answers_first() -> None:
    learned = speeds()
    for _ in range(30):
        learned.observe_decode("w", 100, 800.0)
    assert learned.decode_step_ms("w") == pytest.approx(8, rel=0.1)
    learned.observe_decode("w", 1, 200.0)
    assert learned.decode_step_ms("w") < 8.5


def test_a_new_worker_is_taken_for_a_typical_one_of_its_model() -> None:
    learned = speeds()
    learned.add("x", "m")
    learned.add("y", "other")
    feed(learned, 100, 40_000, 5, tokens=(1000, 30_000))
    assert learned.prefill_tokens_per_s("x") == pytest.approx(40_000, rel=0.3)
    assert learned.prefill_tokens_per_s("y") == pytest.approx(4000)
    feed(learned, 40, 1000, 5, target="x")
    assert learned.prefill_tokens_per_s("x") == pytest.approx(1000, rel=0.35)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(40_000, rel=0.3)


def test_a_removed_worker_is_forgotten_with_its_group() -> None:
    learned = speeds()
    feed(learned, 100, 40_000, 5)
    learned.remove("w")
    learned.remove("w")
    assert learned.prefill_tokens_per_s("w") == pytest.approx(4000)
    learned.add("w", "m")
    assert learned.prefill_tokens_per_s("w") == pytest.approx(4000)


@pytest.mark.parametrize("time_ms", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_passed_over(time_ms: float) -> None:
    learned = speeds()
    learned.observe_first_token("w", 100, time_ms, alone=True)
    learned.observe_decode("w", 100, time_ms)
    learned.observe_decode("w", 0, 100.0)
    assert learned.prefill_tokens_per_s("w") == pytest.approx(4000)
    assert learned.decode_step_ms("w") == 20


@pytest.mark.parametrize("time_ms", [1e-9, 1e12])
def test_estimates_stay_within_sane_bounds(time_ms: float) -> None:
    learned = speeds()
    for size in (1, 10**6) * 500:
        learned.observe_first_token("w", size, time_ms, alone=True)
        learned.observe_decode("w", 100, time_ms)
    low, high = PREFILL_TOKENS_PER_S_RANGE
    assert low * 0.999 <= learned.prefill_tokens_per_s("w") <= high * 1.001
    low, high = OVERHEAD_MS_RANGE
    assert low <= learned.overhead_ms("w") <= high
    low, high = DECODE_STEP_MS_RANGE
    assert low <= learned.decode_step_ms("w") <= high


def test_equal_workers_are_taken_for_equal_and_unequal_ones_are_not() -> None:
    learned = speeds()
    names = [f"equal-{number}" for number in range(6)]
    for number, name in enumerate(names):
        learned.add(name, "m")
        feed(learned, 60, 8000, 5, target=name, noise=0.2, seed=number, tokens=(500, 4000))
    believed = [learned.prefill_tokens_per_s(name) for name in names]
    assert max(believed) / min(believed) < 1.1
    learned.add("slow", "m")
    feed(learned, 60, 8000 / 3, 15, target="slow", noise=0.2, tokens=(500, 4000))
    assert learned.prefill_tokens_per_s("slow") == pytest.approx(8000 / 3, rel=0.35)
    for number, name in enumerate(names):
        feed(learned, 20, 8000, 5, target=name, noise=0.2, seed=number, tokens=(500, 4000))
        assert learned.prefill_tokens_per_s(name) == pytest.approx(8000, rel=0.35)


def test_a_group_is_the_mean_of_those_that_are_left() -> None:
    learned = speeds()
    learned.add("x", "m")
    learned.add("new", "m")
    feed(learned, 100, 40_000, 5, tokens=(1000, 30_000))
    feed(learned, 100, 1000, 5, target="x", tokens=(1000, 30_000))
    assert learned.prefill_tokens_per_s("new") == pytest.approx(6300, rel=0.35)
    learned.remove("x")
    assert learned.prefill_tokens_per_s("new") == pytest.approx(40_000, rel=0.35)
