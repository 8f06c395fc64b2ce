"""What `/v1/files` does, apart from HTTP: contents on disk, what is known of them in the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile

from rhizome.clock import Clock
from rhizome.errors import InvalidRequest, StoreUnavailable, UnknownObject
from rhizome.ids import new_id
from router.batch.catalog import Catalog
from router.batch.contents import Contents
from router.batch.records import FileRecord
from router.batch.retention import expires_at

_FILENAME_LENGTH_MAX = 255


class Files:
    """Files by id."""

    def __init__(
        self, catalog: Catalog, contents: Contents, clock: Clock, retention_s: float
    ) -> None:
        self._catalog = catalog
        self._contents = contents
        self._clock = clock
        self._retention_s = retention_s

    async def add(self, upload: UploadFile, purpose: str) -> dict[str, Any]:
        """Keeps the content first and the record after it: what is listed is there."""
        if purpose != "batch":
            raise InvalidRequest("purpose must be 'batch'", param="purpose")
        file_id = new_id("file")
        size_bytes = await asyncio.to_thread(self._contents.put, file_id, upload.file)
        record = FileRecord(
            file_id=file_id,
            filename=(upload.filename or "upload.jsonl")[-_FILENAME_LENGTH_MAX:],
            purpose=purpose,
            size_bytes=size_bytes,
            created_at=int(self._clock.wall_s()),
        )
        try:
            await self._catalog.add_file(record)
        except StoreUnavailable:
            await asyncio.to_thread(self._contents.remove, file_id)
            raise
        return self._shown(record)

    async def shown(self, file_id: str) -> dict[str, Any]:
        return self._shown(await self._catalog.file(file_id))

    async def listed(
        self, purpose: str | None, *, newest_first: bool, after: str | None
    ) -> list[dict[str, Any]]:
        """File objects of a purpose in the order asked for, those behind `after` if it is given."""
        records = list(await self._catalog.files())
        if not newest_first:
            records.reverse()
        if after is not None:
            ids = [record.file_id for record in records]
            if after not in ids:
                raise InvalidRequest(f"there is no file {after!r} to go on after", param="after")
            records = records[ids.index(after) + 1 :]
        return [self._shown(record) for record in records if purpose in (None, record.purpose)]

    async def content(self, file_id: str) -> Path:
        """Where the content lies; raises `UnknownObject`."""
        path = self._contents.path((await self._catalog.file(file_id)).file_id)
        if not await asyncio.to_thread(path.is_file):
            raise UnknownObject(f"the content of file {file_id!r} is gone", param="file_id")
        return path

    async def remove(self, file_id: str) -> None:
        """Removes record and content; raises `UnknownObject`."""
        if not await self._catalog.remove_file(file_id):
            raise UnknownObject(f"there is no file {file_id!r}", param="file_id")
        await asyncio.to_thread(self._contents.remove, file_id)

    def _shown(self, record: FileRecord) -> dict[str, Any]:
        return record.shown(expires_at(record, self._retention_s))
