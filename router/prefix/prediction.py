"""Prediction: blocks that a target will hold because a prompt was just sent to it.

Two kinds, which a target may both have:

* **Predicted** blocks close the gap between a dispatch and the KV event that confirms it. An entry
  lives until its own time and is then gone; predicting it again prolongs it. Entries are grouped
  into the batches in which they were first predicted, so that expiry costs nothing per call and
  memory follows the number of entries, not of predictions.
* **Assumed** blocks stand in for events where a target has none. They are kept as its engine
  keeps them: those used longest ago go first, beyond a number or an age (see
  `router.prefix.lifetimes`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

EXPIRED_AT_ONCE_MAX = 4096
"""Blocks after which `expire` leaves the rest to its next call, so that no request pays for many
that came before it: about a millisecond."""
_LOOKS_SPARE = 64
_FEW = 16
"""Up to so many blocks one look after the other is as quick as halving."""
_SPARE = 64
"""What is forgotten beyond a bound is so small a part of it: to find the oldest of a dict is to
pass over all that went before, so it must not be done for each request."""
ENTRY_BYTES = 120
"""Memory of one predicted block of one target, at the worst (tools/bench_index.py)."""
BLOCK_BYTES = 128
"""Memory of one predicted block, whoever is predicted to hold it, at the worst."""
PREDICTION_BYTES = ENTRY_BYTES + BLOCK_BYTES

_Batch = tuple[float, int, int, Sequence[int]]  # expires_at_s, number, slot, hashes


class Kept(msgspec.Struct, frozen=True):
    """How long a target keeps what nobody uses."""

    lifetime_s: float
    blocks_max: int | None = None
    """Most blocks it holds, those used last."""


@dataclass(slots=True)
class _Assumed:
    """What one slot is assumed to hold."""

    lifetime_s: float = math.inf
    used_s: dict[int, float] = field(default_factory=dict)
    """When each block was used last, longest ago first."""
    look_s: float = math.inf
    """When to look for those that have ended; none ends before."""

    @property
    def ends_s(self) -> float:
        """When the first of them ends."""
        return next(iter(self.used_s.values()), math.inf) + self.lifetime_s


class Predictions:
    """Living predictions by slot; a slot's bit is in a block's set while it is predicted."""

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        """The slots predicted to hold each block, as bitmask; to be read after `expire`. They are
        few beside the truth and change with every request, so that a dict is quicker than
        `Holdings`."""
        self._expiry: dict[int, dict[int, float]] = {}
        self._batches: list[_Batch] = []
        self._number = 0
        self._entries = 0
        self._assumed: dict[int, _Assumed] = {}
        self._assumptions = 0
        self._looks: list[tuple[float, int]] = []
        """A heap of when to look at the assumptions of which slot; of a slot's only that at its
        `look_s` counts."""

    @property
    def bytes_used(self) -> int:
        entries = self._entries + self._assumptions
        return entries * ENTRY_BYTES + len(self.blocks) * BLOCK_BYTES

    def count(self, slot: int) -> int:
        """Blocks predicted or assumed for the slot."""
        assumed = self._assumed.get(slot)
        expiry = self._expiry.get(slot, {})
        if assumed is None:
            return len(expiry)
        return len(assumed.used_s) + sum(block not in assumed.used_s for block in expiry)

    def endings(self, hashes: Sequence[int]) -> list[tuple[int, int]]:
        """Masks of slots, no slot in two, with the number of leading blocks predicted for them; to
        be read after `expire`."""
        get, held, found, depth = self.blocks.get, -1, [], 0
        leaps = not self._entries and len(hashes) > _FEW
        while depth < len(hashes):
            still = get(hashes[depth], 0) & held
            if still != held:
                if depth:
                    found.append((held ^ still, depth))
                if not still:
                    return found
                held = still
            depth += 1
            if leaps:
                depth = self._end_of_assumed(hashes, depth, held)
        if hashes:
            found.append((held, len(hashes)))
        return found

    def _end_of_assumed(self, hashes: Sequence[int], begin: int, slots: int) -> int:
        """The first block from `begin` on that one of the slots is not assumed to hold, found by
        halving: of what a slot was sent it drops the end first, so it holds beginnings."""
        get, low, high = self.blocks.get, begin, len(hashes)
        middle = high - 1
        while low < high:
            if get(hashes[middle], 0) & slots == slots:
                low = middle + 1
            else:
                high = middle
            middle = (low + high) // 2
        return low

    def add(self, slot: int, hashes: Sequence[int], expires_at_s: float) -> None:
        """Predicts the blocks until `expires_at_s`; a later time already set stays."""
        expiry = self._expiry.setdefault(slot, {})
        fresh = dict.fromkeys(hashes, expires_at_s)
        if not expiry.keys().isdisjoint(fresh):
            for block in [block for block in hashes if block in expiry]:
                expiry[block] = max(expiry[block], expires_at_s)
                fresh.pop(block, None)
        if fresh:
            expiry.update(fresh)
            self._include(fresh, 1 << slot)
            self._entries += len(fresh)
            self._push(expires_at_s, slot, list(fresh))

    def assume(self, slot: int, hashes: Sequence[int], now_s: float, kept: Kept) -> None:
        """The slot uses these blocks now; `kept` holds for all that it is assumed to hold."""
        assumed = self._assumed.get(slot)
        if assumed is None:
            assumed = self._assumed[slot] = _Assumed()
        used_s = assumed.used_s
        ends_sooner = not used_s or kept.lifetime_s < assumed.lifetime_s
        assumed.lifetime_s, blocks_max = kept.lifetime_s, kept.blocks_max
        fresh: list[int] = []
        for block in reversed(hashes):  # an engine drops a prompt from its end on
            if used_s.pop(block, None) is None:
                fresh.append(block)
            used_s[block] = now_s
        if fresh:
            self._assumptions += len(fresh)
            self._include(fresh, 1 << slot)
        if blocks_max is not None and len(used_s) > blocks_max:
            excess = len(used_s) - blocks_max + blocks_max // _SPARE
            self._forget(slot, list(islice(used_s, excess)))
        if ends_sooner and assumed.ends_s < assumed.look_s:
            self._look_at(slot, assumed)

    def expire(self, now_s: float) -> None:
        """Drops what ends at `now_s` or before; from some `EXPIRED_AT_ONCE_MAX` blocks on the next
        calls do, and until then it is believed."""
        left = EXPIRED_AT_ONCE_MAX
        while self._batches and self._batches[0][0] <= now_s and left > 0:
            left -= self._pop(now_s)
        while self._looks and self._looks[0][0] <= now_s and left > 0:
            look_s, slot = heapq.heappop(self._looks)
            assumed = self._assumed.get(slot)
            if assumed is not None and assumed.look_s == look_s:
                ended = _unused(assumed, now_s)
                self._forget(slot, ended)
                self._look_at(slot, assumed)
                left -= len(ended)

    def evict_oldest(self) -> None:
        """Drops the entries that would expire first, or finds that they were prolonged; of
        assumptions, a part of the slot's that has most."""
        if self._batches:
            self._pop(self._batches[0][0])
        elif self._assumed:
            slot, most = max(self._assumed.items(), key=lambda one: len(one[1].used_s))
            self._forget(slot, list(islice(most.used_s, max(1, len(most.used_s) // 64))))
            if not most.used_s:
                del self._assumed[slot]

    def drop(self, slot: int) -> None:
        """Forgets everything predicted for the slot."""
        expiry = self._expiry.pop(slot, {})
        assumed = self._assumed.pop(slot, None)
        if assumed is not None:
            self._assumptions -= len(assumed.used_s)
            self._exclude(assumed.used_s, 1 << slot)
        self._exclude(expiry, 1 << slot)
        self._entries -= len(expiry)
        self._batches = [batch for batch in self._batches if batch[2] != slot]
        heapq.heapify(self._batches)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        masks: dict[int, int] = {}
        for slot, expiry in self._expiry.items():
            for block in expiry:
                masks[block] = masks.get(block, 0) | 1 << slot
        for slot, assumed in self._assumed.items():
            for block in assumed.used_s:
                masks[block] = masks.get(block, 0) | 1 << slot
            times_s = list(assumed.used_s.values())
            assert times_s == sorted(times_s)
            assert assumed.look_s <= assumed.ends_s
            assert assumed.look_s == math.inf or (assumed.look_s, slot) in self._looks
        assert masks == self.blocks
        assert self._assumptions == sum(len(one.used_s) for one in self._assumed.values())
        assert self._entries == sum(len(expiry) for expiry in self._expiry.values())
        batched = [(slot, block) for _, _, slot, hashes in self._batches for block in hashes]
        assert len(batched) == len(set(batched)) == self._entries
        for expires_at_s, _, slot, hashes in self._batches:
            assert all(expires_at_s <= self._expiry[slot][block] for block in hashes)

    def _include(self, hashes: Iterable[int], bit: int) -> None:
        masks = self.blocks
        get = masks.get
        for block in hashes:  # `update` of a large dict may copy it all
            masks[block] = get(block, 0) | bit

    def _exclude(self, hashes: Collection[int], bit: int) -> None:
        masks = self.blocks
        if [*map(masks.get, hashes)].count(bit) == len(hashes):  # nobody else's
            deque(map(masks.__delitem__, hashes), 0)
            return
        for block in hashes:
            left = masks.get(block, 0) & ~bit
            if left:
                masks[block] = left
            else:
                masks.pop(block, None)

    def _forget(self, slot: int, blocks: list[int]) -> None:
        """Assumes no longer that the slot holds these blocks."""
        used_s, expiry = self._assumed[slot].used_s, self._expiry.get(slot, {})
        for block in blocks:
            del used_s[block]
        self._assumptions -= len(blocks)
        self._exclude([one for one in blocks if one not in expiry], 1 << slot)

    def _look_at(self, slot: int, assumed: _Assumed) -> None:
        """Looks at the slot again when the first of its assumptions ends."""
        assumed.look_s = assumed.ends_s
        if assumed.look_s == math.inf:
            return
        heapq.heappush(self._looks, (assumed.look_s, slot))
        if len(self._looks) > 2 * len(self._assumed) + _LOOKS_SPARE:
            self._looks = [
                (one.look_s, number)
                for number, one in self._assumed.items()
                if one.look_s < math.inf
            ]
            heapq.heapify(self._looks)

    def _push(self, expires_at_s: float, slot: int, hashes: Sequence[int]) -> None:
        self._number += 1
        heapq.heappush(self._batches, (expires_at_s, self._number, slot, hashes))

    def _pop(self, now_s: float) -> int:
        """Ends the first batch: drops what is due by `now_s`, regroups what was prolonged; gives
        how many blocks it had."""
        _, _, slot, hashes = heapq.heappop(self._batches)
        expiry = self._expiry[slot]
        prolonged: dict[float, list[int]] = {}
        gone: Sequence[int] = hashes
        ends_s = [*map(expiry.__getitem__, hashes)]
        if max(ends_s, default=now_s) > now_s:
            gone = [
                block for block, until_s in zip(hashes, ends_s, strict=True) if until_s <= now_s
            ]
            for block, until_s in zip(hashes, ends_s, strict=True):
                if until_s > now_s:
                    prolonged.setdefault(until_s, []).append(block)
        deque(map(expiry.__delitem__, gone), 0)
        self._entries -= len(gone)
        assumed = self._assumed.get(slot)
        if assumed is not None:
            gone = [block for block in gone if block not in assumed.used_s]
        self._exclude(gone, 1 << slot)
        for until_s, blocks in prolonged.items():
            self._push(until_s, slot, blocks)
        return len(hashes)


def _unused(assumed: _Assumed, now_s: float) -> list[int]:
    """The blocks whose lifetime is over, those used longest ago first, and not too many."""
    found: list[int] = []
    for block, used_s in islice(assumed.used_s.items(), EXPIRED_AT_ONCE_MAX):
        if used_s + assumed.lifetime_s > now_s:
            break
        found.append(block)
    return found
