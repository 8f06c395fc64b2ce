"""`rhizome loadtest` as a user runs it, with client processes of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.client.processes import run_load
from loadtest.plan import Plan
from loadtest.results import RunResult, SweepResult, read_result
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape
from rhizome.clock import SystemClock
from rhizome.tasks import Tasks
from tests.support.load_models import PacedServer, running_paced, save_demo_tokenizer
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_demo_tokenizer(tmp_path_factory.mktemp("demo-tokenizer"))


async def started(*words: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rhizome.cli.main", "loadtest", *map(str, words),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def ran(*words: object) -> tuple[int | None, str]:
    process = await started(*words)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode()


LOOSE = ("--limit-lag-ms", 5000, "--limit-cpu", 9)


async def test_a_run_of_two_processes_is_one_result(tokenizer: Path, tmp_path: Path) -> None:
    output, page, rows = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.jsonl"
    async with running_paced(PacedServer(0.02, 0.005, root=str(tokenizer))) as server:
        code, said = await ran(
            "run", "--url", server.url, "-w", "mooncake", "--rate", 20, "--requests", 30,
            "--extra", '{"max_tokens": 4}', "--processes", 2, "--api-key", "rzk-secret", *LOOSE,
            "-o", output, "--html", page, "--save-requests", rows,
        )  # fmt: skip
        assert code == 0, said
    result = read_result(output)
    assert isinstance(result, RunResult)
    assert (result.summary.requests, result.summary.completed) == (30, 30)
    assert result.summary.prompts_miscounted == 0
    assert len(result.processes) == 2
    assert len(server.bodies) == 30
    assert {one["authorization"] for one in server.headers} == {"Bearer rzk-secret"}
    assert "secret" not in output.read_text() + page.read_text()
    assert [json.loads(line)["number"] for line in rows.read_text().splitlines()] == list(range(30))
    code, said = await ran("report", output, output, "-o", tmp_path / "two.html")
    assert (code, (tmp_path / "two.html").is_file()) == (0, True), said


async def test_a_sweep_tells_the_knee(tokenizer: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.json"
    async with running_paced(PacedServer(0.01, 0.0)) as server:
        code, said = await ran(
            "sweep", "--url", server.url, "--tokenizer", tokenizer, "-w", "one-prefix",
            "--rates", "10,20", "--duration", 1, "--set", "output_tokens=3", *LOOSE,
            "--slo-ttft-ms", 20000, "--slo-tpot-ms", 0, "-o", output,
        )  # fmt: skip
    assert code == 0, said
    result = read_result(output)
    assert isinstance(result, SweepResult)
    assert (len(result.levels), result.knee.rate_per_s, result.knee.is_beyond) == (2, 20.0, True)
    assert "at or beyond" in said
    assert [level.workload["shape"]["seed"] for level in result.levels] == [0, 1]


async def test_an_interrupted_run_is_a_partial_result(tokenizer: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.json"
    async with running_paced(PacedServer(0.01, 0.01)) as server:
        process = await started(
            "run", "--url", server.url, "--tokenizer", tokenizer, "-w", "no-sharing",
            "--rate", 20, "--duration", 300, "-o", output,
        )  # fmt: skip
        await eventually(lambda: len(server.bodies) > 5, within_s=30)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1, out.decode()
    result = read_result(output)
    assert isinstance(result, RunResult)
    assert (result.partial, result.valid) == (True, False)
    assert result.summary.requests > 5
    assert b"partial" in out


async def test_a_dead_target_is_told() -> None:
    async with running_paced(PacedServer()) as server:
        url = server.url
    code, text = await ran("run", "--url", url)
    assert code == 11
    assert f"no answer from {url}" in text


async def test_a_client_process_that_dies_leaves_a_partial_result(tokenizer: Path) -> None:
    choice, shape = Choice(name="no-sharing"), Shape(rate_per_s=20.0, duration_s=2.0)
    others = set(psutil.Process().children())
    async with running_paced(PacedServer(0.01, 0.0)) as server, Tasks("test") as tasks:
        plan = Plan(
            url=server.url, model="m", tokenizer=str(tokenizer), choice=choice, shape=shape,
            api=Api.CHAT, extra={"max_tokens": 2}, processes=2,
        )  # fmt: skip
        running = tasks.start("run", run_load(plan, SystemClock()))
        await eventually(lambda: len(server.bodies) > 5, within_s=30)
        (set(psutil.Process().children()) - others).pop().kill()
        measured = await asyncio.wait_for(running, 30)
    assert len(measured.processes) == 1
    assert measured.records
    assert [fault.endswith("died; its requests are lost") for fault in measured.faults] == [True]
    assert not set(psutil.Process().children()) - others
