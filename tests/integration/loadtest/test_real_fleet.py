"""A run of a comparison on a real engine: it serves, its cache is emptied, and it is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import pytest

from loadtest.comparison.contenders import contender
from loadtest.comparison.fleet import FleetPlan
from loadtest.comparison.real_fleet import open_engines
from loadtest.comparison.results import Findings
from loadtest.comparison.rounds import Cell, Course, Watch, compare
from loadtest.comparison.scenarios import scenario
from rhizome.clock import SystemClock
from rhizome.settings.load import load_settings
from tests.support.engine_contract.play import listening
from workers.demo_models import ensure_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


def plan() -> FleetPlan:
    model = ensure_model("demo:llama", load_settings().state_directory.expanduser() / "models")
    return FleetPlan(
        model="real",
        model_directory=str(model),
        profile="",
        max_model_len=4096,
        block_size=32,
        count=1,
        engine="vllm",
    )


async def test_events_reach_who_is_told_of_them_and_prompts_are_rendered(tmp_path: Path) -> None:
    clock = SystemClock()
    async with open_engines(plan(), tmp_path, clock) as fleet:
        (worker,) = fleet.place.workers
        body = {"model": "real", "prompt": "river " * 100, "max_tokens": 1}
        async with aiohttp.ClientSession(worker.url) as http, listening(worker.events) as events:
            async with http.post("/v1/completions", json=body) as answer:
                assert answer.status == 200
            told = await events.since_last(expected=3)
            async with http.post("/v1/completions/render", json=body) as answer:
                ((rendered,), status) = (await answer.json(), answer.status)
        assert status == 200
        stored = [one for event in told for one in event["token_ids"]]
        assert stored == rendered["token_ids"][: len(stored)]
        assert len(stored) >= 96


async def test_two_runs_begin_with_empty_caches(tmp_path: Path) -> None:
    course = Course(plan(), {}, tmp_path, duration_s=0.5, warmup_s=1.0, seed=1, told="test")
    load = msgspec.structs.replace(scenario("shared-prefixes"), knee_per_s=2.0)
    cells = [Cell(load, 1.0, contender("rhizome/cost"), 0) for _ in range(2)]
    findings, told = Findings(), list[str]()
    await compare(cells, course, Watch(SystemClock(), asyncio.Event(), told.append), findings)
    assert findings.faults == []
    first, second = findings.cells
    for found in (first, second):
        assert found.run.summary.completed == found.run.summary.requests > 0
        assert found.router_cpu_s > 0
        assert found.over_floor_ms is None, "nobody knows the floor of a real engine"
    cached = [found.run.summary.cached_tokens for found in (first, second)]
    assert cached[0] == cached[1], "the same requests found the same in the cache"
