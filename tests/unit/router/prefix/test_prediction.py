"""Predictions: what it costs when they end."""

from __future__ import annotations

from random import Random

import pytest

from router.prefix.prediction import EXPIRED_AT_ONCE_MAX, Kept, Predictions


@pytest.mark.parametrize("assumed", [False, True])
def test_no_call_drops_more_than_a_bounded_number_of_predictions(assumed: bool) -> None:
    predictions, prompts = Predictions(), 40
    per_prompt = EXPIRED_AT_ONCE_MAX // 8
    for number in range(prompts):
        blocks = list(range(number * per_prompt, (number + 1) * per_prompt))
        if assumed:
            predictions.assume(number % 3, blocks, 0.0, Kept(10.0))
        else:
            predictions.add(number % 3, blocks, 10.0)
    calls, left = 0, len(predictions.blocks)
    while predictions.blocks:
        predictions.expire(20.0)
        assert left - len(predictions.blocks) <= 2 * EXPIRED_AT_ONCE_MAX
        calls, left = calls + 1, len(predictions.blocks)
        predictions.check_invariants()
    assert calls in (prompts // 8, prompts // 8 - 1)


def test_slots_that_keep_all_cost_nothing_when_others_expire() -> None:
    """However many there are, only those are looked at where something ends."""
    predictions = Predictions()
    for slot in range(1000):
        predictions.assume(slot, [slot], 0.0, Kept(1e6))
    predictions.assume(0, [0, 1], 0.0, Kept(5.0))
    looked: list[int] = []
    forget = Predictions._forget

    def noting(self: Predictions, slot: int, blocks: list[int]) -> None:
        looked.append(slot)
        forget(self, slot, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictions, "_forget", noting)
        predictions.expire(6.0)
    assert looked == [0]
    assert 0 not in predictions.blocks
    predictions.check_invariants()


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("blocks_max", [None, 150])
def test_beginnings_are_found_as_by_looking_at_each_block(
    predicted: bool, blocks_max: int | None
) -> None:
    rng, predictions = Random(3), Predictions()
    chains = [
        [*range(shared), *range(1000 * n, 1000 * n + 40)] for n, shared in enumerate(range(60), 1)
    ]
    if predicted:
        predictions.add(0, [1030], 1e9)
    for number in range(300):
        chain = rng.choice(chains)[: rng.randint(1, 100)]
        predictions.assume(rng.randrange(4), chain, float(number), Kept(1e6, blocks_max))
        asked = rng.choice(chains)
        depths = {slot: depth for mask, depth in predictions.endings(asked) for slot in _bits(mask)}
        for slot in range(4):
            held = [predictions.blocks.get(block, 0) >> slot & 1 for block in asked]
            assert depths.get(slot, 0) == [*held, 0].index(0)
    predictions.check_invariants()


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
