"""What is kept of each simulated request: numbers in columns, so that a million fit in memory.

Times are virtual seconds; NaN is "did not happen".
"""

from __future__ import annotations

import math
from array import array

import numpy as np
import numpy.typing as npt

from loadtest.records import ErrorKind

ERROR_KINDS = tuple(ErrorKind)
_OPEN, _COMPLETED = -2, -1
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Columns:
    """One row a request, in order of arrival. Each row ends exactly once."""

    def __init__(self) -> None:
        self.arrived_s = array("d")
        self.first_s = array("d")
        self.ended_s = array("d")
        self.floor_s = array("d")
        """First-token time on an idle engine that forgets nothing."""
        self.prompt_tokens = array("q")
        self.cached_tokens = array("q")
        self.predicted_tokens = array("q")
        """Cached tokens that the router counted on."""
        self.output_tokens = array("q")
        """Asked for, and made where the request completed."""
        self.worker = array("q")
        """The fleet's place of the worker that answered; -1 for none."""
        self.tenant = array("q")
        self.tenants: dict[str, int] = {}
        self._end = array("q")
        self.open = 0
        """Rows that have not ended."""
        self.details: dict[ErrorKind, str] = {}
        """What the first failure of each kind said."""

    def __len__(self) -> int:
        return len(self.arrived_s)

    def begin(
        self, at_s: float, tenant: str, prompt_tokens: int, output_tokens: int, floor_s: float
    ) -> int:
        """A new row; its number."""
        self.arrived_s.append(at_s)
        self.first_s.append(math.nan)
        self.ended_s.append(math.nan)
        self.floor_s.append(floor_s)
        self.prompt_tokens.append(prompt_tokens)
        self.cached_tokens.append(0)
        self.predicted_tokens.append(0)
        self.output_tokens.append(output_tokens)
        self.worker.append(-1)
        self.tenant.append(self.tenants.setdefault(tenant, len(self.tenants)))
        self._end.append(_OPEN)
        self.open += 1
        return len(self._end) - 1

    def complete(self, row: int, at_s: float) -> None:
        """The request was answered whole."""
        self._ended(row, at_s, _COMPLETED)

    def fail(self, row: int, at_s: float, kind: ErrorKind, detail: str) -> None:
        """The request ended without a whole answer."""
        self._ended(row, at_s, ERROR_KINDS.index(kind))
        self.details.setdefault(kind, detail)

    def _ended(self, row: int, at_s: float, how: int) -> None:
        assert self._end[row] == _OPEN, "a request ends once"
        self._end[row] = how
        self.ended_s[row] = at_s
        self.open -= 1

    def is_complete(self) -> npt.NDArray[np.bool_]:
        """Whether each request was answered whole."""
        whole: npt.NDArray[np.bool_] = np.asarray(self._end, dtype=np.int64) == _COMPLETED
        return whole

    def errors(self, within: npt.NDArray[np.bool_]) -> dict[ErrorKind, int]:
        """Failures by kind among the rows of a mask."""
        ends = np.asarray(self._end, dtype=np.int64)[within]
        counts = np.bincount(ends[ends >= 0], minlength=len(ERROR_KINDS))
        return {kind: int(counts[place]) for place, kind in enumerate(ERROR_KINDS) if counts[place]}

    def check_invariants(self) -> None:
        """For tests: raises AssertionError unless every request has ended as it can."""
        assert self.open == 0
        assert all(end != _OPEN for end in self._end)
        whole = self.is_complete()
        arrived, first, ended = (
            np.asarray(column)[whole] for column in (self.arrived_s, self.first_s, self.ended_s)
        )
        assert np.all(arrived < first)
        assert np.all(first <= ended)
        assert np.all(np.asarray(self.worker)[whole] >= 0)
        assert np.all(np.asarray(self.cached_tokens) < np.asarray(self.prompt_tokens))
