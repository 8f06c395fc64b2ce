"""Blocks assumed to be held, against a list in order of use; beside ordinary predictions."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from router.prefix.prediction import Kept, Predictions

TTL_S = 4.0
chains = st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True)
kept = st.builds(Kept, st.sampled_from([2.0, 5.0, 50.0]), st.sampled_from([None, 3, 8]))
times = st.floats(0.0, 3.0)
whats = st.sampled_from(["assume", "assume", "predict", "drop"])
steps = st.lists(st.tuples(whats, st.integers(0, 2), chains, kept, times), max_size=60)


@dataclass
class Naive:
    """One slot."""

    used: list[tuple[int, float]] = field(default_factory=list)
    """Blocks with the time of their last use, longest ago first."""
    lifetime_s: float = 0.0
    predicted: dict[int, float] = field(default_factory=dict)

    def expire(self, now_s: float) -> None:
        self.used = [entry for entry in self.used if entry[1] + self.lifetime_s > now_s]
        self.predicted = {block: end for block, end in self.predicted.items() if end > now_s}

    def assume(self, blocks: list[int], now_s: float, how: Kept) -> None:
        others = [entry for entry in self.used if entry[0] not in blocks]
        used = others + [(block, now_s) for block in reversed(blocks)]
        self.used = used if how.blocks_max is None else used[-how.blocks_max :]
        self.lifetime_s = how.lifetime_s

    @property
    def held(self) -> set[int]:
        return {block for block, _ in self.used} | self.predicted.keys()


def held(predictions: Predictions, slot: int) -> set[int]:
    return {block for block, mask in predictions.blocks.items() if mask >> slot & 1}


@given(steps)
def test_what_was_used_longest_ago_goes_first_by_number_and_by_age(
    done: list[tuple[str, int, list[int], Kept, float]],
) -> None:
    predictions, slots, now_s = Predictions(), [Naive() for _ in range(3)], 0.0
    for what, slot, blocks, how, after_s in done:
        now_s += after_s
        predictions.expire(now_s)
        for one in slots:
            one.expire(now_s)
        if what == "assume":
            predictions.assume(slot, blocks, now_s, how)
            slots[slot].assume(blocks, now_s, how)
        elif what == "predict":
            predictions.add(slot, blocks, now_s + TTL_S)
            slots[slot].predicted |= dict.fromkeys(blocks, now_s + TTL_S)
        else:
            predictions.drop(slot)
            slots[slot] = Naive()
        predictions.check_invariants()
        predictions.expire(now_s)  # a lifetime that has become shorter holds at once
        for place, one in enumerate(slots):
            one.expire(now_s)
            assert held(predictions, place) == one.held
            assert predictions.count(place) == len(one.held)


@given(steps)
def test_memory_can_be_had_back_to_the_last_block(
    done: list[tuple[str, int, list[int], Kept, float]],
) -> None:
    predictions = Predictions()
    for what, slot, blocks, how, _ in done:
        if what == "assume":
            predictions.assume(slot, blocks, 0.0, how)
        elif what == "predict":
            predictions.add(slot, blocks, TTL_S)
    for _ in range(1000):
        before = predictions.bytes_used
        if not before:
            break
        predictions.evict_oldest()
        predictions.check_invariants()
        assert predictions.bytes_used < before
    assert predictions.bytes_used == 0
