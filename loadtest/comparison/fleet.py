"""The simulated fleet of a run: one process of its own with all workers, new for every run."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import msgspec
import uvloop

from loadtest.comparison.contenders import HOST, FleetPlace, WorkerPlace
from loadtest.comparison.lateness import note_lateness
from loadtest.comparison.processes import Program, Usage
from loadtest.comparison.remembering import RememberingRenderer
from rhizome.clock import Clock, SystemClock
from rhizome.fleet.models import ModelSpec
from rhizome.render.renderer import Renderer
from rhizome.tasks import Tasks
from workers.engine.simulated.fleet import Address, start_fleet
from workers.engine.simulated.fleet import FleetPlan as SimulatedFleet
from workers.engine.simulated.server.words import Words

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
    block_size: int = 16
    """Tokens of a KV block; some routers know no other."""
    count: int = 8
    engine: Literal["simulated", "vllm"] = "simulated"
    """What the workers are; profile and speed mean nothing to real ones."""

    @property
    def is_simulated(self) -> bool:
        return self.engine == "simulated"


class Measured(Protocol):
    """Whose use of the machine can be read."""

    def usage(self) -> Usage: ...


@dataclass(frozen=True)
class RunningFleet:
    """Workers that answer."""

    place: FleetPlace
    program: Measured
    lateness: Path | None
    """What `loadtest.comparison.lateness` notes of it, if it is simulated."""


@asynccontextmanager
async def open_fleet(plan: FleetPlan, logs: Path, clock: Clock) -> AsyncIterator[RunningFleet]:
    """A fleet with empty caches, gone when the block is left; raises `TargetUnusable`."""
    told, lateness = logs / "fleet.json", logs / "fleet-lateness.bin"
    told.unlink(missing_ok=True)
    asked = msgspec.json.encode(plan).decode()
    command = [sys.executable, "-m", "loadtest.comparison.fleet", asked, str(told), str(lateness)]
    async with Program("the simulated fleet", command, logs / "fleet.log", clock) as program:

        async def is_told() -> bool:
            return told.exists()

        await program.until(is_told, _READY_S)
        place = msgspec.json.decode(told.read_bytes(), type=FleetPlace)
        told.unlink()
        yield RunningFleet(place, program, lateness)


async def serve(plan: FleetPlan, told: Path, lateness: Path) -> None:
    """Serves the workers, tells where they are and notes how late; ends with SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with AsyncExitStack() as stack:
        addresses = await start_fleet(_simulated(plan), stack, remembering_words)
        places = tuple(_place(address) for address in addresses)
        place = FleetPlace(plan.model, plan.model_directory, plan.block_size, places)
        part = told.with_name(f"{told.name}.part")
        part.write_bytes(msgspec.json.encode(place))
        part.replace(told)
        tasks = await stack.enter_async_context(Tasks("simulated fleet"))
        tasks.start("lateness", note_lateness(lateness, SystemClock()))
        await ended.wait()


def remembering_words(directory: Path, clock: Clock) -> Words:
    """The model's words, whose prompts are rendered once for all workers."""
    words = Words(directory, clock)
    words.renderer = cast("Renderer", RememberingRenderer(words.renderer))
    return words


def _simulated(plan: FleetPlan) -> SimulatedFleet:
    spec = ModelSpec(
        name=plan.model,
        source=plan.model_directory,
        engine="simulated",
        max_model_len=plan.max_model_len,
        block_size=plan.block_size,
        engine_args={
            "profile": plan.profile,
            "speed-factor": plan.speed,
            "enable-scale-out": True,  # some routers have workers render every prompt
        },
    )
    return SimulatedFleet(
        spec=spec,
        count=plan.count,
        host=HOST,
        port_base=0,
        api_key=None,
        curve=False,
        topic="",
        models_directory=Path(plan.model_directory).parent,
    )


def _place(address: Address) -> WorkerPlace:
    source = address.events[0]
    return WorkerPlace(address.url, source.endpoint, source.replay_endpoint or "", source.topic)


def main() -> None:
    """`python -m loadtest.comparison.fleet PLAN TOLD LATENESS`."""
    plan = msgspec.json.decode(sys.argv[1], type=FleetPlan)
    uvloop.run(serve(plan, Path(sys.argv[2]), Path(sys.argv[3])))


if __name__ == "__main__":
    main()
