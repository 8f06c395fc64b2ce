"""Which targets hold which blocks, in one layer: blocks by hash, targets by bit.

Most blocks are held by one of a few sets of targets, so a block's entry is the number of its set
and each set is kept once, as a bitmask. Beside it stands when the block was last stored or asked
for: what has not been asked for longest goes first when memory is short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from router.prefix.table import FEW, BlockTable, Hashes, Keys, Numbers, Spread, keys_of

SET_BYTES = 300
"""Memory of one set of up to some hundred targets, as mask and in the tables, at the worst."""
Flags = npt.NDArray[np.bool_]
_LOWER = np.uint64(2**32 - 1)
_HALF = np.uint64(32)
_STAMP_MAX = 2**32 - 1
_STAMP = 1 << 32
_STEPS = np.arange(4096, dtype=np.uint64) << _HALF
_BUCKETS_PER_LOOK = 512
_SHARE_TO_EVICT = 0.125


@dataclass(slots=True)
class TargetSets:
    """Sets of targets by number, each once; 0 is the empty one."""

    masks: list[int] = field(default_factory=lambda: [0])
    _blocks: list[int] = field(default_factory=lambda: [0])
    _numbers: dict[int, int] = field(default_factory=lambda: {0: 0})
    _free: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._numbers) - 1

    def number(self, mask: int) -> int:
        """The number of the set; to be followed by `move`, as a set without blocks goes."""
        found = self._numbers.get(mask)
        if found is None:
            if self._free:
                found = self._free.pop()
                self.masks[found] = mask
            else:
                found = len(self.masks)
                self.masks.append(mask)
                self._blocks.append(0)
            self._numbers[mask] = found
        return found

    def move(self, before: int, after: int, count: int) -> None:
        """`count` blocks go from one set to another."""
        self._blocks[after] += count
        self._blocks[before] -= count
        if before and not self._blocks[before]:
            del self._numbers[self.masks[before]]
            self._free.append(before)

    def counts(self) -> dict[int, int]:
        """Blocks by set, for tests."""
        return {number: self._blocks[number] for number in self._numbers.values() if number}


class Holdings:
    """Blocks of one layer."""

    def __init__(self) -> None:
        self.sets = TargetSets()
        self._table = BlockTable()
        self._clock = 0

    def __len__(self) -> int:
        return len(self._table)

    @property
    def bytes_used(self) -> int:
        """Memory, in bytes."""
        return self._table.bytes_used + len(self.sets) * SET_BYTES

    def add(self, blocks: Hashes, bit: int) -> Hashes:
        """Targets of `bit` hold the blocks too, given in chain order, none twice; gives those that
        they did not hold before."""
        if len(blocks) < FEW:
            return self._add_few(_plain(blocks), bit)
        keys = _keys(blocks)
        stamps = self._stamps(len(keys))
        entries, places = self._table.find_many(keys, to_put=True)
        numbers = entries & _LOWER
        changed = np.ones(len(keys), np.bool_)
        after = np.zeros(len(keys), np.uint64)
        for before, same in _parts(numbers):
            mask = self.sets.masks[before]
            if mask & bit:
                changed[same] = False
                after[same] = before
            else:
                number = self.sets.number(mask | bit)
                self.sets.move(before, number, int(np.count_nonzero(same)))
                after[same] = number
        room = len(self._table)
        self._table.put_found(keys, places, after | stamps)
        new = len(numbers) - int(np.count_nonzero(numbers))
        if len(self._table) != room + new:
            self._forget_unkept(keys, numbers, after, changed)
        return keys if changed.all() else keys[changed]

    def discard(self, blocks: Hashes, bit: int) -> int:
        """The target of `bit` does not hold the blocks, none given twice; gives how many it
        held."""
        if len(blocks) < FEW:
            return self._discard_few(_plain(blocks), bit)
        keys = _keys(blocks)
        entries, places = self._table.find_many(keys)
        numbers = entries & _LOWER
        held = np.zeros(len(keys), np.bool_)
        after = np.zeros(len(keys), np.uint64)
        for before, same in _parts(numbers):
            mask = self.sets.masks[before]
            if mask & bit:
                number = self.sets.number(mask & ~bit)
                self.sets.move(before, number, int(np.count_nonzero(same)))
                held |= same
                after[same] = number
        gone = held & (after == 0)
        stay = held & (after != 0)
        if stay.any():
            self._table.put_again(keys[stay], places[stay], after[stay] | entries[stay] & ~_LOWER)
        self._table.pop_found_many(keys[gone], places[gone])
        return int(np.count_nonzero(held))

    def holds(self, block: int) -> bool:
        """Whether anybody holds the block."""
        return self._table.get(block) != 0

    def along(self, blocks: Spread) -> Numbers:
        """The number of the set that holds each block; keeps the blocks from going soon, the first
        ones longest."""
        entries, places = self._table.find_spread(blocks)
        numbers = entries & _LOWER
        if self._is_stale(self._oldest(entries)):
            self._table.mark(places, numbers | self._stamps(len(blocks)))
        return numbers

    def along_few(self, blocks: Sequence[int]) -> Numbers:
        """The same of so few blocks that one look after the other is quicker."""
        found = [self._table.find(block) for block in blocks]
        numbers = [entry & 0xFFFFFFFF for _, entry in found]
        if self._is_stale(min((entry for _, entry in found if entry), default=0)):
            stamp = self._latest(len(blocks))
            for block, number, (place, _) in zip(blocks, numbers, found, strict=True):
                if number:
                    self._table.put_one(block, place, number | stamp)
                stamp -= _STAMP
        return np.array(numbers, np.uint64)

    def mask(self, key: int) -> int:
        """The targets that hold one block."""
        return self.sets.masks[self._table.get(key) & 0xFFFFFFFF]

    def held_by(self, keys: Keys, bit: int) -> Flags:
        """Whether the target of `bit` holds each block."""
        held = np.zeros(len(keys), np.bool_)
        for number, same in _parts(self._table.get_many(keys) & _LOWER):
            if self.sets.masks[number] & bit:
                held |= same
        return held

    def evict(self) -> Iterator[tuple[int, int]]:
        """Drops some of the blocks that nobody stored or asked for longest; gives each set that
        held some, as mask, and how many."""
        _, entries = self._table.pop_lowest(_SHARE_TO_EVICT, _BUCKETS_PER_LOOK)
        for number, same in _parts(entries & _LOWER):
            mask, count = self.sets.masks[number], int(np.count_nonzero(same))
            self.sets.move(number, 0, count)
            yield mask, count

    def clear(self) -> None:
        self.sets = TargetSets()
        self._table.clear()

    def blocks(self) -> dict[int, int]:
        """Masks by block, for tests."""
        keys, entries = self._table.items()
        numbers = (entries & _LOWER).tolist()
        return {
            key: self.sets.masks[number] for key, number in zip(keys.tolist(), numbers, strict=True)
        }

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        self._table.check_invariants()
        _, entries = self._table.items()
        numbers, counts = np.unique(entries & _LOWER, return_counts=True)
        assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == self.sets.counts()
        masks = [self.sets.masks[number] for number in self.sets.counts()]
        assert len(masks) == len(set(masks))

    def _latest(self, count: int) -> int:
        """The stamp of the first of so many blocks of a chain, later than all before."""
        if self._clock + count > _STAMP_MAX:
            self._clock = 0  # once in some billion blocks what is old counts as new for a while
        self._clock += count
        return self._clock << 32

    def _stamps(self, count: int) -> Numbers:
        """For a chain's blocks: later than all before, the first block's the latest."""
        latest = np.uint64(self._latest(count))
        stamps: Numbers = (
            latest - _STEPS[:count]
            if count <= len(_STEPS)
            else (latest - (np.arange(count, dtype=np.uint64) << _HALF))
        )
        return stamps

    def _is_stale(self, entry: int) -> bool:
        """Whether a block was not asked for lately, which is while fewer than an eighth of all
        blocks were; to mark the same blocks each time would be lost work."""
        return entry != 0 and self._clock - (entry >> 32) > len(self._table) >> 3

    @staticmethod
    def _oldest(entries: Numbers) -> int:
        """The lowest of those found, 0 if there is none."""
        lowest = int(entries.min())
        if not lowest and entries.any():
            lowest = int(entries[entries != 0].min())
        return lowest

    def _add_few(self, blocks: Sequence[int], bit: int) -> list[int]:
        table, sets, new = self._table, self.sets, []
        stamp = self._latest(len(blocks)) + _STAMP
        table.make_room(len(blocks))
        for block in blocks:
            stamp -= _STAMP
            place, entry = table.find(block)
            before = entry & 0xFFFFFFFF
            mask = sets.masks[before]
            if mask & bit:
                table.put_one(block, place, before | stamp)
                continue
            after = sets.number(mask | bit)
            sets.move(before, after, 1)
            if table.put_one(block, place, after | stamp):
                new.append(block)
            else:
                sets.move(after, 0, 1)
        return new

    def _discard_few(self, blocks: Sequence[int], bit: int) -> int:
        table, sets, held = self._table, self.sets, 0
        for block in blocks:
            place, entry = table.find(block)
            before = entry & 0xFFFFFFFF
            mask = sets.masks[before]
            if not mask & bit:
                continue
            held += 1
            if mask == bit:
                sets.move(before, 0, 1)
                table.pop_found(block, place)
            else:
                after = sets.number(mask ^ bit)
                sets.move(before, after, 1)
                table.put_one(block, place, after | entry >> 32 << 32)
        return held

    def _forget_unkept(self, keys: Keys, before: Numbers, after: Numbers, changed: Flags) -> None:
        """Takes blocks that the table had no room for out of the accounts."""
        lost = (before == 0) & ((self._table.get_many(keys) & _LOWER) == 0)
        changed &= ~lost
        for number, same in _parts(after[lost]):
            self.sets.move(number, 0, int(np.count_nonzero(same)))


def _keys(blocks: Hashes) -> Keys:
    return blocks if isinstance(blocks, np.ndarray) else keys_of(blocks)


def _plain(blocks: Hashes) -> Sequence[int]:
    return blocks.tolist() if isinstance(blocks, np.ndarray) else blocks


def _parts(numbers: Numbers) -> Iterator[tuple[int, Flags]]:
    """Each number that occurs, and where."""
    if not len(numbers):
        return
    first = numbers[0]
    same = numbers == first
    if same.all():
        yield int(first), same
        return
    for number in np.unique(numbers).tolist():
        yield number, numbers == number
