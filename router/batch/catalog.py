"""The stored records of files and batches, typed, with changes by compare-and-set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import msgspec

from rhizome.errors import Conflict, UnknownObject
from rhizome.stores.codec import RecordCodec, json_codec
from rhizome.stores.documents import Documents
from router.batch.records import BatchRecord, FileRecord

T = TypeVar("T")

_FILE, _BATCH, _OPEN = "file", "batch", "open-batch"
_FILES_LISTED_MAX = 10_000
_OPEN_MAX = 10_000
_CHANGE_TRIES = 20
_PAGE = 1000


class OpenBatch(msgspec.Struct, frozen=True):
    """A note that a batch has not ended, so that runners need not read all batches ever made."""

    batch_id: str
    created_at: int


class Catalog:
    """Files and batches on `Documents`; raises `StoreUnavailable` as that does."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._files = json_codec("file", FileRecord)
        self._batches = json_codec("batch", BatchRecord)
        self._open = json_codec("open batch", OpenBatch)

    async def add_file(self, record: FileRecord) -> None:
        """Adds the record; one of the same id stays as it is."""
        await self._documents.create(_FILE, record.file_id, self._files.encode(record))

    async def file(self, file_id: str) -> FileRecord:
        """Raises `UnknownObject`."""
        stored = await self._documents.get(_FILE, file_id)
        record = self._files.decode(stored[1]) if stored is not None else None
        if record is None:
            raise UnknownObject(f"there is no file {file_id!r}", param="file_id")
        return record

    async def files(self) -> Sequence[FileRecord]:
        """The newest files, newest first."""
        return self._files.decode_all(await self._documents.newest(_FILE, _FILES_LISTED_MAX))

    def every_file(self) -> AsyncIterator[FileRecord]:
        """All of them, newest first, but for those after one that is removed meanwhile."""
        return self._every(_FILE, self._files, lambda file: file.file_id)

    def every_batch(self) -> AsyncIterator[BatchRecord]:
        """As `every_file`."""
        return self._every(_BATCH, self._batches, lambda batch: batch.batch_id)

    async def remove_batch(self, batch_id: str) -> bool:
        return await self._documents.delete(_BATCH, batch_id)

    async def remove_file(self, file_id: str) -> bool:
        return await self._documents.delete(_FILE, file_id)

    async def _every(
        self, kind: str, codec: RecordCodec[T], id_of: Callable[[T], str]
    ) -> AsyncIterator[T]:
        last: str | None = None
        while page := await self._documents.newest(kind, _PAGE, last):
            before = last
            for record in codec.decode_all(page):
                last = id_of(record)
                yield record
            if len(page) < _PAGE or last == before:  # none of them could be read
                return

    async def add_batch(self, record: BatchRecord) -> None:
        """Adds the record, and first the note that runners find it by."""
        note = OpenBatch(record.batch_id, record.created_at)
        await self._documents.create(_OPEN, record.batch_id, self._open.encode(note))
        await self._documents.create(_BATCH, record.batch_id, self._batches.encode(record))

    async def batch(self, batch_id: str) -> BatchRecord:
        """Raises `UnknownObject`."""
        return (await self._versioned(batch_id))[1]

    async def batches(self, count_max: int, after: str | None) -> Sequence[BatchRecord]:
        """Newest first, those made before the batch `after` if it is given."""
        stored = await self._documents.newest(_BATCH, count_max, after)
        return self._batches.decode_all(stored)

    async def change_batch(
        self, batch_id: str, change: Callable[[BatchRecord], BatchRecord | None]
    ) -> BatchRecord:
        """Writes `change(record)`, or nothing where that is None; returns what is stored then.

        `change` is called again when somebody else wrote in between. Raises `UnknownObject`, and
        what `change` raises.
        """
        for _ in range(_CHANGE_TRIES):
            version, record = await self._versioned(batch_id)
            changed = change(record)
            if changed is None:
                return record
            body = self._batches.encode(changed)
            if await self._documents.replace(_BATCH, batch_id, version, body):
                return changed
        raise Conflict(f"batch {batch_id!r} is being changed by too many others; try again")

    async def open_batches(self) -> Sequence[OpenBatch]:
        """The notes on batches that have not ended, oldest first."""
        notes = self._open.decode_all(await self._documents.newest(_OPEN, _OPEN_MAX))
        return notes[::-1]

    async def forget_open(self, batch_id: str) -> None:
        await self._documents.delete(_OPEN, batch_id)

    async def _versioned(self, batch_id: str) -> tuple[int, BatchRecord]:
        stored = await self._documents.get(_BATCH, batch_id)
        record = self._batches.decode(stored[1]) if stored is not None else None
        if stored is None or record is None:
            raise UnknownObject(f"there is no batch {batch_id!r}", param="batch_id")
        return stored[0], record
