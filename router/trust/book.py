"""The trust in all targets, and what changed since somebody looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from router.trust.causes import Cause, State
from router.trust.machine import Change, Trust
from router.trust.observations import EventsSeen, Observation

T = TypeVar("T")
_SCALE_STEP = 0.05
"""Smaller moves of a target's credit scale are not told."""


class TrustBook:
    """Trust by target. A target that was not added is trusted in full and learns nothing."""

    def __init__(self) -> None:
        self._targets: dict[str, Trust] = {}
        self._told: dict[str, float] = {}
        self.changed: set[str] = set()
        """Targets whose credit scale moved, for a reader that empties it."""
        self.transitions: Counter[tuple[State, Cause]] = Counter()
        """Changes by what they led to."""
        self.checks: Counter[bool] = Counter()
        """Checks that proved something, by whether they agreed."""

    def __iter__(self) -> Iterator[tuple[str, Trust]]:
        return iter(self._targets.items())

    def add(self, target: str, *, announces: bool) -> None:
        """Starts from nothing proven."""
        trust = self._targets[target] = Trust(announces=announces)
        self._tell(target, trust)

    def remove(self, target: str) -> None:
        self._targets.pop(target, None)
        self._told.pop(target, None)
        self.changed.add(target)

    def get(self, target: str) -> Trust | None:
        return self._targets.get(target)

    def credit_scale(self, target: str) -> float:
        """What a predicted token of the target is worth, 0 to 1."""
        return self._told.get(target, 1.0)

    def confirms_soon(self, target: str) -> bool:
        """Whether the target's events are to confirm a dispatch within seconds."""
        trust = self._targets.get(target)
        return trust is None or trust.confirms_soon

    def counts_tokens(self, targets: Iterator[str]) -> bool:
        """Whether prompts are counted as the engines of all these targets count them."""
        trusts = map(self._targets.get, targets)
        return all(trust is None or trust.counts_tokens for trust in trusts)

    def reused(self, target: str, promised_tokens: int, cached_tokens: int) -> Change | None:
        """See `Trust.reused`."""
        trust = self._targets.get(target)
        if trust is None:
            return None
        return self._after(target, trust, trust.reused(promised_tokens, cached_tokens))

    def observe(self, target: str, seen: Observation) -> Change | None:
        """See `Trust.observe`."""
        trust = self._targets.get(target)
        return None if trust is None else self._checked(target, trust, trust.observe, seen)

    def trouble(self, target: str, events: EventsSeen) -> Change | None:
        """See `Trust.trouble`."""
        trust = self._targets.get(target)
        return None if trust is None else self._checked(target, trust, trust.trouble, events)

    def _checked(
        self, target: str, trust: Trust, check: Callable[[T], Change | None], seen: T
    ) -> Change | None:
        checks, disagreed = trust.checks, trust.disagreed
        change = check(seen)
        self.checks[False] += trust.disagreed - disagreed
        self.checks[True] += trust.checks - checks - (trust.disagreed - disagreed)
        return self._after(target, trust, change)

    def _after(self, target: str, trust: Trust, change: Change | None) -> Change | None:
        if change is not None:
            self.transitions[change.after, change.cause] += 1
        told = self._told[target]
        if change is not None or abs(trust.credit_scale - told) >= _SCALE_STEP:
            self._tell(target, trust)
        return change

    def _tell(self, target: str, trust: Trust) -> None:
        self._told[target] = trust.credit_scale
        self.changed.add(target)
