"""A stand-in engine for unit tests of the router: answers in vLLM's shapes, fails on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rhizome.fleet.records import WorkerRecord, WorkerState


@dataclass
class FakeEngine:
    """What the engine does next, and what it has seen."""

    words: list[str] = field(default_factory=lambda: ["Hello", " world"])
    cached_tokens: int = 0
    status: int = 200
    hold: asyncio.Event | None = None
    """Answers only once it is set."""
    die_after: int | None = None
    """Resets the connection after this many events."""
    end_after: int | None = None
    """Ends the stream properly at the transport, but early and without an end mark."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    aborted: int = 0
    url: str = ""

    def record(self, worker_id: str = "w0", **fields: Any) -> WorkerRecord:
        """The engine as a worker of model `m`."""
        facts = {"model": "m", "incarnation": "a", "state": WorkerState.READY, **fields}
        return WorkerRecord(worker_id=worker_id, url=self.url, **facts)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.status != 200:
                error = {
                    "error": {"message": "no", "type": "E", "param": None, "code": self.status}
                }
                return web.json_response(error, status=self.status)
            if body.get("stream"):
                return await self._stream(request, body)
            return web.json_response(self._whole())
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number, word in enumerate(self.words):
            if number == self.die_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == self.end_after:
                return response
            await _event(response, {"id": "x", "choices": [{"delta": {"content": word}}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await _event(response, {"id": "x", "choices": [], "usage": self._usage()})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.words)}
        return {"id": "x", "choices": [{"message": message}], "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": 10,
            "completion_tokens": len(self.words),
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


async def _event(response: web.StreamResponse, value: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")
    await asyncio.sleep(0)


@asynccontextmanager
async def running_engine(engine: FakeEngine) -> AsyncIterator[FakeEngine]:
    """Serves the engine on a free loopback port."""
    app = web.Application()
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        app.router.add_post(path, engine.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
