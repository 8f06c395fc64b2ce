"""What an event feed is told, answers and counts (see `router.prefix.feed`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rhizome.wire.kv_events import BlockRemoved, BlockStored, KVEventBatch

REMEMBERED = 2048
"""Applied batches whose time stamps are kept to tell duplicates; more than can be held."""


class Verdict(StrEnum):
    """What became of an input."""

    APPLIED = "applied"
    HELD = "held"
    """Kept until the replay under way has ended."""
    IGNORED = "ignored"
    """A duplicate, or a notice that changes nothing."""
    CLEARED = "cleared"
    """The target starts from nothing."""
    WAITING = "waiting"
    """The target is suspended until a connection or a replay comes."""


@dataclass(frozen=True, slots=True)
class Action:
    """The verdict on an input, and the replay to ask for now, if any."""

    verdict: Verdict
    replay_from: int | None = None
    """First sequence to ask the engine for; an earlier replay still under way is void."""
    snapshot: bool = False
    """Whether to ask for a snapshot; the same holds."""

    @property
    def asks(self) -> bool:
        """Whether there is something to carry out."""
        return self.snapshot or self.replay_from is not None


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Bounds on live batches held during a replay; beyond them they are dropped and replayed."""

    held_batches_max: int = 1024
    held_items_max: int = 4 * 2**20
    """Token ids and block hashes in the held batches."""

    def __post_init__(self) -> None:
        if not 0 < self.held_batches_max < REMEMBERED:
            raise ValueError(f"held_batches_max must be between 1 and {REMEMBERED - 1}")


@dataclass(slots=True)
class FeedCounters:
    """Every number only grows."""

    batches: int = 0
    duplicates: int = 0
    gaps: int = 0
    replays: int = 0
    replays_failed: int = 0
    snapshots: int = 0
    snapshots_failed: int = 0
    restarts: int = 0
    undecodable: int = 0
    held_dropped: int = 0


@dataclass(slots=True)
class BlockCounters:
    """What was done with announced blocks; every number only grows."""

    events: int = 0
    stored: int = 0
    removed: int = 0
    unknown_parent: int = 0
    """Blocks skipped because neither the chain above them nor their name was seen."""
    not_text: int = 0
    """Blocks skipped because their hash covers more than tokens, adapter and salt (media)."""
    adapted: int = 0
    """Blocks stored under a LoRA adapter's name."""
    salted: int = 0
    """Chains stored that begin with a cache salt."""
    passed_over: int = 0
    """Blocks of KV cache groups in which an engine never looks for a prefix, or that none has."""
    mismatched: int = 0
    """Blocks of a size that the worker did not register."""
    unknown_events: int = 0
    """Events of a type that this version does not know."""
    clears: int = 0
    """Times that everything known of the target was dropped, for whatever reason."""
    over_bound: int = 0
    """Blocks forgotten since there were more than the engine can hold."""
    conflicts: int = 0


def items_in(batch: KVEventBatch | None) -> int:
    """What holding the batch costs, in hashes and token ids."""
    if batch is None:
        return 1
    items = 1
    for event in batch.events:
        if isinstance(event, BlockStored):
            items += len(event.token_ids)
        if isinstance(event, BlockStored | BlockRemoved):
            items += len(event.block_hashes)
    return items
