"""How many tokens a second one process with simulated workers streams on one core.

`python -m tools.bench_simulated_workers [--workers 8] [--streams 64]` pins the workers to the first
core and the client to the second, keeps that many streams open at each worker, and prints tokens
per second and the CPU that both took. Other work on the machine takes its part of both cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
from typing import cast

import psutil
import uvloop

from rhizome.clock import SystemClock

_WARM_S, _MEASURE_S = 3.0, 10.0
_URL = re.compile(r"worker \d+: http://([^:]+):(\d+)")


class _Counts:
    """Chunks with text that all streams have brought."""

    def __init__(self) -> None:
        self.tokens = 0


class _Stream(asyncio.Protocol):
    """Asks, reads to the end, asks again."""

    def __init__(self, counts: _Counts, rng: random.Random) -> None:
        self._counts = counts
        self._rng = rng
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._counts.tokens += data.count(b'"text":"')
        if data.endswith(b"0\r\n\r\n"):
            self._ask()

    def _ask(self) -> None:
        prompt = [self._rng.randrange(300, 4000) for _ in range(200)]
        body = json.dumps(
            {"prompt": prompt, "max_tokens": 256, "stream": True, "ignore_eos": True}
        ).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        assert self._transport is not None
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))


async def _measure(places: list[tuple[str, int]], streams: int, server: psutil.Process) -> str:
    counts, rng, clock = _Counts(), random.Random(1), SystemClock()
    loop, own = asyncio.get_running_loop(), psutil.Process()
    for host, port in places:
        for _ in range(streams):
            await loop.create_connection(lambda: _Stream(counts, rng), host, port)
    await clock.sleep(_WARM_S)
    tokens, began_s = counts.tokens, clock.monotonic_s()
    before = [sum(one.cpu_times()[:2]) for one in (server, own)]
    await clock.sleep(_MEASURE_S)
    took_s = clock.monotonic_s() - began_s
    used = [
        (sum(one.cpu_times()[:2]) - start) / took_s
        for one, start in zip((server, own), before, strict=True)
    ]
    rate = (counts.tokens - tokens) / took_s
    return f"{rate:,.0f} tokens/s; core of the workers {used[0]:.0%}, of the client {used[1]:.0%}"


def main() -> None:
    """Starts the workers, measures, ends them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--streams", type=int, default=64, help="open at each worker")
    parser.add_argument("--speed-factor", default="4")
    asked = parser.parse_args()
    command = [sys.executable, "-m", "rhizome.cli.main", "simulated-workers", "--no-key"]
    command += ["--count", str(asked.workers), "--speed-factor", asked.speed_factor]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        os.sched_setaffinity(process.pid, {0})
        os.sched_setaffinity(0, {1})
        places: list[tuple[str, int]] = []
        while len(places) < asked.workers:
            found = _URL.match(process.stdout.readline())
            if found:
                places.append((found[1], int(found[2])))
        print(uvloop.run(_measure(places, asked.streams, psutil.Process(process.pid))))
        process.terminate()


if __name__ == "__main__":
    main()
