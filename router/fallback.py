"""Who gets a request when choosing itself has failed: whoever has least to do by the load book.

Nothing else is asked: no index, no learned speeds, no reports, no policy. Equals are drawn by lot,
so that a fault does not send everything to the first worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

from msgspec.structs import replace

from rhizome.settings.tree import AdmissionSettings
from router.admission.classes import Priority
from router.fleet import Target
from router.scheduling.filters import with_room
from router.scheduling.load import LoadBook
from router.scheduling.policies.least_loaded import LeastLoadedPolicy
from router.scheduling.types import Candidate, Candidates, Choice, RoutingRequest
from router.standings import room_of

REASON = "fallback"
_PREFILL_TOKENS_PER_S = 1000.0
_DECODE_STEP_MS = 20.0


class UnusableChoice(ValueError):
    """A policy chose what was not offered, or predicted what cannot be."""


def check(choice: Choice, request: RoutingRequest, candidates: Candidates) -> Choice:
    """The choice, if the rest of the router can rely on it; raises `UnusableChoice`."""
    chosen = choice.chosen
    if choice.worker_id != chosen.candidate.worker_id:
        raise UnusableChoice("the choice and its score are of two workers")
    if choice.worker_id not in candidates.worker_ids:
        raise UnusableChoice("a worker was chosen that was not offered")
    if not (math.isfinite(chosen.cost_ms) and math.isfinite(chosen.predicted_ttft_ms)):
        raise UnusableChoice("the cost is not a number")
    if not 0 <= chosen.candidate.match_tokens < max(1, request.prompt_tokens):
        raise UnusableChoice("more was matched than the prompt has")
    return choice


def plain_candidates(
    targets: Iterable[Target],
    book: LoadBook,
    admission: AdmissionSettings,
    priority: Priority,
    excluded: set[str],
) -> Candidates:
    """Those targets that have room by what this router itself has sent them."""
    return with_room(
        Candidates.of(
            Candidate(
                worker_id=target.target_id,
                match_tokens=0,
                in_flight=book.in_flight(target.target_id),
                in_flight_max=room_of(target, admission, priority),
                queued_tokens=book.queued_tokens(target.target_id),
                prefill_tokens_per_s=_PREFILL_TOKENS_PER_S,
                decode_step_ms=_DECODE_STEP_MS,
            )
            for target in targets
            if target.record.worker_id not in excluded
        )
    )


def safe_choice(request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
    """The least loaded candidate, drawn among equals; there must be one."""
    return replace(LeastLoadedPolicy().choose(request, candidates, rng), reason=REASON)
