"""An HTTP app that answers the few questions discovery asks of a vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PAGE = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
{caches}
process_start_time_seconds {started}
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="m"}} 2.0
vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} 7.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
"""


@dataclass
class FakeEngine:
    """What the app answers; change it while it runs."""

    key: str | None = None
    health: int = 200
    hang: bool = False
    started: float | None = 1_700_000_000.25
    running: float = 3.0
    ranks: int = 1
    sources: dict[str, dict[str, Any]] | None = None
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"id": "lora", "root": "l", "parent": "m", "max_model_len": None},
            {"id": "m", "root": "/models/m", "parent": None, "max_model_len": 2048},
        ]
    )
    raw_models: bytes | None = None
    asked: list[str] = field(default_factory=list)

    def page(self) -> str:
        caches = "\n".join(
            f'vllm:cache_config_info{{block_size="32",cache_dtype="auto",engine="{rank}",'
            f'num_gpu_blocks="1000"}} 1.0'
            for rank in range(self.ranks)
        )
        page = PAGE.format(caches=caches, started=self.started, running=self.running)
        if self.started is None:
            page = page.replace("process_start_time_seconds None\n", "")
        return page

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        while self.hang:  # noqa: ASYNC110 - a plain flag is easier to set from a test
            await asyncio.sleep(0.01)
        if request.path == "/health":
            return web.Response(status=self.health)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        if request.path == "/v1/models":
            if self.raw_models is not None:
                return web.Response(body=self.raw_models)
            return web.json_response({"object": "list", "data": self.models})
        if request.path == "/metrics":
            return web.Response(text=self.page())
        if request.path == "/kv_event_sources" and self.sources is not None:
            return web.json_response(self.sources)
        return web.Response(status=404)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Runs the app on loopback; yields its URL."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            bound = runner.addresses[0][1]
            yield f"http://127.0.0.1:{bound}"
        finally:
            self.hang = False
            await runner.cleanup()
