"""Prediction: blocks that a target will hold because a prompt was just sent to it.

It closes the gap between a dispatch and the KV event that confirms it (and stands in for events
where a worker has none). An entry lives until its own time and is then gone; predicting it again
prolongs it. Entries are grouped into the batches in which they were first predicted, so that
expiry costs nothing per call and memory follows the number of entries, not of predictions.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from router.prefix.holdings import Holdings
from router.prefix.table import keys_of

ENTRY_BYTES = 120
"""Memory of one predicted block of one target, at the worst (tools/bench_index.py)."""
BLOCK_BYTES = 64
"""Memory of one predicted block, whoever is predicted to hold it, at the worst."""

_Batch = tuple[float, int, int, Sequence[int]]  # expires_at_s, number, slot, hashes


class Predictions:
    """Living predictions by slot; a slot's bit is in a block's set while it is predicted."""

    def __init__(self) -> None:
        self.blocks = Holdings()
        """Which slots are predicted to hold which blocks; to be read after `expire`."""
        self._expiry: dict[int, dict[int, float]] = {}
        self._batches: list[_Batch] = []
        self._number = 0
        self._entries = 0

    @property
    def bytes_used(self) -> int:
        return self._entries * ENTRY_BYTES + len(self.blocks) * BLOCK_BYTES

    def count(self, slot: int) -> int:
        """Blocks predicted for the slot."""
        return len(self._expiry.get(slot, ()))

    def add(self, slot: int, hashes: Sequence[int], expires_at_s: float) -> None:
        """Predicts the blocks until `expires_at_s`; a later time already set stays."""
        expiry = self._expiry.setdefault(slot, {})
        fresh = dict.fromkeys(hashes, expires_at_s)
        if not expiry.keys().isdisjoint(fresh):
            for block in hashes:
                until_s = expiry.get(block)
                if until_s is not None:
                    expiry[block] = max(until_s, expires_at_s)
                    fresh.pop(block, None)
        if fresh:
            expiry.update(fresh)
            self.blocks.add(keys_of(list(fresh)), 1 << slot)
            self._entries += len(fresh)
            self._push(expires_at_s, slot, list(fresh))

    def expire(self, now_s: float) -> None:
        """Drops every entry whose time is `now_s` or earlier."""
        while self._batches and self._batches[0][0] <= now_s:
            self._pop(now_s)

    def evict_oldest(self) -> None:
        """Drops the entries that would expire first, or finds that they were prolonged."""
        if self._batches:
            self._pop(self._batches[0][0])

    def drop(self, slot: int) -> None:
        """Forgets everything predicted for the slot."""
        expiry = self._expiry.pop(slot, {})
        self.blocks.discard(keys_of(list(expiry)), 1 << slot)
        self._entries -= len(expiry)
        self._batches = [batch for batch in self._batches if batch[2] != slot]
        heapq.heapify(self._batches)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        masks: dict[int, int] = {}
        for slot, expiry in self._expiry.items():
            for block in expiry:
                masks[block] = masks.get(block, 0) | 1 << slot
        assert masks == self.blocks.blocks()
        self.blocks.check_invariants()
        assert self._entries == sum(len(expiry) for expiry in self._expiry.values())
        batched = [(slot, block) for _, _, slot, hashes in self._batches for block in hashes]
        assert len(batched) == len(set(batched)) == self._entries
        for expires_at_s, _, slot, hashes in self._batches:
            assert all(expires_at_s <= self._expiry[slot][block] for block in hashes)

    def _push(self, expires_at_s: float, slot: int, hashes: Sequence[int]) -> None:
        self._number += 1
        heapq.heappush(self._batches, (expires_at_s, self._number, slot, hashes))

    def _pop(self, now_s: float) -> None:
        """Ends the first batch: drops what is due by `now_s`, regroups what was prolonged."""
        _, _, slot, hashes = heapq.heappop(self._batches)
        expiry = self._expiry[slot]
        prolonged: dict[float, list[int]] = {}
        gone: list[int] = []
        for block in hashes:
            until_s = expiry[block]
            if until_s > now_s:
                prolonged.setdefault(until_s, []).append(block)
                continue
            del expiry[block]
            gone.append(block)
        self._entries -= len(gone)
        self.blocks.discard(keys_of(gone), 1 << slot)
        for until_s, blocks in prolonged.items():
            self._push(until_s, slot, blocks)
