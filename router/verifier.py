"""Checks what the router believes of its workers' caches against what they do, all the time.

Every answered request is compared with what was predicted of it, and some time later with what
the worker's events say (`router.trust` judges). A change of trust is logged once, with its likely
cause, and takes effect at once: credit is scaled (`TrustBook`), events that are wrong are not
credited (`PrefixIndex.distrust`), and blocks that an engine has dropped unsaid are forgotten.
"""

from __future__ import annotations

import logging
from collections import deque

import msgspec

from rhizome.clock import Clock
from rhizome.fleet.records import WorkerRecord
from rhizome.settings.tree import TrustSettings
from router.events.plane import EventPlane
from router.events.subscription import Subscription
from router.faults import Faults, Part
from router.fleet import Target, targets_of
from router.http.bodies import ChatBody, CompletionBody, EngineBody
from router.placement import Assignment
from router.prefix.index import PrefixIndex
from router.prompt import Prompt
from router.relay.dialect import Usage
from router.trust.book import TrustBook
from router.trust.causes import MEANING, Cause, State
from router.trust.machine import Change
from router.trust.observations import EventsSeen, Observation, Traits

_log = logging.getLogger(__name__)
_WAITING_MAX = 4096
"""Most answers that wait for their check; more are not checked."""
_CHECKS_PER_TICK = 256
_LOOK_EVERY_S = 0.05
"""Between two requests of a target whose events are looked at; all are compared by what their
answers report."""
_LOOKS = 2
"""Looks at the events before a block counts as missing; the second waits longer."""
_SECOND_LOOK_WAITS = 3
_TROUBLE_S = 1.0
_WORSE = {State.EXACT: 0, State.DEGRADED: 1, State.FALLBACK: 2}


class Expectation(msgspec.Struct, eq=False):
    """What was believed of a request's worker when the request was sent."""

    target: Target
    prompt: Prompt
    matched_tokens: int
    """Predicted in full trust."""
    announced_blocks: int
    events: EventsSeen | None
    """The counts of its worker's events; None if what they say is not looked at."""


class _Answer(msgspec.Struct, eq=False):
    """An answered request whose events are to be looked at."""

    expected: Expectation
    usage: Usage
    traits: Traits
    looks: int = 0


class Verifier:
    """A fleet listener; `tick` is to be called often."""

    def __init__(
        self,
        book: TrustBook,
        index: PrefixIndex,
        plane: EventPlane,
        faults: Faults,
        clock: Clock,
        settings: TrustSettings,
    ) -> None:
        self.book = book
        self._index = index
        self._plane = plane
        self._faults = faults
        self._clock = clock
        self._settings = settings
        self._records: dict[str, WorkerRecord] = {}
        self._waiting: tuple[deque[tuple[float, _Answer]], ...] = (deque(), deque())
        self._troubles: dict[str, EventsSeen] = {}
        self._troubled_s = 0.0
        self._next_s: dict[str, float] = {}
        """When a target's next request is to be looked at closely."""

    def joined(self, record: WorkerRecord) -> None:
        """Nothing is proven of a worker that is new."""
        ranks = {source.rank for source in record.events}
        for target in targets_of(record):
            self._records[target.target_id] = record
            announces = (target.rank or 0) in ranks
            self.book.add(target.target_id, announces=announces)
            if not announces:
                _log.info("%s %s", target.target_id, MEANING[Cause.NO_EVENTS])

    def left(self, record: WorkerRecord) -> None:
        for target in targets_of(record):
            self._records.pop(target.target_id, None)
            self._troubles.pop(target.target_id, None)
            self._next_s.pop(target.target_id, None)
            self.book.remove(target.target_id)

    def counts_tokens(self, record: WorkerRecord | None) -> bool:
        """Whether prompts for the worker are counted as its engine counts them, as is known."""
        if record is None:
            return False
        return self.book.counts_tokens(target.target_id for target in targets_of(record))

    def expect(self, assignment: Assignment) -> Expectation | None:
        """What to compare the answer with, if anything; to be called when the request is sent."""
        target, prompt = assignment.target, assignment.job.prompt
        if not (prompt.exact or assignment.predicted_tokens):
            return None
        try:
            scale = self.book.credit_scale(target.target_id)
            matched = round(assignment.predicted_tokens / scale) if scale else 0
            if not (prompt.exact and self._is_turn_of(target.target_id)):
                return Expectation(target, prompt, matched, 0, None)
            return self.expectation(target, prompt, matched)
        except Exception as error:
            self._faults.caught(Part.TRUST, error)
            return None

    def _is_turn_of(self, target_id: str) -> bool:
        """Whether one more request of the target may be looked at closely."""
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s.get(target_id, 0.0):
            return False
        self._next_s[target_id] = now_s + _LOOK_EVERY_S
        return True

    def expectation(self, target: Target, prompt: Prompt, matched_tokens: int) -> Expectation:
        """The same for a prompt that is sent to `target` by whoever asks."""
        events = self._events(target.target_id) if prompt.exact else None
        announced = 0
        if events is not None and matched_tokens:
            hashes = prompt.hashes(target.record.block_size)
            announced = self._index.truth_depth(target.target_id, hashes)
        return Expectation(target, prompt, matched_tokens, announced, events)

    def answered(self, expected: Expectation, body: EngineBody, usage: Usage) -> None:
        """The request was answered whole."""
        matched, cached = expected.matched_tokens, usage.cached_tokens
        if not expected.prompt.exact and (not matched or cached is None):
            return
        try:
            self.take(expected, usage, traits_of(body))
        except Exception as error:
            self._faults.caught(Part.TRUST, error)

    def take(self, expected: Expectation, usage: Usage, traits: Traits) -> None:
        """The same with the request's traits given."""
        target_id, cached = expected.target.target_id, usage.cached_tokens
        if target_id not in self._records:
            return
        if cached is not None and expected.matched_tokens and not traits.computes_all:
            change = self.book.reused(target_id, expected.matched_tokens, cached)
            self._tell(target_id, change)
        if not expected.prompt.exact or usage.prompt_tokens < 1:
            return
        answer = _Answer(expected, usage, traits)
        if usage.prompt_tokens != expected.prompt.tokens:
            self._conclude(answer, None)
        elif expected.events is None:
            return
        elif len(self._waiting[0]) < _WAITING_MAX:
            due_s = self._clock.monotonic_s() + self._settings.check_after_s
            self._waiting[0].append((due_s, answer))

    def conclude(self, expected: Expectation, usage: Usage, traits: Traits) -> None:
        """An answer to be checked at once."""
        with self._faults.contained(Part.TRUST):
            if expected.matched_tokens and usage.cached_tokens is not None:
                change = self.book.reused(
                    expected.target.target_id, expected.matched_tokens, usage.cached_tokens
                )
                self._tell(expected.target.target_id, change)
            self._conclude(_Answer(expected, usage, traits), self.found_blocks(expected))

    def follows(self, target_id: str) -> bool:
        """Whether the target's events are heard, and nothing of them is awaited now."""
        subscription = self._plane.subscription(target_id)
        if subscription is None or not subscription.counters.sessions:
            return False
        return not (subscription.feed.suspended or subscription.feed.replaying)

    def tick(self) -> None:
        """Checks the answers whose time has come, and looks at what came of events."""
        now_s = self._clock.monotonic_s()
        for waiting in self._waiting:
            for _ in range(_CHECKS_PER_TICK):
                if not waiting or waiting[0][0] > now_s:
                    break
                with self._faults.contained(Part.TRUST):
                    self._look(waiting.popleft()[1], now_s)
        if now_s - self._troubled_s >= _TROUBLE_S:
            self._troubled_s = now_s
            with self._faults.contained(Part.TRUST):
                self._look_for_trouble()

    def found_blocks(self, expected: Expectation) -> int | None:
        """The prompt's leading blocks that its worker's events name; None if they are in doubt."""
        target_id = expected.target.target_id
        subscription = self._plane.subscription(target_id)
        if subscription is None or subscription.feed.suspended:
            return None
        hashes = expected.prompt.hashes(expected.target.record.block_size)
        return self._index.truth_depth(target_id, hashes)

    def _look(self, answer: _Answer, now_s: float) -> None:
        expected = answer.expected
        if expected.target.target_id not in self._records:
            return
        answer.looks += 1
        found = self.found_blocks(expected)
        full = self._aligned(expected, expected.prompt.tokens // _block_size(expected))
        missing = found is not None and found < full
        if missing and answer.looks < _LOOKS and len(self._waiting[1]) < _WAITING_MAX:
            wait_s = self._settings.check_after_s * _SECOND_LOOK_WAITS
            self._waiting[1].append((now_s + wait_s, answer))
            return
        self._conclude(answer, found)

    def _conclude(self, answer: _Answer, found: int | None) -> None:
        expected, usage = answer.expected, answer.usage
        target_id = expected.target.target_id
        events = EventsSeen()
        if expected.events is not None:
            events = (self._events(target_id) or expected.events).since(expected.events)
        record = expected.target.record
        full = expected.prompt.tokens // _block_size(expected)
        reusable = self._aligned(expected, full)
        if found is not None and found >= reusable:
            found = full if reusable else None  # nothing to be found proves nothing
        seen = Observation(
            prompt_tokens=expected.prompt.tokens,
            engine_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            block_size=_block_size(expected),
            announced_blocks=expected.announced_blocks,
            matched_blocks=expected.matched_tokens // _block_size(expected),
            found_blocks=found,
            events=events,
            blocks_max=record.kv_blocks,
            traits=answer.traits,
        )
        self._tell(target_id, self.book.observe(target_id, seen))

    def _aligned(self, expected: Expectation, blocks: int) -> int:
        """So many blocks, less those that its engine does not reuse of them."""
        return self._index.reused_of(expected.target.target_id, blocks)

    def _look_for_trouble(self) -> None:
        for target_id, subscription in self._plane.subscriptions().items():
            now = events_seen(subscription)
            before, self._troubles[target_id] = self._troubles.get(target_id, now), now
            self._tell(target_id, self.book.trouble(target_id, now.since(before)))

    def _events(self, target_id: str) -> EventsSeen | None:
        subscription = self._plane.subscription(target_id)
        return events_seen(subscription) if subscription is not None else None

    def _tell(self, target_id: str, change: Change | None) -> None:
        """Says what has changed, and makes it so."""
        record = self._records.get(target_id)
        if change is None or record is None:
            return
        worse = _WORSE[change.after] > _WORSE[change.before] or change.cause is not Cause.NONE
        _log.log(
            logging.WARNING if worse else logging.INFO,
            "trust in %s (%s): %s -> %s after %d checks, likely cause: %s (%s)",
            target_id,
            record.model,
            change.before.value,
            change.after.value,
            change.checks,
            change.cause.value,
            MEANING[change.cause],
        )
        self._index.distrust(target_id, change.after is State.FALLBACK)
        if change.cause is Cause.DEAD_BLOCKS:
            subscription = self._plane.subscription(target_id)
            if subscription is not None:
                subscription.feed.blocks.clear()


def traits_of(body: EngineBody) -> Traits:
    """What kind of request a body is."""
    fields = body.fields
    ids = isinstance(body, CompletionBody) and not isinstance(body.first_prompt, str)
    return Traits(
        chat=isinstance(body, ChatBody),
        text=not ids,
        tools=bool(fields.get("tools")),
        several=body.n > 1,
        computes_all=bool(fields.get("prompt_logprobs"))
        or bool(fields.get("echo") and fields.get("logprobs")),
    )


def events_seen(subscription: Subscription) -> EventsSeen:
    """All that one target's events have brought."""
    feed, blocks = subscription.feed.counters, subscription.feed.blocks.counters
    return EventsSeen(
        batches=feed.batches,
        stored=blocks.stored,
        removed=blocks.removed,
        mismatched=blocks.mismatched,
        unknown_parent=blocks.unknown_parent,
        not_text=blocks.not_text,
        adapted=blocks.adapted,
        salted=blocks.salted,
        undecodable=feed.undecodable,
        unknown_events=blocks.unknown_events,
        conflicts=blocks.conflicts,
        lost=feed.gaps + feed.replays_failed + feed.restarts,
        cleared=blocks.clears,
    )


def _block_size(expected: Expectation) -> int:
    return expected.prompt.block_tokens(expected.target.record.block_size)
