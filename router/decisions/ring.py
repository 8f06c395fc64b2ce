"""The latest requests' decisions, bounded by count and bytes; the oldest give way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from rhizome.settings.tree import DecisionSettings
from router.decisions.records import Decision


class DecisionRing:
    """Decisions of the requests that run, and of the latest ones that have ended."""

    def __init__(
        self,
        settings: DecisionSettings,
        on_end: Callable[[Decision], None] = lambda _: None,
    ) -> None:
        """`on_end` is told of every request that is over."""
        self.settings = settings
        self._on_end = on_end
        self._running: dict[Decision, None] = {}
        self._ended: deque[tuple[Decision, int]] = deque()
        self._by_id: dict[str, Decision] = {}
        self.bytes_used = 0
        """Of those that have ended, estimated."""
        self.forgotten = 0
        """Decisions that gave way."""

    def __len__(self) -> int:
        return len(self._ended)

    def begin(self, decision: Decision) -> None:
        """A request was accepted; pair it with `end`."""
        self._running[decision] = None

    def end(self, decision: Decision) -> None:
        """It is over. Of two requests with one id the later one is found by it."""
        del self._running[decision]
        self._on_end(decision)
        size = decision.bytes_used
        self._ended.append((decision, size))
        self._by_id[decision.request_id] = decision
        self.bytes_used += size
        settings = self.settings
        while len(self._ended) > settings.count_max or self.bytes_used > settings.bytes_max:
            self._forget_oldest()

    def get(self, request_id: str) -> Decision | None:
        """The latest decision of that id, if it runs or is still kept."""
        for decision in reversed(self._running):
            if decision.request_id == request_id:
                return decision
        return self._by_id.get(request_id)

    def latest(self, limit: int) -> list[Decision]:
        """At most that many, those accepted last first."""
        found = [*self._running, *(one for one, _ in islice(reversed(self._ended), limit))]
        found.sort(key=lambda decision: decision.accepted_at_s, reverse=True)
        return found[:limit]

    def oldest(self) -> Decision | None:
        """The next one to give way."""
        return self._ended[0][0] if self._ended else None

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        assert self.bytes_used == sum(size for _, size in self._ended)
        assert len(self._ended) <= self.settings.count_max
        assert self.bytes_used <= self.settings.bytes_max
        assert set(self._by_id) == {decision.request_id for decision, _ in self._ended}

    def _forget_oldest(self) -> None:
        decision, size = self._ended.popleft()
        self.bytes_used -= size
        self.forgotten += 1
        if self._by_id.get(decision.request_id) is decision:
            del self._by_id[decision.request_id]
