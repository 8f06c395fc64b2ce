"""The client processes of a run: started, begun at one time, heard out, merged.

Each makes the whole workload from its seed and sends the sessions that fall to it, so nothing but
the plan goes out and nothing but results come back.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from loadtest.client.frames import (
    Asked,
    Begin,
    Finished,
    Order,
    Progress,
    Ready,
    Refused,
    Rows,
    Stop,
    read_frame,
)
from loadtest.plan import Plan
from loadtest.records import ProcessFacts, RequestRecord
from rhizome.clock import Clock
from rhizome.errors import StartError

_READY_S = 60.0
_LEAD_S = 0.2
_END_S = 5.0
_PIPE_BYTES_MAX = 64 * 2**20

OnProgress = Callable[[Progress], None]


@dataclass
class Measured:
    """All that the client processes told."""

    begun_wall_s: float
    records: list[RequestRecord] = field(default_factory=list)
    """By number."""
    processes: list[ProcessFacts] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Why something is missing: the run was stopped, or a process died."""


async def run_load(
    plan: Plan,
    clock: Clock,
    *,
    on_progress: OnProgress = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Measured:
    """Runs the plan to its end, or until `stop` is set; raises `StartError` if it cannot begin."""
    children = [_Child(plan, part) for part in range(plan.processes)]
    try:
        for child in children:
            await child.start()
        await asyncio.gather(*(child.ready() for child in children))
        begin_s = clock.wall_s() + _LEAD_S
        for child in children:
            child.ask(Begin(begin_s))
        measured = Measured(begin_s)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_all(children, stop or asyncio.Event()))
            hearing = [group.create_task(one.hear(measured, on_progress)) for one in children]
            await asyncio.wait(hearing)
            stopping.cancel()
    finally:
        for child in children:
            await child.close()
    measured.records.sort(key=lambda record: record.number)
    return measured


async def _stop_all(children: list[_Child], stop: asyncio.Event) -> None:
    await stop.wait()
    for child in children:
        child.ask(Stop())


class _Child:
    def __init__(self, plan: Plan, part: int) -> None:
        self._plan = plan
        self._part = part
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadtest.client.child",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_PIPE_BYTES_MAX,
            start_new_session=True,
        )
        self.ask(Order(self._plan, self._part))

    def ask(self, asked: Asked) -> None:
        """A line to the process; one that is gone does not mind."""
        pipe = self._running.stdin
        assert pipe is not None
        if not pipe.is_closing():
            pipe.write(msgspec.json.encode(asked) + b"\n")

    async def ready(self) -> None:
        """Raises `StartError` when the process will not be."""
        try:
            async with asyncio.timeout(_READY_S):
                told = await read_frame(self._output)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise StartError(
                f"client process {self._part} did not get ready",
                advice="Its own messages are above.",
            ) from error
        if isinstance(told, Refused):
            raise StartError(told.message, advice=told.advice)
        assert isinstance(told, Ready)

    async def hear(self, measured: Measured, on_progress: OnProgress) -> None:
        """Takes what the process tells, to its end."""
        while True:
            try:
                told = await read_frame(self._output)
            except asyncio.IncompleteReadError:
                measured.faults.append(f"client process {self._part} died; its requests are lost")
                return
            if isinstance(told, Progress):
                on_progress(told)
            elif isinstance(told, Rows):
                measured.records += told.records
            elif isinstance(told, Finished):
                measured.processes.append(told.facts)
                if told.stopped:
                    measured.faults.append(f"client process {self._part} was stopped")
                return

    async def close(self) -> None:
        """The process ends by the end of its pipe, and if it does not, by force."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def _output(self) -> asyncio.StreamReader:
        output = self._running.stdout
        assert output is not None
        return output
