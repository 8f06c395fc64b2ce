"""What a target holds in one layer, in the order in which it came.

The reverse of the blocks' table: it makes forgetting a target cost what the target holds, and tells
its oldest blocks. What was removed stays in the line until the line is twice as long as it need be.
"""

from __future__ import annotations

from array import array

import numpy as np

from router.prefix.table import Hashes, Keys

_SLACK = 1024


class Arrivals:
    """Keys in the order of arrival; `count` of them are held now."""

    def __init__(self) -> None:
        self.count = 0
        self._line = array("Q")
        self._begin = 0

    @property
    def bytes_used(self) -> int:
        """Memory, in bytes."""
        return len(self._line) * 8

    @property
    def is_slack(self) -> bool:
        """Whether the line is to be given anew by `renew`."""
        return len(self._line) - self._begin > 2 * self.count + _SLACK

    def came(self, keys: Hashes) -> None:
        """These, in chain order, were not held and are held now; the end of a chain counts as
        older than its beginning, without which it is worth nothing."""
        if isinstance(keys, np.ndarray):
            self._line.frombytes(keys[::-1].tobytes())
        else:
            self._line.extend(reversed(keys))
        self.count += len(keys)

    def went(self, count: int) -> None:
        """So many are not held any more."""
        assert count <= self.count
        self.count -= count

    def take_oldest(self, count: int) -> Keys:
        """The keys that came first, `count` at most, out of the line; some may be gone already or
        may have come again since."""
        end = min(self._begin + count, len(self._line))
        keys = self._keys()[self._begin : end].copy()
        self._begin = end
        if self._begin > len(self._line) // 2:
            del self._line[: self._begin]
            self._begin = 0
        return np.unique(keys)

    def all(self) -> Keys:
        """All keys that may be held, none twice, in order of arrival."""
        keys = self._keys()[self._begin :]
        if len(keys) == self.count:
            return keys.copy()
        _, last = np.unique(keys[::-1], return_index=True)
        return keys[np.sort(len(keys) - 1 - last)]

    def renew(self, keys: Keys) -> None:
        """The keys held, in order of arrival."""
        assert len(keys) == self.count
        self._line = array("Q", keys.tobytes())
        self._begin = 0

    def _keys(self) -> Keys:
        return np.frombuffer(self._line, np.uint64) if self._line else np.zeros(0, np.uint64)
