"""Services as real processes: started again when they die, given up on in the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.local.layout import ClusterFiles
from cluster.local.services import Services, child_environment, service_command
from rhizome.clock import ManualClock, SystemClock
from rhizome.errors import ClusterError
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

WAITS = [sys.executable, "-c", "import time; time.sleep(600)"]
FAILS = [sys.executable, "-c", "print('no luck, token=verysecret'); raise SystemExit(3)"]


class Bench:
    """Services with a clock moved by hand, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.files = ClusterFiles(directory)
        self.files.make()
        self.clock = ManualClock()
        self.said: list[str] = []
        self.services = Services(
            self.files, child_environment(self.files), self.clock, self.said.append
        )

    def dead(self, name: str) -> bool:
        return name not in self.services.pids()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.services.kill()
    await bench.services.stop("one", "two")


async def test_a_death_before_the_cluster_is_ready_is_an_error_with_the_end_of_the_log(
    bench: Bench,
) -> None:
    bench.services.start("one", FAILS, grace_s=1.0)
    await eventually(lambda: bench.dead("one"))
    with pytest.raises(ClusterError, match="one ended with exit code 3") as caught:
        bench.services.check()
    assert "no luck" in caught.value.message
    assert "verysecret" not in caught.value.message
    assert str(bench.files.log("one")) in caught.value.advice


async def test_a_killed_service_is_started_again_after_a_pause(bench: Bench) -> None:
    bench.services.restarting = True
    bench.services.start("one", WAITS, grace_s=1.0)
    first = bench.services.pids()["one"]
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: bench.dead("one"))
    assert not bench.services.check()
    assert not bench.services.check()
    bench.clock.advance(1.0)
    assert bench.services.check()
    assert bench.services.pids()["one"] != first
    assert "one was ended by SIGKILL" in bench.said[0]


async def test_a_service_that_keeps_dying_is_given_up_on(bench: Bench) -> None:
    bench.services.restarting = True
    bench.services.start("one", FAILS, grace_s=1.0)

    async def live_on() -> None:
        while True:
            await eventually(lambda: bench.dead("one"))
            bench.services.check()
            bench.clock.advance(20.0)
            bench.services.check()

    with pytest.raises(ClusterError, match="after 5 restarts"):
        await live_on()


async def test_services_stop_side_by_side_and_one_that_will_not_is_killed(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path)
    files.make()
    said: list[str] = []
    services = Services(files, child_environment(files), SystemClock(), said.append)
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
    services.start("one", [sys.executable, "-c", f"{ignores}; time.sleep(600)"], grace_s=0.3)
    services.start("two", WAITS, grace_s=5.0)
    await eventually(lambda: "up" in files.log("one").read_text())
    await services.stop("one", "two")
    assert services.pids() == {}
    assert said == ["one did not end within 0.3 s: killed"]


def test_children_get_no_settings_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHIZOME_ROUTER__PORT", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = child_environment(ClusterFiles(tmp_path))
    assert "RHIZOME_ROUTER__PORT" not in environment
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray-token")


def test_a_service_is_a_subcommand_with_the_clusters_settings(tmp_path: Path) -> None:
    command = service_command("router", tmp_path / "settings.yaml")
    assert command[-3:] == ["router", "--config", str(tmp_path / "settings.yaml")]
