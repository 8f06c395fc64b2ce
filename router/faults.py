"""Faults of single parts, contained: a request goes on without the part that failed it.

A fault is counted by part, and logged once for each kind of error of a part and interval: a part
that fails every request must not write a line for each. A part that is slow is left out a while.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from rhizome.clock import Clock
from rhizome.errors import RhizomeError

_log = logging.getLogger(__name__)
_LOG_INTERVAL_S = 60.0
_KINDS_MAX = 256


class Part(StrEnum):
    """A part that a request can do without; also a metric label."""

    TOKENIZER = "tokenizer"
    TEMPLATE = "template"
    RENDERING = "rendering"
    """The router's own code around tokenizer and template."""
    INDEX = "index"
    POLICY = "policy"
    SPEEDS = "speeds"
    STANDINGS = "standings"
    """What is known of the targets, put together for a decision."""
    SLOW_DECISION = "slow_decision"
    """Decisions took far too long, whatever part it was."""
    TRUST = "trust"
    EXPLANATION = "explanation"
    """What is kept to explain decisions, and policies that decide in the shadow."""
    SIGNALS = "signals"
    WARMUP = "warmup"
    """What is kept of prompts to warm new workers with."""


@dataclass(slots=True)
class Patience:
    """With a part that cannot be interrupted: after several slow uses in a row it is left out for
    a while, and for twice as long after each single one that it is then tried with in vain."""

    slow_s: float
    in_a_row_max: int
    pause_s: float
    pause_s_max: float
    _in_a_row: int = 0
    _pause_s: float = 0.0
    _until_s: float = -math.inf

    def is_over(self, now_s: float) -> bool:
        """Whether the part is to be left out now."""
        return now_s < self._until_s

    def used(self, took_s: float, now_s: float) -> bool:
        """A use has ended; True if the part is left out from now on."""
        if took_s < self.slow_s:
            self._in_a_row, self._pause_s = 0, 0.0
            return False
        self._in_a_row += 1
        if self._in_a_row < self.in_a_row_max and not self._pause_s:
            return False
        self._pause_s = min(self.pause_s_max, 2 * self._pause_s or self.pause_s)
        self._until_s = now_s + self._pause_s
        self._in_a_row = 0
        return True


@dataclass(frozen=True, slots=True)
class _Contained:
    faults: Faults
    part: Part

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None or isinstance(error, RhizomeError) or not isinstance(error, Exception):
            return False
        self.faults.note(self.part, error)
        return True


class Faults:
    """Counts and tells the faults of one router."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.counts: Counter[Part] = Counter()
        self._told: dict[tuple[Part, str], tuple[float, int]] = {}
        self._contained = {part: _Contained(self, part) for part in Part}

    def contained(self, part: Part) -> _Contained:
        """A block that ends at an error of its own, which is noted; errors raised on purpose
        (`RhizomeError`) pass."""
        return self._contained[part]

    def caught(self, part: Part, error: Exception) -> None:
        """The same for an error that was caught: a block costs more than the path of every request
        can bear."""
        if isinstance(error, RhizomeError):
            raise error
        self.note(part, error)

    def note(self, part: Part, error: Exception | str) -> None:
        """Counts a fault, and logs it unless the same kind was logged lately."""
        self.counts[part] += 1
        kind = error if isinstance(error, str) else type(error).__name__
        now_s = self._clock.monotonic_s()
        told_s, unsaid = self._told.pop((part, kind), (None, 0))
        if told_s is not None and now_s - told_s < _LOG_INTERVAL_S:
            self._told[part, kind] = (told_s, unsaid + 1)
            return
        if len(self._told) >= _KINDS_MAX:
            del self._told[next(iter(self._told))]
        self._told[part, kind] = (now_s, 0)
        _log.error(
            "%s failed, requests go on without it: %s (%d more since the last such line)",
            part.value,
            error if isinstance(error, str) else repr(error)[:300],
            unsaid,
            exc_info=error if isinstance(error, Exception) else None,
        )
