"""What every `Registry` promises."""

from __future__ import annotations

from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.stores.open import Stores
from tests.support.waiting import eventually


def _record(worker_id: str = "w1", incarnation: str = "i1") -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        incarnation=incarnation,
        model="demo-llama",
        url="http://127.0.0.1:9001",
        state=WorkerState.READY,
        api_key="rzk-of-the-worker",
        events=(EventSource(endpoint="tcp://127.0.0.1:5601"),),
        block_size=16,
    )


async def test_a_record_comes_back_as_it_was_put(stores: Stores) -> None:
    await stores.registry.put(_record(), 60)
    assert list(await stores.registry.workers()) == [_record()]


async def test_workers_are_ordered_by_id(stores: Stores) -> None:
    for worker_id in ("w2", "w10", "w1"):
        await stores.registry.put(_record(worker_id), 60)
    assert [one.worker_id for one in await stores.registry.workers()] == ["w1", "w10", "w2"]


async def test_an_entry_ends_with_its_lease(stores: Stores) -> None:
    await stores.registry.put(_record(), 0.05)

    async def gone() -> bool:
        return not await stores.registry.workers()

    await eventually(gone)
    assert not await stores.registry.renew("w1", "i1", 60)
    assert not await stores.registry.withdraw("w1", "i1")


async def test_a_renewed_lease_lasts(stores: Stores) -> None:
    await stores.registry.put(_record("short"), 0.2)
    await stores.registry.put(_record("long"), 0.2)
    assert await stores.registry.renew("long", "i1", 60)

    async def only_the_renewed_one() -> bool:
        return [one.worker_id for one in await stores.registry.workers()] == ["long"]

    await eventually(only_the_renewed_one)


async def test_an_older_incarnation_can_neither_renew_nor_withdraw(stores: Stores) -> None:
    await stores.registry.put(_record(incarnation="i1"), 60)
    await stores.registry.put(_record(incarnation="i2"), 60)
    assert not await stores.registry.renew("w1", "i1", 60)
    assert not await stores.registry.withdraw("w1", "i1")
    assert [one.incarnation for one in await stores.registry.workers()] == ["i2"]


async def test_a_withdrawn_worker_is_gone_at_once(stores: Stores) -> None:
    await stores.registry.put(_record(), 60)
    assert await stores.registry.withdraw("w1", "i1")
    assert not await stores.registry.workers()
    assert not await stores.registry.withdraw("w1", "i1")
