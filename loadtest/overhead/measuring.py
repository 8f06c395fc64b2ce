"""What is measured of one router: CPU per request and token, added latency, lag, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

import aiohttp
import msgspec
import numpy as np

from loadtest.overhead.client import Load, Tally
from loadtest.overhead.programs import HOST, KEY, MeasuredProgram
from loadtest.overhead.prompts import Shape, bodies

SHORT = Shape("200 B", 200)
SEEN = Shape("8 kB, earlier messages seen", 8000, is_seen=True)
NEW = Shape("8 kB, never seen", 8000)
ONE_TOKEN = Shape("stream of 1 token", 200, tokens=1)
TOKENS = Shape("stream of 101 tokens, 5 ms apart", 200, tokens=101)
_CONNECTIONS = 8
_STREAMS = 64
_RATE_PER_S = 300.0
_LAG = "router_loop_lag_seconds"
_PACE_MS = 50
_BEGUN, _NOT_ENDED = 0.25, 0.9
"""Shares of the time that a stream lasts, between which all of them run."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of a router's processes, from the operating system, in microseconds."""

    short_us: float
    """Per request, 200 B, not streamed."""
    seen_us: float
    """Per request of 8 kB whose earlier messages were sent before."""
    new_us: float
    """Per request of 8 kB that nobody sent before."""
    token_us: float
    """Per token of streams whose tokens come 5 ms apart."""
    new_us_per_kb: float
    """What each kB of a prompt that was never seen costs more than a short one."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Times at 300 requests/s and of streams, in milliseconds."""

    p50_ms: float
    p99_ms: float
    gap_p99_ms: float
    """Between two tokens of a stream that come 5 ms apart."""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Many streams at once, 20 tokens/s each."""

    streams: int
    dropped: int
    token_us: float
    lag_ms_p99: float | None
    """How late the router's event loop was, by its own metrics."""


async def costs(program: MeasuredProgram, port: int, seed: int, scale: float) -> Costs:
    """Of a router that is ready; `scale` shortens or prolongs the measurement."""

    async def cpu_us(shape: Shape, connections: int, count: int) -> float:
        count = max(connections, int(count * scale))
        warm_up = max(connections, count // 5)
        load = Load(port, KEY, made(shape, seed, count + warm_up))
        await load.closed(connections, warm_up)
        before_s = program.cpu_s()
        tally = await load.closed(connections, count)
        require(tally, count, shape)
        return (program.cpu_s() - before_s) / count * 1e6

    short = await cpu_us(SHORT, _CONNECTIONS, 6000)
    seen = await cpu_us(SEEN, _CONNECTIONS, 3000)
    new = await cpu_us(NEW, _CONNECTIONS, 2000)
    one = await cpu_us(ONE_TOKEN, _STREAMS, 2000)
    many = await cpu_us(TOKENS, _STREAMS, 500)
    return Costs(
        short_us=short,
        seen_us=seen,
        new_us=new,
        token_us=(many - one) / (TOKENS.tokens - ONE_TOKEN.tokens),
        new_us_per_kb=(new - short) / ((NEW.prompt_bytes - SHORT.prompt_bytes) / 1000),
    )


async def latency(port: int, seed: int, scale: float) -> Latency:
    """At a steady rate, whoever answers on the port."""
    count = int(3000 * scale)
    load = Load(port, KEY, made(SHORT, seed, count + 300))
    await load.open(_RATE_PER_S, 300)
    tally = await load.open(_RATE_PER_S, count)
    require(tally, count, SHORT)
    load = Load(port, KEY, made(TOKENS, seed, 64))
    streamed = await load.open(50.0, 64, keep_gaps=True)
    return Latency(
        p50_ms=_percentile_ms(tally.latencies_s, 50),
        p99_ms=_percentile_ms(tally.latencies_s, 99),
        gap_p99_ms=_percentile_ms(streamed.gaps_s, 99),
    )


async def streams(
    program: MeasuredProgram, port: int, metrics: int | None, count: int, tokens: int
) -> Streams:
    """So many streams at once, each with so many tokens; the lag is that between their common
    beginning and their common end."""
    shape = Shape("streams", 200, tokens=tokens, pace_ms=_PACE_MS)
    load = Load(port, KEY, made(shape, 1, count))
    before_s = program.cpu_s()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.closed(count, count))
        lasts_s = tokens * _PACE_MS / 1000
        await asyncio.sleep(lasts_s * _BEGUN)
        before = await _lags(metrics)
        await asyncio.sleep(lasts_s * (_NOT_ENDED - _BEGUN))
        after = await _lags(metrics)
    tally = running.result()
    used_s = program.cpu_s() - before_s
    lags = {bound: number - before.get(bound, 0.0) for bound, number in after.items()}
    return Streams(
        streams=count,
        dropped=tally.failed,
        token_us=used_s / max(1, tally.tokens) * 1e6,
        lag_ms_p99=_quantile_ms(lags, 0.99),
    )


async def memory_mib(
    program: MeasuredProgram, port: int, prompts: int, looks: int = 10
) -> list[float]:
    """Resident memory at the start and after each part of so many prompts, none sent twice."""
    sizes = [program.resident_bytes() / 2**20]
    for look in range(looks):
        count = prompts // looks
        load = Load(port, KEY, bodies(Shape("unique", 2000), 1000 + look))
        tally = await load.closed(_CONNECTIONS, count)
        require(tally, count, SHORT)
        sizes.append(program.resident_bytes() / 2**20)
    return sizes


def made(shape: Shape, seed: int, count: int) -> Iterator[bytes]:
    """Bodies, made before they are sent, so that making them takes no time from the router."""
    return iter(list(islice(bodies(shape, seed), count)))


def require(tally: Tally, count: int, shape: Shape) -> None:
    """Raises `RuntimeError` if a request failed: a refusal costs less than an answer."""
    if tally.failed:
        raise RuntimeError(f"{tally.failed} of {count} requests failed ({shape.name})")


def _percentile_ms(values_s: list[float], percent: float) -> float:
    return float(np.percentile(values_s, percent)) * 1000 if values_s else 0.0


async def _lags(metrics: int | None) -> dict[float, float]:
    """The router's own histogram: ticks by how late they were, cumulated."""
    if metrics is None:
        return {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{HOST}:{metrics}/metrics") as answer,
    ):
        page = await answer.text()
    found = {}
    for line in page.splitlines():
        if line.startswith(_LAG + "_bucket"):
            bound, _, number = line.partition('le="')[2].partition('"} ')
            found[float(bound)] = float(number)
    return found


def _quantile_ms(lags: dict[float, float], share: float) -> float | None:
    """The upper bound of the bucket that holds the quantile."""
    total = max(lags.values(), default=0.0)
    if not total:
        return None
    return min(bound for bound, number in lags.items() if number >= share * total) * 1000
