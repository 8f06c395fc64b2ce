from __future__ import annotations

import io
import json

import msgspec
import pytest
from rich.console import Console

from cluster.report import ControllerReport, ModelReport, Notice, ReportBoard, WorkerReport
from rhizome.cli.admin import AdminApi
from rhizome.cli.fleet_tables import fleet_json, print_fleet
from rhizome.cli.fleet_view import FleetView, read_fleet
from rhizome.cli.router_opinions import Opinion, ask_routers, merged, with_opinions
from rhizome.clock import ManualClock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.tree import RedisSettings
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores, open_stores

RECORD = WorkerRecord(
    worker_id="m-0",
    incarnation="inc-0123456789",
    model="m",
    url="http://127.0.0.1:1",
    state=WorkerState.LOADING,
    api_key="rzk-very-secret-key",
    node="host-1",
    started_wall_s=900.0,
    detail="loading weights",
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
async def stores(clock: ManualClock) -> Stores:
    opened = await open_stores(RedisSettings(), clock=clock)
    await opened.registry.put(RECORD, 60.0)
    await opened.desired.put_target("m", ModelTarget(workers=2, reason="rhizome scale"))
    return opened


async def say(stores: Stores, clock: ManualClock) -> None:
    """A controller leads and reports."""
    model = ModelReport(
        target=2,
        ready=0,
        min_workers=1,
        max_workers=4,
        scaling="steady",
        explain="0 requests",
        trouble="no room",
    )
    report = ControllerReport(
        controller_id="c",
        at_wall_s=clock.wall_s(),
        models={"m": model},
        workers={
            "m-0": WorkerReport(model="m", living=True, deaths=2, cause="killed"),
            "m-1": WorkerReport(model="m", living=True, waiting="no node has 4 GPU"),
        },
        notices=(Notice(at_wall_s=1.0, text="starting worker m-1"),),
    )
    await stores.lease.acquire("controller", "c", 60.0)
    await ReportBoard(stores.documents).write(report)


def printed(view: FleetView) -> str:
    page = io.StringIO()
    print_fleet(view, Console(file=page, width=160))
    return page.getvalue()


async def test_a_worker_is_shown_with_what_it_says_of_itself(
    stores: Stores, clock: ManualClock
) -> None:
    (row,) = (await read_fleet(stores, clock)).workers
    assert (row.worker_id, row.state, row.node) == ("m-0", "loading", "host-1")
    assert (row.incarnation, row.age_s, row.detail) == ("01234567", 100.0, "loading weights")


async def test_deaths_and_workers_that_wait_for_a_place_come_from_the_controller(
    stores: Stores, clock: ManualClock
) -> None:
    await say(stores, clock)
    known, waiting = (await read_fleet(stores, clock)).workers
    assert known.detail == "loading weights; died 2 times lately: killed"
    assert (waiting.worker_id, waiting.state) == ("m-1", "starting")
    assert waiting.detail == "no node has 4 GPU"


async def test_tables_show_targets_reasons_troubles_and_notices(
    stores: Stores, clock: ManualClock
) -> None:
    await say(stores, clock)
    text = printed(await read_fleet(stores, clock))
    for words in ("1 to 4", "operator: rhizome scale; now steady: 0 requests", "m: no room"):
        assert words in text
    assert "starting worker m-1" in text


async def test_a_silent_controller_is_said(stores: Stores, clock: ManualClock) -> None:
    assert "no controller has run yet" in printed(await read_fleet(stores, clock))
    await say(stores, clock)
    clock.advance(90.0)
    assert "no controller leads; the last one spoke 90 s ago" in printed(
        await read_fleet(stores, clock)
    )


async def test_json_holds_everything_but_secrets(stores: Stores, clock: ManualClock) -> None:
    await say(stores, clock)
    text = json.dumps(fleet_json(await read_fleet(stores, clock)))
    fleet = json.loads(text)
    assert fleet["targets"]["m"]["workers"] == 2
    assert fleet["controller"]["report"]["workers"]["m-1"]["waiting"] == "no node has 4 GPU"
    assert "secret" not in text


async def test_a_drain_request_shows_before_the_worker_has_heard_of_it(
    stores: Stores, clock: ManualClock
) -> None:
    await stores.desired.request_drain("m-0", 60.0)
    assert (await read_fleet(stores, clock)).workers[0].state == "draining"


def told(worker: str, state: str, trust: str | None) -> dict[str, object]:
    return {"worker": worker, "state": state, "trust": trust}


def test_the_gravest_of_several_routers_opinions_counts() -> None:
    first = {"workers": [told("m-0", "ready", "exact"), told("m-1", "warming", None)]}
    other = {"workers": [told("m-0", "suspended", "degraded"), told("m-1", "ready", "exact")]}
    for answers in ([first, other], [other, first]):
        assert merged(answers) == {
            "m-0": Opinion("degraded", "suspended"),
            "m-1": Opinion("exact", "warming"),
        }


async def test_trust_and_warm_ups_are_shown_where_a_router_told_of_them(
    stores: Stores, clock: ManualClock
) -> None:
    loading = with_opinions(await read_fleet(stores, clock), {"m-0": Opinion("exact", "warming")})
    assert (loading.workers[0].state, loading.workers[0].trust) == ("loading", "exact")
    await stores.registry.put(msgspec.structs.replace(RECORD, state=WorkerState.READY), 60.0)
    view = await read_fleet(stores, clock)
    assert with_opinions(view, {}).workers == view.workers
    text = printed(with_opinions(view, {"m-0": Opinion("degraded", "warming")}))
    assert "warming" in text
    assert "DEGRADED" in text


async def test_a_router_that_does_not_answer_leaves_its_part_blank() -> None:
    assert await ask_routers([AdminApi("http://127.0.0.1:1")]) == {}
