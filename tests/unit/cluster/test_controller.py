"""The controller over an in-memory host and in-memory stores, with short real intervals."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cluster.controller import Controller
from cluster.lead import Office
from cluster.metrics import ControllerMetrics
from cluster.placement import NodeResources
from cluster.report import ControllerReport, ReportBoard
from rhizome.clock import SystemClock
from rhizome.settings.tree import RedisSettings, Settings
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores, open_stores
from rhizome.stores.signals import ModelSignal
from rhizome.tasks import Tasks
from tests.support.waiting import eventually
from tests.unit.cluster.host import MemoryHost

SCALED = {"min_workers": 1, "max_workers": 3}


class Fleet:
    """One cluster: stores, host, and any number of controllers."""

    def __init__(self, stores: Stores, **changes: Any) -> None:
        model = {"name": "m", "source": "x", "workers": 2, **changes.pop("model", {})}
        self.settings = Settings.model_validate(
            {
                "models": [model],
                "worker": {"drain_grace_s": 5},
                "router": {"discovery": {"registry_poll_s": 0.01}},
                "controller": {
                    "interval_s": 0.01,
                    "leader_ttl_s": 2,
                    "scaling": {"up_after_s": 0.05, "down_after_s": 0.2},
                },
                **changes,
            }
        )
        self.stores = stores
        self.host = MemoryHost(stores.registry)
        self.registry = CollectorRegistry()

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[Controller]:
        registry = CollectorRegistry()
        office = Office(
            self.settings, self.stores, self.host, ControllerMetrics(registry), SystemClock()
        )
        controller = Controller(office)
        self.registry = registry
        async with Tasks("test") as tasks:
            tasks.start("controller", controller.run())
            yield controller

    async def living(self, *worker_ids: str) -> None:
        await eventually(lambda: set(self.host.workers) == set(worker_ids))

    async def scale(self, workers: int) -> None:
        await self.stores.desired.put_target("m", ModelTarget(workers=workers))

    async def report(self) -> ControllerReport:
        report = await ReportBoard(self.stores.documents).read()
        assert report is not None
        return report

    async def signal(self, **changes: Any) -> None:
        plain = {
            "model": "m",
            "router_id": "r",
            "at_wall_s": SystemClock().wall_s(),
            "window_s": 100.0,
            "queued": 0,
            "queue_wait_ms_max": 0.0,
            "in_flight": 0,
            "predicted_ttft_ms_p90": None,
            "arrivals_per_s": 0.0,
            "refused": 0,
        }
        await self.stores.signals.publish("r", [ModelSignal(**{**plain, **changes})], 60.0)


@pytest.fixture
async def stores() -> Stores:
    return await open_stores(RedisSettings())


async def test_it_starts_the_specs_workers_and_replaces_a_lost_one(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.living("m-0", "m-1")
        await fleet.host.lose("m-0")
        await fleet.living("m-1")
        await fleet.living("m-0", "m-1")
        assert fleet.host.starts == ["m-0", "m-1", "m-0"]


async def test_scaling_down_asks_for_the_drain_before_the_stop(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.living("m-0", "m-1")
        await fleet.scale(1)
        await fleet.living("m-0")
        assert fleet.host.drained == fleet.host.stopped == ["m-1"]
        assert await stores.desired.draining() == {"m-1"}
        await fleet.scale(2)
        await fleet.living("m-0", "m-2")


async def test_a_new_controller_adopts_the_fleet_and_doubles_nothing(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.living("m-0", "m-1")
    async with fleet.controller():
        await fleet.scale(3)
        await fleet.living("m-0", "m-1", "m-2")
    assert fleet.host.starts == ["m-0", "m-1", "m-2"]


async def test_a_standby_does_nothing_until_the_leader_is_gone(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller() as second_to_lead:
        await eventually(lambda: bool(second_to_lead.health()["leading"]))
        async with fleet.controller() as standby:
            await fleet.living("m-0", "m-1")
            assert not standby.health()["leading"]
            assert fleet.registry.get_sample_value("controller_leading") == 0
    async with fleet.controller() as next_one:
        await eventually(lambda: bool(next_one.health()["leading"]))


async def test_a_leader_whose_lease_was_taken_stops_acting(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller() as controller:
        await fleet.living("m-0", "m-1")
        await stores.lease.release("controller", controller.controller_id)
        await stores.lease.acquire("controller", "somebody-else", 60.0)
        await eventually(lambda: not controller.health()["leading"])
        started = len(fleet.host.starts)
        await fleet.scale(3)
        await fleet.host.lose("m-0")
    assert len(fleet.host.starts) == started


async def test_pressure_grows_the_model_and_low_use_shrinks_it_again(stores: Stores) -> None:
    fleet = Fleet(stores, model={"workers": 1, "scaling": SCALED})
    async with fleet.controller():
        await fleet.living("m-0")
        await fleet.signal(queued=9, queue_wait_ms_max=9000.0)
        await fleet.living("m-0", "m-1", "m-2")
        target = (await stores.desired.targets())["m"]
        assert target.by == "autoscaler"
        assert target.reason.startswith("pressure: queue wait 9000 ms")
        await fleet.signal()
        await fleet.living("m-0")
        assert (await stores.desired.targets())["m"].reason.startswith("low_use")


async def test_a_model_without_bounds_stays_where_the_operator_put_it(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.signal(queued=9, queue_wait_ms_max=9000.0)
        await fleet.scale(5)
        await fleet.living("m-0", "m-1", "m-2", "m-3", "m-4")
        assert (await stores.desired.targets())["m"].by == "operator"


async def test_while_ray_does_not_answer_nothing_is_done_and_that_is_said(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(stores)
    async with fleet.controller() as controller:
        await fleet.living("m-0", "m-1")
        fleet.host.reachable = False
        await eventually(lambda: "Ray does not answer" in str(controller.health()["trouble"]))
        await eventually(lambda: _in_trouble(fleet))
        assert fleet.registry.get_sample_value("controller_last_step_ok") == 0
        said = [line for line in caplog.messages if "Ray does not answer" in line]
        assert len(said) == 1
        fleet.host.reachable = True
        await eventually(lambda: controller.health()["trouble"] == "")
        assert fleet.host.starts == ["m-0", "m-1"]


async def _in_trouble(fleet: Fleet) -> bool:
    return "Ray does not answer" in (await fleet.report()).trouble


async def test_a_spec_that_cannot_be_placed_is_said_once_and_harms_no_other(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fleet = Fleet(stores)
    fleet.host.refuses["m"] = "tensor parallelism 16 needs 16 GPUs"
    other = {"name": "small", "source": "x"}
    fleet.settings = Settings.model_validate(
        {**fleet.settings.model_dump(), "models": [*fleet.settings.models, other]}
    )
    async with fleet.controller():
        await fleet.living("small-0")
        report = await fleet.report()
        assert report.models["m"].trouble == "tensor parallelism 16 needs 16 GPUs"
        assert report.models["small"].ready <= 1
    assert len([line for line in caplog.messages if "tensor parallelism" in line]) == 1


async def test_a_store_that_lost_everything_does_not_cost_the_workers(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.living("m-0", "m-1")
        await stores.desired.remove_spec("m")
        await stores.documents.delete("controller", "models-from-settings")
        await eventually(lambda: _has_spec(stores))
        assert set(fleet.host.workers) == {"m-0", "m-1"}
        assert fleet.host.stopped == []


async def _has_spec(stores: Stores) -> bool:
    return "m" in await stores.desired.specs()


async def test_metrics_and_report_show_targets_states_and_what_happened(stores: Stores) -> None:
    fleet = Fleet(stores)
    async with fleet.controller():
        await fleet.living("m-0", "m-1")
        await eventually(lambda: _value(fleet, "controller_workers", model="m", state="ready") == 2)
        assert _value(fleet, "controller_target_workers", model="m") == 2
        assert _value(fleet, "controller_actions_total", action="start") == 2
        fleet.host.nodes = [NodeResources("n2", {"CPU": 8.0})]
        await eventually(lambda: _noticed(fleet, "node n1 is gone"))
        assert {"m-0", "m-1"} == set((await fleet.report()).workers)


def _value(fleet: Fleet, name: str, **labels: str) -> float | None:
    return fleet.registry.get_sample_value(name, labels)


async def _noticed(fleet: Fleet, text: str) -> bool:
    return text in [notice.text for notice in (await fleet.report()).notices]
