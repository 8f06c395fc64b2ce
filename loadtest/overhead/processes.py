"""What several router processes behind one port cost beside one: how far they scale.

A machine for measuring seldom has the cores to show it by throughput. What limits throughput where
the cores are is the CPU time of a request, so that is what is compared: if each of n processes
takes as long for a request as one alone does, n of them answer n times as many. What processes tell
each other costs by the second and not by the request, so a machine that is busy otherwise, on which
requests come slowly, shows more of it than one whose cores are free.
"""

from __future__ import annotations

import asyncio
from statistics import median

import msgspec

from loadtest.overhead.client import Load
from loadtest.overhead.measuring import ONE_TOKEN, SHORT, TOKENS, made, require
from loadtest.overhead.programs import KEY, MeasuredProgram
from loadtest.overhead.prompts import Shape

_CONNECTIONS = 64
"""Enough for every process to have several requests at once, however the kernel spreads them."""


class ProcessCosts(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of a router's processes, the watching one included, in microseconds."""

    request_us: float
    """Per request of 200 B, not streamed."""
    requests_per_s: float
    """How fast these requests went, client and workers on the same machine."""
    token_us: float
    """Per token of streams whose tokens come 5 ms apart."""


class Scaling(msgspec.Struct, kw_only=True):
    """One process and several, in turn and under the same load."""

    processes: int
    one: list[ProcessCosts] = []
    several: list[ProcessCosts] = []

    @property
    def requests(self) -> float:
        """How many times as many requests the processes answer with as many cores."""
        return self._times("request_us")

    @property
    def tokens(self) -> float:
        """The same of tokens."""
        return self._times("token_us")

    def _times(self, name: str) -> float:
        one, several = (
            median(getattr(costs, name) for costs in runs) for runs in (self.one, self.several)
        )
        return float(self.processes * one / several)


async def process_costs(
    program: MeasuredProgram, port: int, seed: int, scale: float
) -> ProcessCosts:
    """Of a router that is ready; `scale` shortens or prolongs the measurement."""

    async def cpu_us(shape: Shape, count: int) -> tuple[float, float]:
        count = max(_CONNECTIONS, int(count * scale))
        warm_up = max(_CONNECTIONS, count // 5)
        load = Load(port, KEY, made(shape, seed, count + warm_up))
        await load.closed(_CONNECTIONS, warm_up)
        begun_s, before_s = loop.time(), program.cpu_s()
        require(await load.closed(_CONNECTIONS, count), count, shape)
        return (program.cpu_s() - before_s) / count * 1e6, count / (loop.time() - begun_s)

    loop = asyncio.get_running_loop()
    request_us, requests_per_s = await cpu_us(SHORT, 12_000)
    one_us, _ = await cpu_us(ONE_TOKEN, 4000)
    many_us, _ = await cpu_us(TOKENS, 500)
    token_us = (many_us - one_us) / (TOKENS.tokens - ONE_TOKEN.tokens)
    return ProcessCosts(request_us=request_us, requests_per_s=requests_per_s, token_us=token_us)


def scaling_lines(scaling: Scaling | None) -> list[str]:
    """The table, as Markdown."""
    if scaling is None or not scaling.several:
        return []
    rows = [
        f"| {name} | {median(costs.request_us for costs in runs):.1f} "
        f"| {median(costs.requests_per_s for costs in runs):.0f} "
        f"| {median(costs.token_us for costs in runs):.1f} | {requests:.2f} | {tokens:.2f} |"
        for name, runs, requests, tokens in (
            ("1", scaling.one, 1.0, 1.0),
            (str(scaling.processes), scaling.several, scaling.requests, scaling.tokens),
        )
    ]
    return [
        "| processes | 200 B, µs | requests/s here | token, µs | requests, times | tokens, times |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "Times as many as one process, where each has a core: by the CPU time of each.",
        "",
    ]
