"""Small durable JSON records by kind and id (files, batches), with compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Documents(Protocol):
    """Records of bytes under `(kind, id)` with a version that grows by one at every write."""

    async def create(self, kind: str, object_id: str, body: bytes) -> bool:
        """Writes version 1; False when the id exists."""
        ...

    async def get(self, kind: str, object_id: str) -> tuple[int, bytes] | None: ...

    async def replace(self, kind: str, object_id: str, version: int, body: bytes) -> bool:
        """Writes version + 1 if the stored version is `version`; False otherwise."""
        ...

    async def delete(self, kind: str, object_id: str) -> bool: ...

    async def newest(self, kind: str, count_max: int, after: str | None = None) -> Sequence[bytes]:
        """Records of a kind, newest first, those created before `after` if it is given."""
        ...
