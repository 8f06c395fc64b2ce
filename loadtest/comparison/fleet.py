"""The simulated fleet of a run: one process of its own with all workers, new for every run."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from loadtest.comparison.contenders import HOST, FleetPlace, WorkerPlace
from loadtest.comparison.processes import Program
from loadtest.comparison.remembering import RememberingRenderer
from rhizome.clock import Clock, SystemClock
from rhizome.render.renderer import Renderer
from workers.engine.simulated.profile import load_profile
from workers.engine.simulated.server.events import EventPlace
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker, WorkerSetup

_READY_S = 60.0


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which workers, as plain data for the process that runs them."""

    model: str
    model_directory: str
    profile: str
    """A built-in profile or a file."""
    speed: float = 1.0
    """How many times as fast as the profile says."""
    max_model_len: int | None = None
    """Longest sequence, where it is not the profile's."""
    count: int = 8


@dataclass(frozen=True)
class RunningFleet:
    """Workers that answer."""

    place: FleetPlace
    program: Program


@asynccontextmanager
async def open_fleet(plan: FleetPlan, logs: Path, clock: Clock) -> AsyncIterator[RunningFleet]:
    """A fleet with empty caches, gone when the block is left; raises `TargetUnusable`."""
    told = logs / "fleet.json"
    told.unlink(missing_ok=True)
    asked = msgspec.json.encode(plan).decode()
    command = [sys.executable, "-m", "loadtest.comparison.fleet", asked, str(told)]
    async with Program("the simulated fleet", command, logs / "fleet.log", clock) as program:

        async def is_told() -> bool:
            return told.exists()

        await program.until(is_told, _READY_S)
        yield RunningFleet(msgspec.json.decode(told.read_bytes(), type=FleetPlace), program)


async def serve(plan: FleetPlan, told: Path) -> None:
    """Serves the workers and tells where they are; ends with SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    clock = SystemClock()
    words = Words(Path(plan.model_directory), clock)
    words.renderer = cast("Renderer", RememberingRenderer(words.renderer))
    profile = load_profile(plan.profile).at_speed(plan.speed)
    if plan.max_model_len is not None:
        profile = profile.model_copy(update={"max_model_len": plan.max_model_len})
    async with AsyncExitStack() as stack:
        places = []
        for seed in range(plan.count):
            listener = socket.create_server((HOST, 0))
            setup = WorkerSetup(
                model=plan.model,
                model_root=plan.model_directory,
                profile=profile,
                seed=seed,
                events=EventPlace(host=HOST, advertised_host=HOST, topic=""),
            )
            worker = SimulatedWorker(setup, listener, words, clock)
            stack.push_async_callback(worker.stop)
            await worker.start()
            source = worker.sources[0]
            url = f"http://{HOST}:{listener.getsockname()[1]}"
            places.append(WorkerPlace(url, source.endpoint, source.replay_endpoint or ""))
        place = FleetPlace(plan.model, plan.model_directory, profile.block_size, tuple(places))
        part = told.with_name(f"{told.name}.part")
        part.write_bytes(msgspec.json.encode(place))
        part.replace(told)
        await ended.wait()


def main() -> None:
    """`python -m loadtest.comparison.fleet PLAN TOLD`."""
    plan = msgspec.json.decode(sys.argv[1], type=FleetPlan)
    uvloop.run(serve(plan, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
