"""Predicted time to first token, the same for every policy."""

from __future__ import annotations

from router.scheduling.types import Candidate, RoutingRequest


def uncached_tokens(request: RoutingRequest, candidate: Candidate) -> int:
    """Prompt tokens that the candidate would have to compute; at least 1, the last one."""
    return max(1, request.prompt_tokens - candidate.match_tokens)


def wait_ms(candidate: Candidate) -> float:
    """Time until the prompts queued at the candidate are prefilled; they go first."""
    return candidate.queued_tokens / candidate.prefill_tokens_per_s * 1000.0


def prefill_ms(request: RoutingRequest, candidate: Candidate) -> float:
    """Time that the candidate needs for the request's own uncached tokens."""
    return uncached_tokens(request, candidate) / candidate.prefill_tokens_per_s * 1000.0


def predicted_ttft_ms(request: RoutingRequest, candidate: Candidate) -> float:
    """Overhead, wait and own prefill: first come, first served at the learned speed.

    Chunked prefill shares a step between prompts, so short ones may be served earlier than this
    and long ones not later.
    """
    return candidate.overhead_ms + wait_ms(candidate) + prefill_ms(request, candidate)
