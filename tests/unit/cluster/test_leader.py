from __future__ import annotations

from cluster.leader import Leadership
from rhizome.clock import ManualClock
from rhizome.errors import StoreUnavailable
from rhizome.stores.lease import Lease
from rhizome.stores.memory.lease import MemoryLease

TTL_S = 10.0


class FlakyLease(MemoryLease):
    """A lease whose store can be away."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.away = False

    async def renew(self, name: str, holder: str, ttl_s: float) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        return await super().renew(name, holder, ttl_s)


def leadership(lease: Lease, clock: ManualClock, holder: str = "a") -> Leadership:
    return Leadership(lease, holder, TTL_S, clock)


async def test_the_first_to_ask_leads_and_a_standby_does_not() -> None:
    clock = ManualClock()
    lease = MemoryLease(clock)
    first, second = leadership(lease, clock), leadership(lease, clock, "b")
    await first.campaign()
    assert first.leading
    assert not second.leading


async def test_a_standby_takes_over_when_the_lease_ends() -> None:
    clock = ManualClock()
    lease = MemoryLease(clock)
    first, second = leadership(lease, clock), leadership(lease, clock, "b")
    await first.campaign()
    began_s = clock.monotonic_s()
    await second.campaign()
    assert second.leading
    assert not first.leading
    assert TTL_S <= clock.monotonic_s() - began_s <= 1.5 * TTL_S


async def test_resigning_hands_over_without_waiting_for_the_end() -> None:
    clock = ManualClock()
    lease = MemoryLease(clock)
    first, second = leadership(lease, clock), leadership(lease, clock, "b")
    await first.campaign()
    await first.resign()
    assert not first.leading
    began_s = clock.monotonic_s()
    await second.campaign()
    assert clock.monotonic_s() == began_s


async def test_losing_the_lease_to_another_ends_the_lead_at_the_next_renewal() -> None:
    clock = ManualClock()
    lease = MemoryLease(clock)
    first = leadership(lease, clock)
    await first.campaign()
    await lease.release("controller", "a")
    await lease.acquire("controller", "b", TTL_S)
    await first.keep()
    assert not first.leading


async def test_a_store_that_is_away_ends_the_lead_after_its_ttl() -> None:
    clock = ManualClock()
    lease = FlakyLease(clock)
    first = leadership(lease, clock)
    await first.campaign()
    began_s = clock.monotonic_s()
    lease.away = True
    await first.keep()
    assert not first.leading
    assert clock.monotonic_s() - began_s == TTL_S
