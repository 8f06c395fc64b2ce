"""A map from 64-bit keys to numbers in flat memory: 16 bytes a slot, no objects.

A dict costs a hundred bytes for each block and one cache miss after the other for each lookup.
Here many keys are looked up at once, so that their misses overlap.

Keys lie in buckets (`router.prefix.buckets`), multiplied by a constant (a bijection), which spreads
them. What finds its buckets full goes to a small dict, and what finds that full too is not kept.
A table that is full to four fifths gets one of twice its size and moves over in steps, a few
buckets with every change, so that no call takes long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from router.prefix.buckets import SLOT_BYTES, WIDTH, Keys, Numbers, Page, Places, keys_of

__all__ = ["FEW", "BlockTable", "Hashes", "Keys", "Numbers", "Spread", "keys_of", "spread"]

Hashes = Sequence[int] | Keys
"""Blocks as plain numbers where they are few, else as an array."""
Spread = Keys
"""Keys as a table looks for them."""

_BITS_MIN = 3
_FULL = 0.8
_CROWDED = 0.6
"""A table this full grows too where many keys found no bucket, as after long comings and goings."""
_OVERFLOW_MAX = 4096
_OVERFLOW_BYTES = 150
_STEP = 16
FEW = 24
"""Below so many keys one by one is quicker than all at once."""
_SPREAD = 0x9E3779B97F4A7C15
_GATHER = pow(_SPREAD, -1, 2**64)
_OFFSET = 0xD1B54A32D192ED03
_WORD = 2**64 - 1


class BlockTable:
    """Numbers from 1 to 2**64 - 1 by 64-bit key. `many` methods take arrays of keys, none twice."""

    def __init__(self) -> None:
        self._page = Page(_BITS_MIN)
        self._old: Page | None = None
        self._moved = 0
        self._overflow: dict[int, int] = {}
        self._hand = 0

    def __len__(self) -> int:
        old = self._old.count if self._old is not None else 0
        return self._page.count + old + len(self._overflow)

    @property
    def bytes_used(self) -> int:
        """Memory of the slots, in bytes."""
        old = self._old.slots if self._old is not None else 0
        return (self._page.slots + old) * SLOT_BYTES + len(self._overflow) * _OVERFLOW_BYTES

    def get(self, key: int) -> int:
        """The key's number; 0 if there is none."""
        return self.find(key)[1]

    def put(self, key: int, value: int) -> bool:
        """Sets the key's number, above 0; False if there is no room for the key."""
        self.make_room(1)
        return self.put_one(key, self.find(key)[0], value)

    def find(self, key: int) -> tuple[int, int]:
        """Where `put_one` finds the key, and its number, 0 if there is none."""
        page, mixed = self._page, (key ^ _OFFSET) * _SPREAD & _WORD
        place = page.find(mixed)
        if place >= 0:
            return place, page.view[place + WIDTH]
        if self._old is not None and (before := self._old.find(mixed)) >= 0:
            return -1, self._old.view[before + WIDTH]
        return -1, self._overflow.get(mixed, 0) if self._overflow else 0

    def put_one(self, key: int, place: int, value: int) -> bool:
        """As `put`, of a key just found, and after `make_room`."""
        assert value > 0
        if place >= 0:
            self._page.view[place + WIDTH] = value
            return True
        mixed = (key ^ _OFFSET) * _SPREAD & _WORD
        if self._old is not None and (before := self._old.find(mixed)) >= 0:
            self._old.view[before + WIDTH] = value
            return True
        if mixed in self._overflow:
            self._overflow[mixed] = value
            return True
        return bool(mixed) and (self._page.insert(mixed, value) or self._overflown(mixed, value))

    def pop(self, key: int) -> int:
        """Forgets the key; gives its number, 0 if there was none."""
        return self.pop_found(key, self.find(key)[0])

    def pop_found(self, key: int, place: int) -> int:
        """The same of a key just found."""
        if place >= 0:
            return self._page.remove(place)
        mixed = (key ^ _OFFSET) * _SPREAD & _WORD
        if self._old is not None and (before := self._old.find(mixed)) >= 0:
            return self._old.remove(before)
        return self._overflow.pop(mixed, 0) if self._overflow else 0

    def get_many(self, keys: Keys) -> Numbers:
        """The keys' numbers, 0 where there is none."""
        return self.find_many(keys)[0]

    def find_many(self, keys: Keys, *, to_put: bool = False) -> tuple[Numbers, Places]:
        """The same, and where `mark` and, after `to_put`, `put_found` find them."""
        if to_put:
            self.make_room(len(keys))
        return self.find_spread(_mixed(keys))

    def find_spread(self, mixed: Spread) -> tuple[Numbers, Places]:
        """The same of keys that are spread already."""
        places = self._page.locate(mixed)
        values = self._page.numbers.take(places)
        if self._old is not None or self._overflow:
            missing = (places < 0).nonzero()[0]
            if len(missing):
                self._get_elsewhere(mixed, missing, values)
        return values, places

    def mark(self, places: Places, values: Numbers) -> None:
        """Sets the numbers of keys just found, but for those that have yet to move over."""
        known = places >= 0
        if not known.all():
            places, values = places[known], values[known]
        self._page.numbers[places] = values

    def put_again(self, keys: Keys, places: Places, values: Numbers) -> None:
        """Sets the numbers of keys just found, all of which there are."""
        if (places >= 0).all():
            self._page.numbers[places] = values
        else:
            self.put_many(keys, values)

    def put_many(self, keys: Keys, values: Numbers) -> None:
        """Sets the keys' numbers; keys without room are not kept."""
        if len(keys) < FEW:
            for key, value in zip(keys.tolist(), values.tolist(), strict=True):
                self.put(key, value)
            return
        self.make_room(len(keys))
        self.put_found(keys, self._page.locate(_mixed(keys)), values)

    def put_found(self, keys: Keys, places: Places, values: Numbers) -> None:
        """The same for keys looked up just before, with nothing else in between."""
        new = (places < 0).nonzero()[0]
        if not len(new):
            self._page.numbers[places] = values
            return
        known = (places >= 0).nonzero()[0]
        if len(known):
            self._page.numbers[places[known]] = values[known]
        mixed, values = _mixed(keys[new]), values[new]
        if self._old is not None:
            before = self._old.locate(mixed)
            self._old.remove_many(before[before >= 0])
        if self._overflow:
            for one in mixed.tolist():
                self._overflow.pop(one, None)
        if not mixed.all():
            mixed, values = mixed[mixed != 0], values[mixed != 0]
        self._insert_many(mixed, values)

    def pop_many(self, keys: Keys) -> Numbers:
        """Forgets the keys; gives their numbers, 0 where there was none."""
        if len(keys) < FEW:
            return keys_of([self.pop(key) for key in keys.tolist()])
        mixed = _mixed(keys)
        values = np.zeros(len(keys), np.uint64)
        for page in self._pages():
            places = page.locate(mixed)
            found = places >= 0
            values[found] = page.remove_many(places[found])
        if self._overflow:
            for position, one in enumerate(mixed.tolist()):
                if one in self._overflow:
                    values[position] = self._overflow.pop(one)
        self._step(min(len(keys), _STEP))
        return values

    def pop_found_many(self, keys: Keys, places: Places) -> None:
        """Forgets keys just found, all of which there are."""
        if (places >= 0).all():
            self._page.remove_many(places)
            self._step(min(len(keys), _STEP))
        else:
            self.pop_many(keys)

    def pop_lowest(self, share: float, buckets_max: int) -> tuple[Keys, Numbers]:
        """Looks at the next `buckets_max` buckets and takes out that share of what is there, those
        with the lowest numbers; gives the keys and their numbers.

        Keys lie in random order, so that the next buckets are a fair sample of all.
        """
        page = self._page if self._old is None else self._old
        begin = self._hand % page.buckets if self._old is None else self._moved
        self._hand = begin + buckets_max
        held = page.held(begin, self._hand)
        if not len(held) and self._overflow:
            keys = keys_of(list(self._overflow))
            values = keys_of(list(self._overflow.values()))
            self._overflow.clear()
            return _unmixed(keys), values
        values = page.numbers[held]
        count = min(len(held), max(1, int(len(held) * share)))
        if count < len(held):
            lowest = values.argpartition(count - 1)[:count]
            held, values = held[lowest], values[lowest]
        keys = _unmixed(page.cells[held])
        page.remove_many(held)
        self._step(2 * buckets_max)
        return keys, values

    def items(self) -> tuple[Keys, Numbers]:
        """All keys and their numbers, in no order."""
        keys, values = [keys_of(list(self._overflow))], [keys_of(list(self._overflow.values()))]
        for page in self._pages():
            held = page.held()
            keys.append(page.cells[held])
            values.append(page.numbers[held])
        return _unmixed(np.concatenate(keys)), np.concatenate(values)

    def clear(self) -> None:
        """Forgets everything and gives the memory back."""
        self._page, self._old, self._hand = Page(_BITS_MIN), None, 0
        self._overflow.clear()

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        keys, values = self.items()
        assert len(keys) == len(set(keys.tolist())) == len(self)
        assert values.all()
        for page in self._pages():
            held = page.held()
            assert len(held) == page.count
            assert (page.locate(page.cells[held]) == held).all()
            assert np.count_nonzero(page.cells) == 2 * page.count
        assert len(self._overflow) <= _OVERFLOW_MAX

    # ------------------------------------------------------------------ growing

    def _pages(self) -> tuple[Page, ...]:
        return (self._page,) if self._old is None else (self._page, self._old)

    def make_room(self, count: int) -> None:
        """To be called before `count` keys are put."""
        if self._old is None:
            held = self._page.count + len(self._overflow)
            is_crowded = len(self._overflow) > _OVERFLOW_MAX // 2
            if held + count <= self._page.slots * (_CROWDED if is_crowded else _FULL):
                return
            bits = self._page.bits + 1
            while held + count > (WIDTH << bits) * _CROWDED:
                bits += 1
            self._old, self._moved = self._page, 0
            self._page = Page(bits)
        self._step(count)

    def _step(self, count: int) -> None:
        """Moves some buckets of the page that is given up."""
        old = self._old
        if old is None:
            return
        begin, self._moved = self._moved, self._moved + _STEP + count // 2
        held = old.held(begin, self._moved)
        mixed = old.cells[held]
        self._insert_many(mixed, old.remove_many(held))
        if self._moved >= old.buckets:
            self._old = None
            overflow, self._overflow = self._overflow, {}
            for one, value in overflow.items():
                if not self._page.insert(one, value):
                    self._overflown(one, value)

    def _insert_many(self, mixed: Keys, values: Numbers) -> None:
        for position in self._page.insert_many(mixed, values).tolist():
            self._overflown(int(mixed[position]), int(values[position]))

    def _overflown(self, mixed: int, value: int) -> bool:
        if len(self._overflow) >= _OVERFLOW_MAX:
            return False
        self._overflow[mixed] = value
        return True

    def _get_elsewhere(self, mixed: Keys, missing: Places, values: Numbers) -> None:
        if self._old is not None:
            places = self._old.locate(mixed[missing])
            values[missing] = self._old.numbers.take(places)
        if self._overflow:
            for position in missing.tolist():
                value = self._overflow.get(int(mixed[position]))
                if value is not None:
                    values[position] = value


def spread(keys: Sequence[int]) -> Spread:
    """The keys as tables look for them, which is worth keeping where that is done again."""
    return _mixed(keys_of(keys))


def _mixed(keys: Keys) -> Spread:
    mixed: Spread = (keys ^ np.uint64(_OFFSET)) * np.uint64(_SPREAD)
    return mixed


def _unmixed(mixed: Keys) -> Keys:
    keys: Keys = (mixed * np.uint64(_GATHER)) ^ np.uint64(_OFFSET)
    return keys
