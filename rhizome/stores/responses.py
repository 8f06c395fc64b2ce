"""Stored responses: bytes that one owner can read back until their time is over."""

from __future__ import annotations

from typing import Protocol


class StoredResponses(Protocol):
    """Records by owner and id, each with a time to live, the oldest dropped when there are many."""

    async def put(self, owner: str, response_id: str, body: bytes, ttl_s: float) -> None:
        """Writes or replaces a record."""
        ...

    async def get(self, owner: str, response_id: str) -> bytes | None: ...

    async def delete(self, owner: str, response_id: str) -> bool: ...
