"""The engines that the contract is held against: the simulated one here, a real vLLM on CPU."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from safetensors.numpy import save_file

from rhizome.clock import SystemClock
from rhizome.settings.load import environment_copy
from tests.support.engine_contract import rows
from workers import demo_tokenizer as demo
from workers.addresses import listen_on
from workers.demo_models import ensure_model
from workers.demo_weights import DEMO_DIMENSIONS, model_config
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.server.events import EventPlace
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker, WorkerSetup

_START_S = 240.0
_HOST = "127.0.0.1"
PROFILE = EngineProfile(
    name="contract",
    source="fast enough for a test",
    a_ms=0.5,
    b_ms=0.05,
    c_ms_per_ktok=0.0,
    d_ms_per_ktok=0.5,
    block_size=rows.BLOCK,
    kv_blocks=rows.KV_BLOCKS,
    max_num_seqs=8,
    max_num_batched_tokens=2048,
    max_model_len=rows.MAX_MODEL_LEN,
)


@dataclass(frozen=True)
class RunningEngine:
    """Where an engine answers and where its events are."""

    url: str
    events: str


@functools.cache
def trained_tokenizer() -> str:
    """The demonstration models' tokenizer as text, trained once a run."""
    return demo.train_tokenizer().to_str(pretty=False)


def write_tokenizer(directory: Path) -> Path:
    """What there is of `demo:llama` besides its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes = DEMO_DIMENSIONS["llama"]
    ends = {"eos_token_id": [demo.EOS_ID, demo.TURN_END_ID]}
    texts = {
        "config.json": demo.as_json(model_config(sizes)),
        "generation_config.json": demo.as_json(ends),
        "tokenizer.json": trained_tokenizer(),
        "tokenizer_config.json": demo.as_json(demo.tokenizer_config(sizes.max_model_len)),
        "chat_template.jinja": demo.chat_template(),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


@asynccontextmanager
async def simulated(words: Words, **changes: object) -> AsyncIterator[SimulatedWorker]:
    """A simulated worker on a free port; `changes` are fields of its setup."""
    fields: dict[str, object] = {
        "model": rows.MODEL,
        "model_root": "demo-llama",
        "profile": PROFILE,
        "adapters": {rows.ADAPTER: "adapter"},
        "events": EventPlace(_HOST, _HOST),
    }
    setup = WorkerSetup(**fields | changes)  # type: ignore[arg-type]  # tests name the fields
    worker = SimulatedWorker(setup, listen_on(_HOST, 0), words, SystemClock())
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@asynccontextmanager
async def real_vllm(directory: Path, *flags: str) -> AsyncIterator[RunningEngine]:
    """vLLM on CPU with the rows' model, adapter and cache, and further `flags`."""
    model = await asyncio.to_thread(ensure_model, "demo:llama", directory / "models")
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{directory}/events",
        "replay_endpoint": f"ipc://{directory}/replay",
        "topic": "kv",
    }
    with listen_on(_HOST, 0) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(  # noqa: ASYNC220 - it only forks
        [
            *("nice", sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--served-model-name", rows.MODEL),
            *("--host", _HOST, "--port", str(port), "--block-size", str(rows.BLOCK)),
            *("--max-model-len", str(rows.MAX_MODEL_LEN), "--max-num-seqs", "8"),
            *("--kv-cache-memory-bytes", "64M", "--enforce-eager"),
            *("--num-gpu-blocks-override", str(rows.KV_BLOCKS)),
            *("--distributed-executor-backend", "uni", "--enable-prompt-tokens-details"),
            *("--enable-request-id-headers", "--enable-lora", "--max-lora-rank", "8"),
            *("--lora-modules", f"{rows.ADAPTER}={_write_adapter(directory / 'adapter')}"),
            *("--kv-events-config", json.dumps(events)),
            *flags,
        ],
        env=environment_copy() | _ENVIRONMENT,
    )
    try:
        await _until_healthy(f"http://{_HOST}:{port}", process)
        yield RunningEngine(f"http://{_HOST}:{port}", events["endpoint"])  # type: ignore[arg-type]  # a text
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
}


async def _until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _START_S
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            assert process.poll() is None, "vLLM ended while it started"
            assert time.monotonic() < deadline_s, "vLLM did not start in time"
            await asyncio.sleep(0.2)


def _write_adapter(directory: Path) -> Path:
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
        "base_model_name_or_path": rows.MODEL,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
