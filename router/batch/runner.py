"""The batch runner: takes lines under leases, has each answered, stores each result once.

Many runners may work side by side, and each may be killed at any moment: what it held goes to
another when its leases end. A runner that is told to stop gives its lines back at once. While the
store is away a runner keeps the results it has and goes on when the store is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rhizome.errors import RequestError, StoreUnavailable, UnknownObject
from rhizome.stores.lines import Delivery, LineResult
from rhizome.tasks import Tasks
from router.batch.catalog import OpenBatch
from router.batch.outputs import not_answered
from router.batch.progress import Progress, Workplace
from router.batch.records import BatchStatus
from router.batch.retention import Retention
from router.batch.sender import LineSender

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_IDLE_S = 0.2
_STEP_INTERVAL_S = 0.5
_STORE_RETRY_S = 0.5
_STEPS_AT_ONCE_MAX = 16
_DRAFT_AGE_S = 24 * 3600.0
_RETENTION_INTERVAL_S = 3600.0


@dataclass(slots=True)
class _Held:
    delivery: Delivery
    task: asyncio.Task[None]


class BatchRunner:
    """One runner; `run` it until it is cancelled."""

    def __init__(self, place: Workplace, sender: LineSender, runner_id: str) -> None:
        self._place = place
        self._sender = sender
        self._runner_id = runner_id
        self._progress = Progress(place, runner_id)
        self._retention = Retention(
            place.catalog, place.contents, place.clock, place.settings.retention_s
        )
        self._held: dict[str, _Held] = {}
        self._stepping: set[str] = set()
        self._step_slots = asyncio.Semaphore(_STEPS_AT_ONCE_MAX)
        self._line_ended = asyncio.Event()

    async def run(self) -> None:
        """Works until cancelled; raises what a part of it failed with."""
        loops = (
            self._take_lines,
            self._renew_leases,
            self._stop_unwanted,
            self._step_batches,
            self._forget_old,
        )
        await asyncio.to_thread(
            self._place.contents.sweep, self._place.clock.wall_s() - _DRAFT_AGE_S
        )
        held: list[str] = []
        try:
            async with Tasks("batch-runner") as tasks:
                for loop in loops:
                    tasks.start(loop.__name__, self._repeat(loop, tasks))
                try:
                    raise await tasks.first_failure()
                finally:
                    held = list(self._held)
        finally:
            if held:
                await self._give_back(held)

    async def _repeat(self, loop: Callable[[Tasks], Awaitable[None]], tasks: Tasks) -> None:
        while True:
            try:
                await loop(tasks)
            except RequestError as error:
                _log.debug("%s will be tried again: %s", loop.__name__, error)
                await self._place.clock.sleep(_STORE_RETRY_S)

    async def _forget_old(self, tasks: Tasks) -> None:
        await self._retention.sweep()
        await self._place.clock.sleep(_RETENTION_INTERVAL_S)

    async def _take_lines(self, tasks: Tasks) -> None:
        """Leases as many lines as there are free slots; waits when there is neither."""
        self._line_ended.clear()
        free = self._place.settings.concurrency - len(self._held)
        if free == 0:
            await self._line_ended.wait()
            return
        lease_s = self._place.settings.lease_s
        deliveries = await self._place.lines.lease(self._runner_id, free, lease_s)
        for delivery in deliveries:
            if delivery.receipt in self._held:
                continue  # our own lease had ended while the store was away
            task = tasks.start(f"line-{delivery.receipt}", self._work(delivery))
            self._held[delivery.receipt] = _Held(delivery, task)
            task.add_done_callback(partial(self._forget, delivery.receipt))
        if not deliveries:
            await self._place.clock.sleep(_IDLE_S)

    async def _renew_leases(self, tasks: Tasks) -> None:
        """Renews what is held; a line whose lease was lost is somebody else's now."""
        await self._place.clock.sleep(self._place.settings.lease_s / 4)
        asked = list(self._held)
        if not asked:
            return
        kept = set(await self._place.lines.renew(self._runner_id, asked))
        for receipt in asked:
            held = self._held.get(receipt)
            if receipt not in kept and held is not None:
                _log.warning("lost the lease on line %s", held.delivery.line.index)
                held.task.cancel()

    async def _stop_unwanted(self, tasks: Tasks) -> None:
        """Stops lines whose batch was cancelled or has ended."""
        await self._place.clock.sleep(_STEP_INTERVAL_S)
        for batch_id in {held.delivery.line.batch_id for held in self._held.values()}:
            if await self._wanted(batch_id):
                continue
            for held in list(self._held.values()):
                if held.delivery.line.batch_id == batch_id:
                    held.task.cancel()
                    await self._place.lines.drop(self._runner_id, held.delivery)

    async def _step_batches(self, tasks: Tasks) -> None:
        """Takes every open batch a step further, a few at once."""
        for note in await self._place.catalog.open_batches():
            if note.batch_id not in self._stepping:
                self._stepping.add(note.batch_id)
                tasks.start(f"step-{note.batch_id}", self._step(note))
        await self._place.clock.sleep(_STEP_INTERVAL_S)

    async def _step(self, note: OpenBatch) -> None:
        try:
            async with self._step_slots:
                await self._progress.step(note)
        except RequestError as error:
            _log.debug("batch %s will be tried again: %s", note.batch_id, error)
        except OSError as error:
            _log.error("batch %s cannot go on, will be tried again: %s", note.batch_id, error)
        finally:
            self._stepping.discard(note.batch_id)

    async def _work(self, delivery: Delivery) -> None:
        """One line, from its delivery to its stored result."""
        if not await self._insist(lambda: self._wanted(delivery.line.batch_id)):
            await self._insist(lambda: self._place.lines.drop(self._runner_id, delivery))
        elif delivery.deliveries > self._place.settings.deliveries_max:
            await self._bury(delivery)
        else:
            result = await self._sender.send(delivery.line)
            await self._complete(delivery, result)

    async def _complete(self, delivery: Delivery, result: LineResult) -> None:
        lines = self._place.lines
        if not await self._insist(lambda: lines.complete(self._runner_id, delivery, result)):
            _log.info("line %s had a result already", delivery.line.index)

    async def _bury(self, delivery: Delivery) -> None:
        line = delivery.line
        cause = f"it was handed out {delivery.deliveries - 1} times and never ended"
        result = not_answered(
            line.batch_id, line.index, line.custom_id, "deliveries_exhausted", cause
        )
        _log.error("line %s of %s is given up: %s", line.index, line.batch_id, cause)
        await self._insist(lambda: self._place.lines.bury(self._runner_id, delivery, cause, result))

    async def _wanted(self, batch_id: str) -> bool:
        try:
            record = await self._place.catalog.batch(batch_id)
        except UnknownObject:
            return False
        return record.status is BatchStatus.IN_PROGRESS

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """The store's answer, however long the store is away."""
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await self._place.clock.sleep(_STORE_RETRY_S)

    async def _give_back(self, receipts: list[str]) -> None:
        """Lets others have what was held."""
        try:
            await self._place.lines.release(self._runner_id, receipts)
        except StoreUnavailable as error:
            _log.warning("%s lines wait for their leases to end: %s", len(receipts), error)

    def _forget(self, receipt: str, task: asyncio.Task[None]) -> None:
        del self._held[receipt]
        self._line_ended.set()
