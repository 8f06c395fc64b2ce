"""Where a block can lie (tier and KV cache group), and what an engine reuses of what is there.

A model with one kind of attention has one KV cache group, and reuses the leading blocks that it
holds. A hybrid model has several groups, each with its own copy of every block, and a prefix can be
reused only as far as all of them allow (vLLM 0.32, `HybridKVCacheCoordinator`): full attention
needs every block of the prefix, a sliding window only the blocks that the next token looks back to,
a recurrent layer (Mamba) only the state at the end. A group whose kind is not known is taken for
full attention, which may credit too little and never too much. Chunked local attention needs what
lies in the next token's chunk. With EAGLE or MTP heads vLLM reuses a prefix only where one more
block is there, which it computes again. How far that is, `router.prefix.matching` finds.

Left out: which groups the heads belong to; all are taken for theirs, which may again credit too
little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

FULL_KINDS = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
WINDOW_KINDS = frozenset({"sliding_window", "sliding_window_mla"})
CHUNKED_KIND = "chunked_local_attention"
UNCACHED_KINDS = frozenset({"encoder_only_attention", "cross_attention"})
"""Groups in which vLLM never looks for a prefix."""


class Tier(IntEnum):
    """What a block is kept in; what is slower to reach comes later."""

    DEVICE = 0
    HOST = 1
    STORAGE = 2

    @staticmethod
    def of_medium(medium: str | None) -> Tier:
        """The tier that an event's `medium` names; none is the device, as older engines have it."""
        if medium is None or medium.upper() == "GPU":
            return Tier.DEVICE
        return Tier.HOST if medium.upper() == "CPU" else Tier.STORAGE


@dataclass(frozen=True, slots=True)
class Layer:
    """One group's blocks in one tier."""

    tier: Tier = Tier.DEVICE
    group: int = 0

    def __hash__(self) -> int:
        return self.group << 2 | self.tier  # an enum's own is a call into Python


PLAIN = Layer()
"""The device's blocks of a model with one group."""


@dataclass(frozen=True, slots=True)
class CacheTraits:
    """What an engine's events do not say of its cache, but its worker's record does."""

    redoes_last_block: bool = False
    """Speculative decoding with EAGLE or MTP heads."""
    chunk_tokens: int | None = None
    """The size of a chunk in chunked local attention."""


PLAIN_TRAITS = CacheTraits()


@dataclass(frozen=True, slots=True)
class Group:
    """One KV cache group of an engine, in blocks of the size that the worker registered."""

    number: int = 0
    span: int = 1
    """Such blocks that one of the group's own covers."""
    window: int | None = None
    """Blocks up to the end of a prefix that must be there; None: all of them."""
    chunk: int | None = None
    """Blocks of a chunk: of a prefix those must be there that are in the chunk where it ends."""
    again: int = 0
    """Blocks after a prefix that must be there too, and are computed again."""

    @staticmethod
    def of_kind(
        number: int,
        kind: str | None,
        window_tokens: int | None,
        span: int,
        block_size: int,
        traits: CacheTraits,
    ) -> Group:
        """The group as an event describes it; `block_size` is that which the worker registered."""
        if kind == "mamba":
            return Group(number, span, span)
        again, block_tokens = span if traits.redoes_last_block else 0, span * block_size
        if kind in WINDOW_KINDS and window_tokens is not None:
            # The last `window - 1` tokens and the one to compute (`_contiguous_blocks_for_hit`).
            window = max(1, -(-(window_tokens - 1) // block_tokens)) * span
            return Group(number, span, window, again=again)
        if kind == CHUNKED_KIND and traits.chunk_tokens and not again:
            chunk, left = divmod(traits.chunk_tokens, block_tokens)
            if chunk and not left:
                return Group(number, span, chunk=chunk * span)
        return Group(number, span, again=again)

    @property
    def reach(self) -> tuple[int, int, int]:
        """What groups have in common that are looked through together; sortable."""
        return self.window or 0, self.chunk or 0, self.again


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of a kind of engine, by number."""

    groups: tuple[Group, ...] = (Group(),)

    @staticmethod
    def unheard(traits: CacheTraits) -> Layout:
        """What is taken for the engine's until its events say more."""
        return Layout((Group(again=int(traits.redoes_last_block)),))

    @property
    def is_plain(self) -> bool:
        """Whether the leading blocks of the one group are all that counts."""
        return self.groups == (Group(),)

    @property
    def alignment(self) -> int:
        """Reused prefixes are multiples of so many blocks."""
        return math.lcm(*(group.span for group in self.groups))

    @property
    def is_leading(self) -> bool:
        """Whether the leading blocks of the one group count, but perhaps for the last one."""
        return len(self.groups) == 1 and self.groups[0] == Group(again=self.again)

    @property
    def again(self) -> int:
        """Blocks that must be there after a prefix in groups of full attention, at the most."""
        return max((group.again for group in self.full), default=0)

    @property
    def full(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if not group.window and not group.chunk)

    @property
    def parts(self) -> tuple[tuple[Group, ...], ...]:
        """The other groups, those together that vLLM looks through together."""
        full = set(self.full)
        rest = sorted((one for one in self.groups if one not in full), key=lambda one: one.reach)
        return tuple(tuple(part) for _, part in groupby(rest, key=lambda one: one.reach))

    def reused_of(self, blocks: int) -> int:
        """How many of so many leading blocks are reused if all groups hold them."""
        most = max((group.again for group in self.groups), default=0)
        left = max(0, blocks - most)
        return left - left % self.alignment


PLAIN_LAYOUT = Layout()
