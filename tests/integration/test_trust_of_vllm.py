"""A router and a real vLLM: its events and its reuse are what the router predicts of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.cluster import WorkerSettings
from rhizome.settings.load import environment_copy
from router.trust.causes import State
from tests.support.serving import Api, running_api
from tests.support.waiting import eventually
from workers.addresses import listen_on
from workers.engine.base import EngineFacts
from workers.engine.process import HostOptions, VllmEngine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
KEY = "k-of-the-engine"
START_S = 180.0


async def test_a_real_engine_is_proven_exact_by_its_probe_and_stays_so(tmp_path: Path) -> None:
    sizes = {"kv_cache_memory": "100M", "max_model_len": 2048, "block_size": 32}
    spec = ModelSpec.model_validate({"name": "m", "source": "demo:llama", **sizes})
    options = HostOptions(WorkerSettings(), tmp_path, environment_copy())
    engine = VllmEngine(spec, options, listen_on("127.0.0.1", 0), KEY)
    try:
        facts = await asyncio.wait_for(engine.start(lambda phase: None), START_S)
        async with running_api() as api:
            api.router.fleet.upsert(_record(facts), 0.0)
            trust = api.router.dispatcher.trust.get("w0")
            assert trust is not None
            await eventually(lambda: trust.state is State.EXACT, 30)
            await asyncio.gather(*(_converse(api, number) for number in range(6)))
            await eventually(lambda: trust.checks >= 10)
            assert (trust.state, trust.disagreed) == (State.EXACT, 0)
            predicted = api.counted("router_predicted_cached_tokens_total", model="m")
            actual = api.counted("router_actual_cached_tokens_total", model="m")
            assert actual > 0
            assert abs(predicted - actual) <= 0.1 * actual, "but for requests that came together"
    finally:
        await engine.stop()


async def _converse(api: Api, number: int) -> None:
    """Requests that share a beginning with those of every third conversation."""
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        system = {"role": "system", "content": f"{number % 3} " + "shared words here " * 40}
        for turn in range(12):
            messages = [system, {"role": "user", "content": f"{turn} question"}]
            body = {"model": "m", "max_tokens": 8, "messages": messages}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200


def _record(facts: EngineFacts) -> WorkerRecord:
    return WorkerRecord(
        worker_id="w0",
        incarnation="a",
        model="m",
        url=facts.url,
        state=WorkerState.READY,
        api_key=KEY,
        model_root=facts.model_root,
        block_size=facts.block_size,
        kv_blocks=facts.kv_blocks,
        max_model_len=facts.max_model_len,
        events=facts.events,
    )
