"""Batches on a real Valkey, with runners that are real processes and get killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from aiohttp import web

from rhizome.errors import StoreUnavailable
from rhizome.settings.cluster import BatchSettings
from rhizome.settings.tree import RedisSettings
from rhizome.stores.open import open_stores
from rhizome.stores.valkey import EmbeddedValkey
from tests.support.batches import BatchBench, FakeEndpoint, HastyClock, chat_line, jsonl, serving
from tests.support.valkey import settings_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

_RUN = (
    "import typer; from rhizome.cli.batch import register; "
    "app = typer.Typer(); register(app); app()"
)
_SETTINGS = BatchSettings(lease_s=1.0, concurrency=8)


@pytest.fixture
def redis_settings(valkey_url: str) -> RedisSettings:
    return settings_for(valkey_url)


@pytest.fixture
async def bench(redis_settings: RedisSettings, tmp_path: Path) -> AsyncIterator[BatchBench]:
    stores = await open_stores(redis_settings)
    opened = BatchBench(stores, _SETTINGS, tmp_path / "files", HastyClock())
    yield opened
    await opened.close()
    await stores.close()


class RunnerProcess:
    """`rhizome batch` as a child process."""

    def __init__(self, directory: Path, redis: RedisSettings, router_url: str) -> None:
        assert redis.url is not None
        self._config = directory / "settings.yaml"
        self._log = directory / "runner.log"
        batch = {
            "directory": str(directory / "files"),
            "router_url": router_url,
            "lease_s": _SETTINGS.lease_s,
            "concurrency": _SETTINGS.concurrency,
        }
        store = {"url": redis.url.get_secret_value(), "namespace": redis.namespace}
        self._config.write_text(yaml.safe_dump({"batch": batch, "redis": store}))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A runner that is killed when the block ends, if it still lives."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _RUN, "--config", str(self._config)), stderr=log
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def killed_once(self, claim: Callable[[], Awaitable[bool]]) -> None:
        """Starts a runner and kills it, with SIGKILL, as soon as `claim` holds."""
        async with self.running():
            await eventually(claim, within_s=30, every_s=0.002)


async def test_a_batch_has_one_result_a_line_though_its_runners_are_killed(
    bench: BatchBench, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    async def take_time(request: web.Request, body: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)

    endpoint = FakeEndpoint()
    endpoint.behave = take_time
    lines = [chat_line(f"c{number}", f"say {number}") for number in range(500)]
    async with serving(endpoint) as url:
        runner = RunnerProcess(tmp_path, redis_settings, url)
        batch_id = await bench.submit(jsonl(lines))

        def stored(count: int) -> Callable[[], Awaitable[bool]]:
            async def claim() -> bool:
                return (await bench.stores.lines.counts(batch_id)).stored >= count

            return claim

        async def queued() -> bool:
            return await bench.stores.lines.depth() > 0

        kills = (queued, stored(50), stored(250), stored(500))
        for claim in kills:
            await runner.killed_once(claim)
        async with runner.running():
            batch = await bench.ended(batch_id, within_s=30)

    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 500, "completed": 500, "failed": 0}
    output = await bench.lines_of(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"c{number}" for number in range(500)]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
    assert said == [f"say {number}" for number in range(500)]
    # Only what a killed runner had in flight was asked for again.
    assert endpoint.asked.total() <= 500 + len(kills) * _SETTINGS.concurrency
    assert await bench.stores.lines.depth() == 0


async def test_a_runner_told_to_stop_ends_well_and_gives_its_lines_back(
    bench: BatchBench, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    async def hang(request: web.Request, body: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    endpoint = FakeEndpoint()
    endpoint.behave = hang
    async with serving(endpoint) as url:
        await bench.submit(jsonl([chat_line("a")]))
        runner = RunnerProcess(tmp_path, redis_settings, url)
        async with runner.running() as process:

            async def asked() -> bool:
                return endpoint.in_flight == 1

            await eventually(asked, within_s=20)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
        (delivery,) = await bench.stores.lines.lease("other", 1, 3600)
        assert delivery.deliveries == 1


async def test_cancelling_takes_seconds_and_keeps_what_is_done(
    bench: BatchBench, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    async def take_time(request: web.Request, body: dict[str, Any]) -> None:
        await asyncio.sleep(0.2)

    endpoint = FakeEndpoint()
    endpoint.behave = take_time
    lines = [chat_line(f"c{number}") for number in range(2000)]  # 50 s of work
    async with serving(endpoint) as url:
        batch_id = await bench.submit(jsonl(lines))
        async with RunnerProcess(tmp_path, redis_settings, url).running():

            async def under_way() -> bool:
                return (await bench.stores.lines.counts(batch_id)).stored >= 20

            await eventually(under_way, within_s=20)
            await bench.client.batches.cancel(batch_id)
            batch = await bench.ended(batch_id)

            async def drained() -> bool:
                return await bench.stores.lines.depth() == 0

            await eventually(drained, within_s=60)  # on a machine that does much else, too
    assert batch.status == "cancelled"
    done = batch.request_counts.completed
    assert 20 <= done < 2000
    assert len(await bench.lines_of(batch.output_file_id)) == done


async def test_a_frozen_store_refuses_durable_work_and_loses_none(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "valkey")
    await server.start()
    stores = await open_stores(settings_for(server.url, command_timeout_s=1.0))
    bench = BatchBench(stores, _SETTINGS, tmp_path / "files", HastyClock())
    endpoint = FakeEndpoint()
    lines = [chat_line(f"c{number}", str(number)) for number in range(200)]
    async with serving(endpoint) as url, bench.running(url):
        batch_id = await bench.submit(jsonl(lines))

        async def under_way() -> bool:
            return endpoint.asked.total() >= 50

        await eventually(under_way)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(openai.APIStatusError) as refused:
            async with asyncio.timeout(10):
                await bench.submit(jsonl(lines))
        assert refused.value.status_code == 503
        with pytest.raises(StoreUnavailable):
            await stores.ping()
        os.kill(server.pid, signal.SIGCONT)

        async def is_back() -> bool:
            try:
                await stores.ping()
            except StoreUnavailable:
                return False
            return True

        await eventually(is_back)
        batch = await bench.ended(batch_id)
    assert batch.request_counts.to_dict() == {"total": 200, "completed": 200, "failed": 0}
    assert len(await bench.lines_of(batch.output_file_id)) == 200
    await bench.close()
    await stores.close()
    await server.stop()
