"""An OpenAI-compatible engine with a known step model and a time of its own.

Its clock moves by the length of each step, and a client that reads the same clock measures that
time and nothing of the machine's. So what a calibration finds can be checked to a few percent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientConnectionResetError, web

from rhizome.tasks import Tasks

_TICK_S = 0.001
"""Real time of a step, in which new requests arrive."""
_TURNS = 12
"""Turns of the event loop in which the tokens of a step reach a client in the same process."""


@dataclass(eq=False)
class _Request:
    prompt: int
    tokens: int
    made: int = 0
    computed: int = 0
    out: asyncio.Queue[int] = field(default_factory=asyncio.Queue)


@dataclass
class StepEngine:
    """The model, the limits, and the engine's time; also a clock for its client."""

    a_ms: float = 5.0
    b_ms: float = 0.5
    c_ms_per_ktok: float = 1.0
    d_ms_per_ktok: float = 100.0
    overhead_ms: float = 3.0
    max_num_seqs: int = 24
    budget: int = 512
    max_model_len: int = 4096
    vocabulary: int = 9_000
    metrics: bool = True
    streaming: bool = True
    key: str | None = None
    url: str = ""
    now_s: float = 0.0
    running: list[_Request] = field(default_factory=list)
    waiting: list[_Request] = field(default_factory=list)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, _TICK_S))

    async def run(self) -> None:
        """Steps for ever."""
        while True:
            if not self.running and not self.waiting:
                self.arrived.clear()
                await self.arrived.wait()
            self._step()
            await asyncio.sleep(_TICK_S)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _step(self) -> None:
        while self.waiting and len(self.running) < self.max_num_seqs:
            self.running.append(self.waiting.pop(0))
        decoding = [each for each in self.running if each.computed == each.prompt]
        budget = self.budget - len(decoding)
        context = sum(each.prompt + each.made for each in decoding)
        gaining, sequences, prefill = list(decoding), len(decoding), 0
        for each in self.running:
            chunk = min(each.prompt - each.computed, budget)
            if chunk > 0:
                each.computed += chunk
                budget -= chunk
                prefill += chunk
                sequences += 1
                if each.computed == each.prompt:
                    gaining.append(each)
        step_ms = self.a_ms + self.b_ms * sequences + self.c_ms_per_ktok * context / 1e3
        self.now_s += (step_ms + self.d_ms_per_ktok * prefill / 1e3) / 1e3
        for each in gaining:
            each.made += 1
            each.out.put_nowait(each.made)
        self.running = [each for each in self.running if each.made < each.tokens]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        body = await request.json()
        if body["model"] != "m":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if max(body["prompt"]) >= self.vocabulary:
            return web.json_response({"error": {"message": "out of vocabulary"}}, status=400)
        if not self.running and not self.waiting:
            self.now_s += self.overhead_ms / 1e3
        work = _Request(len(body["prompt"]), body["max_tokens"])
        self.prompts.append(tuple(body["prompt"]))
        self.waiting.append(work)
        self.arrived.set()
        try:
            if not (body["stream"] and self.streaming):
                while await work.out.get() < work.tokens:
                    pass
                return web.json_response({"choices": [{"text": "x"}]})
            return await self._stream(request, work)
        except ClientConnectionResetError:
            return web.Response()
        finally:
            for place in (self.waiting, self.running):
                if work in place:
                    place.remove(work)

    async def _stream(self, request: web.Request, work: _Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        made = 0
        while made < work.tokens:
            made = await work.out.get()
            await _event(response, {"choices": [{"text": "x"}], "usage": _usage(work, made)})
        await _event(response, {"choices": [], "usage": _usage(work, made)})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, request: web.Request) -> web.Response:
        self._check_key(request)
        return web.json_response({"data": [{"id": "m", "max_model_len": self.max_model_len}]})

    async def samples(self, _: web.Request) -> web.Response:
        if not self.metrics:
            raise web.HTTPNotFound
        return web.Response(
            text="# HELP vllm:cache_config_info x\n"
            'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="4001"} 1.0\n'
            f'vllm:num_requests_running{{engine="0"}} {len(self.running)}.0\n'
            f'vllm:num_requests_waiting{{engine="0"}} {len(self.waiting)}.0\n'
        )

    def _check_key(self, request: web.Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized


def _usage(work: _Request, made: int) -> dict[str, int]:
    return {"prompt_tokens": work.prompt, "completion_tokens": made}


async def _event(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


@asynccontextmanager
async def running_step_engine(engine: StepEngine) -> AsyncIterator[StepEngine]:
    """Serves the engine on a free loopback port."""
    app = web.Application()
    app.router.add_post("/v1/completions", engine.complete)
    app.router.add_get("/v1/models", engine.models)
    app.router.add_get("/metrics", engine.samples)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with Tasks("step-engine") as tasks:
        tasks.start("steps", engine.run())
        try:
            yield engine
        finally:
            await runner.cleanup()
