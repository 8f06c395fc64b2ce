"""What `/v1/batches` does, apart from HTTP: it notes what is asked and shows how far it is."""

from __future__ import annotations

from typing import Any

import msgspec

from rhizome.clock import Clock
from rhizome.errors import Conflict, InvalidRequest
from rhizome.ids import new_id
from rhizome.stores.lines import LineQueue
from router.batch.catalog import Catalog
from router.batch.records import (
    COMPLETION_WINDOW,
    COMPLETION_WINDOW_S,
    ENDPOINTS,
    BatchRecord,
    BatchStatus,
)

_METADATA_MAX = 16
_METADATA_KEY_MAX = 64
_METADATA_VALUE_MAX = 512
_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
_COUNTED_BY_QUEUE = (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING)


class NewBatch(msgspec.Struct):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str = COMPLETION_WINDOW
    metadata: dict[str, str] | None = None


class Batches:
    """Batches by id."""

    def __init__(self, catalog: Catalog, lines: LineQueue, clock: Clock) -> None:
        self._catalog = catalog
        self._lines = lines
        self._clock = clock

    async def create(self, asked: NewBatch) -> dict[str, Any]:
        """Notes a batch for the runners; raises `InvalidRequest` or `UnknownObject`."""
        _check(asked)
        file = await self._catalog.file(asked.input_file_id)
        if file.purpose != "batch":
            raise InvalidRequest(
                f"file {file.file_id!r} has purpose {file.purpose!r}, not 'batch'",
                param="input_file_id",
            )
        now = int(self._clock.wall_s())
        record = BatchRecord(
            batch_id=new_id("batch"),
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            metadata=asked.metadata,
            created_at=now,
            expires_at=now + COMPLETION_WINDOW_S,
        )
        await self._catalog.add_batch(record)
        return record.shown()

    async def shown(self, batch_id: str) -> dict[str, Any]:
        return await self._show(await self._catalog.batch(batch_id))

    async def listed(self, count_max: int, after: str | None) -> list[dict[str, Any]]:
        if after is not None:
            await self._catalog.batch(after)
        records = await self._catalog.batches(count_max, after)
        return [await self._show(record) for record in records]

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Asks the runners to stop; raises `Conflict` for a batch that has ended."""
        now = int(self._clock.wall_s())

        def cancelling(record: BatchRecord) -> BatchRecord | None:
            if record.status is BatchStatus.CANCELLING:
                return None
            if record.status not in _CANCELLABLE:
                raise Conflict(f"batch {batch_id!r} is {record.status.value}: nothing to cancel")
            return msgspec.structs.replace(record, status=BatchStatus.CANCELLING, cancelling_at=now)

        return await self._show(await self._catalog.change_batch(batch_id, cancelling))

    async def _show(self, record: BatchRecord) -> dict[str, Any]:
        if record.status not in _COUNTED_BY_QUEUE:
            return record.shown()
        return record.shown(await self._lines.counts(record.batch_id))


def _check(asked: NewBatch) -> None:
    if asked.endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise InvalidRequest(f"endpoint must be one of {known}", param="endpoint")
    if asked.completion_window != COMPLETION_WINDOW:
        raise InvalidRequest(
            f"completion_window must be {COMPLETION_WINDOW!r}", param="completion_window"
        )
    pairs = (asked.metadata or {}).items()
    if len(pairs) > _METADATA_MAX or any(
        len(key) > _METADATA_KEY_MAX or len(value) > _METADATA_VALUE_MAX for key, value in pairs
    ):
        raise InvalidRequest(
            f"metadata may have {_METADATA_MAX} pairs of {_METADATA_KEY_MAX} and "
            f"{_METADATA_VALUE_MAX} characters",
            param="metadata",
        )
