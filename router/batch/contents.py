"""The contents of files, on disk: a file is there whole or not at all.

All methods block and are meant for a worker thread. Ids come from us, but are checked again before
they become a path.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from rhizome.ids import new_id

_FILE_ID = re.compile(r"file-[0-9a-f]{8,64}\Z")
_DRAFT_SUFFIX = ".part"


class Contents:
    """File contents by id under one directory, which several processes may share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, file_id: str) -> Path:
        if not _FILE_ID.match(file_id):
            raise ValueError(f"not a file id: {file_id!r}")
        return self._directory / file_id

    def put(self, file_id: str, source: IO[bytes]) -> int:
        """Copies the rest of `source`; returns the length in bytes."""
        draft = self.draft(file_id)
        try:
            shutil.copyfileobj(source, draft.file)
            return draft.keep()
        finally:
            draft.discard()

    def draft(self, file_id: str) -> Draft:
        """A file to be written, which takes its name when it is kept."""
        final = self.path(file_id)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Draft(final)

    def sweep(self, before_wall_s: float) -> None:
        """Removes drafts last touched before then: their writers were killed."""
        for partial in self._directory.glob(f"*{_DRAFT_SUFFIX}"):
            with suppress(FileNotFoundError):
                if partial.stat().st_mtime < before_wall_s:
                    partial.unlink()

    def remove(self, file_id: str) -> None:
        self.path(file_id).unlink(missing_ok=True)


class Draft:
    """A file under a name of its own until it is kept."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._partial = final.with_name(new_id(final.name) + _DRAFT_SUFFIX)
        self.file: IO[bytes] = self._partial.open("xb")

    def keep(self) -> int:
        """Makes the file durable under its name; returns its length in bytes."""
        self.file.flush()
        os.fsync(self.file.fileno())
        size_bytes = self.file.tell()
        self.file.close()
        self._partial.replace(self._final)
        _sync_directory(self._final.parent)
        return size_bytes

    def discard(self) -> None:
        """Leaves nothing behind of a draft that was not kept."""
        self.file.close()
        self._partial.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
