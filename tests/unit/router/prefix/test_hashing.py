"""Block hashes: what they cover, and what they refuse."""

from __future__ import annotations

import struct
from array import array

import pytest
from xxhash import xxh3_64_intdigest

from router.prefix.hashing import block_hashes, byte_block_hashes, extend_chain, root_hash

ROOT = root_hash()


def test_the_format_is_xxh3_over_ids_little_endian_seeded_with_the_parent() -> None:
    first = xxh3_64_intdigest(struct.pack("<III", 1, 2, 3), seed=ROOT)
    second = xxh3_64_intdigest(struct.pack("<III", 4, 5, 2**32 - 1), seed=first)
    assert block_hashes([1, 2, 3, 4, 5, 2**32 - 1, 9], 3, ROOT) == [first, second]
    ids = array("I", [1, 2, 3, 4, 5, 2**32 - 1, 9])
    assert block_hashes(ids, 3, ROOT) == [first, second]


def test_only_full_blocks_are_hashed() -> None:
    assert block_hashes([], 16, ROOT) == []
    assert block_hashes([1] * 15, 16, ROOT) == []
    assert len(block_hashes([1] * 33, 16, ROOT)) == 2


def test_a_chain_can_be_continued_anywhere() -> None:
    whole = block_hashes(range(64), 8, ROOT)
    assert extend_chain(whole[2], range(24, 64), 8) == whole[3:]


def test_prompts_share_hashes_up_to_the_first_different_block() -> None:
    one = block_hashes([*range(32), 7, 7, 7, 7], 4, ROOT)
    other = block_hashes([*range(32), 7, 7, 7, 8], 4, ROOT)
    assert one[:8] == other[:8]
    assert one[8] != other[8]


def test_a_difference_changes_all_hashes_after_it() -> None:
    one = block_hashes([0, *range(1, 64)], 4, ROOT)
    other = block_hashes([99, *range(1, 64)], 4, ROOT)
    assert not set(one) & set(other)


def test_adapter_and_salt_are_part_of_every_hash() -> None:
    roots = [
        root_hash(),
        root_hash(lora=""),
        root_hash(salt=""),
        root_hash(lora="a"),
        root_hash(salt="a"),
        root_hash("a", "b"),
        root_hash("ab", ""),
        root_hash("", "ab"),
        root_hash("b", "a"),
    ]
    assert len(set(roots)) == len(roots)
    assert root_hash("a", "b") == root_hash("a", "b")


def test_byte_blocks_chain_like_token_blocks() -> None:
    data = bytes(range(100))
    hashes = byte_block_hashes(data, 32, ROOT)
    assert len(hashes) == 3
    assert byte_block_hashes(data[:64] + b"x" * 36, 32, ROOT)[:2] == hashes[:2]
    assert byte_block_hashes(data[:64] + b"x" * 36, 32, ROOT)[2] != hashes[2]


@pytest.mark.parametrize("token_ids", [[-1], [2**32], [1.5], ["1"], [None]])
def test_what_is_not_a_token_id_is_refused(token_ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token ids"):
        block_hashes(token_ids, 1, ROOT)


def test_empty_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        block_hashes([1], 0, ROOT)
    with pytest.raises(ValueError, match="at least one byte"):
        byte_block_hashes(b"x", 0, ROOT)
