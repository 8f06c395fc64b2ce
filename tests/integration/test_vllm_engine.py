"""A real vLLM behind the worker's own parts. Each start takes about 20 s on two cores."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
import zmq

from rhizome.errors import EngineFailed, ModelUnusable
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import EventSource
from rhizome.settings.cluster import WorkerSettings
from rhizome.settings.load import environment_copy
from rhizome.wire.kv_events import BlockStored, decode_batch
from tests.support.processes import living, named
from tests.support.waiting import eventually
from workers.addresses import listen_on
from workers.demo_models import ensure_model
from workers.engine.base import EngineFacts
from workers.engine.process import HostOptions, VllmEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

KEY = "rzk-key-of-the-engine-under-test"
START_S = 240.0
END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)


@dataclass
class Running:
    """A started engine, and a client that has its key."""

    engine: VllmEngine
    facts: EngineFacts
    http: httpx.AsyncClient
    processes: list[psutil.Process]

    async def complete(self, prompt: list[int], **fields: Any) -> dict[str, Any]:
        body = {"model": "m", "prompt": prompt, "max_tokens": 1} | fields
        answer = await self.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def spec(source: str, **fields: Any) -> ModelSpec:
    sizes = {"kv_cache_memory": "100M", "max_model_len": 2048, "block_size": 32}
    return ModelSpec.model_validate({"name": "m", "source": source} | sizes | fields)


def new_engine(models: Path, source: str, **fields: Any) -> VllmEngine:
    options = HostOptions(WorkerSettings(), models, environment_copy())
    return VllmEngine(spec(source, **fields), options, listen_on("127.0.0.1", 0), KEY)


@asynccontextmanager
async def running(models: Path, source: str, **fields: Any) -> AsyncIterator[Running]:
    before = set(psutil.Process().children(recursive=True))
    engine = new_engine(models, source, **fields)
    try:
        facts = await asyncio.wait_for(engine.start(lambda phase: None), START_S)
        processes = [one for one in psutil.Process().children(recursive=True) if one not in before]
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=facts.url, headers=headers, timeout=60) as http:
            yield Running(engine, facts, http, processes)
    finally:
        await engine.stop()


@asynccontextmanager
async def replayed(source: EventSource) -> AsyncIterator[list[BlockStored]]:
    """What the relay gives to a router that joins now."""
    assert source.replay_endpoint is not None
    assert source.curve_key is not None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.curve_serverkey = source.curve_key.encode()
    socket.connect(source.replay_endpoint)
    socket.send_multipart((b"", (0).to_bytes(8, "big")))
    stored: list[BlockStored] = []
    while await asyncio.to_thread(socket.poll, 10_000):
        _, _, sequence, payload = socket.recv_multipart()
        if sequence == END_OF_REPLAY:
            break
        stored += [one for one in decode_batch(payload).events if isinstance(one, BlockStored)]
    context.destroy(linger=0)
    yield stored


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llama(models: Path) -> AsyncIterator[Running]:
    async with running(models, "demo:llama") as started:
        yield started


async def test_the_engine_says_what_it_can_hold(llama: Running) -> None:
    facts = llama.facts
    assert (facts.block_size, facts.max_model_len, facts.data_parallel) == (32, 2048, 1)
    assert facts.generates
    assert (facts.kv_blocks or 0) >= 64
    assert (facts.max_num_seqs or 0) >= 1
    assert facts.model_root is not None
    assert (Path(facts.model_root) / "tokenizer.json").is_file()


async def test_a_chat_is_answered_with_the_key_only(llama: Running) -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is the weather today?"},
        ],
        "max_tokens": 8,
    }
    answer = await llama.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] > 10
    async with httpx.AsyncClient(base_url=llama.facts.url, timeout=30) as stranger:
        assert (await stranger.post("/v1/chat/completions", json=body)).status_code == 401
        assert (await stranger.get("/health")).status_code == 200
        assert (await stranger.get("/metrics")).status_code == 401
    assert (await llama.http.post("/collective_rpc", json={})).status_code == 404


async def test_a_sampled_answer_ends_by_itself(llama: Running) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "n": 8, "seed": 1}
    answer = await llama.http.post("/v1/chat/completions", json=body | {"max_tokens": 1000})
    assert "stop" in {choice["finish_reason"] for choice in answer.json()["choices"]}


async def test_the_key_is_in_no_command_line_and_no_environment(llama: Running) -> None:
    for process in llama.processes:
        assert KEY not in " ".join(process.cmdline())
        assert KEY not in str(process.environ())


async def test_cached_prompts_are_reported_and_their_blocks_replayed(llama: Running) -> None:
    prompt = [100 + number % 900 for number in range(200)]
    await llama.complete(prompt)
    usage = (await llama.complete(prompt))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 192
    (source,) = llama.facts.events
    async with replayed(source) as stored:
        held = [event for event in stored if event.token_ids[:32] == prompt[:32]]
    assert held[0].block_size == 32
    assert held[0].parent_block_hash is None
    assert sum(len(event.block_hashes) for event in stored) >= 6


async def test_a_drain_waits_for_the_running_request(llama: Running) -> None:
    long = asyncio.ensure_future(
        llama.complete([9, 8, 7], max_tokens=400, ignore_eos=True, temperature=0)
    )

    async def runs() -> bool:
        load = (await llama.http.get("/metrics")).text
        return re.search(r"^vllm:num_requests_running\{.*\} 1\.0$", load, re.M) is not None

    await eventually(runs, within_s=30)
    assert not await llama.engine.drain(0.0)
    assert await llama.engine.drain(120.0)
    assert long.done()
    assert (await long)["usage"]["completion_tokens"] == 400


async def test_the_death_of_the_engine_core_is_noticed(llama: Running) -> None:
    """The last test of this engine."""
    named(llama.processes, "EngineCore").send_signal(signal.SIGKILL)
    cause = await asyncio.wait_for(llama.engine.wait_dead(), 10)
    assert "engine died" in cause
    await eventually(lambda: not living(llama.processes), within_s=20)


async def test_the_mixture_of_experts_answers_and_stop_leaves_no_process(models: Path) -> None:
    async with running(models, "demo:mixtral") as mixtral:
        usage = (await mixtral.complete([7] * 40, max_tokens=5, ignore_eos=True))["usage"]
        assert usage["completion_tokens"] == 5
        assert named(mixtral.processes, "EngineCore")
    await eventually(lambda: not living(mixtral.processes), within_s=5)


async def test_the_death_of_the_host_takes_its_engine_core_along(models: Path) -> None:
    async with running(models, "demo:mixtral") as mixtral:
        named(mixtral.processes, "workers.engine.host").send_signal(signal.SIGKILL)
        cause = await asyncio.wait_for(mixtral.engine.wait_dead(), 10)
        assert "SIGKILL" in cause
        await eventually(lambda: not living(mixtral.processes), within_s=10)


async def test_truncated_weights_are_refused_before_an_engine_starts(
    models: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(ensure_model("demo:mixtral", models), tmp_path / "broken"))
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    engine = new_engine(models, str(broken))
    with pytest.raises(ModelUnusable, match=r"model\.safetensors has \d+ bytes"):
        await engine.start(lambda phase: None)
    await engine.stop()


async def test_what_the_engine_itself_refuses_is_told_with_its_cause(
    models: Path, tmp_path: Path
) -> None:
    odd = Path(shutil.copytree(ensure_model("demo:mixtral", models), tmp_path / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"hidden_size": 192, "head_dim": 64}))
    engine = new_engine(models, str(odd))
    with pytest.raises(EngineFailed, match=r"did not start: \w*Error: (?!Engine core init)"):
        await asyncio.wait_for(engine.start(lambda phase: None), START_S)
    await engine.stop()
