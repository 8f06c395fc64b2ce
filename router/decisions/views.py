"""Decisions in words and units, for people and tools; made when somebody asks."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from router.decisions.records import COST, Attempt, Decision, Prospect
from router.decisions.shadows import Tally
from router.scheduling.prediction import predicted_ttft_ms, uncached_tokens
from router.scheduling.types import Candidate, RoutingRequest


class View(BaseModel):
    """Read by the command in the same words as it is written here."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class CandidateView(View):
    """One worker that could have had the request."""

    worker: str
    chosen: bool
    match_tokens: int
    """Leading prompt tokens that it was believed to hold."""
    uncached_tokens: int
    """Prompt tokens that it would have had to compute."""
    queued_tokens: int
    """Work of prompts dispatched to it before and not yet prefilled, in tokens."""
    in_flight: int
    in_flight_max: int
    kv_usage: float
    """Share of its KV blocks in use."""
    prefill_tokens_per_s: float
    """Its learned speed."""
    predicted_ttft_ms: float
    cost: float
    """What the policy minimised; comparable within one choice only."""


class AttemptView(View):
    """One choice of a worker."""

    worker: str
    model: str
    policy: str
    reason: str
    trust: str | None
    """How far the worker's prefixes were believed; none where nothing is known."""
    waited_ms: float
    """In the line."""
    predicted_ttft_ms: float
    ttft_ms: float | None
    """From the choice to the first byte; of streamed answers only."""
    failure: str | None
    """Why another worker was tried."""
    candidates: list[CandidateView]
    """The cheapest first, as many as are kept."""
    candidates_total: int


class DecisionView(View):
    """What was decided for one request, why, and what came of it."""

    request_id: str
    router: str
    """The router that decided."""
    path: str
    asked_model: str
    """What the client asked for: a model, or a product that stands for one."""
    model: str
    """What served it, or was to."""
    outside: str | None
    """The provider that was asked after the fleet could not serve."""
    key: str
    """The name of the client's key."""
    priority: str
    streamed: bool
    accepted_at_wall_s: float
    """Seconds since the Unix epoch."""
    state: str
    """`running`, `ended`, or `preview` for a request that was not sent."""
    prospect: Prospect | None = None
    """Of a preview: what would become of the request."""
    prompt_tokens: int | None
    """As the router counted them; estimated where `exact` is false."""
    exact: bool
    attempts: list[AttemptView]
    outcome: str | None = None
    status: int | None = None
    error: str | None = None
    """Code of the error that the client got."""
    duration_ms: float | None = None
    engine_prompt_tokens: int | None = None
    """As the engine counted them."""
    predicted_cached_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the engine had cached."""
    completion_tokens: int | None = None


class DecisionList(View):
    """The latest decisions of one router, newest first."""

    router: str
    kept: int
    """Ended requests whose decisions are kept."""
    forgotten: int
    """Those that gave way since the start."""
    decisions: list[DecisionView]


class ShadowView(View):
    """How a shadow's choices differ from those made."""

    policy: str
    compared: int
    agreement: float | None = Field(ge=0, le=1)
    """Share of the decisions in which it chose the same worker."""
    tokens_more: int
    """Prompt tokens that its workers held beyond those of the chosen ones."""
    tokens_fewer: int
    predicted_ms_sooner: float
    """Predicted first-token time that its choices would have saved."""
    predicted_ms_later: float
    errors: int
    last_error: str


def decision_view(
    decision: Decision, router_id: str, wall_minus_monotonic_s: float
) -> DecisionView:
    """The decision in words."""
    ending = decision.ending
    ended: dict[str, Any] = {}
    if ending is not None:
        ended = {
            "outcome": ending.outcome.value,
            "status": ending.status,
            "error": ending.error,
            "duration_ms": _rounded((ending.at_s - decision.accepted_at_s) * 1000.0),
            "engine_prompt_tokens": ending.prompt_tokens,
            "cached_tokens": ending.cached_tokens,
            "completion_tokens": ending.completion_tokens,
        }
    attempts = [_attempt(one) for one in decision.attempts]
    if attempts:
        chosen = (one for one in attempts[-1].candidates if one.chosen)
        ended["predicted_cached_tokens"] = next(chosen).match_tokens
    return DecisionView(
        request_id=decision.request_id,
        router=router_id,
        path=decision.path,
        asked_model=decision.asked_model,
        model=decision.model or decision.asked_model,
        outside=decision.outside,
        key=decision.key,
        priority=decision.priority,
        streamed=decision.streamed,
        accepted_at_wall_s=round(decision.accepted_at_s + wall_minus_monotonic_s, 3),
        state="running" if ending is None else "ended",
        prompt_tokens=decision.prompt_tokens,
        exact=decision.exact,
        attempts=attempts,
        **ended,
    )


def shadow_view(policy: str, tally: Tally) -> ShadowView:
    """The tally in words."""
    return ShadowView(
        policy=policy,
        compared=tally.compared,
        agreement=round(tally.agreed / tally.compared, 4) if tally.compared else None,
        tokens_more=tally.tokens_more,
        tokens_fewer=tally.tokens_fewer,
        predicted_ms_sooner=_rounded(tally.ms_sooner),
        predicted_ms_later=_rounded(tally.ms_later),
        errors=tally.errors,
        last_error=tally.last_error,
    )


def _attempt(attempt: Attempt) -> AttemptView:
    considered = attempt.considered
    costs, candidates = considered.columns[COST], considered.candidates()
    order = np.argsort(costs, kind="stable").tolist()
    return AttemptView(
        worker=attempt.worker,
        model=attempt.model,
        policy=attempt.policy,
        reason=attempt.reason,
        trust=attempt.trust,
        waited_ms=_rounded(attempt.waited_ms),
        predicted_ttft_ms=_rounded(attempt.predicted_ttft_ms),
        ttft_ms=None if attempt.ttft_ms is None else _rounded(attempt.ttft_ms),
        failure=attempt.failure,
        candidates=[
            _candidate(
                attempt, candidates[place], costs[place].item(), chosen=place == considered.chosen
            )
            for place in order
        ],
        candidates_total=considered.total,
    )


def _candidate(attempt: Attempt, one: Candidate, cost: float, *, chosen: bool) -> CandidateView:
    request = RoutingRequest("", attempt.model, attempt.prompt_tokens)
    return CandidateView(
        worker=one.worker_id,
        chosen=chosen,
        match_tokens=one.match_tokens,
        uncached_tokens=uncached_tokens(request, one),
        queued_tokens=one.queued_tokens,
        in_flight=one.in_flight,
        in_flight_max=one.in_flight_max,
        kv_usage=_rounded(one.kv_usage),
        prefill_tokens_per_s=_rounded(one.prefill_tokens_per_s),
        predicted_ttft_ms=_rounded(predicted_ttft_ms(request, one)),
        cost=_rounded(cost),
    )


def _rounded(value: float) -> float:
    return round(value, 3)
