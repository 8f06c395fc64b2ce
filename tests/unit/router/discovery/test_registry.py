"""The registry's silence removes nobody."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from rhizome.clock import ManualClock
from rhizome.errors import StoreUnavailable
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.stores.desired import ModelTarget
from rhizome.stores.memory.desired import MemoryDesiredState
from rhizome.stores.memory.registry import MemoryRegistry
from router.discovery.registry import RegistryDiscovery
from router.fleet import Fleet

TTL_S = 6.0


class BreakableRegistry(MemoryRegistry):
    broken = False

    async def workers(self) -> Sequence[WorkerRecord]:
        if self.broken:
            raise StoreUnavailable("the shared store does not answer")
        return await super().workers()


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = BreakableRegistry(self.clock)
        self.desired = MemoryDesiredState(self.clock)
        self.fleet = Fleet(2)
        self.discovery = RegistryDiscovery(
            self.fleet, self.registry, self.desired, self.clock, poll_s=0.5, lease_ttl_s=TTL_S
        )

    async def look(self) -> list[str]:
        await self.discovery.look()
        return [one.worker_id for one in self.fleet.records()]


def record(worker_id: str) -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        incarnation="a",
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
    )


async def test_workers_come_and_go_with_their_lease() -> None:
    bench = Bench()
    await bench.registry.put(record("w1"), TTL_S)
    assert await bench.look() == ["w1"]
    bench.clock.advance(TTL_S + 1)
    assert await bench.look() == []


async def test_workers_of_other_origin_are_left_alone() -> None:
    bench = Bench()
    bench.fleet.upsert(record("static"), 0.0)
    assert await bench.look() == ["static"]


async def test_an_outage_keeps_the_last_known_and_gives_time_to_return(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    await bench.registry.put(record("w1"), TTL_S)
    await bench.registry.put(record("w2"), TTL_S)
    await bench.look()
    bench.registry.broken = True
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            bench.clock.advance(TTL_S)
            assert await bench.look() == ["w1", "w2"]
        bench.registry.broken = False
        assert await bench.look() == ["w1", "w2"]
    assert len(caplog.records) == 2
    await bench.registry.put(record("w1"), TTL_S * 10)
    bench.clock.advance(TTL_S / 2)
    assert await bench.look() == ["w1", "w2"]
    bench.clock.advance(TTL_S)
    assert await bench.look() == ["w1"]


async def test_a_drain_request_reaches_the_fleet() -> None:
    bench = Bench()
    await bench.registry.put(record("w1"), TTL_S)
    await bench.desired.request_drain("w1", 5.0)
    await bench.look()
    assert list(bench.fleet.eligible("m")) == []
    bench.clock.advance(5.5)
    await bench.look()
    assert [target.target_id for target in bench.fleet.eligible("m")] == ["w1"]


async def test_the_first_look_is_over_when_the_store_has_answered() -> None:
    bench = Bench()
    looking = []
    for is_broken in (True, False, True):
        bench.registry.broken = is_broken
        await bench.look()
        looking.append(bench.fleet.is_looking)
    assert looking == [True, False, False]


async def test_models_with_a_target_are_known_before_their_workers() -> None:
    bench = Bench()
    await bench.desired.put_target("m", ModelTarget(workers=1))
    await bench.look()
    assert bench.fleet.knows_model("m")
    assert not bench.fleet.knows_model("other")
