"""The paged KV cache of the simulated engine: which blocks are held, kept, found and evicted.

It keeps vLLM's rules (v1/core/block_pool.py, 0.32):

- A block in use is counted by its references. One that is full carries a key and can be found by
  it; it stays findable after its last release until it is evicted.
- Free blocks without content are handed out first, then those with content, least recently
  released first. A request releases its blocks from the last to the first, so that the tail of a
  chain goes before its head.
- Two requests that compute the same block at the same time keep a copy each; the older copy is the
  one that is found. Storing and evicting are told for each copy, not for each key.

Blocks have no numbers here. Those without content are alike, so counting them is enough, and one
with content is named by its key; only a second copy of the same content needs a name of its own
(`Twin`). Keys are chained: a key stands for its block and all before it. Hence, along a request's
blocks without twins, a block is findable, in use, or shared only as much as the one before it, and
all questions are answered by bisection and all changes are made in bulk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

BlockKey = Hashable


class Twin:
    """A further copy of what another block holds, or held when this one was filled."""

    __slots__ = ("key",)

    def __init__(self, key: BlockKey) -> None:
        self.key = key


Block = Hashable
"""One block with content: its key, or a `Twin`."""


class Stored(NamedTuple):
    """Blocks became findable, in chain order; `first_block` is the index of the first one."""

    request_id: str
    first_block: int
    keys: Sequence[BlockKey]
    parent: BlockKey | None
    fresh: Sequence[BlockKey] = ()
    """Those among them of which there was no copy."""


class Removed(NamedTuple):
    """A copy of each of these blocks was evicted, in this order."""

    keys: Sequence[BlockKey]
    gone: Sequence[BlockKey] = ()
    """Those among them of which no copy is left."""


class Cleared(NamedTuple):
    """The cache was emptied."""


CacheEvent = Stored | Removed | Cleared


def key_of(block: Block) -> BlockKey:
    """What a block holds."""
    return block.key if isinstance(block, Twin) else block


class BlockPool:
    """All blocks of one engine. What changes its content is appended to `events`."""

    def __init__(self, blocks: int, *, caching: bool = True) -> None:
        self.blocks = blocks
        self.caching = caching
        self.events: list[CacheEvent] = []
        self.blank = blocks
        """Free blocks without content."""
        self._evictable = 0
        """Free blocks with content."""
        self._state: dict[Block, int] = {}
        """Of each block with content: how many requests use it, or minus the number of the release
        that made it evictable."""
        self._releases: deque[tuple[int, list[Block]]] = deque()
        """Number and blocks of the releases, oldest first. A block counts in the one that its
        state names, and the last of a release goes first."""
        self._released = 0
        self._listed = 0
        """Blocks in all `_releases`."""
        self._copies: dict[BlockKey, list[Block]] = {}
        """All copies, oldest first, of what has or had more than one."""
        self._ambiguous: set[Block] = set()
        """The keys of `_copies`, and all twins."""

    @property
    def free(self) -> int:
        """Blocks that nobody uses, with or without content."""
        return self.blank + self._evictable

    @property
    def used(self) -> int:
        return self.blocks - self.blank - self._evictable

    def match(self, keys: Sequence[BlockKey], blocks_max: int) -> list[Block]:
        """The longest known prefix of `keys`, at most `blocks_max` blocks; changes nothing."""
        if not self.caching:
            return []
        state, copies = self._state, self._copies

        def unknown(index: int) -> bool:
            key = keys[index]
            return not (key in state or key in copies)

        known = bisect_left(range(min(len(keys), blocks_max)), True, key=unknown)
        found: list[Block] = list(keys[:known])
        if self._have_twins(found):
            found = [copies[key][0] if key in copies else key for key in found]
        return found

    def count_evictable(self, blocks: Sequence[Block]) -> int:
        """How many of `blocks`, which `match` returned just now, nobody uses."""
        state = self._state
        if self._have_twins(blocks):
            return sum(state[block] <= 0 for block in blocks)
        return len(blocks) - bisect_left(blocks, True, key=lambda block: state[block] <= 0)

    def share(self, blocks: Sequence[Block]) -> None:
        """Takes a share in each of `blocks`, which `match` returned just now."""
        state = self._state
        evictable = self.count_evictable(blocks)
        self._evictable -= evictable
        if self._have_twins(blocks):
            state.update({block: max(state[block], 0) + 1 for block in blocks})
            return
        in_use = len(blocks) - evictable
        for block in blocks[:in_use]:
            state[block] += 1
        state.update(dict.fromkeys(blocks[in_use:], 1))

    def take(self, count: int) -> None:
        """Takes `count` free blocks without content, evicting where there are too few."""
        assert count <= self.free, "the caller checks for room"
        if count <= self.blank:
            self.blank -= count
        else:
            self.events.append(self._evict(count - self.blank))
            self.blank = 0

    def _evict(self, count: int) -> Removed:
        state, releases = self._state, self._releases
        evicted: list[Block] = []
        while len(evicted) < count:
            number, blocks = releases[0]
            self._listed -= len(blocks)
            while blocks and len(evicted) < count:
                block = blocks.pop()
                if state.get(block) == -number:
                    del state[block]
                    evicted.append(block)
            self._listed += len(blocks)
            if not blocks:
                releases.popleft()
        self._evictable -= count
        if not self._have_twins(evicted):
            return Removed(evicted, evicted)
        gone: list[BlockKey] = []
        return Removed([self._forget(block, gone) for block in evicted], gone)

    def _forget(self, block: Block, gone: list[BlockKey]) -> BlockKey:
        """Strikes an evicted block off the copies of its key, which it returns; a key without a
        copy is put to those `gone`."""
        key = key_of(block)
        copies = self._copies.get(key)
        if copies is None:
            gone.append(key)
        else:
            copies.remove(block)
            if not copies:
                gone.append(key)
            if isinstance(block, Twin):
                self._ambiguous.remove(block)
            if not any(isinstance(copy, Twin) for copy in copies):
                del self._copies[key]
                self._ambiguous.remove(key)
        return key

    def publish(
        self, request_id: str, first_block: int, keys: Sequence[BlockKey], parent: BlockKey | None
    ) -> list[Block]:
        """Makes as many of the caller's blocks without content findable under `keys`."""
        if self._state.keys().isdisjoint(keys) and not self._have_twins(keys):
            self._state.update(dict.fromkeys(keys, 1))
            self.events.append(Stored(request_id, first_block, keys, parent, keys))
            return list(keys)
        fresh: list[BlockKey] = []
        blocks = [self._publish_one(key, fresh) for key in keys]
        self.events.append(Stored(request_id, first_block, keys, parent, fresh))
        return blocks

    def _publish_one(self, key: BlockKey, fresh: list[BlockKey]) -> Block:
        taken = key in self._state
        block: Block = Twin(key) if taken else key
        if not taken and key not in self._copies:
            fresh.append(key)
        else:
            self._copies.setdefault(key, [key]).append(block)
            self._ambiguous.update((key, block))
        self._state[block] = 1
        return block

    def _have_twins(self, blocks: Sequence[Block]) -> bool:
        """Whether any of them is, or may be named like, one of several copies."""
        return not self._ambiguous.isdisjoint(blocks)

    def release(self, blocks: list[Block], blank: int) -> None:
        """Gives back a request's blocks, in chain order, and `blank` ones without content."""
        state = self._state
        if self._have_twins(blocks):
            last = [block for block in blocks if state[block] == 1]
            others = [block for block in blocks if state[block] > 1]
        else:
            private = bisect_left(blocks, True, key=lambda block: state[block] == 1)
            last, others = blocks[private:], blocks[:private]
        for block in others:
            state[block] -= 1
        if last:
            self._released += 1
            state.update(dict.fromkeys(last, -self._released))
            self._releases.append((self._released, last))
            self._evictable += len(last)
            self._listed += len(last)
            if self._listed > 2 * self.blocks + 1000:
                self._compact()
        self.blank += blank
        assert self.free <= self.blocks, "released more than was taken"

    def _compact(self) -> None:
        """Drops what was used again, or evicted, since its release."""
        state = self._state
        kept = (
            (number, [block for block in blocks if state.get(block) == -number])
            for number, blocks in self._releases
        )
        self._releases = deque((number, blocks) for number, blocks in kept if blocks)
        self._listed = self._evictable

    def clear(self) -> bool:
        """Forgets all content; only while nothing is in use, as vLLM does. Whether it did."""
        if self.used:
            return False
        self._state.clear()
        self._releases.clear()
        self._copies.clear()
        self._ambiguous.clear()
        self._evictable = self._listed = 0
        self.blank = self.blocks
        self.events.append(Cleared())
        return True

    def content(self) -> Counter[BlockKey]:
        """Copies of each findable block."""
        return Counter(key_of(block) for block in self._state)

    def check_invariants(self, held: Iterable[Sequence[Block]], blank_held: int) -> None:
        """Asserts that the books balance, given what each request holds."""
        shares = Counter(block for blocks in held for block in blocks)
        in_use = {block: count for block, count in self._state.items() if count > 0}
        assert shares == in_use, "shares are those of the requests"
        assert self._evictable == len(self._state) - len(in_use)
        assert self.blank >= 0
        assert self.blank + blank_held + len(self._state) == self.blocks, "no block is lost"
        queued = [
            block
            for number, blocks in self._releases
            for block in blocks
            if self._state.get(block) == -number
        ]
        assert len(queued) == len(set(queued)) == self._evictable, "each is evicted once"
        assert self._listed == sum(len(blocks) for _, blocks in self._releases)
        twins = {block for block in self._state if isinstance(block, Twin)}
        listed = [block for copies in self._copies.values() for block in copies]
        assert len(listed) == len(set(listed)), "a copy is listed once"
        assert self._ambiguous == twins | self._copies.keys()
        assert twins <= set(listed) <= self._state.keys(), "every copy of a key is listed"
        for key, copies in self._copies.items():
            assert twins.intersection(copies), "what has no twin needs no list"
            assert all(key_of(block) == key for block in copies)
            assert (key in copies) == (key in self._state)
