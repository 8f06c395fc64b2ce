"""The prefix index: which target holds which block, in two layers.

* **Truth** is what KV events said: one dict from block hash to a bitmask of target slots, and for
  each target the blocks that it holds, oldest first, so that forgetting a target costs what it
  holds and no more.
* **Prediction** (`router.prefix.prediction`) is what was just dispatched, for seconds.

Promises: `match` never counts a block of a target that was neither stored nor predicted and is
not removed, cleared or expired since. Losing blocks is allowed, inventing them is not, and two
bounds lose some:

* a target holds at most its own `blocks_max`; more is proof that removals were lost, and its
  oldest blocks go;
* the whole stays within `bytes_max` (estimated); the first to give is prediction where it has more
  than half, else the blocks that were stored first. A call's last blocks count as older than its
  first ones, since a prefix without its beginning is worth nothing.

Left out: the clock (times are arguments), what the engine calls its blocks, and how much to
believe of it (`suspend` is for those who doubt).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat, takewhile
from operator import or_

import numpy as np
import numpy.typing as npt

from router.prefix.prediction import Predictions

BLOCK_BYTES = 108
"""Memory of one block in the truth, whoever holds it, at the worst (tools/bench_index.py)."""
HOLDING_BYTES = 64
"""Memory of one block of one target in the truth, at the worst."""

Ints = npt.NDArray[np.int64]

_EVICT_AT_LEAST = 64
_MASKS_SHARED_MAX = 4096


@dataclass(slots=True)
class _Holder:
    """One target: its bit in the masks, and what it holds."""

    target: str
    slot: int
    bit: int
    blocks_max: int | None
    held: dict[int, None] = field(default_factory=dict)
    """Its blocks in the truth, oldest first."""


class PrefixIndex:
    """Blocks by hash and target. Calls for a target that was not added change nothing: an event
    may arrive after its worker left."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._holders: dict[str, _Holder] = {}
        self._by_slot: dict[int, _Holder] = {}
        self._free_slots: list[int] = []
        self._masks: dict[int, int] = {}
        self._shared_masks: dict[int, int] = {}
        self._holdings = 0
        self._suspended = 0
        self._distrusted = 0
        self._predictions = Predictions()
        self.generation = 0
        """Counts up whenever a target is added or removed."""

    @property
    def bytes_used(self) -> int:
        """Estimated memory of both layers, in bytes."""
        truth = len(self._masks) * BLOCK_BYTES + self._holdings * HOLDING_BYTES
        return truth + self._predictions.bytes_used

    def add_worker(self, target: str, blocks_max: int | None = None) -> None:
        """Lets the index take blocks of a target, at most `blocks_max` (None: no bound of its own).

        A known target keeps its blocks and gets the new bound.
        """
        holder = self._holders.get(target)
        if holder is None:
            slot = heapq.heappop(self._free_slots) if self._free_slots else len(self._holders)
            holder = _Holder(target, slot, 1 << slot, blocks_max)
            self._holders[target] = self._by_slot[slot] = holder
            self.generation += 1
        holder.blocks_max = blocks_max
        self._enforce_blocks_max(holder)

    def remove_worker(self, target: str) -> None:
        """Forgets a target and all that is known of it."""
        self.clear(target)
        self.resume(target)
        self.distrust(target, False)
        holder = self._holders.pop(target, None)
        if holder is not None:
            self._predictions.drop(holder.slot)
            del self._by_slot[holder.slot]
            self.generation += 1
            heapq.heappush(self._free_slots, holder.slot)

    def store(self, target: str, hashes: Sequence[int]) -> None:
        """The target now holds these blocks, given in chain order."""
        holder = self._holders.get(target)
        if holder is None:
            return
        held, masks, shared, bit = holder.held, self._masks, self._shared_masks, holder.bit
        before = len(held)
        if masks.keys().isdisjoint(hashes):  # nobody holds any of them
            held.update(dict.fromkeys(reversed(hashes)))
            masks.update(dict.fromkeys(reversed(hashes), bit))
            hashes = ()
        for block in reversed(hashes):
            if block in held:
                continue
            held[block] = None
            mask = masks.get(block)
            if mask is None:
                masks[block] = bit
            else:
                mask |= bit
                masks[block] = shared.setdefault(mask, mask)
        self._holdings += len(held) - before
        if len(shared) > _MASKS_SHARED_MAX:
            shared.clear()
        self._enforce_blocks_max(holder)
        self._enforce_bytes_max()

    def remove(self, target: str, hashes: Iterable[int]) -> None:
        """The target no longer holds these blocks."""
        holder = self._holders.get(target)
        if holder is not None:
            self._forget(holder, (block for block in hashes if block in holder.held))

    def clear(self, target: str) -> None:
        """The target's cache is empty: forgets its truth; its predictions stay."""
        holder = self._holders.get(target)
        if holder is not None:
            self._forget(holder, list(holder.held))
            holder.held = {}

    def suspend(self, target: str) -> None:
        """Until `resume`, the target gets no credit from the truth."""
        holder = self._holders.get(target)
        if holder is not None:
            self._suspended |= holder.bit

    def resume(self, target: str) -> None:
        holder = self._holders.get(target)
        if holder is not None:
            self._suspended &= ~holder.bit

    def distrust(self, target: str, distrusted: bool) -> None:
        """Whether the truth about the target is kept but not credited, suspended or not.

        The feed suspends while it is in doubt itself; this is for whoever found it to be wrong.
        """
        holder = self._holders.get(target)
        if holder is not None:
            bit = holder.bit
            self._distrusted = self._distrusted | bit if distrusted else self._distrusted & ~bit

    def predict(self, target: str, hashes: Sequence[int], expires_at_s: float) -> None:
        """The target will hold these blocks; believed while the time is before `expires_at_s`."""
        holder = self._holders.get(target)
        if holder is not None:
            self._predictions.add(holder.slot, hashes, expires_at_s)
            self._enforce_bytes_max()

    def expire(self, now_s: float) -> None:
        """Drops predictions whose time has come; `match` does it too."""
        self._predictions.expire(now_s)

    def match(self, hashes: Sequence[int], now_s: float) -> dict[str, int]:
        """For each target, how many leading blocks it holds or is predicted to hold, if any."""
        return {
            holder.target: depth
            for mask, depth in self._endings(hashes, now_s)
            for holder in self._holders_in(mask)
        }

    def match_slots(self, hashes: Sequence[int], now_s: float) -> Ints:
        """The same as one number for each slot (see `slot_of`), and a last one that is 0."""
        depths = np.zeros(len(self._holders) + len(self._free_slots) + 1, np.int64)
        for mask, depth in self._endings(hashes, now_s):
            data = mask.to_bytes(mask.bit_length() + 7 >> 3, "little")
            bits = np.unpackbits(
                np.frombuffer(data, np.uint8), count=len(depths), bitorder="little"
            )
            depths[bits.view(np.bool_)] = depth
        return depths

    def slot_of(self, target: str) -> int:
        """The target's place in what `match_slots` gives; -1, its last one, if there is none.

        Good until a target is added or removed (`generation`).
        """
        holder = self._holders.get(target)
        return holder.slot if holder is not None else -1

    def truth_depth(self, target: str, hashes: Sequence[int]) -> int:
        """How many leading blocks the target holds by the truth alone, credited or not."""
        holder = self._holders.get(target)
        if holder is None:
            return 0
        return sum(1 for _ in takewhile(holder.held.__contains__, hashes))

    def block_count(self, target: str) -> int:
        """Blocks that the target holds by the truth, suspended or not."""
        holder = self._holders.get(target)
        return len(holder.held) if holder is not None else 0

    def predicted_count(self, target: str) -> int:
        """Blocks predicted for the target, those that are due but not yet dropped included."""
        holder = self._holders.get(target)
        return self._predictions.count(holder.slot) if holder is not None else 0

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        masks: dict[int, int] = {}
        for holder in self._holders.values():
            assert holder.bit == 1 << holder.slot
            assert self._by_slot[holder.slot] is holder
            assert holder.blocks_max is None or len(holder.held) <= holder.blocks_max
            for block in holder.held:
                masks[block] = masks.get(block, 0) | holder.bit
        assert masks == self._masks
        assert len(self._by_slot) == len(self._holders)
        slots = sorted([*self._by_slot, *self._free_slots])
        assert slots == list(range(len(slots)))
        assert self._holdings == sum(len(holder.held) for holder in self._holders.values())
        doubted = self._suspended | self._distrusted
        assert not doubted & ~sum(holder.bit for holder in self._holders.values())
        assert len(self._shared_masks) <= _MASKS_SHARED_MAX
        assert self.bytes_used <= self._bytes_max
        self._predictions.check_invariants()

    def _holders_along(self, hashes: Sequence[int]) -> Iterator[int]:
        """The mask of targets that hold each block, by truth that counts or by prediction."""
        masks: Iterator[int] = map(self._masks.get, hashes, repeat(0))
        doubted = self._suspended | self._distrusted
        if doubted:
            trusted = ~doubted
            masks = (mask & trusted for mask in masks)
        predicted = self._predictions.masks
        if predicted:
            masks = map(or_, masks, map(predicted.get, hashes, repeat(0)))
        return masks

    def _endings(self, hashes: Sequence[int], now_s: float) -> Iterator[tuple[int, int]]:
        """Masks of targets, none twice, with the number of leading blocks that they hold."""
        self._predictions.expire(now_s)
        alive = last = -1
        for depth, mask in enumerate(self._holders_along(hashes)):
            if mask is last:
                continue
            last = mask
            still = alive & mask
            if still == alive:
                continue
            if depth:
                yield alive ^ still, depth
            if not still:
                return
            alive = still
        if hashes:
            yield alive, len(hashes)

    def _holders_in(self, mask: int) -> Iterator[_Holder]:
        while mask:
            lowest = mask & -mask
            yield self._by_slot[lowest.bit_length() - 1]
            mask ^= lowest

    def _forget(self, holder: _Holder, blocks: Iterable[int]) -> None:
        """Takes blocks that the target holds out of the truth."""
        masks, held, keep = self._masks, holder.held, ~holder.bit
        before = len(held)
        for block in blocks:
            del held[block]
            left = masks[block] & keep
            if left:
                masks[block] = left
            else:
                del masks[block]
        self._holdings -= before - len(held)

    def _enforce_blocks_max(self, holder: _Holder) -> None:
        if holder.blocks_max is None or len(holder.held) <= holder.blocks_max:
            return
        # A few more than needed: each look for the oldest walks over the places of dropped ones.
        excess = len(holder.held) - holder.blocks_max + holder.blocks_max // 64
        self._forget(holder, list(islice(holder.held, excess)))

    def _enforce_bytes_max(self) -> None:
        while self.bytes_used > self._bytes_max:
            if not self._masks or self._predictions.bytes_used > self._bytes_max // 2:
                self._predictions.evict_oldest()
            else:
                self._evict_oldest_blocks()

    def _evict_oldest_blocks(self) -> None:
        count = max(_EVICT_AT_LEAST, len(self._masks) >> 10)
        for block, mask in list(islice(self._masks.items(), count)):
            for holder in self._holders_in(mask):
                del holder.held[block]
                self._holdings -= 1
            del self._masks[block]
