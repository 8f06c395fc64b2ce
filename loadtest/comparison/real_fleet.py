"""A fleet of real engines for a comparison: vLLM's own servers on this machine's CPU.

They start once, since that takes half a minute each, and their caches are emptied before each run.
Nothing of Rhizome is in them: every router talks to vLLM as it comes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from cluster.local.ports import free_port
from loadtest.comparison.contenders import HOST, FleetPlace, WorkerPlace
from loadtest.comparison.fleet import FleetPlan, RunningFleet
from loadtest.comparison.processes import Program, Usage
from rhizome.clock import Clock
from rhizome.errors import TargetUnusable
from rhizome.fleet.models import ModelSpec
from workers.engine.arguments import engine_environment

_READY_S = 180.0
_ASK_S = 5.0
_CACHE_BYTES = 256 * 2**20
_SERVER = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True)
class Engines:
    """Several programs as one."""

    programs: tuple[Program, ...]

    def usage(self) -> Usage:
        """All together; raises `TargetUnusable` if one is gone."""
        each = [program.usage() for program in self.programs]
        return Usage(sum(one.cpu_s for one in each), sum(one.rss_bytes for one in each))


@asynccontextmanager
async def open_engines(plan: FleetPlan, logs: Path, clock: Clock) -> AsyncIterator[RunningFleet]:
    """The engines, until the block is left; raises `TargetUnusable`."""
    async with AsyncExitStack() as stack:
        places, programs = [], []
        taken: set[int] = set()
        for number in range(plan.count):
            api, events, replay = (_port(taken) for _ in range(3))
            place = WorkerPlace(
                f"http://{HOST}:{api}", f"tcp://{HOST}:{events}", f"tcp://{HOST}:{replay}"
            )
            program = Program(
                f"engine {number}", _command(plan, api, place), logs / f"engine-{number}.log", clock
            )
            programs.append(await stack.enter_async_context(program))
            places.append(place)
        for place, program in zip(places, programs, strict=True):
            await program.until(partial(_is_healthy, place.url), _READY_S)
        fleet = FleetPlace(plan.model, plan.model_directory, plan.block_size, tuple(places))
        yield RunningFleet(fleet, Engines(tuple(programs)), None)


async def empty_caches(fleet: RunningFleet) -> None:
    """Makes the engines forget all prefixes; raises `TargetUnusable`."""
    timeout = aiohttp.ClientTimeout(total=_ASK_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for worker in fleet.place.workers:
            try:
                async with session.post(f"{worker.url}/reset_prefix_cache") as answer:
                    answer.raise_for_status()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise TargetUnusable(
                    f"the engine at {worker.url} did not empty its cache: {error}",
                    advice="Its log is beside the results.",
                ) from error


def _command(plan: FleetPlan, port: int, place: WorkerPlace) -> list[str]:
    spec = ModelSpec(name=plan.model, source=plan.model_directory, device="cpu")
    environment = engine_environment(spec, {}, model_is_local=True)
    environment |= {"VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        # vLLM binds wildcards only; to anything else it connects, and nobody would be there.
        "endpoint": place.events.replace(f"//{HOST}:", "//*:"),
        "replay_endpoint": place.replay,
        "topic": place.topic,
    }
    return [
        "/usr/bin/env",
        *(f"{name}={value}" for name, value in environment.items()),
        *(sys.executable, "-m", _SERVER, "--model", plan.model_directory),
        *("--served-model-name", plan.model, "--host", HOST, "--port", str(port)),
        *("--max-model-len", str(plan.max_model_len), "--block-size", str(plan.block_size)),
        *("--kv-cache-memory-bytes", str(_CACHE_BYTES), "--enforce-eager"),
        *("--enable-prompt-tokens-details", "--enable-prefix-caching"),
        "--enable-scale-out",  # some routers have workers render every prompt
        *("--kv-events-config", json.dumps(events)),
    ]


def _port(taken: set[int]) -> int:
    port = free_port(HOST, frozenset(taken))
    taken.add(port)
    return port


async def _is_healthy(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=_ASK_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/health") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
