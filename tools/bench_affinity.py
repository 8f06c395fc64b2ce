"""What the right worker is worth: time to first token of a second turn, there and elsewhere.

`python -m tools.bench_affinity [--name CLUSTER] [--conversations 20] [--words 700]` needs a running
local cluster (`make up`) with two workers of the model. Every measured conversation is a new one.
Its first turn goes through the router; its second turn goes one of three ways, in shuffled order:
through the router (which sends it to the worker that holds the first turn), straight to that
worker, or straight to another (the forced wrong worker, which saves the router's own time).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from cluster.local.layout import ClusterFiles
from cluster.local.record import read_record
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.load import load_settings
from rhizome.stores.open import open_stores

WAYS = ("router", "right worker", "wrong worker")
WORDS = Path(__file__).read_text(encoding="utf-8").split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="default")
    parser.add_argument("--model", default="llama-demo")
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--words", type=int, default=700)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    asked = parser.parse_args()
    rows = asyncio.run(_measure(asked, random.Random(asked.seed)))
    print(f"seed {asked.seed}, {asked.conversations} conversations a row, {asked.model}")
    print(f"{'second turn':14} {'prompt':>7} {'cached':>7} {'TTFT ms':>9} {'p10':>7} {'p90':>7}")
    for way in WAYS:
        taken = [row for row in rows if row["way"] == way]
        ttfts = sorted(row["ttft_ms"] for row in taken)
        tenth = max(0, len(ttfts) // 10 - 1)
        print(
            f"{way:14} {statistics.median(row['prompt'] for row in taken):7.0f}"
            f" {statistics.median(row['cached'] for row in taken):7.0f}"
            f" {statistics.median(ttfts):9.1f} {ttfts[tenth]:7.1f} {ttfts[-1 - tenth]:7.1f}"
        )
    by_way = {way: [row["ttft_ms"] for row in rows if row["way"] == way] for way in WAYS}
    ratio = statistics.median(by_way["wrong worker"]) / statistics.median(by_way["router"])
    print(f"the wrong worker takes {ratio:.1f} times as long to the first token")
    json.dump(rows, sys.stderr)


async def _measure(asked: argparse.Namespace, rng: random.Random) -> list[dict[str, Any]]:
    settings = load_settings(environment={})
    files = ClusterFiles.of(settings.state_directory, asked.name)
    record = read_record(files)
    if record is None:
        raise SystemExit(f"no cluster named {asked.name!r} runs; start one with `make up`")
    stores = await open_stores(load_settings(files.settings, environment={}).redis)
    try:
        workers = [
            worker
            for worker in await stores.registry.workers()
            if worker.model == asked.model and worker.state is WorkerState.READY
        ]
    finally:
        await stores.close()
    if len(workers) < 2:
        raise SystemExit(f"{asked.model!r} needs two ready workers to compare")
    by_id = {worker.worker_id: worker for worker in workers}
    plan = [way for way in WAYS for _ in range(asked.conversations)]
    rng.shuffle(plan)
    rows = []
    async with httpx.AsyncClient(timeout=120) as http:
        for way in plan:
            text = " ".join(rng.choice(WORDS) for _ in range(asked.words))
            messages = [{"role": "system", "content": text}, {"role": "user", "content": "Begin."}]
            first = await _ask(http, record.url, None, asked.model, messages)
            holder = by_id[first["worker"]]
            messages += [
                {"role": "assistant", "content": first["text"]},
                {"role": "user", "content": "Go on."},
            ]
            others = [worker for worker in workers if worker is not holder]
            target = {"router": None, "right worker": holder, "wrong worker": rng.choice(others)}
            rows.append(
                {"way": way, **await _second(http, record.url, target[way], asked, messages)}
            )
    return rows


async def _second(
    http: httpx.AsyncClient,
    router_url: str,
    worker: WorkerRecord | None,
    asked: argparse.Namespace,
    messages: list[dict[str, str]],
) -> dict[str, Any]:
    url, key = (router_url, None) if worker is None else (worker.url, worker.api_key)
    return await _ask(http, url, key, asked.model, messages)


async def _ask(
    http: httpx.AsyncClient, url: str, key: str | None, model: str, messages: list[dict[str, str]]
) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    begun, first_at, text, usage = time.perf_counter(), 0.0, "", {}
    path = f"{url}/v1/chat/completions"
    async with http.stream("POST", path, json=body, headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            content = "".join(one["delta"].get("content") or "" for one in chunk["choices"])
            if content and not text:
                first_at = time.perf_counter()
            text += content
    return {
        "ttft_ms": (first_at - begun) * 1000,
        "text": text,
        "worker": answer.headers.get("x-rhizome-worker"),
        "prompt": usage["prompt_tokens"],
        "cached": usage["prompt_tokens_details"]["cached_tokens"] or 0,
    }


if __name__ == "__main__":
    main()
