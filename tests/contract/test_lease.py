"""What every `Lease` promises."""

from __future__ import annotations

import asyncio

from rhizome.stores.open import Stores
from tests.support.waiting import eventually


async def test_one_of_many_gets_the_lease(stores: Stores) -> None:
    asked = (stores.lease.acquire("leader", f"c{number}", 60) for number in range(10))
    assert sum(await asyncio.gather(*asked)) == 1


async def test_names_are_independent(stores: Stores) -> None:
    assert await stores.lease.acquire("leader", "c1", 60)
    assert await stores.lease.acquire("sweeper", "c2", 60)
    assert await stores.lease.holder("leader") == "c1"
    assert await stores.lease.holder("sweeper") == "c2"
    assert await stores.lease.holder("nobody") is None


async def test_the_holder_may_acquire_again_and_renew_and_nobody_else(stores: Stores) -> None:
    assert await stores.lease.acquire("leader", "c1", 60)
    assert await stores.lease.acquire("leader", "c1", 60)
    assert await stores.lease.renew("leader", "c1", 60)
    assert not await stores.lease.acquire("leader", "c2", 60)
    assert not await stores.lease.renew("leader", "c2", 60)
    assert not await stores.lease.release("leader", "c2")


async def test_a_silent_holder_loses_the_lease(stores: Stores) -> None:
    assert await stores.lease.acquire("leader", "c1", 0.05)

    async def taken_over() -> bool:
        return await stores.lease.acquire("leader", "c2", 60)

    await eventually(taken_over)
    assert not await stores.lease.renew("leader", "c1", 60)
    assert not await stores.lease.release("leader", "c1")


async def test_a_released_lease_is_free_at_once(stores: Stores) -> None:
    assert await stores.lease.acquire("leader", "c1", 60)
    assert await stores.lease.release("leader", "c1")
    assert await stores.lease.acquire("leader", "c2", 60)
