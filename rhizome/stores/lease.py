"""Leader leases: at most one holder of a name at a time, for as long as it keeps renewing."""

from __future__ import annotations

from typing import Protocol


class Lease(Protocol):
    """Named leases, timed by the store's own clock.

    A holder must stop acting as one when it has not renewed for `ttl_s`: the store may have given
    the name away by then.
    """

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        """Takes the lease, or restarts one that `holder` has; False while somebody else has it."""
        ...

    async def renew(self, name: str, holder: str, ttl_s: float) -> bool:
        """Restarts the lease; False when `holder` does not have it (any more)."""
        ...

    async def release(self, name: str, holder: str) -> bool:
        """Gives the lease back; False when `holder` does not have it."""
        ...

    async def holder(self, name: str) -> str | None:
        """Who has the lease now."""
        ...
