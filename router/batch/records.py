"""Files and batches as they are stored, and as OpenAI's API shows them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from rhizome.settings.tree import Settings
from rhizome.stores.lines import ResultCounts

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""Where lines may go."""
COMPLETION_WINDOW = "24h"
COMPLETION_WINDOW_S = 24 * 3600


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose content lies in the batch directory."""

    file_id: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: int
    """Unix seconds, as all times here."""

    def shown(self, expires_at: int) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.file_id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": expires_at,
        }


class BatchFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch could not begin."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A batch: what was asked, how far it is, what became of it."""

    batch_id: str
    endpoint: str
    input_file_id: str
    metadata: dict[str, str] | None = None
    status: BatchStatus = BatchStatus.VALIDATING
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    faults: tuple[BatchFault, ...] = ()
    lines: int = 0
    """Lines of the input; known from `in_progress` on."""
    expanded: bool = False
    """Whether every line is in the queue or has a result."""
    ending: BatchStatus | None = None
    """What the batch ends as; set, with the two ids below, before its files are written."""
    planned_output_id: str | None = None
    planned_error_id: str | None = None
    results: ResultCounts = ResultCounts(0, 0)
    """Final counts; the queue has the running ones until the batch has ended."""
    output_file_id: str | None = None
    error_file_id: str | None = None

    def shown(self, running: ResultCounts | None = None) -> dict[str, Any]:
        """OpenAI's batch object; `running` are the queue's counts of a batch that still runs."""
        counts = self.results
        if running is not None and running.stored > counts.stored:
            counts = running
        errors = [msgspec.to_builtins(fault) for fault in self.faults]
        return {
            "id": self.batch_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": COMPLETION_WINDOW,
            "status": self.status.value,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {
                "total": self.lines,
                "completed": counts.stored - counts.failed,
                "failed": counts.failed,
            },
            "metadata": self.metadata,
        }


def batch_directory(settings: Settings) -> Path:
    """Where file contents are kept; routers and runners of a cluster must share it."""
    if settings.batch.directory is not None:
        return settings.batch.directory.expanduser()
    return settings.state_directory.expanduser() / settings.name / "batch-files"
