"""Predicted time to first token, the same for every policy; of one candidate or of all at once."""

from __future__ import annotations

from typing import cast, overload

import numpy as np

from router.scheduling.types import Candidate, Candidates, Floats, Ints, RoutingRequest


@overload
def uncached_tokens(request: RoutingRequest, candidate: Candidate) -> int: ...
@overload
def uncached_tokens(request: RoutingRequest, candidate: Candidates) -> Ints: ...
def uncached_tokens(request: RoutingRequest, candidate: Candidate | Candidates) -> int | Ints:
    """Prompt tokens that the candidate would have to compute; at least 1, the last one."""
    missing = request.prompt_tokens - candidate.match_tokens
    return max(1, missing) if isinstance(missing, int) else np.maximum(1, missing)


@overload
def work_tokens(request: RoutingRequest, candidate: Candidate) -> float: ...
@overload
def work_tokens(request: RoutingRequest, candidate: Candidates) -> Floats: ...
def work_tokens(request: RoutingRequest, candidate: Candidate | Candidates) -> float | Floats:
    """The request's prefill in tokens of a short prompt: its uncached tokens, and what they cost
    more because each attends to all before it (see `router.scheduling.speeds`)."""
    missing = request.prompt_tokens - candidate.match_tokens
    uncached = max(1, missing) if isinstance(missing, int) else np.maximum(1, missing)
    before = candidate.match_tokens + uncached / 2
    return cast("float | Floats", uncached * (1.0 + before / candidate.attention_tokens))


@overload
def wait_ms(candidate: Candidate) -> float: ...
@overload
def wait_ms(candidate: Candidates) -> Floats: ...
def wait_ms(candidate: Candidate | Candidates) -> float | Floats:
    """Time until the prompts queued at the candidate are prefilled; they go first."""
    return candidate.queued_tokens / candidate.prefill_tokens_per_s * 1000.0


@overload
def prefill_ms(request: RoutingRequest, candidate: Candidate) -> float: ...
@overload
def prefill_ms(request: RoutingRequest, candidate: Candidates) -> Floats: ...
def prefill_ms(request: RoutingRequest, candidate: Candidate | Candidates) -> float | Floats:
    """Time that the candidate needs for the request's own uncached tokens."""
    return work_tokens(request, candidate) / candidate.prefill_tokens_per_s * 1000.0


@overload
def predicted_ttft_ms(request: RoutingRequest, candidate: Candidate) -> float: ...
@overload
def predicted_ttft_ms(request: RoutingRequest, candidate: Candidates) -> Floats: ...
def predicted_ttft_ms(request: RoutingRequest, candidate: Candidate | Candidates) -> float | Floats:
    """Overhead, wait and own prefill: first come, first served at the learned speed.

    Chunked prefill shares a step between prompts, so short ones may be served earlier than this
    and long ones not later.
    """
    speed = candidate.prefill_tokens_per_s
    queued_ms = candidate.queued_tokens / speed * 1000.0
    return candidate.overhead_ms + queued_ms + work_tokens(request, candidate) / speed * 1000.0
