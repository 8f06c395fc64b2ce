"""What each client's key was used for; the first form of tenants."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from router.decisions.records import Decision
from router.keys import KEYS_MAX


@dataclass(slots=True)
class Use:
    """Sums over the requests of one key since the router started."""

    outcomes: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    """As the engines counted them."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    last_at_s: float = 0.0
    """When the last request ended, by the monotonic clock."""


class Tenants:
    """Use by the name of the key; names that are used no more give way."""

    def __init__(self) -> None:
        self._uses: dict[str, Use] = {}

    def ended(self, decision: Decision) -> None:
        """A request is over."""
        ending = decision.ending
        if ending is None:
            return
        use = self._uses.get(decision.key)
        if use is None:
            use = self._uses[decision.key] = Use()
            if len(self._uses) > 2 * KEYS_MAX:
                del self._uses[min(self._uses, key=lambda name: self._uses[name].last_at_s)]
        use.outcomes[ending.outcome] += 1
        use.prompt_tokens += ending.prompt_tokens or 0
        use.cached_tokens += ending.cached_tokens or 0
        use.completion_tokens += ending.completion_tokens or 0
        use.last_at_s = ending.at_s

    def uses(self) -> dict[str, Use]:
        """By name."""
        return dict(self._uses)
