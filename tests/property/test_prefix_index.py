"""The prefix index against a model of plain sets, in random order of calls."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.prefix.index import PrefixIndex
from router.prefix.layout import Group, Layer, Layout, Tier

TARGETS = ["a", "b", "c", "d/0", "d/1"]
targets = st.sampled_from(TARGETS)
paths = st.lists(st.integers(0, 1), min_size=0, max_size=6)


def chain(path: list[int]) -> list[int]:
    """Hashes of the blocks along a path of a binary tree: equal prefixes, equal hashes."""
    hashes, node = [], 1
    for step in path:
        node = 2 * node + step
        hashes.append(node * 0x9E3779B97F4A7C15 % 2**64)
    return hashes


class SetIndex:
    """The same promises, kept the simple way and without bounds."""

    def __init__(self) -> None:
        self.truth: dict[str, set[int]] = {}
        self.predicted: dict[str, dict[int, float]] = {}
        self.suspended: set[str] = set()

    def add(self, target: str) -> None:
        self.truth.setdefault(target, set())
        self.predicted.setdefault(target, {})

    def remove_worker(self, target: str) -> None:
        self.truth.pop(target, None)
        self.predicted.pop(target, None)
        self.suspended.discard(target)

    def predict(self, target: str, hashes: list[int], expires_at_s: float) -> None:
        if target in self.predicted:
            known = self.predicted[target]
            for block in hashes:
                known[block] = max(known.get(block, expires_at_s), expires_at_s)

    def match(self, hashes: list[int], now_s: float) -> dict[str, int]:
        return {
            target: depth
            for target in self.truth
            if (depth := self._depth(target, hashes, now_s)) > 0
        }

    def _depth(self, target: str, hashes: list[int], now_s: float) -> int:
        held = set() if target in self.suspended else self.truth[target]
        depth = 0
        for block in hashes:
            if block not in held and self.predicted[target].get(block, now_s) <= now_s:
                break
            depth += 1
        return depth


class IndexComparison(RuleBasedStateMachine):
    """Unbounded: the index and the model always agree."""

    bytes_max = 2**30
    blocks_max: int | None = None

    @initialize()
    def begin(self) -> None:
        self.index = PrefixIndex(self.bytes_max)
        self.model = SetIndex()
        self.now_s = 0.0
        for worker in TARGETS[:3]:
            self.add(worker)

    @rule(worker=targets)
    def add(self, worker: str) -> None:
        self.index.add_worker(worker, self.blocks_max)
        self.model.add(worker)

    @rule(worker=targets)
    def remove_worker(self, worker: str) -> None:
        self.index.remove_worker(worker)
        self.model.remove_worker(worker)
        assert self.index.block_count(worker) == 0
        assert self.index.predicted_count(worker) == 0

    @rule(worker=targets, path=paths)
    def store(self, worker: str, path: list[int]) -> None:
        self.index.store(worker, chain(path))
        if worker in self.model.truth:
            self.model.truth[worker].update(chain(path))

    @rule(worker=targets, path=paths, kept=st.integers(0, 6))
    def remove(self, worker: str, path: list[int], kept: int) -> None:
        self.index.remove(worker, chain(path)[kept:])
        self.model.truth.get(worker, set()).difference_update(chain(path)[kept:])

    @rule(worker=targets)
    def clear(self, worker: str) -> None:
        self.index.clear(worker)
        self.model.truth.get(worker, set()).clear()

    @rule(worker=targets)
    def suspend(self, worker: str) -> None:
        self.index.suspend(worker)
        if worker in self.model.truth:
            self.model.suspended.add(worker)

    @rule(worker=targets)
    def resume(self, worker: str) -> None:
        self.index.resume(worker)
        self.model.suspended.discard(worker)

    @rule(worker=targets, path=paths, ttl_s=st.sampled_from([0.0, 1.0, 5.0, 100.0]))
    def predict(self, worker: str, path: list[int], ttl_s: float) -> None:
        self.index.predict(worker, chain(path), self.now_s + ttl_s)
        self.model.predict(worker, chain(path), self.now_s + ttl_s)

    @rule(delay_s=st.sampled_from([0.5, 1.0, 5.0]), tell=st.booleans())
    def time_passes(self, delay_s: float, tell: bool) -> None:
        self.now_s += delay_s
        if tell:
            self.index.expire(self.now_s)

    @rule(path=paths)
    def match(self, path: list[int]) -> None:
        expected = self.model.match(chain(path), self.now_s)
        matched = self.index.match(chain(path), self.now_s)
        self.compare(matched, expected)
        slots = self.index.match_slots(chain(path), self.now_s)
        assert not (slots.any() and self.index.holds_none(chain(path), self.now_s))
        assert slots[-1] == 0
        for worker in TARGETS:
            assert slots[self.index.slot_of(worker)] == matched.get(worker, 0)

    def compare(self, matched: dict[str, int], expected: dict[str, int]) -> None:
        assert matched == expected
        for worker, held in self.model.truth.items():
            assert self.index.block_count(worker) == len(held)

    @invariant()
    def parts_agree(self) -> None:
        self.index.check_invariants()


class BoundedIndexSoundness(IndexComparison):
    """Bounded: the index may forget, and never credits what the model does not hold."""

    bytes_max = 4000
    blocks_max = 7

    def compare(self, matched: dict[str, int], expected: dict[str, int]) -> None:
        for worker, depth in matched.items():
            assert 0 < depth <= expected[worker]


IndexComparison.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
BoundedIndexSoundness.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestIndexAgreesWithSets = IndexComparison.TestCase
TestBoundedIndexNeverInvents = BoundedIndexSoundness.TestCase


LAYOUT = Layout((Group(0), Group(1, 1, 2)))
held_blocks = st.lists(st.booleans(), min_size=8, max_size=8)


@given(held_blocks, held_blocks, held_blocks)
@settings(max_examples=200, deadline=None)
def test_a_window_is_credited_as_far_as_the_longest_prefix_that_all_groups_allow(
    full: list[bool], window: list[bool], host: list[bool]
) -> None:
    hashes = list(range(1, 9))
    index = PrefixIndex(2**24)
    for target in ("hybrid", "plain"):
        index.add_worker(target)
    index.describe("hybrid", LAYOUT)
    for held, layer in ((full, Layer()), (window, Layer(Tier.DEVICE, 1)), (host, Layer(Tier.HOST))):
        blocks = [block for block, is_held in zip(hashes, held, strict=True) if is_held]
        for target in ("hybrid", "plain"):
            index.store(target, blocks, layer)
    index.check_invariants()

    def allowed(length: int) -> bool:
        return all(full[:length]) and all(window[max(0, length - 2) : length])

    expected = max(length for length in range(9) if allowed(length))
    leading = next((place for place, is_held in enumerate(full) if not is_held), 8)
    further = next((place for place in range(leading, 8) if not host[place]), 8)
    matched = index.match_tiers(hashes, 0.0)
    slots = {name: index.slot_of(name) for name in ("hybrid", "plain")}
    assert matched.device[slots["hybrid"]] == expected
    assert matched.device[slots["plain"]] == leading
    assert matched.reused[slots["plain"]] == further
    assert matched.reused[slots["hybrid"]] == expected
