"""The load that this router has caused: one receipt per dispatch, given back exactly once.

A receipt goes from prefill (the work of its prompt is queued at the target) to decode (they
are done, the request is still in flight) to released. Each step happens at most once, whatever
the order and number of calls: retries, late answers of an old attempt and the loss of a target
leave no load behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec


class ReceiptState(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    RELEASED = "released"


class Receipt(msgspec.Struct, eq=False):
    """The load of one dispatch. Changed by its `LoadBook` only."""

    target: str
    work_tokens: int
    """What the prompt's prefill costs, in tokens."""
    reserved_at_s: float
    state: ReceiptState = ReceiptState.PREFILL


@dataclass(slots=True)
class _Load:
    queued_tokens: int = 0
    receipts: set[Receipt] = field(default_factory=set)
    queue: dict[Receipt, None] = field(default_factory=dict)
    """Those whose prompts are not done, in order of dispatch."""
    progressed_at_s: float = -math.inf
    """When the latest prompt was done."""


class TargetLoad(msgspec.Struct, frozen=True):
    """What a target has to do."""

    in_flight: int
    queued_tokens: int
    head_tokens: int = 0
    """Work of the prompt that it is presumed to be at; 0 if there is none."""
    head_since_s: float = 0.0


_NO_LOAD = TargetLoad(0, 0)
_PREFILL, _DECODE, _RELEASED = ReceiptState  # an enum's members are slow to look up


class LoadBook:
    """Receipts by target. A target without receipts takes no memory."""

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}
        self.changed: set[str] = set()
        """Targets whose load changed, for a reader that empties it."""
        self.on_change: Callable[[str], None] | None = None
        """Told each target whose load changed, if somebody listens."""

    def targets(self) -> Iterable[str]:
        """Targets that have receipts."""
        return self._loads.keys()

    def in_flight(self, target: str) -> int:
        """Dispatches to the target that have not been released; >= 0."""
        load = self._loads.get(target)
        return len(load.receipts) if load is not None else 0

    def queued_tokens(self, target: str) -> int:
        """Work of dispatches that have not had their first byte; >= 0."""
        load = self._loads.get(target)
        return load.queued_tokens if load is not None else 0

    def load(self, target: str) -> TargetLoad:
        """All of that, and the prompt that the target is presumed to be at."""
        load = self._loads.get(target)
        if load is None:
            return _NO_LOAD
        in_flight = len(load.receipts)
        if not load.queue:
            return TargetLoad(in_flight, load.queued_tokens)
        first = next(iter(load.queue))
        since_s = max(first.reserved_at_s, load.progressed_at_s)
        return TargetLoad(in_flight, load.queued_tokens, first.work_tokens, since_s)

    def reserve(self, target: str, work_tokens: int, now_s: float) -> Receipt:
        """Books a dispatch; pair it with `release`."""
        assert work_tokens >= 0
        receipt = Receipt(target, work_tokens, now_s)
        load = self._loads.get(target)
        if load is None:
            load = self._loads[target] = _Load()
        load.receipts.add(receipt)
        load.queue[receipt] = None
        load.queued_tokens += work_tokens
        self._note(target)
        return receipt

    def first_byte(self, receipt: Receipt, now_s: float) -> None:
        """The target has begun to answer: the prompt is no longer queued there."""
        if receipt.state is _PREFILL:
            load = self._loads[receipt.target]
            load.progressed_at_s = now_s
            del load.queue[receipt]
            load.queued_tokens -= receipt.work_tokens
            receipt.state = _DECODE
            self._note(receipt.target)

    def release(self, receipt: Receipt) -> bool:
        """Gives the load back; True the first time, later calls change nothing."""
        if receipt.state is _RELEASED:
            return False
        load = self._loads[receipt.target]
        if receipt.state is _PREFILL:
            del load.queue[receipt]
            load.queued_tokens -= receipt.work_tokens
        receipt.state = _RELEASED
        load.receipts.remove(receipt)
        if not load.receipts:
            assert load.queued_tokens == 0
            del self._loads[receipt.target]
        self._note(receipt.target)
        return True

    def drop_target(self, target: str) -> tuple[Receipt, ...]:
        """The target is gone: releases all that it had, and returns it."""
        load = self._loads.get(target)
        return self._release_all(load.receipts if load is not None else ())

    def sweep(self, now_s: float, age_max_s: float) -> tuple[Receipt, ...]:
        """Releases what is older than any request may be (a leak), and returns it."""
        return self._release_all(
            receipt
            for load in self._loads.values()
            for receipt in load.receipts
            if now_s - receipt.reserved_at_s > age_max_s
        )

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the sums disagree with the receipts."""
        for target, load in self._loads.items():
            assert load.receipts
            assert all(receipt.target == target for receipt in load.receipts)
            assert all(receipt.state is not ReceiptState.RELEASED for receipt in load.receipts)
            queued = {one for one in load.receipts if one.state is ReceiptState.PREFILL}
            assert queued == set(load.queue)
            assert load.queued_tokens == sum(receipt.work_tokens for receipt in queued)

    def _note(self, target: str) -> None:
        self.changed.add(target)
        if self.on_change is not None:
            self.on_change(target)

    def _release_all(self, receipts: Iterable[Receipt]) -> tuple[Receipt, ...]:
        chosen = tuple(receipts)
        for receipt in chosen:
            self.release(receipt)
        return chosen
