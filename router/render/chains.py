"""Block hashes of prompts that begin as earlier ones did: only what is new of them is hashed.

A prompt is a row of parts (`rhizome.render.remembering`), and what a row of parts hashes to is kept
by the number of its last part and by the row before that one. Two generations are kept: what is
asked for moves to the younger one, and the elder goes when the younger is full.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count

from rhizome.render.remembering import TokenPart
from router.prefix.chain import Chain
from router.prefix.hashing import chained

BYTES_MAX = 32 * 2**20
"""Memory for one model's hashes, in bytes (estimated)."""
_LINK_BYTES = 400
_HASH_BYTES = 40
_ID_BYTES = 4


class _Link:
    """What one more part adds to a row of them."""

    __slots__ = ("hashes", "number", "parent", "rest")

    def __init__(self, number: int, hashes: list[int], parent: int, rest: bytes) -> None:
        self.number = number
        self.hashes = hashes
        """Of the blocks that end in the part."""
        self.parent = parent
        """Of the next block."""
        self.rest = rest
        """Ids that begin the next block."""


_Links = dict[tuple[Hashable, int], _Link]


class Chains:
    """The hashes of one model's prompts; for one event loop."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._young: _Links = {}
        self._old: _Links = {}
        self._young_bytes = 0
        self._numbers = count()

    def hashes(self, parts: Sequence[TokenPart], root: int, block_size: int) -> Chain:
        """Of the full blocks of the parts' ids; `root` comes from `root_hash`."""
        young, row = self._young, (root, block_size)
        link = _Link(-1, [], root, b"")
        hashes = Chain(())
        before: Hashable = row
        *earlier, last = parts
        for part in earlier:
            place = (before, part.number)
            link = young.get(place) or self._grown(place, link, part, block_size)
            hashes += link.hashes
            before = link.number
        if len(last.ids) < block_size:  # such as what asks for an answer: not worth keeping
            hashes += chained(link.parent, link.rest + last.ids.tobytes(), block_size)
        else:
            place = (before, last.number)
            hashes += (young.get(place) or self._grown(place, link, last, block_size)).hashes
        return hashes

    def _grown(
        self, place: tuple[Hashable, int], before: _Link, part: TokenPart, block_size: int
    ) -> _Link:
        """From the elder generation, or new; in the younger one from now on."""
        link = self._old.pop(place, None)
        if link is None:
            data = before.rest + part.ids.tobytes()
            hashes = chained(before.parent, data, block_size)
            rest = data[len(hashes) * block_size * _ID_BYTES :]
            parent = hashes[-1] if hashes else before.parent
            link = _Link(next(self._numbers), hashes, parent, rest)
        self._young_bytes += _LINK_BYTES + _HASH_BYTES * len(link.hashes) + len(link.rest)
        if self._young_bytes > self._bytes_max // 2:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[place] = link
        return link
