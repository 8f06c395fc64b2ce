"""What an engine says of its blocks becomes our hashes, or nothing at all."""

from __future__ import annotations

from typing import Any

import pytest

from router.prefix.engine_blocks import EngineBlocks
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.layout import Group, Layer, Layout, Tier
from tests.unit.router.prefix.events_told import (
    BLOCK,
    TARGET,
    RememberedTruth,
    cleared,
    removed,
    stored,
    tokens_of,
)


@pytest.fixture
def truth() -> RememberedTruth:
    return RememberedTruth()


@pytest.fixture
def blocks(truth: RememberedTruth) -> EngineBlocks:
    return EngineBlocks(TARGET, truth, BLOCK, blocks_max=8)


def ours(*numbers: int, lora: str | None = None, salt: str | None = None) -> set[int]:
    return set(block_hashes(tokens_of(*numbers), BLOCK, root_hash(lora, salt)))


def test_a_chain_is_continued_from_the_block_it_names(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100, 101], tokens_of(1, 2))])
    blocks.apply([stored([102], tokens_of(3), parent=101)])
    assert truth.blocks == ours(1, 2, 3)
    blocks.check_invariants()


def test_raw_digests_are_handles_like_any_other(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    first = stored([0], tokens_of(1))
    digest: Any = b"\x01" * 32
    blocks.apply([type(first)(block_hashes=[digest], token_ids=tokens_of(1), block_size=BLOCK)])
    assert truth.blocks == ours(1)


def test_blocks_below_an_unknown_parent_are_skipped_and_counted(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([101, 102], tokens_of(2, 3), parent=100)])
    blocks.apply([stored([103], tokens_of(4), parent=102)])
    assert truth.blocks == set()
    assert blocks.counters.unknown_parent == 3


def test_a_block_is_forgotten_with_its_last_copy(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], tokens_of(1)), stored([100], tokens_of(1))])
    blocks.apply([removed(100)])
    assert truth.blocks == ours(1)
    blocks.check_invariants()
    blocks.apply([removed(100)])
    assert truth.blocks == set()
    blocks.apply([removed(100)])
    blocks.check_invariants()


def test_events_of_one_batch_are_taken_in_order(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], tokens_of(1)), cleared(), stored([105], tokens_of(5))])
    assert truth.blocks == ours(5)
    blocks.apply([removed(105), stored([105], tokens_of(5))])
    assert truth.blocks == ours(5)


def test_the_salt_of_the_first_block_seeds_the_chain(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100, 101], tokens_of(1, 2), extra_keys=[["t1"], None])])
    assert truth.blocks == ours(1, 2, salt="t1")


def test_adapter_and_salt_are_told_apart(blocks: EngineBlocks, truth: RememberedTruth) -> None:
    rows: list[list[Any] | None] = [["l1", "t1"], ["l1"]]
    blocks.apply([stored([100, 101], tokens_of(1, 2), extra_keys=rows, lora_name="l1")])
    assert truth.blocks == ours(1, 2, lora="l1", salt="t1")
    blocks.apply([stored([200], tokens_of(1), extra_keys=[["l1"]], lora_name="l1")])
    assert truth.blocks == ours(1, 2, lora="l1", salt="t1") | ours(1, lora="l1")


def test_a_salt_that_looks_like_an_adapter_is_still_a_salt(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], tokens_of(1), extra_keys=[["l1"]])])
    assert truth.blocks == ours(1, salt="l1")


def test_blocks_from_the_first_image_on_are_not_credited(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    rows: list[list[Any] | None] = [["t1"], [["image", 0]], None]
    blocks.apply([stored([100, 101, 102], tokens_of(1, 2, 3), extra_keys=rows)])
    assert truth.blocks == ours(1, salt="t1")
    assert blocks.counters.not_text == 2
    blocks.apply([stored([103], tokens_of(4), parent=102)])
    assert blocks.counters.unknown_parent == 1


def test_embeddings_are_not_taken_for_a_salt(blocks: EngineBlocks, truth: RememberedTruth) -> None:
    blocks.apply([stored([100], tokens_of(1), extra_keys=[[b"\x00digest"]])])
    assert truth.blocks == set()
    assert blocks.counters.not_text == 1


@pytest.mark.parametrize("token", [-1, 2**32])
def test_a_token_id_that_no_tokenizer_has_is_not_hashed(
    blocks: EngineBlocks, truth: RememberedTruth, token: int
) -> None:
    blocks.apply([stored([100], [token, 1, 2, 3])])
    assert truth.blocks == set()


def test_tiers_and_groups_are_kept_apart(blocks: EngineBlocks, truth: RememberedTruth) -> None:
    blocks.apply(
        [
            stored([100], tokens_of(1), medium="GPU", group_idx=0),
            stored([100], tokens_of(1), medium="CPU"),
            stored([100], tokens_of(1), medium="STORAGE"),
            stored([100], tokens_of(1), group_idx=1),
        ]
    )
    assert truth.layers == {
        Layer(Tier.DEVICE): ours(1),
        Layer(Tier.HOST): ours(1),
        Layer(Tier.STORAGE): ours(1),
        Layer(Tier.DEVICE, 1): ours(1),
    }
    blocks.apply([removed(100, medium="cpu"), removed(100, medium="GPU", group_idx=1)])
    assert truth.layers[Layer(Tier.HOST)] == truth.layers[Layer(Tier.DEVICE, 1)] == set()
    assert truth.blocks == truth.layers[Layer(Tier.STORAGE)] == ours(1)
    blocks.check_invariants()


def test_a_block_evicted_from_the_device_still_names_its_chain_elsewhere(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], tokens_of(1)), stored([100], tokens_of(1), medium="CPU")])
    blocks.apply([removed(100)])
    blocks.apply([stored([101], tokens_of(2), parent=100, medium="CPU")])
    assert truth.layers[Layer(Tier.HOST)] == ours(1, 2)
    assert truth.blocks == set()


def test_a_block_without_tokens_is_known_by_its_name_or_not_at_all(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    """vLLM's offloading says only that the blocks of a window group are there."""
    bare = stored([101, 102], [], block_size=0, medium="CPU", group_idx=1)
    blocks.apply([stored([100, 101], tokens_of(1, 2)), bare])
    assert truth.layers[Layer(Tier.HOST, 1)] == ours(1, 2) - ours(1)
    assert blocks.counters.unknown_parent == 1


def test_masked_blocks_are_told_by_the_names_that_the_same_batch_gives(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    """Of three blocks a window group keeps the last two; its event may come first."""
    window: dict[str, Any] = {
        "group_idx": 0,
        "kv_cache_spec_kind": "sliding_window",
        "kv_cache_spec_sliding_window": 2 * BLOCK,
    }
    blocks.apply(
        [
            stored([101, 102], tokens_of(1, 2, 3), **window),
            stored([100, 101, 102], tokens_of(1, 2, 3), group_idx=1),
        ]
    )
    assert truth.layers[Layer(group=0)] == ours(1, 2, 3) - ours(1)
    assert truth.layers[Layer(group=1)] == ours(1, 2, 3)
    assert truth.layout == Layout((Group(0, 1, 2), Group(1)))
    blocks.apply([removed(101, group_idx=0), removed(102, group_idx=0)])
    assert truth.layers[Layer(group=0)] == set()
    blocks.check_invariants()


def test_a_masked_block_that_is_removed_before_it_is_named_is_not_believed(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply(
        [
            stored([101], tokens_of(1, 2), group_idx=1),
            removed(101, group_idx=1),
            stored([100, 101], tokens_of(1, 2), group_idx=0),
        ]
    )
    assert not truth.layers.get(Layer(group=1))
    blocks.check_invariants()


def test_a_group_of_larger_blocks_is_kept_in_blocks_of_the_registered_size(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    """Its blocks go by the hash of their last part, as in vLLM."""
    state = stored([103], tokens_of(1, 2), group_idx=1, block_size=2 * BLOCK)
    blocks.apply([state])
    assert truth.layers[Layer(group=1)] == ours(1, 2) - ours(1)
    blocks.apply([stored([104], tokens_of(3), parent=103)])
    assert truth.blocks == ours(1, 2, 3) - ours(1, 2)


def test_groups_in_which_no_prefix_is_looked_for_are_passed_over(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], tokens_of(1), kv_cache_spec_kind="cross_attention", group_idx=1)])
    assert truth.layers == {}
    assert truth.layout.is_plain
    assert blocks.counters.passed_over == 1


def test_a_block_size_that_was_not_registered_is_never_credited(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    blocks.apply([stored([100], [1, 2], block_size=2)])
    assert truth.blocks == set()
    assert blocks.mismatch
    assert blocks.counters.mismatched == 1


def test_more_than_the_engine_has_blocks_for_is_forgotten_from_the_oldest_on(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    for _ in range(6):
        blocks.apply([stored([100], tokens_of(1))])
    blocks.apply([stored([105, 106], tokens_of(5, 6))])
    assert truth.blocks == ours(1) | ours(5, 6)
    blocks.apply([stored([107], tokens_of(7))])
    assert truth.blocks == ours(5, 6) | ours(7)
    assert blocks.counters.over_bound == 6
    blocks.check_invariants()


def test_forged_blocks_take_no_more_room_than_the_engine_announced(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    for number in range(0, 400, 2):
        blocks.apply([stored([number, number + 1], tokens_of(number, number + 1))])
        blocks.check_invariants()
    assert len(blocks) == len(truth.blocks) == 8
    assert blocks.counters.over_bound == 392
    assert blocks.bytes_used < 20_000


def test_an_adapter_name_pointed_elsewhere_voids_what_the_old_one_left(
    blocks: EngineBlocks, truth: RememberedTruth
) -> None:
    keys: list[list[Any] | None] = [["l1"], ["l1"]]
    blocks.apply([stored([100, 101], tokens_of(1, 2), extra_keys=keys, lora_name="l1")])
    blocks.apply([stored([200], tokens_of(1), extra_keys=[["l1"]], lora_name="l1")])
    assert truth.blocks == ours(1, lora="l1")
    assert blocks.counters.conflicts == 1
    blocks.check_invariants()
