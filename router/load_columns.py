"""What a board's targets have to do, as columns: lists where they are few, arrays where many.

Numbers are read from the load book, from what other routers told, and from the engines' reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from router.fleet import Fleet, Target
from router.peers.view import PeerView
from router.scheduling.load import LoadBook
from router.scheduling.types import Floats, Ints

_HEAD_DONE_MAX = 0.95
"""Part of a prompt that may be presumed done."""


@dataclass(frozen=True, slots=True)
class LoadSources:
    """Who knows the numbers."""

    fleet: Fleet
    book: LoadBook
    peers: PeerView


class Loads:
    """One value a target in each column; the columns are changed in place."""

    in_flight: list[int] | Ints
    queued_tokens: list[int] | Ints
    kv_usage: list[float] | Floats
    head_tokens: list[int] | Ints
    """Of the first prompt that is not done."""
    head_since_s: list[float] | Floats
    planned_tokens: list[int] | Ints
    """Work that a target will get by those who wait for it."""

    def __init__(self, sources: LoadSources, targets: tuple[Target, ...]) -> None:
        self._sources = sources
        self._targets = targets
        self._names = [target.target_id for target in targets]
        self._elsewhere = [(0, 0)] * len(targets)
        """Requests in flight and queued tokens that are in others' books."""
        self._has_plans = False

    def refresh(self, row: int) -> None:
        """Reads again what the target has to do."""
        target, sources = self._targets[row], self._sources
        name, peers = target.target_id, sources.peers
        self._elsewhere[row] = (
            peers.in_flight(name) + sources.fleet.elsewhere(target),
            peers.queued_tokens(name),
        )
        load = sources.fleet.load(target)
        self.kv_usage[row] = load.kv_usage if load is not None else 0.0
        self.refresh_own(row)

    def refresh_own(self, row: int) -> None:
        """Reads again what this router has sent there."""
        own = self._sources.book.load(self._names[row])
        in_flight, queued_tokens = self._elsewhere[row]
        self.in_flight[row] = own.in_flight + in_flight
        self.queued_tokens[row] = own.queued_tokens + queued_tokens
        self.head_tokens[row] = own.head_tokens
        self.head_since_s[row] = own.head_since_s

    def plan(self, row: int, work_tokens: int) -> None:
        """Counts work as queued at a target that will get it, until `forget_plans`."""
        self._has_plans = True
        self.planned_tokens[row] += work_tokens

    def forget_plans(self) -> None:
        """Counts only what was dispatched."""
        if self._has_plans:
            self._has_plans = False
            for row in range(len(self._targets)):
                self.planned_tokens[row] = 0

    def columns(self) -> tuple[list[Any] | Ints | Floats, ...]:
        """What is read from the sources."""
        return (
            self.in_flight,
            self.queued_tokens,
            self.kv_usage,
            self.head_tokens,
            self.head_since_s,
        )


class FewLoads(Loads):
    """As lists."""

    in_flight: list[int]
    queued_tokens: list[int]
    kv_usage: list[float]
    head_tokens: list[int]
    head_since_s: list[float]
    planned_tokens: list[int]

    def __init__(self, sources: LoadSources, targets: tuple[Target, ...]) -> None:
        super().__init__(sources, targets)
        count = len(targets)
        self.in_flight, self.queued_tokens = [0] * count, [0] * count
        self.head_tokens, self.planned_tokens = [0] * count, [0] * count
        self.kv_usage, self.head_since_s = [0.0] * count, [0.0] * count

    def tokens_left(self, now_s: float, speeds: list[float]) -> list[int]:
        """As `ManyLoads.tokens_left`."""
        left = self.queued_tokens
        if self._has_plans:
            left = list(map(int.__add__, left, self.planned_tokens))
        if any(left):
            left = left.copy()
            for row, head in enumerate(self.head_tokens):
                if head:
                    done = (now_s - self.head_since_s[row]) * speeds[row]
                    left[row] -= int(min(done, head * _HEAD_DONE_MAX))
        return left


class ManyLoads(Loads):
    """As arrays."""

    in_flight: Ints
    queued_tokens: Ints
    kv_usage: Floats
    head_tokens: Ints
    head_since_s: Floats
    planned_tokens: Ints

    def __init__(self, sources: LoadSources, targets: tuple[Target, ...]) -> None:
        super().__init__(sources, targets)
        count = len(targets)
        self.in_flight, self.queued_tokens = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.head_tokens, self.planned_tokens = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.kv_usage, self.head_since_s = np.zeros(count), np.zeros(count)

    def tokens_left(self, now_s: float, speeds: Floats) -> Ints:
        """Work queued at each target, less what it is presumed to have done of the first prompt at
        these speeds.

        A prompt whose first byte has not come is not done, however long it has taken, so the last
        part of it is kept.
        """
        done = (now_s - self.head_since_s) * speeds
        done = np.minimum(done, self.head_tokens * _HEAD_DONE_MAX).astype(np.int64)
        left: Ints = self.queued_tokens - done + self.planned_tokens
        return left
