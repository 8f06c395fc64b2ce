"""What an engine calls the blocks that it holds in one tier and group, with their copies.

A name is the engine's hash cut to 64 bits: two of one engine's are equal by chance once in some
billion years, and the block is then credited wrongly, which is found out like any other mistake.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from rhizome.wire.kv_events import EngineHash
from router.prefix.arrivals import Arrivals
from router.prefix.table import FEW, BlockTable, Hashes, Keys, keys_of

_WORD = 2**64 - 1


def key_of(engine_hash: EngineHash) -> int:
    """The name: an integer hash as it is, of a raw digest the last 64 bits, as vLLM cuts them."""
    if isinstance(engine_hash, bytes):
        return int.from_bytes(engine_hash[-8:], "big")
    return engine_hash & _WORD


def keys_of_names(engine_hashes: Sequence[EngineHash]) -> list[int]:
    """The same for several."""
    return [hash_ & _WORD if type(hash_) is int else key_of(hash_) for hash_ in engine_hashes]


class Added(NamedTuple):
    """What became of blocks that were stored."""

    ours: Hashes
    """Their hashes in chain order, those of further copies included."""
    unknown: int
    """How many had no name yet."""
    contradicted: bool
    """Whether a name stood for another block."""


class Names:
    """Our hash by the engine's name, and how many copies there are."""

    def __init__(self) -> None:
        self._ours = BlockTable()
        self._line = Arrivals()
        self._more: dict[int, int] = {}
        self.copies = 0

    def __len__(self) -> int:
        return len(self._ours)

    @property
    def bytes_used(self) -> int:
        """Memory, in bytes."""
        return self._ours.bytes_used + self._line.bytes_used + 100 * len(self._more)

    def get(self, name: int) -> int:
        """Our hash of a block; 0 if there is none."""
        return self._ours.get(name)

    def add(self, blocks: dict[int, int]) -> Added:
        """One more copy of each block, given by name in chain order."""
        if len(blocks) < FEW:
            return self._add_few(blocks)
        names, ours = keys_of(list(blocks)), keys_of(list(blocks.values()))
        known = self._ours.get_many(names)
        repeated = known != 0
        before = len(self._ours)
        if repeated.any():
            for name in names[repeated].tolist():
                self._more[name] = self._more.get(name, 0) + 1
            contradicted = bool((known[repeated] != ours[repeated]).any())
            new = ~repeated
            self._ours.put_many(names[new], ours[new])
            self._line.came(names[new])
        else:
            contradicted = False
            self._ours.put_many(names, ours)
            self._line.came(names)
        unknown = len(names) - int(repeated.sum())
        kept = len(self._ours) - before
        if kept != unknown:
            self._line.went(unknown - kept)
        self.copies += kept + len(names) - unknown
        self._renew_line()
        return Added(ours, unknown, contradicted)

    def remove(self, names: Collection[int]) -> tuple[Hashes, int]:
        """One copy less of each block; gives the hashes of those without any left, and how many of
        the names were known."""
        if self._more and not self._more.keys().isdisjoint(names):
            return self._remove_copies(names)
        gone: Hashes
        if len(names) < FEW:
            pop = self._ours.pop
            gone = [ours for name in names if (ours := pop(name))]
        else:
            popped = self._ours.pop_many(keys_of(list(names)))
            gone = popped[popped != 0]
        self._line.went(len(gone))
        self.copies -= len(gone)
        return gone, len(gone)

    def remove_oldest(self, copies: int) -> tuple[Keys, int]:
        """Forgets blocks that came first with all their copies, `copies` or a few more if there
        are as many; gives their hashes and how many copies there were."""
        found: list[Keys] = []
        before = self.copies
        while self.copies > max(0, before - copies):
            oldest = self._line.take_oldest(copies - (before - self.copies))
            ours = self._ours.pop_many(oldest)
            held = ours != 0
            for name in oldest[held].tolist() if self._more else ():
                self.copies -= self._more.pop(name, 0)
            found.append(ours[held])
            self._line.went(len(found[-1]))
            self.copies -= len(found[-1])
        return np.concatenate(found), before - self.copies

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        self._ours.check_invariants()
        names, ours = self._ours.items()
        assert ours.all()
        assert set(self._more) <= set(names.tolist())
        assert all(more > 0 for more in self._more.values())
        assert self.copies == len(names) + sum(self._more.values())
        assert self._line.count == len(names)
        assert set(names.tolist()) <= set(self._line.all().tolist())

    def _add_few(self, blocks: dict[int, int]) -> Added:
        new: list[int] = []
        unknown, contradicted = 0, False
        table = self._ours
        table.make_room(len(blocks))
        for name, ours in blocks.items():
            place, known = table.find(name)
            if known:
                self._more[name] = self._more.get(name, 0) + 1
                self.copies += 1
                contradicted |= known != ours
                continue
            unknown += 1
            if table.put_one(name, place, ours):
                new.append(name)
        self.copies += len(new)
        self._line.came(new)
        self._renew_line()
        return Added(list(blocks.values()), unknown, contradicted)

    def _renew_line(self) -> None:
        if self._line.is_slack:
            line = self._line.all()
            self._line.renew(line[self._ours.get_many(line) != 0])

    def _remove_copies(self, names: Collection[int]) -> tuple[Hashes, int]:
        last: list[int] = []
        count = 0
        for name in names:
            more = self._more.pop(name, 0)
            if not more:
                last.append(name)
                continue
            count += 1
            self.copies -= 1
            if more > 1:
                self._more[name] = more - 1
        gone, known = self.remove(last)
        return gone, count + known
