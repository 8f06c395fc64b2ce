"""Whatever ends a supervisor, nothing that it started, at any depth, lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.integration.local.stand_in import SERVICES
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

PROCESSES = 2 + 2 * len(SERVICES)
"""Warden and supervisor, and each service with a child that ignores SIGTERM."""


def living(directory: Path) -> set[int]:
    """Which of the processes that noted their pid there still live."""
    found = set()
    for name in os.listdir(directory / "pids") if (directory / "pids").is_dir() else ():
        try:
            if psutil.Process(int(name)).status() != psutil.STATUS_ZOMBIE:
                found.add(int(name))
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
async def warden(tmp_path: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A warden whose whole family has started."""
    process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
        [sys.executable, "-m", "tests.integration.local.stand_in", "supervise", str(tmp_path)]
    )
    try:
        await eventually(lambda: len(living(tmp_path)) == PROCESSES, within_s=30.0)
        yield process
    finally:
        process.kill()
        process.wait()
        for pid in living(tmp_path):
            os.kill(pid, signal.SIGKILL)


def supervisor_of(warden: subprocess.Popen[bytes]) -> psutil.Process:
    (child,) = psutil.Process(warden.pid).children()
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_to_the_warden_ends_all_in_order(
    warden: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    warden.send_signal(number)
    await eventually(lambda: warden.poll() is not None, within_s=25.0)
    assert warden.returncode == 0
    assert living(tmp_path) == set()


async def test_a_killed_supervisor_leaves_nothing_behind(
    warden: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    supervisor_of(warden).kill()
    await eventually(lambda: warden.poll() is not None, within_s=25.0)
    assert warden.returncode == 128 + signal.SIGKILL
    assert living(tmp_path) == set()


async def test_a_killed_warden_makes_the_supervisor_end_its_services(
    warden: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    supervisor = supervisor_of(warden)
    services = {child.pid for child in supervisor.children()}
    warden.kill()
    await eventually(lambda: not {supervisor.pid, *services} & living(tmp_path), within_s=15.0)


async def test_services_end_when_warden_and_supervisor_are_killed_at_once(
    warden: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    supervisor = supervisor_of(warden)
    services = {child.pid for child in supervisor.children()}
    warden.kill()
    supervisor.kill()
    await eventually(lambda: not services & living(tmp_path), within_s=15.0)
