"""A router before simulated workers, the trace that every client replays, and our own reading."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from cluster.local.ports import free_port
from loadtest.comparison.contenders import HOST, Contender, Ports, command_of
from loadtest.comparison.fleet import FleetPlan, open_fleet
from loadtest.comparison.peers import PEERS, installed_peer, peers_directory
from loadtest.comparison.processes import Program
from loadtest.comparison.rounds import serves
from loadtest.comparison.tallies import tallies
from loadtest.plan import Plan
from loadtest.results import Told
from loadtest.running import Aim, Watching, prepare, run_once
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape
from rhizome.clock import SystemClock
from rhizome.settings.load import environment_copy, load_settings
from workers.demo_models import ensure_model

MODEL = "simulated"
REQUESTS = 40
CLIENT_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Rig:
    """What a client is pointed at."""

    url: str
    model_directory: Path
    workers: tuple[str, ...]
    """Their URLs."""

    async def answered(self) -> int:
        """Requests that the engines answered to their end, those of the router itself included: it
        tries what its workers say of themselves."""
        return sum(tally.counts["requests"] for tally in (await tallies(self.workers)).values())


@dataclass(frozen=True)
class Reading:
    """What a client found."""

    completed: int
    failed: int
    ttft_ms_p50: float
    ttft_ms_mean: float


def write_trace(path: Path, units_per_s: float) -> Path:
    """Forty requests in about eight seconds; one shared block each, the others their own."""
    rng = Random(1)
    at_s = 0.0
    with path.open("w") as file:
        for place in range(REQUESTS):
            length = rng.randint(520, 1400)
            own = [1000 + place * 10 + block for block in range(-(-length // 512) - 1)]
            line = {
                "timestamp": round(at_s * units_per_s, 3),
                "input_length": length,
                "output_length": rng.randint(8, 24),
                "hash_ids": [1, *own],
            }
            file.write(json.dumps(line) + "\n")
            at_s += rng.expovariate(5.0)
    return path


@asynccontextmanager
async def open_rig(directory: Path) -> AsyncIterator[Rig]:
    """Two workers with empty caches and a router before them."""
    settings = load_settings()
    model = ensure_model("demo:llama", settings.state_directory.expanduser() / "models")
    clock = SystemClock()
    plan = FleetPlan(
        model=MODEL,
        model_directory=str(model),
        profile="qwen3-32b-h100-tp2",
        speed=0.25,
        count=2,
    )
    async with open_fleet(plan, directory, clock) as fleet:
        api = free_port(HOST, frozenset())
        ports = Ports(api, free_port(HOST, frozenset({api})))
        command = command_of(Contender("rhizome", "cost"), fleet.place, ports, {})
        url = f"http://{HOST}:{api}"
        async with Program("rhizome", command, directory / "router.log", clock) as router:
            await router.until(lambda: serves(url, MODEL), 60.0)
            yield Rig(url, model, tuple(worker.url for worker in fleet.place.workers))


async def own_reading(directory: Path, trace: Path, api: Api) -> Reading:
    """Our own client with the same trace before a fleet of its own."""
    clock = SystemClock()
    async with open_rig(directory) as rig:
        choice = Choice(name="mooncake", trace=str(trace))
        aim = Aim(rig.url, MODEL, rig.model_directory, choice, Shape(), api)
        options = Plan(url=rig.url, model="", tokenizer="", choice=choice, shape=aim.shape, api=api)
        plan, facts = await prepare(aim, options)
        run, _ = await run_once(plan, facts, Told("own", ""), clock, Watching())
    summary = run.summary
    assert summary.ttft_ms is not None
    return Reading(
        completed=summary.completed,
        failed=summary.requests - summary.completed,
        ttft_ms_p50=summary.ttft_ms.p50,
        ttft_ms_mean=summary.ttft_ms.mean,
    )


def client_program(name: str) -> str:
    """The client in an environment of its own; raises `MissingDependency` with pip's words."""
    directory = peers_directory(load_settings().state_directory)
    return str(installed_peer(PEERS[name], directory))


async def run_client(command: Sequence[str], directory: Path, **environment: str) -> str:
    """Runs it to its end, offline, and returns its words; fails with them if it fails."""
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=directory,
        env={**environment_copy(), "HF_HUB_OFFLINE": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-4000:]
    return said


def assert_agrees(theirs: Reading, own: Reading, *, unread_max: int = 0) -> None:
    """All answered, and the time to the first token within the noise of a shared machine.

    A client may leave `unread_max` answers out of its own books.
    """
    assert theirs.failed == own.failed == 0
    assert own.completed == REQUESTS
    assert REQUESTS - unread_max <= theirs.completed <= REQUESTS
    assert theirs.ttft_ms_p50 == pytest.approx(own.ttft_ms_p50, rel=0.25, abs=30.0)
    assert theirs.ttft_ms_mean == pytest.approx(own.ttft_ms_mean, rel=0.25, abs=30.0)
