"""Several simulated workers in one process, each on a port of its own: for load tests without Ray.

They share a tokenizer and an event loop and nothing else. They are not registered anywhere: a
router is given their addresses.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rhizome.clock import Clock, SystemClock
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import EventSource
from workers.addresses import http_url, listen_on, reachable_host
from workers.engine.simulated.engine import find_tokenizer
from workers.engine.simulated.flags import profile_of, read_flags
from workers.engine.simulated.server.events import EventPlace
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker, WorkerSetup


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Which workers to serve, and where."""

    spec: ModelSpec
    count: int
    host: str
    port_base: int
    """The first worker's port, the others follow; 0 takes free ones."""
    api_key: str | None
    """The key of all; None for clients that cannot send one."""
    curve: bool
    """Whether events are encrypted; not all readers can do that."""
    models_directory: Path
    kept_batches: int = 10_000
    topic: str = "kv"
    """Of the events; some readers know none but the empty one."""


@dataclass(frozen=True, slots=True)
class Address:
    """How one of the workers is reached."""

    url: str
    events: tuple[EventSource, ...]


async def serve_fleet(plan: FleetPlan, announce: Callable[[Sequence[Address]], None]) -> None:
    """Serves until SIGTERM or SIGINT; raises `StartError` when a worker cannot start."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with AsyncExitStack() as stack:
        announce(await start_fleet(plan, stack))
        await ended.wait()


async def start_fleet(
    plan: FleetPlan,
    stack: AsyncExitStack,
    open_words: Callable[[Path, Clock], Words] = Words,
) -> list[Address]:
    """Starts all workers; closing the stack stops them. `open_words` makes what they share."""
    spec, clock = plan.spec, SystemClock()
    flags = read_flags(spec)
    directory = find_tokenizer(spec.source, plan.models_directory)
    host = reachable_host(plan.host)
    setup = WorkerSetup(
        model=spec.name,
        model_root=str(directory),
        profile=profile_of(spec, flags),
        data_parallel=spec.parallel.data,
        adapters=flags.lora_modules,
        api_key=plan.api_key,
        seed=spec.seed,
        tool_parser=flags.reads_tool_calls,
        scale_out=flags.enable_scale_out,
        breakable=flags.faults,
    )
    place = EventPlace(
        plan.host, host, plan.topic, curve=plan.curve, kept_batches=plan.kept_batches
    )
    words = open_words(directory, clock)
    addresses = []
    for number in range(plan.count):
        port = plan.port_base + number if plan.port_base else 0
        listener = listen_on(plan.host, port)
        stack.callback(listener.close)
        worker = SimulatedWorker(replace(setup, events=place), listener, words, clock)
        stack.push_async_callback(worker.stop)
        await worker.start()
        url = http_url(host, listener.getsockname()[1])
        addresses.append(Address(url, worker.sources))
    return addresses
