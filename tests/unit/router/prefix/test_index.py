"""The prefix index: what it credits, forgets and bounds."""

from __future__ import annotations

from router.prefix.index import BLOCK_BYTES, HOLDING_BYTES, PrefixIndex
from router.prefix.layout import CacheTraits, Group, Layer, Layout, Tier

BIG = 2**30


def an_index(*targets: str, bytes_max: int = BIG) -> PrefixIndex:
    index = PrefixIndex(bytes_max)
    for target in targets:
        index.add_worker(target)
    return index


def test_match_counts_leading_blocks_per_target() -> None:
    index = an_index("a", "b", "c")
    index.store("a", [1, 2, 3])
    index.store("b", [1])
    assert index.match([1, 2, 3, 4], 0.0) == {"a": 3, "b": 1}


def test_match_stops_at_the_first_missing_block() -> None:
    index = an_index("a")
    index.store("a", [1, 3])
    assert index.match([1, 2, 3], 0.0) == {"a": 1}
    assert index.match([2, 3], 0.0) == {}
    assert index.match([], 0.0) == {}


def test_a_removed_worker_is_forgotten_and_its_place_is_used_again() -> None:
    index = an_index("a", "b")
    index.store("a", [1, 2])
    index.predict("a", [1, 2, 3], 10.0)
    index.suspend("a")
    index.remove_worker("a")
    index.add_worker("c")
    index.store("c", [5])
    assert index.match([1], 0.0) == {}
    assert index.match([5], 0.0) == {"c": 1}
    index.check_invariants()


def test_an_event_of_a_worker_that_left_changes_nothing() -> None:
    index = an_index("a")
    for call in (index.clear, index.suspend, index.resume, index.remove_worker):
        call("gone")
    index.store("gone", [1])
    index.remove("gone", [1])
    index.predict("gone", [1], 10.0)
    assert index.match([1], 0.0) == {}
    assert index.bytes_used == 0
    assert index.strangers == 2


def test_adding_a_known_worker_keeps_its_blocks() -> None:
    index = an_index("a")
    index.store("a", [1, 2])
    index.add_worker("a", blocks_max=2)
    assert index.match([1, 2], 0.0) == {"a": 2}


def test_prediction_counts_until_its_time_and_then_not() -> None:
    index = an_index("a")
    index.predict("a", [1, 2], 10.0)
    assert index.match([1, 2], 9.9) == {"a": 2}
    assert index.match([1, 2], 10.0) == {}
    assert index.bytes_used == 0


def test_prediction_again_prolongs_and_never_shortens() -> None:
    index = an_index("a")
    index.predict("a", [1, 2, 3], 10.0)
    index.predict("a", [1, 2], 20.0)
    index.predict("a", [1], 5.0)
    assert index.match([1, 2, 3], 15.0) == {"a": 2}
    assert index.match([1, 2, 3], 20.0) == {}


def test_truth_and_prediction_continue_each_other() -> None:
    index = an_index("a")
    index.store("a", [1, 2])
    index.predict("a", [3], 10.0)
    assert index.match([1, 2, 3], 0.0) == {"a": 3}


def test_clear_forgets_the_truth_and_keeps_the_prediction() -> None:
    index = an_index("a")
    index.store("a", [1, 2])
    index.predict("a", [1], 10.0)
    index.clear("a")
    assert index.block_count("a") == 0
    assert index.match([1, 2], 0.0) == {"a": 1}


def test_a_suspended_target_gets_credit_for_predictions_only() -> None:
    index = an_index("a", "b")
    index.store("a", [1, 2])
    index.store("b", [1, 2])
    index.predict("a", [1], 10.0)
    index.suspend("a")
    assert index.match([1, 2], 0.0) == {"a": 1, "b": 2}
    index.resume("a")
    assert index.match([1, 2], 0.0) == {"a": 2, "b": 2}


def test_a_target_holds_no_more_than_it_announced() -> None:
    index = PrefixIndex(BIG)
    index.add_worker("a", blocks_max=3)
    index.store("a", [1, 2, 3])
    index.store("a", [11, 12])
    assert index.block_count("a") == 3
    assert index.match([11, 12], 0.0) == {"a": 2}
    assert index.match([1, 2, 3], 0.0) == {"a": 1}
    index.check_invariants()


def test_a_lower_bound_is_applied_at_once() -> None:
    index = an_index("a")
    index.store("a", list(range(100)))
    index.add_worker("a", blocks_max=10)
    assert index.block_count("a") == 10
    assert index.match(list(range(100)), 0.0) == {"a": 10}


def test_memory_is_bounded_and_the_oldest_blocks_go_first() -> None:
    bound = 1000 * (BLOCK_BYTES + HOLDING_BYTES)
    index = an_index("a", "b", bytes_max=bound)
    for start in range(0, 5000, 100):
        index.store("a" if start % 200 else "b", list(range(start, start + 100)))
        assert index.bytes_used <= bound
    assert index.match(list(range(100)), 0.0) == {}
    assert index.match(list(range(4900, 5000)), 0.0) == {"a": 100}
    index.check_invariants()


def test_predictions_are_bounded_too_and_give_way_to_truth() -> None:
    bound = 1000 * (BLOCK_BYTES + HOLDING_BYTES)
    index = an_index("a", bytes_max=bound)
    for start in range(0, 5000, 100):
        index.predict("a", list(range(start, start + 100)), 100.0 + start)
        assert index.bytes_used <= bound
    assert index.match(list(range(4900, 5000)), 0.0) == {"a": 100}
    truth = list(range(10_000, 10_400))
    index.store("a", truth)
    assert index.match(truth, 0.0) == {"a": 400}
    assert index.bytes_used <= bound
    index.check_invariants()


def test_a_call_larger_than_the_bound_keeps_the_beginning_of_the_chain() -> None:
    index = an_index("a", bytes_max=200 * (BLOCK_BYTES + HOLDING_BYTES))
    index.store("a", list(range(1000)))
    depth = index.match(list(range(1000)), 0.0)["a"]
    assert 100 <= depth <= 200


def test_256_targets_are_told_apart() -> None:
    index = an_index(*(f"w{n}" for n in range(256)))
    for n in range(256):
        index.store(f"w{n}", list(range(n)))
    assert index.match(list(range(300)), 0.0) == {f"w{n}": n for n in range(1, 256)}
    index.check_invariants()


def test_a_distrusted_target_keeps_its_truth_without_credit() -> None:
    index = PrefixIndex(2**20)
    index.add_worker("w", 100)
    index.store("w", [1, 2, 3])
    index.distrust("w", True)
    index.suspend("w")
    index.resume("w")
    assert index.match([1, 2, 3], 0.0) == {}
    assert index.truth_depth("w", [1, 2, 9, 3]) == 2
    index.predict("w", [1], 5.0)
    assert index.match([1, 2, 3], 0.0) == {"w": 1}
    index.distrust("w", False)
    assert index.match([1, 2, 3], 0.0) == {"w": 3}
    index.distrust("w", True)
    index.remove_worker("w")
    index.add_worker("w", 100)
    index.store("w", [1])
    assert index.match([1], 0.0) == {"w": 1}
    index.check_invariants()


def test_blocks_that_are_asked_for_outlive_those_that_are_not() -> None:
    """The head of many prompts stays, however long ago it was stored."""
    bound = 2000 * (BLOCK_BYTES + HOLDING_BYTES)
    index = an_index("a", bytes_max=bound)
    head = list(range(10**6, 10**6 + 50))
    index.store("a", head)
    for start in range(0, 50_000, 100):
        index.store("a", list(range(start, start + 100)))
        index.match([*head, start], 0.0)
    assert index.evicted_for_memory > 40_000
    assert index.match(head, 0.0) == {"a": 50}
    index.check_invariants()


def test_slower_tiers_go_on_where_the_device_ends() -> None:
    index = an_index("a", "b", "c")
    index.store("a", [1, 2])
    index.store("a", [2, 3, 4], Layer(Tier.HOST))
    index.store("a", [5], Layer(Tier.STORAGE))
    index.store("b", [1], Layer(Tier.HOST))
    index.store("c", [3], Layer(Tier.HOST))
    found = index.match_tiers([1, 2, 3, 4, 5, 6], 0.0)
    assert found.host is not None
    assert found.storage is not None
    by_target = {
        name: [int(part[index.slot_of(name)]) for part in (found.device, found.host, found.storage)]
        for name in "abc"
    }
    assert by_target == {"a": [2, 2, 1], "b": [0, 1, 0], "c": [0, 0, 0]}
    assert [index.truth_depth(name, [1, 2, 3, 4, 5, 6]) for name in "abc"] == [5, 1, 0]
    assert not index.holds_none([1], 0.0)
    index.clear("a")
    index.check_invariants()


def test_a_window_group_needs_only_the_end_of_a_prefix() -> None:
    """Full attention holds five blocks; the window needs the last two of what is reused."""
    index = an_index("a")
    index.describe("a", Layout((Group(0), Group(1, 1, 2))))
    index.store("a", [1, 2, 3, 4, 5])
    assert index.match([1, 2, 3, 4, 5], 0.0) == {}
    index.store("a", [3, 4], Layer(Tier.DEVICE, 1))
    assert index.match([1, 2, 3, 4, 5], 0.0) == {"a": 4}
    assert index.match([1, 2, 3], 0.0) == {}
    index.store("a", [1], Layer(Tier.DEVICE, 1))
    assert index.match([1, 2, 3], 0.0) == {"a": 1}
    index.check_invariants()


def test_one_block_less_counts_where_engines_compute_the_last_one_again() -> None:
    index = an_index("plain", "eagle")
    index.describe("eagle", Layout.unheard(CacheTraits(redoes_last_block=True)))
    for target in ("plain", "eagle"):
        index.store(target, [1, 2, 3])
    assert index.match([1, 2, 3, 4], 0.0) == {"plain": 3, "eagle": 2}
    assert index.match([1], 0.0) == {"plain": 1}
    index.predict("eagle", [4, 5], 10.0)
    assert index.match([1, 2, 3, 4, 5], 0.0) == {"plain": 3, "eagle": 4}
    assert index.reused_of("eagle", 5) == 4
    assert index.reused_of("eagle", 0) == index.reused_of("gone", 0) == 0
    index.store("eagle", [3, 4, 5], Layer(Tier.HOST))
    matched = index.match_tiers([1, 2, 3], 0.0)
    assert matched.reused[index.slot_of("eagle")] == 3, "what lies in slower memory is fetched"


def test_of_chunked_attention_only_the_chunk_at_the_end_counts() -> None:
    index = an_index("w")
    index.describe("w", Layout((Group(0), Group(1, chunk=4))))
    index.store("w", [1, 2, 3, 4, 5, 6, 7, 8])
    index.store("w", [5, 6], Layer(group=1))
    assert index.match([1, 2, 3, 4, 5, 6, 7], 0.0) == {"w": 6}
    assert index.match([1, 2, 3, 4, 5, 6, 7, 8], 0.0) == {"w": 8}, "none at the border"
    assert index.match([1, 2, 3], 0.0) == {}
