"""Writes a batch's stored results into its output and error files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rhizome.stores.lines import LineQueue, LineResult
from router.batch.contents import Contents, Draft
from router.batch.records import BatchRecord, FileRecord

_CHUNK_RESULTS = 64


@dataclass(frozen=True, slots=True)
class Written:
    """Lengths of the two files; a file of no bytes was not kept."""

    output_bytes: int
    error_bytes: int

    def files(self, record: BatchRecord, now: int) -> list[FileRecord]:
        """The records of the files kept."""
        parts = (
            (record.planned_output_id, "output", self.output_bytes),
            (record.planned_error_id, "error", self.error_bytes),
        )
        return [
            FileRecord(
                file_id=file_id,
                filename=f"{record.batch_id}_{part}.jsonl",
                purpose="batch_output",
                size_bytes=size_bytes,
                created_at=now,
            )
            for file_id, part, size_bytes in parts
            if file_id is not None and size_bytes
        ]


class ResultsGone(Exception):
    """The results vanished while they were read: another runner has finished the batch."""


class ResultWriter:
    """Writes under the ids planned in the batch's record, so that a repetition replaces."""

    def __init__(self, contents: Contents, lines: LineQueue) -> None:
        self._contents = contents
        self._lines = lines

    async def write(
        self, record: BatchRecord, stored: int, keep_going: Callable[[], Awaitable[None]]
    ) -> Written:
        """Needs a batch whose `stored` results are frozen and whose file ids are planned.

        Calls `keep_going` between chunks. Raises `ResultsGone` rather than keep a part of them.
        """
        if record.planned_output_id is None or record.planned_error_id is None:
            raise ValueError(f"the files of {record.batch_id} are not planned")
        # Opened here and not in a thread: a cancelled wait would leave a draft that nobody closes.
        output = self._contents.draft(record.planned_output_id)
        errors = self._contents.draft(record.planned_error_id)
        found = 0
        try:
            for first in range(0, record.lines, _CHUNK_RESULTS):
                results = await self._lines.results(record.batch_id, first, _CHUNK_RESULTS)
                found += len(results)
                await asyncio.to_thread(_append, results, output, errors)
                await keep_going()
            if found != stored:
                raise ResultsGone(f"{found} of {stored} results of {record.batch_id} are left")
            return Written(
                await asyncio.to_thread(_keep, output), await asyncio.to_thread(_keep, errors)
            )
        finally:
            output.discard()
            errors.discard()


def _append(results: Sequence[tuple[int, LineResult]], output: Draft, errors: Draft) -> None:
    for _, result in results:
        (errors if result.failed else output).file.write(result.output + b"\n")


def _keep(draft: Draft) -> int:
    return draft.keep() if draft.file.tell() else 0
