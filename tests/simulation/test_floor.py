"""What an endless cache holds: exactly the blocks that earlier prompts began with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.simulation.floor import EndlessCache
from loadtest.workloads.requests import Role, Segment, block_keys

SEGMENTS = st.lists(
    st.builds(Segment, st.integers(1, 3), st.integers(0, 9), st.just(Role.USER)), max_size=6
)


@given(st.lists(SEGMENTS, max_size=12), st.integers(1, 5))
def test_it_holds_the_blocks_that_were_asked_for_and_no_others(
    prompts: list[list[Segment]], block_size: int
) -> None:
    cache, blocks = EndlessCache(1_000_000), set[int]()
    for segments in prompts:
        keys = block_keys(segments, block_size)
        known = next((n for n, key in enumerate(keys) if key not in blocks), len(keys))
        assert min(cache.hits(segments) // block_size, len(keys)) == known
        blocks.update(keys)


def test_the_longest_of_prompts_that_part_counts() -> None:
    cache = EndlessCache(1_000_000)
    assert cache.hits([Segment(1, 10), Segment(2, 30)]) == 0
    assert cache.hits([Segment(1, 10), Segment(2, 50)]) == 40
    assert cache.hits([Segment(1, 10), Segment(2, 40), Segment(3, 9)]) == 50
    assert cache.hits([Segment(1, 9), Segment(2, 40)]) == 9


def test_what_nobody_asks_for_is_dropped_in_the_end() -> None:
    cache = EndlessCache(40)
    cache.hits([Segment(-1, 10)])
    for key in range(100):
        cache.hits([Segment(key, 10)])
    assert cache.hits([Segment(-1, 10)]) == 0
    assert cache.hits([Segment(99, 10)]) == 10
