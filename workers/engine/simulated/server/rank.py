"""One data-parallel rank: a scheduler that runs against the clock, and what comes out of it.

The rank tells the scheduler the time, hands out tokens when their step has ended, and publishes
what changed in the cache. It uses timers, not tasks: between steps nothing runs.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence

import xxhash

from rhizome.wire.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent
from workers.engine.simulated.cache import CacheEvent, Removed, Stored
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest, Step
from workers.engine.simulated.scheduler import Scheduler
from workers.engine.simulated.server.events import Publisher
from workers.engine.simulated.server.pace import Pace
from workers.engine.simulated.server.script import Script
from workers.engine.simulated.server.stats import RankStats

_KEY_SEED = 0x51D0
Deliver = Callable[["Choice", int, int], None]
"""Told that output tokens `first` to `end` of a choice are there."""


class Choice:
    """One sequence in the engine: what it says, and how far it has got."""

    __slots__ = (
        "adapter",
        "added_s",
        "cached_tokens",
        "deliver",
        "delivered",
        "first_s",
        "index",
        "keys",
        "last_s",
        "name",
        "prompt_index",
        "reads_cache",
        "root",
        "salt",
        "script",
        "session_id",
        "started_s",
    )

    def __init__(self, name: str, index: int, prompt_index: int, script: Script) -> None:
        self.name = name
        self.index = index
        self.prompt_index = prompt_index
        """Which of the request's prompts it continues."""
        self.script = script
        self.deliver: Deliver = _nobody
        self.adapter: tuple[int, str] | None = None
        """The LoRA adapter's number and name."""
        self.salt: str | None = None
        """The cache salt."""
        self.session_id: str | None = None
        self.reads_cache = True
        """Whether its prompt may be found in the cache."""
        self.root = 0
        self.keys: list[int] = []
        """The chained keys of its full blocks so far."""
        self.cached_tokens = 0
        self.delivered = 0
        self.added_s = self.started_s = self.first_s = self.last_s = 0.0

    def key_of(self, block: int, size: int) -> int:
        """The key of a full block; keys are opaque to whoever reads the events."""
        if len(self.keys) <= block:
            self.script.ensure((block + 1) * size)
            extend_keys(self.keys, self.root, self.script.tokens, size, block + 1)
        return self.keys[block]


def root_key(adapter: str | None, salt: str | None) -> int:
    """What a chain of keys begins with: caches of other adapters and salts are apart."""
    return xxhash.xxh3_64_intdigest(repr((adapter, salt)).encode(), seed=_KEY_SEED)


def extend_keys(keys: list[int], root: int, tokens: Sequence[int], size: int, blocks: int) -> None:
    """Appends the keys of the blocks after those known, up to `blocks` in all."""
    known = len(keys)
    data = array("I", tokens[known * size : blocks * size]).tobytes()
    parent = keys[-1] if keys else root
    digest, width = xxhash.xxh3_64_intdigest, 4 * size
    for start in range(0, len(data), width):
        parent = digest(parent.to_bytes(8, "little") + data[start : start + width], seed=_KEY_SEED)
        keys.append(parent)


class Rank:
    """One scheduler behind the clock."""

    def __init__(self, profile: EngineProfile, pace: Pace, publisher: Publisher | None) -> None:
        self.profile = profile
        self.scheduler = Scheduler(profile, fuse=False)
        self.publisher = publisher
        self.stats = RankStats(profile.max_model_len)
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._choices: dict[str, Choice] = {}
        self._aborted: Choice | None = None
        """The one whose last blocks are being told about."""
        self._late_s = profile.token_overhead_ms / 1000

    @property
    def in_flight(self) -> int:
        return len(self._choices)

    def submit(self, choice: Choice, priority: int) -> None:
        """Queues a choice that fits the engine; tokens come through `choice.deliver`."""
        size = self.profile.block_size
        script = choice.script
        extend_keys(choice.keys, choice.root, script.tokens, size, script.prompt_len // size)
        self._advance()
        now_s = self._pace.now_s()
        choice.added_s = now_s
        self._choices[choice.name] = choice
        self.scheduler.add(
            SimRequest(
                request_id=choice.name,
                prompt_len=script.prompt_len,
                block_keys=tuple(choice.keys),
                output_len=script.length,
                arrival_s=now_s,
                priority=priority,
                reads_cache=choice.reads_cache,
                decode_key=lambda block: choice.key_of(block, size),
            )
        )
        self._arm()

    def abort(self, choice: Choice) -> None:
        """Ends a choice whose client left; nothing happens if it has ended."""
        self._advance()
        if self._choices.pop(choice.name, None) is None:
            return
        self._aborted = choice
        self.scheduler.abort(choice.name)
        self._publish(self.scheduler.take_events())
        self._aborted = None
        self._arm()

    def restart(self) -> None:
        """An empty engine, as a new process would be; whatever ran is forgotten."""
        self.pause()
        self.scheduler = Scheduler(self.profile, fuse=False)
        self.stats = RankStats(self.profile.max_model_len)
        self._choices.clear()
        if self.publisher is not None:
            self.publisher.restart()

    def clear_cache(self) -> bool:
        """Forgets all prefixes if nothing runs; whether it did."""
        cleared = self.scheduler.clear_cache()
        self._publish(self.scheduler.take_events())
        return cleared

    def pause(self) -> None:
        """Engine time has stopped, or is about to change its pace."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Engine time goes on."""
        self._arm()

    def _wake(self) -> None:
        self._timer = None
        self._advance()
        self._arm()

    def _arm(self) -> None:
        self.pause()
        if self._pace.stopped:
            return
        ends_s = self.scheduler.next_event_s()
        if ends_s is not None:
            self._timer = self._loop.call_later(self._pace.wait_s(ends_s), self._wake)

    def _advance(self) -> None:
        for step in self.scheduler.advance(self._pace.now_s()):
            self._finish_step(step)

    def _finish_step(self, step: Step) -> None:
        choices, stats = self._choices, self.stats
        for started in step.started:
            choice = choices.get(started.request_id)
            if choice is not None:
                choice.cached_tokens = started.cached_tokens
                choice.started_s = step.start_s
                if choice.reads_cache:
                    stats.prefix_queries += choice.script.prompt_len
                stats.prefix_hits += started.cached_tokens
        stats.preemptions += len(step.preempted)
        if step.events:
            self._publish(step.events)
        if self._late_s:
            self._loop.call_later(self._late_s, self._hand_out, step)
        else:
            self._hand_out(step)

    def _hand_out(self, step: Step) -> None:
        choices, stats, end_s = self._choices, self.stats, step.end_s
        stats.step_tokens.observe(step.prefill_tokens + len(step.tokens))
        between = stats.between_tokens
        for name, count in step.tokens.items():
            choice = choices.get(name)
            if choice is None:
                continue
            first = choice.delivered
            choice.delivered = end = first + count
            stats.generation_tokens += count
            if first:
                between.observe(end_s - choice.last_s)
            else:
                choice.first_s = end_s
                stats.prompt_tokens += choice.script.prompt_len
                stats.cached_tokens += choice.cached_tokens
                stats.first_token.observe(end_s - choice.added_s)
            choice.last_s = end_s
            if end == choice.script.length:
                self._record_end(choice)
                del choices[name]
            choice.deliver(choice, first, end)

    def _record_end(self, choice: Choice) -> None:
        stats, script = self.stats, choice.script
        stats.finished[script.finish_reason] += 1
        stats.prompt_sizes.observe(script.prompt_len)
        stats.output_sizes.observe(script.length)
        stats.whole.observe(choice.last_s - choice.added_s)
        stats.prefill.observe(choice.first_s - choice.started_s)
        stats.decode.observe(choice.last_s - choice.first_s)
        stats.inference.observe(choice.last_s - choice.started_s)
        stats.queued.observe(choice.started_s - choice.added_s)
        stats.per_token.observe((choice.last_s - choice.first_s) / max(1, script.length - 1))

    def _publish(self, events: Sequence[CacheEvent]) -> None:
        if events and self.publisher is not None:
            told: list[KVEvent] = []
            for event in events:
                told += self._told(event)
            self.publisher.publish(told)

    def _told(self, event: CacheEvent) -> list[KVEvent]:
        if isinstance(event, Stored):
            return [self._stored(event)]
        if isinstance(event, Removed):
            return [
                BlockRemoved(block_hashes=[_hash(key)], medium="GPU", group_idx=0)
                for key in event.keys
            ]
        return [AllBlocksCleared()]

    def _stored(self, event: Stored) -> BlockStored:
        choice = self._choices.get(event.request_id) or self._aborted
        assert choice is not None, "blocks are told about before their request is forgotten"
        size = self.profile.block_size
        first, end = event.first_block, event.first_block + len(event.keys)
        choice.script.ensure(end * size)
        number, name = choice.adapter or (None, None)
        plain = [name] if name else []
        extras: list[list[str] | None] = [plain or None for _ in event.keys]
        if first == 0 and choice.salt is not None:
            extras[0] = [*plain, choice.salt]
        return BlockStored(
            block_hashes=[_hash(key) for key in event.keys],
            parent_block_hash=None if event.parent is None else _hash(event.parent),
            token_ids=choice.script.tokens[first * size : end * size],
            block_size=size,
            lora_id=number,
            lora_name=name,
            medium="GPU",
            extra_keys=extras,
            group_idx=0,
            kv_cache_spec_kind="full_attention",
            session_id=choice.session_id,
        )


def _hash(key: object) -> int:
    assert isinstance(key, int)
    return key


def _nobody(choice: Choice, first: int, end: int) -> None:
    """Before an answer has taken the choice."""
