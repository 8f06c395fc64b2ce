"""Documents in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice


class MemoryDocuments:
    """A `Documents`."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, tuple[int, bytes]]] = {}

    async def create(self, kind: str, object_id: str, body: bytes) -> bool:
        records = self._kinds.setdefault(kind, {})
        if object_id in records:
            return False
        records[object_id] = (1, body)
        return True

    async def get(self, kind: str, object_id: str) -> tuple[int, bytes] | None:
        return self._kinds.get(kind, {}).get(object_id)

    async def replace(self, kind: str, object_id: str, version: int, body: bytes) -> bool:
        records = self._kinds.get(kind, {})
        stored = records.get(object_id)
        if stored is None or stored[0] != version:
            return False
        records[object_id] = (version + 1, body)
        return True

    async def delete(self, kind: str, object_id: str) -> bool:
        return self._kinds.get(kind, {}).pop(object_id, None) is not None

    async def newest(self, kind: str, count_max: int, after: str | None = None) -> Sequence[bytes]:
        ids = list(self._kinds.get(kind, {}))
        if after is not None:
            ids = ids[: ids.index(after)] if after in ids else []
        return [self._kinds[kind][one][1] for one in islice(reversed(ids), count_max)]
