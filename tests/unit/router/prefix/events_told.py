"""Builders of event batches as an engine would send them, and an index that only remembers."""

from __future__ import annotations

from typing import Any

from rhizome.wire.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEvent,
    KVEventBatch,
)
from router.prefix.layout import PLAIN, PLAIN_LAYOUT, Layer, Layout
from router.prefix.table import Hashes

BLOCK = 4
TARGET = "w1"


class RememberedTruth:
    """The truth layer of the index for one target, without its bounds."""

    def __init__(self) -> None:
        self.layers: dict[Layer, set[int]] = {}
        self.layout = PLAIN_LAYOUT
        self.suspended = False

    @property
    def blocks(self) -> set[int]:
        """Those on the device, of the first group."""
        return self.layers.setdefault(PLAIN, set())

    @property
    def credited(self) -> set[int]:
        return set() if self.suspended else self.blocks

    def store(self, target: str, hashes: Hashes, layer: Layer) -> int:
        assert target == TARGET
        held = self.layers.setdefault(layer, set())
        before = len(held)
        held.update(map(int, hashes))
        return len(held) - before

    def remove(self, target: str, hashes: Hashes, layer: Layer) -> None:
        self.layers[layer].difference_update(map(int, hashes))

    def clear(self, target: str) -> None:
        self.layers.clear()

    def describe(self, target: str, layout: Layout) -> None:
        self.layout = layout

    def suspend(self, target: str) -> None:
        self.suspended = True

    def resume(self, target: str) -> None:
        self.suspended = False


def stored(
    hashes: list[int],
    tokens: list[int],
    parent: int | None = None,
    extra_keys: list[list[Any] | None] | None = None,
    **fields: Any,
) -> BlockStored:
    """`BlockStored` of blocks of `BLOCK` tokens."""
    return BlockStored(
        block_hashes=list(hashes),
        parent_block_hash=parent,
        token_ids=tokens,
        block_size=fields.pop("block_size", BLOCK),
        extra_keys=extra_keys,
        **fields,
    )


def removed(*hashes: int, **fields: Any) -> BlockRemoved:
    return BlockRemoved(block_hashes=list(hashes), **fields)


def cleared() -> AllBlocksCleared:
    return AllBlocksCleared()


def batch(ts: float, *events: KVEvent) -> KVEventBatch:
    return KVEventBatch(ts=ts, events=list(events))


def tokens_of(*blocks: int) -> list[int]:
    """Token ids of blocks that are told apart by one number each."""
    return [block * BLOCK + offset for block in blocks for offset in range(BLOCK)]
