"""One life of a worker: registers it, starts its engine, keeps its lease, and says how it ended.

LOADING from the first moment, READY after a first answer through its own HTTP, then either FAILED
with the cause (the engine died) or DRAINING and gone (it was asked to leave). A registry that
cannot be reached never stops a serving engine: it is told again once it answers. Starting over is
for whoever owns the runner (`restarts.py`); a runner lives once, under one incarnation.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from msgspec.structs import replace

from rhizome.clock import Clock
from rhizome.errors import EngineFailed, StartError, StoreUnavailable
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.ids import new_id
from rhizome.settings.cluster import WorkerSettings
from rhizome.stores.registry import Registry
from rhizome.tasks import Tasks
from workers.engine.base import Engine, EngineFacts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Who the worker is and where it can be found."""

    worker_id: str
    url: str
    node: str
    """The host's name or address."""
    pid: int
    """The process whose end is the worker's end."""


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class WorkerRunner:
    """Owns `engine` from its start to its end; `run` may be called once."""

    def __init__(  # noqa: PLR0913 - a composition root hands over the parts once
        self,
        place: WorkerPlace,
        spec: ModelSpec,
        settings: WorkerSettings,
        engine: Engine,
        registry: Registry,
        clock: Clock,
        *,
        failed_lease_s: float = 60.0,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._registry = registry
        self._clock = clock
        self._failed_lease_s = failed_lease_s
        self._leaving = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._grace_s = 0.0
        self._unwritten = True
        self._cut_off = False
        self._record = WorkerRecord(
            worker_id=place.worker_id,
            incarnation=new_id("inc"),
            model=spec.name,
            url=place.url,
            state=WorkerState.LOADING,
            engine=spec.engine,
            node=place.node,
            pid=place.pid,
            started_wall_s=clock.wall_s(),
            data_parallel=spec.parallel.data,
            max_model_len=spec.max_model_len,
        )

    @property
    def record(self) -> WorkerRecord:
        """The worker as it is now, whether or not the registry could be told."""
        return self._record

    async def wait_ready(self) -> None:
        """Returns once the worker is READY."""
        await self._ready.wait()

    async def run(self) -> None:
        """Returns after `drain` or `stop`; raises `StartError` with the cause of a failure."""
        try:
            async with Tasks(f"worker:{self._record.worker_id}") as tasks:
                await self._publish(detail="starting")
                tasks.start("lease", self._keep_lease())
                await self._live(tasks)
        finally:
            await self._engine.stop()
            self._ended.set()

    async def drain(self, grace_s: float | None = None) -> None:
        """Leaves after what runs has ended, at most `grace_s`; returns when all is gone.

        Only while `run` is running, or after it.
        """
        self._grace_s = self._settings.drain_grace_s if grace_s is None else grace_s
        self._leaving.set()
        await self._ended.wait()
        if self._record.state is WorkerState.FAILED:
            await self._withdraw()

    async def stop(self) -> None:
        """Leaves at once."""
        await self.drain(0.0)

    async def _live(self, tasks: Tasks) -> None:
        leaving = tasks.start("leaving", self._leaving.wait())
        try:
            if not await self._load(tasks, leaving):
                await self._withdraw()
                return
            dead = tasks.start("dead", self._engine.wait_dead())
            await asyncio.wait({dead, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                raise EngineFailed(dead.result())
        except StartError as error:
            await self._publish(state=WorkerState.FAILED, detail=error.message)
            raise
        await self._depart()

    async def _load(self, tasks: Tasks, leaving: asyncio.Task[Any]) -> bool:
        """True when the worker is READY, False when it was asked to leave before."""
        loading = tasks.start("load", self._try_to_start())
        await asyncio.wait(
            {loading, leaving},
            timeout=self._settings.start_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if loading.done():
            fault = loading.result()
            if fault is not None:
                raise fault
            return True
        if leaving.done():
            return False
        raise EngineFailed(
            f"the engine did not start within {self._settings.start_timeout_s:.0f} s",
            advice="Raise `worker.start_timeout_s` for a model that loads slowly.",
        )

    async def _try_to_start(self) -> StartError | None:
        """The error as a value: an expected one is no failure of a background task."""
        try:
            await self._start_engine()
        except StartError as error:
            return error
        return None

    async def _start_engine(self) -> None:
        facts = await self._engine.start(self._say)
        self._say("warming up")
        adapters = await _first_answers(facts, self._record.model) if facts.generates else ()
        await self._publish(
            state=WorkerState.READY,
            detail="",
            adapters=adapters,
            url=facts.url,
            api_key=facts.api_key,
            events=facts.events,
            model_root=facts.model_root,
            block_size=facts.block_size,
            kv_blocks=facts.kv_blocks,
            redoes_last_block=facts.redoes_last_block,
            chunk_tokens=facts.chunk_tokens,
            max_model_len=facts.max_model_len,
            max_num_seqs=facts.max_num_seqs,
            data_parallel=facts.data_parallel,
        )
        self._ready.set()
        _log.info("worker %s is ready at %s", self._record.worker_id, self._record.url)

    def _say(self, phase: str) -> None:
        """The registry hears it with the next heartbeat."""
        self._record = replace(self._record, detail=phase)
        self._unwritten = True
        _log.info("worker %s: %s", self._record.worker_id, phase)

    async def _depart(self) -> None:
        await self._publish(state=WorkerState.DRAINING, detail="finishing what runs")
        if not await self._engine.drain(self._grace_s):
            _log.warning(
                "worker %s leaves with requests unfinished after %.0f s",
                self._record.worker_id,
                self._grace_s,
            )
        await self._withdraw()

    async def _withdraw(self) -> None:
        try:
            await self._registry.withdraw(self._record.worker_id, self._record.incarnation)
        except StoreUnavailable as error:
            _log.warning("cannot withdraw; the lease will end by itself: %s", error)

    async def _publish(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        self._unwritten = True
        await self._tell_registry()

    async def _keep_lease(self) -> None:
        while True:
            await self._clock.sleep(self._settings.heartbeat_s)
            await self._tell_registry()

    async def _tell_registry(self) -> None:
        record = self._record
        failed = record.state is WorkerState.FAILED
        lease_s = self._failed_lease_s if failed else self._settings.lease_ttl_s
        try:
            if self._unwritten or not await self._renew(record, lease_s):
                await self._registry.put(record, lease_s)
                self._unwritten = self._record is not record
        except StoreUnavailable as error:
            self._unwritten = True
            if not self._cut_off:
                _log.warning("the registry does not answer, serving on: %s", error)
            self._cut_off = True
            return
        if self._cut_off:
            _log.info("the registry answers again")
        self._cut_off = False

    async def _renew(self, record: WorkerRecord, lease_s: float) -> bool:
        """False when the record has to be written again; leaves when a newer start replaced it."""
        if await self._registry.renew(record.worker_id, record.incarnation, lease_s):
            return True
        for other in await self._registry.workers():
            if (
                other.worker_id == record.worker_id
                and other.incarnation != record.incarnation
                and other.started_wall_s > record.started_wall_s
            ):
                _log.error("a newer start of worker %s exists; leaving", record.worker_id)
                self._leaving.set()
                return True
        return False


async def _first_answers(facts: EngineFacts, model: str) -> tuple[str, ...]:
    """Warms the engine up by its own HTTP; returns the adapters that it serves, too."""
    headers = {"Authorization": f"Bearer {facts.api_key}"} if facts.api_key else {}
    async with aiohttp.ClientSession(facts.url, headers=headers) as session:
        await _warm_up(session, model)
        return await _adapters(session, model)


async def _warm_up(session: aiohttp.ClientSession, model: str) -> None:
    """One answer, so that the first client does not pay for it."""
    body = {"model": model, "prompt": [5], "max_tokens": 1, "temperature": 0}
    status, answer = await _asked(session.post("/v1/completions", json=body))
    if status != 200:
        raise EngineFailed(f"the engine answered its first request with {status}: {answer[:300]!r}")


async def _adapters(session: aiohttp.ClientSession, model: str) -> tuple[str, ...]:
    """The LoRA adapters that the engine serves beside the model, by their names."""
    status, answer = await _asked(session.get("/v1/models"))
    if status != 200:
        raise EngineFailed(f"the engine answered /v1/models with {status}: {answer[:300]!r}")
    try:
        listed = msgspec.json.decode(answer, type=_Models).data
    except msgspec.MsgspecError as error:
        raise EngineFailed(f"the engine's /v1/models is not a list of models: {error}") from error
    return tuple(one.id for one in listed if one.parent == model)


async def _asked(request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> tuple[int, bytes]:
    """Status and body; raises `EngineFailed`."""
    try:
        async with request as response:
            return response.status, await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise EngineFailed(f"the engine did not answer its first requests: {error}") from error
