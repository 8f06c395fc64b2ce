"""The vocabulary of a routing decision.

Everything here is data. Policies take a `RoutingRequest` and `Candidate`s and return a `Choice`;
they know no clock, no I/O and no randomness but the generator they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What the scheduler knows of a request."""

    request_id: str
    model: str
    prompt_tokens: int
    """Length of the prompt; an estimate in approximate mode."""
    block_hashes: Sequence[int] = ()
    """Chained hashes of the prompt's full blocks, first block first."""
    session: str | None = None
    """A key that related requests share, if the client gave one."""
    completion_tokens_max: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One worker that could serve the request, as known at this moment."""

    worker_id: str
    match_tokens: int
    """Leading prompt tokens that the worker is believed to hold; never the whole prompt, since the
    engine always recomputes the last token. 0 <= match_tokens < max(1, prompt_tokens)."""
    in_flight: int
    """Requests dispatched to it and not ended, by all that is known."""
    in_flight_max: int
    """Requests that it may have at once."""
    queued_tokens: int
    """Uncached prompt tokens dispatched to it that have not been prefilled yet."""
    prefill_tokens_per_s: float
    """Learned prefill speed, > 0."""
    decode_step_ms: float
    """Learned time of a decode step, > 0."""
    kv_usage: float = 0.0
    """Share of its KV blocks in use, 0 to 1."""
    overhead_ms: float = 0.0
    """Learned first-token time of a prompt that is wholly cached, >= 0."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with the parts of its cost, kept to explain the decision."""

    candidate: Candidate
    cost_ms: float
    """What the policy minimised; comparable only within one decision."""
    predicted_ttft_ms: float
    """Predicted time to first token on this worker."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The worker picked, and why."""

    worker_id: str
    reason: str
    """A bounded set of snake-case words, fit for a metric label, e.g. `lowest_cost`."""
    chosen: Scored
    scored: tuple[Scored, ...]
    """All candidates, in the order given."""


class Policy(Protocol):
    """Picks one candidate. Never raises for a non-empty sequence of valid candidates."""

    name: str

    def choose(
        self, request: RoutingRequest, candidates: Sequence[Candidate], rng: Random
    ) -> Choice: ...
