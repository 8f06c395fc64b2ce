"""The events of one stream as they came, kept small: a text's deltas in a row are one entry. Pure.

An event's number is its place. So any router that has the journal tells the same events under the
same numbers, and a client goes on wherever it was cut off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from router.stored.records import Fields, Run

_NUMBER, _DELTA = "sequence_number", "delta"


class Journal:
    """Grows at its end only."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs: list[Run] = []
        self._begins: list[int] = []
        """The number of each run's first event."""
        self.count = 0
        for run in runs:
            self._append(run)

    def add(self, event: Fields) -> None:
        """The next event; a number that it has is forgotten."""
        delta = event.get(_DELTA)
        left_out = (_NUMBER, _DELTA) if isinstance(delta, str) else (_NUMBER,)
        rest = {name: value for name, value in event.items() if name not in left_out}
        if not isinstance(delta, str):
            self._append(Run(rest))
        elif self.runs and self.runs[-1].deltas and self.runs[-1].event == rest:
            self.runs[-1].deltas.append(delta)
            self.count += 1
        else:
            self._append(Run(rest, [delta]))

    def after(self, last: int) -> Iterator[tuple[int, Fields]]:
        """The events with higher numbers than `last`, and their numbers."""
        first = max(0, bisect_right(self._begins, last + 1) - 1)
        for begin, run in zip(self._begins[first:], self.runs[first:], strict=True):
            skipped = max(0, last + 1 - begin)
            if not run.deltas and not skipped:
                yield begin, run.event
            for place, delta in enumerate(run.deltas[skipped:], begin + skipped):
                yield place, {**run.event, _DELTA: delta}

    def _append(self, run: Run) -> None:
        self.runs.append(run)
        self._begins.append(self.count)
        self.count += max(1, len(run.deltas))
