"""The prefix index: which target holds which block, in two layers.

* **Truth** is what KV events said: for each tier and KV cache group (`router.prefix.layout`) a
  table from block hash to the set of targets that hold it, and for each target its blocks in order
  of arrival, so that forgetting a target costs what it holds and no more.
* **Prediction** (`router.prefix.prediction`) is what was just dispatched, for seconds.

Promises: no match counts a block of a target that was neither stored nor predicted and is not
removed, cleared or expired since. Losing blocks is allowed, inventing them is not, and two bounds
lose some:

* a target holds at most its own `blocks_max` in its device's memory; more is proof that removals
  were lost or stores forged, and its oldest blocks go (`evicted_over_bound` counts them);
* the whole stays within `bytes_max` (estimated); the first to give is prediction where it has more
  than half, else what nobody stored or asked for longest, the end of a chain before its beginning
  (`evicted_for_memory`).

Left out: the clock (times are arguments), what the engine calls its blocks, and how much to
believe of it (`suspend` and `distrust` are for those who doubt).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from router.prefix.credit import Ints, Matched
from router.prefix.evictions import Evictions
from router.prefix.holder import Holder
from router.prefix.holdings import SET_BYTES, Holdings
from router.prefix.layout import PLAIN, PLAIN_LAYOUT, Layer, Layout, Tier
from router.prefix.matching import Columns, by_slots, cut_short, leading, reusable
from router.prefix.prediction import PREDICTION_BYTES, Kept, Predictions
from router.prefix.table import FEW, Hashes, keys_of

BLOCK_BYTES = 64
"""Memory of one block in the truth, whoever holds it, at the worst (tools/bench_index.py)."""
HOLDING_BYTES = 16
"""Memory of one block of one target in the truth, at the worst."""
_GROWTH = max(BLOCK_BYTES + HOLDING_BYTES + SET_BYTES, PREDICTION_BYTES)
"""Most memory that one block more or less of a target can add, in either layer."""


class PrefixIndex:
    """Blocks by hash and target. Calls for a target that was not added change nothing: an event
    may arrive after its worker left."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._holders: dict[str, Holder] = {}
        self._by_slot: dict[int, Holder] = {}
        self._free_slots: list[int] = []
        self._layers: dict[Layer, Holdings] = {PLAIN: Holdings()}
        self._layouts: dict[Layout, int] = {}
        self._holdings = 0
        self._changes_left = 0
        self._suspended = 0
        self._distrusted = 0
        self._predictions = Predictions()
        self.evictions = Evictions()
        self.generation = 0
        """Counts the targets' comings and goings."""
        self.evicted_over_bound = 0
        """Blocks forgotten since their target had more than it can hold; only grows."""
        self.evicted_for_memory = 0
        """Blocks of a target forgotten since the index was full; only grows."""
        self.strangers = 0
        """Stores and removals of targets that are not there, none of them believed; only grows."""

    @property
    def bytes_used(self) -> int:
        """Estimated memory of both layers, in bytes."""
        truth = self._holdings * HOLDING_BYTES
        for layer in self._layers.values():
            truth += len(layer) * BLOCK_BYTES + len(layer.sets) * SET_BYTES
        return truth + self._predictions.bytes_used

    def add_worker(self, target: str, blocks_max: int | None = None) -> None:
        """Lets the index take blocks of a target, at most `blocks_max` (None: no bound of its own).

        A known target keeps its blocks and gets the new bound.
        """
        holder = self._holders.get(target)
        if holder is None:
            slot = heapq.heappop(self._free_slots) if self._free_slots else len(self._holders)
            holder = Holder(target, slot, 1 << slot, blocks_max)
            self._holders[target] = self._by_slot[slot] = holder
            self.generation += 1
        holder.blocks_max = blocks_max
        self._enforce_blocks_max(holder)

    def remove_worker(self, target: str) -> None:
        """Forgets a target and all that is known of it."""
        self.clear(target)
        self.resume(target)
        self.distrust(target, False)
        self.describe(target, PLAIN_LAYOUT)
        holder = self._holders.pop(target, None)
        if holder is not None:
            self._predictions.drop(holder.slot)
            del self._by_slot[holder.slot]
            self.generation += 1
            heapq.heappush(self._free_slots, holder.slot)

    def describe(self, target: str, layout: Layout) -> None:
        """Sets what the target's engine can reuse of what it holds; a plain cache until told."""
        holder = self._holders.get(target)
        if holder is None or holder.layout == layout:
            return
        left = self._layouts.pop(holder.layout, 0) & ~holder.bit
        if left:
            self._layouts[holder.layout] = left
        holder.layout = layout
        if not layout.is_plain:
            self._layouts[layout] = self._layouts.get(layout, 0) | holder.bit

    def store(self, target: str, hashes: Hashes, layer: Layer = PLAIN) -> int:
        """The target now holds these blocks, given in chain order; gives how many are new to it."""
        holder = self._holders.get(target)
        if holder is None or not len(hashes):
            self.strangers += holder is None
            return 0
        holdings = self._layers.get(layer)
        if holdings is None:
            holdings = self._layers[layer] = Holdings()
        new = holdings.add(_distinct(hashes), holder.bit)
        line = holder.came(layer, new)
        self._holdings += len(new)
        if layer == PLAIN:
            self.evictions.stored(new)
        if line.is_slack:
            keys = line.all()
            line.renew(keys[holdings.held_by(keys, holder.bit)])
        self._enforce_blocks_max(holder)
        self._changed(len(new))
        return len(new)

    def remove(self, target: str, hashes: Hashes, layer: Layer = PLAIN) -> None:
        """The target no longer holds these blocks."""
        holder = self._holders.get(target)
        self.strangers += holder is None
        if holder is not None and layer in holder.held and len(hashes):
            self._forget(holder, layer, blocks := _distinct(hashes))
            if layer == PLAIN:
                self.evictions.evicted(blocks, self._layers[layer].holds)

    def clear(self, target: str) -> None:
        """The target's cache is empty: forgets its truth; its predictions stay."""
        holder = self._holders.get(target)
        if holder is not None:
            for layer, line in holder.held.items():
                self._forget(holder, layer, line.all())
            holder.held = {}
            self._drop_empty_layers()

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
        """Whether the truth about the target, found to be wrong, is kept but not credited."""
        holder = self._holders.get(target)
        if holder is not None:
            self._distrusted = self._distrusted & ~holder.bit | distrusted * holder.bit

    def predict(self, target: str, hashes: Sequence[int], expires_at_s: float) -> None:
        """The target will hold these blocks; believed while the time is before `expires_at_s`."""
        holder = self._holders.get(target)
        if holder is not None:
            self._predictions.add(holder.slot, hashes, expires_at_s)
            self._changed(len(hashes))

    def assume(self, target: str, hashes: Sequence[int], now_s: float, kept: Kept) -> None:
        """The target uses these blocks now, and no event will tell how long it keeps them."""
        if target in self._holders:
            self._predictions.assume(self._holders[target].slot, hashes, now_s, kept)
            self._changed(len(hashes))

    def expire(self, now_s: float) -> None:
        """Drops predictions whose time has come, so many at once at most; `match` does it too."""
        self._predictions.expire(now_s)

    def match(self, hashes: Sequence[int], now_s: float) -> dict[str, int]:
        """For each target, how many leading blocks its device holds or is predicted to hold, as far
        as its engine can reuse them, if any."""
        return {
            holder.target: depth
            for mask, depth in self._endings(self._columns(hashes, now_s))
            for holder in self._holders_in(mask)
        }

    def endings(self, hashes: Sequence[int], now_s: float) -> list[tuple[int, int]] | None:
        """The same by masks of slots (see `slot_of`), no slot in two; None where slower tiers hold
        blocks, too (see `match_tiers`)."""
        if self.holds_none(hashes, now_s):
            return []
        if self._slower_tiers():
            return None
        if self._layouts or len(self._layers) > 1 or len(self._layers[PLAIN]):
            return self._endings(self._columns(hashes, now_s))
        return self._predictions.endings(hashes)

    def match_slots(self, hashes: Sequence[int], now_s: float) -> Ints:
        """The same as one number for each slot (see `slot_of`), and a last one that is 0."""
        return self._by_slots(self._endings(self._columns(hashes, now_s)))

    def holds_none(self, hashes: Sequence[int], now_s: float) -> bool:
        """Whether, by a quick look, no target reuses anything of the prompt: True is certain."""
        if not hashes or self._layouts or len(self._layers) > 1:  # tiers, windows: first not needed
            return not hashes
        self._predictions.expire(now_s)
        first = hashes[0]
        return first not in self._predictions.blocks and not self._layers[PLAIN].mask(first)

    def match_tiers(self, hashes: Sequence[int], now_s: float) -> Matched:
        """The same, and how far the slower tiers of each target go on from there."""
        columns = self._columns(hashes, now_s)
        endings = self._endings(columns)
        depths = [self._by_slots(endings)]
        tiers = self._slower_tiers()
        if not tiers:
            return Matched(depths[0])
        for tiers_so_far in [tiers[: count + 1] for count in range(len(tiers))]:
            further = self._by_slots([*self._endings_beyond(columns, endings, tiers_so_far)])
            depths.append(np.maximum(further, depths[-1]))
        parts = dict(zip(tiers, np.diff(depths, axis=0), strict=True))
        return Matched(depths[0], parts.get(Tier.HOST), parts.get(Tier.STORAGE))

    def slot_of(self, target: str) -> int:
        """The target's place in what `match_slots` gives; -1, its last one, if there is none.

        Good until a target is added or removed (`generation`).
        """
        holder = self._holders.get(target)
        return holder.slot if holder is not None else -1

    def truth_depth(self, target: str, hashes: Sequence[int]) -> int:
        """How many leading blocks the target can reuse by the truth alone, credited or not."""
        holder = self._holders.get(target)
        if holder is None or not hashes:
            return 0
        columns = Columns(hashes, self._layers, {}, -1)
        endings = self._endings(columns, holder.bit)
        beyond = self._endings_beyond(columns, endings, self._slower_tiers(), holder.bit)
        return max((depth for _, depth in [*endings, *beyond]), default=0)

    def reused_of(self, target: str, blocks: int) -> int:
        """How many of a prompt's leading blocks the target reuses if it holds so many."""
        holder = self._holders.get(target)
        return holder.layout.reused_of(blocks) if holder is not None else blocks

    def block_count(self, target: str, tier: Tier = Tier.DEVICE) -> int:
        """Blocks of all groups that the target holds in a tier by the truth, suspended or not."""
        holder = self._holders.get(target)
        return holder.count(tier) if holder is not None else 0

    def predicted_count(self, target: str) -> int:
        """Blocks predicted for the target, those that are due but not yet dropped included."""
        holder = self._holders.get(target)
        return self._predictions.count(holder.slot) if holder is not None else 0

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        masks: dict[Layer, dict[int, int]] = {layer: {} for layer in self._layers}
        for holder in self._holders.values():
            holder.check_invariants()
            assert self._by_slot[holder.slot] is holder
            for layer, line in holder.held.items():
                keys = line.all()
                held = keys[self._layers[layer].held_by(keys, holder.bit)].tolist()
                assert line.count == len(held)
                for block in held:
                    masks[layer][block] = masks[layer].get(block, 0) | holder.bit
        for layer, holdings in self._layers.items():
            holdings.check_invariants()
            assert holdings.blocks() == masks[layer]
        assert len(self._by_slot) == len(self._holders)
        slots = sorted([*self._by_slot, *self._free_slots])
        assert slots == list(range(len(slots)))
        lines = (line for holder in self._holders.values() for line in holder.held.values())
        assert self._holdings == sum(line.count for line in lines)
        everybody = sum(holder.bit for holder in self._holders.values())
        assert not (self._suspended | self._distrusted) & ~everybody
        for layout, mask in self._layouts.items():
            of_layout = (h.bit for h in self._holders.values() if h.layout == layout)
            assert mask == sum(of_layout)
            assert not layout.is_plain
        assert self.bytes_used <= self._bytes_max
        self._predictions.check_invariants()

    def _columns(self, hashes: Sequence[int], now_s: float) -> Columns:
        self._predictions.expire(now_s)
        doubted = self._suspended | self._distrusted
        return Columns(hashes, self._layers, self._predictions.blocks, ~doubted)

    def _endings(self, columns: Columns, among: int = -1) -> list[tuple[int, int]]:
        """Masks of targets, none twice, with the number of leading blocks that they reuse."""
        hybrid, endings = 0, []
        for layout, targets in self._layouts.items():
            hybrid |= targets
            if not targets & among:
                continue
            if layout.is_leading:
                found = leading(columns.plain_runs(), targets & among)
                endings += cut_short(found, layout.again)
            else:
                endings += reusable(columns.runs(layout), targets & among, layout)
        return endings + leading(columns.plain_runs(), among & ~hybrid)

    def _endings_beyond(
        self,
        columns: Columns,
        endings: Sequence[tuple[int, int]],
        tiers: Sequence[Tier],
        among: int = -1,
    ) -> Iterator[tuple[int, int]]:
        """How far targets go on in slower tiers from where their devices end, those only that do.

        Plain caches only: of the groups of a hybrid model an engine's events say too little.
        """
        if not tiers:
            return
        runs = columns.tier_runs(tiers)
        hybrid = sum(mask for layout, mask in self._layouts.items() if not layout.is_leading)
        ended = 0
        for mask, depth in [*endings, (-1, 0)]:
            rest = mask & among & ~hybrid & ~ended
            ended |= mask
            yield from leading(runs, rest, depth)

    def _slower_tiers(self) -> list[Tier]:
        if len(self._layers) == 1:
            return []
        return sorted({layer.tier for layer in self._layers if layer.tier is not Tier.DEVICE})

    def _by_slots(self, endings: Sequence[tuple[int, int]]) -> Ints:
        return by_slots(endings, len(self._holders) + len(self._free_slots) + 1)

    def _holders_in(self, mask: int) -> Iterator[Holder]:
        while mask:
            lowest = mask & -mask
            yield self._by_slot[lowest.bit_length() - 1]
            mask ^= lowest

    def _forget(self, holder: Holder, layer: Layer, hashes: Hashes) -> int:
        """Takes those of the blocks that the target holds out of the truth; gives how many."""
        count = self._layers[layer].discard(hashes, holder.bit)
        holder.went(layer, count)
        self._holdings -= count
        self._changes_left -= count  # what is left of a set may be one more set
        return count

    def _enforce_blocks_max(self, holder: Holder) -> None:
        while (excess := holder.excess) > 0:
            on_device = [layer for layer in holder.held if layer.tier is Tier.DEVICE]
            layer = max(on_device, key=lambda one: holder.held[one].count)
            keys = holder.held[layer].take_oldest(excess)
            self.evicted_over_bound += self._forget(holder, layer, keys)

    def _changed(self, blocks: int) -> None:
        """So many may be more than before; whether that is too much is looked at only when it can
        be."""
        self._changes_left -= blocks
        if self._changes_left < 0:
            self._enforce_bytes_max()
            self._changes_left = (self._bytes_max - self.bytes_used) // _GROWTH

    def _enforce_bytes_max(self) -> None:
        while self.bytes_used > self._bytes_max:
            layer, holdings = max(self._layers.items(), key=lambda one: len(one[1]))
            if not len(holdings) or self._predictions.bytes_used > self._bytes_max // 2:
                self._predictions.evict_oldest()
                continue
            for mask, count in holdings.evict():
                for holder in self._holders_in(mask):
                    holder.went(layer, count)
                    self._holdings -= count
                    self.evicted_for_memory += count

    def _drop_empty_layers(self) -> None:
        for layer in [one for one, holdings in self._layers.items() if not len(holdings)]:
            if layer != PLAIN and all(layer not in h.held for h in self._holders.values()):
                del self._layers[layer]


def _distinct(hashes: Hashes) -> Hashes:
    if isinstance(hashes, np.ndarray):
        return hashes
    if len(hashes) > 1 and len(set(hashes)) != len(hashes):
        hashes = list(dict.fromkeys(hashes))
    return hashes if len(hashes) < FEW else keys_of(hashes)
