"""Match, choose, reserve: one synchronous step, so that no other request can come in between.

The dispatcher joins what is known (fleet, index, load, learned speeds) into candidates, lets the
policy choose and books the load. It does no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from rhizome.clock import Clock
from rhizome.errors import NoHealthyWorker, UnknownModel
from rhizome.settings.tree import RouterSettings
from router.admission.classes import Priority
from router.fleet import Fleet, Target, targets_of
from router.prefix.credit import credited_tokens
from router.prefix.index import PrefixIndex
from router.prompt import Prompt
from router.scheduling.load import LoadBook, Receipt
from router.scheduling.speeds import LearnedSpeeds
from router.scheduling.types import Candidate, Choice, Policy, RoutingRequest

_RETRY_AFTER_LOADING_S = 5.0


@dataclass(slots=True)
class Job:
    """A request that is ready to be placed."""

    request_id: str
    model: str
    prompt: Prompt
    priority: Priority = Priority.INTERACTIVE
    session: str | None = None
    completion_tokens_max: int | None = None
    excluded: set[str] = field(default_factory=set)
    """Workers that failed this request already."""
    entered_at_s: float = 0.0
    """When it asked to be placed."""


@dataclass(slots=True)
class Assignment:
    """Where a job goes, why, and the receipt for the load it causes."""

    job: Job
    target: Target
    choice: Choice
    receipt: Receipt
    predicted_tokens: int
    """Leading prompt tokens that the worker is believed to hold."""
    assigned_at_s: float
    waited_s: float
    """Time in the queue."""
    first_byte_at_s: float | None = None
    alone: bool = False
    """Nothing else was in flight at the target when it was assigned."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Places jobs on targets."""

    fleet: Fleet
    index: PrefixIndex
    policy: Policy
    book: LoadBook
    speeds: LearnedSpeeds
    settings: RouterSettings
    clock: Clock
    rng: Random

    def check_servable(self, model: str, excluded: set[str] | frozenset[str] = frozenset()) -> None:
        """Raises `UnknownModel` or `NoHealthyWorker` if no worker could take the model now."""
        if any(t.record.worker_id not in excluded for t in self.fleet.eligible(model)):
            return
        if not self.fleet.knows_model(model):
            known = ", ".join(self.fleet.models()) or "none yet"
            raise UnknownModel(
                f"the model {model!r} does not exist; models served: {known}", param="model"
            )
        raise NoHealthyWorker(
            f"no worker of {model!r} can take requests now; `rhizome status` tells why",
            retry_after_s=_RETRY_AFTER_LOADING_S,
        )

    def has_room(self, model: str, priority: Priority) -> bool:
        """Whether some worker could take one more request of this class."""
        return any(
            self._in_flight(target) < self._room(target, priority)
            for target in self.fleet.eligible(model)
        )

    def assign(self, job: Job) -> Assignment | None:
        """Places the job and books its load; None if every worker is full."""
        targets = [
            target
            for target in self.fleet.eligible(job.model)
            if target.record.worker_id not in job.excluded
            and self._in_flight(target) < self._room(target, job.priority)
        ]
        if not targets:
            return None
        now_s = self.clock.monotonic_s()
        held = self._held_tokens(job.prompt, targets, now_s)
        candidates = [self._candidate(target, held[target.target_id]) for target in targets]
        choice = self.policy.choose(_request(job, targets[0]), candidates, self.rng)
        at = next(i for i, one in enumerate(candidates) if one.worker_id == choice.worker_id)
        target, candidate = targets[at], candidates[at]
        uncached = max(1, job.prompt.tokens - candidate.match_tokens)
        receipt = self.book.reserve(target.target_id, uncached, now_s)
        self._predict(job.prompt, target, now_s)
        return Assignment(
            job=job,
            target=target,
            choice=choice,
            receipt=receipt,
            predicted_tokens=candidate.match_tokens,
            assigned_at_s=now_s,
            waited_s=max(0.0, now_s - job.entered_at_s),
            alone=candidate.in_flight == 0,
        )

    def first_byte(self, assignment: Assignment, *, uncached_tokens: int | None = None) -> None:
        """The worker has begun to answer: its prefill is done."""
        now_s = self.clock.monotonic_s()
        assignment.first_byte_at_s = now_s
        self.book.first_byte(assignment.receipt)

    def release(self, assignment: Assignment) -> None:
        """Gives the booked load back; later calls do nothing."""
        self.book.release(assignment.receipt)

    def in_flight(self, model: str) -> int:
        """This router's requests at the targets of a model."""
        return sum(
            self.book.in_flight(target.target_id)
            for record in self.fleet.records()
            if record.model == model
            for target in targets_of(record)
        )

    def _in_flight(self, target: Target) -> int:
        return self.book.in_flight(target.target_id) + self.fleet.elsewhere(target)

    def _room(self, target: Target, priority: Priority) -> int:
        admission = self.settings.admission
        room = min(
            admission.in_flight_max_per_worker,
            target.record.max_num_seqs or admission.in_flight_max_per_worker,
        )
        if priority is Priority.BATCH:
            return int(room * admission.batch_share)
        return room

    def _held_tokens(
        self, prompt: Prompt, targets: Sequence[Target], now_s: float
    ) -> dict[str, int]:
        """Leading prompt tokens held, by target; one match per block size in use."""
        held: dict[str, int] = {}
        matches: dict[int, dict[str, int]] = {}
        for target in targets:
            per_block = prompt.block_tokens(target.record.block_size)
            if per_block not in matches:
                hashes = prompt.hashes(target.record.block_size)
                matches[per_block] = self.index.match(hashes, now_s)
            blocks = matches[per_block].get(target.target_id, 0)
            held[target.target_id] = credited_tokens(blocks, per_block, prompt.tokens)
        return held

    def _candidate(self, target: Target, match_tokens: int) -> Candidate:
        load = self.fleet.load(target)
        return Candidate(
            worker_id=target.target_id,
            match_tokens=match_tokens,
            in_flight=self._in_flight(target),
            in_flight_max=self._room(target, Priority.INTERACTIVE),
            queued_tokens=self.book.queued_tokens(target.target_id),
            prefill_tokens_per_s=self.speeds.prefill_tokens_per_s(target.target_id),
            decode_step_ms=self.speeds.decode_step_ms(target.target_id),
            kv_usage=load.kv_usage if load is not None else 0.0,
        )

    def _predict(self, prompt: Prompt, target: Target, now_s: float) -> None:
        prefix = self.settings.prefix
        confirmed_by_events = prompt.has_tokens and bool(target.record.events)
        ttl_s = prefix.predicted_ttl_s if confirmed_by_events else prefix.approximate_ttl_s
        hashes = prompt.hashes(target.record.block_size)
        self.index.predict(target.target_id, hashes, now_s + ttl_s)


def _request(job: Job, sample: Target) -> RoutingRequest:
    return RoutingRequest(
        request_id=job.request_id,
        model=job.model,
        prompt_tokens=job.prompt.tokens,
        block_hashes=job.prompt.hashes(sample.record.block_size),
        session=job.session,
        completion_tokens_max=job.completion_tokens_max,
    )
