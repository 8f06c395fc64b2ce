"""Segments become blocks that are equal exactly as long as the segments are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.workloads.requests import Segment, block_keys, key_of

segments = st.lists(
    st.builds(Segment, st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=6
)


def tokens_of(parts: list[Segment]) -> list[tuple[int, int]]:
    """The prompt spelled out: a token is its sequence and its position there."""
    return [(part.key, place) for part in parts for place in range(part.tokens)]


@given(segments, segments, st.integers(1, 7))
def test_block_keys_are_equal_exactly_while_the_tokens_are(
    left: list[Segment], right: list[Segment], block_size: int
) -> None:
    left_tokens, right_tokens = tokens_of(left), tokens_of(right)
    left_keys, right_keys = block_keys(left, block_size), block_keys(right, block_size)
    assert len(left_keys) == len(left_tokens) // block_size
    for place, (one, other) in enumerate(zip(left_keys, right_keys, strict=False)):
        end = (place + 1) * block_size
        assert (one == other) == (left_tokens[:end] == right_tokens[:end])


def test_a_key_depends_on_all_parts_and_their_borders() -> None:
    keys = {key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a1"), key_of("a", "1", "")}
    assert len(keys) == 5
    assert key_of("a", 1) == key_of("a", "1")
    assert all(0 <= key < 2**64 for key in keys)
