"""A small engine whose prefix cache behaves as vLLM's: copies, eviction, a ring of batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rhizome.wire.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEvent,
    KVEventBatch,
    encode_batch,
)
from router.prefix.hashing import extend_chain, root_hash
from workers.event_image import EventImage, Snapshot

BLOCK = 2


class EngineModel:
    """Blocks in order of last use; equal blocks computed twice are two copies."""

    def __init__(self, blocks_max: int, ring_max: int) -> None:
        self._blocks_max = blocks_max
        self._ring_max = ring_max
        self._clock = 0.0
        self._slots: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._slot_ids = 0
        self.restart()

    def restart(self) -> None:
        """A new process: nothing cached, sequences from 0."""
        self._slots.clear()
        self.ring: list[tuple[int, KVEventBatch]] = []
        self.next_sequence = 0
        self.contents: list[frozenset[int]] = []
        """What was held after each batch, in our hashes."""
        self.image = EventImage()
        """What a relay beside it keeps."""
        self.image.blocks_max = self._blocks_max

    @property
    def held(self) -> frozenset[int]:
        return frozenset(ours for _, ours in self._slots.values())

    def serve(self, prompts: Sequence[Sequence[int]]) -> tuple[int, KVEventBatch] | None:
        """One engine step on these prompts; the batch that it publishes, if anything changed."""
        events: list[KVEvent] = []
        before = {engine_hash for engine_hash, _ in self._slots.values()}
        for prompt in prompts:
            events += self._compute(prompt, before)
        return self._publish(events) if events else None

    def reset(self) -> tuple[int, KVEventBatch]:
        self._slots.clear()
        return self._publish([AllBlocksCleared()])

    def replay(self, start: int) -> list[tuple[int, KVEventBatch]]:
        return [(sequence, batch) for sequence, batch in self.ring if sequence >= start]

    def snapshot(self) -> Snapshot:
        """What the relay would answer now."""
        return self.image.snapshot()

    def _compute(self, prompt: Sequence[int], hit: set[int]) -> list[KVEvent]:
        """Blocks cached before this step are reused, but never the one with the last token."""
        chain = extend_chain(root_hash(), prompt, BLOCK)
        engine_hashes = [hash(("engine", ours)) for ours in chain]
        reusable = max(0, len(prompt) - 1) // BLOCK
        reused = 0
        while reused < min(reusable, len(chain)) and engine_hashes[reused] in hit:
            if not self._touch(engine_hashes[reused]):
                break
            reused += 1
        events: list[KVEvent] = []
        if reused == len(chain):
            return events
        for engine_hash, ours in zip(engine_hashes[reused:], chain[reused:], strict=True):
            while len(self._slots) >= self._blocks_max:
                _, (evicted, _) = self._slots.popitem(last=False)
                events.append(BlockRemoved(block_hashes=[evicted], medium="GPU", group_idx=0))
            self._slot_ids += 1
            self._slots[self._slot_ids] = (engine_hash, ours)
        events.append(
            BlockStored(
                block_hashes=list(engine_hashes[reused:]),
                parent_block_hash=engine_hashes[reused - 1] if reused else None,
                token_ids=list(prompt[reused * BLOCK : len(chain) * BLOCK]),
                block_size=BLOCK,
            )
        )
        return events

    def _touch(self, engine_hash: int) -> bool:
        for slot, (held, _) in self._slots.items():
            if held == engine_hash:
                self._slots.move_to_end(slot)
                return True
        return False

    def _publish(self, events: list[KVEvent]) -> tuple[int, KVEventBatch]:
        self._clock += 1.0
        batch = KVEventBatch(ts=self._clock, events=events)
        sequence = self.next_sequence
        self.next_sequence += 1
        self.ring.append((sequence, batch))
        del self.ring[: -self._ring_max]
        self.contents.append(self.held)
        self.image.take(sequence, encode_batch(batch))
        self.image.check_invariants()
        return sequence, batch
