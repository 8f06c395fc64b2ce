"""`rhizome router --processes`: replaced, killed and stopped under load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio
import yaml

from cluster.local.ports import free_port
from tests.support.processes import living
from tests.support.router_rig import (
    RunningRouter,
    running,
    running_router,
    simulated_workers,
    under_load,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SETTINGS = "settings.yaml"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    async with simulated_workers(tmp_path_factory.mktemp("workers"), 2) as flags:
        yield flags


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(
    workers: list[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningRouter]:
    """Whatever a test does to it, it is whole again when the test ends."""
    async with _two_processes(tmp_path_factory.mktemp("router"), workers) as started:
        yield started


@asynccontextmanager
async def _two_processes(directory: Path, workers: list[str]) -> AsyncIterator[RunningRouter]:
    settings = directory / SETTINGS
    settings.write_text(yaml.safe_dump({"router": {"shutdown_grace_s": 20}}))
    flags = ("--processes", "2", "--config", str(settings))
    async with running_router(directory, workers, *flags) as started:

        async def both_know_the_workers() -> bool:
            page = await started.page()
            known = re.findall(r'^router_workers{.*process="(\d+)".*} [12]', page, re.M)
            return len(set(known)) == 2

        await eventually(both_know_the_workers, within_s=60)
        yield started


def _children(router: RunningRouter) -> set[int]:
    """Its living router processes."""
    found = living(psutil.Process(router.process.pid).children())
    return {one.pid for one in found if "router.processes.child" in _command(one)}


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


async def test_processes_are_replaced_one_by_one_without_a_failed_request(
    router: RunningRouter,
) -> None:
    before = _children(router)
    assert len(before) == 2
    async with (
        under_load([router.url], 6, fresh=True) as strangers,
        under_load([router.url], 6, fresh=False) as regulars,
    ):
        await eventually(lambda: strangers.answered > 50 and regulars.answered > 50, within_s=60)
        router.process.send_signal(signal.SIGHUP)
        await eventually(
            lambda: "all router processes were replaced" in router.log.read_text(), within_s=90
        )
        await eventually(lambda: not before & _children(router), within_s=60)
        answered = strangers.answered
        await eventually(lambda: strangers.answered > answered + 50, within_s=60)
    assert strangers.failures == []
    assert regulars.failures == []
    assert len(_children(router)) == 2


async def test_a_killed_process_is_started_again_and_its_sibling_serves_on(
    router: RunningRouter,
) -> None:
    before = _children(router)
    os.kill(min(before), signal.SIGKILL)

    async def both_answer() -> bool:
        return len(_children(router) - before) == 1 and await router.samples(
            "router_processes"
        ) == [2.0]

    await eventually(both_answer, within_s=60)
    async with under_load([router.url], 4, fresh=True) as load:
        await eventually(lambda: load.answered > 30, within_s=60)
    assert load.failures == []


async def test_one_page_shows_every_process_and_each_hears_of_the_other(
    router: RunningRouter,
) -> None:
    async def know_each_other() -> bool:
        return await router.samples("router_peers") == [1.0, 1.0]

    await eventually(know_each_other, within_s=30)
    before = sum(await router.samples("router_requests_total"))
    async with under_load([router.url], 8, fresh=True) as load:
        await eventually(lambda: load.answered >= 60, within_s=60)
    answered = load.answered

    async def all_counted() -> bool:
        return sum(await router.samples("router_requests_total")) - before >= answered

    await eventually(all_counted, within_s=30)
    page = await router.page()
    assert len(set(re.findall(r'router_requests_total{process="(\d+)"', page))) == 2


async def test_settings_that_are_not_valid_change_nothing(router: RunningRouter) -> None:
    before, settings = _children(router), router.log.parent / SETTINGS
    valid = settings.read_text()
    settings.write_text("router: {no_such_setting: 1}")
    router.process.send_signal(signal.SIGHUP)
    await eventually(
        lambda: "the settings stay as they were" in router.log.read_text(), within_s=30
    )
    settings.write_text(valid)
    assert _children(router) == before


async def test_stopping_lets_running_answers_end_and_leaves_no_process(
    workers: list[str], tmp_path: Path
) -> None:
    async with (
        _two_processes(tmp_path, workers) as router,
        under_load([router.url], 4, fresh=True) as load,
    ):
        children = _children(router)
        await eventually(lambda: load.answered > 10, within_s=60)
        router.process.terminate()
        status = await asyncio.to_thread(router.process.wait, 60)
    assert status == 0
    assert len(children) == 2
    assert not any(psutil.pid_exists(child) for child in children)
    cut = [failure for failure in load.failures if "Connect" not in failure]
    assert cut == [], "refused, never cut"


async def test_from_the_first_answer_on_every_process_knows_the_workers(
    workers: list[str], tmp_path: Path
) -> None:
    with _starting(tmp_path, *workers, "--processes", "3") as url:
        assert await _readiness(url, answers=60) == {200}


async def test_processes_without_workers_say_that_they_are_not_ready(tmp_path: Path) -> None:
    with _starting(tmp_path, "--worker", "http://127.0.0.1:9", "--processes", "2") as url:
        assert await _readiness(url, answers=20) == {503}


@contextmanager
def _starting(directory: Path, *flags: str) -> Iterator[str]:
    """A router that has been started just now; gives its URL."""
    port = free_port("127.0.0.1", frozenset())
    command = ["router", "--port", str(port), "--metrics-port", "0", "--allow-anonymous", *flags]
    with running(*command, log=directory / "router.log"):
        yield f"http://127.0.0.1:{port}"


async def _readiness(url: str, answers: int) -> set[int]:
    """The statuses of the first answers, each on a connection of its own."""
    statuses: list[int] = []
    async with asyncio.timeout(60):
        while len(statuses) < answers:
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(connector=connector) as http:
                try:
                    async with http.get(f"{url}/health/ready") as answer:
                        statuses.append(answer.status)
                except aiohttp.ClientConnectionError:
                    assert not statuses, "refused after the first answer"
                    await asyncio.sleep(0.02)
    return set(statuses)


async def test_the_port_is_not_shared_with_a_second_router(
    router: RunningRouter, tmp_path: Path
) -> None:
    port = router.url.rpartition(":")[2]
    log = tmp_path / "second.log"
    command = ["router", "--worker", "http://127.0.0.1:9", "--port", port, "--processes", "2"]
    with running(*command, "--allow-anonymous", "--metrics-port", "0", log=log) as second:
        assert await asyncio.to_thread(second.wait, 60) == 3
    assert "Address already in use" in log.read_text()


async def test_a_taken_metrics_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        command = ["router", "--worker", "http://127.0.0.1:9", "--port", "0", "--processes", "2"]
        flags = ["--allow-anonymous", "--metrics-port", port]
        with running(*command, *flags, log=log) as process:
            assert await asyncio.to_thread(process.wait, 60) == 3
    assert "--metrics-port" in log.read_text()
