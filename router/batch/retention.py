"""Forgets files and ended batches that have been kept for as long as was promised.

Any runner does it; a sweep that two do at once, or that is cut off, is made good by the next one.
"""

from __future__ import annotations

import asyncio
import logging

from rhizome.clock import Clock
from router.batch.catalog import Catalog
from router.batch.contents import Contents
from router.batch.records import BatchRecord, FileRecord

_log = logging.getLogger(__name__)


class Retention:
    """What is older than `retention_s` goes; what a batch that has not ended needs stays."""

    def __init__(
        self, catalog: Catalog, contents: Contents, clock: Clock, retention_s: float
    ) -> None:
        self._catalog = catalog
        self._contents = contents
        self._clock = clock
        self._retention_s = retention_s

    async def sweep(self) -> None:
        """One look at all that is stored; raises `StoreUnavailable`."""
        before_s = self._clock.wall_s() - self._retention_s
        needed: set[str] = set()
        batches: list[str] = []
        async for batch in self._catalog.every_batch():
            if not batch.status.ended:
                needed.add(batch.input_file_id)
            elif _ended_at(batch) < before_s:
                batches.append(batch.batch_id)
        files = [
            file.file_id
            async for file in self._catalog.every_file()
            if file.created_at < before_s and file.file_id not in needed
        ]
        for batch_id in batches:
            await self._catalog.remove_batch(batch_id)
        for file_id in files:  # contents first: a record without contents is found again
            await asyncio.to_thread(self._contents.remove, file_id)
            await self._catalog.remove_file(file_id)
        if batches or files:
            _log.info("%d batches and %d files have expired", len(batches), len(files))


def expires_at(file: FileRecord, retention_s: float) -> int:
    """When the file goes, in Unix seconds, if no batch needs it then."""
    return int(file.created_at + retention_s)


def _ended_at(batch: BatchRecord) -> int:
    ends = (batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at)
    return max((end for end in ends if end is not None), default=batch.created_at)
