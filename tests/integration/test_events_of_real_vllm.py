"""What the index believes against what a real vLLM reports: `cached_tokens`, prompt by prompt.

The engine is started by hand, as an operator would, and found by its URL: static discovery, prober,
event plane, feed and index all take part. Two starts, about 25 s each on two cores.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.local.ports import free_port
from rhizome.clock import SystemClock
from rhizome.settings.load import environment_copy
from rhizome.settings.tree import DiscoverySettings
from rhizome.tasks import Tasks
from router.discovery.prober import Prober
from router.discovery.static import StaticDiscovery
from router.discovery.static_worker import parse_static_worker
from router.events.plane import EventPlane
from router.fleet import Fleet
from router.prefix.hashing import block_hashes, root_hash
from router.prefix.index import PrefixIndex
from tests.support.waiting import eventually
from workers.demo_models import ensure_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

BLOCK = 32
START_S = 180.0
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
}


@contextmanager
def vllm(directory: Path, model: Path, adapter: Path, port: int) -> Iterator[str]:
    """`vllm serve` with events on socket files in `directory`; yields its URL."""
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{directory}/events",
        "replay_endpoint": f"ipc://{directory}/replay",
        "topic": "kv",
    }
    with (directory / "log").open("a") as log:
        process = subprocess.Popen(
            [
                *("nice", sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(model), "--served-model-name", "m", "--host", "127.0.0.1"),
                *("--port", str(port), "--block-size", str(BLOCK), "--max-model-len", "1024"),
                *("--kv-cache-memory-bytes", "24M", "--enforce-eager", "--max-num-seqs", "8"),
                *("--distributed-executor-backend", "uni", "--enable-prompt-tokens-details"),
                *("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"l1={adapter}"),
                *("--kv-events-config", json.dumps(events)),
            ],
            env=environment_copy() | ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_adapter(directory: Path) -> Path:
    """A LoRA adapter of rank 8 for the 28M model, of zeros: it is the key that matters here."""
    directory.mkdir()
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": np.zeros(
            shape, dtype=np.float32
        )
        for layer in range(8)
        for side, shape in (("A", (8, 512)), ("B", (512, 8)))
    }
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "m",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@dataclass
class Watcher:
    """A router's eyes: fleet, event plane and index on one worker."""

    fleet: Fleet
    plane: EventPlane
    index: PrefixIndex

    @property
    def target(self) -> str:
        return self.fleet.records()[0].worker_id

    def held_blocks(self, tokens: list[int], lora: str | None, salt: str | None) -> int:
        hashes = block_hashes(tokens, BLOCK, root_hash(lora, salt))
        return self.index.match(hashes, 0.0).get(self.target, 0)

    def predicted(self, tokens: list[int], lora: str | None = None, salt: str | None = None) -> int:
        """Cached tokens that the engine should report: it computes the last token in any case."""
        return min(self.held_blocks(tokens, lora, salt), (len(tokens) - 1) // BLOCK) * BLOCK

    async def until_following(self) -> None:
        def following() -> bool:
            one = next(iter(self.plane.subscriptions().values()), None)
            return one is not None and one.connected and not one.feed.suspended

        await eventually(following, within_s=START_S)


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watcher]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        fleet = Fleet(failures_to_suspend=2)
        index = PrefixIndex(2**26)
        plane = await stack.enter_async_context(EventPlane(index, clock))
        fleet.listen(plane)
        tasks = await stack.enter_async_context(Tasks("test"))
        static = StaticDiscovery([parse_static_worker(url)], fleet, session, clock, timeout_s=2.0)
        settings = DiscoverySettings(probe_interval_s=0.2)
        tasks.start("static", static.run())
        prober = Prober(fleet, session, clock, settings, on_recovery=static.recheck)
        tasks.start("prober", prober.run())
        yield Watcher(fleet, plane, index)
        index.check_invariants()


@dataclass
class Conversation:
    """Sends prompts and compares, for each, what was predicted with what was cached."""

    http: httpx.AsyncClient
    watcher: Watcher
    compared: list[tuple[str, int, int]] = field(default_factory=list)

    async def send(self, tokens: list[int], model: str, salt: str | None) -> int:
        body: dict[str, Any] = {"model": model, "prompt": tokens, "max_tokens": 1}
        if salt is not None:
            body["cache_salt"] = salt
        answer = await self.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        details = answer.json()["usage"]["prompt_tokens_details"]
        return (details or {}).get("cached_tokens") or 0

    async def ask(
        self, what: str, tokens: list[int], *, lora: str | None = None, salt: str | None = None
    ) -> int:
        """Compares one prompt; returns the cached tokens."""
        predicted = self.watcher.predicted(tokens, lora, salt)
        cached = await self.send(tokens, lora or "m", salt)
        self.compared.append((what, predicted, cached))
        await self.seen(tokens, lora, salt)
        return cached

    async def seen(
        self, tokens: list[int], lora: str | None = None, salt: str | None = None
    ) -> None:
        """The engine has just computed the prompt, so all its full blocks must become known."""
        full = len(tokens) // BLOCK
        await eventually(lambda: self.watcher.held_blocks(tokens, lora, salt) == full)


def some_tokens(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(100, 4000) for _ in range(count)]


async def varied_prompts(talk: Conversation) -> list[list[int]]:
    """Plain, extended, half-shared, salted, adapted and simultaneous prompts."""
    base = some_tokens(1, 10 * BLOCK + 7)
    exact = some_tokens(2, 4 * BLOCK)
    assert await talk.ask("plain, cold", base) == 0
    assert await talk.ask("plain, again", base) == 10 * BLOCK
    assert await talk.ask("extended", base + some_tokens(3, 50)) == 10 * BLOCK
    half = base[: 5 * BLOCK] + some_tokens(4, 60)
    assert await talk.ask("half shared", half) == 5 * BLOCK
    await talk.ask("ends at a block, cold", exact)
    assert await talk.ask("ends at a block, again", exact) == 3 * BLOCK
    await talk.ask("ends at a block, third time", exact)
    assert await talk.ask("salted, cold", base, salt="t1") == 0
    assert await talk.ask("salted, again", base, salt="t1") == 10 * BLOCK
    assert await talk.ask("another salt", base, salt="t2") == 0
    assert await talk.ask("adapter, cold", base, lora="l1") == 0
    assert await talk.ask("adapter, again", base, lora="l1") == 10 * BLOCK
    assert await talk.ask("adapter and salt, cold", base, lora="l1", salt="t1") == 0
    assert await talk.ask("adapter and salt, again", base, lora="l1", salt="t1") == 10 * BLOCK
    await talk.ask("shorter than a block", base[:20])
    twins = some_tokens(5, 6 * BLOCK + 3)
    await asyncio.gather(*(talk.send(twins, "m", None) for _ in range(4)))
    await talk.seen(twins)
    await talk.ask("computed by several at once", twins)
    return [base, half, exact, twins]


async def test_what_is_predicted_is_what_the_engine_had_cached(tmp_path: Path) -> None:
    model = ensure_model("demo:llama", tmp_path / "models")
    adapter = make_adapter(tmp_path / "adapter")
    port = free_port("127.0.0.1", frozenset())
    url = f"http://127.0.0.1:{port}"
    async with watching(url) as watcher, httpx.AsyncClient(base_url=url, timeout=60) as http:
        talk = Conversation(http, watcher)
        with vllm(tmp_path, model, adapter, port):
            await eventually(lambda: len(watcher.fleet.records()) == 1, within_s=START_S)
            record = watcher.fleet.records()[0]
            assert (record.model, record.block_size, record.data_parallel) == ("m", BLOCK, 1)
            assert record.kv_blocks is not None
            await watcher.until_following()
            prompts = await varied_prompts(talk)

            # More than the cache holds, while the first twins' prompt is kept in use.
            for number in range(record.kv_blocks // 10 + 4):
                await talk.ask("filling", some_tokens(100 + number, 10 * BLOCK + 1))
                await talk.ask("kept in use", prompts[-1])
            for tokens in prompts:
                await talk.ask("after eviction", tokens)

            async with watching(url) as late:
                await eventually(lambda: len(late.fleet.records()) == 1)
                await late.until_following()
                assert set(late.plane.subscriptions()) == set(watcher.plane.subscriptions())
                count = watcher.index.block_count(watcher.target)
                assert late.index.block_count(late.target) == count > 0
                joined_late = Conversation(http, late, talk.compared)
                for tokens in prompts:
                    await joined_late.ask("after a late join", tokens)

        first = watcher.fleet.records()[0].incarnation
        await eventually(lambda: watcher.predicted(prompts[0]) == 0)
        with vllm(tmp_path, model, adapter, port):
            await eventually(
                lambda: watcher.fleet.records()[0].incarnation != first, within_s=START_S
            )
            await watcher.until_following()
            for tokens in prompts:
                assert await talk.ask("after a restart, cold", tokens) % BLOCK == 0
                await talk.ask("after a restart, again", tokens)

    wrong = [one for one in talk.compared if one[1] != one[2]]
    assert wrong == [], f"{len(wrong)} of {len(talk.compared)} predictions were wrong"
    totals = watcher.plane.totals()
    assert totals.undecodable == totals.mismatched == totals.unknown_parent == 0
    print(f"{len(talk.compared)} predictions, all right; {totals}")
