"""Warms workers that come with an empty cache: holds them back, replays, lets them in.

A worker is new when its incarnation was not seen before. Nothing here is a fault of the worker or
a condition of its service: whatever goes wrong, it is let in, at the latest after `deadline_s`,
and as soon as requests wait in line for its model. With several routers one of them replays, by a
lease in the store, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp
import msgspec

from rhizome.clock import Clock
from rhizome.errors import StoreUnavailable
from rhizome.fleet.records import WorkerRecord
from rhizome.ids import new_id
from rhizome.settings.tree import WarmupSettings
from rhizome.stores.lease import Lease
from rhizome.tasks import Tasks
from router.discovery.asking import Asker, WorkerSilent
from router.dispatch import Dispatcher
from router.fleet import Fleet, Target, targets_of
from router.gate import Gate
from router.warmup.hot import Replay
from router.warmup.metrics import WarmupMetrics
from router.warmup.noting import PrefixNotes

_log = logging.getLogger(__name__)
_LOOK_S = 0.25
_DONE_TTL_S = 600.0
_SEEN_MAX = 16_384
_ANSWER_BYTES_MAX = 2**20
_FAILURES_MAX = 3
_PRIORITY = 1_000_000
"""vLLM: the higher, the later; refused by engines that do not schedule by priority."""


class WarmupEnd(StrEnum):
    """How a warm-up ended; fit for a metric label."""

    WARM = "warm"
    ELSEWHERE = "elsewhere"
    """Another router did it."""
    DEADLINE = "deadline"
    NEEDED = "needed"
    """Requests were waiting for a worker: a cold one now is better than a warm one later."""
    FAILED = "failed"
    LEFT = "left"
    """The worker was gone before its warm-up was over."""


@dataclass(slots=True)
class _Progress:
    prefixes: int = 0
    tokens: int = 0
    failures: int = 0
    with_priority: bool = True
    end: WarmupEnd = WarmupEnd.WARM


@dataclass(slots=True)
class Warmer:
    """A fleet listener, and the owner of all warm-ups of this router."""

    fleet: Fleet
    notes: PrefixNotes
    dispatcher: Dispatcher
    gate: Gate
    metrics: WarmupMetrics
    session: aiohttp.ClientSession
    lease: Lease
    settings: WarmupSettings
    clock: Clock
    _holder: str = field(default_factory=lambda: new_id("warmer"))
    _seen: dict[tuple[str, str], None] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _tasks: Tasks = field(default_factory=lambda: Tasks("warm-up"))

    async def run(self) -> None:
        """Warms whatever joins, until cancelled."""
        async with self._tasks:
            self.fleet.listen(self)
            await asyncio.Event().wait()

    def joined(self, record: WorkerRecord) -> None:
        """Begins a warm-up if the worker is new and something is worth replaying."""
        life = (record.worker_id, record.incarnation)
        if life in self._seen or not self.settings.enabled:
            return
        self._seen[life] = None
        if len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        if self.notes.chosen(record, self.clock.monotonic_s()):
            self.fleet.hold(record.worker_id, record.incarnation)
            self._running[record.worker_id] = self._tasks.start(
                record.worker_id, self._warm(record)
            )

    def left(self, record: WorkerRecord) -> None:
        """Ends the worker's warm-up."""
        task = self._running.pop(record.worker_id, None)
        if task is not None:
            task.cancel()

    async def _warm(self, record: WorkerRecord) -> None:
        begun_s = self.clock.monotonic_s()
        progress = _Progress()
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                progress.end = await self._claim(record)
                if progress.end is WarmupEnd.WARM:
                    await self._replay_all(record, progress)
                    await self._tell_done(record)
        except TimeoutError:
            progress.end = WarmupEnd.DEADLINE
        except asyncio.CancelledError:
            progress.end = WarmupEnd.LEFT
            raise
        finally:
            self.fleet.admit(record.worker_id, record.incarnation)
            seconds = self.clock.monotonic_s() - begun_s
            self.metrics.ended(record.model, progress.end.value, progress.tokens, seconds)
            _log.info(
                "worker %s takes requests after a warm-up of %.2f s (%s): %d prefixes, %d tokens",
                record.worker_id,
                seconds,
                progress.end.value,
                progress.prefixes,
                progress.tokens,
            )

    async def _claim(self, record: WorkerRecord) -> WarmupEnd:
        """Waits until this router may warm the worker, or need not; `WARM` if it is to do it."""
        claim, done = _lease_names(record)
        while not self.gate.waiting(record.model):
            try:
                if await self.lease.holder(done) is not None:
                    return WarmupEnd.ELSEWHERE
                if await self.lease.acquire(claim, self._holder, self.settings.deadline_s):
                    return WarmupEnd.WARM
            except StoreUnavailable:
                return WarmupEnd.WARM
            await self.clock.sleep(_LOOK_S)
        return WarmupEnd.NEEDED

    async def _tell_done(self, record: WorkerRecord) -> None:
        claim, done = _lease_names(record)
        try:
            await self.lease.acquire(done, self._holder, _DONE_TTL_S)
            await self.lease.release(claim, self._holder)
        except StoreUnavailable as error:
            _log.debug("others cannot be told of a warm-up: %s", error)

    async def _replay_all(self, record: WorkerRecord, progress: _Progress) -> None:
        replays = self.notes.chosen(record, self.clock.monotonic_s())
        todo = iter([(target, one) for one in replays for target in targets_of(record)])
        async with Tasks(f"warm-up:{record.worker_id}") as tasks:
            at_once = [
                tasks.start(f"replay-{number}", self._replay_next(todo, progress))
                for number in range(self.settings.concurrency)
            ]
            await asyncio.wait(at_once)

    async def _replay_next(
        self, todo: Iterator[tuple[Target, Replay]], progress: _Progress
    ) -> None:
        """One replay after the other, as long as there is a point in it."""
        for target, replay in todo:
            if self.gate.waiting(target.record.model):
                progress.end = WarmupEnd.NEEDED
            if progress.end is not WarmupEnd.WARM:
                return
            problem = await self._replay(target, replay, progress)
            if problem is None:
                progress.prefixes += 1
                progress.tokens += replay.tokens
                self._believe(target, replay)
                continue
            progress.failures += 1
            _log.warning("worker %s refused a replay: %s", target.target_id, problem)
            if progress.failures >= _FAILURES_MAX:
                progress.end = WarmupEnd.FAILED

    def _believe(self, target: Target, replay: Replay) -> None:
        """Lets the index know, where the blocks are as large as the target's."""
        origin, record = replay.origin, target.record
        if origin.block_bytes:
            self.dispatcher.believe(target, replay.hashes, is_exact=False)
        elif record.block_size in (None, origin.block_tokens):
            self.dispatcher.believe(target, replay.hashes, is_exact=bool(record.events))

    async def _replay(self, target: Target, replay: Replay, progress: _Progress) -> str | None:
        """Sends one; says what went wrong, in words without any of the prompt."""
        record = target.record
        asker = Asker(self.session, record.url, record.api_key, self.settings.deadline_s)
        headers = {"x-request-id": new_id("warmup")}
        if target.rank is not None:
            headers["x-data-parallel-rank"] = str(target.rank)
        try:
            status = 400
            if progress.with_priority:
                body = _body(replay, _PRIORITY)
                status, _ = await asker.post("/v1/completions", body, _ANSWER_BYTES_MAX, headers)
                progress.with_priority = status != 400
            if status == 400:
                body = _body(replay, None)
                status, _ = await asker.post("/v1/completions", body, _ANSWER_BYTES_MAX, headers)
        except WorkerSilent as silent:
            return str(silent)
        return None if status == 200 else f"/v1/completions answered {status}"


def _lease_names(record: WorkerRecord) -> tuple[str, str]:
    """Of the claim to warm the incarnation, and of the word that it is done."""
    name = f"{record.worker_id}:{record.incarnation}"
    return f"warming:{name}", f"warmed:{name}"


def _body(replay: Replay, priority: int | None) -> bytes:
    """A completion of one token; what it generates is thrown away."""
    prompt: Sequence[int] | str
    if isinstance(replay.units, bytes):
        prompt = replay.units.decode("utf-8", "ignore")
    else:
        prompt = list(replay.units)
    fields = {"model": replay.origin.model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    if replay.origin.salt is not None:
        fields["cache_salt"] = replay.origin.salt
    if priority is not None:
        fields["priority"] = priority
    return msgspec.json.encode(fields)
