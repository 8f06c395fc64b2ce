"""The simulated engine as a worker runs it: in the worker's own process, without a host.

It keeps the promises of `Engine`. There is nothing to isolate (no torch, no native engine), so a
worker is one small process that starts in about a second. A simulated crash is the engine's death.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

from rhizome.clock import Clock
from rhizome.errors import ModelUnusable
from rhizome.fleet.models import ModelSpec
from rhizome.render.files import model_directory
from rhizome.settings.cluster import WorkerSettings
from workers.addresses import http_url, reachable_host
from workers.demo_models import ensure_model
from workers.engine.base import EngineFacts, Say
from workers.engine.idle import until_idle
from workers.engine.simulated.flags import profile_of, read_flags
from workers.engine.simulated.server.events import EventPlace
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker, WorkerSetup

_log = logging.getLogger(__name__)


class SimulatedEngine:
    """One start of one simulated engine behind `listener` (see `Engine` for the promises)."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: WorkerSettings,
        models_directory: Path,
        listener: socket.socket,
        api_key: str | None,
        clock: Clock,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._models_directory = models_directory
        self._listener = listener
        self._api_key = api_key
        self._clock = clock
        self._worker: SimulatedWorker | None = None

    async def start(self, say: Say) -> EngineFacts:
        spec, settings = self._spec, self._settings
        flags = read_flags(spec)
        profile = profile_of(spec, flags)
        say("preparing the tokenizer")
        directory = await asyncio.to_thread(find_tokenizer, spec.source, self._models_directory)
        words = await asyncio.to_thread(Words, directory, self._clock)
        host = reachable_host(settings.host)
        setup = WorkerSetup(
            model=spec.name,
            model_root=str(directory),
            profile=profile,
            data_parallel=spec.parallel.data,
            adapters=flags.lora_modules,
            api_key=self._api_key,
            seed=spec.seed,
            events=EventPlace(
                settings.host,
                host,
                curve=True,
                kept_batches=settings.event_ring_batches,
            ),
            tool_parser=flags.reads_tool_calls,
            scale_out=flags.enable_scale_out,
            breakable=flags.faults,
        )
        self._worker = SimulatedWorker(setup, self._listener, words, self._clock)
        await self._worker.start()
        _log.info("a simulated engine of %s serves as %s", spec.name, profile.name)
        return EngineFacts(
            url=http_url(host, self._listener.getsockname()[1]),
            api_key=self._api_key,
            events=self._worker.sources,
            model_root=str(directory),
            block_size=profile.block_size,
            kv_blocks=profile.kv_blocks,
            max_model_len=profile.max_model_len,
            max_num_seqs=profile.max_num_seqs,
            data_parallel=spec.parallel.data,
        )

    async def wait_dead(self) -> str:
        return await asyncio.shield(self._started().crashed)

    async def drain(self, grace_s: float) -> bool:
        worker = self._started()
        return await until_idle(lambda: worker.in_flight, grace_s, self._clock)

    async def stop(self) -> None:
        if self._worker is not None:
            await self._worker.stop()
        self._listener.close()

    def _started(self) -> SimulatedWorker:
        if self._worker is None:
            raise RuntimeError("the engine has not been started")
        return self._worker


def find_tokenizer(source: str, models_directory: Path) -> Path:
    """The directory with the model's tokenizer: weights are not needed.

    Blocks (a few seconds for a demonstration model made for the first time). Raises
    `ModelUnusable`.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        return local.resolve()
    found = model_directory(None, str(ensure_model(source, models_directory)))
    if found is None:
        raise ModelUnusable(
            f"the tokenizer of {source} is not on this machine",
            advice="Give a local directory, or one of the demonstration models.",
        )
    return found
