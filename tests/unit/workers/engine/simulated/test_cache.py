from __future__ import annotations

from workers.engine.simulated.cache import BlockPool, Cleared, Removed


def _hold(pool: BlockPool, *keys: str) -> list[object]:
    """Takes and fills blocks, as a request without a hit does."""
    pool.take(len(keys))
    return list(pool.publish("r", 0, keys, None))


def test_blocks_without_content_go_before_cached_ones() -> None:
    pool = BlockPool(4)
    pool.release(_hold(pool, "a", "b"), 0)
    pool.take(2)
    assert pool.content() == {"a": 1, "b": 1}
    pool.take(1)
    assert pool.content() == {"a": 1}


def test_the_tail_of_a_chain_is_evicted_before_its_head() -> None:
    pool = BlockPool(3)
    pool.release(_hold(pool, "a", "b", "c"), 0)
    pool.events.clear()
    pool.take(2)
    assert pool.events == [Removed(["c", "b"], gone=["c", "b"])]
    assert pool.match(("a", "b", "c"), 3) == ["a"]


def test_what_was_released_first_is_evicted_first() -> None:
    pool = BlockPool(4)
    first, second = _hold(pool, "a", "b"), _hold(pool, "x", "y")
    pool.release(second, 0)
    pool.release(first, 0)
    pool.events.clear()
    pool.take(3)
    assert pool.events == [Removed(["y", "x", "b"], gone=["y", "x", "b"])]


def test_a_hit_makes_a_block_the_last_to_go_again() -> None:
    pool = BlockPool(4)
    pool.release(_hold(pool, "a", "b"), 0)
    pool.release(_hold(pool, "x", "y"), 0)
    hits = pool.match(("a", "b", "c"), 3)
    assert hits == ["a", "b"]
    assert pool.count_evictable(hits) == 2
    pool.share(hits)
    assert pool.used == 2
    pool.release(hits, 0)
    pool.events.clear()
    pool.take(4)
    assert pool.events == [Removed(["y", "x", "b", "a"], gone=["y", "x", "b", "a"])]


def test_a_shared_block_stays_until_its_last_user_releases_it() -> None:
    pool = BlockPool(2)
    first = _hold(pool, "a")
    second = pool.match(("a",), 1)
    assert pool.count_evictable(second) == 0
    pool.share(second)
    pool.release(first, 0)
    assert pool.free == 1
    pool.check_invariants([second], 0)
    pool.release(second, 0)
    assert pool.free == 2
    pool.check_invariants([], 0)


def test_equal_blocks_filled_at_once_are_copies_of_which_the_older_is_found() -> None:
    pool = BlockPool(4)
    first, second = _hold(pool, "a", "b"), _hold(pool, "a", "b")
    pool.check_invariants([first, second], 0)
    assert pool.content() == {"a": 2, "b": 2}
    assert pool.match(("a", "b"), 2) == first

    pool.release(first, 0)
    pool.events.clear()
    pool.take(2)
    assert pool.events == [Removed(["b", "a"], gone=[])], "told although another copy is left"
    assert pool.match(("a", "b"), 2) == second
    pool.check_invariants([second], 2)


def test_a_copy_filled_after_the_first_was_evicted_is_younger_than_the_twin() -> None:
    pool = BlockPool(3)
    first, twin = _hold(pool, "a"), _hold(pool, "a")
    pool.release(first, 0)
    pool.take(2)
    pool.release([], 2)
    third = _hold(pool, "a")
    pool.check_invariants([twin, third], 0)
    assert pool.match(("a",), 1) == twin


def test_a_match_is_limited_and_changes_nothing() -> None:
    pool = BlockPool(3)
    held = _hold(pool, "a", "b", "c")
    pool.events.clear()
    assert pool.match(("a", "b", "c"), 2) == ["a", "b"]
    assert pool.match(("z", "y", "x"), 3) == []
    assert not pool.events
    pool.check_invariants([held], 0)


def test_clearing_forgets_everything_but_only_when_nothing_is_in_use() -> None:
    pool = BlockPool(3)
    held = _hold(pool, "a", "b")
    assert not pool.clear()
    pool.release(held, 0)
    assert pool.clear()
    assert pool.events[-1] == Cleared()
    assert not pool.content()
    assert pool.match(("a",), 1) == []
    pool.check_invariants([], 0)


def test_many_hits_without_an_eviction_leave_no_growing_trail() -> None:
    pool = BlockPool(4)
    pool.release(_hold(pool, "a", "b"), 0)
    for _ in range(5000):
        hits = pool.match(("a", "b"), 2)
        pool.share(hits)
        pool.release(hits, 0)
    assert sum(len(blocks) for _, blocks in pool._releases) < 2000
    pool.check_invariants([], 0)


def test_without_caching_nothing_is_found() -> None:
    pool = BlockPool(3, caching=False)
    pool.take(2)
    pool.release([], 2)
    assert pool.match(("a",), 1) == []
