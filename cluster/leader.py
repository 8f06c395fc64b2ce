"""Who leads: at most one controller acts at a time, by a lease that it keeps renewing.

Promises: `leading` turns false by this process's own clock before the store could give the lead to
another, whatever the store or the network do; it is counted from before each renewal was sent.
"""

from __future__ import annotations

import logging

from rhizome.clock import Clock
from rhizome.errors import StoreUnavailable
from rhizome.stores.lease import Lease

_log = logging.getLogger(__name__)
_NAME = "controller"
_RENEWALS_PER_TTL = 4


class Leadership:
    """One controller's part in the election."""

    def __init__(self, lease: Lease, holder: str, ttl_s: float, clock: Clock) -> None:
        self._lease = lease
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._until_s = float("-inf")

    @property
    def leading(self) -> bool:
        return self._clock.monotonic_s() < self._until_s

    async def campaign(self) -> None:
        """Returns once this controller leads; waits for as long as another does."""
        standing_by = False
        while not await self._take(renew=False):
            if not standing_by:
                _log.info("another controller leads; standing by")
            standing_by = True
            await self._clock.sleep(self._ttl_s / _RENEWALS_PER_TTL)
        _log.info("leading as %s", self._holder)

    async def keep(self) -> None:
        """Renews the lead; returns when it is lost."""
        while self.leading:
            await self._clock.sleep(self._ttl_s / _RENEWALS_PER_TTL)
            if await self._take(renew=True) is False:
                break
        self._until_s = float("-inf")
        _log.warning("the lead is lost; doing nothing until it is back")

    async def resign(self) -> None:
        """Gives the lead back, if it is held, so that a standby need not wait for its end."""
        if not self.leading:
            return
        self._until_s = float("-inf")
        try:
            await self._lease.release(_NAME, self._holder)
        except StoreUnavailable as error:
            _log.warning("could not give the lead back: %s", error)

    async def _take(self, *, renew: bool) -> bool | None:
        """Whether the lease is ours now; None when the store does not say."""
        asked_s = self._clock.monotonic_s()
        take = self._lease.renew if renew else self._lease.acquire
        try:
            held = await take(_NAME, self._holder, self._ttl_s)
        except StoreUnavailable as error:
            _log.warning("cannot ask who leads: %s", error)
            return None
        if held:
            self._until_s = asked_s + self._ttl_s
        return held
