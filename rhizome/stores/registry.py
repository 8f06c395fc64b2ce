"""The fleet registry: which workers exist, each under a lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rhizome.fleet.records import WorkerRecord


class Registry(Protocol):
    """Workers under leases: an entry is seen until its lease ends or it is withdrawn."""

    async def put(self, record: WorkerRecord, lease_ttl_s: float) -> None:
        """Writes the record and (re)starts its lease; replaces an older incarnation's."""
        ...

    async def renew(self, worker_id: str, incarnation: str, lease_ttl_s: float) -> bool:
        """Extends the lease; False when the entry is gone or belongs to another incarnation."""
        ...

    async def withdraw(self, worker_id: str, incarnation: str) -> bool:
        """Removes the entry if it is this incarnation's; False otherwise."""
        ...

    async def workers(self) -> Sequence[WorkerRecord]:
        """All entries with a living lease, ordered by worker id."""
        ...
