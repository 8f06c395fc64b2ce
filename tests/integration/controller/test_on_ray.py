"""The controller on a real Ray and a real Valkey: deaths, scaling and its own death."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.local.layout import ClusterFiles
from cluster.local.ports import free_port
from cluster.local.processes import ChildProcess
from cluster.local.ray_head import RayHead, ray_environment
from cluster.report import ReportBoard
from rhizome.clock import SystemClock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.load import environment_copy, load_settings
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores, open_stores
from tests.support.valkey import settings_for
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
WITHIN_S = 40.0
ROOT = Path(__file__).parents[3]


class RayCluster:
    """A Ray head, stores, and a controller process that can be killed."""

    def __init__(self, directory: Path, head: RayHead, environment: dict[str, str]) -> None:
        self.directory = directory
        self.head = head
        self.environment = environment
        self.stores: Stores
        self.controller: ChildProcess

    async def open(self, valkey_url: str) -> None:
        redis = settings_for(valkey_url)
        assert redis.url is not None
        tree = {
            "redis": {**redis.model_dump(), "url": redis.url.get_secret_value()},
            "models": [{"name": "m", "source": "x", "workers": 2}],
            "worker": {"lease_ttl_s": 2, "heartbeat_s": 0.3, "drain_grace_s": 10},
            "router": {"discovery": {"registry_poll_s": 0.1}},
            "controller": {
                "ray_address": self.head.address,
                "ray_namespace": redis.namespace[-30:].strip("-"),
                "interval_s": 0.2,
                "leader_ttl_s": 2,
                "restart_backoff_s_max": 4,
            },
        }
        self.settings_file.write_text(yaml.safe_dump(tree))
        self.stores = await open_stores(load_settings(self.settings_file, environment={}).redis)

    @property
    def settings_file(self) -> Path:
        return self.directory / "settings.yaml"

    def start_controller(self) -> None:
        self.controller = ChildProcess(
            "controller",
            [sys.executable, "-m", "tests.integration.controller.tiny", str(self.settings_file)],
            environment=self.environment,
            log=self.directory / "controller.log",
            clock=SystemClock(),
        )
        self.controller.start()

    async def ready(self, *worker_ids: str) -> dict[str, WorkerRecord]:
        """Waits until exactly these workers are registered, all of them ready."""
        records: dict[str, WorkerRecord] = {}

        async def there() -> bool:
            assert self.controller.running(), self.controller.log_tail(30)
            records.clear()
            records.update({one.worker_id: one for one in await self.stores.registry.workers()})
            states = {one.state for one in records.values()}
            return set(records) == set(worker_ids) and states <= {WorkerState.READY}

        await eventually(there, within_s=WITHIN_S, every_s=0.1)
        return records

    async def scale(self, workers: int) -> None:
        await self.stores.desired.put_target("m", ModelTarget(workers=workers))

    async def notices(self) -> str:
        report = await ReportBoard(self.stores.documents).read()
        return "" if report is None else "\n".join(notice.text for notice in report.notices)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayHead, dict[str, str]]]:
    """One Ray for all tests, and what it takes to speak with it; a namespace separates them."""
    files = ClusterFiles(tmp_path_factory.mktemp("ray"))
    files.make()
    token = ray_environment(files.ray_token)
    environment = {**environment_copy(), **token, "PYTHONPATH": str(ROOT)}
    port = free_port("127.0.0.1", frozenset())
    head = RayHead(files, port, environment=environment, clock=SystemClock())
    head.launch()
    try:
        asyncio.run(head.wait_started())
        yield head, environment
    finally:
        asyncio.run(head.stop(20.0))


@pytest.fixture
async def cluster(
    tmp_path: Path, ray: tuple[RayHead, dict[str, str]], valkey_url: str
) -> AsyncIterator[RayCluster]:
    made = RayCluster(tmp_path, *ray)
    await made.open(valkey_url)
    made.start_controller()
    try:
        yield made
    finally:
        await made.controller.stop(10.0)
        await made.stores.close()


async def test_workers_survive_their_deaths_and_the_controllers(cluster: RayCluster) -> None:
    first = await cluster.ready("m-0", "m-1")

    killed = first["m-0"]
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)

    async def came_back() -> bool:
        records = {one.worker_id: one for one in await cluster.stores.registry.workers()}
        again = records.get("m-0")
        return again is not None and again.incarnation != killed.incarnation

    await eventually(came_back, within_s=WITHIN_S, every_s=0.1)
    second = await cluster.ready("m-0", "m-1")
    assert second["m-1"].incarnation == first["m-1"].incarnation

    async def death_is_said() -> bool:
        return "worker m-0 died" in await cluster.notices()

    await eventually(death_is_said, within_s=WITHIN_S, every_s=0.1)

    cluster.controller.kill()
    await cluster.controller.stop(5.0)
    await cluster.scale(3)
    cluster.start_controller()
    third = await cluster.ready("m-0", "m-1", "m-2")
    assert [third[one].incarnation for one in ("m-0", "m-1")] == [
        second[one].incarnation for one in ("m-0", "m-1")
    ]

    await cluster.scale(1)
    (oldest,) = (await cluster.ready("m-1")).values()
    assert oldest.incarnation == first["m-1"].incarnation
    gone = [third[one].pid for one in ("m-0", "m-2")]
    await eventually(lambda: not any(psutil.pid_exists(pid or 0) for pid in gone), WITHIN_S)


async def test_a_model_that_never_loads_is_retried_with_pauses_and_its_cause_is_said(
    cluster: RayCluster,
) -> None:
    await cluster.ready("m-0", "m-1")
    tree = yaml.safe_load(cluster.settings_file.read_text())
    tree["models"] = [{"name": "broken", "source": "x"}]
    cluster.settings_file.write_text(yaml.safe_dump(tree))
    await cluster.controller.stop(10.0)
    cluster.start_controller()

    async def backed_off() -> bool:
        said = await cluster.notices()
        return "the weights are torn; next start in" in said

    await eventually(backed_off, within_s=WITHIN_S, every_s=0.2)

    async def only_broken() -> bool:
        workers = await cluster.stores.registry.workers()
        return {one.worker_id for one in workers} <= {"broken-0"}

    await eventually(only_broken, within_s=WITHIN_S, every_s=0.2)
