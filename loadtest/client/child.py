"""A client process: `python -m loadtest.client.child`, started by `loadtest.client.processes`.

A process of its own, because a load generator that shares its interpreter with a display or a
server measures them too.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from loadtest.bodies import Answers, BodyWriter
from loadtest.client.frames import (
    Begin,
    Finished,
    Order,
    Progress,
    Ready,
    Refused,
    Rows,
    Said,
    Stop,
    asked_decoder,
    frame,
)
from loadtest.client.share import Share, share_of
from loadtest.prompts import PromptWriter
from loadtest.workloads.catalog import OpenWorkload, open_workload
from loadtest.workloads.requests import TracedRequest
from rhizome.clock import Clock, SystemClock
from rhizome.errors import StartError
from rhizome.tasks import Tasks

_PROGRESS_S = 0.5
_ROWS = 2000
_LINE_BYTES_MAX = 2**20


async def serve(clock: Clock) -> None:
    """Reads the order, runs it, tells the result."""
    reader, writer = await _pipes()

    async def tell(said: Said) -> None:
        writer.write(frame(said))
        await writer.drain()

    order = asked_decoder.decode(await reader.readline())
    assert isinstance(order, Order)
    try:
        workload = open_workload(order.plan.choice, order.plan.shape)
        prompts = PromptWriter.open(Path(order.plan.tokenizer))
    except StartError as error:
        await tell(Refused(error.message, error.advice))
        return
    await tell(Ready())
    line = await reader.readline()
    begin = asked_decoder.decode(line) if line else Stop()
    if not isinstance(begin, Begin):
        return
    gc.collect()
    gc.freeze()
    share = _share(order, prompts, clock, begin)
    async with Tasks("client") as tasks:
        stopping = tasks.start("orders", _stop_when_told(reader, share))
        telling = tasks.start("progress", _tell_progress(order.part, share, clock, tell))
        facts = await share.run(_part(workload, order))
        telling.cancel()
        stopped = stopping.done()
    for start in range(0, len(share.records), _ROWS):
        await tell(Rows(share.records[start : start + _ROWS]))
    await tell(Finished(facts, stopped))


def _share(order: Order, prompts: PromptWriter, clock: Clock, begin: Begin) -> Share:
    plan = order.plan
    answers = Answers() if plan.real_answers else None
    bodies = BodyWriter(prompts, plan.model, plan.api, plan.extra, answers)
    begin_s = clock.monotonic_s() + (begin.wall_s - clock.wall_s())
    return Share(plan, bodies, clock, begin_s)


def _part(workload: OpenWorkload, order: Order) -> Iterator[TracedRequest]:
    return share_of(workload.requests(), order.part, order.plan.processes)


async def _stop_when_told(reader: asyncio.StreamReader, share: Share) -> None:
    """Any further line is a stop, and so is the parent's end."""
    await reader.readline()
    share.stop()


async def _tell_progress(
    part: int, share: Share, clock: Clock, tell: Callable[[Said], Awaitable[None]]
) -> None:
    while True:
        await clock.sleep(_PROGRESS_S)
        now = share.moment()
        await tell(
            Progress(part, now.sent, now.done, now.failed, now.in_flight, now.tokens, now.at_s)
        )


async def _pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(_LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, sys.stdout
    )
    transport.set_write_buffer_limits(0)  # so that drained means written
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


def main() -> None:
    """Ends with its parent: by the end of the pipe, not by the terminal's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(SystemClock()))


if __name__ == "__main__":
    main()
