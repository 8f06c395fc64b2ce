"""Workers that join late are warm when their first request comes: real processes, real events.

What the router predicts for that request is what the engine reports.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from cluster.local.ports import free_port
from rhizome.fleet.records import WorkerRecord
from rhizome.settings.load import environment_copy
from router.discovery.asking import Asker
from router.discovery.describe import describe
from router.discovery.static_worker import StaticWorker, parse_static_worker
from tests.integration.test_events_of_real_vllm import BLOCK, make_adapter, vllm
from tests.support.serving import Api, running_api, settings_with
from tests.support.valkey import settings_for
from tests.support.waiting import eventually
from workers.demo_models import ensure_model

START_S = 180.0
SALT = "tenant-salt"
_rng = random.Random(7)
PREFIX = [_rng.randrange(10, 1000) for _ in range(8 * BLOCK)]


@contextmanager
def simulated_worker() -> Iterator[StaticWorker]:
    """A simulated engine in a process of its own."""
    command = [sys.executable, "-m", "rhizome.cli.main", "simulated-workers", "--name", "m"]
    command += ["--no-key", "--block-size", str(BLOCK), "--speed-factor", "20"]
    environment = environment_copy() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(2)][1]
            found = re.search(r"--worker (\S+)", said)
            assert found is not None, said
            yield parse_static_worker(found[1].strip("'"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


async def record_of(worker: StaticWorker) -> WorkerRecord:
    async with aiohttp.ClientSession() as session:
        return await describe(worker, Asker(session, worker.url, worker.key, 10.0), 0)


async def ask(api: Api, tail: int, **fields: Any) -> httpx.Response:
    """A prompt that begins with the prefix."""
    body = {"model": "m", "prompt": [*PREFIX, *[tail] * (BLOCK + 5)], "max_tokens": 2, **fields}
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(f"{api.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def _none_is_held_back(api: Api) -> bool:
    return not any(view.warming for view in api.router.fleet.views())


async def make_hot(api: Api) -> None:
    for tail in range(10, 13):
        await ask(api, tail)
        await ask(api, tail, cache_salt=SALT)


async def check_first_requests(api: Api, old: str, new: str) -> None:
    """Only the new worker is left: its first requests find what was replayed, as predicted."""
    await eventually(lambda: _none_is_held_back(api), 60.0)
    assert api.counted("router_warmups_total", model="m", end="warm") == 1
    index = api.router.dispatcher.index
    await eventually(lambda: index.block_count(new) >= 2 * len(PREFIX) // BLOCK, 20.0)
    api.router.fleet.drain(frozenset({old}))
    for fields in ({}, {"cache_salt": SALT}):
        answer = await ask(api, 50, **fields)
        assert answer.headers["x-rhizome-worker"] == new
        cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert int(answer.headers["x-rhizome-prefix-tokens"]) == cached == len(PREFIX)
    other = await ask(api, 51, cache_salt="another tenant")
    assert not other.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.integration
async def test_a_simulated_worker_that_joins_is_warm() -> None:
    with simulated_worker() as old, simulated_worker() as new:
        async with running_api(settings_with()) as api:
            api.router.fleet.upsert(await record_of(old), 0.0)
            await make_hot(api)
            api.router.fleet.upsert(await record_of(new), 0.0)
            assert [one.warming for one in api.router.fleet.views()] == [False, True]
            await check_first_requests(api, old.worker_id, new.worker_id)


@pytest.mark.integration
async def test_of_several_routers_one_warms_a_worker_and_the_others_wait(valkey_url: str) -> None:
    redis = settings_for(valkey_url)
    flags = {"redis__url": valkey_url, "redis__namespace": redis.namespace}
    with simulated_worker() as old, simulated_worker() as new:
        async with (
            running_api(settings_with(**flags)) as one,
            running_api(settings_with(**flags)) as other,
        ):
            records = [await record_of(worker) for worker in (old, new)]
            for api in (one, other):
                api.router.fleet.upsert(records[0], 0.0)
                await make_hot(api)
            for api in (one, other):
                api.router.fleet.upsert(records[1], 0.0)
                assert [view.warming for view in api.router.fleet.views()] == [False, True]
            await eventually(lambda: _none_is_held_back(one) and _none_is_held_back(other))
            ends = {
                end: sum(
                    api.counted("router_warmups_total", model="m", end=end) for api in (one, other)
                )
                for end in ("warm", "elsewhere")
            }
            assert ends == {"warm": 1, "elsewhere": 1}


@pytest.mark.engine
@pytest.mark.timeout(400)
async def test_a_real_vllm_that_joins_is_warm(tmp_path: Path) -> None:
    model = ensure_model("demo:llama", tmp_path / "models")
    with httpx.Client() as http, simulated_worker() as old:
        port = free_port("127.0.0.1", frozenset())
        with vllm(tmp_path, model, make_adapter(tmp_path / "adapter"), port) as url:

            def is_up() -> bool:
                try:
                    return http.get(f"{url}/health", timeout=1.0).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_up, START_S, 1.0)
            said = f"{url},events=ipc://{tmp_path}/events,replay=ipc://{tmp_path}/replay,topic=kv"
            new = parse_static_worker(said)
            async with running_api(settings_with(router__tokenizer=str(model))) as api:
                api.router.fleet.upsert(await record_of(old), 0.0)
                await make_hot(api)
                api.router.fleet.upsert(await record_of(new), 0.0)
                await check_first_requests(api, old.worker_id, new.worker_id)
