"""One target's KV cache in our own hashes, kept from what its engine says of it.

An engine names its blocks by hashes that are opaque to us. Each stored block is given our chained
hash, computed from its parent's and its tokens; the parent must have been seen, since a hash is
computed or there is none: blocks below an unknown parent are skipped and counted, never guessed.

**Copies.** vLLM does not share equal blocks that were computed twice (two equal prompts in one
step; the last block of a repeated prompt, which is always computed again). Each copy is announced
when it is stored and when it is evicted, under the same hash, so copies are counted and a block is
forgotten with its last one. Forgetting it with the first eviction would lose a hot prefix for
good, as hits on the remaining copy are not announced.

**Soundness.** The count is never above the engine's own: both grow by one with a store, and with a
removal the engine's falls by one and ours by one or stays at zero. This holds from any moment at
which we start from nothing and see every event since, so a partial view (joined late, or cleared
in the middle) credits only what is there. What it leaves out is found again when it is stored
again.

Three things void the view, and it then starts from nothing: `AllBlocksCleared`; more copies than
the engine has blocks (an engine told to announce reused blocks as stored, `kv_cache_report_mode`);
one of our hashes under two engine hashes (a LoRA name pointed at another adapter, which the
engine hashes by path and the events do not carry).

Left out for now: media other than the device's memory, and KV cache groups above the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rhizome.wire.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, KVEvent
from router.prefix.hashing import extend_chain, root_hash

COPIES_MAX = 2**20
"""Bound on a target that does not say how many blocks it has."""


class Truth(Protocol):
    """The part of the prefix index that events write (see `router.prefix.index`)."""

    def store(self, target: str, hashes: Sequence[int]) -> None: ...

    def remove(self, target: str, hashes: Sequence[int]) -> None: ...

    def clear(self, target: str) -> None: ...

    def suspend(self, target: str) -> None: ...

    def resume(self, target: str) -> None: ...


@dataclass(slots=True)
class BlockCounters:
    """What was done with announced blocks; every number only grows."""

    events: int = 0
    stored: int = 0
    removed: int = 0
    unknown_parent: int = 0
    """Blocks skipped because the chain above them was not seen."""
    not_text: int = 0
    """Blocks skipped because their hash covers more than tokens, adapter and salt (media)."""
    adapted: int = 0
    """Blocks stored under a LoRA adapter's name."""
    salted: int = 0
    """Chains stored that begin with a cache salt."""
    passed_over: int = 0
    """Blocks of another medium or KV cache group."""
    mismatched: int = 0
    """Blocks of a size that the worker did not register."""
    unknown_events: int = 0
    """Events of a type that this version does not know."""
    clears: int = 0
    """Times that everything known of the target was dropped, for whatever reason."""
    overflows: int = 0
    conflicts: int = 0


class EngineBlocks:
    """Translates one target's events into calls of the index."""

    def __init__(
        self, target: str, truth: Truth, block_size: int | None, blocks_max: int | None
    ) -> None:
        self._target = target
        self._truth = truth
        self._block_size = block_size
        self._copies_max = blocks_max if blocks_max is not None else COPIES_MAX
        self._ours: dict[EngineHash, int] = {}
        self._held: set[int] = set()
        self._more_copies: dict[EngineHash, int] = {}
        self._copies = 0
        self.counters = BlockCounters()
        self.mismatch = False
        """The engine's block size is not the registered one: nothing of it can be credited."""

    def __len__(self) -> int:
        """Blocks known, copies not counted."""
        return len(self._ours)

    def apply(self, events: Sequence[KVEvent]) -> None:
        """Takes events in the engine's order."""
        for event in events:
            self.counters.events += 1
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                self._removed(event)
            else:
                assert isinstance(event, AllBlocksCleared)
                self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.counters.clears += 1
        self._ours.clear()
        self._held.clear()
        self._more_copies.clear()
        self._copies = 0
        self._truth.clear(self._target)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        assert set(self._ours.values()) == self._held
        assert len(self._ours) == len(self._held)
        assert set(self._more_copies) <= set(self._ours)
        assert all(more > 0 for more in self._more_copies.values())
        assert self._copies == len(self._ours) + sum(self._more_copies.values())
        assert self._copies <= self._copies_max

    def _stored(self, event: BlockStored) -> None:
        count = len(event.block_hashes)
        if not _is_credited(event):
            self.counters.passed_over += count
            return
        if event.block_size != self._block_size:
            self.counters.mismatched += count
            self.mismatch = True
            return
        if event.lora_name is not None:
            self.counters.adapted += count
        parent, textual = self._start_of_chain(event)
        if parent is None:
            self.counters.unknown_parent += count
            return
        self.counters.not_text += count - textual
        tokens = event.token_ids[: textual * event.block_size]
        try:
            chain = extend_chain(parent, tokens, event.block_size)
        except ValueError:
            self.counters.not_text += textual
            return
        engine_hashes = event.block_hashes[:textual]
        if self._contradicts(engine_hashes, chain):
            self.counters.conflicts += 1
            self.clear()
            if event.parent_block_hash is not None:
                self.counters.unknown_parent += textual
                return
        self._insert(engine_hashes, chain)

    def _insert(self, engine_hashes: Sequence[EngineHash], chain: Sequence[int]) -> None:
        new: list[int] = []
        for engine_hash, ours in zip(engine_hashes, chain, strict=True):
            if engine_hash in self._ours:
                self._more_copies[engine_hash] = self._more_copies.get(engine_hash, 0) + 1
            else:
                self._ours[engine_hash] = ours
                self._held.add(ours)
                new.append(ours)
        self._copies += len(chain)
        self.counters.stored += len(chain)
        if self._copies > self._copies_max:
            self.counters.overflows += 1
            self.clear()
        elif new:
            self._truth.store(self._target, new)

    def _removed(self, event: BlockRemoved) -> None:
        if not _is_credited(event):
            self.counters.passed_over += len(event.block_hashes)
            return
        gone: list[int] = []
        for engine_hash in event.block_hashes:
            if engine_hash not in self._ours:
                continue
            self._copies -= 1
            self.counters.removed += 1
            more = self._more_copies.pop(engine_hash, 0)
            if more > 1:
                self._more_copies[engine_hash] = more - 1
            elif more == 0:
                ours = self._ours.pop(engine_hash)
                self._held.remove(ours)
                gone.append(ours)
        if gone:
            self._truth.remove(self._target, gone)

    def _start_of_chain(self, event: BlockStored) -> tuple[int | None, int]:
        """Our hash above the event's first block, and how many of its blocks can be hashed.

        The hash is None if it cannot be known. In vLLM's events a block's extra keys are, in this
        order, the LoRA name, `[media id, offset]` pairs, the cache salt (a prompt's first block
        only) and digests of embeddings.
        """
        rows = event.extra_keys or [None] * len(event.block_hashes)
        first = _without_adapter(rows[0] if rows else None, event.lora_name)
        salt: str | None = None
        if event.parent_block_hash is None and len(first) == 1 and isinstance(first[0], str):
            salt, first = first[0], []
            self.counters.salted += 1
        if first:
            return self._parent(event, None), 0
        textual = 1
        for row in rows[1 : len(event.block_hashes)]:
            if _without_adapter(row, event.lora_name):
                break
            textual += 1
        return self._parent(event, salt), min(textual, len(event.block_hashes))

    def _parent(self, event: BlockStored, salt: str | None) -> int | None:
        if event.parent_block_hash is None:
            return root_hash(event.lora_name, salt)
        return self._ours.get(event.parent_block_hash)

    def _contradicts(self, engine_hashes: Sequence[EngineHash], chain: Sequence[int]) -> bool:
        for engine_hash, ours in zip(engine_hashes, chain, strict=True):
            known = self._ours.get(engine_hash)
            if known != ours and (known is not None or ours in self._held):
                return True
        return False


def _is_credited(event: BlockStored | BlockRemoved) -> bool:
    """Whether the event is about device memory and the first KV cache group."""
    return event.group_idx in (None, 0) and event.medium in (None, "GPU")


def _without_adapter(row: list[Any] | None, lora_name: str | None) -> list[Any]:
    """A block's extra keys without the LoRA name that opens them."""
    if not row:
        return []
    if lora_name is not None and row[0] == lora_name:
        return row[1:]
    return row
