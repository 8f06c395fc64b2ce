"""Whether caches are too small for what is asked: how much of what engines evict is computed again.

Of every sixteenth block: when the last target that held it has evicted it, it is remembered for a
while, and counted if any target stores it then. Old counts fade.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from router.prefix.table import Hashes

_SAMPLE_BITS = 15
_REMEMBERED_MAX = 65_536
"""A million blocks."""
_COUNTED_MAX = 1024
_COUNTED_MIN = 64
_SHARE_MAX = 0.9


class Evictions:
    """Of all targets of an index together."""

    def __init__(self) -> None:
        self._gone: OrderedDict[int, None] = OrderedDict()
        self._evicted = 0.0
        self._again = 0.0

    @property
    def recompute_share(self) -> float:
        """Blocks computed again by blocks evicted lately, 0 to 1; 0 before some were evicted."""
        return min(_SHARE_MAX, self._again / max(_COUNTED_MIN, self._evicted))

    def evicted(self, blocks: Hashes, is_held: Callable[[int], bool]) -> None:
        """A target evicted the blocks, and others hold of them what they hold."""
        sampled = _sampled(blocks)
        if not sampled:
            return
        self._evicted += len(sampled)
        for block in sampled:
            if not is_held(block):
                self._gone[block] = None
        while len(self._gone) > _REMEMBERED_MAX:
            self._gone.popitem(last=False)
        if self._evicted > _COUNTED_MAX:
            self._evicted /= 2.0
            self._again /= 2.0

    def stored(self, blocks: Hashes) -> None:
        """A target holds the blocks that did not before."""
        if self._gone:
            for block in _sampled(blocks):
                if block in self._gone:
                    del self._gone[block]
                    self._again += 1.0


def _sampled(blocks: Hashes) -> list[int]:
    if isinstance(blocks, np.ndarray):
        sampled: list[int] = blocks[blocks & _SAMPLE_BITS == 0].tolist()
        return sampled
    return [block for block in blocks if not block & _SAMPLE_BITS]
