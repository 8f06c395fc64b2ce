"""Where a block can lie (tier and KV cache group), and what an engine reuses of what is there.

A model with one kind of attention has one KV cache group, and reuses the leading blocks that it
holds. A hybrid model has several groups, each with its own copy of every block, and a prefix can be
reused only as far as all of them allow (vLLM 0.32, `HybridKVCacheCoordinator`): full attention
needs every block of the prefix, a sliding window only the blocks that the next token looks back to,
a recurrent layer (Mamba) only the state at the end. A group whose kind is not known is taken for
full attention, which may credit too little and never too much.
How far that is, `router.prefix.matching` finds.

Left out: speculative decoding with EAGLE heads, where vLLM computes one more block again; nothing
in the events tells of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

FULL_KINDS = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
WINDOW_KINDS = frozenset({"sliding_window", "sliding_window_mla"})
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
class Group:
    """One KV cache group of an engine, in blocks of the size that the worker registered."""

    number: int = 0
    span: int = 1
    """Such blocks that one of the group's own covers."""
    window: int | None = None
    """Blocks up to the end of a prefix that must be there; None: all of them."""

    @staticmethod
    def of_kind(
        number: int, kind: str | None, window_tokens: int | None, block_tokens: int, span: int
    ) -> Group:
        """The group as an event describes it; `block_tokens` is the size of the group's blocks."""
        if kind == "mamba":
            return Group(number, span, span)
        if kind in WINDOW_KINDS and window_tokens is not None:
            # The last `window - 1` tokens and the one to compute (`_contiguous_blocks_for_hit`).
            return Group(number, span, max(1, -(-(window_tokens - 1) // block_tokens)) * span)
        return Group(number, span)


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of a kind of engine, by number."""

    groups: tuple[Group, ...] = (Group(),)

    @property
    def is_plain(self) -> bool:
        """Whether the leading blocks of the one group are all that counts."""
        return self.groups == (Group(),)

    @property
    def alignment(self) -> int:
        """Reused prefixes are multiples of so many blocks."""
        return math.lcm(*(group.span for group in self.groups))

    @property
    def full(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.window is None)

    @property
    def windows(self) -> tuple[tuple[int, tuple[Group, ...]], ...]:
        """The groups of each window; vLLM looks for theirs together."""
        sizes = sorted({group.window for group in self.groups if group.window is not None})
        return tuple(
            (size, tuple(group for group in self.groups if group.window == size)) for size in sizes
        )


PLAIN_LAYOUT = Layout()
