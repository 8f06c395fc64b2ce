"""Real router processes before simulated workers, and clients that note every failure."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from cluster.local.ports import free_port
from rhizome.settings.load import environment_copy
from rhizome.tasks import Tasks
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.waiting import eventually

RHIZOME = [sys.executable, "-m", "rhizome.cli.main"]
_START_S = 60.0


@dataclass(frozen=True)
class RunningRouter:
    """A `rhizome router`, one process or several."""

    process: subprocess.Popen[str]
    url: str
    metrics_url: str
    log: Path

    async def page(self) -> str:
        """Its metrics."""
        async with aiohttp.ClientSession() as http:
            async with http.get(self.metrics_url) as answer:
                return await answer.text()

    async def samples(self, name: str) -> list[float]:
        """Every sample of a metric on its page."""
        return [
            float(line.rpartition(" ")[2])
            for line in (await self.page()).splitlines()
            if re.match(rf"{name}[{{ ]", line)
        ]


@dataclass
class Load:
    """What clients saw so far."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def running(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A rhizome command, ended with the block."""
    whole = environment_copy() | {"PYTHONUNBUFFERED": "1"} | environment
    with log.open("w") as output:
        child = subprocess.Popen(
            [*RHIZOME, *command], stdout=output, stderr=output, text=True, env=whole
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@asynccontextmanager
async def simulated_workers(directory: Path, count: int, *flags: str) -> AsyncIterator[list[str]]:
    """Workers of model `m`, as flags for a router."""
    model, log = write_tokenizer(directory / "model"), directory / "workers.log"
    command = ["simulated-workers", "--model", str(model), "--name", "m", "--no-key"]
    with running(*command, "--count", str(count), *flags, log=log):
        await eventually(lambda: "route to them" in log.read_text(), within_s=_START_S)
        told = re.findall(r"--worker (\S+)", log.read_text())
        yield [word for worker in told for word in ("--worker", worker)]


@asynccontextmanager
async def running_router(
    directory: Path, workers: list[str], *flags: str, **environment: str
) -> AsyncIterator[RunningRouter]:
    """Ready to serve when the block begins."""
    port = free_port("127.0.0.1", frozenset())
    metrics_port = free_port("127.0.0.1", frozenset({port}))
    log = directory / f"router-{port}.log"
    command = ["router", *workers, "--port", str(port), "--metrics-port", str(metrics_port)]
    with running(*command, "--allow-anonymous", *flags, log=log, **environment) as process:
        url = f"http://127.0.0.1:{port}"
        router = RunningRouter(process, url, f"http://127.0.0.1:{metrics_port}/metrics", log)
        deadline_s = time.monotonic() + _START_S
        while not await is_ready(url):
            is_late = process.poll() is not None or time.monotonic() > deadline_s
            assert not is_late, log.read_text()[-2000:]
            await asyncio.sleep(0.05)
        yield router


async def is_ready(url: str) -> bool:
    """Whether somebody at the URL can serve."""
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/health/ready") as answer:
                return answer.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def under_load(urls: list[str], clients: int, *, fresh: bool) -> AsyncIterator[Load]:
    """Clients that ask on and on, streamed or not, each in turn at every URL.

    With `fresh`, each request comes on a connection of its own.
    """
    load = Load()
    async with Tasks("clients") as tasks:
        for number in range(clients):
            tasks.start(f"client-{number}", _ask(urls, number, load, fresh=fresh))
        yield load


async def _ask(urls: list[str], number: int, load: Load, *, fresh: bool) -> None:
    connector = aiohttp.TCPConnector(force_close=fresh)
    async with aiohttp.ClientSession(connector=connector) as http:
        for turn in itertools.count(number):
            body = {
                "model": "m",
                "prompt": f"client {number % 4} speaks at length of many things " * 8,
                "max_tokens": 6,
                "ignore_eos": True,
                "stream": turn % 2 == 0,
            }
            try:
                url = f"{urls[turn % len(urls)]}/v1/completions"
                async with http.post(url, json=body) as answer:
                    text = await answer.text()
                    is_whole = not body["stream"] or text.rstrip().endswith("[DONE]")
                    if answer.status == 200 and is_whole:
                        load.answered += 1
                    else:
                        load.failures.append(f"{answer.status} {text[-200:]}")
            except aiohttp.ClientError as error:
                load.failures.append(repr(error))
            await asyncio.sleep(0.01)
