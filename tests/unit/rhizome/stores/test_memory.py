"""What the stores in memory do with time, under a clock that moves only when told to."""

from __future__ import annotations

from rhizome.clock import ManualClock
from rhizome.settings.tree import RedisSettings
from rhizome.stores.lines import Line
from rhizome.stores.open import Stores, open_stores


async def _opened() -> tuple[ManualClock, Stores]:
    clock = ManualClock()
    return clock, await open_stores(RedisSettings(), clock=clock)


async def test_a_lease_ends_exactly_after_its_time() -> None:
    clock, stores = await _opened()
    await stores.lease.acquire("leader", "c1", 10)
    clock.advance(9.99)
    assert await stores.lease.holder("leader") == "c1"
    clock.advance(0.01)
    assert await stores.lease.holder("leader") is None


async def test_renewing_counts_from_the_renewal() -> None:
    clock, stores = await _opened()
    await stores.lease.acquire("leader", "c1", 10)
    clock.advance(9)
    assert await stores.lease.renew("leader", "c1", 10)
    clock.advance(9)
    assert await stores.lease.holder("leader") == "c1"


async def test_a_line_is_handed_out_again_exactly_after_its_silence() -> None:
    clock, stores = await _opened()
    line = Line(batch_id="b1", index=0, custom_id="c", url="/v1/completions", body=b"{}")
    await stores.lines.enqueue("b1", [line])
    (first,) = await stores.lines.lease("r1", 1, 10)
    clock.advance(9)
    assert await stores.lines.renew("r1", [first.receipt]) == [first.receipt]
    clock.advance(9.99)
    assert await stores.lines.lease("r2", 1, 10) == []
    clock.advance(0.01)
    (second,) = await stores.lines.lease("r2", 1, 10)
    assert second.deliveries == 2


async def test_stores_in_memory_are_not_shared() -> None:
    _, stores = await _opened()
    assert not stores.shared
    await stores.ping()
    await stores.close()
