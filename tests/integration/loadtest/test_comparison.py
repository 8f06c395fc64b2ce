"""A run of a comparison with our own router: the whole rig, without other projects' programs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import psutil
import pytest

from loadtest.comparison.contenders import contender
from loadtest.comparison.fleet import FleetPlan
from loadtest.comparison.processes import Program
from loadtest.comparison.results import Findings
from loadtest.comparison.rounds import Cell, Course, Watch, compare
from loadtest.comparison.scenarios import scenario
from rhizome.clock import SystemClock
from rhizome.settings.load import load_settings
from workers.demo_models import ensure_model

pytestmark = pytest.mark.integration


def course(tmp_path: Path, profile: str = "qwen3-32b-h100-tp2") -> Course:
    settings = load_settings()
    model = ensure_model("demo:llama", settings.state_directory.expanduser() / "models")
    return Course(
        fleet=FleetPlan(
            model="simulated", model_directory=str(model), profile=profile, speed=4.0, count=2
        ),
        programs={},
        logs=tmp_path,
        duration_s=1.5,
        warmup_s=0.5,
        seed=1,
        told="test",
    )


async def test_a_run_tells_latencies_balance_and_the_routers_cpu(tmp_path: Path) -> None:
    slow = msgspec.structs.replace(scenario("sessions"), knee_per_s=2.0)
    cell = Cell(slow, 1.0, contender("rhizome/round_robin"), 0)
    findings, told = Findings(), list[str]()
    watch = Watch(SystemClock(), asyncio.Event(), told.append)
    await compare([cell], course(tmp_path), watch, findings)
    assert findings.faults == []
    (found,) = findings.cells
    assert found.run.summary.completed == found.run.summary.requests > 0
    assert found.run.summary.cached_ratio is not None
    assert sum(one.requests for one in found.balance.workers.values()) >= found.run.summary.requests
    assert all(one.requests > 0 for one in found.balance.workers.values())
    assert found.router_cpu_s > 0
    assert found.router_rss_bytes > 2**24
    assert found.over_floor_ms is not None
    assert found.over_floor_ms.count == found.run.summary.completed
    assert found.over_floor_ms.min > -1.0, "nothing is faster than the floor"
    assert found.outside_engines_ms is not None
    assert found.fleet_lag_ms_p99 is not None
    assert len(told) == 1


async def test_what_a_program_started_goes_with_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = ["/bin/sh", "-c", f"sleep 1000 & echo $! > {told}; wait"]

    async def is_told() -> bool:
        return told.exists() and told.read_text().endswith("\n")

    async with Program("a program", command, tmp_path / "log", SystemClock()) as program:
        await program.until(is_told, 60.0)
        started = psutil.Process(int(told.read_text()))
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [started], 60.0)
    assert gone == [started]


async def test_a_fleet_that_cannot_start_costs_its_runs_only_and_says_why(tmp_path: Path) -> None:
    cell = Cell(scenario("sessions"), 1.0, contender("rhizome/cost"), 0)
    findings, told = Findings(), list[str]()
    watch = Watch(SystemClock(), asyncio.Event(), told.append)
    await compare([cell], course(tmp_path, "no-such-profile"), watch, findings)
    assert findings.cells == []
    assert "the simulated fleet ended with exit code" in findings.faults[0]
    assert "no-such-profile" in told[0]
