"""The life of a request, in the order in which it happens.

1 accept (router/http), 2 render, 3 admit, 4 match, 5 choose, 6 reserve (router/gate and
router/dispatch: one step), 7 relay (router/delivery), 8 settle. Every request ends in exactly one
`Outcome`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from rhizome.clock import Clock
from rhizome.errors import (
    ClientLeft,
    DeadlinePassed,
    NoHealthyWorker,
    PromptTooLong,
    RequestError,
    WorkerDiedMidStream,
    WorkerFaulted,
    WorkerUnreachable,
)
from rhizome.outcome import Outcome
from rhizome.settings.tree import RouterSettings
from router.call import Call
from router.catalog.entries import Fallback
from router.catalog.products import Products, may_fall_back
from router.decisions.records import Ending, Prospect
from router.decisions.ring import DecisionRing
from router.delivery import Delivery
from router.dispatch import Dispatcher
from router.faults import Part
from router.fleet import Fleet
from router.gate import Gate
from router.http.client import Client
from router.media.fetching import MediaFetcher
from router.metrics import RouterMetrics
from router.placement import Assignment, Job
from router.prompt import Prompt, RenderedPrompt, UnsharedPrompt
from router.renderings import Renderings
from router.signals import SignalReporter
from router.verifier import Verifier
from router.warmup.noting import PrefixNotes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """Serves generation requests; the parts of the router are given to it."""

    fleet: Fleet
    dispatcher: Dispatcher
    gate: Gate
    delivery: Delivery
    renderings: Renderings
    metrics: RouterMetrics
    signals: SignalReporter
    products: Products
    media: MediaFetcher
    decisions: DecisionRing
    notes: PrefixNotes
    verifier: Verifier
    settings: RouterSettings
    clock: Clock

    def require_model(self, name: str) -> None:
        """Raises `UnknownModel` for a name of no model or product, `NotReady` if it may be one."""
        if not self.products.knows(name) and not self.fleet.knows_model(name):
            raise self.fleet.unknown(name)

    async def serve(self, call: Call, client: Client) -> None:
        """Answers the call on `client`.

        Raises `RequestError` while nothing has been sent; after that, failures are told inside
        the body, in the protocol's own way.
        """
        outcome, refusal = Outcome.FAULT, None
        fallbacks = self.products.resolve(call)
        self.decisions.begin(call.decision)
        self.signals.arrived(call.body.model)
        comments = call.comments = self.delivery.comments(call, client)
        try:
            if call.deadline_s is None:
                await self._serve(call, client, fallbacks)
            else:
                await self._serve_in_time(call, client, fallbacks)
            outcome = _outcome_of_status(call.status)
        except WorkerDiedMidStream:
            outcome = Outcome.BROKEN
        except RequestError as error:
            outcome, refusal = _outcome_of_error(error), error
            self.metrics.refused(error)
            self.signals.refused(call.body.model, error)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.CLIENT_LEFT
            raise
        finally:
            if comments is not None:
                comments.end()
            self._settle(call, outcome, refusal)

    async def _serve_in_time(
        self, call: Call, client: Client, fallbacks: tuple[Fallback, ...]
    ) -> None:
        assert call.deadline_s is not None
        try:
            async with asyncio.timeout(max(0.0, call.deadline_s - self.clock.monotonic_s())):
                await self._serve(call, client, fallbacks)
        except TimeoutError as error:
            raise DeadlinePassed("the time is over that x-request-timeout gave") from error

    def _serve(
        self, call: Call, client: Client, fallbacks: tuple[Fallback, ...]
    ) -> Coroutine[Any, Any, None]:
        """From the fleet; from elsewhere where the fleet cannot, in the order of the fallbacks."""
        if fallbacks or self.media.may_inline(call.body):
            return self._serve_somehow(call, client, fallbacks)
        return self._serve_from_fleet(call, client)

    async def _serve_somehow(
        self, call: Call, client: Client, fallbacks: tuple[Fallback, ...]
    ) -> None:
        call.body = await self.media.inlined(call.body)
        try:
            return await self._serve_from_fleet(call, client)
        except RequestError as error:
            if not fallbacks or not may_fall_back(error):
                raise
            failure = error
        for fallback in fallbacks:
            outside = self.products.fall_back(call, fallback, failure)
            try:
                if outside is None:
                    return await self._serve_from_fleet(call, client)
                return await self.delivery.run_outside(call, outside, client)
            except RequestError as error:
                if not may_fall_back(error):
                    raise
                failure = error
        raise failure

    async def _serve_from_fleet(self, call: Call, client: Client) -> None:
        prompt = await self._render(call)
        await self._try_workers(call, _job(call, prompt), client)

    async def preview(self, call: Call) -> Prospect:
        """Notes in the call's decision what would be chosen now.

        Nothing is sent, fetched, booked or predicted. Raises `RequestError` as `serve` does.
        """
        self.products.resolve(call)
        prompt = await self._render(call)
        return self.dispatcher.preview(_job(call, prompt))

    async def _render(self, call: Call) -> Prompt:
        body = call.body
        self.dispatcher.check_servable(body.model)
        if not body.shares_prefix:
            return UnsharedPrompt(len(body.raw), self.settings.prefix)
        record = self.fleet.record_of_model(body.model)
        rendered = self.renderings.at_once(body, record)
        if rendered is None:
            rendered = await self.renderings.later(body, record)
        adapter = None if record is None or record.model == body.model else body.model
        prompt = RenderedPrompt(rendered, body.cache_salt, self.settings.prefix, adapter)
        self.metrics.rendered(body.model, rendered.why)
        call.decision.rendered(prompt.tokens, exact=prompt.exact)
        longest = record.max_model_len if record is not None else None
        too_long = prompt.exact and longest is not None and prompt.tokens > longest
        if too_long and self.verifier.counts_tokens(record):
            raise PromptTooLong(
                f"the prompt has {prompt.tokens} tokens; {body.model!r} takes at most {longest} "
                "for prompt and completion together; send a shorter one",
                param=body.prompt_param,
            )
        return prompt

    async def _try_workers(self, call: Call, job: Job, client: Client) -> None:
        """Relays from the first worker that answers; each is tried once."""
        failure: RequestError | None = None
        while True:
            try:
                assignment = self.gate.enter(job) or await self.gate.wait(job)
            except NoHealthyWorker as error:
                raise (failure or error) from None
            call.assignment = assignment
            call.attempts += 1
            self.metrics.decided(call, assignment)
            try:
                self.signals.decided(assignment)
            except Exception as error:
                self.dispatcher.faults.caught(Part.SIGNALS, error)
            call.expected = self.verifier.expect(assignment)
            try:
                return await self.delivery.run(
                    call, assignment, client, partial(self._is_last_try, call, job, assignment)
                )
            except (WorkerUnreachable, WorkerFaulted) as error:
                failure = error
                call.decision.failed(error.code)
                self._suspect(assignment, error)
                if call.attempts >= self.settings.relay.attempts_max:
                    raise
            finally:
                self.dispatcher.release(assignment)
                self.gate.pump(job.model)

    def _is_last_try(self, call: Call, job: Job, assignment: Assignment) -> bool:
        tried = job.excluded | {assignment.target.record.worker_id}
        return call.attempts >= self.settings.relay.attempts_max or not any(
            target.record.worker_id not in tried for target in self.fleet.eligible(job.model)
        )

    def _suspect(self, assignment: Assignment, error: RequestError) -> None:
        """The worker failed a request before its first byte: others take it.

        One that could not be reached gets nothing more until a probe succeeds; one that answered
        with a fault may have had a bad request.
        """
        record = assignment.target.record
        assignment.job.excluded.add(record.worker_id)
        if isinstance(error, WorkerUnreachable):
            self.fleet.dispatch_failed(record.worker_id, record.incarnation, error.message)
        self.metrics.retried(assignment)
        _log.warning(
            "worker %s failed request %s before its first byte: %s",
            record.worker_id,
            assignment.job.request_id,
            error.message,
        )

    def _settle(self, call: Call, outcome: Outcome, refusal: RequestError | None) -> None:
        now_s = self.clock.monotonic_s()
        faults = self.dispatcher.faults
        try:
            call.decision.ended(_ending(call, outcome, refusal, now_s), _ttft_ms(call.assignment))
            self.decisions.end(call.decision)
        except Exception as error:
            faults.caught(Part.EXPLANATION, error)
        if outcome is Outcome.COMPLETED:
            try:
                self.notes.answered(call, now_s)
            except Exception as error:
                faults.caught(Part.WARMUP, error)
            if call.assignment is not None and call.usage is not None:
                self.dispatcher.learn(call.assignment, call.usage, now_s)
                if call.expected is not None:
                    self.verifier.answered(call.expected, call.body, call.usage)
        self.metrics.settled(call, outcome, now_s)


def _job(call: Call, prompt: Prompt) -> Job:
    return Job(
        request_id=call.request_id,
        model=call.body.model,
        prompt=prompt,
        priority=call.priority,
        session=call.body.session,
        completion_tokens_max=call.body.max_tokens,
        streamed=call.decision.streamed,
        decision=call.decision,
    )


def _ending(call: Call, outcome: Outcome, refusal: RequestError | None, now_s: float) -> Ending:
    usage = call.usage
    return Ending(
        outcome=outcome,
        at_s=now_s,
        status=call.status if refusal is None else refusal.status,
        error=None if refusal is None else refusal.code,
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        cached_tokens=None if usage is None else usage.cached_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
    )


def _ttft_ms(assignment: Assignment | None) -> float | None:
    """From the choice of the worker to its first byte, where a stream told of it."""
    if assignment is None or assignment.first_byte_at_s is None:
        return None
    return (assignment.first_byte_at_s - assignment.assigned_at_s) * 1000.0


def _outcome_of_status(status: int | None) -> Outcome:
    if status is None or status >= 500:
        return Outcome.UNAVAILABLE
    return Outcome.REJECTED if status >= 400 else Outcome.COMPLETED


def _outcome_of_error(error: RequestError) -> Outcome:
    if isinstance(error, ClientLeft):
        return Outcome.CLIENT_LEFT
    if error.status == 429:
        return Outcome.OVERLOADED
    if error.status < 500:
        return Outcome.REJECTED
    return Outcome.UNAVAILABLE if error.status in (502, 503, 504) else Outcome.FAULT
