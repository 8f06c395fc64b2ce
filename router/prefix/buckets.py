"""Buckets of keys and numbers in one allocation: what `router.prefix.table` is made of.

A key has two buckets of eight slots and lies in one of them (two-choice hashing: Azar et al.,
Balanced Allocations, 1999); where the first is crowded the emptier one takes it. A bucket's keys
and numbers lie side by side, eight of the one and eight of the other, so that a look touches two
lines of memory. Slots that hold the key 0 are free.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]

WIDTH = 8
"""Slots of a bucket."""
SLOT_BYTES = 16
_ROW = 2 * WIDTH
_ROW_SHIFT = 4
_LINE_SHIFT = 3
_NOWHERE = -_ROW
"""The place of a key that is not here: counted from the end, in a bucket that stays empty."""

_numbers_at = struct.Struct(f"{WIDTH}Q").unpack_from
_CROWDED = 2
"""A key goes to its second bucket where its first has no more free slots than this and fewer."""
_MAPPED_BYTES = 2**20
_SECOND = 15
_SECOND_SHIFT = np.uint64(_SECOND)
_EVEN = np.uint64(2**64 - 2)
"""A bucket has two lines, the keys' first."""
_BYTES_SUMMED = np.uint64(0x0101010101010101)
_TOP_BYTE = np.uint64(56)
"""Eight bytes, multiplied so, have their sum in the top one."""
_SLOTS_OF_BYTES = np.uint64(0x0001020304050607 if sys.byteorder == "little" else 0x0706050403020100)
"""Eight bytes of which one is 1, multiplied so, have the place of that one in the top one."""


def keys_of(numbers: Sequence[int]) -> Keys:
    """The numbers as an array; raises `OverflowError` outside 0 to 2**64 - 1."""
    return np.fromiter(numbers, np.uint64, len(numbers))


def _cells(count: int) -> Keys:
    """So many zeros. Large ones come page by page as they are touched, since a huge page that is
    zeroed for each of some random touches would stall the caller."""
    if count * 8 < _MAPPED_BYTES:
        return np.zeros(count, np.uint64)
    memory = mmap.mmap(-1, count * 8)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint64)


class Page:
    """One allocation of buckets, and a last one that stays empty. A place is where a key lies among
    the cells, and where its number lies among the numbers."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.buckets = 1 << bits
        self.slots = WIDTH << bits
        self._shift = 64 - bits
        self._even = self.buckets - 1 << 1
        self.cells = _cells((_ROW << bits) + _ROW)
        self.numbers = self.cells[WIDTH:]
        self._lines = self.cells.reshape(-1, WIDTH)
        self._first_shift = np.uint64(63 - bits)
        self._second_mask = np.uint64(self._even)
        self.view: memoryview[int] = memoryview(self.cells.data)
        self.count = 0

    # ------------------------------------------------------------------ one key

    def find(self, mixed: int) -> int:
        """The key's place, or -1."""
        view = self.view
        at = mixed >> self._shift << _ROW_SHIFT
        row = _numbers_at(view, at << 3)
        if mixed in row:
            return at + row.index(mixed)
        at = (mixed >> _SECOND & self._even) << _LINE_SHIFT
        row = _numbers_at(view, at << 3)
        return at + row.index(mixed) if mixed in row else -1

    def insert(self, mixed: int, value: int) -> bool:
        """Takes a key that is not here; False if both of its buckets are full."""
        view = self.view
        at = mixed >> self._shift << _ROW_SHIFT
        row = _numbers_at(view, at << 3)
        room = row.count(0)
        if room <= _CROWDED:
            other = (mixed >> _SECOND & self._even) << _LINE_SHIFT
            other_row = _numbers_at(view, other << 3)
            if other_row.count(0) > room:
                at, row = other, other_row
        if 0 not in row:
            return False
        place = at + row.index(0)
        view[place] = mixed
        view[place + WIDTH] = value
        self.count += 1
        return True

    def remove(self, place: int) -> int:
        """Frees a place; gives the number that was there."""
        value: int = self.view[place + WIDTH]
        self.view[place] = self.view[place + WIDTH] = 0
        self.count -= 1
        return value

    # ---------------------------------------------------------------- many keys

    def locate(self, mixed: Keys) -> Places:
        """The keys' places; where there is none, one below 0 at which there is no number."""
        hits, places = self._probe(mixed, self._first(mixed))
        missing = (hits == 0).nonzero()[0]
        if len(missing):
            rest = mixed[missing]
            hits, others = self._probe(rest, self._second(rest))
            others[hits == 0] = _NOWHERE
            places[missing] = others
        return places

    def insert_many(self, mixed: Keys, values: Numbers) -> Places:
        """Takes keys that are not here, none twice; gives the positions of those without room."""
        left = np.arange(len(mixed))
        while len(left):
            placed = self._put(mixed[left], values[left])
            if not placed.any():
                break
            left = left[~placed]
        return left

    def remove_many(self, places: Places) -> Numbers:
        """Frees places, none given twice; gives the numbers that were there."""
        values = self.numbers[places]
        self.cells[places] = self.numbers[places] = 0
        self.count -= len(places)
        return values

    def held(self, begin: int = 0, end: int | None = None) -> Places:
        """The places in use of the buckets from `begin` to before `end`."""
        buckets, slots = np.nonzero(self.cells.reshape(-1, _ROW)[begin:end, :WIDTH])
        return (buckets + begin << _ROW_SHIFT) + slots

    def _first(self, mixed: Keys) -> Places:
        """The lines of the keys' first buckets."""
        return (mixed >> self._first_shift & _EVEN).view(np.intp)

    def _second(self, mixed: Keys) -> Places:
        return (mixed >> _SECOND_SHIFT & self._second_mask).view(np.intp)

    def _probe(self, mixed: Keys, lines: Places) -> tuple[Keys, Places]:
        """What is not 0 for the keys in these buckets, and their places."""
        hits = (self._lines.take(lines, 0).ravel() == mixed.repeat(WIDTH)).view(np.uint64)
        slots = (hits * _SLOTS_OF_BYTES >> _TOP_BYTE).view(np.intp)
        return hits, (lines << _LINE_SHIFT) + slots

    def _put(self, mixed: Keys, values: Numbers) -> npt.NDArray[np.bool_]:
        """One round: of the keys that want a slot, the last gets it; gives which are in."""
        lines = self._first(mixed)
        free, room = self._free(lines)
        crowded = (room <= _CROWDED).nonzero()[0]
        if len(crowded):
            others = self._second(mixed[crowded])
            other_free, other_room = self._free(others)
            better = (other_room > room[crowded]).nonzero()[0]
            moves = crowded[better]
            lines[moves], free[moves] = others[better], other_free[better]
            room[moves] = other_room[better]
        places = (lines << _LINE_SHIFT) + free.argmax(1)
        full = (room == 0).nonzero()[0]
        if len(full):
            inside = (room > 0).nonzero()[0]
            self.cells[places[inside]] = mixed[inside]
        else:
            self.cells[places] = mixed
        placed: npt.NDArray[np.bool_] = self.cells.take(places) == mixed
        places = places[placed]
        self.numbers[places] = values[placed]
        self.count += len(places)
        return placed

    def _free(self, lines: Places) -> tuple[npt.NDArray[np.bool_], Places]:
        """Which slots of each bucket are free, and how many."""
        free = self._lines.take(lines, 0) == 0
        counts = (free.view(np.uint64).ravel() * _BYTES_SUMMED) >> _TOP_BYTE
        return free, counts.view(np.intp)
