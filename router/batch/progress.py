"""Moves batches from one state to the next; any runner may do any step, again after a crash.

Each step reads what is stored, does work that is harmless when repeated, and writes the next state
by compare-and-set. The order inside a step makes it safe to be killed anywhere:

    validating   count the lines                          -> in_progress, or failed
    in_progress  put the lines into the queue             -> (expanded)
                 every line has a result, or time is up   -> finalizing, with the ids of its files
    cancelling   the same, for what is done               -> (with the ids of its files)
    finalizing   freeze the results, write files under those ids, then their records
                                                          -> completed, expired or cancelled
    ended        forget results and the note that runners look for
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from rhizome.clock import Clock
from rhizome.errors import UnknownObject
from rhizome.ids import new_id
from rhizome.settings.cluster import BatchSettings
from rhizome.stores.lease import Lease
from rhizome.stores.lines import Line, LineQueue, LineResult
from router.batch.catalog import Catalog, OpenBatch
from router.batch.contents import Contents
from router.batch.input import InputReader, LineFault, count_lines
from router.batch.outputs import not_answered
from router.batch.records import BatchFault, BatchRecord, BatchStatus
from router.batch.writing import ResultsGone, ResultWriter

_log = logging.getLogger(__name__)
_QUEUED_LINES_MAX = 10_000
"""Expansion waits while this many lines are queued, so that the store's memory is bounded."""
_EXPANSION_PAUSE_S = 0.2
_ORPHAN_AGE_S = 60.0
"""A note without a batch is a creation that failed half way, once it is this old."""
_GONE = "the input file was removed, or routers and runners do not share batch.directory"
_RUNNING = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the steps work on."""

    catalog: Catalog
    contents: Contents
    lines: LineQueue
    lease: Lease
    clock: Clock
    settings: BatchSettings


class Progress:
    """The steps, done in the name of `runner_id`; raises `StoreUnavailable` as the stores do."""

    def __init__(self, place: Workplace, runner_id: str) -> None:
        self._place = place
        self._runner_id = runner_id
        self._writer = ResultWriter(place.contents, place.lines)

    async def step(self, note: OpenBatch) -> None:
        """Takes the batch as far as it can go now, unless another runner is at it."""
        lease, name = self._place.lease, _lease_name(note.batch_id)
        if not await lease.acquire(name, self._runner_id, self._place.settings.lease_s):
            return
        try:
            await self._advance(note)
        finally:
            await lease.release(name, self._runner_id)

    async def _advance(self, note: OpenBatch) -> None:
        try:
            record = await self._place.catalog.batch(note.batch_id)
        except UnknownObject:
            if self._place.clock.wall_s() - note.created_at > _ORPHAN_AGE_S:
                await self._place.catalog.forget_open(note.batch_id)
            return
        if record.status is BatchStatus.VALIDATING:
            record = await self._validate(record)
        if record.status is BatchStatus.IN_PROGRESS:
            record = await self._run(record)
        if record.status is BatchStatus.CANCELLING:
            record = await self._plan_ending(record, BatchStatus.CANCELLED)
        if record.ending is not None and not record.status.ended:
            record = await self._finish(record, record.ending)
        if record.status.ended:
            await self._place.lines.discard(record.batch_id)
            await self._place.catalog.forget_open(record.batch_id)

    async def _validate(self, record: BatchRecord) -> BatchRecord:
        lines_max = self._place.settings.lines_max
        line_bytes_max = self._place.settings.line_bytes_max
        path = self._place.contents.path(record.input_file_id)
        fault = None
        lines = 0
        try:
            lines = await asyncio.to_thread(count_lines, path, line_bytes_max, lines_max)
        except FileNotFoundError as error:
            _log.warning("the input of %s is gone: %s", record.batch_id, error)
            fault = BatchFault(code="file_not_found", message=_GONE)
        if fault is None and lines == 0:
            fault = BatchFault(code="empty_file", message="the input file has no lines")
        if lines > lines_max:
            fault = BatchFault(
                code="too_many_tasks",
                message=f"the input file has more than {lines_max} lines (batch.lines_max)",
            )
        return await self._place.catalog.change_batch(
            record.batch_id, lambda stored: _validated(stored, lines, fault, self._now())
        )

    async def _run(self, record: BatchRecord) -> BatchRecord:
        """Expands the batch, and plans its end when every line has a result or time is up."""
        if self._is_late(record):
            return await self._plan_ending(record, BatchStatus.EXPIRED)
        if not record.expanded:
            record = await self._expand(record)
        if record.status is BatchStatus.IN_PROGRESS and record.expanded:
            counts = await self._place.lines.counts(record.batch_id)
            if counts.stored >= record.lines:
                return await self._plan_ending(record, BatchStatus.COMPLETED)
        return record

    async def _expand(self, record: BatchRecord) -> BatchRecord:
        """Puts the lines into the queue; begins again where an earlier expansion ended."""
        first = await self._place.lines.enqueued(record.batch_id)
        chunks = self._reader(record).chunks()
        try:
            while chunk := await asyncio.to_thread(next, chunks, None):
                await self._enqueue(record.batch_id, [one for one in chunk if one.index >= first])
                stored = await self._wait_for_room(record.batch_id)
                if stored.status is not BatchStatus.IN_PROGRESS or self._is_late(stored):
                    return stored
        except FileNotFoundError as error:
            _log.warning("the input of %s is gone: %s", record.batch_id, error)
            fault = BatchFault(code="file_not_found", message=_GONE)
            return await self._place.catalog.change_batch(
                record.batch_id, lambda stored: _failed(stored, fault, self._now())
            )
        return await self._place.catalog.change_batch(record.batch_id, _expanded)

    async def _enqueue(self, batch_id: str, chunk: list[Line | LineFault]) -> None:
        # Faults first: a line that is queued tells a later expansion that all before it is done.
        faults = [one for one in chunk if isinstance(one, LineFault)]
        if faults:
            await self._place.lines.settle(
                batch_id, [(one.index, _fault_result(batch_id, one)) for one in faults]
            )
        lines = [one for one in chunk if isinstance(one, Line)]
        if lines:
            await self._place.lines.enqueue(batch_id, lines)

    async def _wait_for_room(self, batch_id: str) -> BatchRecord:
        """Waits until the queue has room or the batch is not to be run any more."""
        while True:
            await self._keep_lease(batch_id)
            record = await self._place.catalog.batch(batch_id)
            full = await self._place.lines.depth() >= _QUEUED_LINES_MAX
            running = record.status is BatchStatus.IN_PROGRESS and not self._is_late(record)
            if not full or not running:
                return record
            await self._place.clock.sleep(_EXPANSION_PAUSE_S)

    async def _plan_ending(self, record: BatchRecord, ending: BatchStatus) -> BatchRecord:
        output_id, error_id, now = new_id("file"), new_id("file"), self._now()

        def planned(stored: BatchRecord) -> BatchRecord | None:
            cancelling = stored.status is BatchStatus.CANCELLING
            if stored.ending is not None or stored.status.ended:
                return None
            if cancelling and ending is not BatchStatus.CANCELLED:
                return None
            return msgspec.structs.replace(
                stored,
                status=stored.status if cancelling else BatchStatus.FINALIZING,
                ending=ending,
                planned_output_id=output_id,
                planned_error_id=error_id,
                finalizing_at=None if cancelling else now,
            )

        return await self._place.catalog.change_batch(record.batch_id, planned)

    async def _finish(self, record: BatchRecord, ending: BatchStatus) -> BatchRecord:
        if ending is BatchStatus.EXPIRED:
            await self._expire_rest(record)
        await self._place.lines.close(record.batch_id)
        counts = await self._place.lines.counts(record.batch_id)
        try:
            written = await self._writer.write(
                record, counts.stored, lambda: self._keep_lease(record.batch_id)
            )
        except ResultsGone as error:
            _log.warning("left to another runner: %s", error)
            return await self._place.catalog.batch(record.batch_id)
        for file in written.files(record, self._now()):
            await self._place.catalog.add_file(file)
        now = self._now()

        def ended(stored: BatchRecord) -> BatchRecord | None:
            if stored.status.ended:
                return None
            return msgspec.structs.replace(
                stored,
                status=ending,
                results=counts,
                output_file_id=record.planned_output_id if written.output_bytes else None,
                error_file_id=record.planned_error_id if written.error_bytes else None,
                completed_at=now if ending is BatchStatus.COMPLETED else None,
                expired_at=now if ending is BatchStatus.EXPIRED else None,
                cancelled_at=now if ending is BatchStatus.CANCELLED else None,
            )

        _log.info("batch %s is %s", record.batch_id, ending.value)
        return await self._place.catalog.change_batch(record.batch_id, ended)

    async def _expire_rest(self, record: BatchRecord) -> None:
        """Gives every line without a result the one that its time is up."""
        message = "the batch's completion window ended before this line was done"
        chunks = self._reader(record).chunks()
        try:
            while chunk := await asyncio.to_thread(next, chunks, None):
                results = [
                    (
                        one.index,
                        not_answered(
                            record.batch_id, one.index, one.custom_id, "batch_expired", message
                        ),
                    )
                    for one in chunk
                ]
                await self._place.lines.settle(record.batch_id, results)
                await self._keep_lease(record.batch_id)
        except FileNotFoundError as error:
            _log.warning("the input of %s is gone: %s", record.batch_id, error)

    async def _keep_lease(self, batch_id: str) -> None:
        """Renews the lease on the batch; losing it costs double work, not a double result."""
        await self._place.lease.renew(
            _lease_name(batch_id), self._runner_id, self._place.settings.lease_s
        )

    def _reader(self, record: BatchRecord) -> InputReader:
        path = self._place.contents.path(record.input_file_id)
        return InputReader(
            path, record.batch_id, record.endpoint, self._place.settings.line_bytes_max
        )

    def _is_late(self, record: BatchRecord) -> bool:
        return self._now() >= record.expires_at

    def _now(self) -> int:
        return int(self._place.clock.wall_s())


def _lease_name(batch_id: str) -> str:
    return f"batch:{batch_id}"


def _validated(
    stored: BatchRecord, lines: int, fault: BatchFault | None, now: int
) -> BatchRecord | None:
    if stored.status is not BatchStatus.VALIDATING:
        return None
    if fault is not None:
        return _failed(stored, fault, now)
    return msgspec.structs.replace(
        stored, status=BatchStatus.IN_PROGRESS, in_progress_at=now, lines=lines
    )


def _failed(stored: BatchRecord, fault: BatchFault, now: int) -> BatchRecord | None:
    if stored.status not in _RUNNING:
        return None
    return msgspec.structs.replace(
        stored, status=BatchStatus.FAILED, failed_at=now, faults=(fault,)
    )


def _expanded(stored: BatchRecord) -> BatchRecord | None:
    if stored.status is not BatchStatus.IN_PROGRESS or stored.expanded:
        return None
    return msgspec.structs.replace(stored, expanded=True)


def _fault_result(batch_id: str, fault: LineFault) -> LineResult:
    return not_answered(batch_id, fault.index, fault.custom_id, fault.code, fault.message)
