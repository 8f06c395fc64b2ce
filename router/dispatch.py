"""Match, choose, reserve: one synchronous step, so that no other request can come in between.

The dispatcher joins what is known (fleet, index, load, learned speeds) into candidates, lets the
policy choose and books the load. It does no I/O.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random

from rhizome.clock import Clock
from rhizome.errors import NoHealthyWorker
from rhizome.fleet.records import WorkerRecord
from rhizome.settings.tree import RouterSettings
from router.decisions.records import Attempt, Considered, Decision, Prospect
from router.decisions.shadows import Shadows
from router.fallback import check, plain_candidates, safe_choice
from router.faults import Faults, Part, Patience
from router.fleet import Fleet, Target, targets_of
from router.peers.messages import Prediction
from router.peers.own import OwnNews
from router.peers.view import PeerView, nobody
from router.placement import Assignment, Held, Job
from router.prefix.index import PrefixIndex
from router.prefix.lifetimes import LearnedLifetimes
from router.prompt import Prompt
from router.relay.dialect import Usage
from router.scheduling.filters import with_room
from router.scheduling.load import LoadBook, Receipt
from router.scheduling.prediction import prefill_ms, work_tokens
from router.scheduling.speeds import LearnedSpeeds
from router.scheduling.types import Candidates, Choice, Policy, RoutingRequest
from router.standings import Sources, Standings, tiers_of
from router.trust.book import TrustBook

_log = logging.getLogger(__name__)
_RETRY_AFTER_LOADING_S = 5.0
_BLOCK_SIZE_UNKNOWN = 16
_DECISION_S_MAX = 0.02
_SLOW_IN_A_ROW_MAX = 3
_PLAIN_S = 10.0
"""How long decisions are made by the load book alone after some that took too long."""
_PLAIN_S_MAX = 300.0


@dataclass(slots=True)
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
    router_id: str = "router"
    """This router's name, in answers and to others."""
    trust: TrustBook = field(default_factory=TrustBook)
    """How far each target's events are believed."""
    shadows: Shadows | None = None
    """Policies that choose beside the one in charge."""
    peers: PeerView = field(default_factory=nobody)
    """What other routers told of their load."""
    news: OwnNews | None = None
    """What this router has to tell them."""
    prompt_done: Callable[[str], None] = field(default=lambda _: None)
    """Told the model when a prompt is done somewhere: what waits may go on."""
    lifetimes: LearnedLifetimes = field(default_factory=LearnedLifetimes)
    """How long targets without events keep what they were sent."""
    faults: Faults = field(init=False)
    _patience: Patience = field(
        default_factory=lambda: Patience(
            _DECISION_S_MAX, _SLOW_IN_A_ROW_MAX, _PLAIN_S, _PLAIN_S_MAX
        )
    )
    _presumed: list[tuple[float, int, Receipt]] = field(default_factory=list)
    """When the prompts of answers that are not streamed are presumed done, soonest first."""
    standings: Standings = field(init=False)
    """What the sources above say of each target, as columns."""

    def __post_init__(self) -> None:
        self.faults = Faults(self.clock)
        sources = Sources(
            self.fleet,
            self.index,
            self.book,
            self.speeds,
            self.settings.admission,
            self.faults,
            self.trust,
            self.peers,
            tiers_of(self.settings.prefix),
        )
        self.standings = Standings(sources)

    def joined(self, record: WorkerRecord) -> None:
        """A fleet listener: a worker is judged like others of its model until it is known."""
        for target in targets_of(record):
            self.speeds.add(target.target_id, record.model)
            blocks, size = record.kv_blocks, record.block_size
            self.lifetimes.add(target.target_id, blocks * size if blocks and size else None)

    def left(self, record: WorkerRecord) -> None:
        """The load of a worker that is gone is gone with it."""
        for target in targets_of(record):
            self.speeds.remove(target.target_id)
            self.lifetimes.remove(target.target_id)
            self.book.drop_target(target.target_id)

    def check_servable(self, model: str, excluded: set[str] | frozenset[str] = frozenset()) -> None:
        """Raises `UnknownModel`, `NotReady` or `NoHealthyWorker` if no worker could take the model
        now."""
        able = self.fleet.eligible(model)
        if excluded:
            able = tuple(one for one in able if one.record.worker_id not in excluded)
        if able:
            return
        if not self.fleet.knows_model(model):
            raise self.fleet.unknown(model)
        raise NoHealthyWorker(
            f"no worker of {model!r} can take requests now; `rhizome status` tells why",
            retry_after_s=_RETRY_AFTER_LOADING_S,
        )

    def assign(self, job: Job) -> Assignment | None:
        """Places the job and books its load; None if every worker is full."""
        found = self.assign_or_hold(job, may_hold=False, in_line=None)
        assert not isinstance(found, Held)
        return found

    def assign_or_hold(
        self, job: Job, *, may_hold: bool = True, in_line: int | None = 0
    ) -> Assignment | Held | None:
        """As `assign`, but `Held` if the policy would rather wait, until a worker is nearly free
        (`may_hold`) or has a place (if `in_line`, so many jobs wait): nothing is booked then."""
        now_s = self.clock.monotonic_s()
        offered, target_of = self._offer(job, now_s)
        candidates = with_room(offered)
        if not candidates:
            return None
        request = self._request(job, target_of(candidates.worker_ids[0]))
        choice = self._choose(request, candidates, now_s)
        candidate = choice.chosen.candidate
        if may_hold and choice.should_wait:
            return Held(choice.worker_id, request, candidate)
        if (
            candidates is not offered
            and in_line is not None
            and choice.binds_late
            and offered.match_tokens.max() > candidate.match_tokens
        ):
            best = self._choose(request, offered, now_s).chosen.candidate
            if job.wait_for_place(request, candidate, best, now_s, in_line / len(offered)):
                return Held(best.worker_id, request, best)
        self._note(job, request, candidates, choice, now_s)
        target = target_of(choice.worker_id)
        work = round(work_tokens(request, candidate))
        receipt = self.book.reserve(target.target_id, work, now_s)
        try:
            self._predict(job.prompt, target, candidate.match_tokens, now_s)
        except Exception as error:
            self.faults.caught(Part.INDEX, error)
        if not job.streamed:
            due_s = now_s + choice.chosen.predicted_ttft_ms / 1000
            heapq.heappush(self._presumed, (due_s, id(receipt), receipt))
        return Assignment(job, target, choice, receipt, now_s)

    def preview(self, job: Job) -> Prospect:
        """Notes in the job's decision what `assign` would choose.

        Books and predicts nothing, and leaves the policy and its chance as they were.
        """
        now_s = self.clock.monotonic_s()
        offered, target_of = self._offer(job, now_s)
        candidates = with_room(offered)
        if not candidates or job.decision is None:
            return Prospect.FULL
        request = self._request(job, target_of(candidates.worker_ids[0]))
        choice = deepcopy(self.policy).choose(request, candidates, deepcopy(self.rng))
        self._explain(job.decision, request, candidates, choice)
        return Prospect.HELD if choice.should_wait else Prospect.NOW

    def least_prefill_s(self, job: Job) -> float:
        """Time that its prompt takes at the target that holds most of it; 0 if there is none."""
        offered, target_of = self._offer(job, self.clock.monotonic_s())
        if not offered:
            return 0.0
        request = self._request(job, target_of(offered.worker_ids[0]))
        return float(prefill_ms(request, offered).min()) / 1000

    def plan(self, held: Held) -> None:
        """Counts what is held as work of the target that it waits for, until `forget_plans`."""
        with self.faults.contained(Part.STANDINGS):
            self.standings.plan(held.target_id, held.work_tokens)

    def forget_plans(self) -> None:
        """Counts only what was dispatched."""
        self.standings.forget_plans()

    def tick(self) -> None:
        """To be called often: takes presumed prompts as done, expires predictions, sweeps leaks."""
        now_s = self.clock.monotonic_s()
        while self._presumed and self._presumed[0][0] <= now_s:
            self.book.first_byte(heapq.heappop(self._presumed)[2], now_s)
        with self.faults.contained(Part.INDEX):
            self.index.expire(now_s)
        with self.faults.contained(Part.STANDINGS):
            self.standings.refresh()
        leaked = self.book.sweep(now_s, 2 * self.settings.relay.total_timeout_s)
        if leaked:
            _log.error("%d receipts were never given back: %s", len(leaked), leaked[:3])

    def first_byte(self, assignment: Assignment) -> None:
        """The worker has begun to answer: its prefill is done."""
        assignment.first_byte_at_s = self.clock.monotonic_s()
        self.book.first_byte(assignment.receipt, assignment.first_byte_at_s)
        self.prompt_done(assignment.job.model)

    def learn(self, assignment: Assignment, usage: Usage, ended_at_s: float) -> None:
        """Takes the speeds of a streamed answer that came whole, and what any kept."""
        try:
            self._learn_lifetime(assignment, usage, ended_at_s)
        except Exception as error:
            self.faults.caught(Part.INDEX, error)
        if assignment.first_byte_at_s is None:
            return
        with self.faults.contained(Part.SPEEDS):
            self._learn(assignment, assignment.first_byte_at_s, usage, ended_at_s)

    def _learn(
        self, assignment: Assignment, first_byte_at_s: float, usage: Usage, ended_at_s: float
    ) -> None:
        target, candidate = assignment.target.target_id, assignment.choice.chosen.candidate
        cached = usage.cached_tokens
        if cached is None:
            cached = candidate.match_tokens
        self.speeds.observe_first_token(
            target,
            usage.prompt_tokens - cached,
            (first_byte_at_s - assignment.assigned_at_s) * 1000,
            alone=candidate.in_flight == 0,
            queued_tokens=candidate.queued_tokens,
            cached_tokens=cached,
        )
        self.speeds.observe_decode(
            target,
            (usage.completion_tokens or 0) - 1,
            (ended_at_s - first_byte_at_s) * 1000,
        )

    def _learn_lifetime(self, assignment: Assignment, usage: Usage, ended_at_s: float) -> None:
        """Of prompts that no event tells of."""
        prompt, record = assignment.job.prompt, assignment.target.record
        if prompt.has_tokens and record.events:
            return
        cached: float | None = None
        if usage.cached_tokens is not None:
            share = usage.cached_tokens / max(1, usage.prompt_tokens)
            cached = share * prompt.tokens / prompt.block_tokens(record.block_size)
        hashes, sent_s = prompt.hashes(record.block_size), assignment.assigned_at_s
        self.lifetimes.answered(assignment.target.target_id, hashes, cached, sent_s, ended_at_s)

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

    def _offer(self, job: Job, now_s: float) -> tuple[Candidates, Callable[[str], Target]]:
        """The candidates, full or not, and how to find the target of one.

        What fails on the way to them is done without: see `router.fallback`.
        """
        if not self._patience.is_over(now_s):
            try:
                board = self.standings.of(job.model)
                offered = board.candidates(
                    job.prompt, job.priority, job.excluded, now_s, again=job.has_waited
                )
                return offered, board.target
            except Exception as error:
                self.faults.caught(Part.STANDINGS, error)
        targets = {target.target_id: target for target in self.fleet.eligible(job.model)}
        plain = plain_candidates(
            targets.values(), self.book, self.settings.admission, job.priority, job.excluded
        )
        return plain, targets.__getitem__

    def _request(self, job: Job, sample: Target) -> RoutingRequest:
        return job.routing_request(sample, self.index.evictions.recompute_share)

    def _choose(self, request: RoutingRequest, candidates: Candidates, now_s: float) -> Choice:
        """The policy's choice, or the least loaded candidate if there is none to rely on."""
        choice: Choice | None = None
        if not self._patience.is_over(now_s):
            try:
                choice = check(
                    self.policy.choose(request, candidates, self.rng), request, candidates
                )
            except Exception as error:
                self.faults.caught(Part.POLICY, error)
            self._used(now_s)
        return choice or safe_choice(request, candidates, self.rng)

    def _note(
        self,
        job: Job,
        request: RoutingRequest,
        candidates: Candidates,
        choice: Choice,
        now_s: float,
    ) -> None:
        """Keeps what was considered, and lets the shadows choose from the same."""
        try:
            if job.decision is not None:
                waited_ms = max(0.0, now_s - job.entered_at_s) * 1000.0
                self._explain(job.decision, request, candidates, choice, waited_ms)
            if self.shadows is not None:
                self.shadows.compare(request, candidates, choice)
        except Exception as error:
            self.faults.caught(Part.EXPLANATION, error)

    def _explain(
        self,
        decision: Decision,
        request: RoutingRequest,
        candidates: Candidates,
        choice: Choice,
        waited_ms: float = 0.0,
    ) -> None:
        considered = Considered.of(candidates, choice, self.settings.decisions.candidates_max)
        trust = self.trust.get(choice.worker_id)
        state = None if trust is None else trust.state
        attempt = Attempt.of(self.policy.name, request, choice, considered, waited_ms, state)
        decision.chose(attempt)

    def _used(self, began_s: float) -> None:
        """A decision has been made: those that hold the router up are gone without a while."""
        now_s = self.clock.monotonic_s()
        if self._patience.used(now_s - began_s, now_s):
            self.faults.note(Part.SLOW_DECISION, f"decisions took over {_DECISION_S_MAX} s")

    def predicted_elsewhere(self, prediction: Prediction) -> None:
        """Another router sent a prompt to a target: it will hold these blocks."""
        with self.faults.contained(Part.INDEX):
            hashes, is_exact = prediction.hashes(), prediction.is_exact
            self._will_hold(prediction.target, hashes, None, self.clock.monotonic_s(), is_exact)

    def _predict(self, prompt: Prompt, target: Target, match_tokens: int, now_s: float) -> None:
        """The target will hold the prompt; others are told what they may not know of it."""
        is_exact = (
            prompt.has_tokens
            and bool(target.record.events)
            and self.trust.confirms_soon(target.target_id)
        )
        block_size = target.record.block_size
        hashes = prompt.hashes(block_size)
        per_block = prompt.block_tokens(block_size)
        self._will_hold(target.target_id, hashes, per_block, now_s, is_exact)
        if self.news is not None:
            known = match_tokens // per_block if is_exact else 0
            self.news.predicted(target.target_id, hashes[known:], is_exact=is_exact)

    def believe(self, target: Target, hashes: Sequence[int], *, is_exact: bool) -> None:
        """The target has just computed these blocks for somebody else than a request."""
        with self.faults.contained(Part.INDEX):
            self._will_hold(target.target_id, hashes, None, self.clock.monotonic_s(), is_exact)

    def _will_hold(
        self,
        target: str,
        hashes: Sequence[int],
        block_tokens: int | None,
        now_s: float,
        is_exact: bool,
    ) -> None:
        """Until events confirm it, or as long as the target keeps what no event tells of."""
        prefix = self.settings.prefix
        if is_exact:
            self.index.predict(target, hashes, now_s + prefix.predicted_ttl_s)
        else:
            kept = self.lifetimes.kept(
                target, block_tokens or _BLOCK_SIZE_UNKNOWN, prefix.approximate_ttl_s
            )
            self.index.assume(target, hashes, now_s, kept)
