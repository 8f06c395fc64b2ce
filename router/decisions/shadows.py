"""Policies that decide beside the one in charge, on the same candidates, and never matter.

Each decision is compared one by one: what would this policy have chosen here? The candidates are
those that the policy in charge has brought about, so what is seen is the difference of single
choices, not what the fleet would look like had the shadow always been in charge. That is what
`rhizome simulate` is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rhizome.settings.tree import SchedulingSettings
from router.scheduling.policies import build_policy
from router.scheduling.prediction import predicted_ttft_ms
from router.scheduling.types import Candidates, Choice, Policy, RoutingRequest


@dataclass(slots=True)
class Tally:
    """One shadow beside the policy in charge; sums over the decisions that were compared."""

    compared: int = 0
    agreed: int = 0
    """Both chose the same worker."""
    tokens_more: int = 0
    """Prompt tokens that the shadow's worker held beyond those of the chosen one."""
    tokens_fewer: int = 0
    ms_sooner: float = 0.0
    """Predicted first-token time by which the shadow's worker would have been sooner."""
    ms_later: float = 0.0
    errors: int = 0
    """Decisions that the shadow failed to make."""
    last_error: str = ""

    def add(self, tokens: int, ttft_ms: float, *, agreed: bool) -> None:
        """Takes one decision: what the shadow's worker holds more, and how much later it is."""
        self.compared += 1
        self.agreed += agreed
        self.tokens_more += max(0, tokens)
        self.tokens_fewer += max(0, -tokens)
        self.ms_later += max(0.0, ttft_ms)
        self.ms_sooner += max(0.0, -ttft_ms)


class Shadows:
    """The shadow policies and their tallies; two of these are no policies but bounds.

    `most_reuse` is the candidate that holds most of the prompt, `soonest` the one with the lowest
    predicted first-token time: no policy can do better by that measure.
    """

    MOST_REUSE = "most_reuse"
    SOONEST = "soonest"

    def __init__(self, policies: Sequence[Policy], share: float, rng: Random) -> None:
        self._policies = policies
        self._share = share
        self._rng = rng
        self.tallies = {policy.name: Tally() for policy in policies}
        if policies:
            self.tallies |= {self.MOST_REUSE: Tally(), self.SOONEST: Tally()}

    def compare(self, request: RoutingRequest, candidates: Candidates, choice: Choice) -> None:
        """Lets the shadows choose, too; raises nothing, changes nothing but the tallies."""
        if not self._policies or (self._share < 1.0 and self._rng.random() >= self._share):
            return
        for policy in self._policies:
            tally = self.tallies[policy.name]
            try:
                other = policy.choose(request, candidates, self._rng)
            except Exception as error:
                tally.errors += 1
                tally.last_error = f"{type(error).__name__}: {error}"[:200]
                continue
            _add(tally, choice, other)
        self._compare_bounds(request, candidates, choice)

    def _compare_bounds(
        self, request: RoutingRequest, candidates: Candidates, choice: Choice
    ) -> None:
        tokens, ttft_ms = candidates.match_tokens, predicted_ttft_ms(request, candidates)
        chosen = candidates.worker_ids.index(choice.worker_id)
        for name, best in (
            (self.MOST_REUSE, int(tokens.argmax())),
            (self.SOONEST, int(ttft_ms.argmin())),
        ):
            measure = tokens if name == self.MOST_REUSE else ttft_ms
            at = chosen if measure[chosen] == measure[best] else best
            self.tallies[name].add(
                int(tokens[at] - tokens[chosen]),
                float(ttft_ms[at] - ttft_ms[chosen]),
                agreed=at == chosen,
            )


def _add(tally: Tally, choice: Choice, other: Choice) -> None:
    tally.add(
        other.chosen.candidate.match_tokens - choice.chosen.candidate.match_tokens,
        other.chosen.predicted_ttft_ms - choice.chosen.predicted_ttft_ms,
        agreed=other.worker_id == choice.worker_id,
    )


def build_shadows(settings: SchedulingSettings) -> Shadows | None:
    """The shadows asked for; None where there are none."""
    if not settings.shadows:
        return None
    policies = [build_policy(name) for name in dict.fromkeys(settings.shadows)]
    return Shadows(policies, settings.shadow_share, Random(settings.seed))
