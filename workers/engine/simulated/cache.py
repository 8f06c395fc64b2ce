"""The paged KV cache of the simulated engine: which blocks are held, kept, found and evicted.

It keeps vLLM's rules (v1/core/block_pool.py, 0.32):

- A block in use is counted by its references. One that is full carries a key and can be found by
  it; it stays findable after its last release until it is evicted.
- Free blocks without content are handed out first, then those with content, least recently
  released first. A request releases its blocks from the last to the first, so that the tail of a
  chain goes before its head.
- Two requests that compute the same block at the same time keep a copy each; the older copy is the
  one that is found. Storing and evicting are told for each copy, not for each key.

Blocks have no numbers here: those without content are alike, so counting them is enough.

Keys are chained: a key stands for its block and all before it. Hence a key is findable only while
all before it are, and the longest known prefix can be found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

BlockKey = Hashable


class Block:
    """One physical block with content: `key` is what it holds, `references` who uses it."""

    __slots__ = ("key", "references")

    def __init__(self, key: BlockKey) -> None:
        self.key = key
        self.references = 1


@dataclass(slots=True, frozen=True)
class Stored:
    """Blocks became findable, in chain order; `first_block` is the index of the first one."""

    request_id: str
    first_block: int
    keys: Sequence[BlockKey]
    parent: BlockKey | None


@dataclass(slots=True, frozen=True)
class Removed:
    """A copy of each of these blocks was evicted, in this order."""

    keys: Sequence[BlockKey]


@dataclass(slots=True, frozen=True)
class Cleared:
    """The cache was emptied."""


CacheEvent = Stored | Removed | Cleared


class BlockPool:
    """All blocks of one engine. What changes its content is appended to `events`."""

    def __init__(self, blocks: int, *, caching: bool = True) -> None:
        self.blocks = blocks
        self.caching = caching
        self.events: list[CacheEvent] = []
        self._blank = blocks
        self._copies: dict[BlockKey, list[Block]] = {}
        self._evictable: OrderedDict[Block, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that nobody uses, with or without content."""
        return self._blank + len(self._evictable)

    @property
    def used(self) -> int:
        return self.blocks - self.free

    def match(self, keys: Sequence[BlockKey], blocks_max: int) -> list[Block]:
        """The longest known prefix of `keys`, at most `blocks_max` blocks; changes nothing."""
        if not self.caching:
            return []
        copies = self._copies
        known = bisect_left(
            range(min(len(keys), blocks_max)), True, key=lambda i: keys[i] not in copies
        )
        return [copies[key][0] for key in keys[:known]]

    def share(self, blocks: Iterable[Block]) -> None:
        """Takes a reference to each of `blocks`, which `match` returned just now."""
        for block in blocks:
            if not block.references:
                del self._evictable[block]
            block.references += 1

    def take(self, count: int) -> None:
        """Takes `count` free blocks without content, evicting where there are too few."""
        assert count <= self.free, "the caller checks for room"
        blank = min(count, self._blank)
        self._blank -= blank
        if count > blank:
            evicted = [self._evict() for _ in range(count - blank)]
            self.events.append(Removed(evicted))

    def _evict(self) -> BlockKey:
        block, _ = self._evictable.popitem(last=False)
        copies = self._copies[block.key]
        if len(copies) == 1:
            del self._copies[block.key]
        else:
            copies.remove(block)
        return block.key

    def publish(self, stored: Stored) -> list[Block]:
        """Makes as many of the caller's blocks without content findable under `stored.keys`."""
        copies = self._copies
        blocks = []
        for key in stored.keys:
            block = Block(key)
            blocks.append(block)
            others = copies.get(key)
            if others is None:
                copies[key] = [block]
            else:
                others.append(block)
        self.events.append(stored)
        return blocks

    def release(self, blocks: Sequence[Block], blank: int) -> None:
        """Gives back a request's blocks, in chain order, and `blank` ones without content."""
        evictable = self._evictable
        for block in reversed(blocks):
            block.references -= 1
            if not block.references:
                evictable[block] = None
        self._blank += blank
        assert self.free <= self.blocks, "released more than was taken"

    def clear(self) -> bool:
        """Forgets all content; only while nothing is in use, as vLLM does. Whether it did."""
        if self.used:
            return False
        self._copies.clear()
        self._evictable.clear()
        self._blank = self.blocks
        self.events.append(Cleared())
        return True

    def content(self) -> dict[BlockKey, int]:
        """Copies of each findable block."""
        return {key: len(copies) for key, copies in self._copies.items()}

    def check_invariants(self, held: Iterable[Sequence[Block]], blank_held: int) -> None:
        """Asserts that the books balance, given what each request holds."""
        references: dict[Block, int] = {}
        for blocks in held:
            for block in blocks:
                references[block] = references.get(block, 0) + 1
        for block, count in references.items():
            assert block.references == count, "references are those of the requests"
        for block in self._evictable:
            assert block.references == 0, "what is evictable is not in use"
        findable = [block for copies in self._copies.values() for block in copies]
        assert len(findable) == len(set(findable)), "a copy is listed once"
        assert set(findable) == references.keys() | set(self._evictable), "all content is findable"
        assert all(self._copies[block.key].count(block) == 1 for block in findable)
        assert self._blank >= 0
        assert self._blank + blank_held + len(findable) == self.blocks, "no block is lost"
